"""A linear program as Gavel's solver solves it. Named part of the baselines: where the optimum is a whole face, which point
of it comes back decides whose turn is first, and the figures with it.

ECOS (Domahidi, Chu, Boyd: ECC 2013) is an interior point method on the self-dual embedding with Nesterov-Todd scaling and
Mehrotra's predictor and corrector; this follows the paper for inequalities only, with the solver's own constants. A simplex
would return a corner of the face, a path followed to its end the face's centre; ECOS stops before, where its tolerance is met.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.gavel_trace import Floats

ITERATIONS = 100
TOLERANCE = 1e-8  # feasibility, gap and relative gap
BACK_OFF = 0.99  # of the way to the boundary
LEAST_STEP, MOST_STEP = 1e-6, 0.999
LEAST_CENTRING = 1e-4
EQUILIBRATIONS = 3
REFINEMENTS = 2


@dataclass(frozen=True, slots=True)
class Scaled:
    """g x <= h after rows and columns were brought to one size: x of the problem given is x / columns of this one."""

    c: Floats
    g: Floats
    h: Floats
    columns: Floats


def solve(cost: Floats, a: Floats, b: Floats) -> Floats | None:
    """min cost x, a x <= b; bounds of x are rows of a, whose columns must be independent. None = no x satisfies the rows."""
    at = equilibrated(cost, a, b)
    c, g, h = at.c, at.g, at.h
    m, n = g.shape
    start = Normal(g, np.ones(m))
    x, z = start.solve(np.zeros(n), h)
    s = inside(-z)
    z = inside(start.solve(-c, np.zeros(m))[1])
    tau = kappa = 1.0
    size_c, size_h = max(1.0, float(np.linalg.norm(c))), max(1.0, float(np.linalg.norm(h)))
    for _ in range(ITERATIONS):
        rx, rz, rt = -g.T @ z - c * tau, s + g @ x - h * tau, kappa + c @ x + h @ z
        gap = float(s @ z)
        primal = np.linalg.norm(rz) / (size_h + np.linalg.norm(x) + np.linalg.norm(s)) / tau
        dual = np.linalg.norm(rx) / (size_c + np.linalg.norm(z)) / tau
        worth = max(-float(c @ x), -float(h @ z), 0.0) / tau
        if primal < TOLERANCE and dual < TOLERANCE and (gap < TOLERANCE or gap < TOLERANCE * worth):
            break
        if h @ z < 0 and np.linalg.norm(g.T @ z) < TOLERANCE * size_c * -(h @ z):
            return None
        mu = (gap + kappa * tau) / (m + 1)
        weight, middle = np.sqrt(s / z), np.sqrt(s * z)
        normal = Normal(g, s / z)
        x1, z1 = normal.solve(-c, h)
        under = kappa / tau - c @ x1 - h @ z1
        x2, z2 = normal.solve(rx, s - rz)
        dtau = float((rt - kappa + c @ x2 + h @ z2) / under)
        wz = weight * (z2 + dtau * z1)
        ws = -wz - middle
        dkappa = float(-kappa - kappa / tau * dtau)
        step = reach(middle, ws, wz, (tau, dtau), (kappa, dkappa))
        centring = float(np.clip((1 - step) ** 3, LEAST_CENTRING, 1.0))
        aim = (middle * middle + ws * wz - centring * mu) / middle
        x2, z2 = normal.solve((1 - centring) * rx, weight * aim - (1 - centring) * rz)
        rest = kappa * tau + dkappa * dtau - centring * mu
        dtau = float(((1 - centring) * rt - rest / tau + c @ x2 + h @ z2) / under)
        dz = z2 + dtau * z1
        wz = weight * dz
        ws = -(wz + aim)
        dkappa = float(-(rest + kappa * dtau) / tau)
        step = BACK_OFF * reach(middle, ws, wz, (tau, dtau), (kappa, dkappa))
        x, z, s = x + step * (x2 + dtau * x1), z + step * dz, s + step * weight * ws
        tau, kappa = tau + step * dtau, kappa + step * dkappa
    return np.asarray(x / tau / at.columns)


def equilibrated(cost: Floats, a: Floats, b: Floats) -> Scaled:
    """Rows and columns divided by the root of their greatest entry, a few times over (Ruiz)."""
    g, rows, columns = a, np.ones(a.shape[0]), np.ones(a.shape[1])
    for _ in range(EQUILIBRATIONS):
        row, column = np.sqrt(np.abs(g).max(axis=1)), np.sqrt(np.abs(g).max(axis=0))
        row[row == 0], column[column == 0] = 1.0, 1.0
        g = g / row[:, None] / column
        rows, columns = rows * row, columns * column
    return Scaled(cost / columns, g, b / rows, columns)


def inside(value: Floats) -> Floats:
    """The same moved into the positive orthant by as much as its least entry wants."""
    low = value[value <= 0]
    return value + 1 + (float(-low.min()) if len(low) else -BACK_OFF)


class Normal:
    """The system g'z = p, g x - weight z = q, factorised once for several right-hand sides."""

    def __init__(self, g: Floats, weight: Floats) -> None:
        self.g, self.weight = g, weight
        normal = (g.T / weight) @ g
        normal[np.diag_indices(len(normal))] += 1e-14 * np.trace(normal) / len(normal)
        self.factor = np.linalg.cholesky(normal)

    def solve(self, p: Floats, q: Floats) -> tuple[Floats, Floats]:
        x, z = self.once(p, q)
        for _ in range(REFINEMENTS):
            dx, dz = self.once(p - self.g.T @ z, q - self.g @ x + self.weight * z)
            x, z = x + dx, z + dz
        return x, z

    def once(self, p: Floats, q: Floats) -> tuple[Floats, Floats]:
        from scipy.linalg import cho_solve

        x = np.asarray(cho_solve((self.factor, True), p + self.g.T @ (q / self.weight), check_finite=False))
        return x, (self.g @ x - q) / self.weight


def reach(middle: Floats, ds: Floats, dz: Floats, tau: tuple[float, float], kappa: tuple[float, float]) -> float:
    """How far along the step everything stays positive, at most MOST_STEP."""
    low = float(min((ds / middle).min(), (dz / middle).min()))
    far = [-1 / low] if low < 0 else []
    far += [-value / change for value, change in (tau, kappa) if change < 0]
    return float(np.clip(min(far, default=1.0), LEAST_STEP, MOST_STEP))
