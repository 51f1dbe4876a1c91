"""Model voucher: half of what a firm completed of a contract for an independently controlled foundation model (clause 2.4.7)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from metering import acts, clawback, contracts, docket, exclusion, store
from metering.acts import Actor
from metering.facts import holds_at
from metering.ledger import (
    Code,
    Phase,
    Programme,
    Transfer,
    authority,
    beneficiary,
    cap_source,
    firm_room,
    pool_room,
    spent_of,
    treasury_approved,
    treasury_committed,
    treasury_paid,
)
from metering.parameters import Policy
from metering.programme_schema import invoices
from metering.standing import eligible_intervals
from metering.support import MODEL_USES, assess_model
from metering.year import local_year
from scheduler.refusal import Refusal

PROGRAMME = Programme.MODEL_VOUCHER.value
RATE, POOL, FIRM_CAP, PERIOD = (f"model_voucher.{key}" for key in ("rate", "pool", "firm_cap", "firm_cap_period"))
TERM = "term"


def open_pools(tx: Connection, policy: Policy, now: datetime) -> None:
    """Each year's appropriation is in its pool; opening again adds only what is new."""
    if POOL not in policy.parameters:
        return
    for row in policy.parameters[POOL].rows:
        end = local_year(row.end, policy.zone) if row.end is not None else local_year(row.start, policy.zone) + 1
        for year in range(local_year(row.start, policy.zone), end):
            transfer = Transfer(
                id=f"appropriate:{policy.id}:{PROGRAMME}:{year}",
                phase=Phase.POSTED,
                code=Code.APPROPRIATE,
                debit=authority(year, PROGRAMME),
                credit=pool_room(year, PROGRAMME),
                amount_fen=int(row.value),
            )
            store.post(tx, transfer, now)


def submit(
    tx: Connection,
    *,
    application: str,
    firm: str,
    contract: str,
    use: str,
    model: str,
    controlled: Mapping[str, Any],
    model_part_fen: int | None,
    actor: Actor,
    now: datetime,
) -> dict[str, Any] | Refusal:
    """The firm applies for one contract. use: one of MODEL_USES; controlled: evidence that the base model's technology is
    independently controlled; model_part_fen: of an appliance, and only there."""
    agreed = contracts.contract(tx, contract)
    if agreed is None or agreed["buyer"] != firm or agreed["programme"] != PROGRAMME:
        return Refusal(code="CONTRACT_UNKNOWN", facts={"contract": contract})
    if (use == "appliance_model_part") != (model_part_fen is not None):
        return Refusal(code="MODEL_PART", facts={"use": use, "uses": list(MODEL_USES)})
    if model_part_fen is not None and model_part_fen > agreed["amount_fen"]:
        return Refusal(code="MODEL_PART", facts={"use": use, "uses": list(MODEL_USES)})
    for case in acts.subjects(tx, "application"):
        told = acts.told(tx, "application", case["subject"], "submit") or {}
        if told["contract"] == contract and case["subject"] != application and case["state"] != "rejected":
            return Refusal(code="ALREADY_APPLIED", facts={"contract": contract, "application": case["subject"]})
    body = {
        "firm": firm,
        "contract": contract,
        "use": use,
        "model": model,
        "controlled": dict(controlled),
        "model_part_fen": model_part_fen,
    }
    done = acts.act(tx, "application", application, "submit", actor, now, body=body)
    return done if isinstance(done, Refusal) else (document(tx, application) or {})


