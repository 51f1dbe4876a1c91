"""Values proposed, withdrawn and known on a day; questions; how two notices differ."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

import pytest

from metering.parameters import (
    Registry,
    load_policies,
)
from metering.parameters.description import difference, warnings
from metering.parameters.policy import RATE_DOMESTIC
from tests.metering.cases import POLICY, REGISTRY, case, entry
from tests.metering.parameter_cases import ANSWERS, MID_2025, SHIPPED, VOUCHER, WHOLE, edit, settled


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "parameters"))


# --- proposed, withdrawn, known then --------------------------------------------------------------------------------

CORRECTED = """  - valid_from: 2024-03-28
    valid_to: 2027-04-01
    value: 4100
    refs: [{policy: etown-2024-10, clause: "2.1.1"}]
    status: withdrawn
    recorded_at: 2026-11-20
    withdrawn_at: 2026-11-23
  - valid_from: 2027-01-01
    valid_to: null
    value: 4500
    refs: [{policy: etown-2024-10, clause: "2.1.1"}]
    status: proposed
    recorded_at: 2026-11-23
"""


def test_what_is_proposed_or_withdrawn_settles_nothing(copy: Path) -> None:
    changed = load_policies(edit(copy, VOUCHER, WHOLE, CORRECTED + WHOLE))
    late = entry(start="2027-02-01T00:00:00+08:00", end="2027-02-01T01:00:00+08:00")

    assert [line["deduction_fen"] for line in settled(case(entry(), late), changed)["lines"]] == [400, 400]
    assert {row.status for row in changed.policy(POLICY).parameters[RATE_DOMESTIC].set_aside} == {
        "proposed",
        "withdrawn",
    }
    assert {"code": "VALUES_PROPOSED", "facts": {"count": 1}} in warnings(changed.policy(POLICY))


@pytest.mark.parametrize(
    ("known_at", "value"),
    [
        ("2026-11-19T23:59:59+08:00", None),
        ("2026-11-20T00:00:00+08:00", 4100),
        ("2026-11-22T23:59:59+08:00", 4100),
        ("2026-11-23T00:00:00+08:00", 4000),
        ("2030-01-01T00:00:00+08:00", 4000),
        (None, 4000),
    ],
)
def test_a_value_is_asked_as_it_was_known_then(copy: Path, known_at: str | None, value: int | None) -> None:
    policy = load_policies(edit(copy, VOUCHER, WHOLE, CORRECTED + WHOLE)).policy(POLICY)
    then = None if known_at is None else datetime.fromisoformat(known_at)

    assert policy.value_at(RATE_DOMESTIC, MID_2025, then) == value


def test_every_value_that_settles_was_recorded_by_one_and_approved_by_another() -> None:
    for parameter in REGISTRY.policy(POLICY).parameters.values():
        for row in parameter.rows:
            assert row.recorded_by
            assert row.approved_by
            assert row.recorded_by != row.approved_by


def test_a_rule_of_the_platform_is_not_passed_off_as_the_notice_s() -> None:
    policy = REGISTRY.policy(POLICY)
    platform = {number for number, clause in policy.clauses.items() if clause.platform}
    resting = {key for key, one in policy.parameters.items() if set(one.rows[0].clauses) & platform}

    assert {
        *("alert.room_drawn.first", "alert.room_drawn.second", "review.sampling", "compute_voucher.cap_subject"),
        *("compute_voucher.refill", "compute_voucher.tail_settlement_days"),
        *("compute_voucher.tranche_size", "compute_voucher.tranche_idle"),
        *("evidence.level_to_list", "evidence.level_for_domestic_rate", "evidence.level_for_subsidy"),
        *("evidence.signed_lasts", "evidence.fingerprint.lowest", "evidence.fingerprint.highest"),
    } == resting
    assert [policy.value_at(f"alert.room_drawn.{name}", MID_2025) for name in ("first", "second")] == [8000, 9500]


def test_a_question_without_an_answer_is_a_warning_until_it_has_one(copy: Path) -> None:
    def open_questions(registry: Registry) -> list[str]:
        return [w["facts"]["id"] for w in warnings(registry.policy(POLICY)) if w["code"] == "INTERPRETATION_UNANSWERED"]

    changed = load_policies(edit(copy, ANSWERS, "chosen: open", "chosen: term"))
    assert open_questions(REGISTRY) == ["model_voucher_firm_cap_period", "model_voucher_scope"]
    assert open_questions(changed) == ["model_voucher_scope"]


def test_two_notices_differ_where_their_clauses_do() -> None:
    """29号: one rate after review; the same pool and cap; nothing of its other programmes has been seen."""
    found = difference(REGISTRY.policy(POLICY), REGISTRY.policy("etown-2024-29"))
    rates = [(r["from"], r["to"], r["a"], r["b"]) for r in found["parameters"] if r["key"] == RATE_DOMESTIC]

    assert rates == [
        ("2024-03-28", "2024-11-24", 4000, None),
        ("2024-11-24", "2027-04-01", 4000, 3000),
        ("2027-04-01", None, None, 3000),
    ]
    assert found["same"] == ["compute_voucher.firm_cap", "compute_voucher.pool"]
    assert {"id": "undetermined_origin", "a": "foreign", "b": "same_rate"}.items() <= next(
        q for q in found["interpretations"] if q["id"] == "undetermined_origin"
    ).items()


def test_a_policy_does_not_differ_from_itself() -> None:
    for policy in REGISTRY.policies.values():
        found = difference(policy, policy)
        assert (found["parameters"], found["interpretations"]) == ([], [])
        assert found["same"] == sorted(policy.parameters)
