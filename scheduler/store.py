"""Store of the work side: jobs and the lease journal. Every function takes an open transaction.

The lease journal is the spine: `reserve` takes devices and money together or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update
from sqlalchemy.exc import IntegrityError

from adapters.chain import canonical
from scheduler import journal
from scheduler.clock import to_ms
from scheduler.job import JobId, JobSpec
from scheduler.jobfile import canonical_form, elements_of, from_canonical, spec_hash
from scheduler.lease import Cause, Lease, LeaseId
from scheduler.lifecycle import Event, State, advance
from scheduler.plan import Launch, Pending, PendingKind
from scheduler.ports import Budget, Held
from scheduler.refusal import Refusal
from scheduler.schema import counters, job_events, jobs, lease_devices, leases, nodes, pools, usage_records
from scheduler.stopping import overdue
from scheduler.usage import UsageRecord

VERSION = "snapshot_version"
OPERATOR = "operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """What a plan assumed is no longer so; the next tick plans again. Nothing was taken."""

    job: JobId
    what: str


def text_of(value: Any) -> str:
    """Canonical JSON text, the one form JSON takes in a column."""
    return canonical(value).decode()


# --- jobs ---------------------------------------------------------------------------------------------------------


def submit(tx: Connection, *, job: JobId, firm: str, spec: JobSpec, now: datetime) -> tuple[JobId, ...]:
    """The job waits in its queue; its canonical form and hash are what the bill will cite. Returns the ids that wait.

    Of an array each element waits as a job of its own, `<job>-<index>` with as many digits as the last has; `job` is then
    the id they share, and no job has it.
    """
    ids = []
    for index, name, element in elements_of(job, spec):
        tx.execute(
            insert(jobs).values(
                id=name,
                name=element.name,
                firm=firm,
                queue=element.queue,
                priority=element.priority.value,
                spec=text_of(canonical_form(element)),
                spec_sha256=spec_hash(element),
                submitted_at_ms=to_ms(now),
                state=State.SUBMITTED.value,
                deadline_at_ms=to_ms(element.deadline) if element.deadline else None,
                array_id=job if spec.array else None,
                array_index=index,
                array_parallel=spec.array.parallel if spec.array else None,
            )
        )
        facts = {"array": job, "index": index} if spec.array else {}
        _tell(tx, name, None, now, "submitted", None, State.SUBMITTED, facts)
        ids.append(name)
    touch(tx)
    return tuple(ids)


def array_jobs(tx: Connection, array: str) -> list[RowMapping]:
    """The elements of an array in order; [] where no array has this id."""
    query = select(jobs).where(jobs.c.array_id == array).order_by(jobs.c.array_index)
    return list(tx.execute(query).mappings())


def hold_back(tx: Connection, job: JobId, by: str, now: datetime) -> Refusal | None:
    """A waiting job starts only when it is let go. by: the role that holds it. Repeating is harmless.

    An operator's hold takes the place of a firm's. A job that has devices or has ended is refused.
    """
    row = job_row(tx, job)
    if row is None:
        return Refusal(code="JOB_UNKNOWN", facts={"job": job})
    state = State(row["state"])
    if state not in (State.SUBMITTED, State.PENDING):
        return Refusal(code="JOB_NOT_WAITING", facts={"job": job, "state": state.value})
    if row["held_by"] in (by, OPERATOR):
        return None
    move(tx, job, Event.HELD, now, facts={"by": by}, held_by=by)
    return None


def let_go(tx: Connection, job: JobId, by: str, now: datetime) -> Refusal | None:
    """The job may start again; one that nobody holds stays as it is. What an operator holds only an operator lets go."""
    row = job_row(tx, job)
    if row is None:
        return Refusal(code="JOB_UNKNOWN", facts={"job": job})
    if row["held_by"] is None:
        return None
    if row["held_by"] == OPERATOR and by != OPERATOR:
        return Refusal(code="JOB_HELD_BY_OPERATOR", facts={"job": job})
    if State(row["state"]).terminal:
        return Refusal(code="JOB_ENDED", facts={"job": job, "state": row["state"]})
    move(tx, job, Event.LET_GO, now, facts={"by": by}, held_by=None)
    return None


def request_cancel(tx: Connection, job: JobId, now: datetime) -> Refusal | None:
    """The job will be stopped; a waiting one is cancelled at once. Repeating is harmless, an ended job refuses."""
    row = tx.execute(select(jobs).where(jobs.c.id == job)).mappings().first()
    if row is None:
        return Refusal(code="JOB_UNKNOWN", facts={"job": job})
    state = State(row["state"])
    if state.terminal:
        if row["cancel_requested_at_ms"] is not None:
            return None
        return Refusal(code="JOB_ENDED", facts={"job": job, "state": state.value})
    if row["cancel_requested_at_ms"] is None:
        tx.execute(update(jobs).where(jobs.c.id == job).values(cancel_requested_at_ms=to_ms(now)))
    if not state.holds_devices:
        move(tx, job, Event.CANCELLED, now, facts={"by": "user"})
    return None


def job_row(tx: Connection, job: str) -> RowMapping | None:
    return tx.execute(select(jobs).where(jobs.c.id == job)).mappings().first()


def spec_of(row: Mapping[Any, Any]) -> JobSpec:
    return from_canonical(json.loads(row["spec"]))


@lru_cache(maxsize=1 << 14)
def parsed(text: str) -> JobSpec:
    """The job of a stored canonical form; what is asked for often is parsed once."""
    return spec_of({"spec": text})


def story(tx: Connection, job: str) -> tuple[dict[str, Any], ...]:
    """Every event of a job in order: {seq, at_ms, event, state_from, state_to, lease, facts}."""
    found = tx.execute(select(job_events).where(job_events.c.job == job).order_by(job_events.c.seq)).mappings()
    return tuple(
        {
            **{k: row[k] for k in ("seq", "at_ms", "event", "state_from", "state_to", "lease")},
            "facts": json.loads(row["facts"]),
        }
        for row in found
    )


def move(
    tx: Connection,
    job: JobId,
    event: Event,
    now: datetime,
    *,
    lease: LeaseId | None = None,
    facts: Mapping[str, Any] | None = None,
    **columns: Any,
) -> State:
    """Advance a job along the state table and journal it; InvalidTransition (with the story) where it may not go."""
    row = tx.execute(select(jobs.c.state).where(jobs.c.id == job)).one()
    before = State(row.state)
    told = [e["event"] for e in story(tx, job)]
    after = advance(job, before, event, told)
    values: dict[str, Any] = {"state": after.value, "version": jobs.c.version + 1, **columns}
    if after.terminal:
        values |= {"ended_at_ms": to_ms(now), "pending": None}
    tx.execute(update(jobs).where(jobs.c.id == job).values(**values))
    _tell(tx, job, lease, now, event.value, before, after, facts or {})
    touch(tx)
    return after


def requeue(
    tx: Connection, job: JobId, state: State, now: datetime, *, lease: LeaseId, facts: Mapping[str, Any]
) -> None:
    """The job waits again in its old place, for its next attempt; its lease has ended as the facts say."""
    if state is not State.RESERVED:
        move(tx, job, Event.INTERRUPTED, now, lease=lease, facts=facts)
    move(tx, job, Event.REQUEUED, now, lease=lease, facts=facts)


def set_pending(tx: Connection, job: JobId, pending: Pending, document: Mapping[str, Any], now: datetime) -> None:
    """Keep why a job waits; the story gets a line only when the code changes."""
    row = tx.execute(select(jobs.c.state, jobs.c.pending, jobs.c.pending_since_ms).where(jobs.c.id == job)).one()
    if State(row.state) not in (State.SUBMITTED, State.PENDING):
        return
    before = json.loads(row.pending) if row.pending else {}
    same = before.get("code") == pending.code
    since = row.pending_since_ms if same and row.pending_since_ms else to_ms(now)
    body = {**document, "since": since}
    if not same or State(row.state) is State.SUBMITTED:
        move(tx, job, Event.EVALUATED, now, facts={"code": pending.code, "scope": pending.scope})
    if body != before:
        tx.execute(update(jobs).where(jobs.c.id == job).values(pending=text_of(body), pending_since_ms=since))


def _tell(
    tx: Connection,
    job: str,
    lease: str | None,
    now: datetime,
    event: str,
    before: State | None,
    after: State,
    facts: Mapping[str, Any],
) -> None:
    journal.append(
        tx,
        job_events,
        {
            "job": job,
            "lease": lease,
            "at_ms": to_ms(now),
            "event": event,
            "state_from": before.value if before else None,
            "state_to": after.value,
            "facts": text_of(dict(facts)),
        },
    )


# --- leases -------------------------------------------------------------------------------------------------------


def reserve(
    tx: Connection, launch: Launch, lease: Lease, budget: Budget, based_on: int, now: datetime
) -> Held | Conflict | Refusal:
    """Devices and money are held for the lease, or neither: one savepoint around guarded inserts and the hold.

    Optimistic: the plan may be older than the database (`based_on`), so every assumption is checked again here.
    """
    savepoint = tx.begin_nested()
    outcome = _reserve(tx, launch, lease, budget, based_on, now)
    if isinstance(outcome, Held):
        savepoint.commit()
    else:
        savepoint.rollback()
    return outcome


def _reserve(
    tx: Connection, launch: Launch, lease: Lease, budget: Budget, based_on: int, now: datetime
) -> Held | Conflict | Refusal:
    job = tx.execute(select(jobs).where(jobs.c.id == lease.job)).mappings().one()
    if State(job["state"]) not in (State.SUBMITTED, State.PENDING) or job["cancel_requested_at_ms"] is not None:
        return Conflict(job=lease.job, what=f"job is {job['state']}")
    if job["held_by"] is not None:
        return Conflict(job=lease.job, what=f"job is held by {job['held_by']}")
    if overdue(job, to_ms(now)):
        return Conflict(job=lease.job, what="its deadline has come")
    where = {member.node: member for member in launch.placement.members}
    usable = tx.execute(select(nodes.c.id).where(nodes.c.id.in_(list(where)), nodes.c.schedulable == 1)).scalars()
    missing = sorted(set(where) - set(usable))
    if missing:
        return Conflict(job=lease.job, what=f"nodes not schedulable: {', '.join(missing)}")
    pool = tx.execute(select(pools).where(pools.c.id == launch.placement.pool)).mappings().one()
    if pool["price_fen_per_device_hour"] != lease.price_fen_per_device_hour:
        return Conflict(job=lease.job, what="the price changed")
    try:
        tx.execute(
            insert(leases).values(
                id=lease.id,
                job=lease.job,
                firm=lease.firm,
                queue=lease.spec.queue,
                pool=launch.placement.pool,
                backend=lease.backend,
                model=launch.placement.model,
                source=pool["source"],
                device_count=launch.placement.device_count,
                price_fen_per_device_hour=lease.price_fen_per_device_hour,
                time_limit_ms=lease.spec.time_limit_ms,
                based_on=based_on,
                reserved_at_ms=to_ms(now),
            )
        )
        tx.execute(
            insert(lease_devices),
            [
                {"lease": lease.id, "device": uuid, "node": member.node, "rank": member.rank, "idx": index}
                for member in launch.placement.members
                for index, uuid in enumerate(member.devices)
            ],
        )
    except IntegrityError:
        return Conflict(job=lease.job, what="a device was taken meanwhile")
    held = budget.hold(tx, lease, now)
    if isinstance(held, Refusal):
        return held
    move(
        tx,
        lease.job,
        Event.RESERVED,
        now,
        lease=lease.id,
        facts={
            "pool": lease.placement.pool,
            "model": lease.placement.model,
            "devices": lease.placement.device_count,
            "members": len(lease.placement.members),
            "price_fen_per_device_hour": lease.price_fen_per_device_hour,
            "gross_fen": launch.chosen.gross_fen,
            "net_fen": launch.chosen.net_fen,
            "expected_fen": launch.chosen.expected_fen,
            "predicted_ms": launch.chosen.predicted_ms,
            "shadow_price_permille": launch.chosen.shadow_price_permille,
            "hold_fen": {str(year): fen for year, fen in sorted(held.by_year.items())},
            "short": list(held.short),
            "rejected": [
                {"pool": c.pool, "net_fen": c.net_fen, "gross_fen": c.gross_fen, "expected_fen": c.expected_fen}
                for c in launch.rejected
            ],
        },
        attempt=jobs.c.attempt + 1,
        pending=None,
        pending_since_ms=None,
    )
    return held


def held_leases(tx: Connection) -> list[RowMapping]:
    """Every lease that still holds its devices, oldest first."""
    query = select(leases).where(leases.c.released_at_ms.is_(None)).order_by(leases.c.reserved_at_ms, leases.c.id)
    return list(tx.execute(query).mappings())


def release(
    tx: Connection, lease: str, *, cause: Cause, exit_code: int | None, started: datetime | None, now: datetime
) -> None:
    """The lease's devices are free again."""
    tx.execute(
        update(leases)
        .where(leases.c.id == lease)
        .values(
            released_at_ms=to_ms(now),
            cause=cause.value,
            exit_code=exit_code,
            started_at_ms=to_ms(started) if started else leases.c.started_at_ms,
        )
    )
    tx.execute(update(lease_devices).where(lease_devices.c.lease == lease).values(released=1))
    touch(tx)


