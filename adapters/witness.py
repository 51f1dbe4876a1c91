"""Witness: says under the node's key which allocations hold its devices, and sees that the platform hears it.

One look compares the assignments with what was said last and writes what is new: a start, a stop, other devices, or
now and then that all is as it was. Everything waits in the spool, so that nothing is lost by a platform or an agent
that is away. Where the agent did not look, it swears to nothing: an allocation that went meanwhile ended, as far as
anyone can prove, when it was last seen.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from adapters.accelerator import Accelerator
from adapters.assignment import Assignment, scan_assignments
from adapters.event import SOURCE_PREFIX, EventInvalid, Kind, Signed
from adapters.spool import BATCH, EventWriter, Spool, SpoolFull, Tail, deliver

SAY_EVERY_MS = 10_000  # parameter: a heartbeat costs one stored event; ten seconds bound what a crash leaves unsaid
AWAY_MS = 60_000  # looks further apart say nothing of the time between
KEY, SPOOL = "node.key", "events.spool"

Stream = tuple[str, str, str]
Send = Callable[[list[dict[str, Any]], datetime], Sequence[Mapping[str, Any]]]
_BOOT = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,63}")


def load_key(directory: Path) -> Ed25519PrivateKey:
    """The node's key (32 bytes in hex, mode 0600, in a directory of mode 0700), made once if there is none.

    ValueError for any other content: a lost key is enrolled anew by a person, never replaced unseen.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / KEY
    with suppress(FileExistsError):
        draft = path.with_name(f"{KEY}.{os.getpid()}")  # linked whole: a crash leaves no half of a key
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, Ed25519PrivateKey.generate().private_bytes_raw().hex().encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(draft, path)
        finally:
            draft.unlink()
    try:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text("ascii").strip()))
    except ValueError:
        raise ValueError(f"{path}: not an Ed25519 private key of 32 bytes in hex") from None


