"""The shim, run as the platform runs it, on records written by hand."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import scheduler.backends.shim as shim_module
from scheduler.backends.confinement import METHODS, unavailable

SHIM = Path(shim_module.__file__)
ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


class Bench:
    """One member's directory and its work directory."""

    def __init__(self, folder: Path) -> None:
        self.directory = folder / "private" / "lease" / "0"
        self.work = folder / "work"
        self.directory.mkdir(parents=True)
        self.work.mkdir()
        self.shims: list[subprocess.Popen[bytes]] = []

    def spec(self, command: str, **changes: Any) -> Bench:
        body = {
            "command": command,
            "setup": None,
            "env": ENV,
            "work": str(self.work),
            "log": str(self.directory / "log"),
            "private": [str(self.directory.parents[1])],
            "confinement": "none",
            "confinement_file": str(SHIM.with_name("confinement.py")),
            "uid": None,
            "time_limit_ms": 60_000,
            "signal": None,
            "grace_ms": 5_000,
        }
        (self.directory / "spec.json").write_text(json.dumps(body | changes))
        return self

    def start(self, python: str = sys.executable, **options: Any) -> subprocess.Popen[bytes]:
        command = [python, "-I", "-S", str(SHIM), str(self.directory)]
        self.shims.append(subprocess.Popen(command, start_new_session=True, env=ENV, **options))
        return self.shims[-1]

    def run(self) -> dict[str, Any]:
        """The end that a whole run recorded."""
        assert self.start().wait(timeout=20) == 0
        return self.record("exit.json")

    def record(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.directory / name).read_text()))

    def stop(self, grace_ms: int = 0, name: str | None = None) -> None:
        body = json.dumps({"grace_ms": grace_ms, "signal": name})
        (self.directory.parent / "stop.partial").write_text(body)
        (self.directory.parent / "stop.partial").rename(self.directory.parent / "stop.json")
        if (self.directory / "shim.json").exists():
            os.kill(self.record("shim.json")["pid"], signal.SIGUSR2)

    @property
    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text() if path.exists() else ""

    def locked(self) -> bool:
        with (self.directory / "lock").open("rb+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for shim in made.shims:
        shim.kill()
        shim.wait()


def wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.01)


