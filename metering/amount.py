"""Amount: integer fen arithmetic, with the rounding spelled in each function's name or first line. Pure.

1 CNY = 100 fen. Rates are basis points (1/10000), shares permille of a device, device time milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NewType

Fen = NewType("Fen", int)

BASIS_POINTS = 10_000  # in a whole
MS_PER_HOUR = 3_600_000
PERMILLE = 1_000


def fee_fen(price_fen_per_device_hour: int, device_ms: int, share_permille: int) -> Fen:
    """price × device time × share, rounded half up to a whole fen, once per line.

    device_ms: devices × milliseconds. All arguments ≥ 0, so half up is away from zero.
    """
    whole = MS_PER_HOUR * PERMILLE
    return Fen((2 * price_fen_per_device_hour * device_ms * share_permille + whole) // (2 * whole))


def ceiling_fen(fee_total: int, rate_bp: int) -> Fen:
    """The most that may be deducted of a class's fees: ⌊fees × rate⌋.

    Rounded down, so that "at most 30%" (clause 2.1.1) is never passed by a fen.
    """
    return Fen(fee_total * rate_bp // BASIS_POINTS)


def largest_remainder(total: int, weights: Sequence[int]) -> tuple[int, ...]:
    """`total` in whole parts proportional to `weights`, summing to it; each its quota rounded down or up.

    The parts with the largest remainders are rounded up, ties in order (Hamilton's method). A weight of 0
    gets 0. Raises ValueError for negative input, and for a total above 0 over weights that are all 0.
    """
    whole = sum(weights)
    if total < 0 or any(weight < 0 for weight in weights):
        raise ValueError(f"largest_remainder of {total} over {list(weights)}: nothing may be negative")
    if whole == 0:
        if total:
            raise ValueError(f"{total} fen cannot be spread over weights that are all 0")
        return (0,) * len(weights)
    parts, remainders = [], []
    for weight in weights:
        part, remainder = divmod(total * weight, whole)
        parts.append(part)
        remainders.append(remainder)
    order = sorted(range(len(weights)), key=lambda index: -remainders[index])
    for index in order[: total - sum(parts)]:
        parts[index] += 1
    return tuple(parts)


def cny_text(fen: int) -> str:
    """Yuan with two decimals and no grouping, exact: 123456 → "1234.56".

    Currency signs are made at the edge.
    """
    sign = "-" if fen < 0 else ""
    return f"{sign}{abs(fen) // 100}.{abs(fen) % 100:02d}"
