"""The quote: it agrees with the plan, its latest start is kept, and every figure of a worked case is the one by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adapters.accelerator import Origin, Source
from scheduler.engine import EMPTY, Clock, Remove, Set, State, apply, changes_of, step
from scheduler.job import Alternative, FirmId, JobId, Money, Objective, Priority, Request
from scheduler.lease import LeaseId, Member
from scheduler.node import Node, NodeId, Pool, PoolId
from scheduler.plan import PendingKind
from scheduler.policies.fifo import Fifo
from scheduler.policies.net_cost import NetCost
from scheduler.policy import Policy
from scheduler.quote import Quote, quote
from scheduler.regions import RegionFacts
from scheduler.snapshot import (
    Gate,
    Link,
    Maintenance,
    QueueQuota,
    RunningLease,
    Snapshot,
    Terms,
    Throughput,
    WaitingJob,
)
from tests.builders import NOW, snapshots

HOUR = 3_600_000


def pool(name: str, model: str, *, price: int = 1000, region: str = "bj", origin: Origin = Origin.FOREIGN) -> Pool:
    return Pool(
        id=PoolId(name), provider="p", site="s", region=region, backend="simulated", vendor="v", model=model,
        origin=origin, memory_bytes=64 << 30, price_fen_per_device_hour=price, source=Source.SIMULATED,
    )  # fmt: skip


def nodes(name: str, count: int, devices: int = 8) -> list[Node]:
    return [
        Node(id=NodeId(f"{name}-{i}"), pool=PoolId(name), devices=tuple(f"{name}-{i}-{d}" for d in range(devices)))
        for i in range(count)
    ]


def asks(*models: str, count: int = 8, ordered: bool = False) -> Request:
    return Request(
        alternatives=tuple(Alternative(text=f"{m}:{count}", count=count, models=(m,)) for m in models), ordered=ordered
    )


def job(name: str, request: Request, *, nodes: int = 1, hours: float = 1, at: int = 0, **more: object) -> WaitingJob:
    return WaitingJob(
        id=JobId(name), name=name, firm=FirmId("f1"), queue="q", priority=Priority.NORMAL,
        submitted_at=NOW + timedelta(seconds=at), nodes=nodes, time_limit_ms=int(hours * HOUR), request=request,
        money=Money(), **more,
    )  # type: ignore[arg-type]  # fmt: skip


def lease(name: str, where: Node, hours: float, devices: int = 8, **more: object) -> RunningLease:
    return RunningLease(
        id=LeaseId(f"{name}.1"), job=JobId(name), firm=FirmId("f1"), queue="q", pool=where.pool,
        members=(Member(rank=0, node=where.id, devices=where.devices[:devices]),),
        ends_by=NOW + timedelta(hours=hours), **more,
    )  # type: ignore[arg-type]  # fmt: skip


def state_of(**parts: object) -> State:
    return apply(EMPTY, changes_of(Snapshot(version=1, now=NOW, **parts)))  # type: ignore[arg-type]


def hours(moment: datetime | None) -> float | None:
    return None if moment is None else (moment - NOW) / timedelta(hours=1)


# --- worked cases -----------------------------------------------------------------------------------------------------


def two_pools(**more: object) -> State:
    """Two H800 nodes, one busy for 4 h and one for 2 h; one free Ascend910B3 node at half the price."""
    h, a = nodes("h", 2), nodes("a", 1)
    return state_of(
        pools=(pool("h", "H800", price=2000), pool("a", "Ascend910B3", origin=Origin.DOMESTIC)),
        nodes=(*h, *a),
        leases=(lease("x", h[0], 4), lease("y", h[1], 2)),
        **more,
    )


def test_a_job_that_must_wait_is_told_when_and_what_another_model_would_change() -> None:
    """Both figures by hand: 8 x 2,000 fen for an hour on H800, 8 x 1,000 on Ascend910B3."""
    found = quote(two_pools(), job("n", asks("H800")), NetCost())

    assert (found.best, [one.pool for one in found.options]) == ("h", ["h", "a"])
    mine, other = found.options
    assert (hours(mine.earliest), hours(mine.latest), mine.promised, mine.accepts) == (2, 2, True, False)
    assert (mine.most.gross_fen, other.most.gross_fen) == (16_000, 8_000)
    assert (hours(other.latest), other.accepts) == (0, True)
    (instead,) = found.instead
    assert (instead.pool, instead.accepts, hours(instead.start)) == ("a", True, 0)
    assert (instead.earlier_ms, instead.less_fen, instead.done_earlier_ms) == (2 * HOUR, 8_000, 2 * HOUR)
    assert found.pending is not None
    assert found.pending.code == "INSUFFICIENT_FREE_DEVICES"


def test_a_gang_over_both_nodes_waits_for_the_later_one() -> None:
    found = quote(two_pools(), job("n", asks("H800"), nodes=2), NetCost())

    assert hours(found.options[0].latest) == 4


def test_those_who_go_first_keep_their_places() -> None:
    """The first takes the node that is free after 2 h for 1.5 h, so that the second has the node before the other is free."""
    first = job("m", asks("H800"), hours=1.5, at=-10)
    found = quote(two_pools(jobs=(first,)), job("n", asks("H800")), NetCost())

    assert hours(found.options[0].latest) == 3.5
    assert found.options[0].promised is False, "EASY reserves for the first alone"


def test_a_job_of_higher_priority_is_not_behind_one_that_came_before() -> None:
    first = job("m", asks("H800"), hours=1.5, at=-10)
    found = quote(two_pools(jobs=(first,)), replace(job("n", asks("H800")), priority=Priority.HIGH), NetCost())

    assert hours(found.options[0].latest) == 2


def test_without_backfill_nobody_starts_before_those_who_go_first() -> None:
    """The first needs both nodes (4 h); under fifo the second may not use the gap, with a reservation it may."""
    first = job("m", asks("H800"), nodes=2, hours=1, at=-10)
    second = job("n", asks("H800"), hours=2)
    state = two_pools(jobs=(first,))

    class Conservative(NetCost):
        backfill = 9

    assert hours(quote(state, second, Fifo()).options[0].latest) == 5
    assert hours(quote(state, second, Conservative()).options[0].latest) == 2


def test_the_earliest_start_counts_on_predictions_and_on_others_going_elsewhere() -> None:
    """The lease has 3,600 steps left at 1 step a second and 2 h of limit: it is predicted to end after one."""
    h, a = nodes("h", 1), nodes("a", 1)
    running = lease("x", h[0], 2, workload="w", remaining_steps=3600)
    other = lease("z", a[0], 8)
    either = job("m", asks("H800", "Ascend910B3"), hours=3, at=-10)
    state = state_of(
        pools=(pool("h", "H800"), pool("a", "Ascend910B3")),
        nodes=(*h, *a),
        leases=(running, other),
        jobs=(either,),
        throughputs=(Throughput(workload="w", model="H800", devices=8, steps_per_ks=1000),),
    )
    found = quote(state, job("n", asks("H800")), Fifo()).options[0]

    assert (hours(found.earliest), hours(found.latest)) == (1, 5)


def test_money_is_of_the_predicted_time_and_of_the_limit() -> None:
    """1,800 s of work within 2 h: gross 8 x 1,000 x 0.5 h; the voucher draws 40%, λ 0.25 counts three quarters of it."""
    a = nodes("a", 1)
    terms = Terms(
        firm=FirmId("f1"), pool=PoolId("a"), price_fen_per_device_hour=1000, rate_bp=4000, room_fen=10**6,
        shadow_price_permille=250,
    )  # fmt: skip
    state = state_of(
        pools=(pool("a", "Ascend910B3"),),
        nodes=tuple(a),
        terms=(terms,),
        throughputs=(Throughput(workload="w", model="Ascend910B3", devices=8, steps_per_ks=2000),),
    )
    one = quote(state, job("n", asks("Ascend910B3"), hours=2, workload="w", remaining_steps=3600), NetCost()).options[0]

    assert one.expected is not None
    assert (one.expected.duration_ms, one.expected.gross_fen, one.expected.draw_fen) == (HOUR // 2, 4000, 1600)
    assert (one.most.gross_fen, one.most.draw_fen, one.net_fen) == (16_000, 6400, 2400)
    assert one.effective_fen == 4000 - 1600 * 3 // 4
    assert hours(one.done) == 0.5


def test_data_far_away_costs_time_and_money_and_no_link_is_a_no() -> None:
    """1 GiB over 100 Mbit/s is 85.9 s at 50 fen; the pool at home has none of it, the third region no link."""
    state = state_of(
        pools=(
            pool("b", "H800", region="bj"),
            pool("m", "H800", region="nm", price=900),
            pool("t", "H800", region="tj"),
        ),
        nodes=(*nodes("b", 1), *nodes("m", 1), *nodes("t", 1)),
        links=(Link(a="bj", b="nm", megabit_per_s=100, price_fen_per_gib=50),),
    )
    facts = {
        "bj": RegionFacts(region="bj", carbon_mg_per_kwh=600_000, carbon_source="given"),
        "nm": RegionFacts(region="nm", carbon_mg_per_kwh=700_000, carbon_source="given"),
    }
    asked = job("n", asks("H800"), data={"bj": 1 << 30})
    found = quote(state, asked, NetCost(), region_facts=facts)
    home, away, out = (found.option(name) for name in ("b", "m", "t"))

    assert home is not None
    assert away is not None
    assert out is not None
    assert (home.transfer_ms, home.transfer_fen, away.transfer_ms, away.transfer_fen) == (0, 0, 85_900, 50)
    assert (out.code, out.latest) == ("NO_LINK", None)
    assert (home.carbon_g, away.carbon_g, out.carbon_g) == (3360, 3920, None), "8 x 700 W for an hour"
    assert away.total_fen == 8 * 900 + 50
    assert away.done == NOW + timedelta(milliseconds=85_900 + HOUR)
    assert found.best == "m"
    assert found.saved is not None
    assert (found.saved.against, found.saved.fen, found.saved.ms, found.saved.carbon_g) == ("bj", 750, -85_900, -560)


def test_a_limit_on_the_net_cost_rules_a_pool_out() -> None:
    found = quote(two_pools(), replace(job("n", asks("H800")), money=Money(max_net_fen=9_000)), NetCost())

    assert {one.pool: one.code for one in found.options} == {"h": "MAX_NET_COST_TOO_LOW", "a": None}
    assert found.best is None
    assert found.pending is not None
    assert found.pending.code == "MAX_NET_COST_TOO_LOW"
    assert [(one.pool, one.less_fen) for one in found.instead] == [("a", None)]


def test_maintenance_keeps_a_job_out_until_it_is_over() -> None:
    h = nodes("h", 1)
    closed = Maintenance(id="m", nodes=(h[0].id,), start=NOW + timedelta(minutes=30), end=NOW + timedelta(hours=3))
    found = quote(
        state_of(pools=(pool("h", "H800"),), nodes=tuple(h), maintenance=(closed,)), job("n", asks("H800")), NetCost()
    )

    assert hours(found.options[0].latest) == 3


def test_a_queue_without_room_waits_for_its_own_leases_and_no_latest_is_named() -> None:
    state = two_pools(queues=(QueueQuota(name="q", nominal_devices=16),))
    found = quote(state, job("n", asks("Ascend910B3")), NetCost())
    one = found.options[0]

    assert (one.pool, hours(one.earliest), one.latest) == ("a", 2, None)
    assert found.pending is not None
    assert found.pending.code == "QUOTA_EXHAUSTED"


def test_a_gang_no_pool_can_hold_gets_its_reason_and_no_option() -> None:
    found = quote(two_pools(), job("n", asks("H800"), nodes=64), NetCost())

    assert (found.best, found.options, found.instead) == (None, (), ())
    assert found.pending is not None
    assert (found.pending.code, found.pending.kind) == ("EXCEEDS_POOL", PendingKind.NEVER)


def test_a_gated_job_names_its_gate() -> None:
    found = quote(two_pools(), job("n", asks("Ascend910B3"), gate=Gate(code="HELD")), NetCost())

    assert {one.code for one in found.options} == {"HELD"}
    assert found.pending is not None
    assert found.pending.code == "HELD"


# --- laws -------------------------------------------------------------------------------------------------------------

POLICIES: tuple[Policy, ...] = (Fifo(), NetCost())


@settings(deadline=None)
@given(snapshot=snapshots(), policy=st.sampled_from(POLICIES))
def test_the_quote_of_a_waiting_job_agrees_with_the_plan(snapshot: Snapshot, policy: Policy) -> None:
    """A launch is quoted as now, in the pool it gets; a wait carries the plan's own reason. Nothing is changed."""
    state = apply(EMPTY, changes_of(snapshot))
    before = (dict(state.jobs), dict(state.leases), state.columns.free.copy())
    _, plan = step(state, (), policy)
    launches = {one.job: one for one in plan.launches}
    waits = {one.job: one.pending for one in plan.waits}
    for waiting in snapshot.jobs:
        found = quote(state, waiting, policy)
        if waiting.id in launches:
            own = [o for o in found.options if o.pool == found.best and not o.accepts]
            assert (found.best, found.pending) == (launches[waiting.id].chosen.pool, None)
            assert any((o.earliest, o.latest) == (snapshot.now, snapshot.now) for o in own)
        else:
            assert found.pending is not None
            assert found.pending.kind == waits[waiting.id].kind
        for one in found.options:
            assert one.earliest is None or one.latest is None or snapshot.now <= one.earliest <= one.latest
            assert one.code is None or one.latest is None
    assert before[0] == dict(state.jobs)
    assert before[1] == dict(state.leases)
    assert (before[2] == state.columns.free).all()


