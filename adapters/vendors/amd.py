"""AMD Instinct and Radeon: devices through `amd-smi`, else `rocm-smi`, live and recorded.

amd-smi speaks JSON and is what AMD keeps up; rocm-smi, which ROCm 7 drops, is the fallback. The library behind both
(libamd_smi.so) changes its structs between ROCm releases, and its Python binding (`amdsmi`) must match the installed
library exactly, so the tool that comes with the driver is asked rather than a pinned binding. Memory MB are MiB,
power W, energy J, temperatures °C. The uuid is amd-smi's; rocm-smi prints another (`Unique ID`), or none.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from adapters import amd_smi, rocm_smi
from adapters.adapter import AdapterError, Capability, Reading
from adapters.form import Form
from adapters.link import Link
from adapters.process import ProcessUse
from adapters.tool import ToolAdapter

ROCM_QUESTIONS = (
    *("--showproductname", "--showuniqueid", "--showserial", "--showbus", "--showdriverversion", "--showvbios"),
    *("--showmeminfo", "vram", "--showuse", "--showpower", "--showmaxpower", "--showtemp", "--showclocks"),
)


class Amd(ToolAdapter):
    """AMD devices of this host."""

    vendor = amd_smi.VENDOR
    capabilities = frozenset(Capability) - {Capability.EVENTS}
    tools = ("amd-smi", "rocm-smi")
    process_variables = ("HIP_VISIBLE_DEVICES",)
    container_variables = ("AMD_VISIBLE_DEVICES",)
    forms = (
        Form("amd-smi JSON", amd_smi.fits, amd_smi.parse),
        Form("rocm-smi JSON, CSV, lines and table", rocm_smi.fits, partial(rocm_smi.parse, vendor=amd_smi.VENDOR)),
    )

    def processes(self, uuids: Iterable[str] | None = None) -> tuple[ProcessUse, ...]:
        """Who holds which device, as amd-smi tells; () where only rocm-smi is installed."""
        if self._tool() != "amd-smi":
            return ()
        wanted = None if uuids is None else frozenset(uuids)
        text = self._ask("amd-smi", "list", "--json") + "\n" + self._ask("amd-smi", "process", "--json")
        return tuple(use for use in amd_smi.read_processes(text) if wanted is None or use.uuid in wanted)

    def links(self) -> tuple[Link, ...]:
        """How the devices are joined: xGMI, or by the bus in a way amd-smi does not name."""
        if self._tool() != "amd-smi":
            return ()
        text = self._ask("amd-smi", "list", "--json") + "\n" + self._ask("amd-smi", "topology", "--json")
        return amd_smi.read_links(text)

    def _read_tool(self) -> Reading:
        tool = self._tool()
        if tool is None:
            raise AdapterError("amd-smi and rocm-smi: not on the path; is ROCm installed?")
        if tool == "rocm-smi":
            return rocm_smi.parse(self._ask(tool, *ROCM_QUESTIONS, "--json"), self._clock(), self._known(), self.vendor)
        answers = [self._ask(tool, "list", "--json"), self._maybe(tool, "static", "--json")]
        answers.append(self._maybe(tool, "metric", "--json"))
        return amd_smi.parse("\n".join(answers), self._clock(), self._known())
