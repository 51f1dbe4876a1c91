"""Simulated: declared devices of any catalogue model, read through the real processes that hold them.

Nothing is made up: without processes to measure there is no reading. Marked source=simulated, evidence L0;
such a device may only be settled in a ledger marked demo.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from adapters.accelerator import Accelerator, EvidenceLevel, Health, Source
from adapters.adapter import AdapterError, Capability, Probe, Reading
from adapters.assignment import Assignment, read_assignments
from adapters.catalog import Catalog, Chip, load_catalog
from adapters.device_node import device_nodes
from adapters.recording import read_recording
from adapters.sample import Sample

SEMANTICS = "process CPU time"
SHORTEST_S = 0.1  # CPU time is counted in steps of 10 ms: over less than this a rate is mostly rounding

# What each software stack reads to choose its devices (vendors' runtime documentation).
VARIABLES = {
    "cann": "ASCEND_RT_VISIBLE_DEVICES",
    "corex": "CUDA_VISIBLE_DEVICES",
    "cuda": "CUDA_VISIBLE_DEVICES",
    "dtk": "HIP_VISIBLE_DEVICES",
    "habana": "HABANA_VISIBLE_MODULES",
    "hggc": "CUDA_VISIBLE_DEVICES",
    "level_zero": "ZE_AFFINITY_MASK",
    "maca": "CUDA_VISIBLE_DEVICES",
    "musa": "MUSA_VISIBLE_DEVICES",
    "neuware": "MLU_VISIBLE_DEVICES",
    "rocm": "HIP_VISIBLE_DEVICES",
    "tops": "TOPS_VISIBLE_DEVICES",
    "xpu": "XPU_VISIBLE_DEVICES",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """`count` devices of a catalogue model on a node; indices run on over a node's declarations."""

    node: str
    model: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """What one allocation's processes use; None when they cannot be measured.

    cpu_ratio is cores' worth of time.
    """

    cpu_ratio: float | None = None
    memory_bytes: int | None = None
    error: str | None = None


@dataclass(slots=True)
class _Meter:
    """CPU seconds of one allocation when last read, on the monotonic clock."""

    at: float
    cpu_s: float
    ratio: float | None = None


