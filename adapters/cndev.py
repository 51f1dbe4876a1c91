"""CNDEV: Cambricon's device library (libcndev.so), read through ctypes in a process of its own (deadline.py).

A device is a 32-bit handle; structs of the older calls begin with the version of the interface that they are of. Units
there: memory MB (MiB), processes' memory KiB, power W, temperature °C, use in per cent, clocks MHz. Struct layouts and
calls: the driver's cndev.h, version 6. Every struct is given more room than its layout needs.
"""

from __future__ import annotations

import contextlib
import ctypes
from typing import Any, ClassVar

from adapters.adapter import AdapterError
from adapters.cell import read_bdf, read_text

LIBRARY = "libcndev.so"
FOLDERS = ("/usr/local/neuware/lib64", "/usr/local/neuware/lib", "/usr/lib64/cambricon")
VERSION = 6
MIB = 1024 * 1024
KIB = 1024
ROOM = 8192
MAX_DEVICES = 256
MAX_PROCESSES = 256
RUNNING = 4  # the driver's state for a device that works
GOOD = 1
ERRORS = {
    **dict(enumerate(("success", "no driver", "the driver is too old", "unsupported interface version"))),
    **dict(enumerate(("library not initialised", "invalid argument", "invalid device", "unknown error"), start=4)),
    **dict(enumerate(("out of memory", "too little space", "not supported", "invalid link"), start=8)),
    **dict(enumerate(("no device", "no permission", "not found", "in use", "duplicate"), start=12)),
    **dict(enumerate(("timed out", "the device is in a problem"), start=17)),
}
# Answers that say the device is gone or does not work, whatever was asked.
GONE = frozenset({6, 17, 18})
NOT_SUPPORTED = 10


class Counted(ctypes.Structure):
    _fields_: ClassVar = [("version", ctypes.c_int32), ("number", ctypes.c_uint32)]


class Uuid(ctypes.Structure):
    _fields_: ClassVar = [("version", ctypes.c_int32), ("uuid", ctypes.c_char * 37), ("ncs", ctypes.c_uint64)]


class Serial(ctypes.Structure):
    _fields_: ClassVar = [("version", ctypes.c_int32), ("sn", ctypes.c_uint64), ("board", ctypes.c_uint64)]


class Memory(ctypes.Structure):
    _fields_: ClassVar = [
        *(("total", ctypes.c_int64), ("used", ctypes.c_int64), ("reserved", ctypes.c_int64)),
        *(("virtual_total", ctypes.c_int64), ("virtual_used", ctypes.c_int64), ("whole", ctypes.c_uint64)),
        ("spare", ctypes.c_uint64 * 16),
    ]


class Versions(ctypes.Structure):
    _fields_: ClassVar = [
        *(("version", ctypes.c_int32), ("mcu_major", ctypes.c_uint32), ("mcu_minor", ctypes.c_uint32)),
        *(("mcu_build", ctypes.c_uint32), ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32)),
        ("build", ctypes.c_uint32),
    ]


class Ecc(ctypes.Structure):
    _fields_: ClassVar = [
        *(("version", ctypes.c_int32), ("one_bit", ctypes.c_uint64), ("multiple_one", ctypes.c_uint64)),
        *(("multiple", ctypes.c_uint64), ("multiple_multiple", ctypes.c_uint64), ("corrected", ctypes.c_uint64)),
        *(("uncorrected", ctypes.c_uint64), ("total", ctypes.c_uint64), ("forbidden", ctypes.c_uint64)),
    ]


class Power(ctypes.Structure):
    _fields_: ClassVar = [
        *(("usage", ctypes.c_int32), ("cap", ctypes.c_int32), ("machine", ctypes.c_int32), ("tdp", ctypes.c_int32)),
        *(("most", ctypes.c_int32), ("spare", ctypes.c_int32 * 16)),
    ]


class Temperature(ctypes.Structure):
    _fields_: ClassVar = [
        *(("version", ctypes.c_int32), ("board", ctypes.c_int32), ("cluster", ctypes.c_int32 * 20)),
        *(("die", ctypes.c_int32 * 8), ("chip", ctypes.c_int32), ("inlet", ctypes.c_int32)),
        *(("outlet", ctypes.c_int32), ("memory", ctypes.c_int32), ("video", ctypes.c_int32)),
        *(("cpu", ctypes.c_int32), ("isp", ctypes.c_int32)),
    ]


