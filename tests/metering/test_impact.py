"""Impact: the same usage under another policy, worked by hand, and laws that hold for any usage."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings

from adapters.chain import timestamp
from metering.case import CaseError, settle_document
from metering.impact import Sample, affected, clip, compare, sample_of, settle_under, unmet
from metering.parameters import HERE, Policy, Registry
from metering.parameters.policy import RATE_FOREIGN, Parameter
from metering.parameters.worked import Worked, load_worked
from tests.metering.cases import PAIRS, POLICY, REGISTRY, RULES, case, cases, entry

TEN, TWENTY_NINE = REGISTRY.policy(POLICY), REGISTRY.policy("etown-2024-29")
WORKED = [(name, worked) for name in REGISTRY.policies for worked in load_worked(HERE / name, name)]


def sample(found: dict[str, Any], name: str = "s", firm: str = "F") -> Sample:
    return Sample(name=name, firm=firm, case=found)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


# --- settling under a policy given as an object -------------------------------------------------------------------


@pytest.mark.parametrize("path", PAIRS, ids=lambda path: path.stem)
def test_under_its_own_policy_a_case_settles_as_the_command_does(path: Any) -> None:
    text = path.read_text(encoding="utf-8")

    assert settle_under(json.loads(text), TEN, RULES) == settle_document(text, REGISTRY, RULES)


def test_a_policy_awaiting_confirmation_can_be_tried_and_still_settles_nothing() -> None:
    found = case(entry(), entry(origin="foreign"))

    assert settle_under(found, TWENTY_NINE, RULES)["totals"]["deduction_fen"] == 600, "30% of 1000, twice"
    with pytest.raises(CaseError, match="POLICY_NOT_ACTIVE"):
        settle_document(json.dumps({**found, "policy": TWENTY_NINE.id}), REGISTRY, RULES)


def test_a_term_without_end_lasts_as_long_as_there_are_budgets() -> None:
    """29号's end has not been seen; its pools are known to the end of 2027."""
    found = case(entry(start="2027-12-31T23:30:00+08:00", end="2028-01-01T00:30:00+08:00"))

    lines = settle_under(found, TWENTY_NINE, RULES)["lines"]
    assert [(line["deduction_fen"], line["reasons"]) for line in lines] == [(150, []), (0, ["POLICY_NOT_IN_FORCE"])]


# --- clipping -----------------------------------------------------------------------------------------------------


def test_a_period_keeps_exactly_the_part_of_each_entry_inside_it() -> None:
    found = case(entry(), entry(start="2025-06-01T11:00:00+08:00", end="2025-06-01T12:00:00+08:00"))
    kept = clip(found, at("2025-06-01T09:15:00+08:00"), at("2025-06-01T11:00:00+08:00"))["usage"]

    assert [(one["start"], one["end"]) for one in kept] == [
        ("2025-06-01T01:15:00.000Z", "2025-06-01T02:00:00.000Z"),
    ]


def test_an_entry_without_length_belongs_to_the_period_it_begins() -> None:
    instant = "2025-06-01T09:00:00+08:00"
    found, late = case(entry(end=instant)), at("2025-06-01T10:00:00+08:00")

    assert len(clip(found, at(instant), late)["usage"]) == 1
    assert clip(found, at("2025-06-01T08:00:00+08:00"), at(instant))["usage"] == []
    assert clip(found, late, None)["usage"] == []


@settings(max_examples=30)
@given(found=cases())
def test_the_parts_on_both_sides_of_an_instant_have_all_the_time_and_no_more(found: dict[str, Any]) -> None:
    middle = at("2025-12-31T16:00:00+00:00")

    def device_ms(part: dict[str, Any]) -> int:
        return sum(line["device_ms"] for line in settle_under(part, TEN, RULES)["lines"])

    assert device_ms(clip(found, None, middle)) + device_ms(clip(found, middle, None)) == device_ms(found)
    assert len(clip(found, None, None)["usage"]) == len(found["usage"])


# --- comparing ----------------------------------------------------------------------------------------------------


