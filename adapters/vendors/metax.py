"""MetaX: devices through `mx-smi`, live and recorded.

The library (libmxsml.so) is index-addressed and its binding (pymxsml) comes only with the maker's SDK; the tool is on
every host with the driver. Its table has model, address, power, temperature, memory and use; `-L` adds the uuids.
MiB are 2^20 bytes, power W. Processes are confined by index: the runtime reads CUDA's variable and its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from adapters import exporter, mx_smi
from adapters.adapter import AdapterError, Capability, Reading
from adapters.form import Form
from adapters.process import ProcessUse
from adapters.tool import ToolAdapter

TOOL = "mx-smi"


class MetaX(ToolAdapter):
    """MetaX devices of this host."""

    vendor = mx_smi.VENDOR
    capabilities = frozenset(
        {
            *(Capability.UTILISATION, Capability.MEMORY, Capability.POWER, Capability.TEMPERATURE),
            Capability.PROCESSES,
        }
    )
    tools = (TOOL,)
    process_variables = ("CUDA_VISIBLE_DEVICES", "MACA_VISIBLE_DEVICES")
    forms = (
        exporter.form(exporter.MX),
        Form("mx-smi's table", mx_smi.has_table, mx_smi.parse_table),
        Form("mx-smi dmon CSV", mx_smi.has_monitor, mx_smi.parse_monitor),
        Form("mx-smi -L", mx_smi.has_list, mx_smi.parse_list),
        Form("mx-smi --show-process", mx_smi.has_processes, mx_smi.parse_processes),
    )

    def processes(self, uuids: Iterable[str] | None = None) -> tuple[ProcessUse, ...]:
        """Who holds which device, as `--show-process` tells."""
        wanted = None if uuids is None else frozenset(uuids)
        names = {device.index: device.uuid for device in self.inventory()}
        found = mx_smi.read_processes(self._ask(TOOL, "--show-process"), names)
        return tuple(use for use in found if wanted is None or use.uuid in wanted)

    def _read_tool(self) -> Reading:
        if self._tool() is None:
            raise AdapterError(f"{TOOL}: not on the path; is the MetaX driver installed?")
        now, catalog = self._clock(), self._known()
        reading = mx_smi.parse_table(self._ask(TOOL), now, catalog)
        listed = {
            device.pci_bdf: device.uuid for device in mx_smi.parse_list(self._maybe(TOOL, "-L"), now, catalog).devices
        }
        names = {
            device.uuid: listed.get(device.pci_bdf, device.uuid) if device.pci_bdf else device.uuid
            for device in reading.devices
        }
        return replace(
            reading,
            devices=tuple(replace(device, uuid=names[device.uuid]) for device in reading.devices),
            samples=tuple(replace(sample, uuid=names[sample.uuid], at=now) for sample in reading.samples),
        )
