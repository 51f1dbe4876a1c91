"""net_cost: the queue of fifo; among alternatives the job's own objective decides, by default what it costs the firm.

The effective price of design section 7: p · (1 - r · (1 - λ)); here on the whole time limit and within the room left, so
that a voucher that has run out no longer attracts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler.job import Objective
from scheduler.plan import Candidate
from scheduler.policy import Ints, JobColumns
from scheduler.snapshot import WaitingJob


class NetCost:
    name = "net_cost"
    backfill = 1
    fair = False

    def order(self, jobs: JobColumns, now_ms: int) -> Ints:  # noqa: ARG002
        return np.lexsort((jobs.id_rank, jobs.submitted_ms, jobs.priority_rank)).astype(np.int64)

    def choose(self, job: WaitingJob, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
        match job.money.objective:
            case Objective.NET_COST:
                return tuple(sorted(candidates, key=lambda c: (c.effective_fen, c.alternative, c.pool)))
            case Objective.GROSS_COST:
                return tuple(sorted(candidates, key=lambda c: (c.gross_fen, c.alternative, c.pool)))
            case Objective.START_TIME:
                return tuple(sorted(candidates, key=lambda c: (c.alternative, c.pool)))
