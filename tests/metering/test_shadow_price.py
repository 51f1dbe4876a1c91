"""λ from the ledger's side: past jobs, rooms and the local year; and the quote that shows it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from metering.offer import quote_of, ranked
from metering.shadow_price import PastJob, demands, firm_prices, past_job, with_prices
from scheduler.job import FirmId
from scheduler.netcost import cost
from scheduler.node import PoolId
from scheduler.shadow import Way
from scheduler.snapshot import Terms

ZONE = ZoneInfo("Asia/Shanghai")
BEGIN = datetime(2025, 12, 31, 16, tzinfo=UTC)  # the local new year
NOW = BEGIN + timedelta(days=100)
FIRM = FirmId("f")
SINCE = {FIRM: BEGIN}
TWO = (Way(1_000, 3000), Way(1_100, 4000))


def past(days: int = 100) -> list[PastJob]:
    return [PastJob(firm=FIRM, at=BEGIN + timedelta(days=day), ways=TWO) for day in range(days)]


def terms(pool: str = "p", price: int = 1000, rate: int = 4000, shadow: int = 0) -> Terms:
    return Terms(
        firm=FIRM, pool=PoolId(pool), price_fen_per_device_hour=price, rate_bp=rate, room_fen=10**9,
        shadow_price_permille=shadow,
    )  # fmt: skip


def test_the_ways_are_read_from_the_reserved_event() -> None:
    facts = {
        "pool": "a",
        "gross_fen": 1100,
        "net_fen": 660,
        "rejected": [{"pool": "b", "gross_fen": 1000, "net_fen": 700}],
    }
    assert past_job(FIRM, NOW, facts, {"a": 4000, "b": 3000}).ways == (Way(1100, 4000), Way(1000, 3000))
    assert past_job(FIRM, NOW, {"pool": "a", "gross_fen": 5}, {}).ways == (Way(5, 0),)


def test_the_local_year_ends_the_room() -> None:
    known = demands(past(), SINCE)
    last = datetime(2026, 12, 31, 15, 59, tzinfo=UTC)
    assert firm_prices(known, {FIRM: 10**9}, 10**9, NOW, ZONE)[FIRM].days_left == 265
    assert firm_prices(known, {FIRM: 10**9}, 10**9, last, ZONE)[FIRM].days_left == 1
    assert firm_prices(known, {FIRM: 10**9}, 10**9, last + timedelta(minutes=1), ZONE)[FIRM].days_left == 365


def test_little_room_costs_all_and_much_nothing() -> None:
    known = demands(past(), SINCE)
    assert firm_prices(known, {FIRM: 10_000}, 10**9, NOW, ZONE)[FIRM].permille == 1000
    assert firm_prices(known, {FIRM: 10**9}, 10**9, NOW, ZONE)[FIRM].permille == 0


def test_jobs_before_the_right_are_left_out() -> None:
    assert len(demands(past(10), {FIRM: BEGIN + timedelta(days=4)})[FIRM].at_ms) == 6
    assert not len(demands([], SINCE)[FIRM].at_ms)


def test_a_firm_without_an_instant_is_named() -> None:
    with pytest.raises(ValueError, match="'f'"):
        demands(past(1), {})


def test_terms_take_their_firms_price() -> None:
    prices = firm_prices(demands(past(), SINCE), {FIRM: 10_000}, 10**9, NOW, ZONE)
    assert [one.shadow_price_permille for one in with_prices([terms("a"), terms("b")], prices)] == [1000, 1000]
    assert with_prices([terms(shadow=7)], {})[0].shadow_price_permille == 7


def test_a_quote_says_what_is_held_expected_and_compared() -> None:
    hour = 3_600_000
    ours = terms("a", shadow=500)
    shadow = firm_prices(demands(past(), SINCE), {FIRM: 10_000}, 10**9, NOW, ZONE)[FIRM]
    one = quote_of("Ascend910B3", ours, cost(ours, 8, 10 * hour), cost(ours, 8, hour), shadow)
    assert one["at_most"] == {"gross_fen": 80_000, "draw_fen": 32_000, "net_fen": 48_000}
    assert one["expected"] == {"gross_fen": 8_000, "draw_fen": 3_200, "net_fen": 4_800}
    assert (one["effective_fen"], one["predicted_ms"], one["time_limit_ms"]) == (6_400, hour, 10 * hour)
    assert (one["shadow_price"]["permille"], one["shadow_price"]["days_left"]) == (500, 265)
    bare = quote_of("H800", ours, cost(ours, 8, hour), None, None)
    assert (bare["expected"], bare["predicted_ms"], bare["shadow_price"]["wanted_fen"]) == (None, None, None)
    assert bare["effective_fen"] == 6_400


def test_quotes_are_ranked_by_what_the_choice_compares() -> None:
    hour = 3_600_000
    rows = [("dear", 1100, 4000, 1000), ("cheap", 1000, 3000, 1000)]
    quotes = [
        quote_of(pool, t := terms(pool, price, rate, shadow), cost(t, 1, hour), None, None)
        for pool, price, rate, shadow in rows
    ]
    found = ranked(quotes)
    assert [one["pool"] for one in found] == ["cheap", "dear"]  # λ = 1: gross counts
    assert [one["net_saved_fen"] for one in found] == [0, -40]  # 660 against 700: the room is kept for later
