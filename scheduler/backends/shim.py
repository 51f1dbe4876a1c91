"""Shim: the small processes beside each gang member, in a session of their own, that outlive the platform.

    python -I -S shim.py DIRECTORY

DIRECTORY holds spec.json; the shim adds, each whole and durable before the next step: shim.json (who it is),
started.json (before the user's command can do anything), exit.json; and `lock`, held while anything of the member may
live. `../stop.json` asks every member of the lease to end. Standard library only: no package of the platform is needed.

Three processes, so that no one of them can be killed unnoticed:
shim   takes the lock, keeps time and the records, stops the member on request or at its time limit.
guard  encloses the member; it is the first process of the member's pid namespace, or adopts what the member leaves
       behind. When the member ends, or the shim is gone, it kills all that is left.
job    the user's command, or the setup before it, in a session of its own, without the privileges of the other two.

The member is started at most once: whoever cannot take the lock, or finds started.json or exit.json, goes away. A shim
or guard that dies leaves started.json without exit.json: the member is lost, and nothing of it lives.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib.util
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, NoReturn

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
STOP = "../stop.json"
POLL_MS = 1000  # a stop request is seen this soon even if nobody pokes
MESSAGE_BYTES = 4096

_libc = ctypes.CDLL(None, use_errno=True)


class GuardLost(Exception):
    """The guard died without saying how its command ended: nobody knows, so nothing is recorded."""


@dataclass(frozen=True)
class End:
    """exit_code: 0..255 or -N for signal N. cause: why the shim stopped it, None when it ended by itself."""

    exit_code: int
    cause: str | None
    ended_ms: int


# --- shim -------------------------------------------------------------------------------------------------------------


def main() -> int:
    """Run the member described in the directory, unless someone does or did; the records say what happened."""
    os.closerange(3, 1 << 16)  # whatever the platform left open, a listening socket say, is not the job's
    os.chdir(sys.argv[1])
    lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return 0
    if os.path.exists("started.json") or os.path.exists("exit.json"):
        return 0
    spec = read("spec.json")
    if spec is None:
        return 0
    bell = ring_on(signal.SIGUSR2, signal.SIGCHLD)
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # should the guard die, its own are ours to end
    write("shim.json", {"pid": os.getpid(), "start_ticks": start_ticks("self"), "boot_id": boot_id()})
    log = os.open(spec["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        run(spec, log, bell)
    except GuardLost:
        kill_descendants()
        if not os.path.exists("started.json"):
            finish(None, None, None, "its guard died before it started")
    except Exception as problem:  # noqa: BLE001 - whatever failed, the platform must be able to read that it did
        began = boot_ms() if os.path.exists("started.json") else None
        finish(began, 126, None, f"could not run: {problem}")
    return 0


def run(spec: dict[str, Any], log: int, bell: int) -> None:
    """Setup, then the command, each only if nobody has asked to stop before it."""
    if read(STOP) is not None:
        finish(None, None, "cancelled", "stopped before it started")
        return
    channel, guard = start_guard(spec, log)
    if spec["setup"]:
        prepare(channel, "setup")
        send(channel, {"go": True})
        end = supervise(spec, channel, bell, boot_ms())
        if end.exit_code != 0 or end.cause:
            finish(None, end.exit_code, end.cause, f"setup failed with exit code {end.exit_code}")
            return
    prepare(channel, "command")
    if read(STOP) is not None:
        finish(None, None, "cancelled", "stopped before it started")
        return
    began = boot_ms()
    started = {"pid": guard, "pid_start_ticks": start_ticks(guard), "started_at": wall(), "started_ms": began}
    write("started.json", {**started, "boot_id": boot_id()})
    send(channel, {"go": True})  # only now, after the record is durable, may the user's command begin
    end = supervise(spec, channel, bell, began)
    finish(end.ended_ms, end.exit_code, end.cause, None)


def prepare(channel: socket.socket, which: str) -> None:
    """The guard has a confined process that waits for `go` to become the spec's setup or command."""
    send(channel, {"prepare": which})
    answer = receive(channel)
    if answer is None:
        raise GuardLost
    if "problem" in answer:
        raise RuntimeError(answer["problem"])


