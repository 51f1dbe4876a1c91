"""Arrays, held jobs, deadlines and elastic gangs, on the platform: what waits says why, and what may start starts."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.texts import known, pending_words
from metering.schema import settlements
from scheduler import places, store, view
from scheduler.gating import Known, gate_of, turns_of
from scheduler.job import Dependency, JobId
from scheduler.lease import Cause
from scheduler.lifecycle import HOLDING, State
from scheduler.plan import Plan
from scheduler.planner import plan
from scheduler.refusal import Refusal
from scheduler.schema import jobs, lease_devices, leases
from scheduler.snapshot import Gate
from scheduler.store import Conflict
from tests.platform import Platform, job_text

SMALL = "Ascend910B3:2"
ARRAY = "array: 0-4%2\n"


def pending(platform: Platform, job: str) -> dict[str, Any] | None:
    (row,) = [row for row in platform.rows(jobs) if row["id"] == job]
    return json.loads(row["pending"]) if row["pending"] else None


def code(platform: Platform, job: str) -> str | None:
    found = pending(platform, job)
    return None if found is None else str(found["code"])


def states(platform: Platform, array: str) -> list[str]:
    return [row["state"] for row in sorted(platform.rows(jobs), key=lambda row: row["id"]) if row["array_id"] == array]


def hold(platform: Platform, job: str, by: str = "firm") -> Refusal | None:
    with platform.database.write() as tx:
        return store.hold_back(tx, JobId(job), by, platform.clock.now())


def let_go(platform: Platform, job: str, by: str = "firm") -> Refusal | None:
    with platform.database.write() as tx:
        return store.let_go(tx, JobId(job), by, platform.clock.now())


# --- arrays -----------------------------------------------------------------------------------------------------------


@given(parallel=st.integers(1, 9), running=st.integers(0, 12), ready=st.integers(0, 12))
def test_no_more_of_an_array_may_start_than_its_limit_leaves(parallel: int, running: int, ready: int) -> None:
    """Those without a gate and those that run are at most `parallel`; and no place is left empty while one waits."""
    names = [f"e{i}" for i in range(ready)]
    gates = turns_of("a", parallel, running, names)
    open_ = [name for name in names if name not in gates]

    assert len(open_) == min(ready, max(0, parallel - running))
    assert open_ == names[: len(open_)], "the first in order go first"
    assert set(gates.values()) <= {Gate(code="ARRAY_LIMIT", on=("a",))}


def test_an_array_runs_as_many_at_once_as_it_says_until_all_have_ended(platform: Platform) -> None:
    array = platform.submit("a", job_text(accelerators=SMALL, extra=ARRAY))
    seen = []
    for _ in range(12):
        platform.loop.tick()
        now = states(platform, array)
        busy = [State(state) in HOLDING for state in now]
        assert sum(busy) <= 2
        seen.append(sum(busy))
        if sum(busy) < 2 and not all(State(state).terminal for state in now):
            assert "PENDING" not in now
        for row in platform.rows(leases):
            if row["released_at_ms"] is None and platform.backend.seen.get(row["id"]):
                platform.backend.end(row["id"], 0)
                break

    assert max(seen) == 2
    assert states(platform, array) == ["SUCCEEDED"] * 5


def test_an_element_that_waits_for_its_turn_says_so_in_both_languages(platform: Platform) -> None:
    array = platform.submit("a", job_text(accelerators=SMALL, extra=ARRAY))
    platform.loop.tick()

    assert [code(platform, f"{array}-{i}") for i in range(5)] == [None, None, *["ARRAY_LIMIT"] * 3]
    said = pending(platform, f"{array}-4")
    assert said is not None
    assert (said["kind"], said["scope"]) == ("wait", array)
    for lang in ("zh", "en"):
        assert pending_words(said, lang)[0] not in ("", "ARRAY_LIMIT")


def test_a_held_element_gives_its_turn_to_the_next(platform: Platform) -> None:
    array = platform.submit("a", job_text(accelerators=SMALL, extra="array: 0-2%1\n"))
    hold(platform, f"{array}-0")
    platform.loop.tick()

    assert states(platform, array) == ["PENDING", "STARTING", "PENDING"]
    assert [code(platform, f"{array}-{i}") for i in (0, 2)] == ["HELD", "ARRAY_LIMIT"]


def test_a_job_that_depends_on_an_array_waits_for_all_of_it(platform: Platform) -> None:
    array = platform.submit("a", job_text("sweep", accelerators=SMALL, extra="array: 0-1\n"))
    after = "depends_on: [{{job: {on}, when: {when}}}]\n"
    best = platform.submit("b", job_text("best", accelerators=SMALL, extra=after.format(on="sweep", when="succeeded")))
    fix = platform.submit("c", job_text("fix", accelerators=SMALL, extra=after.format(on=array, when="failed")))
    platform.loop.tick()
    platform.backend.end(f"{array}-0.1", 0)
    platform.loop.tick()
    assert [platform.state(job) for job in (best, fix)] == ["PENDING", "PENDING"]
    platform.backend.end(f"{array}-1.1", 3)
    platform.loop.tick()

    assert platform.state(best) == "REJECTED"
    assert platform.state(fix) == "STARTING"


@given(
    states=st.lists(st.sampled_from(State), min_size=1, max_size=5),
    when=st.sampled_from(["succeeded", "failed", "ended"]),
)
def test_an_array_meets_a_dependency_as_its_elements_say(states: list[State], when: str) -> None:
    """Met only when all have ended, refused only when no way on remains, waited for in between."""
    elements = [Known(id=f"a-{i}", name="a", submitted_ms=0, state=one, array="a") for i, one in enumerate(states)]
    found = gate_of("j", 9, (Dependency(job="a", when=when),), {"a": elements})

    ended = all(one.terminal for one in states)
    badly = any(one.terminal and one is not State.SUCCEEDED for one in states)
    if when == "succeeded" and badly:
        assert isinstance(found, Refusal)
    elif not ended:
        assert isinstance(found, Gate)
    else:
        assert isinstance(found, Refusal) == (when == "failed" and not badly)


# --- held -------------------------------------------------------------------------------------------------------------


def test_a_held_job_waits_until_it_is_let_go(platform: Platform) -> None:
    job = platform.submit("a", job_text())
    assert hold(platform, job) is None
    assert hold(platform, job) is None
    platform.loop.tick()
    said = pending(platform, job)
    assert said is not None
    assert (said["code"], said["kind"], said["scope"]) == ("HELD", "policy", "firm")
    assert all(pending_words(said, lang)[0] != "HELD" for lang in ("zh", "en"))

    assert let_go(platform, job) is None
    platform.loop.tick()
    assert platform.state(job) == "STARTING"
    with platform.database.read() as tx:
        told = [event["event"] for event in store.story(tx, job)]
    assert told == ["submitted", "held", "evaluated", "let_go", "reserved", "launched"]
    assert all(known(f"event.{name}") for name in told)


def test_what_an_operator_holds_a_firm_does_not_let_go(platform: Platform) -> None:
    job = platform.submit("a", job_text())
    hold(platform, job)
    assert hold(platform, job, "operator") is None
    assert hold(platform, job, "firm") is None, "held is held"

    assert let_go(platform, job) == Refusal(code="JOB_HELD_BY_OPERATOR", facts={"job": job})
    assert let_go(platform, job, "operator") is None
    assert let_go(platform, job) is None


def test_only_a_waiting_job_is_held(platform: Platform) -> None:
    job = platform.submit("a", job_text())
    platform.loop.tick()

    assert hold(platform, job) == Refusal(code="JOB_NOT_WAITING", facts={"job": job, "state": "STARTING"})
    assert hold(platform, "job_none") == Refusal(code="JOB_UNKNOWN", facts={"job": "job_none"})


def test_a_hold_after_the_plan_was_made_still_holds(platform: Platform) -> None:
    """The commit looks again: a plan may be older than the hold."""
    job = platform.submit("a", job_text())
    old = planned(platform)
    hold(platform, job)
    assert isinstance(commit(platform, old), Conflict)
    assert platform.rows(leases) == []


def test_a_plan_that_comes_after_the_deadline_starts_nothing(platform: Platform) -> None:
    platform.submit("a", job_text(extra=deadline(platform, 10)))
    old = planned(platform)
    platform.clock.advance(10)
    assert isinstance(commit(platform, old), Conflict)
    assert platform.rows(leases) == []


def planned(platform: Platform) -> Plan:
    with platform.database.read() as tx:
        return plan(view.snapshot(tx, platform.clock.now(), platform.budget), platform.loop.policy)


def commit(platform: Platform, old: Plan) -> object:
    """The plan's first launch is reserved now."""
    with platform.database.write() as tx:
        now = platform.clock.now()
        lease = platform.loop.dispatch._lease(tx, old.launches[0], now)
        return store.reserve(tx, old.launches[0], lease, platform.budget, old.based_on, now)


