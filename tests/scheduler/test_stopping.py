"""A lease that must stop: for its money, for another job, for a node; and the job that waits again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from metering import store as money
from metering.audit import audit
from metering.firm_budget import set_budget
from metering.schema import facts, holds, settlement_lines, settlements
from scheduler import dispatch as dispatch_module
from scheduler import planner, store, view
from scheduler.job import JobId
from scheduler.lease import Cause, LeaseId
from scheduler.plan import Plan, Preempt
from scheduler.refusal import Refusal
from scheduler.schema import jobs, lease_devices, leases, usage_records
from tests.fakes import NOON
from tests.platform import FIRM, Platform, job_text

CHECKPOINT = "checkpoint: {path: ck, interval: 15m, signal: SIGUSR1, grace: 30s}\n"
INTERVAL_ONLY = "checkpoint: {path: ck, interval: 15m}\n"
RETRY = "retry: {on_events: [node_fail], limit: 1}\n"
HOUR_FEN = 16_000  # eight Ascend910B3 at 20.00 yuan an hour; 40 % of it is the voucher's


def budget(platform: Platform, fen: int | None, **more: object) -> None:
    values = {"firm": FIRM, "start": NOON - timedelta(days=1), "end": None, "by": "op", **more}
    with platform.database.write() as tx:
        assert not isinstance(set_budget(tx, limit_fen=fen, now=platform.clock.now(), **values), Refusal)  # type: ignore[arg-type]


def running(platform: Platform, name: str = "a", extra: str = "", **more: object) -> str:
    job = platform.submit(name, job_text(name, extra=extra, **more))  # type: ignore[arg-type]
    platform.loop.tick()
    platform.loop.tick()
    assert platform.state(job) == "RUNNING"
    return job


def preempt(platform: Platform, lease: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next plan says so, and only this one."""

    def once(snapshot: object, policy: object) -> Plan:
        monkeypatch.undo()
        stop = Preempt(lease=LeaseId(lease), job=JobId(lease.rsplit(".", 1)[0]), code="PRIORITY", by=JobId("x"))
        return replace(planner.plan(snapshot, policy), preempts=(stop,))  # type: ignore[arg-type]

    monkeypatch.setattr(dispatch_module, "plan", once)
    platform.submit("waits", job_text("waits", accelerators="MLU590:8"))  # somebody must wait for a plan to be made
    platform.loop.tick()


def story(platform: Platform, job: str) -> list[str]:
    with platform.database.read() as tx:
        return [event["state_to"] for event in store.story(tx, job)]


