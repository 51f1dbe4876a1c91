"""Agent: tells the platform what devices a node has, what they read, and what befell them.

Knows only devices; in-process or on its own. What cannot be delivered waits in a backlog (backlog.py); what holds the
devices is sworn to by a witness (witness.py), what the platform asks is answered by a respondent (respondent.py).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from adapters.accelerator import Accelerator, Health
from adapters.adapter import Adapter
from adapters.backlog import CAPACITY, Backlog, Report
from adapters.device_event import DeviceEvent, EventReader
from adapters.fault import Faults
from adapters.link import Link
from adapters.process import ProcessUse
from adapters.respondent import Asked, Respondent
from adapters.sample import Sample
from adapters.survey import Attest, Closing, problems_of, read_links, read_processes
from adapters.witness import Witness

BEAT_EVERY_S = 10.0


class Push(Protocol):
    """Takes what the agent says.

    Raises Refused when the platform answered and did not take it, anything else when there was no answer; the same may
    then come again.
    """

    def heartbeat(self, node: str, devices: Sequence[Accelerator], at: datetime) -> Asked | None:
        """The answer: what the platform asks of the node now."""
        ...

    def samples(self, node: str, batch: Sequence[Sample], events: Sequence[DeviceEvent] = ()) -> None: ...


class Refused(Exception):
    """The platform answered, and did not take it. final: it never will, and what follows must not wait for this."""

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


@runtime_checkable
class Attributing(Protocol):
    """An adapter whose readings come from the processes that assignments name."""

    def attribute(self, assignments_dir: Path) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStatus:
    """Where the agent stands.

    waiting, thinned, refused, delivered: samples. problem: why the last delivery failed, None if it did not.
    adapters: what adapters could not answer at the last beat or reading, or said of no device, and what the bus has
    that no tool lists. events: signed events that wait, None where the agent signs none. unsaid: why, at the last look,
    something was not said or not sent.
    """

    waiting: int
    thinned: int
    delivered: int
    problem: str | None
    adapters: tuple[str, ...]
    events: int | None = None
    unsaid: tuple[str, ...] = ()
    refused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What the agent last saw, for whoever looks from another thread. happened: events by uuid, code and severity."""

    devices: tuple[Accelerator, ...] = ()
    samples: tuple[Sample, ...] = ()
    processes: tuple[ProcessUse, ...] = ()
    links: tuple[Link, ...] = ()
    happened: tuple[tuple[tuple[str, str, str], int], ...] = ()


