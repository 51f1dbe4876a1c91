"""A year of firms with vouchers: net yuan per unit of work of the planner, of two baselines and of perfect foresight.

    python -m benchmarks netcost --seed S [--caps tight|loose|none] [--firms F] [-o json] [--decisions FILE]

Every policy runs through `scheduler.engine.step`; the benchmark says when jobs come and end, what firms pay, and keeps the
rooms. ours: net_cost under the shadow prices of `scheduler.shadow`; myopic: the same without them. Baselines: price_blind
takes the first listed model that is free; cheapest_gross is net_cost kept in the dark about the voucher. The whole run is
charged when it starts, to the year in which it starts. A unit of work is a device hour of an H800.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.netcost_lp import least_net_fen
from benchmarks.netcost_zone import CAPS, MS_PER_DAY, SINCE, UNTIL, Year, year
from benchmarks.run import commit, machine
from scheduler.clock import from_ms, to_ms
from scheduler.engine import EMPTY, Change, Clock, Remove, Set, State, changes_of, step
from scheduler.job import FirmId, JobId
from scheduler.lease import LeaseId
from scheduler.plan import Candidate, Launch, Plan
from scheduler.policy import Ints, JobColumns, Policy
from scheduler.registry import load_policy
from scheduler.shadow import Demand, Way, draws_of, shadow_prices
from scheduler.snapshot import RunningLease, WaitingJob

COLUMNS = (
    "policy", "job", "firm", "pool", "model", "devices", "start", "end", "price_fen_per_device_hour", "rate_bp",
    "shadow_price_permille", "gross_fen", "draw_fen", "net_fen", "work",
)  # fmt: skip


class PriceBlind:
    """Baseline: the first listed model that is free, whatever it costs."""

    name = "price_blind"
    backfill = 1
    fair = False

    def order(self, jobs: JobColumns, now_ms: int) -> Ints:  # noqa: ARG002
        return np.lexsort((jobs.id_rank, jobs.submitted_ms)).astype(np.int64)

    def choose(self, job: WaitingJob, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:  # noqa: ARG002
        return tuple(sorted(candidates, key=lambda c: (c.alternative, c.pool)))


def decide(state: State, changes: Sequence[Change], policy: Policy) -> tuple[State, Plan]:
    """Where every placement comes from: the one planner."""
    return step(state, changes, policy)


@dataclass(slots=True)
class Run:
    """One year under one policy. drawn: of each firm; rows: every placement."""

    year: Year
    name: str
    policy: Policy
    voucher: bool  # whether the planner is told of it
    shadow: bool
    drawn: dict[FirmId, int] = field(default_factory=dict)
    shadows: dict[FirmId, int] = field(default_factory=dict)
    seen: dict[FirmId, tuple[list[int], list[Any]]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0

    def play(self) -> None:
        """Arrivals and ends in order of time, until no job is left to come or to end."""
        known: list[Change] = list(changes_of(self.year.snapshot()))
        pools = {pool.id: pool for pool in self.year.pools}
        jobs = {job.id: job for job in self.year.jobs}
        ends: list[tuple[int, LeaseId]] = []
        told: dict[Any, Any] = {}
        state, day, due = EMPTY, -1, 0
        waiting: set[JobId] = set()
        while due < len(self.year.jobs) or ends:
            coming = to_ms(self.year.jobs[due].submitted_at) if due < len(self.year.jobs) else None
            now_ms = min(t for t in (coming, ends[0][0] if ends else None) if t is not None)
            while ends and ends[0][0] <= now_ms:
                known.append(Remove(RunningLease, heapq.heappop(ends)[1]))
            while due < len(self.year.jobs) and to_ms(self.year.jobs[due].submitted_at) <= now_ms:
                job = self.year.jobs[due]
                due += 1
                waiting.add(job.id)
                known.append(Set(job))
                self._see(job)
            if not waiting:
                continue
            if self.shadow and (now_ms - to_ms(SINCE)) // MS_PER_DAY != day:
                day = (now_ms - to_ms(SINCE)) // MS_PER_DAY
                self._reprice(now_ms)
            for firm in self.year.firms:
                room, shadow = (self._room(firm), self.shadows.get(firm, 0)) if self.voucher else (0, 0)
                if told.get(firm) != (room, shadow):
                    told[firm] = (room, shadow)
                    known += [Set(self.year.terms(firm, pool, room, shadow)) for pool in self.year.pools]
            self.steps += 1
            state, plan = decide(state, [*known, Clock(from_ms(now_ms), self.steps)], self.policy)
            known = []
            for launch in plan.launches:
                end_ms = now_ms + self._charge(jobs[launch.job], launch, pools, now_ms)
                heapq.heappush(ends, (end_ms, launch.lease))
                waiting.discard(launch.job)
                known += [Remove(WaitingJob, launch.job), Set(_lease(jobs[launch.job], launch, now_ms))]
            if not plan.launches and not ends and due >= len(self.year.jobs):
                return  # nothing runs, nothing comes, and what waits is not placed: it never will be

    def _room(self, firm: FirmId) -> int:
        pool = self.year.pool_room_fen - sum(self.drawn.values())
        return max(0, min(self.year.firm_room_fen - self.drawn.get(firm, 0), pool))

    def _charge(self, job: WaitingJob, launch: Launch, pools: Any, now_ms: int) -> int:
        """The run is paid for; how long it takes, in ms."""
        pool = pools[launch.placement.pool]
        run = self.year.run(job, pool)
        draw = min(run.draw_fen, self._room(job.firm))
        self.drawn[job.firm] = self.drawn.get(job.firm, 0) + draw
        self.rows.append(
            {
                "policy": self.name,
                "job": job.id,
                "firm": job.firm,
                "pool": pool.id,
                "model": pool.model,
                "devices": launch.placement.device_count,
                "start": from_ms(now_ms).isoformat(),
                "end": from_ms(now_ms + run.duration_ms).isoformat(),
                "price_fen_per_device_hour": pool.price_fen_per_device_hour,
                "rate_bp": self.year.rates[pool.id],
                "shadow_price_permille": self.shadows.get(job.firm, 0),
                "gross_fen": run.gross_fen,
                "draw_fen": draw,
                "net_fen": run.gross_fen - draw,
                "work": self.year.work[job.id],
            }
        )
        return run.duration_ms

    def _see(self, job: WaitingJob) -> None:
        """The job's ways are known from when it comes, not before."""
        if self.shadow:
            ways = [(self.year.run(job, pool).gross_fen, self.year.rates[pool.id]) for pool in self.year.ways(job)]
            at, draws = self.seen.setdefault(job.firm, ([], []))
            at.append(to_ms(job.submitted_at))
            draws.append(draws_of([Way(gross, rate) for gross, rate in ways]))

    def _reprice(self, now_ms: int) -> None:
        demands = {
            firm: Demand(since_ms=to_ms(SINCE), at_ms=np.array(at), draws=np.array(draws))
            for firm, (at, draws) in self.seen.items()
        }
        rooms = {firm: self.year.firm_room_fen - self.drawn.get(firm, 0) for firm in self.year.firms}
        pool = self.year.pool_room_fen - sum(self.drawn.values())
        found = shadow_prices(demands, rooms, pool, now_ms=now_ms, until_ms=to_ms(UNTIL))
        self.shadows = {firm: price.permille for firm, price in found.items()}


