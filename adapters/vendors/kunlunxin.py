"""Kunlunxin XPU: devices through xpu-smi of Kunlunxin; recordings of it and of xpu-exporter.

The tool is asked, not libxpuml.so: the public header of that library has no call for a device's name or uuid, which
`xpu_smi -m` prints. Intel has a tool of the same name; what it answers is recognised as none of ours. Memory MiB,
power W, temperature °C.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from adapters.accelerator import Accelerator
from adapters.adapter import Capability, Probe, Reading
from adapters.catalog import Catalog, load_catalog
from adapters.command import run_tool
from adapters.device_node import device_nodes
from adapters.kunlun_smi import VENDOR, parse_recording
from adapters.nvml_adapter import name_visible
from adapters.recording import read_recording
from adapters.sample import Sample

TOOLS = ("xpu_smi", "xpu-smi")  # the older and the newer spelling


class Kunlunxin:
    """Kunlunxin devices of this host. run: gives a tool's answer, `run_tool` unless a test brings its own."""

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
        self._said: tuple[str, ...] = ()

    def probe(self) -> Probe:
        """Whether a tool of this name is on the path. Never raises; another vendor's shows at the inventory."""
        if self._tool() is None:
            return Probe(available=False, reason=f"neither {' nor '.join(TOOLS)} is on the path")
        return Probe(available=True)

    def inventory(self) -> tuple[Accelerator, ...]:
        """Every device that the tool prints. AdapterError when it is absent, hangs, or is Intel's."""
        return self._read().devices

    def samples(self, uuids: Iterable[str] | None = None) -> tuple[Sample, ...]:
        """One reading of each named device, or of all."""
        wanted = None if uuids is None else frozenset(uuids)
        return tuple(sample for sample in self._read().samples if wanted is None or sample.uuid in wanted)

    def visibility(self, devices: Sequence[Accelerator]) -> Mapping[str, str]:
        """Variables that show a process exactly these devices, by number. No device: an empty list, and `void`.

        XPU_VISIBLE_DEVICES is read by XRE, CUDA_VISIBLE_DEVICES by the P800's CUDA layer, CXPU_VISIBLE_DEVICES by the
        container runtime. ValueError for a device without a number.
        """
        names = name_visible(devices)
        return {"XPU_VISIBLE_DEVICES": names, "CUDA_VISIBLE_DEVICES": names, "CXPU_VISIBLE_DEVICES": names or "void"}

    def device_nodes(self, devices: Sequence[Accelerator]) -> tuple[str, ...]:
        """Files under /dev that a container needs for exactly these devices. ValueError where that is not known."""
        return device_nodes(self.vendor, devices)

    def problems(self) -> tuple[str, ...]:
        """What the last inventory or samples said about no device that it lists."""
        return self._said

    def parse_recording(self, path: Path) -> Reading:
        """A recorded output of xpu-smi or xpu-exporter, or of gpustack's detector; AdapterError if neither."""
        text, written_at = read_recording(path)
        return parse_recording(text, written_at, self._known())

    def _read(self) -> Reading:
        reading = parse_recording(
            (self._run or run_tool)((self._tool() or TOOLS[0], "-m")), self._clock(), self._known()
        )
        self._said = reading.problems
        return reading

    def _tool(self) -> str | None:
        if self._run is not None:
            return TOOLS[0]
        return next((name for name in TOOLS if shutil.which(name)), None)

    def _known(self) -> Catalog:
        return self._catalog if self._catalog is not None else load_catalog()
