"""Rotation: jobs take turns through the engine; gangs whole, on nodes that can host them; nobody is left without a turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.accelerator import Origin, Source
from scheduler.engine import EMPTY, State, apply, changes_of
from scheduler.job import Alternative, FirmId, JobId, Money, Priority, Request
from scheduler.lease import LeaseId, Member
from scheduler.node import Node, NodeId, Pool, PoolId
from scheduler.plan import Launch, Plan
from scheduler.planner import plan
from scheduler.policies.rounds import Rounds
from scheduler.rotation import Option, Turns, turns_of
from scheduler.rounds import RoundWeights
from scheduler.snapshot import Gate, Maintenance, QueueQuota, RunningLease, Snapshot, Throughput, WaitingJob
from tests.builders import NOW, snapshots

ROUND = timedelta(seconds=360)
SRPT = RoundWeights(makespan=0, giant=0, age=0)
RATES = {("w", "V100", 1): 10_000, ("w", "K80", 1): 1_000}
START = datetime.fromtimestamp(
    NOW.timestamp() // 3600 * 3600, NOW.tzinfo
)  # a round in which everything is looked at again


@dataclass
class Site:
    """One pool per model: sizes of its nodes."""

    pools: Mapping[str, Sequence[int]] = field(default_factory=lambda: {"V100": [1, 1], "K80": [1, 1]})
    jobs: list[WaitingJob] = field(default_factory=list)
    leases: list[RunningLease] = field(default_factory=list)
    rates: Mapping[tuple[str, str, int], int] = field(default_factory=dict)
    queues: tuple[QueueQuota, ...] = ()
    maintenance: tuple[Maintenance, ...] = ()
    round: int = 0
    open: bool = True

    def snapshot(self) -> Snapshot:
        return Snapshot(
            version=1, now=START + self.round * ROUND, jobs=tuple(self.jobs), leases=tuple(self.leases),
            pools=tuple(pool_of(model) for model in self.pools),
            nodes=tuple(
                node_of(model, number, size, schedulable=self.open)
                for model, sizes in self.pools.items()
                for number, size in enumerate(sizes)
            ),
            throughputs=tuple(
                Throughput(workload=workload, model=model, devices=devices, steps_per_ks=rate)
                for (workload, model, devices), rate in self.rates.items()
            ),
            queues=self.queues, maintenance=self.maintenance,
        )  # fmt: skip

    def state(self) -> State:
        return apply(EMPTY, changes_of(self.snapshot()))

    def turns(self, policy: Rounds | None = None) -> dict[str, tuple[str, int] | None]:
        """What the policy decides: pool and devices."""
        chosen = policy or Rounds(SRPT, restart_ms=0)
        found = chosen.allocate_round(turns_of(self.state(), chosen))
        return {job: None if option is None else (option.pool, option.devices) for job, option in found.items()}

    def plan(self, policy: Rounds | None = None) -> Plan:
        return plan(self.snapshot(), policy or Rounds(SRPT, restart_ms=0))


def pool_of(model: str) -> Pool:
    return Pool(
        id=PoolId(model), provider="p", site="s", region="r", backend="local", vendor="nvidia", model=model,
        origin=Origin.FOREIGN, memory_bytes=None, price_fen_per_device_hour=100, source=Source.SIMULATED,
    )  # fmt: skip


def node_of(model: str, number: int, size: int, **more: object) -> Node:
    name = f"{model}-{number}"
    node = Node(id=NodeId(name), pool=PoolId(model), devices=tuple(f"{name}.{i}" for i in range(size)))
    return replace(node, **more)  # type: ignore[arg-type]


def waiting(name: str, steps: int | None, count: int = 1, **more: object) -> WaitingJob:
    job = WaitingJob(
        id=JobId(name), name=name, firm=FirmId("f"), queue="q", priority=Priority.NORMAL,
        submitted_at=START - timedelta(days=1), nodes=1, time_limit_ms=10**8,
        request=Request(alternatives=(Alternative(text="", count=count),)), money=Money(), workload="w",
        remaining_steps=steps,
    )  # fmt: skip
    return replace(job, **more)  # type: ignore[arg-type]


def running(name: str, node: str, steps: int | None, count: int = 1, first: int = 0, **more: object) -> RunningLease:
    """On one node, from its device `first`; it may be moved, unless `again` says otherwise."""
    member = Member(rank=0, node=NodeId(node), devices=tuple(f"{node}.{first + i}" for i in range(count)))
    lease = RunningLease(
        id=LeaseId(f"{name}.1"), job=JobId(name), firm=FirmId("f"), queue="q", pool=PoolId(node.rsplit("-", 1)[0]),
        members=(member,), ends_by=START + timedelta(days=9), started_at=START - timedelta(days=1), workload="w",
        remaining_steps=steps, again=waiting(name, steps, count, attempt=2),
    )  # fmt: skip
    return replace(lease, **more)  # type: ignore[arg-type]


def launched(found: Plan) -> dict[str, tuple[str, int]]:
    return {launch.job: (launch.placement.pool, launch.placement.device_count) for launch in found.launches}


# --- what the policy is shown and decides ------------------------------------------------------------------------------


def test_every_waiting_and_running_job_has_a_turn_or_none() -> None:
    site = Site(jobs=[waiting(f"j{i}", 10_000 * (i + 1)) for i in range(4)], rates=RATES)
    site.leases = [running("r", "V100-0", 2_000)]
    found = site.turns()
    assert set(found) == {"j0", "j1", "j2", "j3", "r"}
    assert Counter(turn for turn in found.values() if turn) == {("V100", 1): 2, ("K80", 1): 2}
    assert found["r"] == ("V100", 1)


def test_a_running_job_yields_its_turn_to_a_much_shorter_one() -> None:
    site = Site(pools={"V100": [1]}, jobs=[waiting("short", 1_000)], rates=RATES)
    site.leases = [running("long", "V100-0", 10**8)]
    assert site.turns() == {"short": ("V100", 1), "long": None}
    found = site.plan()
    assert launched(found) == {"short": ("V100", 1)}
    assert [(stop.job, stop.code) for stop in found.preempts] == [("long", "ROUND")]


def test_a_decision_is_kept_until_something_comes_or_it_is_old() -> None:
    site = Site(pools={"V100": [1]}, jobs=[waiting("short", 1_000)], rates=RATES, round=1)
    site.leases = [running("long", "V100-0", 10**8)]
    assert site.turns()["long"] is not None
    assert replace(site, round=10).turns()["long"] is None
    came = replace(site.jobs[0], submitted_at=site.snapshot().now - timedelta(seconds=100))
    assert replace(site, jobs=[came]).turns()["long"] is None


def test_a_freed_faster_device_is_taken_at_once() -> None:
    site = Site(leases=[running("r", "K80-0", 10**6)], rates=RATES, round=1)
    assert site.turns(Rounds()) == {"r": ("V100", 1)}
    found = site.plan(Rounds())
    assert launched(found) == {"r": ("V100", 1)}
    assert found.launches[0].lease == "r.2"


def test_a_measured_zero_never_runs_there_and_an_unknown_rate_may() -> None:
    site = Site(pools={"V100": [1], "K80": [1]}, jobs=[waiting("a", 100), waiting("b", None, workload=None)])
    site.rates = {("w", "V100", 1): 10, ("w", "K80", 1): 0}
    assert site.turns() == {"a": ("V100", 1), "b": ("K80", 1)}


def test_a_rate_nobody_has_measured_is_guessed_from_the_catalogue() -> None:
    # measured on a T4 only: an A100 has several times its peak
    job = waiting("a", 10**6, time_limit_ms=10**12)
    site = Site(pools={"T4": [1], "A100-80GB": [1]}, jobs=[job], rates={("w", "T4", 1): 1_000})
    assert site.turns() == {"a": ("A100-80GB", 1)}
    site.rates = {("w", "T4", 1): 1_000, ("w", "A100-80GB", 1): 900}
    assert site.turns() == {"a": ("T4", 1)}


def test_of_unknown_work_the_faster_model_is_still_the_better() -> None:
    assert Site(jobs=[waiting("a", None)], rates=RATES).turns() == {"a": ("V100", 1)}


def test_what_a_job_accepts_and_may_cost_binds() -> None:
    only = Request(alternatives=(Alternative(text="", count=1, models=("K80",)),))
    domestic = Request(alternatives=(Alternative(text="", count=1, origin=Origin.DOMESTIC),))
    jobs = [
        waiting("k", 10**6, request=only), waiting("d", 10**6, request=domestic),
        waiting("m", 10**6, money=Money(max_net_fen=1)), waiting("x", 10**6),
    ]  # fmt: skip
    site = Site(jobs=jobs, rates=RATES)
    assert site.turns() == {"k": ("K80", 1), "d": None, "m": None, "x": ("V100", 1)}
    why = {wait.job: wait.pending.code for wait in site.plan().waits}
    assert why == {"d": "NO_MATCHING_POOL", "m": "MAX_NET_COST_TOO_LOW"}


def test_a_queue_holds_no_more_than_its_quota_and_devices_do_not_wait_for_it() -> None:
    jobs = [waiting("a", 5), waiting("b", 5), waiting("c", 10**6, queue="other")]
    site = Site(pools={"V100": [1, 1]}, jobs=jobs, rates=RATES, queues=(QueueQuota(name="q", nominal_devices=1),))
    assert sorted(launched(site.plan())) in (["a", "c"], ["b", "c"])
    # what a stopped lease held is the queue's again in the same plan
    site = replace(site, jobs=[waiting("a", 5)], leases=[running("long", "V100-0", 10**8)])
    found = site.plan()
    assert launched(found) == {"a": ("V100", 1)}
    assert [stop.job for stop in found.preempts] == ["long"]


# --- elastic, checkpoints ---------------------------------------------------------------------------------------------


def test_an_elastic_job_takes_the_size_that_serves_all() -> None:
    rates = {("w", "V100", 1): 1000, ("w", "V100", 2): 1900}
    elastic = waiting("e", 10**6, nodes=2, min_nodes=1)
    site = Site(pools={"V100": [1, 1]}, jobs=[elastic], rates=rates)
    assert launched(site.plan(Rounds())) == {"e": ("V100", 2)}
    both = replace(site, jobs=[elastic, waiting("o", 10**6)])
    assert launched(both.plan(Rounds())) == {"e": ("V100", 1), "o": ("V100", 1)}
    three = replace(site, jobs=[replace(elastic, min_nodes=3)])  # more than it has nodes for: as if it said 2
    assert launched(three.plan(Rounds())) == {"e": ("V100", 2)}


@pytest.mark.parametrize(("lost", "grows"), [(0, True), (500, True), (10_000, False)])
def test_an_elastic_job_grows_when_devices_come_free_unless_it_would_lose_too_much(lost: int, grows: bool) -> None:
    rates = {("w", "V100", 1): 1000, ("w", "V100", 2): 1900}
    again = waiting("e", 10**6 + lost, nodes=2, min_nodes=1, attempt=2)
    lease = running("e", "V100-0", 10**6, again=again)
    found = Site(pools={"V100": [1, 1]}, leases=[lease], rates=rates).plan(Rounds())
    assert launched(found) == ({"e": ("V100", 2)} if grows else {})
    assert [stop.job for stop in found.preempts] == (["e"] if grows else [])


@pytest.mark.parametrize(
    ("saved", "interval", "moves"),
    [
        (timedelta(0), None, True),
        (timedelta(minutes=2), None, True),
        (timedelta(hours=20), None, False),
        (timedelta(hours=20), 60_000, True),  # it writes one every minute, whatever was heard of it
    ],
)
def test_a_restart_costs_what_was_done_since_the_last_checkpoint(
    saved: timedelta, interval: int | None, moves: bool
) -> None:
    lease = running("r", "K80-0", None, checkpointed_at=START - saved, checkpoint_interval_ms=interval)
    rates = {("w", "V100", 1): 2_000, ("w", "K80", 1): 1_000}
    found = Site(pools={"V100": [1], "K80": [1]}, leases=[lease], rates=rates).plan(Rounds())
    assert bool(found.preempts) is moves


def test_a_restart_that_gains_little_is_not_made() -> None:
    site = Site(leases=[running("r", "K80-0", 10**6)], rates={("w", "V100", 1): 1_040, ("w", "K80", 1): 1_000})
    assert site.plan(Rounds(restart_ms=0)).preempts != ()
    assert site.plan(Rounds(restart_ms=30_000)).preempts == ()


# --- who is left alone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {"again": None},
        {"stopping": True},
        {"started_at": None},
        {"started_at": START - timedelta(seconds=287)},
    ],
)
def test_a_lease_that_may_not_be_moved_now_keeps_its_devices(more: dict[str, object]) -> None:
    site = Site(pools={"V100": [1]}, jobs=[waiting("short", 1_000)], rates=RATES)
    site.leases = [replace(running("long", "V100-0", 10**8), **more)]  # type: ignore[arg-type]
    assert site.turns() == {"short": None}
    assert (site.plan().launches, site.plan().preempts) == ((), ())


def test_after_most_of_a_round_its_turn_may_be_over() -> None:
    site = Site(pools={"V100": [1]}, jobs=[waiting("short", 1_000)], rates=RATES)
    site.leases = [running("long", "V100-0", 10**8, started_at=START - timedelta(seconds=288))]
    assert len(site.plan().preempts) == 1


def test_a_lease_on_a_closed_node_stays_and_takes_nobodys_place() -> None:
    site = Site(pools={"V100": [1]}, leases=[running("r", "V100-0", 10**6)], rates=RATES, open=False)
    assert (site.turns(), site.plan().preempts) == ({}, ())


# --- gangs on nodes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "count", "nodes"),
    [
        ([16], 4, 4),  # enough devices, too few nodes
        ([4, 4, 4, 4], 8, 2),  # enough devices, no node as large
        ([8, 4], 6, 2),
    ],
)
def test_a_gang_that_the_nodes_cannot_host_takes_nobodys_turn(sizes: list[int], count: int, nodes: int) -> None:
    gang = waiting("gang", 1, count, nodes=nodes)
    others = [waiting(f"o{i}", 10**6, 4) for i in range(sum(size // 4 for size in sizes))]
    site = Site(pools={"V100": sizes}, jobs=[gang, *others], rates={("w", "V100", 4): 1_000})
    found = site.plan()
    assert set(launched(found)) == {job.id for job in others}
    assert [wait.job for wait in found.waits] == ["gang"]


def test_devices_of_leases_that_stay_are_not_offered() -> None:
    leases = [running(f"r{i}", f"V100-{i}", 10**6, 4, again=None) for i in range(2)]
    jobs = [waiting("large", 10**6, 5), waiting("wide", 10**6, 4, nodes=3), waiting("fits", 10**6, 4, nodes=2)]
    site = Site(pools={"V100": [8, 8]}, jobs=jobs, leases=leases)
    shown = turns_of(site.state(), Rounds())
    assert shown.devices == {"V100": 8}
    assert shown.options == {"large": (), "wide": (), "fits": (Option(PoolId("V100"), "V100", 2, 4),)}
    assert launched(site.plan()) == {"fits": ("V100", 8)}


def test_what_a_turn_that_no_node_can_host_leaves_free_goes_to_those_in_line() -> None:
    # eight devices for 3 + 3 + 2, but the two left are on two nodes: two jobs of one get them
    jobs = [waiting("a", 10**4, 3), waiting("b", 10**4, 3), waiting("c", 10**4, 2)]
    jobs += [waiting(f"z{i}", 10**8) for i in range(3)]
    site = Site(pools={"V100": [4, 4]}, jobs=jobs, rates={("w", "V100", count): 1_000 for count in (1, 2, 3)})
    assert {job for job, turn in site.turns().items() if turn} == {"a", "b", "c"}
    found = launched(site.plan())
    assert sum(devices for _, devices in found.values()) == 8
    assert set(found) == {"a", "b", "z0", "z1"}


def test_memory_cpu_and_maintenance_count_as_devices_do() -> None:
    soon = Maintenance(id="m", nodes=(NodeId("V100-0"),), start=START + ROUND, end=START + 9 * ROUND)
    site = Site(pools={"V100": [1], "K80": [1]}, jobs=[waiting("a", 5)], rates=RATES, maintenance=(soon,))
    assert launched(site.plan()) == {"a": ("K80", 1)}
    small = replace(
        site.snapshot(), maintenance=(), nodes=(node_of("V100", 0, 1, cpu_milli=1000), node_of("K80", 0, 1))
    )
    asked = replace(small, jobs=(waiting("a", 5, cpu_milli=2000),))
    assert launched(plan(asked, Rounds())) == {"a": ("K80", 1)}


def test_a_gang_whose_devices_are_free_but_not_together_gets_them_together() -> None:
    # two nodes of four, a job of one on each; a job of four has its turn: one of the small ones moves beside the other
    small = [running(f"s{i}", f"V100-{i}", 10**4) for i in range(2)]
    site = Site(pools={"V100": [4, 4]}, jobs=[waiting("gang", 10**4, 4)], leases=small)
    site.rates = {("w", "V100", 1): 1_000, ("w", "V100", 4): 4_000}
    found = site.plan()
    assert launched(found)["gang"] == ("V100", 4)
    assert len(found.preempts) == 1
    moved = found.preempts[0].job
    assert launched(found) == {"gang": ("V100", 4), moved: ("V100", 1)}
    assert len({launch.placement.members[0].node for launch in found.launches}) == 2


# --- who takes no turns -----------------------------------------------------------------------------------------------


def test_shares_and_jobs_without_devices_start_first_and_running_ones_stay() -> None:
    jobs = [waiting("none", 5, 0), waiting("share", 5, share_permille=500), waiting("turn", 5)]
    half = running("half", "V100-0", None, share_permille=500, again=waiting("half", None, share_permille=500))
    site = Site(pools={"V100": [1]}, jobs=jobs, leases=[half], rates=RATES)
    found = site.plan()
    assert launched(found) == {"none": ("V100", 0), "share": ("V100", 1)}
    assert [wait.job for wait in found.waits] == ["turn"]
    assert site.turns() == {"turn": None}


def test_a_zone_of_jobs_without_devices_is_planned() -> None:
    site = Site(pools={"V100": [1]}, jobs=[waiting(f"j{i}", 5, 0) for i in range(3)])
    assert len(site.plan().launches) == 3


def test_a_gated_job_waits_for_its_gate() -> None:
    found = Site(jobs=[waiting("g", 5, gate=Gate(code="HELD")), waiting("s", 5, 0, gate=Gate(code="HELD"))]).plan()
    assert [wait.pending.code for wait in found.waits] == ["HELD", "HELD"]
    assert found.launches == ()


# --- laws -------------------------------------------------------------------------------------------------------------


@st.composite
def sites(draw: st.DrawFn) -> Snapshot:
    """Nodes of unlike sizes, gangs of any width, elastic or not, with and without devices, some of them running."""
    pools = {model: [draw(st.integers(0, 4)) for _ in range(draw(st.integers(1, 3)))] for model in ("V100", "K80")}
    jobs = []
    for number in range(draw(st.integers(0, 6))):
        nodes = draw(st.integers(1, 4))
        jobs.append(
            waiting(
                f"j{number}", draw(st.none() | st.integers(0, 10**7)), draw(st.integers(0, 5)), nodes=nodes,
                min_nodes=draw(st.none() | st.integers(1, nodes)), share_permille=1000,
                workload=draw(st.sampled_from([None, "w", "x"])), queue=draw(st.sampled_from(["q", "r"])),
                submitted_at=START - timedelta(seconds=draw(st.integers(0, 10**5))),
            )
        )  # fmt: skip
    leases = []
    for model, sizes in pools.items():
        for number, size in enumerate(sizes):
            count = draw(st.integers(0, size))
            if count:
                name = f"{model}r{number}"
                lease = running(name, f"{model}-{number}", draw(st.none() | st.integers(1, 10**7)), count)
                movable = draw(st.booleans())
                leases.append(lease if movable else replace(lease, again=None))
    rates = {
        (w, m, d): draw(st.integers(0, 9000)) for w in "wx" for m in pools for d in (1, 2, 4) if draw(st.booleans())
    }
    quotas = tuple(QueueQuota(name=q, nominal_devices=draw(st.integers(0, 9))) for q in "qr" if draw(st.booleans()))
    return Site(pools, jobs, leases, rates, quotas, round=draw(st.integers(0, 10))).snapshot()


def carried_out(snapshot: Snapshot, found: Plan) -> Snapshot:
    """The snapshot after the plan: leases stopped, launches running."""
    gone = {stop.lease for stop in found.preempts}
    jobs = {job.id: job for job in snapshot.jobs}
    jobs |= {lease.job: lease.again for lease in snapshot.leases if lease.id in gone and lease.again is not None}
    leases = [lease for lease in snapshot.leases if lease.id not in gone]
    for launch in found.launches:
        leases.append(lease_of(launch, jobs.pop(launch.job), snapshot.now))
    return replace(snapshot, jobs=tuple(jobs.values()), leases=tuple(leases))


def lease_of(launch: Launch, job: WaitingJob, now: datetime) -> RunningLease:
    return RunningLease(
        id=LeaseId(launch.lease), job=job.id, firm=job.firm, queue=job.queue, pool=launch.placement.pool,
        members=launch.placement.members, ends_by=now + timedelta(days=1), started_at=now, workload=job.workload,
        remaining_steps=job.remaining_steps, again=replace(job, attempt=job.attempt + 1),
    )  # fmt: skip


@given(st.one_of(sites(), snapshots()))
@settings(max_examples=150, deadline=None)
def test_over_any_state_gangs_are_whole_on_devices_of_their_own_and_within_their_queue(snapshot: Snapshot) -> None:
    found = plan(snapshot, Rounds())
    assert found == plan(replace(snapshot, jobs=snapshot.jobs[::-1], leases=snapshot.leases[::-1]), Rounds())
    after = carried_out(snapshot, found)
    held = Counter(device for lease in after.leases for member in lease.members for device in member.devices)
    assert not held or max(held.values()) == 1
    before = {job.id: job for job in snapshot.jobs} | {one.job: one.again for one in snapshot.leases if one.again}
    used: Counter[str] = Counter()
    for lease in after.leases:
        used[lease.queue] += sum(len(member.devices) for member in lease.members)
    took = {before[launch.job].queue for launch in found.launches if launch.placement.device_count}
    for quota in snapshot.queues:
        if quota.nominal_devices is not None and quota.name in took:
            assert used[quota.name] <= quota.nominal_devices
    for launch in found.launches:
        job, members = before[launch.job], launch.placement.members
        assert (job.min_nodes or job.nodes) <= len(members) <= job.nodes
        assert len({member.node for member in members}) == len(members)
        assert {len(member.devices) for member in members} <= {one.count for one in job.request.alternatives}
    assert {wait.job for wait in found.waits} == {job.id for job in snapshot.jobs} - {one.job for one in found.launches}


@given(sites())
@settings(max_examples=100, deadline=None)
def test_nobody_waits_beside_nodes_that_would_host_him_now(snapshot: Snapshot) -> None:
    found = plan(snapshot, Rounds())
    after = apply(EMPTY, changes_of(carried_out(snapshot, found)))
    free = {pool: after.columns.full[rows] for pool, rows in after.columns.rows.items()}
    room = {quota.name: (quota.nominal_devices or 0) - after.used.get(quota.name, 0) for quota in snapshot.queues}
    zero = {(row.workload, row.model, row.devices) for row in snapshot.throughputs if not row.steps_per_ks}
    for name, options in turns_of(after, Rounds()).options.items():
        job = after.jobs.get(name)
        for option in options if job is not None else ():
            assert job is not None
            hosted = int((free[option.pool] >= option.count).sum()) >= option.nodes
            within = option.devices <= room.get(job.queue, option.devices)
            runs = not any((job.workload, option.model) == known[:2] for known in zero)
            assert not (hosted and within and runs), (name, option)


class Recorder(Rounds):
    """Asks for nothing, and keeps what it was shown."""

    def allocate_round(self, turns: Turns) -> Mapping[JobId, Option | None]:
        self.shown = turns
        return dict.fromkeys(turns.options)


def test_a_policy_that_gives_no_turns_stops_every_movable_lease_and_starts_nothing() -> None:
    policy = Recorder()
    site = Site(
        jobs=[waiting("a", 5)], leases=[running("r", "V100-0", 5), running("k", "K80-0", 5, again=None)], rates=RATES
    )
    found = site.plan(policy)
    assert [stop.job for stop in found.preempts] == ["r"]
    assert found.launches == ()
    assert set(policy.shown.options) == {"a", "r"}
    assert policy.shown.devices == {"V100": 2, "K80": 1}


def test_turns_go_round_until_everybody_has_run_whatever_the_width() -> None:
    """Gangs wider than a node is large, in one pool, more than fit together: each has its turn, none starves another."""
    jobs = [waiting(f"g{i}", 4_000, 4, nodes=2, time_limit_ms=10**9) for i in range(2)]
    jobs += [waiting(f"s{i}", 40_000, 1) for i in range(6)]
    site = Site(pools={"V100": [4, 4]}, jobs=jobs, rates={("w", "V100", 8): 4_000, ("w", "V100", 1): 1_000})
    policy = Rounds()
    snapshot = site.snapshot()
    ran: set[JobId] = set()
    for number in range(400):
        now = START + number * ROUND
        snapshot = replace(snapshot, now=now, version=number)
        found = plan(snapshot, policy)
        ran |= {launch.job for launch in found.launches}
        after = carried_out(snapshot, found)
        leases = []
        for lease in after.leases:
            done = site.rates[("w", "V100", sum(len(member.devices) for member in lease.members))] * 360 // 1000
            assert lease.again is not None
            left = (lease.remaining_steps or 0) - done
            if left > 0:
                again = replace(lease.again, remaining_steps=left)
                leases.append(replace(lease, remaining_steps=left, checkpointed_at=now + ROUND, again=again))
        snapshot = replace(after, leases=tuple(leases))
        if not snapshot.leases and not snapshot.jobs:
            break
    assert ran == {job.id for job in jobs}
    assert not snapshot.jobs
