"""Policy: an opinion about order and choice. The planner asks it and stays the same for every one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from scheduler.plan import Candidate
from scheduler.snapshot import WaitingJob

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobColumns:
    """Waiting jobs as columns, row i is the same job everywhere. id_rank: rank of the id among these jobs."""

    priority_rank: Ints
    submitted_ms: Ints
    devices: Ints
    time_limit_ms: Ints
    id_rank: Ints


class Policy(Protocol):
    """Pure and total: same input, same answer; ties end at the job's id, so that any two jobs are ordered.

    backfill 1 is EASY, a large number conservative. fair: within a priority; the order then holds within each queue.
    """

    name: str
    backfill: int  # how many jobs that wait in a pool have a reservation there; 0: nobody overtakes
    preempts: bool  # a job of higher priority, or one whose queue has lent its devices, may stop others
    fair: bool  # queues take turns by what they use for each unit of weight

    def order(self, jobs: JobColumns, now_ms: int) -> Ints:
        """Row numbers, first served first; a permutation of all rows."""

    def choose(self, job: WaitingJob, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
        """The candidates, best first; a permutation of what was given, never empty when that is not."""
