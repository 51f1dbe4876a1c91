"""Migration: members move within the budget so that a job fits, and everything that held before holds after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from adapters.accelerator import Origin, Source
from scheduler.engine import EMPTY, Change, Clock, Outlook, Remove, Set, State, changes_of, step
from scheduler.job import Alternative, FirmId, JobId, Money, Priority, Request
from scheduler.lease import LeaseId, Member
from scheduler.migration import price
from scheduler.node import Node, NodeId, Pool, PoolId
from scheduler.plan import Plan
from scheduler.planner import plan
from scheduler.registry import load_policy
from scheduler.snapshot import Maintenance, MixShape, RunningLease, Snapshot, Terms, WaitingJob

NOW = datetime(2026, 6, 1, tzinfo=UTC)
LONG = timedelta(hours=2)
POLICY = load_policy("net_cost")
GIB = 1 << 30
MODELS = ("H800", "T4")
SHARES = (200, 300, 470, 500, 700, 810)


def pool(model: str = "H800", price: int = 100) -> Pool:
    return Pool(
        id=PoolId(f"p{model}"), provider="p", site="s", region="r", backend="local", vendor="nvidia", model=model,
        origin=Origin.FOREIGN, memory_bytes=None, price_fen_per_device_hour=price, source=Source.SIMULATED,
    )  # fmt: skip


def node(name: str, devices: int, *, model: str = "H800", cpu: int = 100_000, memory: int = 64 * GIB) -> Node:
    return Node(
        id=NodeId(name), pool=PoolId(f"p{model}"), devices=tuple(f"{name}.{i}" for i in range(devices)),
        cpu_milli=cpu, memory_bytes=memory,
    )  # fmt: skip


def job(
    name: str, count: int = 1, *, share: int = 1000, cpu: int = 0, memory: int = 0, models: tuple[str, ...] = (),
    firm: str = "f1",
) -> WaitingJob:  # fmt: skip
    return WaitingJob(
        id=JobId(name), name=name, firm=FirmId(firm), queue="q", priority=Priority.NORMAL, submitted_at=NOW, nodes=1,
        time_limit_ms=3_600_000, request=Request(alternatives=(Alternative(text=f"any:{count}", count=count, models=models),)),
        money=Money(), cpu_milli=cpu, memory_bytes=memory, share_permille=share,
    )  # fmt: skip


def lease(of: WaitingJob, devices: tuple[str, ...], where: str, *, model: str = "H800") -> RunningLease:
    return RunningLease(
        id=LeaseId(f"{of.id}.1"), job=of.id, firm=of.firm, queue=of.queue, pool=PoolId(f"p{model}"),
        members=(Member(rank=0, node=NodeId(where), devices=devices),), ends_by=NOW + LONG, cpu_milli=of.cpu_milli,
        memory_bytes=of.memory_bytes, share_permille=of.share_permille, started_at=NOW - LONG,
        checkpoint_interval_ms=60_000, again=replace(of, attempt=2),
    )  # fmt: skip


def after(snapshot: Snapshot, made: Plan) -> tuple[RunningLease, ...]:
    """The leases once the plan is carried out."""
    leases = {one.id: one for one in snapshot.leases}
    for move in made.migrations:
        old = leases[move.lease]
        assert [m.rank for m in old.members].count(move.rank) == 1
        leases[move.lease] = replace(old, members=tuple(move.to if m.rank == move.rank else m for m in old.members))
    jobs = {one.id: one for one in snapshot.jobs}
    for launch in made.launches:
        one = jobs[launch.job]
        leases[launch.lease] = replace(
            lease(one, (), "x"), id=launch.lease, pool=launch.placement.pool, members=launch.placement.members
        )
    return tuple(leases.values())


def check_room(snapshot: Snapshot, leases: tuple[RunningLease, ...]) -> None:
    """No device holds more than itself, or the shares of two firms; no node more than its CPU and memory."""
    nodes = {one.id: one for one in snapshot.nodes}
    held: dict[str, int] = {}
    firms: dict[str, set[str]] = {}
    cpu: dict[str, int] = {}
    memory: dict[str, int] = {}
    for one in leases:
        for member in one.members:
            where = nodes[member.node]
            assert set(member.devices) <= set(where.devices)
            assert len(set(member.devices)) == len(member.devices)
            cpu[where.id] = cpu.get(where.id, 0) + one.cpu_milli
            memory[where.id] = memory.get(where.id, 0) + one.memory_bytes
            for device in member.devices:
                held[device] = held.get(device, 0) + one.share_permille
                firms.setdefault(device, set()).add(one.firm)
    assert all(total <= 1000 for total in held.values())
    assert all(len(found) == 1 for found in firms.values())
    assert all(total <= (nodes[NodeId(name)].cpu_milli or 0) for name, total in cpu.items())
    assert all(total <= (nodes[NodeId(name)].memory_bytes or 0) for name, total in memory.items())


@st.composite
def crowded(draw: st.DrawFn) -> Snapshot:
    """A small zone that is nearly full of shares and whole pods, some of which may move, and jobs that wait."""
    pools = tuple(pool(m, draw(st.sampled_from([100, 100, 200]))) for m in MODELS[: draw(st.integers(1, 2))])
    nodes = tuple(
        node(f"n{i}", draw(st.integers(1, 4)), model=draw(st.sampled_from([p.model for p in pools])),
             cpu=draw(st.sampled_from([8_000, 16_000, 64_000])))
        for i in range(draw(st.integers(2, 5)))
    )  # fmt: skip
    leases: list[RunningLease] = []
    for where in nodes:
        cpu, model = where.cpu_milli or 0, where.pool.removeprefix("p")
        for device in where.devices:
            left, firm = 1000, draw(st.sampled_from(["f1", "f1", "f2"]))
            while draw(st.integers(0, 3)):
                share = draw(st.sampled_from([*SHARES, 1000]))
                asks = draw(st.sampled_from([0, 1_000, 4_000]))
                if share > left or asks > cpu:
                    break
                left, cpu = left - share, cpu - asks
                models = draw(st.sampled_from([(), (model,)]))
                one = lease(job(f"r{len(leases)}", share=share, cpu=asks, models=models, firm=firm), (device,), where.id,
                            model=model)  # fmt: skip
                leases.append(draw(st.sampled_from([one, one, one, *_fixed(one)])))
        while cpu >= 3_000 and draw(st.booleans()):
            cpu -= 3_000
            leases.append(lease(job(f"r{len(leases)}", 0, cpu=3_000), (), where.id, model=model))
    jobs = tuple(
        job(f"w{i}", draw(st.sampled_from([1, 1, 1, 2, 4])), share=share if share < 1000 else 1000,
            cpu=draw(st.sampled_from([0, 1_000, 6_000])), models=draw(st.sampled_from([(), (pools[0].model,)])),
            firm=draw(st.sampled_from(["f1", "f2"])))
        for i, share in enumerate(draw(st.lists(st.sampled_from([*SHARES, 1000, 1000, 1000]), min_size=1, max_size=4)))
    )  # fmt: skip
    jobs = tuple(one if one.share_permille == 1000 else replace(one, request=job("x").request) for one in jobs)
    mix = tuple(MixShape(weight=1 + i, count=1, share_permille=s) for i, s in enumerate((*SHARES, 1000)))
    return Snapshot(
        version=1, now=NOW, pools=pools, nodes=nodes, jobs=jobs, leases=tuple(leases), mix=draw(st.sampled_from([(), mix])),
        migrations=draw(st.integers(0, 4)),
    )  # fmt: skip


PAIRS = ((470, 470), (650, 320), (470, 320), (590, 320), (320, 320), (810,), (1000,), (650,))


@st.composite
def full(draw: st.DrawFn) -> Snapshot:
    """Zones with hardly a device or a core to spare, where members must change places."""
    nodes: list[Node] = []
    leases: list[RunningLease] = []
    for i in range(draw(st.integers(2, 4))):
        size, cpu = draw(st.integers(1, 3)), draw(st.sampled_from([0, 1_000, 5_000]))
        for d in range(size):
            firm = draw(st.sampled_from(["f1", "f1", "f1", "f2"]))
            for share in draw(st.sampled_from([*PAIRS, ()])):
                asks = draw(st.sampled_from([1_000, 4_000, 9_000]))
                cpu += asks
                leases.append(lease(job(f"r{len(leases)}", share=share, cpu=asks, firm=firm), (f"n{i}.{d}",), f"n{i}"))
        if draw(st.booleans()):
            cpu += 4_000
            leases.append(lease(job(f"r{len(leases)}", 0, cpu=4_000), (), f"n{i}"))
        nodes.append(node(f"n{i}", size, cpu=cpu))
    shares = draw(st.lists(st.sampled_from([220, 320, 470, 530, 1000]), min_size=1, max_size=3))
    jobs = tuple(
        job(f"w{i}", share=share, cpu=draw(st.sampled_from([1_000, 4_000])), firm=draw(st.sampled_from(["f1", "f2"])))
        for i, share in enumerate(shares)
    )  # fmt: skip
    return Snapshot(
        version=1, now=NOW, pools=(pool(),), nodes=tuple(nodes), jobs=jobs, leases=tuple(leases),
        migrations=draw(st.integers(2, 6)),
    )  # fmt: skip


def _fixed(one: RunningLease) -> tuple[RunningLease, ...]:
    """The same, but for what keeps it where it is."""
    return (
        replace(one, again=None), replace(one, checkpoint_interval_ms=None), replace(one, stopping=True),
        replace(one, started_at=NOW - timedelta(minutes=9)), replace(one, started_at=None),
    )  # fmt: skip


@settings(max_examples=200)
@given(snapshot=crowded() | full())
def test_what_holds_before_holds_after_and_the_budget_is_kept(snapshot: Snapshot) -> None:
    made = plan(snapshot, POLICY)
    event(f"{len(made.migrations)} moves")
    assert len(made.migrations) <= snapshot.migrations
    assert len({(m.lease, m.rank) for m in made.migrations}) == len(made.migrations)
    check_room(snapshot, after(snapshot, made))


@given(snapshot=crowded())
def test_a_member_keeps_its_shape_its_models_and_its_price(snapshot: Snapshot) -> None:
    leases, nodes = {one.id: one for one in snapshot.leases}, {one.id: one for one in snapshot.nodes}
    pools = {one.id: one for one in snapshot.pools}
    for move in plan(snapshot, POLICY).migrations:
        old = leases[move.lease]
        member = next(m for m in old.members if m.rank == move.rank)
        assert len(move.to.devices) == len(member.devices)
        assert (move.to.node, move.to.devices) != (member.node, member.devices)
        assert old.again is not None
        there, models = pools[nodes[move.to.node].pool], old.again.request.alternatives[0].models
        assert not models or there.model in models
        assert there.price_fen_per_device_hour == pools[old.pool].price_fen_per_device_hour


@given(snapshot=crowded())
def test_who_may_not_move_stays(snapshot: Snapshot) -> None:
    leases = {one.id: one for one in snapshot.leases}
    for move in plan(snapshot, POLICY).migrations:
        old = leases[move.lease]
        assert old.again is not None
        assert old.checkpoint_interval_ms is not None
        assert not old.stopping
        assert old.started_at is not None
        assert old.started_at <= NOW - timedelta(minutes=10)


@given(snapshot=crowded())
def test_without_a_budget_nobody_moves_and_with_one_no_fewer_start(snapshot: Snapshot) -> None:
    without = plan(replace(snapshot, migrations=0), POLICY)
    made = plan(snapshot, POLICY)
    assert not without.migrations
    if not made.migrations:
        assert made.launches == without.launches
    else:
        first = next(i for i, one in enumerate(made.launches) if one not in without.launches)
        assert made.launches[:first] == without.launches[:first]


@given(snapshot=crowded() | full(), order=st.randoms(use_true_random=False))
def test_the_plan_does_not_depend_on_the_order_in_which_facts_came(
    snapshot: Snapshot, order: Callable[..., object]
) -> None:
    expected = plan(snapshot, POLICY)
    values = [change for change in changes_of(snapshot) if isinstance(change, Set)]
    order.shuffle(values)  # type: ignore[attr-defined]
    cut = len(values) // 2
    state: State = EMPTY
    last = (Clock(snapshot.now, snapshot.version), Outlook(tuple(sorted(snapshot.mix, key=repr)), snapshot.migrations))
    parts: tuple[tuple[Change, ...], ...] = (tuple(values[:cut]), (*values[cut:], *last))
    for part in parts:
        state, made = step(state, part, POLICY)
    assert (made.launches, made.migrations) == (expected.launches, expected.migrations)


def test_of_members_alike_the_first_by_name_moves_whoever_came_in_first() -> None:
    """Nine alike on one device, of which a search looks at no more than eight: one has come in after an earlier search."""
    nine = [lease(job(f"s{i}", share=110), ("n0.0",), "n0") for i in range(9)]
    others = [lease(job("x", share=50, memory=GIB), ("n1.0",), "n1"),
              _fixed(lease(job("y", share=890), ("n1.0",), "n1"))[0]]  # fmt: skip
    nodes = (node("n0", 1), node("n1", 1, memory=GIB))
    snapshot = zone(*nine, *others, nodes=nodes, jobs=(job("w", share=60, memory=1),))
    expected = plan(snapshot, POLICY)
    assert {m.lease for m in expected.migrations} == {"s0.1", "x.1"}
    before = replace(snapshot, leases=(*nine[1:], *others), jobs=(job("v"),))
    state, none = step(EMPTY, changes_of(before), POLICY)
    assert not none.migrations
    _, made = step(state, [Remove(WaitingJob, JobId("v")), Set(nine[0]), Set(snapshot.jobs[0])], POLICY)
    assert (made.launches, made.migrations) == (expected.launches, expected.migrations)


def zone(*leases: RunningLease, nodes: tuple[Node, ...], jobs: tuple[WaitingJob, ...], budget: int = 8) -> Snapshot:
    return Snapshot(
        version=1, now=NOW, pools=tuple(pool(m) for m in sorted({n.pool.removeprefix("p") for n in nodes})),
        nodes=nodes, jobs=jobs, leases=leases, migrations=budget,
    )  # fmt: skip


def test_one_share_moves_beside_another_and_a_whole_device_comes_free() -> None:
    a, b = lease(job("a", share=470), ("n0.0",), "n0"), lease(job("b", share=470), ("n1.0",), "n1")
    snapshot = zone(a, b, nodes=(node("n0", 1), node("n1", 1)), jobs=(job("w"),))
    made = plan(snapshot, POLICY)
    assert len(made.migrations) == 1
    assert [one.job for one in made.launches] == ["w"]
    check_room(snapshot, after(snapshot, made))


def test_three_shares_leave_a_node_for_eight_devices() -> None:
    big, small = node("big", 8), node("small", 3)
    shares = tuple(lease(job(f"s{i}", share=300), (f"big.{2 * i}",), "big") for i in range(3))
    made = plan(zone(*shares, nodes=(big, small), jobs=(job("w", 8),)), POLICY)
    assert {m.lease for m in made.migrations} == {"s0.1", "s1.1", "s2.1"}
    assert {m.to.node for m in made.migrations} == {"small"}
    assert [one.placement.members[0].node for one in made.launches] == ["big"]
    assert not plan(zone(*shares, nodes=(big, small), jobs=(job("w", 8),), budget=2), POLICY).launches


def test_two_change_places_where_neither_could_go_first() -> None:
    """Every device is held; the one on the idle device's node has the CPU that the job wants."""
    heavy = lease(job("heavy", cpu=9_500), ("n0.0",), "n0")
    light = lease(job("light", cpu=1_000), ("n1.0",), "n1")
    nodes = (node("n0", 2, cpu=10_000), node("n1", 1, cpu=20_000))
    snapshot = zone(heavy, light, nodes=nodes, jobs=(job("w", cpu=8_000),))
    made = plan(snapshot, POLICY)
    assert {(m.lease, m.to.node) for m in made.migrations} == {("heavy.1", "n1"), ("light.1", "n0")}
    check_room(snapshot, after(snapshot, made))
    assert [one.job for one in made.launches] == ["w"]


