"""Refund: what part of a returned fee is the firm's and what part goes back to the pool of its year. Pure.

A refund or an ex-post rebate reverses pro rata (design §5 rule 6): otherwise "pay 70, refund 100" would turn a voucher
into cash. The voucher's part is rounded up to the fen, so that what stays deducted never passes the ceiling of what stays
charged: D' = ⌊D × F' / F⌋ ≤ ⌊F' × rate⌋ wherever D ≤ ⌊F × rate⌋.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metering.amount import largest_remainder


@dataclass(frozen=True, slots=True, kw_only=True)
class Billed:
    """What one class of a job's lines was billed: one provider, origin class, rate and local year. Fen."""

    provider: str
    origin: str
    rate_bp: int
    year: int
    fee_fen: int
    deduction_fen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """What goes back of one class: fee_fen = firm_fen + voucher_fen."""

    billed: Billed
    fee_fen: int
    voucher_fen: int

    @property
    def firm_fen(self) -> int:
        return self.fee_fen - self.voucher_fen


class RefundTooLarge(ValueError):
    """More would go back than was charged."""


def split(billed: Sequence[Billed], amounts_fen: Sequence[int]) -> tuple[Returned, ...]:
    """What has gone back of each class after these refunds of the fee, in their order; the parts sum exactly.

    Each refund falls by largest remainder on what is still charged, ties by order, so nothing that went back ever
    comes again; the same money in other portions moves a class by a fen at most for each portion. Raises RefundTooLarge
    above the fee, ValueError below zero.
    """
    left = [item.fee_fen for item in billed]
    for amount in amounts_fen:
        if amount < 0:
            raise ValueError(f"refund: {amount} fen is below 0")
        if amount > sum(left):
            raise RefundTooLarge(f"refund: {amount} fen is more than the {sum(left)} fen still charged")
        for index, part in enumerate(largest_remainder(amount, left)):
            left[index] -= part
    found = []
    for item, kept_fee in zip(billed, left, strict=True):
        kept = item.deduction_fen * kept_fee // item.fee_fen if item.fee_fen else 0
        found.append(
            Returned(
                billed=item,
                fee_fen=item.fee_fen - kept_fee,
                voucher_fen=item.deduction_fen - kept if item.fee_fen else 0,
            )
        )
    return tuple(found)
