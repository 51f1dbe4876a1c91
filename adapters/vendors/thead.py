"""T-Head PPU (Zhenwu): devices through HGML, else through ppu-smi; recordings of ppu-smi.

libhgml.so is NVML with `hgml` before its names, the same structures and units (T-Head SAIL's manual), and has no
published binding; NVIDIA's drives it through a map of names. MIG works as NVIDIA's does. The minor number of a device
node is not its number in the library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapters.accelerator import Accelerator
from adapters.nvml_adapter import NvmlAdapter, name_visible
from adapters.ppu_smi import SEMANTICS, VENDOR, parse_recording

COLUMNS = (
    *("timestamp", "index", "name", "uuid", "pci.bus_id", "serial", "driver_version", "memory.total", "memory.used"),
    *("utilization.ppu", "temperature.ppu", "power.draw"),
)


class Thead(NvmlAdapter):
    """T-Head PPUs of this host."""

    vendor = VENDOR
    semantics = SEMANTICS
    prefix = "hgml"
    names = ("libhgml.so", "/usr/local/PPU_SDK/lib/libhgml.so")
    fabric = "icn"
    tool = ("ppu-smi", f"--query-ppu={','.join(COLUMNS)}", "--format=csv")
    parse = staticmethod(parse_recording)

    def visibility(self, devices: Sequence[Accelerator]) -> Mapping[str, str]:
        """Variables that show a process exactly these devices, by uuid. No device: an empty list, and `void`.

        The PPU's CUDA layer reads CUDA_VISIBLE_DEVICES, its container runtime NVIDIA_VISIBLE_DEVICES. ValueError for
        a device without a uuid.
        """
        names = name_visible(devices)
        return {"CUDA_VISIBLE_DEVICES": names, "NVIDIA_VISIBLE_DEVICES": names or "void"}
