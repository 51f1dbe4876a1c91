"""The local backend with real processes: what it promises beyond the port's contract."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from adapters.assignment import read_assignments
from adapters.catalog import load_catalog
from scheduler.backends import local
from scheduler.backends.local import LocalBackend
from scheduler.job import Checkpoint, FirmId, JobId, JobSpec, Request, Variant
from scheduler.lease import Cause, Lease, LeaseId, Member, MemberPhase, Observation, Placement
from scheduler.node import NodeId, PoolId
from scheduler.refusal import Refusal
from tests.scheduler.test_shim import alive, wait_until

CHIP = next(iter(load_catalog()))
REPOSITORY = Path(__file__).parents[2]


def lease_of(run: str | None, *, job: str = "job_a", attempt: int = 1, ranks: int = 1, **spec: Any) -> Lease:
    members = tuple(Member(rank=r, node=NodeId("n1"), devices=(f"dev{r}a", f"dev{r}b")) for r in range(ranks))
    wanted: dict[str, Any] = {"time_limit_ms": 60_000, "entrypoint": run} | spec
    return Lease(
        id=LeaseId(f"{job}.{attempt}"),
        job=JobId(job),
        firm=FirmId("first"),
        spec=JobSpec(name=job, request=Request(alternatives=()), nodes=ranks, **wanted),
        placement=Placement(pool=PoolId("p1"), model=CHIP.model, members=members),
        backend="local",
        price_fen_per_device_hour=0,
        reserved_at=datetime(2026, 1, 1, tzinfo=UTC),
        visibility={r: {"SEEN_DEVICES": f"{r}a,{r}b"} for r in range(ranks)},
    )


class Host:
    """A data directory with a local backend in it, and every lease it was given, to be ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backend = self.another()
        self.leases: list[LeaseId] = []

    def another(self, **options: Any) -> LocalBackend:
        return LocalBackend(
            self.folder / "local", private=(self.folder,), assignments=self.folder / "assignments", **options
        )

    def launch(self, lease: Lease) -> None:
        self.leases.append(lease.id)
        assert self.backend.launch(lease) is None

    def seen(self, lease: Lease) -> Observation:
        (seen,) = self.backend.observe([lease.id])
        return seen

    def until(self, lease: Lease, holds: Callable[[Observation], bool]) -> Observation:
        wait_until(lambda: holds(self.seen(lease)), seconds=15)
        return self.seen(lease)

    def run(self, lease: Lease) -> Observation:
        self.launch(lease)
        return self.until(lease, lambda seen: seen.all_ended)

    def log(self, lease: Lease, rank: int = 0) -> str:
        return self.backend.logs(lease.id, rank, offset=0, limit=100_000).decode()

    def member(self, lease: Lease, rank: int = 0) -> Path:
        return self.folder / "local" / "leases" / lease.id / str(rank)


@pytest.fixture
def host() -> Iterator[Host]:
    folder = Path(tempfile.mkdtemp(prefix="yisuan-"))
    folder.chmod(0o755)  # pytest's own is closed to other users, and a job may be one
    made = Host(folder)
    yield made
    for lease in made.leases:
        made.backend.stop(lease, grace_ms=0, signal=None)
        wait_until(lambda lease=lease: made.backend.observe([lease])[0].all_ended)  # type: ignore[misc]
    wait_until(lambda: not alive(f"{folder}/"))  # the last shims' last line
    shutil.rmtree(folder)


def running(seen: Observation) -> bool:
    return all(m.phase is MemberPhase.RUNNING for m in seen.members)


def test_each_member_of_a_gang_knows_its_rank_its_peers_and_its_devices(host: Host) -> None:
    gang = lease_of("echo $RANK $WORLD_SIZE $MASTER_ADDR:$MASTER_PORT $SEEN_DEVICES $YISUAN_DEVICES", ranks=3)
    seen = host.run(gang)

    lines = [host.log(gang, rank).split() for rank in range(3)]
    port = int(lines[0][2].rpartition(":")[2])
    assert [m.exit_code for m in seen.members] == [0, 0, 0]
    assert lines == [[str(r), "3", f"127.0.0.1:{port}", f"{r}a,{r}b", "2"] for r in range(3)]
    assert 20_000 <= port < 40_000


