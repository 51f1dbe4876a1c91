"""The server subsidy and the model voucher, and clause 4.4: both sides of each threshold, and the whole way to payment."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from metering import acts, clawback, contracts, correction, exclusion, listing, model_voucher, store, subsidy
from metering.exclusion import OURS, Support, choose
from metering.ledger import (
    beneficiary,
    firm_room,
    owed_back,
    pool_room,
    project_room,
    treasury_committed,
    treasury_paid,
)
from metering.support import assess_model, assess_server
from scheduler.refusal import Refusal
from scheduler.schema import devices
from tests.metering.office import (
    FINANCE,
    FIRM_USER,
    OPERATOR,
    PROVIDER_USER,
    REVIEWER,
    Office,
    audited_office,
    code,
    net,
    with_model_pools,
)
from tests.platform import FIRM, PROVIDER

VENDOR = "91110302MA0YDEMA9X"
SHANGHAI = ZoneInfo("Asia/Shanghai")


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with audited_office(tmp_path, with_model_pools) as made:
        yield made


# --- the sums ---------------------------------------------------------------------------------------


def part(amount: int, *, domestic: bool) -> dict[str, Any]:
    return {"description": "d", "model": "m", "quantity": 1, "amount_fen": amount, "domestic": domestic}


@pytest.mark.parametrize(
    ("domestic", "foreign", "paid", "invoiced", "room", "amount", "reasons"),
    [
        (10_000, 0, 10_000, 10_000, 10**9, 1_000, ()),
        (10_000, 10_000, 20_000, 20_000, 10**9, 1_000, ()),  # only the domestic part counts
        (10_000, 10_000, 10_000, 20_000, 10**9, 500, ()),  # half was paid
        (10_000, 10_000, 20_000, 10_000, 10**9, 500, ()),  # half was invoiced
        (9_999, 0, 9_999, 9_999, 10**9, 999, ()),  # rounded down, never above a tenth
        (0, 10_000, 10_000, 10_000, 10**9, 0, ()),
        (10_000, 0, 0, 10_000, 10**9, 0, ()),
        (10**10, 0, 10**10, 10**10, 10**9, 10**9, ()),  # exactly the cap
        (10**10 + 10, 0, 10**11, 10**11, 10**9, 10**9, ("PROJECT_CAP_REACHED",)),
    ],
)
def test_a_tenth_of_the_domestic_part_that_was_bought(
    domestic: int, foreign: int, paid: int, invoiced: int, room: int, amount: int, reasons: tuple[str, ...]
) -> None:
    found = assess_server(
        items=[part(domestic, domestic=True), part(foreign, domestic=False)],
        paid_fen=paid, invoiced_fen=invoiced, rate_bp=1000, project_room_fen=room, contract="C",
    )  # fmt: skip
    assert (found.amount_fen, found.reasons) == (amount, reasons)
    assert {step.clause for step in found.steps} == {"2.1.2"}
    assert found.steps[-1].value == amount


@pytest.mark.parametrize(
    ("completed", "model_part", "firm_room", "pool", "amount", "reasons"),
    [
        (1_000_000, 1_000_000, 10**9, 10**10, 500_000, ()),
        (300_000, 1_000_000, 10**9, 10**10, 150_000, ()),
        (300_000, 600_000, 10**9, 10**10, 90_000, ()),  # of an appliance, in proportion
        (999_999, 1_000_000, 10**9, 10**10, 499_999, ()),
        (1_000_000, 1_000_000, 500_000, 10**10, 500_000, ()),
        (1_000_000, 1_000_000, 499_999, 10**10, 499_999, ("FIRM_CAP_REACHED",)),
        (1_000_000, 1_000_000, 10**9, 0, 0, ("POOL_EXHAUSTED",)),
        (1_000_000, 1_000_000, 7, 7, 7, ("FIRM_CAP_REACHED", "POOL_EXHAUSTED")),
    ],
)
def test_half_of_what_was_completed_of_the_model_part(
    completed: int, model_part: int, firm_room: int, pool: int, amount: int, reasons: tuple[str, ...]
) -> None:
    found = assess_model(
        completed_fen=completed, amount_fen=1_000_000, model_part_fen=model_part, rate_bp=5000, firm_room_fen=firm_room,
        pool_room_fen=pool, contract="C",
    )  # fmt: skip
    assert (found.amount_fen, found.reasons) == (amount, reasons)
    assert {step.clause for step in found.steps} == {"2.4.7"}


@given(st.integers(0, 10**9), st.lists(st.tuples(st.integers(0, 10**9), st.booleans()), max_size=5))
def test_the_better_one_is_taken_and_both_are_shown(ours: int, others: list[tuple[int, bool]]) -> None:
    found = choose(
        ours, [Support(instrument=f"i{n}", amount_fen=fen, cumulative=c) for n, (fen, c) in enumerate(others)]
    )
    exclusive = [fen for fen, cumulative in others if not cumulative]
    assert found.ours_fen == ours
    assert found.best_other_fen == max(exclusive, default=0)
    assert (OURS in found.taken) == (ours >= max(exclusive, default=0))
    assert {*found.taken, *found.foregone} == {OURS, *(f"i{n}" for n in range(len(others)))}
    assert not {*found.taken} & {*found.foregone}
    assert all(f"i{n}" in found.taken for n, (_, cumulative) in enumerate(others) if cumulative)
    assert len(found.taken) == 1 + sum(cumulative for _, cumulative in others)


# --- clause 4.4 in the books ------------------------------------------------------------------------


def other(office: Office, amount: int, actor: acts.Actor = OPERATOR, **more: Any) -> Any:
    values = {"firm": FIRM, "project": "C-1", "instrument": "入区协议", "cumulative": False, "evidence": {}, **more}
    return office.call(exclusion.record_other, amount_fen=amount, actor=actor, **values)


@pytest.mark.parametrize(("amount", "stops"), [(6_400, False), (6_401, True)])
def test_the_voucher_is_not_paid_beside_something_better(office: Office, amount: int, stops: bool) -> None:
    job = office.run()
    office.pay_share(office.bill(job)["number"], 9_600)
    shown = other(office, amount)
    assert (shown["ours_fen"], shown["best_other_fen"]) == (6_400, amount)
    got = office.verify(job)
    assert isinstance(got, Refusal) == stops
    if stops:
        done = office.call(correction.correct, office.platform.budget, job, OPERATOR, "takes the agreement")
        assert done["after"]["deduction_fen"] == 0
        assert office.settlement(job)["voucher"] == "foregone"
        assert office.balance(pool_room(2026)).available == 10_000_000_000


def test_support_that_comes_after_the_payment_is_clawed_back(office: Office) -> None:
    job = office.run()
    office.ready(job)
    office.clear()
    other(office, 10_000)
    done = office.call(correction.correct, office.platform.budget, job, OPERATOR, "agreement found")
    assert len(done["clawbacks"]) == 1


def test_a_firm_may_report_more_and_never_less(office: Office) -> None:
    office.pay_share(office.bill(office.run())["number"], 9_600)
    other(office, 10_000)
    assert code(other(office, 9_999, FIRM_USER)) == "OPERATOR_RECORDS_THIS"
    assert code(other(office, 10_000, FIRM_USER, cumulative=True)) == "OPERATOR_RECORDS_THIS"
    assert other(office, 10_001, FIRM_USER)["best_other_fen"] == 10_001
    assert other(office, 1)["best_other_fen"] == 1, "an operator may"


# --- the server subsidy from the draft to the payment ---------------------------------------------------


def buy(
    office: Office, contract: str = "S-1", amount: int = 10_000_000, *, domestic: bool = True, pay: bool = True
) -> None:
    agreed = office.agree(
        contract, number=contract, programme="server_subsidy", buyer=PROVIDER, seller=VENDOR, project="P-1", amount_fen=amount,
        items=[part(amount, domestic=domestic)],
    )  # fmt: skip
    assert not isinstance(agreed, Refusal), agreed
    office.count += 1
    invoiced = office.call(
        contracts.record_invoice, number=f"I-{contract}", contract_id=contract, amount_fen=amount, tax_fen=0, issued_on="2026-05-01",
        sha256="e" * 64, job_ids=[], corrects=None, by="olga",
    )  # fmt: skip
    assert not isinstance(invoiced, Refusal), invoiced
    if pay:
        office.pay_share(f"I-{contract}", amount, payer=PROVIDER)


def step(office: Office, act: str, actor: acts.Actor, reference: str | None = None) -> Any:
    policy = office.platform.budget.policy
    return office.call(subsidy.proceed, policy, project="P-1", act=act, actor=actor, reason="r", reference=reference)


def drafted(office: Office) -> str:
    """A project whose contract is paid and whose server is a listed device; the device."""
    policy = office.platform.budget.policy
    office.call(subsidy.draft, policy, project="P-1", provider=PROVIDER, name="cluster one", actor=PROVIDER_USER)
    buy(office)
    with office.platform.database.read() as tx:
        return str(
            tx.execute(select(devices.c.uuid).where(devices.c.model == "Ascend910B3").order_by(devices.c.uuid)).scalar()
        )


def trace(office: Office, device: str, serial: str = "SN-1", **changes: Any) -> Any:
    values = {
        "project": "P-1",
        "serial": serial,
        "contract": "S-1",
        "model": "Ascend910B3",
        "device": device,
        "by": "pan",
    }
    return office.call(subsidy.add_serial, **{**values, **changes})


def assessed(office: Office) -> dict[str, Any]:
    device = drafted(office)
    step(office, "verify_contract", OPERATOR)
    trace(office, device)
    for act in ("deliver", "list"):
        assert not isinstance(step(office, act, OPERATOR), Refusal), act
    office.run("Ascend910B3:8")
    with office.platform.database.write() as tx:
        listing.probe(tx, SHANGHAI, office.now)
    assert not isinstance(step(office, "meet_serving", OPERATOR), Refusal)
    got = step(office, "assess", REVIEWER)
    assert not isinstance(got, Refusal), got
    return dict(got)


def test_from_the_contract_to_the_subsidy(office: Office) -> None:
    done = assessed(office)
    assert (done["amount_fen"], done["state"]) == (1_000_000, "assessed")
    assert code(step(office, "pay", FINANCE)) == "REFERENCE_MISSING"
    assert step(office, "pay", FINANCE, "T-1")["state"] == "paid"
    assert office.balance(project_room("P-1")).available == 1_000_000_000 - 1_000_000
    assert net(office, treasury_paid(2026, "server_subsidy")) == 1_000_000
    assert net(office, treasury_committed(2026, "server_subsidy")) == 0
    shown = step(office, "monitor", OPERATOR)
    assert shown["served"]["unrelated_device_ms"] == 3_600_000
    assert shown["availability"]["permille"] == 1000
    assert shown["serials"][0]["listed_from"] is not None


def test_each_step_asks_for_its_evidence(office: Office) -> None:
    policy = office.platform.budget.policy
    office.call(subsidy.draft, policy, project="P-1", provider=PROVIDER, name="n", actor=PROVIDER_USER)

    def missing(act: str, actor: acts.Actor = OPERATOR) -> Any:
        got = step(office, act, actor)
        assert code(got) == "EVIDENCE_MISSING", got
        return got.facts["missing"]

    assert missing("verify_contract") == "contract"
    buy(office, domestic=False)
    assert missing("verify_contract") == "domestic_part"
    buy(office, "S-2", pay=False)
    step(office, "verify_contract", OPERATOR)
    assert missing("deliver") == "serials"
    with office.platform.database.read() as tx:
        device = str(tx.execute(select(devices.c.uuid).where(devices.c.model == "Ascend910B3")).scalar())
    trace(office, device)
    step(office, "deliver", OPERATOR)
    office.call(listing.set_listing, pool="ascend", status="paused", reason="repair", actor=OPERATOR)
    assert missing("list") == "listing"
    assert (
        code(office.call(listing.set_listing, pool="ascend", status="listed", reason="", actor=PROVIDER_USER))
        == "PAUSED_BY_OPERATOR"
    )
    office.call(listing.set_listing, pool="ascend", status="listed", reason="", actor=OPERATOR)
    step(office, "list", OPERATOR)
    assert missing("meet_serving") == "availability"
    with office.platform.database.write() as tx:
        listing.probe(tx, SHANGHAI, office.now)
    assert missing("meet_serving") == "served_to_unrelated_customers"


def test_what_one_contract_paid_does_not_count_for_another(office: Office) -> None:
    policy = office.platform.budget.policy
    office.call(subsidy.draft, policy, project="P-1", provider=PROVIDER, name="n", actor=PROVIDER_USER)
    buy(office, "S-1", pay=False)
    buy(office, "S-2", domestic=False)
    with office.platform.database.read() as tx:
        shown = subsidy.application_document(tx, "P-1", policy, office.now)
    assert shown is not None
    assert shown["amount_fen"] == 0


def test_a_serial_and_a_device_count_once_and_belong_to_the_project(office: Office) -> None:
    device = drafted(office)
    assert trace(office, device)["device"] == device
    assert trace(office, device)["device"] == device, "the same again"
    assert code(trace(office, device, "SN-2")) == "SERIAL_TAKEN"
    assert code(trace(office, "nowhere", "SN-2")) == "DEVICE_UNKNOWN"
    assert code(trace(office, device, model="H800")) == "MODEL_NOT_OF_DEVICE"
    assert code(trace(office, device, contract="C-1")) == "CONTRACT_UNKNOWN"
    assert code(trace(office, device, project="P-0")) == "PROJECT_UNKNOWN"


def test_assessed_in_december_and_paid_in_january_is_one_year_s_money(office: Office) -> None:
    office.platform.clock.advance((datetime(2026, 12, 31, 10, tzinfo=UTC) - office.now).total_seconds())
    assessed(office)
    office.platform.clock.advance(86_400)
    step(office, "pay", FINANCE, "T")
    assert net(office, treasury_committed(2026, "server_subsidy")) == 0
    assert net(office, treasury_paid(2026, "server_subsidy")) == 1_000_000


def test_a_granted_subsidy_that_is_rejected_or_clawed_back_gives_its_room_back(office: Office) -> None:
    assessed(office)
    assert step(office, "reject", REVIEWER)["state"] == "rejected"
    assert office.balance(project_room("P-1")).available == 1_000_000_000
    assert net(office, beneficiary(PROVIDER, "server_subsidy")) == 0


def test_a_paid_subsidy_that_is_clawed_back_is_owed_by_the_provider(office: Office) -> None:
    assessed(office)
    step(office, "pay", FINANCE, "T")
    assert step(office, "claw_back", REVIEWER)["state"] == "clawed_back"
    case = "clawback:P-1:1"
    office.call(clawback.proceed, case, "notice", OPERATOR, "")
    office.call(clawback.proceed, case, "confirm", REVIEWER, "delisted")
    assert net(office, owed_back(PROVIDER)) == -1_000_000
    office.call(clawback.proceed, case, "repay", FINANCE, "", reference="bank-9")
    for account in (
        owed_back(PROVIDER),
        treasury_paid(2026, "server_subsidy"),
        treasury_committed(2026, "server_subsidy"),
    ):
        assert net(office, account) == 0


def test_a_frozen_programme_grants_nothing(office: Office) -> None:
    device = drafted(office)
    office.call(acts.act, "programme", "server_subsidy", "freeze", FINANCE, reason="audit")
    step(office, "verify_contract", OPERATOR)
    trace(office, device)
    for act in ("deliver", "list"):
        step(office, act, OPERATOR)
    office.run("Ascend910B3:8")
    with office.platform.database.write() as tx:
        listing.probe(tx, SHANGHAI, office.now)
    step(office, "meet_serving", OPERATOR)
    assert code(step(office, "assess", REVIEWER)) == "PROGRAMME_FROZEN"


def test_availability_counts_what_should_have_been_there(office: Office) -> None:
    with office.platform.database.write() as tx:
        listing.probe(tx, SHANGHAI, office.now)
    office.platform.clock.advance(600)  # nobody is heard from any more
    with office.platform.database.write() as tx:
        listing.probe(tx, SHANGHAI, office.now)
        found = listing.availability_of(tx, ["ascend"], "2026-06-01", "2026-06-01")
        assert (found["probes"], found["listed"]) == (2, 32)
        assert listing.availability_of(tx, ["ascend"], "2026-06-02", "2026-06-02")["permille"] is None
    assert found["permille"] == found["available"] * 1000 // 32


# --- the model voucher ----------------------------------------------------------------------------------


def model_contract(office: Office, paid: int = 1_000_000) -> None:
    office.agree("M-1", number="M-1", programme="model_voucher", seller=VENDOR, amount_fen=2_000_000)
    office.call(
        contracts.record_invoice, number="I-M", contract_id="M-1", amount_fen=1_000_000, tax_fen=0, issued_on="2026-05-01",
        sha256="e" * 64, job_ids=[], corrects=None, by="olga",
    )  # fmt: skip
    if paid:
        office.pay_share("I-M", paid)


def apply(office: Office, name: str = "A-1", **changes: Any) -> Any:
    values = {"firm": FIRM, "contract": "M-1", "use": "api_calls", "model": "base", "controlled": {"filing": "x"},
              "model_part_fen": None, "actor": FIRM_USER}  # fmt: skip
    return office.call(model_voucher.submit, application=name, **{**values, **changes})


def move(office: Office, act: str, actor: acts.Actor, reference: str | None = None, name: str = "A-1") -> Any:
    policy = office.platform.budget.policy
    return office.call(
        model_voucher.proceed, policy, application=name, act=act, actor=actor, reason="r", reference=reference
    )


def test_from_the_application_to_half_of_what_was_completed(office: Office) -> None:
    model_contract(office)
    apply(office)
    assert move(office, "verify", OPERATOR)["state"] == "verified"
    done = move(office, "approve", REVIEWER)
    assert (done["amount_fen"], done["reasons"]) == (500_000, [])
    assert code(move(office, "pay", FINANCE)) == "REFERENCE_MISSING"
    assert move(office, "pay", FINANCE, "T")["state"] == "paid"
    assert net(office, treasury_paid(2026, "model_voucher")) == 500_000
    assert office.balance(pool_room(2026, "model_voucher")).available == 10_000_000_000 - 500_000
    assert office.balance(firm_room(FIRM, "term", "model_voucher")).available == 500_000_000 - 500_000


def test_what_stands_in_the_way_of_a_model_voucher(office: Office) -> None:
    model_contract(office, paid=0)
    assert code(apply(office, contract="C-1")) == "CONTRACT_UNKNOWN"
    assert code(apply(office, use="appliance_model_part")) == "MODEL_PART"
    assert code(apply(office, model_part_fen=5)) == "MODEL_PART"
    assert code(apply(office, use="appliance_model_part", model_part_fen=2_000_001)) == "MODEL_PART"
    apply(office)
    assert code(apply(office, "A-2")) == "ALREADY_APPLIED"
    assert code(move(office, "verify", OPERATOR)) == "EVIDENCE_MISSING"
    office.pay_share("I-M", 1_000_000)
    other(office, 500_001, project="M-1")
    assert code(move(office, "verify", OPERATOR)) == "BETTER_ELSEWHERE"
    other(office, 500_000, project="M-1")
    assert move(office, "verify", OPERATOR)["state"] == "verified"
    assert code(move(office, "approve", REVIEWER, name="A-0")) == "APPLICATION_UNKNOWN"


def test_an_invoice_taken_back_after_the_approval_stops_the_payment(office: Office) -> None:
    model_contract(office)
    apply(office)
    move(office, "verify", OPERATOR)
    move(office, "approve", REVIEWER)
    red = office.call(
        contracts.record_invoice, number="RED", contract_id="M-1", amount_fen=-600_000, tax_fen=0, issued_on="2026-06-01",
        sha256="e" * 64, job_ids=[], corrects="I-M", by="olga",
    )  # fmt: skip
    assert not isinstance(red, Refusal), red
    stopped = move(office, "pay", FINANCE, "T")
    assert (code(stopped), stopped.facts["due_fen"]) == ("GRANT_TOO_LARGE", 200_000)
    assert move(office, "reject", REVIEWER)["state"] == "rejected"
    assert office.balance(pool_room(2026, "model_voucher")).available == 10_000_000_000
    assert office.balance(firm_room(FIRM, "term", "model_voucher")).available == 500_000_000
    assert net(office, treasury_committed(2026, "model_voucher")) == 0


def test_the_firm_s_cap_runs_through_its_applications(office: Office) -> None:
    with office.platform.database.write() as tx:
        from metering.ledger import Code, Phase, Transfer, spent_of

        model_contract_room = firm_room(FIRM, "term", "model_voucher")
        model_voucher._room(tx, office.platform.budget.policy, FIRM, office.now)
        used = Transfer(id="used", phase=Phase.POSTED, code=Code.GRANT, debit=model_contract_room, credit=spent_of(model_contract_room),
                        amount_fen=499_900_000)  # fmt: skip
        store.post(tx, used, office.now)
    model_contract(office)
    apply(office)
    move(office, "verify", OPERATOR)
    done = move(office, "approve", REVIEWER)
    assert (done["amount_fen"], done["reasons"]) == (100_000, ["FIRM_CAP_REACHED"])