def host_boot() -> str:
    """The host's boot id; another one after every start of the host."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def host_boot_ms() -> int:
    """Milliseconds since the host's start, suspended time included (clock_gettime(2), CLOCK_BOOTTIME)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Whose clocks an agent reads. boot: the host's boot id, letters, digits and hyphens."""

    boot: str
    now: Callable[[], datetime]
    boot_ms: Callable[[], int]

    def __post_init__(self) -> None:
        if not _BOOT.fullmatch(self.boot):
            raise ValueError(f"boot: {self.boot!r} is not 1 to 64 letters, digits and hyphens, as a uuid is")


def this_host() -> Host:
    """The machine we run on."""
    return Host(boot=host_boot(), now=lambda: datetime.now(UTC), boot_ms=host_boot_ms)


class Witness:
    """One node's word. directory: holds its key and spool. assignments: where the backend says what runs.

    send: takes documents and the time of sending, gives one {id, status} for each that the platform has. A stream's
    boot is the host's boot id, a dot, and its clock at the start: an allocation seen again is another stream.
    SpoolBusy, SpoolDamaged, ValueError where the directory is in use or spoiled.
    """

    def __init__(
        self,
        node: str,
        directory: Path,
        assignments: Path,
        send: Send,
        host: Host | None = None,
        *,
        say_every_ms: int = SAY_EVERY_MS,
    ) -> None:
        self._node, self._assignments, self._send = node, assignments, send
        self._host = host or this_host()
        self._say_every_ms = say_every_ms
        key = load_key(directory)
        self.spool = Spool(directory / SPOOL)
        self._writer = EventWriter(
            node=node,
            boot=self._host.boot,
            key=key,
            agent_version=version("yisuan"),
            spool=self.spool,
            now=self._host.now,
            boot_ms=self._host.boot_ms,
        )
        self._looked_ms: int | None = None
        self._said_ms: dict[Stream, int] = {}
        self._free_from: dict[str, datetime] = {}
        self.problems: tuple[str, ...] = ()

    def look(self, inventory: Iterable[Accelerator], *, online: bool = True) -> int:
        """What holds this node's devices now is on disk, signed, and was sent if `online`; how many events wait.

        Never raises for what it meets: a spoiled file, a full spool, a silent platform; `problems` says it.
        """
        problems = []
        try:
            problems += self._say({device.uuid: device.model for device in inventory})
        except (SpoolFull, EventInvalid, OSError) as problem:
            problems.append(f"{type(problem).__name__}: {problem}")
        if online:
            try:
                deliver(self.spool, lambda batch: self._send(batch, self._host.now()), BATCH)
            except Exception as problem:  # noqa: BLE001  whatever stops the platform must not stop the agent
                problems.append(f"{type(problem).__name__}: {problem}")
        self.problems = tuple(problems)
        return len(self.spool)

    def close(self) -> None:
        """The spool is let go; open streams go on when the agent comes back."""
        self.spool.close()

    def _say(self, mine: Mapping[str, str | None]) -> list[str]:
        found, unread = scan_assignments(self._assignments)
        held = {assignment.allocation: assignment for assignment in found}
        now_ms = self._host.boot_ms()
        away = self._looked_ms is None or now_ms - self._looked_ms > AWAY_MS
        said: list[tuple[Signed, int]] = []
        quiet: list[tuple[Signed, int]] = []
        going: set[str] = set()
        for stream in self.spool.open_streams():
            tail = self.spool.tail(stream)
            if tail is None or stream[0] != SOURCE_PREFIX + self._node:
                continue
            earlier = not self._of_this_boot(stream)
            if earlier or stream[2] not in {*held, *unread}:
                said.append(self._writer.continued(tail, Kind.STOPPED, in_the_past=earlier or away))
                self._free(tail, said[-1][0])
                continue
            going.add(stream[2])
            if stream[2] in unread:
                continue
            devices = _now_held(held[stream[2]], tail, mine)
            if devices != tail.signed.event.devices:
                said.append(self._writer.continued(tail, Kind.MIGRATED, devices))
                self._free(tail, said[-1][0])
            elif now_ms - self._said_ms.get(stream, now_ms - self._say_every_ms) >= self._say_every_ms:
                quiet.append(self._writer.continued(tail, Kind.HEARTBEAT))
        for allocation, assignment in held.items():
            devices = tuple(sorted(set(assignment.devices) & set(mine)))
            if devices and allocation not in going:
                said.append(self._open(assignment, devices, mine[devices[0]], now_ms))
        for made in (said, quiet):
            if made:
                self.spool.put(made)
                self._remember(made, now_ms)
        self._looked_ms = now_ms
        return [str(problem) for problem in unread.values()]

    def _open(
        self, assignment: Assignment, devices: tuple[str, ...], model: str | None, now_ms: int
    ) -> tuple[Signed, int]:
        """Its start, no earlier than where what we said before of its devices ends: clocks may have been set back."""
        start = max([self._host.now(), *(self._free_from[uuid] for uuid in devices if uuid in self._free_from)])
        writer = replace(self._writer, boot=f"{self._host.boot}.{now_ms}")
        share = assignment.share_permille
        return writer.opened(assignment.allocation, devices, share_permille=share, model=model, at=start)

    def _of_this_boot(self, stream: Stream) -> bool:
        return stream[1].partition(".")[0] == self._host.boot

    def _free(self, tail: Tail, last: Signed) -> None:
        """Remember from when on the platform will believe that somebody else holds what the stream held."""
        end = replace(tail, signed=last).end
        held = tail.signed.event.devices
        for uuid in held if last.event.kind is Kind.STOPPED else set(held) - set(last.event.devices):
            self._free_from[uuid] = max(end, self._free_from.get(uuid, end))

    def _remember(self, made: Iterable[tuple[Signed, int]], now_ms: int) -> None:
        for signed, _ in made:
            if signed.event.kind is Kind.STOPPED:
                self._said_ms.pop(signed.event.stream, None)
            else:
                self._said_ms[signed.event.stream] = now_ms


def _now_held(assignment: Assignment, tail: Tail, mine: Mapping[str, str | None]) -> tuple[str, ...]:
    """The devices the stream holds. A part of an allocation that ends gives nothing back: it is held until all ends."""
    before = tail.signed.event.devices
    named = {uuid for uuid in assignment.devices if uuid in mine or uuid in before}
    return before if named <= set(before) else tuple(sorted(named))
