"""Jobs that wait for other jobs, what the planner is shown of jobs and leases, and the recent mix."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler import places, store, view
from scheduler.gating import Known, gate_of, meant
from scheduler.job import Dependency, JobId, Priority
from scheduler.lifecycle import State
from scheduler.refusal import Refusal
from scheduler.snapshot import Gate, MixShape, QueueQuota, Snapshot
from tests.fakes import NOON
from tests.platform import FIRM, Platform, job_text

OTHER = "91110302MA01A2B3D2"


def known(name: str = "prep", state: State = State.RUNNING, at: int = 0, identity: str = "p") -> Known:
    return Known(id=identity, name=name, submitted_ms=at, state=state)


def gate(state: State, when: str) -> Gate | Refusal | None:
    return gate_of("j", 10, (Dependency(job="prep", when=when),), {"prep": [known(state=state)]})


@given(state=st.sampled_from(State), when=st.sampled_from(["succeeded", "failed", "ended"]))
def test_a_dependency_opens_waits_or_never_opens(state: State, when: str) -> None:
    """It waits exactly while the other job can still end; then it is open or refused, and `ended` is never refused."""
    found = gate(state, when)

    assert isinstance(found, Gate) == (not state.terminal)
    if state.terminal:
        wanted = {"succeeded": state is State.SUCCEEDED, "failed": state is not State.SUCCEEDED, "ended": True}[when]
        assert (found is None) == wanted
        assert wanted or (isinstance(found, Refusal) and found.code == "DEPENDENCY_NEVER_MET")


def test_a_gate_names_all_it_waits_for_and_one_that_cannot_be_met_beats_it() -> None:
    waits = tuple(Dependency(job=name, when="succeeded") for name in ("c", "a", "b"))
    jobs = {name: [known(name, identity=name)] for name in ("a", "b")}

    assert gate_of("j", 0, waits, jobs) == Gate(code="DEPENDENCY", on=("a", "b", "c"))  # nobody submitted c yet
    jobs["b"] = [known("b", State.FAILED, identity="b")]
    refused = gate_of("j", 0, waits, jobs)
    assert isinstance(refused, Refusal)
    assert refused.facts == {"job": "b", "when": "succeeded", "state": "FAILED"}


def test_a_name_means_the_last_job_before_else_the_first_after_and_never_itself() -> None:
    runs = [known(identity=name, at=at) for name, at in (("old", 1), ("mine", 9), ("new", 20), ("j", 10))]

    assert meant("j", 10, runs) == (runs[1],)
    assert meant("j", 0, runs) == (runs[0],)
    assert meant("j", 10, runs[3:]) == ()


# --- the platform -----------------------------------------------------------------------------------------------------


def depends(on: str, when: str = "succeeded") -> str:
    return f"depends_on: [{{job: {on}, when: {when}}}]\n"


def shown(platform: Platform) -> Snapshot:
    with platform.database.read() as tx:
        return view.snapshot(tx, platform.clock.now(), platform.budget)


def test_a_dependent_job_starts_when_the_other_has_succeeded(platform: Platform) -> None:
    first = platform.submit("a", job_text("prep"))
    second = platform.submit("b", job_text("train", extra=depends("prep")))
    platform.loop.tick()
    assert [platform.state(job) for job in (first, second)] == ["STARTING", "PENDING"]
    assert [job.gate for job in shown(platform).jobs] == [Gate(code="DEPENDENCY", on=("prep",))]

    platform.backend.end(f"{first}.1", 0)
    platform.loop.tick()
    assert platform.state(second) == "STARTING"


def test_a_chain_behind_a_failed_job_is_rejected_with_its_code(platform: Platform) -> None:
    first = platform.submit("a", job_text("prep"))
    second = platform.submit("b", job_text("train", extra=depends(first)))
    third = platform.submit("c", job_text("evaluate", extra=depends("train")))
    cleanup = platform.submit("d", job_text("clean", extra=depends("prep", "failed")))
    platform.loop.tick()
    platform.backend.end(f"{first}.1", 3)
    platform.loop.tick()
    platform.loop.tick()

    assert [platform.state(job) for job in (second, third)] == ["REJECTED", "REJECTED"]
    assert platform.state(cleanup) in ("STARTING", "RUNNING")
    with platform.database.read() as tx:
        last = store.story(tx, second)[-1]
    assert last["facts"] == {"code": "DEPENDENCY_NEVER_MET", "job": first, "when": "succeeded", "state": "FAILED"}


def test_another_firm_s_job_of_that_name_opens_nothing(platform: Platform) -> None:
    first = platform.submit("a", job_text("prep"), firm=OTHER)
    second = platform.submit("b", job_text("train", extra=depends(first)))
    platform.loop.tick()
    platform.backend.end(f"{first}.1", 0)
    platform.loop.tick()

    assert platform.state(first) == "SUCCEEDED"
    assert platform.state(second) == "PENDING"


def test_the_snapshot_shows_what_the_job_file_says(platform: Platform) -> None:
    extra = (
        "priority: high\ngang: {min_nodes: 1}\nworkload: sft\ndeadline: 2026-10-01T08:00+08:00\n"
        "checkpoint: {path: ck, interval: 15m}\n"
    )
    job = platform.submit("a", job_text(nodes=2, extra=extra))
    (waiting,) = shown(platform).jobs
    assert (waiting.min_nodes, waiting.workload, waiting.checkpoint_interval_ms) == (1, f"{FIRM}/sft", 900_000)
    assert waiting.deadline is not None
    assert waiting.deadline.isoformat() == "2026-10-01T00:00:00+00:00"
    assert (waiting.share_permille, waiting.gate) == (1000, None)

    platform.loop.tick()
    (lease,) = shown(platform).leases
    assert (lease.priority, lease.started_at, lease.checkpoint_interval_ms) == (Priority.HIGH, None, 900_000)
    assert (lease.workload, lease.stopping, len(lease.members)) == (f"{FIRM}/sft", False, 2)
    platform.loop.tick()
    assert shown(platform).leases[0].started_at == NOON
    assert shown(platform).leases[0].job == JobId(job)


@pytest.mark.parametrize(
    ("share", "accelerators", "permille"),
    [
        ("{cores: 25%}", "Ascend910B3:1", 250),
        ("{memory: 16GiB}", "Ascend910B3:1", 250),  # of 64 GiB
        ("{memory: 16GiB, cores: 40%}", "Ascend910B3:1", 400),
        ("{memory: 16GiB}", "{any_of: [Ascend910B3:1, H800:1]}", 250),  # 64 GiB is the smaller of the two
        ("{memory: 65GiB}", "Ascend910B3:1", 1000),
    ],
)
def test_a_share_is_what_the_smallest_model_would_give(share: str, accelerators: str, permille: int) -> None:
    from scheduler.jobfile import parse_job

    text = f"name: a\ntime_limit: 1h\nresources: {{accelerators: {accelerators}, share: {share}}}\nentrypoint: 'true'\n"
    assert view.share_permille(parse_job(text)) == permille


def test_the_mix_is_what_came_in_the_week_before_this_hour(platform: Platform) -> None:
    platform.submit("a", job_text(nodes=3))
    platform.submit("b", job_text(accelerators="{any_of: [H800:4, Ascend910B3:4, MLU590:8]}"))
    assert shown(platform).mix == ()  # this very hour
    platform.clock.advance(3600)
    platform.submit("c", job_text())
    assert shown(platform).mix == (
        MixShape(weight=1, count=4, models=("Ascend910B3", "H800")),
        MixShape(weight=3, count=8, models=("Ascend910B3",)),
    )
    platform.clock.advance(7 * 86_400)
    assert shown(platform).mix == (MixShape(weight=1, count=8, models=("Ascend910B3",)),)


def test_a_queue_has_its_cohort(platform: Platform) -> None:
    with platform.database.write() as tx:
        places.set_queue(tx, "q", 8)
        assert places.set_cohort(tx, "q", cohort="c", borrowing_limit=4, lending_limit=2, weight=3) is None
        places.set_queue(tx, "q", 16)
        assert places.set_cohort(tx, "r", cohort="c") == Refusal(code="QUEUE_UNKNOWN", facts={"queue": "r"})
        with pytest.raises(ValueError, match="weight: must be 1 or more, not 0"):
            places.set_cohort(tx, "q", cohort="c", weight=0)
        with pytest.raises(ValueError, match="lending_limit: must be 0 or more, not -1"):
            places.set_cohort(tx, "q", cohort="c", lending_limit=-1)
    wanted = QueueQuota(name="q", nominal_devices=16, cohort="c", borrowing_limit=4, lending_limit=2, weight=3)
    assert shown(platform).queues == (wanted,)


def test_every_snapshot_that_is_shown_can_be_written_and_read(platform: Platform) -> None:
    from scheduler.codec import parse_snapshot, snapshot_document

    platform.submit("a", job_text("prep"))
    platform.submit("b", job_text("train", extra=depends("prep")))
    platform.loop.tick()
    platform.clock.advance(timedelta(hours=2).total_seconds())
    import json

    found = shown(platform)
    assert found.mix
    assert parse_snapshot(json.dumps(snapshot_document(found))) == found
    assert {job.firm for job in found.jobs} == {FIRM}