def proceed(
    tx: Connection,
    policy: Policy,
    *,
    application: str,
    act: str,
    actor: Actor,
    reason: str,
    now: datetime,
    reference: str | None = None,
) -> dict[str, Any] | Refusal:
    """The application has taken the step. approve grants what the rooms of firm and pool allow; pay pays it."""
    told = acts.told(tx, "application", application, "submit")
    if told is None:
        return Refusal(code="APPLICATION_UNKNOWN", facts={"application": application})
    refusal = acts.obstacle(tx, "application", application, act, actor, reason)
    if refusal is not None:
        return refusal
    granted = acts.told(tx, "application", application, "approve") or {}
    found: dict[str, Any] = granted
    if act in ("verify", "approve", "pay"):
        room = _room(tx, policy, told["firm"], now)
        if isinstance(room, Refusal):
            return room
        found = _assess(tx, policy, told, room, now, granted)
        refusal = _checked(tx, told, found["amount_fen"], now)
        if refusal is not None:
            return refusal
    if act == "pay" and found["amount_fen"] < granted.get("amount_fen", 0):
        facts = {"application": application, "granted_fen": granted["amount_fen"], "due_fen": found["amount_fen"]}
        return Refusal(code="GRANT_TOO_LARGE", facts=facts)
    if act == "pay" and not reference:
        return Refusal(code="REFERENCE_MISSING", facts={"application": application, "act": act})
    body = {"reference": reference, **(found if act == "approve" else {})}
    was = acts.state_of(tx, "application", application)
    done = acts.act(tx, "application", application, act, actor, now, reason=reason, body=body)
    if isinstance(done, Refusal):
        return done
    if act in ("approve", "pay"):
        _move(tx, application, act, told["firm"], found if act == "approve" else granted, now)
    elif granted and (act == "claw_back" or (act == "reject" and was == "approved")):
        _move(tx, application, act, told["firm"], granted, now)
    if act == "claw_back":
        body = {"application": application, "party": told["firm"], "year": granted["year"], "programme": PROGRAMME,
                "amount_fen": granted["amount_fen"], "cause": reason}  # fmt: skip
        clawback.open_case(tx, application, body, now)
    return document(tx, application) or {}


def _checked(tx: Connection, told: Mapping[str, Any], ours_fen: int, now: datetime) -> Refusal | None:
    if acts.state_of(tx, "programme", PROGRAMME) == "frozen":
        return Refusal(code="PROGRAMME_FROZEN", facts={"programme": PROGRAMME})
    if not holds_at(eligible_intervals(tx, "firm", told["firm"]), now):
        return Refusal(code="FIRM_NOT_ELIGIBLE", facts={"firm": told["firm"], "clause": "4.1"})
    if not told["controlled"]:
        return Refusal(
            code="EVIDENCE_MISSING", facts={"project": told["contract"], "act": "verify", "missing": "controlled"}
        )
    if completed_of(tx, told["contract"]) <= 0:
        return Refusal(
            code="EVIDENCE_MISSING", facts={"project": told["contract"], "act": "verify", "missing": "payments"}
        )
    return exclusion.better_elsewhere(tx, told["firm"], told["contract"], ours_fen)


def completed_of(tx: Connection, contract: str) -> int:
    """What of the contract was actually completed: invoiced and paid, whichever is less."""
    numbers = tx.execute(
        select(invoices.c.number).where(invoices.c.contract == contract, invoices.c.corrects.is_(None))
    ).scalars()
    bills = [contracts.invoice(tx, number) for number in list(numbers)]
    return sum(min(bill["net_fen"], bill["paid_fen"]) for bill in bills if bill is not None)


def _room(tx: Connection, policy: Policy, firm: str, now: datetime) -> str | Refusal:
    """The period whose room bounds the firm, opened on first use: a local year, or the whole term.

    The notice leaves the period open (`open`): the whole term is the stricter reading and is used until it is answered.
    """
    cap, period = policy.value_at(FIRM_CAP, now), policy.value_at(PERIOD, now)
    if cap is None:
        return Refusal(code="POLICY_NOT_IN_FORCE", facts={"policy": policy.id})
    name = str(local_year(now, policy.zone)) if period == "year" else TERM
    opened = Transfer(
        id=f"open_room:{firm}:{policy.id}:{PROGRAMME}:{name}",
        phase=Phase.POSTED,
        code=Code.OPEN_ROOM,
        debit=cap_source(PROGRAMME),
        credit=firm_room(firm, name, PROGRAMME),
        amount_fen=int(cap),
    )
    store.post(tx, opened, now)
    return name


