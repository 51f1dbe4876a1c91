"""fifo: priority, then first come first served; alternatives in the order they are written, whatever they cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler.plan import Candidate
from scheduler.policy import Ints, JobColumns
from scheduler.snapshot import WaitingJob


class Fifo:
    name = "fifo"
    backfill = 0
    preempts = False
    fair = False

    def order(self, jobs: JobColumns, now_ms: int) -> Ints:  # noqa: ARG002
        return np.lexsort((jobs.id_rank, jobs.submitted_ms, jobs.priority_rank)).astype(np.int64)

    def choose(self, job: WaitingJob, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:  # noqa: ARG002
        return tuple(sorted(candidates, key=lambda c: (c.alternative, c.pool)))
