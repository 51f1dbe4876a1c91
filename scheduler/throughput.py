"""Throughput: how fast a workload runs on how many devices of a model. Measured, learnt from reported steps, or prior. Pure.

The three sources do not mix by rank alone: each is a number with an error. A reported interval is an observation of the
logarithm of the rate with a known spread; the update weighs it against what was known by precision (1 / variance), the
conjugate normal update with known observation variance. A catalogue prior has a large error and is soon forgotten; a
measured profile stands until somebody measures again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scheduler.snapshot import Throughput

Key = tuple[str, str, int]
Table = Mapping[Key, Throughput]

MEASURED, LEARNT, CATALOGUE = "measured", "learnt", "catalogue"
ERROR_PERMILLE: Mapping[str, int] = {MEASURED: 50, LEARNT: 200, CATALOGUE: 700}  # where a source states none
LEAST_PERMILLE = 10  # a rate is never taken to be known better: inputs and neighbours change
OBSERVED_PERMILLE = 200  # spread of the rate over one reported interval of REFERENCE_MS
REFERENCE_MS = 360_000  # longer intervals say more, in proportion
DRIFT_PERMILLE = 20  # error added by every observation: what was true of an old version of the job fades
SCALING = 0.85  # of linear, for each doubling of devices, where only another size is known: a prior, error widened
SCALING_PERMILLE = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A job of this workload did `steps` steps in `elapsed_ms` on `devices` devices of a model in all, start-up left out."""

    workload: str
    model: str
    devices: int
    steps: int
    elapsed_ms: int

    def __post_init__(self) -> None:
        if self.devices <= 0:
            raise ValueError(f"devices: {self.devices} must be at least 1")
        if self.steps < 0:
            raise ValueError(f"steps: {self.steps} must be at least 0")
        if self.elapsed_ms <= 0:
            raise ValueError(f"elapsed_ms: {self.elapsed_ms} must be at least 1")


def table_of(rows: Iterable[Throughput]) -> dict[Key, Throughput]:
    """The rows by (workload, model, devices); of two with the same key the one with the smaller error stays."""
    found: dict[Key, Throughput] = {}
    for row in rows:
        key = (row.workload, row.model, row.devices)
        held = found.get(key)
        if held is None or (error(row), row.source, row.steps_per_ks) < (error(held), held.source, held.steps_per_ks):
            found[key] = row
    return found


def error(row: Throughput) -> int:
    """One standard deviation, relative, in permille: as stated, else what its source usually has."""
    if row.error_permille is not None:
        return max(row.error_permille, LEAST_PERMILLE)
    return ERROR_PERMILLE.get(row.source, ERROR_PERMILLE[CATALOGUE])


def rate_per_ks(table: Table, workload: str, model: str, devices: int) -> int | None:
    """Steps in 1,000 seconds of exactly this row; 0 = known not to run there, None = unknown."""
    row = table.get((workload, model, devices))
    return None if row is None else row.steps_per_ks


def look_up(table: Table, workload: str, model: str, devices: int) -> Throughput | None:
    """The row itself, else one carried over from the nearest known number of devices on the same model with its error
    widened, else None: another model's speed says nothing here, `prior` does that with the catalogue."""
    row = table.get((workload, model, devices))
    if row is not None:
        return row
    near = [
        known for known in table.values()
        if known.workload == workload and known.model == model and known.steps_per_ks > 0
    ]  # fmt: skip
    if not near:
        return None
    best = min(near, key=lambda known: (abs(math.log2(devices / known.devices)), known.devices))
    doublings = math.log2(devices / best.devices)
    rate = best.steps_per_ks * (2 * SCALING) ** doublings
    return Throughput(
        workload=workload, model=model, devices=devices, steps_per_ks=max(round(rate), 1), source=CATALOGUE,
        error_permille=round(math.hypot(error(best), SCALING_PERMILLE * doublings)),
    )  # fmt: skip


