"""Local backend: real processes on this host, one shim per gang member; every call may be repeated.

All knowledge is in files, none in this object: `<root>/leases/<lease>/<rank>/` holds what each shim recorded, and
`<root>/work/<job>/` is the job's own directory, kept over attempts so that checkpoints resume.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal as signals
import subprocess
import sys
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from adapters.assignment import Assignment, remove_assignment, write_assignment
from adapters.catalog import load_catalog
from scheduler.backends import confinement as methods
from scheduler.lease import Cause, Lease, LeaseId, Member, MemberPhase, MemberStatus, Observation
from scheduler.refusal import Refusal

HERE = Path(__file__).parent
SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
GRACE_MS = 10_000
RECORDS = ("spec.json", "shim.json", "started.json", "exit.json")


class LocalBackend:
    """scheduler.ports.Backend for one Linux host.

    private: directories no job may open (the platform's data and keys). path: PATH of jobs. confinement: auto (the first
    method that works here) or one of confinement.METHODS; `none` is for tests and says so. job_uids: a uid of its own per
    firm; without one a second firm is refused, because two tenants under one uid can read each other's files.
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
        self.root = root
        self.private = tuple(private)
        self.path = path
        self.confinement = confinement
        self.job_uids = dict(job_uids or {})
        self.assignments = assignments
        self._method: str | None = None
        self._children: list[subprocess.Popen[bytes]] = []
        for folder in (root, root / "leases", root / "work"):
            folder.mkdir(parents=True, exist_ok=True)
        os.chmod(root / "leases", 0o700)

    # --- the port ---------------------------------------------------------------------------------------------------

    def launch(self, lease: Lease) -> Refusal | None:
        """Every member's shim has been started; those that run, or ran, are left alone."""
        if not SAFE.fullmatch(lease.id) or not SAFE.fullmatch(lease.job):
            return Refusal(code="BAD_LEASE_NAME", facts={"lease": lease.id})
        refusal = self._tenant(lease.firm)
        if refusal is not None:
            return refusal
        work = self.root / "work" / lease.job
        (work / "tmp").mkdir(parents=True, exist_ok=True)
        uid = self.job_uids.get(lease.firm)
        if uid is not None:
            for folder in (work, work / "tmp"):
                os.chown(folder, uid, uid)
        chosen = self._confinement(work, uid)
        if isinstance(chosen, Refusal):
            return chosen
        for member in lease.placement.members:
            directory = self._member(lease.id, member.rank)
            if _state(directory)[0] in (MemberPhase.ABSENT,):
                self._prepare(directory, lease, member, work, chosen, uid)
                self._spawn(directory)
        return None

    def stop(self, lease: LeaseId, *, grace_ms: int, signal: str | None) -> None:
        """Every member is asked to end: signal, grace, SIGKILL; one that has not started never will."""
        for directory in self._members(lease):
            if (directory / "exit.json").exists():
                continue
            if not (directory / "stop.json").exists():
                _write(directory / "stop.json", {"grace_ms": grace_ms, "signal": signal or "SIGTERM"})
            phase, facts = _state(directory)
            if phase in (MemberPhase.STARTING, MemberPhase.RUNNING) and facts.get("shim"):
                _poke(facts["shim"])
            elif phase is MemberPhase.ABSENT:
                self._spawn(directory)

    def observe(self, leases: Sequence[LeaseId]) -> tuple[Observation, ...]:
        """What the shims recorded; LOST where one died without recording the end."""
        self._children = [child for child in self._children if child.poll() is None]
        found = []
        for lease in leases:
            members = tuple(_status(int(directory.name), directory) for directory in self._members(lease))
            if not members:
                members = (MemberStatus(rank=0, phase=MemberPhase.ABSENT),)
            found.append(Observation(lease=lease, members=members))
            self._assign(lease, members)
        return tuple(found)

    def logs(self, lease: LeaseId, rank: int, *, offset: int, limit: int) -> bytes:
        """Bytes [offset, offset + limit) of what a member wrote to stdout and stderr; empty past the end."""
        path = self._member(lease, rank) / "log"
        if not path.exists():
            return b""
        with path.open("rb") as stream:
            stream.seek(max(0, offset))
            return stream.read(max(0, limit))

    def forget(self, lease: LeaseId) -> None:
        """The agent no longer attributes devices to the lease. Records and logs stay."""
        if self.assignments is not None:
            remove_assignment(self.assignments, lease)

    # --- launching --------------------------------------------------------------------------------------------------

    def _prepare(self, directory: Path, lease: Lease, member: Member, work: Path, method: str, uid: int | None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        if (directory / "spec.json").exists():
            return
        chip = load_catalog().get(lease.placement.model)
        variant = lease.spec.variants.get(chip.stack) if chip and chip.stack else None
        checkpoint = lease.spec.checkpoint
        body = {
            "command": (variant.run if variant and variant.run else None) or lease.spec.entrypoint or "false",
            "setup": lease.spec.setup,
            "env": self._environment(lease, member, work, variant.envs if variant else {}),
            "work": str(work.resolve()),
            "log": str((directory / "log").resolve()),
            "private": [str(p.resolve()) for p in self.private],
            "confinement": method,
            "confinement_file": str(HERE / "confinement.py"),
            "uid": uid,
            "time_limit_ms": lease.spec.time_limit_ms,
            "signal": checkpoint.signal if checkpoint else None,
            "grace_ms": checkpoint.grace_ms if checkpoint and checkpoint.grace_ms is not None else GRACE_MS,
            "devices": list(member.devices),
        }
        _write(directory / "spec.json", body)

    def _spawn(self, directory: Path) -> None:
        arguments = [sys.executable, "-I", "-S", str(HERE / "shim.py"), str(directory)]
        child = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            close_fds=True,
            env={"PATH": self.path, "LANG": "C.UTF-8"},
        )
        self._children.append(child)

    def _environment(self, lease: Lease, member: Member, work: Path, extra: Mapping[str, str]) -> dict[str, str]:
        world = len(lease.placement.members)
        port = 20_000 + zlib.crc32(lease.id.encode()) % 20_000
        checkpoint = lease.spec.checkpoint
        found = {
            "PATH": self.path,
            "HOME": str(work.resolve()),
            "TMPDIR": str((work / "tmp").resolve()),
            "LANG": "C.UTF-8",
            **lease.spec.envs,
            **extra,
            **lease.visibility.get(member.rank, {}),
            "YISUAN_JOB": lease.job,
            "YISUAN_LEASE": lease.id,
            "YISUAN_MODEL": lease.placement.model,
            "YISUAN_DEVICES": str(len(member.devices)),
            "YISUAN_RANK": str(member.rank),
            "YISUAN_WORLD_SIZE": str(world),
            "RANK": str(member.rank),
            "WORLD_SIZE": str(world),
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        if checkpoint is not None:
            found["YISUAN_CHECKPOINT"] = str((work / checkpoint.path).resolve())
            if checkpoint.interval_ms is not None:
                found["YISUAN_CHECKPOINT_INTERVAL_S"] = str(checkpoint.interval_ms // 1000)
        return found

    def _tenant(self, firm: str) -> Refusal | None:
        path = self.root / "tenant.json"
        if firm in self.job_uids:
            return None
        if not path.exists():
            _write(path, {"firm": firm})
        first = json.loads(path.read_text())["firm"]
        return None if first == firm else Refusal(code="SECOND_TENANT_NEEDS_UID", facts={"firm": firm})

    def _confinement(self, work: Path, uid: int | None) -> str | Refusal:
        if self._method is not None:
            return self._method
        if self.confinement == "none":
            return "none"
        wanted = [m for m in methods.METHODS if m != "uid" or uid is not None]
        tried = {}
        for method in wanted if self.confinement == "auto" else [self.confinement]:
            problem = methods.unavailable(method, [str(p) for p in self.private], str(work), uid)
            if problem is None:
                self._method = method
                return method
            tried[method] = problem
        return Refusal(code="CONFINEMENT_UNAVAILABLE", facts={"tried": tried})

    # --- records ----------------------------------------------------------------------------------------------------

    def _member(self, lease: str, rank: int) -> Path:
        return self.root / "leases" / lease / str(rank)

    def _members(self, lease: str) -> list[Path]:
        directory = self.root / "leases" / lease
        if not SAFE.fullmatch(lease) or not directory.is_dir():
            return []
        return sorted((d for d in directory.iterdir() if d.name.isdigit()), key=lambda d: int(d.name))

    def _assign(self, lease: LeaseId, members: Sequence[MemberStatus]) -> None:
        if self.assignments is None:
            return
        running = [m for m in members if m.phase is MemberPhase.RUNNING and m.pid is not None]
        if not running:
            remove_assignment(self.assignments, lease)
            return
        devices = [
            uuid
            for m in running
            for uuid in json.loads((self._member(lease, m.rank) / "spec.json").read_text())["devices"]
        ]
        assignment = Assignment(
            allocation=lease,
            devices=tuple(devices),
            share_permille=1000,
            pids=tuple(m.pid for m in running if m.pid),
            cgroup=None,
        )
        write_assignment(self.assignments, assignment)


def _state(directory: Path) -> tuple[MemberPhase, dict[str, Any]]:
    """Phase and merged records. The lock is asked first: what it covers cannot change to LOST between two reads."""
    held = _locked(directory)
    facts: dict[str, Any] = {}
    for name in RECORDS[1:]:
        body = _read(directory / name)
        if body is not None:
            if name == "shim.json":
                facts["shim"] = body["pid"]
            facts |= {k: v for k, v in body.items() if not (name == "shim.json" and k == "pid")}
            facts[name] = True
    if "exit.json" in facts:
        return MemberPhase.EXITED, facts
    if held:
        return (MemberPhase.RUNNING if "started.json" in facts else MemberPhase.STARTING), facts
    if "started.json" in facts:
        return MemberPhase.LOST, facts
    return MemberPhase.ABSENT, facts


def _status(rank: int, directory: Path) -> MemberStatus:
    phase, facts = _state(directory)
    started = facts.get("started_at")
    cause = facts.get("cause")
    return MemberStatus(
        rank=rank,
        phase=phase,
        pid=facts.get("pid") if "started.json" in facts else None,
        boot_id=facts.get("boot_id"),
        started_at=datetime.fromisoformat(started) if started else None,
        started_ms=facts.get("started_ms"),
        ended_ms=facts.get("ended_ms"),
        exit_code=facts.get("exit_code"),
        cause=Cause(cause) if cause else None,
        detail=facts.get("detail")
        or ("its shim died without recording the end" if phase is MemberPhase.LOST else None),
    )


def _locked(directory: Path) -> bool:
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


def _poke(pid: int) -> None:
    try:
        os.kill(pid, signals.SIGUSR2)
    except (ProcessLookupError, PermissionError):
        pass


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def _write(path: Path, body: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(body, stream)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
