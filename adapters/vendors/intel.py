"""Intel data-centre and Arc GPUs: devices through `xpu-smi`, live and recorded.

xpu-smi stands on Level Zero sysman, whose C structs carry chained extensions and have no Python binding of Intel's;
the tool answers in JSON and CSV with units in its headers. Memory is MiB, power W, energy mJ, processes kB (KiB).
Kunlunxin's tool has the same name: its outputs are refused here, and a host with PCI vendor 8086 is Intel's.
"""

from __future__ import annotations

from collections.abc import Iterable

from adapters import xpu_smi
from adapters.adapter import AdapterError, Capability, Reading
from adapters.form import Form
from adapters.process import ProcessUse
from adapters.tool import ToolAdapter

TOOL = "xpu-smi"


class Intel(ToolAdapter):
    """Intel GPUs of this host."""

    vendor = xpu_smi.VENDOR
    capabilities = frozenset(Capability) - {
        *(Capability.ECC, Capability.LINKS, Capability.PARTITIONS, Capability.EVENTS),
    }
    tools = (TOOL,)
    process_variables = ("ZE_AFFINITY_MASK",)
    forms = (Form("xpu-smi dump, discovery, stats and health", xpu_smi.fits, xpu_smi.parse),)

    def processes(self, uuids: Iterable[str] | None = None) -> tuple[ProcessUse, ...]:
        """Who holds which device, as `ps` tells."""
        wanted = None if uuids is None else frozenset(uuids)
        names = {device.index: device.uuid for device in self.inventory()}
        found = xpu_smi.read_processes(self._ask(TOOL, "ps", "-j"), names)
        return tuple(use for use in found if wanted is None or use.uuid in wanted)

    def _read_tool(self) -> Reading:
        if self._tool() is None:
            raise AdapterError(f"{TOOL}: not on the path; is Intel's xpumanager installed?")
        now, catalog = self._clock(), self._known()
        listed = self._ask(TOOL, "discovery", "-j")
        numbers = [device.index for device in xpu_smi.parse(listed, now, catalog).devices]
        answers = [listed]
        for number in numbers:
            answers.append(self._maybe(TOOL, "discovery", "-d", str(number), "-j"))
            answers.append(self._maybe(TOOL, "stats", "-d", str(number), "-j"))
            answers.append(self._maybe(TOOL, "health", "-d", str(number), "-j"))
        return xpu_smi.parse("\n".join(answers), now, catalog)
