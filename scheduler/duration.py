"""Durations, memory sizes and money as people write them, into whole milliseconds, bytes and fen."""

from __future__ import annotations

import re

UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_PART = re.compile(r"(\d+)(ms|[smhd])")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)(\+?)")
_MONEY = re.compile(r"(\d+)(?:\.(\d{1,2}))?\s*CNY")


def parse_duration(text: str) -> int:
    """Whole milliseconds of `12h`, `1h30m`, `90s`; ValueError says what is wrong."""
    parts = _PART.findall(text)
    if not parts or "".join(a + b for a, b in parts) != text:
        raise ValueError("a duration is numbers with units, such as 12h, 1h30m or 90s")
    total = sum(int(number) * UNITS_MS[unit] for number, unit in parts)
    if total <= 0:
        raise ValueError("a duration is longer than zero")
    if total > 366 * UNITS_MS["d"]:
        raise ValueError("a duration is at most 366d")
    return total


def format_duration(milliseconds: int) -> str:
    """The canonical spelling: largest units first, no zeros."""
    rest, parts = milliseconds, []
    for unit in ("d", "h", "m", "s", "ms"):
        number, rest = divmod(rest, UNITS_MS[unit])
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"


def parse_size(text: str) -> int:
    """Bytes of `16GiB` (a trailing + is taken); ValueError names the binary unit that is meant."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("a size is a number with a unit, such as 16GiB")
    number, unit, _ = match.groups()
    if unit not in SIZES:
        near = {"k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB"}.get(unit[:1].lower(), "GiB")
        raise ValueError(f"unit {unit!r} is not known; write {near}" if unit else "a size needs a unit, such as GiB")
    size = round(float(number) * SIZES[unit])
    if size <= 0:
        raise ValueError("a size is above zero")
    return size


def parse_money(text: str) -> int:
    """Fen of `8000 CNY` or `8000.50 CNY`; ValueError otherwise."""
    match = _MONEY.fullmatch(text.strip())
    if match is None:
        raise ValueError("money is yuan with its unit, such as 8000 CNY or 8000.50 CNY")
    yuan, cents = match.groups()
    return int(yuan) * 100 + int((cents or "0").ljust(2, "0"))


def format_money(fen: int) -> str:
    """The canonical spelling of an amount in a job file."""
    return f"{fen // 100}.{fen % 100:02d} CNY"
