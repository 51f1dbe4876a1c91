"""Iluvatar CoreX: devices through IXML, else through ixsmi; recordings of ixsmi and ix-exporter.

libixml.so exports NVML's symbols under NVML's own names, so NVIDIA's binding drives it; no binding of Iluvatar's is
published. Units are NVML's. ixsmi is nvidia-smi's look-alike and the fallback.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapters.accelerator import Accelerator
from adapters.ixsmi import SEMANTICS, VENDOR, parse_recording
from adapters.nvml_adapter import NvmlAdapter, name_visible

COLUMNS = (
    *("index", "name", "uuid", "pci.bus_id", "driver_version", "memory.total", "memory.used"),
    *("utilization.gpu", "temperature.gpu", "board.power.draw"),
)


class Iluvatar(NvmlAdapter):
    """Iluvatar devices of this host."""

    vendor = VENDOR
    semantics = SEMANTICS
    names = ("libixml.so", "/usr/local/corex/lib64/libixml.so", "/usr/local/corex/lib/libixml.so")
    fabric = "ixlink"
    tool = ("ixsmi", f"--query-gpu={','.join(COLUMNS)}", "--format=csv")
    parse = staticmethod(parse_recording)

    def visibility(self, devices: Sequence[Accelerator]) -> Mapping[str, str]:
        """Variables that show a process exactly these devices, by uuid. No device: an empty list, and `void`.

        CUDA_VISIBLE_DEVICES is read by CoreX's CUDA runtime, IX_VISIBLE_DEVICES and ILUVATAR_COREX_VISIBLE_DEVICES
        by its container runtimes, of two generations. ValueError for a device without a uuid.
        """
        names = name_visible(devices)
        container = names or "void"
        return {
            "CUDA_VISIBLE_DEVICES": names,
            "IX_VISIBLE_DEVICES": container,
            "ILUVATAR_COREX_VISIBLE_DEVICES": container,
        }
