"""Fen arithmetic: where each rounding goes, on both sides of every threshold."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.amount import ceiling_fen, cny_text, fee_fen, largest_remainder

FEN = st.integers(0, 10**12)


@pytest.mark.parametrize(
    ("price", "device_ms", "share", "expected"),
    [
        (2000, 8 * 3_600_000, 1000, 16000),
        (1000, 1799, 1000, 0),  # 0.49972 fen
        (1000, 1800, 1000, 1),  # exactly half a fen
        (1000, 1801, 1000, 1),
        (1000, 5399, 1000, 1),  # 1.49972 fen
        (1000, 5400, 1000, 2),  # one and a half
        (3600, 7_200_000, 250, 1800),
        (0, 10**9, 1000, 0),
        (10**9, 0, 1000, 0),
    ],
)
def test_a_fee_is_rounded_half_up_once(price: int, device_ms: int, share: int, expected: int) -> None:
    assert expected == fee_fen(price, device_ms, share)


@given(price=FEN, device_ms=FEN, share=st.integers(1, 1000))
def test_a_fee_is_within_half_a_fen_of_the_exact_one(price: int, device_ms: int, share: int) -> None:
    exact = Fraction(price * device_ms * share, 3_600_000_000)

    assert Fraction(-1, 2) < fee_fen(price, device_ms, share) - exact <= Fraction(1, 2)


@pytest.mark.parametrize(
    ("fee", "rate", "expected"), [(999, 3000, 299), (1000, 3000, 300), (1, 4000, 0), (3, 4000, 1), (2, 0, 0)]
)
def test_a_ceiling_is_rounded_down(fee: int, rate: int, expected: int) -> None:
    assert expected == ceiling_fen(fee, rate)


@given(fee=FEN, rate=st.integers(0, 10_000))
def test_a_ceiling_never_passes_the_rate_and_misses_it_by_less_than_a_fen(fee: int, rate: int) -> None:
    assert 0 <= Fraction(fee * rate, 10_000) - ceiling_fen(fee, rate) < 1


@given(weights=st.lists(st.integers(0, 10**10), max_size=20), data=st.data())
def test_parts_sum_to_the_total_and_are_their_quota_rounded_either_way(weights: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(weights)))
    parts = largest_remainder(total, weights)

    assert total == sum(parts)
    for part, weight in zip(parts, weights, strict=True):
        quota = Fraction(total * weight, sum(weights) or 1)
        assert abs(part - quota) < 1
        assert part <= weight, "a total within the weights gives nobody more than its weight"


def test_remainders_decide_who_gets_the_odd_fen_and_order_breaks_ties() -> None:
    assert largest_remainder(1, [1, 1, 1]) == (1, 0, 0)
    assert largest_remainder(1, [1, 2, 1]) == (0, 1, 0)
    assert largest_remainder(4, [1, 1, 1]) == (2, 1, 1)
    assert largest_remainder(3001, [3200, 2400]) == (1715, 1286)
    assert largest_remainder(0, [0, 0]) == (0, 0)
    assert largest_remainder(0, []) == ()


@pytest.mark.parametrize(("total", "weights"), [(1, [0, 0]), (1, []), (-1, [1]), (1, [2, -1])])
def test_what_cannot_be_spread_is_refused(total: int, weights: list[int]) -> None:
    with pytest.raises(ValueError, match=r"spread|negative"):
        largest_remainder(total, weights)


@given(fen=st.integers(-(10**15), 10**15))
def test_yuan_text_is_exact(fen: int) -> None:
    text = cny_text(fen)

    assert Fraction(fen, 100) == Fraction(text)
    assert text[-3] == "."