def test_who_loses_and_who_is_left_alone_is_told_per_firm_and_in_total() -> None:
    """Domestic at 1000 fen: 400 against 300. Foreign: 300 against 300. Before 29号: 400 against nothing."""
    early = entry(start="2024-06-01T09:00:00+08:00", end="2024-06-01T10:00:00+08:00")
    samples = [
        sample(case(entry()), "a", "A"),
        sample(case(entry(origin="foreign")), "b", "B"),
        sample(case(early), "a2", "A"),
    ]
    found = compare(samples, TEN, TWENTY_NINE, RULES).document()

    kept = ("firm", "cases", "fee_fen", "deduction_fen", "deduction_against_fen", "difference_fen", "outcome")
    assert [tuple(row[k] for k in kept) for row in found["firms"]] == [
        ("A", 2, 2000, 800, 300, -500, "loses"),
        ("B", 1, 1000, 300, 300, 0, "same"),
    ]
    assert tuple(found["total"][k] for k in kept[1:]) == (3, 3000, 1100, 600, -500, "loses")
    assert [(row["case"], row["difference_fen"]) for row in found["cases"]] == [("a", -100), ("b", 0), ("a2", -400)]
    assert found["bundle_sha256"] == {"policy": TEN.bundle_sha256, "against": TWENTY_NINE.bundle_sha256}


def test_usage_outside_the_period_is_no_case_of_it() -> None:
    found = compare([sample(case(entry()))], TEN, TWENTY_NINE, RULES, start=at("2025-07-01T00:00:00+08:00")).document()

    assert (found["cases"], found["firms"], found["total"]["fee_fen"]) == ([], [], 0)


def test_what_one_draws_less_is_left_for_the_next_of_a_sequence() -> None:
    """The firm had 400 left before the first, so 0 before the second; at 30% the first leaves 100."""
    rooms = [{"firm": {"2025": 400}}, {"firm": {"2025": 0}}]
    samples = [sample(case(entry(), rooms=one)) for one in rooms]

    in_turn = compare(samples, TEN, TWENTY_NINE, RULES, in_sequence=True)
    alone = compare(samples, TEN, TWENTY_NINE, RULES)

    assert [sums.deduction_fen for _, sums in in_turn.by_case] == [400, 0]
    assert [sums.deduction_against_fen for _, sums in in_turn.by_case] == [300, 100]
    assert [sums.deduction_against_fen for _, sums in alone.by_case] == [300, 0]


def test_the_pool_s_rest_is_carried_to_other_firms_and_a_firm_s_is_not() -> None:
    first = sample(case(entry(), rooms={"firm": {"2025": 400}, "pool": {"2025": 400}}), firm="A")
    other = sample(case(entry(), rooms={"firm": {"2025": 50}, "pool": {"2025": 0}}), firm="B")
    found = compare([first, other], TEN, TWENTY_NINE, RULES, in_sequence=True)

    assert found.by_firm["B"].deduction_against_fen == 50, "the pool has 100 more, the firm's own room does not"


def test_rooms_follow_the_difference_of_the_caps_and_never_pass_below_zero() -> None:
    smaller = replace(TEN, id="smaller", pool_fen={**TEN.pool_fen, 2025: TEN.pool_fen[2025] - 300})
    samples = [sample(case(entry(), rooms={"pool": {"2025": left}})) for left in (450, 100)]

    assert [s.deduction_against_fen for _, s in compare(samples, TEN, smaller, RULES).by_case] == [150, 0]


@settings(max_examples=30)
@given(found=cases())
def test_a_policy_against_itself_changes_nothing(found: dict[str, Any]) -> None:
    compared = compare([sample(found), sample(found)], TEN, TEN, RULES, in_sequence=True)

    assert compared.total.difference_fen == 0
    assert all(sums.outcome == "same" for _, sums in compared.by_case)


@settings(max_examples=30)
@given(one=cases(), other=cases())
def test_nothing_is_counted_twice_or_lost(one: dict[str, Any], other: dict[str, Any]) -> None:
    samples = [sample(one, "1", "A"), sample(other, "2", "B"), sample(one, "3", "A")]
    found = compare(samples, TEN, TWENTY_NINE, RULES)

    for name in ("cases", "fee_fen", "deduction_fen", "deduction_against_fen"):
        assert sum(getattr(s, name) for s in found.by_firm.values()) == getattr(found.total, name)
        assert sum(getattr(s, name) for _, s in found.by_case) == getattr(found.total, name)
    assert found.total.deduction_against_fen <= found.total.fee_fen


