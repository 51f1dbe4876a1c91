"""net_cost: the queue of fifo; among alternatives the job's own objective decides, by default what it costs the firm.

The effective price of design section 7: p · (1 - r · (1 - λ)); here on the whole time limit and within the room left, so
that a voucher that has run out no longer attracts; what moving the inputs takes is in it. A model on which the job is
predicted to outlast its time limit comes last.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np

from scheduler.job import Objective
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
        # Equal in money: the less electricity costs, then the less it emits; what nobody knows comes after what is known.
        def key(c: Candidate) -> tuple[bool, int, float, float, int, str]:
            energy = inf if c.energy_fen is None else c.energy_fen
            grams = inf if c.carbon_g is None else c.carbon_g
            return (c.exceeds_limit, _wanted(job, c), energy, grams, c.alternative, c.pool)

        return tuple(sorted(candidates, key=key))


def _wanted(job: WaitingJob, one: Candidate) -> int:
    """The less the better: fen, or of those that can start now the milliseconds until the job is done.

    Where no prediction is known the whole time limit stands for it.
    """
    match job.money.objective:
        case Objective.NET_COST:
            return one.effective_fen
        case Objective.GROSS_COST:
            return (one.gross_fen if one.expected_fen is None else one.expected_fen) + one.transfer_fen
        case Objective.START_TIME:
            return job.time_limit_ms + one.transfer_ms if one.predicted_ms is None else one.predicted_ms
