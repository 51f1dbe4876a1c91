"""The loop: every step once, whatever is repeated and wherever it is cut."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from metering.audit import audit
from metering.schema import accounts, holds, settlement_lines, settlements
from scheduler import store, view
from scheduler.job import JobId
from scheduler.lease import Cause
from scheduler.planner import plan
from scheduler.refusal import Refusal
from scheduler.schema import job_events, lease_devices, leases, nodes, usage_records
from scheduler.store import Conflict
from tests.fakes import NOON
from tests.platform import FIRM, Platform, job_text


def run_one(platform: Platform, seconds: float = 3600, code: int = 0) -> str:
    job = platform.submit("a", job_text())
    platform.loop.tick()
    platform.loop.tick()
    platform.clock.advance(seconds)
    platform.backend.end(f"{job}.1", code)
    platform.loop.tick()
    return job


def test_a_job_goes_from_submit_to_settled_and_frees_its_devices(platform: Platform) -> None:
    """An hour on eight Ascend910B3 at 20.00: fee 160.00, 40 % off."""
    job = run_one(platform)

    assert platform.state(job) == "SUCCEEDED"
    (line,) = platform.rows(settlement_lines)
    assert (line["fee_fen"], line["rate_bp"], line["deduction_fen"], line["payable_fen"]) == (16000, 4000, 6400, 9600)
    assert all(row["released"] == 1 for row in platform.rows(lease_devices))
    assert ["voided" if h["amount_fen"] == 0 else "posted" for h in platform.rows(holds)] == [
        h["state"] for h in platform.rows(holds)
    ]


def test_the_story_names_every_state_in_order(platform: Platform) -> None:
    job = run_one(platform)

    with platform.database.read() as tx:
        told = [event["state_to"] for event in store.story(tx, job)]
    assert told == ["SUBMITTED", "RESERVED", "STARTING", "RUNNING", "SUCCEEDED"]


def test_a_failed_job_is_still_metered(platform: Platform) -> None:
    job = run_one(platform, code=3)

    assert platform.state(job) == "FAILED"
    assert [row["fee_fen"] for row in platform.rows(settlements)] == [16000]


def test_ticking_after_the_end_changes_nothing(platform: Platform) -> None:
    run_one(platform)
    before = [platform.rows(t) for t in (job_events, usage_records, settlements, leases)]

    for _ in range(3):
        platform.loop.tick()

    assert before == [platform.rows(t) for t in (job_events, usage_records, settlements, leases)]


def test_a_lost_member_ends_the_gang_at_price_zero(platform: Platform) -> None:
    """The platform's own loss is recorded with its cause and billed at nothing."""
    job = platform.submit("a", job_text(nodes=2))
    platform.loop.tick()
    platform.clock.advance(600)
    platform.backend.lose(f"{job}.1", rank=1)
    platform.loop.tick()

    assert [f"{job}.1"] == [stop[0] for stop in platform.backend.stops]
    platform.backend.end(f"{job}.1", 143, None, cause=Cause.CANCELLED)
    platform.loop.tick()
    assert platform.state(job) == "NODE_FAIL"
    assert [(r["kind"], r["cause"], r["price_fen_per_device_hour"]) for r in platform.rows(usage_records)] == [
        ("lost", "node_fail", 0)
    ]
    assert [row["fee_fen"] for row in platform.rows(settlements)] == [0]


def test_one_failed_member_stops_the_others_and_gives_its_code(platform: Platform) -> None:
    job = platform.submit("a", job_text(nodes=2))
    platform.loop.tick()
    platform.backend.end(f"{job}.1", 7)
    platform.loop.tick()
    assert platform.backend.stops, "the other member is told to stop"

    platform.backend.end(f"{job}.1", None, -15, cause=Cause.CANCELLED)
    platform.loop.tick()
    assert platform.state(job) == "FAILED"
    assert [row["exit_code"] for row in platform.rows(leases)] == [7]