def test_a_bad_case_names_its_sample() -> None:
    with pytest.raises(CaseError) as bad:
        compare([sample({**case(entry()), "firm": {"id": "F"}}, "broken")], TEN, TWENTY_NINE, RULES)

    assert bad.value.facts["file"] == "broken"


@pytest.mark.parametrize(
    ("text", "code"),
    [("{", "NOT_JSON"), ('{"version":1,"version":1}', "DUPLICATE_KEY"), ('{"version":1}', "MISSING_KEY")],
)
def test_a_sample_is_read_as_strictly_as_a_case(text: str, code: str) -> None:
    with pytest.raises(CaseError) as bad:
        sample_of("x", text, REGISTRY, RULES)

    assert bad.value.code == code


def test_a_sample_may_name_a_policy_that_awaits_confirmation() -> None:
    found = sample_of("x", json.dumps({**case(entry()), "policy": TWENTY_NINE.id}), REGISTRY, RULES)

    assert found.firm == case()["firm"]["id"]


# --- one edited registry ------------------------------------------------------------------------------------------


def with_foreign_rate(policy: Policy, rate: int) -> Registry:
    old = policy.parameters[RATE_FOREIGN]
    rows = tuple(replace(row, value=rate) for row in old.rows)
    edited = {**policy.parameters, RATE_FOREIGN: Parameter(old.key, old.unit, rows)}
    changed = replace(policy, parameters=edited, bundle_sha256="0" * 64)
    return Registry({**REGISTRY.policies, policy.id: changed})


def test_only_settlements_that_come_out_otherwise_are_affected() -> None:
    samples = [sample(case(entry()), "domestic"), sample(case(entry(origin="foreign")), "foreign")]
    found = [one.document() for one in affected(samples, REGISTRY, with_foreign_rate(TEN, 2500), RULES)]

    assert [
        (one["settlement"], one["deduction_before_fen"], one["deduction_after_fen"], one["difference_fen"])
        for one in found
    ] == [("foreign", 300, 250, -50)]
    assert affected(samples, REGISTRY, with_foreign_rate(TEN, 3000), RULES) == (), "another hash alone is no difference"


def test_a_settlement_whose_policy_is_gone_is_affected_without_an_amount() -> None:
    gone = Registry({"etown-2024-29": TWENTY_NINE})
    found = affected([sample(case(entry()))], REGISTRY, gone, RULES)

    assert [(one.deduction_before_fen, one.document()["difference_fen"]) for one in found] == [(400, None)]


# --- worked cases -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "worked"), WORKED, ids=[f"{name}-{worked.name}" for name, worked in WORKED])
def test_every_worked_case_comes_out_as_written(name: str, worked: Worked) -> None:
    assert unmet(worked, REGISTRY.policy(name), RULES) == ()


def test_both_notices_have_cases_and_each_case_can_fail() -> None:
    assert {name for name, _ in WORKED} == set(REGISTRY.policies)
    for name, worked in WORKED:
        broken = replace(worked, totals={**worked.totals, "fee_fen": worked.totals["fee_fen"] + 1})
        assert unmet(broken, REGISTRY.policy(name), RULES)
        assert unmet(replace(worked, lines=()), REGISTRY.policy(name), RULES)
        assert unmet(replace(worked, notices=("NONE",)), REGISTRY.policy(name), RULES)


def test_every_edge_of_the_term_is_inside_some_worked_case() -> None:
    """A case that stops before an edge, or begins after it, would not notice the edge moving."""
    for name, policy in REGISTRY.policies.items():
        usage = [one for other, worked in WORKED if other == name for one in worked.case["usage"]]
        for row in policy.parameters["policy.in_force"].rows:
            for edge in (row.start, row.end):
                if edge is not None:
                    assert any(at(one["start"]) < edge < at(one["end"]) for one in usage), (name, timestamp(edge))
