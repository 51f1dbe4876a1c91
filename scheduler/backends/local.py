"""Local backend: real processes on this host, one shim per gang member; every call may be repeated.

All knowledge is in files, none that matters in this object, so a restarted platform finds every job again:

    <root>/tenant.json                   the first firm this root was used by
    <root>/leases/<lease>/lease.json     its ranks and their devices; written before any member starts
    <root>/leases/<lease>/stop.json      every member is to end
    <root>/leases/<lease>/<rank>/        spec.json, what the shim recorded (see shim.py), and the member's log
    <root>/work/<job>/                   the job's own directory, kept over attempts, so that checkpoints resume

A service manager that stops the platform must leave the shims alone (systemd: KillMode=process).
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import json
import os
import re
import shlex
import signal as signals
import stat
import sys
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from adapters.assignment import Assignment, remove_assignment, write_assignment
from adapters.catalog import load_catalog
from scheduler.backends.confinement import METHODS, unavailable
from scheduler.job import Variant
from scheduler.lease import (
    Cause,
    Lease,
    LeaseId,
    Member,
    MemberPhase,
    MemberStatus,
    Observation,
    Report,
    report_of,
)
from scheduler.refusal import Refusal

HERE = Path(__file__).resolve().parent
SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
GRACE_MS = 10_000  # between the signal at the time limit and SIGKILL where the job declares none
PORTS = range(
    20_000, 40_000
)  # MASTER_PORT: above the registered services, below Linux's ephemeral ports (32768) mostly
REPORT_MAX = 4096  # bytes of a job's report of itself
SPAWNS = 5  # shims that may go without a trace before their member is given up
NOT_RUN = 126  # POSIX sh: found, but cannot be executed


class LocalBackend:
    """scheduler.ports.Backend for one Linux host.

    root: where records and work directories are; jobs can open nothing in it but their own work directory.
    private: further files and directories that no job may open (the platform's data and keys).
    path: PATH of jobs, which never run in the platform's environment.
    confinement: auto (the first of confinement.METHODS that works here), one of them, or none: jobs can then read
    whatever the platform can, billing records and keys included.
    job_uids: a uid of its own per firm (needs root). Without one a second firm is refused: two tenants under one uid
    could write each other's files. assignments: where the agent reads which processes hold which devices.
    """

    name = "local"

    def __init__(
        self,
        root: Path,
        *,
        private: Sequence[Path] = (),
        path: str = "/usr/local/bin:/usr/bin:/bin",
        confinement: str = "auto",
        job_uids: Mapping[str, int] | None = None,
        assignments: Path | None = None,
    ) -> None:
        known = ("auto", *METHODS, "none")
        if confinement not in known:
            near = difflib.get_close_matches(confinement, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"confinement: {confinement!r} is not one of {', '.join(known)}; nearest: {near}")
        self.job_uids = dict(job_uids or {})
        for firm, uid in self.job_uids.items():
            if uid in (0, os.getuid()) or list(self.job_uids.values()).count(uid) > 1:
                raise ValueError(f"job_uids: {firm!r} has uid {uid}, which is the platform's, root's or another firm's")
        self.root = root.resolve()
        self.path = path
        self.confinement = confinement
        self.assignments = assignments
        for folder, mode in ((self.root, 0o711), (self.root / "leases", 0o700), (self.root / "work", 0o711)):
            if not folder.is_dir():
                folder.mkdir(mode=mode, parents=True)
        if assignments is not None:
            assignments.mkdir(parents=True, exist_ok=True)
        hidden = {p.resolve() for p in (*private, self.root, *([assignments] if assignments else []))}
        for path_ in hidden:
            if not path_.exists():
                raise ValueError(f"private: {path_} does not exist, so it cannot be hidden from jobs; create it first")
        self.private = tuple(sorted(str(p) for p in hidden))
        self._methods: dict[int | None, str] = {}  # by uid: what was tried and works
        self._children: dict[Path, int] = {}
        self._spawned: Counter[Path] = Counter()
        self._assigned: dict[LeaseId, Assignment | None] = {}

    # --- the port -----------------------------------------------------------------------------------------------------

    def launch(self, lease: Lease) -> Refusal | None:
        """Every member's shim has been started; members that run, or ran, are left alone.

        Refusals: BAD_LEASE_NAME, SECOND_TENANT_NEEDS_UID, CONFINEMENT_UNAVAILABLE. A member whose shim cannot even
        record that it runs has EXITED with 126 after a few tries, and its detail says why.
        """
        if not SAFE.fullmatch(lease.id) or not SAFE.fullmatch(lease.job):
            return Refusal(code="BAD_LEASE_NAME", facts={"lease": lease.id, "job": lease.job})
        refusal = self._tenant(lease.firm)
        if refusal is not None:
            return refusal
        uid = self.job_uids.get(lease.firm)
        work = self._work(lease, uid)
        method = self._confinement(work, uid)
        if isinstance(method, Refusal):
            return method
        self._record(lease)
        for member in lease.placement.members:
            directory = self._directory(lease.id, member.rank)
            if self._status(member.rank, directory).phase is not MemberPhase.ABSENT:
                continue
            if self._spawned[directory] >= SPAWNS:
                detail = f"its shim failed {SPAWNS} times: {_tail(directory / 'shim.err')}"
                _write(directory / "exit.json", {"exit_code": NOT_RUN, "detail": detail})
                continue
            self._prepare(directory, lease, member, work, method, uid)
            self._spawn(directory)
        return None

    def stop(self, lease: LeaseId, *, grace_ms: int, signal: str | None) -> None:
        """Every member is asked to end: signal, grace, SIGKILL; one that has not started never will.

        The first request stands. signal: a name such as SIGUSR1, None for SIGTERM.
        """
        if not SAFE.fullmatch(lease):
            return
        directory = self.root / "leases" / lease
        directory.mkdir(mode=0o700, exist_ok=True)  # also of a lease never launched: a late launch must find it
        if not (directory / "stop.json").exists():
            _write(directory / "stop.json", {"grace_ms": grace_ms, "signal": signal})
        for member in (self._directory(lease, rank) for rank in self._ranks(lease)):
            if _locked(member):
                _poke(_read(member / "shim.json") or {})
            elif (member / "spec.json").exists() and not _over(member):
                self._spawn(member)  # it says that it was stopped before it started

    def observe(self, leases: Sequence[LeaseId]) -> tuple[Observation, ...]:
        """What the shims recorded; LOST where the processes of a member died without recording its end."""
        for directory in list(self._children):
            self._lives(directory)
        found = []
        for lease in leases:
            ranks = self._ranks(lease)
            members = tuple(self._status(rank, self._directory(lease, rank)) for rank in ranks)
            if not members:
                members = (MemberStatus(rank=0, phase=MemberPhase.ABSENT),)
            found.append(Observation(lease=lease, members=members, report=self._report(lease, members)))
            self._assign(lease, ranks, members)
        return tuple(found)

    def logs(self, lease: LeaseId, rank: int, *, offset: int, limit: int) -> bytes:
        """Bytes [offset, offset + limit) of what a member wrote to stdout and stderr; empty past the end."""
        path = self._directory(lease, rank) / "log"
        if not SAFE.fullmatch(lease) or not path.exists():
            return b""
        with path.open("rb") as stream:
            stream.seek(max(0, offset))
            return stream.read(max(0, limit))

    def forget(self, lease: LeaseId) -> None:
        """The agent no longer attributes devices to the lease. Records and logs stay."""
        for directory in [d for d in self._spawned if d.parent.name == lease]:
            del self._spawned[directory]
        if self.assignments is not None and SAFE.fullmatch(lease):
            remove_assignment(self.assignments, lease)
        self._assigned.pop(lease, None)

    # --- launching ----------------------------------------------------------------------------------------------------

    def _tenant(self, firm: str) -> Refusal | None:
        path = self.root / "tenant.json"
        if not path.exists():
            _write(path, {"firm": firm})
        first = (_read(path) or {})["firm"]
        if firm == first or firm in self.job_uids:
            return None
        return Refusal(code="SECOND_TENANT_NEEDS_UID", facts={"firm": firm, "first": first})

    def _work(self, lease: Lease, uid: int | None) -> Path:
        """The job's own directory. Nothing below it is followed: the job may have put links there."""
        work = self.root / "work" / lease.job
        for folder in (work, work / "tmp"):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
                if uid is not None:
                    os.chown(folder, uid, uid, follow_symlinks=False)
        return work

    def _confinement(self, work: Path, uid: int | None) -> str | Refusal:
        if self.confinement == "none" or uid in self._methods:
            return self._methods.get(uid, "none")
        wanted = [m for m in METHODS if m != "uid" or uid is not None]
        tried = {}
        for method in wanted if self.confinement == "auto" else [self.confinement]:
            problem = unavailable(method, self.private, str(work), uid)
            if problem is None:
                self._methods[uid] = method
                return method
            tried[method] = problem
        return Refusal(code="CONFINEMENT_UNAVAILABLE", facts={"tried": tried})

    def _record(self, lease: Lease) -> None:
        directory = self.root / "leases" / lease.id
        directory.mkdir(mode=0o700, exist_ok=True)
        if not (directory / "lease.json").exists():
            devices = {str(m.rank): list(m.devices) for m in lease.placement.members}
            _write(directory / "lease.json", {"job": lease.job, "firm": lease.firm, "devices": devices})

    def _prepare(self, directory: Path, lease: Lease, member: Member, work: Path, method: str, uid: int | None) -> None:
        """What the shim needs is on disk; what is there already stays, as a member runs once."""
        directory.mkdir(mode=0o700, exist_ok=True)
        if (directory / "spec.json").exists():
            return
        checkpoint = lease.spec.checkpoint
        body = {
            "command": _command(lease),
            "setup": lease.spec.setup,
            "env": _environment(lease, member, work, self.path),
            "work": str(work),
            "log": str(directory / "log"),
            "private": list(self.private),
            "confinement": method,
            "confinement_file": str(HERE / "confinement.py"),
            "uid": uid,
            "time_limit_ms": lease.spec.time_limit_ms,
            "signal": checkpoint.signal if checkpoint else None,
            "grace_ms": checkpoint.grace_ms if checkpoint and checkpoint.grace_ms is not None else GRACE_MS,
        }
        _write(directory / "spec.json", body)

    def _spawn(self, directory: Path) -> None:
        self._spawned[directory] += 1
        # Not subprocess.Popen: its object complains when dropped before its child ends, which is what is meant here.
        self._children[directory] = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", str(HERE / "shim.py"), str(directory)],
            {"PATH": self.path, "LANG": "C.UTF-8"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, str(directory / "shim.err"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signals.SIGHUP, signals.SIGINT, signals.SIGQUIT, signals.SIGTERM, signals.SIGCHLD),
        )

    def _lives(self, directory: Path) -> bool:
        """Is a shim that this object started there still running? One that has ended is buried."""
        if directory not in self._children:
            return False
        try:
            gone = os.waitpid(self._children[directory], os.WNOHANG)[0] != 0
        except ChildProcessError:
            gone = True
        if gone:
            del self._children[directory]
        return not gone

    # --- looking ------------------------------------------------------------------------------------------------------

    def _directory(self, lease: str, rank: int) -> Path:
        return self.root / "leases" / lease / str(rank)

    def _ranks(self, lease: str) -> list[int]:
        body = _read(self.root / "leases" / lease / "lease.json") if SAFE.fullmatch(lease) else None
        return sorted(int(rank) for rank in body["devices"]) if body else []

    def _status(self, rank: int, directory: Path) -> MemberStatus:
        """The lock is asked before the records are read: a member that ends in between is EXITED, never LOST."""
        held = _locked(directory)
        shim, started, ended = (_read(directory / name) or {} for name in ("shim.json", "started.json", "exit.json"))
        if ended:
            phase = MemberPhase.EXITED
        elif started:
            phase = MemberPhase.RUNNING if held else MemberPhase.LOST
        elif held or self._lives(directory):
            phase = MemberPhase.STARTING
        else:
            phase = MemberPhase.ABSENT
        lost = "the processes beside it died without recording its end" if phase is MemberPhase.LOST else None
        return MemberStatus(
            rank=rank,
            phase=phase,
            pid=started.get("pid"),
            boot_id=(started or ended or shim).get("boot_id"),
            started_at=datetime.fromisoformat(started["started_at"]) if started else None,
            started_ms=started.get("started_ms"),
            ended_ms=ended.get("ended_ms"),
            exit_code=ended.get("exit_code"),
            cause=Cause(ended["cause"]) if ended.get("cause") else None,
            detail=ended.get("detail") or lost,
        )

    def _report(self, lease: LeaseId, members: Sequence[MemberStatus]) -> Report | None:
        """What the job wrote to $YISUAN_PROGRESS, while it runs; None where that is no report."""
        if not any(member.phase is MemberPhase.RUNNING for member in members):
            return None
        body = _read(self.root / "leases" / lease / "lease.json")
        return report_of(_said(_progress_file(self.root / "work" / body["job"], lease))) if body else None

    def _assign(self, lease: LeaseId, ranks: Sequence[int], members: Sequence[MemberStatus]) -> None:
        """The agent's file says what runs now; it is written when that changes."""
        if self.assignments is None or not ranks:
            return
        running = [m for m in members if m.phase is MemberPhase.RUNNING]
        pids = tuple(m.pid for m in running if m.pid is not None)
        known = self._assigned.get(lease)
        if (known is None and lease in self._assigned and not pids) or (known is not None and known.pids == pids):
            return
        body = (_read(self.root / "leases" / lease / "lease.json") or {})["devices"]
        devices = tuple(dict.fromkeys(uuid for m in running for uuid in body[str(m.rank)]))
        self._assigned[lease] = Assignment(allocation=lease, devices=devices, pids=pids) if devices else None
        assignment = self._assigned[lease]
        if assignment is None:
            remove_assignment(self.assignments, lease)
        else:
            write_assignment(self.assignments, assignment)


def _command(lease: Lease) -> str:
    """What the placed model's software stack runs, else the entrypoint, else a line that says there is neither."""
    variant = _variant(lease)
    missing = f"echo no entrypoint, and no variant for {shlex.quote(lease.placement.model)} >&2; exit {NOT_RUN}"
    return (variant.run if variant else None) or lease.spec.entrypoint or missing


def _variant(lease: Lease) -> Variant | None:
    chip = load_catalog().get(lease.placement.model)
    return lease.spec.variants.get(chip.stack) if chip else None


def _environment(lease: Lease, member: Member, work: Path, path: str) -> dict[str, str]:
    """All that the job's environment holds. Its own names may change PATH and the like, never what says who it is."""
    chip, variant = load_catalog().get(lease.placement.model), _variant(lease)
    world = str(len(lease.placement.members))
    found = {
        "PATH": path,
        "HOME": str(work),
        "TMPDIR": str(work / "tmp"),
        "LANG": "C.UTF-8",
        "USER": "job",
        "LOGNAME": "job",
        **lease.spec.envs,
        **(variant.envs if variant else {}),
        **lease.visibility.get(member.rank, {}),
        "YISUAN_JOB": lease.job,
        "YISUAN_LEASE": lease.id,
        "YISUAN_MODEL": lease.placement.model,
        "YISUAN_DEVICES": str(len(member.devices)),
        "YISUAN_RANK": str(member.rank),
        "YISUAN_WORLD_SIZE": world,
        "RANK": str(member.rank),
        "WORLD_SIZE": world,
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(PORTS[zlib.crc32(lease.id.encode()) % len(PORTS)]),
    }
    if chip is not None:
        found["YISUAN_VENDOR"] = chip.vendor
    checkpoint = lease.spec.checkpoint
    found["YISUAN_PROGRESS"] = str(_progress_file(work, lease.id))
    if checkpoint is not None:
        found["YISUAN_CHECKPOINT"] = os.path.normpath(work / checkpoint.path)
        if checkpoint.interval_ms is not None:
            found["YISUAN_CHECKPOINT_INTERVAL_S"] = str(checkpoint.interval_ms // 1000)
    return found


def _progress_file(work: Path, lease: str) -> Path:
    """Of this attempt alone: what an earlier one wrote is not its word."""
    return work / f"progress-{lease}.json"


def _said(path: Path) -> Any:
    """The JSON value of a file that the job owns, None where there is none: a link, a pipe or a large file is not read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(handle, REPORT_MAX + 1) if stat.S_ISREG(os.fstat(handle).st_mode) else b""
    except OSError:
        return None
    finally:
        os.close(handle)
    try:
        return json.loads(text) if len(text) <= REPORT_MAX else None
    except (ValueError, RecursionError):
        return None


# --- records ----------------------------------------------------------------------------------------------------------


def _over(directory: Path) -> bool:
    return (directory / "exit.json").exists() or (directory / "started.json").exists()


def _locked(directory: Path) -> bool:
    """Does a process of the member live? Asked with a shared lock, so that two who ask see no third."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _poke(shim: Mapping[str, Any]) -> None:
    """The shim looks at once. Only if the pid is still that of the process that wrote it down."""
    with contextlib.suppress(OSError, IndexError, KeyError):
        stat = Path(f"/proc/{shim['pid']}/stat").read_bytes()
        if int(stat.rpartition(b")")[2].split()[19]) == shim["start_ticks"]:  # field 22, proc_pid_stat(5)
            os.kill(shim["pid"], signals.SIGUSR2)


def _tail(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[-500:].strip()
    except FileNotFoundError:
        return ""


def _read(path: Path) -> dict[str, Any] | None:
    """None when it is not there."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def _write(path: Path, body: Mapping[str, Any]) -> None:
    """The file is whole and on the disk, or not there; only its owner can read it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as stream:
        json.dump(body, stream)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)