def used(platform: Platform) -> list[tuple[str, int]]:
    """Kind and seconds of what was recorded."""
    return [(r["kind"], (r["end_ms"] - r["start_ms"]) // 1000) for r in platform.rows(usage_records)]


# --- money ------------------------------------------------------------------------------------------------------------


def test_a_spent_firm_budget_stops_what_runs_and_bills_it(platform: Platform, tmp_path: Path) -> None:
    """The budget is set to half an hour's net after the start; the grace is left to checkpoint in."""
    job = running(platform, extra=CHECKPOINT)
    budget(platform, HOUR_FEN * 6 // 10 // 2)
    platform.clock.advance(1769)
    platform.loop.tick()
    assert platform.backend.stops == []
    platform.clock.advance(1)
    platform.loop.tick()
    assert platform.backend.stops == [(f"{job}.1", 30_000, "SIGUSR1")]

    platform.clock.advance(30)
    platform.backend.end(f"{job}.1", 0, cause=Cause.CANCELLED)
    platform.loop.tick()
    assert platform.state(job) == "BUDGET_EXHAUSTED"
    assert [row["cause"] for row in platform.rows(leases)] == ["budget_exhausted"]
    assert [row["payable_fen"] for row in platform.rows(settlements)] == [HOUR_FEN * 6 // 10 // 2]
    report = audit(tmp_path / "yisuan.db")
    assert report.ok, [finding for finding in report.laws if not finding.ok]


def test_a_budget_that_the_time_limit_keeps_stops_nothing(platform: Platform) -> None:
    """Two hours, and exactly what they cost: a yes is never taken back."""
    budget(platform, 2 * HOUR_FEN * 6 // 10)
    running(platform)
    platform.clock.advance(7_199)
    platform.loop.tick()

    assert platform.backend.stops == []


def test_a_budget_counts_only_its_own_interval(platform: Platform) -> None:
    budget(platform, 1, start=NOON + timedelta(hours=2), end=NOON + timedelta(hours=3))
    running(platform)
    platform.clock.advance(3600)
    platform.loop.tick()

    assert platform.backend.stops == []


def test_nothing_starts_that_could_pass_the_firm_s_budget(platform: Platform) -> None:
    """Two jobs of 192.00 net at most each, 200.00 to spend: the first starts, the second waits until the limit is lifted."""
    budget(platform, 20_000)
    first, second = (platform.submit(name, job_text(name)) for name in ("a", "b"))
    platform.loop.tick()

    assert [platform.state(job) for job in (first, second)] == ["STARTING", "PENDING"]
    assert '"FIRM_BUDGET_TOO_LOW"' in platform.rows(jobs)[1]["pending"]
    budget(platform, None)
    platform.clock.advance(10)
    platform.loop.tick()
    assert platform.state(second) == "STARTING"


def test_what_is_settled_counts_against_the_budget(platform: Platform) -> None:
    first = running(platform, limit="1h")
    platform.clock.advance(3600)
    platform.backend.end(f"{first}.1", 0)
    budget(platform, HOUR_FEN * 6 // 10 + 9_599)
    platform.loop.tick()
    second = platform.submit("b", job_text("b", limit="1h"))
    platform.loop.tick()

    assert platform.state(second) == "PENDING"


def test_a_refused_job_leaves_its_devices_to_the_next(platform: Platform) -> None:
    """The refused one stands first and wants both nodes; another firm's job gets one in the same tick."""
    other = "91110302MA01A2B3D2"
    with platform.database.write() as tx:
        money.enrol_firm(tx, id=other, name="other", now=platform.clock.now())
    budget(platform, 0)
    first = platform.submit("a", job_text("a", nodes=2))
    second = platform.submit("b", job_text("b"), firm=other)
    platform.loop.tick()

    assert [platform.state(job) for job in (first, second)] == ["PENDING", "STARTING"]


def test_a_job_whose_voucher_is_withdrawn_is_stopped_at_its_own_limit(platform: Platform) -> None:
    """192.00 net allowed and two hours asked for: without the voucher they are spent after 72 minutes, less the grace."""
    job = running(platform, extra="money: {max_net_cost: 192 CNY}\n")
    platform.clock.advance(72 * 60 - 11)
    platform.loop.tick()
    assert platform.backend.stops == []
    withdraw(platform)
    platform.loop.tick()
    assert platform.backend.stops == []
    platform.clock.advance(1)
    platform.loop.tick()
    assert platform.backend.stops == [(f"{job}.1", 10_000, None)]


def withdraw(platform: Platform) -> None:
    seq = max(row["seq"] for row in platform.rows(facts) if row["subject"] == FIRM)
    with platform.database.write() as tx:
        money.record_fact(
            tx, subject_kind="firm", subject=FIRM, fact="eligible", start=NOON - timedelta(days=900), end=NOON,
            evidence={}, by="op", now=platform.clock.now(), withdraws=seq,
        )  # fmt: skip


# --- preemption -------------------------------------------------------------------------------------------------------


def test_a_preempted_job_checkpoints_waits_and_runs_again(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = running(platform, extra=CHECKPOINT)
    platform.clock.advance(3600)
    preempt(platform, f"{job}.1", monkeypatch)
    assert platform.backend.stops == [(f"{job}.1", 30_000, "SIGUSR1")]
    assert platform.state(job) == "COMPLETING"

    platform.clock.advance(20)
    platform.backend.end(f"{job}.1", 0, cause=Cause.CANCELLED)
    platform.beat()
    platform.loop.tick()
    platform.loop.tick()
    assert platform.backend.launches == [f"{job}.1", f"{job}.2"]
    assert story(platform, job) == [
        "SUBMITTED", "RESERVED", "STARTING", "RUNNING", "COMPLETING", "RECOVERING", "PENDING", "RESERVED", "STARTING",
        "RUNNING",
    ]  # fmt: skip
    assert [row["attempt"] for row in platform.rows(jobs) if row["id"] == job] == [2]
    assert [(s["final"], s["fee_fen"]) for s in platform.rows(settlements)] == [
        (0, 16_089)
    ]  # 3,620 s at 16,000 an hour
    assert {h["lease"] for h in platform.rows(holds) if h["state"] == "held"} == {f"{job}.2"}

    platform.clock.advance(3600)
    platform.backend.end(f"{job}.2", 0)
    platform.loop.tick()
    assert platform.state(job) == "SUCCEEDED"
    last = platform.rows(settlements)[-1]
    assert (last["final"], last["fee_fen"], last["deduction_fen"]) == (1, 32_089, 12_835)
    assert not [h for h in platform.rows(holds) if h["state"] == "held"]
    assert all(row["released"] for row in platform.rows(lease_devices))
    report = audit(tmp_path / "yisuan.db")
    assert report.ok, [finding for finding in report.laws if not finding.ok]


@pytest.mark.parametrize(
    ("extra", "code", "run_s", "lost_s"),
    [
        (CHECKPOINT, 0, 4_000, 0),
        (CHECKPOINT, -9, 3_600, 400),  # killed at the end of its grace: the last full quarter of an hour
        (INTERVAL_ONLY, -15, 3_600, 400),
        ("checkpoint: {path: ck}\n", -15, 0, 4_000),
        ("", -15, 0, 4_000),
    ],
)
def test_what_is_lost_since_the_last_checkpoint_is_not_billed(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, extra: str, code: int, run_s: int, lost_s: int
) -> None:
    job = running(platform, extra=extra)
    platform.clock.advance(4_000)
    preempt(platform, f"{job}.1", monkeypatch)
    platform.backend.end(f"{job}.1", code, cause=Cause.CANCELLED)
    platform.loop.tick()

    assert [(kind, s) for kind, s in used(platform) if s] == [
        (k, s) for k, s in (("run", run_s), ("lost", lost_s)) if s
    ]
    (settled,) = platform.rows(settlements)
    assert settled["fee_fen"] == (2 * HOUR_FEN * run_s + 3600) // 7200
    assert sum(line["device_ms"] for line in platform.rows(settlement_lines)) == 8 * 4_000_000


def test_a_midnight_settled_beyond_the_last_checkpoint_is_given_back(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve hours were settled at midnight, ten hours are the last checkpoint: two of the twelve and one more are lost."""
    job = running(platform, extra="checkpoint: {path: ck, interval: 10h}\n", limit="3d")
    platform.clock.advance(13 * 3600)
    platform.loop.tick()
    assert platform.rows(settlements)[-1]["fee_fen"] == 12 * HOUR_FEN
    preempt(platform, f"{job}.1", monkeypatch)
    platform.backend.end(f"{job}.1", -15, cause=Cause.CANCELLED)
    platform.loop.tick()

    assert used(platform) == [("run", 12 * 3600), ("lost", 0), ("lost", 3600)]
    assert platform.rows(settlements)[-1]["fee_fen"] == 10 * HOUR_FEN
    report = audit(tmp_path / "yisuan.db")
    assert report.ok, [finding for finding in report.laws if not finding.ok]


def test_a_lease_that_stops_already_is_shown_as_such_and_left_alone(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = running(platform)
    preempt(platform, f"{job}.1", monkeypatch)
    with platform.database.read() as tx:
        (lease,) = view.snapshot(tx, platform.clock.now(), platform.budget).leases
    assert lease.stopping
    before = story(platform, job)
    platform.loop.dispatch._preempt(Preempt(lease=LeaseId(f"{job}.1"), job=JobId(job), code="PRIORITY"))
    assert story(platform, job) == before


def test_a_preempted_job_that_is_cancelled_meanwhile_does_not_wait_again(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = running(platform)
    preempt(platform, f"{job}.1", monkeypatch)
    with platform.database.write() as tx:
        assert store.request_cancel(tx, JobId(job), platform.clock.now()) is None
    platform.backend.end(f"{job}.1", -15, cause=Cause.CANCELLED)
    platform.loop.tick()

    assert platform.state(job) == "CANCELLED"
    assert [s["final"] for s in platform.rows(settlements)] == [1]


# --- nodes ------------------------------------------------------------------------------------------------------------


def test_a_failed_node_is_retried_as_often_as_the_job_says(platform: Platform, tmp_path: Path) -> None:
    job = running(platform, extra=RETRY)
    platform.clock.advance(600)
    platform.backend.lose(f"{job}.1")
    platform.beat()
    platform.loop.tick()
    platform.loop.tick()
    assert platform.state(job) == "RUNNING"
    platform.clock.advance(600)
    platform.backend.lose(f"{job}.2")
    platform.loop.tick()

    assert platform.state(job) == "NODE_FAIL"
    assert [(s["fee_fen"], s["final"]) for s in platform.rows(settlements)] == [(0, 0), (0, 1)]
    assert not [h for h in platform.rows(holds) if h["state"] == "held"]
    report = audit(tmp_path / "yisuan.db")
    assert report.ok, [finding for finding in report.laws if not finding.ok]


def test_a_preemption_uses_up_no_retry(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    job = running(platform, extra=RETRY)
    preempt(platform, f"{job}.1", monkeypatch)
    platform.backend.end(f"{job}.1", -15, cause=Cause.CANCELLED)
    platform.loop.tick()
    platform.backend.lose(f"{job}.2")
    platform.loop.tick()
    platform.loop.tick()

    assert platform.state(job) == "RUNNING"
    assert platform.backend.launches[-1] == f"{job}.3"