def test_a_larger_share_changes_places_with_a_smaller_one_of_its_firm() -> None:
    """470 beside 320 would leave 210: with the 320 of n1, where 530 are idle but no CPU for more than it has."""
    full_, wide = (
        (lease(job("a", share=470), ("n0.0",), "n0"), lease(job("b", share=470), ("n0.0",), "n0")),
        job("c", share=320),
    )
    nodes = (node("n0", 1), node("n1", 1, memory=GIB))
    fat = replace(wide, memory_bytes=GIB)
    wanted = job("w", share=200, memory=1)
    snapshot = zone(*full_, lease(fat, ("n1.0",), "n1"), nodes=nodes, jobs=(wanted,))
    made = plan(snapshot, POLICY)
    assert [one.job for one in made.launches] == ["w"]
    check_room(snapshot, after(snapshot, made))
    other = zone(*full_, lease(replace(fat, firm=FirmId("f2")), ("n1.0",), "n1"), nodes=nodes, jobs=(wanted,))
    assert not plan(other, POLICY).migrations


def test_a_device_whose_last_share_has_left_is_anybodys() -> None:
    a, b = lease(job("a", share=470), ("n0.0",), "n0"), lease(job("b", share=470), ("n1.0",), "n1")
    snapshot = zone(a, b, nodes=(node("n0", 1), node("n1", 1)), jobs=(job("w", share=300, firm="f2"),))
    made = plan(snapshot, POLICY)
    assert len(made.migrations) == 1
    assert [one.job for one in made.launches] == ["w"]
    check_room(snapshot, after(snapshot, made))