def prior(
    table: Table, workload: str, model: str, devices: int, flops: Mapping[str, float | None]
) -> Throughput | None:
    """A guess for a model never tried: the workload's rate elsewhere x the ratio of the models' peak FLOPS.

    flops: per model, of the catalogue and in one unit, None = unknown. Of several known models the guesses are averaged by
    precision; the error never falls below the catalogue's. None when nothing is known to start from.
    """
    here = flops.get(model)
    if not here:
        return None
    weight = total = 0.0
    for other in sorted({row.model for row in table.values() if row.workload == workload and row.model != model}):
        there = flops.get(other)
        known = look_up(table, workload, other, devices)
        if not there or known is None or known.steps_per_ks <= 0:
            continue
        precision = 1 / (error(known) ** 2 + ERROR_PERMILLE[CATALOGUE] ** 2)
        weight += precision
        total += precision * math.log(known.steps_per_ks * here / there)
    if not weight:
        return None
    return Throughput(
        workload=workload, model=model, devices=devices, steps_per_ks=max(round(math.exp(total / weight)), 1),
        source=CATALOGUE, error_permille=ERROR_PERMILLE[CATALOGUE],
    )  # fmt: skip


def estimate(
    table: Table, workload: str, model: str, devices: int, flops: Mapping[str, float | None] | None = None
) -> Throughput | None:
    """The best that is known: the row itself, else another size on the model, else the catalogue's prior (flops: `peaks`).

    The row says by its source and error how far to trust it; steps_per_ks 0 = measured not to run there. None = unknown.
    """
    found = look_up(table, workload, model, devices)
    return found if found is not None else prior(table, workload, model, devices, peaks() if flops is None else flops)


@functools.cache
def peaks() -> Mapping[str, float | None]:
    """Peak dense FP16 in TFLOPS of every model of the catalogue, None = not stated."""
    from adapters.catalog import load_catalog

    return {chip.model: chip.fp16_tflops for chip in load_catalog()}


def learn(throughput: Throughput | None, observed: Observation) -> Throughput | None:
    """What is known of (workload, model, devices) after one report: the row to store in place of `throughput`.

    throughput: what was known of these three before, None = nothing; start with `estimate`, so that a prior counts. Both are
    weighed by precision on the logarithm of the rate, and the answer is `learnt` with its error in permille. A measured row is
    returned as it is: a profile overrides what jobs report. No steps say nothing about the rate: the answer is `throughput`.
    Reports of one interval count once: give steps and time since the report before, start-up left out, never totals.
    Raises ValueError when `throughput` is of another workload, model or number of devices than the report.
    """
    key = (observed.workload, observed.model, observed.devices)
    if throughput is not None and (throughput.workload, throughput.model, throughput.devices) != key:
        known = (throughput.workload, throughput.model, throughput.devices)
        raise ValueError(f"throughput: {known} is not of what was observed, {key}")
    if observed.steps == 0 or (throughput is not None and throughput.source == MEASURED):
        return throughput
    rate = observed.steps * 1_000_000 / observed.elapsed_ms
    spread = OBSERVED_PERMILLE * math.sqrt(REFERENCE_MS / observed.elapsed_ms)
    if throughput is None or throughput.steps_per_ks <= 0:
        mean, deviation = math.log(rate), spread
    else:
        held = math.hypot(error(throughput), DRIFT_PERMILLE)
        mine, its = 1 / held**2, 1 / spread**2
        mean = (mine * math.log(throughput.steps_per_ks) + its * math.log(rate)) / (mine + its)
        deviation = math.sqrt(1 / (mine + its))
    return Throughput(
        workload=observed.workload, model=observed.model, devices=observed.devices,
        steps_per_ks=max(round(math.exp(mean)), 1), source=LEARNT,
        error_permille=max(round(deviation), LEAST_PERMILLE),
    )  # fmt: skip


def update(table: Table, seen: Observation, flops: Mapping[str, float | None] | None = None) -> dict[Key, Throughput]:
    """The table after one report, the one given left as it is: `learn` from the estimate the table had of it."""
    after = dict(table)
    row = learn(estimate(table, seen.workload, seen.model, seen.devices, flops), seen)
    if row is not None and seen.steps:
        after[seen.workload, seen.model, seen.devices] = row
    return after
