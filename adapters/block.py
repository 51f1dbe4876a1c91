"""Block: output in blocks of `key : value` lines under section lines, as several vendors' detailed queries print it.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adapters.cell import read_text
from adapters.form import as_text

DEEPEST = 5


def read_letters(key: str) -> str:
    """A key as letters and digits only, lower case: `Power Draw ` and `PowerDraw` are the same."""
    return re.sub(r"[^a-z0-9]", "", key.lower())


def flatten(entry: Mapping[str, Any], above: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Every text and number in a JSON object under its keys, as letters only and joined by dots."""
    for key, value in entry.items():
        name = f"{above}{read_letters(str(key))}"
        if isinstance(value, dict) and depth < DEEPEST:
            yield from flatten(value, f"{name}.", depth + 1)
        elif (said := as_text(value)) is not None:
            yield name, said


def read_blocks(text: str, start: re.Pattern[str]) -> list[tuple[re.Match[str], dict[str, str]]]:
    """The blocks that begin at lines of the pattern, with keys as `flatten` gives them; the first of a key stands.

    A section is a line without a value; it holds the lines below it that stand further in.
    """
    found: list[tuple[re.Match[str], dict[str, str]]] = []
    sections: list[tuple[int, str]] = []
    for line in text.splitlines():
        if match := start.fullmatch(line):
            found.append((match, {}))
            sections = []
            continue
        key, _, value = line.partition(":")
        if not found or not read_letters(key) or "|" in line:
            continue
        indent = len(line) - len(line.lstrip())
        while sections and sections[-1][0] >= indent:
            sections.pop()
        if not value.strip():
            sections.append((indent, read_letters(key)))
            continue
        found[-1][1].setdefault(".".join([name for _, name in sections] + [read_letters(key)]), value.strip())
    return found


def pick(block: Mapping[str, str], paths: Sequence[str]) -> str | None:
    """The first value under one of the paths that is no blank."""
    return next((said for path in paths if (said := read_text(block.get(path))) is not None), None)
