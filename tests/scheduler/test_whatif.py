"""What if: two replays of one snapshot, and what nodes more or fewer change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.engine import EMPTY, changes_of, step
from scheduler.policies.fifo import Fifo
from scheduler.policies.net_cost import NetCost
from scheduler.snapshot import Maintenance, Snapshot, Throughput
from scheduler.whatif import WhatIfError, compare, replay, with_nodes
from tests.builders import snapshots
from tests.scheduler.test_quote import NOW, asks, hours, job, lease, nodes, pool


def one_pool(**more: object) -> Snapshot:
    """One H800 node busy for 4 h, one for 2 h; two jobs wait, of 3 h and 1 h, each for a whole node."""
    h = nodes("h", 2)
    values: dict[str, object] = {
        "pools": (pool("h", "H800"),),
        "nodes": tuple(h),
        "leases": (lease("x", h[0], 4), lease("y", h[1], 2)),
        "jobs": (job("a", asks("H800"), hours=3, at=-9), job("b", asks("H800"), hours=1, at=-5)),
    }
    return Snapshot(version=1, now=NOW, **(values | more))  # type: ignore[arg-type]


def starts(snapshot: Snapshot) -> dict[str, float | None]:
    return {str(name): hours(at) for name, at in replay(snapshot, Fifo()).starts.items()}


def test_waiting_jobs_start_as_leases_end() -> None:
    assert starts(one_pool()) == {"a": 2, "b": 4}


def test_one_node_more_starts_the_first_now_and_the_second_when_the_next_is_free() -> None:
    document = compare(one_pool(), Fifo(), add={"h": 1}).document()

    assert [(e["job"], e["earlier_s"]) for e in document["jobs"]] == [("a", 7200.0), ("b", 7200.0)]
    assert (document["earlier"], document["later"], document["never_after"]) == (2, 0, 0)
    assert (document["wait_mean_s_before"], document["wait_mean_s_after"]) == (3 * 3600, 3600)


def test_a_node_taken_away_is_drained_when_something_runs_on_it() -> None:
    """Node h-1 takes no new work when its lease ends: a has the other after 4 h, b after a."""
    document = compare(one_pool(), Fifo(), remove={"h": 1}).document()

    assert {e["job"]: e["earlier_s"] for e in document["jobs"]} == {"a": -7200.0, "b": -3 * 3600.0}
    gone = with_nodes(one_pool(leases=()), {}, {"h": 1})
    assert [node.id for node in gone.nodes] == ["h-0"]


def test_a_job_that_could_never_start_is_told_apart() -> None:
    big = job("big", asks("H800"), nodes=3)
    document = compare(one_pool(jobs=(big,)), Fifo(), add={"h": 1}).document()

    assert (document["never_before"], document["never_after"], document["earlier"]) == (1, 0, 1)
    assert document["jobs"][0]["earlier_s"] is None


def test_predictions_shorten_leases_and_jobs() -> None:
    """y has 3,600 steps left at 1 a second: free after 1 h; a has as many: it runs for 1 h."""
    base = one_pool()
    known = Throughput(workload="w", model="H800", devices=8, steps_per_ks=1000)
    quick = replace(base.leases[1], workload="w", remaining_steps=3600)
    first = replace(base.jobs[0], workload="w", remaining_steps=3600)
    found = one_pool(leases=(base.leases[0], quick), jobs=(first, base.jobs[1]), throughputs=(known,))

    assert starts(found) == {"a": 1, "b": 2}


def test_the_end_of_maintenance_is_waited_for() -> None:
    closed = Maintenance(id="m", nodes=("h-0", "h-1"), start=NOW, end=NOW.replace(hour=6))  # type: ignore[arg-type]

    assert starts(one_pool(leases=(), maintenance=(closed,))) == {"a": 6, "b": 6}


@pytest.mark.parametrize(
    ("add", "remove", "says"),
    [
        ({"g": 1}, {}, "'g' is no pool of the snapshot; nearest: h"),
        ({"h": 0}, {}, "h: 0 nodes is below 1; nearest: 1"),
        ({}, {"h": 3}, "h: 3 nodes to remove, and 2 take work; nearest: 2"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused(add: Mapping[str, int], remove: Mapping[str, int], says: str) -> None:
    with pytest.raises(WhatIfError, match=says):
        compare(one_pool(), Fifo(), add=add, remove=remove)


def test_a_pool_without_nodes_has_none_to_copy() -> None:
    with pytest.raises(WhatIfError, match="no node to make others like"):
        compare(one_pool(nodes=(), leases=()), Fifo(), add={"h": 1})


@settings(deadline=None)
@given(snapshots(), st.sampled_from([Fifo(), NetCost()]))
def test_what_the_plan_starts_now_starts_now_and_nothing_starts_before(snapshot: Snapshot, policy: Fifo) -> None:
    found = replay(snapshot, policy)
    _, plan = step(EMPTY, changes_of(snapshot), policy)

    assert {name for name, at in found.starts.items() if at == snapshot.now} >= {one.job for one in plan.launches}
    assert set(found.starts) == {one.id for one in snapshot.jobs}
    assert all(at is None or at >= snapshot.now for at in found.starts.values())
    assert replay(snapshot, policy) == found
