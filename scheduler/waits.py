"""Waits: why each job waits, worked out when it is asked for. Pure.

A queue of tens of thousands is decided many jobs at a time, and most of the reasons nobody reads; what a reason needs is
kept as it was when the plan was made, so that it can be written at any time and says the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt

from scheduler.backfill import FOREVER
from scheduler.job import JobId
from scheduler.pending import Reasons
from scheduler.placing import affordable
from scheduler.plan import Candidate, Pending, Wait
from scheduler.policy import Ints
from scheduler.shape import class_of
from scheduler.snapshot import WaitingJob
from scheduler.waiting import CLASS, DEVICES, GATED, QUEUE
from scheduler.workspace import Workspace
from scheduler.zone import Way

if TYPE_CHECKING:
    from scheduler.engine import State


PASSED = "passed"  # the verdict on a job that nobody looked at, because it could change nothing


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of looking at one job: gate, never, far (no link), quota, dear, behind, busy.

    candidates: what it was offered; offered: the same, where nobody asked what it costs.
    """

    why: str
    candidates: tuple[Candidate, ...] = ()
    offered: tuple[Way, ...] = ()


@dataclass(slots=True, eq=False)
class Waits(Sequence[Wait]):
    """The jobs that wait, in queue order. Equal to any sequence of the same waits.

    rows: of the state's waiting columns; positions: in the whole queue, ascending; verdicts: by position.
    """

    state: State
    work: Workspace
    rows: Ints
    positions: Ints
    verdicts: Mapping[int, Verdict]
    _reasons: Reasons | None = None
    _ahead: dict[int, Ints] = field(default_factory=dict)
    _keeps: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Wait: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Wait, ...]: ...
    def __getitem__(self, index: int | slice) -> Wait | tuple[Wait, ...]:
        if isinstance(index, slice):
            return tuple(self._wait(i) for i in range(*index.indices(len(self))))
        return self._wait(range(len(self))[index])

    def __iter__(self) -> Iterator[Wait]:
        return (self._wait(i) for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return NotImplemented if not isinstance(other, Sequence) else False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash((len(self), self.state.version))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def of(self, job: JobId) -> Wait | None:
        """Why this job waits; None when it does not."""
        ids = self.state.waiting.ids
        row = int(np.searchsorted(ids, job))
        if row == len(ids) or ids[row] != job:
            return None
        found = np.flatnonzero(self.rows == row)
        return self._wait(int(found[0])) if len(found) else None

    # --- one reason -------------------------------------------------------------------------------------------------

    def _wait(self, index: int) -> Wait:
        job = self.state.jobs[self.state.waiting.ids[self.rows[index]]]
        return Wait(job=job.id, pending=self._pending(job, index))

    def _pending(self, job: WaitingJob, index: int) -> Pending:
        if self._reasons is None:
            self._reasons = Reasons(self.state, self.work)
        reasons, work = self._reasons, self.work
        verdict = self.verdicts.get(int(self.positions[index]), Verdict(PASSED))
        if job.gate is not None:
            return reasons.gate(job)
        ways = work.zone.ways(class_of(job))
        if not ways:
            return reasons.never(job)
        if not (ways := tuple(work.linked(job, ways))):
            return reasons.no_link(job)
        if verdict.why == "turn":
            return reasons.turn(job)
        least = int(self.state.waiting.values[self.rows[index], DEVICES])
        most = work.most(job.queue)
        if most is not None and least > most:
            return reasons.exceeds_quota(job, most, least)
        headroom = work.quotas.headroom(job.queue)
        if headroom is not None:
            within = tuple(way for way in ways if way.least * way.shape.count <= headroom)
            least = min(way.least * way.shape.count for way in ways)
        else:
            within = ways
        if verdict.why == "quota" or not within:
            return reasons.quota_exhausted(job, headroom or 0, least)
        blocked = work.blocked and all(work.blocked.get(way.number) for way in within)
        if verdict.why == PASSED and job.money.max_net_fen is not None and not blocked:
            verdict = _priced(job, within, work)
        if verdict.why == "dear":
            return reasons.too_dear(job, verdict.candidates)
        if verdict.offered:
            ways = verdict.offered
        elif verdict.candidates:
            offered = {(one.alternative, one.pool) for one in verdict.candidates}
            ways = tuple(way for way in ways if (way.alternative, way.pool.id) in offered)
        ahead = [int(self._before(way.number)[index]) for way in ways]
        if all(ahead):
            return reasons.behind(job, ways, max(ahead))
        return reasons.busy(job, tuple(way for way, n in zip(ways, ahead, strict=True) if not n))

    def _before(self, number: int) -> Ints:
        """Per wait, how many earlier ones wait for this pool."""
        if number not in self._ahead:
            keeps = self._keeping()
            table = self.work.zone.classes(self.state.registry, self.work.columns)
            wants = np.zeros(table.count, dtype=np.bool_)
            wants[table.cls[table.pool == number]] = True
            here = keeps & wants[self.state.waiting.values[self.rows, CLASS]]
            self._ahead[number] = np.cumsum(here) - here
        return self._ahead[number]

    def _keeping(self) -> npt.NDArray[np.bool_]:
        """Which waits keep a place: those that only devices keep from starting."""
        if self._keeps is None:
            values = self.state.waiting.values[self.rows]
            names: list[str] = self.state.registry.names
            room = [self.work.quotas.headroom(name) for name in names]
            limit = np.array([1 << 62 if r is None else r for r in room], dtype=np.int64)
            need = self.work.zone.classes(self.state.registry, self.work.columns).need[values[:, CLASS]]
            keeps = (values[:, GATED] == 0) & (need <= limit[values[:, QUEUE]]) & (need < FOREVER)
            out = [
                p for p, verdict in self.verdicts.items() if verdict.why in ("dear", "quota", "never", "gate", "far")
            ]
            keeps &= ~np.isin(self.positions, np.array(out, dtype=np.int64))
            self._keeps = keeps
        return self._keeps


def _priced(job: WaitingJob, ways: Sequence[Way], work: Workspace) -> Verdict:
    """What a look at the job would have said of its price."""
    offered = [work.candidate(job, way) for way in ways]
    able = tuple(one for one in offered if affordable(job, one))
    return Verdict("busy", able) if able else Verdict("dear", tuple(offered))
