"""Refunds, rebates, back-dated prices, frozen programmes, closed years, contracts' rooms: worked cases on both sides."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from metering import acts, clawback, pricing, refunding, review, rooms, standing, store
from metering.facts import Interval, intersect, subtract
from metering.ledger import contract_room, firm_payable, firm_room, lapsed, pool_room, treasury_committed
from metering.lifecycle import APART, MACHINES, next_state
from metering.schema import reviews, settlements
from tests.metering.office import FINANCE, OPERATOR, REVIEWER, SINCE, Office, audited_office, code
from tests.platform import FIRM, PROVIDER, job_text

POOL, CAP = 10_000_000_000, 2_000_000_000


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with audited_office(tmp_path) as made:
        yield made


def refund(office: Office, job: str, amount: int, kind: str = "refund", contract: str | None = None) -> Any:
    return office.call(
        refunding.refund,
        job=job,
        amount_fen=amount,
        kind=kind,
        reason="two hours were idle",
        actor=OPERATOR,
    )


# --- refunds --------------------------------------------------------------------------------------


def test_a_refund_gives_each_its_own_share(office: Office) -> None:
    job = office.run()  # fee 16,000, deduction 6,400
    done = refund(office, job, 5_000)

    assert (done["firm_fen"], done["voucher_fen"]) == (3_000, 2_000)
    assert office.balance(pool_room(2026)).available == POOL - 4_400
    assert office.balance(firm_room(FIRM, 2026)).available == CAP - 4_400
    owed = office.balance(firm_payable(FIRM))
    assert owed.debits_posted - owed.credits_posted == 6_600
    committed = office.balance(treasury_committed(2026))
    assert committed.debits_posted - committed.credits_posted == 4_400


def test_a_rebate_is_a_refund_and_neither_passes_what_was_charged(office: Office) -> None:
    job = office.run()
    assert refund(office, job, 6_000, "rebate")["firm_fen"] == 3_600
    assert code(refund(office, job, 10_001)) == "REFUND_TOO_LARGE"
    assert refund(office, job, 10_000)["returned_fen"] == 16_000
    assert office.balance(pool_room(2026)).available == POOL
    assert office.balance(firm_room(FIRM, 2026)).available == CAP
    assert code(refund(office, job, 1)) == "REFUND_TOO_LARGE"


def test_a_job_that_is_not_settled_has_nothing_to_refund(office: Office) -> None:
    assert code(refund(office, "job_x", 1)) == "NOT_SETTLED"


def test_the_totals_do_not_grow_with_each_refund(office: Office) -> None:  # metering.md §2.3 bug 12
    for _ in range(3):
        job = office.run()
        refund(office, job, 16_000)
    spent = office.balance(firm_room(FIRM, 2026))
    assert spent.available == CAP
    with office.platform.database.read() as tx:
        assert store.trial_balance(tx)["balanced"]
        assert clawback.due_of(tx, job) == {(PROVIDER, 2026): 0}


def test_a_refund_after_payment_is_clawed_back_from_the_provider(office: Office) -> None:
    job = office.run()
    office.ready(job)
    office.clear()
    refund(office, job, 8_000)
    with office.platform.database.read() as tx:
        assert clawback.cases_of(tx, job).of(clawback.PENDING, (PROVIDER, 2026)) == 3_200
    refund(office, job, 8_000)
    with office.platform.database.read() as tx:
        assert clawback.cases_of(tx, job).of(clawback.PENDING, (PROVIDER, 2026)) == 6_400


def test_nothing_is_refunded_while_a_batch_waits_for_its_payment(office: Office) -> None:
    job = office.run()
    office.ready(job)
    office.batch()
    assert code(refund(office, job, 1)) == "IN_CLEARING"


def test_refunding_a_fen_at_a_time_ends_where_one_refund_does(office: Office) -> None:
    job = office.run(seconds=3)  # 8 × 20.00 × 3 s = 13 fen, 5 of them deducted
    assert office.settlement(job)["fee_fen"] == 13
    got = [refund(office, job, 1)["voucher_fen"] for _ in range(13)]
    assert got == sorted(got)
    assert got[-1] == 5


# --- prices ---------------------------------------------------------------------------------------


def test_a_price_that_started_is_frozen_and_one_to_come_is_not(office: Office) -> None:
    now = office.now
    early = office.call(
        store.set_price, pool="ascend", model="Ascend910B3", fen=1, start=now - timedelta(milliseconds=1), by="o"
    )
    assert code(early) == "PRICE_STARTED"
    office.call(store.set_price, pool="ascend", model="Ascend910B3", fen=1_000, start=now + timedelta(hours=2), by="o")
    before, _ = office.run(), office.run()
    office.platform.beat()
    office.platform.loop.tick()
    after = office.run()
    assert [office.settlement(job)["fee_fen"] for job in (before, after)] == [16_000, 8_000]


def test_a_back_dated_price_shows_what_it_changes_and_needs_two_people(office: Office) -> None:
    start = office.now
    job, other = office.run(), office.run("H800:8")
    asked = office.call(pricing.propose, pool="ascend", fen=1_500, start=start, reason="agreed late", actor=OPERATOR)
    assert [(item["job"], item["fee_fen"], item["new_fee_fen"]) for item in asked["affected"]] == [
        (job, 16_000, 12_000)
    ]
    assert office.settlement(job)["fee_fen"] == 16_000, "shown, not done"

    budget = office.platform.budget
    same = acts.Actor(by="olga", role="reviewer")
    assert code(office.call(pricing.approve, budget, asked["id"], same, "fine")) == "SAME_PERSON"
    done = office.call(pricing.approve, budget, asked["id"], REVIEWER, "fine")
    assert done["corrected"] == [f"settlement:{job}:2"]
    assert (office.settlement(job)["fee_fen"], office.settlement(job)["deduction_fen"]) == (12_000, 4_800)
    assert office.settlement(other)["number"] == 1
    assert code(office.call(pricing.approve, budget, asked["id"], REVIEWER, "twice")) == "ACT_NOT_NOW"
    assert office.balance(pool_room(2026)).available == POOL - 4_800 - 4_320


def test_a_price_to_come_is_not_proposed_but_set(office: Office) -> None:
    got = office.call(pricing.propose, pool="ascend", fen=1, start=office.now, reason="r", actor=OPERATOR)
    assert code(got) == "PRICE_NOT_BACK_DATED"
    assert (
        code(office.call(pricing.propose, pool="x", fen=1, start=SINCE, reason="r", actor=OPERATOR)) == "POOL_UNKNOWN"
    )


def test_a_correction_keeps_what_was_refunded_in_proportion(office: Office) -> None:
    start = office.now
    job = office.run()
    refund(office, job, 8_000)
    asked = office.call(pricing.propose, pool="ascend", fen=1_000, start=start, reason="r", actor=OPERATOR)
    office.call(pricing.approve, office.platform.budget, asked["id"], REVIEWER, "r")  # fee 8,000, all of it refunded
    assert office.balance(pool_room(2026)).available == POOL
    owed = office.balance(firm_payable(FIRM))
    assert owed.debits_posted == owed.credits_posted


# --- frozen, revoked, related ---------------------------------------------------------------------


def test_a_frozen_programme_promises_nothing_new_and_keeps_what_was_promised(office: Office) -> None:
    running = office.platform.submit("long", job_text("long"))
    office.platform.beat()
    office.platform.loop.tick()
    assert office.call(acts.act, "programme", "compute_voucher", "freeze", FINANCE, reason="audit") == "frozen"
    during = office.run()
    office.platform.backend.end(f"{running}.1", 0)
    office.platform.beat()
    office.platform.loop.tick()
    assert office.settlement(during)["deduction_fen"] == 0
    assert office.settlement(during)["voucher"] == "frozen"
    assert office.settlement(running)["deduction_fen"] == 6_400

    thaw = acts.Actor(by="fang", role="reviewer")
    assert code(office.call(acts.act, "programme", "compute_voucher", "unfreeze", thaw, reason="r")) == "SAME_PERSON"
    office.call(acts.act, "programme", "compute_voucher", "unfreeze", REVIEWER, reason="done")
    assert office.settlement(office.run())["deduction_fen"] == 6_400


def test_a_revoked_right_draws_nothing_from_then_on(office: Office) -> None:
    before = office.run()
    office.call(acts.act, "right", f"compute_voucher:{FIRM}", "revoke", REVIEWER, reason="moved away")
    after = office.run()
    assert office.settlement(before)["deduction_fen"] == 6_400
    assert office.settlement(after)["deduction_fen"] == 0
    assert office.settlement(after)["voucher"] == "revoked"


def test_each_of_seven_facts_is_needed_and_a_suspension_takes_its_time_out(office: Office) -> None:
    firm, start = "91110302MA0YDEMA3P", office.now

    def fact(name: str, begin: datetime = SINCE, end: datetime | None = None) -> int:
        number: int = office.call(
            store.record_fact, subject_kind="firm", subject=firm, fact=name, start=begin, end=end, evidence={}, by="o"
        )
        return number

    def eligible() -> tuple[Interval, ...]:
        with office.platform.database.read() as tx:
            return standing.eligible_intervals(tx, "firm", firm)

    for name in standing.FIRM_FACTS:
        assert eligible() == ()
        fact(name)
    assert eligible() == (Interval(start=SINCE),)
    fact("suspended", start, start + timedelta(days=1))
    assert eligible() == (Interval(start=SINCE, end=start), Interval(start=start + timedelta(days=1)))
    fact("eligible", start, start + timedelta(hours=1))
    assert eligible()[0].end == start, "a verified whole does not lift a suspension"


# --- contracts ------------------------------------------------------------------------------------


def with_contract(name: str) -> str:
    return f"money: {{contract: {name}}}\n"


def test_a_contract_s_room_bounds_its_jobs_and_says_so(office: Office) -> None:
    office.agree("C-2", number="2", support_cap_fen=10_000)
    first, second, third = (office.run(extra=with_contract("C-2")) for _ in range(3))
    assert [office.settlement(job)["deduction_fen"] for job in (first, second, third)] == [6_400, 3_600, 0]
    assert office.balance(contract_room("C-2")).available == 0
    assert office.balance(firm_room(FIRM, 2026)).available == CAP - 10_000
    with office.platform.database.read() as tx:
        from metering.statement import lines_of

        reasons = [lines_of(tx, office.settlement(job)["id"])[0]["reasons"] for job in (first, second, third)]
    assert reasons == [[], ["CONTRACT_CAP_REACHED"], ["CONTRACT_CAP_REACHED"]]
    assert refund(office, second, 16_000, contract="C-2")["voucher_fen"] == 3_600
    assert office.balance(contract_room("C-2")).available == 3_600


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"seller": FIRM}, "PARTY_UNKNOWN"),
        ({"programme": "model_voucher"}, "CONTRACT_UNKNOWN"),
        ({"end": datetime(2026, 6, 1, 4, tzinfo=UTC)}, "CONTRACT_NOT_IN_TERM"),
        ({"start": datetime(2026, 6, 1, 4, 1, tzinfo=UTC)}, "CONTRACT_NOT_IN_TERM"),
    ],
)
def test_a_job_under_a_contract_that_does_not_cover_it_waits_and_says_why(
    office: Office, changes: dict[str, Any], why: str
) -> None:
    agreed = office.agree("C-2", number="2", **changes)
    if why == "PARTY_UNKNOWN":
        assert code(agreed) == why
        why = "CONTRACT_UNKNOWN"
    job = office.platform.submit("w", job_text("w", extra=with_contract("C-2")))
    office.platform.beat()
    office.platform.loop.tick()
    assert office.platform.state(job) == "PENDING"
    with office.platform.database.read() as tx:
        from scheduler.schema import jobs

        assert why in str(tx.execute(select(jobs.c.pending).where(jobs.c.id == job)).scalar_one())


# --- years ----------------------------------------------------------------------------------------


def test_a_year_closes_once_after_its_tail_and_what_comes_back_lapses(office: Office) -> None:
    job = office.run()
    budget = office.platform.budget
    policy = budget.policy
    assert code(office.call(rooms.close_year, policy, 2026, FINANCE, "r")) == "YEAR_NOT_OVER"
    over = datetime(2026, 12, 31, 16, tzinfo=UTC)
    office.platform.clock.advance((over - office.now).total_seconds() - 0.001)
    assert code(office.call(rooms.close_year, policy, 2026, FINANCE, "r")) == "YEAR_NOT_OVER"
    office.platform.clock.advance(0.001)
    assert code(office.call(rooms.close_year, policy, 2026, OPERATOR, "r")) == "ACT_NOT_YOURS"
    done = office.call(rooms.close_year, policy, 2026, FINANCE, "year is over")
    assert done["lapsed_fen"] == POOL - 6_400
    assert code(office.call(rooms.close_year, policy, 2026, FINANCE, "again")) == "ACT_NOT_NOW"
    assert office.balance(pool_room(2026)).available == 0

    refund(office, job, 16_000)
    assert office.balance(pool_room(2026)).available == 0, "a closed year's room is not filled again"
    gone = office.balance(lapsed(2026))
    assert gone.credits_posted == POOL + CAP


def test_a_year_with_an_open_hold_does_not_close(office: Office) -> None:
    office.platform.submit("long", job_text("long"))
    office.platform.beat()
    office.platform.loop.tick()
    office.platform.clock.advance(86_400 * 500)
    assert code(office.call(rooms.close_year, office.platform.budget.policy, 2026, FINANCE, "r")) == "HOLDS_OPEN"


# --- alerts and the review queue ------------------------------------------------------------------


@pytest.mark.parametrize(("cap", "alerts"), [(8_001, []), (8_000, ["CAP_ALERT_80"]), (6_737, ["CAP_ALERT_80"]),
                                             (6_736, ["CAP_ALERT_80", "CAP_ALERT_95"])])  # fmt: skip
def test_a_room_alerts_at_80_and_at_95_percent(office: Office, cap: int, alerts: list[str]) -> None:
    office.agree("C-2", number="2", support_cap_fen=cap)
    office.run(extra=with_contract("C-2"))  # draws 6,400
    office.call(rooms.raise_alerts, office.platform.budget.policy)
    with office.platform.database.read() as tx:
        found = [item["code"] for item in review.queue(tx) if item["subject"] == "room:contract:C-2"]
    assert sorted(found) == alerts


def test_an_item_is_closed_by_one_of_its_actions_with_a_reason(office: Office) -> None:
    item = {"code": "CAP_ALERT_80", "subject": "room:x", "facts": {}}
    office.call(store.open_review, **item)
    key = "CAP_ALERT_80:room:x"
    close = {"review": key, "actor": OPERATOR}
    wrong = office.call(review.close, action="acknowleged", reason="seen", **close)
    assert (wrong.code, wrong.facts["nearest"]) == ("ACTION_UNKNOWN", "acknowledged")
    assert code(office.call(review.close, action="acknowledged", reason="", **close)) == "REASON_MISSING"
    assert code(office.call(review.close, review="x", action="a", reason="r", actor=OPERATOR)) == "REVIEW_UNKNOWN"
    assert office.call(review.close, action="acknowledged", reason="seen", **close)["state"] == "closed"
    assert code(office.call(review.close, action="acknowledged", reason="seen", **close)) == "ACT_NOT_NOW"
    office.call(store.open_review, again=False, **item)
    with office.platform.database.read() as tx:
        assert tx.execute(select(reviews.c.closed_at_ms).where(reviews.c.id == key)).scalar() is not None
    office.call(store.open_review, **item)
    with office.platform.database.read() as tx:
        assert [entry["id"] for entry in review.queue(tx)] == [key]


@given(st.text(max_size=40), st.integers(0, 1000))
def test_who_is_sampled_is_fixed_and_grows_with_the_share(subject: str, permille: int) -> None:
    assert review.sampled(subject, permille) == review.sampled(subject, permille)
    assert not review.sampled(subject, 0)
    assert review.sampled(subject, 1000)
    assert review.sampled(subject, permille) <= review.sampled(subject, min(1000, permille + 1))


def test_about_one_in_twenty_is_sampled() -> None:
    assert 400 < sum(review.sampled(f"settlement:job_{n}:1", 50) for n in range(10_000)) < 600


# --- the machines themselves ----------------------------------------------------------------------

ROLES = ("operator", "reviewer", "finance", "firm", "provider", "platform", "auditor", "agent")


def test_nobody_who_only_looks_may_act_and_no_role_both_approves_and_pays() -> None:
    for kind, machine in MACHINES.items():
        for name, step in machine.items():
            assert not step.roles & {"auditor", "agent"}, (kind, name)
        paying = {role for name, step in machine.items() if name.startswith("pay") for role in step.roles} - {
            "platform"
        }
        approving = {
            role for name, step in machine.items() if name in ("approve", "assess", "confirm") for role in step.roles
        }
        assert not paying & approving, kind
    for kind, pairs in APART.items():
        assert all(act in MACHINES[kind] for pair in pairs for act in pair)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(MACHINES)), st.data())
def test_a_machine_moves_only_along_its_steps(kind: str, data: st.DataObject) -> None:
    machine = MACHINES[kind]
    states = sorted({s for step in machine.values() for s in (*step.before, step.after)} | {"none", "nowhere"})
    state = data.draw(st.sampled_from(states))
    act, role = data.draw(st.sampled_from([*sorted(machine), "dance"])), data.draw(st.sampled_from(ROLES))
    reason = data.draw(st.sampled_from(["", " ", "because"]))
    got = next_state(kind, state, act, role=role, by="p", reason=reason, done={})
    step = machine.get(act)
    allowed = (
        step is not None and state in step.before and role in step.roles and (not step.reason or reason.strip() != "")
    )
    assert isinstance(got, str) == allowed
    if allowed:
        assert step is not None
        assert got == (step.after or state), "an act without a state of its own leaves the case where it stands"


@st.composite
def intervals(draw: st.DrawFn) -> list[Interval]:
    found = []
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, 20))
        end = draw(st.none() | st.integers(0, 24))
        found.append(
            Interval(start=SINCE + timedelta(hours=start), end=None if end is None else SINCE + timedelta(hours=end))
        )
    return found


@given(intervals(), intervals())
def test_intervals_intersect_and_subtract_as_sets_of_instants_do(left: list[Interval], right: list[Interval]) -> None:
    from metering.facts import holds_at, unite

    both, only = intersect(left, right), subtract(left, right)
    for hour in range(26):
        at = SINCE + timedelta(hours=hour)
        assert holds_at(both, at) == (holds_at(left, at) and holds_at(right, at))
        assert holds_at(only, at) == (holds_at(left, at) and not holds_at(right, at))
    assert unite(both) == both
    assert unite(only) == only


def test_corrections_are_new_records(office: Office) -> None:
    start = office.now
    job = office.run()
    first = office.settlement(job)
    asked = office.call(pricing.propose, pool="ascend", fen=1, start=start, reason="r", actor=OPERATOR)
    office.call(pricing.approve, office.platform.budget, asked["id"], REVIEWER, "r")
    with office.platform.database.read() as tx:
        kept = [dict(row) for row in tx.execute(select(settlements).where(settlements.c.job == job)).mappings()]
        assert kept[0] == first
        assert acts.state_of(tx, "settlement", first["id"]) == "corrected"
        assert acts.told(tx, "correction", kept[1]["id"], "order")["cites"] == first["id"]  # type: ignore[index]
