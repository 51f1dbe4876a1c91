"""Laws 1 to 4, and that folding changes equals planning the end, over generated zones and every registered policy."""

from __future__ import annotations

import copy
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.accelerator import Origin
from scheduler.codec import parse_snapshot, snapshot_document
from scheduler.engine import EMPTY, Clock, Remove, Set, changes_of, step
from scheduler.node import Node
from scheduler.planner import plan
from scheduler.registry import POLICIES, load_policy, registered
from scheduler.snapshot import RunningLease, Snapshot, WaitingJob
from tests.builders import snapshots

every_policy = pytest.mark.parametrize("name", sorted(registered(POLICIES)))


@every_policy
@given(snapshot=snapshots())
def test_no_device_is_leased_twice_at_any_instant(name: str, snapshot: Snapshot) -> None:
    """Law 1: nor one that runs already, nor one that is not there."""
    taken = {d for lease in snapshot.leases for m in lease.members for d in m.devices}
    real = {d for node in snapshot.nodes for d in node.devices}
    for launch in plan(snapshot, load_policy(name)).launches:
        for member in launch.placement.members:
            for device in member.devices:
                assert device not in taken
                assert device in real
                taken.add(device)


@every_policy
@given(snapshot=snapshots())
def test_a_gang_starts_whole_as_it_asked_or_not_at_all(name: str, snapshot: Snapshot) -> None:
    """Law 2: one pool, a usable node for each member, the count, model, origin and memory of one alternative."""
    jobs = {job.id: job for job in snapshot.jobs}
    nodes = {node.id: node for node in snapshot.nodes}
    pools = {pool.id: pool for pool in snapshot.pools}
    for launch in plan(snapshot, load_policy(name)).launches:
        job, pool = jobs[launch.job], pools[launch.placement.pool]
        asked = job.request.alternatives[launch.chosen.alternative]
        members = launch.placement.members
        assert job.nodes == len(members) == len({m.node for m in members})
        for member in members:
            assert nodes[member.node].pool == pool.id
            assert nodes[member.node].schedulable
            assert asked.count == len(set(member.devices))
            assert set(member.devices) <= set(nodes[member.node].devices)
        assert not asked.models or pool.model in asked.models
        assert asked.origin in (None, pool.origin, Origin(pool.origin))
        assert asked.memory_bytes_min is None or (pool.memory_bytes or 0) >= asked.memory_bytes_min


@every_policy
@given(snapshot=snapshots())
def test_a_plan_never_exceeds_quota_in_the_snapshot_it_came_from(name: str, snapshot: Snapshot) -> None:
    """Law 3."""
    jobs = {job.id: job for job in snapshot.jobs}
    used: dict[str, int] = {}
    for lease in snapshot.leases:
        used[lease.queue] = used.get(lease.queue, 0) + sum(len(m.devices) for m in lease.members)
    before = dict(used)
    for launch in plan(snapshot, load_policy(name)).launches:
        queue = jobs[launch.job].queue
        used[queue] = used.get(queue, 0) + launch.placement.device_count
    for quota in snapshot.queues:
        if quota.nominal_devices is not None and used.get(quota.name, 0) > before.get(quota.name, 0):
            assert used[quota.name] <= quota.nominal_devices


@every_policy
@given(snapshot=snapshots(), seed=st.integers(0, 99))
def test_same_snapshot_same_policy_same_plan(name: str, snapshot: Snapshot, seed: int) -> None:
    """Law 4: whatever the order of its tables, through JSON or not; and the snapshot is left as it was."""
    kept = copy.deepcopy(snapshot)
    first = plan(snapshot, load_policy(name))
    assert kept == snapshot
    rng = random.Random(seed)
    shuffled = {
        table: tuple(rng.sample(getattr(snapshot, table), len(getattr(snapshot, table))))
        for table in ("pools", "nodes", "jobs", "leases", "terms", "queues")
    }
    other = Snapshot(version=snapshot.version, now=snapshot.now, **shuffled)
    assert first == plan(other, load_policy(name))
    import json

    assert first == plan(parse_snapshot(json.dumps(snapshot_document(snapshot))), load_policy(name))


@every_policy
@given(snapshot=snapshots())
def test_every_waiting_job_is_launched_or_waits_with_a_reason(name: str, snapshot: Snapshot) -> None:
    decided = plan(snapshot, load_policy(name))
    answered = [launch.job for launch in decided.launches] + [wait.job for wait in decided.waits]

    assert sorted(job.id for job in snapshot.jobs) == sorted(answered)
    for wait in decided.waits:
        assert wait.pending.code
        assert sum(count.n for count in wait.pending.n_of_m) <= len(snapshot.nodes)


@every_policy
@given(snapshot=snapshots(), data=st.data())
def test_folding_any_sequence_of_changes_equals_planning_the_final_snapshot(
    name: str, snapshot: Snapshot, data: st.DataObject
) -> None:
    """Facts arrive in any order, in pieces, some of them twice, some wrong ones first and taken back."""
    policy = load_policy(name)
    changes = data.draw(st.permutations(list(changes_of(snapshot))))
    cut = data.draw(st.integers(0, len(changes)))
    ghosts = [
        Set(value)
        for table in (snapshot.jobs, snapshot.leases, snapshot.nodes)
        for value in table
        if data.draw(st.booleans())
    ]
    state = step(EMPTY, [*ghosts, Clock(snapshot.now, 0)], policy)[0]
    state = step(state, changes[:cut], policy)[0]
    undo = [Remove(type(g.value), g.value.id) for g in ghosts if isinstance(g.value, WaitingJob | RunningLease | Node)]
    state = step(state, undo, policy)[0]
    kept = copy.deepcopy(state)
    after, folded = step(state, [*changes, Clock(snapshot.now, snapshot.version)], policy)

    assert kept.jobs == state.jobs
    assert (kept.columns.free == state.columns.free).all(), "step changed the state it was given"
    assert plan(snapshot, policy) == folded
    assert after.version == snapshot.version