class Agent:
    """One node's agent.

    adapters: those of this host; an absent vendor is skipped, a failing one hides no other.

    clock: gives aware UTC. capacity: reports that may wait, at least 2; backlog: where they wait, memory unless given.
    witness: signs which allocations hold the devices; None: nothing is sworn to. respondent: answers the platform's challenges;
    None: they stay unanswered. attest: compares devices with the
    bus; None: they stay as their adapters name them. faults: what befell devices. detailed: whether processes and links
    are read too, for `scene`.
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
        backlog: Backlog | None = None,
        witness: Witness | None = None,
        respondent: Respondent | None = None,
        attest: Attest | None = None,
        faults: Faults | None = None,
        detailed: bool = False,
    ) -> None:
        self._backlog = backlog if backlog is not None else Backlog(capacity=capacity)
        self._witness, self._attest, self._detailed = witness, attest, detailed
        self._respondent = respondent
        self._faults = faults if faults is not None else Faults()
        self._node, self._adapters, self._push, self._clock = node, tuple(adapters), push, clock
        self._known: dict[int, tuple[Accelerator, ...]] = {}  # adapter's place → its devices when last read
        self._problems: dict[tuple[str, int], tuple[str, ...]] = {}
        self._happened: Counter[tuple[str, str, str]] = Counter()
        self._linked: frozenset[str] = frozenset()  # devices whose links were read
        self._refused = self._delivered = 0
        self._problem: str | None = None
        self._away = False
        self._scene = Scene()
        for adapter in self._adapters:
            if assignments_dir is not None and isinstance(adapter, Attributing):
                adapter.attribute(assignments_dir)

    def beat(self, now: datetime) -> bool:
        """The platform has heard which devices the node has; False when it could not be told.

        Devices that an adapter showed before and cannot read now are still named, with a problem and unknown
        health: a broken tool is not an empty node. A device with a fatal event is named as failed. What the platform asks in
        its answer is answered, with the devices that were read just now.
        """
        devices: list[Accelerator] = []
        read: set[str] = set()
        for place, adapter in enumerate(self._adapters):
            try:
                found = adapter.inventory() if adapter.probe().available else None
                self._note("inventory", place, problems_of(adapter) if found is not None else ())
            except Exception as error:  # noqa: BLE001  a broken adapter must not silence the others
                self._note("inventory", place, (f"{adapter.vendor}: {error}",))
                found = None
            if found is not None:
                self._known[place] = found
                devices += found
                read |= {device.uuid for device in found}
            else:
                devices += [_doubted(device) for device in self._known.get(place, ())]
        told = [self._faults.judge(device) for device in self._compared(devices)]
        self._scene = replace(self._scene, devices=tuple(told))
        self._see_links(told)
        asked: list[Asked | None] = []
        problem = self._deliver(lambda: asked.append(self._push.heartbeat(self._node, tuple(told), now)))
        self._respond(asked[0] if asked else None, [device for device in told if device.uuid in read])
        return problem is None

    def attest(self) -> int:
        """What holds the node's devices now is on disk, signed, and sent unless the platform is away.

        Returns how many events still wait; 0 without a witness. Devices are those of the last beat.
        """
        if self._witness is None:
            return 0
        devices = [device for found in self._known.values() for device in found]
        return self._witness.look(devices, online=not self._away)

    def watch(self) -> tuple[DeviceEvent, ...]:
        """What drivers said of devices since the last call; the first call begins to watch. Never raises."""
        found: list[DeviceEvent] = []
        for place, adapter in enumerate(self._adapters):
            if not isinstance(adapter, EventReader):
                continue
            try:
                found += adapter.events() if adapter.probe().available else ()
                self._note("events", place, ())
            except Exception as error:  # noqa: BLE001  a broken adapter must not silence the others
                self._note("events", place, (f"{adapter.vendor}: events: {error}",))
        for event in found:
            self._happened[event.uuid, event.code, event.severity.value if event.severity else "unknown"] += 1
        try:
            self._faults.note(found)
        except OSError as error:  # it still holds in this process
            self._note("faults", 0, (f"what befell devices cannot be kept: {error}",))
        return tuple(found)

    def sample(self, now: datetime) -> int:
        """Every device was read, idle ones too, and all that waits was offered.

        Returns how many samples still wait.

        All samples of a batch carry `now`; a failed adapter's devices have none, which integration counts as
        a gap. Device events go with them, with their own time.
        """
        events = self.watch()
        batch: list[Sample] = []
        for place, adapter in enumerate(self._adapters):
            try:
                found = adapter.samples() if adapter.probe().available else ()
                self._note("samples", place, problems_of(adapter) if found else ())
            except Exception as error:  # noqa: BLE001  a broken adapter must not silence the others
                self._note("samples", place, (f"{adapter.vendor}: {error}",))
                continue
            batch += [replace(sample, at=now) for sample in found]
        self._see(batch, events)
        if batch or events:
            self._offer(Report(samples=tuple(batch), events=events))
        else:
            self._empty()
        return self._backlog.samples

    def run(self, stop: threading.Event, period_s: float) -> None:
        """Beat, attest and sample until `stop` is set, then once more sworn and offered, and let go of all it holds.

        A late round is not made up for, so no two follow at once.
        """
        self.watch()  # drivers are watched from the start, not from the first reading
        beat_due = 0.0
        while not stop.is_set():
            began = time.monotonic()
            if began >= beat_due:
                self.beat(self._clock())
                beat_due = began + max(period_s, BEAT_EVERY_S)
            self.attest()
            self.sample(self._clock())
            stop.wait(max(period_s - (time.monotonic() - began), 0.0))
        self.close()

    def close(self) -> None:
        """What holds the devices was looked at a last time, all that waits was offered once, and libraries are let go.

        What could not be delivered stays on disk, where there is a directory.
        """
        self.attest()
        self._empty()
        for adapter in self._adapters:
            if isinstance(adapter, Closing):
                try:
                    adapter.close()
                except Exception as error:  # noqa: BLE001  we end in any case
                    self._note("close", 0, (f"{adapter.vendor}: {error}",))
        if self._respondent is not None:
            self._respondent.close()
        if self._witness is not None:
            self._witness.close()

    def status(self) -> AgentStatus:
        """Counts since the agent began, and what fails now."""
        said = [problem for key in sorted(self._problems) for problem in self._problems[key]]
        if self._faults.problem:
            said.append(self._faults.problem)
        if self._backlog.damaged:
            said.append(f"{self._backlog.damaged} reports that waited on disk were unreadable and put aside")
        return AgentStatus(
            waiting=self._backlog.samples,
            thinned=self._backlog.thinned,
            refused=self._refused,
            delivered=self._delivered,
            problem=self._problem,
            adapters=tuple(dict.fromkeys(said)),
            events=None if self._witness is None else len(self._witness.spool),
            unsaid=() if self._witness is None else self._witness.problems,
        )

    def scene(self) -> Scene:
        """What the agent saw last. Safe from any thread; the scene does not change."""
        return self._scene

    def _respond(self, asked: Asked | None, devices: Sequence[Accelerator]) -> None:
        if asked is None:
            return
        if self._respondent is None:
            self._note("challenge", 0, ("the platform asks for evidence, and this agent has no key to answer with",))
            return
        self._respondent.answer(asked, devices)
        self._note("challenge", 0, self._respondent.problems)

    def _compared(self, devices: Sequence[Accelerator]) -> Sequence[Accelerator]:
        if self._attest is None:
            return devices
        try:
            found, problems = self._attest(devices)
        except Exception as error:  # noqa: BLE001  a bus that cannot be read must not silence the tools
            self._note("bus", 0, (f"bus: {error}",))
            return devices
        self._note("bus", 0, problems)
        return found

    def _see(self, batch: Sequence[Sample], events: Sequence[DeviceEvent]) -> None:
        processes: tuple[ProcessUse, ...] = ()
        if self._detailed:
            try:
                processes, problems = read_processes(self._adapters)
            except Exception as error:  # noqa: BLE001  a broken adapter must not stop the agent
                problems = (f"processes: {error}",)
            self._note("processes", 0, problems)
        devices = self._scene.devices
        if events:  # before the next beat tells it
            devices = tuple(self._faults.judge(device) for device in devices)
        self._scene = replace(
            self._scene,
            devices=devices,
            samples=tuple(batch),
            processes=processes,
            happened=tuple(sorted(self._happened.items())),
        )

    def _see_links(self, devices: Sequence[Accelerator]) -> None:
        """Links are asked for again when the devices are others: a server of 16 has 120 pairs."""
        uuids = frozenset(device.uuid for device in devices)
        if not self._detailed or uuids == self._linked:
            return
        try:
            links, problems = read_links(self._adapters)
        except Exception as error:  # noqa: BLE001  a broken adapter must not stop the agent
            links, problems = (), (f"links: {error}",)
        self._note("links", 0, problems)
        self._linked = frozenset() if problems else uuids
        self._scene = replace(self._scene, links=links)

    def _offer(self, report: Report) -> None:
        """The report is delivered after all that waited before it, or waits."""
        if self._empty() and self._hand_over(report):
            return
        try:
            self._backlog.put(report)
            self._note("backlog", 0, ())
        except OSError as error:
            self._note("backlog", 0, (f"{len(report.samples)} samples are lost, the disk takes them not: {error}",))

    def _empty(self) -> bool:
        """Everything that waited was delivered; False when the platform is away."""
        while (report := self._backlog.oldest()) is not None:
            if not self._hand_over(report):
                return False
            self._backlog.drop()
        return True

    def _hand_over(self, report: Report) -> bool:
        """The platform has the report, or will never have it; False when it may be offered again."""
        problem = self._deliver(partial(self._push.samples, self._node, report.samples, report.events))
        if problem is None:
            self._delivered += len(report.samples)
        elif isinstance(problem, Refused) and problem.final:
            self._refused += len(report.samples)
            self._note("refused", 0, (f"{self._refused} samples were refused for good, the last: {problem}",))
        else:
            return False
        return True

    def _note(self, what: str, place: int, problems: Sequence[str]) -> None:
        if problems:
            self._problems[what, place] = tuple(problems)
        else:
            self._problems.pop((what, place), None)

    def _deliver(self, push: Callable[[], None]) -> Exception | None:
        """Why the platform has it not; None when it has."""
        try:
            push()
        except Exception as error:  # noqa: BLE001  whatever stops the platform must not stop the agent
            self._problem, self._away = f"{type(error).__name__}: {error}", not isinstance(error, Refused)
            return error
        self._problem, self._away = None, False
        return None


def _doubted(device: Accelerator) -> Accelerator:
    problem = "its adapter cannot read it now; this is what it showed before"
    return replace(device, health=Health.UNKNOWN, problems=(*device.problems, problem))
