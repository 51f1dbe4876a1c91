"""Rooms over time: alerts when one fills up, and the close of a year."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, or_, select

from metering import acts, store, tranche
from metering.acts import Actor
from metering.ledger import PROGRAMME, AccountId, Code, Phase, Transfer, bounded, is_firm_room, lapsed
from metering.parameters import Policy
from metering.schema import accounts, cap_subjects, holds, reviews, transfers
from metering.year import year_start
from scheduler.refusal import Refusal

ALERTS = {"alert.room_drawn.first": 8000, "alert.room_drawn.second": 9500}  # design §5: every cap alerts at 80% and 95%
TAIL_DAYS = "compute_voucher.tail_settlement_days"


def raise_alerts(tx: Connection, policy: Policy, now: datetime) -> int:
    """A review item for every room of an open year whose drawn part has passed a threshold; each once."""
    thresholds = sorted(
        int(policy.value_at(key, now) or default) for key, default in ALERTS.items() if key in policy.parameters
    )
    thresholds = thresholds or sorted(ALERTS.values())
    used = accounts.c.debits_posted
    caps = or_(accounts.c.id.startswith("pool:"), accounts.c.id.startswith("room:"))
    query = select(accounts).where(
        accounts.c.bounded == 1,
        caps,
        accounts.c.credits_posted > 0,
        used * 10_000 >= accounts.c.credits_posted * thresholds[0],
    )
    raised = set(tx.execute(select(reviews.c.id).where(reviews.c.code.startswith("CAP_ALERT_"))).scalars())
    found = 0
    shared = {(row.firm, row.year) for row in tx.execute(select(cap_subjects))}
    for row in tx.execute(query).mappings():
        cap = _cap(row, policy)
        share = (cap - row["credits_posted"] + row["debits_posted"]) * 10_000 // cap
        if is_firm_room(row["id"]) and _firm_and_year(row["id"]) in shared:
            continue  # the shared room is the one that fills up
        codes = [f"CAP_ALERT_{threshold // 100}" for threshold in thresholds if share >= threshold]
        new = [code for code in codes if f"{code}:{row['id']}" not in raised]
        if not new or row["id"].startswith("room:clearing:") or _closed(tx, row):
            continue
        facts = {"room": row["id"], "share_bp": share, "cap_fen": cap, "policy": policy.id}
        for code in new:
            store.open_review(tx, code=code, subject=row["id"], facts=facts, now=now, again=False)
            found += 1
    return found


def _cap(row: RowMapping, policy: Policy) -> int:
    """What the room began as: what came back to it since, or went out to tranches and back, is no more of it."""
    programme, _, year = str(row["id"]).rpartition(":")
    number = int(year) if year.isdigit() else 0
    if programme == f"pool:{PROGRAMME}" and number in policy.pool_fen:
        return policy.pool_fen[number]
    if programme.startswith("room:linked:") and number in policy.firm_cap_fen:
        return policy.firm_cap_fen[number]
    return int(row["credits_posted"])


def _firm_and_year(room: str) -> tuple[str, int]:
    parts = room.split(":")
    return parts[1], int(parts[3]) if parts[3].isdigit() else 0


def _closed(tx: Connection, row: RowMapping) -> bool:
    programme, _, year = str(row["id"]).rpartition(":")
    return acts.state_of(tx, "year", f"{programme.rsplit(':', 1)[-1]}:{year}") == "closed"


def year_closed(tx: Connection, year: int, programme: str = PROGRAMME) -> bool:
    """True once the year was closed: nothing of it can be drawn, what comes back lapses."""
    return acts.state_of(tx, "year", f"{programme}:{year}") == "closed"


def close_year(
    tx: Connection, policy: Policy, year: int, actor: Actor, reason: str, now: datetime, programme: str = PROGRAMME
) -> dict[str, Any] | Refusal:
    """Nothing of the year can be drawn any more; what is left of its pool and of every firm's room has lapsed (R25).

    Refused before the year is over and its settlement tail has passed, and while a hold of the year is open.
    """
    begun = year_start(year, policy.zone)
    tail = policy.value_at(TAIL_DAYS, begun) if TAIL_DAYS in policy.parameters else None
    days = tail if isinstance(tail, int) else 0  # "without_limit": only the decision to close ends it
    from_then = year_start(year + 1, policy.zone) + timedelta(days=days)
    if now < from_then:
        return Refusal(code="YEAR_NOT_OVER", facts={"year": year, "not_before": from_then.date().isoformat()})
    open_holds = tx.execute(select(holds.c.lease).where(holds.c.year == year, holds.c.state == "held")).scalars().all()
    if open_holds:
        return Refusal(code="HOLDS_OPEN", facts={"year": year, "leases": sorted(set(open_holds))[:10]})
    done = acts.act(tx, "year", f"{programme}:{year}", "close", actor, now, reason=reason)
    if isinstance(done, Refusal):
        return done
    if programme == PROGRAMME:
        tranche.give_back_year(tx, year, now)
    fen = lapse(tx, year, f"close:{programme}:{year}", now, programme)
    return {"programme": programme, "year": year, "state": done, "lapsed_fen": fen}


def lapse(tx: Connection, year: int, key: str, now: datetime, programme: str = PROGRAMME) -> int:
    """What rooms of a closed year hold has moved to what lapsed; returns what left the pool. key: of this sweep."""
    left_pool = 0
    query = select(accounts).where(
        accounts.c.bounded == 1, accounts.c.id.endswith(f":{programme}:{year}", autoescape=True)
    )
    for row in list(tx.execute(query.order_by(accounts.c.id.desc())).mappings()):
        left = row["credits_posted"] - row["debits_posted"] - row["debits_pending"]
        if left:
            transfer = Transfer(
                id=f"{key}:{row['id']}",
                phase=Phase.POSTED,
                code=Code.LAPSE,
                debit=AccountId(row["id"]),
                credit=lapsed(year, programme),
                amount_fen=left,
            )
            store.post(tx, transfer, now)
            left_pool += left if row["id"].startswith("pool:") else 0
    return left_pool


def lapse_returned(tx: Connection, year: int, job: str, settlement: str, now: datetime) -> None:
    """What a settlement brought back to rooms of a closed year, net, has lapsed, on record as this job's.

    So that a later correction of the job may draw at most that again.
    """
    query = select(transfers.c.debit, transfers.c.credit, transfers.c.amount_fen).where(
        transfers.c.job == job,
        transfers.c.settlement == settlement,
        transfers.c.phase.in_((Phase.POSTED.value, Phase.POST.value)),
    )
    net: dict[AccountId, int] = {}
    for row in tx.execute(query):
        net[row.debit] = net.get(row.debit, 0) - row.amount_fen
        net[row.credit] = net.get(row.credit, 0) + row.amount_fen
    ending = f":{PROGRAMME}:{year}"
    batch = [
        Transfer(
            id=f"{settlement}:lapse:{room}",
            phase=Phase.POSTED,
            code=Code.LAPSE,
            debit=room,
            credit=lapsed(year),
            amount_fen=fen,
            job=job,
            settlement=settlement,
        )
        for room, fen in sorted(net.items())
        if fen > 0 and room.endswith(ending) and bounded(room)
    ]
    store.post_all(tx, batch, now)
