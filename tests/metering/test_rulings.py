"""What settling keeps and reads in one go, it must answer as if it asked afresh, one by one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.accelerator import Origin
from adapters.chain import timestamp
from metering import case as reader
from metering import rule
from metering.billable import spelt
from metering.case import CaseError, Settling, settle_document
from metering.entry import UsageEntry
from metering.facts import Interval
from metering.rule import Context, Exclusion, Rate, Rule, Rules
from metering.settlement import document
from scheduler.clock import from_ms
from tests.metering.cases import BORDERS, POLICY, REGISTRY, RULES, case, cases, entry, moments

SINCE = datetime(2023, 1, 1, tzinfo=UTC)


@settings(max_examples=60)
@given(found=st.lists(cases(), min_size=2, max_size=5))
def test_settling_case_after_case_is_settling_each_afresh(found: list[dict[str, Any]]) -> None:
    """The same sites and firms under other facts, other spans of time: nothing that was kept speaks for another."""
    kept = Settling(REGISTRY, RULES)
    for one in [*found, *found]:
        assert document(kept.settled(one)) == settle_document(json.dumps(one), REGISTRY, RULES)


@settings(max_examples=60)
@given(found=cases(), courses=st.integers(0, 2), edges=st.integers(0, 2))
def test_nothing_kept_settles_alike(found: dict[str, Any], courses: int, edges: int) -> None:
    """What is kept is bounded; beyond the bound the rules are asked about each entry."""
    whole = settle_document(json.dumps(found), REGISTRY, RULES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rule, "_COURSES", courses)
        patch.setattr(rule, "_EDGES", edges)
        assert settle_document(json.dumps(found), REGISTRY, RULES) == whole


class Nosy(Rule):
    """A rule that says nothing, and does not say what it looks at: nothing is kept beside it."""

    name = "nosy"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def exclusions(self, entry: UsageEntry, at: datetime, context: Context) -> Iterable[Exclusion]:
        self.asked.append(entry.lease)
        return ()


@settings(max_examples=60)
@given(found=cases())
def test_a_rule_that_may_look_at_anything_is_asked_about_every_entry(found: dict[str, Any]) -> None:
    nosy = Nosy()
    out = settle_document(json.dumps(found), REGISTRY, (*RULES, nosy))

    assert out == settle_document(json.dumps(found), REGISTRY, RULES)
    assert sorted(set(nosy.asked)) == sorted({one["lease"] for one in found["usage"]})
    assert len(nosy.asked) >= len(found["usage"])


LEAST = UsageEntry(lease="L", model="M", origin=Origin.DOMESTIC, devices=1, start=SINCE, end=SINCE, rate="7")


@pytest.mark.parametrize("one", RULES, ids=lambda one: one.name)
@given(start=moments(), end=moments(), at=moments(), edge=st.sampled_from(BORDERS))
def test_a_rule_looks_at_nothing_but_what_it_names(
    one: Rule, start: datetime, end: datetime, at: datetime, edge: datetime
) -> None:
    """Entries that agree in the named fields and in time are told the same, whatever else is different in them."""
    assert one.looks_at is not None
    facts = (Interval(start=edge),)
    known = Rules(policy=REGISTRY.policy(POLICY), rules=RULES, firm=facts, sites={"a": facts, "b": ()}).context
    low, high = sorted((start, end))
    first = replace(LEAST, start=low, end=high, site="a")
    for changes in (
        {"lease": "other"}, {"model": "other"}, {"origin": Origin.FOREIGN}, {"devices": 8}, {"share_permille": 1},
        {"site": "b"}, {"rate": "8"},
    ):  # fmt: skip
        if set(changes) <= set(one.looks_at):
            continue
        second = replace(first, **changes)
        assert sorted(one.breakpoints(first, known)) == sorted(one.breakpoints(second, known)), changes
        assert list(one.exclusions(first, at, known)) == list(one.exclusions(second, at, known)), changes
        assert one.rate(first, at, known) == one.rate(second, at, known), changes


def test_an_instant_at_the_end_of_what_is_kept_is_asked_about_again() -> None:
    """The course of a UTC year ends where the next begins; a fact may begin there too, and a mark of no length stand there."""
    border = datetime(2026, 1, 1, tzinfo=UTC)
    kept = Settling(REGISTRY, RULES)
    eligible = {"firm": {"id": "f", "eligible": [{"from": timestamp(border), "to": None}]}}
    hour = timedelta(hours=1)
    early = entry(start=timestamp(border - 2 * hour), end=timestamp(border - hour))
    mark = entry(start=timestamp(border), end=timestamp(border))
    assert document(kept.settled(case(early, **eligible)))["lines"][0]["reasons"] == ["FIRM_NOT_ELIGIBLE"]
    assert document(kept.settled(case(mark, **eligible)))["lines"][0]["reasons"] == []


ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1,
    1.0,
    2**53,
    2**53 - 1,
    1001,
    "",
    "x",
    [],
    {},
    "2025-06-01T09:00:00Z",
    "domestic",
    "a",
]
TIMES = [
    "2025-06-01T09:00:00.000Z", "2025-06-01T09:00:00.001+08:00", "2025-02-30T09:00:00.000Z", "2025-06-01T24:00:00.000Z",
    "2025-06-01T23:59:60.000Z", "0001-01-01T00:00:00.000+08:00", "9999-12-31T23:59:59.999-08:00", "2025-06-01T09:00:00+24:00",
    "2025-06-01t09:00:00z", "2025-06-01 09:00:00.000Z", "2025-W22-7T09:00:00.000Z", "2025-06-01T09:00Z",
]  # fmt: skip
NAMES = [*entry(), "share_permille", "site", "unknown"]


@given(
    changes=st.dictionaries(st.sampled_from(NAMES), st.sampled_from([*ODD, *TIMES]), max_size=3),
    left_out=st.sampled_from([None, *entry()]),
)
def test_an_entry_read_in_one_go_is_the_entry_read_piece_by_piece(
    changes: dict[str, Any], left_out: str | None
) -> None:
    """Whatever is wrong with an entry, it is refused by the reader that says what."""
    value = {**entry(), **changes}
    value.pop(left_out or "", None)
    quick = reader._plain_entry(value, ("a",))
    try:
        slow = reader._entry(value, "/usage/0", ("a",))
    except CaseError:
        assert quick is None
    else:
        assert quick in (None, slow)


def test_what_the_platform_writes_is_read_in_one_go() -> None:
    at = timestamp(SINCE)
    assert reader._plain_entry(entry(start=at, end=at, share_permille=500, site="a"), ("a",)) is not None
    assert reader._plain_entry(entry(), ()) is not None


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_a_millisecond_count_is_spelt_as_its_instant(ms: int) -> None:
    assert spelt(ms) == timestamp(from_ms(ms))


# --- where a line goes on, and how often a rule is asked ----------------------------------------------


class Turning(Rule):
    """Another rate from noon on; other clauses an hour before, which are no reason for another line."""

    name = "turning"
    looks_at = ()

    def __init__(self) -> None:
        self.asked = 0

    def breakpoints(self, entry: UsageEntry, context: Context) -> Iterable[datetime]:
        return [at for at in (NOON - HOUR, NOON) if entry.start < at < entry.end]

    def rate(self, entry: UsageEntry, at: datetime, context: Context) -> Rate | None:
        self.asked += 1
        return Rate(2000 if at < NOON else 1000, ("2.1.1",) if at < NOON - HOUR else ("2.1.1", "4.3"))


NOON, HOUR = datetime(2025, 6, 1, 12, tzinfo=UTC), timedelta(hours=1)
ROUND_NOON = {"start": timestamp(NOON - 2 * HOUR), "end": timestamp(NOON + HOUR)}


def test_a_line_goes_on_until_the_rate_changes_and_keeps_its_first_clauses() -> None:
    (turning,) = rules = (Turning(),)
    lines = settle_document(json.dumps(case(entry(**ROUND_NOON))), REGISTRY, rules)["lines"]
    assert [(line["start"], line["rate_bp"], line["clauses"]) for line in lines] == [
        (timestamp(NOON - 2 * HOUR), 2000, ["2.1.1"]),
        (timestamp(NOON), 1000, ["2.1.1", "4.3"]),
    ]
    assert turning.asked == 3, "once on either side of each edge"


def test_a_line_that_draws_nothing_is_cut_where_the_rate_changes_too() -> None:
    never = {"firm": {"id": "f", "eligible": []}}
    lines = settle_document(json.dumps(case(entry(**ROUND_NOON), **never)), REGISTRY, (*RULES, Turning()))["lines"]
    assert [(line["start"], line["rate_bp"], line["reasons"]) for line in lines] == [
        (timestamp(at), 0, ["FIRM_NOT_ELIGIBLE"]) for at in (NOON - 2 * HOUR, NOON)
    ]


def test_a_rule_is_asked_once_about_usage_it_does_not_tell_apart() -> None:
    """However many entries and cases, in whatever order: once for each stretch between edges of the years they lie in."""
    turning = Turning()
    kept = Settling(REGISTRY, (turning,))
    spans = [{"start": timestamp(NOON + n * HOUR), "end": timestamp(NOON + (n + 2) * HOUR)} for n in range(-5, 5)]
    for _ in range(3):
        kept.settled(case(*(entry(**span) for span in reversed(spans))))
    assert turning.asked == 3
    first = entry(start="2025-01-01T00:00:00.000Z", end="2025-01-01T00:00:01.000Z")
    kept.settled(case(first, entry(start="2025-12-31T23:00:00.000Z", end="2025-12-31T23:59:59.999Z")))
    assert turning.asked == 3, "the first instant of the UTC year and its last are within it"


@pytest.mark.parametrize("kept", [1, 2])
def test_what_is_kept_has_a_bound(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Firms of which nothing is kept any more are asked about again, and settled alike."""
    monkeypatch.setattr(reader, "_KEPT", kept)
    turning = Turning()
    settling = Settling(REGISTRY, (turning,))
    for start in ("2023", "2022", "2023"):
        settling.settled(
            case(entry(**ROUND_NOON), firm={"id": "f", "eligible": [{"from": f"{start}-01-01T00:00:00Z"}]})
        )
    assert turning.asked == (9 if kept == 1 else 6)


