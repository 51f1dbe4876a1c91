"""NVML: one reader for every library of that shape, run where it may hang (deadline.py). Answers are plain values.

Units there: memory bytes, power mW, energy mJ since the driver loaded, temperature °C, clocks MHz (NVML API
reference); here already ours. A question that the library, the driver or the device does not answer is None, and one
that fails because the device is gone is told as its fault.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adapters.adapter import AdapterError
from adapters.cell import read_bdf, read_text
from adapters.nvml_symbols import SHAPES, Renamed, load_library

# Blank readings come as values from here on (NVML_VALUE_NOT_AVAILABLE as unsigned; DCGM's 64-bit blanks).
SENTINEL = (1 << 63) - 16
SENTINEL_32 = (1 << 32) - 1
LOST = {15: "GPU is lost", 16: "GPU requires reset"}
# Field ids of nvml.h: sums over all links, and the memory's temperature.
LINK_ERRORS = (38, 45, 52, 59)
MEMORY_TEMPERATURE = 82
REASONS = (
    *((0x2, "applications_clocks_setting"), (0x4, "sw_power_cap"), (0x8, "hw_slowdown"), (0x10, "sync_boost")),
    *((0x20, "sw_thermal_slowdown"), (0x40, "hw_thermal_slowdown"), (0x80, "hw_power_brake_slowdown")),
    *((0x100, "display_clock_setting"),),
)
# 10^9 bytes a second, both ways, of one NVLink by its version (NVIDIA's figures: V100 6 × 50, A100 12 × 50,
# H100 18 × 50, B200 18 × 100).
LINK_SPEED = {1: 40.0, 2: 50.0, 3: 50.0, 4: 50.0, 5: 100.0}
MAX_LINKS = 36
MAX_PARTS = 16
XID_EVENT, DOUBLE_BIT_EVENT = 0x8, 0x2
MAX_EVENTS = 64

Told = dict[str, Any]


class Driver:
    """Reads one library. nvml: the binding, nvidia-ml-py unless a test brings its own.

    libraries: file names to try in order (none: the binding's own search); prefix: of its symbols, a key of SHAPES.
    """

    def __init__(self, *, nvml: Any | None = None, libraries: Sequence[str] = (), prefix: str = "nvml") -> None:
        self._nvml = nvml
        self._libraries = tuple(libraries)
        self._prefix = prefix
        self._ready = False
        self._faults: list[str] = []
        self._events: Any | None = None
        self._watched: dict[int, Told] = {}  # address of a handle → whose it is

    def open(self) -> Told:
        """The library answers after this. AdapterError with its words when it does not."""
        if self._nvml is None:
            self._nvml = self._bind()
        if not self._ready:
            try:
                self._nvml.nvmlInit()
            except (self._nvml.NVMLError, OSError) as error:
                raise AdapterError(f"{self._prefix.upper()}: {error}") from error
            self._ready = True
        return {"driver": _string(self._ask("nvmlSystemGetDriverVersion"))}

    def close(self) -> None:
        if self._ready:
            self._ask("nvmlShutdown")
        self._ready = False
        self._events = None

    def count(self) -> int:
        """How many devices the library counts, lost ones among them."""
        self.open()
        assert self._nvml is not None  # open made it
        try:
            return int(self._nvml.nvmlDeviceGetCount())
        except self._nvml.NVMLError as error:
            self.close()  # a restarted driver answers only a library opened anew
            raise AdapterError(f"{self._prefix.upper()}: devices cannot be counted: {error}") from error

    def device(self, index: int) -> Told:
        """What the device is, and its partitions. AdapterError when it cannot be opened."""
        handle, ask = self._handle(index), self._ask
        identity = self._identity(handle)
        rows = ask("nvmlDeviceGetRemappedRows", handle)  # corrected, uncorrected, pending, failed
        pages = ask("nvmlDeviceGetRetiredPagesPendingStatus", handle)
        mig = ask("nvmlDeviceGetMigMode", handle)
        memory = self._memory(handle)
        pci = ask("nvmlDeviceGetPciInfo", handle)
        both = getattr(pci, "pciDeviceId", 0) or 0
        return {
            **identity,
            "name": _string(ask("nvmlDeviceGetName", handle)),
            "serial": _string(ask("nvmlDeviceGetSerial", handle)),
            "pci_vendor_id": both & 0xFFFF or None,
            "pci_device_id": both >> 16 or None,
            "numa": _whole(ask("nvmlDeviceGetNumaNodeId", handle)),
            "total": (_whole(memory.total) or None) if memory is not None else None,
            "limit": _scaled(ask("nvmlDeviceGetEnforcedPowerLimit", handle), 1000)
            or _scaled(ask("nvmlDeviceGetPowerManagementLimit", handle), 1000),
            "driver": _string(ask("nvmlSystemGetDriverVersion")),
            "firmware": _string(ask("nvmlDeviceGetVbiosVersion", handle)),
            "failed": bool(rows[3]) if rows else None,
            "waiting": bool(rows[2]) if rows else (None if pages is None else bool(pages)),
            "split": bool(mig and mig[0]),
            "parts": [self._part(part, number) for number, part in self._parts(handle, mig)],
            "fault": self._fault(),
        }

    def reading(self, index: int) -> list[Told]:
        """The readings of the device, and of its partitions after it. AdapterError when it cannot be opened."""
        handle = self._handle(index)
        mig = self._ask("nvmlDeviceGetMigMode", handle)
        whole = {**self._identity(handle), **self._measures(handle), "fault": self._fault()}
        return [whole, *(self._part_measures(part) for _, part in self._parts(handle, mig))]

    def processes(self, index: int) -> list[Told]:
        """The processes on the device; those on a partition under the partition's uuid."""
        handle = self._handle(index)
        mig = self._ask("nvmlDeviceGetMigMode", handle)
        parts = [part for _, part in self._parts(handle, mig)]
        found: list[Told] = []
        for held in parts or [handle]:
            named = self._identity(held)
            shares = {
                sample.pid: sample.smUtil for sample in self._ask("nvmlDeviceGetProcessUtilization", held, 0) or ()
            }
            seen: dict[int, Told] = {}
            for kind in ("Compute", "Graphics", "MPSCompute"):
                for process in self._ask(f"nvmlDeviceGet{kind}RunningProcesses", held) or ():
                    pid = int(process.pid)
                    share = _whole(shares.get(pid))
                    seen.setdefault(
                        pid,
                        {
                            **named,
                            "pid": pid,
                            "name": _string(self._ask("nvmlSystemGetProcessName", pid)),
                            "used": _whole(process.usedGpuMemory),
                            "ratio": share / 100 if share is not None and share <= 100 else None,
                        },
                    )
            found += seen.values()
        return found

    def links(self) -> list[Told]:
        """Every pair of devices: the level of their common ancestor, and the links of the fabric between them."""
        handles = [(index, handle) for index in range(self.count()) if (handle := self._opened(index)) is not None]
        whose = {index: self._identity(handle) for index, handle in handles}
        fabric = {index: self._fabric(handle) for index, handle in handles}
        found = []
        for place, (a, first) in enumerate(handles):
            for b, second in handles[place + 1 :]:
                level = _whole(self._ask("nvmlDeviceGetTopologyCommonAncestor", first, second))
                count, speed = _joined(fabric[a], fabric[b], whose[a]["bdf"], whose[b]["bdf"])
                found.append({"a": whose[a], "b": whose[b], "level": level, "count": count, "speed": speed})
        return found

    def events(self, wait_ms: int) -> list[Told]:
        """What happened since the last question: type, number, device. Waits wait_ms for the first, not for more."""
        self.open()
        nvml = self._nvml
        assert nvml is not None  # open made it
        if self._events is None:
            self._watch(nvml)
        found: list[Told] = []
        while self._events is not None and len(found) < MAX_EVENTS:
            try:
                event = nvml.nvmlEventSetWait_v2(self._events, 0 if found else wait_ms)
            except nvml.NVMLError as error:
                if getattr(error, "value", None) != 10:  # 10: nothing more within the time
                    self._events = None  # a device is gone or the driver restarted; watched anew next time
                break
            whose = self._watched.get(_address(event.device), {"uuid": None, "bdf": None, "index": None})
            found.append({**whose, "type": int(event.eventType), "number": int(event.eventData)})
        return found

    def _bind(self) -> Any:
        try:
            import pynvml
        except ImportError as error:
            raise AdapterError(f"nvidia-ml-py cannot be imported: {error}") from error
        if self._libraries or self._prefix != "nvml":
            library, reason = load_library(self._libraries)
            if library is None:
                raise AdapterError(f"{self._prefix.upper()}: {reason}")
            pynvml.nvmlLib = Renamed(library, self._prefix, SHAPES[self._prefix])
        return pynvml

    def _handle(self, index: int) -> Any:
        self.open()
        self._faults.clear()
        assert self._nvml is not None  # open made it
        try:
            return self._nvml.nvmlDeviceGetHandleByIndex(index)
        except self._nvml.NVMLError as error:
            raise AdapterError(LOST.get(getattr(error, "value", None) or 0, str(error))) from error

    def _opened(self, index: int) -> Any | None:
        try:
            return self._handle(index)
        except AdapterError:
            return None

    def _identity(self, handle: Any) -> Told:
        pci = self._ask("nvmlDeviceGetPciInfo", handle)
        bdf = read_bdf(_string(pci.busId)) if pci is not None else None
        return {"uuid": _string(self._ask("nvmlDeviceGetUUID", handle)), "bdf": bdf}

    def _measures(self, handle: Any) -> Told:
        ask = self._ask
        rates = ask("nvmlDeviceGetUtilizationRates", handle)
        memory = self._memory(handle)
        rows = ask("nvmlDeviceGetRemappedRows", handle)
        reasons = ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        fields = self._fields(handle)
        errors = [fields[number] for number in LINK_ERRORS if number in fields]
        return {
            "ratio": _scaled(getattr(rates, "gpu", None), 100),
            "bandwidth": _scaled(getattr(rates, "memory", None), 100),
            "used": _whole(memory.used) if memory is not None else None,
            "power": _scaled(ask("nvmlDeviceGetPowerUsage", handle), 1000),
            "energy": _scaled(ask("nvmlDeviceGetTotalEnergyConsumption", handle), 1000),
            "temperature": _degrees(ask("nvmlDeviceGetTemperature", handle, 0)),  # 0: the die's sensor
            "memory_temperature": _degrees(fields.get(MEMORY_TEMPERATURE)),
            "core_clock": _whole(ask("nvmlDeviceGetClockInfo", handle, 1)),  # 1: SM, 2: memory
            "memory_clock": _whole(ask("nvmlDeviceGetClockInfo", handle, 2)),
            # 0 corrected, 1 uncorrected; 1: over the device's life, not since the driver loaded
            "corrected": _whole(ask("nvmlDeviceGetTotalEccErrors", handle, 0, 1)),
            "uncorrected": _whole(ask("nvmlDeviceGetTotalEccErrors", handle, 1, 1)),
            "retired": rows[0] + rows[1] if rows else self._retired(handle),
            "link_errors": sum(errors) if errors else None,
            "throttled": None if reasons is None else [word for bit, word in REASONS if reasons & bit],
        }

    def _memory(self, handle: Any) -> Any | None:
        """Version 2 tells what jobs use apart from what the driver reserves; older drivers have version 1 only."""
        second = self._ask("nvmlDeviceGetMemoryInfo", handle, getattr(self._nvml, "nvmlMemory_v2", None))
        return second if second is not None else self._ask("nvmlDeviceGetMemoryInfo", handle)

    def _fields(self, handle: Any) -> Mapping[int, int]:
        values = self._ask("nvmlDeviceGetFieldValues", handle, [*LINK_ERRORS, MEMORY_TEMPERATURE])
        found: dict[int, int] = {}
        for value in values or ():
            if value.nvmlReturn == 0:
                # Type 1 is unsigned int; the counters are of 64 bits.
                number = _whole(int(value.value.uiVal if value.valueType == 1 else value.value.ullVal))
                if number is not None:
                    found[int(value.fieldId)] = number
        return found

    def _retired(self, handle: Any) -> int | None:
        """Pages taken out of use, for several single-bit errors or one double-bit error."""
        pages = [self._ask("nvmlDeviceGetRetiredPages", handle, cause) for cause in (0, 1)]
        return sum(len(held) for held in pages if held is not None) if any(p is not None for p in pages) else None

    def _parts(self, handle: Any, mig: Any) -> Iterator[tuple[int, Any]]:
        if not mig or not mig[0]:
            return
        most = _whole(self._ask("nvmlDeviceGetMaxMigDeviceCount", handle))
        for number in range(min(most or 0, MAX_PARTS)):
            part = self._ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, number)
            if part is not None:
                yield number, part

    def _part(self, handle: Any, number: int) -> Told:
        memory = self._memory(handle)
        name = _string(self._ask("nvmlDeviceGetName", handle))
        return {
            "index": number,
            "uuid": _string(self._ask("nvmlDeviceGetUUID", handle)),
            "name": name,
            "profile": name.rpartition("MIG ")[2] if name and "MIG " in name else None,
            "total": (_whole(memory.total) or None) if memory is not None else None,
        }

    def _part_measures(self, handle: Any) -> Told:
        """Power, temperature and clocks are of the whole board; what NVML repeats here stays with the parent."""
        memory = self._memory(handle)
        return {
            "uuid": _string(self._ask("nvmlDeviceGetUUID", handle)),
            "bdf": None,
            "used": _whole(memory.used) if memory is not None else None,
            "uncorrected": _whole(self._ask("nvmlDeviceGetTotalEccErrors", handle, 1, 0)),
            "part": True,
        }

    def _fabric(self, handle: Any) -> Told:
        """Links that are up: how many to which device, how many to a switch, and one link's speed."""
        peers: dict[str, int] = {}
        switched, speed = 0, None
        for link in range(MAX_LINKS):
            state = self._ask("nvmlDeviceGetNvLinkState", handle, link)
            if state is None:
                break  # the device has no more links
            if not state:
                continue
            speed = LINK_SPEED.get(_whole(self._ask("nvmlDeviceGetNvLinkVersion", handle, link)) or 0, speed)
            pci = self._ask("nvmlDeviceGetNvLinkRemotePciInfo", handle, link)
            bdf = read_bdf(_string(pci.busId)) if pci is not None else None
            if self._ask("nvmlDeviceGetNvLinkRemoteDeviceType", handle, link) == 2:  # a switch
                switched += 1
            elif bdf:
                peers[bdf] = peers.get(bdf, 0) + 1
        return {"peers": peers, "switched": switched, "speed": speed}

    def _watch(self, nvml: Any) -> None:
        count = self.count()
        try:
            self._events = nvml.nvmlEventSetCreate()
        except nvml.NVMLError:
            return
        self._watched.clear()
        for index in range(count):
            handle = self._opened(index)
            if handle is None:
                continue
            able = _whole(self._ask("nvmlDeviceGetSupportedEventTypes", handle))
            wanted = (XID_EVENT | DOUBLE_BIT_EVENT) & (XID_EVENT if able is None else able)
            with contextlib.suppress(nvml.NVMLError, AttributeError):
                nvml.nvmlDeviceRegisterEvents(handle, wanted, self._events)
                self._watched[_address(handle)] = {**self._identity(handle), "index": index}

    def _fault(self) -> str | None:
        return self._faults[0] if self._faults else None

    def _ask(self, name: str, *arguments: Any) -> Any | None:
        """The answer to one optional question; None when the library, driver or device does not give it."""
        nvml = self._nvml
        assert nvml is not None  # opened before anything is asked
        mismatch = getattr(nvml, "NVMLLibraryMismatchError", nvml.NVMLError)
        try:
            return getattr(nvml, name)(*arguments)
        except nvml.NVMLError as error:
            code = getattr(error, "value", None)
            if code in LOST:
                self._faults.append(LOST[code])
            return None
        except (mismatch, AttributeError, TypeError, ctypes.ArgumentError):
            return None


def _joined(a: Told, b: Told, a_bdf: str | None, b_bdf: str | None) -> tuple[int | None, float | None]:
    """Direct links between two devices; through switches, what the poorer of the two has."""
    direct = a["peers"].get(b_bdf, 0) if b_bdf else 0
    direct = direct or (b["peers"].get(a_bdf, 0) if a_bdf else 0)
    count = direct or min(a["switched"], b["switched"])
    speed = a["speed"] or b["speed"]
    return (count, None if speed is None else count * speed) if count else (None, None)


def _address(handle: Any) -> int:
    try:
        return int(ctypes.cast(handle, ctypes.c_void_p).value or 0)
    except (ctypes.ArgumentError, TypeError):
        return hash(handle)  # a test's handle


def _whole(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return None
    return None if value >= SENTINEL or value == SENTINEL_32 else value


def _scaled(value: Any, divisor: int) -> float | None:
    number = _whole(value)
    return None if number is None else number / divisor


def _degrees(value: Any) -> float | None:
    number = _whole(value)
    return float(number) if number is not None and number < 300 else None


def _string(value: Any) -> str | None:
    text = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value
    return read_text(text.strip("\x00")) if isinstance(text, str) else None
