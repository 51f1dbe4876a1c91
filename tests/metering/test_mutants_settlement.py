"""What mutants of prices, years and settlement showed that no test asked."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.accelerator import Origin
from adapters.chain import timestamp
from metering.case import CaseError, settle_document
from metering.entry import Rooms, UsageEntry
from metering.facts import Interval
from metering.rates import Price, RateCard
from metering.rule import Bound, Context, Exclusion, Rule, Rules
from metering.settlement import RoomPassed, document, settle
from metering.year import local_year, years_begun_within
from tests.metering.cases import POLICY, REGISTRY, RULES, case, entry

# --- prices, years, settlement ----------------------------------------------------------------------


def test_a_key_without_a_price_has_no_edges() -> None:
    start = datetime(2025, 6, 1, tzinfo=UTC)
    assert RateCard({}).edges_within("M", start, start + timedelta(days=1)) == []


def test_the_first_instant_of_all_is_in_the_year_0_of_a_western_zone() -> None:
    assert local_year(datetime.min.replace(tzinfo=UTC), ZoneInfo("Etc/GMT+12")) == 0


def test_a_year_begins_by_the_policy_s_zone_and_not_by_the_machine_s() -> None:
    west = ZoneInfo("Etc/GMT+12")  # twelve hours behind UTC: its year begins after every other's
    begin = datetime(2025, 1, 1, 12, tzinfo=UTC)
    moment = timedelta(milliseconds=1)
    assert years_begun_within(begin - moment, begin + moment, west) == [begin]
    assert years_begun_within(begin, begin + moment, west) == []


NINE = datetime(2025, 6, 1, 1, tzinfo=UTC)
USED = UsageEntry(
    lease="L1", model="M", origin=Origin.DOMESTIC, devices=1, start=NINE, end=NINE + timedelta(hours=1), rate="M"
)
CARD = RateCard({"M": (Price(start=NINE, fen_per_device_hour=1000),)})
ALWAYS = (Interval(start=datetime(2023, 1, 1, tzinfo=UTC)),)


@pytest.mark.parametrize(
    ("rooms", "said"),
    [
        (Rooms(pool={2025: 399}), "pool 2025 would hold -1 fen; is the rule 'caps' registered?"),
        (Rooms(firm={2025: 398}), "firm 2025 would hold -2 fen; is the rule 'caps' registered?"),
        (Rooms(contract=397), "contract would hold -3 fen; is the rule 'caps' registered?"),
        (Rooms(tranche=396), "tranche would hold -4 fen; is the rule 'caps' registered?"),
    ],
)
def test_a_room_that_would_be_passed_is_named_with_what_it_would_hold(rooms: Rooms, said: str) -> None:
    uncapped = tuple(rule for rule in RULES if rule.name != "caps")
    with pytest.raises(RoomPassed) as passed:
        settle([USED], CARD, Rules(policy=REGISTRY.policy(POLICY), rules=uncapped, firm=ALWAYS), rooms)
    assert str(passed.value) == said


def test_an_entry_that_ends_before_it_starts_is_named_with_both_instants() -> None:
    backwards = replace(USED, end=NINE - timedelta(hours=1))
    with pytest.raises(ValueError, match=r"^lease L1 ended") as wrong:
        settle([backwards], CARD, Rules(policy=REGISTRY.policy(POLICY), rules=RULES, firm=ALWAYS), Rooms())
    assert str(wrong.value) == "lease L1 ended 2025-06-01T00:00:00+00:00 before it began 2025-06-01T01:00:00+00:00"


@pytest.fixture
def machine_in_shanghai(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Shanghai")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("machine_in_shanghai")
def test_instants_are_published_in_utc_wherever_the_machine_stands() -> None:
    found = settle([USED], CARD, Rules(policy=REGISTRY.policy(POLICY), rules=RULES, firm=ALWAYS), Rooms())
    (line,) = document(found)["lines"]
    assert (line["start"], line["end"]) == ("2025-06-01T01:00:00.000Z", "2025-06-01T02:00:00.000Z")


class Careless(Rule):
    """Names the entry's own ends as breakpoints, and objects from its end on; its bound is a cap of the policy's."""

    name = "careless"

    def breakpoints(self, entry: UsageEntry, context: Context) -> Iterable[datetime]:
        return (entry.start, entry.end)

    def exclusions(self, entry: UsageEntry, at: datetime, context: Context) -> Iterable[Exclusion]:
        return (Exclusion("OVER", "0"),) if at >= entry.end else ()

    def bounds(self, year: int, rooms: Rooms, context: Context) -> Iterable[Bound]:
        return (Bound("ONE_PART_IN_TEN_MILLION", context.policy.firm_cap_fen[year] // 10_000_000),)


def test_a_rule_is_given_the_policy_and_cannot_cut_an_entry_at_its_ends() -> None:
    policy = REGISTRY.policy(POLICY)
    most = policy.firm_cap_fen[2025] // 10_000_000
    assert most == 200  # of a ceiling of 400
    found = settle([USED], CARD, Rules(policy=policy, rules=(*RULES, Careless()), firm=ALWAYS), Rooms())
    assert [(line.start, line.end, line.deduction_fen) for line in found.lines] == [(USED.start, USED.end, most)]
    assert found.lines[0].reasons == ("ONE_PART_IN_TEN_MILLION",)


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 29)), st.integers(0, 40_000_000))  # noqa: DTZ001
def test_an_instant_as_the_platform_writes_it_is_the_same_in_every_other_spelling(at: datetime, length: int) -> None:
    """adapters.chain.timestamp against an offset of eight hours, which is read by another way."""
    start = at.replace(microsecond=at.microsecond // 1000 * 1000, tzinfo=UTC)
    end = start + timedelta(milliseconds=length)
    east = timezone(timedelta(hours=8))
    outputs = [
        settle_document(json.dumps(case(entry(start=spell(start), end=spell(end)))), REGISTRY, RULES)
        for spell in (timestamp, lambda t: t.astimezone(east).isoformat(timespec="milliseconds"))
    ]
    assert outputs[0] == outputs[1]
    lines = outputs[0]["lines"]
    assert (lines[0]["start"], lines[-1]["end"]) == (timestamp_of(start), timestamp_of(end))


def timestamp_of(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("0000-01-01T00:00:00.000Z", "year 0 is out of range"),
        ("2025-02-30T00:00:00.000Z", "day is out of range for month"),
        ("2025-06-01T24:00:00.000Z", "hour must be in 0..23"),
        ("2025-06-01T00:60:00.000Z", "minute must be in 0..59"),
        ("2025-06-01T00:00:60.000Z", "second must be in 0..59"),
    ],
)
def test_an_instant_there_is_none_of_is_refused_however_it_is_written(text: str, problem: str) -> None:
    with pytest.raises(CaseError) as bad:
        settle_document(json.dumps(case(entry(start=text))), REGISTRY, RULES)
    facts = {"path": "/usage/0/start", "value": text, "problem": problem}
    assert (bad.value.code, bad.value.facts) == ("BAD_TIME", facts)
