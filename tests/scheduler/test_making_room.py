"""Who stops for whom, as the planner decides it: ranks, the guaranteed minimum, and leases that are stopping already."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from adapters.accelerator import Origin, Source
from scheduler.job import Alternative, FirmId, JobId, Money, Priority, Request
from scheduler.lease import LeaseId, Member
from scheduler.node import Node, NodeId, Pool, PoolId
from scheduler.plan import Plan
from scheduler.planner import plan
from scheduler.registry import load_policy
from scheduler.snapshot import RunningLease, Snapshot, WaitingJob

NOW = datetime(2026, 6, 1, tzinfo=UTC)
POOL = Pool(
    id=PoolId("p"), provider="p", site="s", region="r", backend="simulated", vendor="v", model="H800",
    origin=Origin.FOREIGN, memory_bytes=None, price_fen_per_device_hour=100, source=Source.SIMULATED,
)  # fmt: skip
NODES = tuple(Node(id=NodeId(f"n{i}"), pool=POOL.id, devices=tuple(f"n{i}d{j}" for j in range(4))) for i in range(2))


def lease(node: int, priority: Priority, minutes: int) -> RunningLease:
    return RunningLease(
        id=LeaseId(f"j{node}.1"), job=JobId(f"j{node}"), firm=FirmId("f"), queue="q", pool=POOL.id,
        members=(Member(rank=0, node=NODES[node].id, devices=NODES[node].devices),), priority=priority,
        started_at=NOW - timedelta(minutes=minutes), ends_by=NOW + timedelta(hours=9),
    )  # fmt: skip


def job(priority: Priority) -> WaitingJob:
    asked = Request(alternatives=(Alternative(text="H800:4", count=4, models=("H800",)),))
    return WaitingJob(
        id=JobId("new"), name="new", firm=FirmId("f"), queue="q", priority=priority, submitted_at=NOW, nodes=1,
        time_limit_ms=3_600_000, request=asked, money=Money(),
    )  # fmt: skip


def planned(leases: tuple[RunningLease, ...], priority: Priority, policy: str = "net_cost") -> Plan:
    known = Snapshot(version=1, now=NOW, pools=(POOL,), nodes=NODES, jobs=(job(priority),), leases=leases)
    return plan(known, load_policy(policy))


def test_the_lower_lease_that_loses_least_work_stops() -> None:
    found = planned((lease(0, Priority.LOW, 300), lease(1, Priority.LOW, 20)), Priority.HIGH)
    assert [(p.lease, p.code, p.by) for p in found.preempts] == [("j1.1", "PRIORITY", "new")]
    assert found.preempts[0].cost_device_ms == 4 * 20 * 60_000
    assert [w.job for w in found.waits] == ["new"]


@pytest.mark.parametrize("mine", [Priority.NORMAL, Priority.LOW])
def test_nobody_stops_for_a_job_of_the_same_or_a_lower_priority(mine: Priority) -> None:
    assert not planned((lease(0, Priority.NORMAL, 60), lease(1, Priority.NORMAL, 60)), mine).preempts


@pytest.mark.parametrize(("minutes", "stops"), [(9, 0), (10, 1)])
def test_a_lease_is_left_alone_for_its_first_ten_minutes(minutes: int, stops: int) -> None:
    both = (lease(0, Priority.HIGH, 60), lease(1, Priority.LOW, minutes))
    assert len(planned(both, Priority.HIGH).preempts) == stops


def test_while_one_stops_no_other_is_told_to() -> None:
    both = (replace(lease(0, Priority.LOW, 60), stopping=True), lease(1, Priority.LOW, 60))
    assert not planned(both, Priority.HIGH).preempts


def test_a_policy_without_preemption_stops_nobody() -> None:
    assert not planned((lease(0, Priority.LOW, 60), lease(1, Priority.LOW, 60)), Priority.HIGH, "fifo").preempts
