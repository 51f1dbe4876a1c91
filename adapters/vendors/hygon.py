"""Hygon DCU: devices through `hy-smi`, else the fork of `rocm-smi` it came from, live and recorded.

The library is a fork of ROCm SMI without a published header or binding, and its calls keep AMD's names while their
structs need not; the tool's keys carry their units and are the steadier contract. The uuid is the tool's `Unique ID`,
else `hygon:<bdf>`.
"""

from __future__ import annotations

from functools import partial

from adapters import exporter, rocm_smi
from adapters.adapter import AdapterError, Capability, Reading
from adapters.form import Form
from adapters.tool import ToolAdapter

VENDOR = "hygon"
QUESTIONS = (
    *("--showproductname", "--showuniqueid", "--showserial", "--showbus", "--showdriverversion"),
    *("--showmeminfo", "vram", "--showuse", "--showmemuse", "--showpower", "--showmaxpower", "--showtemp"),
)


class Hygon(ToolAdapter):
    """DCUs of this host."""

    vendor = VENDOR
    capabilities = frozenset({Capability.UTILISATION, Capability.MEMORY, Capability.POWER, Capability.TEMPERATURE})
    tools = ("hy-smi", "rocm-smi")
    process_variables = ("HIP_VISIBLE_DEVICES",)
    container_variables = ("HYGON_VISIBLE_DEVICES",)
    forms = (
        exporter.form(exporter.DCU),
        Form("hy-smi JSON, CSV, lines and table", rocm_smi.fits, partial(rocm_smi.parse, vendor=VENDOR)),
    )

    def _read_tool(self) -> Reading:
        tool = self._tool()
        if tool is None:
            raise AdapterError("hy-smi and rocm-smi: not on the path; is the DCU driver installed?")
        return rocm_smi.parse(self._ask(tool, *QUESTIONS, "--json"), self._clock(), self._known(), self.vendor)
