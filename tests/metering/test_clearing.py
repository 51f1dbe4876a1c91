"""Clearing: papers match to the fen, everybody does their own part, and nothing is paid twice or on stale facts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from metering import acts, clawback, clearing, correction, disputes, review, store
from metering.ledger import (
    clearing_room,
    firm_payable,
    owed_back,
    pool_room,
    provider_received,
    treasury_approved,
    treasury_committed,
    treasury_paid,
)
from metering.schema import facts
from tests.metering.office import (
    FINANCE,
    FIRM_USER,
    OPERATOR,
    PROVIDER_USER,
    REVIEWER,
    SINCE,
    UNTIL,
    Office,
    audited_office,
    code,
    make_office,
    net,
)
from tests.platform import FIRM, PROVIDER


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with audited_office(tmp_path) as made:
        yield made


def state(office: Office, kind: str, subject: str) -> str:
    with office.platform.database.read() as tx:
        return acts.state_of(tx, kind, subject)


def test_from_the_invoice_to_the_reconciled_batch(office: Office) -> None:
    jobs = [office.run(), office.run("H800:8")]  # 8 × 20.00 at 40%, 8 × 18.00 at 30%
    invoice = office.ready(*jobs)
    batch = office.clear()

    assert [office.settlement(job)["deduction_fen"] for job in jobs] == [6_400, 4_320]
    assert net(office, treasury_paid(2026)) == 10_720
    assert net(office, treasury_committed(2026)) == net(office, treasury_approved(2026)) == 0
    assert net(office, firm_payable(FIRM)) == 0
    assert net(office, provider_received(PROVIDER)) == 16_000 + 14_400 - 10_720
    assert office.balance(clearing_room(batch)).available == 0
    for job in jobs:
        assert state(office, "settlement", office.settlement(job)["id"]) == "closed"
    with office.platform.database.read() as tx:
        shown = clearing.batch_document(tx, batch)
    assert shown is not None
    assert shown["totals"] == {"fee_fen": 30_400, "deduction_fen": 10_720, "payable_fen": 19_680}
    assert {item["invoice"] for item in shown["items"]} == {invoice}
    assert [step["act"] for step in shown["acts"]] == ["build", "submit", "approve", "pay", "reconcile"]


# --- each paper, missing or wrong -----------------------------------------------------------------


def test_without_an_invoice_nothing_is_verified(office: Office) -> None:
    job = office.run()
    assert code(office.verify(job)) == "INVOICE_MISSING"


def test_an_invoice_a_fen_off_is_refused_either_way(office: Office) -> None:
    job = office.run()
    for amount in (15_999, 16_001):
        assert code(office.bill(job, amount_fen=amount)) == "INVOICE_DOES_NOT_MATCH"
    assert office.bill(job)["net_fen"] == 16_000


def test_one_number_one_job_one_invoice(office: Office) -> None:
    first, second = office.run(), office.run()
    office.bill(first, number="INV-A")
    assert code(office.bill(first, number="INV-B")) == "JOB_ALREADY_INVOICED"
    assert code(office.bill(second, number="INV-A", tax_fen=0)) == "ALREADY_RECORDED"
    assert office.bill(first, number="INV-A")["jobs"] == [first], "the very same again changes nothing"


def test_the_firm_s_share_must_be_paid_to_the_fen(office: Office) -> None:
    job = office.run()
    number = office.bill(job)["number"]
    assert not office.pay_share(number, 9_599)["settled"]
    assert code(office.verify(job)) == "FIRM_SHARE_UNPAID"
    assert office.pay_share(number, 1)["settled"]
    assert office.verify(job)["state"] == "verified"


def test_a_slip_counts_once_and_comes_from_the_buyer(office: Office) -> None:
    number = office.bill(office.run())["number"]
    office.pay_share(number, 5_000, "S-1")
    office.pay_share(number, 5_000, "S-1")
    assert net(office, provider_received(PROVIDER)) == 5_000
    assert code(office.pay_share(number, 6_000, "S-1")) == "ALREADY_RECORDED"
    assert code(office.pay_share(number, 1, payer=PROVIDER)) == "PAYER_IS_NOT_BUYER"
    assert code(office.pay_share("INV-0", 1)) == "INVOICE_UNKNOWN"


def test_usage_outside_the_contract_s_term_is_not_paid(office: Office) -> None:
    begins = office.now + timedelta(minutes=30)
    office.agree("C-2", number="2", start=begins, end=UNTIL)
    job = office.run()
    office.pay_share(office.bill(job, contract="C-2")["number"], 9_600)
    assert code(office.verify(job)) == "CONTRACT_NOT_IN_TERM"


def test_a_contract_s_amount_bounds_its_invoices(office: Office) -> None:
    office.agree("C-2", number="2", amount_fen=16_000)
    first, second = office.run(), office.run()
    assert office.bill(first, contract="C-2")["contract"] == "C-2"
    assert code(office.bill(second, contract="C-2")) == "CONTRACT_AMOUNT_PASSED"


def test_prices_without_tax_are_not_the_basis(office: Office) -> None:
    office.agree("C-2", number="2", tax_basis="tax_excluded")
    job = office.run()
    office.pay_share(office.bill(job, contract="C-2")["number"], 9_600)
    assert code(office.verify(job)) == "TAX_BASIS"


def test_the_declaration_covers_the_whole_usage(tmp_path: Path) -> None:
    office = make_office(tmp_path)
    office.declare("related", start=office.now + timedelta(days=1), end=office.now + timedelta(days=2))
    early = office.run()
    assert office.bill(early)["jobs"] == [early]
    with office.platform.database.read() as tx:
        found = clearing.obstacles(tx, office.platform.budget, office.settlement(early)["id"])
    assert [each.code for each in found] == ["FIRM_SHARE_UNPAID"]
    office.platform.clock.advance(86_400)
    late = office.run()
    assert office.settlement(late)["deduction_fen"] == 0, "a related provider's time draws nothing"
    office.audit()


def test_a_contract_is_recorded_once_and_its_parts_sum(office: Office) -> None:
    assert office.agree()["id"] == "C-1", "the same again"
    assert code(office.agree(amount_fen=5)) == "ALREADY_RECORDED"
    assert code(office.agree("C-9", number="C-1")) == "ALREADY_RECORDED"
    assert code(office.agree("C-3", number="3", end=SINCE)) == "TERM_EMPTY"
    item = {"description": "d", "model": "m", "quantity": 1, "amount_fen": 9, "domestic": True}
    assert code(office.agree("C-3", number="3", items=[item], amount_fen=10)) == "ITEMS_DO_NOT_SUM"
    assert code(office.agree("C-3", number="3", buyer="nobody")) == "PARTY_UNKNOWN"


# --- roles ----------------------------------------------------------------------------------------


def test_who_approves_does_not_pay_and_does_not_configure(office: Office) -> None:
    office.ready(office.run())
    batch = office.batch()
    budget = office.platform.budget
    assert code(office.call(clearing.approve, budget, batch, OPERATOR)) == "ACT_NOT_YOURS"
    assert code(office.call(clearing.approve, budget, batch, acts.Actor(by="olga", role="reviewer"))) == "SAME_PERSON"
    assert (
        code(office.call(clearing.pay, budget, batch, amount_fen=1, reference="T", actor=FINANCE))
        == "PAYMENT_TOO_LARGE"
    )
    office.call(clearing.approve, budget, batch, REVIEWER)
    assert (
        code(office.call(clearing.pay, budget, batch, amount_fen=1, reference="T", actor=REVIEWER)) == "ACT_NOT_YOURS"
    )
    double = acts.Actor(by="rui", role="finance")
    assert code(office.call(clearing.pay, budget, batch, amount_fen=1, reference="T", actor=double)) == "SAME_PERSON"


def test_a_batch_sent_back_frees_its_settlements_for_another(office: Office) -> None:
    office.ready(office.run())
    batch = office.batch()
    assert code(office.call(clearing.send_back, batch, REVIEWER, reason=" ")) == "REASON_MISSING"
    assert office.call(clearing.send_back, batch, REVIEWER, reason="wrong period")["state"] == "building"
    office.call(acts.act, "clearing", batch, "abandon", OPERATOR, reason="rebuilt")
    assert office.clear() != batch


# --- paying -----------------------------------------------------------------------------------------


def test_a_batch_is_paid_in_parts_never_beyond_and_a_returned_payment_is_due_again(office: Office) -> None:
    office.ready(office.run())
    batch, budget = office.batch(), office.platform.budget
    office.call(clearing.approve, budget, batch, REVIEWER)

    def pay(amount: int, reference: str) -> Any:
        return office.call(clearing.pay, budget, batch, amount_fen=amount, reference=reference, actor=FINANCE)

    assert code(pay(6_401, "T-1")) == "PAYMENT_TOO_LARGE"
    assert pay(400, "T-1")["state"] == "part_paid"
    assert code(pay(400, "T-1")) == "ALREADY_RECORDED"
    assert pay(6_000, "T-2")["state"] == "paid"
    back = office.call(clearing.payment_returned, batch, reference="T-2", reason="account closed", actor=FINANCE)
    assert (back["state"], back["left_fen"]) == ("part_paid", 6_000)
    twice = office.call(clearing.payment_returned, batch, reference="T-2", reason="again", actor=FINANCE)
    assert code(twice) == "ALREADY_RECORDED"
    assert pay(6_000, "T-3")["state"] == "paid"
    assert net(office, treasury_paid(2026)) == 6_400


def test_what_is_cleared_is_not_cleared_again(office: Office) -> None:
    office.ready(office.run())
    office.clear()
    assert code(office.call(clearing.build, provider=PROVIDER, year=2026, actor=OPERATOR)) == "NOTHING_DUE"


# --- facts that change ------------------------------------------------------------------------------


def lose_eligibility(office: Office) -> None:
    """A penalty is found that was there all the time."""
    with office.platform.database.read() as tx:
        seq = tx.execute(select(facts.c.seq).where(facts.c.subject_kind == "firm")).scalar_one()
    office.call(
        store.record_fact, subject_kind="firm", subject=FIRM, fact="eligible", start=SINCE, end=SINCE, evidence={"penalty": "2025-7"},
        by="olga", withdraws=seq,
    )  # fmt: skip


def test_a_fact_that_changed_stops_verification_until_it_is_corrected(office: Office) -> None:
    job = office.run()
    number = office.bill(job)["number"]
    office.pay_share(number, 9_600)
    lose_eligibility(office)
    assert code(office.verify(job)) == "SETTLEMENT_OUTDATED"
    done = office.call(correction.correct, office.platform.budget, job, OPERATOR, "penalty found")
    assert (done["before"]["deduction_fen"], done["after"]["deduction_fen"], done["clawbacks"]) == (6_400, 0, [])
    assert net(office, firm_payable(FIRM)) == 16_000 - 9_600
    assert office.balance(pool_room(2026)).available == 10_000_000_000
    again = office.call(correction.correct, office.platform.budget, job, OPERATOR, "again")
    assert code(again) == "NOTHING_TO_CORRECT"


def test_a_fact_that_changed_stops_the_approval_and_the_payment(office: Office) -> None:
    office.ready(office.run())
    batch, budget = office.batch(), office.platform.budget
    office.call(clearing.approve, budget, batch, REVIEWER)
    lose_eligibility(office)
    assert (
        code(office.call(clearing.pay, budget, batch, amount_fen=6_400, reference="T", actor=FINANCE))
        == "SETTLEMENT_OUTDATED"
    )


def paid_then_penalised(office: Office) -> str:
    job = office.run()
    office.ready(job)
    office.clear()
    lose_eligibility(office)
    done = office.call(correction.correct, office.platform.budget, job, OPERATOR, "penalty found")
    assert len(done["clawbacks"]) == 1
    return str(done["clawbacks"][0])


def test_what_was_paid_and_is_not_due_is_clawed_back(office: Office) -> None:
    case = paid_then_penalised(office)

    def step(name: str, actor: acts.Actor, reference: str | None = None) -> Any:
        return office.call(clawback.proceed, case, name, actor, "a reason", reference=reference)

    assert code(step("confirm", REVIEWER)) == "ACT_NOT_NOW"
    step("notice", OPERATOR)
    assert step("confirm", REVIEWER)["amount_fen"] == 6_400
    assert net(office, owed_back(PROVIDER)) == -6_400
    assert code(step("repay", FINANCE)) == "REFERENCE_MISSING"
    assert step("repay", FINANCE, reference="bank-1")["state"] == "repaid"
    assert (
        net(office, owed_back(PROVIDER))
        == net(office, treasury_paid(2026))
        == net(office, treasury_committed(2026))
        == 0
    )


def test_a_clawback_may_be_written_off(office: Office) -> None:
    case = paid_then_penalised(office)
    office.call(clawback.proceed, case, "notice", OPERATOR, "")
    office.call(clawback.proceed, case, "confirm", REVIEWER, "clear")
    done = office.call(clawback.proceed, case, "write_off", REVIEWER, "insolvent")
    assert (done["state"], net(office, owed_back(PROVIDER))) == ("written_off", 0)


def test_a_clawback_is_offset_against_a_later_batch(tmp_path: Path) -> None:
    office = make_office(tmp_path)
    job = office.run()
    office.ready(job)
    office.clear()
    office.declare("related", start=SINCE, end=office.now)  # the two turn out to have been related
    done = office.call(correction.correct, office.platform.budget, job, OPERATOR, "related")
    case = done["clawbacks"][0]
    office.call(clawback.proceed, case, "notice", OPERATOR, "")
    office.call(clawback.proceed, case, "confirm", REVIEWER, "clear")
    office.ready(office.run(seconds=7_200))  # 12,800 fen are due
    batch = office.batch()
    assert code(office.call(clawback.proceed, case, "offset", FINANCE, "", reference=batch)) == "OFFSET_TOO_LARGE"
    office.call(clearing.approve, office.platform.budget, batch, REVIEWER)
    assert office.call(clawback.proceed, case, "offset", FINANCE, "", reference=batch)["state"] == "offset"
    paid = office.call(clearing.pay, office.platform.budget, batch, amount_fen=6_400, reference="T", actor=FINANCE)
    assert paid["state"] == "paid"
    assert net(office, treasury_paid(2026)) == 12_800, (
        "6,400 for each batch, the first for what now counts for the second"
    )
    assert net(office, treasury_approved(2026)) == net(office, owed_back(PROVIDER)) == 0
    office.audit()


# --- disputes ---------------------------------------------------------------------------------------


def test_an_open_dispute_stops_payment_and_nothing_else(office: Office) -> None:
    job = office.run()
    office.ready(job)
    settlement = office.settlement(job)["id"]
    opened = office.call(
        disputes.open_dispute,
        settlement=settlement,
        code="quantity",
        text="two hours only",
        party=FIRM,
        actor=FIRM_USER,
    )
    assert opened["state"] == "opened"
    built = office.call(clearing.build, provider=PROVIDER, year=2026, actor=OPERATOR)
    assert code(office.call(clearing.submit, office.platform.budget, built["id"], OPERATOR)) == "NOTHING_DUE"
    assert code(office.call(disputes.resolve, opened["id"], "dismiss", FIRM_USER, "no")) == "ACT_NOT_YOURS"
    assert office.call(disputes.resolve, opened["id"], "dismiss", OPERATOR, "logs agree")["state"] == "dismissed"
    with office.platform.database.read() as tx:
        assert [item["action"] for item in review.queue(tx, closed=True)] == ["dismissed"], "nobody is asked again"
    assert office.clear()


def test_only_a_party_may_dispute(office: Office) -> None:
    settlement = office.settlement(office.run())["id"]
    mine: dict[str, Any] = {"settlement": settlement, "code": "quantity", "text": "t", "actor": PROVIDER_USER}
    assert code(office.call(disputes.open_dispute, party="91110302MA0000000X", **mine)) == "SETTLEMENT_UNKNOWN"
    assert office.call(disputes.open_dispute, party=PROVIDER, **mine)["state"] == "opened"
    assert code(office.call(disputes.open_dispute, **{**mine, "party": PROVIDER, "text": " "})) == "REASON_MISSING"
