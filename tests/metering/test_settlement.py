"""The money rules: a second implementation, the laws, and both sides of every threshold and date."""

from __future__ import annotations

import json
import random
import sys
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.accelerator import Origin
from metering.case import settle_document
from metering.entry import Rooms, UsageEntry
from metering.facts import Interval
from metering.rates import Price, RateCard
from metering.rule import Rules
from metering.rules.eligibility import UnknownSite
from metering.settlement import RoomPassed, Settlement, settle
from tests.metering import oracle
from tests.metering.cases import POLICY, REGISTRY, RULES, case, cases, entry

TOTALS = ("fee_fen", "ceiling_fen", "deduction_fen", "payable_fen")


def settled(found: dict[str, Any]) -> dict[str, Any]:
    return settle_document(json.dumps(found), REGISTRY, RULES)


@settings(max_examples=250)
@given(found=cases())
def test_a_second_implementation_agrees_to_the_fen(found: dict[str, Any]) -> None:
    out = settled(found)
    out.pop("bundle_sha256")

    assert oracle.settled(found) == out


@given(found=cases())
def test_all_parts_sum_and_no_class_passes_its_ceiling(found: dict[str, Any]) -> None:
    out = settled(found)
    classes: dict[tuple[Any, ...], list[int]] = {}
    for line in out["lines"]:
        assert line["fee_fen"] == line["deduction_fen"] + line["payable_fen"]
        assert 0 <= line["deduction_fen"] <= line["fee_fen"]
        assert line["deduction_fen"] - Fraction(line["fee_fen"] * line["rate_bp"], 10_000) < 1
        sums = classes.setdefault((line["origin"] == "domestic", line["rate_bp"], line["year"]), [0, 0])
        sums[0] += line["fee_fen"]
        sums[1] += line["deduction_fen"]

    assert all(deduction <= fee * rate // 10_000 for (_, rate, _), (fee, deduction) in classes.items())
    assert sum(fee * rate // 10_000 for (_, rate, _), (fee, _) in classes.items()) == out["totals"]["ceiling_fen"]
    for name in ("fee_fen", "deduction_fen", "payable_fen"):
        assert sum(line[name] for line in out["lines"]) == out["totals"][name]


@given(found=cases())
def test_lines_tile_their_entry_and_what_leaves_a_room_is_what_was_deducted(found: dict[str, Any]) -> None:
    out = settled(found)
    lines = iter(out["lines"])
    for one in found["usage"]:
        start, end = (oracle.printed(oracle.ms(one[name])) for name in ("start", "end"))
        mine = [next(lines)]
        while mine[-1]["end"] != end:
            mine.append(next(lines))
        assert start == mine[0]["start"]
        assert all(before["end"] == after["start"] for before, after in pairwise(mine))
    assert next(lines, None) is None
    given_rooms = found.get("rooms", {})
    for name, full in (("pool", oracle.POOL), ("firm", oracle.CAP)):
        before = {year: given_rooms.get(name, {}).get(year, full) for year in out["rooms_after"][name]}
        assert out["totals"]["deduction_fen"] == sum(before.values()) - sum(out["rooms_after"][name].values())
    for name in ("contract", "tranche"):
        assert (name in given_rooms) == (name in out["rooms_after"])
        if name in given_rooms:
            assert out["totals"]["deduction_fen"] == given_rooms[name] - out["rooms_after"][name]
            assert out["rooms_after"][name] >= 0


@given(found=cases(), seed=st.integers(0, 99))
def test_the_order_of_usage_moves_no_total(found: dict[str, Any], seed: int) -> None:
    mixed = {**found, "usage": list(found["usage"])}
    random.Random(seed).shuffle(mixed["usage"])
    one, other = settled(found), settled(mixed)

    assert (one["totals"], one["rooms_after"], one["notices"]) == (
        other["totals"],
        other["rooms_after"],
        other["notices"],
    )


@given(found=cases())
def test_settling_twice_gives_the_same_bytes(found: dict[str, Any]) -> None:
    assert json.dumps(settled(found)) == json.dumps(settled(found))


# --- both sides of every date ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "rate", "year", "reasons"),
    [
        ("2024-03-27T23:59:59.999+08:00", 0, 2024, ["POLICY_NOT_IN_FORCE"]),
        ("2024-03-28T00:00:00+08:00", 4000, 2024, []),
        ("2024-12-31T23:59:59.999+08:00", 4000, 2024, []),
        ("2025-01-01T00:00:00+08:00", 4000, 2025, []),
        ("2025-12-31T16:00:00Z", 4000, 2026, []),
        ("2027-03-31T23:59:59.999+08:00", 4000, 2027, []),
        ("2027-04-01T00:00:00+08:00", 0, 2027, ["POLICY_NOT_IN_FORCE"]),
        ("0001-01-01T00:00:00Z", 0, 1, ["FIRM_NOT_ELIGIBLE", "POLICY_NOT_IN_FORCE"]),
        ("9999-12-31T23:59:59.999Z", 0, 10000, ["POLICY_NOT_IN_FORCE"]),
    ],
)
def test_an_instant_has_the_rate_and_year_of_its_local_date(
    start: str, rate: int, year: int, reasons: list[str]
) -> None:
    (line,) = settled(case(entry(start=start, end=start)))["lines"]

    assert (rate, year, reasons) == (line["rate_bp"], line["year"], sorted(line["reasons"]))


@pytest.mark.parametrize(
    ("end", "notices"),
    [
        ("2024-11-24T00:00:00+08:00", []),
        ("2024-11-24T00:00:00.001+08:00", ["POLICY_UNDER_CONFIRMATION"]),
    ],
)
def test_the_notice_is_carried_by_a_line_that_ends_after_the_date(end: str, notices: list[str]) -> None:
    assert notices == settled(case(entry(start="2024-11-23T23:00:00+08:00", end=end)))["notices"]


def test_no_usage_is_a_settlement_of_nothing() -> None:
    out = settled(case(rooms={"pool": {"2025": 5}, "contract": 7}))

    assert ([], [], dict.fromkeys(TOTALS, 0)) == (out["lines"], out["notices"], out["totals"])
    assert out["rooms_after"] == {"pool": {"2025": 5}, "firm": {}, "contract": 7}


def test_a_line_that_is_excluded_three_times_says_so_three_times_in_order() -> None:
    one = entry(start="2028-01-01T00:00:00Z", end="2028-01-01T01:00:00Z", site="s")
    out = settled(case(one, firm={"id": "f", "eligible": []}, sites={"s": {"eligible": []}}))

    (line,) = out["lines"]
    assert line["reasons"] == ["POLICY_NOT_IN_FORCE", "FIRM_NOT_ELIGIBLE", "SITE_NOT_ELIGIBLE"]
    assert line["clauses"] == ["4.3", "4.1", "4.2"]


def test_a_firm_is_eligible_up_to_the_end_of_its_interval_and_not_at_it() -> None:
    eligible = [{"from": "2025-06-01T09:00:00+08:00", "to": "2025-06-01T09:00:00.002+08:00"}]
    one = entry(start="2025-06-01T08:59:59.999+08:00", end="2025-06-01T09:00:00.003+08:00")
    out = settled(case(one, firm={"id": "f", "eligible": eligible}))

    assert [(line["device_ms"], line["rate_bp"]) for line in out["lines"]] == [(1, 0), (2, 4000), (1, 0)]


def test_foreign_and_undetermined_are_one_class_and_domestic_is_another() -> None:
    """999 + 999 fen at 30 % are 599.4 together, 299.7 twice apart."""
    usage = [entry(origin=o, price_fen_per_device_hour=999) for o in ("foreign", "undetermined")]
    out = settled(case(*usage))
    assert (out["totals"]["ceiling_fen"], [line["deduction_fen"] for line in out["lines"]]) == (
        599,
        [300, 299],
    )

    mixed = settled(case(*(entry(origin=o, price_fen_per_device_hour=4) for o in ("domestic", "foreign"))))
    assert (mixed["totals"]["ceiling_fen"], [line["deduction_fen"] for line in mixed["lines"]]) == (2, [1, 1])


# --- both sides of every room ---------------------------------------------------------------------


@pytest.mark.parametrize("left", [401, 400, 399, 1, 0])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("firm", "FIRM_CAP_REACHED"),
        ("pool", "POOL_EXHAUSTED"),
        ("contract", "CONTRACT_CAP_REACHED"),
        ("tranche", "TRANCHE_EXHAUSTED"),
    ],
)
def test_a_room_is_a_reason_only_when_it_is_short(name: str, reason: str, left: int) -> None:
    room: Any = {"2025": left} if name in ("firm", "pool") else left
    out = settled(case(entry(), rooms={name: room}))

    (line,) = out["lines"]
    assert min(left, 400) == line["deduction_fen"]
    assert ([] if left >= 400 else [reason]) == line["reasons"]
    assert line["rate_bp"] == 4000, "an empty room does not change the rate"
    after = out["rooms_after"][name]
    assert left - line["deduction_fen"] == (after["2025"] if isinstance(after, dict) else after)


