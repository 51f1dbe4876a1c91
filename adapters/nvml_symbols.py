"""NVML symbols: how libraries shaped after NVML differ from it, and a library that speaks as if it did not.

Sources: the vendors' public headers efml.h (Enflame), brml.h (Biren), xpuml.h (Kunlunxin) and T-Head's manual of HGML;
Iluvatar's libixml.so exports NVML's own names. nvidia-ml-py calls what `Renamed` gives it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Versioned names that an older or foreign library exports under another version of the same signature.
SAME = {
    "InitWithFlags": ("Init_v2", "Init"),
    "DeviceGetCount_v2": ("DeviceGetCount", "DeviceGetCount_v1"),
    "DeviceGetHandleByIndex_v2": ("DeviceGetHandleByIndex", "DeviceGetHandleByIndex_v1"),
    "DeviceGetHandleByPciBusId_v2": ("DeviceGetHandleByPciBusId", "DeviceGetHandleByPciBusId_v1"),
}
# Moves out of the vendor's structure into NVML's: where from, where to, how many bytes.
Moves = Sequence[tuple[int, int, int]]
LAYOUT_BYTES = 1024  # more than any of their structures; they may write past NVML's
# {u32 domain, bus, device, function, pciDeviceId, pciSubSystemId; char busId[32]} of efml.h, brml.h and xpuml.h, into
# {char busIdLegacy[16]; u32 domain, bus, device, pciDeviceId, pciSubSystemId; char busId[32]}.
PCI: Moves = ((0, 16, 12), (16, 28, 8), (24, 36, 32))
PROCESSES = (
    *("DeviceGetComputeRunningProcesses_v3", "DeviceGetGraphicsRunningProcesses_v3"),
    *("DeviceGetMPSComputeRunningProcesses_v3", "DeviceGetProcessUtilization"),
)
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "nvml": {},
    "hgml": {"names": {"DeviceGetCudaComputeCapability": "DeviceGetHggcComputeCapability"}},
    "efml": {
        # The second form of the memory structure has another order of fields; the first is NVML's.
        "absent": ["DeviceGetMemoryInfo_v2", "DeviceGetProcessUtilization"],
        "layouts": {"DeviceGetPciInfo_v3": PCI},
    },
    "brml": {
        "names": {"DeviceGetPciInfo_v3": "DeviceGetPciInfo"},
        "absent": ["DeviceGetMemoryInfo_v2", *PROCESSES, "DeviceGetCurrentClocksThrottleReasons"],
        "layouts": {"DeviceGetPciInfo_v3": PCI},
        # brmlReturn_t into nvmlReturn_t; what has no counterpart is unknown (999).
        "errors": {
            **{str(code): 999 for code in range(9, 18)},
            "5": 6,
            "6": 7,
            "7": 9,
            "8": 10,
            "255": 999,
        },
    },
    "xpuml": {
        "names": {"DeviceGetPciInfo_v3": "DeviceGetPciInfo"},
        "absent": ["DeviceGetMemoryInfo_v2", *PROCESSES],
        "layouts": {
            "DeviceGetPciInfo_v3": PCI,
            "DeviceGetUtilizationRates": ((0, 0, 8),),
            "DeviceGetMemoryInfo": ((8, 0, 24),),  # after the page size
        },
    },
}


class Renamed:
    """A loaded library under NVML's names. An absent symbol is an AttributeError, as of a library itself."""

    def __init__(self, library: Any, prefix: str, shape: Mapping[str, Any]) -> None:
        self._library = library
        self._prefix = prefix
        self._names: Mapping[str, str] = shape.get("names", {})
        self._absent = frozenset(shape.get("absent", ()))
        self._layouts: Mapping[str, Moves] = shape.get("layouts", {})
        self._errors = {int(code): int(meant) for code, meant in shape.get("errors", {}).items()}

    def __getattr__(self, symbol: str) -> Any:
        bare = symbol.removeprefix("nvml")
        if bare in self._absent:
            raise AttributeError(symbol)
        function = self._find(bare)
        if bare == "ErrorString":
            return function
        moves = self._layouts.get(bare)
        if moves is None and not self._errors:
            return function
        return self._told(function, moves)

    def _find(self, bare: str) -> Any:
        for name in (self._names.get(bare, bare), *SAME.get(bare, ())):
            try:
                return getattr(self._library, self._prefix + name)
            except AttributeError:
                continue
        raise AttributeError(self._prefix + bare)

    def _told(self, function: Any, moves: Moves | None) -> Callable[..., int]:
        """The function with its structure, the last argument, moved into NVML's, and its code made NVML's."""

        def call(*arguments: Any) -> int:
            given = list(arguments)
            room = None
            if moves is not None:
                room = ctypes.create_string_buffer(LAYOUT_BYTES)
                given[-1] = room
            code = int(function(*given))
            if moves is not None and room is not None and code == 0:
                target = arguments[-1]._obj  # what byref() refers to
                for source, place, length in moves:
                    ctypes.memmove(ctypes.addressof(target) + place, ctypes.addressof(room) + source, length)
            return self._errors.get(code, code)

        return call


def load_library(names: Sequence[str]) -> tuple[Any | None, str | None]:
    """The first of the libraries that can be loaded, and nothing; or nothing, and why."""
    reasons = []
    for name in names:
        try:
            return ctypes.CDLL(name), None
        except OSError as error:
            reasons.append(str(error))
    return None, reasons[0] if reasons else "no library is named"
