"""Biren: devices through BRML, else through brsmi; recordings of brsmi, in the form its manual gives.

libbiren-ml.so.1 (`brml*`) is NVML with its own structure for the bus address, its own error codes and its own
structure of a process, which is not read; NVIDIA's binding drives it through a map of names and that move. No binding
of Biren's is published apart from its SDK's. Units are NVML's. Untried on a device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapters.accelerator import Accelerator, PartitionKind
from adapters.adapter import Capability
from adapters.brsmi import SEMANTICS, VENDOR, parse_recording
from adapters.nvml_adapter import NvmlAdapter, name_visible

COLUMNS = (
    *("index", "name", "uuid", "pci.bus_id", "serial", "driver_version", "memory.total", "memory.used"),
    *("utilization.gpu", "temperature.gpu", "power.draw"),
)


class Biren(NvmlAdapter):
    """Biren devices of this host."""

    vendor = VENDOR
    capabilities = frozenset(
        {Capability.UTILISATION, Capability.MEMORY, Capability.POWER, Capability.TEMPERATURE, Capability.LINKS}
    )
    semantics = SEMANTICS
    prefix = "brml"
    names = ("libbiren-ml.so.1", "libbiren-ml.so")
    fabric = "blink"
    partitions = PartitionKind.SVI
    by_uuid = False
    tool = ("brsmi", f"--query-gpu={','.join(COLUMNS)}", "--format=csv")
    parse = staticmethod(parse_recording)

    def visibility(self, devices: Sequence[Accelerator]) -> Mapping[str, str]:
        """Variables that show a process exactly these devices, by number. No device: an empty list, and `void`.

        SUPA_VISIBLE_DEVICES is read by BIRENSUPA, BIREN_VISIBLE_DEVICES by the container runtime. ValueError for a
        device without a number.
        """
        names = name_visible(devices)
        return {"SUPA_VISIBLE_DEVICES": names, "BIREN_VISIBLE_DEVICES": names or "void"}
