"""Kept: the planner's state, kept between questions and brought up to date with what was stored since.

A snapshot of a large zone takes long to read and to make columns of, and little of it changes between two questions. What
changed is found by what the store tells: new events and reports of jobs, which every change of a job or a lease makes, and nodes
that fell silent. Whatever cannot be told from these (a new node, a device that failed, a lease that moves) is read anew.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
from sqlalchemy import Connection, func, or_, select

from adapters.accelerator import Health
from scheduler import view
from scheduler.clock import to_ms
from scheduler.engine import Change, Clock, Outlook, Remove, Set, State, apply, changes_of
from scheduler.gates import gates_of, waiting_jobs
from scheduler.job import FirmId
from scheduler.node import Pool
from scheduler.ports import Budget
from scheduler.progress import throughputs_of
from scheduler.refusal import Refusal
from scheduler.relocations import relocations
from scheduler.schema import devices, job_events, job_progress, jobs, nodes
from scheduler.snapshot import Gate, QueueQuota, RunningLease, Terms, Throughput, WaitingJob
from scheduler.store import version

ANEW = timedelta(minutes=10)  # a state older than that is read anew
COUNT_AFTER = timedelta(seconds=5)  # devices are counted again: the loop too looks at nodes no oftener than it plans
MANY = 500  # changed jobs; with more of them it is cheaper to read all


@dataclass(frozen=True, slots=True)
class _Marks:
    """What the store counted when the state was read."""

    event: int
    report_ms: int
    nodes: int
    devices: int
    failed: int


class Kept:
    """One state for questions. Several threads may ask; one is answered at a time, for the columns of a state are shared."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._lock = threading.Lock()
        self._state: State | None = None
        self._marks: _Marks | None = None
        self._read_at: datetime | None = None
        self._counted_at: datetime | None = None
        self._moving = False

    @contextmanager
    def state(self, tx: Connection, now: datetime) -> Iterator[State]:
        """The state of what is stored, as of `now`: what `view.snapshot` would give, applied to nothing."""
        with self._lock:
            yield self._current(tx, now)

    def _current(self, tx: Connection, now: datetime) -> State:
        marks = self._marked(tx, now)
        changes, moving = None, bool(relocations(tx))
        if self._state is not None and self._marks is not None and self._read_at is not None:
            same = (marks.nodes, marks.devices, marks.failed) == (
                self._marks.nodes,
                self._marks.devices,
                self._marks.failed,
            )
            if same and timedelta() <= now - self._read_at < ANEW and not moving and not self._moving:
                changes = self._changes(tx, self._state, self._marks, now)
        if changes is None:
            found = view.snapshot(tx, now, self._budget)
            # A registry of its own: the loop plans in another thread, and numbers are given by whoever comes first.
            self._state, self._read_at = apply(State(), changes_of(found)), now
        else:
            self._state = apply(self._state or State(), changes)
        self._marks, self._moving = marks, moving
        return self._state

    def _marked(self, tx: Connection, now: datetime) -> _Marks:
        """The counts now; those of devices, which are many, as of COUNT_AFTER ago at most."""
        event = tx.execute(select(func.max(job_events.c.seq))).scalar() or 0
        report = tx.execute(select(func.max(job_progress.c.at_ms))).scalar() or 0
        many = tx.execute(select(func.count()).select_from(nodes)).scalar_one()
        if (
            self._marks is not None
            and self._counted_at is not None
            and timedelta() <= now - self._counted_at < COUNT_AFTER
        ):
            return replace(self._marks, event=event, report_ms=report, nodes=many)
        self._counted_at = now
        all_ = tx.execute(select(func.count()).select_from(devices)).scalar_one()
        failed = (
            select(func.count())
            .select_from(devices)
            .where(or_(devices.c.health == Health.FAILED.value, devices.c.leasable == 0))
        )
        return _Marks(event, report, many, all_, tx.execute(failed).scalar_one())

    def _changes(self, tx: Connection, state: State, before: _Marks, now: datetime) -> list[Change] | None:
        """What leads from the state to what is stored; None when too much has changed."""
        happened = select(job_events.c.job).where(job_events.c.seq > before.event)
        reported = select(job_progress.c.job).where(job_progress.c.at_ms >= before.report_ms)
        changed = set(tx.execute(happened).scalars()) | set(tx.execute(reported).scalars())
        if len(changed) > MANY:
            return None
        found: list[Change] = [Clock(now, version(tx))]
        waiting = view.waiting(tx, changed) if changed else []
        running = view.running(tx, changed) if changed else []
        if changed:
            found += [Remove(RunningLease, one.id) for one in state.leases.values() if one.job in changed]
        found += [Remove(WaitingJob, name) for name in changed if name in state.jobs]
        found += [Set(one) for one in waiting]
        found += [Set(one) for one in running]
        found += _gates(tx, state, changed)
        found += _nodes(tx, state, now)
        pools = {one.id: one for one in view.listed_pools(tx, self._budget, now)}
        found += [Set(one) for name, one in pools.items() if state.pools.get(name) != one]
        found += [Remove(Pool, name) for name in state.pools if name not in pools]
        quotas = {one.name: one for one in view.quotas(tx)}
        found += [Set(one) for name, one in quotas.items() if state.queues.get(name) != one]
        found += [Remove(QueueQuota, name) for name in state.queues if name not in quotas]
        firms = sorted(
            set(tx.execute(waiting_jobs().with_only_columns(jobs.c.firm).order_by(None).distinct()).scalars())
        )
        terms = self._budget.terms(tx, [FirmId(firm) for firm in firms], tuple(pools.values()), now) if firms else ()
        told = {(one.firm, one.pool): one for one in terms}
        found += [Set(one) for key, one in told.items() if state.terms.get(key) != one]
        found += [Remove(Terms, key) for key in state.terms if key not in told]
        learnt = {one.firm for one in (*state.jobs.values(), *waiting) if one.workload}
        learnt |= {one.firm for one in (*state.leases.values(), *running) if one.workload}
        rows = {(one.workload, one.model, one.devices): one for one in throughputs_of(tx, learnt)} if learnt else {}
        found += [Set(one) for key, one in rows.items() if state.throughputs.get(key) != one]
        found += [Remove(Throughput, key) for key in state.throughputs if key not in rows]
        if _hour(state.now) != _hour(now):
            found.append(Outlook(tuple(sorted(view.mix_of(tx, now), key=repr)), state.migrations))
        return found