def test_a_cancelled_job_is_stopped_and_billed_for_what_it_ran(platform: Platform) -> None:
    job = platform.submit("a", job_text(extra="checkpoint: {path: ck, signal: SIGUSR1, grace: 30s}\n"))
    platform.loop.tick()
    platform.clock.advance(1800)
    with platform.database.write() as tx:
        assert store.request_cancel(tx, JobId(job), platform.clock.now()) is None
    platform.loop.tick()
    assert [(f"{job}.1", 30_000, "SIGUSR1")] == platform.backend.stops

    platform.backend.end(f"{job}.1", -15, cause=Cause.CANCELLED)
    platform.loop.tick()
    assert platform.state(job) == "CANCELLED"
    assert [row["fee_fen"] for row in platform.rows(settlements)] == [8000]


def test_cancelling_twice_is_harmless_and_an_ended_job_refuses(platform: Platform) -> None:
    job = run_one(platform)
    with platform.database.write() as tx:
        refusal = store.request_cancel(tx, JobId(job), platform.clock.now())
    assert isinstance(refusal, Refusal)
    assert refusal.code == "JOB_ENDED"

    waiting = platform.submit("w", job_text(accelerators="MLU590:8"))
    with platform.database.write() as tx:
        assert store.request_cancel(tx, JobId(waiting), platform.clock.now()) is None
        assert store.request_cancel(tx, JobId(waiting), platform.clock.now()) is None
    assert platform.state(waiting) == "CANCELLED"


def test_a_crash_between_reserve_and_launch_is_repaired_by_the_next_tick(platform: Platform) -> None:
    job = platform.submit("a", job_text())
    launch = platform.backend.launch
    platform.backend.launch = lambda lease: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        platform.loop.tick()
    assert platform.state(job) == "RESERVED"

    platform.backend.launch = launch  # type: ignore[method-assign]
    platform.loop.tick()
    platform.loop.tick()
    assert platform.state(job) == "RUNNING"
    assert [f"{job}.1"] == platform.backend.launches


def test_a_launch_that_can_never_work_rejects_the_job_and_frees_everything(platform: Platform) -> None:
    platform.backend.refuse = Refusal(code="CONFINEMENT_UNAVAILABLE", facts={"tried": []})
    job = platform.submit("a", job_text())
    platform.loop.tick()

    assert platform.state(job) == "REJECTED"
    assert all(row["released"] == 1 for row in platform.rows(lease_devices))
    assert {"voided"} == {row["state"] for row in platform.rows(holds)}


def test_a_plan_made_before_the_devices_were_taken_is_a_conflict(platform: Platform) -> None:
    """Two plans from one snapshot both want node ascend-1; the second commit takes nothing."""
    first = platform.submit("a", job_text())
    with platform.database.read() as tx:
        old = view.snapshot(tx, platform.clock.now(), platform.budget)
    stale = plan(old, platform.loop.policy)
    platform.loop.tick()
    second = platform.submit("b", job_text())
    with platform.database.read() as tx:
        newer = view.snapshot(tx, platform.clock.now(), platform.budget)
    forged = plan(newer, platform.loop.policy).launches[0]
    taken = stale.launches[0].placement
    from dataclasses import replace

    forged = replace(forged, placement=taken)
    with platform.database.write() as tx:
        lease = platform.loop.dispatch._lease(tx, forged, platform.clock.now())
        outcome = store.reserve(tx, forged, lease, platform.budget, stale.based_on, platform.clock.now())

    assert isinstance(outcome, Conflict)
    assert platform.state(first) == "STARTING"
    assert platform.state(second) == "SUBMITTED"
    assert len(platform.rows(leases)) == 1


def test_a_refused_hold_takes_no_device(platform: Platform) -> None:
    job = platform.submit("a", job_text(extra="money: {max_net_cost: 1 CNY}\n"))
    platform.loop.tick()

    assert platform.state(job) == "PENDING"
    assert platform.rows(lease_devices) == []


def test_a_silent_node_takes_no_new_lease(platform: Platform) -> None:
    with platform.database.write() as tx:
        tx.execute(update(nodes).values(heartbeat_at_ms=0))
    job = platform.submit("a", job_text())
    platform.loop.tick()

    assert platform.state(job) == "PENDING"


