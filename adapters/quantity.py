"""Quantity: a printed number with its unit, converted to ours. What cannot be read is None, never 0. Pure.

Tools count memory in powers of 1024 whatever they call it: `MB`, `MiB`, `M` are 2^20 bytes.
"""

from __future__ import annotations

import re

_PRINTED = re.compile(r"([-+]?)(\d{1,19}(?:\.\d{1,9})?)\s*([^\d\s]*)")
_BYTES = {"b": 0, "byte": 0, "bytes": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_LARGEST = 1 << 60  # no device holds more; what prints more is a blank in disguise


def read_quantity(cell: str | None) -> tuple[float, str] | None:
    """The non-negative number in a cell and the unit after it, lower case; None when the cell is no such thing."""
    match = _PRINTED.fullmatch((cell or "").strip().strip("[]").strip())
    if match is None or match[1] == "-":
        return None
    return float(match[2]), match[3].lower()


def read_bytes(cell: str | None, *, unit: str = "MiB") -> int | None:
    """An amount of memory in bytes. unit: what a bare number counts."""
    found = read_quantity(cell)
    if found is None:
        return None
    word = (found[1] or unit).lower()
    shift = _BYTES.get(word, _BYTES.get(word.removesuffix("b").removesuffix("i")))
    if shift is None or found[0] * (1 << shift) >= _LARGEST:
        return None
    return int(found[0] * (1 << shift))


def read_watts(cell: str | None, *, unit: str = "W") -> float | None:
    """A power in watts."""
    return _scaled(cell, unit, {"w": 1.0, "mw": 0.001, "kw": 1000.0, "watt": 1.0, "watts": 1.0})


def read_celsius(cell: str | None) -> float | None:
    """A temperature in degrees Celsius, above 0 and below 300: a card that prints 65535 reads nothing."""
    found = _scaled(cell, "C", {"c": 1.0, "°c": 1.0, "℃": 1.0, "celsius": 1.0, "deg": 1.0})
    return found if found is not None and found < 300 else None


def read_megahertz(cell: str | None) -> float | None:
    """A clock in MHz."""
    return _scaled(cell, "MHz", {"mhz": 1.0, "ghz": 1000.0, "khz": 0.001, "hz": 1e-6})


def read_share(cell: str | None) -> float | None:
    """A percentage as a share; above 1 where the tool printed above 100, for its reader to doubt."""
    return _scaled(cell, "%", {"%": 0.01, "percent": 0.01})


def _scaled(cell: str | None, unit: str, scales: dict[str, float]) -> float | None:
    found = read_quantity(cell)
    if found is None:
        return None
    scale = scales.get(found[1] or unit.lower())
    if scale is None:
        return None
    return found[0] / round(1 / scale) if scale < 1 else found[0] * scale
