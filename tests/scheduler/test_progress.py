"""What running jobs report: stored once, learnt from as a rate, shown to the planner, and never another firm's business."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering import store as money
from scheduler import progress, view
from scheduler.job import JobId
from scheduler.lease import Cause, LeaseId
from scheduler.plan import Preempt
from scheduler.planner import plan
from scheduler.refusal import Refusal
from scheduler.schema import job_progress, nodes, throughputs
from scheduler.snapshot import RunningLease, Snapshot, WaitingJob
from scheduler.throughput import Observation, estimate, learn
from tests.platform import FIRM, Platform, job_text

OTHER = "91110302MA01A2B3D2"
WORK = "workload: sft\ncheckpoint: {path: ck, signal: SIGUSR1}\n"


def running(platform: Platform, name: str = "a", firm: str = FIRM, **more: Any) -> str:
    job = platform.submit(name, job_text(name, extra=more.pop("extra", WORK), **more), firm=firm)
    platform.beat()
    platform.loop.tick()
    platform.loop.tick()
    assert platform.state(job) == "RUNNING"
    return job


def report(
    platform: Platform, job: str, steps: int, total: int | None = None, saved: int | None = None
) -> Refusal | None:
    with platform.database.write() as tx:
        return progress.report(
            tx, JobId(job), steps=steps, total_steps=total, checkpointed_steps=saved, now=platform.clock.now()
        )


def shown(platform: Platform) -> Snapshot:
    with platform.database.read() as tx:
        return view.snapshot(tx, platform.clock.now(), platform.budget)


def lease(platform: Platform) -> RunningLease:
    (found,) = shown(platform).leases
    return found


def waiting(platform: Platform) -> WaitingJob:
    (found,) = shown(platform).jobs
    return found


# --- what the planner is shown ----------------------------------------------------------------------------------------


def test_what_is_left_of_a_running_job_is_what_it_has_not_done(platform: Platform) -> None:
    job = running(platform)
    assert (lease(platform).remaining_steps, lease(platform).checkpointed_at) == (None, None)
    assert report(platform, job, 100) is None
    assert lease(platform).remaining_steps is None, "nobody said how many there are"
    assert report(platform, job, 200, total=1000) is None
    assert report(platform, job, 300) is None, "the total is remembered"
    assert lease(platform).remaining_steps == 700


def test_a_checkpoint_is_as_old_as_the_first_report_of_it(platform: Platform) -> None:
    job = running(platform)
    report(platform, job, 100, 1000, 100)
    first = platform.clock.now()
    platform.clock.advance(60)
    report(platform, job, 150, 1000, 100)
    assert lease(platform).checkpointed_at == first
    report(platform, job, 160, 1000)
    assert lease(platform).checkpointed_at == first, "a report that says nothing of it changes nothing of it"
    report(platform, job, 200, 1000, 180)
    assert lease(platform).checkpointed_at == first + timedelta(seconds=60)


def test_a_job_that_waits_again_has_left_what_its_checkpoint_does_not_hold(platform: Platform) -> None:
    job = running(platform)
    report(platform, job, 500, 1000, 300)
    again = lease(platform).again
    assert again is not None
    assert (again.remaining_steps, again.attempt) == (700, 2)

    platform.loop.dispatch._preempt(Preempt(lease=LeaseId(f"{job}.1"), job=JobId(job), code="PRIORITY"))
    with platform.database.write() as tx:
        tx.execute(nodes.update().values(schedulable=0))
    platform.backend.end(f"{job}.1", 0, cause=Cause.CANCELLED)
    platform.loop.tick()
    assert replace(waiting(platform), pending_since=None) == again

    with platform.database.write() as tx:
        tx.execute(nodes.update().values(schedulable=1))
    platform.clock.advance(100)
    platform.beat()
    platform.loop.tick()
    platform.loop.tick()
    assert (lease(platform).remaining_steps, lease(platform).checkpointed_at) == (700, None), "before its first report"
    assert report(platform, job, 310) is None, "a new attempt counts from its checkpoint"
    assert lease(platform).remaining_steps == 690
    assert platform.rows(throughputs) == [], "the time between two attempts is no interval of work"


# --- what is refused --------------------------------------------------------------------------------------------------


def test_reports_that_cannot_be_are_refused_and_change_nothing(platform: Platform) -> None:
    job = running(platform)
    report(platform, job, 100, 1000, 50)
    before = platform.rows(job_progress)

    assert report(platform, job, 99) == Refusal(
        code="PROGRESS_BACKWARDS", facts={"job": job, "steps": 99, "known": 100}
    )
    beyond = report(platform, job, 1001)
    assert beyond == Refusal(code="PROGRESS_BEYOND", facts={"job": job, "steps": 1001, "total_steps": 1000})
    assert report(platform, job, 100) is None, "the same again is harmless"
    assert platform.rows(job_progress) == before


def test_only_a_job_that_runs_reports(platform: Platform) -> None:
    job = platform.submit("w", job_text(accelerators="MLU590:8"))
    refusal = report(platform, job, 1)
    assert refusal == Refusal(code="JOB_NOT_RUNNING", facts={"job": job, "state": "SUBMITTED"})
    assert report(platform, "job_none", 1) == Refusal(code="JOB_UNKNOWN", facts={"job": "job_none"})

    ended = running(platform)
    platform.backend.end(f"{ended}.1", 0)
    platform.loop.tick()
    refusal = report(platform, ended, 1)
    assert refusal is not None
    assert refusal.code == "JOB_NOT_RUNNING"


# --- what is learnt ---------------------------------------------------------------------------------------------------


def test_a_rate_is_learnt_between_reports_start_up_left_out(platform: Platform) -> None:
    """Ten minutes of start-up, then 600 steps in 600 s: 1,000 steps in 1,000 s, exactly as `learn` says of the interval."""
    job = running(platform)
    platform.clock.advance(600)
    report(platform, job, 5)
    assert shown(platform).throughputs == ()
    platform.clock.advance(600)
    report(platform, job, 605)

    key = (f"{FIRM}/sft", "Ascend910B3", 8)
    seen = Observation(workload=key[0], model=key[1], devices=key[2], steps=600, elapsed_ms=600_000)
    assert shown(platform).throughputs == (learn(estimate({}, *key), seen),)
    assert shown(platform).throughputs[0].steps_per_ks == 1000
    assert lease(platform).workload == key[0], "the name the planner looks it up by"


def test_reports_close_together_teach_as_one(platform: Platform) -> None:
    job = running(platform)
    for second in range(0, 61, 10):
        report(platform, job, second * 2)
        assert bool(shown(platform).throughputs) == (second == 60)
        platform.clock.advance(10)
    assert shown(platform).throughputs[0].steps_per_ks == 2000


def test_what_is_learnt_converges_and_its_error_shrinks(platform: Platform) -> None:
    job = running(platform)
    report(platform, job, 0)
    errors = []
    for interval in range(1, 9):
        platform.clock.advance(600)
        report(platform, job, interval * 3000)
        (row,) = shown(platform).throughputs
        assert row.error_permille is not None
        errors.append(row.error_permille)
    assert row.steps_per_ks == 5000
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


def test_a_clock_set_back_teaches_nothing_and_the_next_interval_does(platform: Platform) -> None:
    job = running(platform)
    report(platform, job, 0)
    platform.clock.wall -= timedelta(hours=1)
    report(platform, job, 100)
    assert platform.rows(throughputs) == []
    platform.clock.advance(100)
    report(platform, job, 200)
    assert shown(platform).throughputs[0].steps_per_ks == 1000


def test_a_job_without_a_workload_teaches_nothing(platform: Platform) -> None:
    job = running(platform, extra="")
    report(platform, job, 0)
    platform.clock.advance(600)
    report(platform, job, 600)
    assert platform.rows(throughputs) == []
    assert lease(platform).workload is None


def test_one_firm_s_reports_move_no_other_firm_s_prediction(platform: Platform) -> None:
    with platform.database.write() as tx:
        money.enrol_firm(tx, id=OTHER, name="other", now=platform.clock.now())
    mine, theirs = (
        running(platform, accelerators="Ascend910B3:4"),
        running(platform, "b", OTHER, accelerators="Ascend910B3:4"),
    )
    for job, steps in ((mine, 600), (theirs, 6_000_000)):
        report(platform, job, 0)
        platform.clock.advance(600)
        report(platform, job, steps)

    found = {row.workload: row.steps_per_ks for row in shown(platform).throughputs}
    assert found == {f"{FIRM}/sft": 1000, f"{OTHER}/sft": 10_000_000}
    with platform.database.read() as tx:
        assert [row.workload for row in progress.throughputs_of(tx, [FIRM])] == [f"{FIRM}/sft"]


def test_a_prediction_comes_from_what_was_learnt(platform: Platform) -> None:
    """After one job's reports, its next attempt is predicted from the steps left: 700 at one a second."""
    job = running(platform, limit="2h")
    report(platform, job, 0, 1000, 0)
    platform.clock.advance(300)
    report(platform, job, 300, 1000, 300)
    platform.beat()
    snapshot = shown(platform)
    again = snapshot.leases[0].again
    assert again is not None
    decided = plan(replace(snapshot, jobs=(again,), leases=()), platform.loop.policy)
    (launch,) = decided.launches
    assert launch.chosen.predicted_ms == pytest.approx(700_000, rel=0.01)


@given(
    total=st.none() | st.integers(0, 10**6),
    steps=st.integers(0, 10**6),
    saved=st.none() | st.integers(0, 10**6),
    running_=st.booleans(),
)
def test_steps_left_are_never_negative_and_unknown_without_a_total(
    total: int | None, steps: int, saved: int | None, running_: bool
) -> None:
    row = {"total_steps": total, "steps": steps, "checkpointed_steps": saved}
    left = progress.steps_left(row, running=running_)
    assert (left is None) == (total is None)
    if left is not None and total is not None:
        assert 0 <= left <= total
    assert progress.steps_left(None, running=running_) is None
