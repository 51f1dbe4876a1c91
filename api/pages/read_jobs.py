"""Read jobs: what the pages about jobs and money show, as plain values from read-only SQL."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from api import texts
from api.problems import Problem
from metering.schema import firms, settlements
from metering.statement import job_statement
from scheduler import store
from scheduler.lease import LeaseId
from scheduler.lifecycle import State
from scheduler.ports import Backend
from scheduler.schema import jobs, leases, pools
from scheduler.view import members_of

PAGE = 50
TAIL_BYTES = 16_384
TAIL_LINES = 80
LOG_CEILING = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A line of the job list. pool and model are those of its latest lease; money of its latest settlement."""

    id: str
    name: str
    firm: str
    queue: str
    state: State
    submitted_at_ms: int
    pool: str | None
    model: str | None
    device_count: int | None
    fee_fen: int | None
    payable_fen: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRow:
    rank: int
    node: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRow:
    """One attempt: where it ran and how it ended."""

    id: str
    pool: str
    backend: str
    provider: str
    model: str
    simulated: bool
    device_count: int
    price_fen_per_device_hour: int
    reserved_at_ms: int
    started_at_ms: int | None
    released_at_ms: int | None
    cause: str | None
    exit_code: int | None
    members: tuple[MemberRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """Everything the page of one job shows; statement None before the first settlement."""

    row: Mapping[str, Any]
    state: State
    firm_name: str
    spec: Mapping[str, Any]
    pending: Mapping[str, Any] | None
    story: tuple[Mapping[str, Any], ...]
    leases: tuple[LeaseRow, ...]
    statement: Mapping[str, Any] | None


def job_list(
    tx: Connection, mine: ColumnElement[bool], state: str | None = None, before: str | None = None
) -> tuple[tuple[JobRow, ...], str | None]:
    """Newest first, PAGE at a time; and where the next page begins, None on the last one."""
    newest = select(leases.c.job, func.max(leases.c.reserved_at_ms).label("at")).group_by(leases.c.job).subquery()
    settled = (
        select(settlements.c.job, func.max(settlements.c.number).label("number")).group_by(settlements.c.job).subquery()
    )
    query = (
        select(jobs, firms.c.name.label("firm_name"), leases.c.pool, leases.c.model, leases.c.device_count,
               settlements.c.fee_fen, settlements.c.payable_fen)
        .outerjoin(firms, firms.c.id == jobs.c.firm)
        .outerjoin(newest, newest.c.job == jobs.c.id)
        .outerjoin(leases, (leases.c.job == jobs.c.id) & (leases.c.reserved_at_ms == newest.c.at))
        .outerjoin(settled, settled.c.job == jobs.c.id)
        .outerjoin(settlements, (settlements.c.job == jobs.c.id) & (settlements.c.number == settled.c.number))
        .where(mine)
    )  # fmt: skip
    if state is not None:
        query = query.where(jobs.c.state == state)
    if before is not None:
        edge = tx.execute(select(jobs.c.submitted_at_ms).where(jobs.c.id == before)).scalar()
        if edge is not None:
            older = jobs.c.submitted_at_ms < edge
            query = query.where(older | ((jobs.c.submitted_at_ms == edge) & (jobs.c.id < before)))
    query = query.order_by(jobs.c.submitted_at_ms.desc(), jobs.c.id.desc()).limit(PAGE + 1)
    found = [_job_row(dict(row)) for row in tx.execute(query).mappings()]
    return tuple(found[:PAGE]), found[PAGE - 1].id if len(found) > PAGE else None


def _job_row(row: Mapping[str, Any]) -> JobRow:
    copied = ("id", "name", "queue", "submitted_at_ms", "pool", "model", "device_count", "fee_fen", "payable_fen")
    return JobRow(firm=row["firm_name"] or row["firm"], state=State(row["state"]), **{k: row[k] for k in copied})


def job_page(tx: Connection, job: str, mine: ColumnElement[bool]) -> JobPage | None:
    """The job, None when there is none or the visitor may not know of it."""
    row = tx.execute(select(jobs).where(jobs.c.id == job, mine)).mappings().first()
    if row is None:
        return None
    name = tx.execute(select(firms.c.name).where(firms.c.id == row["firm"])).scalar()
    return JobPage(
        row=dict(row),
        state=State(row["state"]),
        firm_name=str(name or row["firm"]),
        spec=json.loads(row["spec"]),
        pending=json.loads(row["pending"]) if row["pending"] else None,
        story=store.story(tx, job),
        leases=_leases(tx, job),
        statement=job_statement(tx, job),
    )


def _leases(tx: Connection, job: str) -> tuple[LeaseRow, ...]:
    query = select(leases, pools.c.provider).join(pools, pools.c.id == leases.c.pool).where(leases.c.job == job)
    copied = (
        *("id", "pool", "backend", "provider", "model", "device_count", "price_fen_per_device_hour", "reserved_at_ms"),
        *("started_at_ms", "released_at_ms", "cause", "exit_code"),
    )
    return tuple(
        LeaseRow(
            **{name: row[name] for name in copied},
            simulated=row["source"] == "simulated",
            members=tuple(MemberRow(rank=m.rank, node=m.node, devices=m.devices) for m in members_of(tx, row["id"])),
        )
        for row in tx.execute(query.order_by(leases.c.reserved_at_ms.desc())).mappings()
    )


def log_tail(backends: Mapping[str, Backend], lease: LeaseRow, rank: int) -> tuple[str, bool]:
    """The last lines a member wrote, and whether more came before them. Bytes that are no UTF-8 are shown as such."""
    backend = backends.get(lease.backend)
    if backend is None:
        return "", False

    def reaches(offset: int) -> bool:
        return bool(backend.logs(LeaseId(lease.id), rank, offset=offset, limit=1))

    try:
        end = _length(reaches)
    except Problem as elsewhere:
        return "\n".join(texts.text(elsewhere.code, elsewhere.facts, lang) for lang in ("zh", "en")), False
    start = max(0, end - TAIL_BYTES)
    text = backend.logs(LeaseId(lease.id), rank, offset=start, limit=TAIL_BYTES).decode("utf-8", "replace")
    lines = text.splitlines()
    if start and lines:
        lines = lines[1:]  # probably half a line
    return "\n".join(lines[-TAIL_LINES:]), start > 0 or len(lines) > TAIL_LINES


def _length(reaches: Any) -> int:
    """How many bytes there are, by doubling and halving: a port that only reads has no better question."""
    if not reaches(0):
        return 0
    low, high = 0, 1  # the byte at low exists
    while high < LOG_CEILING and reaches(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if reaches(middle) else (low, middle)
    return low + 1


def firm_of(tx: Connection, firm: str) -> str | None:
    """The firm's name, None when it is not known."""
    name = tx.execute(select(firms.c.name).where(firms.c.id == firm)).scalar()
    return None if name is None else str(name)
