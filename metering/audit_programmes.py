"""Audit of the programmes: acts, papers, clearing, refunds, listings. Each law gives the first broken record, or None."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, func, select

from metering import clawback, refunding
from metering.ledger import Code, Phase, clearing_room
from metering.lifecycle import APART, MACHINES, NONE
from metering.programme_schema import (
    acts,
    clearing_items,
    contracts,
    invoices,
    listing_events,
    payments,
    refunds,
    states,
)
from metering.schema import accounts, reviews, settlements, transfers
from scheduler.journal import rows
from scheduler.schema import pools

Broken = tuple[str, str]


def laws(tx: Connection) -> list[tuple[str, Callable[[], Broken | None]]]:
    """Every law of the programmes by name."""
    return [
        ("cases stand where their acts left them, each act its role's", lambda: _cases(tx)),
        ("invoices stay within their contracts", lambda: _invoices(tx)),
        ("no batch takes up more than is due", lambda: _cleared(tx)),
        ("no batch is paid more than was approved", lambda: _paid(tx)),
        ("refunds gave each its own share", lambda: _refunded(tx)),
        ("reviews are open or answered as their acts say", lambda: _reviews(tx)),
        ("pools are listed as their story says", lambda: _listed(tx)),
    ]


def _cases(tx: Connection) -> Broken | None:
    now: dict[tuple[str, str], tuple[str, int]] = {}
    did: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows(tx, acts):
        name, case = f"acts:{row['seq']}", (row["kind"], row["subject"])
        step = MACHINES.get(row["kind"], {}).get(row["act"])
        before = now.get(case, (NONE, 0))[0]
        if step is None:
            return name, f"{row['kind']} has no act {row['act']}"
        if row["before"] != before:
            return name, f"begins at {row['before']}, the case stood at {before}"
        if before not in step.before or row["after"] != (step.after or before):
            return name, f"{row['act']} does not lead from {before} to {row['after']}"
        if row["role"] not in step.roles:
            return name, f"{row['act']} is not for {row['role']}"
        for first, second in APART.get(row["kind"], ()):
            if row["act"] == second and did.get(case, {}).get(first) == row["by"]:
                return name, f"{row['by']} did both {first} and {second}"
        did.setdefault(case, {})[row["act"]] = row["by"]
        now[case] = (row["after"], row["seq"])
    stored = {
        (row["kind"], row["subject"]): (row["state"], row["act_seq"]) for row in tx.execute(select(states)).mappings()
    }
    for case in sorted({*now, *stored}):
        if now.get(case) != stored.get(case):
            return f"states:{case[0]}:{case[1]}", f"says {stored.get(case)}, its acts say {now.get(case)}"
    return None


def _invoices(tx: Connection) -> Broken | None:
    agreed = {row["id"]: row for row in rows(tx, contracts)}
    billed: dict[str, int] = {}
    for row in rows(tx, invoices):
        name, contract = f"invoices:{row['seq']}", agreed.get(row["contract"])
        if contract is None:
            return name, f"cites contract {row['contract']}, which is not on record"
        if (row["issuer"], row["buyer"]) != (contract["seller"], contract["buyer"]):
            return name, "its parties are not the contract's"
        billed[row["contract"]] = billed.get(row["contract"], 0) + row["amount_fen"]
        if billed[row["contract"]] > contract["amount_fen"]:
            return name, f"{billed[row['contract']]} fen billed of {contract['amount_fen']}"
    return None


def _cleared(tx: Connection) -> Broken | None:
    for job in sorted(set(tx.execute(select(clearing_items.c.job)).scalars())):
        due, back = clawback.due_of(tx, job), clawback.cases_of(tx, job)
        for (provider, year), fen in clawback.cleared_of(tx, job).items():
            most = max(due.get((provider, year), 0), 0) + back.all_of((provider, year))
            if fen > most:
                return f"clearing_items:{job}", f"{fen} fen cleared for {provider} in {year}, {most} due or clawed back"
    return None


def _paid(tx: Connection) -> Broken | None:
    total = select(clearing_items.c.batch, func.sum(clearing_items.c.deduction_fen).label("fen")).group_by(
        clearing_items.c.batch
    )
    most = {row.batch: int(row.fen) for row in tx.execute(total)}
    paid: dict[str, int] = {}
    for row in rows(tx, payments):
        sign = 1 if row["returns"] is None else -1
        paid[row["batch"]] = paid.get(row["batch"], 0) + sign * row["amount_fen"]
        if not 0 <= paid[row["batch"]] <= most.get(row["batch"], 0):
            return f"payments:{row['seq']}", f"{paid[row['batch']]} fen paid of {most.get(row['batch'], 0)}"
    for batch, fen in sorted(paid.items()):
        account = tx.execute(select(accounts).where(accounts.c.id == clearing_room(batch))).mappings().first()
        beside = (Code.RECOVER.value, Code.WITHDRAW.value)
        offset = select(func.coalesce(func.sum(transfers.c.amount_fen), 0)).where(
            transfers.c.debit == clearing_room(batch), transfers.c.code.in_(beside)
        )
        gone = fen + int(tx.execute(offset).scalar_one())
        if account is None or account["credits_posted"] - account["debits_posted"] != most[batch] - gone:
            return (
                f"accounts:{clearing_room(batch)}",
                f"{gone} fen left a batch of {most[batch]}, its room says otherwise",
            )
    return None


def _refunded(tx: Connection) -> Broken | None:
    for job in sorted(set(tx.execute(select(refunds.c.job)).scalars())):
        query = select(settlements.c.id).where(settlements.c.job == job).order_by(settlements.c.number.desc())
        parts = refunding.shares(tx, job, str(tx.execute(query).scalar()))
        wanted = {
            Code.REFUND_FEE: sum(part.firm_fen for part in parts),
            Code.REFUND_SUBSIDY: sum(part.voucher_fen for part in parts),
        }
        for code, fen in wanted.items():
            moved = 0
            out = select(transfers.c.debit, transfers.c.amount_fen).where(
                transfers.c.job == job, transfers.c.code == code.value, transfers.c.phase == Phase.POSTED.value
            )
            for row in tx.execute(out):
                moved += row.amount_fen if row.debit.startswith("provider:") else -row.amount_fen
            if moved != fen:
                return f"refunds:{job}", f"{moved} fen moved as {code.value}, the refunds come to {fen}"
    return None


def _reviews(tx: Connection) -> Broken | None:
    known = {
        row.subject: row.state
        for row in tx.execute(select(states.c.subject, states.c.state).where(states.c.kind == "review"))
    }
    for row in tx.execute(select(reviews)).mappings():
        said = "open" if row["closed_at_ms"] is None else "closed"
        # An item opened before acts were kept has none; it may still wait, and closing it is an act.
        if known.pop(row["id"], "open" if said == "open" else None) != said:
            return f"reviews:{row['id']}", f"says {said}, its acts do not"
    return next(((f"reviews:{subject}", "the item was removed") for subject in sorted(known)), None)


def _listed(tx: Connection) -> Broken | None:
    last: dict[str, Any] = {row["pool"]: row["status"] for row in rows(tx, listing_events)}
    for row in tx.execute(select(pools.c.id, pools.c.listed)):
        if (last.get(row.id, "listed") == "listed") != bool(row.listed):
            return f"pools:{row.id}", f"listed is {row.listed}, its story says {last.get(row.id, 'listed')}"
    return None