@st.composite
def lines(draw: st.DrawFn) -> tuple[State, WaitingJob]:
    """One pool of like nodes, each busy for a while or free, and jobs over whole nodes: nothing is fragmented."""
    count = draw(st.integers(1, 5))
    here = nodes("h", count, 1)
    leases = [lease(f"l{i}", n, draw(st.integers(1, 9)), 1) for i, n in enumerate(here) if draw(st.booleans())]
    wanted = st.tuples(st.integers(1, count), st.integers(1, 6))
    jobs = [
        job(f"j{i}", asks("H800", count=1), nodes=n, hours=h, at=i - 20)
        for i, (n, h) in enumerate(draw(st.lists(wanted, max_size=6)))
    ]
    n, h = draw(wanted)
    state = state_of(pools=(pool("h", "H800"),), nodes=tuple(here), leases=tuple(leases), jobs=tuple(jobs))
    return state, job("own", asks("H800", count=1), nodes=n, hours=h)


def started(state: State, own: WaitingJob, policy: Policy) -> datetime | None:
    """When the planner itself starts it, every lease and every job running to its limit."""
    state = apply(state, [Set(own)])
    for _ in range(60):
        state, plan = step(state, (), policy)
        changes: list[object] = []
        for launch in plan.launches:
            if launch.job == own.id:
                return state.now
            one = state.jobs[launch.job]
            changes += [
                Remove(WaitingJob, launch.job),
                Set(
                    RunningLease(
                        id=launch.lease, job=launch.job, firm=one.firm, queue=one.queue, pool=launch.placement.pool,
                        members=launch.placement.members, ends_by=state.now + timedelta(milliseconds=one.time_limit_ms),
                    )
                ),
            ]  # fmt: skip
        state = apply(state, changes)  # type: ignore[arg-type]
        if not state.leases:
            return None
        now = min(one.ends_by for one in state.leases.values())
        over = [Remove(RunningLease, one.id) for one in state.leases.values() if one.ends_by <= now]
        state = apply(state, [Clock(now, state.version + 1), *over])
    return None


