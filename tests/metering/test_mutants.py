"""Worked cases that each notice a changed line of the money core which no other fast test noticed: docs/mutants.md."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from adapters.accelerator import Origin
from metering.amount import cny_text
from metering.entry import UsageEntry
from metering.facts import timeline
from metering.ledger import (
    Balance,
    BrokenBooks,
    Code,
    Effect,
    Phase,
    Transfer,
    authority,
    beneficiary,
    bounded,
    cap_source,
    clearing_room,
    contract_room,
    differences,
    draw_pairs,
    effect,
    firm_payable,
    firm_room,
    firm_spent,
    lapsed,
    ledger_of,
    owed_back,
    pool_room,
    pool_spent,
    project_room,
    provider_received,
    provider_revenue,
    replay,
    spent_of,
    treasury_approved,
    treasury_committed,
    treasury_paid,
    written_off,
)
from metering.lifecycle import MACHINES, next_state
from metering.refund import Billed, split
from metering.review import sampled
from metering.rule import Context
from metering.rules.rate_ceiling import RateCeiling
from metering.support import Step, assess_model, assess_server
from scheduler.refusal import Refusal
from tests.metering.cases import POLICY, REGISTRY

# --- the computation sheets -------------------------------------------------------------------------


def rows(steps: tuple[Step, ...]) -> list[tuple[str, int, str, str]]:
    return [(one.step, one.value, one.unit, one.source) for one in steps]


def assess_a_server(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "items": [{"amount_fen": 30_000, "domestic": True}, {"amount_fen": 10_000, "domestic": False}],
        "paid_fen": 20_001,
        "invoiced_fen": 20_002,
        "rate_bp": 1000,
        "project_room_fen": 1_400,
        "contract": "C-7",
    }
    return assess_server(**values | changes)


def assess_a_model(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "completed_fen": 9_001,
        "amount_fen": 20_000,
        "model_part_fen": 10_000,
        "rate_bp": 5000,
        "firm_room_fen": 2_000,
        "pool_room_fen": 3_000,
        "contract": "C-8",
    }
    return assess_model(**values | changes)


def test_the_server_sheet_names_every_step_with_its_value_unit_and_source() -> None:
    found = assess_a_server()
    assert rows(found.steps) == [
        ("contract_amount", 40_000, "fen", "contract:C-7"),
        ("domestic_part", 30_000, "fen", "contract:C-7"),
        ("invoiced", 20_002, "fen", "contract:C-7"),
        ("paid", 20_001, "fen", "contract:C-7"),
        ("domestic_part_bought", 15_000, "fen", "⌊domestic_part × bought ÷ contract_amount⌋"),  # 15,000.75
        ("rate", 1000, "basis_point", "server_subsidy.rate_ceiling"),
        ("ceiling", 1_500, "fen", "⌊domestic_part_bought × rate⌋"),
        ("project_room", 1_400, "fen", "server_subsidy.project_cap"),
        ("amount", 1_400, "fen", "min(ceiling, project_room)"),
    ]
    assert (found.amount_fen, found.reasons) == (1_400, ("PROJECT_CAP_REACHED",))


def test_the_model_sheet_names_every_step_with_its_value_unit_and_source() -> None:
    found = assess_a_model()
    assert rows(found.steps) == [
        ("completed", 9_001, "fen", "contract:C-8"),
        ("model_part", 10_000, "fen", "contract:C-8"),
        ("rate", 5000, "basis_point", "model_voucher.rate"),
        ("ceiling", 2_250, "fen", "⌊⌊model_part × completed ÷ contract amount⌋ × rate⌋"),  # ⌊4,500.5⌋ × 50%
        ("firm_room", 2_000, "fen", "model_voucher.firm_cap"),
        ("pool_room", 3_000, "fen", "model_voucher.pool"),
        ("amount", 2_000, "fen", "min(ceiling, firm_room, pool_room)"),
    ]
    assert (found.amount_fen, found.reasons) == (2_000, ("FIRM_CAP_REACHED",))


def test_a_step_is_published_under_the_names_of_its_fields() -> None:
    step = Step(step="rate", value=1000, unit="basis_point", clause="2.1.2", source="server_subsidy.rate_ceiling")
    assert step.document() == {
        "step": "rate",
        "value": 1000,
        "unit": "basis_point",
        "clause": "2.1.2",
        "source": "server_subsidy.rate_ceiling",
    }


@pytest.mark.parametrize("items", [[], [{"amount_fen": 0, "domestic": True}]])
def test_a_contract_of_nothing_is_given_nothing(items: list[dict[str, Any]]) -> None:
    found = assess_a_server(items=items, rate_bp=10_000)
    assert (found.amount_fen, found.reasons) == (0, ())


def test_a_model_contract_of_nothing_is_given_nothing() -> None:
    found = assess_a_model(amount_fen=0, model_part_fen=0, rate_bp=10_000)
    assert (found.amount_fen, found.reasons) == (0, ())


def test_support_is_exact_however_large_the_contract() -> None:
    """10^18 + 1 fen is an odd number that no floating point number of 64 bits holds."""
    large = 10**18 + 1
    rooms = {"firm_room_fen": large, "pool_room_fen": large}
    server = assess_a_server(
        items=[{"amount_fen": large, "domestic": True}], paid_fen=large, invoiced_fen=large, rate_bp=10_000,
        project_room_fen=large,
    )  # fmt: skip
    model = assess_a_model(amount_fen=large, model_part_fen=large, completed_fen=large, rate_bp=10_000, **rooms)
    assert (server.amount_fen, model.amount_fen) == (large, large)


def test_what_is_not_known_to_be_domestic_is_not() -> None:
    found = assess_a_server(items=[{"amount_fen": 40_000, "domestic": None}])
    assert found.amount_fen == 0


def test_a_fen_bought_or_completed_is_a_fen() -> None:
    server = assess_a_server(
        items=[{"amount_fen": 1, "domestic": True}], rate_bp=10_000, paid_fen=1, invoiced_fen=1, project_room_fen=9
    )
    model = assess_a_model(amount_fen=1, model_part_fen=1, completed_fen=1, rate_bp=10_000)
    assert (server.amount_fen, model.amount_fen) == (1, 1)


def test_more_than_the_contract_is_never_bought_nor_completed() -> None:
    assert assess_a_server(paid_fen=99_999, invoiced_fen=99_999, project_room_fen=10**9).amount_fen == 3_000
    assert assess_a_model(completed_fen=99_999, firm_room_fen=10**9, pool_room_fen=10**9).amount_fen == 5_000


@pytest.mark.parametrize(
    ("firm", "pool", "reasons"),
    [
        (2_250, 2_250, ()),  # both exactly the ceiling
        (2_249, 2_250, ("FIRM_CAP_REACHED",)),
        (2_250, 2_249, ("POOL_EXHAUSTED",)),
        (2_248, 2_249, ("FIRM_CAP_REACHED",)),
        (2_249, 2_249, ("FIRM_CAP_REACHED", "POOL_EXHAUSTED")),
    ],
)
def test_the_room_that_bounds_is_named_and_no_other(firm: int, pool: int, reasons: tuple[str, ...]) -> None:
    found = assess_a_model(firm_room_fen=firm, pool_room_fen=pool)
    assert (found.amount_fen, found.reasons) == (min(2_250, firm, pool), reasons)


# --- amounts, refunds, facts, rules -----------------------------------------------------------------


@pytest.mark.parametrize(("fen", "text"), [(0, "0.00"), (1, "0.01"), (-1, "-0.01"), (99, "0.99"), (-100, "-1.00")])
def test_nothing_has_no_sign(fen: int, text: str) -> None:
    assert cny_text(fen) == text


def test_a_class_without_a_fee_has_nothing_to_give_back() -> None:
    item = Billed(provider="p", origin="foreign", rate_bp=3000, year=2026, fee_fen=0, deduction_fen=5)
    (found,) = split([item], [])
    assert (found.fee_fen, found.voucher_fen, found.firm_fen) == (0, 0, 0)


def test_who_is_sampled_can_be_checked_by_anybody() -> None:
    """The first 15 hexadecimal digits of SHA-256("job_1") and SHA-256("job_7"), modulo 1000, by another program."""
    for subject, place in (("job_1", 359), ("job_7", 757)):
        assert not sampled(subject, place)
        assert sampled(subject, place + 1)


def test_a_rate_that_changes_for_one_origin_class_cuts_the_lines_of_that_class_only() -> None:
    """A policy whose domestic ceiling has a second row from a noon on, and whose foreign one has not."""
    noon, hour = datetime(2025, 6, 1, 4, tzinfo=UTC), timedelta(hours=1)
    policy = REGISTRY.policy(POLICY)
    (row,) = policy.rate_rows(Origin.DOMESTIC).rows
    changed = replace(
        policy.rate_rows(Origin.DOMESTIC), rows=(replace(row, end=noon), replace(row, start=noon, value=3500))
    )
    context = Context(
        policy=replace(policy, parameters={**policy.parameters, changed.key: changed}), firm=timeline(()), sites={}
    )
    rule = RateCeiling()
    for origin, cuts in ((Origin.DOMESTIC, (noon,)), (Origin.FOREIGN, ()), (Origin.UNDETERMINED, ())):
        used = UsageEntry(lease="L", model="M", origin=origin, devices=1, start=noon - hour, end=noon + hour, rate="M")
        assert tuple(rule.breakpoints(used, context)) == cuts


# --- where a case stands ----------------------------------------------------------------------------


def stand(kind: str, state: str, act: str, **changes: Any) -> Any:
    values: dict[str, Any] = {"role": "operator", "by": "ann", "reason": "", "done": {}}
    return next_state(kind, state, act, **values | changes)


def test_an_unknown_act_is_refused_with_the_nearest_one() -> None:
    assert stand("clearing", "building", "sumbit") == Refusal(
        code="ACT_UNKNOWN", facts={"kind": "clearing", "act": "sumbit", "nearest": "submit"}
    )


def test_an_act_of_another_role_is_refused_with_the_roles_that_may() -> None:
    assert stand("clearing", "submitted", "approve") == Refusal(
        code="ACT_NOT_YOURS",
        facts={"kind": "clearing", "act": "approve", "role": "operator", "roles": ["reviewer"]},
    )
    assert stand("review", "open", "close", role="firm") == Refusal(
        code="ACT_NOT_YOURS",
        facts={"kind": "review", "act": "close", "role": "firm", "roles": ["operator", "platform", "reviewer"]},
    )


def test_an_act_too_early_is_refused_with_what_this_role_may_do_now() -> None:
    assert stand("clearing", "building", "build") == Refusal(
        code="ACT_NOT_NOW",
        facts={"kind": "clearing", "act": "build", "state": "building", "possible": ["abandon", "submit"]},
    )
    assert stand("clearing", "building", "approve", role="reviewer") == Refusal(
        code="ACT_NOT_NOW",
        facts={"kind": "clearing", "act": "approve", "state": "building", "possible": []},
    )


@pytest.mark.parametrize(
    ("kind", "state", "act", "role", "earlier"),
    [
        ("clearing", "submitted", "approve", "reviewer", "submit"),
        ("clearing", "submitted", "approve", "reviewer", "build"),
        ("clearing", "approved", "pay", "finance", "approve"),
        ("clearing", "approved", "pay", "finance", "submit"),
        ("clearing", "approved", "pay_part", "finance", "approve"),
        ("project", "assessed", "pay", "finance", "assess"),
        ("project", "serving_evidence_met", "assess", "reviewer", "meet_serving"),
        ("project", "serving_evidence_met", "assess", "reviewer", "verify_contract"),
        ("application", "verified", "approve", "reviewer", "verify"),
        ("application", "approved", "pay", "finance", "approve"),
        ("application", "approved", "pay", "finance", "verify"),
        ("clawback", "noticed", "confirm", "reviewer", "open"),
        ("clawback", "confirmed", "repay", "finance", "confirm"),
        ("clawback", "confirmed", "offset", "finance", "confirm"),
        ("price", "proposed", "approve", "reviewer", "propose"),
        ("right", "frozen", "unfreeze", "reviewer", "freeze"),
        ("programme", "frozen", "unfreeze", "reviewer", "freeze"),
    ],
)
def test_two_acts_that_are_kept_apart_need_two_people(kind: str, state: str, act: str, role: str, earlier: str) -> None:
    after = MACHINES[kind][act].after
    one = stand(kind, state, act, role=role, reason="because", done={earlier: "ann"})
    two = stand(kind, state, act, role=role, reason="because", done={earlier: "bob"})
    assert one == Refusal(code="SAME_PERSON", facts={"kind": kind, "act": act, "did": earlier})
    assert two == after


def test_the_same_person_may_do_two_acts_that_are_not_kept_apart() -> None:
    assert stand("clearing", "building", "submit", done={"build": "ann"}) == "submitted"
    assert stand("clearing", "paid", "reconcile", role="finance", done={"approve": "ann"}) == "reconciled"


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_an_act_that_asks_for_a_reason_is_refused_without_one(reason: str) -> None:
    assert stand("clearing", "building", "abandon", reason=reason) == Refusal(
        code="REASON_MISSING", facts={"kind": "clearing", "act": "abandon"}
    )
    assert stand("clearing", "building", "abandon", reason="built twice") == "abandoned"


def test_an_act_without_a_state_after_it_leaves_the_case_where_it_stands() -> None:
    for state in ("approved", "part_paid"):
        assert stand("clearing", state, "withdraw_item", role="reviewer", reason="a changed invoice") == state


# --- the books --------------------------------------------------------------------------------------


def test_every_account_has_its_own_name() -> None:
    names = {
        authority(2026): "authority:compute_voucher:2026",
        authority(2026, "model_voucher"): "authority:model_voucher:2026",
        pool_room(2026): "pool:compute_voucher:2026",
        cap_source(): "capsrc:compute_voucher",
        firm_room("f", 2026): "room:f:compute_voucher:2026",
        contract_room("c"): "room:contract:c",
        project_room("p"): "room:project:p",
        clearing_room("b"): "room:clearing:b",
        pool_spent(2026, "model_voucher"): "spent:pool:model_voucher:2026",
        firm_spent("f", 2026, "model_voucher"): "spent:f:model_voucher:2026",
        spent_of(contract_room("c")): "spent:contract:c",
        lapsed(2026): "lapsed:compute_voucher:2026",
        firm_payable("f"): "firm:f:payable",
        provider_revenue("q"): "provider:q:revenue",
        provider_received("q"): "provider:q:received",
        treasury_committed(2026): "treasury:compute_voucher:2026:committed",
        treasury_approved(2026): "treasury:compute_voucher:2026:approved",
        treasury_paid(2026): "treasury:compute_voucher:2026:paid",
        written_off(2026): "treasury:compute_voucher:2026:written_off",
        owed_back("f"): "clawback:f",
        beneficiary("f", "server_subsidy"): "beneficiary:f:server_subsidy",
    }
    assert {key: str(key) for key in names} == names
    assert len(names) == 21


def test_rooms_are_bounded_and_money_is_not() -> None:
    for room in (pool_room(2026), firm_room("f", 2026), contract_room("c"), project_room("p"), clearing_room("b")):
        assert bounded(room)
        assert ledger_of(room) == "entitlement"
    for other in (authority(2026), cap_source(), pool_spent(2026), lapsed(2026)):
        assert not bounded(other)
        assert ledger_of(other) == "entitlement"
    for money in (firm_payable("f"), provider_revenue("p"), treasury_paid(2026), owed_back("f")):
        assert not bounded(money)
        assert ledger_of(money) == "cash"


def test_a_draw_takes_from_the_firm_the_contract_and_the_pool_last() -> None:
    firm = ("firm", "room:f:compute_voucher:2026", "spent:f:compute_voucher:2026")
    contract = ("contract", "room:contract:c", "spent:contract:c")
    pool = ("pool", "pool:compute_voucher:2026", "spent:pool:compute_voucher:2026")
    assert draw_pairs("f", 2026, "c") == (firm, contract, pool)
    assert draw_pairs("f", 2026, None) == (firm, pool)


ROOM, SPENT, SOURCE = firm_room("f", 2026), firm_spent("f", 2026), cap_source()


def moved(name: str, phase: Phase, amount: int, pending: str | None = None, **changes: Any) -> Transfer:
    values = {"debit": ROOM, "credit": SPENT, "code": Code.DRAW, **changes}
    return Transfer(id=name, phase=phase, amount_fen=amount, pending_id=pending, **values)


def opened(amount: int) -> Transfer:
    return moved("open", Phase.POSTED, amount, debit=SOURCE, credit=ROOM, code=Code.OPEN_ROOM)


def test_the_body_of_a_transfer_is_all_that_was_said() -> None:
    transfer = moved("t", Phase.POST, 3, "h", job="j", lease="l", settlement="s", cites="c")
    assert transfer.body() == {
        "id": "t",
        "phase": "post",
        "code": "draw",
        "debit": "room:f:compute_voucher:2026",
        "credit": "spent:f:compute_voucher:2026",
        "amount_fen": 3,
        "pending_id": "h",
        "job": "j",
        "lease": "l",
        "settlement": "s",
        "cites": "c",
    }


def test_the_counters_of_both_sides_after_each_kind_of_transfer() -> None:
    history = [
        opened(100),
        moved("draw", Phase.POSTED, 7),
        moved("h1", Phase.PENDING, 30),
        moved("h2", Phase.PENDING, 20),
        moved("p1", Phase.POST, 25, "h1"),
    ]
    held = replay(history)
    assert held[ROOM] == Balance(credits_posted=100, debits_posted=32, debits_pending=20)
    assert held[SPENT] == Balance(credits_posted=32, credits_pending=20)
    assert held[SOURCE] == Balance(debits_posted=100)
    assert held[ROOM].available == 48
    for phase in (Phase.VOID, Phase.EXPIRE):
        released = replay([*history, moved("v", phase, 0, "h2")])
        assert released[ROOM] == Balance(credits_posted=100, debits_posted=32)
        assert released[SPENT] == Balance(credits_posted=32)


def test_a_room_may_be_emptied_and_not_by_a_fen_more() -> None:
    assert replay([opened(10), moved("t", Phase.POSTED, 10)])[ROOM].available == 0
    assert replay([opened(10), moved("h", Phase.PENDING, 10)])[ROOM].available == 0
    for phase in (Phase.POSTED, Phase.PENDING):
        with pytest.raises(BrokenBooks) as broken:
            replay([opened(10), moved("t", phase, 11)])
        assert str(broken.value) == "transfer t: room room:f:compute_voucher:2026 would be -1 fen"
        assert broken.value.transfer == "t"
        assert broken.value.problem == "room room:f:compute_voucher:2026 would be -1 fen"


@pytest.mark.parametrize(
    ("history", "problem"),
    [
        (
            [opened(9), moved("t", Phase.POSTED, 1, credit=firm_payable("f"))],
            "transfer t: debit and credit are in different ledgers",
        ),
        ([opened(9), moved("t", Phase.POST, 1, "h")], "transfer t: resolves h, which is not pending"),
        ([opened(9), moved("t", Phase.VOID, 0)], "transfer t: resolves None, which is not pending"),
        (
            [opened(9), moved("h", Phase.PENDING, 3), moved("u", Phase.VOID, 0, "h"), moved("t", Phase.POST, 3, "h")],
            "transfer t: resolves h, which is not pending",
        ),
        (
            [opened(9), moved("h", Phase.PENDING, 3), moved("t", Phase.POST, 3, "h", credit=pool_spent(2026))],
            "transfer t: resolves h of other accounts",
        ),
        (
            [opened(9), moved("h", Phase.PENDING, 3), moved("t", Phase.POST, 4, "h")],
            "transfer t: posts 4 of 3 held",
        ),
        ([opened(9), moved("h", Phase.POSTED, 3), moved("t", Phase.POST, 3, "h")],
         "transfer t: resolves h, which is not pending"),
    ],
)  # fmt: skip
def test_a_transfer_that_no_history_can_contain_is_named_with_its_problem(
    history: list[Transfer], problem: str
) -> None:
    with pytest.raises(BrokenBooks) as broken:
        replay(history)
    assert str(broken.value) == problem


def test_all_that_is_held_may_be_posted() -> None:
    found = replay([opened(9), moved("h", Phase.PENDING, 3), moved("t", Phase.POST, 3, "h")])
    assert found[ROOM] == Balance(credits_posted=9, debits_posted=3)


def test_the_effect_of_a_resolution_needs_what_it_resolves() -> None:
    assert effect(moved("t", Phase.POSTED, 5), None) == Effect(posted=5, pending=0)
    assert effect(moved("t", Phase.PENDING, 5), None) == Effect(posted=0, pending=5)
    for phase, amount in ((Phase.POST, 5), (Phase.POST, 3), (Phase.VOID, 0), (Phase.EXPIRE, 0)):
        assert effect(moved("t", phase, amount), 5) == Effect(posted=amount, pending=-5)
        with pytest.raises(AssertionError, match=r"^t resolves no pending transfer$"):
            effect(moved("t", phase, amount), None)
        with pytest.raises(AssertionError, match=r"^t posts more than was held$"):
            effect(moved("t", phase, 6), 5)


def test_what_still_has_to_move_is_the_target_less_what_was_posted() -> None:
    a, b, c = (SOURCE, ROOM), (ROOM, SPENT), (SPENT, ROOM)
    assert differences({a: 5, b: 3}, {b: 3, c: 2}) == {a: 5, c: -2}
    assert differences({a: 5}, {a: 7}) == {a: -2}
    assert list(differences({b: 1, c: 1}, {a: 1})) == sorted([a, b, c])
    assert differences({}, {}) == {}