def test_one_makes_room_for_another_that_makes_room() -> None:
    """a could go nowhere until b leaves n1, and w has the CPU it wants only where a is."""
    a = lease(job("a", share=700), ("n0.0",), "n0")
    b = lease(job("b", share=470), ("n1.0",), "n1")
    c = lease(job("c", share=500), ("n2.0",), "n2")
    nodes = (node("n0", 1), node("n1", 1, cpu=1_000), node("n2", 1, cpu=1_000))
    snapshot = zone(a, b, c, nodes=nodes, jobs=(job("w", share=810, cpu=2_000),))
    made = plan(snapshot, POLICY)
    assert {(m.lease, m.to.node) for m in made.migrations} in (
        {("a.1", "n1"), ("b.1", "n2")},
        {("a.1", "n2"), ("c.1", "n1")},
    )
    assert [one.job for one in made.launches] == ["w"]
    check_room(snapshot, after(snapshot, made))


def test_a_member_goes_only_where_its_job_pays_the_same() -> None:
    a, b = lease(job("a", share=470), ("n0.0",), "n0"), node("n1", 1, model="T4")
    wanted = job("w", models=("H800",))
    snapshot = zone(a, nodes=(node("n0", 1), b), jobs=(wanted,))
    assert plan(snapshot, POLICY).migrations
    dear = replace(snapshot, pools=(pool(), pool("T4", price=200)))
    assert not plan(dear, POLICY).migrations
    terms = Terms(firm=FirmId("f1"), pool=PoolId("pT4"), price_fen_per_device_hour=100, rate_bp=3000, room_fen=10**6)
    assert not plan(replace(snapshot, terms=(terms,)), POLICY).migrations


