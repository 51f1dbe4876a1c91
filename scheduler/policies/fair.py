"""fair: queues take turns by their weighted dominant share; within a queue, and among pools, it is as net_cost.

A job's priority comes first and rises by one for every STEP since it was submitted, so that nobody waits for ever behind
others of a higher one (`scheduler.fairness.age_rank`). A job may stop one of a lower priority, unless that one would go before
it were it to wait again: else it would take its place back, and the two would stop each other for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler.choice import by_objective
from scheduler.clock import to_ms
from scheduler.fairness import age_rank
from scheduler.plan import Candidate
from scheduler.policy import Ints, JobColumns
from scheduler.snapshot import RunningLease, WaitingJob

STEP_MS = 6 * 3_600_000


class Fair:
    name = "fair"
    backfill = 1
    preempts = True
    fair = True

    def order(self, jobs: JobColumns, now_ms: int) -> Ints:
        return np.lexsort((jobs.id_rank, jobs.submitted_ms, self.ranks(jobs, now_ms))).astype(np.int64)

    def choose(self, job: WaitingJob, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
        return by_objective(job, candidates)

    def ranks(self, jobs: JobColumns, now_ms: int) -> Ints:
        """Of each job, what comes before the share of its queue; the lower goes first."""
        return age_rank(jobs.priority_rank, jobs.submitted_ms, now_ms, STEP_MS)

    def spares(self, lease: RunningLease, job: WaitingJob, now_ms: int) -> bool:
        """The lease's job has grown so old that it goes before this one, or may."""
        return lease.again is not None and _aged(lease.again, now_ms) <= _aged(job, now_ms)


def _aged(job: WaitingJob, now_ms: int) -> int:
    return job.priority.rank - max(0, now_ms - to_ms(job.submitted_at)) // STEP_MS
