"""Moves on the platform: a lease stops with its checkpoint, its job goes on where the plan says, and nobody slips in between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.audit import audit
from metering.schema import holds, settlements
from scheduler import dispatch as dispatch_module
from scheduler import places, planner, relocations, store, view
from scheduler.job import JobId
from scheduler.lease import Cause, LeaseId, Member, Placement
from scheduler.node import NodeId, PoolId
from scheduler.plan import Migration, Plan
from scheduler.schema import lease_devices, lease_moves, leases, usage_records
from scheduler.snapshot import Snapshot
from tests.platform import Platform, job_text

HALF = "Ascend910B3:4"
CHECKPOINT = "checkpoint: {path: ck, interval: 15m, signal: SIGUSR1, grace: 30s}\n"


def member(rank: int, node: str, *devices: int) -> Member:
    return Member(rank=rank, node=NodeId(node), devices=tuple(f"sim:{node}:{i}" for i in devices))


def shown(platform: Platform) -> Snapshot:
    with platform.database.read() as tx:
        return view.snapshot(
            tx, platform.clock.now(), platform.budget, moves_per_hour=platform.loop.dispatch.moves_per_hour
        )


def where(platform: Platform, lease: str) -> set[str]:
    return {row["device"] for row in platform.rows(lease_devices) if row["lease"] == lease}


def cordon(platform: Platform, node: str, schedulable: bool = False) -> None:
    with platform.database.write() as tx:
        places.set_schedulable(tx, node, schedulable, platform.clock.now())


def two_halves(platform: Platform, extra: str = CHECKPOINT) -> tuple[str, str]:
    """A job on half of ascend-1 and one on half of ascend-2: no node has eight devices left."""
    cordon(platform, "ascend-2")
    first = platform.submit("first", job_text("first", HALF, extra=extra))
    platform.loop.tick()
    cordon(platform, "ascend-2", True)
    cordon(platform, "ascend-1")
    second = platform.submit("second", job_text("second", HALF, extra=extra))
    platform.loop.tick()
    cordon(platform, "ascend-1", True)
    platform.loop.tick()
    assert [platform.state(job) for job in (first, second)] == ["RUNNING", "RUNNING"]
    platform.clock.advance(3600)
    platform.beat()
    return first, second


def plan_with(platform: Platform, monkeypatch: pytest.MonkeyPatch, *moves: Migration) -> None:
    """The next plan says so, and only this one; then a tick."""

    def once(snapshot: Snapshot, policy: object) -> Plan:
        monkeypatch.undo()
        return replace(planner.plan(snapshot, policy), migrations=moves)  # type: ignore[arg-type]

    monkeypatch.setattr(dispatch_module, "plan", once)
    platform.submit("waits", job_text("waits", accelerators="MLU590:8"))  # somebody must wait for a plan to be made
    platform.loop.tick()


def to_second(platform: Platform, job: str) -> Migration:
    return Migration(lease=LeaseId(f"{job}.1"), rank=0, to=member(0, "ascend-2", *free(platform, "ascend-2")[:4]))


def free(platform: Platform, node: str) -> list[int]:
    taken = {row["device"] for row in platform.rows(lease_devices) if not row["released"]}
    return [i for i in range(8) if f"sim:{node}:{i}" not in taken]


def end(platform: Platform, lease: str) -> None:
    platform.backend.end(lease, 0, cause=Cause.CANCELLED)
    platform.loop.tick()


# --- the whole way ----------------------------------------------------------------------------------------------------


def test_a_move_checkpoints_stops_and_goes_on_at_its_target(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.loop.dispatch.moves_per_hour = 4
    first, _ = two_halves(platform)
    move = to_second(platform, first)
    plan_with(platform, monkeypatch, move)
    assert platform.backend.stops == [(f"{first}.1", 30_000, "SIGUSR1")]
    assert platform.state(first) == "COMPLETING"

    end(platform, f"{first}.1")
    platform.loop.tick()
    assert platform.state(first) == "RUNNING"
    assert where(platform, f"{first}.2") == set(move.to.devices)
    assert [row["over"] for row in platform.rows(lease_moves)] == [1]
    with platform.database.read() as tx:
        told = [e["facts"] for e in store.story(tx, first) if e["event"] == "stopping"]
    assert [(fact["cause"], fact["code"]) for fact in told] == [("preempted", "MIGRATION")]

    platform.clock.advance(1800)
    platform.backend.end(f"{first}.2", 0)
    platform.loop.tick()
    assert platform.state(first) == "SUCCEEDED"
    assert [s["final"] for s in platform.rows(settlements) if s["job"] == first] == [0, 1]
    assert not [h for h in platform.rows(holds) if h["state"] == "held" and h["lease"].startswith(first)]
    assert {r["kind"] for r in platform.rows(usage_records) if r["job"] == first} <= {"run", "starting"}
    report = audit(tmp_path / "yisuan.db")
    assert report.ok, [finding for finding in report.laws if not finding.ok]


def test_the_planner_moves_a_lease_so_that_a_large_job_starts(platform: Platform) -> None:
    """End to end: with a budget the waiting job of a whole node starts, and both others go on; without, it waits."""
    first, second = two_halves(platform)
    big = platform.submit("big", job_text("big", "Ascend910B3:8"))
    for _ in range(3):
        platform.loop.tick()
    assert platform.state(big) == "PENDING"
    assert platform.backend.stops == []

    platform.loop.dispatch.moves_per_hour = 4
    platform.clock.advance(6)
    platform.beat()
    platform.loop.tick()
    (stopped,) = {stop[0] for stop in platform.backend.stops}
    end(platform, stopped)
    for _ in range(3):
        platform.loop.tick()
    assert [platform.state(job) for job in (first, second, big)] == ["RUNNING"] * 3
    assert len(platform.rows(lease_moves)) == 1


def test_while_it_moves_its_target_is_nobody_else_s(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    platform.loop.dispatch.moves_per_hour = 4
    first, _ = two_halves(platform)
    plan_with(platform, monkeypatch, to_second(platform, first))
    other = platform.submit("other", job_text("other", HALF))
    cordon(platform, "ascend-1")
    platform.loop.tick()
    assert platform.state(other) == "PENDING", "only the target is free there"
    assert shown(platform).migrations == 0, "one wave at a time"

    end(platform, f"{first}.1")
    platform.loop.tick()
    assert platform.state(first) in ("STARTING", "RUNNING")
    assert platform.state(other) == "PENDING"


def test_where_the_target_is_gone_the_job_waits_like_any_other(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.loop.dispatch.moves_per_hour = 4
    first, _ = two_halves(platform)
    plan_with(platform, monkeypatch, to_second(platform, first))
    cordon(platform, "ascend-2")
    end(platform, f"{first}.1")
    platform.loop.tick()

    assert [row["over"] for row in platform.rows(lease_moves)] == [1]
    assert {device.split(":")[1] for device in where(platform, f"{first}.2")} == {"ascend-1"}


@pytest.mark.parametrize("deed", ["cancel", "exit"])
def test_a_job_that_ends_instead_of_moving_frees_its_target(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, deed: str
) -> None:
    platform.loop.dispatch.moves_per_hour = 4
    first, _ = two_halves(platform)
    plan_with(platform, monkeypatch, to_second(platform, first))
    if deed == "cancel":
        with platform.database.write() as tx:
            assert store.request_cancel(tx, JobId(first), platform.clock.now()) is None
        platform.backend.end(f"{first}.1", -15, cause=Cause.CANCELLED)
    else:
        platform.backend.end(f"{first}.1", 0)
    platform.loop.tick()

    assert platform.state(first) == ("CANCELLED" if deed == "cancel" else "SUCCEEDED")
    assert [row["over"] for row in platform.rows(lease_moves)] == [1]
    assert not [lease for lease in shown(platform).leases if lease.queue == ""]


def test_a_crash_after_the_old_lease_ended_is_made_good_by_the_next_tick(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.loop.dispatch.moves_per_hour = 4
    first, _ = two_halves(platform)
    move = to_second(platform, first)
    plan_with(platform, monkeypatch, move)

    def crash(now: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(platform.loop.dispatch, "_go_on_elsewhere", crash)
    with pytest.raises(KeyboardInterrupt):
        end(platform, f"{first}.1")
    assert platform.state(first) == "PENDING"
    monkeypatch.undo()
    platform.loop.tick()
    assert where(platform, f"{first}.2") == set(move.to.devices)


# --- what does not move -----------------------------------------------------------------------------------------------


def test_without_a_budget_no_plan_moves_anything(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = two_halves(platform)
    plan_with(platform, monkeypatch, to_second(platform, first))
    assert platform.backend.stops == []
    assert platform.rows(lease_moves) == []


def test_a_job_without_a_checkpoint_is_not_moved(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    platform.loop.dispatch.moves_per_hour = 4
    first, _ = two_halves(platform, extra="")
    assert all(lease.again is None for lease in shown(platform).leases)
    plan_with(platform, monkeypatch, to_second(platform, first))
    assert platform.backend.stops == []


def test_the_budget_is_of_an_hour(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    platform.loop.dispatch.moves_per_hour = 3
    first, _ = two_halves(platform)
    plan_with(platform, monkeypatch, to_second(platform, first))
    end(platform, f"{first}.1")
    platform.loop.tick()
    assert shown(platform).migrations == 2
    platform.clock.advance(3599)
    assert shown(platform).migrations == 2
    platform.clock.advance(1)
    assert shown(platform).migrations == 3


def test_a_move_into_two_pools_or_of_a_stranger_is_left_alone(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.loop.dispatch.moves_per_hour = 4
    job = platform.submit("gang", job_text("gang", nodes=2, extra=CHECKPOINT))
    platform.loop.tick()
    platform.loop.tick()
    away = Migration(lease=LeaseId(f"{job}.1"), rank=1, to=member(1, "h800-1", *range(8)))
    stranger = Migration(lease=LeaseId("job_none.1"), rank=0, to=member(0, "h800-1", *range(8)))
    plan_with(platform, monkeypatch, away, stranger)
    assert platform.backend.stops == []
    assert [row["stop_cause"] for row in platform.rows(leases)] == [None]


# --- the target -------------------------------------------------------------------------------------------------------


@given(sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4), data=st.data())
def test_a_target_keeps_the_shape_and_every_member_that_does_not_move(sizes: list[int], data: st.DataObject) -> None:
    members = tuple(member(rank, f"n{rank}", *range(size)) for rank, size in enumerate(sizes))
    placement = Placement(pool=PoolId("p"), model="m", members=members)
    rank = data.draw(st.integers(0, len(sizes)))
    size = data.draw(st.integers(1, 3))
    target = relocations.target_of(
        placement, [Migration(lease=LeaseId("l"), rank=rank, to=member(rank, "away", *range(size)))]
    )

    if rank == len(sizes) or size != sizes[rank]:
        assert target is None
        return
    assert target is not None
    assert [len(one.devices) for one in target.members] == sizes
    assert [one for one in target.members if one.rank != rank] == [one for one in members if one.rank != rank]
    assert target.members[rank].node == "away"


def test_two_members_never_go_to_one_device() -> None:
    placement = Placement(pool=PoolId("p"), model="m", members=(member(0, "a", 0), member(1, "b", 0)))
    assert relocations.target_of(placement, [Migration(lease=LeaseId("l"), rank=1, to=member(1, "a", 0))]) is None
