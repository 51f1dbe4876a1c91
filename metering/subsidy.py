"""Subsidy: the domestic-chip server subsidy of a project (clause 2.1.2), from the contract to the payment, evidence by evidence."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from metering import acts, allowance, clawback, contracts, docket, exclusion, store
from metering.acts import Actor
from metering.facts import holds_at
from metering.ledger import (
    Code,
    Phase,
    Programme,
    Transfer,
    beneficiary,
    cap_source,
    project_room,
    spent_of,
    treasury_committed,
    treasury_paid,
)
from metering.parameters import Policy
from metering.programme_schema import serials
from metering.schema import providers
from metering.standing import eligible_intervals
from metering.subsidy_evidence import application_document
from metering.year import local_year
from scheduler import journal
from scheduler.clock import to_ms
from scheduler.refusal import Refusal
from scheduler.schema import devices, nodes, pools

PROGRAMME = Programme.SERVER_SUBSIDY.value
CAP = "server_subsidy.project_cap"
MINIMUM_SERVED_MS = 1  # the notice names no minimum: any served device time to an unrelated customer


def draft(
    tx: Connection, policy: Policy, *, project: str, provider: str, name: str, actor: Actor, now: datetime
) -> dict[str, Any] | Refusal:
    """The provider's project exists, with its room at the cap in force now (cumulative, without a year)."""
    if store.known(tx, providers, provider) is None:
        return Refusal(code="PROVIDER_UNKNOWN", facts={"provider": provider})
    cap = policy.value_at(CAP, now)
    if cap is None:
        return Refusal(code="POLICY_NOT_IN_FORCE", facts={"policy": policy.id})
    body = {"provider": provider, "name": name, "policy": policy.id, "bundle_sha256": policy.bundle_sha256}
    done = acts.act(tx, "project", project, "draft", actor, now, body=body)
    if isinstance(done, Refusal):
        return done
    opened = Transfer(
        id=f"open_room:project:{project}",
        phase=Phase.POSTED,
        code=Code.OPEN_ROOM,
        debit=cap_source(PROGRAMME),
        credit=project_room(project),
        amount_fen=int(cap),
    )
    store.post(tx, opened, now)
    return application_document(tx, project) or {}


def add_serial(
    tx: Connection, *, project: str, serial: str, contract: str, model: str, device: str, by: str, now: datetime
) -> dict[str, Any] | Refusal:
    """A bought server's chip is traced to a listed device of the provider; no serial and no device counts in two projects."""
    built = acts.told(tx, "project", project, "draft")
    if built is None:
        return Refusal(code="PROJECT_UNKNOWN", facts={"project": project})
    agreed = contracts.contract(tx, contract)
    if agreed is None or agreed["project"] != project or agreed["buyer"] != built["provider"]:
        return Refusal(code="CONTRACT_UNKNOWN", facts={"contract": contract})
    query = (
        select(devices.c.uuid, devices.c.model, pools.c.provider)
        .join(nodes, nodes.c.id == devices.c.node)
        .join(pools, pools.c.id == nodes.c.pool)
        .where(devices.c.uuid == device)
    )
    row = tx.execute(query).first()
    if row is None or row.provider != built["provider"]:
        return Refusal(code="DEVICE_UNKNOWN", facts={"device": device})
    if row.model != model:
        return Refusal(code="MODEL_NOT_OF_DEVICE", facts={"device": device, "model": model, "is": row.model})
    taken = (
        tx.execute(select(serials).where((serials.c.serial == serial) | (serials.c.device == device)))
        .mappings()
        .first()
    )
    body = {"serial": serial, "project": project, "contract": contract, "model": model, "device": device}
    if taken is not None:
        different = sorted(key for key, value in body.items() if taken[key] != value)
        if different:
            return Refusal(code="SERIAL_TAKEN", facts={"serial": serial, "device": device, "project": taken["project"]})
        return body
    journal.append(tx, serials, {**body, "recorded_at_ms": to_ms(now), "recorded_by": by})
    return body


