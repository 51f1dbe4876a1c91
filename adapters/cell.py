"""Cell: one value as a vendor's tool printed it. A blank is None, and so is what cannot be read; never 0.

Pure.
"""

from __future__ import annotations

import re

# What tools print for "no reading": nvidia-smi N/A, [Not Supported], [Unknown Error]; npu-smi NA and -.
BLANKS = frozenset({"", "-", "--", "/", "na", "n/a", "none", "null", "unknown", "not supported", "redacted"})
_BDF = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])")
_NUMBER = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)\s*(.*)")


def read_text(cell: str | None) -> str | None:
    """The cell without space around it; None when it says nothing."""
    text = (cell or "").strip()
    return None if text.strip("[]").strip().lower() in BLANKS else text


def read_number(cell: str | None, *, unit: str = "") -> float | None:
    """The non-negative number in a cell, which carries no unit or exactly `unit`; None for anything else."""
    match = _NUMBER.fullmatch((cell or "").strip())
    if match is None or match[2] not in ("", unit):
        return None
    return float(match[1])


def read_count(cell: str | None, *, unit: str = "") -> int | None:
    """The whole number in a cell; None for anything else, fractions among them."""
    number = read_number(cell, unit=unit)
    return int(number) if number is not None and number == int(number) else None


def read_ratio(cell: str | None) -> float | None:
    """A percentage as 0..1; None when blank, unreadable or above 100."""
    number = read_number(cell, unit="%")
    return number / 100 if number is not None and number <= 100 else None


def read_bdf(cell: str | None) -> str | None:
    """A PCI address as `0000:66:00.0`: lower-case hex, four digits of domain, more only at need."""
    match = _BDF.fullmatch((cell or "").strip().lower())
    if match is None:
        return None
    domain, bus, device, function = match.groups()
    return f"{int(domain or '0', 16):04x}:{bus}:{device}.{function}"
