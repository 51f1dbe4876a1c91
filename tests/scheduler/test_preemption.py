"""Who is stopped so that another can start."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler import preemption
from scheduler.job import FirmId, JobId, Priority
from scheduler.lease import LeaseId, Member
from scheduler.node import NodeId, PoolId
from scheduler.preemption import Free, Need, Victim, cost, lost, protected, victims
from scheduler.snapshot import RunningLease

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR = 3_600_000


def free(*devices: int, **rest: Any) -> Free:
    return Free(devices=np.array(devices, dtype=np.int64), **rest)


def lease(name: str, rows: tuple[int, ...], each: int, cost: int, **rest: Any) -> Victim:
    return Victim(lease=name, rows=rows, devices=(each,) * len(rows), cost_device_ms=cost, **({"rank": 2} | rest))


def names(found: tuple[Victim, ...] | None) -> list[str] | None:
    return None if found is None else [v.lease for v in found]


def met(need: Need, room: Free, stopped: tuple[Victim, ...]) -> bool:
    """The rule again, the slow way."""
    rows = len(room.devices)
    devices = room.devices.tolist()
    cpu = room.cpu_milli.tolist() if room.cpu_milli is not None else [need.cpu_milli] * rows
    for v in stopped:
        for row, n in zip(v.rows, v.devices, strict=True):
            devices[row] += n
            cpu[row] += v.cpu_milli
    usable = room.usable.tolist() if room.usable is not None else [True] * rows
    able = sum(u and d >= need.count and c >= need.cpu_milli for u, d, c in zip(usable, devices, cpu, strict=True))
    back = sum(sum(v.devices) for v in stopped if v.borrowed)
    return able >= need.nodes and back >= need.release_devices


def allowed(need: Need, v: Victim) -> bool:
    return not v.protected and (v.rank > need.rank or (v.borrowed and need.reclaims))


@st.composite
def cases(draw: st.DrawFn, most: int = 6) -> tuple[Need, Free, list[Victim]]:
    rows = draw(st.integers(1, 5))

    def some(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=rows, max_size=rows))

    leases = [
        Victim(
            lease=f"l{i}",
            rows=(at := tuple(draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=3, unique=True)))),
            devices=(draw(st.integers(1, 4)),) * len(at),
            cpu_milli=draw(st.integers(0, 4)),
            rank=draw(st.integers(0, 2)),
            cost_device_ms=draw(st.integers(0, 20)),
            borrowed=draw(st.booleans()),
            protected=draw(st.integers(0, 4)) == 0,
        )
        for i in range(draw(st.integers(0, most)))
    ]
    need = Need(
        count=draw(st.integers(1, 6)),
        nodes=draw(st.integers(1, 3)),
        cpu_milli=draw(st.integers(0, 5)),
        rank=draw(st.integers(0, 1)),
        reclaims=draw(st.booleans()),
        release_devices=draw(st.sampled_from([0, 0, 0, 2])),
    )
    usable = np.array(some(0, 4)) > 0
    cpu = draw(st.none() | st.just(np.array(some(0, 4), dtype=np.int64)))
    return need, free(*some(0, 3), usable=usable, cpu_milli=cpu), leases


@given(cases())
@settings(max_examples=300)
def test_few_candidates_give_the_cheapest_set_there_is(case: tuple[Need, Free, list[Victim]]) -> None:
    need, room, leases = case
    able = [v for v in leases if allowed(need, v)]
    sets = [s for n in range(len(able) + 1) for s in itertools.combinations(able, n) if met(need, room, s)]
    found = victims(need, room, leases)
    if not sets:
        assert found is None
        return
    assert found is not None
    assert met(need, room, found)
    assert all(allowed(need, v) for v in found)
    assert sum(v.cost_device_ms for v in found) == min(sum(v.cost_device_ms for v in s) for s in sets)


@given(cases(most=14), st.randoms())
@settings(max_examples=300)
def test_greedy_sets_suffice_are_minimal_and_do_not_depend_on_order(
    case: tuple[Need, Free, list[Victim]], random: Any
) -> None:
    need, room, leases = case
    exact, preemption.EXACT = preemption.EXACT, -1
    try:
        found = victims(need, room, leases)
        shuffled = list(leases)
        random.shuffle(shuffled)
        assert victims(need, room, shuffled) == found
    finally:
        preemption.EXACT = exact
    able = tuple(v for v in leases if allowed(need, v))
    assert (found is None) == (not met(need, room, able))
    if found is not None:
        assert met(need, room, found)
        assert all(allowed(need, v) for v in found)
        assert not any(met(need, room, tuple(v for v in found if v is not out)) for out in found)


def test_one_gang_and_not_one_member_of_each() -> None:
    leases = [lease("many", (0, 1, 2, 3), 8, 400), *(lease(f"own-{i}", (i + 4,), 8, 150) for i in range(4))]
    need = Need(count=8, nodes=4)
    assert names(victims(need, free(*[0] * 8), leases)) == ["many"]
    assert names(victims(Need(count=8, nodes=1), free(*[0] * 8), leases)) == ["own-0"]


def test_the_least_work_is_lost() -> None:
    leases = [lease("old", (0,), 4, 900), lease("saved", (0,), 4, 10), lease("new", (1,), 8, 80)]
    assert names(victims(Need(count=4, nodes=1), free(0, 0), leases)) == ["saved"]
    assert names(victims(Need(count=8, nodes=1), free(0, 0), leases)) == ["new"]


def test_who_may_not_be_stopped() -> None:
    same = [lease("same", (0,), 8, 1, rank=1)]
    assert victims(Need(count=8, nodes=1, rank=1), free(0), same) is None
    assert names(victims(Need(count=8, nodes=1, rank=0), free(0), same)) == ["same"]
    assert victims(Need(count=8, nodes=1), free(0), [lease("young", (0,), 8, 1, protected=True)]) is None
    lent = [lease("lent", (0,), 8, 1, rank=0, borrowed=True)]
    assert victims(Need(count=8, nodes=1, rank=2), free(0), lent) is None
    assert names(victims(Need(count=8, nodes=1, rank=2, reclaims=True), free(0), lent)) == ["lent"]


def test_quota_comes_back_even_where_devices_are_free() -> None:
    lent = [lease("lent-a", (0,), 4, 50, borrowed=True), lease("lent-b", (1,), 4, 20, borrowed=True)]
    need = Need(count=4, nodes=1, rank=2, reclaims=True, release_devices=4)
    assert names(victims(need, free(8, 8), lent)) == ["lent-b"]
    assert victims(Need(count=4, nodes=1, rank=2, release_devices=4), free(8, 8), lent) is None


def test_nobody_is_stopped_when_it_fits_or_never_could() -> None:
    leases = [lease("a", (0,), 4, 1)]
    assert victims(Need(count=4, nodes=1), free(0, 4), leases) == ()
    assert victims(Need(count=8, nodes=1), free(0, 4), leases) is None
    assert victims(Need(count=4, nodes=1), free(0, usable=np.array([False])), leases) is None
    assert victims(Need(count=4, nodes=1), free(), []) is None


def test_many_leases_are_near_the_best_known() -> None:
    """64 full rows of two leases each, one of them cheap: the eight cheapest pairs are wanted."""
    leases = [lease(f"{row:02}-{half}", (row,), 4, 10 * row + half) for row in range(64) for half in (0, 1)]
    found = victims(Need(count=8, nodes=8), free(*[0] * 64), leases)
    assert found is not None
    assert sum(v.cost_device_ms for v in found) == sum(20 * row + 1 for row in range(8))


def test_a_lease_that_a_later_one_makes_needless_goes_on() -> None:
    """Row 0 opens cheaply, row 1 only with the gang on both, which opens row 0 too."""
    leases = [lease("gang", (0, 1), 8, 10), lease("small", (0,), 8, 1)]
    leases += [lease(f"dear-{row}", (row,), 8, 1000) for row in range(2, 14)]
    assert names(victims(Need(count=8, nodes=2), free(*[0] * 14), leases)) == ["gang"]


def running(**rest: Any) -> RunningLease:
    members = (Member(rank=0, node=NodeId("n0"), devices=("d0", "d1", "d2", "d3")),)
    base: dict[str, Any] = {
        "id": LeaseId("l"), "job": JobId("j"), "firm": FirmId("f"), "queue": "q", "pool": PoolId("p"), "members": members,
        "ends_by": NOON + timedelta(days=1), "priority": Priority.LOW, "started_at": NOON - timedelta(hours=5),
    }  # fmt: skip
    return RunningLease(**(base | rest))


def test_cost_is_devices_times_time_since_the_last_checkpoint() -> None:
    assert cost(running(), NOON) == 4 * 5 * HOUR
    saved = running(checkpointed_at=NOON - timedelta(hours=2), checkpoint_interval_ms=3 * HOUR)
    assert cost(saved, NOON) == cost(saved, NOON, HOUR) == lost(saved, NOON) == 4 * 2 * HOUR
    assert cost(running(started_at=None), NOON) == 0
    ahead = running(checkpointed_at=NOON + timedelta(hours=1))
    assert cost(ahead, NOON) == 0


@given(st.integers(0, 10**9), st.integers(1, 10**7))
def test_silence_about_checkpoints_protects_no_better_than_the_default(ran_ms: int, default_ms: int) -> None:
    silent = running(started_at=NOON - timedelta(milliseconds=ran_ms))
    assert cost(silent, NOON, default_ms) < 4 * default_ms
    assert cost(silent, NOON, default_ms) <= lost(silent, NOON) == 4 * ran_ms


def test_minimum_run_time() -> None:
    assert not protected(running(), NOON, 5 * HOUR)
    assert protected(running(), NOON, 5 * HOUR + 1)
    assert protected(running(started_at=None), NOON, 1)
    assert not protected(running(started_at=None), NOON, 0)


def test_an_interval_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="default_interval_ms: 0 is below 1; nearest: 1"):
        cost(running(), NOON, 0)
