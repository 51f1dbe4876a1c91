"""Waiting: the jobs that wait, as columns sorted by id, so that ordering and skipping cost vector operations. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from scheduler.clock import to_ms
from scheduler.job import JobId
from scheduler.netcost import Profiles, profiles_of
from scheduler.shape import JobClass, class_of, least_nodes
from scheduler.snapshot import Throughput, WaitingJob

Ints = npt.NDArray[np.int64]
PRIORITY, SUBMITTED, DEVICES, LIMIT, CLASS, QUEUE, GATED = range(7)
FEW = 64  # a table this small is made anew rather than patched


@dataclass(slots=True, eq=False)
class Registry:
    """Numbers of classes and queues. Only ever grows, so that numbers once given hold in every state that shares it."""

    classes: dict[JobClass, int] = field(default_factory=dict)
    known: list[JobClass] = field(default_factory=list)
    queues: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    _profiles: tuple[Mapping[tuple[str, str, int], Throughput], Profiles] = field(default_factory=lambda: ({}, {}))

    def profiles(self, throughputs: Mapping[tuple[str, str, int], Throughput]) -> Profiles:
        """The throughputs by workload and model; those of the last table asked for are kept."""
        if self._profiles[0] is not throughputs:
            self._profiles = (throughputs, profiles_of(throughputs.values()))
        return self._profiles[1]

    def class_number(self, found: JobClass) -> int:
        """The number of this class."""
        number = self.classes.get(found)
        if number is None:
            number = self.classes[found] = len(self.known)
            self.known.append(found)
        return number

    def queue_number(self, name: str) -> int:
        """The number of this queue."""
        number = self.queues.get(name)
        if number is None:
            number = self.queues[name] = len(self.names)
            self.names.append(name)
        return number


@dataclass(frozen=True, slots=True, eq=False)
class WaitingColumns:
    """ids ascending; values [jobs, 7] by the names above: row i is the same job in both."""

    ids: npt.NDArray[np.object_]
    values: Ints

    def changed(self, jobs: Mapping[JobId, WaitingJob], names: Collection[JobId], registry: Registry) -> WaitingColumns:
        """The columns after these jobs came, changed or went; `jobs` is what waits now."""
        if len(jobs) <= FEW:
            few = sorted(jobs)
            ids = np.empty(len(few), dtype=object)
            ids[:] = few
            return WaitingColumns(ids, _values([jobs[name] for name in few], registry))
        wanted = np.array(sorted(names), dtype=object)
        at = np.searchsorted(self.ids, wanted)
        inside = at < len(self.ids)
        old = at[inside][self.ids[at[inside]] == wanted[inside]]
        ids, values = np.delete(self.ids, old), np.delete(self.values, old, axis=0)
        come = [jobs[name] for name in wanted if name in jobs]
        if come:
            new = np.array([job.id for job in come], dtype=object)
            places = np.searchsorted(ids, new)
            ids = np.insert(ids, places, new)
            values = np.insert(values, places, _values(come, registry), axis=0)
        return WaitingColumns(ids, values)

    def line(self, order: Ints) -> Line:
        """The columns that tell who is worth a look, in this order."""
        values = self.values
        return Line(
            classes=values[:, CLASS][order], queue=values[:, QUEUE][order], devices=values[:, DEVICES][order],
            limit_ms=values[:, LIMIT][order], ready=values[:, GATED][order] == 0, rank=values[:, PRIORITY][order],
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """The waiting jobs in the order of the queue, one array a column. ready: no gate holds the job. rank: of its priority."""

    classes: Ints
    queue: Ints
    devices: Ints
    limit_ms: Ints
    ready: npt.NDArray[np.bool_]
    rank: Ints


NONE_WAITING = WaitingColumns(np.empty(0, dtype=object), np.zeros((0, 7), dtype=np.int64))


def _values(jobs: list[WaitingJob], registry: Registry) -> Ints:
    if not jobs:
        return np.zeros((0, 7), dtype=np.int64)
    return np.array(
        [
            (
                job.priority.rank,
                to_ms(job.submitted_at),
                least_nodes(job) * min(a.count for a in job.request.alternatives),
                job.time_limit_ms,
                registry.class_number(class_of(job)),
                registry.queue_number(job.queue),
                job.gate is not None,
            )
            for job in jobs
        ],
        dtype=np.int64,
    )