class Simulated:
    """Declared devices. assignments_dir: the folder of assignment files; None = nobody knows who holds what.

    A declaration that the catalogue cannot fill, or a repeated one, raises AdapterError.
    """

    vendor = "simulated"
    capabilities = frozenset({Capability.UTILISATION, Capability.MEMORY})

    def __init__(
        self,
        declarations: Sequence[Declaration] = (),
        *,
        assignments_dir: Path | None = None,
        catalog: Catalog | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._catalog = catalog
        self._clock = clock
        self._assignments_dir = assignments_dir
        self._meters: dict[str, _Meter] = {}
        self._lock = threading.Lock()
        self._devices = declare(declarations, self._known()) if declarations else ()

    def attribute(self, assignments_dir: Path) -> None:
        """From now on readings come from the processes that this folder's assignments name."""
        self._assignments_dir = assignments_dir

    def probe(self) -> Probe:
        """Available when something was declared. Never raises."""
        if not self._devices:
            return Probe(available=False, reason="no simulated devices declared")
        return Probe(available=True)

    def inventory(self) -> tuple[Accelerator, ...]:
        """Every declared device, in the order of declaration."""
        return self._devices

    def samples(self, uuids: Iterable[str] | None = None) -> tuple[Sample, ...]:
        """One reading of each named device, or of all.

        utilisation_ratio: CPU seconds of the holders' process trees over wall time since the last reading
        (since their start, at the first), divided by their devices, at most 1. memory_used_bytes: their
        resident memory, divided likewise. A device that no assignment holds reads 0; where that is not known,
        None. Power is unknown.
        """
        wanted = None if uuids is None else frozenset(uuids)
        at = self._clock()
        with self._lock:
            held, error = self._held()
        found = []
        for device in self._devices:
            if wanted is None or device.uuid in wanted:
                found.append(_sample(device, at, held, error))
        return tuple(found)

    def visibility(self, devices: Sequence[Accelerator]) -> Mapping[str, str]:
        """Variables as the modelled vendors' stacks read them, by index; YISUAN_VISIBLE_DEVICES has all."""
        shown: dict[str, list[str]] = {"YISUAN_VISIBLE_DEVICES": []}
        for device in devices:
            name = device.visible_id or str(device.index)
            chip = self._known().get(device.model or "")
            shown["YISUAN_VISIBLE_DEVICES"].append(name)
            variable = VARIABLES.get(chip.stack) if chip else None
            if variable:
                shown.setdefault(variable, []).append(name)
        found = {variable: ",".join(names) for variable, names in shown.items()}
        return found | ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if "CUDA_VISIBLE_DEVICES" in found else {})

    def device_nodes(self, devices: Sequence[Accelerator]) -> tuple[str, ...]:
        """Files under /dev that a container needs for exactly these devices. ValueError where that is not known."""
        return device_nodes(self.vendor, devices)

    def parse_recording(self, path: Path) -> Reading:
        """A declaration file: `{"version": 1, "devices": [{"node": "n1", "model": "H800", "count": 8}]}`."""
        text, _ = read_recording(path)
        return Reading(devices=declare(read_declarations(text), self._known()), samples=())

    def _held(self) -> tuple[dict[str, list[tuple[Assignment, _Use]]] | None, str | None]:
        """Who holds each device and what they use.

        None when that is not known, with the reason if there is one.
        """
        if self._assignments_dir is None or not self._assignments_dir.is_dir():
            return None, None
        try:
            assignments = read_assignments(self._assignments_dir)
        except AdapterError as error:
            return None, str(error)
        held: dict[str, list[tuple[Assignment, _Use]]] = {}
        for assignment in assignments:
            use = self._measure(assignment)
            for uuid in assignment.devices:
                held.setdefault(uuid, []).append((assignment, use))
        for gone in self._meters.keys() - {assignment.allocation for assignment in assignments}:
            del self._meters[gone]
        return held, None

    def _measure(self, assignment: Assignment) -> _Use:
        if not assignment.pids:
            return _Use(error=f"{assignment.allocation}: its processes are not known")
        try:
            cpu_s, memory_bytes, started_at = _read_trees(assignment.pids)
        except psutil.Error as error:
            return _Use(error=f"{assignment.allocation}: {error}")
        now = time.monotonic()
        meter = self._meters.get(assignment.allocation)
        if meter is None:
            age_s = max(time.time() - started_at, 0.0)
            ratio = cpu_s / age_s if age_s >= SHORTEST_S else None
            self._meters[assignment.allocation] = _Meter(at=now, cpu_s=cpu_s, ratio=ratio)
        elif now - meter.at < SHORTEST_S:
            ratio = meter.ratio
        else:
            ratio = max(cpu_s - meter.cpu_s, 0.0) / (now - meter.at)
            self._meters[assignment.allocation] = _Meter(at=now, cpu_s=cpu_s, ratio=ratio)
        return _Use(cpu_ratio=ratio, memory_bytes=memory_bytes)

    def _known(self) -> Catalog:
        return self._catalog if self._catalog is not None else load_catalog()


def declare(declarations: Sequence[Declaration], catalog: Catalog) -> tuple[Accelerator, ...]:
    """The devices that declarations stand for.

    AdapterError names an unknown model and the nearest known one.
    """
    found: list[Accelerator] = []
    counts: dict[str, int] = {}
    for declaration in declarations:
        chip = catalog.get(declaration.model)
        if chip is None:
            near = catalog.resolve(declaration.model) or (catalog.nearest(declaration.model),)
            hint = f"; nearest is {near[0]!r}" if near[0] else ""
            raise AdapterError(f"model: {declaration.model!r} is not in the catalogue{hint}")
        if not declaration.node or declaration.count < 1:
            raise AdapterError(f"declaration: {declaration!r} needs a node and a count of at least 1")
        first = counts.get(declaration.node, 0)
        counts[declaration.node] = first + declaration.count
        found += [_declared(chip, declaration.node, index) for index in range(first, counts[declaration.node])]
    return tuple(found)