@pytest.mark.parametrize(
    ("start", "year"),
    [
        ("0001-01-01T00:00:00.000Z", 1), ("0002-06-01T00:00:00.000Z", 2), ("9998-06-01T00:00:00.000Z", 9998),
        ("9999-06-01T00:00:00.000Z", 9999), ("9999-12-31T16:00:00.000Z", 10000),
    ],
)  # fmt: skip
def test_usage_in_the_first_and_last_years_there_are_has_its_year(start: str, year: int) -> None:
    out = settle_document(json.dumps(case(entry(start=start, end=start))), REGISTRY, RULES)
    assert [line["year"] for line in out["lines"]] == [year]


def test_no_more_courses_are_kept_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule, "_COURSES", 1)
    known = Rules(policy=REGISTRY.policy(POLICY), rules=RULES, firm=(Interval(start=SINCE),))
    for origin in Origin:
        known.course(replace(LEAST, origin=origin), SINCE, SINCE)
    assert len(known._courses) == 1


class Stranger:
    """A rule by its methods alone, as a package that does not import ours may write it."""

    name = "stranger"

    def breakpoints(self, entry: UsageEntry, context: Context) -> Iterable[datetime]:
        return ()

    def exclusions(self, entry: UsageEntry, at: datetime, context: Context) -> Iterable[Exclusion]:
        return [Exclusion("LEASE_FROZEN", "4.4")] if entry.lease == "frozen" else []

    def rate(self, entry: UsageEntry, at: datetime, context: Context) -> Rate | None:
        return None

    def bounds(self, year: int, rooms: Any, context: Context) -> Iterable[Any]:
        return ()


def test_a_rule_need_not_inherit_and_may_then_look_at_anything() -> None:
    rules: Any = (*RULES, Stranger())
    lines = settle_document(json.dumps(case(entry(), entry(lease="frozen"))), REGISTRY, rules)["lines"]
    assert [line["reasons"] for line in lines] == [[], ["LEASE_FROZEN"]]
