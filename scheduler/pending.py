"""Pending: why a job waits, until when, and what would help. Codes and counts; text is made at the edge. Pure.

never   it cannot run here as asked, whatever frees up      policy  somebody must change something
wait    devices must free up, or earlier jobs go first
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from scheduler.columns import Ints
from scheduler.node import Pool, PoolId
from scheduler.plan import Candidate, NodeCount, Pending, PendingKind, Remedy
from scheduler.snapshot import WaitingJob

if TYPE_CHECKING:
    from scheduler.engine import State


@dataclass(slots=True)
class Reasons:
    """Writes pending records for one plan; what many jobs share is worked out once."""

    state: State
    _starts: dict[tuple[PoolId, int, int], datetime | None] = field(default_factory=dict)
    _counts: dict[object, tuple[NodeCount, ...]] = field(default_factory=dict)
    _behind: dict[object, tuple[str, int, int, tuple[Remedy, ...]]] = field(default_factory=dict)

    def never(self, job: WaitingJob) -> Pending:
        """No pool could run it even when empty: the model is not listed, a node is too small, or too few are."""
        from scheduler.decision import matches, runs_on

        state, request = self.state, job.request
        matching = [(a, pool) for a in request.alternatives for pool in state.pools.values() if matches(a, pool)]
        runnable = [(a, pool) for a, pool in matching if runs_on(job.stacks, pool)]
        least = min(a.count for a in request.alternatives)
        if not matching:
            code, needed, available = "NO_MATCHING_POOL", least * job.nodes, 0
        elif not runnable:
            code, needed, available = "NO_VARIANT_FOR_CHIP", least * job.nodes, 0
        else:
            largest = max((self._largest(pool.id) for _, pool in runnable), default=0)
            if largest < least:
                code, needed, available = "EXCEEDS_LARGEST_NODE", least, largest
            else:
                code, needed = "EXCEEDS_POOL", job.nodes
                available = max(self._nodes_of_size(pool.id, a.count) for a, pool in runnable)
        return self._pending(
            job,
            code,
            PendingKind.NEVER,
            _asked(job),
            needed=needed,
            available=available,
            remedies=self._other_models(job),
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

    def quota_exhausted(self, job: WaitingJob, limit: int, used: int, needed: int) -> Pending:
        """Its queue holds what it may; another of its jobs must end, or the quota be raised."""
        return self._pending(
            job, "QUOTA_EXHAUSTED", PendingKind.POLICY, f"queue {job.queue}", needed=needed, available=max(0, limit - used),
            remedies=(Remedy(code="RAISE_QUOTA", facts={"queue": job.queue, "nominal": limit}),),
        )  # fmt: skip

    def too_dear(self, job: WaitingJob, candidates: Sequence[Candidate]) -> Pending:
        """Every pool it could run in costs more, net, than the job allows."""
        cheapest = min(candidates, key=lambda c: (c.net_fen, c.pool))
        remedy = Remedy(code="RAISE_MAX_NET_COST", facts={"to_fen": cheapest.net_fen, "pool": cheapest.pool})
        return self._pending(
            job, "MAX_NET_COST_TOO_LOW", PendingKind.POLICY, "money", needed=cheapest.net_fen,
            available=job.money.max_net_fen, remedies=(remedy,),
        )  # fmt: skip

    def busy(
        self, job: WaitingJob, candidates: Sequence[Candidate], free: Ints, *, blocked: Collection[PoolId]
    ) -> Pending:
        """It is first in line for these pools and fits when something ends."""
        counts = {PoolId(c.pool): job.request.alternatives[c.alternative].count for c in candidates}
        columns = self.state.columns
        available = most_nodes = usable = 0
        for pool, count in sorted(counts.items()):
            rows = columns.rows[pool]
            ready = columns.usable[rows]
            usable += int((ready & (columns.size[rows] >= count)).sum())
            available = max(available, int(free[rows][ready].sum()))
            most_nodes = max(most_nodes, int(((free[rows] >= count) & ready).sum()))
        needed = min(counts.values()) * job.nodes
        if usable < job.nodes:
            code = "NODES_UNSCHEDULABLE"
        elif available >= needed and most_nodes < job.nodes:
            code = "FRAGMENTED"
        else:
            code = "INSUFFICIENT_FREE_DEVICES"
        starts = [self._start(pool, count, job.nodes) for pool, count in sorted(counts.items())]
        known = [start for start in starts if start is not None]
        remedies = (*self._other_models(job, blocked), Remedy(code="WAIT"))
        return self._pending(
            job, code, PendingKind.WAIT, ", ".join(sorted(counts)), needed=needed, available=available,
            earliest=min(known) if known else None, position=1, remedies=remedies,
        )  # fmt: skip

    def behind(
        self, job: WaitingJob, ways: Sequence[tuple[int, Pool]], ahead: int, blocked: Collection[PoolId]
    ) -> Pending:
        """`ahead` jobs wait for the same devices and go first. What is alike for alike jobs is worked out once."""
        key = (job.request.alternatives, job.stacks, job.nodes)
        if key not in self._behind:
            counts = {pool.id: job.request.alternatives[index].count for index, pool in ways}
            columns = self.state.columns
            free = [int(columns.free[columns.rows[p]][columns.usable[columns.rows[p]]].sum()) for p in sorted(counts)]
            self._behind[key] = (
                ", ".join(sorted(counts)), min(counts.values()) * job.nodes, max(free),
                (*self._other_models(job, blocked), Remedy(code="WAIT")),
            )  # fmt: skip
        scope, needed, available, remedies = self._behind[key]
        return self._pending(
            job, "BEHIND_EARLIER_JOB", PendingKind.WAIT, scope, needed=needed, available=available, position=ahead + 1,
            remedies=remedies,
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
        key = (job.request.alternatives, job.stacks)
        if key not in self._counts:
            self._counts[key] = self._count(job)
        return self._counts[key]

    def _count(self, job: WaitingJob) -> tuple[NodeCount, ...]:
        from scheduler.decision import matches, runs_on

        columns = self.state.columns
        total = len(columns.ids)
        found: dict[str, int] = {}
        until: datetime | None = None
        for pool_id, rows in columns.rows.items():
            pool = self.state.pools.get(pool_id)
            fits = [a for a in job.request.alternatives if pool is not None and matches(a, pool)]
            if pool is None or not fits:
                _add(found, "CARD_TYPE_MISMATCH", len(rows))
                continue
            if not runs_on(job.stacks, pool):
                _add(found, "NO_VARIANT_FOR_CHIP", len(rows))
                continue
            count = min(a.count for a in fits)
            large = columns.size[rows] >= count
            ready = columns.usable[rows]
            _add(found, "NODE_TOO_SMALL", int((~large).sum()))
            _add(found, "NODE_UNSCHEDULABLE", int((large & ~ready).sum()))
            busy = int((large & ready & (columns.free[rows] < count)).sum())
            _add(found, "NODE_BUSY", busy)
            if busy:
                ends = [x.ends_by for x in self.state.leases.values() if x.pool == pool_id]
                until = min([*ends, *([until] if until else [])], default=None)
        order = sorted(found.items(), key=lambda item: (-item[1], item[0]))
        return tuple(
            NodeCount(code=code, n=n, m=total, until=until if code == "NODE_BUSY" else None) for code, n in order if n
        )

    def _start(self, pool: PoolId, count: int, nodes: int) -> datetime | None:
        """When enough nodes are free if every lease runs to its limit and nothing else starts; None if never."""
        key = (pool, count, nodes)
        if key not in self._starts:
            self._starts[key] = self._earliest(pool, count, nodes)
        return self._starts[key]

    def _earliest(self, pool: PoolId, count: int, nodes: int) -> datetime | None:
        columns = self.state.columns
        rows = columns.rows[pool]
        free = {columns.ids[int(r)]: int(columns.free[int(r)]) for r in rows if columns.usable[int(r)]}
        ready = sum(1 for have in free.values() if have >= count)
        if ready >= nodes:
            return self.state.now
        leases = sorted((x for x in self.state.leases.values() if x.pool == pool), key=lambda x: (x.ends_by, x.id))
        for lease in leases:
            for member in lease.members:
                if member.node in free:
                    before = free[member.node]
                    free[member.node] = before + len(member.devices)
                    ready += before < count <= free[member.node]
            if ready >= nodes:
                return max(lease.ends_by, self.state.now)
        return None

    def _other_models(self, job: WaitingJob, blocked: Collection[PoolId] = ()) -> tuple[Remedy, ...]:
        """Pools of other models that would fit the job now: accept one of them and start."""
        from scheduler.decision import matches, runs_on

        columns = self.state.columns
        count = min(a.count for a in job.request.alternatives)
        found = []
        for pool_id in sorted(self.state.pools):
            pool = self.state.pools[pool_id]
            asked = any(matches(a, pool) for a in job.request.alternatives)
            rows = columns.rows.get(pool_id)
            if asked or rows is None or pool_id in blocked or not runs_on(job.stacks, pool):
                continue
            if int(((columns.free[rows] >= count) & columns.usable[rows]).sum()) >= job.nodes:
                facts: dict[str, Any] = {"model": pool.model, "pool": pool_id, "count": count}
                facts["price_fen_per_device_hour"] = pool.price_fen_per_device_hour
                found.append(Remedy(code="ACCEPT_MODEL", facts=facts))
        return tuple(found[:3])

    def _largest(self, pool: PoolId) -> int:
        rows = self.state.columns.rows.get(pool)
        return int(self.state.columns.size[rows].max()) if rows is not None and len(rows) else 0

    def _nodes_of_size(self, pool: PoolId, count: int) -> int:
        rows = self.state.columns.rows.get(pool)
        return int((self.state.columns.size[rows] >= count).sum()) if rows is not None else 0


def _add(found: dict[str, int], code: str, n: int) -> None:
    if n:
        found[code] = found.get(code, 0) + n


def _asked(job: WaitingJob) -> str:
    return " | ".join(a.text for a in job.request.alternatives)
