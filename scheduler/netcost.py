"""Net cost: what a job would take and cost on a model, before it is placed. Pure.

cost per unit of work = price × predicted time ÷ work; the work of one job is the same on every model, so its ways are
compared by price × predicted time, less what the voucher draws, weighed by 1 - λ (design section 7, `scheduler.shadow`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from adapters.accelerator import Source
from adapters.catalog import load_catalog
from scheduler import regions
from scheduler.job import Alternative
from scheduler.node import Pool
from scheduler.plan import Candidate
from scheduler.regions import Network, RegionFacts
from scheduler.snapshot import Terms, Throughput, WaitingJob

MS_PER_HOUR = 3_600_000
_SOURCES = ("measured", "learnt", "catalogue")  # the more trusted first
Profiles = Mapping[str, Mapping[str, tuple[Throughput, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of running for `duration_ms`. draw_fen: the voucher's part within the room; effective_fen: gross less (1 - λ) of it."""

    duration_ms: int
    gross_fen: int
    draw_fen: int
    effective_fen: int

    @property
    def net_fen(self) -> int:
        return self.gross_fen - self.draw_fen


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """What distance and electricity add to a cost: the links, the facts of each region, and when a job would start."""

    network: Network = field(default_factory=lambda: Network(()))
    facts: Mapping[str, RegionFacts] = field(default_factory=dict)
    now: datetime | None = None


NO_REGIONS = Regions()


def profiles_of(throughputs: Iterable[Throughput]) -> Profiles:
    """By workload and model, the more trusted source first, then by scale."""
    found: dict[str, dict[str, list[Throughput]]] = {}
    for one in throughputs:
        found.setdefault(one.workload, {}).setdefault(one.model, []).append(one)
    return {
        workload: {model: tuple(sorted(rows, key=_trust)) for model, rows in models.items()}
        for workload, models in found.items()
    }


