"""Round program: the options worth most together, at most one a job, within devices and rooms. Branch and bound. Pure.

The relaxations are linear programs (HiGHS); the branching is ours, because the solver's own prints to standard output what no
option silences, and a plan is printed there too. A relaxed optimum splits at most as many jobs as there are models and
rooms, so its rounding is close and few branches are opened. The bound is on branches, not on time: equal input gives equal
output on every machine.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

GAP = 1e-2  # relative distance from the bound at which the search stops
BRANCHES = 100
WHOLE = 1e-6  # from 0 or 1: taken to be it
FLOOR = 1e-6  # of a device: a job without any has its worth for next to nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Option o is one way to run job[o]: worth[o] > 0, devices[o] of capacity[model[o]] and of room[queue[o]]; -1 = no room."""

    job: Ints
    model: Ints
    devices: Ints
    queue: Ints
    worth: Floats
    jobs: int
    capacity: Ints
    room: Ints


def best(program: Program) -> Ints:
    """The options taken, ascending: worth at most GAP less than the best there are, or the best of BRANCHES looks. Nothing
    that would still fit is left out."""
    relaxed = Relaxation(program)
    options = len(program.job)
    low, high = np.zeros(options), np.ones(options)
    top = relaxed.solve(low, high)
    if top is None:
        return np.zeros(0, dtype=np.int64)
    found = rounded(program, top[1])
    value = float(program.worth[found].sum())
    open_ = [(-top[0], 0, low, high, top[1])]
    number = 0
    while open_ and number < BRANCHES:
        bound, _, low, high, x = heapq.heappop(open_)
        if -bound <= value * (1 + GAP):
            break
        split = int(np.argmin(np.abs(x - 0.5)))
        if abs(x[split] - round(x[split])) < WHOLE:
            continue
        for side in (1.0, 0.0):
            number += 1
            lower, upper = low.copy(), high.copy()
            lower[split] = upper[split] = side
            below = relaxed.solve(lower, upper)
            if below is None or below[0] <= value * (1 + GAP):
                continue
            here = rounded(program, below[1])
            worth = float(program.worth[here].sum())
            if worth > value:
                found, value = here, worth
            heapq.heappush(open_, (-below[0], number, lower, upper, below[1]))
    return found


class Relaxation:
    """The program in which part of a job may run."""

    def __init__(self, program: Program) -> None:
        from scipy.optimize import LinearConstraint
        from scipy.sparse import coo_array

        options, jobs, models = len(program.job), program.jobs, len(program.capacity)
        index = np.arange(options)
        limited = np.flatnonzero(program.queue >= 0)
        rows = np.concatenate([program.job, jobs + program.model, jobs + models + program.queue[limited]])
        entries = np.concatenate([np.ones(options), program.devices, program.devices[limited]])
        shape = jobs + models + len(program.room), options
        limits = coo_array((entries, (rows, np.concatenate([index, index, limited]))), shape=shape).tocsc()
        bound = np.concatenate([np.ones(jobs), program.capacity, program.room])
        self.cost = -program.worth
        self.limits = LinearConstraint(limits, -np.inf, bound)

    def solve(self, low: Floats, high: Floats) -> tuple[float, Floats] | None:
        from scipy.optimize import Bounds, milp

        found = milp(self.cost, constraints=self.limits, bounds=Bounds(low, high))  # no variable is integer: an LP
        return None if found.x is None else (float(-found.fun), np.asarray(found.x))


def rounded(program: Program, x: Floats) -> Ints:
    """Options in the order of how far the relaxation takes them, then of their worth for a device, as long as they fit."""
    free, room = program.capacity.tolist(), program.room.tolist()
    done = [False] * program.jobs
    taken = []
    dense = program.worth / np.maximum(program.devices, FLOOR)
    order = np.lexsort((np.arange(len(x)), -dense, -np.round(x, 6))).tolist()
    jobs, models, queues, devices = (
        column.tolist() for column in (program.job, program.model, program.queue, program.devices)
    )
    for option in order:
        job, model, queue, count = jobs[option], models[option], queues[option], devices[option]
        if done[job] or count > free[model] or (queue >= 0 and count > room[queue]):
            continue
        done[job] = True
        free[model] -= count
        if queue >= 0:
            room[queue] -= count
        taken.append(option)
    return np.array(sorted(taken), dtype=np.int64)
