"""Agent: tells the platform what devices a node has and what they read.

Knows only devices; in-process or on its own.

Readings that cannot be delivered wait in a bounded queue. When it is full its older half is thinned to every
second batch: neighbours are then two periods apart, which integration still joins; thinned further they
become a gap.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from adapters.accelerator import Accelerator, Health
from adapters.adapter import Adapter
from adapters.sample import Sample
from adapters.witness import Witness

CAPACITY = 720  # batches: two hours at one every 10 s
BEAT_EVERY_S = 10.0


class Push(Protocol):
    """Takes what the agent says.

    Raises anything when it could not take it; the same batch may then come again.
    """

    def heartbeat(self, node: str, devices: Sequence[Accelerator], at: datetime) -> None: ...

    def samples(self, node: str, batch: Sequence[Sample]) -> None: ...


@runtime_checkable
class Attributing(Protocol):
    """An adapter whose readings come from the processes that assignments name."""

    def attribute(self, assignments_dir: Path) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStatus:
    """Where the agent stands.

    waiting, thinned, delivered: samples. problem: why the last delivery failed, None if it did not.
    adapters: what adapters could not answer at the last beat or reading. events: signed events that wait, None where
    the agent signs none. unsaid: why, at the last look, something was not said or not sent.
    """

    waiting: int
    thinned: int
    delivered: int
    problem: str | None
    adapters: tuple[str, ...]
    events: int | None = None
    unsaid: tuple[str, ...] = ()


class Agent:
    """One node's agent.

    adapters: those of this host; an absent vendor is skipped, a failing one hides no other.

    clock: gives aware UTC. capacity: batches that may wait, at least 2. witness: signs which allocations hold the
    devices; None: nothing is sworn to.
    """

    def __init__(
        self,
        node: str,
        adapters: Sequence[Adapter],
        push: Push,
        assignments_dir: Path | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        capacity: int = CAPACITY,
        witness: Witness | None = None,
    ) -> None:
        if capacity < 2:
            raise ValueError(f"capacity: {capacity} is below 2; nothing could be thinned")
        self._witness = witness
        self._node, self._adapters, self._push, self._clock = node, tuple(adapters), push, clock
        self._capacity = capacity
        self._queue: list[tuple[Sample, ...]] = []
        self._known: dict[int, tuple[Accelerator, ...]] = {}  # adapter's place → its devices when last read
        self._problems: dict[tuple[str, int], str] = {}
        self._thinned = self._delivered = 0
        self._problem: str | None = None
        for adapter in self._adapters:
            if assignments_dir is not None and isinstance(adapter, Attributing):
                adapter.attribute(assignments_dir)

    def beat(self, now: datetime) -> bool:
        """The platform has heard which devices the node has; False when it could not be told.

        Devices that an adapter showed before and cannot read now are still named, with a problem and unknown
        health: a broken tool is not an empty node.
        """
        devices: list[Accelerator] = []
        for place, adapter in enumerate(self._adapters):
            try:
                found = adapter.inventory() if adapter.probe().available else None
                self._problems.pop(("inventory", place), None)
            except Exception as error:  # noqa: BLE001  a broken adapter must not silence the others
                self._problems["inventory", place] = f"{adapter.vendor}: {error}"
                found = None
            if found is not None:
                self._known[place] = found
                devices += found
            else:
                devices += [_doubted(device) for device in self._known.get(place, ())]
        return self._deliver(partial(self._push.heartbeat, self._node, tuple(devices), now))

    def attest(self) -> int:
        """What holds the node's devices now is on disk, signed, and sent unless the platform is away.

        Returns how many events still wait; 0 without a witness. Devices are those of the last beat.
        """
        if self._witness is None:
            return 0
        devices = [device for found in self._known.values() for device in found]
        return self._witness.look(devices, online=self._problem is None)

    def sample(self, now: datetime) -> int:
        """Every device was read, idle ones too, and all that waits was offered.

        Returns how many samples still wait.

        All samples of a batch carry `now`; a failed adapter's devices have none, which integration counts as
        a gap.
        """
        batch: list[Sample] = []
        for place, adapter in enumerate(self._adapters):
            try:
                found = adapter.samples() if adapter.probe().available else ()
                self._problems.pop(("samples", place), None)
            except Exception as error:  # noqa: BLE001  a broken adapter must not silence the others
                self._problems["samples", place] = f"{adapter.vendor}: {error}"
                continue
            batch += [replace(sample, at=now) for sample in found]
        if batch:
            self._queue.append(tuple(batch))
            self._thin()
        while self._queue:
            first = self._queue[0]
            if not self._deliver(partial(self._push.samples, self._node, first)):
                break
            self._delivered += len(first)
            del self._queue[0]
        return sum(len(waiting) for waiting in self._queue)

    def run(self, stop: threading.Event, period_s: float) -> None:
        """Beat, attest and sample until `stop` is set; a late round is not made up for, so no two follow at once."""
        beat_due = 0.0
        while not stop.is_set():
            began = time.monotonic()
            if began >= beat_due:
                self.beat(self._clock())
                beat_due = began + max(period_s, BEAT_EVERY_S)
            self.attest()
            self.sample(self._clock())
            stop.wait(max(period_s - (time.monotonic() - began), 0.0))

    def status(self) -> AgentStatus:
        """Counts since the agent began, and what fails now."""
        return AgentStatus(
            waiting=sum(len(batch) for batch in self._queue),
            thinned=self._thinned,
            delivered=self._delivered,
            problem=self._problem,
            adapters=tuple(self._problems[key] for key in sorted(self._problems)),
            events=None if self._witness is None else len(self._witness.spool),
            unsaid=() if self._witness is None else self._witness.problems,
        )

    def _thin(self) -> None:
        if len(self._queue) <= self._capacity:
            return
        older, newer = self._queue[: len(self._queue) // 2], self._queue[len(self._queue) // 2 :]
        self._thinned += sum(len(batch) for batch in older[1::2])
        self._queue = older[::2] + newer

    def _deliver(self, push: Callable[[], None]) -> bool:
        try:
            push()
        except Exception as error:  # noqa: BLE001  whatever stops the platform must not stop the agent
            self._problem = f"{type(error).__name__}: {error}"
            return False
        self._problem = None
        return True


def _doubted(device: Accelerator) -> Accelerator:
    problem = "its adapter cannot read it now; this is what it showed before"
    return replace(device, health=Health.UNKNOWN, problems=(*device.problems, problem))
