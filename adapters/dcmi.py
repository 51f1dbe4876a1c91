"""DCMI: Huawei's device management library (libdcmi.so), read through ctypes in a process of its own (deadline.py).

A device's address is (card, device); cards also hold a controller (MCU), which is no device. Units there: memory MB
(MiB), power 0.1 W, temperature °C, use in per cent, clocks MHz, processes' memory in bytes. Struct layouts and calls: Huawei's
DCMI API reference and the drivers' dcmi_interface_api.h; older drivers lack the `_v2` and `_v3` calls and are asked the
first ones. Every struct is given more room than its layout needs, for a newer driver may know a longer one.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Sequence
from typing import Any, ClassVar

from adapters.adapter import AdapterError
from adapters.cell import read_bdf, read_text

LIBRARY = "libdcmi.so"
FOLDERS = (
    *("/usr/local/dcmi", "/usr/local/Ascend/driver/lib64/driver", "/usr/local/Ascend/driver/lib64/common"),
    "/usr/local/Ascend/driver/lib64",
)
MIB = 1024 * 1024
ROOM = 4096  # bytes after each struct
MAX_CARDS = 64
MAX_CHIPS = 16
MAX_PROCESSES = 512
NPU = 0  # dcmi_get_device_type: 0 NPU, 1 MCU, 2 CPU
AICORE, HBM_BANDWIDTH = 2, 10  # kinds of utilisation
HBM, DDR = 2, 0  # kinds of memory, for ECC
VDIE = 1
AICORE_CLOCK, HBM_CLOCK = 7, 6
VDEV_MANAGEMENT, TOTAL_RESOURCE = 52, 1
UNKNOWN_WORD = 0xFFFFFFFF
# dcmi_get_device_health: 0 normal, 1 minor, 2 major, 3 critical alarm; 0xFFFFFFFF: the device is gone.
HEALTH = {0: "ok", 1: "degraded", 2: "failed", 3: "failed"}
ERRORS = {
    -8001: "invalid parameter",
    -8002: "not permitted",
    -8005: "inner error",
    -8006: "timed out",
    -8007: "invalid device id",
    -8008: "device does not exist",
    -8009: "ioctl failed",
    -8012: "not ready",
    -8013: "not supported in a container",
    -8015: "reset failed",
    -8017: "is upgrading",
    -8255: "not supported",
}
# dcmi_get_topo_info_by_device_id: nearness as link.py numbers it, and the fabric.
TOPOLOGY = {1: (50, None), 2: (30, None), 3: (5, "hccs"), 4: (20, None), 5: (10, None), 6: (5, "sio"), 7: (5, "hccs")}


class ChipInfo(ctypes.Structure):
    _fields_: ClassVar = [
        *(("chip_type", ctypes.c_char * 32), ("chip_name", ctypes.c_char * 32), ("chip_ver", ctypes.c_char * 32)),
        *(("aicore_cnt", ctypes.c_uint), ("npu_name", ctypes.c_char * 32)),
    ]


class PcieInfo(ctypes.Structure):
    _fields_: ClassVar = [
        *(("vendor", ctypes.c_uint), ("subvendor", ctypes.c_uint), ("device", ctypes.c_uint)),
        *(("subdevice", ctypes.c_uint), ("domain", ctypes.c_int), ("bus", ctypes.c_uint)),
        *(("slot", ctypes.c_uint), ("function", ctypes.c_uint), ("reserve", ctypes.c_char * 32)),
    ]


class DieId(ctypes.Structure):
    _fields_: ClassVar = [("words", ctypes.c_uint * 5)]


class HbmInfo(ctypes.Structure):
    _fields_: ClassVar = [
        *(("total", ctypes.c_ulonglong), ("clock", ctypes.c_uint), ("used", ctypes.c_ulonglong)),
        *(("temperature", ctypes.c_int), ("bandwidth", ctypes.c_uint)),
    ]


class MemoryInfo(ctypes.Structure):
    _fields_: ClassVar = [
        *(("total", ctypes.c_ulonglong), ("available", ctypes.c_ulonglong), ("clock", ctypes.c_uint)),
        *(("page_size", ctypes.c_ulong), ("pages", ctypes.c_ulong), ("pages_free", ctypes.c_ulong)),
        *(("use", ctypes.c_uint), ("reserve", ctypes.c_ubyte * 60)),
    ]


class EccInfo(ctypes.Structure):
    _fields_: ClassVar = [
        *(("enabled", ctypes.c_int), ("single", ctypes.c_uint), ("double", ctypes.c_uint)),
        *(("total_single", ctypes.c_uint), ("total_double", ctypes.c_uint)),
        *(("single_pages", ctypes.c_uint), ("double_pages", ctypes.c_uint)),
        *(("single_pages_next", ctypes.c_uint), ("double_pages_next", ctypes.c_uint)),
    ]


class Label(ctypes.Structure):
    _fields_: ClassVar = [
        *(("product", ctypes.c_char * 256), ("model", ctypes.c_char * 256), ("maker", ctypes.c_char * 256)),
        *(("date", ctypes.c_char * 256), ("serial", ctypes.c_char * 256)),
    ]


class ProcessMemory(ctypes.Structure):
    _fields_: ClassVar = [("pid", ctypes.c_int), ("used", ctypes.c_ulong)]


class TotalResource(ctypes.Structure):
    _fields_: ClassVar = [("count", ctypes.c_uint), ("ids", ctypes.c_uint * 32)]


class Driver:
    """Reads one libdcmi. library: its file."""

    def __init__(self, library: str = LIBRARY) -> None:
        self._file = library
        self._library: ctypes.CDLL | None = None

    def keys(self) -> list[str]:
        """`card/chip` of every chip the cards hold, controllers left out; a lost card's are told while it is counted."""
        self._open()
        cards, number = (ctypes.c_int * MAX_CARDS)(), ctypes.c_int()
        code = self._call("dcmi_get_card_list", ctypes.byref(number), cards, MAX_CARDS)
        if code != 0:
            raise AdapterError(f"dcmi_get_card_list: {_error(code)}")
        listed = cards[: max(0, min(number.value, MAX_CARDS))]
        held = {card: self._chips(card) for card in listed}
        # A card whose chips cannot be counted has as many as its neighbours: a server's cards are alike.
        usual = max((chips for chips in held.values() if chips is not None), key=len, default=[0])
        return [f"{card}/{chip}" for card in listed for chip in (usual if held[card] is None else held[card] or [])]

    def _chips(self, card: int) -> list[int] | None:
        said = ctypes.c_int()
        if self._call("dcmi_get_device_num_in_card", card, ctypes.byref(said)) != 0:
            return None
        return [device for device in range(max(0, min(said.value, MAX_CHIPS))) if self._is_npu(card, device)]

    def read(self, key: str) -> dict[str, Any]:
        """Fields of a Row for the chip. AdapterError when it says that it is gone."""
        card, device = self._address(key)
        logic = self._number("dcmi_get_device_logic_id", first=(card, device))
        health = self._alive(card, device)
        chip = self._struct(ChipInfo, "dcmi_get_device_chip_info_v2", card, device) or self._struct(
            ChipInfo, "dcmi_get_device_chip_info", card, device
        )
        pcie = self._struct(PcieInfo, "dcmi_get_device_pcie_info_v2", card, device)
        die = self._struct(DieId, "dcmi_get_device_die_v2", card, device, VDIE)
        label = self._struct(Label, "dcmi_get_card_elabel_v2", card)
        share = self._number("dcmi_get_device_utilization_rate", card, device, AICORE)
        bandwidth = self._number("dcmi_get_device_utilization_rate", card, device, HBM_BANDWIDTH)
        power = self._signed("dcmi_get_device_power_info", card, device)
        if (power is None or power <= 0) and device == 0:
            power = self._signed("dcmi_mcu_get_power_info", card)  # the card's, counted once where it has two chips
        temperature = self._signed("dcmi_get_device_temperature", card, device)
        return {
            "index": logic,
            "visible_id": None if logic is None else str(logic),
            "uuid": _die(die),
            "unnamed": True,
            "name": _text(chip.chip_name) if chip else None,
            "bdf": _bdf(pcie),
            "pci_vendor_id": pcie.vendor or None if pcie else None,
            "pci_device_id": pcie.device or None if pcie else None,
            "serial": _text(label.serial) if label else None,
            "driver": self._driver(),
            "package_id": str(card),
            "health": HEALTH.get(health if health is not None else -1),
            "health_code": None if health is None else str(health),
            "last_error": self._fault(card, device),
            "ratio": share / 100 if share is not None and share <= 100 else None,
            "bandwidth": bandwidth / 100 if bandwidth is not None and bandwidth <= 100 else None,
            "power": power / 10 if power is not None and power > 0 else None,
            "temperature": float(temperature) if temperature is not None and -50 < temperature < 300 else None,
            "core_clock": self._number("dcmi_get_device_frequency", card, device, AICORE_CLOCK),
            "memory_clock": self._number("dcmi_get_device_frequency", card, device, HBM_CLOCK),
            **self._memory(card, device),
            **self._ecc(card, device),
            "parts": self._parts(card, device),
        }

    def processes(self, key: str) -> list[dict[str, int]]:
        """Who holds the chip, by the host's process numbers, with bytes used."""
        card, device = self._address(key)
        held, count = (ProcessMemory * MAX_PROCESSES)(), ctypes.c_int(MAX_PROCESSES)
        if self._call("dcmi_get_device_resource_info", card, device, held, ctypes.byref(count)) != 0:
            return []
        return [
            {"pid": one.pid, "used": one.used} for one in held[: max(0, min(count.value, MAX_PROCESSES))] if one.pid > 0
        ]

    def link(self, first: str, second: str) -> dict[str, Any] | None:
        """How near two chips are; None when the driver does not say."""
        said = ctypes.c_int(-1)
        addresses = (*self._address(first), *self._address(second))
        code = self._call("dcmi_get_topo_info_by_device_id", *addresses, ctypes.byref(said))
        near = TOPOLOGY.get(said.value) if code == 0 else None
        return None if near is None else {"nearness": near[0], "fabric": near[1]}

    def _open(self) -> None:
        if self._library is not None:
            return
        try:
            library = ctypes.CDLL(self._file)
        except OSError as error:
            raise AdapterError(f"DCMI: {error}") from error
        self._library = library
        code = self._call("dcmi_init")
        if code != 0:
            self._library = None
            raise AdapterError(f"dcmi_init: {_error(code)}")

    def _address(self, key: str) -> tuple[int, int]:
        self._open()
        card, _, device = key.partition("/")
        return int(card), int(device)

    def _is_npu(self, card: int, device: int) -> bool:
        kind = self._number("dcmi_get_device_type", card, device)
        return kind is None or kind == NPU

    def _alive(self, card: int, device: int) -> int | None:
        """The health word; AdapterError when the device is gone, None when the driver does not tell."""
        said = ctypes.c_uint(UNKNOWN_WORD)
        code = self._call("dcmi_get_device_health", card, device, ctypes.byref(said))
        if code in (-8007, -8008, -8009, -8012, -8006):
            raise AdapterError(f"dcmi_get_device_health: {_error(code)}")
        if code == 0 and said.value == UNKNOWN_WORD:
            raise AdapterError("dcmi_get_device_health: the device does not exist or has not started (0xFFFFFFFF)")
        return said.value if code == 0 else None

    def _memory(self, card: int, device: int) -> dict[str, Any]:
        """HBM where there is any, else DDR."""
        stacked = self._struct(HbmInfo, "dcmi_get_device_hbm_info", card, device)
        if stacked is not None and stacked.total:
            return {
                "total": stacked.total * MIB,
                "used": stacked.used * MIB,
                "memory_temperature": float(stacked.temperature) if 0 < stacked.temperature < 300 else None,
            }
        plain = self._struct(MemoryInfo, "dcmi_get_device_memory_info_v3", card, device)
        if plain is None or not plain.total or plain.available > plain.total:
            return {}
        return {"total": plain.total * MIB, "used": (plain.total - plain.available) * MIB}

    def _ecc(self, card: int, device: int) -> dict[str, Any]:
        for kind in (HBM, DDR):
            told = self._struct(EccInfo, "dcmi_get_device_ecc_info", card, device, kind)
            if told is not None and told.enabled:
                return {
                    "corrected": told.total_single,
                    "uncorrected": told.total_double,
                    "retired": told.single_pages + told.double_pages,
                }
        return {}

    def _fault(self, card: int, device: int) -> str | None:
        codes, count = (ctypes.c_uint * 128)(), ctypes.c_int()
        code = self._call("dcmi_get_device_errorcode_v2", card, device, ctypes.byref(count), codes, 128)
        if code != 0 or not 0 < count.value <= 128:
            return None
        return " ".join(f"{word:08X}" for word in codes[: count.value])

    def _parts(self, card: int, device: int) -> list[dict[str, Any]]:
        """The virtual devices (vNPU) that the chip was split into, by their numbers."""
        told, size = _padded(TotalResource), ctypes.c_uint(ctypes.sizeof(TotalResource) + ROOM)
        where = ctypes.byref(told)
        code = self._call(
            "dcmi_get_device_info", card, device, VDEV_MANAGEMENT, TOTAL_RESOURCE, where, ctypes.byref(size)
        )
        found = TotalResource.from_buffer(told)
        if code != 0 or not 0 < found.count <= 32:
            return []
        return [{"kind": "vnpu", "id": number} for number in found.ids[: found.count]]

    def _driver(self) -> str | None:
        said = ctypes.create_string_buffer(256)
        return _text(said.value) if self._call("dcmi_get_driver_version", said, 256) == 0 else None

    def _struct(self, kind: type[Any], name: str, *arguments: int) -> Any | None:
        """A struct that the call fills in; None when it does not."""
        held = _padded(kind)
        code = self._call(name, *arguments, ctypes.byref(held))
        return kind.from_buffer(held) if code == 0 else None

    def _number(self, name: str, *arguments: int, first: Sequence[int] | None = None) -> int | None:
        """An unsigned word that the call fills in as its last argument, or as its first where `first` follows it."""
        said = ctypes.c_uint(UNKNOWN_WORD)
        words = (*arguments, ctypes.byref(said)) if first is None else (ctypes.byref(said), *first)
        code = self._call(name, *words)
        return said.value if code == 0 and said.value != UNKNOWN_WORD else None

    def _signed(self, name: str, *arguments: int) -> int | None:
        said = ctypes.c_int(-1)
        code = self._call(name, *arguments, ctypes.byref(said))
        return said.value if code == 0 else None

    def _call(self, name: str, *arguments: Any) -> int:
        """The call's code; -8255 (not supported) where the library has no such call."""
        assert self._library is not None  # opened before
        with contextlib.suppress(AttributeError):
            call = getattr(self._library, name)
            call.restype = ctypes.c_int
            return int(call(*arguments))
        return -8255


def _padded(kind: type[Any]) -> Any:
    return (ctypes.c_ubyte * (ctypes.sizeof(kind) + ROOM))()


def _error(code: int) -> str:
    return f"{ERRORS.get(code, 'error')} ({code})"


def _text(said: bytes) -> str | None:
    return read_text(said.decode("utf-8", errors="replace"))


def _die(die: DieId | None) -> str | None:
    """The die's number as npu-smi prints it: five words of eight digits; None when it is blank."""
    words = list(die.words) if die is not None else []
    return " ".join(f"{word:08X}" for word in words) if any(words) else None


def _bdf(pcie: PcieInfo | None) -> str | None:
    if pcie is None or pcie.domain < 0:
        return None
    return read_bdf(f"{pcie.domain:04x}:{pcie.bus:02x}:{pcie.slot:02x}.{pcie.function:x}")
