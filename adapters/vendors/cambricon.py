"""Cambricon MLU: devices through CNDEV, else `cnmon`; recordings of cnmon and of mlu-exporter.

CNDEV (libcndev.so) is the library that Cambricon's own exporter and plugin use; its structs carry their version, which
is what makes a small ctypes reader of ours (cndev.py) keep working over drivers. There is no binding of the maker's.
cnmon is the fallback: the first tables print no uuid. Units: MB and MiB are 2^20 bytes, power W, temperature °C.
"""

from __future__ import annotations

from collections.abc import Iterable

from adapters import cndev, cnmon, mlu_exporter
from adapters.adapter import AdapterError, Capability, Reading
from adapters.binding import Binding
from adapters.form import Form, refused
from adapters.process import ProcessUse
from adapters.tool import ToolAdapter


class Cambricon(ToolAdapter):
    """MLUs of this host."""

    vendor = cnmon.VENDOR
    capabilities = frozenset(Capability) - {
        *(Capability.ENERGY, Capability.EVENTS, Capability.LINKS, Capability.PARTITIONS),
    }
    tools = ("cnmon",)
    process_variables = ("MLU_VISIBLE_DEVICES",)
    container_variables = ("CAMBRICON_VISIBLE_DEVICES",)
    binding = Binding(
        file=cndev.LIBRARY,
        folders=cndev.FOLDERS,
        target="adapters.cndev:Driver",
        semantics="CNDEV: average share of the MLU's cores busy",
    )
    forms = (
        Form("mlu-exporter's metrics", mlu_exporter.fits, mlu_exporter.parse),
        Form("cnmon's table", cnmon.has_table, cnmon.parse_table),
        Form("`cnmon info` and its JSON", cnmon.has_blocks, cnmon.parse_blocks),
        refused("a configuration of the mock libcndev.so", cnmon.is_mock, "it sets up a stub and is no tool's output"),
    )

    def processes(self, uuids: Iterable[str] | None = None) -> tuple[ProcessUse, ...]:
        """Who holds which card, as the library tells, else the table's list."""
        wanted = None if uuids is None else frozenset(uuids)
        found = self._held(self._read().devices)
        if found is None:
            text = self._ask("cnmon")
            reading = cnmon.parse_table(text, self._clock(), self._known())
            found = cnmon.read_processes(text, cnmon.name_cards(reading))
        return tuple(use for use in found if wanted is None or use.uuid in wanted)

    def _read_tool(self) -> Reading:
        if self._tool() is None:
            raise AdapterError("cnmon: not on the path; is the Cambricon driver installed?")
        return cnmon.parse_table(self._ask("cnmon"), self._clock(), self._known())
