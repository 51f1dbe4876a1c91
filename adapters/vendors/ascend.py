"""Huawei Ascend: devices through DCMI, else `npu-smi`; recordings of npu-smi, of npu-exporter and of gpustack's detector.

DCMI (libdcmi.so) is what npu-smi and Huawei's own exporter stand on; it has no public Python binding, so a small ctypes
reader of ours (dcmi.py) asks it. npu-smi is the fallback: its table prints no uuid and no ECC. The uuid is the die's
number (VDie), which both tell; else `ascend:<bdf>`. Units: MB are MiB, power 0.1 W in the library and W in the tool.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from adapters import dcmi, exporter, npu_recording
from adapters.adapter import AdapterError, Capability, Reading
from adapters.binding import Binding
from adapters.form import Form
from adapters.link import Link, Nearness
from adapters.npu_smi import VENDOR, Slot, add_board, parse_table, read_boards, read_mapping
from adapters.process import ProcessUse
from adapters.row import name_device
from adapters.tool import ToolAdapter

TOOL = "npu-smi"


class Ascend(ToolAdapter):
    """Ascend devices of this host."""

    vendor = VENDOR
    capabilities = frozenset(Capability) - {Capability.ENERGY, Capability.EVENTS}
    tools = (TOOL,)
    process_variables = ("ASCEND_RT_VISIBLE_DEVICES",)  # read by CANN: logic ids
    container_variables = ("ASCEND_VISIBLE_DEVICES",)  # physical ids, the same on a bare host
    binding = Binding(
        file=dcmi.LIBRARY,
        folders=dcmi.FOLDERS,
        target="adapters.dcmi:Driver",
        semantics="DCMI: share of AI cores busy",
    )
    forms = (
        exporter.form(exporter.NPU),
        Form("npu-smi's table, mapping, boards and -t answers", lambda text: bool(text), npu_recording.parse_recording),
    )

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._asked: dict[tuple[int, int], tuple[Mapping[str, str], ...]] = {}

    def processes(self, uuids: Iterable[str] | None = None) -> tuple[ProcessUse, ...]:
        """Who holds which chip, as the library tells; () where only the tool is here and its table lists none."""
        wanted = None if uuids is None else frozenset(uuids)
        found = self._held(self._read().devices)
        if found is None:
            text = self._ask(TOOL, "info")
            found = npu_recording.read_processes(text, parse_table(text, self._clock(), self._known()).devices)
        return tuple(use for use in found if wanted is None or use.uuid in wanted)

    def links(self) -> tuple[Link, ...]:
        """How near the chips are: HCCS, SIO between the dies of one package, or the bus. () without the library."""
        library = self._reader()
        if library is None:
            return ()
        self._read()
        names = {key: name_device(self.vendor, row) for key, row in sorted(self._memory.rows.items())}
        found = []
        for first, second in itertools.combinations(names, 2):
            try:
                told = library.ask("link", first, second)
            except AdapterError:
                continue  # one of them is lost, which the inventory says
            if told is not None:
                a, b = sorted((names[first], names[second]))
                near = Nearness(told["nearness"])
                found.append(Link(a_uuid=a, b_uuid=b, nearness=near, fabric=told["fabric"]))
        return tuple(found)

    def _read_tool(self) -> Reading:
        """The table, numbered by the mapping, with serial numbers and die numbers where the boards tell them."""
        if self._tool() is None:
            raise AdapterError(f"{TOOL}: not on the path; is the Ascend driver installed?")
        slots = self._slots()
        boards = self._boards({(slot.npu, slot.chip) for slot in slots})
        reading = parse_table(self._ask(TOOL, "info"), self._clock(), self._known(), slots)
        devices = tuple(add_board(device, boards) for device in reading.devices)
        return npu_recording.name_dies(replace(reading, devices=devices), boards)

    def _slots(self) -> tuple[Slot, ...]:
        try:
            return read_mapping(self._ask(TOOL, "info", "-m"))
        except AdapterError:
            return ()  # the table alone still numbers the devices

    def _boards(self, slots: Iterable[tuple[int, int]]) -> tuple[Mapping[str, str], ...]:
        """Every card's board, asked once: it does not change under a running driver, and answers slowly."""
        for npu, chip in sorted(set(slots) - self._asked.keys()):
            try:
                held = read_boards(self._ask(TOOL, "info", "-t", "board", "-i", str(npu)))
            except AdapterError:
                continue  # no serial number this time; asked again at the next inventory
            die = read_boards(self._maybe(TOOL, "info", "-t", "board", "-i", str(npu), "-c", str(chip)))
            self._asked[npu, chip] = (*held, *die)
        return tuple(board for slot in sorted(self._asked) for board in self._asked[slot])
