"""Shadow: what one fen of voucher room is worth to a firm, from 0 (it will be left over) to 1 (it will be missed). Pure.

A fen drawn now is a fen that cannot be drawn later in the year. Minimise the net cost of the year's jobs over their ways
to run, subject to the firm's room and the pool's: the linear programme's dual prices λ of the two rooms turn a way's net
cost p · (1 - r) into p · (1 - r · (1 - λ)) (design section 7). With room to spare λ is 0; where the room is certain to
run out whatever is chosen the voucher is a constant and λ is 1: the gross price counts. The planner cannot know the rest
of the year, so the programme is solved on recent demand, scaled to the days left, for several sizes of what may come; a
choice made under the mean of their duals is right on the mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scheduler.job import FirmId

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MS_PER_DAY = 86_400_000
STEP = 10
GRID: Ints = np.arange(0, 1001, STEP, dtype=np.int64)  # the values of λ, in permille, that are told apart
MEMORY_DAYS = 90.0  # a job this old counts 1/e; chosen by regret on seeds 1..20 of `python -m benchmarks netcost`
DRIFT = 0.6  # relative standard error of a year's demand read off the recent rate, growing with the root of time; same
# Midpoints of seven equally likely parts of the standard normal distribution, Φ⁻¹((k + ½) / 7).
SCENARIOS: Floats = np.array([-1.4652, -0.7916, -0.3661, 0.0, 0.3661, 0.7916, 1.4652])


@dataclass(frozen=True, slots=True)
class Way:
    """One way a job could have run: what it would have cost and the voucher's rate there, in basis points."""

    gross_fen: int
    rate_bp: int


@dataclass(frozen=True, slots=True)
class Demand:
    """A firm's jobs since an instant. at_ms: when each came; draws: what each draws at every λ of GRID, a row (`draws_of`)."""

    since_ms: int
    at_ms: Ints
    draws: Ints

    def __post_init__(self) -> None:
        if self.draws.shape != (len(self.at_ms), len(GRID)):
            raise ValueError(
                f"draws: {self.draws.shape} is not one row of {len(GRID)} for each of {len(self.at_ms)} jobs"
            )


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the rest of the year is expected to draw at every λ of GRID, in fen. error: relative standard deviation."""

    draws: Floats
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowPrice:
    """λ of one firm, and what it follows from, for the quote.

    permille: the greater of the firm's own and the pool's. wanted_fen: what the rest of the year is expected to draw at λ = 0.
    """

    permille: int
    firm_permille: int
    pool_permille: int
    room_fen: int
    pool_room_fen: int
    wanted_fen: int
    days_left: int


def draws_of(ways: Sequence[Way]) -> Ints:
    """What the job draws at every λ of GRID when it takes the least p · (1 - r · (1 - λ)); of equals the one that draws least.

    Never rises with λ. ValueError without a way.
    """
    if not ways:
        raise ValueError("ways: a job without a way to run draws nothing and says nothing")
    gross = np.array([way.gross_fen for way in ways], dtype=np.int64)
    rate = np.array([way.rate_bp for way in ways], dtype=np.int64)
    draw = gross * rate // 10_000
    by_draw = np.argsort(draw, kind="stable")
    gross, draw = gross[by_draw], draw[by_draw]
    effective = gross[:, None] * 1000 - draw[:, None] * (1000 - GRID[None, :])
    best: Ints = draw[np.argmin(effective, axis=0)]
    return best


def forecast(demand: Demand, now_ms: int, until_ms: int) -> Forecast:
    """The rest of the year [now, until) at the recent rate: the jobs seen weigh exp(-age / MEMORY_DAYS).

    error joins how few jobs the rate was read off, how few are to come, and how far demand drifts (DRIFT).
    """
    left = max(0, until_ms - now_ms) / MS_PER_DAY
    elapsed = max(0, now_ms - demand.since_ms) / MS_PER_DAY
    known = demand.at_ms <= now_ms
    if not known.any() or not left:
        return Forecast(draws=np.zeros(len(GRID)), error=0.0)
    age = (now_ms - demand.at_ms[known]) / MS_PER_DAY
    weight = np.exp(-age / MEMORY_DAYS)
    observed = MEMORY_DAYS * -math.expm1(-max(elapsed, 1.0) / MEMORY_DAYS)  # ∫ of the weight over the days seen
    draws: Floats = np.asarray(weight @ demand.draws[known] * (left / observed), dtype=np.float64)
    size = demand.draws[known][:, 0].astype(np.float64)
    total = float(weight @ size)
    if not total:
        return Forecast(draws=draws, error=0.0)
    past = float(weight**2 @ size**2) / total**2
    to_come = float(weight @ size**2) / total**2 * observed / left
    return Forecast(draws=draws, error=math.sqrt(past + to_come + DRIFT**2 * left / 365))


def clearing(draws: Floats, room_fen: int) -> int:
    """The least λ of GRID, as an index, at which no more is drawn than there is room for; the last where none is."""
    enough = np.flatnonzero(draws <= room_fen)
    return int(enough[0]) if len(enough) else len(GRID) - 1


def mean_clearing(wanted: Forecast, room_fen: int) -> int:
    """`clearing` over SCENARIOS of the forecast's size, as the index nearest to their mean."""
    sizes = np.exp(SCENARIOS * min(wanted.error, 2.0) - min(wanted.error, 2.0) ** 2 / 2)
    return round(float(np.mean([clearing(wanted.draws * size, room_fen) for size in sizes])))


def shadow_prices(
    demands: Mapping[FirmId, Demand],
    rooms_fen: Mapping[FirmId, int],
    pool_room_fen: int,
    *,
    now_ms: int,
    until_ms: int,
) -> dict[FirmId, ShadowPrice]:
    """λ of every firm that has a room, for jobs that start at `now` of a year that ends at `until`.

    The pool's λ is the least at which all firms together, each at no less than its own λ, draw no more than it has.
    """
    years = {
        firm: forecast(demands[firm], now_ms, until_ms)
        if firm in demands
        else Forecast(draws=np.zeros(len(GRID)), error=0.0)
        for firm in sorted(rooms_fen)
    }
    own = {firm: mean_clearing(year, rooms_fen[firm]) for firm, year in years.items()}
    together = np.zeros(len(GRID))
    variance = 0.0
    for firm, year in years.items():
        at = np.maximum(np.arange(len(GRID)), own[firm])
        draws = np.minimum(year.draws[at], rooms_fen[firm])
        together += draws
        variance += float((draws[0] * year.error) ** 2)
    error = math.sqrt(variance) / together[0] if together[0] else 0.0
    shared = mean_clearing(Forecast(draws=together, error=error), pool_room_fen)
    return {
        firm: ShadowPrice(
            permille=int(GRID[max(own[firm], shared)]),
            firm_permille=int(GRID[own[firm]]),
            pool_permille=int(GRID[shared]),
            room_fen=rooms_fen[firm],
            pool_room_fen=pool_room_fen,
            wanted_fen=round(float(year.draws[0])),
            days_left=math.ceil(max(0, until_ms - now_ms) / MS_PER_DAY),
        )
        for firm, year in years.items()
    }