def predicted_ms(job: WaitingJob, model: str, devices: int, profiles: Profiles) -> int | None:
    """How long the job's remaining steps take on `devices` devices of the model, rounded up; None where nothing tells.

    A measured scale is taken as it is; another one from the nearest, in proportion to the devices. A model never seen takes
    the rate of one that was, in proportion to the catalogue's peak FP16: an upper bound on what either does.
    """
    if job.workload is None or job.remaining_steps is None or devices < 1:
        return None
    models = profiles.get(job.workload, {})
    rate = _rate(models.get(model, ()), devices)
    if rate is None:
        rate = _prior(models, model, devices)
    if not rate:
        return None
    numerator, denominator = rate
    return -(-job.remaining_steps * 1_000_000 * denominator // numerator)


def cost(terms: Terms, device_count: int, duration_ms: int, *, share_permille: int = 1000, draws: bool = True) -> Cost:
    """Gross half up (design section 5 rule 1), the draw down and within the room left; draws: the job takes the voucher."""
    work = terms.price_fen_per_device_hour * device_count * duration_ms * share_permille
    gross = (2 * work + MS_PER_HOUR * 1000) // (2 * MS_PER_HOUR * 1000)
    draw = min(gross * terms.rate_bp // 10_000, max(0, terms.room_fen)) if draws else 0
    return Cost(
        duration_ms=duration_ms,
        gross_fen=gross,
        draw_fen=draw,
        effective_fen=gross - draw * (1000 - terms.shadow_price_permille) // 1000,
    )


def candidate(
    job: WaitingJob, index: int, pool: Pool, terms: Terms | None, profiles: Profiles, near: Regions = NO_REGIONS
) -> Candidate:
    """What is held and promised is of the whole time limit; what is compared (effective_fen) is of the predicted time.

    Without a prediction the time limit stands for it on every model. terms: None = list price and no voucher. The devices
    are held while inputs that lie elsewhere come; an input that no link brings counts as there (`Workspace.linked` asks).
    """
    alternative: Alternative = job.request.alternatives[index]
    devices = job.nodes * alternative.count
    if terms is None:
        price = pool.price_fen_per_device_hour
        terms = Terms(firm=job.firm, pool=pool.id, price_fen_per_device_hour=price, rate_bp=0, room_fen=0)
    draws = job.money.voucher == "auto"
    most = cost(terms, devices, job.time_limit_ms, share_permille=job.share_permille, draws=draws)
    expected = most
    moving_ms, moving_fen = near.network.transfer(job.data, pool.region) or (0, 0) if job.data else (0, 0)
    predicted = predicted_ms(job, pool.model, devices, profiles)
    if predicted is not None:
        predicted += moving_ms
        expected = cost(terms, devices, predicted, share_permille=job.share_permille, draws=draws)
    runs_ms = job.time_limit_ms if predicted is None else predicted - moving_ms
    energy, grams, weighed = _electricity(job, pool, devices, moving_ms, runs_ms, near)
    return Candidate(
        alternative=index,
        pool=pool.id,
        model=pool.model,
        gross_fen=most.gross_fen,
        net_fen=most.net_fen,
        hold_fen=most.draw_fen,
        effective_fen=expected.effective_fen + moving_fen + weighed,
        predicted_ms=predicted,
        expected_fen=None if predicted is None else expected.gross_fen,
        shadow_price_permille=terms.shadow_price_permille,
        exceeds_limit=(moving_ms + 1 if predicted is None else predicted) > job.time_limit_ms,
        region=pool.region,
        transfer_ms=moving_ms,
        transfer_fen=moving_fen,
        energy_fen=energy,
        carbon_g=grams,
        expected_net_fen=None if predicted is None else expected.net_fen,
    )


def watts(pool: Pool, devices: int, share_permille: int) -> int | None:
    """Power of the devices at the maker's figure (thermal design power of the package); None where there is none.

    A device of a real inventory is one die of its package, a declared one the whole (metering.offer.listing_of).
    """
    chip = load_catalog().get(pool.model)
    if chip is None or chip.tdp_watts is None:
        return None
    dies = chip.dies if pool.source is not Source.SIMULATED else 1
    return round(chip.tdp_watts * devices * share_permille / (dies * 1000))


def _electricity(
    job: WaitingJob, pool: Pool, devices: int, after_ms: int, duration_ms: int, near: Regions
) -> tuple[int | None, int | None, int]:
    """Fen and grams of running there once the inputs have come, and what they add to a choice."""
    facts = near.facts.get(pool.region)
    if facts is None or near.now is None:
        return None, None, 0
    power = watts(pool, devices, job.share_permille)
    energy = regions.energy_fen(power, near.now + timedelta(milliseconds=after_ms), duration_ms, facts)
    grams = regions.carbon_g(power, duration_ms, facts)
    return energy, grams, facts.weighed_fen(energy, grams)


def _trust(row: Throughput) -> tuple[int, int]:
    return (_SOURCES.index(row.source) if row.source in _SOURCES else len(_SOURCES), row.devices)


def _rate(rows: tuple[Throughput, ...], devices: int) -> tuple[int, int] | None:
    """Steps in 1,000 seconds as a fraction: at this scale, or from the nearest one in proportion; None without rows."""
    usable = [row for row in rows if row.steps_per_ks > 0 and row.devices > 0]
    if not usable:
        return None
    exact = [row for row in usable if row.devices == devices]
    row = exact[0] if exact else min(usable, key=lambda r: (abs(r.devices - devices), _trust(r)))
    return row.steps_per_ks * devices, row.devices


def _prior(models: Mapping[str, tuple[Throughput, ...]], model: str, devices: int) -> tuple[int, int] | None:
    catalog = load_catalog()
    wanted = catalog.get(model)
    if wanted is None or not wanted.fp16_tflops:
        return None
    for name in sorted(models):
        known, rate = catalog.get(name), _rate(models[name], devices)
        if rate is not None and known is not None and known.fp16_tflops:
            ours, theirs = round(wanted.fp16_tflops * 1000), round(known.fp16_tflops * 1000)
            return rate[0] * ours, rate[1] * theirs
    return None