# --- deadlines --------------------------------------------------------------------------------------------------------


def deadline(platform: Platform, seconds: float) -> str:
    return f"deadline: {(platform.clock.now() + timedelta(seconds=seconds)).isoformat()}\n"


def test_a_job_that_waits_past_its_deadline_ends(platform: Platform) -> None:
    job = platform.submit("a", job_text(accelerators="MLU590:8", extra=deadline(platform, 600)))
    platform.loop.tick()
    platform.clock.advance(599)
    platform.loop.tick()
    assert platform.state(job) == "PENDING"
    platform.clock.advance(1)
    platform.loop.tick()

    assert platform.state(job) == "DEADLINE"
    with platform.database.read() as tx:
        assert store.story(tx, job)[-1]["event"] == "deadline_passed"


def test_a_job_that_runs_past_its_deadline_is_stopped_and_billed_for_what_it_ran(platform: Platform) -> None:
    job = platform.submit("a", job_text(extra=deadline(platform, 1800)))
    platform.loop.tick()
    platform.loop.tick()
    platform.clock.advance(1799)
    platform.loop.tick()
    assert platform.backend.stops == []
    platform.clock.advance(1)
    platform.loop.tick()
    assert [stop[0] for stop in platform.backend.stops] == [f"{job}.1"]
    platform.backend.end(f"{job}.1", -15, cause=Cause.CANCELLED)
    platform.loop.tick()

    assert platform.state(job) == "DEADLINE"
    assert [(s["fee_fen"], s["final"]) for s in platform.rows(settlements)] == [(8000, 1)]
    assert [row["cause"] for row in platform.rows(leases)] == ["deadline"]