def test_a_host_clock_set_back_during_the_job_changes_no_bill(platform: Platform) -> None:
    """Length is monotonic; the calendar is the start's wall time."""
    job = platform.submit("a", job_text())
    platform.loop.tick()
    platform.clock.advance(3600)
    platform.clock.wall -= timedelta(minutes=50)
    platform.backend.end(f"{job}.1", 0)
    platform.loop.tick()

    (line,) = platform.rows(settlement_lines)
    assert line["device_ms"] == 8 * 3_600_000


def test_interim_settlement_at_local_midnight_adds_up_to_the_whole(platform: Platform) -> None:
    """Noon to 02:00 two days later: two midnights, three settlements, one final line."""
    job = platform.submit("a", job_text(limit="3d"))
    platform.loop.tick()
    platform.clock.advance(24 * 3600)
    platform.loop.tick()
    platform.clock.advance(14 * 3600)
    platform.loop.tick()
    platform.backend.end(f"{job}.1", 0)
    platform.loop.tick()

    records = [r for r in platform.rows(usage_records) if r["kind"] == "run"]
    midnights = [NOON + timedelta(hours=12), NOON + timedelta(hours=36)]
    from scheduler.clock import to_ms

    assert [to_ms(m) for m in midnights] == [r["end_ms"] for r in records[:2]]
    last = platform.rows(settlements)[-1]
    assert (last["fee_fen"], last["deduction_fen"], last["final"]) == (38 * 16000, 38 * 6400, 1)
    assert sum(1 for line in platform.rows(settlement_lines) if line["settlement"] == last["id"]) == 1
    assert not [h for h in platform.rows(holds) if h["state"] == "held"]


def test_what_the_platform_loses_after_a_midnight_is_given_back_whole(platform: Platform, tmp_path: Path) -> None:
    """The first day was settled and posted; the node is lost on the second: everything posted moves back, and is audited."""
    job = platform.submit("a", job_text(limit="3d"))
    platform.loop.tick()
    platform.clock.advance(24 * 3600)
    platform.loop.tick()
    assert platform.rows(settlements)[-1]["fee_fen"] == 12 * 16000
    platform.backend.lose(f"{job}.1")
    platform.loop.tick()

    last = platform.rows(settlements)[-1]
    assert tuple(last[k] for k in ("fee_fen", "deduction_fen", "payable_fen", "final")) == (0, 0, 0, 1)
    accounts_now = {row["id"]: row for row in platform.rows(accounts)}
    room = accounts_now[f"room:{FIRM}:compute_voucher:2026"]
    assert room["credits_posted"] - room["debits_posted"] - room["debits_pending"] == 2_000_000_000
    payable = accounts_now[f"firm:{FIRM}:payable"]
    assert payable["debits_posted"] == payable["credits_posted"]
    assert platform.state(job) == "NODE_FAIL"
    report = audit(tmp_path / "yisuan.db")
    assert report.ok, [finding for finding in report.laws if not finding.ok]


def test_the_audit_holds_while_jobs_run_and_wait(platform: Platform, tmp_path: Path) -> None:
    """Pending holds, interim settlements and waiting jobs are ordinary states, not findings."""
    for name in ("a", "b", "c"):
        platform.submit(name, job_text(name, limit="3d"))
    platform.loop.tick()
    platform.loop.tick()
    platform.clock.advance(13 * 3600)
    platform.loop.tick()

    report = audit(tmp_path / "yisuan.db")
    assert report.ok, [finding for finding in report.laws if not finding.ok]
    assert sum(1 for row in platform.rows(holds) if row["state"] == "held") == 2


def test_an_engine_that_is_away_is_told_in_a_line_and_asked_again(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = platform.submit("a", job_text())
    platform.loop.tick()

    def away(*_: object) -> None:
        raise ConnectionError("head: no route")

    with monkeypatch.context() as patched, capture_logs() as said:
        patched.setattr(platform.backend, "observe", away)
        platform.loop.tick()
    told = [(line["event"], line["log_level"], line.get("problem"), "exc_info" in line) for line in said]
    assert told == [("engine_away", "warning", "head: no route", False)]
    assert platform.state(job) == "STARTING"
    platform.loop.tick()
    assert platform.state(job) == "RUNNING"