def test_every_room_that_stops_it_is_named_in_order() -> None:
    rooms = {"firm": {"2025": 5}, "pool": {"2025": 5}, "contract": 5, "tranche": 5}
    (line,) = settled(case(entry(), rooms=rooms))["lines"]

    assert line["reasons"] == [
        "FIRM_CAP_REACHED",
        "POOL_EXHAUSTED",
        "CONTRACT_CAP_REACHED",
        "TRANCHE_EXHAUSTED",
    ]


def test_a_shortfall_is_told_on_every_eligible_line_of_its_year_and_on_no_other() -> None:
    free = entry(lease="free", price_fen_per_device_hour=0)
    barred = entry(lease="barred", site="s")
    later = entry(lease="later", start="2026-06-01T09:00:00+08:00", end="2026-06-01T10:00:00+08:00")
    found = case(entry(), free, barred, later, sites={"s": {"eligible": []}}, rooms={"pool": {"2025": 1}})

    reasons = {line["lease"]: line["reasons"] for line in settled(found)["lines"]}
    assert reasons == {
        "L1": ["POOL_EXHAUSTED"],
        "free": ["POOL_EXHAUSTED"],
        "barred": ["SITE_NOT_ELIGIBLE"],
        "later": [],
    }


def test_contract_and_tranche_run_on_through_the_years_in_order_of_time_not_of_usage() -> None:
    years = [f"{year}-06-01T{hour}:00:00+08:00" for year in (2026, 2025) for hour in ("09", "10")]
    usage = [entry(start=years[0], end=years[1]), entry(start=years[2], end=years[3])]
    out = settled(case(*usage, rooms={"contract": 500, "tranche": 450}))

    assert [line["deduction_fen"] for line in out["lines"]] == [50, 400]
    assert out["lines"][0]["reasons"] == ["TRANCHE_EXHAUSTED"]
    assert (out["rooms_after"]["contract"], out["rooms_after"]["tranche"]) == (50, 0)


