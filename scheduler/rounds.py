"""Rounds: which job runs on which model at which scale until the next round, from what is left of every job. Pure.

Two programs. The makespan program (linear) says how soon all that is left could finish and, by its dual prices, which jobs
hold that instant up. The round (integer) gives the devices of the next round to the progress worth most: a fraction of a
job's remaining work counts 1 - short jobs first, which is what the mean wants - plus what the job weighs for the tail:
its share of the makespan's price, its own length where that nears the makespan, and its age. Long jobs thus go early to
the models that serve them best, and short ones fill what is left.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from scheduler.round_program import Program, best

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FLOOR = 1e-6  # least relative value: a device that can serve anything is never left idle
TINY = 1e-300


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundProblem:
    """Option o is: job[o] on devices[o] devices of model[o], doing pace[o] > 0 of what remains of the job in a second.

    Rows of age_s, held, lost and queue are jobs, numbered as in `job`; held: the option a job runs now, -1 = none; lost: the
    fraction of what remains that a job has done and would have to do again unless it stays there. capacity: devices of
    each model, room: of each queue; queue -1 = no limit. round_s: how long the decision lasts; restart_s: what a job loses
    that starts on another option than it held. () = nobody loses, no queue has a limit.
    """

    job: Ints
    model: Ints
    devices: Ints
    pace: Floats
    age_s: Floats
    held: Ints
    capacity: Ints
    round_s: float
    restart_s: float = 0.0
    lost: Floats = field(default_factory=lambda: np.zeros(0))
    queue: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    room: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __post_init__(self) -> None:
        jobs = len(self.held)
        if not len(self.lost):
            object.__setattr__(self, "lost", np.zeros(jobs))
        if not len(self.queue):
            object.__setattr__(self, "queue", np.full(jobs, -1, dtype=np.int64))
        for name in ("model", "devices", "pace"):
            if len(getattr(self, name)) != len(self.job):
                raise ValueError(f"{name}: {len(getattr(self, name))} rows, expected {len(self.job)}, one per option")
        for name in ("age_s", "lost", "queue"):
            if len(getattr(self, name)) != jobs:
                raise ValueError(f"{name}: {len(getattr(self, name))} rows, expected {jobs}, one per job")
        if len(self.devices) and self.devices.min() < 0:
            raise ValueError(f"devices: {self.devices.min()} must be at least 0")
        if jobs and not -1 <= self.queue.min() <= self.queue.max() < len(self.room):
            raise ValueError(f"queue: {self.queue.max()} has no room; {len(self.room)} are given")
        if jobs and (self.lost.min() < 0 or self.lost.max() > 1):
            raise ValueError(f"lost: {self.lost.min()} to {self.lost.max()} must be fractions from 0 to 1")
        if len(self.pace) and not (np.isfinite(self.pace).all() and (self.pace > 0).all()):
            raise ValueError(f"pace: {self.pace.min()} must be finite and above 0; leave such options out")
        if self.round_s <= 0 or not 0 <= self.restart_s < self.round_s:
            raise ValueError(f"restart_s: {self.restart_s} must be at least 0 and below round_s {self.round_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundWeights:
    """How much the tail weighs against the mean; all 0 = shortest remaining work first.

    makespan: of a job's share of the makespan's price, the average share being 1. giant: of a job's device time relative
    to the average, times (its own least duration / makespan) ** giant_power: a job nearly as long as the horizon cannot
    wait. age: of (its age above the youngest's / makespan) squared. keep: value a job gains by staying where it runs.
    The defaults are the knee of the frontier on the traces in docs/placement-rounds.md.
    """

    makespan: float = 8.0
    giant: float = 4.0
    giant_power: float = 4.0
    age: float = 0.5
    keep: float = 0.0


def allocate(problem: RoundProblem, weights: RoundWeights | None = None) -> Ints:
    """Per job the option it runs in the coming round, -1 = none: at most one each, devices of no model and of no queue
    exceeded, and no job left out whose devices stay free to it. Equal input gives equal output."""
    jobs = len(problem.held)
    fits = problem.devices <= np.minimum(problem.capacity[problem.model], limit_of(problem))
    if not fits.any():
        return np.full(jobs, -1, dtype=np.int64)
    kept = np.flatnonzero(fits)
    if len(kept) < len(problem.job):  # a gang larger than the model is cannot run there, whatever it is worth
        where = np.full(len(problem.job) + 1, -1, dtype=np.int64)
        where[kept] = np.arange(len(kept))
        smaller = replace(
            problem, job=problem.job[kept], model=problem.model[kept], devices=problem.devices[kept],
            pace=problem.pace[kept], held=where[problem.held],
        )  # fmt: skip
        found = allocate(smaller, weights)
        return np.where(found >= 0, kept[found], -1)
    return pick(problem, values(problem, weights or RoundWeights()))


def limit_of(problem: RoundProblem) -> Ints:
    """Devices that the queue of each option may hold."""
    queue = problem.queue[problem.job]
    return np.where(queue >= 0, np.append(problem.room, 0)[queue], np.iinfo(np.int64).max)


def makespan(problem: RoundProblem) -> tuple[float, Floats]:
    """Seconds in which all remaining work could finish at best, and per job how much of them its work is the reason for.

    The linear program: min T, for each job the sum of pace x seconds = 1 and of seconds <= T, for each model the sum of
    devices x seconds <= capacity x T (Gavel, OSDI'20, section 4.2). The duals of the first rows add up to T. Jobs without
    an option have none. A lower bound for any schedule that runs a job on one option at a time.
    """
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    options, jobs, models = len(problem.job), len(problem.held), len(problem.capacity)
    index = np.arange(options)
    unit = 1 / float(problem.pace.mean())  # T is solved in this many seconds, so that the rows are of one size
    rows = np.concatenate([problem.job, jobs + problem.model, np.arange(jobs + models)])
    columns = np.concatenate([index, index, np.full(jobs + models, options)])
    entries = np.concatenate([np.ones(options), problem.devices, -np.ones(jobs), -problem.capacity])
    limits = coo_array((entries, (rows, columns)), shape=(jobs + models, options + 1)).tocsr()
    work = coo_array((problem.pace * unit, (problem.job, index)), shape=(jobs, options + 1)).tocsr()
    present = np.bincount(problem.job, minlength=jobs) > 0
    found = linprog(
        np.append(np.zeros(options), 1.0), A_ub=limits, b_ub=np.zeros(jobs + models), A_eq=work,
        b_eq=present.astype(np.float64), bounds=(0, None), method="highs",
    )  # fmt: skip
    if found.status != 0:
        raise ValueError(f"makespan of {jobs} jobs with {options} options: {found.message}")
    return float(found.x[-1] * unit), np.asarray(found.eqlin.marginals * unit)


def values(problem: RoundProblem, weights: RoundWeights) -> Floats:
    """What running each option for the coming round is worth: the fraction of the job done x the job's weight."""
    jobs = len(problem.held)
    horizon, held_up = makespan(problem)
    fastest, work = np.zeros(jobs), np.full(jobs, np.inf)
    np.maximum.at(fastest, problem.job, problem.pace)
    np.minimum.at(work, problem.job, problem.devices / problem.pace)
    present = fastest > 0
    share = held_up * (present.sum() / held_up.sum())
    length, size = np.zeros(jobs), np.zeros(jobs)
    length[present] = 1 / (fastest[present] * horizon)
    size[present] = work[present] / max(float(work[present].mean()), TINY)  # without devices nothing is large
    age = (problem.age_s - problem.age_s.min()) / horizon
    weight = 1 + weights.makespan * share + weights.giant * size * length**weights.giant_power + weights.age * age**2
    stays = problem.held[problem.job] == np.arange(len(problem.job))
    seconds = problem.round_s - problem.restart_s * ~stays
    done = np.minimum(problem.pace * seconds + problem.lost[problem.job] * stays, 1.0)
    return np.asarray(done * weight[problem.job] * np.where(stays, 1 + weights.keep, 1.0))


def pick(problem: RoundProblem, value: Floats) -> Ints:
    """Per job the option it takes, -1 = none: those worth most together."""
    program = Program(
        job=problem.job, model=problem.model, devices=problem.devices, queue=problem.queue[problem.job],
        worth=np.maximum(value / value.max(), FLOOR), jobs=len(problem.held), capacity=problem.capacity,
        room=problem.room,
    )  # fmt: skip
    choice = np.full(len(problem.held), -1, dtype=np.int64)
    taken = best(program)
    choice[problem.job[taken]] = taken
    return choice
