"""Tool: an adapter that asks a vendor's library where there is a steady one, else its command-line tool.

It also reads what such tools and exporters once printed.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import ClassVar

from adapters.accelerator import Accelerator
from adapters.adapter import AdapterError, Capability, Probe, Reading
from adapters.binding import Asker, Binding, Memory, find_library, read_library
from adapters.catalog import Catalog, load_catalog
from adapters.command import run_tool
from adapters.deadline import DeadlineError, Worker
from adapters.device_node import device_nodes
from adapters.form import Form, parse_forms
from adapters.gpustack import is_detected, parse_detected
from adapters.process import ProcessUse
from adapters.recording import read_recording
from adapters.row import name_device
from adapters.sample import Sample

Run = Callable[[Sequence[str]], str]


class ToolAdapter:
    """What these adapters have in common; a vendor gives its names, forms and questions.

    run: gives a tool's answer, `run_tool` unless a test brings its own. which: finds a tool on the path. library: the
    reader of the vendor's library; unless one is brought, that of `binding` where its file is on this host.
    """

    vendor: str
    capabilities: frozenset[Capability]
    tools: ClassVar[tuple[str, ...]]  # any of them will do, the preferred first
    process_variables: ClassVar[tuple[str, ...]]  # read by the vendor's runtime
    container_variables: ClassVar[tuple[str, ...]] = ()  # read by its container runtime, `void` for none
    forms: ClassVar[tuple[Form, ...]]
    binding: ClassVar[Binding | None] = None

    def __init__(
        self,
        *,
        library: Asker | None = None,
        run: Run | None = None,
        which: Callable[[str], str | None] = shutil.which,
        catalog: Catalog | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._run = run
        self._which = which
        self._catalog = catalog
        self._clock = clock
        self._library = library
        self._searched = library is not None or run is not None
        self._memory = Memory()
        self._said: tuple[str, ...] = ()
        self._lock = threading.Lock()

    def probe(self) -> Probe:
        """Whether the library or one of the tools is here. Never raises; what does not work shows at the inventory."""
        if self._reader() is None and self._tool() is None:
            file = f"{self.binding.file} is not here, and " if self.binding else ""
            return Probe(available=False, reason=f"{file}{' and '.join(self.tools)}: not on the path")
        return Probe(available=True)

    def inventory(self) -> tuple[Accelerator, ...]:
        """Every device that is named. AdapterError when neither library nor tool can be read.

        A device that does not answer is listed as failed, and hides no other.
        """
        reading = self._read()
        self._said = reading.problems
        return reading.devices

    def samples(self, uuids: Iterable[str] | None = None) -> tuple[Sample, ...]:
        """One reading of each named device, or of all."""
        wanted = None if uuids is None else frozenset(uuids)
        if wanted is not None and not wanted:
            return ()
        reading = self._read()
        self._said = reading.problems
        return tuple(sample for sample in reading.samples if wanted is None or sample.uuid in wanted)

    def visibility(self, devices: Sequence[Accelerator]) -> Mapping[str, str]:
        """Variables that show a process exactly these devices. ValueError for a device without a number or name."""
        unnumbered = [device.uuid for device in devices if device.visible_id is None]
        if unnumbered:
            raise ValueError(f"visible_id: unknown for {', '.join(unnumbered)}; no process can be confined to it")
        names = ",".join(str(device.visible_id) for device in devices)
        return {
            **dict.fromkeys(self.process_variables, names),
            **dict.fromkeys(self.container_variables, names or "void"),
        }

    def device_nodes(self, devices: Sequence[Accelerator]) -> tuple[str, ...]:
        """Files under /dev that a container needs for exactly these devices. ValueError where that is not known."""
        return device_nodes(self.vendor, devices)

    def problems(self) -> tuple[str, ...]:
        """What the last inventory or samples said about no device that it lists."""
        return self._said

    def close(self) -> None:
        """The library's process is gone; the next question starts another."""
        if isinstance(self._library, Worker):
            self._library.close()

    def parse_recording(self, path: Path) -> Reading:
        """What a recorded output of the tool, its exporter or gpustack's detector says; AdapterError if it is none."""
        text, written_at = read_recording(path)
        detected = Form("gpustack's detector", is_detected, partial(parse_detected, vendor=self.vendor))
        return parse_forms(text, written_at, self._known(), (detected, *self.forms), vendor=self.vendor)

    def _read(self) -> Reading:
        """Devices and samples of this host, now: the library's, else the tool's.

        A driver that does not answer the library would hold the tool as well; it is not asked then.
        """
        library = self._reader()
        if library is None or self.binding is None:
            return self._read_tool()
        try:
            with self._lock:
                return read_library(
                    library,
                    self._memory,
                    self._clock(),
                    self._known(),
                    vendor=self.vendor,
                    semantics=self.binding.semantics,
                )
        except DeadlineError:
            raise
        except AdapterError as error:
            if self._tool() is None:
                raise
            try:
                return self._read_tool()
            except AdapterError as second:
                raise AdapterError(f"{error}; {second}") from second

    def _held(self, devices: Sequence[Accelerator]) -> tuple[ProcessUse, ...] | None:
        """Processes as the library tells them; None where there is no library. A device that fails has none."""
        library = self._reader()
        if library is None:
            return None
        keys = {name_device(self.vendor, row): key for key, row in self._memory.rows.items()}
        found = []
        for device in devices:
            key = keys.get(device.uuid)
            if key is None or device.partition is not None:
                continue
            try:
                told = library.ask("processes", key)
            except AdapterError:
                continue  # said as the device's own problem at the inventory
            found += [ProcessUse(uuid=device.uuid, pid=one["pid"], memory_used_bytes=one["used"]) for one in told]
        return tuple(found)

    def _read_tool(self) -> Reading:
        """Devices and samples as the tool tells them."""
        raise NotImplementedError

    def _reader(self) -> Asker | None:
        """The library's reader; None where its file is not on this host."""
        if not self._searched and self.binding is not None:
            self._searched = True
            file = find_library(self.binding.file, self.binding.folders)
            self._library = Worker(self.binding.target, {"library": file}) if file else None
        return self._library

    def _tool(self) -> str | None:
        if self._run is not None:
            return self.tools[0]
        return next((tool for tool in self.tools if self._which(tool)), None)

    def _ask(self, *words: str) -> str:
        return (self._run or run_tool)(words)

    def _maybe(self, *words: str) -> str:
        """An optional answer: empty when the tool refuses the question."""
        try:
            return self._ask(*words)
        except AdapterError:
            return ""

    def _known(self) -> Catalog:
        return self._catalog if self._catalog is not None else load_catalog()
