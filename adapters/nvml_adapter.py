"""NVML adapter: the port to a vendor whose library is shaped after NVML, with the vendor's tool where there is none.

The library is asked in a process of its own, a device at a time. A device whose question is not answered in time is
listed as failed, is left alone for HUNG_S, and hides no other; when the driver answers nothing any more, the devices
not yet asked are listed as unknown, with that as their problem.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol

from adapters.accelerator import Accelerator, Health, Partition, PartitionKind, Source
from adapters.adapter import AdapterError, Capability, Probe, Reading
from adapters.catalog import Catalog, load_catalog
from adapters.command import run_tool
from adapters.deadline import ASK_S, OPEN_S, DeadlineError, LibraryDied, Worker
from adapters.device_event import DeviceEvent, Severity
from adapters.device_node import device_nodes
from adapters.link import Link, Nearness
from adapters.nvml import DOUBLE_BIT_EVENT, XID_EVENT, Driver, Told
from adapters.nvml_symbols import load_library
from adapters.process import ProcessUse
from adapters.recording import read_recording
from adapters.row import Row, assemble, name_device
from adapters.sample import Sample
from adapters.smi import MIG_ON, inherit_models, judge_health, read_serial

HUNG_S = 60.0  # a device that hung is asked again after this; meanwhile the others are read without waiting for it
ROUND_S = 30.0  # one inventory or one set of samples, however many devices hang
LINKS_S = 15.0  # a server of 16 has 120 pairs
# NVIDIA's XID catalogue: errors that a job makes itself; and those after which the device must be reset or replaced.
APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 69, 109})
FATAL_XIDS = frozenset({48, 62, 64, 74, 79, 95, 110, 119, 120, 136, 140, 143, 155, 156})
WARNING_XIDS = frozenset({63, 92, 94})
DEAD = "the driver does not answer any more; this device was not asked"


class Asked(Protocol):
    """Whoever answers for the library: a Worker, or a Driver in this process."""

    def ask(self, method: str, *arguments: Any, deadline_s: float | None = None) -> Any: ...

    def close(self) -> None: ...


class Direct:
    """A Driver in this process, for a library that a test brings along. Nothing is killed here."""

    def __init__(self, library: Any) -> None:
        self._driver = Driver(nvml=library)

    def ask(self, method: str, *arguments: Any, deadline_s: float | None = None) -> Any:  # noqa: ARG002
        return getattr(self._driver, method)(*arguments)

    def close(self) -> None:
        self._driver.close()


class NvmlAdapter:
    """Devices of one vendor on this host. A subclass names vendor, library, tool and variables.

    library: a binding for tests, asked in this process; libraries: file names of the shared library, else the
    vendor's; run: gives a tool's answer; ask_s, open_s: deadlines of one question and of the library's first.
    """

    vendor: ClassVar[str]
    semantics: ClassVar[str]
    prefix: ClassVar[str] = "nvml"
    names: ClassVar[tuple[str, ...]]
    fabric: ClassVar[str] = "nvlink"
    partitions: ClassVar[PartitionKind] = PartitionKind.MIG
    by_uuid: ClassVar[bool] = True
    graded: ClassVar[bool] = False  # whether the vendor's XIDs mean what NVIDIA's catalogue says
    tool: ClassVar[tuple[str, ...]]
    capabilities: frozenset[Capability] = frozenset(Capability)

    def __init__(
        self,
        *,
        library: Any | None = None,
        libraries: Sequence[str] = (),
        run: Callable[[Sequence[str]], str] | None = None,
        catalog: Catalog | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        ask_s: float = ASK_S,
        open_s: float = OPEN_S,
    ) -> None:
        self._libraries = tuple(libraries) or self.names
        self._run = run
        self._catalog = catalog
        self._clock = clock
        self._ask_s = ask_s
        self._asked: Asked = (
            Direct(library)
            if library is not None
            else Worker(
                "adapters.nvml:Driver",
                {"libraries": self._libraries, "prefix": self.prefix},
                open_s=open_s,
                ask_s=ask_s,
            )
        )
        self._brought = library is not None
        self._said: tuple[str, ...] = ()
        self._lock = threading.RLock()
        self._seen: tuple[int, dict[int, Row]] = (0, {})  # how many there were, and who each was
        self._hung: dict[int, float] = {}
        self._last: dict[str, str] = {}  # uuid → its last numbered event

    @staticmethod
    def parse(text: str, written_at: datetime, catalog: Catalog) -> Reading:
        """What a recorded output of the vendor's tools says."""
        raise NotImplementedError

    def probe(self) -> Probe:
        """Whether the library answers here, or else the tool is on the path. Never raises."""
        reason = self._absence()
        if reason is None:
            try:
                self._asked.ask("open")
            except AdapterError as error:
                reason = str(error)
        if reason is None or self._has_tool():
            return Probe(available=True)
        return Probe(available=False, reason=f"{reason}; {self.tool[0]} is not on the path")

    def inventory(self) -> tuple[Accelerator, ...]:
        """Every device that the library counts, and its partitions after it; the tool's where there is no library.

        One that cannot be opened, or does not answer, is listed as failed, with its problem. AdapterError when the
        devices cannot even be counted.
        """
        with self._lock:
            if not self._speaks():
                return self._told_by_tool().devices
            rows: list[Row] = []
            taken: dict[str, int] = {}
            for index, told in self._round("device"):
                found = self._known_rows(index, told) if isinstance(told, dict) else [self._unread(index, told)]
                rows += [self._alone(row, index, taken) for row in found]
            reading = assemble(
                [replace(row, sampled=False) for row in rows],
                self._clock(),
                self._known(),
                vendor=self.vendor,
                semantics=self.semantics,
                source=Source.LIBRARY,
            )
            self._said = reading.problems
            return inherit_models(reading.devices)

    def samples(self, uuids: Iterable[str] | None = None) -> tuple[Sample, ...]:
        """One reading of each named device, or of all; a reading that the library does not give is None."""
        wanted = None if uuids is None else frozenset(uuids)
        with self._lock:
            if not self._speaks():
                found = self._told_by_tool().samples
            else:
                taken: dict[str, int] = {}
                found = tuple(
                    sample for index, told in self._round("reading") for sample in self._sampled(index, told, taken)
                )
        return tuple(sample for sample in found if wanted is None or sample.uuid in wanted)

    def processes(self, uuids: Iterable[str] | None = None) -> tuple[ProcessUse, ...]:
        """The processes that hold each named device, or any; pids are the host's. () where only the tool is there."""
        wanted = None if uuids is None else frozenset(uuids)
        with self._lock:
            if not self._speaks():
                return ()
            found = [
                ProcessUse(
                    uuid=self._name(index, process),
                    pid=process["pid"],
                    name=process["name"],
                    memory_used_bytes=process["used"],
                    utilisation_ratio=process["ratio"],
                )
                for index, told in self._round("processes")
                if isinstance(told, list)
                for process in told
            ]
        return tuple(use for use in found if wanted is None or use.uuid in wanted)

    def links(self) -> tuple[Link, ...]:
        """Every pair of devices and the nearest path between them. () where only the tool is there."""
        with self._lock:
            if not self._speaks():
                return ()
            told = self._asked.ask("links", deadline_s=LINKS_S)
        found = []
        for pair in told:
            a, b = sorted((self._name(-1, pair["a"]), self._name(-1, pair["b"])))
            found.append(
                Link(
                    a_uuid=a,
                    b_uuid=b,
                    nearness=Nearness.FABRIC if pair["count"] else read_nearness(pair["level"]),
                    fabric=self.fabric if pair["count"] else None,
                    count=pair["count"],
                    bandwidth_gbs=pair["speed"],
                )
            )
        return tuple(found)

    def events(self, wait_ms: int = 0) -> tuple[DeviceEvent, ...]:
        """XIDs and double-bit errors since the last question. The first question begins to watch.

        AdapterError when the driver does not answer; events before the next question's watch are then lost.
        """
        with self._lock:
            if not self._speaks():
                return ()
            told = self._asked.ask("events", wait_ms, deadline_s=self._ask_s + wait_ms / 1000)
            found = tuple(read_event(event, self._name(-1, event), self._clock(), graded=self.graded) for event in told)
            for event in found:
                self._last[event.uuid] = event.code
        return found

    def visibility(self, devices: Sequence[Accelerator]) -> Mapping[str, str]:
        raise NotImplementedError

    def device_nodes(self, devices: Sequence[Accelerator]) -> tuple[str, ...]:
        """Files under /dev that a container needs for exactly these devices. ValueError where that is not known."""
        return device_nodes(self.vendor, devices)

    def problems(self) -> tuple[str, ...]:
        """What the last inventory or samples said about no device that it lists."""
        return self._said

    def parse_recording(self, path: Path) -> Reading:
        """A recorded output of the vendor's tool or exporter, or of gpustack's detector; AdapterError if neither."""
        text, written_at = read_recording(path)
        return type(self).parse(text, written_at, self._known())

    def close(self) -> None:
        """The library is released and its process gone; the next question opens it again."""
        with self._lock:
            self._asked.close()

    def _round(self, method: str) -> list[tuple[int, Any]]:
        """What the library told of each device, or the AdapterError that it gave instead; never waits beyond ROUND_S."""
        count = int(self._asked.ask("count"))
        if count != self._seen[0]:
            self._seen = (count, {})
            self._hung.clear()  # numbers stand for other devices now
        until = time.monotonic() + ROUND_S
        found: list[tuple[int, Any]] = []
        dead: str | None = None
        for index in range(count):
            since = self._hung.get(index)
            if since is not None and time.monotonic() - since < HUNG_S:
                found.append((index, DeadlineError("it gave no answer a moment ago, and is left alone for a minute")))
            elif dead is not None or time.monotonic() > until:
                found.append((index, AdapterError(dead or DEAD)))
            else:
                found.append((index, self._one(method, index)))
                if isinstance(found[-1][1], DeadlineError | LibraryDied):
                    self._hung[index] = time.monotonic()
                    dead = self._lives()
        return found

    def _one(self, method: str, index: int) -> Any:
        try:
            told = self._asked.ask(method, index)
        except AdapterError as error:
            return error
        self._hung.pop(index, None)
        return told

    def _lives(self) -> str | None:
        """None when the driver still answers others; else what to say of the devices not yet asked."""
        try:
            self._asked.ask("count")
        except AdapterError:
            return DEAD
        return None

    def _known_rows(self, index: int, told: Told) -> list[Row]:
        row = self._row(index, told)
        self._seen[1][index] = row
        parent = name_device(self.vendor, row)
        return [
            row,
            *(
                Row(
                    index=part["index"],
                    uuid=part["uuid"] or f"{parent}:part:{part['index']}",
                    name=part["name"] or row.name,
                    bdf=row.bdf,
                    driver=row.driver,
                    numa_node=row.numa_node,
                    visible_id=part["uuid"],
                    total=part["total"],
                    health=row.health,
                    partition=Partition(kind=self.partitions, parent_uuid=parent, profile=part["profile"]),
                )
                for part in told["parts"]
            ),
        ]

    def _row(self, index: int, told: Told) -> Row:
        fault = told["fault"]
        before = self._seen[1].get(index) if fault else None
        uuid = told["uuid"] or (before.uuid if before else None)
        problems = (f"{self.prefix.upper()} says of device {index}: {fault}",) if fault else ()
        return Row(
            index=index,
            uuid=uuid,
            unnamed=True,
            bdf=told["bdf"] or (before.bdf if before else None),
            name=told["name"] or (before.name if before else None),
            serial=read_serial(told["serial"]),
            driver=told["driver"],
            firmware=told["firmware"],
            pci_vendor_id=told["pci_vendor_id"],
            pci_device_id=told["pci_device_id"],
            numa_node=told["numa"],
            visible_id=(uuid if self.by_uuid else str(index)) if not told["split"] else None,
            total=told["total"],
            limit=told["limit"],
            health=Health.FAILED if fault else judge_health(failed=told["failed"], waiting=told["waiting"]),
            health_code=fault,
            problems=(*problems, *((MIG_ON,) if told["split"] else ())),
        )

    def _unread(self, index: int, error: AdapterError) -> Row:
        """The row of a device that gave no answer: named as it was before, failed unless it was merely not asked."""
        before = self._seen[1].get(index)
        asked = str(error) != DEAD
        problem = f"{self.prefix.upper()} cannot read device {index}: {error}" if asked else DEAD
        return Row(
            index=index,
            uuid=before.uuid if before else None,
            unnamed=True,
            bdf=before.bdf if before else None,
            name=before.name if before else None,
            serial=before.serial if before else None,
            total=before.total if before else None,
            health=Health.FAILED if asked else Health.UNKNOWN,
            health_code=str(error) if asked else None,
            problems=(problem,),
        )

    def _alone(self, row: Row, index: int, taken: dict[str, int]) -> Row:
        """The row, named by its bus address where another device already has its uuid: a copied one is suspect."""
        uuid = name_device(self.vendor, row)
        holder = taken.setdefault(uuid, index)
        if holder == index:
            return row
        problem = f"its uuid {uuid} is also that of device {holder}"
        held = replace(row, uuid=None, unnamed=False, visible_id=None, problems=(*row.problems, problem))
        held = held if name_device(self.vendor, held) not in taken else replace(held, bdf=None)
        taken.setdefault(name_device(self.vendor, held), index)
        return held

    def _sampled(self, index: int, told: Any, taken: dict[str, int]) -> list[Sample]:
        at = self._clock()
        found: list[Sample] = []
        if not isinstance(told, list):
            row = self._alone(self._unread(index, told), index, taken)
            state = None if row.health is Health.UNKNOWN else row.health
            return [Sample(uuid=name_device(self.vendor, row), at=at, raw_error=row.problems[0], health=state)]
        for measures in told:
            if measures.get("part") and not measures["uuid"]:
                continue  # a partition that says nothing of itself has no readings to join
            uuid = self._name(index, measures)
            fault = measures.get("fault")
            held = self._alone(Row(index=index, uuid=uuid, bdf=measures["bdf"]), index, taken)
            row = replace(
                held,
                used=measures["used"],
                uncorrected=measures["uncorrected"],
                ratio=measures.get("ratio"),
                bandwidth=measures.get("bandwidth"),
                power=measures.get("power"),
                energy=measures.get("energy"),
                temperature=measures.get("temperature"),
                memory_temperature=measures.get("memory_temperature"),
                core_clock=measures.get("core_clock"),
                memory_clock=measures.get("memory_clock"),
                corrected=measures.get("corrected"),
                retired=measures.get("retired"),
                link_errors=measures.get("link_errors"),
                throttled=None if measures.get("throttled") is None else tuple(measures["throttled"]),
                last_error=self._last.get(uuid),
                health=Health.FAILED if fault else Health.UNKNOWN,
                health_code=fault,
                raw_error=fault,
            )
            reading = assemble([row], at, self._known(), vendor=self.vendor, semantics=self.semantics)
            found += reading.samples
        return found

    def _name(self, index: int, told: Told) -> str:
        before = self._seen[1].get(index if index >= 0 else told.get("index", -1))
        row = Row(index=max(index, 0), uuid=told["uuid"], bdf=told["bdf"])
        if row.uuid is None and row.bdf is None and before is not None:
            return name_device(self.vendor, before)
        return name_device(self.vendor, row)

    def _absence(self) -> str | None:
        """Why the library is not here; None when it is. Loading it touches no device."""
        return None if self._brought else load_library(self._libraries)[1]

    def _speaks(self) -> bool:
        """Whether the library is to be asked. AdapterError when there is neither library nor tool."""
        reason = self._absence()
        if reason is None:
            try:
                self._asked.ask("open")
            except (DeadlineError, LibraryDied):
                raise  # the tool would ask the same driver, and hang as well
            except AdapterError as error:
                reason = str(error)
        if reason is not None and not self._has_tool():
            raise AdapterError(f"{reason}; {self.tool[0]} is not on the path")
        return reason is None

    def _has_tool(self) -> bool:
        return self._run is not None or shutil.which(self.tool[0]) is not None

    def _told_by_tool(self) -> Reading:
        reading = type(self).parse((self._run or run_tool)(self.tool), self._clock(), self._known())
        self._said = reading.problems
        return reading

    def _known(self) -> Catalog:
        return self._catalog if self._catalog is not None else load_catalog()


