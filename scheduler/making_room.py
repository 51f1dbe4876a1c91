"""Making room: which running leases stop so that a job of higher priority starts, or a queue has its own devices back. Pure.

Only the first jobs that wait are tried: TRIES a plan, up to the first that takes a search among many leases. A lease that was
told to stop counts as free already, so that a plan made while it stops asks for nothing more.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from scheduler.backfill import FOREVER
from scheduler.columns import (
    CPU,
    MEMORY,
    NOT_YET,
    QUEUE,
    RANK,
    SAVED,
    SHARED,
    SIZE,
    STARTED,
    STOPPING,
    UNKNOWN,
    WHOLE,
    Flags,
    HeldTable,
    Ints,
)
from scheduler.job import JobId
from scheduler.plan import Preempt
from scheduler.preemption import Candidates, Free, Need, Prospect, lost, prospect
from scheduler.shape import least_nodes
from scheduler.snapshot import WaitingJob
from scheduler.zone import Way

if TYPE_CHECKING:
    from scheduler.workspace import Workspace

TRIES = 4  # jobs a plan makes room for at most
MINIMUM_MS = 600_000  # a lease is left alone for its first ten minutes


@dataclass(slots=True)
class Stops:
    """Victims of one plan. What running leases hold in each pool is listed once.

    of: the plan's workspace, which owns this; not owned in turn, or no plan would be let go before a full collection.
    """

    of: weakref.ref[Workspace]
    tries: int = 0
    stopped: set[int] = field(default_factory=set)
    _table: HeldTable | None = None
    _members: dict[int, tuple[Ints, Ints, Ints]] = field(default_factory=dict)
    _borrowed: Flags | None = None

    @property
    def work(self) -> Workspace:
        """The plan's workspace."""
        found = self.of()
        assert found is not None, "its owner is there while it is asked"
        return found

    def make_room(self, job: WaitingJob, ways: Sequence[Way], *, release: int = 0) -> bool:
        """Leases are chosen whose stop lets the job start in one of the pools, at the least loss; their nodes are kept for it.

        release: borrowed devices that its queue must have back. False when nothing can be done, or need be.
        """
        if self.tries >= TRIES or job.share_permille < WHOLE:
            return False
        reclaims = self._reclaims(job, ways)
        if not reclaims and (release > 0 or self.lowest() <= job.priority.rank):
            return False
        self.tries += 1
        tried = [
            (rank, *found)
            for rank, way in enumerate(ways)
            for part in self.work.zone.parts(way.number, job.request.topology_required)
            if (found := self._prospect(job, way, part, reclaims=reclaims, release=release)) is not None
        ]
        if not tried or any(one.met for _, one, _, _ in tried):
            return False  # nothing helps, or room is being made already
        # where there are too many leases to try all subsets, only the most promising pool is searched, once a plan
        large = [row for row in tried if not row[1].exact]
        self.tries = TRIES if large else self.tries
        large = [min(large, key=lambda row: (row[1].estimate, row[0]))] if large else []
        chosen_of = [
            (int(cost[chosen].sum()), rank, able[chosen])
            for rank, one, able, cost in [row for row in tried if row[1].exact] + large
            for chosen in [one.stops()]
        ]
        best = min(chosen_of, key=lambda row: row[:2])
        table = self._held()
        for place in best[2].tolist():
            self.stopped.add(place)
            lease = self.work.state.leases[table.ids[place]]
            code = "PRIORITY" if lease.priority.rank > job.priority.rank else "RECLAIM"
            self.work.preempts.append(
                Preempt(
                    lease=lease.id,
                    job=lease.job,
                    code=code,
                    by=JobId(job.id),
                    cost_device_ms=lost(lease, self.work.state.now),
                )
            )
        return True

    def lowest(self) -> int:
        """The rank of the lowest priority that runs; -1: nothing runs."""
        return max((rank for rank, count in self.work.state.ranks.items() if count), default=-1)

    def reach(self) -> tuple[int, Ints]:
        """Of whom leases may be stopped: jobs of a higher priority than this rank, and those of at most so many devices, by
        queue: what is left of its own nominal, if it has a cohort."""
        names, queues, used = self.work.state.registry.names, self.work.state.queues, self.work.quotas.used()
        own = np.full(len(names), -1, dtype=np.int64)
        for name, quota in queues.items() if queues else ():
            number = self.work.state.registry.queues.get(name)
            if number is not None and quota.cohort is not None and quota.nominal_devices is not None:
                own[number] = quota.nominal_devices - used.get(name, 0)
        return self.lowest(), own

    def _held(self) -> HeldTable:
        if self._table is None:
            self._table = self.work.held()
        return self._table

    def _pool(self, number: int) -> tuple[Ints, Ints, Ints]:
        """Of each member of whole devices in the pool: the place of its lease in the table, of its node, its devices."""
        if number not in self._members:
            table, zone = self._held(), self.work.zone
            owner = table.owner()
            here = (zone.pool_of[table.members[:, 0]] == number) & (table.facts[owner, SHARED] == 0)
            places = np.searchsorted(zone.rows[number], table.members[here, 0])
            self._members[number] = owner[here], places, table.members[here, 1]
        return self._members[number]

    def _reclaims(self, job: WaitingJob, ways: Sequence[Way]) -> bool:
        """With this job its queue would still hold no more than its own nominal."""
        quota = self.work.state.queues.get(job.queue)
        if quota is None or quota.cohort is None or quota.nominal_devices is None:
            return False
        least = min(way.shape.count for way in ways) * least_nodes(job)
        return self.work.quotas.used().get(job.queue, 0) + least <= quota.nominal_devices

    def _stands_on_borrowed(self) -> Flags:
        """Of each lease in the table: its queue passed its nominal with it, or before it (`scheduler.quota.beyond`)."""
        if self._borrowed is None:
            table = self._held()
            names = self.work.state.registry.names
            quotas = [self.work.state.queues.get(name) for name in names]
            nominal = np.array(
                [
                    FOREVER if q is None or q.cohort is None or q.nominal_devices is None else q.nominal_devices
                    for q in quotas
                ],
                dtype=np.int64,
            )
            queue, started = table.facts[:, QUEUE], table.facts[:, STARTED]
            since = np.where(started == NOT_YET, self.work.now_ms, started)
            order = np.lexsort((since, queue))  # of one queue and instant: by id
            total = np.cumsum(table.facts[order, SIZE])
            first = np.searchsorted(queue[order], queue[order], side="left")
            before = np.concatenate([np.zeros(1, dtype=np.int64), total])[first]
            self._borrowed = np.zeros(len(order), dtype=np.bool_)
            self._borrowed[order] = total - before > nominal[queue[order]]
        return self._borrowed

    def _lent(self, queue: str) -> Flags:
        """Those of them whose queue is of the same cohort."""
        cohort, queues = self.work.state.queues[queue].cohort, self.work.state.queues
        known = [queues.get(name) for name in self.work.state.registry.names]
        alike = np.array([one is not None and one.cohort == cohort for one in known], dtype=np.bool_)
        found: Flags = self._stands_on_borrowed() & alike[self._held().facts[:, QUEUE]]
        return found

    def _prospect(
        self, job: WaitingJob, way: Way, part: Ints, *, reclaims: bool, release: int
    ) -> tuple[Prospect, Ints, Ints] | None:
        """What stopping leases in the way's pool could do: the prospect, the leases it numbers (by place in the table) and
        what each would lose; None if nothing helps.

        part: the places in the pool's rows that the gang must keep within.
        """
        work, rows = self.work, self.work.zone.rows[way.number]
        facts = self._held().facts
        free, cpu, memory = (work.columns.full[rows], work.columns.cpu[rows], work.columns.memory[rows])
        owner, where, devices = self._pool(way.number)
        stopping = facts[:, STOPPING] == 1
        stopping[list(self.stopped)] = True
        borrowed = self._lent(job.queue) if reclaims else np.zeros(len(stopping), dtype=np.bool_)
        ends = stopping[owner]
        np.add.at(free, where[ends], devices[ends])
        np.add.at(cpu, where[ends], facts[owner[ends], CPU])
        np.add.at(memory, where[ends], facts[owner[ends], MEMORY])
        release -= int(devices[ends & borrowed[owner]].sum())
        started = facts[:, STARTED]
        guarded = (started == NOT_YET) | (work.now_ms - started < MINIMUM_MS)
        lower = facts[:, RANK] > job.priority.rank
        if (spares := getattr(work.policy, "spares", None)) is not None:
            ids, known = self._held().ids, work.state.leases
            for place in np.flatnonzero(lower & ~stopping & ~guarded).tolist():
                lower[place] = not spares(known[ids[place]], job, work.now_ms)
        may = ~stopping & ~guarded & (lower | borrowed)
        stays = may[owner]
        able, who = np.unique(owner[stays], return_inverse=True)
        given = devices[stays]
        cost = facts[able, SIZE] * np.maximum(0, work.now_ms - facts[able, SAVED])
        usable = np.zeros(len(rows), dtype=np.bool_)
        usable[part] = work.columns.usable[rows[part]]
        if work.closing is not None:
            usable &= work.closing[rows] >= work.now_ms + job.time_limit_ms
        need = Need(
            count=way.shape.count, nodes=least_nodes(job), cpu_milli=way.shape.cpu, memory_bytes=way.shape.memory,
            rank=job.priority.rank, reclaims=reclaims, release_devices=max(0, release),
        )  # fmt: skip
        found = prospect(
            need,
            Free(devices=free, cpu_milli=_known(cpu), memory_bytes=_known(memory), usable=usable),
            Candidates(
                cost=cost,
                returns=np.where(borrowed[able], np.bincount(who, given, len(able)), 0).astype(np.int64),
                who=who.astype(np.int64),
                where=where[stays],
                devices=given,
                cpu=facts[able, CPU][who],
                memory=facts[able, MEMORY][who],
            ),
        )
        return None if found is None else (found, able, cost)


def _known(values: Ints) -> Ints | None:
    return None if bool((values >= UNKNOWN // 2).all()) else values
