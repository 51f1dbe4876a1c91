"""Intervals, prices and local years: half-open, united, exact to the millisecond, from year 1 to 9999."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.facts import Interval, holds_at, timeline, unite
from metering.rates import NoPrice, Price, RateCard
from metering.year import local_year, year_start, years_begun_within

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
SHANGHAI = ZoneInfo("Asia/Shanghai")
MS = timedelta(milliseconds=1)


def at(ms: int) -> datetime:
    return NOON + ms * MS


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    start = draw(st.integers(0, 20))
    end = draw(st.none() | st.integers(start, 22))
    return Interval(start=at(start), end=None if end is None else at(end))


@given(given_=st.lists(intervals(), max_size=8))
def test_uniting_changes_no_instant_and_leaves_gaps_between_any_two(given_: list[Interval]) -> None:
    united = unite(given_)
    line = timeline(given_)

    for ms in range(-1, 25):
        assert holds_at(given_, at(ms)) == holds_at(united, at(ms)) == line.holds_at(at(ms))
    for before, after in itertools.pairwise(united):
        assert before.end is not None
        assert before.end < after.start
    assert united == unite(united) == unite(reversed(given_))


def test_touching_intervals_are_one_and_empty_ones_are_none() -> None:
    assert (Interval(start=at(0), end=at(9)),) == unite(
        [Interval(start=at(4), end=at(9)), Interval(start=at(0), end=at(4)), Interval(start=at(2), end=at(2))]
    )
    assert unite([Interval(start=at(2), end=at(2))]) == ()


def test_the_edges_within_are_strictly_inside() -> None:
    line = timeline([Interval(start=at(0), end=at(5)), Interval(start=at(8))])

    assert (at(5), at(8)) == line.edges_within(at(0), at(9))
    assert line.edges_within(at(5), at(8)) == ()
    assert (at(0),) == line.edges_within(at(-1), at(5))


def test_a_price_holds_up_to_the_next_and_not_at_it() -> None:
    card = RateCard(
        {
            "a": (
                Price(start=at(0), end=at(10), fen_per_device_hour=5),
                Price(start=at(10), fen_per_device_hour=7),
            )
        }
    )

    assert [card.price_at("a", at(ms)) for ms in (0, 9, 10, 99)] == [5, 5, 7, 7]
    assert [at(10)] == card.edges_within("a", at(0), at(99))
    for key, ms in (("a", -1), ("b", 0)):
        with pytest.raises(NoPrice, match=f"'{key}'"):
            card.price_at(key, at(ms))


def test_a_hole_between_prices_has_no_price() -> None:
    card = RateCard(
        {
            "a": (
                Price(start=at(0), end=at(3), fen_per_device_hour=5),
                Price(start=at(6), fen_per_device_hour=7),
            )
        }
    )
    with pytest.raises(NoPrice):
        card.price_at("a", at(3))


@pytest.mark.parametrize(("end", "fen"), [(None, 5), (11, 5), (10, -1)])
def test_prices_that_overlap_or_are_negative_are_refused(end: int | None, fen: int) -> None:
    first = Price(start=at(0), end=None if end is None else at(end), fen_per_device_hour=fen)
    with pytest.raises(ValueError, match="rate 'a'"):
        RateCard({"a": (first, Price(start=at(10), fen_per_device_hour=7))})


@pytest.mark.parametrize(
    ("moment", "year"),
    [
        ("2025-12-31T15:59:59.999+00:00", 2025),
        ("2025-12-31T16:00:00+00:00", 2026),
        ("0001-01-01T00:00:00+00:00", 1),
        ("9999-12-31T15:59:59.999+00:00", 9999),
        ("9999-12-31T16:00:00+00:00", 10000),
        ("1900-12-31T15:59:59+00:00", 1900),  # Shanghai left its mean time for UTC+8 at that new year
        ("1900-12-31T16:00:00+00:00", 1901),
    ],
)
def test_the_local_year_begins_at_local_midnight(moment: str, year: int) -> None:
    assert year == local_year(datetime.fromisoformat(moment), SHANGHAI)


@given(year=st.integers(2, 10_000), zone=st.sampled_from([SHANGHAI, ZoneInfo("UTC")]))
def test_a_year_starts_where_the_local_year_changes(year: int, zone: ZoneInfo) -> None:
    if (year, zone.key) == (10_000, "UTC"):
        with pytest.raises(OverflowError):
            year_start(year, zone)
        return
    start = year_start(year, zone)

    assert (year - 1, year) == (local_year(start - MS, zone), local_year(start, zone))


def test_every_year_begun_is_found_from_the_first_instant_to_the_last() -> None:
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

    assert len(years_begun_within(first, last, SHANGHAI)) == 9_999
    assert years_begun_within(NOON, NOON, SHANGHAI) == []
    assert (
        years_begun_within(datetime(2025, 12, 31, 16, tzinfo=UTC), datetime(2026, 12, 31, 16, tzinfo=UTC), SHANGHAI)
        == []
    )
