"""Damage to a recorded output: characters changed, lines lost, repeated or cut."""

from __future__ import annotations

from hypothesis import strategies as st

CHARACTERS = st.sampled_from(list("|+=-/ .:0129AFNx%\n\t<>&;[]\"'é\x00"))


def mutate(text: str, data: st.DataObject) -> str:
    """The text after one to four pieces of damage."""
    for _ in range(data.draw(st.integers(1, 4))):
        if not text:
            return text
        place = data.draw(st.integers(0, len(text) - 1))
        match data.draw(st.sampled_from(["replace", "insert", "delete", "cut", "drop line", "repeat line"])):
            case "replace":
                text = text[:place] + data.draw(CHARACTERS) + text[place + 1 :]
            case "insert":
                text = text[:place] + data.draw(CHARACTERS) + text[place:]
            case "delete":
                text = text[:place] + text[place + data.draw(st.integers(1, 40)) :]
            case "cut":
                text = text[:place]
            case kind:
                lines = text.splitlines(keepends=True)
                line = data.draw(st.integers(0, len(lines) - 1))
                lines[line : line + 1] = [] if kind == "drop line" else lines[line : line + 1] * 2
                text = "".join(lines)
    return text
