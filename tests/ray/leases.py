"""Leases on a test cluster, and waiting for what becomes of them."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from scheduler.backends.ray import RayBackend
from scheduler.job import Checkpoint, FirmId, JobId, JobSpec, Request
from scheduler.lease import Lease, LeaseId, Member, MemberPhase, Observation, Placement
from scheduler.node import NodeId, PoolId
from tests.ray.cluster import Cluster

MODEL = "Ascend910B4"
WAIT_S = 60.0


def backend_of(cluster: Cluster, folder: Path, **given: Any) -> RayBackend:
    """A backend over the cluster, with its records in the folder; submission ids are the folder's own."""
    options = {
        "models": {"NPU": MODEL},
        "python": sys.executable,
        "work": str(folder / "work"),
        "owner": f"t{folder.name}",
        **given,
    }
    return RayBackend("zone", cluster.address, folder / "state", **options)


def lease_of(
    job: str,
    run: str,
    *,
    nodes: Sequence[str] = ("n1",),
    devices: int = 1,
    model: str = MODEL,
    setup: str | None = None,
    limit_ms: int = 120_000,
    checkpoint: Checkpoint | None = None,
    request: Request | None = None,
    visibility: dict[int, dict[str, str]] | None = None,
) -> Lease:
    """One rank a node; nodes are named as the platform names them."""
    members = tuple(
        Member(rank=rank, node=NodeId(f"zone.{node}"), devices=tuple(f"zone/{node}/{i}" for i in range(devices)))
        for rank, node in enumerate(nodes)
    )
    spec = JobSpec(
        name=job,
        request=request or Request(alternatives=()),
        time_limit_ms=limit_ms,
        nodes=len(nodes),
        entrypoint=run,
        setup=setup,
        checkpoint=checkpoint,
    )
    return Lease(
        id=LeaseId(f"{job}.1"),
        job=JobId(job),
        firm=FirmId("firm"),
        spec=spec,
        placement=Placement(pool=PoolId("p"), model=model, members=members),
        backend="zone",
        price_fen_per_device_hour=0,
        reserved_at=datetime(2026, 1, 1, tzinfo=UTC),
        visibility=visibility or {},
    )


def until(backend: RayBackend, lease: str, holds: Callable[[Observation], bool]) -> Observation:
    """What is seen when it first holds."""
    end, seen = time.monotonic() + WAIT_S, None
    while time.monotonic() < end:
        with contextlib.suppress(ConnectionError):
            (seen,) = backend.observe([LeaseId(lease)])
            if holds(seen):
                return seen
        time.sleep(0.1)
    raise AssertionError(f"still {seen}")


def until_not(holds: Callable[[], bool]) -> None:
    """It holds no longer."""
    end = time.monotonic() + WAIT_S
    while holds():
        assert time.monotonic() < end
        time.sleep(0.2)


def over(seen: Observation) -> bool:
    return seen.all_ended


def running(seen: Observation) -> bool:
    return all(member.phase is MemberPhase.RUNNING for member in seen.members)


def processes(word: str) -> list[int]:
    """Pids of the processes whose command line has the word."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(word in part for part in process.cmdline()):
                found.append(process.pid)
    return found


def gone(word: str) -> bool:
    """Whether no such process is left, after a moment at most."""
    end = time.monotonic() + 20
    while processes(word) and time.monotonic() < end:
        time.sleep(0.1)
    return not processes(word)
