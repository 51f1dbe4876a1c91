"""Leases for tests on a control plane, and waiting for what is seen of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from adapters.catalog import load_catalog
from scheduler.job import Checkpoint, FirmId, JobId, JobSpec, Request
from scheduler.lease import Lease, LeaseId, Member, MemberPhase, Observation, Placement
from scheduler.node import NodeId, PoolId

RUNNING = MemberPhase.RUNNING


def lease_of(
    job: str,
    run: str,
    nodes: tuple[str, ...] = ("k1",),
    *,
    devices: int = 1,
    limit_ms: int = 600_000,
    signal: str | None = None,
    grace_ms: int = 2000,
    setup: str | None = None,
    envs: dict[str, str] | None = None,
) -> Lease:
    """A lease of the catalogue's first model: one member per node named, on `zone.<node>`."""
    model = next(iter(load_catalog())).model
    members = tuple(
        Member(rank=rank, node=NodeId(f"zone.{node}"), devices=tuple(f"zone/{node}/{rank}-{i}" for i in range(devices)))
        for rank, node in enumerate(nodes)
    )
    spec = JobSpec(
        name=job,
        request=Request(alternatives=()),
        time_limit_ms=limit_ms,
        nodes=len(nodes),
        entrypoint=run,
        setup=setup,
        envs=envs or {},
        checkpoint=Checkpoint(path="ckpt", signal=signal, grace_ms=grace_ms),
    )
    return Lease(
        id=LeaseId(f"{job}.1"),
        job=JobId(job),
        firm=FirmId("firm"),
        spec=spec,
        placement=Placement(pool=PoolId("p1"), model=model, members=members),
        backend="zone",
        price_fen_per_device_hour=0,
        reserved_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def until(backend: Any, lease: Lease, holds: Callable[[Observation], bool], seconds: float = 30) -> Observation:
    """The first observation of the lease for which `holds` is true."""
    end = time.monotonic() + seconds
    while True:
        (seen,) = backend.observe([lease.id])
        found: Observation = seen
        if holds(found):
            return found
        assert time.monotonic() < end, f"still {found}"
        time.sleep(0.05)


def ended(seen: Observation) -> bool:
    """Every member's end is known."""
    return seen.all_ended


def running(seen: Observation) -> bool:
    """Every member runs."""
    return all(member.phase is RUNNING for member in seen.members)
