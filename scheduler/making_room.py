"""Making room: which running leases stop so that a job of higher priority starts, or a queue has its own devices back. Pure.

Only the first jobs that wait are tried (TRIES a plan), and a lease that was told to stop counts as free already, so that a
plan made while it stops asks for nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from scheduler.columns import UNKNOWN, WHOLE, Ints
from scheduler.job import JobId
from scheduler.plan import Preempt
from scheduler.preemption import Free, Need, Victim, cost, lost, protected, victims
from scheduler.quota import beyond
from scheduler.shape import least_nodes
from scheduler.snapshot import RunningLease, WaitingJob
from scheduler.zone import Way

if TYPE_CHECKING:
    from scheduler.workspace import Workspace

TRIES = 4  # jobs a plan makes room for at most
MINIMUM_MS = 600_000  # a lease is left alone for its first ten minutes


@dataclass(slots=True)
class Stops:
    """Victims of one plan. The leases of each pool are listed once."""

    work: Workspace
    tries: int = 0
    stopped: set[str] = field(default_factory=set)
    _by_pool: dict[int, list[RunningLease]] | None = None
    _borrowed: set[str] | None = None

    def make_room(self, job: WaitingJob, ways: Sequence[Way], *, release: int = 0) -> bool:
        """Leases are chosen whose stop lets the job start in one of the pools, at the least loss; their nodes are kept for it.

        release: borrowed devices that its queue must have back. False when nothing can be done, or need be.
        """
        reclaims = release > 0 or self._reclaims(job, ways)
        lower = any(rank > job.priority.rank and count for rank, count in self.work.state.ranks.items())
        if self.tries >= TRIES or not (reclaims or lower) or job.share_permille < WHOLE:
            return False
        self.tries += 1
        leases = self._leases()
        best: tuple[int, int, Way, tuple[Victim, ...]] | None = None
        for rank, way in enumerate(ways):
            found = self._victims(job, way, leases.get(way.number, []), reclaims=reclaims, release=release)
            if found is None:
                continue
            if not found:
                return False  # room is being made already
            loss = sum(one.cost_device_ms for one in found)
            if best is None or (loss, rank) < best[:2]:
                best = (loss, rank, way, found)
        if best is None:
            return False
        _, _, way, found = best
        known = {lease.id: lease for lease in leases[way.number]}
        for one in found:
            lease = next(known[name] for name in known if name == one.lease)
            self.stopped.add(lease.id)
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

    def _leases(self) -> dict[int, list[RunningLease]]:
        if self._by_pool is None:
            self._by_pool = {}
            numbers = self.work.zone.numbers
            for lease in sorted(self.work.state.leases.values(), key=lambda one: one.id):
                if lease.pool in numbers and lease.share_permille >= WHOLE:
                    self._by_pool.setdefault(numbers[lease.pool], []).append(lease)
        return self._by_pool

    def _reclaims(self, job: WaitingJob, ways: Sequence[Way]) -> bool:
        """With this job its queue would still hold no more than its own nominal."""
        quota = self.work.state.queues.get(job.queue)
        if quota is None or quota.cohort is None or quota.nominal_devices is None:
            return False
        least = min(way.shape.count for way in ways) * least_nodes(job)
        return self.work.quotas.used().get(job.queue, 0) + least <= quota.nominal_devices

    def _stands_on_borrowed(self) -> set[str]:
        if self._borrowed is None:
            self._borrowed = set()
            by_queue: dict[str, list[RunningLease]] = {}
            for lease in self.work.state.leases.values():
                by_queue.setdefault(lease.queue, []).append(lease)
            for name, leases in by_queue.items():
                quota = self.work.state.queues.get(name)
                if quota is None or quota.cohort is None or quota.nominal_devices is None:
                    continue
                leases.sort(key=lambda one: (one.started_at or self.work.state.now, one.id))
                devices = [sum(len(m.devices) for m in lease.members) for lease in leases]
                over = beyond(devices, quota.nominal_devices)
                self._borrowed |= {lease.id for lease, out in zip(leases, over, strict=True) if out}
        return self._borrowed

    def _victims(
        self, job: WaitingJob, way: Way, leases: Sequence[RunningLease], *, reclaims: bool, release: int
    ) -> tuple[Victim, ...] | None:
        work, rows = self.work, self.work.zone.rows[way.number]
        free, cpu, memory = (
            work.columns.full[rows].copy(),
            work.columns.cpu[rows].copy(),
            work.columns.memory[rows].copy(),
        )
        borrowed = self._stands_on_borrowed() if reclaims else set()
        able = []
        for lease in leases:
            places = self._places(lease, rows)
            if lease.stopping or lease.id in self.stopped:
                for place, devices in places:
                    free[place] += devices
                    cpu[place] += lease.cpu_milli
                    memory[place] += lease.memory_bytes
                release -= sum(devices for _, devices in places) if lease.id in borrowed else 0
                continue
            able.append(
                Victim(
                    lease=lease.id,
                    rows=tuple(place for place, _ in places),
                    devices=tuple(devices for _, devices in places),
                    rank=lease.priority.rank,
                    cost_device_ms=cost(lease, work.state.now),
                    cpu_milli=lease.cpu_milli,
                    memory_bytes=lease.memory_bytes,
                    borrowed=lease.id in borrowed,
                    protected=protected(lease, work.state.now, MINIMUM_MS),
                )
            )
        usable = work.columns.usable[rows].copy()
        if work.closing is not None:
            usable &= work.closing[rows] >= work.now_ms + job.time_limit_ms
        need = Need(
            count=way.shape.count, nodes=least_nodes(job), cpu_milli=way.shape.cpu, memory_bytes=way.shape.memory,
            rank=job.priority.rank, reclaims=reclaims, release_devices=max(0, release),
        )  # fmt: skip
        return victims(
            need, Free(devices=free, cpu_milli=_known(cpu), memory_bytes=_known(memory), usable=usable), able
        )

    def _places(self, lease: RunningLease, rows: Ints) -> list[tuple[int, int]]:
        found = []
        for member in lease.members:
            row = self.work.columns.row_of.get(member.node)
            if row is None:
                continue
            place = int(np.searchsorted(rows, row))
            if place < len(rows) and rows[place] == row:
                found.append((place, len(member.devices)))
        return found


def _known(values: Ints) -> Ints | None:
    return None if bool((values >= UNKNOWN // 2).all()) else values