def proceed(
    tx: Connection,
    policy: Policy,
    *,
    project: str,
    act: str,
    actor: Actor,
    reason: str,
    now: datetime,
    reference: str | None = None,
) -> dict[str, Any] | Refusal:
    """The project has taken the step; each asks for its evidence, and `pay` moves what `assess` granted."""
    if acts.told(tx, "project", project, "draft") is None:
        return Refusal(code="PROJECT_UNKNOWN", facts={"project": project})
    refusal = acts.obstacle(tx, "project", project, act, actor, reason)
    if refusal is not None:
        return refusal
    document = application_document(tx, project, policy, now) or {}
    missing = _missing(act, document)
    if missing is not None:
        return Refusal(code="EVIDENCE_MISSING", facts={"project": project, "act": act, "missing": missing})
    if act == "pay" and not reference:
        return Refusal(code="REFERENCE_MISSING", facts={"project": project, "act": act})
    if act in ("assess", "pay"):
        uuids = [row["device"] for row in document["serials"]]
        refusal = allowance.uncounted(tx, policy, project, uuids, now) or _checked(tx, document, now)
        if refusal is not None:
            return refusal
    body: dict[str, Any] = {"reference": reference}
    if act == "assess":
        year = local_year(now, policy.zone)
        body |= {"amount_fen": document["amount_fen"], "computation": document["computation"], "year": year}
    was = acts.state_of(tx, "project", project)
    done = acts.act(tx, "project", project, act, actor, now, reason=reason, body=body)
    if isinstance(done, Refusal):
        return done
    granted = acts.told(tx, "project", project, "assess")
    if granted is None:
        return application_document(tx, project, policy, now) or {}
    year, fen, party = granted["year"], int(granted["amount_fen"]), document["provider"]
    room, committed = project_room(project), treasury_committed(year, PROGRAMME)
    grant = ((Code.GRANT, room, spent_of(room)), (Code.GRANT, committed, beneficiary(party, PROGRAMME)))
    back = tuple((Code.CLAW_BACK, credit, debit) for _, debit, credit in grant)
    moves = {
        "assess": grant,
        "pay": ((Code.PAY, treasury_paid(year, PROGRAMME), committed),),
        "reject": back if was == "assessed" else (),
        "claw_back": back,
    }
    if act == "claw_back":
        told = {"project": project, "party": party, "year": year, "programme": PROGRAMME, "amount_fen": fen}
        clawback.open_case(tx, project, {**told, "cause": reason}, now)
    for index, (code, debit, credit) in enumerate(moves.get(act, ())):
        transfer = Transfer(
            id=f"project:{project}:{act}:{index}", phase=Phase.POSTED, code=code, debit=debit, credit=credit, amount_fen=fen,
            cites=project,
        )  # fmt: skip
        store.post(tx, transfer, now)
    return application_document(tx, project, policy, now) or {}


def _checked(tx: Connection, document: Mapping[str, Any], now: datetime) -> Refusal | None:
    """What stands in the way of granting or paying: a freeze, a site without papers, nothing due, better support."""
    if acts.state_of(tx, "programme", PROGRAMME) == "frozen":
        return Refusal(code="PROGRAMME_FROZEN", facts={"programme": PROGRAMME})
    for site in document["sites"]:
        if not holds_at(eligible_intervals(tx, "site", site), now):
            return Refusal(code="SITE_NOT_ELIGIBLE", facts={"site": site, "clause": "4.2"})
    if not document["amount_fen"]:
        return Refusal(code="NOTHING_GRANTED", facts={"project": document["project"]})
    return exclusion.better_elsewhere(tx, document["provider"], document["project"], document["amount_fen"])


def _missing(act: str, document: dict[str, Any]) -> str | None:
    """The first piece of evidence that a step asks for and the project lacks."""
    domestic = [item for each in document["contracts"] for item in each["items"] if item["domestic"]]
    listed = [interval for interval in document["listing"] if interval["status"] == "listed"]
    papers = [(name, bool(document[name])) for name in ("invoices", "payments", "serials")]
    served = document["served"]["unrelated_device_ms"] >= MINIMUM_SERVED_MS
    asked = {
        "verify_contract": [("contract", bool(document["contracts"])), ("domestic_part", bool(domestic))],
        "deliver": papers,
        "list": [("listing", any(interval["to"] is None for interval in listed))],
        "meet_serving": [
            ("availability", bool(document["availability"]["probes"])),
            ("served_to_unrelated_customers", served),
        ],
        "assess": [*papers, ("listing", bool(listed))],
    }
    return next((name for name, there in asked.get(act, ()) if not there), None)


def projects(tx: Connection, wanted: docket.Wanted = docket.ALL) -> list[dict[str, Any]]:
    """Projects in the order of their last act: {seq, project, provider, name, state, since}."""
    found = docket.cases(tx, "project", wanted, party_is="provider")
    return [
        {
            "seq": case.seq,
            "project": case.subject,
            "provider": case.body["provider"],
            "name": case.body["name"],
            "state": case.state,
            "since": case.since,
        }
        for case in found
    ]
