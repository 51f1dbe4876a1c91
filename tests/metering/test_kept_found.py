"""What an independent reading found in clearing, billing and freezing, kept found."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from metering import acts, clawback, clearing, correction, store
from metering.ledger import (
    contract_room,
    treasury_paid,
)
from scheduler.refusal import Refusal
from tests.metering.office import (
    FINANCE,
    FIRM_USER,
    OPERATOR,
    REVIEWER,
    SINCE,
    Office,
    audited_office,
    code,
    net,
    with_model_pools,
)
from tests.platform import FIRM, PROVIDER

VENDOR = "91110302MA0YDEMA9X"


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with audited_office(tmp_path, with_model_pools) as made:
        yield made


# --- found by an independent reading, kept found --------------------------------------------------------


def test_both_years_of_a_job_over_new_year_are_cleared(office: Office) -> None:
    office.platform.clock.advance((datetime(2026, 12, 31, 15, 30, tzinfo=UTC) - office.now).total_seconds())
    job = office.run()
    office.ready(job)
    office.clear(2026)
    office.clear(2027)
    assert net(office, treasury_paid(2026)) == net(office, treasury_paid(2027)) == 3_200


def test_an_approved_batch_goes_on_without_the_one_that_changed(office: Office) -> None:
    good, bad = office.run(), office.run()
    office.ready(good, bad)
    batch, budget = office.batch(), office.platform.budget
    office.call(clearing.approve, budget, batch, REVIEWER)
    office.declare("related", start=office.now - timedelta(hours=1), end=office.now)  # during the second job only
    stopped = office.call(clearing.pay, budget, batch, amount_fen=12_800, reference="T", actor=FINANCE)
    assert (code(stopped), stopped.facts["settlement"]) == ("SETTLEMENT_OUTDATED", office.settlement(bad)["id"])
    left = office.call(clearing.withdraw_item, batch, office.settlement(bad)["id"], REVIEWER, "related")
    assert (left["left_fen"], len(left["items"])) == (6_400, 1)
    office.call(correction.correct, budget, bad, OPERATOR, "related")
    # one invoice billed both: it is brought up to date before the rest is paid
    assert (
        office.call(clearing.pay, budget, batch, amount_fen=6_400, reference="T", actor=FINANCE).code
        == "FIRM_SHARE_UNPAID"
    )
    office.pay_share("INV-3", 6_400)
    assert office.call(clearing.pay, budget, batch, amount_fen=6_400, reference="T", actor=FINANCE)["state"] == "paid"


def test_what_came_back_and_fell_due_again_is_paid_again(office: Office) -> None:
    job = office.run()
    office.ready(job)
    office.clear()
    seq = office.declare("related", start=SINCE, end=office.now)
    case = office.call(correction.correct, office.platform.budget, job, OPERATOR, "related")["clawbacks"][0]
    for act, actor, reference in (
        ("notice", OPERATOR, None),
        ("confirm", REVIEWER, None),
        ("repay", FINANCE, "bank-1"),
    ):
        office.call(clawback.proceed, case, act, actor, "r", reference=reference)
    office.call(
        store.record_fact, subject_kind="relation", subject=f"{FIRM}|{PROVIDER}", fact="related", start=SINCE, end=SINCE, evidence={},
        by="olga", withdraws=seq,
    )  # fmt: skip
    office.call(correction.correct, office.platform.budget, job, OPERATOR, "it was another firm")
    assert office.verify(job)["state"] == "verified"
    office.clear()
    assert net(office, treasury_paid(2026)) == 6_400


def test_a_case_whose_cause_is_gone_ends_by_itself(office: Office) -> None:
    job = office.run()
    office.ready(job)
    office.clear()
    seq = office.declare("related", start=SINCE, end=office.now)
    case = office.call(correction.correct, office.platform.budget, job, OPERATOR, "related")["clawbacks"][0]
    office.call(
        store.record_fact, subject_kind="relation", subject=f"{FIRM}|{PROVIDER}", fact="related", start=SINCE, end=SINCE, evidence={},
        by="olga", withdraws=seq,
    )  # fmt: skip
    office.call(correction.correct, office.platform.budget, job, OPERATOR, "mistaken")
    with office.platform.database.read() as tx:
        assert acts.state_of(tx, "clawback", case) == "superseded"


def test_a_job_is_billed_under_its_own_contract_and_by_its_own_programme(office: Office) -> None:
    office.agree("C-2", number="2", support_cap_fen=100)
    office.agree("M-1", number="M", programme="model_voucher", seller=VENDOR)
    job = office.run()
    assert code(office.bill(job, contract="C-2")) == "JOB_OF_ANOTHER_CONTRACT"
    assert code(office.bill(job, contract="M-1")) == "JOBS_NOT_OF_PROGRAMME"
    named = office.run(extra="money: {contract: C-2}\n")
    assert code(office.bill(named, contract="C-1")) == "JOB_OF_ANOTHER_CONTRACT"
    assert office.bill(named, contract="C-2")["jobs"] == [named]
    assert office.balance(contract_room("C-2")).available == 0
    assert code(office.agree("C-3", number="3", support_cap_fen=10**9 + 1)) == "SUPPORT_CAP_TOO_LARGE"


def test_a_wrong_invoice_is_voided_and_the_job_billed_again(office: Office) -> None:
    office.agree("C-2", number="2", tax_basis="tax_excluded")
    job = office.run()
    wrong = office.bill(job, contract="C-2")["number"]
    red = office.bill(number="RED", contract="C-2", amount_fen=-16_000, tax_fen=0, corrects=wrong)
    assert not isinstance(red, Refusal), red
    again = office.bill(job)
    assert again["contract"] == "C-1"
    office.pay_share(again["number"], 9_600)
    assert office.verify(job)["state"] == "verified"


def test_a_slip_is_bounded_and_one_of_a_supplement_counts_for_its_invoice(office: Office) -> None:
    number = office.bill(office.run())["number"]
    assert code(office.pay_share(number, 16_001)) == "SLIP_TOO_LARGE"
    assert office.pay_share(number, 16_000)["settled"]


def test_who_unfroze_may_freeze_again(office: Office) -> None:
    def act(name: str, by: str, role: str) -> Any:
        actor = acts.Actor(by=by, role=role)
        return office.call(acts.act, "programme", "compute_voucher", name, actor, reason="r")

    assert act("freeze", "a", "finance") == "frozen"
    assert act("unfreeze", "b", "reviewer") == "open"
    assert act("freeze", "b", "reviewer") == "frozen"
    assert code(act("unfreeze", "b", "reviewer")) == "SAME_PERSON"


def test_what_a_freeze_held_back_is_given_by_a_correction_after_it(office: Office) -> None:
    freeze = acts.Actor(by="x", role="finance")
    office.call(acts.act, "programme", "compute_voucher", "freeze", freeze, reason="r")
    job = office.run()
    office.call(acts.act, "programme", "compute_voucher", "unfreeze", REVIEWER, reason="r")
    done = office.call(correction.correct, office.platform.budget, job, OPERATOR, "the freeze is over")
    assert (done["before"]["deduction_fen"], done["after"]["deduction_fen"]) == (0, 6_400)


def test_an_upheld_dispute_stops_payment_until_something_follows(office: Office) -> None:
    from metering import disputes, refunding

    job = office.run()
    settlement = office.settlement(job)["id"]
    opened = office.call(
        disputes.open_dispute, settlement=settlement, code="quantity", text="t", party=FIRM, actor=FIRM_USER
    )
    office.call(disputes.resolve, opened["id"], "uphold", OPERATOR, "right")
    with office.platform.database.read() as tx:
        assert disputes.open_on(tx, job) == [opened["id"]]
    office.call(refunding.refund, job=job, amount_fen=1, kind="refund", reason="r", actor=OPERATOR)
    with office.platform.database.read() as tx:
        assert disputes.open_on(tx, job) == []
