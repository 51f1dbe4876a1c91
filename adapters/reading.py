"""Reading document: a Reading as the JSON value that `yisuan devices` prints."""

from __future__ import annotations

from typing import Any

from adapters.accelerator import Accelerator, Origin
from adapters.adapter import Reading
from adapters.catalog import Catalog
from adapters.chain import timestamp
from adapters.sample import Sample


def reading_document(reading: Reading, catalog: Catalog) -> dict[str, Any]:
    """The reading as plain JSON values, keys in a fixed order; what is unknown is null, never 0.

    origin is the catalogue's hint for the model, `undetermined` where the catalogue has none: no rate follows
    from it.
    """
    return {
        "version": 1,
        "devices": [_device(device, catalog) for device in reading.devices],
        "samples": [_sample(sample) for sample in reading.samples],
        "problems": list(reading.problems),
    }


def _device(device: Accelerator, catalog: Catalog) -> dict[str, Any]:
    chip = catalog.get(device.model) if device.model else None
    return {
        "uuid": device.uuid,
        "index": device.index,
        "vendor": device.vendor,
        "model_raw": device.model_raw,
        "model": device.model,
        "origin": (chip.origin if chip else Origin.UNDETERMINED).value,
        "serial": device.serial,
        "pci_bdf": device.pci_bdf,
        "memory_total_bytes": device.memory_total_bytes,
        "driver_version": device.driver_version,
        "health": device.health.value,
        "source": device.source.value,
        "evidence_level": device.evidence_level.value,
        "problems": list(device.problems),
    }


def _sample(sample: Sample) -> dict[str, Any]:
    return {
        "uuid": sample.uuid,
        "at": timestamp(sample.at),
        "utilisation_ratio": sample.utilisation_ratio,
        "memory_used_bytes": sample.memory_used_bytes,
        "power_watts": sample.power_watts,
        "temperature_celsius": sample.temperature_celsius,
    }
