"""NVIDIA: devices through NVML, and recordings of `nvidia-smi`.

NVML is the vendor's library (libnvidia-ml.so.1), called through its own binding nvidia-ml-py, imported when
first asked. Units there: memory bytes, power mW, energy mJ since the driver loaded, temperature °C (NVML API
reference).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adapters.accelerator import Accelerator, Health, Source
from adapters.adapter import AdapterError, Capability, Probe, Reading
from adapters.catalog import Catalog, load_catalog
from adapters.cell import read_bdf, read_text
from adapters.nvidia_smi import MIG_ON, SEMANTICS, VENDOR, judge_health, name_device, parse_csv, parse_xml
from adapters.recording import read_recording
from adapters.sample import Sample

# Blank readings come as values from here on (NVML_VALUE_NOT_AVAILABLE as unsigned; DCGM's 64-bit blanks).
SENTINEL = (1 << 63) - 16
SENTINEL_32 = (1 << 32) - 1


class Nvidia:
    """NVIDIA devices of this host.

    library: the NVML binding, the installed one unless a test brings its own.
    """

    vendor = VENDOR
    capabilities = frozenset(Capability) - {
        Capability.PROCESSES,
        Capability.LINKS,
        Capability.PARTITIONS,
        Capability.EVENTS,
    }

    def __init__(
        self,
        *,
        library: Any | None = None,
        catalog: Catalog | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._library = library
        self._catalog = catalog
        self._clock = clock
        self._ready = False
        self._lock = threading.Lock()

    def probe(self) -> Probe:
        """Whether NVML answers here. Never raises."""
        try:
            self._nvml()
        except AdapterError as error:
            return Probe(available=False, reason=str(error))
        return Probe(available=True)

    def inventory(self) -> tuple[Accelerator, ...]:
        """Every device NVML counts; one that cannot be opened is listed as failed, with its problem."""
        nvml = self._nvml()
        driver = _ask(nvml, "nvmlSystemGetDriverVersion")
        found = []
        for index in range(self._count(nvml)):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
            except nvml.NVMLError as error:
                found.append(_unopened(index, str(error)))
                continue
            found.append(self._known().label(_device(nvml, handle, index, driver)))
        return tuple(found)

    def samples(self, uuids: Iterable[str] | None = None) -> tuple[Sample, ...]:
        """One reading of each named device, or of all; a reading that NVML does not give is None."""
        nvml, wanted = self._nvml(), None if uuids is None else frozenset(uuids)
        found = []
        for index in range(self._count(nvml)):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
            except nvml.NVMLError as error:
                sample = Sample(uuid=_unopened(index, "").uuid, at=self._clock(), raw_error=str(error))
            else:
                sample = _sample(nvml, handle, _identity(nvml, handle, index)[0], self._clock())
            if wanted is None or sample.uuid in wanted:
                found.append(sample)
        return tuple(found)

    def visibility(self, devices: Sequence[Accelerator]) -> Mapping[str, str]:
        """Variables that show a process exactly these devices, by uuid: indices differ between NVML and CUDA.

        CUDA_VISIBLE_DEVICES is read by the CUDA runtime, NVIDIA_VISIBLE_DEVICES by the container runtime;
        CUDA_DEVICE_ORDER makes the order inside the process that of the bus. No device: an empty list, and
        `void`.
        """
        names = ",".join(device.visible_id or device.uuid for device in devices)
        return {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": names,
            "NVIDIA_VISIBLE_DEVICES": names or "void",
        }

    def parse_recording(self, path: Path) -> Reading:
        """A recorded `nvidia-smi -q -x` (XML) or `nvidia-smi --query-gpu=… --format=csv`.

        AdapterError if neither.
        """
        text, written_at = read_recording(path)
        parse = parse_xml if text.lstrip().startswith("<") else parse_csv
        return parse(text, written_at, self._known())

    def close(self) -> None:
        """NVML is released; the next question opens it again."""
        with self._lock:
            if self._ready:
                _ask(self._library, "nvmlShutdown")
            self._ready = False

    def _nvml(self) -> Any:
        with self._lock:
            if self._library is None:
                try:
                    import pynvml
                except ImportError as error:
                    raise AdapterError(f"nvidia-ml-py cannot be imported: {error}") from error
                self._library = pynvml
            if not self._ready:
                try:
                    self._library.nvmlInit()
                except (self._library.NVMLError, OSError) as error:
                    raise AdapterError(f"NVML: {error}") from error
                self._ready = True
            return self._library

    def _count(self, nvml: Any) -> int:
        try:
            return int(nvml.nvmlDeviceGetCount())
        except nvml.NVMLError as error:
            self.close()  # a restarted driver answers only a library opened anew
            raise AdapterError(f"NVML: devices cannot be counted: {error}") from error

    def _known(self) -> Catalog:
        return self._catalog if self._catalog is not None else load_catalog()


def _device(nvml: Any, handle: Any, index: int, driver: Any) -> Accelerator:
    uuid, bdf, problems = _identity(nvml, handle, index)
    memory = _memory(nvml, handle)
    mig = _ask(nvml, "nvmlDeviceGetMigMode", handle)
    rows = _ask(nvml, "nvmlDeviceGetRemappedRows", handle)  # corrected, uncorrected, pending, failed
    pages = _ask(nvml, "nvmlDeviceGetRetiredPagesPendingStatus", handle)
    return Accelerator(
        uuid=uuid,
        index=index,
        vendor=VENDOR,
        model_raw=_string(_ask(nvml, "nvmlDeviceGetName", handle)) or "",
        serial=_string(_ask(nvml, "nvmlDeviceGetSerial", handle)),
        pci_bdf=bdf,
        numa_node=_number(_ask(nvml, "nvmlDeviceGetNumaNodeId", handle), 1),
        visible_id=uuid if not problems else None,
        memory_total_bytes=(_number(memory.total, 1) or None) if memory is not None else None,
        power_limit_watts=_number(_ask(nvml, "nvmlDeviceGetEnforcedPowerLimit", handle), 1000),
        driver_version=_string(driver),
        firmware_version=_string(_ask(nvml, "nvmlDeviceGetVbiosVersion", handle)),
        health=judge_health(
            failed=bool(rows[3]) if rows else None,
            waiting=bool(rows[2]) if rows else (None if pages is None else bool(pages)),
        ),
        source=Source.LIBRARY,
        problems=(*problems, *((MIG_ON,) if mig and mig[0] else ())),
    )


def _sample(nvml: Any, handle: Any, uuid: str, at: datetime) -> Sample:
    rates = _ask(nvml, "nvmlDeviceGetUtilizationRates", handle)
    memory = _memory(nvml, handle)
    ratio = _number(rates.gpu, 100) if rates is not None else None
    errors = _ask(nvml, "nvmlDeviceGetTotalEccErrors", handle, 1, 1)  # uncorrected, aggregate over the device's life
    return Sample(
        uuid=uuid,
        at=at,
        utilisation_ratio=ratio if ratio is not None and ratio <= 1 else None,
        utilisation_semantics=SEMANTICS,
        memory_used_bytes=_number(memory.used, 1) if memory is not None else None,
        power_watts=_number(_ask(nvml, "nvmlDeviceGetPowerUsage", handle), 1000),
        energy_joules_total=_number(_ask(nvml, "nvmlDeviceGetTotalEnergyConsumption", handle), 1000),
        temperature_celsius=_number(_ask(nvml, "nvmlDeviceGetTemperature", handle, 0), 1),  # 0: the die's sensor
        ecc_uncorrected_total=_number(errors, 1),
    )


def _memory(nvml: Any, handle: Any) -> Any | None:
    """Version 2 tells what jobs use apart from what the driver reserves.

    Older drivers have version 1 only.
    """
    second = _ask(nvml, "nvmlDeviceGetMemoryInfo", handle, getattr(nvml, "nvmlMemory_v2", None))
    return second if second is not None else _ask(nvml, "nvmlDeviceGetMemoryInfo", handle)


def _identity(nvml: Any, handle: Any, index: int) -> tuple[str, str | None, tuple[str, ...]]:
    pci = _ask(nvml, "nvmlDeviceGetPciInfo", handle)
    bdf = read_bdf(_string(pci.busId)) if pci is not None else None
    uuid, problems = name_device(_string(_ask(nvml, "nvmlDeviceGetUUID", handle)), bdf, index)
    return uuid, bdf, problems


def _unopened(index: int, error: str) -> Accelerator:
    return Accelerator(
        uuid=name_device(None, None, index)[0],
        index=index,
        vendor=VENDOR,
        model_raw="",
        health=Health.FAILED,  # nothing can run on a device that cannot be opened
        source=Source.LIBRARY,
        problems=(f"NVML cannot open device {index}: {error}",),
    )


def _ask(nvml: Any, name: str, *arguments: Any) -> Any | None:
    """The answer to one optional question; None when the library, driver or device does not give it."""
    try:
        return getattr(nvml, name)(*arguments)
    except (
        nvml.NVMLError,
        getattr(nvml, "NVMLLibraryMismatchError", nvml.NVMLError),
        AttributeError,
        TypeError,
    ):
        return None


def _number(value: Any, divisor: int) -> Any | None:
    if not isinstance(value, int) or value < 0 or value >= SENTINEL or value == SENTINEL_32:
        return None
    return value if divisor == 1 else value / divisor


def _string(value: Any) -> str | None:
    return read_text(value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value)