def test_a_job_s_environment_holds_what_it_was_given_and_nothing_of_the_platform(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YISUAN_API_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", "/platform")
    spec: dict[str, Any] = {
        "envs": {"MODEL": "small", "RANK": "99"},
        "variants": {CHIP.stack: Variant(envs={"STACK": CHIP.stack})},
        "checkpoint": Checkpoint(path="ckpt/last", interval_ms=90_000),
    }
    lease = lease_of("env -0 | tr '\\0' '\\n'", **spec)
    host.run(lease)

    found = dict(line.split("=", 1) for line in host.log(lease).splitlines())
    work = host.folder / "local" / "work" / "job_a"
    for shell_s in ("PWD", "OLDPWD", "SHLVL", "_"):
        found.pop(shell_s, None)
    assert 20_000 <= int(found.pop("MASTER_PORT")) < 40_000
    assert found == {
        "PATH": host.backend.path,
        "HOME": str(work),
        "TMPDIR": str(work / "tmp"),
        "LANG": "C.UTF-8",
        "USER": "job",
        "LOGNAME": "job",
        "MODEL": "small",
        "STACK": CHIP.stack,
        "SEEN_DEVICES": "0a,0b",
        "YISUAN_JOB": "job_a",
        "YISUAN_LEASE": "job_a.1",
        "YISUAN_MODEL": CHIP.model,
        "YISUAN_VENDOR": CHIP.vendor,
        "YISUAN_DEVICES": "2",
        "YISUAN_RANK": "0",
        "YISUAN_WORLD_SIZE": "1",
        "YISUAN_PROGRESS": str(work / "progress-job_a.1.json"),
        "YISUAN_CHECKPOINT": str(work / "ckpt" / "last"),
        "YISUAN_CHECKPOINT_INTERVAL_S": "90",
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
    }


def test_an_absolute_checkpoint_path_stays_as_it_is(host: Host) -> None:
    lease = lease_of("echo $YISUAN_CHECKPOINT", checkpoint=Checkpoint(path="/mnt/ckpt"))
    host.run(lease)

    assert host.log(lease) == "/mnt/ckpt\n"


def test_the_variant_of_the_placed_model_s_stack_goes_before_the_entrypoint(host: Host) -> None:
    own = lease_of("echo entrypoint", variants={CHIP.stack: Variant(run="echo variant"), "other": Variant(run="false")})
    host.run(own)

    assert host.log(own) == "variant\n"


def test_a_job_with_nothing_to_run_on_the_placed_model_says_so_and_fails(host: Host) -> None:
    lease = lease_of(None, variants={"other": Variant(run="true")})
    seen = host.run(lease)

    assert seen.members[0].exit_code == 126
    assert CHIP.model in host.log(lease)


def test_the_next_attempt_finds_what_the_last_one_wrote(host: Host) -> None:
    host.run(lease_of("echo checkpoint > state; echo x > $TMPDIR/t"))
    second = lease_of("cat state", attempt=2)
    host.run(second)

    assert host.log(second) == "checkpoint\n"


def test_one_job_cannot_read_another_s_directory_nor_its_own_records(host: Host) -> None:
    host.run(lease_of("echo weights > model", job="job_other"))
    local_root = host.folder / "local"
    forge = f"echo '{{}}' > {local_root}/leases/job_spy.1/0/exit.json"
    look = f"cat {local_root}/work/job_other/model ../job_other/model; ls {local_root}/work {local_root}/leases"
    spy = lease_of(f"({forge}); ({look}) 2>/dev/null; true", job="job_spy")
    seen = host.run(spy)

    assert "weights" not in host.log(spy)
    assert "job_other" not in host.log(spy)
    assert seen.members[0].exit_code == 0


def test_two_platforms_that_launch_at_the_same_moment_start_each_member_once(host: Host) -> None:
    lease = lease_of("echo line >> lines; sleep 0.3", ranks=2)
    code = """
        import sys, time
        from pathlib import Path
        from tests.scheduler.test_local_backend import Host, lease_of
        host = Host(Path(sys.argv[1]))
        print("ready", flush=True)
        sys.stdin.readline()
        for _ in range(5):
            host.backend.launch(lease_of("echo line >> lines; sleep 0.3", ranks=2))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(host.folder)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": REPOSITORY}
    platforms = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for platform in platforms:
        platform.stdout.readline()  # type: ignore[union-attr]
    host.leases.append(lease.id)
    for platform in platforms:
        platform.communicate("go\n", timeout=20)
    assert [p.returncode for p in platforms] == [0, 0]
    host.until(lease, lambda seen: seen.all_ended)

    assert (host.folder / "local" / "work" / "job_a" / "lines").read_text() == "line\n" * 2


def test_a_job_outlives_the_killed_platform_and_a_new_one_finds_its_end(host: Host) -> None:
    lease = lease_of("echo up; while [ ! -e go ]; do sleep 0.02; done; echo done; exit 9")
    code = """
        import os, signal, sys
        from pathlib import Path
        from tests.scheduler.test_local_backend import Host, lease_of
        host = Host(Path(sys.argv[1]))
        lease = lease_of("echo up; while [ ! -e go ]; do sleep 0.02; done; echo done; exit 9")
        assert host.backend.launch(lease) is None
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(host.folder)]
    host.leases.append(lease.id)
    assert subprocess.run(command, cwd=REPOSITORY, timeout=20).returncode == -signal.SIGKILL
    before = host.until(lease, running)
    (host.folder / "local" / "work" / "job_a" / "go").touch()
    after = host.until(lease, lambda seen: seen.all_ended)

    assert (after.members[0].phase, after.members[0].exit_code) == (MemberPhase.EXITED, 9)
    assert after.members[0].started_ms == before.members[0].started_ms
    assert host.log(lease) == "up\ndone\n"


