"""Pricing: dated prices of pools. What has started is frozen; a back-dated change is proposed, shown, and agreed by two."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import uuid_utils
from sqlalchemy import Connection, func, select

from adapters.chain import timestamp
from metering import acts, clawback, posting
from metering.acts import Actor
from metering.amount import fee_fen
from metering.programme_schema import price_corrections
from metering.refunding import IN_CLEARING
from metering.schema import prices, settlements
from scheduler import journal
from scheduler.clock import from_ms, to_ms
from scheduler.refusal import Refusal
from scheduler.schema import leases, pools, usage_records

if TYPE_CHECKING:
    from metering.budget import VoucherBudget


def affected(tx: Connection, pool: str, start: datetime, fen: int) -> list[dict[str, Any]]:
    """Leases of the pool reserved from `start` until the next recorded price, with what they were and would be charged:
    {lease, job, settlement, state, fee_fen, new_fee_fen}. A lease keeps the price it began with, so no other is touched."""
    found = []
    later = select(func.min(prices.c.from_ms)).where(prices.c.pool == pool, prices.c.from_ms > to_ms(start))
    until = tx.execute(later).scalar()
    query = select(leases).where(leases.c.pool == pool, leases.c.reserved_at_ms >= to_ms(start))
    if until is not None:
        query = query.where(leases.c.reserved_at_ms < until)
    for lease in tx.execute(query.order_by(leases.c.reserved_at_ms, leases.c.id)).mappings():
        runs = select(usage_records).where(usage_records.c.lease == lease["id"], usage_records.c.kind == "run")
        rows = list(tx.execute(runs).mappings())
        latest = select(settlements.c.id).where(settlements.c.job == lease["job"]).order_by(settlements.c.number.desc())
        settlement = tx.execute(latest).scalar()
        spans = [
            (r["devices"] * (r["end_ms"] - r["start_ms"]), r["share_permille"], r["price_fen_per_device_hour"])
            for r in rows
        ]
        found.append(
            {
                "lease": lease["id"],
                "job": lease["job"],
                "settlement": settlement,
                "state": acts.state_of(tx, "settlement", settlement) if settlement else None,
                "fee_fen": sum(fee_fen(price, ms, share) for ms, share, price in spans),
                "new_fee_fen": sum(fee_fen(fen, ms, share) for ms, share, _ in spans),
            }
        )
    return found


def propose(
    tx: Connection, *, pool: str, fen: int, start: datetime, reason: str, actor: Actor, now: datetime
) -> dict[str, Any] | Refusal:
    """A back-dated price waits for a second person; the answer shows every settlement it would change first."""
    row = tx.execute(select(pools.c.model).where(pools.c.id == pool)).first()
    if row is None:
        return Refusal(code="POOL_UNKNOWN", facts={"pool": pool})
    if start >= now:
        return Refusal(code="PRICE_NOT_BACK_DATED", facts={"pool": pool, "from": timestamp(start)})
    subject = f"price:{pool}:{uuid_utils.uuid7()}"
    body = {"pool": pool, "model": row.model, "fen_per_device_hour": fen, "from_ms": to_ms(start)}
    done = acts.act(tx, "price", subject, "propose", actor, now, reason=reason, body=body)
    if isinstance(done, Refusal):
        return done
    return {"id": subject, "state": done, **body, "affected": affected(tx, pool, start, fen)}


def approve(
    tx: Connection, budget: VoucherBudget, subject: str, actor: Actor, reason: str, now: datetime
) -> dict[str, Any] | Refusal:
    """The back-dated price holds: recorded, its leases corrected one by one, their settlements settled again."""
    body = acts.told(tx, "price", subject, "propose")
    if body is None:
        return Refusal(code="PRICE_UNKNOWN", facts={"price": subject})
    fen, start = int(body["fen_per_device_hour"]), from_ms(body["from_ms"])
    touched = affected(tx, body["pool"], start, fen)
    blocked = [item["settlement"] for item in touched if item["state"] in IN_CLEARING]
    if blocked:
        return Refusal(code="IN_CLEARING", facts={"settlement": blocked[0], "state": "submitted"})
    done = acts.act(tx, "price", subject, "approve", actor, now, reason=reason)
    if isinstance(done, Refusal):
        return done
    recorded = {"recorded_at_ms": to_ms(now), "recorded_by": actor.by}
    values = {**{k: body[k] for k in ("pool", "model", "fen_per_device_hour", "from_ms")}, **recorded}
    seq = journal.append(tx, prices, values)
    corrected = []
    for item in touched:
        entry = {"lease": item["lease"], "fen_per_device_hour": fen, "price_seq": seq, **recorded}
        journal.append(tx, price_corrections, entry)
    for job in sorted({item["job"] for item in touched if item["state"] is not None}):
        query = select(settlements).where(settlements.c.job == job).order_by(settlements.c.number.desc())
        last = tx.execute(query).mappings().first()
        if last is not None and last["final"] and posting.differs(budget, tx, last):
            new = posting.settlement_id(job, last["number"] + 1)
            cites = {"cites": last["id"], "price": subject}
            acts.must(tx, "correction", new, "order", now, reason=reason, body=cites)
            posting.charge(budget, tx, [job], now, final=True)
            clawback.open_for(tx, job, "CORRECTED", now)
            corrected.append(new)
    return {"id": subject, "state": done, "corrected": corrected}
