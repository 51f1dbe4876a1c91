"""Enflame GCU: devices through EFML, else through efsmi; recordings of efsmi and gcu-exporter.

libefml.so's newer interface (`efml*`) is NVML with its own structure for the bus address; NVIDIA's binding drives it
through a map of names and that one move. A library with only the older interface (`Efml*`, other structures) is left
to efsmi, whose `-q` prints the same. Units are NVML's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapters.accelerator import Accelerator, PartitionKind
from adapters.adapter import Capability
from adapters.efsmi import SEMANTICS, VENDOR, parse_recording
from adapters.nvml_adapter import NvmlAdapter, name_visible


class Enflame(NvmlAdapter):
    """Enflame devices of this host."""

    vendor = VENDOR
    capabilities = frozenset(
        {Capability.UTILISATION, Capability.MEMORY, Capability.POWER, Capability.TEMPERATURE, Capability.PROCESSES}
    )
    semantics = SEMANTICS
    prefix = "efml"
    names = ("libefml.so", "/usr/lib/libefml.so", "/opt/tops/lib/libefml.so")
    fabric = "lare"
    partitions = PartitionKind.VGPU
    by_uuid = False
    tool = ("efsmi", "-q")
    parse = staticmethod(parse_recording)

    def visibility(self, devices: Sequence[Accelerator]) -> Mapping[str, str]:
        """Variables that show a process exactly these devices, by number. No device: an empty list, and `void`.

        TOPS_VISIBLE_DEVICES is read by TopsRider, ENFLAME_VISIBLE_DEVICES by the container runtime. ValueError for a
        device without a number.
        """
        names = name_visible(devices)
        return {"TOPS_VISIBLE_DEVICES": names, "ENFLAME_VISIBLE_DEVICES": names or "void"}