def test_a_killed_shim_means_lost_and_a_dead_job_which_is_not_started_again(host: Host) -> None:
    marker = f"sleep 600.{os.getpid()}4"
    lease = lease_of(f"echo up; {marker}; true")
    host.launch(lease)
    host.until(lease, lambda seen: running(seen) and host.log(lease) == "up\n")
    os.kill(json.loads((host.member(lease) / "shim.json").read_text())["pid"], signal.SIGKILL)
    seen = host.until(lease, lambda seen: seen.all_ended)
    host.launch(lease)
    time.sleep(0.2)

    (member,) = seen.members
    assert (member.phase, member.exit_code, member.ended_ms) == (MemberPhase.LOST, None, None)
    assert member.detail
    assert alive(marker.replace(" ", "\0")) == []
    assert host.seen(lease) == seen
    assert host.log(lease) == "up\n"


def test_a_stop_sends_the_signal_waits_the_grace_and_says_cancelled(host: Host) -> None:
    lease = lease_of("trap 'echo saved; exit 0' USR1; echo up; while :; do sleep 0.02; done", ranks=2)
    host.launch(lease)
    wait_until(lambda: host.log(lease, 0) + host.log(lease, 1) == "up\nup\n")
    host.backend.stop(lease.id, grace_ms=5_000, signal="SIGUSR1")
    seen = host.until(lease, lambda seen: seen.all_ended)

    assert [(m.cause, m.exit_code) for m in seen.members] == [(Cause.CANCELLED, 0)] * 2
    assert "saved" in host.log(lease, 0)
    assert "saved" in host.log(lease, 1)


def test_the_time_limit_holds_without_the_platform(host: Host) -> None:
    lease = lease_of("sleep 600", time_limit_ms=150, checkpoint=Checkpoint(path="c", grace_ms=200))
    seen = host.run(lease)

    assert (seen.members[0].cause, seen.members[0].exit_code) == (Cause.TIME_LIMIT, -signal.SIGTERM)


def test_a_lease_stopped_before_its_launch_never_runs(host: Host) -> None:
    lease = lease_of("echo never")
    host.backend.stop(lease.id, grace_ms=0, signal=None)
    seen = host.run(lease)

    assert (seen.members[0].phase, seen.members[0].cause) == (MemberPhase.EXITED, Cause.CANCELLED)
    assert seen.members[0].started_ms is None
    assert host.log(lease) == ""


def test_a_launch_cut_off_between_two_members_is_seen_and_finished(host: Host) -> None:
    """Were only the started members answered for, half a gang would look whole."""
    gang = lease_of("sleep 600", ranks=2)
    host.backend._record(gang)
    host.leases.append(gang.id)

    assert [m.phase for m in host.seen(gang).members] == [MemberPhase.ABSENT] * 2
    assert host.backend.launch(gang) is None
    assert [m.phase for m in host.seen(gang).members] == [MemberPhase.STARTING] * 2
    host.until(gang, running)


def test_ended_shims_leave_no_zombies(host: Host) -> None:
    lease = lease_of("true", ranks=2)
    host.launch(lease)
    shims = list(host.backend._children.values())
    host.until(lease, lambda seen: seen.all_ended)

    assert len(shims) == 2
    wait_until(lambda: bool(host.seen(lease).members) and not host.backend._children)
    assert not any(Path(f"/proc/{pid}").exists() for pid in shims)


