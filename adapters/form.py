"""Form: the kinds of output a vendor's recordings come in, told apart by what they hold, never by a file's name.

Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog

ATTEMPTS = 64  # places in a text where a JSON value is looked for
SHOWN = 80  # characters of an unknown text that go into an error


@dataclass(frozen=True, slots=True)
class Form:
    """One kind of output: what people call it, whether a text is of it, and what such a text says."""

    name: str
    fits: Callable[[str], bool]
    parse: Callable[[str, datetime, Catalog], Reading]
    output: bool = True  # false for a file that is known and holds no devices


def refused(name: str, fits: Callable[[str], bool], reason: str) -> Form:
    """A kind of file that is known and holds no devices: AdapterError says what it is."""

    def refuse(_text: str, _written_at: datetime, _catalog: Catalog) -> Reading:
        raise AdapterError(f"this is {name}: {reason}")

    return Form(name, fits, refuse, output=False)


def parse_forms(text: str, written_at: datetime, catalog: Catalog, forms: Sequence[Form], *, vendor: str) -> Reading:
    """What the first form that fits says of the text. AdapterError when none fits, with the text's beginning."""
    for form in forms:
        if form.fits(text):
            return form.parse(text, written_at, catalog)
    known = ", ".join(form.name for form in forms if form.output)
    begun = " ".join(text[: SHOWN * 4].split())[:SHOWN]
    raise AdapterError(f"{vendor}: none of its known outputs ({known}); it begins {begun!r}")


def read_documents(text: str) -> list[Any]:
    """Every JSON object and list in a text that may hold log lines around them; [] when there is none."""
    decoder, found, place = json.JSONDecoder(), [], 0
    for _ in range(ATTEMPTS):
        starts = [start for mark in "{[" if (start := text.find(mark, place)) >= 0]
        if not starts:
            break
        try:
            value, place = decoder.raw_decode(text, min(starts))
        except (ValueError, RecursionError):
            line = text.find("\n", min(starts))
            if line < 0:
                break
            place = line + 1
            continue
        found.append(value)
    return found


def as_text(value: Any) -> str | None:
    """A JSON text or number as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value)


def read_hex(cell: str | None) -> int | None:
    """A number that is printed in hexadecimal, with or without 0x: a PCI identity."""
    text = (cell or "").strip().lower()
    return int(text, 16) if re.fullmatch(r"(?:0x)?[0-9a-f]{1,8}", text) else None