def test_a_job_that_ends_just_before_its_deadline_has_ended_by_itself(platform: Platform) -> None:
    job = platform.submit("a", job_text(extra=deadline(platform, 1800)))
    platform.loop.tick()
    platform.loop.tick()
    platform.clock.advance(1800)
    platform.loop.tick()
    platform.backend.end(f"{job}.1", 0)
    platform.loop.tick()
    assert platform.state(job) == "SUCCEEDED"


def test_a_lease_holds_its_devices_no_longer_than_the_deadline(platform: Platform) -> None:
    platform.submit("a", job_text(extra=deadline(platform, 1800)))
    platform.loop.tick()
    with platform.database.read() as tx:
        (lease,) = view.snapshot(tx, platform.clock.now(), platform.budget).leases
    assert lease.ends_by == platform.clock.now() + timedelta(seconds=1800)


def test_a_job_that_failed_a_node_and_misses_its_deadline_is_settled_for_good(platform: Platform) -> None:
    extra = "retry: {on_events: [node_fail], limit: 3}\n" + deadline(platform, 1800)
    job = platform.submit("a", job_text(extra=extra))
    platform.loop.tick()
    platform.loop.tick()
    with platform.database.write() as tx:
        for node in ("ascend-1", "ascend-2"):
            places.set_schedulable(tx, node, False, platform.clock.now())
    platform.clock.advance(900)
    platform.backend.lose(f"{job}.1")
    platform.loop.tick()
    assert platform.state(job) == "PENDING"
    platform.clock.advance(900)
    platform.loop.tick()

    assert platform.state(job) == "DEADLINE"
    assert [s["final"] for s in platform.rows(settlements)][-1] == 1


# --- elastic gangs and lost nodes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("least", "members"), [(1, 1), (2, None)])
def test_an_elastic_gang_starts_with_what_there_is_down_to_its_least(
    platform: Platform, least: int, members: int | None
) -> None:
    with platform.database.write() as tx:
        places.set_schedulable(tx, "ascend-1", False, platform.clock.now())
    job = platform.submit("a", job_text(nodes=2, extra=f"gang: {{min_nodes: {least}}}\n"))
    platform.loop.tick()

    if members is None:
        assert platform.state(job) == "PENDING"
        return
    assert platform.state(job) == "STARTING"
    assert len({row["node"] for row in platform.rows(lease_devices)}) == members
    assert [row["device_count"] for row in platform.rows(leases)] == [8 * members]
    platform.loop.tick()
    platform.clock.advance(3600)
    platform.backend.end(f"{job}.1", 0)
    platform.loop.tick()
    assert [s["fee_fen"] for s in platform.rows(settlements)] == [16_000], "billed for what it had"


def test_a_lost_node_is_named_where_the_gang_ends_and_where_it_recovers(platform: Platform) -> None:
    retry = "retry: {on_events: [node_fail], limit: 1}\n"
    for name, extra, state in (("a", "", "NODE_FAIL"), ("b", retry, "PENDING")):
        job = platform.submit(name, job_text(name, nodes=2, extra=extra))
        platform.loop.tick()
        platform.loop.tick()
        platform.backend.lose(f"{job}.1", rank=1)
        platform.loop.tick()
        platform.backend.end(f"{job}.1", -15, None, cause=Cause.CANCELLED)
        platform.loop.tick()
        with platform.database.read() as tx:
            told = store.story(tx, job)
        ends = [event for event in told if event["facts"].get("cause") == "node_fail" and "nodes" in event["facts"]]
        assert {tuple(event["facts"]["nodes"]) for event in ends} == {("ascend-2",)}
        assert state in [event["state_to"] for event in ends]
