"""Shim: one small process per gang member, in a session of its own, that outlives the platform.

    python -I -S shim.py DIRECTORY

DIRECTORY holds spec.json and, when the shim is done with each step, durably: lock (held for the member's life),
started.json, exit.json. Standard library only. The member is started at most once: whoever cannot take the lock, or finds
started.json or exit.json, goes away.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib.util
import json
import os
import signal
import sys
import time
from datetime import UTC, datetime

SIGNALLED_BEFORE_START = "stopped before it started"


def main() -> int:
    directory = os.path.abspath(sys.argv[1])
    os.chdir(directory)
    lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return 0
    if os.path.exists("started.json") or os.path.exists("exit.json"):
        return 0
    with open("spec.json", encoding="utf-8") as stream:
        spec = json.load(stream)
    signal.signal(signal.SIGUSR2, lambda *_: None)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGUSR2})
    write("shim.json", {"pid": os.getpid(), "boot_id": boot_id()})
    log = os.open(spec["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if read("stop.json") is not None:
        finish(None, None, "cancelled", SIGNALLED_BEFORE_START)
        return 0
    try:
        confinement = load(spec["confinement_file"])
        if spec["setup"]:
            code, cause = supervise(spec, confinement, spec["setup"], log, record=False)
            if code != 0 or cause:
                finish(None, code, cause, f"setup failed with exit code {code}")
                return 0
        code, cause = supervise(spec, confinement, spec["command"], log, record=True)
    except Exception as problem:  # noqa: BLE001 - whatever failed, the platform must be able to read that it did
        finish(boot_ms() if os.path.exists("started.json") else None, 126, None, f"could not start: {problem}")
        return 0
    finish(boot_ms(), code, cause, None)
    return 0


def supervise(spec, confinement, command, log, record):
    """Run one command in its own process group to its end; returns (exit code, cause). Kills what it leaves behind."""
    go_reader, go_writer = os.pipe()
    problem_reader, problem_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(spec, confinement, command, log, go_reader, go_writer, problem_writer)
    os.close(go_reader)
    os.close(problem_writer)
    problem = os.read(problem_reader, 4000).decode()
    if problem != "ready":
        os.waitpid(pid, 0)
        raise RuntimeError(problem or "the child vanished")
    began = boot_ms()
    if record:
        write(
            "started.json",
            {"pid": pid, "boot_id": boot_id(), "started_at": wall(), "started_ms": began, "shim": os.getpid()},
        )
    os.write(go_writer, b"g")  # only now, after the record is durable, may the user's command begin
    os.close(go_writer)
    failed = os.read(problem_reader, 4000).decode()
    os.close(problem_reader)
    if failed:
        os.write(log, f"yisuan: {failed}\n".encode())
    code, cause = wait(spec, pid, began)
    kill(pid, signal.SIGKILL)
    return code, cause


def child(spec, confinement, command, log, go_reader, go_writer, problem_writer):
    try:
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: the job does not outlive its shim
        os.close(go_writer)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        for number in (signal.SIGUSR2, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD, signal.SIGUSR2})
        confinement.confine(spec["confinement"], spec["private"], spec["work"], spec["uid"])
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # changing credentials clears it
        os.chdir(spec["work"])
        os.umask(0o022)
        os.set_inheritable(problem_writer, False)
        os.write(problem_writer, b"ready")
        if os.read(go_reader, 1) != b"g":
            os._exit(125)
        os.close(go_reader)
        os.execve("/bin/sh", ["/bin/sh", "-c", command], spec["env"])
    except BaseException as problem:  # noqa: BLE001 - told through the pipe, then the child is gone
        os.write(problem_writer, f"{type(problem).__name__}: {problem}".encode()[:4000])
    os._exit(126)


def wait(spec, pid, began):
    """Wait for the end; stop the group on request or at the time limit: signal, grace, SIGKILL."""
    deadline = began + spec["time_limit_ms"]
    stopping, cause, kill_at = None, None, None
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return (os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)), cause
        now = boot_ms()
        if stopping is None:
            request = read("stop.json")
            if request is not None:
                stopping, cause = request, "cancelled"
            elif now >= deadline:
                stopping, cause = {"signal": spec["signal"], "grace_ms": spec["grace_ms"]}, "time_limit"
            if stopping is not None:
                kill(pid, getattr(signal, stopping["signal"] or "SIGTERM"))
                kill_at = now + stopping["grace_ms"]
        elif now >= kill_at:
            kill(pid, signal.SIGKILL)
        pause(max(1, min(1000, (kill_at or deadline) - now)))


def pause(milliseconds):
    """Sleep until a child ends, the platform pokes, or the time is over; the signals are blocked, so none is lost."""
    signal.sigtimedwait({signal.SIGCHLD, signal.SIGUSR2}, milliseconds / 1000)


def kill(pid, number):
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def finish(ended_ms, code, cause, detail):
    write(
        "exit.json", {"ended_ms": ended_ms, "exit_code": code, "cause": cause, "detail": detail, "boot_id": boot_id()}
    )


def write(name, body):
    """The file is whole and on the disk, or not there."""
    partial = f".{name}.{os.getpid()}"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    os.write(descriptor, json.dumps(body).encode())
    os.fsync(descriptor)
    os.close(descriptor)
    os.replace(partial, name)
    folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)


def read(name):
    try:
        with open(name, encoding="utf-8") as stream:
            return json.load(stream)
    except (FileNotFoundError, ValueError):
        return None


def load(path):
    found = importlib.util.spec_from_file_location("confinement", path)
    module = importlib.util.module_from_spec(found)
    sys.modules["confinement"] = module
    found.loader.exec_module(module)
    return module


def boot_id():
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read().strip()


def boot_ms():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def wall():
    moment = datetime.now(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


if __name__ == "__main__":
    sys.exit(main())
