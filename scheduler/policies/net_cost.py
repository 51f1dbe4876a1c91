"""net_cost: the queue of fifo; among alternatives the job's own objective decides, by default what it costs the firm.

The effective price of design section 7: p · (1 - r · (1 - λ)); here on the whole time limit and within the room left, so
that a voucher that has run out no longer attracts; what moving the inputs takes is in it. A model on which the job is
predicted to outlast its time limit comes last.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler.choice import by_objective
from scheduler.plan import Candidate
from scheduler.policy import Ints, JobColumns
from scheduler.snapshot import WaitingJob


class NetCost:
    name = "net_cost"
    backfill = 1
    preempts = True
    fair = False

    def order(self, jobs: JobColumns, now_ms: int) -> Ints:  # noqa: ARG002
        return np.lexsort((jobs.id_rank, jobs.submitted_ms, jobs.priority_rank)).astype(np.int64)

    def choose(self, job: WaitingJob, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
        return by_objective(job, candidates)