class Utilisation(ctypes.Structure):
    _fields_: ClassVar = [
        *(("version", ctypes.c_int32), ("average", ctypes.c_int32), ("cores", ctypes.c_int32 * 80)),
    ]


class Clocks(ctypes.Structure):
    _fields_: ClassVar = [("version", ctypes.c_int32), ("board", ctypes.c_int32), ("memory", ctypes.c_int32)]


class Pcie(ctypes.Structure):
    _fields_: ClassVar = [
        *(("subsystem", ctypes.c_uint32), ("device_id", ctypes.c_uint32), ("vendor", ctypes.c_uint16)),
        *(("subvendor", ctypes.c_uint16), ("domain", ctypes.c_uint32), ("bus", ctypes.c_uint32)),
        *(("device", ctypes.c_uint32), ("function", ctypes.c_uint32), ("module", ctypes.c_uint16)),
        *(("slot", ctypes.c_uint16), ("spare", ctypes.c_uint32 * 8)),
    ]


class Health(ctypes.Structure):
    _fields_: ClassVar = [
        *(("version", ctypes.c_int32), ("health", ctypes.c_int32), ("device", ctypes.c_int32)),
        ("driver", ctypes.c_int32),
    ]


class NumaNode(ctypes.Structure):
    _fields_: ClassVar = [("version", ctypes.c_int32), ("node", ctypes.c_int32)]


class Process(ctypes.Structure):
    _fields_: ClassVar = [
        *(("version", ctypes.c_int32), ("pid", ctypes.c_uint32), ("used", ctypes.c_uint64)),
        ("virtual", ctypes.c_uint64),
    ]


