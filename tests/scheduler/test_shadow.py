"""The shadow price of room: laws over generated demand, and worked years."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler import shadow
from scheduler.job import FirmId
from scheduler.shadow import GRID, Demand, Forecast, Way, clearing, draws_of, forecast, mean_clearing, shadow_prices

DAY = shadow.MS_PER_DAY
FIRM, OTHER = FirmId("f"), FirmId("g")
PLENTY = 10**15
# 1,000 at 30% nets 700; 1,100 at 40% nets 660: the domestic way while 1,100 − 440(1−λ) < 1,000 − 300(1−λ), i.e. λ < 2/7.
TWO = (Way(1_000, 3000), Way(1_100, 4000))

ways = st.lists(st.builds(Way, st.integers(0, 10**9), st.sampled_from([0, 3000, 4000])), min_size=1, max_size=5)


def year_of(jobs: int, per_day: int = 1, of: tuple[Way, ...] = TWO) -> Demand:
    """`jobs` equal jobs, `per_day` a day from day 0."""
    at = np.array([n // per_day * DAY for n in range(jobs)], dtype=np.int64)
    return Demand(since_ms=0, at_ms=at, draws=np.array([draws_of(of)] * jobs, dtype=np.int64).reshape(jobs, len(GRID)))


def price(demand: Demand, room: int, pool: int = PLENTY, day: int = 100) -> shadow.ShadowPrice:
    return shadow_prices({FIRM: demand}, {FIRM: room}, pool, now_ms=day * DAY, until_ms=365 * DAY)[FIRM]


@given(ways)
def test_what_a_job_draws_never_rises_with_the_price_of_room(some: list[Way]) -> None:
    draws = draws_of(some)
    assert (np.diff(draws) <= 0).all()
    assert set(draws.tolist()) <= {way.gross_fen * way.rate_bp // 10_000 for way in some}


@given(ways)
def test_at_price_one_gross_decides_and_at_price_zero_net(some: list[Way]) -> None:
    draws = draws_of(some)
    least_gross = min(way.gross_fen for way in some)
    least_net = min(way.gross_fen - way.gross_fen * way.rate_bp // 10_000 for way in some)
    by_draw = {(w.gross_fen * w.rate_bp // 10_000, w.gross_fen) for w in some}
    assert any(d == draws[-1] and g == least_gross for d, g in by_draw)
    assert any(d == draws[0] and g - d == least_net for d, g in by_draw)


def test_the_two_rates_part_at_two_sevenths() -> None:
    draws = dict(zip(GRID.tolist(), draws_of(TWO).tolist(), strict=True))
    assert draws[280] == 440
    assert draws[290] == 300


def test_a_job_without_a_way_is_refused() -> None:
    with pytest.raises(ValueError, match="ways"):
        draws_of([])


def test_draws_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="draws"):
        Demand(since_ms=0, at_ms=np.array([1]), draws=np.zeros((1, 3), dtype=np.int64))


def test_the_recent_rate_is_carried_to_the_end_of_the_year() -> None:
    year = forecast(year_of(100), 99 * DAY + DAY, 365 * DAY)
    assert year.draws[0] == pytest.approx(265 * 440, rel=0.02)  # one job a day for the 265 days left
    assert year.draws[-1] == pytest.approx(265 * 300, rel=0.02)


def test_jobs_after_now_are_not_known() -> None:
    demand = year_of(100)
    known = Demand(since_ms=0, at_ms=demand.at_ms[:51], draws=demand.draws[:51])
    assert forecast(demand, 50 * DAY, 365 * DAY).draws.tolist() == forecast(known, 50 * DAY, 365 * DAY).draws.tolist()


def test_nothing_is_to_come_when_the_year_is_over_or_nobody_came() -> None:
    assert not forecast(year_of(5), 365 * DAY, 365 * DAY).draws.any()
    assert not forecast(year_of(0), DAY, 365 * DAY).draws.any()


def test_few_jobs_tell_less_than_many() -> None:
    few, many = forecast(year_of(10), 100 * DAY, 365 * DAY), forecast(year_of(1000, 10), 100 * DAY, 365 * DAY)
    assert few.error > many.error > 0


@given(st.lists(st.integers(0, 10**6), min_size=len(GRID), max_size=len(GRID)), st.integers(0, 10**6))
def test_clearing_is_the_least_price_that_leaves_enough(values: list[int], room: int) -> None:
    draws = np.sort(np.array(values, dtype=np.float64))[::-1]
    index = clearing(draws, room)
    assert draws[index] <= room or index == len(GRID) - 1
    assert not index or draws[index - 1] > room


@given(st.lists(ways, min_size=1, max_size=12), st.integers(0, 10**9))
def test_the_clearing_price_is_the_dual_of_the_years_programme(jobs: list[list[Way]], room: int) -> None:
    """L(λ) = Σ_job min_way (gross − draw·(1 − λ)) − λ·room is the programme's dual; nowhere on the grid is it higher."""
    draws = np.array([draws_of(one) for one in jobs])
    dual = [
        sum(min(w.gross_fen * 1000 - w.gross_fen * w.rate_bp // 10_000 * (1000 - at) for w in one) for one in jobs)
        - at * room
        for at in GRID.tolist()
    ]
    index = clearing(draws.sum(axis=0).astype(np.float64), room)
    assert max(dual) in dual[max(0, index - 1) : index + 1]  # the step in which it clears ends at the clearing price


def test_a_sure_forecast_clears_as_it_is_and_an_unsure_one_hedges() -> None:
    draws = np.linspace(1_000, 0, len(GRID))
    assert mean_clearing(Forecast(draws=draws, error=0.0), 500) == 50
    step = np.where(GRID < 500, 1_000.0, 0.0)  # one more fen wanted than there is jumps the price to one half
    sure, unsure = Forecast(draws=step, error=0.0), Forecast(draws=step, error=0.3)
    assert mean_clearing(sure, 1_001) == 0
    assert 0 < mean_clearing(unsure, 1_001) < 50


def test_plenty_is_free_and_certain_exhaustion_costs_all() -> None:
    assert price(year_of(100), PLENTY).permille == 0
    assert price(year_of(100), 1_000).permille == 1000
    assert price(year_of(100), 0).permille == 1000


def test_between_the_price_sits_where_the_cheaper_net_stops_paying() -> None:
    found = price(year_of(1000, 10), room=10 * 265 * 370).permille  # between 300 and 440 a job
    assert 100 <= found <= 500


@given(st.integers(0, 200_000), st.integers(0, 200_000), st.integers(1, 60))
def test_more_room_never_costs_more(one: int, two: int, jobs: int) -> None:
    less, more = sorted((one, two))
    assert price(year_of(jobs), less, day=60).permille >= price(year_of(jobs), more, day=60).permille


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 60))
def test_the_price_is_a_share_and_no_lower_than_either_rooms(room: int, pool: int, jobs: int) -> None:
    found = price(year_of(jobs), room, pool, day=60)
    assert found.permille == max(found.firm_permille, found.pool_permille)
    assert 0 <= found.permille <= 1000


