"""Progress: the steps that running jobs report, as stored, and what is learnt from them of how fast a workload runs.

A firm's reports teach about the firm's own workloads only: whatever it writes, no other firm's prediction moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from scheduler.clock import to_ms
from scheduler.job import JobId
from scheduler.lease import Report
from scheduler.lifecycle import State
from scheduler.places import upsert
from scheduler.refusal import Refusal
from scheduler.schema import job_progress, leases, throughputs
from scheduler.snapshot import Throughput
from scheduler.store import job_row, spec_of
from scheduler.throughput import Observation, estimate, learn, table_of

LEARN_EVERY_MS = 60_000  # reports closer together teach once: start-up and jitter weigh too much in a short stretch
REPORTING = (State.RUNNING, State.COMPLETING)


def profile_name(firm: str, workload: str | None) -> str | None:
    """The workload as the planner knows it: a firm's own; None stays None."""
    return None if workload is None else f"{firm}/{workload}"


def is_new(row: Mapping[Any, Any] | None, lease: str, said: Report) -> bool:
    """Whether a report says more than what is stored of that lease, and may be true after it."""
    if row is None or row["lease"] != lease:
        return True
    total = said.total_steps if said.total_steps is not None else row["total_steps"]
    if said.steps < row["steps"] or (total is not None and said.steps > total):
        return False
    told = ((said.steps, "steps"), (total, "total_steps"), (said.checkpointed_steps, "checkpointed_steps"))
    return any(value is not None and row[name] != value for value, name in told)


def report(
    tx: Connection,
    job: JobId,
    *,
    steps: int,
    total_steps: int | None = None,
    checkpointed_steps: int | None = None,
    now: datetime,
) -> Refusal | None:
    """What the job has done in all its attempts so far, as it says itself, is stored, and its throughput learnt from it.

    total_steps: of the whole job; once told, it need not be told again. checkpointed_steps: how many of the steps its last
    complete checkpoint holds; None says nothing new. A repeated report changes nothing. Refusals: JOB_UNKNOWN; JOB_NOT_RUNNING;
    PROGRESS_BACKWARDS when the same attempt reported more before; PROGRESS_BEYOND when more than the total is done.
    """
    row = job_row(tx, job)
    if row is None:
        return Refusal(code="JOB_UNKNOWN", facts={"job": job})
    query = select(leases).where(leases.c.job == job, leases.c.released_at_ms.is_(None))
    lease = tx.execute(query).mappings().first()
    if lease is None or lease["started_at_ms"] is None or State(row["state"]) not in REPORTING:
        return Refusal(code="JOB_NOT_RUNNING", facts={"job": job, "state": row["state"]})
    before = progress_of(tx, job)
    same = before is not None and before["lease"] == lease["id"]
    total = total_steps if total_steps is not None else before["total_steps"] if before else None
    if total is not None and steps > total:
        return Refusal(code="PROGRESS_BEYOND", facts={"job": job, "steps": steps, "total_steps": total})
    if before is not None and same and steps < before["steps"]:
        return Refusal(code="PROGRESS_BACKWARDS", facts={"job": job, "steps": steps, "known": before["steps"]})
    values: dict[str, Any] = {
        "job": job,
        "lease": lease["id"],
        "at_ms": to_ms(now),
        "steps": steps,
        "total_steps": total,
    }
    values |= _checkpoint(before, same, checkpointed_steps, now)
    values |= _learnt(tx, row, lease, before if same else None, steps, now)
    upsert(tx, job_progress, values, key=("job",))  # no touch: a plan may well be seconds behind it
    return None


def _checkpoint(
    before: Mapping[Any, Any] | None, same: bool, steps: int | None, now: datetime
) -> dict[str, int | None]:
    """A checkpoint is as old as the first report of it; an earlier attempt's still holds its steps."""
    known = before["checkpointed_steps"] if before else None
    at = before["checkpointed_at_ms"] if before and same else None
    if steps is None or (at is not None and steps == known):
        return {"checkpointed_steps": known, "checkpointed_at_ms": at}
    return {"checkpointed_steps": steps, "checkpointed_at_ms": to_ms(now)}


def _learnt(
    tx: Connection,
    job: Mapping[Any, Any],
    lease: Mapping[Any, Any],
    before: Mapping[Any, Any] | None,
    steps: int,
    now: datetime,
) -> dict[str, int]:
    """Up to where throughput is learnt now. The first report of an attempt only marks where counting begins."""
    if before is None:
        return {"learnt_at_ms": to_ms(now), "learnt_steps": steps}
    since, done = before["learnt_at_ms"], before["learnt_steps"]
    elapsed = to_ms(now) - since
    if 0 <= elapsed < LEARN_EVERY_MS or steps == done:
        return {"learnt_at_ms": since, "learnt_steps": done}
    workload = profile_name(job["firm"], spec_of(job).workload)
    if workload is not None and elapsed > 0 and lease["stop_requested_at_ms"] is None:
        seen = Observation(
            workload=workload,
            model=lease["model"],
            devices=lease["device_count"],
            steps=steps - done,
            elapsed_ms=elapsed,
        )
        known = estimate(table_of(throughputs_of(tx, [job["firm"]])), workload, seen.model, seen.devices)
        fresh = learn(known, seen)
        if fresh is not None:
            _keep(tx, job["firm"], fresh, now)
    return {"learnt_at_ms": to_ms(now), "learnt_steps": steps}


def _keep(tx: Connection, firm: str, row: Throughput, now: datetime) -> None:
    values = {
        "firm": firm,
        "workload": row.workload.removeprefix(f"{firm}/"),
        "model": row.model,
        "devices": row.devices,
        "steps_per_ks": row.steps_per_ks,
        "source": row.source,
        "error_permille": row.error_permille,
        "updated_at_ms": to_ms(now),
    }
    upsert(tx, throughputs, values, key=("firm", "workload", "model", "devices"))


def throughputs_of(tx: Connection, firms: Iterable[str]) -> tuple[Throughput, ...]:
    """What is learnt of these firms' workloads, named as the planner knows them."""
    query = select(throughputs).where(throughputs.c.firm.in_(set(firms)))
    order = (throughputs.c.firm, throughputs.c.workload, throughputs.c.model, throughputs.c.devices)
    return tuple(
        Throughput(
            workload=f"{row.firm}/{row.workload}",
            model=row.model,
            devices=row.devices,
            steps_per_ks=row.steps_per_ks,
            source=row.source,
            error_permille=row.error_permille,
        )
        for row in tx.execute(query.order_by(*order))
    )


def progress_of(tx: Connection, job: str) -> RowMapping | None:
    """What the job last said of itself; None if it never did."""
    return tx.execute(select(job_progress).where(job_progress.c.job == job)).mappings().first()


def progress_rows(tx: Connection, jobs: Any) -> dict[str, RowMapping]:
    """The same of many jobs, by id. jobs: ids, or a query for them."""
    query = select(job_progress).where(job_progress.c.job.in_(jobs))
    return {row["job"]: row for row in tx.execute(query).mappings()}


def steps_left(progress: Mapping[Any, Any] | None, *, running: bool) -> int | None:
    """Steps still to do: of a running job after those it has done, of a waiting one after those its checkpoint holds.

    None while the job has not said how many it has in all.
    """
    if progress is None or progress["total_steps"] is None:
        return None
    done = progress["steps"] if running else progress["checkpointed_steps"] or 0
    return max(0, int(progress["total_steps"]) - int(done))