class Driver:
    """Reads one libcndev. library: its file."""

    def __init__(self, library: str = LIBRARY) -> None:
        self._file = library
        self._library: ctypes.CDLL | None = None

    def keys(self) -> list[str]:
        """The number of every device that the driver counts, those in a problem among them."""
        self._open()
        held = _versioned(Counted)
        code = self._call("cndevGetDeviceCount", ctypes.byref(held[0]))
        if code != 0:
            raise AdapterError(f"cndevGetDeviceCount: {_error(code)}")
        return [str(number) for number in range(min(held[1].number, MAX_DEVICES))]

    def read(self, key: str) -> dict[str, Any]:
        """Fields of a Row for the device. AdapterError when it cannot be opened or says that it is gone."""
        number = int(key)
        device = self._handle(number)
        memory = self._struct(Memory, "cndevGetMemoryUsageV2", device)
        power = self._struct(Power, "cndevGetDevicePowerInfo", device)
        heat = self._struct(Temperature, "cndevGetTemperatureInfo", device)
        use = self._struct(Utilisation, "cndevGetDeviceUtilizationInfo", device)
        pcie = self._struct(Pcie, "cndevGetPCIeInfoV2", device)
        ecc = self._struct(Ecc, "cndevGetECCInfo", device)
        clocks = self._struct(Clocks, "cndevGetFrequencyInfo", device)
        serial = self._struct(Serial, "cndevGetCardSN", device)
        versions = self._struct(Versions, "cndevGetVersionInfo", device)
        node = self._struct(NumaNode, "cndevGetNUMANodeIdByDevId", device)
        health = self._struct(Health, "cndevGetCardHealthState", device)
        uuid = self._struct(Uuid, "cndevGetUUID", device)
        named = _text(uuid.uuid) if uuid else None
        return {
            "index": number,
            "uuid": f"MLU-{named}" if named else None,
            "unnamed": True,
            "name": self._name(device),
            "bdf": read_bdf(f"{pcie.domain:04x}:{pcie.bus:02x}:{pcie.device:02x}.{pcie.function:x}") if pcie else None,
            "pci_vendor_id": pcie.vendor or None if pcie else None,
            "pci_device_id": pcie.device_id or None if pcie else None,
            "serial": f"{serial.sn:x}" if serial and serial.sn else None,
            "driver": f"{versions.major}.{versions.minor}.{versions.build}" if versions and versions.major else None,
            "firmware": f"{versions.mcu_major}.{versions.mcu_minor}.{versions.mcu_build}"
            if versions and versions.mcu_major
            else None,
            "numa_node": node.node if node and node.node >= 0 else None,
            "total": memory.total * MIB if memory and memory.total > 0 else None,
            "used": memory.used * MIB if memory and memory.used >= 0 and memory.total > 0 else None,
            "limit": float(power.cap) if power and power.cap > 0 else None,
            "power": float(power.usage) if power and power.usage > 0 else None,
            "temperature": _degrees(heat.chip) if heat else None,
            "memory_temperature": _degrees(heat.memory) if heat else None,
            "ratio": use.average / 100 if use and 0 <= use.average <= 100 else None,
            "core_clock": float(clocks.board) if clocks and clocks.board > 0 else None,
            "memory_clock": float(clocks.memory) if clocks and clocks.memory > 0 else None,
            "corrected": ecc.corrected if ecc else None,
            "uncorrected": ecc.uncorrected if ecc else None,
            **_judge(health),
        }

    def processes(self, key: str) -> list[dict[str, int]]:
        """Who holds the device, by the host's process numbers, with bytes used."""
        held, count = (Process * MAX_PROCESSES)(), ctypes.c_uint(MAX_PROCESSES)
        for one in held:
            one.version = VERSION
        if self._call("cndevGetProcessInfo", ctypes.byref(count), held, self._handle(int(key))) != 0:
            return []
        return [{"pid": one.pid, "used": one.used * KIB} for one in held[: min(count.value, MAX_PROCESSES)] if one.pid]

    def _open(self) -> None:
        if self._library is not None:
            return
        try:
            library = ctypes.CDLL(self._file)
        except OSError as error:
            raise AdapterError(f"CNDEV: {error}") from error
        self._library = library
        code = self._call("cndevInit", 0)
        if code != 0:
            self._library = None
            raise AdapterError(f"cndevInit: {_error(code)}")

    def _handle(self, number: int) -> int:
        self._open()
        held = ctypes.c_int32(-1)
        code = self._call("cndevGetDeviceHandleByIndex", number, ctypes.byref(held))
        if code == NOT_SUPPORTED:
            return number  # before 5.x the index is the handle
        if code != 0:
            raise AdapterError(f"cndevGetDeviceHandleByIndex: {_error(code)}")
        return held.value

    def _name(self, device: int) -> str | None:
        assert self._library is not None  # opened before
        with contextlib.suppress(AttributeError):
            call = self._library.cndevGetCardNameStringByDevId
            call.restype = ctypes.c_char_p
            said = call(ctypes.c_int32(device))
            return _text(said) if isinstance(said, bytes) else None
        return None

    def _struct(self, kind: type[Any], name: str, device: int) -> Any | None:
        """A struct that the call fills in; None when it does not. AdapterError when the device is gone."""
        held, told = _versioned(kind)
        code = self._call(name, ctypes.byref(held), ctypes.c_int32(device))
        if code in GONE:
            raise AdapterError(f"{name}: {_error(code)}")
        return told if code == 0 else None

    def _call(self, name: str, *arguments: Any) -> int:
        """The call's code; 10 (not supported) where the library has no such call."""
        assert self._library is not None  # opened before
        with contextlib.suppress(AttributeError):
            call = getattr(self._library, name)
            call.restype = ctypes.c_int
            return int(call(*arguments))
        return NOT_SUPPORTED


def _versioned(kind: type[Any]) -> tuple[Any, Any]:
    """Room for a struct, and the struct in it, with its version set where it has one."""
    held = (ctypes.c_ubyte * (ctypes.sizeof(kind) + ROOM))()
    told = kind.from_buffer(held)
    if kind._fields_[0][0] == "version":
        told.version = VERSION
    return held, told


def _judge(told: Health | None) -> dict[str, Any]:
    """Good, and its driver running: well. Good with another driver state: starting or resetting. Else failed."""
    if told is None:
        return {}
    code = f"health {told.health}, device {told.device}, driver {told.driver}"
    if told.health != GOOD or told.device != GOOD:
        return {"health": "failed", "health_code": code}
    return {"health": "ok" if told.driver == RUNNING else "degraded", "health_code": code}


def _degrees(said: int) -> float | None:
    return float(said) if 0 < said < 300 else None


def _text(said: bytes) -> str | None:
    return read_text(said.decode("utf-8", errors="replace"))


def _error(code: int) -> str:
    return f"{ERRORS.get(code, 'error')} ({code})"
