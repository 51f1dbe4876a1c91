"""Quotas with cohorts in the planner: what is promised to a queue holds over any course of jobs that come and end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from hypothesis import example, given, settings
from hypothesis import strategies as st

from scheduler.engine import EMPTY, Change, Clock, Remove, Set, State, changes_of, step
from scheduler.job import JobId
from scheduler.plan import Plan
from scheduler.policies.fair import Fair
from scheduler.policies.net_cost import NetCost
from scheduler.policy import Policy
from scheduler.snapshot import QueueQuota, RunningLease, Snapshot, WaitingJob
from tests.builders import NOW
from tests.scheduler.test_quote import asks, job, lease, nodes, pool

QUEUES = ("qa", "qb", "qc")
LIMIT = st.none() | st.integers(0, 8)


@dataclass(frozen=True, slots=True)
class Move:
    """One step: jobs that come (queue, devices), and how many running leases end, the oldest first."""

    come: tuple[tuple[str, int], ...]
    end: int


@st.composite
def courses(draw: st.DrawFn) -> tuple[tuple[QueueQuota, ...], tuple[Move, ...], Policy, int]:
    quotas = tuple(
        QueueQuota(
            name=name, nominal_devices=draw(st.integers(0, 10)), cohort=draw(st.sampled_from(["c", "c", "d"])),
            borrowing_limit=draw(LIMIT), lending_limit=draw(LIMIT), weight=draw(st.integers(1, 3)),
        )
        for name in QUEUES
    )  # fmt: skip
    jobs = st.tuples(st.sampled_from(QUEUES), st.integers(1, 4))
    moves = st.builds(Move, st.lists(jobs, max_size=4).map(tuple), st.integers(0, 3))
    found = tuple(draw(st.lists(moves, min_size=1, max_size=8)))
    return quotas, found, draw(st.sampled_from([NetCost(), Fair()])), draw(st.integers(2, 10))


def played(
    quotas: tuple[QueueQuota, ...], moves: tuple[Move, ...], policy: Policy, count: int
) -> list[tuple[State, Plan, State]]:
    """Per step the state planned from, its plan, and the state with what came of it."""
    rows = nodes("t", count, devices=4)
    base = Snapshot(version=1, now=NOW, pools=(pool("t", "T4"),), nodes=tuple(rows), queues=quotas)
    state, _ = step(EMPTY, changes_of(base), policy)
    found, number, order = [], 0, list[str]()
    for tick, move in enumerate(moves):
        now = NOW + timedelta(minutes=11 * tick)
        changes: list[Change] = [Clock(now, tick + 2)]
        for name in order[: move.end]:
            changes.append(Remove(RunningLease, name))
        order = order[move.end :]
        for queue, devices in move.come:
            number += 1
            one = job(f"j{number:03}", asks("T4", count=devices), hours=9, at=number)
            changes.append(Set(replace(one, queue=queue)))
        state, plan = step(state, changes, policy)
        before, after = state, list[Change]()
        for stop in plan.preempts:
            order.remove(stop.lease)
            again = waiting_again(state, stop.lease)
            after += [Remove(RunningLease, stop.lease), Set(again)]
        for launch in plan.launches:
            asked = state.jobs[launch.job]
            come = replace(
                lease(launch.job, rows[0], 99), id=launch.lease, queue=asked.queue, members=launch.placement.members,
                started_at=now, again=replace(asked, attempt=asked.attempt + 1),
            )  # fmt: skip
            after += [Remove(WaitingJob, launch.job), Set(come)]
            order.append(launch.lease)
        state, _ = step(state, after, policy)
        found.append((before, plan, state))
    return found


def waiting_again(state: State, name: str) -> WaitingJob:
    again = next(one for one in state.leases.values() if one.id == name).again
    assert again is not None
    return again


@settings(max_examples=1500, deadline=None)
@given(courses())
def test_what_a_cohort_promises_holds(made: tuple[tuple[QueueQuota, ...], tuple[Move, ...], Policy, int]) -> None:
    """No cohort above its nominals, no queue above what it may borrow, none lends more than it would."""
    quotas, moves, policy, count = made
    for _, _, state in played(quotas, moves, policy, count):
        used = {name: state.used.get(name, 0) for name in QUEUES}
        for cohort in ("c", "d"):
            mine = [one for one in quotas if one.cohort == cohort]
            nominal = {one.name: one.nominal_devices or 0 for one in mine}
            assert sum(used[one.name] for one in mine) <= sum(nominal.values())
            for one in mine:
                if one.borrowing_limit is not None:
                    assert used[one.name] <= nominal[one.name] + one.borrowing_limit
                if one.lending_limit is not None:  # the rest of its nominal is there for it at any time
                    kept = nominal[one.name] - one.lending_limit
                    others = sum(used[o.name] for o in mine if o.name != one.name)
                    assert others <= sum(nominal.values()) - min(max(kept, 0), max(nominal[one.name], 0))


FRAGMENTS = (  # the lender has the quota and waits for a node: nobody borrows the quota meanwhile
    tuple(QueueQuota(name=n, nominal_devices=d, cohort="c") for n, d in (("qa", 4), ("qb", 0), ("qc", 8))),
    (
        Move((("qa", 1), ("qa", 1), ("qa", 3), ("qa", 3)), 0),
        Move((), 0),
        Move((("qa", 1), ("qa", 1), ("qa", 1), ("qc", 3)), 0),
    ),
    NetCost(),
    3,
)


@settings(max_examples=1500, deadline=None)
@example(FRAGMENTS)
@given(courses())
def test_nobody_borrows_what_a_queue_wants_that_keeps_within_its_nominal(
    made: tuple[tuple[QueueQuota, ...], tuple[Move, ...], Policy, int],
) -> None:
    """While a job waits for quota that would keep its queue within its nominal, no other queue of its cohort starts anything
    above its own."""
    quotas, moves, policy, count = made
    known = {one.name: one for one in quotas}
    for before, plan, after in played(quotas, moves, policy, count):
        waits = [before.jobs[wait.job] for wait in plan.waits if wait.pending.code == "QUOTA_EXHAUSTED"]
        entitled = {one.queue for one in waits if within(known[one.queue], after, size(one))}
        for launch in plan.launches:
            mine = known[before.jobs[launch.job].queue]
            if not within(mine, after, 0):  # what it started, or the last of it, stands on another's nominal
                lenders = {name for name in entitled if known[name].cohort == mine.cohort}
                assert lenders <= {mine.name}


def within(quota: QueueQuota, state: State, more: int) -> bool:
    return state.used.get(quota.name, 0) + more <= (quota.nominal_devices or 0)


@settings(max_examples=1500, deadline=None)
@given(courses())
def test_only_a_job_within_its_nominal_takes_devices_back_and_only_borrowed_ones(
    made: tuple[tuple[QueueQuota, ...], tuple[Move, ...], Policy, int],
) -> None:
    quotas, moves, policy, count = made
    known = {one.name: one for one in quotas}
    for before, plan, _ in played(quotas, moves, policy, count):
        for stop in plan.preempts:
            assert stop.code == "RECLAIM"
            assert stop.by is not None
            asked = before.jobs[JobId(stop.by)]
            victim = before.leases[stop.lease]
            assert within(known[asked.queue], before, size(asked))
            assert victim.queue != asked.queue
            assert not within(known[victim.queue], before, 0)
            assert known[victim.queue].cohort == known[asked.queue].cohort


def size(one: WaitingJob) -> int:
    return one.nodes * one.request.alternatives[0].count