def alive(marker: str) -> list[int]:
    """Processes whose command line holds the marker."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if marker in Path(f"/proc/{name}/cmdline").read_text():
                found.append(int(name))
        except OSError:
            continue
    return found


def usable(method: str, bench: Bench) -> str:
    """The method, or a skip with the reason why it does not work here."""
    if method != "none":
        problem = unavailable(method, [str(bench.directory.parents[1])], str(bench.work), None)
        if problem:
            pytest.skip(f"{method}: {problem}")
    return method


def test_a_member_that_ends_by_itself_leaves_its_exit_code_and_both_instants(bench: Bench) -> None:
    end = bench.spec("echo out; echo err >&2; exit 3").run()

    started = bench.record("started.json")
    assert (end["exit_code"], end["cause"], end["detail"]) == (3, None, None)
    assert end["ended_ms"] >= started["started_ms"]
    assert end["boot_id"] == started["boot_id"]
    assert started["started_at"].endswith("Z")
    assert bench.log == "out\nerr\n"


def test_a_member_that_dies_of_a_signal_has_its_number_negative(bench: Bench) -> None:
    assert bench.spec("kill -SEGV $$").run()["exit_code"] == -signal.SIGSEGV


def test_the_record_of_the_start_is_there_before_the_command_can_look(bench: Bench) -> None:
    bench.spec(f"cat {bench.directory}/started.json").run()

    assert json.loads(bench.log) == bench.record("started.json")


def test_a_second_shim_goes_away_while_the_first_has_the_member(bench: Bench) -> None:
    bench.spec("echo once; sleep 600").start()
    wait_until(lambda: bench.log == "once\n")

    assert bench.start().wait(timeout=10) == 0
    assert bench.locked()
    assert bench.log == "once\n"


@pytest.mark.parametrize("name", ["started.json", "exit.json"])
def test_a_member_that_started_or_ended_is_never_started_again(bench: Bench, name: str) -> None:
    (bench.directory / name).write_text("{}")
    bench.spec("echo again")

    assert bench.start().wait(timeout=10) == 0
    assert bench.log == ""
    assert bench.record(name) == {}


def test_setup_runs_before_the_command_and_outside_its_time(bench: Bench) -> None:
    bench.spec("echo command; cat made", setup="sleep 0.3; echo setup; echo by setup > made").run()

    assert bench.log == "setup\ncommand\nby setup\n"
    assert bench.record("exit.json")["ended_ms"] - bench.record("started.json")["started_ms"] < 300


def test_a_failed_setup_ends_the_member_before_it_started(bench: Bench) -> None:
    end = bench.spec("echo never", setup="exit 4").run()

    assert (end["exit_code"], end["cause"], end["ended_ms"]) == (4, None, None)
    assert end["detail"] == "setup failed with exit code 4"
    assert not (bench.directory / "started.json").exists()
    assert bench.log == ""


def test_at_the_time_limit_the_job_gets_its_signal_and_may_end_in_grace(bench: Bench) -> None:
    job = "trap 'echo saved; exit 5' USR1; while :; do sleep 0.02; done"
    end = bench.spec(job, time_limit_ms=300, signal="SIGUSR1").run()

    assert (end["exit_code"], end["cause"]) == (5, "time_limit")
    assert "saved" in bench.log
    assert 300 <= end["ended_ms"] - bench.record("started.json")["started_ms"] < 2_000


def test_a_job_deaf_to_the_signal_is_killed_after_its_grace(bench: Bench) -> None:
    end = bench.spec("trap '' TERM; while :; do sleep 0.02; done", time_limit_ms=200, grace_ms=300).run()

    lasted = end["ended_ms"] - bench.record("started.json")["started_ms"]
    assert (end["exit_code"], end["cause"]) == (-signal.SIGKILL, "time_limit")
    assert 500 <= lasted < 2_500


def test_the_time_limit_also_bounds_the_setup(bench: Bench) -> None:
    end = bench.spec("echo never", setup="sleep 600", time_limit_ms=200).run()

    assert (end["cause"], end["ended_ms"]) == ("time_limit", None)
    assert bench.log == ""


def test_a_stop_reaches_a_running_job_with_the_wanted_signal(bench: Bench) -> None:
    bench.spec("trap 'echo told; exit 0' INT; echo up; while :; do sleep 0.02; done")
    shim = bench.start()
    wait_until(lambda: "up" in bench.log)
    bench.stop(grace_ms=5_000, name="SIGINT")
    shim.wait(timeout=10)

    end = bench.record("exit.json")
    assert (end["exit_code"], end["cause"]) == (0, "cancelled")
    assert "told" in bench.log


def test_a_stop_is_seen_within_two_seconds_even_when_nobody_pokes(bench: Bench) -> None:
    shim = bench.spec("echo up; sleep 600").start()
    wait_until(lambda: "up" in bench.log)
    (bench.directory.parent / "stop.json").write_text('{"grace_ms": 0, "signal": null}')
    shim.wait(timeout=2)

    assert bench.record("exit.json")["cause"] == "cancelled"


def test_a_signal_of_no_such_name_is_a_term(bench: Bench) -> None:
    shim = bench.spec("trap 'exit 6' TERM; echo up; while :; do sleep 0.02; done").start()
    wait_until(lambda: "up" in bench.log)
    bench.stop(grace_ms=5_000, name="SIGNONSENSE")
    shim.wait(timeout=10)

    assert bench.record("exit.json")["exit_code"] == 6


def test_stopped_before_it_started_it_never_starts(bench: Bench) -> None:
    bench.stop()
    end = bench.spec("echo never", setup="echo nor this").run()

    assert (end["cause"], end["exit_code"], end["ended_ms"]) == ("cancelled", None, None)
    assert bench.log == ""


def test_stopped_in_its_setup_it_never_starts(bench: Bench) -> None:
    shim = bench.spec("echo never", setup="echo setting up; sleep 600").start()
    wait_until(lambda: bench.log != "")
    bench.stop()
    shim.wait(timeout=10)

    assert bench.record("exit.json")["cause"] == "cancelled"
    assert bench.log == "setting up\n"


def test_grace_lasts_while_a_child_of_the_shell_still_saves(bench: Bench) -> None:
    """A checkpoint signal kills the shell, which has no trap for it, at once; the training beside it must finish."""
    child = "trap 'sleep 0.3; echo saved; exit 0' USR1; echo up; while :; do sleep 0.02; done"
    shim = bench.spec(f'sh -c "{child}"; true').start()
    wait_until(lambda: "up" in bench.log)
    bench.stop(grace_ms=5_000, name="SIGUSR1")
    shim.wait(timeout=10)

    assert "saved" in bench.log
    assert bench.record("exit.json")["cause"] == "cancelled"


@pytest.mark.parametrize("method", ["none", *METHODS[:2]])
def test_a_daemon_left_behind_does_not_outlive_the_member(bench: Bench, method: str) -> None:
    marker = f"sleep 600.{os.getpid()}1"
    end = bench.spec(f"setsid {marker} & echo bye", confinement=usable(method, bench)).run()

    assert end["exit_code"] == 0
    wait_until(lambda: not bench.locked())
    wait_until(lambda: alive(marker.replace(" ", "\0")) == [])


@pytest.mark.parametrize("method", ["none", *METHODS[:2]])
@pytest.mark.parametrize("victim", ["shim", "guard"])
def test_when_the_shim_or_the_guard_is_killed_all_of_the_member_dies_and_no_end_is_recorded(
    bench: Bench, method: str, victim: str
) -> None:
    marker = f"sleep 600.{os.getpid()}2"
    bench.spec(f"setsid {marker} & sh -c '{marker}; true'; true", confinement=usable(method, bench)).start()
    wait_until(lambda: len(alive(marker.replace(" ", "\0"))) == 2)
    os.kill(bench.record("shim.json" if victim == "shim" else "started.json")["pid"], signal.SIGKILL)
    wait_until(lambda: not bench.locked())

    wait_until(lambda: alive(marker.replace(" ", "\0")) == [])  # the kernel ends a namespace after its first process
    assert not (bench.directory / "exit.json").exists()


def test_the_member_is_one_tree_below_the_recorded_pid(bench: Bench) -> None:
    marker = f"sleep 600.{os.getpid()}3"
    bench.spec(f"{marker}; true").start()
    wait_until(lambda: bool(alive("\0" + marker.replace(" ", "\0")) or alive(marker.replace(" ", "\0"))))

    assert set(alive(marker.replace(" ", "\0"))) <= set(shim_module.descendants(bench.record("started.json")["pid"]))


def test_what_the_platform_left_open_is_not_inherited(bench: Bench) -> None:
    with (bench.work / "open").open("w") as stream:
        number = os.dup2(stream.fileno(), 77)
        bench.spec("if [ -e /proc/$$/fd/77 ]; then exit 1; fi")
        shim = bench.start(pass_fds=(77,))
        os.close(number)

    assert shim.wait(timeout=10) == 0
    assert bench.record("exit.json")["exit_code"] == 0


def test_a_job_that_cannot_be_confined_is_not_run(bench: Bench) -> None:
    end = bench.spec("echo never", confinement="uid").run()

    assert end["exit_code"] == 126
    assert "uid of the job's own" in end["detail"]
    assert bench.log == ""
    assert not (bench.directory / "started.json").exists()


def test_the_environment_is_the_given_one_and_standard_input_is_empty(bench: Bench) -> None:
    bench.spec("cat; env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD=").run()

    assert bench.log == f"PATH={ENV['PATH']}\n"
