"""Decisions per second of one whole plan, and how its cost grows when zone and queue double."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from adapters.accelerator import Origin, Source
from scheduler.job import Alternative, FirmId, JobId, Money, Priority, Request
from scheduler.node import Node, NodeId, Pool, PoolId
from scheduler.planner import plan
from scheduler.registry import load_policy
from scheduler.snapshot import Snapshot, WaitingJob

NOW = datetime(2026, 6, 1, tzinfo=UTC)
SIZES = (2_000, 4_000)


def snapshot(size: int, seed: int = 1) -> Snapshot:
    """`size` nodes of eight devices in four pools, 2.5 × `size` waiting jobs of one to four nodes: more than fit."""
    rng = random.Random(seed)
    models = ("Ascend910B3", "H800", "H20-96GB", "MLU590")
    pools = tuple(
        Pool(
            id=PoolId(f"p{i}"), provider="p", site="s", region="r", backend="simulated", vendor="v", model=model,
            origin=Origin.UNDETERMINED, memory_bytes=None, price_fen_per_device_hour=1000 + i, source=Source.SIMULATED,
        )
        for i, model in enumerate(models)
    )  # fmt: skip
    nodes = tuple(
        Node(id=NodeId(f"n{i:06d}"), pool=pools[i % 4].id, devices=tuple(f"n{i}d{j}" for j in range(8)))
        for i in range(size)
    )
    jobs = tuple(
        WaitingJob(
            id=JobId(f"j{i:06d}"), name="j", firm=FirmId("f"), queue="q", priority=rng.choice(list(Priority)),
            submitted_at=NOW - timedelta(seconds=rng.randrange(10**6)), nodes=rng.choice((1, 1, 2, 4)), time_limit_ms=3_600_000,
            request=Request(alternatives=(Alternative(text="a", count=rng.choice((1, 2, 4, 8)), models=(rng.choice(models),)),)),
            money=Money(),
        )
        for i in range(size * 5 // 2)
    )  # fmt: skip
    return Snapshot(version=1, now=NOW, pools=pools, nodes=nodes, jobs=jobs)


def measure() -> dict[str, Any]:
    """{nodes, jobs, launched, decisions_per_s, growth (cost of twice the size; 2.0 is linear)}."""
    policy = load_policy("net_cost")
    spent, decided = {}, {}
    plan(snapshot(200), policy)
    for size in SIZES:
        known = snapshot(size)
        began = time.perf_counter()
        decided[size] = plan(known, policy)
        spent[size] = time.perf_counter() - began
    large = SIZES[1]
    return {
        "nodes": large,
        "jobs": large * 5 // 2,
        "launched": len(decided[large].launches),
        "plan_s": round(spent[large], 2),
        "decisions_per_s": round(large * 5 // 2 / spent[large]),
        "growth": round(spent[large] / spent[SIZES[0]], 2),
    }