def add_usage(tx: Connection, record: UsageRecord) -> None:
    """Append what a lease consumed; the same stretch twice is refused by the database."""
    journal.append(
        tx,
        usage_records,
        {
            "lease": record.lease,
            "job": record.job,
            "firm": record.firm,
            "provider": record.provider,
            "site": record.site,
            "pool": record.pool,
            "vendor": record.vendor,
            "model": record.model,
            "source": record.source.value,
            "kind": record.kind.value,
            "cause": record.cause,
            "devices": record.devices,
            "share_permille": record.share_permille,
            "start_ms": to_ms(record.start),
            "end_ms": to_ms(record.end),
            "price_fen_per_device_hour": record.price_fen_per_device_hour,
        },
    )


def version(tx: Connection) -> int:
    """The counter that a snapshot carries and a plan is based on."""
    return int(tx.execute(select(counters.c.value).where(counters.c.name == VERSION)).scalar() or 0)


def touch(tx: Connection) -> None:
    """What the planner knows has changed."""
    upsert_counter = update(counters).where(counters.c.name == VERSION).values(value=counters.c.value + 1)
    if tx.execute(upsert_counter).rowcount == 0:
        tx.execute(insert(counters).values(name=VERSION, value=1))


def set_refused(tx: Connection, job: JobId, refusal: Refusal, now: datetime) -> None:
    """The budget said no: the job waits, and says what for (kind policy: somebody must act)."""
    pending = Pending(code=refusal.code, kind=PendingKind.POLICY, scope="budget")
    document = {"code": refusal.code, "kind": "policy", "scope": "budget", "facts": dict(refusal.facts)}
    set_pending(tx, job, pending, document, now)