def read_nearness(level: int | None) -> Nearness:
    """NVML's level; two devices on one board meet at its switch."""
    try:
        return Nearness.SWITCH if level == 0 else Nearness(level if level is not None else 100)
    except ValueError:
        return Nearness.UNKNOWN


def read_event(told: Told, uuid: str, at: datetime, *, graded: bool = True) -> DeviceEvent:
    """The event in our words: an XID with what NVIDIA's catalogue has follow from it, or a double-bit error."""
    if told["type"] == XID_EVENT:
        number = told["number"]
        kinds = (
            (APPLICATION_XIDS, Severity.INFO),
            (WARNING_XIDS, Severity.WARNING),
            (FATAL_XIDS, Severity.FATAL),
        )
        severity = next((kind for numbers, kind in kinds if graded and number in numbers), None)
        return DeviceEvent(uuid=uuid, at=at, code=f"XID {number}", severity=severity)
    if told["type"] == DOUBLE_BIT_EVENT:
        return DeviceEvent(uuid=uuid, at=at, code="double-bit ECC error", severity=Severity.WARNING)
    return DeviceEvent(uuid=uuid, at=at, code=f"event {told['type']:#x}")


def name_visible(devices: Sequence[Accelerator]) -> str:
    """What the vendor's visibility variable wants of the devices, by comma. ValueError where one has no such name."""
    unnamed = [device.uuid for device in devices if device.visible_id is None]
    if unnamed:
        raise ValueError(f"visible_id: unknown for {', '.join(unnamed)}; no process can be confined to it")
    return ",".join(str(device.visible_id) for device in devices)