def _gates(tx: Connection, state: State, changed: set[str]) -> list[Change]:
    """Of jobs that did not change themselves: what they wait for may have."""
    now_there = {
        name: Gate(code=gate.code) if isinstance(gate, Refusal) else gate for name, gate in gates_of(tx).items()
    }
    names = set(now_there) | {name for name, one in state.jobs.items() if one.gate is not None}
    return [
        Set(replace(state.jobs[name], gate=now_there.get(name)))
        for name in sorted(names)
        if name in state.jobs and name not in changed and state.jobs[name].gate != now_there.get(name)
    ]


def _nodes(tx: Connection, state: State, now: datetime) -> list[Change]:
    """Nodes that were closed, opened, or fell silent."""
    oldest = to_ms(now - view.SILENT_AFTER)
    silent = or_(nodes.c.schedulable == 0, nodes.c.heartbeat_at_ms.is_(None), nodes.c.heartbeat_at_ms < oldest)
    closed = set(tx.execute(select(nodes.c.id).where(silent)).scalars())
    columns = state.columns
    before = {columns.ids[row] for row in np.flatnonzero(~columns.usable).tolist()}
    return [
        Set(replace(state.nodes[name], schedulable=name not in closed))
        for name in sorted(closed ^ before)
        if name in state.nodes
    ]


def _hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)
