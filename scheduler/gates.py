"""Gates: what each waiting job still waits for before it may start, as the store says."""

from __future__ import annotations

from collections import defaultdict

from sqlalchemy import Connection, Select, func, select

from scheduler.gating import Known, gate_of, turns_of
from scheduler.job import JobId
from scheduler.lifecycle import HOLDING, State
from scheduler.refusal import Refusal
from scheduler.schema import jobs
from scheduler.snapshot import Gate
from scheduler.store import parsed

WAITING = (State.SUBMITTED.value, State.PENDING.value)


def waiting_jobs() -> Select[tuple[object, ...]]:
    """Every job that waits and that nobody has cancelled, first come first."""
    query = select(jobs).where(jobs.c.state.in_(WAITING), jobs.c.cancel_requested_at_ms.is_(None))
    return query.order_by(jobs.c.submitted_at_ms, jobs.c.id)


def gates_of(tx: Connection) -> dict[JobId, Gate | Refusal]:
    """Of the jobs that wait: what each still waits for, or why it never can start. Those not named may start.

    A dependency that cannot be met is told first; then who holds the job, what it depends on, its array's limit.
    """
    found = _dependencies(tx)
    for row in tx.execute(waiting_jobs().where(jobs.c.held_by.is_not(None))).mappings():
        if not isinstance(found.get(JobId(row["id"])), Refusal):
            found[JobId(row["id"])] = Gate(code="HELD", on=(row["held_by"],))
    return found | _array_limits(tx, found)


def _dependencies(tx: Connection) -> dict[JobId, Gate | Refusal]:
    dependent = jobs.c.spec.contains('"depends_on":[{', autoescape=True)
    rows = list(tx.execute(waiting_jobs().where(dependent)).mappings())
    if not rows:
        return {}
    wanted = {one.job for row in rows for one in parsed(row["spec"]).depends_on}
    columns = (jobs.c.id, jobs.c.name, jobs.c.firm, jobs.c.submitted_at_ms, jobs.c.state, jobs.c.array_id)
    query = select(*columns).where(jobs.c.firm.in_({row["firm"] for row in rows}))
    named = jobs.c.id.in_(wanted) | jobs.c.name.in_(wanted) | jobs.c.array_id.in_(wanted)
    by_firm: dict[str, dict[str, list[Known]]] = defaultdict(lambda: defaultdict(list))
    for one in tx.execute(query.where(named)):
        known = Known(
            id=one.id, name=one.name, submitted_ms=one.submitted_at_ms, state=State(one.state), array=one.array_id
        )
        for name in {one.id, one.name, one.array_id} - {None}:
            by_firm[one.firm][name].append(known)
    found: dict[JobId, Gate | Refusal] = {}
    for row in rows:
        wants = parsed(row["spec"]).depends_on
        gate = gate_of(row["id"], row["submitted_at_ms"], wants, by_firm[row["firm"]], row["array_id"])
        if gate is not None:
            found[JobId(row["id"])] = gate
    return found


def _array_limits(tx: Connection, gated: dict[JobId, Gate | Refusal]) -> dict[JobId, Gate | Refusal]:
    limited = waiting_jobs().where(jobs.c.array_parallel.is_not(None)).with_only_columns(
        jobs.c.id, jobs.c.array_id, jobs.c.array_parallel, jobs.c.array_index
    )  # fmt: skip
    ready: dict[str, list[tuple[int, str]]] = defaultdict(list)
    parallel: dict[str, int] = {}
    for row in tx.execute(limited):
        if JobId(row.id) not in gated:
            ready[row.array_id].append((row.array_index, row.id))
            parallel[row.array_id] = row.array_parallel
    if not ready:
        return {}
    holding = select(jobs.c.array_id, func.count().label("n")).where(
        jobs.c.array_parallel.is_not(None), jobs.c.state.in_([state.value for state in HOLDING])
    )
    running = {row.array_id: row.n for row in tx.execute(holding.group_by(jobs.c.array_id))}
    found: dict[JobId, Gate | Refusal] = {}
    for array, elements in ready.items():
        names = [job for _, job in sorted(elements)]
        for job, gate in turns_of(array, parallel[array], running.get(array, 0), names).items():
            found[JobId(job)] = gate
    return found
