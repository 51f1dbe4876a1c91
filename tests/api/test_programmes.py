"""Papers, clearing and programmes over HTTP: the whole journey with everybody's own key, isolation, malformed input."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.routing import APIRoute

from api.auth import mint_key
from api.routes import clearing, papers, programmes
from tests.api.paperwork import TERM, Paperwork
from tests.api.service import FIRM, JOB, OTHER, PROVIDER, Service

LATE = "91110302MA0YDEMA69"  # a firm that claims its right while its job runs
RIVAL = "91110302MA0YDEMA77"  # the tenant of a second provider's key
ITEMS = [{"description": "s", "model": "Ascend910B3", "quantity": 1, "amount_fen": 1_000, "domestic": True}]


@pytest.fixture
def paperwork(service: Service) -> Paperwork:
    """With the keys of a second provider, `rival`, and a second reviewer."""
    with service.services.database.write() as tx:
        for name, role, tenant in (("rival", "provider", RIVAL), ("second", "reviewer", None)):
            service.keys[name] = mint_key(tx, name=name, role=role, tenant=tenant, now=service.clock.now())
    return Paperwork(service)


# --- the journey --------------------------------------------------------------------------------------------------


def test_from_the_contract_to_the_reconciled_batch_everybody_does_their_own_part(paperwork: Paperwork) -> None:
    job = paperwork.run()
    settlement = paperwork.settlement(job)
    where = f"/v1/clearing/settlements/{settlement}"
    assert [each["code"] for each in paperwork.ask("firm", where)["obstacles"]] == ["INVOICE_MISSING"]

    paperwork.contract()
    assert paperwork.bill(job)["jobs"] == [job]
    codes = [each["code"] for each in paperwork.ask("operator", where)["obstacles"]]
    assert codes == ["FIRM_SHARE_UNPAID", "DECLARATION_MISSING"]
    paperwork.declare()
    assert (
        paperwork.refused("operator", "/v1/clearing/verifications", {"settlement": settlement}) == "FIRM_SHARE_UNPAID"
    )
    assert paperwork.pay_share()["settled"] is True
    assert paperwork.ask("firm", where)["obstacles"] == []
    assert paperwork.verify(job) == {"settlement": settlement, "state": "verified"}

    batch = paperwork.batch()
    assert paperwork.refused("operator", f"/v1/clearing/{batch}/acts", {"act": "approve"}) == "ACT_NOT_YOURS"
    approved = paperwork.act("reviewer", batch, "approve")
    assert (approved["state"], approved["left_fen"]) == ("approved", 6_400)
    assert len(approved["merkle_root"]) == 64, "sealed in the answer's own transaction"
    payments = f"/v1/clearing/{batch}/payments"
    assert paperwork.refused("finance", payments, {"amount_fen": 6_401, "reference": "T-1"}) == "PAYMENT_TOO_LARGE"
    assert paperwork.pay(batch, 6_000)["state"] == "part_paid"
    assert paperwork.refused("finance", payments, {"amount_fen": 400, "reference": "T-1"}) == "ALREADY_RECORDED"
    assert paperwork.pay(batch, 400, "T-2")["state"] == "paid"
    returned = paperwork.do("finance", f"/v1/clearing/{batch}/returns", {"reference": "T-2", "reason": "wrong account"})
    assert (returned["state"], returned["left_fen"]) == ("part_paid", 400)
    assert paperwork.pay(batch, 400, "T-3")["state"] == "paid"
    assert paperwork.act("finance", batch, "reconcile")["state"] == "reconciled"

    shown = paperwork.ask("provider", f"/v1/clearing/{batch}")
    assert shown["totals"] == {"fee_fen": 16_000, "deduction_fen": 6_400, "payable_fen": 9_600}
    assert [step["role"] for step in shown["acts"]] == (
        ["operator", "operator", "reviewer", "finance", "finance", "finance", "finance", "finance"]
    )
    assert [item["id"] for item in paperwork.ask("auditor", "/v1/clearing")["items"]] == [batch]
    assert paperwork.ask("firm", where)["state"] == "closed"


def test_a_batch_that_is_sent_back_is_abandoned_and_frees_its_settlement(paperwork: Paperwork) -> None:
    job = paperwork.ready()
    batch = paperwork.batch()
    where = f"/v1/clearing/{batch}/acts"
    assert paperwork.refused("reviewer", where, {"act": "send_back"}) == "REASON_MISSING"
    assert paperwork.act("reviewer", batch, "send_back", "wrong year")["state"] == "building"
    assert paperwork.refused("operator", where, {"act": "submit"}) == "ACT_NOT_NOW"
    assert paperwork.act("operator", batch, "abandon", "sent back")["state"] == "abandoned"
    assert paperwork.ask("firm", f"/v1/clearing/settlements/{paperwork.settlement(job)}")["state"] == "verified"
    assert paperwork.batch() != batch


def test_paying_is_no_act_of_a_batch(paperwork: Paperwork) -> None:
    paperwork.ready()
    batch = paperwork.batch()
    for name in ("pay", "pay_part", "payment_returned", "complete"):
        problem = paperwork.do("finance", f"/v1/clearing/{batch}/acts", {"act": name}, 422)
        assert problem["errors"][0]["pointer"] == "/act"


def test_the_same_request_pays_once(paperwork: Paperwork) -> None:
    paperwork.ready()
    batch = paperwork.batch()
    paperwork.act("reviewer", batch, "approve")
    body = {"amount_fen": 400, "reference": "T-1"}
    first, again = (
        paperwork.service.post("finance", f"/v1/clearing/{batch}/payments", body, key="same") for _ in range(2)
    )

    assert first.json() == again.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert paperwork.ask("finance", f"/v1/clearing/{batch}")["left_fen"] == 6_000


def test_a_dispute_stops_the_payment_until_it_is_dismissed(paperwork: Paperwork) -> None:
    job = paperwork.ready()
    batch = paperwork.batch()
    paperwork.act("reviewer", batch, "approve")
    body = {"settlement": paperwork.settlement(job), "code": "quantity", "text": "an hour too many"}
    opened = paperwork.do("firm", "/v1/disputes", body)
    assert (opened["party"], opened["state"], opened["text"]) == (FIRM, "opened", "an hour too many")

    payment = {"amount_fen": 6_400, "reference": "T-1"}
    assert paperwork.refused("finance", f"/v1/clearing/{batch}/payments", payment) == "DISPUTED"
    where = f"/v1/disputes/{opened['id']}/acts"
    assert paperwork.refused("firm", where, {"act": "dismiss", "reason": "mine"}) == "ACT_NOT_YOURS"
    assert paperwork.do("operator", where, {"act": "dismiss", "reason": "measured twice"}, 200)["state"] == "dismissed"
    assert paperwork.pay(batch, 6_400)["state"] == "paid"


def test_an_approved_batch_goes_on_without_one_settlement_which_is_then_cleared_anew(paperwork: Paperwork) -> None:
    paperwork.contract()
    paperwork.declare()
    first, second = paperwork.run(), paperwork.run()
    for job, number in ((first, "1"), (second, "2")):
        paperwork.bill(job, number=f"INV-{number}")
        paperwork.pay_share(f"INV-{number}", reference=f"S-{number}")
        paperwork.verify(job)
    batch, settlement = paperwork.batch(), paperwork.settlement(first)
    where = f"/v1/clearing/{batch}/acts"
    assert paperwork.act("reviewer", batch, "approve")["left_fen"] == 12_800

    step = {"act": "withdraw_item", "reference": settlement, "reason": "measured twice"}
    assert paperwork.refused("reviewer", where, {**step, "reason": ""}) == "REASON_MISSING"
    assert paperwork.refused("operator", where, step) == "ACT_NOT_YOURS"
    shown = paperwork.do("reviewer", where, step, 200)
    assert (shown["state"], shown["left_fen"]) == ("approved", 6_400), "it stands where it stood"
    assert [item["settlement"] for item in shown["items"]] == [paperwork.settlement(second)]
    assert shown["totals"]["deduction_fen"] == 6_400
    assert paperwork.ask("firm", f"/v1/clearing/settlements/{settlement}")["state"] == "verified"
    paperwork.do("reviewer", where, step, 409)
    assert paperwork.pay(batch, 6_400)["state"] == "paid"

    again = paperwork.batch()
    assert [item["settlement"] for item in paperwork.ask("provider", f"/v1/clearing/{again}")["items"]] == [settlement]


def test_what_is_paid_in_part_may_be_too_little_to_withdraw_from(paperwork: Paperwork) -> None:
    job = paperwork.ready()
    batch = paperwork.batch()
    paperwork.act("reviewer", batch, "approve")
    paperwork.pay(batch, 1)
    step = {"act": "withdraw_item", "reference": paperwork.settlement(job), "reason": "measured twice"}
    problem = paperwork.do("reviewer", f"/v1/clearing/{batch}/acts", step, 409)
    assert problem["code"] == "WITHDRAWN_TOO_LATE"
    assert (problem["facts"]["amount_fen"], problem["facts"]["left_fen"]) == (6_400, 6_399)


def test_a_batch_whose_last_settlement_is_withdrawn_is_done(paperwork: Paperwork) -> None:
    job = paperwork.ready()
    batch = paperwork.batch()
    paperwork.act("reviewer", batch, "approve")
    step = {"act": "withdraw_item", "reference": paperwork.settlement(job), "reason": "measured twice"}
    shown = paperwork.do("reviewer", f"/v1/clearing/{batch}/acts", step, 200)
    assert (shown["state"], shown["left_fen"], shown["items"]) == ("paid", 0, [])
    assert (shown["acts"][-1]["act"], shown["acts"][-1]["role"]) == ("complete", "platform")


def test_a_refund_after_payment_opens_a_clawback_that_is_repaid(paperwork: Paperwork) -> None:
    job = paperwork.ready()
    paperwork.clear()
    refund = {"job": job, "kind": "refund", "amount_fen": 1_000, "reason": "a slow hour"}
    got = paperwork.do("provider", "/v1/refunds", refund)
    assert (got["returned_fen"], got["firm_fen"], got["voucher_fen"]) == (1_000, 600, 400)
    assert paperwork.refused("provider", "/v1/refunds", {**refund, "amount_fen": 15_001}) == "REFUND_TOO_LARGE"

    [case] = paperwork.ask("provider", "/v1/clawbacks")["items"]
    assert (case["party"], case["amount_fen"], case["state"]) == (PROVIDER, 400, "opened")
    where = f"/v1/clawbacks/{case['id']}/acts"
    paperwork.do("operator", where, {"act": "notice"}, 200)
    paperwork.do("reviewer", where, {"act": "confirm", "reason": "paid out before the refund"}, 200)
    assert paperwork.refused("finance", where, {"act": "repay"}) == "REFERENCE_MISSING"
    assert paperwork.do("finance", where, {"act": "repay", "reference": "B-1"}, 200)["state"] == "repaid"


def test_a_clawback_whose_amount_changes_gives_way_to_another(paperwork: Paperwork) -> None:
    job = paperwork.ready()
    paperwork.clear()
    refund = {"job": job, "kind": "refund", "amount_fen": 1_000, "reason": "a slow hour"}
    paperwork.do("provider", "/v1/refunds", refund)
    paperwork.do("provider", "/v1/refunds", refund)

    cases = paperwork.ask("provider", "/v1/clawbacks")["items"]
    assert sorted((case["state"], case["amount_fen"]) for case in cases) == [("opened", 800), ("superseded", 400)]
    gone = next(case["id"] for case in cases if case["state"] == "superseded")
    assert paperwork.refused("operator", f"/v1/clawbacks/{gone}/acts", {"act": "notice"}) == "ACT_NOT_NOW"
    live = next(case["id"] for case in cases if case["state"] == "opened")
    step = {"act": "supersede", "reason": "mine"}
    assert paperwork.refused("operator", f"/v1/clawbacks/{live}/acts", step) == "ACT_NOT_YOURS"


def test_a_correction_is_refused_where_nothing_changes_and_settles_again_where_a_fact_does(
    paperwork: Paperwork,
) -> None:
    job = paperwork.run()
    body = {"job": job, "reason": "they are related"}
    assert paperwork.refused("operator", "/v1/corrections", body) == "NOTHING_TO_CORRECT"

    related = {"provider": PROVIDER, "firm": FIRM, "fact": "related", "from": TERM["from"]}
    paperwork.do("operator", "/v1/relations", related)
    got = paperwork.do("operator", "/v1/corrections", body)
    assert (got["before"]["deduction_fen"], got["after"]["deduction_fen"]) == (6_400, 0)


def test_a_review_is_answered_with_one_of_its_actions(paperwork: Paperwork) -> None:
    job = paperwork.run()
    body = {"settlement": paperwork.settlement(job), "code": "quantity", "text": "an hour too many"}
    dispute = paperwork.do("firm", "/v1/disputes", body)["id"]
    [item] = [i for i in paperwork.ask("reviewer", "/v1/reviews")["items"] if i["code"] == "DISPUTE_OPENED"]
    assert item["subject"] == dispute
    where = f"/v1/reviews/{item['id']}/answers"

    problem = paperwork.do("reviewer", where, {"action": "dismised", "reason": "measured twice"}, 409)
    assert (problem["code"], problem["facts"]["nearest"]) == ("ACTION_UNKNOWN", "dismissed")
    paperwork.do("reviewer", where, {"action": "dismissed", "reason": "measured twice"}, 200)
    assert item["id"] not in [i["id"] for i in paperwork.ask("auditor", "/v1/reviews")["items"]]
    closed = [i for i in paperwork.ask("auditor", "/v1/reviews?closed=true")["items"] if i["id"] == item["id"]]
    assert [(i["action"], i["reason"]) for i in closed] == [("dismissed", "measured twice")]


# --- programmes ---------------------------------------------------------------------------------------------------


def test_a_frozen_programme_is_unfrozen_by_a_reviewer_who_did_not_freeze_it(paperwork: Paperwork) -> None:
    where = "/v1/programmes/compute_voucher/acts"
    assert paperwork.do("reviewer", where, {"act": "freeze", "reason": "odd prices"}, 200)["state"] == "frozen"
    states = {item["programme"]: item["state"] for item in paperwork.ask("firm", "/v1/programmes")["items"]}
    assert states == {"compute_voucher": "frozen", "server_subsidy": "open", "model_voucher": "open"}
    assert paperwork.refused("reviewer", where, {"act": "unfreeze", "reason": "checked"}) == "SAME_PERSON"
    assert paperwork.refused("operator", where, {"act": "unfreeze", "reason": "checked"}) == "ACT_NOT_YOURS"
    assert paperwork.do("second", where, {"act": "unfreeze", "reason": "checked"}, 200)["state"] == "open"


def test_a_frozen_right_draws_nothing_new(paperwork: Paperwork) -> None:
    where = f"/v1/vouchers/{FIRM}/acts"
    assert paperwork.do("operator", where, {"act": "freeze", "reason": "under review"}, 200)["state"] == "frozen"
    frozen = paperwork.run()
    assert paperwork.ask("firm", f"/v1/statements/jobs/{frozen}")["totals"]["deduction_fen"] == 0

    assert paperwork.do("reviewer", where, {"act": "unfreeze", "reason": "cleared"}, 200)["state"] == "active"
    free = paperwork.run()
    assert paperwork.ask("firm", f"/v1/statements/jobs/{free}")["totals"]["deduction_fen"] == 6_400


def test_the_right_draws_for_what_is_used_after_its_claim(paperwork: Paperwork) -> None:
    """Half an hour before the claim and half an hour after it: only the second half is supported."""
    service = paperwork.service
    with service.services.database.write() as tx:
        service.keys["late"] = mint_key(tx, name="late", role="firm", tenant=LATE, now=service.clock.now())
    paperwork.do("operator", "/v1/firms", {"id": LATE, "name": "late"})
    eligible = {"subject_kind": "firm", "subject": LATE, "fact": "eligible", **TERM}
    paperwork.do("operator", "/v1/facts", eligible)
    job = service.submit("late")
    service.services.loop.tick()
    service.services.loop.tick()
    service.clock.advance(1_800)
    paperwork.do("late", "/v1/vouchers", {})
    service.clock.advance(1_800)
    service.backend.end(f"{job}.1", 0)
    service.services.loop.tick()

    totals = paperwork.ask("late", f"/v1/statements/jobs/{job}")["totals"]
    assert (totals["fee_fen"], totals["deduction_fen"]) == (16_000, 3_200)


def test_a_suspension_and_its_end_are_facts_that_jobs_are_settled_by(paperwork: Paperwork) -> None:
    where = f"/v1/firms/{FIRM}/eligibility"

    def deducted() -> int:
        return int(paperwork.ask("firm", f"/v1/statements/jobs/{paperwork.run()}")["totals"]["deduction_fen"])

    def facts() -> list[tuple[str, bool]]:
        rows = [row for row in paperwork.ask("auditor", "/v1/facts")["items"] if row["subject"] == FIRM]
        return [(row["fact"], row["to"] is None) for row in rows if row["fact"] == "suspended"]

    paperwork.do("operator", where, {"act": "verify"}, 200)
    assert (facts(), deducted()) == ([], 6_400)
    assert paperwork.refused("operator", where, {"act": "suspend"}) == "REASON_MISSING"
    step = {"act": "suspend", "reason": "under investigation"}
    assert paperwork.do("operator", where, step, 200) == {"subject": FIRM, "state": "suspended"}
    assert (len(facts()), deducted()) == (1, 0)
    step = {"act": "reinstate", "reason": "cleared"}
    assert paperwork.do("operator", where, step, 200) == {"subject": FIRM, "state": "reinstated"}
    assert (len(facts()), deducted()) == (2, 6_400), "the open one is withdrawn for one that ends"
    step = {"act": "revoke", "reason": "a penalty"}
    assert paperwork.refused("operator", where, step) == "ACT_NOT_YOURS"
    assert paperwork.do("reviewer", where, step, 200) == {"subject": FIRM, "state": "revoked"}
    assert deducted() == 0


def test_a_project_asks_for_its_evidence_step_by_step(paperwork: Paperwork) -> None:
    drafted = paperwork.do("provider", "/v1/subsidies", {"id": "P-1", "name": "hall one"})
    assert (drafted["state"], drafted["amount_fen"], drafted["provider"]) == ("drafted", 0, PROVIDER)
    where = "/v1/subsidies/P-1/acts"
    problem = paperwork.do("operator", where, {"act": "verify_contract"}, 409)
    assert (problem["code"], problem["facts"]["missing"]) == ("EVIDENCE_MISSING", "contract")

    theirs = {"programme": "server_subsidy", "project": "P-1", "amount_fen": 1_000, "items": ITEMS}
    paperwork.contract("C-F", **theirs)
    problem = paperwork.do("operator", where, {"act": "verify_contract"}, 409)
    assert (problem["code"], problem["facts"]["missing"]) == ("EVIDENCE_MISSING", "contract"), "another bought those"
    paperwork.purchase(ITEMS)
    assert paperwork.refused("finance", where, {"act": "verify_contract"}) == "ACT_NOT_YOURS"
    assert paperwork.do("operator", where, {"act": "verify_contract"}, 200)["state"] == "contract_verified"
    for who in ("operator", "reviewer", "finance"):
        paperwork.do(who, where, {"act": "pay", "reference": "T-9"}, 409)
    assert paperwork.ask("auditor", "/v1/subsidies/P-1")["state"] == "contract_verified", "nothing is paid early"
    serial = {"serial": "SN-1", "contract": "C-S", "model": "Ascend910B3", "device": "nowhere"}
    assert paperwork.refused("provider", "/v1/subsidies/P-1/serials", serial) == "DEVICE_UNKNOWN"
    assert [p["project"] for p in paperwork.ask("provider", "/v1/subsidies")["items"]] == ["P-1"]


def test_from_a_project_s_purchase_to_its_payment_everybody_does_their_own_part(paperwork: Paperwork) -> None:
    paperwork.do("provider", "/v1/subsidies", {"id": "P-1", "name": "hall one"})
    paperwork.purchase(ITEMS)
    where = "/v1/subsidies/P-1/acts"

    def step(who: str, name: str, reference: str | None = None) -> str:
        return str(paperwork.do(who, where, {"act": name, "reference": reference}, 200)["state"])

    def missing(name: str) -> str:
        return str(paperwork.do("operator", where, {"act": name}, 409)["facts"]["missing"])

    assert step("operator", "verify_contract") == "contract_verified"
    assert missing("deliver") == "invoices"
    bought = paperwork.bill_body(number="INV-S", contract="C-S", amount_fen=1_000, tax_fen=100)
    paperwork.do("operator", "/v1/invoices", bought)
    assert missing("deliver") == "payments"
    slip = {**paperwork.slip_body("INV-S", 999, "S-S"), "payer": PROVIDER}
    assert paperwork.refused("operator", "/v1/slips", {**slip, "payer": FIRM}) == "PAYER_IS_NOT_BUYER"
    assert paperwork.do("operator", "/v1/slips", slip)["settled"] is False
    assert missing("deliver") == "serials"
    for number, device in enumerate(paperwork.devices("ascend")):
        serial = {"serial": f"SN-{number}", "contract": "C-S", "model": "Ascend910B3", "device": device}
        paperwork.do("provider", "/v1/subsidies/P-1/serials", serial)
    again = {**serial, "serial": "SN-X"}
    assert paperwork.refused("provider", "/v1/subsidies/P-1/serials", again) == "SERIAL_TAKEN"
    assert step("operator", "deliver") == "delivered"
    assert step("operator", "list") == "listed"
    assert missing("meet_serving") == "availability"
    paperwork.probe()
    assert missing("meet_serving") == "served_to_unrelated_customers"
    paperwork.run()
    assert step("operator", "meet_serving") == "serving_evidence_met"

    assert paperwork.refused("operator", where, {"act": "assess"}) == "ACT_NOT_YOURS"
    assert step("reviewer", "assess") == "assessed"
    pay = {"act": "pay", "reference": "T-S"}
    for who in ("operator", "reviewer"):
        assert paperwork.refused(who, where, pay) == "ACT_NOT_YOURS", who
    assert paperwork.refused("finance", where, {"act": "pay"}) == "REFERENCE_MISSING"
    assert step("finance", "pay", "T-S") == "paid"
    shown = paperwork.ask("provider", "/v1/subsidies/P-1")
    assert shown["amount_fen"] == 99, "a tenth of the 9.99 yuan that were invoiced and paid"
    assert [(act["act"], act["role"]) for act in shown["acts"]][-2:] == [("assess", "reviewer"), ("pay", "finance")]


def test_an_application_for_the_model_voucher_is_half_of_what_was_completed(paperwork: Paperwork) -> None:
    paperwork.contract("C-M", programme="model_voucher", amount_fen=100_000)
    body = {"id": "A-1", "contract": "C-M", "use": "api_calls", "model": "m", "controlled": {"sha256": "b" * 64}}
    assert paperwork.do("firm", "/v1/model-vouchers", body)["state"] == "submitted"
    where = "/v1/model-vouchers/A-1/acts"
    assert paperwork.refused("operator", where, {"act": "verify"}) == "EVIDENCE_MISSING"

    bill = paperwork.bill_body(number="INV-M", contract="C-M", amount_fen=100_000)
    paperwork.do("provider", "/v1/invoices", bill)
    paperwork.pay_share("INV-M", 60_000, "S-M")
    assert paperwork.do("operator", where, {"act": "verify"}, 200)["state"] == "verified"
    approved = paperwork.do("reviewer", where, {"act": "approve"}, 200)
    assert (approved["state"], approved["completed_fen"], approved["amount_fen"]) == ("approved", 60_000, 30_000)
    assert paperwork.refused("finance", where, {"act": "pay"}) == "REFERENCE_MISSING"
    assert paperwork.do("finance", where, {"act": "pay", "reference": "T-M"}, 200)["state"] == "paid"
    assert [a["id"] for a in paperwork.ask("firm", "/v1/model-vouchers")["items"]] == ["A-1"]


def test_a_back_dated_price_is_proposed_and_applied_by_somebody_else(paperwork: Paperwork) -> None:
    paperwork.run()
    body = {"pool": "ascend", "price_fen_per_device_hour": 1_500, "from": "2024-03-28T00:00:00+08:00", "reason": "typo"}
    paperwork.do("operator", "/v1/prices", body, 409)
    proposed = paperwork.do("operator", "/v1/prices", {**body, "force": True})
    identity = next(str(proposed[key]) for key in ("id", "price") if key in proposed)
    where = f"/v1/prices/{identity}/acts"
    paperwork.do("operator", where, {"act": "approve", "reason": "mine"}, 403)
    paperwork.do("reviewer", where, {"act": "approve", "reason": "the contract says so"}, 200)


def test_a_pool_that_is_paused_says_so_and_only_its_own_provider_may(paperwork: Paperwork) -> None:
    paperwork.do("provider", "/v1/pools/ascend/listing", {"status": "paused", "reason": "maintenance"}, 200)
    paperwork.do("rival", "/v1/pools/ascend/listing", {"status": "listed"}, 404)


def test_what_an_operator_paused_an_operator_lists_again(paperwork: Paperwork) -> None:
    where = "/v1/pools/ascend/listing"
    paperwork.do("provider", where, {"status": "paused", "reason": "maintenance"}, 200)
    assert paperwork.do("provider", where, {"status": "listed"}, 200)["status"] == "listed", "its own pause it ends"
    paperwork.do("operator", where, {"status": "paused", "reason": "complaints"}, 200)
    assert paperwork.refused("provider", where, {"status": "listed"}) == "PAUSED_BY_OPERATOR"
    assert paperwork.do("operator", where, {"status": "listed"}, 200)["status"] == "listed"


def test_only_an_operator_says_that_other_support_is_less_or_stands_beside_ours(paperwork: Paperwork) -> None:
    support = {"firm": FIRM, "project": "P", "instrument": "city fund", "amount_fen": 5}
    beside = {**support, "cumulative": True}
    assert paperwork.refused("firm", "/v1/other-supports", beside) == "OPERATOR_RECORDS_THIS"
    assert paperwork.do("firm", "/v1/other-supports", support)["taken"] == ["city fund"]
    assert paperwork.do("firm", "/v1/other-supports", {**support, "amount_fen": 6})["best_other_fen"] == 6
    assert paperwork.refused("firm", "/v1/other-supports", support) == "OPERATOR_RECORDS_THIS"
    assert paperwork.do("operator", "/v1/other-supports", support)["best_other_fen"] == 5
    assert paperwork.do("operator", "/v1/other-supports", beside)["taken"] == ["ours", "city fund"]
    assert paperwork.refused("firm", "/v1/other-supports", {**support, "amount_fen": 9}) == "OPERATOR_RECORDS_THIS"


def test_a_job_whose_contract_takes_another_support_draws_nothing(paperwork: Paperwork) -> None:
    """Clause 4.4: what the job names is what the other support is for."""
    paperwork.contract()
    paperwork.do("firm", "/v1/other-supports", {"firm": FIRM, "project": "C-1", "instrument": "city", "amount_fen": 1})
    text = JOB + "money: {contract: C-1}\n"
    job = paperwork.service.submit("firm", text)
    paperwork.service.run_to_end(job)
    shown = paperwork.ask("firm", f"/v1/statements/jobs/{job}")
    assert (shown["voucher"], shown["totals"]["deduction_fen"]) == ("foregone", 0)


# --- papers: who says so, and of what -----------------------------------------------------------------------------


def test_a_bank_slip_is_recorded_by_an_operator_and_by_no_party(paperwork: Paperwork) -> None:
    job = paperwork.run()
    paperwork.contract()
    paperwork.bill(job)
    for who in ("firm", "provider", "other", "rival", "reviewer", "finance", "auditor"):
        assert paperwork.do(who, "/v1/slips", paperwork.slip_body(), 403)["code"] == "ROLE_NOT_ALLOWED", who
    assert paperwork.ask("auditor", "/v1/slips")["items"] == []
    assert paperwork.do("operator", "/v1/slips", paperwork.slip_body("INV-9"), 404)["code"] == "NOT_FOUND"


def test_a_slip_is_at_most_what_is_left_of_the_invoice(paperwork: Paperwork) -> None:
    job = paperwork.run()
    paperwork.contract()
    paperwork.bill(job)
    assert paperwork.pay_share(fen=9_599)["settled"] is False
    problem = paperwork.do("operator", "/v1/slips", paperwork.slip_body(fen=6_402, reference="S-2"), 409)
    assert (problem["code"], problem["facts"]) == ("SLIP_TOO_LARGE", {"amount_fen": 6_402, "left_fen": 6_401})
    assert paperwork.pay_share(fen=1, reference="S-2")["settled"] is True
    paperwork.do("operator", "/v1/slips", paperwork.slip_body(fen=0, reference="S-3"), 422)


def test_an_invoice_is_recorded_by_its_seller_or_an_operator(paperwork: Paperwork) -> None:
    first, second = paperwork.run(), paperwork.run()
    paperwork.contract()
    body = paperwork.bill_body(first)
    for who in ("firm", "other", "reviewer", "finance", "auditor"):
        assert paperwork.do(who, "/v1/invoices", body, 403)["code"] == "ROLE_NOT_ALLOWED", who
    assert paperwork.do("rival", "/v1/invoices", body, 404)["code"] == "NOT_FOUND"
    assert paperwork.do("provider", "/v1/invoices", body)["jobs"] == [first]
    assert paperwork.do("operator", "/v1/invoices", paperwork.bill_body(second, number="INV-2"))["jobs"] == [second]

    paperwork.do("provider", "/v1/subsidies", {"id": "P-1", "name": "hall one"})
    paperwork.purchase(ITEMS)
    bought = paperwork.bill_body(number="INV-S", contract="C-S", amount_fen=1_000, tax_fen=100)
    assert paperwork.refused("provider", "/v1/invoices", bought) == "ISSUER_IS_NOT_SELLER", "it is the buyer here"
    assert paperwork.refused("operator", "/v1/invoices", {**bought, "jobs": [first]}) == "JOBS_NOT_OF_PROGRAMME"
    assert paperwork.do("operator", "/v1/invoices", bought)["jobs"] == []


def test_a_job_is_billed_under_the_contract_that_bounds_it(paperwork: Paperwork) -> None:
    paperwork.contract()
    problem = paperwork.do("operator", "/v1/contracts", paperwork.contract_body("C-2", support_cap_fen=10**9 + 1), 409)
    assert problem["code"] == "SUPPORT_CAP_TOO_LARGE"
    paperwork.contract("C-2", support_cap_fen=1_000)
    job = paperwork.run()
    body = paperwork.bill_body(job, contract="C-2")
    assert paperwork.refused("provider", "/v1/invoices", body) == "JOB_OF_ANOTHER_CONTRACT", "the cap bounded nothing"
    assert paperwork.bill(job)["jobs"] == [job]


def test_who_approves_and_who_pays_are_not_made_by_an_operator(paperwork: Paperwork) -> None:
    makers = {"reviewer": "reviewer", "finance": "finance", "auditor": "operator", "operator": "operator"}
    for role, maker in makers.items():
        for who in ("operator", "reviewer", "finance"):
            body = {"name": f"{role} by {who}", "role": role}
            if who == maker:
                assert paperwork.do(who, "/v1/keys", body)["role"] == role
                continue
            problem = paperwork.do(who, "/v1/keys", body, 403)
            assert (problem["code"], problem["facts"]) == ("KEY_NOT_YOURS_TO_MAKE", {"role": role, "maker": maker})


# --- nobody sees or moves what is another's -----------------------------------------------------------------------


def test_what_is_between_others_does_not_exist(paperwork: Paperwork) -> None:
    job = paperwork.ready()
    settlement = paperwork.settlement(job)
    batch = paperwork.batch()
    dispute = paperwork.do("firm", "/v1/disputes", {"settlement": settlement, "code": "quantity", "text": "why"})["id"]

    for who in ("other", "rival"):
        for path in ("contracts", "invoices", "slips", "disputes"):
            assert paperwork.ask(who, f"/v1/{path}")["items"] == [], (who, path)
        paperwork.ask(who, "/v1/contracts/C-1", 404)
        paperwork.ask(who, f"/v1/clearing/settlements/{settlement}", 404)
        paperwork.do(who, f"/v1/disputes/{dispute}/acts", {"act": "withdraw"}, 404)
        body = {"settlement": settlement, "code": "quantity", "text": "mine too"}
        assert paperwork.do(who, "/v1/disputes", body, 404)["code"] == "NOT_FOUND"
    paperwork.do("rival", "/v1/invoices", paperwork.bill_body(job, number="INV-X"), 404)
    assert paperwork.ask("rival", "/v1/clearing")["items"] == []
    paperwork.ask("rival", f"/v1/clearing/{batch}", 404)
    paperwork.do("rival", "/v1/refunds", {"job": job, "kind": "refund", "amount_fen": 1, "reason": "x"}, 404)
    for who in ("firm", "provider"):
        assert [c["id"] for c in paperwork.ask(who, "/v1/contracts")["items"]] == ["C-1"]
        assert len(paperwork.ask(who, "/v1/slips")["items"]) == 1


def test_an_unknown_thing_and_another_s_answer_alike(paperwork: Paperwork) -> None:
    paperwork.contract()
    theirs = paperwork.ask("other", "/v1/contracts/C-1", 404)
    none = paperwork.ask("other", "/v1/contracts/C-9", 404)
    assert {**theirs, "instance": "", "facts": ""} == {**none, "instance": "", "facts": ""}


def test_a_provider_s_project_and_a_firm_s_application_are_its_own(paperwork: Paperwork) -> None:
    paperwork.do("provider", "/v1/subsidies", {"id": "P-1", "name": "hall one"})
    assert paperwork.ask("rival", "/v1/subsidies")["items"] == []
    paperwork.ask("rival", "/v1/subsidies/P-1", 404)
    serial = {"serial": "SN-1", "contract": "C-1", "model": "Ascend910B3", "device": "d"}
    paperwork.do("rival", "/v1/subsidies/P-1/serials", serial, 404)

    paperwork.contract("C-M", programme="model_voucher", amount_fen=100_000)
    body = {"id": "A-1", "contract": "C-M", "use": "api_calls", "model": "m", "controlled": {}}
    paperwork.do("other", "/v1/model-vouchers", body, 404)
    paperwork.do("firm", "/v1/model-vouchers", body)
    assert paperwork.ask("other", "/v1/model-vouchers")["items"] == []


def test_a_firm_declares_for_itself_alone(paperwork: Paperwork) -> None:
    since = {"from": TERM["from"]}
    paperwork.do("firm", "/v1/relations", {"provider": PROVIDER, "firm": OTHER, **since}, 403)
    paperwork.do("firm", "/v1/relations", {"provider": PROVIDER, "fact": "related", **since}, 403)
    paperwork.do("operator", "/v1/relations", {"provider": PROVIDER, **since}, 422)
    support = {"firm": FIRM, "project": "P", "instrument": "city fund", "amount_fen": 5}
    paperwork.do("other", "/v1/other-supports", support, 404)
    paperwork.do("firm", "/v1/other-supports", support)
    paperwork.do("other", f"/v1/firms/{FIRM}/eligibility", {"act": "submit"}, 404)


# --- malformed input ----------------------------------------------------------------------------------------------

DISPUTE_ACT = "/v1/disputes/dispute:job_x:1/acts"
ACT = {"act": "x" * 41}
MALFORMED: dict[str, tuple[str, str, Any, str]] = {  # route: who, path, body, the field that is wrong
    "/v1/contracts": ("operator", "/v1/contracts", {"tax_basis": "tax_inclusive"}, "/tax_basis"),
    "/v1/invoices": ("provider", "/v1/invoices", {"issued_on": "2026-13-01"}, "/issued_on"),
    "/v1/slips": ("operator", "/v1/slips", {"amount_fen": 0.5}, "/amount_fen"),
    "/v1/relations": ("firm", "/v1/relations", {"provider": PROVIDER, "from": "2026-06-01T00:00:00"}, "/from"),
    "/v1/other-supports": ("firm", "/v1/other-supports", {"amount_fen": -1}, "/amount_fen"),
    "/v1/clearing/verifications": ("operator", "/v1/clearing/verifications", {"settlement": None}, "/settlement"),
    "/v1/clearing": ("operator", "/v1/clearing", {"provider": PROVIDER, "year": "2026"}, "/year"),
    "/v1/clearing/{batch}/acts": ("operator", "/v1/clearing/b/acts", ACT, "/act"),
    "/v1/clearing/{batch}/payments": (
        *("finance", "/v1/clearing/b/payments", {"amount_fen": True, "reference": "T"}, "/amount_fen"),
    ),
    "/v1/clearing/{batch}/returns": (
        *("finance", "/v1/clearing/b/returns", {"reference": "T", "reason": ""}, "/reason"),
    ),
    "/v1/clawbacks/{case:path}/acts": ("operator", "/v1/clawbacks/clawback:j:1/acts", ACT, "/act"),
    "/v1/disputes": ("firm", "/v1/disputes", {"settlement": "s", "code": "price", "text": "x"}, "/code"),
    "/v1/disputes/{dispute:path}/acts": ("operator", DISPUTE_ACT, ACT, "/act"),
    "/v1/refunds": ("operator", "/v1/refunds", {"job": "j", "kind": "gift", "amount_fen": 1, "reason": "x"}, "/kind"),
    "/v1/corrections": ("operator", "/v1/corrections", {"job": "j", "reason": ""}, "/reason"),
    "/v1/reviews/{item:path}/answers": ("reviewer", "/v1/reviews/r/answers", {"action": "passed"}, "/reason"),
    "/v1/programmes/{programme}/acts": ("operator", "/v1/programmes/compute_voucher/acts", {"reason": "x"}, "/act"),
    "/v1/vouchers/{firm}/acts": ("operator", f"/v1/vouchers/{FIRM}/acts", {"act": "freeze", "why": "x"}, "/why"),
    "/v1/firms/{firm}/eligibility": ("operator", f"/v1/firms/{FIRM}/eligibility", {"act": 1}, "/act"),
    "/v1/years": ("finance", "/v1/years", {"year": 1999, "reason": "x"}, "/year"),
    "/v1/prices": ("operator", "/v1/prices", {"pool": "ascend", "price_fen_per_device_hour": -1}, "/from"),
    "/v1/prices/{price:path}/acts": ("reviewer", "/v1/prices/p/acts", ACT, "/act"),
    "/v1/pools/{pool}/listing": ("operator", "/v1/pools/ascend/listing", {"status": "gone"}, "/status"),
    "/v1/subsidies": ("provider", "/v1/subsidies", {"id": "P 1", "name": "n"}, "/id"),
    "/v1/subsidies/{project}/serials": ("provider", "/v1/subsidies/P/serials", {"serial": ""}, "/serial"),
    "/v1/subsidies/{project}/acts": ("operator", "/v1/subsidies/P/acts", ACT, "/act"),
    "/v1/model-vouchers": ("firm", "/v1/model-vouchers", {"use": "training"}, "/use"),
    "/v1/model-vouchers/{application}/acts": ("operator", "/v1/model-vouchers/A/acts", ACT, "/act"),
}


def test_malformed_input_of_every_post_is_tried() -> None:
    routes = [*papers.routes.routes, *clearing.routes.routes, *programmes.routes.routes]
    posts = {route.path for route in routes if isinstance(route, APIRoute) and "POST" in (route.methods or ())}
    assert posts == set(MALFORMED)


@pytest.mark.parametrize("route", MALFORMED)
def test_malformed_input_names_its_field_and_changes_nothing(paperwork: Paperwork, route: str) -> None:
    who, path, body, pointer = MALFORMED[route]
    problem = paperwork.do(who, path, body, 422)
    assert problem["code"] == "INPUT_INVALID"
    assert pointer in [error["pointer"] for error in problem["errors"]]
    answer = paperwork.service.post(who, path, b"{", kind="application/json")
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize(
    ("who", "path", "body", "code"),
    [
        ("operator", "/v1/clearing/nothing/acts", {"act": "submit"}, "NOT_FOUND"),
        ("operator", "/v1/clearing/nothing/acts", {"act": "reconcile"}, "NOT_FOUND"),
        ("finance", "/v1/clearing/nothing/payments", {"amount_fen": 1, "reference": "T"}, "BATCH_UNKNOWN"),
        ("finance", "/v1/clearing/nothing/returns", {"reference": "T", "reason": "x"}, "PAYMENT_UNKNOWN"),
        ("operator", "/v1/clearing/verifications", {"settlement": "settlement:no:1"}, "NOT_SETTLED"),
        ("operator", "/v1/clawbacks/clawback:no:1/acts", {"act": "notice"}, "CLAWBACK_UNKNOWN"),
        ("operator", "/v1/disputes/dispute:no:1/acts", {"act": "uphold", "reason": "x"}, "NOT_FOUND"),
        ("operator", "/v1/refunds", {"job": "no", "kind": "refund", "amount_fen": 1, "reason": "x"}, "NOT_FOUND"),
        ("operator", "/v1/corrections", {"job": "no", "reason": "x"}, "NOT_SETTLED"),
        ("reviewer", "/v1/reviews/no/answers", {"action": "passed", "reason": "x"}, "REVIEW_UNKNOWN"),
        ("operator", "/v1/programmes/nothing/acts", {"act": "freeze", "reason": "x"}, "NOT_FOUND"),
        ("operator", f"/v1/vouchers/{PROVIDER}/acts", {"act": "freeze", "reason": "x"}, "NOT_FOUND"),
        ("operator", "/v1/subsidies/nothing/acts", {"act": "deliver"}, "PROJECT_UNKNOWN"),
        ("operator", "/v1/model-vouchers/nothing/acts", {"act": "verify"}, "APPLICATION_UNKNOWN"),
        ("reviewer", "/v1/prices/nothing/acts", {"act": "reject", "reason": "x"}, "NOT_FOUND"),
    ],
)
def test_acting_on_what_is_not_there_is_a_plain_no(
    paperwork: Paperwork, who: str, path: str, body: Any, code: str
) -> None:
    answer = paperwork.service.post(who, path, body)
    assert (answer.status_code in (404, 409), answer.json()["code"]) == (True, code)


# What a record cannot hold: the change to a contract's body, and where the answer points.
ODD: dict[str, tuple[dict[str, Any], str]] = {
    "a time before the calendar": ({"from": "0001-01-01T00:00:00+14:00"}, "/from"),
    "a time after the calendar": ({"to": "9999-12-31T23:59:59-14:00"}, "/to"),
    "a time before 2000": ({"from": "1999-12-31T23:59:59Z"}, "/from"),
    "a time after 2999": ({"to": "3000-01-01T00:00:00Z"}, "/to"),
    "an end before the beginning": ({"from": TERM["to"], "to": TERM["from"]}, "/to"),
    "a day that no month has": ({"signed_on": "2026-02-31"}, "/signed_on"),
    "an integer beyond 2**53": ({"evidence": {"pages": 2**60}}, "/evidence/pages"),
    "an integer below -2**53": ({"evidence": {"pages": [-(2**53)]}}, "/evidence/pages/0"),
    "no number": ({"evidence": {"pages": float("nan")}}, "/evidence/pages"),
    "a number without end": ({"evidence": {"pages": float("inf")}}, "/evidence/pages"),
    "half a character": ({"number": "\ud800"}, "/number"),
    "half a character in a name": ({"evidence": {"\udfff": 1}}, "/evidence/'\\udfff'"),
    "a zero character": ({"number": "a\0b"}, "/number"),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_value_that_no_record_can_hold_is_malformed(paperwork: Paperwork, odd: str) -> None:
    change, pointer = ODD[odd]
    problem = paperwork.do("operator", "/v1/contracts", paperwork.contract_body("C-1", **change), 422)
    assert problem["code"] == "INPUT_INVALID"
    assert pointer in [error["pointer"] for error in problem["errors"]]
    assert paperwork.ask("operator", "/v1/contracts")["items"] == []


def test_an_invoice_that_names_a_job_twice_is_refused(paperwork: Paperwork) -> None:
    paperwork.contract()
    job = paperwork.run()
    problem = paperwork.do("provider", "/v1/invoices", paperwork.bill_body(job, job), 409)
    assert (problem["code"], problem["facts"]["job"]) == ("JOB_TWICE", job)


def test_nothing_is_no_payment(paperwork: Paperwork) -> None:
    paperwork.ready()
    batch = paperwork.batch()
    paperwork.act("reviewer", batch, "approve")
    paperwork.do("finance", f"/v1/clearing/{batch}/payments", {"amount_fen": 0, "reference": "T-0"}, 422)


def test_the_standing_of_nobody_is_decided_by_nobody(paperwork: Paperwork) -> None:
    paperwork.do("operator", "/v1/firms/nobody/eligibility", {"act": "submit"}, 404)


def test_a_declaration_that_ends_before_it_begins_is_malformed(paperwork: Paperwork) -> None:
    body = {"provider": PROVIDER, "from": "2026-01-01T00:00:00+08:00", "to": "2025-01-01T00:00:00+08:00"}
    problem = paperwork.do("firm", "/v1/relations", body, 422)
    assert [error["pointer"] for error in problem["errors"]] == ["/to"]


def test_a_dispute_of_another_s_settlement_is_404(paperwork: Paperwork) -> None:
    body = {"settlement": paperwork.settlement(paperwork.run()), "code": "quantity", "text": "why"}
    paperwork.do("other", "/v1/disputes", body, 404)
