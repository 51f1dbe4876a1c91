"""Subsidy evidence: everything an auditor asks of a server project, in one document (research: metering.md §6.3)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select

from adapters.chain import instant, timestamp
from metering import acts, contracts, listing, store
from metering.ledger import Programme, project_room
from metering.parameters import Policy
from metering.programme_schema import contracts as contract_rows
from metering.programme_schema import invoices, serials, slips
from metering.schema import providers
from metering.support import assess_server
from scheduler.clock import from_ms
from scheduler.schema import devices, nodes, pools

PROGRAMME = Programme.SERVER_SUBSIDY.value
RATE = "server_subsidy.rate_ceiling"


def application_document(
    tx: Connection, project: str, policy: Policy | None = None, now: datetime | None = None
) -> dict[str, Any] | None:
    """Contracts → invoices → payments → serials → devices → listing → availability → served device time → computation with
    clauses. None if there is no such project.

    policy, now: whose rate the computation uses; without them a project that was not assessed computes nothing.
    """
    built = acts.told(tx, "project", project, "draft")
    if built is None:
        return None
    mine = select(contract_rows.c.id).where(
        contract_rows.c.project == project,
        contract_rows.c.buyer == built["provider"],
        contract_rows.c.programme == PROGRAMME,
    )
    ids = list(tx.execute(mine.order_by(contract_rows.c.seq)).scalars())
    agreed = [found for found in (contracts.contract(tx, each) for each in ids) if found is not None]
    bills, paid = _papers(tx, ids)
    bought = list(tx.execute(select(serials).where(serials.c.project == project).order_by(serials.c.seq)).mappings())
    uuids = [row["device"] for row in bought]
    where = _where(tx, uuids)
    names = sorted({pool for pool, _ in where.values()})
    story = [interval for pool in names for interval in listing.listing_intervals(tx, pool)]
    listed = {pool: [i for i in story if i["pool"] == pool and i["status"] == "listed"] for pool in names}
    steps = acts.history(tx, "project", project)
    since = instant(steps[0]["at"])
    found: dict[str, Any] = {
        "id": project,
        "project": project,
        "name": built["name"],
        "provider": built["provider"],
        "provider_name": tx.execute(select(providers.c.name).where(providers.c.id == built["provider"])).scalar(),
        "state": acts.state_of(tx, "project", project),
        "policy": built["policy"],
        "bundle_sha256": built["bundle_sha256"],
        "contract": agreed[0] if agreed else {},
        "contracts": agreed,
        "sites": sorted({site for _, site in where.values()}),
        "invoices": bills,
        "payments": paid,
        "serials": [_traced(row, where, listed) for row in bought],
        "listing": story,
        "availability": listing.availability_of(tx, names, since.date().isoformat(), "9999-12-31"),
        "served": listing.served(tx, built["provider"], uuids, since, now or since + timedelta(days=36_500)),
        "acts": [{key: step[key] for key in ("act", "by", "role", "at", "reason")} for step in steps],
    }
    granted = acts.told(tx, "project", project, "assess")
    if granted is not None:
        return {**found, "computation": granted["computation"], "amount_fen": granted["amount_fen"], "reasons": []}
    rate = policy.value_at(RATE, now) if policy is not None and now is not None else None
    return {**found, **_computed(tx, project, agreed, bills, int(rate or 0))}


def _papers(tx: Connection, ids: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    query = select(invoices.c.number).where(invoices.c.contract.in_(ids)).order_by(invoices.c.seq)
    bills = [bill for bill in (contracts.invoice(tx, each) for each in tx.execute(query).scalars().all()) if bill]
    chosen = select(slips).where(slips.c.invoice.in_([bill["number"] for bill in bills])).order_by(slips.c.seq)
    paid = [
        {
            **{key: row[key] for key in ("reference", "invoice", "amount_fen", "sha256")},
            "paid_at": timestamp(from_ms(row["paid_at_ms"])),
        }
        for row in tx.execute(chosen).mappings()
    ]
    return bills, paid


def _computed(
    tx: Connection, project: str, agreed: list[dict[str, Any]], bills: list[dict[str, Any]], rate_bp: int
) -> dict[str, Any]:
    """Each contract on its own, what one paid never counts for another; together within the project's room."""
    room, amount = store.balance(tx, project_room(project)).available, 0
    steps: list[dict[str, Any]] = []
    reasons: set[str] = set()
    for each in agreed:
        own = [bill for bill in bills if bill["contract"] == each["id"] and bill["corrects"] is None]
        assessed = assess_server(
            items=each["items"],
            paid_fen=sum(bill["paid_fen"] for bill in own),
            invoiced_fen=sum(bill["net_fen"] for bill in own),
            rate_bp=rate_bp,
            project_room_fen=room - amount,
            contract=each["id"],
        )
        amount += assessed.amount_fen
        steps += [step.document() for step in assessed.steps]
        reasons |= set(assessed.reasons)
    return {"computation": steps, "amount_fen": amount, "reasons": sorted(reasons)}


def _where(tx: Connection, uuids: list[str]) -> dict[str, tuple[str, str]]:
    """Each device's (pool, site)."""
    query = (
        select(devices.c.uuid, nodes.c.pool, pools.c.site)
        .join(nodes, nodes.c.id == devices.c.node)
        .join(pools, pools.c.id == nodes.c.pool)
        .where(devices.c.uuid.in_(uuids))
    )
    return {row.uuid: (row.pool, row.site) for row in tx.execute(query)}


def _traced(row: Any, where: dict[str, tuple[str, str]], listed: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    intervals = listed.get(where.get(row["device"], ("", ""))[0], [])
    return {
        **{key: row[key] for key in ("serial", "device", "model")},
        "listed_from": intervals[0]["from"] if intervals else None,
        "listed_to": intervals[-1]["to"] if intervals else None,
    }
