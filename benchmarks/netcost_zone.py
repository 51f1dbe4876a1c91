"""A made-up year: pools of seven models, firms with vouchers, and their jobs. Everything follows from the seed.

Voucher rates and caps are the policy's own. Prices and speeds are made up so that a unit of work costs about the same
everywhere, give or take a fifth by workload: the voucher then decides often enough to be worth deciding well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from adapters.accelerator import Origin, Source
from adapters.catalog import load_catalog
from metering.parameters import load_policies
from scheduler.clock import from_ms, to_ms
from scheduler.job import Alternative, FirmId, JobId, Money, Priority, Request
from scheduler.netcost import Cost, Profiles, cost, predicted_ms, profiles_of
from scheduler.node import Node, NodeId, Pool, PoolId
from scheduler.snapshot import Snapshot, Terms, Throughput, WaitingJob

POLICY, YEAR = "etown-2024-10", 2025
SINCE = datetime(2024, 12, 31, 16, 0, tzinfo=UTC)  # the local midnights of Asia/Shanghai
UNTIL = datetime(2025, 12, 31, 16, 0, tzinfo=UTC)
DAYS, MS_PER_DAY, MS_PER_HOUR = 365, 86_400_000, 3_600_000
# model: (list price, fen a device hour; speed relative to the first)
MODELS: Mapping[str, tuple[int, float]] = {
    "H800": (1400, 1.0),
    "H20-96GB": (650, 0.45),
    "A800": (740, 0.50),
    "Ascend910B3": (650, 0.45),
    "Ascend910C": (1300, 0.90),
    "MLU590": (590, 0.40),
    "P800": (580, 0.40),
}
WITHOUT_PAPERS = (
    "Ascend910B3"  # one more pool of this model, cheaper, at a site whose energy papers are missing: rate 0
)
WORKLOADS = 8
DEVICES = 8  # of a node
FIRMS_OF_A_POOL = 8  # how many firms share the notice's pool; another number of firms shares in proportion
CAPS: Mapping[str, float] = {"tight": 1.0, "loose": 3.0, "none": math.inf}
NO_CAP_FEN = 10**15


@dataclass(frozen=True, slots=True)
class Year:
    """An instance. rates: basis points of each pool; jobs by arrival; work: of each job, device hours of an H800."""

    seed: int
    pools: tuple[Pool, ...]
    nodes: tuple[Node, ...]
    rates: Mapping[PoolId, int]
    throughputs: tuple[Throughput, ...]
    profiles: Profiles
    jobs: tuple[WaitingJob, ...]
    work: Mapping[JobId, float]
    firms: tuple[FirmId, ...]
    firm_room_fen: int
    pool_room_fen: int

    def snapshot(self) -> Snapshot:
        """The zone before the first job comes."""
        return Snapshot(version=0, now=SINCE, pools=self.pools, nodes=self.nodes, throughputs=self.throughputs)

    def run(self, job: WaitingJob, pool: Pool) -> Cost:
        """What the job takes and costs in the pool, drawing all that the pool's rate allows."""
        devices = job.nodes * DEVICES
        duration = predicted_ms(job, pool.model, devices, self.profiles)
        assert duration is not None, "every listed model has a throughput"
        return cost(self.terms(job.firm, pool, NO_CAP_FEN, 0), devices, duration)

    def terms(self, firm: FirmId, pool: Pool, room_fen: int, shadow_permille: int) -> Terms:
        return Terms(
            firm=firm,
            pool=pool.id,
            price_fen_per_device_hour=pool.price_fen_per_device_hour,
            rate_bp=self.rates[pool.id],
            room_fen=room_fen,
            shadow_price_permille=shadow_permille,
        )

    def ways(self, job: WaitingJob) -> tuple[Pool, ...]:
        """Where the job may run, in the order in which it lists the models."""
        listed = [alternative.models[0] for alternative in job.request.alternatives]
        return tuple(pool for model in listed for pool in self.pools if pool.model == model)


def year(seed: int, caps: str, firms: int) -> Year:
    """Demand does not depend on `caps`: tight is the notice's own caps, loose three times as much."""
    if caps not in CAPS:
        raise ValueError(f"caps: {caps!r} is none of {', '.join(CAPS)}")
    if firms < 1:
        raise ValueError(f"firms: at least 1, not {firms}")
    rng = np.random.default_rng(seed)
    policy = load_policies().policy(POLICY)
    pools = _pools(rng)
    rates = {pool.id: (policy.rate_bp(pool.origin, SINCE) or 0) if pool.site != "no-papers" else 0 for pool in pools}
    speeds = {
        (f"w{w}", model): speed * float(rng.lognormal(0, 0.15))
        for w in range(WORKLOADS)
        for model, (_, speed) in MODELS.items()
    }
    throughputs = tuple(
        Throughput(
            workload=workload,
            model=model,
            devices=nodes * DEVICES,
            steps_per_ks=round(1000 * speed * (nodes * DEVICES) ** 0.95),
        )
        for (workload, model), speed in speeds.items()
        for nodes in (1, 2, 4, 8)
    )
    profiles = profiles_of(throughputs)
    zone = float(rng.lognormal(0, 0.2))
    jobs: list[WaitingJob] = []
    work: dict[JobId, float] = {}
    for number in range(firms):
        for job, hours in _stream(rng, FirmId(f"firm-{number:03d}"), zone, profiles):
            jobs.append(job)
            work[job.id] = hours
    jobs.sort(key=lambda job: (job.submitted_at, job.id))
    times = CAPS[caps]
    firm_cap, pool_cap = policy.firm_cap_fen[YEAR], policy.pool_fen[YEAR] * firms / FIRMS_OF_A_POOL
    return Year(
        seed=seed,
        pools=pools,
        nodes=_nodes(pools, jobs, profiles),
        rates=rates,
        throughputs=throughputs,
        profiles=profiles,
        jobs=tuple(jobs),
        work=work,
        firms=tuple(sorted({job.firm for job in jobs})),
        firm_room_fen=NO_CAP_FEN if math.isinf(times) else round(firm_cap * times),
        pool_room_fen=NO_CAP_FEN if math.isinf(times) else round(pool_cap * times),
    )