def supervise(spec: dict[str, Any], channel: socket.socket, bell: int, began: int) -> End:
    """Wait for the end; on request or at the time limit: signal, grace, SIGKILL."""
    deadline = began + spec["time_limit_ms"]
    cause, kill_at = None, None
    while True:
        now = boot_ms()
        request = read(STOP) if cause is None else None
        if request is not None:
            cause = "cancelled"
        elif cause is None and now >= deadline:
            cause, request = "time_limit", {"signal": spec["signal"], "grace_ms": spec["grace_ms"]}
        if request is not None:
            send(channel, {"signal": signal_number(request["signal"])})
            kill_at = now + request["grace_ms"]
        if kill_at is not None and now >= kill_at:
            send(channel, {"signal": int(signal.SIGKILL)})
            kill_at = now + POLL_MS
        until = deadline if kill_at is None else kill_at
        timeout_s = max(1, min(POLL_MS, until - now)) / 1000
        ready = wait_for([channel, bell], timeout_s)
        if bell in ready:
            os.read(bell, 4096)
        if channel in ready:
            message = receive(channel)
            if message is None:
                raise GuardLost
            own = not message["stopped"]  # it ended by itself, before the signal reached it
            return End(exit_code=message["exit_code"], cause=None if own else cause, ended_ms=message["ended_ms"])


def finish(ended_ms: int | None, code: int | None, cause: str | None, detail: str | None) -> None:
    body = {"ended_ms": ended_ms, "exit_code": code, "cause": cause, "detail": detail, "boot_id": boot_id()}
    write("exit.json", body)


# --- guard ------------------------------------------------------------------------------------------------------------


def start_guard(spec: dict[str, Any], log: int) -> tuple[socket.socket, int]:
    """The guard runs; returns the channel to it and its pid."""
    confinement = load(spec["confinement_file"])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    confinement.separate(spec["confinement"])
    pid = os.fork()
    if pid == 0:
        ours.close()
        try:
            Guard(spec, confinement, log, theirs).serve()
        finally:
            os._exit(1)
    theirs.close()
    return ours, pid


class Guard:
    """Runs one command after another for the shim, which it does not outlive; it holds the lock as long as it lives."""

    def __init__(self, spec: dict[str, Any], confinement: ModuleType, log: int, channel: socket.socket) -> None:
        self.spec, self.confinement, self.log, self.channel = spec, confinement, log, channel
        self.isolated = spec["confinement"] == "namespace"
        self.job: int | None = None
        self.go = -1
        self.stopping = False
        self.ended: tuple[int, int] | None = None

    def serve(self) -> NoReturn:
        bell = ring_on(signal.SIGCHLD)
        for number in (signal.SIGUSR2, signal.SIGINT):  # the first process of a namespace dies only of what it handles
            signal.signal(number, signal.SIG_IGN)
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        if self.isolated:  # the kernel kills all of a pid namespace with its first process
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        try:
            self.confinement.enclose(self.spec["confinement"], self.spec["private"], self.spec["work"])
            problem = None
        except Exception as raised:  # noqa: BLE001 - told to the shim in answer to its first command
            problem = str(raised)
        while True:
            ready = wait_for([self.channel, bell], 0.1 if self.ended else None)
            if bell in ready:
                os.read(bell, 4096)
            if self.channel in ready:
                order = receive(self.channel)
                if order is None:  # the shim is gone
                    self.kill_all()
                    os._exit(0)
                self.obey(order, problem)
            self.reap()

    def obey(self, order: dict[str, Any], problem: str | None) -> None:
        if "prepare" in order:
            problem = problem or self.prepare(self.spec[order["prepare"]])
            send(self.channel, {"problem": problem} if problem else {"ready": True})
        elif "go" in order:
            os.write(self.go, b"g")
            os.close(self.go)
        elif order["signal"] == signal.SIGKILL:
            self.kill_all()
        elif self.job is not None:
            self.stopping = True
            signal_group(self.job, order["signal"])

    def prepare(self, line: str) -> str | None:
        """A confined process waits to become the command; or why there is none."""
        go_reader, self.go = os.pipe()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            self.become(line, go_reader, writer)
        os.close(go_reader)
        os.close(writer)
        answer = os.read(reader, 4000).decode(errors="replace")
        os.close(reader)
        if answer == "ready":
            self.job, self.stopping, self.ended = pid, False, None
            return None
        os.close(self.go)
        os.waitpid(pid, 0)
        return answer or "the process that was to become the command died"

    def become(self, line: str, go_reader: int, writer: int) -> NoReturn:
        """In the child: give up privileges, say ready, wait for go, become the command."""
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGUSR2, signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            os.close(self.go)
            os.setsid()
            null = os.open("/dev/null", os.O_RDONLY)
            for target, source in ((0, null), (1, self.log), (2, self.log)):
                os.dup2(source, target)
            os.chdir(self.spec["work"])
            method, private, work = self.spec["confinement"], self.spec["private"], self.spec["work"]
            self.confinement.restrict(method, private, work, self.spec["uid"])
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # after the uid: changing that clears it
            os.umask(0o022)
            os.write(writer, b"ready")
            if os.read(go_reader, 1) == b"g":
                os.execve("/bin/sh", ["/bin/sh", "-c", line], self.spec["env"])  # noqa: S606 - sh is meant
        except BaseException as problem:  # noqa: BLE001 - told through the pipe or the log, then the child is gone
            text = f"yisuan: {type(problem).__name__}: {problem}\n".encode()
            try:
                os.write(writer, text[:4000])
            except OSError:
                os.write(2, text)
        os._exit(126)

    def reap(self) -> None:
        """Bury the dead. A command has ended when its first process has; asked to stop, when its whole group has."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self.job:
                self.ended = (os.waitstatus_to_exitcode(status), boot_ms())
        if self.job is None or self.ended is None:
            return
        code, ended_ms = self.ended
        if self.stopping and group_lives(self.job):
            return  # a shell dies at once of a signal that its child saves a checkpoint on
        if self.stopping:
            ended_ms = boot_ms()
        self.job = None
        self.kill_all()
        self.ended = None
        send(self.channel, {"exit_code": code, "ended_ms": ended_ms, "stopped": self.stopping})

    def kill_all(self) -> None:
        """Nothing of the member lives, daemons included."""
        dead = kill_namespace() if self.isolated else kill_descendants()
        if self.job in dead and self.ended is None:
            self.ended = (dead[self.job], boot_ms())


# --- processes --------------------------------------------------------------------------------------------------------


def wait_for(sources: list[Any], timeout_s: float | None) -> list[Any]:
    """Which of them can be read; empty when the time is over."""
    return select.select(sources, [], [], timeout_s)[0]


def ring_on(*numbers: int) -> int:
    """A descriptor that becomes readable when one of the signals arrives."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    return reader


