"""Exposition: what an exporter serves at /metrics, in Prometheus' text format. Pure.

Source: Prometheus text format 0.0.4 and OpenMetrics 1.0 (its `# EOF`, exemplars after ` # `). A line that is no
series is passed over, so a page that quotes one is read as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

Series = tuple[str, Mapping[str, str], float | None]

SENTINEL = float((1 << 63) - 16)  # DCGM's 64-bit blanks, and what other exporters print of an unsigned -1
SENTINEL_32 = float((1 << 32) - 1)
SECONDS_BELOW = 10**11  # as milliseconds that is 1973: some exporters write seconds

_NAME = re.compile(r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(,?)')
_END = re.compile(r"\s*\}")
_VALUE = re.compile(r"\s*([^\s#]+)(?:\s+([-+]?\d{1,19}(?:\.\d{1,9})?))?\s*(?:#.*)?")
_NUMBER = re.compile(r"[-+]?(?:\d{1,25}\.?\d{0,25}|\.\d{1,25})(?:[eE][-+]?\d{1,3})?|[-+]?(?:nan|inf(?:inity)?)", re.I)
_ESCAPE = re.compile(r"\\(.)")


def read_exposition(text: str) -> list[Series]:
    """Every series of the text in its order: name, labels, value.

    A value that is NaN, infinite, or a blank of an unsigned counter (2^32-1, 2^63-16 and above) is None.
    """
    return [(name, labels, value) for name, labels, value, _ in _lines(text)]


def is_exposition(text: str, *prefixes: str) -> bool:
    """Whether the text is an exporter's page with a series of these prefixes.

    A page of prose that quotes some series is not: comments and series make up at least half of its lines.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    own = sum(line.lstrip().startswith(prefixes) and _series(line) is not None for line in lines)
    if not own:
        return False
    told = sum(line.lstrip().startswith("#") or _series(line) is not None for line in lines)
    return 2 * told >= len(lines)


def exposition_time(text: str) -> datetime | None:
    """When the newest series was taken, in UTC; None when no series carries a time."""
    stamps = [stamp for *_, stamp in _lines(text) if stamp is not None and stamp > 0]
    if not stamps:
        return None
    newest = max(stamps)
    try:
        return datetime.fromtimestamp(newest if newest < SECONDS_BELOW else newest / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


@dataclass(slots=True)
class Meter:
    """All series of one device. labels: the first that its series gave to each label, blanks left out."""

    labels: dict[str, str] = field(default_factory=dict)
    series: list[Series] = field(default_factory=list)

    def value(self, *names: str, **labels: str) -> float | None:
        """The first known, non-negative value under one of these names with these labels; None without."""
        for name in names:
            for held, said, value in self.series:
                if held == name and value is not None and value >= 0 and labels.items() <= said.items():
                    return value
        return None

    def count(self, *names: str, **labels: str) -> int | None:
        """The same as a whole number; None for a fraction."""
        value = self.value(*names, **labels)
        return int(value) if value is not None and value == int(value) else None

    def total(self, *names: str) -> int | None:
        """The sum of all known values under these names, as the parts of a count; None when none is known."""
        values = [value for held, _, value in self.series if held in names and value is not None and value >= 0]
        return int(sum(values)) if values else None

    def share(self, *names: str, **labels: str) -> float | None:
        """The same, a percentage, as 0..1; above 100 it is passed on, for whoever says that it cannot be."""
        value = self.value(*names, **labels)
        return None if value is None else value / 100


def gather(series: Iterable[Series], identify: Callable[[Mapping[str, str]], str | None]) -> dict[str, Meter]:
    """The series by device, in the order of first mention; those for which `identify` has no name are left out."""
    found: dict[str, Meter] = {}
    for name, labels, value in series:
        device = identify(labels)
        if not device:
            continue
        meter = found.setdefault(device, Meter())
        meter.series.append((name, labels, value))
        for label, said in labels.items():
            if said.strip():
                meter.labels.setdefault(label, said.strip())
    return found


def _lines(text: str) -> Iterable[tuple[str, Mapping[str, str], float | None, float | None]]:
    for line in text.splitlines():
        found = _series(line)
        if found is not None:
            yield found


def _series(line: str) -> tuple[str, Mapping[str, str], float | None, float | None] | None:
    named = _NAME.match(line)
    if named is None:
        return None
    place = named.end()
    labels: dict[str, str] = {}
    if line[place : place + 1] == "{":
        place += 1
        while label := _LABEL.match(line, place):
            labels[label[1]] = _ESCAPE.sub(lambda held: "\n" if held[1] == "n" else held[1], label[2])
            place = label.end()
        ended = _END.match(line, place)
        if ended is None:
            return None
        place = ended.end()
    elif place == named.end(1):
        return None  # neither labels nor a space before the value
    valued = _VALUE.fullmatch(line, place)
    if valued is None or _NUMBER.fullmatch(valued[1]) is None:
        return None
    return named[1], labels, _value(valued[1]), float(valued[2]) if valued[2] else None


def _value(word: str) -> float | None:
    value = float(word)
    blank = not math.isfinite(value) or value >= SENTINEL or value == SENTINEL_32
    return None if blank else value
