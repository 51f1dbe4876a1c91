"""rounds: training jobs take turns on unlike models; once a round every job's place is decided anew.

`allocate_round` looks at waiting and running jobs alike. A decision is kept while nothing came, nothing that is free could
serve somebody better, and it is younger than REFRESH rounds: moving a job costs it a restart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from scheduler.clock import to_ms
from scheduler.job import JobId
from scheduler.plan import Candidate
from scheduler.policy import Ints, JobColumns
from scheduler.rounds import Floats, RoundProblem, RoundWeights, allocate
from scheduler.snapshot import RunningLease, Throughput, WaitingJob
from scheduler.throughput import estimate

if TYPE_CHECKING:
    from scheduler.rotation import Option, Turns

ROUND_MS = 360_000  # Gavel, OSDI'20, section 5: rounds of six minutes
REFRESH = (
    10  # rounds after which a decision is looked at again although nothing happened: a stop is paid once for so many
)
RESTART_MS = 30_000  # what a start takes where nobody has said
NO_LIMIT = 1 << 40  # devices


class Rounds:
    name = "rounds"
    backfill = 0
    preempts = False
    fair = False
    round_ms = ROUND_MS

    def __init__(self, weights: RoundWeights | None = None, restart_ms: int = RESTART_MS) -> None:
        self.weights = weights or RoundWeights()
        self.restart_ms = restart_ms

    def order(self, jobs: JobColumns, now_ms: int) -> Ints:  # noqa: ARG002
        return np.lexsort((jobs.id_rank, jobs.submitted_ms, jobs.priority_rank)).astype(np.int64)

    def choose(self, job: WaitingJob, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:  # noqa: ARG002
        return tuple(sorted(candidates, key=lambda c: (c.alternative, c.pool)))

    def allocate_round(self, turns: Turns) -> Mapping[JobId, Option | None]:
        """For every job the option it runs in the coming round, None = it waits. Devices of no pool and of no queue are
        exceeded. A job of unknown work is taken to need all of its time limit on the fastest of its options."""
        ids = sorted(turns.options)
        decision: dict[JobId, Option | None] = dict.fromkeys(ids)
        options: list[tuple[int, Option, float]] = []
        rates = Rates(turns)
        for row, name in enumerate(ids):
            here = turns.held.get(name)
            for option, pace in rates.paces(turns.jobs[name], turns.options[name], here):
                if option == here or option.devices <= turns.devices.get(option.pool, 0):
                    options.append((row, option, pace))
        if not options:
            return decision
        if self.keeps(turns, ids, options):
            return {**decision, **turns.held}
        pools = {pool: number for number, pool in enumerate(sorted(turns.devices))}
        queues = {name: number for number, name in enumerate(sorted(turns.room))}
        held = np.full(len(ids), -1, dtype=np.int64)
        lost = np.zeros(len(ids))
        for number, (row, option, pace) in enumerate(options):
            if option == turns.held.get(ids[row]):
                held[row] = number
                lost[row] = lost_by_stopping(turns, ids[row], pace) / REFRESH
        problem = RoundProblem(
            job=np.array([row for row, _, _ in options], dtype=np.int64),
            model=np.array([pools[option.pool] for _, option, _ in options], dtype=np.int64),
            devices=np.array([option.devices for _, option, _ in options], dtype=np.int64),
            pace=np.array([pace for *_, pace in options]),
            age_s=ages(turns, ids),
            held=held,
            capacity=np.array([turns.devices[pool] for pool in pools], dtype=np.int64),
            round_s=self.round_ms / 1000,
            restart_s=self.restart_ms / 1000,
            lost=lost,
            queue=np.array([queues.get(turns.jobs[name].queue, -1) for name in ids], dtype=np.int64),
            room=np.array([NO_LIMIT if (r := turns.room[name]) is None else r for name in queues], dtype=np.int64),
        )
        for number in allocate(problem, self.weights).tolist():
            if number >= 0:
                row, option, _ = options[number]
                decision[ids[row]] = option
        return decision

    def keeps(self, turns: Turns, ids: Sequence[JobId], options: Sequence[tuple[int, Option, float]]) -> bool:
        """Nothing that could change the decision has happened since the round before."""
        since = turns.now - timedelta(milliseconds=self.round_ms)
        if not turns.held or to_ms(turns.now) // self.round_ms % REFRESH == 0:
            return False
        if any(job.submitted_at > since for job in turns.jobs.values()):
            return False
        free = dict(turns.devices)
        room = {name: NO_LIMIT if left is None else left for name, left in turns.room.items()}
        for name, option in turns.held.items():
            free[option.pool] = free.get(option.pool, 0) - option.devices
            queue = turns.jobs[name].queue
            room[queue] = room.get(queue, NO_LIMIT) - option.devices
        if any(count < 0 for count in (*free.values(), *room.values())):
            return False
        now = {row: pace for row, option, pace in options if option == turns.held.get(ids[row])}
        for row, option, pace in options:
            left = room.get(turns.jobs[ids[row]].queue, NO_LIMIT)
            if pace > now.get(row, 0.0) and option.devices <= min(free.get(option.pool, 0), left):
                return False
        return True


class Rates:
    """Fractions of remaining work done in a second; a rate is estimated once for each workload, model and size."""

    def __init__(self, turns: Turns) -> None:
        self.throughputs = turns.throughputs
        self.known: dict[tuple[str, str, int], Throughput | None] = {}

    def paces(self, job: WaitingJob, options: Sequence[Option], held: Option | None) -> list[tuple[Option, float]]:
        """The options on which the job gets on. A measured zero: it cannot run there, unless that is where it runs."""
        rates = [self.rate(job.workload, option) for option in options]
        limit = 1000 / max(job.time_limit_ms, 1)
        most = max((rate for rate in rates if rate), default=None)
        found = []
        for option, rate in zip(options, rates, strict=True):
            if rate is None or most is None or job.remaining_steps is None:
                pace = limit if rate is None or most is None else limit * rate / most
            else:
                pace = rate / 1000 / max(job.remaining_steps, 1)
            if rate == 0:
                pace = limit if option == held else 0.0
            if pace > 0:
                found.append((option, pace))
        return found

    def rate(self, workload: str | None, option: Option) -> int | None:
        """Steps in 1,000 seconds; None = nothing is known."""
        if workload is None:
            return None
        key = (workload, option.model, option.devices)
        if key not in self.known:
            self.known[key] = estimate(self.throughputs, *key)
        row = self.known[key]
        return None if row is None else row.steps_per_ks


def lost_by_stopping(turns: Turns, name: JobId, pace: float) -> float:
    """The fraction of its remaining work that the job would have to do again: what it has done since its last checkpoint.

    Counted in steps where they are known; else in time since the checkpoint, at most the interval that the job declares.
    """
    job, lease = turns.jobs[name], turns.leases[name]
    if job.remaining_steps is not None and lease.remaining_steps is not None:
        return min(max(job.remaining_steps - lease.remaining_steps, 0) / max(job.remaining_steps, 1), 1.0)
    return min(unsaved_ms(turns, lease) / 1000 * pace, 1.0)


def unsaved_ms(turns: Turns, lease: RunningLease) -> int:
    if lease.started_at is None:
        return 0
    saved = lease.started_at if lease.checkpointed_at is None else max(lease.checkpointed_at, lease.started_at)
    since = max(0, to_ms(turns.now) - to_ms(saved))
    return since if lease.checkpoint_interval_ms is None else min(since, lease.checkpoint_interval_ms)


def ages(turns: Turns, ids: Sequence[JobId]) -> Floats:
    """Seconds since each job was submitted."""
    return np.array([max((turns.now - turns.jobs[name].submitted_at).total_seconds(), 0.0) for name in ids])