def test_a_full_year_cap_stops_at_twenty_million_yuan() -> None:
    """2.1.1: a firm's 20 million a year is reached by fees of 50 million on domestic chips."""
    exactly = settled(case(entry(price_fen_per_device_hour=5_000_000_000)))
    above = settled(case(entry(price_fen_per_device_hour=5_000_000_003)))

    assert (exactly["totals"]["deduction_fen"], exactly["lines"][0]["reasons"]) == (2_000_000_000, [])
    assert (
        above["totals"]["deduction_fen"],
        above["lines"][0]["reasons"],
    ) == (2_000_000_000, ["FIRM_CAP_REACHED"])


# --- settle() itself ------------------------------------------------------------------------------

NINE = datetime(2025, 6, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def settle_prices(
    *prices: Price, rules: Any = RULES, rooms: Rooms | None = None, site: str | None = None
) -> Settlement:
    """Two hours from 09:00 of one eligible device under these prices."""
    usage = UsageEntry(
        lease="L1",
        model="M",
        origin=Origin.FOREIGN,
        devices=1,
        site=site,
        start=NINE,
        end=NINE + 2 * HOUR,
        rate="r",
    )
    given_rules = Rules(policy=REGISTRY.policy(POLICY), rules=tuple(rules), firm=(Interval(start=NINE - HOUR),))
    return settle([usage], RateCard({"r": prices}), given_rules, rooms or Rooms())


def test_a_line_is_cut_where_the_price_changes_and_only_there() -> None:
    cut = settle_prices(
        Price(start=NINE - HOUR, end=NINE + HOUR, fen_per_device_hour=1000),
        Price(start=NINE + HOUR, fen_per_device_hour=700),
    )
    same = settle_prices(
        Price(start=NINE - HOUR, end=NINE + HOUR, fen_per_device_hour=700),
        Price(start=NINE + HOUR, fen_per_device_hour=700),
    )

    assert [(line.fee_fen, line.deduction_fen) for line in cut.lines] == [(1000, 300), (700, 210)]
    assert [(line.fee_fen, line.deduction_fen) for line in same.lines] == [(1400, 420)]


def test_a_year_reports_its_ceiling_its_deduction_and_its_reasons() -> None:
    (year,) = settle_prices(
        Price(start=NINE, fen_per_device_hour=1000), rooms=Rooms(pool={2025: 599}, contract=7000)
    ).years

    assert (
        year.year,
        year.ceiling_fen,
        year.deduction_fen,
        year.reasons,
    ) == (2025, 600, 599, ("POOL_EXHAUSTED",))


def test_without_the_caps_a_room_that_would_be_passed_is_a_broken_promise() -> None:
    uncapped = [rule for rule in RULES if rule.name != "caps"]
    price = Price(start=NINE, fen_per_device_hour=1000)

    assert settle_prices(price, rules=uncapped).totals.deduction_fen == 600
    for rooms in (Rooms(pool={2025: 599}), Rooms(firm={2025: 1}), Rooms(contract=0), Rooms(tranche=599)):
        with pytest.raises(RoomPassed):
            settle_prices(price, rules=uncapped, rooms=rooms)


def test_usage_at_a_site_nobody_described_and_rooms_below_zero_are_broken_promises() -> None:
    price = Price(start=NINE, fen_per_device_hour=1000)
    with pytest.raises(UnknownSite, match="'s9'"):
        settle_prices(price, site="s9")
    with pytest.raises(ValueError, match="below 0"):
        settle_prices(price, rooms=Rooms(contract=-1))


def calls_of(entries: int, days: int) -> int:
    """How many Python calls settling so many entries of a firm with so many intervals of eligibility makes."""
    start = datetime(2025, 1, 1, tzinfo=UTC)
    eligible = [
        {
            "from": (start + timedelta(days=day)).isoformat(),
            "to": (start + timedelta(days=day, hours=20)).isoformat(),
        }
        for day in range(days)
    ]
    usage = [
        entry(
            lease=f"L{number}",
            origin=("domestic", "foreign")[number % 2],
            start=(start + timedelta(minutes=number)).isoformat(),
            end=(start + timedelta(minutes=number + 50)).isoformat(),
        )
        for number in range(entries)
    ]
    text = json.dumps(case(*usage, firm={"id": "f", "eligible": eligible}))
    count = 0

    def counted(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        out = settle_document(text, REGISTRY, RULES)
    finally:
        sys.setprofile(before)
    assert out["totals"]["deduction_fen"] == sum(line["deduction_fen"] for line in out["lines"]) > 0
    return count


def test_an_entry_costs_its_own_lines_however_many_entries_and_intervals_there_are() -> None:
    """Counted in calls, not in seconds: four times the entries cost four times the calls; an interval is read once."""
    few, many = calls_of(500, 100), calls_of(2_000, 100)
    assert many < 4.4 * few
    per_interval = (calls_of(500, 500) - few) / 400
    assert per_interval < few / 500
