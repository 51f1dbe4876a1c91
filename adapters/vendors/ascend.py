"""Huawei Ascend: devices through `npu-smi`, live and recorded.

The driver's library (DCMI) has no public Python binding, so the tool is asked. The uuid is `ascend:<bdf>`:
the die's own number is not in the tool's table.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from adapters.accelerator import Accelerator
from adapters.adapter import AdapterError, Capability, Probe, Reading
from adapters.catalog import Catalog, load_catalog
from adapters.command import run_tool
from adapters.npu_smi import VENDOR, Slot, add_board, parse_recording, parse_table, read_boards, read_mapping
from adapters.recording import read_recording
from adapters.sample import Sample

TOOL = "npu-smi"


class Ascend:
    """Ascend devices of this host. run: gives a tool's answer, `run_tool` unless a test brings its own."""

    vendor = VENDOR
    capabilities = frozenset({Capability.UTILISATION, Capability.MEMORY, Capability.POWER, Capability.TEMPERATURE})

    def __init__(
        self,
        *,
        run: Callable[[Sequence[str]], str] | None = None,
        catalog: Catalog | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._run = run
        self._catalog = catalog
        self._clock = clock
        self._asked: dict[int, tuple[Mapping[str, str], ...]] = {}

    def probe(self) -> Probe:
        """Whether npu-smi is on the path here.

        Never raises; a tool that does not work shows at the inventory.
        """
        if self._run is None and shutil.which(TOOL) is None:
            return Probe(available=False, reason=f"{TOOL} is not on the path")
        return Probe(available=True)

    def inventory(self) -> tuple[Accelerator, ...]:
        """Every chip of the table, with serial numbers where the boards tell them.

        AdapterError if unreadable.
        """
        slots = self._slots()
        boards = self._boards({slot.npu for slot in slots})
        return tuple(add_board(device, boards) for device in self._read(slots).devices)

    def samples(self, uuids: Iterable[str] | None = None) -> tuple[Sample, ...]:
        """One reading of each named device, or of all.

        The power of a card with two dies is on its first die only.
        """
        wanted = None if uuids is None else frozenset(uuids)
        return tuple(sample for sample in self._read(()).samples if wanted is None or sample.uuid in wanted)

    def visibility(self, devices: Sequence[Accelerator]) -> Mapping[str, str]:
        """Variables that show a process exactly these devices, by number in the order of the driver.

        ASCEND_RT_VISIBLE_DEVICES is read by CANN (logic ids), ASCEND_VISIBLE_DEVICES by the container runtime
        (physical ids, the same on a bare host). No device: an empty list, and `void`. ValueError for a device
        without a number.
        """
        unnumbered = [device.uuid for device in devices if device.visible_id is None]
        if unnumbered:
            raise ValueError(f"visible_id: unknown for {', '.join(unnumbered)}; no process can be confined to it")
        names = ",".join(str(device.visible_id) for device in devices)
        return {"ASCEND_RT_VISIBLE_DEVICES": names, "ASCEND_VISIBLE_DEVICES": names or "void"}

    def parse_recording(self, path: Path) -> Reading:
        """A recorded `npu-smi info`, `info -m` or `info -t board`. AdapterError if it is none of them."""
        text, written_at = read_recording(path)
        return parse_recording(text, written_at, self._known())

    def _read(self, slots: Sequence[Slot]) -> Reading:
        return parse_table(self._ask("info"), self._clock(), self._known(), slots)

    def _slots(self) -> tuple[Slot, ...]:
        try:
            return read_mapping(self._ask("info", "-m"))
        except AdapterError:
            return ()  # the table alone still numbers the devices

    def _boards(self, npus: Iterable[int]) -> tuple[Mapping[str, str], ...]:
        """Every card's board, asked once: it does not change under a running driver, and answers slowly."""
        for npu in sorted(set(npus) - self._asked.keys()):
            try:
                self._asked[npu] = read_boards(self._ask("info", "-t", "board", "-i", str(npu)))
            except AdapterError:
                continue  # no serial number this time; asked again at the next inventory
        return tuple(board for npu in sorted(self._asked) for board in self._asked[npu])

    def _ask(self, *words: str) -> str:
        return (self._run or run_tool)((TOOL, *words))

    def _known(self) -> Catalog:
        return self._catalog if self._catalog is not None else load_catalog()
