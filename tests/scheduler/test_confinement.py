"""What a confined job can no longer do, tried by real jobs that want to, under every method that works here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.backends.confinement import METHODS, unavailable
from tests.scheduler.test_shim import SHIM, Bench, wait_until

SECRET = "the-platform's-signing-key"
JOB_UID = 54_321
ROOT = os.getuid() == 0


class Zone:
    """A platform with a secret, a process of it that stands in its data directory, and a job that wants the secret."""

    def __init__(self, folder: Path, method: str, *, inside: bool, uid: int | None) -> None:
        self.bench = Bench(folder)
        self.private = folder / "private"
        self.private.chmod(0o700)
        self.method, self.uid = method, uid
        (self.private / "key").write_text(SECRET)
        (folder / "link").symlink_to(self.private)
        if inside:  # as the platform has it: work directories below the data directory
            self.bench.work = self.private / "local" / "work" / "job"
            self.bench.work.mkdir(parents=True)
        if uid is not None:
            os.chown(self.bench.work, uid, uid)
        self.platform = subprocess.Popen(["sleep", "600"], cwd=self.private, start_new_session=True)

    def run(self, command: str, python: str = sys.executable) -> str:
        """What the job wrote."""
        private = [str(self.private)]
        self.bench.spec(command, confinement=self.method, uid=self.uid, private=private)
        assert self.bench.start(python).wait(timeout=20) == 0
        end = self.bench.record("exit.json")
        assert end["detail"] is None, end
        return self.bench.log

    def attacks(self) -> str:
        """Every way to the secret that we know, each allowed to fail."""
        key, pid = self.private / "key", self.platform.pid
        return f"""
            cat {key} {self.private}/../private/key {self.private.parent}/link/key
            cat /proc/{pid}/cwd/key /proc/{pid}/root{key} /proc/$PPID/cwd/../../key /proc/$PPID/root{key}
            cat /proc/1/root{key} /proc/1/cwd{key}
            umount {self.private}; umount -l {self.private}; cat {key}
            mount --bind {self.private.parent} /mnt && cat /mnt/private/key
            unshare -m sh -c 'umount {self.private}; cat {key}'
            unshare -Urm sh -c 'umount {self.private}; cat {key}'
            nsenter -t {pid} -m cat {key}
            nsenter -t 1 -m cat {key}
            ln {key} stolen && cat stolen
            mv {key} stolen && cat stolen
            cp -r {self.private} all && cat all/key
            cd ..; cat key ../key ../../key ../../../key; cd "$HOME"
            true
        """

    def close(self) -> None:
        self.platform.kill()
        self.platform.wait()
        for shim in self.bench.shims:
            shim.kill()
            shim.wait()


@pytest.fixture
def folder() -> Iterator[Path]:
    """pytest's own folder is closed to other users, and the job may be one."""
    made = Path(tempfile.mkdtemp(prefix="yisuan-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def zone_of(folder: Path, method: str) -> Zone:
    uid = JOB_UID if method == "uid" else None
    if uid is not None and not ROOT:
        pytest.skip("uid: only root can run a job as another user")
    zone = Zone(folder, method, inside=method != "uid", uid=uid)
    problem = unavailable(method, [str(zone.private)], str(zone.bench.work), uid)
    if problem:
        zone.close()
        pytest.skip(f"{method}: {problem}")
    return zone


@pytest.fixture(params=METHODS)
def zone(request: pytest.FixtureRequest, folder: Path) -> Iterator[Zone]:
    made = zone_of(folder, request.param)
    yield made
    made.close()


def test_the_attacks_do_find_the_secret_of_an_unconfined_platform(folder: Path) -> None:
    """Else the tests below would prove nothing."""
    zone = Zone(folder, "none", inside=True, uid=None)
    try:
        assert SECRET in zone.run(f"cat {zone.private}/key /proc/{zone.platform.pid}/cwd/key")
    finally:
        zone.close()


def test_no_way_to_a_private_file_is_open(zone: Zone) -> None:
    log = zone.run("echo begun\n" + zone.attacks() + "echo ended")

    assert log.startswith("begun\n")
    assert log.endswith("ended\n")
    assert SECRET not in log
    assert (zone.private / "key").read_text() == SECRET


def test_a_private_file_can_be_neither_written_nor_removed_nor_joined_by_another(zone: Zone) -> None:
    key = zone.private / "key"
    zone.run(f"echo forged > {key}; rm -f {key}; : > {key}; truncate -s 0 {key}; mkdir {zone.private}/mine; true")

    assert key.read_text() == SECRET
    assert not (zone.private / "mine").exists()


def test_the_job_s_own_directory_is_whole_and_the_rest_of_the_host_is_readable(zone: Zone) -> None:
    job = f"cd {zone.bench.work} && mkdir -p a b && echo mine > a/f && mv a/f b/f && cat b/f && head -c 4 /etc/passwd"

    assert zone.run(job) == "mine\nroot"
    assert (zone.bench.work / "b" / "f").read_text() == "mine\n"


def test_device_files_and_shared_memory_work(zone: Zone) -> None:
    made = "f=$(mktemp -p /dev/shm) && rm $f"

    assert zone.run(f"echo x > /dev/null && head -c 3 /dev/zero | wc -c && {made} && echo ok") == "3\nok\n"


def test_the_job_cannot_end_the_platform_or_what_watches_over_it(zone: Zone) -> None:
    """Were it to kill its shim, its time would look like the platform's failure and cost nothing."""
    pid = zone.platform.pid
    log = zone.run(f"for s in KILL INT USR2 TERM HUP; do kill -$s $PPID; kill -$s {pid}; done; echo alive")

    assert log.endswith("alive\n")
    assert zone.platform.poll() is None


@pytest.mark.skipif(not ROOT, reason="block devices and kernel settings are root's")
@pytest.mark.parametrize("method", METHODS[:2])
def test_a_job_run_by_root_reaches_no_disk_and_no_kernel_setting(folder: Path, method: str) -> None:
    zone = zone_of(folder, method)
    try:
        log = zone.run(
            "for d in $(find /dev -type b); do head -c 1 $d | wc -c; done;"
            "mknod disk b $(stat -c '0x%t 0x%T' $(find /dev -type b | head -1)) && head -c 1 disk;"
            "(echo '|/bin/true' > /proc/sys/kernel/core_pattern) && echo wrote;"
            "(echo 1 > /sys/kernel/profiling) && echo wrote;"
            "mount -o remount,rw /proc/sys && echo remounted; true"
        )
    finally:
        zone.close()

    assert "1\n" not in log.splitlines(keepends=True)
    assert "wrote" not in log
    assert "remounted" not in log


def test_in_a_namespace_a_job_sees_its_own_processes_only(folder: Path) -> None:
    zone = zone_of(folder, "namespace")
    try:
        log = zone.run("ls /proc | grep -c '^[0-9]*$'; test -e /proc/self/exe && echo self; ls /proc/1/fd")
    finally:
        zone.close()

    count, own = log.splitlines()[:2]
    assert int(count) <= 4
    assert own == "self"


@pytest.mark.skipif(not ROOT, reason="namespace with a uid needs root")
def test_a_namespace_and_a_uid_go_together(folder: Path) -> None:
    zone = Zone(folder, "namespace", inside=True, uid=JOB_UID)
    try:
        problem = unavailable("namespace", [str(zone.private)], str(zone.bench.work), JOB_UID)
        if problem:
            pytest.skip(f"namespace: {problem}")
        log = zone.run("id -u; echo x > made && stat -c %u made; cd ..; " + zone.attacks())
    finally:
        zone.close()

    assert log.splitlines()[:2] == [str(JOB_UID), str(JOB_UID)]
    assert SECRET not in log


@pytest.mark.skipif(not ROOT, reason="only root can become an ordinary user")
@pytest.mark.parametrize("method", METHODS[:2])
def test_an_ordinary_user_s_platform_confines_too(folder: Path, method: str) -> None:
    """The whole shim runs as nobody, with the host's own python: ours may lie where nobody cannot look."""
    python = "/usr/bin/python3"
    if not Path(python).exists():
        pytest.skip(f"{python} is absent")
    nobody = 65_534
    copies = folder / "code"
    shutil.copytree(SHIM.parent, copies, ignore=shutil.ignore_patterns("__pycache__"))
    zone = Zone(folder, method, inside=True, uid=None)
    try:
        for path in [zone.private, *zone.private.rglob("*")]:
            os.chown(path, nobody, nobody)
        case = {"method": method, "private": [str(zone.private)], "work": str(zone.bench.work), "uid": None}
        probe = [python, "-I", "-S", str(copies / "confinement.py")]
        tried = subprocess.run(probe, input=json.dumps(case), text=True, capture_output=True, user=nobody, group=nobody)
        if tried.returncode != 0:
            pytest.skip(f"{method} as nobody: {tried.stdout or tried.stderr}")
        files = {"confinement_file": str(copies / "confinement.py"), "private": case["private"]}
        zone.bench.spec("echo begun\n" + zone.attacks() + "echo ended", confinement=method, **files)
        command = [python, "-I", "-S", str(copies / "shim.py"), str(zone.bench.directory)]
        done = subprocess.run(command, user=nobody, group=nobody, extra_groups=[], start_new_session=True, timeout=20)
        log, end = zone.bench.log, zone.bench.record("exit.json")
    finally:
        zone.close()

    assert done.returncode == 0
    assert end["detail"] is None
    assert log.startswith("begun\n")
    assert log.endswith("ended\n")
    assert SECRET not in log


def test_a_method_that_hides_nothing_is_found_out(folder: Path) -> None:
    zone = Zone(folder, "none", inside=True, uid=None)
    try:
        found = unavailable("none", [str(zone.private)], str(zone.bench.work), None)
    finally:
        zone.close()

    assert found is not None
    assert "can still be opened" in found


def test_an_unknown_method_is_named_with_those_there_are(folder: Path) -> None:
    found = unavailable("jail", [], str(folder), None)

    assert found == "unknown method 'jail'; one of namespace, landlock, uid, none"


@pytest.mark.skipif(not ROOT, reason="only root can give a job another user")
def test_a_uid_cannot_work_below_a_directory_that_it_may_not_enter(folder: Path) -> None:
    zone = Zone(folder, "uid", inside=True, uid=JOB_UID)
    try:
        found = unavailable("uid", [str(zone.private)], str(zone.bench.work), JOB_UID)
    finally:
        zone.close()

    assert found is not None
    assert "the job's own directory cannot be used" in found


@pytest.mark.parametrize("method", METHODS[:2])
def test_one_private_directory_inside_another_opens_neither(folder: Path, method: str) -> None:
    zone = zone_of(folder, method)
    (zone.private / "keys").mkdir()
    (zone.private / "keys" / "deep").write_text(SECRET)
    try:
        private = [str(zone.private / "keys"), str(zone.private)]
        command = f"cat {zone.private}/key {zone.private}/keys/deep; echo ended"
        zone.bench.spec(command, confinement=method, private=private).start()
        wait_until(lambda: zone.bench.log.endswith("ended\n"))
    finally:
        zone.close()

    assert SECRET not in zone.bench.log


def test_protecting_a_process_closes_its_files_to_others_of_the_same_user() -> None:
    code = "from scheduler.backends import confinement as c; c.protect_process(); print(c._libc.prctl(3))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)

    assert done.stdout == "0\n"  # PR_GET_DUMPABLE
