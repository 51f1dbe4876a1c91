"""The round policy: devices never exceeded, nobody idle beside free devices, short jobs first, the tail kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.accelerator import Origin, Source
from scheduler.engine import Set as SetTo
from scheduler.engine import State, apply, changes_of
from scheduler.job import Alternative, FirmId, JobId, Money, Priority, Request
from scheduler.lease import LeaseId, Member
from scheduler.node import Node, NodeId, Pool, PoolId
from scheduler.policies.rounds import Rounds, Turn
from scheduler.rounds import RoundProblem, RoundWeights, allocate, makespan
from scheduler.snapshot import Gate, RunningLease, Snapshot, Throughput, WaitingJob
from scheduler.zone import matches
from tests.builders import NOW, snapshots

SRPT = RoundWeights(makespan=0, giant=0, age=0)


def problem(
    options: list[tuple[int, int, int, float]], capacity: list[int], *, jobs: int | None = None, **more: object
) -> RoundProblem:
    """options: (job, model, devices, hours alone)."""
    count = jobs if jobs is not None else 1 + max((job for job, *_ in options), default=-1)
    return RoundProblem(
        job=np.array([job for job, *_ in options], dtype=np.int64),
        model=np.array([model for _, model, *_ in options], dtype=np.int64),
        devices=np.array([devices for _, _, devices, _ in options], dtype=np.int64),
        pace=np.array([1 / (hours * 3600) for *_, hours in options]),
        age_s=np.asarray(more.get("age_s", np.zeros(count)), dtype=np.float64),
        held=np.asarray(more.get("held", np.full(count, -1)), dtype=np.int64),
        capacity=np.array(capacity, dtype=np.int64),
        round_s=360.0,
        restart_s=float(str(more.get("restart_s", 0.0))),
    )


@st.composite
def problems(draw: st.DrawFn) -> RoundProblem:
    models = draw(st.integers(1, 3))
    jobs = draw(st.integers(0, 8))
    options = [
        (job, model, devices, draw(st.floats(0.01, 500)))
        for job in range(jobs)
        for model in range(models)
        for devices in draw(st.sets(st.sampled_from([1, 2, 4, 8]), max_size=2))
    ]
    held = [
        draw(st.sampled_from([-1, *[o for o, option in enumerate(options) if option[0] == j]])) for j in range(jobs)
    ]
    return problem(
        options, draw(st.lists(st.integers(0, 9), min_size=models, max_size=models)), jobs=jobs, held=np.array(held),
        age_s=np.array(draw(st.lists(st.floats(0, 1e6), min_size=jobs, max_size=jobs))),
        restart_s=draw(st.sampled_from([0.0, 30.0])),
    )  # fmt: skip


@given(problems())
@settings(max_examples=150, deadline=None)
def test_no_device_twice_one_option_a_job_and_nobody_waits_beside_what_fits(given: RoundProblem) -> None:
    before = (given.held.copy(), given.capacity.copy())
    choice = allocate(given)
    assert (allocate(given) == choice).all()
    assert (given.held == before[0]).all()
    assert (given.capacity == before[1]).all()
    used: Counter[int] = Counter()
    for job, option in enumerate(choice.tolist()):
        if option >= 0:
            assert given.job[option] == job
            used[int(given.model[option])] += int(given.devices[option])
    assert all(used[model] <= given.capacity[model] for model in range(len(given.capacity)))
    for option in range(len(given.job)):
        if choice[given.job[option]] < 0:
            assert used[int(given.model[option])] + given.devices[option] > given.capacity[given.model[option]]


@given(problems())
@settings(max_examples=60, deadline=None)
def test_the_makespan_bound_is_at_least_every_jobs_least_duration_and_its_duals_add_up_to_it(
    given: RoundProblem,
) -> None:
    fits = given.devices <= given.capacity[given.model] if len(given.job) else np.zeros(0, dtype=bool)
    if not fits.any() or not fits.all():
        return
    bound, duals = makespan(given)
    least = [1 / given.pace[given.job == job].max() for job in set(given.job.tolist())]
    assert bound >= max(least) * (1 - 1e-6)
    assert duals.sum() == pytest.approx(bound, rel=1e-5)
    assert (duals >= -1e-6 * bound).all()


def test_two_equal_jobs_on_one_device_need_twice_as_long() -> None:
    assert makespan(problem([(0, 0, 1, 3.0), (1, 0, 1, 3.0)], [1]))[0] == pytest.approx(6 * 3600)


def test_the_short_job_goes_first() -> None:
    assert allocate(problem([(0, 0, 1, 9.0), (1, 0, 1, 2.0)], [1]), SRPT).tolist() == [-1, 1]


def test_each_job_takes_the_model_that_serves_it_relatively_better() -> None:
    # both are faster on model 0, but job 1 loses far more by leaving it
    options = [(0, 0, 1, 4.0), (0, 1, 1, 5.0), (1, 0, 1, 4.0), (1, 1, 1, 40.0)]
    assert allocate(problem(options, [1, 1])).tolist() == [1, 2]


def test_a_job_as_long_as_the_horizon_is_not_put_off_by_shorter_ones() -> None:
    options = [(0, 0, 1, 100.0), *[(job, 0, 1, 30.0) for job in range(1, 5)]]
    assert allocate(problem(options, [2]), SRPT)[0] == -1
    assert allocate(problem(options, [2]))[0] == 0


def test_age_ends_waiting() -> None:
    options = [(0, 0, 1, 10.0), (1, 0, 1, 9.0)]
    weights = RoundWeights(makespan=0, giant=0, age=1.0)
    assert allocate(problem(options, [1]), weights).tolist() == [-1, 1]
    assert allocate(problem(options, [1], age_s=[10**6, 0.0]), weights).tolist() == [0, -1]


def test_a_restart_that_costs_more_than_it_gains_is_not_made() -> None:
    options = [(0, 0, 1, 1.00), (0, 1, 1, 0.98)]
    assert allocate(problem(options, [1, 1], held=[0])).tolist() == [1]
    assert allocate(problem(options, [1, 1], held=[0], restart_s=30.0)).tolist() == [0]


def test_an_elastic_job_shrinks_so_that_another_runs() -> None:
    options = [(0, 0, 2, 6.0), (0, 0, 4, 4.0), (1, 0, 2, 6.0)]
    assert sorted(allocate(problem(options, [4])).tolist()) == [0, 2]
    assert allocate(problem(options[:2], [4])).tolist() == [1]


def test_a_gang_larger_than_its_model_waits() -> None:
    assert allocate(problem([(0, 0, 8, 1.0), (1, 0, 2, 50.0)], [4])).tolist() == [-1, 1]


def test_nothing_to_decide() -> None:
    assert allocate(problem([], [4], jobs=2)).tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"pace": np.array([0.0])}, "pace"),
        ({"pace": np.array([np.nan])}, "pace"),
        ({"devices": np.array([1, 2])}, "devices"),
        ({"age_s": np.zeros(3)}, "age_s"),
        ({"restart_s": 400.0}, "restart_s"),
    ],
)
def test_a_malformed_problem_says_which_field(change: dict[str, object], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        replace(problem([(0, 0, 1, 1.0)], [1]), **change)  # type: ignore[arg-type]


@dataclass
class Site:
    """A small state: one pool per model."""

    pools: dict[str, int] = field(default_factory=lambda: {"V100": 2, "K80": 2})
    jobs: list[WaitingJob] = field(default_factory=list)
    leases: list[RunningLease] = field(default_factory=list)
    rates: dict[tuple[str, str, int], int] = field(default_factory=dict)
    number: int = 1  # of the round since the epoch of the grid: 0 is one in which everything is looked at again

    def state(self) -> State:
        values: list[SetTo] = []
        for model, size in self.pools.items():
            pool = Pool(
                id=PoolId(model), provider="p", site="s", region="r", backend="local", vendor="nvidia", model=model,
                origin=Origin.FOREIGN, memory_bytes=None, price_fen_per_device_hour=1, source=Source.SIMULATED,
            )  # fmt: skip
            devices = tuple(f"{model}{i}" for i in range(size))
            values += [SetTo(pool), SetTo(Node(id=NodeId(model), pool=pool.id, devices=devices))]
        values += [SetTo(job) for job in self.jobs] + [SetTo(lease) for lease in self.leases]
        values += [
            SetTo(Throughput(workload=workload, model=model, devices=devices, steps_per_ks=rate))
            for (workload, model, devices), rate in self.rates.items()
        ]
        base = 10 * (int(NOW.timestamp()) // 3600)
        at = NOW + timedelta(seconds=360 * (base + self.number) - NOW.timestamp())
        return replace(apply(State(), values), now=at)


def waiting(name: str, steps: int | None, **more: object) -> WaitingJob:
    job = WaitingJob(
        id=JobId(name), name=name, firm=FirmId("f"), queue="q", priority=Priority.NORMAL,
        submitted_at=NOW - timedelta(days=1), nodes=1, time_limit_ms=10**9,
        request=Request(alternatives=(Alternative(text="", count=1),)), money=Money(), workload="w",
        remaining_steps=steps,
    )  # fmt: skip
    return replace(job, **more)  # type: ignore[arg-type]


def running(name: str, model: str, steps: int | None, **more: object) -> RunningLease:
    lease = RunningLease(
        id=LeaseId(f"{name}.1"), job=JobId(name), firm=FirmId("f"), queue="q", pool=PoolId(model),
        members=(Member(rank=0, node=NodeId(model), devices=(f"{model}0",)),), ends_by=NOW + timedelta(days=9),
        started_at=NOW - timedelta(days=1), workload="w", remaining_steps=steps,
    )  # fmt: skip
    return replace(lease, **more)  # type: ignore[arg-type]


RATES = {("w", "V100", 1): 10_000, ("w", "K80", 1): 1_000}


def test_every_waiting_and_running_job_is_in_the_decision() -> None:
    site = Site(
        jobs=[waiting(f"j{i}", 10_000 * (i + 1)) for i in range(4)], leases=[running("r", "V100", 2_000)], rates=RATES
    )
    decision = Rounds(SRPT).allocate_round(site.state())
    assert set(decision) == {"j0", "j1", "j2", "j3", "r"}
    used = Counter(turn.pool for turn in decision.values() if turn is not None)
    assert used == {"V100": 2, "K80": 2}
    assert decision[JobId("r")] == Turn("V100", 1, PoolId("V100"))


def test_a_running_job_yields_its_turn_to_a_much_shorter_one() -> None:
    site = Site(pools={"V100": 1}, jobs=[waiting("short", 1_000)], leases=[running("long", "V100", 10**8)], rates=RATES)
    site.number = 0
    decision = Rounds(SRPT).allocate_round(site.state())
    assert decision == {"short": ("V100", 1, "V100"), "long": None}


def test_a_decision_is_kept_until_something_comes_or_it_is_old() -> None:
    site = Site(pools={"V100": 1}, jobs=[waiting("short", 1_000)], leases=[running("long", "V100", 10**8)], rates=RATES)
    assert Rounds(SRPT).allocate_round(site.state())[JobId("long")] is not None
    came = replace(site.jobs[0], submitted_at=site.state().now - timedelta(seconds=100))
    assert Rounds(SRPT).allocate_round(replace(site, jobs=[came]).state())[JobId("long")] is None


def test_a_freed_faster_device_is_taken_at_once() -> None:
    site = Site(leases=[running("r", "K80", 10**6)], rates=RATES)
    assert Rounds().allocate_round(site.state()) == {"r": ("V100", 1, "V100")}


def test_a_measured_zero_never_runs_there_and_an_unknown_rate_may() -> None:
    site = Site(pools={"V100": 1, "K80": 1}, jobs=[waiting("a", 100), waiting("b", None, workload=None)])
    site.rates = {("w", "V100", 1): 10, ("w", "K80", 1): 0}
    decision = Rounds().allocate_round(site.state())
    assert decision == {"a": ("V100", 1, "V100"), "b": ("K80", 1, "K80")}


def test_what_a_job_accepts_binds() -> None:
    only = Request(alternatives=(Alternative(text="", count=1, models=("K80",)),))
    domestic = Request(alternatives=(Alternative(text="", count=1, origin=Origin.DOMESTIC),))
    large = Request(alternatives=(Alternative(text="", count=1, memory_bytes_min=1 << 30),))
    jobs = [waiting("k", 5, request=only), waiting("d", 5, request=domestic), waiting("m", 5, request=large)]
    decision = Rounds().allocate_round(Site(jobs=jobs, rates=RATES).state())
    assert decision == {"k": ("K80", 1, "K80"), "d": None, "m": None}


def test_a_gated_job_and_a_share_wait_and_a_running_share_keeps_its_device() -> None:
    jobs = [waiting("g", 5, gate=Gate(code="HELD")), waiting("s", 5, share_permille=500), waiting("w", 5)]
    shared = running("r", "V100", None, share_permille=250)
    site = Site(pools={"V100": 1}, jobs=jobs, leases=[shared], rates=RATES)
    assert Rounds().allocate_round(site.state()) == {
        "g": None, "s": None, "w": None, "r": Turn("V100", 1, PoolId("V100")),
    }  # fmt: skip


def test_an_elastic_job_takes_the_size_that_serves_all() -> None:
    rates = {("w", "V100", 1): 1000, ("w", "V100", 2): 1900}
    elastic = waiting("e", 10**6, nodes=2, min_nodes=1)
    site = Site(pools={"V100": 2}, jobs=[elastic], rates=rates)
    assert Rounds().allocate_round(site.state()) == {"e": ("V100", 2, "V100")}
    both = replace(site, jobs=[elastic, waiting("o", 10**6)])
    assert Rounds().allocate_round(both.state()) == {"e": ("V100", 1, "V100"), "o": ("V100", 1, "V100")}


@given(snapshots(), st.integers(0, 9))
@settings(max_examples=80, deadline=None)
def test_over_any_state_turns_fit_their_pools_and_what_each_job_accepts(snapshot: Snapshot, rounds: int) -> None:
    state = apply(State(), changes_of(replace(snapshot, now=snapshot.now + timedelta(seconds=360 * rounds))))
    decision = Rounds().allocate_round(state)
    assert decision == Rounds().allocate_round(apply(State(), reversed(changes_of(replace(snapshot, now=state.now)))))
    assert set(decision) == {*state.jobs, *(lease.job for lease in state.leases.values())}
    used: Counter[PoolId] = Counter()
    for job, turn in decision.items():
        if turn is None:
            continue
        used[turn.pool] += turn.devices
        pool = state.pools[turn.pool]
        assert turn.model == pool.model
        if job in state.jobs:
            asked = state.jobs[job]
            ways = [one for one in asked.request.alternatives if matches(one, pool)]
            assert turn.devices in {one.count * asked.nodes for one in ways}
    for pool_id, count in used.items():
        assert count <= sum(
            len(node.devices) for node in state.nodes.values() if node.pool == pool_id and node.schedulable
        )