def _assess(
    tx: Connection, policy: Policy, told: Mapping[str, Any], period: str, now: datetime, granted: Mapping[str, Any]
) -> dict[str, Any]:
    """What the application comes to now; what was granted before is room of its own."""
    year = granted.get("year", local_year(now, policy.zone))
    own = int(granted.get("amount_fen", 0))
    completed, agreed = completed_of(tx, told["contract"]), contracts.contract(tx, told["contract"])
    assert agreed is not None, "an application cites a contract on record"
    part = agreed["amount_fen"] if told["model_part_fen"] is None else told["model_part_fen"]
    found = assess_model(
        completed_fen=completed,
        amount_fen=agreed["amount_fen"],
        model_part_fen=part,
        rate_bp=int(policy.value_at(RATE, now) or 0),
        firm_room_fen=store.balance(tx, firm_room(told["firm"], period, PROGRAMME)).available + own,
        pool_room_fen=store.balance(tx, pool_room(year, PROGRAMME)).available + own,
        contract=told["contract"],
    )
    return {
        "amount_fen": found.amount_fen,
        "reasons": list(found.reasons),
        "computation": [step.document() for step in found.steps],
        "year": year,
        "period": period,
        "policy": policy.id,
        "bundle_sha256": policy.bundle_sha256,
    }


def _move(tx: Connection, application: str, act: str, firm: str, granted: Mapping[str, Any], now: datetime) -> None:
    year, fen = granted["year"], int(granted["amount_fen"])
    mine, pool = firm_room(firm, granted["period"], PROGRAMME), pool_room(year, PROGRAMME)
    committed, approved = treasury_committed(year, PROGRAMME), treasury_approved(year, PROGRAMME)
    grant = (
        (Code.GRANT, mine, spent_of(mine)),
        (Code.GRANT, pool, spent_of(pool)),
        (Code.GRANT, committed, beneficiary(firm, PROGRAMME)),
    )
    back = tuple((Code.CLAW_BACK, credit, debit) for _, debit, credit in grant)
    moves = {
        "approve": (*grant, (Code.APPROVE, approved, committed)),
        "pay": ((Code.PAY, treasury_paid(year, PROGRAMME), approved),),
        "reject": (*back, (Code.WITHDRAW, committed, approved)),
        "claw_back": back,
    }
    for index, (code, debit, credit) in enumerate(moves[act]):
        transfer = Transfer(
            id=f"application:{application}:{act}:{index}", phase=Phase.POSTED, code=code, debit=debit, credit=credit, amount_fen=fen,
            cites=application,
        )  # fmt: skip
        store.post(tx, transfer, now)


def document(tx: Connection, application: str) -> dict[str, Any] | None:
    """The application with what was granted and its story; None if there is none."""
    told = acts.told(tx, "application", application, "submit")
    if told is None:
        return None
    granted = acts.told(tx, "application", application, "approve") or {}
    return {
        "id": application,
        **told,
        "state": acts.state_of(tx, "application", application),
        "completed_fen": completed_of(tx, told["contract"]),
        "amount_fen": granted.get("amount_fen"),
        "computation": granted.get("computation", []),
        "reasons": granted.get("reasons", []),
        "acts": [
            {key: step[key] for key in ("act", "by", "role", "at", "reason")}
            for step in acts.history(tx, "application", application)
        ],
    }


def applications(tx: Connection, wanted: docket.Wanted = docket.ALL) -> list[dict[str, Any]]:
    """Applications in the order of their last act, each as its document with `seq`, its place in the list."""
    found = ((case, document(tx, case.subject)) for case in docket.cases(tx, "application", wanted, party_is="firm"))
    return [{"seq": case.seq, **shown} for case, shown in found if shown is not None]
