"""Leases of one rank on a real head: launching once, stopping, ends, logs, and what the job sees."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.backends.ray_head import Head, HeadAway
from scheduler.job import Checkpoint, Request
from scheduler.lease import Cause, LeaseId, MemberPhase, Report
from scheduler.refusal import Refusal
from tests.ray.cluster import Cluster
from tests.ray.leases import MODEL, backend_of, gone, lease_of, over, running, until

ABSENT, EXITED, LOST = MemberPhase.ABSENT, MemberPhase.EXITED, MemberPhase.LOST


def test_a_job_sees_its_rank_its_devices_and_nothing_of_ours(ray_cluster: Cluster, tmp_path: Path) -> None:
    backend = backend_of(ray_cluster, tmp_path)
    job = lease_of("see", "env; pwd; ls -A", devices=2, visibility={0: {"OURS": "0,1"}})
    backend.launch(job)
    until(backend, job.id, over)
    lines = backend.logs(job.id, 0, offset=0, limit=100_000).decode().splitlines()
    found = dict(line.split("=", 1) for line in lines if "=" in line)

    told = {key: found[key] for key in ("RANK", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK", "YISUAN_DEVICES", "OURS")}
    assert told == {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "NODE_RANK": "0",
        "LOCAL_RANK": "0",
        "YISUAN_DEVICES": "2",
        "OURS": "0,1",
    }
    assert found["MASTER_ADDR"] == ray_cluster.address_of("n1")
    assert len(found["ASCEND_RT_VISIBLE_DEVICES"].split(",")) == 2  # what Ray assigned
    assert found["HOME"] == str(tmp_path / "work" / "see")
    assert not [name for name in found if name.startswith(("RAY_", "PYTHON"))]
    assert lines[-2:] == [found["HOME"], "tmp"]


def test_a_submission_that_nobody_answered_is_made_once(
    ray_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backend_of(ray_cluster, tmp_path)
    job = lease_of("once", "echo once")
    real = Head.submit

    def unanswered(self: Head, *given: str) -> None:
        real(self, *given)  # type: ignore[arg-type]
        raise HeadAway("timed out")

    monkeypatch.setattr(Head, "submit", unanswered)
    with pytest.raises(ConnectionError):
        backend.launch(job)
    monkeypatch.setattr(Head, "submit", real)
    assert backend_of(ray_cluster, tmp_path).launch(job) is None
    until(backend, job.id, over)

    assert backend.logs(job.id, 0, offset=0, limit=100) == b"once\n"


def test_a_submission_that_never_arrived_is_made_again(
    ray_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backend_of(ray_cluster, tmp_path)
    job = lease_of("again", "echo again")

    def lost(*_: object) -> None:
        raise HeadAway("no route")

    with monkeypatch.context() as patch:
        patch.setattr(Head, "submit", lost)
        with pytest.raises(ConnectionError):
            backend.launch(job)
    (seen,) = backend.observe([job.id])
    backend.launch(job)

    assert [m.phase for m in seen.members] == [ABSENT]
    assert until(backend, job.id, over).members[0].exit_code == 0


def test_the_head_takes_a_submission_id_once(ray_cluster: Cluster, tmp_path: Path) -> None:
    head = Head(ray_cluster.address)
    uri = head.put("yisuan-test-empty.zip", _empty_zip())
    name = f"twice-{tmp_path.name}"
    head.submit(name, "echo said", uri, {})
    head.submit(name, "echo said otherwise", uri, {})

    assert head.job(name) is not None
    assert (head.job(name) or {})["entrypoint"] == "echo said"


def test_a_job_that_saves_on_a_signal_ends_as_it_chose(ray_cluster: Cluster, tmp_path: Path) -> None:
    backend = backend_of(ray_cluster, tmp_path)
    job = lease_of("saves", "trap 'echo saved; exit 5' USR1; while :; do sleep 0.1; done")
    backend.launch(job)
    until(backend, job.id, running)
    backend.stop(job.id, grace_ms=20_000, signal="SIGUSR1")
    backend.stop(job.id, grace_ms=0, signal="SIGKILL")  # the first request stands
    (member,) = until(backend, job.id, over).members

    assert (member.phase, member.exit_code, member.cause) == (EXITED, 5, Cause.CANCELLED)
    assert backend.logs(job.id, 0, offset=0, limit=100).endswith(b"saved\n")


def test_a_job_that_ignores_the_signal_is_killed_after_its_grace(ray_cluster: Cluster, tmp_path: Path) -> None:
    backend = backend_of(ray_cluster, tmp_path)
    job = lease_of("stays", f"trap '' TERM; : {tmp_path.name}; while :; do sleep 0.1; done")
    backend.launch(job)
    until(backend, job.id, running)
    backend.stop(job.id, grace_ms=300, signal=None)
    (member,) = until(backend, job.id, over).members

    assert (member.exit_code, member.cause) == (-9, Cause.CANCELLED)
    assert gone(f": {tmp_path.name};")


def test_what_was_stopped_before_its_launch_never_runs(ray_cluster: Cluster, tmp_path: Path) -> None:
    backend = backend_of(ray_cluster, tmp_path)
    job = lease_of("never", "echo ran")
    backend.stop(job.id, grace_ms=0, signal=None)
    (before,) = backend.observe([job.id])
    assert backend_of(ray_cluster, tmp_path).launch(job) is None
    (after,) = backend.observe([job.id])

    assert [m.phase for m in before.members] == [ABSENT]
    assert [(m.phase, m.cause, m.exit_code) for m in after.members] == [(EXITED, Cause.CANCELLED, None)]
    assert not [name for name in backend.head.jobs()[0] if name.endswith("never.1")]


def test_a_stop_that_overtakes_the_driver_keeps_the_job_from_running(ray_cluster: Cluster, tmp_path: Path) -> None:
    backend = backend_of(ray_cluster, tmp_path)
    job = lease_of("overtaken", "echo ran")
    backend.launch(job)
    backend.stop(job.id, grace_ms=0, signal=None)
    (member,) = until(backend, job.id, over).members

    assert (member.cause, member.started_ms) == (Cause.CANCELLED, None)
    assert backend.logs(job.id, 0, offset=0, limit=100) == b""


def test_the_time_limit_ends_a_job_with_its_own_signal(ray_cluster: Cluster, tmp_path: Path) -> None:
    backend = backend_of(ray_cluster, tmp_path)
    checkpoint = Checkpoint(path="c", signal="SIGUSR2", grace_ms=20_000)
    job = lease_of("limit", "trap 'exit 4' USR2; while :; do sleep 0.1; done", limit_ms=700, checkpoint=checkpoint)
    backend.launch(job)
    (member,) = until(backend, job.id, over).members

    assert (member.exit_code, member.cause) == (4, Cause.TIME_LIMIT)
    assert member.started_ms is not None
    assert member.ended_ms is not None
    assert member.ended_ms - member.started_ms >= 700


def test_a_failing_setup_is_said_and_the_command_is_not_run(ray_cluster: Cluster, tmp_path: Path) -> None:
    backend = backend_of(ray_cluster, tmp_path)
    job = lease_of("setup", "echo ran", setup="exit 9")
    backend.launch(job)
    (member,) = until(backend, job.id, over).members

    assert (member.exit_code, member.started_ms, member.detail) == (9, None, "setup failed with exit code 9")


def test_what_a_job_reports_of_itself_is_observed(ray_cluster: Cluster, tmp_path: Path) -> None:
    backend = backend_of(ray_cluster, tmp_path)
    body = json.dumps({"steps": 3, "total_steps": 9})
    job = lease_of("report", f"echo '{body}' > $YISUAN_PROGRESS; while :; do sleep 0.1; done")
    backend.launch(job)
    seen = until(backend, job.id, lambda s: s.report is not None)
    backend.stop(job.id, grace_ms=0, signal=None)

    assert seen.report == Report(steps=3, total_steps=9)
    assert until(backend, job.id, over).report is None


def test_devices_that_others_hold_are_not_waited_for_for_ever(ray_cluster: Cluster, tmp_path: Path) -> None:
    backend = backend_of(ray_cluster, tmp_path, start_timeout_ms=4000)
    (tmp_path / "o").mkdir()
    other = backend_of(ray_cluster, tmp_path / "o", owner=f"o{tmp_path.name}")
    holder, late = lease_of("holder", "sleep 600", devices=3), lease_of("late", "echo ran", devices=2)
    other.launch(holder)
    until(other, holder.id, running)
    end = time.monotonic() + 30  # Ray's own figures follow every few seconds
    while (left := backend.nodes()[0].devices) != 1 and time.monotonic() < end:
        time.sleep(0.5)
    (whole,) = other.nodes()
    backend.launch(late)
    (member,) = until(backend, late.id, over).members
    other.stop(holder.id, grace_ms=0, signal=None)
    until(other, holder.id, over)

    assert (left, whole.devices) == (1, 4)  # a platform plans over what its own leases hold, not over what others do
    assert (member.phase, member.cause) == (LOST, Cause.LAUNCH_FAILED)
    assert "did not grant" in (member.detail or "")


def test_another_directory_of_records_finds_the_job_at_the_head(ray_cluster: Cluster, tmp_path: Path) -> None:
    backend = backend_of(ray_cluster, tmp_path)
    job = lease_of("adopted", "sleep 600")
    backend.launch(job)
    seen = until(backend, job.id, running)
    (tmp_path / "new").mkdir()
    another = backend_of(ray_cluster, tmp_path / "new", owner=backend.owner)
    (found,) = another.observe([job.id])
    another.stop(job.id, grace_ms=0, signal=None)

    assert replace(found, now_ms=None) == replace(seen, now_ms=None)
    assert until(another, job.id, over).members == until(backend, job.id, over).members


def test_a_lease_that_is_forgotten_leaves_nothing_but_its_end_and_its_log(
    ray_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backend_of(ray_cluster, tmp_path)
    job = lease_of("leaves", f"echo kept; : {tmp_path.name}; sleep 600 & setsid sleep 601 & wait")
    packages = []
    put = backend.head.put
    monkeypatch.setattr(backend.head, "put", lambda name, content: packages.append(name) or put(name, content))
    backend.launch(job)
    until(backend, job.id, running)
    backend.stop(job.id, grace_ms=0, signal=None)
    ended = until(backend, job.id, over)
    backend.forget(job.id)
    end = time.monotonic() + 30
    while any(job.id in name for name in backend.head.jobs()[0]) and time.monotonic() < end:
        backend.nodes()
        time.sleep(0.5)

    assert not any(job.id in name for name in backend.head.jobs()[0])
    time.sleep(23)  # Ray lets go of a package some time after its last use; cluster.py makes that 20 s
    assert not any(ray_cluster.holds(package) for package in packages)
    assert gone(f": {tmp_path.name};")
    assert len(packages) == 2
    assert gone(backend.owner)
    assert not list((ray_cluster.folder / "ray" / "session_latest" / "yisuan").glob(f"{backend.owner}*"))
    away = backend_of(ray_cluster, tmp_path)
    away.head = Head("http://127.0.0.1:9")
    assert replace(away.observe([job.id])[0], now_ms=None) == replace(ended, now_ms=None)
    assert away.logs(job.id, 0, offset=0, limit=100) == b"kept\n"
    assert away.logs(job.id, 0, offset=2, limit=2) == b"pt"


def test_what_cannot_be_done_is_refused_and_a_lost_node_is_lost(ray_cluster: Cluster, tmp_path: Path) -> None:
    backend = backend_of(ray_cluster, tmp_path)
    share = Request(alternatives=(), share_cores_permille=500)
    gone_node = lease_of("nowhere", "true", nodes=("n1", "n9"))

    assert backend.launch(replace(lease_of("x", "true"), id=LeaseId("../x"))) == Refusal(
        code="BAD_LEASE_NAME", facts={"lease": "../x", "job": "x"}
    )
    assert backend.launch(lease_of("half", "true", request=share)) == Refusal(
        code="SHARE_NOT_SUPPORTED", facts={"backend": "ray"}
    )
    assert backend.launch(lease_of("other", "true", model="H100")) == Refusal(
        code="NO_SUCH_DEVICES", facts={"node": "n1", "model": "H100", "has": MODEL}
    )
    assert backend.launch(gone_node) is None
    (seen,) = backend.observe([gone_node.id])
    assert [(m.phase, m.cause) for m in seen.members] == [(EXITED, Cause.CANCELLED), (LOST, None)]


def test_while_the_head_is_away_nothing_is_known(tmp_path: Path) -> None:
    backend = backend_of(_NoCluster(), tmp_path)  # type: ignore[arg-type]
    job = lease_of("away", "true")

    for ask in (lambda: backend.launch(job), lambda: backend.observe([job.id]), backend.nodes):
        with pytest.raises(ConnectionError):
            ask()
    with pytest.raises(ConnectionError):  # whether it was ever submitted is not known here
        backend.stop(job.id, grace_ms=0, signal=None)


class _NoCluster:
    address = "http://127.0.0.1:9"


def _empty_zip() -> bytes:
    return b"PK\x05\x06" + bytes(18)
