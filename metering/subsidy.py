"""Subsidy: the domestic-chip server subsidy of a project (clause 2.1.2), from the contract to the payment, evidence by evidence."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select

from adapters.chain import instant, timestamp
from metering import acts, contracts, listing, store
from metering.acts import Actor
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
from metering.programme_schema import contracts as contract_rows
from metering.programme_schema import invoices, serials, slips
from metering.schema import providers
from metering.support import assess_server
from metering.year import local_year
from scheduler import journal
from scheduler.clock import from_ms, to_ms
from scheduler.refusal import Refusal
from scheduler.schema import devices, nodes, pools

PROGRAMME = Programme.SERVER_SUBSIDY.value
RATE, CAP = "server_subsidy.rate_ceiling", "server_subsidy.project_cap"
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
    if agreed is None or agreed["project"] != project:
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
    document = application_document(tx, project, policy, now) or {}
    missing = _missing(act, document)
    if missing is not None:
        return Refusal(code="EVIDENCE_MISSING", facts={"project": project, "act": act, "missing": missing})
    if act == "pay" and not reference:
        return Refusal(code="REFERENCE_MISSING", facts={"project": project, "act": act})
    body: dict[str, Any] = {"reference": reference}
    if act == "assess":
        body |= {"amount_fen": document["amount_fen"], "computation": document["computation"]}
    done = acts.act(tx, "project", project, act, actor, now, reason=reason, body=body)
    if isinstance(done, Refusal):
        return done
    year = local_year(now, policy.zone)
    granted = acts.told(tx, "project", project, "assess") or {}
    fen = int(granted.get("amount_fen", 0))
    moves = {
        "assess": (
            (Code.GRANT, project_room(project), spent_of(project_room(project))),
            (Code.GRANT, treasury_committed(year, PROGRAMME), beneficiary(document["provider"], PROGRAMME)),
        ),
        "pay": ((Code.PAY, treasury_paid(year, PROGRAMME), treasury_committed(year, PROGRAMME)),),
    }
    for index, (code, debit, credit) in enumerate(moves.get(act, ())):
        transfer = Transfer(
            id=f"project:{project}:{act}:{index}", phase=Phase.POSTED, code=code, debit=debit, credit=credit, amount_fen=fen,
            cites=project,
        )  # fmt: skip
        store.post(tx, transfer, now)
    return application_document(tx, project, policy, now) or {}


def _missing(act: str, document: dict[str, Any]) -> str | None:
    """The first piece of evidence that a step asks for and the project lacks."""
    domestic = [item for item in document["contract"].get("items", []) if item["domestic"]]
    listed = [interval for interval in document["listing"] if interval["status"] == "listed"]
    papers = [(name, bool(document[name])) for name in ("invoices", "payments", "serials")]
    served = document["served"]["unrelated_device_ms"] >= MINIMUM_SERVED_MS
    asked = {
        "verify_contract": [("contract", bool(document["contract"])), ("domestic_part", bool(domestic))],
        "deliver": papers,
        "list": [("listing", any(interval["to"] is None for interval in listed))],
        "meet_serving": [
            ("availability", bool(document["availability"]["probes"])),
            ("served_to_unrelated_customers", served),
        ],
        "assess": [*papers, ("listing", bool(listed))],
    }
    return next((name for name, there in asked.get(act, ()) if not there), None)


def application_document(
    tx: Connection, project: str, policy: Policy | None = None, now: datetime | None = None
) -> dict[str, Any] | None:
    """Everything an auditor asks of the project: contract → invoices → payments → serials → devices → listing → availability
    → served device time → computation with clauses. None if there is no such project.

    policy, now: whose rate the computation uses; without them the one it was assessed or drafted with is shown.
    """
    built = acts.told(tx, "project", project, "draft")
    if built is None:
        return None
    ids = list(
        tx.execute(
            select(contract_rows.c.id).where(contract_rows.c.project == project).order_by(contract_rows.c.seq)
        ).scalars()
    )
    agreed = contracts.contract(tx, ids[0]) if ids else None
    numbers = list(
        tx.execute(select(invoices.c.number).where(invoices.c.contract.in_(ids)).order_by(invoices.c.seq)).scalars()
    )
    bills = [bill for bill in (contracts.invoice(tx, number) for number in numbers) if bill is not None]
    query = select(slips).where(slips.c.invoice.in_(numbers)).order_by(slips.c.seq)
    paid = [
        {
            **{key: row[key] for key in ("reference", "invoice", "amount_fen", "sha256")},
            "paid_at": timestamp(from_ms(row["paid_at_ms"])),
        }
        for row in tx.execute(query).mappings()
    ]
    bought = list(tx.execute(select(serials).where(serials.c.project == project).order_by(serials.c.seq)).mappings())
    uuids = [row["device"] for row in bought]
    pool_of = _pools_of(tx, uuids)
    story = [interval for pool in sorted(set(pool_of.values())) for interval in listing.listing_intervals(tx, pool)]
    since = instant(acts.history(tx, "project", project)[0]["at"])
    until = now or since + timedelta(days=36_500)
    listed = {pool: [i for i in story if i["pool"] == pool and i["status"] == "listed"] for pool in pool_of.values()}
    found: dict[str, Any] = {
        "id": project,
        "project": project,
        "name": built["name"],
        "provider": built["provider"],
        "provider_name": tx.execute(select(providers.c.name).where(providers.c.id == built["provider"])).scalar(),
        "state": acts.state_of(tx, "project", project),
        "policy": built["policy"],
        "bundle_sha256": built["bundle_sha256"],
        "contract": agreed or {},
        "invoices": bills,
        "payments": paid,
        "serials": [
            {
                **{key: row[key] for key in ("serial", "device", "model")},
                "listed_from": (listed.get(pool_of.get(row["device"], ""), []) or [{"from": None}])[0]["from"],
                "listed_to": (listed.get(pool_of.get(row["device"], ""), []) or [{"to": None}])[-1]["to"],
            }
            for row in bought
        ],
        "listing": story,
        "availability": listing.availability_of(
            tx, sorted(set(pool_of.values())), since.date().isoformat(), "9999-12-31"
        ),
        "served": listing.served(tx, built["provider"], uuids, since, until),
        "acts": [
            {key: step[key] for key in ("act", "by", "role", "at", "reason")}
            for step in acts.history(tx, "project", project)
        ],
    }
    granted = acts.told(tx, "project", project, "assess")
    if granted is not None:
        return {**found, "computation": granted["computation"], "amount_fen": granted["amount_fen"], "reasons": []}
    rate = policy.value_at(RATE, now) if policy is not None and now is not None else None
    assessed = assess_server(
        items=(agreed or {}).get("items", []),
        paid_fen=sum(slip["amount_fen"] for slip in paid),
        invoiced_fen=sum(bill["net_fen"] for bill in bills if bill["corrects"] is None),
        rate_bp=int(rate or 0),
        project_room_fen=store.balance(tx, project_room(project)).available,
        contract=(agreed or {}).get("id", ""),
    )
    steps = [step.document() for step in assessed.steps]
    return {**found, "computation": steps, "amount_fen": assessed.amount_fen, "reasons": list(assessed.reasons)}


def _pools_of(tx: Connection, uuids: list[str]) -> dict[str, str]:
    query = (
        select(devices.c.uuid, nodes.c.pool).join(nodes, nodes.c.id == devices.c.node).where(devices.c.uuid.in_(uuids))
    )
    return {row.uuid: row.pool for row in tx.execute(query)}


def projects(tx: Connection, provider: str | None) -> list[dict[str, Any]]:
    """Every project, of one provider or of all: {project, provider, name, state, since}."""
    found = []
    for case in acts.subjects(tx, "project"):
        built = acts.told(tx, "project", case["subject"], "draft") or {}
        if provider in (None, built["provider"]):
            found.append({"project": case["subject"], "provider": built["provider"], "name": built["name"], "state": case["state"],
                          "since": case["since"]})  # fmt: skip
    return found
