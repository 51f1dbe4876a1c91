"""Spool: signed events wait on disk until the platform has them, through a crash of the agent and of the host.

One file of JSON lines, only appended to, each append on disk (fsync) before it counts. A last line that a crash
tore off never counted and is cut. When most of the file is acknowledged it is replaced, whole, by what is left.
The last event of every open stream stays, so that an agent that comes back continues the count and the chain.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from adapters.chain import GENESIS, instant, timestamp
from adapters.event import Event, EventInvalid, Kind, Signed, key_id_of, parse, sign

CAPACITY = 100_000  # events; at one heartbeat a minute and 8 allocations, eight days
RESERVE = 10  # one part in so many is kept for starts and stops: a heartbeat that finds no room loses nothing
COMPACT_AT = 4_096  # lines
BATCH = 500


class SpoolFull(Exception):
    """Nothing was written: as many events wait as may. waiting, capacity: events."""

    def __init__(self, waiting: int, capacity: int) -> None:
        self.waiting, self.capacity = waiting, capacity
        super().__init__(f"{waiting} events wait of at most {capacity}; is the platform reached?")


class SpoolDamaged(Exception):
    """A line that was on disk cannot be read any more. path, line: which."""

    def __init__(self, path: Path, line: int, problem: str) -> None:
        self.path, self.line = path, line
        super().__init__(f"{path}:{line}: {problem}")


class SpoolBusy(Exception):
    """Another process writes this spool."""


@dataclass(frozen=True, slots=True)
class Tail:
    """The last event of an open stream. began_ms: reading of the agent's monotonic clock at the stream's start.

    began_at: the start's own time, from which the platform reckons; None where the spool no longer tells.
    """

    signed: Signed
    began_ms: int
    began_at: datetime | None = None

    @property
    def end(self) -> datetime:
        """Where the stream ends as the platform reckons it: its start and the length it carries."""
        event = self.signed.event
        return event.at if self.began_at is None else self.began_at + timedelta(milliseconds=event.monotonic_ms)


class Spool:
    """Events of one agent that wait. capacity: events that may wait, starts and stops included; at least 1."""

    def __init__(self, path: Path, *, capacity: int = CAPACITY) -> None:
        if capacity < 1:
            raise ValueError(f"capacity: {capacity} is below 1; nothing could wait")
        self._path, self._capacity, self._lock = path, capacity, threading.RLock()
        self._waiting: dict[str, dict[str, Any]] = {}
        self._tails: dict[tuple[str, str, str], Tail] = {}
        self._lines = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._guard = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._guard)
            raise SpoolBusy(str(path)) from None
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            _sync(path.parent)
            self._load()
        except BaseException:
            os.close(self._guard)
            raise

    def put(self, made: Iterable[tuple[Signed, int]]) -> None:
        """All of them wait, on disk, or SpoolFull and none does. Each comes with its stream's `began_ms`."""
        with self._lock:
            batch = list(made)
            quiet = all(signed.event.kind is Kind.HEARTBEAT for signed, _ in batch)
            limit = self._capacity - (self._capacity // RESERVE if quiet else 0)
            if len(self._waiting) + len(batch) > limit:
                raise SpoolFull(len(self._waiting), limit)
            self._append([{"event": signed.document(), "began_ms": began} for signed, began in batch])
            for signed, began in batch:
                self._keep(signed, began)

    def waiting(self, limit: int = BATCH) -> list[dict[str, Any]]:
        """The oldest events that are not acknowledged, as documents."""
        with self._lock:
            return [document for _, document in zip(range(limit), self._waiting.values(), strict=False)]

    def acknowledge(self, ids: Iterable[str]) -> None:
        """The platform has these; they are not sent again. An id that does not wait changes nothing."""
        with self._lock:
            mine = [identity for identity in dict.fromkeys(ids) if identity in self._waiting]
            if not mine:
                return
            self._append([{"ack": mine}])
            for identity in mine:
                del self._waiting[identity]
            if self._lines >= COMPACT_AT and self._lines > 2 * (len(self._waiting) + len(self._tails)):
                self._compact()

    def tail(self, stream: tuple[str, str, str]) -> Tail | None:
        """Where an open stream stands; None when it never began or has stopped."""
        return self._tails.get(stream)

    def open_streams(self) -> tuple[tuple[str, str, str], ...]:
        """Streams that began and have not stopped, in order."""
        return tuple(sorted(self._tails))

    def abandon(self, stream: tuple[str, str, str]) -> None:
        """Nothing more will be said about a stream, as when its host has booted again; what waits is still sent."""
        with self._lock:
            if stream in self._tails:
                self._append([{"abandoned": list(stream)}])
                del self._tails[stream]

    def __len__(self) -> int:
        return len(self._waiting)

    def close(self) -> None:
        """The file and its lock are let go; what waits stays on disk."""
        os.close(self._file)
        os.close(self._guard)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _keep(
        self, signed: Signed, began_ms: int | None, began_at: datetime | None = None, *, waits: bool = True
    ) -> None:
        """began_ms: None for an event of a stream that has stopped since; it only waits."""
        if waits:
            self._waiting[signed.event.id] = signed.document()
        if began_ms is None:
            return
        known = self._tails.get(signed.event.stream)
        if signed.event.kind is Kind.STOPPED:
            self._tails.pop(signed.event.stream, None)
        elif known is None or known.signed.event.seq < signed.event.seq:
            if signed.event.kind is Kind.STARTED:
                began_at = signed.event.at
            elif known is not None:
                began_at = known.began_at
            self._tails[signed.event.stream] = Tail(signed, began_ms, began_at)

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        text = b"".join(_line(line) for line in lines)
        size = os.fstat(self._file).st_size
        try:
            _write(self._file, text)
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, size)  # a full disk: what was half written never counted
            raise
        self._lines += len(lines)

    def _load(self) -> None:
        content = self._path.read_bytes()
        whole, _, torn = content.rpartition(b"\n")
        if torn:
            os.ftruncate(self._file, len(content) - len(torn))
            os.fsync(self._file)
        for number, text in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                body = json.loads(text)
                if "ack" in body:
                    for identity in body["ack"]:
                        self._waiting.pop(identity, None)
                elif "abandoned" in body:
                    self._tails.pop(tuple(body["abandoned"]), None)
                else:
                    began_at = instant(body["began_at"]) if body.get("began_at") else None
                    self._keep(parse(body["event"]), body["began_ms"], began_at, waits=not body.get("sent", False))
            except (ValueError, KeyError, TypeError, EventInvalid) as error:
                raise SpoolDamaged(self._path, number, str(error)) from error
            self._lines += 1

    def _compact(self) -> None:
        """The same state in as few lines as it needs, replaced whole."""
        lines: list[dict[str, Any]] = []
        for tail in self._tails.values():
            if tail.signed.event.id not in self._waiting:
                lines.append({"event": tail.signed.document(), **_began(tail), "sent": True})
        for document in self._waiting.values():
            stream = parse(document).event.stream
            lines.append({"event": document, **_began(self._tails.get(stream))})
        draft = self._path.with_name(self._path.name + ".draft")
        handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        _write(handle, b"".join(_line(line) for line in lines))
        os.fsync(handle)
        draft.replace(self._path)
        _sync(self._path.parent)
        os.close(self._file)
        self._file, self._lines = handle, len(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventWriter:
    """Says what happens to a node's allocations, in order, into a spool.

    boot: the host's boot id. now: aware UTC. boot_ms: a clock that only moves forward, suspended time included.
    """

    node: str
    boot: str
    key: Ed25519PrivateKey
    agent_version: str
    spool: Spool
    now: Callable[[], datetime]
    boot_ms: Callable[[], int]

    def started(
        self, allocation: str, devices: Sequence[str], *, share_permille: int = 1000, model: str | None = None
    ) -> Signed:
        """The allocation holds the devices from now on. Said again in the same boot, the first word stands."""
        known = self.spool.tail(self._stream(allocation))
        if known is not None:
            return known.signed
        made = self.opened(allocation, devices, share_permille=share_permille, model=model)
        self.spool.put([made])
        return made[0]

    def opened(
        self,
        allocation: str,
        devices: Sequence[str],
        *,
        share_permille: int = 1000,
        model: str | None = None,
        at: datetime | None = None,
    ) -> tuple[Signed, int]:
        """A stream's first event with the reading of the clock it counts from; nothing is on disk yet. at: now."""
        event = Event(
            kind=Kind.STARTED,
            node=self.node,
            boot=self.boot,
            allocation=allocation,
            seq=1,
            at=_whole(at or self.now()),
            devices=tuple(devices),
            share_permille=share_permille,
            monotonic_ms=0,
            prev_hash=GENESIS,
            agent_version=self.agent_version,
            key_id=key_id_of(self.key.public_key()),
            model=model,
        )
        return sign(event, self.key), self.boot_ms()

    def continued(
        self, tail: Tail, kind: Kind, devices: Sequence[str] = (), *, in_the_past: bool = False
    ) -> tuple[Signed, int]:
        """What follows a stream's last event; nothing is on disk yet. devices: those of before if none.

        in_the_past: it happened no later than the last event, as nothing is known of the time since.
        """
        last = tail.signed.event
        since = last.monotonic_ms if in_the_past else self.boot_ms() - tail.began_ms
        event = replace(
            last,
            kind=kind,
            seq=last.seq + 1,
            at=last.at if in_the_past else _whole(self.now()),
            monotonic_ms=max(since, last.monotonic_ms),
            devices=tuple(devices) or last.devices,
            prev_hash=tail.signed.hash,
            agent_version=self.agent_version,
            key_id=key_id_of(self.key.public_key()),
        )
        return sign(event, self.key), tail.began_ms

    def heartbeat(self, allocations: Iterable[str]) -> list[Signed]:
        """Each still holds its devices; one write to disk for all of them. KeyError for one that is not open."""
        made = [self._next(allocation, Kind.HEARTBEAT) for allocation in allocations]
        self.spool.put(made)
        return [signed for signed, _ in made]

    def stopped(self, allocation: str) -> Signed:
        """The allocation holds nothing any more. KeyError for one that is not open."""
        made = self._next(allocation, Kind.STOPPED)
        self.spool.put([made])
        return made[0]

    def migrated(self, allocation: str, devices: Sequence[str]) -> Signed:
        """The allocation holds these devices instead of those before. KeyError for one that is not open."""
        made = self._next(allocation, Kind.MIGRATED, tuple(devices))
        self.spool.put([made])
        return made[0]

    def _stream(self, allocation: str) -> tuple[str, str, str]:
        return f"urn:yisuan:agent:{self.node}", self.boot, allocation

    def _next(self, allocation: str, kind: Kind, devices: tuple[str, ...] | None = None) -> tuple[Signed, int]:
        tail = self.spool.tail(self._stream(allocation))
        if tail is None:
            raise KeyError(f"{allocation} is not open on {self.node} in boot {self.boot}")
        return self.continued(tail, kind, devices or ())


def deliver(
    spool: Spool, send: Callable[[list[dict[str, Any]]], Sequence[Mapping[str, Any]]], limit: int = BATCH
) -> int:
    """Everything that waited was sent, oldest first, until `send` raised or answered for none; how many were taken.

    send: gives one {id, status} per event that the platform has, quarantined ones too: they are visible there.
    """
    taken = 0
    while batch := spool.waiting(limit):
        answered = {str(outcome["id"]) for outcome in send(batch)} & {str(document["id"]) for document in batch}
        if not answered:
            break
        spool.acknowledge(answered)
        taken += len(answered)
    return taken


def _whole(at: datetime) -> datetime:
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def _began(tail: Tail | None) -> dict[str, Any]:
    if tail is None:
        return {"began_ms": None}
    return {"began_ms": tail.began_ms, "began_at": timestamp(tail.began_at) if tail.began_at else None}


def _line(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _write(handle: int, text: bytes) -> None:
    while text:
        text = text[os.write(handle, text) :]


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
