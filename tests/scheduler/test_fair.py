"""The policy fair: queues take turns by weighted dominant share, nobody starves, and unequal shares become equal."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.engine import EMPTY, Change, Clock, Remove, Set, State, changes_of, step
from scheduler.fairness import Shares, dominant_shares, share_error, shares_of
from scheduler.job import JobId, Priority
from scheduler.plan import Plan
from scheduler.planner import plan
from scheduler.policies.fair import STEP_MS, Fair
from scheduler.policies.net_cost import NetCost
from scheduler.snapshot import QueueQuota, RunningLease, Snapshot, WaitingJob
from tests.builders import NOW, snapshots
from tests.scheduler.test_quote import asks, job, lease, nodes, pool

CLASSES = ("a", "b", "c")
AMOUNTS = st.dictionaries(
    st.tuples(st.sampled_from(["q1", "q2", "q3"]), st.sampled_from(CLASSES)), st.integers(0, 9000)
)


def waits_in(queue: str, name: str, models: tuple[str, ...] = ("T4",), at: int = 0, count: int = 1) -> WaitingJob:
    return replace(job(name, asks(*models, count=count), at=at), queue=queue)


def started(found: Plan) -> list[str]:
    return [launch.job for launch in found.launches]


# --- shares -----------------------------------------------------------------------------------------------------------


@given(AMOUNTS, AMOUNTS, st.dictionaries(st.sampled_from(CLASSES), st.integers(0, 20_000)), st.data())
def test_shares_kept_up_are_the_dominant_shares(
    used: dict[tuple[str, str], int], taken: dict[tuple[str, str], int], capacity: dict[str, int], data: st.DataObject
) -> None:
    value = {name: data.draw(st.integers(0, 3000)) for name in capacity}
    weights = {name: data.draw(st.integers(1, 5)) for name in ("q1", "q2")}
    shares = Shares(used, capacity, value, weights)
    for (queue, name), amount in taken.items():
        shares.take(queue, name, amount)

    classes, queues = sorted(capacity), ("q1", "q2", "q3")
    table = np.array([[used.get((q, c), 0) + taken.get((q, c), 0) for c in classes] for q in queues], dtype=np.int64)
    naive = dominant_shares(
        table.reshape(3, len(classes)),
        np.array([capacity[c] for c in classes], dtype=np.int64),
        np.array([value[c] for c in classes], dtype=np.int64),
        np.array([weights.get(q, 1) for q in queues], dtype=np.int64),
    )
    assert [shares.of(queue) for queue in queues] == pytest.approx(naive.tolist(), abs=1e-8)


def test_a_class_is_a_model_and_worth_its_mean_list_price() -> None:
    """30 devices at 10 and 10 at 18 yuan are worth 12; four of forty are a tenth, at 12/24 of the dearest a twentieth."""
    pools = (pool("x", "T4", price=1000), pool("y", "T4", price=1800), pool("z", "H800", price=2400))
    used = {("q", pools[1].id): 4000, ("r", pools[2].id): 1000}
    shares = shares_of(pools, (30, 10, 10), used, {"r": QueueQuota(name="r", nominal_devices=None, weight=2)})
    assert (shares.of("q"), shares.of("r"), shares.of("nobody")) == (0.05, 0.05, 0.0)


@given(snapshots(), st.data())
def test_what_queues_use_is_counted_as_leases_come_and_go(known: Snapshot, data: st.DataObject) -> None:
    state, _ = step(EMPTY, changes_of(known), NetCost())
    gone = [one for one in known.leases if data.draw(st.booleans())]
    state, _ = step(state, [Remove(RunningLease, one.id) for one in gone], NetCost())
    naive: Counter[tuple[str, str]] = Counter()
    for one in known.leases:
        if one not in gone:
            naive[one.queue, one.pool] += one.share_permille * sum(len(member.devices) for member in one.members)
    assert dict(state.used_in) == {key: total for key, total in naive.items() if total}


# --- turns ------------------------------------------------------------------------------------------------------------


def test_queues_take_turns_by_weight() -> None:
    """Eight devices; the heavy queue, of weight 3, came last and has six of them."""
    heavy = QueueQuota(name="heavy", nominal_devices=None, weight=3)
    jobs = [waits_in("light", f"l{i}") for i in range(8)] + [waits_in("heavy", f"h{i}", at=60) for i in range(8)]
    known = Snapshot(
        version=1, now=NOW, pools=(pool("t", "T4"),), nodes=tuple(nodes("t", 1)), jobs=tuple(jobs), queues=(heavy,)
    )
    assert Counter(name[0] for name in started(plan(known, Fair()))) == {"h": 6, "l": 2}
    assert Counter(name[0] for name in started(plan(known, NetCost()))) == {"l": 8}


def test_half_of_a_cheap_class_leaves_a_queue_its_turn() -> None:
    """q1 holds 4 of 8 T4 at 2 yuan, q2 2 of 8 H800 at 20: shares of 0.05 and 0.25, so the free device goes to q1."""
    pools = (pool("t", "T4", price=200), pool("h", "H800", price=2000))
    t, h = nodes("t", 1)[0], nodes("h", 1)[0]
    held = (
        replace(lease("x", t, 9, devices=4), queue="q1"),
        replace(lease("y", h, 9, devices=2), queue="q2"),
        replace(lease("z", h, 9), queue="q3", members=(replace(lease("z", h, 9).members[0], devices=h.devices[2:7]),)),
    )
    jobs = (waits_in("q2", "b", ("H800",)), waits_in("q1", "a", ("H800",), at=60))
    known = Snapshot(version=1, now=NOW, pools=pools, nodes=(t, h), jobs=jobs, leases=held)
    assert started(plan(known, Fair())) == ["a"]
    alike = tuple(replace(one, price_fen_per_device_hour=500) for one in pools)
    assert started(plan(replace(known, pools=alike), Fair())) == ["b"], "by count q1 holds half of a class"


def test_a_job_that_has_waited_goes_before_a_higher_priority() -> None:
    low = replace(waits_in("q1", "low"), priority=Priority.LOW)
    high = replace(waits_in("q1", "high", at=0), priority=Priority.HIGH)
    node = replace(nodes("t", 1)[0], devices=("d",))
    steps = Priority.LOW.rank - Priority.HIGH.rank
    for waited, first in ((STEP_MS * steps - 1, "high"), (STEP_MS * (steps + 1), "low")):
        old = replace(low, submitted_at=NOW - timedelta(milliseconds=waited))
        known = Snapshot(version=1, now=NOW, pools=(pool("t", "T4"),), nodes=(node,), jobs=(old, high))
        assert started(plan(known, Fair())) == [first], waited


# --- laws -------------------------------------------------------------------------------------------------------------


@st.composite
def contests(draw: st.DrawFn) -> tuple[Snapshot, dict[str, int], list[int]]:
    """One class of 4 to 16 devices that one or two queues hold; two or three want more than there is."""
    names = draw(st.sampled_from([("q1", "q2"), ("q1", "q2", "q3")]))
    weights = {name: draw(st.integers(1, 3)) for name in names}
    rows = nodes("t", draw(st.integers(1, 4)), devices=4)
    held = []
    for place, (node, device) in enumerate((n, d) for n in rows for d in n.devices):
        one = lease(f"x{place:02}", node, 9)
        held.append(
            replace(one, queue=draw(st.sampled_from(names[:2])), members=(replace(one.members[0], devices=(device,)),))
        )
    jobs = tuple(
        waits_in(name, f"{name}-{i:02}", at=draw(st.integers(0, 9))) for name in names for i in range(len(held))
    )
    quotas = tuple(QueueQuota(name=name, nominal_devices=None, weight=weight) for name, weight in weights.items())
    known = Snapshot(
        version=1, now=NOW, pools=(pool("t", "T4"),), nodes=tuple(rows), jobs=jobs, leases=tuple(held), queues=quotas
    )
    return known, weights, draw(st.permutations(range(len(held))))


@settings(max_examples=50, deadline=None)
@given(contests())
def test_the_share_error_shrinks_until_one_device_makes_all_the_difference(
    made: tuple[Snapshot, dict[str, int], list[int]],
) -> None:
    """All old leases end one by one; whoever has the least share has the device that comes free."""
    known, weights, ends = made
    total = len(known.leases)
    state, first = step(EMPTY, changes_of(known), Fair())
    assert not first.launches
    largest = max(1 / weight for weight in weights.values()) / total
    before = error(state, weights, total)
    for place in ends:
        gone = Remove(RunningLease, known.leases[place].id)
        state, found = step(state, [gone, Clock(state.now + timedelta(seconds=1), state.version + 1)], Fair())
        (launch,) = found.launches
        shares = {name: held / total / weights[name] for name, held in in_use(state, weights).items()}
        taker = state.jobs[launch.job].queue
        assert shares[taker] == pytest.approx(min(shares.values()))
        come = lease(launch.job, known.nodes[0], 9)
        state, _ = step(
            state,
            [Remove(WaitingJob, launch.job), Set(replace(come, queue=taker, members=launch.placement.members))],
            Fair(),
        )
        after = error(state, weights, total)
        assert after <= before + largest + 1e-9, "it never grows by more than the lease that ended"
        before = after
    assert before <= largest + 1e-9


def in_use(state: State, weights: dict[str, int]) -> dict[str, int]:
    return {name: state.used.get(name, 0) for name in weights}


def error(state: State, weights: dict[str, int], total: int) -> float:
    shares = np.array([held / total / weights[name] for name, held in in_use(state, weights).items()])
    return share_error(shares, np.ones(len(shares), dtype=np.bool_))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.sampled_from([Priority.NORMAL, Priority.LOW]))
def test_a_gang_that_waits_starts_however_many_come_after_it(nodes_wanted: int, priority: Priority) -> None:
    """Every ten minutes come two jobs of the highest priority in another queue, enough to fill the pool for ever."""
    rows = nodes("t", 8, devices=1)
    gang = replace(waits_in("q1", "gang"), nodes=nodes_wanted, priority=priority, time_limit_ms=600_000)
    held = {f"x{i}": replace(lease(f"x{i}", node, 1, devices=1), queue="q2") for i, node in enumerate(rows)}
    base = Snapshot(
        version=1, now=NOW, pools=(pool("t", "T4"),), nodes=tuple(rows), jobs=(gang,), leases=tuple(held.values())
    )
    state, _ = step(EMPTY, changes_of(base), Fair())
    for tick in range(1, 200):
        now = NOW + timedelta(minutes=10 * tick)
        changes: list[Change] = [Clock(now, 1 + tick)]
        changes += [Remove(RunningLease, one.id) for one in state.leases.values() if one.ends_by <= now]
        for number in range(2):
            more = replace(waits_in("q2", f"h{tick:03}-{number}"), priority=Priority.HIGH, time_limit_ms=2_400_000)
            changes.append(Set(replace(more, submitted_at=now)))
        state, found = step(state, changes, Fair())
        if "gang" in started(found):
            return
        after: list[Change] = []
        for launch in found.launches:
            asked = state.jobs[JobId(launch.job)]
            come = lease(launch.job, rows[0], 1)
            ends = now + timedelta(milliseconds=asked.time_limit_ms)
            after += [
                Remove(WaitingJob, launch.job),
                Set(
                    replace(
                        come, queue=asked.queue, members=launch.placement.members, ends_by=ends, priority=asked.priority
                    )
                ),
            ]
        state, _ = step(state, after, Fair())
    pytest.fail("the gang never started")
