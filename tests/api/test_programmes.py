"""Papers, clearing and programmes over HTTP: the whole journey with everybody's own key, isolation, malformed input."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.routing import APIRoute

from api.auth import mint_key
from api.routes import clearing, papers, programmes
from tests.api.paperwork import TERM, Paperwork
from tests.api.service import FIRM, OTHER, PROVIDER, Service

RIVAL = "91110302MA0YDEMA77"  # the tenant of a second provider's key


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
    for name in ("pay", "pay_part", "payment_returned"):
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


def test_a_project_asks_for_its_evidence_step_by_step(paperwork: Paperwork) -> None:
    drafted = paperwork.do("provider", "/v1/subsidies", {"id": "P-1", "name": "hall one"})
    assert (drafted["state"], drafted["amount_fen"], drafted["provider"]) == ("drafted", 0, PROVIDER)
    where = "/v1/subsidies/P-1/acts"
    problem = paperwork.do("operator", where, {"act": "verify_contract"}, 409)
    assert (problem["code"], problem["facts"]["missing"]) == ("EVIDENCE_MISSING", "contract")

    items = [{"description": "s", "model": "Ascend910B3", "quantity": 1, "amount_fen": 1_000, "domestic": True}]
    paperwork.contract("C-S", programme="server_subsidy", project="P-1", amount_fen=1_000, items=items)
    assert paperwork.do("operator", where, {"act": "verify_contract"}, 200)["state"] == "contract_verified"
    assert paperwork.refused("operator", where, {"act": "pay", "reference": "T-9"}) == "ACT_NOT_YOURS"
    serial = {"serial": "SN-1", "contract": "C-S", "model": "Ascend910B3", "device": "nowhere"}
    assert paperwork.refused("provider", "/v1/subsidies/P-1/serials", serial) == "DEVICE_UNKNOWN"
    assert [p["project"] for p in paperwork.ask("provider", "/v1/subsidies")["items"]] == ["P-1"]


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
        paperwork.do(who, "/v1/invoices", paperwork.bill_body(job, number="INV-X"), 404)
        paperwork.do(who, "/v1/slips", paperwork.slip_body(reference="S-X", fen=1), 404)
        paperwork.do(who, f"/v1/disputes/{dispute}/acts", {"act": "withdraw"}, 404)
        body = {"settlement": settlement, "code": "quantity", "text": "mine too"}
        assert paperwork.service.post(who, "/v1/disputes", body).json()["code"] == "SETTLEMENT_UNKNOWN"
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
    "/v1/slips": ("firm", "/v1/slips", {"amount_fen": 0.5}, "/amount_fen"),
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


# What the routes still let through or fall over; each is told to be fixed by turning into a failure of its mark.
ODD: dict[str, tuple[str, str, dict[str, Any]]] = {
    "a time before the calendar": ("operator", "/v1/contracts", {"from": "0001-01-01T00:00:00+14:00"}),
    "a time after the calendar": ("operator", "/v1/contracts", {"to": "9999-12-31T23:59:59-14:00"}),
    "a day that no month has": ("operator", "/v1/contracts", {"signed_on": "2026-02-31"}),
    "an integer beyond 2**53": ("operator", "/v1/contracts", {"evidence": {"pages": 2**60}}),
    "half a character": ("operator", "/v1/contracts", {"number": "\ud800"}),
    "a zero character": ("operator", "/v1/contracts", {"number": "a\0b"}),
}


@pytest.mark.xfail(strict=True, reason="the routes' schemas take values that the records cannot hold")
@pytest.mark.parametrize("odd", ODD)
def test_a_value_that_no_record_can_hold_is_malformed(paperwork: Paperwork, odd: str) -> None:
    who, path, change = ODD[odd]
    body = {
        "id": "C-1", "number": "C-1", "programme": "compute_voucher", "buyer": FIRM, "seller": PROVIDER,
        "signed_on": "2024-03-28", **TERM, "amount_fen": 1, "tax_basis": "tax_included", **change,
    }  # fmt: skip
    paperwork.do(who, path, body, 422)


def test_an_invoice_that_names_a_job_twice_is_refused(paperwork: Paperwork) -> None:
    paperwork.contract()
    job = paperwork.run()
    assert paperwork.service.post("provider", "/v1/invoices", paperwork.bill_body(job, job)).status_code in (409, 422)


@pytest.mark.xfail(strict=True, reason="a payment may be 0")
def test_nothing_is_no_payment(paperwork: Paperwork) -> None:
    paperwork.ready()
    batch = paperwork.batch()
    paperwork.act("reviewer", batch, "approve")
    paperwork.do("finance", f"/v1/clearing/{batch}/payments", {"amount_fen": 0, "reference": "T-0"}, 422)


@pytest.mark.xfail(strict=True, reason="the firm is not looked up")
def test_the_standing_of_nobody_is_decided_by_nobody(paperwork: Paperwork) -> None:
    paperwork.do("operator", "/v1/firms/nobody/eligibility", {"act": "submit"}, 404)


@pytest.mark.xfail(strict=True, reason="from and to are not compared")
def test_a_declaration_that_ends_before_it_begins_is_malformed(paperwork: Paperwork) -> None:
    body = {"provider": PROVIDER, "from": "2026-01-01T00:00:00+08:00", "to": "2025-01-01T00:00:00+08:00"}
    paperwork.do("firm", "/v1/relations", body, 422)


@pytest.mark.xfail(strict=True, reason="answers 409 SETTLEMENT_UNKNOWN, unlike every other thing of another's")
def test_a_dispute_of_another_s_settlement_is_404(paperwork: Paperwork) -> None:
    body = {"settlement": paperwork.settlement(paperwork.run()), "code": "quantity", "text": "why"}
    paperwork.do("other", "/v1/disputes", body, 404)