def kill_namespace() -> dict[int, int]:
    """All of this pid namespace but its first process, which this is, is dead; returns their exit codes."""
    return bury(lambda: send_signal(-1, signal.SIGKILL))


def kill_descendants() -> dict[int, int]:
    """All that this process ever forked is dead, daemons included, as it adopts them; returns their exit codes."""

    def kill() -> None:
        for pid in descendants(os.getpid()):
            send_signal(pid, signal.SIGKILL)

    return bury(kill)


def bury(kill: Callable[[], object]) -> dict[int, int]:
    """Kill until no child is left; waits for one that the kernel will not let go yet."""
    dead = {}
    while True:
        kill()
        try:
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                dead[found[0]] = os.waitstatus_to_exitcode(found[1])
        except ChildProcessError:
            return dead
        time.sleep(0.005)


def descendants(top: int) -> list[int]:
    """Every process below `top`, from /proc/PID/stat, field 4 (proc_pid_stat(5))."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stream:
                parent = int(stream.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        children.setdefault(parent, []).append(int(name))
    found, rest = [], [top]
    while rest:
        below = children.get(rest.pop(), [])
        found += below
        rest += below
    return found


def group_lives(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except OSError:
        return False
    return True


def signal_group(leader: int, number: int) -> None:
    try:
        os.killpg(leader, number)
    except OSError:
        send_signal(leader, number)


def send_signal(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):  # gone already
        os.kill(pid, number)


def signal_number(name: str | None) -> int:
    """SIGTERM for None and for a name that this host does not know."""
    return int(getattr(signal.Signals, name or "SIGTERM", signal.SIGTERM))


def load(path: str) -> ModuleType:
    """confinement.py by its path: with -I there is no package to import it from."""
    found = importlib.util.spec_from_file_location("confinement", path)
    if found is None or found.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


# --- records and messages ---------------------------------------------------------------------------------------------


def write(name: str, body: dict[str, Any]) -> None:
    """The file is whole and on the disk, or not there."""
    partial = f".{name}.{os.getpid()}"
    with open(partial, "w", encoding="utf-8") as stream:
        json.dump(body, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, name)
    folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)


def read(name: str) -> dict[str, Any] | None:
    """None when it is not there."""
    try:
        with open(name, encoding="utf-8") as stream:
            return dict(json.load(stream))
    except FileNotFoundError:
        return None


def send(channel: socket.socket, body: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the other end is gone; the next receive says so
        channel.send(json.dumps(body).encode())


def receive(channel: socket.socket) -> dict[str, Any] | None:
    """The next message, waiting for it; None when the other end is gone."""
    try:
        text = channel.recv(MESSAGE_BYTES)
    except OSError:
        return None
    return dict(json.loads(text)) if text else None


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read().strip()


def start_ticks(pid: int | str) -> int:
    """When a process started, clock ticks after boot: with its pid, an identity (proc_pid_stat(5), field 22)."""
    with open(f"/proc/{pid}/stat", "rb") as stream:
        return int(stream.read().rpartition(b")")[2].split()[19])


def boot_ms() -> int:
    """Milliseconds since boot, suspended time included (CLOCK_BOOTTIME)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def wall() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


if __name__ == "__main__":
    sys.exit(main())