def _lease(job: WaitingJob, launch: Launch, now_ms: int) -> RunningLease:
    return RunningLease(
        id=launch.lease,
        job=job.id,
        firm=job.firm,
        queue=job.queue,
        pool=launch.placement.pool,
        members=launch.placement.members,
        ends_by=from_ms(now_ms + job.time_limit_ms),
        started_at=from_ms(now_ms),
    )


def runs_of(one: Year) -> tuple[Run, ...]:
    """ours, ours without shadow prices, and the two baselines, not yet played."""
    planner = load_policy("net_cost")
    return (
        Run(one, "ours", planner, voucher=True, shadow=True),
        Run(one, "myopic", planner, voucher=True, shadow=False),
        Run(one, "price_blind", PriceBlind(), voucher=True, shadow=False),
        Run(one, "cheapest_gross", planner, voucher=False, shadow=False),
    )


def measure(seed: int = 1, caps: str = "tight", firms: int = 8) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The document of the command, and every placement."""
    load = os.getloadavg()[0]
    began = time.perf_counter()
    one = year(seed, caps, firms)
    work = sum(one.work.values())
    bound = least_net_fen(one)
    played = runs_of(one)
    for run in played:
        run.play()
    net = {run.name: sum(row["net_fen"] for row in run.rows) for run in played}
    done = {run.name: sum(row["work"] for row in run.rows) for run in played}
    blind = net["price_blind"]
    complete = len({len(run.rows) for run in played} | {len(one.jobs)}) == 1
    document = {
        "seed": seed,
        "caps": caps,
        "firms": firms,
        "jobs": len(one.jobs),
        "devices": sum(len(node.devices) for node in one.nodes),
        "firm_room_fen": one.firm_room_fen if caps != "none" else None,
        "pool_room_fen": one.pool_room_fen if caps != "none" else None,
        "work_device_hours": round(work, 3),
        "placed": {run.name: len(run.rows) for run in played},
        "net_fen": {**net, "lp": round(bound)},
        "net_yuan_per_unit": {
            **{name: round(fen / 100 / done[name], 6) if done[name] else None for name, fen in net.items()},
            "lp": round(bound / 100 / work, 6),
        },
        # a saving can be compared only where the same work was done
        "saving_over_price_blind": {
            **{name: round(1 - fen / blind, 6) if complete and blind else None for name, fen in net.items()},
            "lp": round(1 - bound / blind, 6) if complete and blind else None,
        },
        "share_of_lp_saving": {
            name: round((blind - fen) / (blind - bound), 6) if complete and blind > bound else None
            for name, fen in net.items()
        },
        "drawn_fen": {run.name: sum(run.drawn.values()) for run in played},
        "shadow_price_permille_at_end": dict(sorted(played[0].shadows.items())),
        "range": {
            "seeds": "any",
            "caps": list(CAPS),
            "provenance": "generated from the seed; rates and caps of the policy",
        },
        "seconds": round(time.perf_counter() - began, 2),
        "load": round(load, 2),
        "commit": commit(),
        "machine": machine(),
    }
    return document, [row for run in played for row in run.rows]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks netcost", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--caps", choices=tuple(CAPS), default="tight", help="tight: the notice's own; loose: three times that"
    )
    parser.add_argument("--firms", type=int, default=8)
    parser.add_argument("-o", dest="output", choices=("table", "json"), default="table")
    parser.add_argument("--decisions", type=Path, help="CSV of every placement with its interval and price")
    asked = parser.parse_args(arguments)
    if asked.firms < 1 or asked.seed < 0:
        parser.error("--firms: at least 1; --seed: at least 0")
    document, rows = measure(asked.seed, asked.caps, asked.firms)
    if asked.decisions:
        with asked.decisions.open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    if asked.output == "json":
        print(json.dumps(document))
        return 0
    print(f"seed {asked.seed}, caps {asked.caps}, {asked.firms} firms, {document['jobs']} jobs")
    for name, net in document["net_yuan_per_unit"].items():
        share = document["share_of_lp_saving"].get(name, 1.0)
        print(
            f"{name:>15}  {net if net is not None else '-':>10} yuan/unit   {'-' if share is None else f'{share:.2%}'} of the LP's saving"
        )
    return 0
