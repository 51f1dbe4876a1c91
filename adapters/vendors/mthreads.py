"""Moore Threads: devices through `mthreads-gmi -q --json`, live and recorded.

Its library (libmtml.so) has a Python binding of the maker's own, `mthreads-ml-py`, which frees sub-handles by hand
and changes with the driver; the tool's JSON says the same, and its units stand beside each value. Memory MiB,
power W, temperature °C.
"""

from __future__ import annotations

from collections.abc import Iterable

from adapters import exporter, mthreads_gmi
from adapters.adapter import AdapterError, Capability, Reading
from adapters.form import Form
from adapters.process import ProcessUse
from adapters.tool import ToolAdapter

TOOL = "mthreads-gmi"


class MThreads(ToolAdapter):
    """MTT devices of this host."""

    vendor = mthreads_gmi.VENDOR
    capabilities = frozenset(
        {
            *(Capability.UTILISATION, Capability.MEMORY, Capability.POWER, Capability.TEMPERATURE),
            Capability.PROCESSES,
        }
    )
    tools = (TOOL,)
    process_variables = ("MUSA_VISIBLE_DEVICES",)
    container_variables = ("MTHREADS_VISIBLE_DEVICES",)
    forms = (
        exporter.form(exporter.MTGPU),
        Form("mthreads-gmi -q, JSON or text", mthreads_gmi.has_queries, mthreads_gmi.parse_queries),
        Form("mthreads-gmi's table", mthreads_gmi.has_table, mthreads_gmi.parse_table),
    )

    def processes(self, uuids: Iterable[str] | None = None) -> tuple[ProcessUse, ...]:
        """Who holds which device, as the table's list tells; `-q` has none."""
        wanted = None if uuids is None else frozenset(uuids)
        names = {device.index: device.uuid for device in self.inventory()}
        found = mthreads_gmi.read_processes(self._ask(TOOL), names)
        return tuple(use for use in found if wanted is None or use.uuid in wanted)

    def _read_tool(self) -> Reading:
        if self._tool() is None:
            raise AdapterError(f"{TOOL}: not on the path; is the Moore Threads driver installed?")
        return mthreads_gmi.parse_queries(self._ask(TOOL, "-q", "--json"), self._clock(), self._known())
