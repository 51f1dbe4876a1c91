"""A job's report in a file of its own: read while it runs, and nothing it could put there instead does harm."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler import loop as loop_module
from scheduler import progress
from scheduler.backends.local import REPORT_MAX, _said
from scheduler.lease import STEPS_MAX, LeaseId, Observation, Report, report_of
from scheduler.schema import job_progress
from tests.platform import Platform, job_text
from tests.scheduler.test_local_backend import Host, host, lease_of

__all__ = ["host"]
VALUES = st.none() | st.booleans() | st.integers(-5, 20) | st.floats() | st.text(max_size=3) | st.just(STEPS_MAX + 1)


def test_a_real_job_reports_by_writing_a_file(host: Host) -> None:
    script = """echo '{"steps": 3, "total_steps": 9}' > $YISUAN_PROGRESS.new; mv $YISUAN_PROGRESS.new $YISUAN_PROGRESS; sleep 60"""
    lease = lease_of(script)
    host.launch(lease)
    seen = host.until(lease, lambda seen: seen.report is not None)
    assert seen.report == Report(steps=3, total_steps=9)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        lambda path: path.write_text(""),
        lambda path: path.write_text('{"steps": 1'),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_text("[" * 2000),
        lambda path: path.write_text(json.dumps({"steps": 1}) + " " * REPORT_MAX),
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: (path.with_suffix(".real").write_text('{"steps": 1}'), path.symlink_to(path.with_suffix(".real"))),
    ],
    ids=["nothing", "empty", "half", "no text", "deep", "large", "folder", "pipe", "link"],
)
def test_what_is_no_small_file_of_json_says_nothing(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    path = tmp_path / "progress.json"
    make(path)
    assert _said(path) is None


@given(body=st.dictionaries(st.sampled_from(["steps", "total_steps", "checkpointed_steps", "more"]), VALUES) | VALUES)
def test_only_a_report_that_can_be_true_is_one(body: Any) -> None:
    found = report_of(body)
    if found is None:
        return
    assert set(body) <= {"steps", "total_steps", "checkpointed_steps"}
    assert all(type(value) is int or value is None for value in body.values())
    assert 0 <= (found.checkpointed_steps or 0) <= found.steps <= STEPS_MAX
    assert found.total_steps is None or 0 < found.total_steps >= found.steps


@given(steps=st.integers(0, STEPS_MAX), more=st.none() | st.integers(1, 9), saved=st.none() | st.integers(0, 9))
def test_every_true_report_is_read(steps: int, more: int | None, saved: int | None) -> None:
    wanted = Report(
        steps=steps,
        total_steps=None if more is None else min(STEPS_MAX, steps + more) or None,
        checkpointed_steps=None if saved is None else max(0, steps - saved),
    )
    body = {k: getattr(wanted, k) for k in ("steps", "total_steps", "checkpointed_steps")}
    assert report_of(json.loads(json.dumps(body))) == wanted


# --- the loop ---------------------------------------------------------------------------------------------------------


def says(platform: Platform, monkeypatch: pytest.MonkeyPatch, said: Report) -> None:
    """The backend sees this report of every lease."""
    observe = platform.backend.observe

    def heard(leases: list[LeaseId]) -> tuple[Observation, ...]:
        return tuple(Observation(lease=one.lease, members=one.members, report=said) for one in observe(leases))

    monkeypatch.setattr(platform.backend, "observe", heard)


def test_the_loop_stores_a_report_once(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    job = platform.submit("a", job_text(extra="workload: sft\n"))
    platform.loop.tick()
    platform.loop.tick()
    stored: list[str] = []
    real = progress.report

    def counted(tx: Any, job: Any, **values: Any) -> Any:
        stored.append(job)
        return real(tx, job, **values)

    monkeypatch.setattr(loop_module, "report", counted)
    says(platform, monkeypatch, Report(steps=7, total_steps=9))
    for _ in range(3):
        platform.loop.tick()
    assert stored == [job]
    assert [(row["steps"], row["total_steps"]) for row in platform.rows(job_progress)] == [(7, 9)]


@pytest.mark.parametrize("said", [Report(steps=6), Report(steps=10), Report(steps=8, total_steps=7)])
def test_a_report_that_cannot_be_true_is_left_out_and_the_job_runs_on(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, said: Report
) -> None:
    job = platform.submit("a", job_text())
    platform.loop.tick()
    platform.loop.tick()
    says(platform, monkeypatch, Report(steps=7, total_steps=9))
    platform.loop.tick()
    monkeypatch.undo()
    says(platform, monkeypatch, said)
    monkeypatch.setattr(loop_module, "report", None)  # nor does every tick try to store it
    platform.loop.tick()
    monkeypatch.undo()
    assert [row["steps"] for row in platform.rows(job_progress)] == [7]
    assert platform.state(job) == "RUNNING"
