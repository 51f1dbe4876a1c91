"""The bound: the whole year known beforehand, each job divisible over its ways, no device ever short.

min Σ x·gross − Σ v   over   Σ_way x = 1 per job;  v(firm, rate) ≤ Σ x·draw, the ceiling of a class (design section 5
rule 2);  Σ_rate v ≤ the firm's room;  Σ v ≤ the pool's room.  No placement of the same jobs can cost less.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.netcost_zone import Year
from scheduler.job import FirmId


def least_net_fen(year: Year) -> float:
    """The programme's optimum, in fen. RuntimeError when the solver gives none."""
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    costs: list[float] = []
    class_of: dict[tuple[FirmId, int], int] = {}
    ones: list[tuple[int, int, float]] = []
    drawn: list[tuple[int, int, float]] = []
    for row, job in enumerate(year.jobs):
        for pool in year.ways(job):
            run, rate = year.run(job, pool), year.rates[pool.id]
            ones.append((row, len(costs), 1.0))
            if rate:
                drawn.append((class_of.setdefault((job.firm, rate), len(class_of)), len(costs), run.draw_fen / 1e6))
            costs.append(run.gross_fen / 1e6)
    ways, classes, firms = len(costs), len(class_of), year.firms
    upper: list[tuple[int, int, float]] = [(c, x, -draw) for c, x, draw in drawn]
    limits = [0.0] * classes + [year.firm_room_fen / 1e6] * len(firms) + [year.pool_room_fen / 1e6]
    for (firm, _), c in class_of.items():
        upper += [(row, ways + c, 1.0) for row in (c, classes + firms.index(firm), classes + len(firms))]

    def matrix(entries: list[tuple[int, int, float]], rows: int) -> Any:
        i, j, v = zip(*entries, strict=True)
        return coo_array((v, (i, j)), shape=(rows, ways + classes)).tocsr()

    solved = linprog(
        np.array(costs + [-1.0] * classes),
        A_ub=matrix(upper, len(limits)),
        b_ub=np.array(limits),
        A_eq=matrix(ones, len(year.jobs)),
        b_eq=np.ones(len(year.jobs)),
        bounds=(0, None),
        method="highs",
    )
    if solved.status != 0:
        raise RuntimeError(f"no bound: {solved.message}")
    return float(solved.fun) * 1e6
