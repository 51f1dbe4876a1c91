"""Statement: what a job or a firm owes and why, line by line, from the settlements on record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from adapters.chain import timestamp
from metering import store
from metering.schema import firms, settlement_lines, settlements
from scheduler.clock import from_ms, to_ms
from scheduler.schema import jobs, usage_records

TOTALS = ("fee_fen", "ceiling_fen", "deduction_fen", "payable_fen")


def job_statement(tx: Connection, job: str) -> dict[str, Any] | None:
    """The job's latest settlement, which stands for the whole job; None before its first one.

    {job, name, firm, settlement, final, settled_at, voucher, policy, bundle_sha256, spec_sha256, notices,
    lines: [... as `yisuan settle` prints them, with provider], totals, unbilled: [usage at price 0 with its cause]}.
    """
    query = select(settlements).where(settlements.c.job == job).order_by(settlements.c.number.desc())
    row = tx.execute(query).mappings().first()
    if row is None:
        return None
    name = tx.execute(select(jobs.c.name).where(jobs.c.id == job)).scalar_one()
    return {
        "job": job,
        "name": name,
        "firm": row["firm"],
        "settlement": row["id"],
        "final": bool(row["final"]),
        "settled_at": timestamp(from_ms(row["settled_at_ms"])),
        **{k: row[k] for k in ("voucher", "policy", "bundle_sha256", "spec_sha256")},
        "notices": json.loads(row["notices"]),
        "lines": lines_of(tx, row["id"]),
        "totals": {name: row[name] for name in TOTALS},
        "unbilled": _unbilled(tx, job),
    }


def lines_of(tx: Connection, settlement: str) -> list[dict[str, Any]]:
    """A settlement's lines in order, in the form of `yisuan settle` plus the provider."""
    query = select(settlement_lines).where(settlement_lines.c.settlement == settlement)
    return [_line(row) for row in tx.execute(query.order_by(settlement_lines.c.number)).mappings()]


def _line(row: Mapping[Any, Any]) -> dict[str, Any]:
    copied = ("year", "device_ms", "fee_fen", "rate_bp", "deduction_fen", "payable_fen")
    return {
        **{k: row[k] for k in ("lease", "provider", "model", "origin")},
        "start": timestamp(from_ms(row["start_ms"])),
        "end": timestamp(from_ms(row["end_ms"])),
        **{k: row[k] for k in copied},
        "reasons": json.loads(row["reasons"]),
        "clauses": json.loads(row["clauses"]),
    }


def _unbilled(tx: Connection, job: str) -> list[dict[str, Any]]:
    query = select(usage_records).where(usage_records.c.job == job, usage_records.c.price_fen_per_device_hour == 0)
    return [
        {
            **{k: row[k] for k in ("lease", "model", "kind", "cause", "devices")},
            "start": timestamp(from_ms(row["start_ms"])),
            "end": timestamp(from_ms(row["end_ms"])),
            "device_ms": row["devices"] * (row["end_ms"] - row["start_ms"]),
        }
        for row in tx.execute(query.order_by(usage_records.c.seq)).mappings()
    ]


def firm_statement(
    tx: Connection, firm: str, start: datetime | None = None, end: datetime | None = None
) -> dict[str, Any]:
    """A firm's jobs whose latest settlement was made in [start, end), their totals, and the rooms left.

    {firm, name, from, to, jobs: [{job, name, settled_at, final, totals}], totals, by_origin: {origin: {fee_fen,
    deduction_fen, payable_fen, device_ms}}, rooms: {pool, firm}, right}.
    """
    query = select(settlements).where(settlements.c.firm == firm).order_by(settlements.c.seq)
    latest: dict[str, RowMapping] = {}
    for row in tx.execute(query).mappings():
        latest[row["job"]] = row
    kept = [
        row
        for row in latest.values()
        if (start is None or row["settled_at_ms"] >= to_ms(start))
        and (end is None or row["settled_at_ms"] < to_ms(end))
    ]
    names = {row.id: row.name for row in tx.execute(select(jobs.c.id, jobs.c.name).where(jobs.c.firm == firm))}
    by_origin: dict[str, dict[str, int]] = {}
    for row in kept:
        for line in lines_of(tx, row["id"]):
            total = by_origin.setdefault(line["origin"], {})
            for name in ("fee_fen", "deduction_fen", "payable_fen", "device_ms"):
                total[name] = total.get(name, 0) + line[name]
    return {
        "firm": firm,
        "name": tx.execute(select(firms.c.name).where(firms.c.id == firm)).scalar(),
        "from": timestamp(start) if start else None,
        "to": timestamp(end) if end else None,
        "jobs": [
            {
                "job": row["job"],
                "name": names[row["job"]],
                "settled_at": timestamp(from_ms(row["settled_at_ms"])),
                "final": bool(row["final"]),
                "totals": {name: row[name] for name in TOTALS},
            }
            for row in kept
        ],
        "totals": {name: sum(row[name] for row in kept) for name in TOTALS},
        "by_origin": by_origin,
        "rooms": {kind: {str(y): fen for y, fen in years.items()} for kind, years in store.rooms(tx, firm).items()},
        "right": store.right_of(tx, firm),
    }