def test_the_pool_binds_firms_whose_own_room_does_not() -> None:
    known = {FIRM: year_of(100), OTHER: year_of(100)}
    found = shadow_prices(known, {FIRM: PLENTY, OTHER: PLENTY}, 1_000, now_ms=100 * DAY, until_ms=365 * DAY)
    assert [found[firm].permille for firm in (FIRM, OTHER)] == [1000, 1000]
    assert [found[firm].firm_permille for firm in (FIRM, OTHER)] == [0, 0]


def test_a_firm_with_a_small_room_leaves_the_pool_to_the_others() -> None:
    known = {FIRM: year_of(100), OTHER: year_of(100)}
    pool = 265 * 440 * 2  # enough for one firm at its most, and for the little that the other may draw
    found = shadow_prices(known, {FIRM: 100, OTHER: PLENTY}, pool, now_ms=100 * DAY, until_ms=365 * DAY)
    assert found[FIRM].permille == 1000
    assert found[OTHER].permille < 100


def test_a_firm_nobody_has_seen_counts_its_voucher_in_full() -> None:
    found = shadow_prices({}, {FIRM: 10}, 10, now_ms=0, until_ms=365 * DAY)[FIRM]
    assert (found.permille, found.wanted_fen, found.days_left) == (0, 0, 365)