def read_declarations(text: str) -> tuple[Declaration, ...]:
    """The declarations of a file. AdapterError says which entry is not one."""
    try:
        body: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"declaration: not JSON: {error}") from error
    if not isinstance(body, dict) or set(body) != {"version", "devices"} or body["version"] != 1:
        raise AdapterError('declaration: expected {"version": 1, "devices": […]}')
    if not isinstance(body["devices"], list):
        raise AdapterError("devices: not a list")
    found = []
    for place, entry in enumerate(body["devices"]):
        types = {name: type(value) for name, value in entry.items()} if isinstance(entry, dict) else {}
        if types != {"node": str, "model": str, "count": int}:
            raise AdapterError(f"devices[{place}]: {entry!r} is not {{node: text, model: text, count: whole number}}")
        found.append(Declaration(**entry))
    return tuple(found)


def _declared(chip: Chip, node: str, index: int) -> Accelerator:
    return Accelerator(
        uuid=f"sim:{node}:{index}",
        index=index,
        vendor=chip.vendor,
        model_raw=chip.model,
        model=chip.model,
        visible_id=str(index),
        memory_total_bytes=chip.memory_bytes,
        health=Health.OK,
        source=Source.SIMULATED,
        evidence_level=EvidenceLevel.DECLARED,
    )


def _sample(
    device: Accelerator,
    at: datetime,
    held: Mapping[str, Sequence[tuple[Assignment, _Use]]] | None,
    error: str | None,
) -> Sample:
    ratio: float | None = None
    memory: int | None = None
    if held is not None:
        holders = held.get(device.uuid, ())
        ratios = [use.cpu_ratio for _, use in holders]
        memories = [use.memory_bytes for _, use in holders]
        error = next((use.error for _, use in holders if use.error), None)
        if None not in ratios:  # free: the sum of nothing is a real 0
            parts = [part / len(by.devices) for part, (by, _) in zip(ratios, holders, strict=True) if part is not None]
            ratio = min(sum(parts), 1.0)
        if None not in memories:
            memory = sum(part // len(by.devices) for part, (by, _) in zip(memories, holders, strict=True) if part)
    return Sample(
        uuid=device.uuid,
        at=at,
        utilisation_ratio=ratio,
        utilisation_semantics=SEMANTICS,
        memory_used_bytes=memory,
        raw_error=error,
    )


def _read_trees(pids: Sequence[int]) -> tuple[float, int, float]:
    """CPU seconds, resident bytes and the earliest start of these processes and all below them.

    CPU time of children that ended is in their parent's children_* counts, so the sum never runs backwards
    while the roots live. A child that ends while we look is left out; a root that is gone raises
    psutil.NoSuchProcess.
    """
    seen: dict[int, psutil.Process] = {}
    started = []
    for pid in pids:
        root = psutil.Process(pid)
        if root.status() == psutil.STATUS_ZOMBIE:
            raise psutil.ZombieProcess(pid)
        started.append(root.create_time())
        for process in (root, *root.children(recursive=True)):
            seen.setdefault(process.pid, process)
    cpu_s, memory_bytes = 0.0, 0
    for pid, process in seen.items():
        try:
            times, memory = process.cpu_times(), process.memory_info().rss
        except psutil.NoSuchProcess:
            if pid in pids:
                raise
            continue
        cpu_s += times.user + times.system + times.children_user + times.children_system
        memory_bytes += memory
    return cpu_s, memory_bytes, min(started)