@settings(deadline=None)
@given(lines())
def test_where_nothing_is_fragmented_fifo_starts_exactly_at_the_latest(made: tuple[State, WaitingJob]) -> None:
    """One pool, no predictions: the interval is a point, and it is the planner's own start."""
    state, own = made
    (one,) = quote(state, own, Fifo()).options

    assert one.earliest is not None
    assert one.latest == started(state, own, Fifo())


@settings(deadline=None)
@given(lines())
def test_a_promised_start_is_kept_under_easy(made: tuple[State, WaitingJob]) -> None:
    state, own = made
    (one,) = quote(state, own, NetCost()).options
    assume(one.promised)
    actual = started(state, own, NetCost())

    assert one.latest is not None
    assert actual is not None
    assert actual <= one.latest


@settings(deadline=None)
@given(lines())
def test_a_long_line_is_bounded_no_earlier_than_it_is_laid_out(made: tuple[State, WaitingJob]) -> None:
    """The rough bound for the far end of a queue is never before the exact one."""
    state, own = made
    exact = quote(state, own, Fifo()).options[0].latest
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scheduler.foresight.CELLS", 0)
        patch.setattr("scheduler.foresight.LEAST", 1)
        rough = quote(state, own, Fifo()).options[0].latest

    assert rough is not None
    assert exact is not None
    assert exact <= rough


def test_the_objective_start_time_is_the_planner_s_own_choice() -> None:
    """Two pools that both wait: the one that frees first is the best, whatever it costs."""
    h, a = nodes("h", 1), nodes("a", 1)
    state = state_of(
        pools=(pool("h", "H800", price=9000), pool("a", "Ascend910B3")),
        nodes=(*h, *a),
        leases=(lease("x", h[0], 1), lease("y", a[0], 5)),
    )
    asked = replace(job("n", asks("H800", "Ascend910B3")), money=Money(objective=Objective.START_TIME))
    found: Quote = quote(state, asked, NetCost())

    assert found.best == "h"
    assert [(one.pool, one.less_fen) for one in found.instead] == [("a", 64_000)]