def test_nobody_moves_to_a_node_under_maintenance() -> None:
    a, b = lease(job("a", share=470), ("n0.0",), "n0"), lease(job("b", share=470), ("n1.0",), "n1")
    window = Maintenance(id="m", nodes=(NodeId("n1"),), start=NOW + timedelta(hours=1), end=NOW + LONG)
    snapshot = zone(a, b, nodes=(node("n0", 1), node("n1", 1)), jobs=(job("w"),))
    both = replace(window, nodes=(NodeId("n0"), NodeId("n1")))
    assert all(m.to.node == "n0" for m in plan(replace(snapshot, maintenance=(window,)), POLICY).migrations)
    assert not plan(replace(snapshot, maintenance=(both,)), POLICY).migrations


@pytest.mark.parametrize("fixed", range(5))
def test_one_that_may_not_move_keeps_the_job_waiting(fixed: int) -> None:
    a = _fixed(lease(job("a", share=470), ("n0.0",), "n0"))[fixed]
    b = _fixed(lease(job("b", share=470), ("n1.0",), "n1"))[fixed]
    made = plan(zone(a, b, nodes=(node("n0", 1), node("n1", 1)), jobs=(job("w"),)), POLICY)
    assert not made.migrations
    assert [wait.job for wait in made.waits] == ["w"]


def test_the_share_of_one_firm_never_goes_beside_anothers() -> None:
    a = lease(job("a", share=470), ("n0.0",), "n0")
    b = lease(job("b", share=470, firm="f2"), ("n1.0",), "n1")
    assert not plan(zone(a, b, nodes=(node("n0", 1), node("n1", 1)), jobs=(job("w"),)), POLICY).migrations


def test_the_last_moves_are_dear_while_the_zone_is_empty_and_cheap_when_it_is_full() -> None:
    assert price(1, 6000, 600) > price(100, 6000, 600) > price(180, 6000, 600)
    assert price(1, 6000, 0) > price(1000, 6000, 0) == price(1000, 6000, 600)
    assert price(1, 6000, 600) == price(1, 6000, 6000) > price(1, 6000, 60) > price(1, 6000, 0)
