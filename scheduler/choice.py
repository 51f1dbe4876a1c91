"""Choice: which of the pools that fit a job now suits it best, by the job's own objective; shared by policies. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from scheduler.job import Objective
from scheduler.plan import Candidate
from scheduler.snapshot import WaitingJob


def by_objective(job: WaitingJob, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Best first: a permutation. A model on which the job is predicted to outlast its time limit comes last.

    Equal in what is wanted: the less electricity costs, then the less it emits; what nobody knows comes after what is known.
    """

    def key(c: Candidate) -> tuple[bool, int, float, float, int, str]:
        energy = inf if c.energy_fen is None else c.energy_fen
        grams = inf if c.carbon_g is None else c.carbon_g
        return (c.exceeds_limit, wanted(job, c), energy, grams, c.alternative, c.pool)

    return tuple(sorted(candidates, key=key))


def wanted(job: WaitingJob, one: Candidate) -> int:
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