def test_a_shim_that_cannot_even_record_is_given_up_with_the_reason(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local.sys, "executable", "/bin/false")
    lease = lease_of("echo never")
    host.backend._methods[None] = "none"

    def attempt() -> bool:
        host.launch(lease)
        return host.seen(lease).all_ended

    wait_until(attempt)
    (member,) = host.seen(lease).members
    assert (member.exit_code, member.started_ms) == (126, None)
    assert "its shim failed 5 times" in (member.detail or "")


def test_the_agent_s_assignment_names_devices_and_pids_while_they_run_and_is_gone_after(host: Host) -> None:
    gang = lease_of("while [ ! -e go ]; do sleep 0.02; done", ranks=2)
    host.launch(gang)
    seen = host.until(gang, running)
    (found,) = read_assignments(host.folder / "assignments")
    (host.folder / "local" / "work" / "job_a" / "go").touch()
    host.until(gang, lambda seen: seen.all_ended)

    assert found.allocation == gang.id
    assert found.devices == ("dev0a", "dev0b", "dev1a", "dev1b")
    assert found.pids == tuple(m.pid for m in seen.members)
    assert read_assignments(host.folder / "assignments") == ()


def test_a_second_tenant_is_refused_without_a_uid_of_its_own(host: Host) -> None:
    host.run(lease_of("true"))
    second = replace(lease_of("true", job="job_b"), firm=FirmId("second"))

    refused = host.another().launch(second)
    assert refused == Refusal(code="SECOND_TENANT_NEEDS_UID", facts={"firm": "second", "first": "first"})
    assert not (host.folder / "local" / "leases" / second.id).exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can run a job as another user")
def test_a_second_tenant_with_a_uid_of_its_own_runs_as_that_user(host: Host) -> None:
    host.run(lease_of("true"))
    host.backend = host.another(job_uids={"second": 54_322})
    second = replace(lease_of("id -u; echo x > made && cat made", job="job_b"), firm=FirmId("second"))
    seen = host.backend.launch(second)
    if isinstance(seen, Refusal):
        pytest.skip(f"no confinement with a uid here: {seen.facts}")
    host.run(second)

    assert host.log(second) == "54322\nx\n"


def test_a_job_that_plants_links_gets_nobody_else_s_file(host: Host) -> None:
    """Its TMPDIR of the next attempt is a link to a directory of the host: nothing happens to that."""
    target = host.folder / "target"
    target.mkdir(mode=0o700)
    host.run(lease_of(f"rmdir tmp && ln -s {target} tmp"))
    before = target.stat()
    host.run(lease_of("true", attempt=2))

    assert (target.stat().st_uid, target.stat().st_mode) == (before.st_uid, before.st_mode)


@pytest.mark.parametrize("bad", ["../escape", "a/b", ".hidden", "", "x" * 200, "a\n"])
def test_a_lease_whose_name_could_leave_its_directory_is_refused(host: Host, bad: str) -> None:
    lease = replace(lease_of("true"), id=LeaseId(bad))

    refused = host.backend.launch(lease)
    assert isinstance(refused, Refusal)
    assert refused.code == "BAD_LEASE_NAME"
    host.backend.stop(LeaseId(bad), grace_ms=0, signal=None)
    host.backend.forget(LeaseId(bad))
    assert host.backend.observe([LeaseId(bad)])[0].members[0].phase is MemberPhase.ABSENT
    assert host.backend.logs(LeaseId(bad), 0, offset=0, limit=10) == b""


def test_without_a_working_confinement_nothing_is_launched(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "unavailable", lambda method, *_: f"no {method} here")

    refused = host.backend.launch(lease_of("echo never"))
    assert refused == Refusal(
        code="CONFINEMENT_UNAVAILABLE",
        facts={"tried": {"namespace": "no namespace here", "landlock": "no landlock here"}},
    )
    assert host.seen(lease_of("")).members[0].phase is MemberPhase.ABSENT


def test_bad_settings_are_refused_by_name_value_and_nearest_spelling(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"confinement: 'namespaces' is not one of .*; nearest: namespace"):
        LocalBackend(tmp_path, confinement="namespaces")
    with pytest.raises(ValueError, match="job_uids: 'a' has uid 0"):
        LocalBackend(tmp_path, job_uids={"a": 0})
    with pytest.raises(ValueError, match="job_uids: 'a' has uid 7"):
        LocalBackend(tmp_path, job_uids={"a": 7, "b": 7})
    with pytest.raises(ValueError, match=r"private: .*absent does not exist"):
        LocalBackend(tmp_path, private=(tmp_path / "absent",))