def _pools(rng: np.random.Generator) -> tuple[Pool, ...]:
    catalog = load_catalog()
    wanted = [(model.lower(), model, "papers", 1.0) for model in MODELS]
    wanted.append(("cheap", WITHOUT_PAPERS, "no-papers", 0.8))
    found = []
    for name, model, site, factor in wanted:
        chip = catalog.get(model)
        found.append(
            Pool(
                id=PoolId(name),
                provider="zone",
                site=site,
                region="beijing",
                backend="simulated",
                vendor=chip.vendor if chip else "unknown",
                model=model,
                origin=chip.origin if chip else Origin.UNDETERMINED,
                memory_bytes=chip.memory_bytes if chip else None,
                price_fen_per_device_hour=round(MODELS[model][0] * factor * rng.uniform(0.9, 1.1)),
                source=Source.SIMULATED,
            )
        )
    return tuple(found)


def _stream(rng: np.random.Generator, firm: FirmId, zone: float, profiles: Profiles) -> list[tuple[WaitingJob, float]]:
    """A year of one firm: a season, a drift, quieter weekends and one project that triples it for a month or two."""
    gross = 13e8 * zone * float(rng.lognormal(0, 0.5)) / 0.35  # fen; about 35% of it would be drawn without a cap
    workloads = rng.choice(WORKLOADS, size=int(rng.integers(2, 5)), replace=False)
    day = np.arange(DAYS)
    rate = 1 + rng.uniform(0, 0.4) * np.sin(2 * math.pi * (day / DAYS + rng.uniform()))
    rate *= 1 + rng.uniform(-0.6, 0.6) * (day / DAYS - 0.5)
    rate[(day + 2) % 7 >= 5] *= 0.5  # the year begins on a Wednesday
    begins = int(rng.integers(0, DAYS))
    if rng.random() < 0.5:
        rate[begins : begins + int(rng.integers(30, 60))] *= 3
    mean_fen = 4.9 * DEVICES * 145 * 1400  # of a job on an H800
    days = np.sort(rng.choice(DAYS, p=rate / rate.sum(), size=max(1, round(gross / mean_fen))))
    return [_job(rng, firm, n, int(at), f"w{int(rng.choice(workloads))}", profiles) for n, at in enumerate(days)]


def _job(
    rng: np.random.Generator, firm: FirmId, number: int, day: int, workload: str, profiles: Profiles
) -> tuple[WaitingJob, float]:
    at_ms = day * MS_PER_DAY + int(rng.integers(MS_PER_DAY))
    nodes = int(rng.choice((2, 4, 8), p=(0.25, 0.4, 0.35)))
    hours = float(np.clip(rng.lognormal(math.log(110), 0.8), 8, 600))
    models = [str(m) for m in rng.permutation(list(MODELS))[: int(rng.integers(2, 5))]]
    base = next(row for row in profiles[workload]["H800"] if row.devices == nodes * DEVICES)
    job = WaitingJob(
        id=JobId(f"{firm}-{number:06d}"),
        name=workload,
        firm=firm,
        queue=firm,
        priority=Priority.NORMAL,
        submitted_at=from_ms(to_ms(SINCE) + at_ms),
        nodes=nodes,
        time_limit_ms=1,
        request=Request(
            alternatives=tuple(Alternative(text=f"{m}:{DEVICES}", count=DEVICES, models=(m,)) for m in models)
        ),
        money=Money(),
        workload=workload,
        remaining_steps=max(1, round(base.steps_per_ks * hours * 3.6)),
    )
    slowest = max(predicted_ms(job, model, nodes * DEVICES, profiles) or 0 for model in models)
    return replace(job, time_limit_ms=slowest * 5 // 4), hours * nodes * DEVICES


def _nodes(pools: tuple[Pool, ...], jobs: list[WaitingJob], profiles: Profiles) -> tuple[Node, ...]:
    """Each pool is as large as the most that all jobs listing its model could ever hold there: nobody need wait."""
    found = []
    for pool in pools:
        marks: list[tuple[int, int]] = []
        for job in jobs:
            if any(pool.model in a.models for a in job.request.alternatives):
                start = to_ms(job.submitted_at)
                end = start + (predicted_ms(job, pool.model, job.nodes * DEVICES, profiles) or 0)
                marks += [(start, job.nodes), (end, -job.nodes)]
        held = most = 0
        for _, change in sorted(marks):
            held += change
            most = max(most, held)
        for number in range(max(most, 8)):
            name = f"{pool.id}-{number:05d}"
            found.append(Node(id=NodeId(name), pool=pool.id, devices=tuple(f"sim:{name}:{i}" for i in range(DEVICES))))
    return tuple(found)
