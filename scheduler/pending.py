"""Pending: why a job waits, until when, and what would help. Codes and counts; text is made at the edge. Pure.

never   it cannot run here as asked, whatever frees up      policy  somebody must change something
wait    devices must free up, or earlier jobs go first
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from scheduler.backfill import FOREVER
from scheduler.clock import from_ms
from scheduler.columns import ENDS, Ints
from scheduler.node import PoolId
from scheduler.plan import Candidate, NodeCount, Pending, PendingKind, Remedy
from scheduler.shape import WHOLE, least_nodes
from scheduler.snapshot import WaitingJob
from scheduler.workspace import Workspace
from scheduler.zone import Way, images_fit, matches, runs_on

if TYPE_CHECKING:
    from scheduler.engine import State


@dataclass(slots=True)
class Reasons:
    """Writes pending records for one plan, as things stand when it is made; what many jobs share is worked out once."""

    state: State
    work: Workspace
    _counts: dict[object, tuple[NodeCount, ...]] = field(default_factory=dict)
    _behind: dict[object, tuple[str, int, int, tuple[Remedy, ...]]] = field(default_factory=dict)
    _ends: Ints | None = None

    def gate(self, job: WaitingJob) -> Pending:
        """Something else must happen first: another job must end, or somebody must let it go."""
        assert job.gate is not None, "asked for a job that waits at a gate"
        kind = PendingKind.POLICY if job.gate.code == "HELD" else PendingKind.WAIT
        return self._pending(
            job, job.gate.code, kind, ", ".join(job.gate.on) or _asked(job), needed=None, available=None
        )

    def turn(self, job: WaitingJob) -> Pending:
        """Others have their turn in this round."""
        needed = min(a.count for a in job.request.alternatives) * least_nodes(job)
        at = self.state.now + timedelta(milliseconds=getattr(self.work.policy, "round_ms", 0))
        pending = self._pending(
            job, "NOT_THIS_ROUND", PendingKind.WAIT, _asked(job), needed=needed,
            available=int(self.work.columns.full[self.work.columns.usable].sum()),
        )  # fmt: skip
        return replace(pending, next_evaluation=at)

    def never(self, job: WaitingJob) -> Pending:
        """No pool could run it even when empty: the model is not listed, a node is too small, or too few are."""
        state, request, nodes = self.state, job.request, least_nodes(job)
        matching = [(a, pool) for a in request.alternatives for pool in state.pools.values() if matches(a, pool)]
        started = [(a, pool) for a, pool in matching if runs_on(job, pool)]
        runnable = [(a, pool) for a, pool in started if images_fit(job, pool)]
        least = min(a.count for a in request.alternatives)
        if not matching:
            code, needed, available = "NO_MATCHING_POOL", least * nodes, 0
        elif not runnable:
            code = "IMAGE_MISMATCH" if started else "NO_VARIANT_FOR_CHIP"
            needed, available = least * nodes, 0
        else:
            largest = max((self._largest(pool.id) for _, pool in runnable), default=0)
            if largest < least:
                code, needed, available = "EXCEEDS_LARGEST_NODE", least, largest
            else:
                code, needed = "EXCEEDS_POOL", nodes
                available = max(self._nodes_of_size(pool.id, a.count) for a, pool in runnable)
                if available >= nodes:
                    return self._exceeds_topology(job, [(a.count, pool.id) for a, pool in runnable])
        return self._pending(
            job,
            code,
            PendingKind.NEVER,
            _asked(job),
            needed=needed,
            available=available,
            remedies=self._other_models(job),
        )

    def _exceeds_topology(self, job: WaitingJob, places: Sequence[tuple[int, PoolId]]) -> Pending:
        """The nodes are there, but no domain of the level that the job requires has as many as its gang has members."""
        required, zone = job.request.topology_required, self.work.zone
        most = max(zone.most(zone.numbers[pool], count, required) for count, pool in places if pool in zone.numbers)
        return self._pending(
            job, "EXCEEDS_TOPOLOGY", PendingKind.NEVER, str(required), needed=least_nodes(job), available=most,
            remedies=(Remedy(code="PREFER_TOPOLOGY", facts={"level": str(required)}),),
        )  # fmt: skip

    def no_link(self, job: WaitingJob) -> Pending:
        """Wherever it could run, no link brings its inputs."""
        needed = min(one.count for one in job.request.alternatives) * least_nodes(job)
        remedy = Remedy(
            code="ADD_LINK", facts={"regions": ", ".join(sorted(k for k, size in job.data.items() if size))}
        )
        return self._pending(
            job, "NO_LINK", PendingKind.POLICY, _asked(job), needed=needed, available=0, remedies=(remedy,)
        )

    def exceeds_quota(self, job: WaitingJob, limit: int, needed: int) -> Pending:
        """More than its queue may ever hold."""
        remedy = Remedy(code="LOWER_COUNT", facts={"queue": job.queue, "at_most": limit})
        return self._pending(
            job,
            "EXCEEDS_QUOTA",
            PendingKind.NEVER,
            f"queue {job.queue}",
            needed=needed,
            available=limit,
            remedies=(remedy,),
        )

    def quota_exhausted(self, job: WaitingJob, left: int, needed: int) -> Pending:
        """Its queue holds what it may; another of its jobs must end, or the quota be raised."""
        quota = self.state.queues.get(job.queue)
        facts = {"queue": job.queue, "nominal": quota.nominal_devices if quota else None}
        return self._pending(
            job, "QUOTA_EXHAUSTED", PendingKind.POLICY, f"queue {job.queue}", needed=needed, available=left,
            remedies=(Remedy(code="RAISE_QUOTA", facts=facts),),
        )  # fmt: skip

    def too_dear(self, job: WaitingJob, candidates: Sequence[Candidate]) -> Pending:
        """Every pool it could run in costs more, net, than the job allows."""
        cheapest = min(candidates, key=lambda c: (c.net_fen + c.transfer_fen, c.pool))
        facts = {"to_fen": cheapest.net_fen + cheapest.transfer_fen, "pool": cheapest.pool}
        remedy = Remedy(code="RAISE_MAX_NET_COST", facts=facts)
        return self._pending(
            job, "MAX_NET_COST_TOO_LOW", PendingKind.POLICY, "money", needed=cheapest.net_fen,
            available=job.money.max_net_fen, remedies=(remedy,),
        )  # fmt: skip

    def busy(self, job: WaitingJob, ways: Sequence[Way]) -> Pending:
        """It is first in line for these pools and fits when something ends."""
        work, nodes = self.work, least_nodes(job)
        columns = work.columns
        available = most_nodes = usable = fitting = 0
        for way in ways:
            rows = work.zone.rows[way.number]
            ready = columns.usable[rows]
            usable += int((ready & (columns.size[rows] >= way.shape.count)).sum())
            whole = columns.full[rows]
            available = max(available, int(whole[ready].sum()))
            most_nodes = max(most_nodes, int(((whole >= way.shape.count) & ready).sum()))
            score, _ = work.score((way,), job)
            fitting = max(fitting, int((score[rows] > float("-inf")).sum()))
        needed = min(way.shape.count for way in ways) * nodes
        if usable < nodes:
            code = "NODES_UNSCHEDULABLE"
        elif fitting >= nodes and job.request.topology_required is not None:
            code = "TOPOLOGY_REQUIRED"
        elif job.share_permille >= WHOLE and most_nodes >= nodes:
            code = "RESERVED" if self._closed(ways, nodes) else "INSUFFICIENT_CPU_OR_MEMORY"
        elif job.share_permille >= WHOLE and available >= needed:
            code = "FRAGMENTED"
        else:
            code = "INSUFFICIENT_FREE_DEVICES"
        remedies = (*self._other_models(job), Remedy(code="WAIT"))
        return self._pending(
            job, code, PendingKind.WAIT, ", ".join(sorted({w.pool.id for w in ways})), needed=needed, available=available,
            earliest=self._start(job, ways), position=1, remedies=remedies,
        )  # fmt: skip

    def behind(self, job: WaitingJob, ways: Sequence[Way], ahead: int) -> Pending:
        """`ahead` jobs wait for the same devices and go first. What is alike for alike jobs is worked out once."""
        key = (job.request, job.stacks, job.images, job.nodes, job.min_nodes, tuple(way.number for way in ways))
        if key not in self._behind:
            columns, rows = self.work.columns, self.work.zone.rows
            free = [int(columns.full[rows[w.number]][columns.usable[rows[w.number]]].sum()) for w in ways]
            self._behind[key] = (
                ", ".join(sorted({w.pool.id for w in ways})), min(w.shape.count for w in ways) * least_nodes(job), max(free),
                (*self._other_models(job), Remedy(code="WAIT")),
            )  # fmt: skip
        scope, needed, available, remedies = self._behind[key]
        return self._pending(
            job, "BEHIND_EARLIER_JOB", PendingKind.WAIT, scope, needed=needed, available=available, position=ahead + 1,
            remedies=remedies, earliest=self._booked(job),
        )  # fmt: skip

    # --- parts ------------------------------------------------------------------------------------------------------

    def _pending(
        self,
        job: WaitingJob,
        code: str,
        kind: PendingKind,
        scope: str,
        *,
        needed: int | None,
        available: int | None,
        earliest: datetime | None = None,
        position: int | None = None,
        remedies: tuple[Remedy, ...] = (),
    ) -> Pending:
        return Pending(
            code=code,
            kind=kind,
            scope=scope,
            needed=needed,
            available=available,
            n_of_m=self._node_counts(job),
            since=job.pending_since,
            earliest_start=earliest,
            position=position,
            remedies=remedies,
        )

    def _node_counts(self, job: WaitingJob) -> tuple[NodeCount, ...]:
        """Why each node is out, counted by code; every node is in exactly one of them or free for the job."""
        key = (job.request.alternatives, job.stacks, job.images)
        if key not in self._counts:
            self._counts[key] = self._count(job)
        return self._counts[key]

    def _count(self, job: WaitingJob) -> tuple[NodeCount, ...]:
        columns = self.work.columns
        total = len(columns.ids)
        found: dict[str, int] = {}
        until: datetime | None = None
        for pool_id, rows in columns.rows.items():
            pool = self.state.pools.get(pool_id)
            fits = [a for a in job.request.alternatives if pool is not None and matches(a, pool)]
            if pool is None or not fits:
                _add(found, "CARD_TYPE_MISMATCH", len(rows))
                continue
            if not runs_on(job, pool):
                _add(found, "NO_VARIANT_FOR_CHIP", len(rows))
                continue
            if not images_fit(job, pool):
                _add(found, "IMAGE_MISMATCH", len(rows))
                continue
            count = min(a.count for a in fits)
            large = columns.size[rows] >= count
            ready = columns.usable[rows]
            _add(found, "NODE_TOO_SMALL", int((~large).sum()))
            _add(found, "NODE_UNSCHEDULABLE", int((large & ~ready).sum()))
            busy = int((large & ready & (columns.full[rows] < count)).sum())
            _add(found, "NODE_BUSY", busy)
            if busy:
                until = min([end for end in (self._first_end(pool_id), until) if end], default=None)
        order = sorted(found.items(), key=lambda item: (-item[1], item[0]))
        return tuple(
            NodeCount(code=code, n=n, m=total, until=until if code == "NODE_BUSY" else None) for code, n in order if n
        )

    def _first_end(self, pool: PoolId) -> datetime | None:
        """When the first lease on the pool's nodes will have ended; None: there is none."""
        zone = self.work.zone
        if self._ends is None:
            held = self.work.held()
            self._ends = np.full(len(zone.pools) + 1, FOREVER, dtype=np.int64)
            np.minimum.at(self._ends, zone.pool_of[held.members[:, 0]], held.facts[held.owner(), ENDS])
        end = int(self._ends[zone.numbers[pool]])
        return None if end == FOREVER else from_ms(end)

    def _booked(self, job: WaitingJob) -> datetime | None:
        start = self.work.bookings.get(job.id)
        return None if start is None else from_ms(start)

    def _start(self, job: WaitingJob, ways: Sequence[Way]) -> datetime | None:
        """Its reservation; else when enough nodes are free if every lease runs to its limit and nothing else starts."""
        if job.id in self.work.bookings:
            return self._booked(job)
        found = [self.work.earliest(job, way) for way in ways if way.shape.count and way.shape.share >= WHOLE]
        starts = [one[0] for one in found if one is not None]
        return from_ms(min(starts)) if starts else None

    def _closed(self, ways: Sequence[Way], nodes: int) -> bool:
        """Enough nodes are free, but reserved or under maintenance before the job could end."""
        closing = self.work.closing
        if closing is None:
            return False
        for way in ways:
            rows = self.work.zone.rows[way.number]
            able = self.work.packing.scores(way.shape, self.work.columns, self.work.zone.mask([way.number])).score[rows]
            if int((able > float("-inf")).sum()) >= nodes:
                return True
        return False

    def _other_models(self, job: WaitingJob) -> tuple[Remedy, ...]:
        """Pools of other models that would fit the job now: accept one of them and start."""
        columns = self.work.columns
        count = min(a.count for a in job.request.alternatives)
        found = []
        for pool_id in sorted(self.state.pools):
            pool = self.state.pools[pool_id]
            asked = any(matches(a, pool) for a in job.request.alternatives)
            rows = columns.rows.get(pool_id)
            if (
                asked
                or rows is None
                or self.work.blocked.get(self.work.zone.numbers[pool_id])
                or not (runs_on(job, pool) and images_fit(job, pool))
            ):
                continue
            if int(((columns.full[rows] >= count) & columns.usable[rows]).sum()) >= least_nodes(job):
                facts: dict[str, Any] = {"model": pool.model, "pool": pool_id, "count": count}
                facts["price_fen_per_device_hour"] = pool.price_fen_per_device_hour
                found.append(Remedy(code="ACCEPT_MODEL", facts=facts))
        return tuple(found[:3])

    def _largest(self, pool: PoolId) -> int:
        rows = self.work.columns.rows.get(pool)
        return int(self.work.columns.size[rows].max()) if rows is not None and len(rows) else 0

    def _nodes_of_size(self, pool: PoolId, count: int) -> int:
        rows = self.work.columns.rows.get(pool)
        return int((self.work.columns.size[rows] >= count).sum()) if rows is not None else 0


def _add(found: dict[str, int], code: str, n: int) -> None:
    if n:
        found[code] = found.get(code, 0) + n


def _asked(job: WaitingJob) -> str:
    return " | ".join(a.text for a in job.request.alternatives)
