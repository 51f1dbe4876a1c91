"""Refunds: the firm gets back only its own share, and no class passes its ceiling afterwards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.refund import Billed, RefundTooLarge, split

RATES = {"domestic": 4000, "foreign": 3000}


@st.composite
def billed(draw: st.DrawFn) -> list[Billed]:
    found = []
    for index in range(draw(st.integers(1, 5))):
        origin = draw(st.sampled_from(sorted(RATES)))
        fee = draw(st.sampled_from([0, 1, 2, 3, 10, 99]) | st.integers(0, 10**9))
        most = fee * RATES[origin] // 10000
        deduction = draw(st.sampled_from([0, most]) | st.integers(0, most))
        found.append(
            Billed(provider=f"p{index % 2}", origin=origin, rate_bp=RATES[origin], year=2025 + index % 2,
                   fee_fen=fee, deduction_fen=deduction)
        )  # fmt: skip
    return found


@st.composite
def refunds(draw: st.DrawFn, items: list[Billed]) -> list[int]:
    left = sum(item.fee_fen for item in items)
    found = []
    for _ in range(draw(st.integers(0, 4))):
        found.append(draw(st.integers(0, left)))
        left -= found[-1]
    return found


@given(st.data())
def test_parts_sum_and_no_class_passes_its_ceiling(data: st.DataObject) -> None:
    items = data.draw(billed())
    amounts = data.draw(refunds(items))
    parts = split(items, amounts)

    assert sum(part.fee_fen for part in parts) == sum(amounts)
    for part in parts:
        fee, deduction = part.billed.fee_fen - part.fee_fen, part.billed.deduction_fen - part.voucher_fen
        assert fee >= 0
        assert 0 <= deduction <= fee * part.billed.rate_bp // 10000
        assert 0 <= part.firm_fen <= part.billed.fee_fen - part.billed.deduction_fen


@given(st.data())
def test_a_refund_never_takes_back_an_earlier_one(data: st.DataObject) -> None:
    items = data.draw(billed())
    amounts = data.draw(refunds(items))
    for count in range(len(amounts)):
        before, after = split(items, amounts[:count]), split(items, amounts[: count + 1])
        for old, new in zip(before, after, strict=True):
            assert new.fee_fen >= old.fee_fen
            assert new.voucher_fen >= old.voucher_fen
            assert new.firm_fen >= old.firm_fen


@given(st.data())
def test_everything_returned_leaves_nothing_charged_and_nothing_deducted(data: st.DataObject) -> None:
    items = data.draw(billed())
    for part in split(items, [sum(item.fee_fen for item in items)]):
        assert part.fee_fen == part.billed.fee_fen
        assert part.voucher_fen == part.billed.deduction_fen


def test_pay_70_refund_100_gives_back_70() -> None:
    item = Billed(provider="p", origin="foreign", rate_bp=3000, year=2026, fee_fen=10_000, deduction_fen=3_000)
    (whole,) = split([item], [10_000])
    (half,) = split([item], [5_000])
    (fen,) = split([item], [1])

    assert (whole.firm_fen, whole.voucher_fen) == (7_000, 3_000)
    assert (half.firm_fen, half.voucher_fen) == (3_500, 1_500)
    assert (fen.firm_fen, fen.voucher_fen) == (0, 1)  # the first fen goes to the pool: 9,999 × 30% is 2,999.7


def test_more_than_was_charged_and_less_than_nothing_are_refused() -> None:
    item = Billed(provider="p", origin="foreign", rate_bp=3000, year=2026, fee_fen=100, deduction_fen=30)
    with pytest.raises(RefundTooLarge, match="101 fen is more than the 100 fen"):
        split([item], [101])
    with pytest.raises(RefundTooLarge, match="41 fen is more than the 40 fen still charged"):
        split([item], [60, 41])
    with pytest.raises(ValueError, match="-1 fen is below 0"):
        split([item], [-1])
