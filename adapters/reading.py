"""Reading document: a Reading as the JSON value that `yisuan devices` prints, and a sample as agents keep and send it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from adapters.accelerator import Accelerator, Health, Origin, Partition, PartitionKind
from adapters.adapter import Reading
from adapters.catalog import Catalog
from adapters.chain import instant, timestamp
from adapters.device_event import DeviceEvent, Severity
from adapters.link import Link
from adapters.process import ProcessUse
from adapters.sample import Sample

# The order in which a sample is printed: first what every tool has, then the rest in the order of Sample.
_FIRST = ("uuid", "at", "utilisation_ratio", "memory_used_bytes", "power_watts", "temperature_celsius")
_FIELDS = (*_FIRST, *(one.name for one in fields(Sample) if one.name not in _FIRST))


def reading_document(reading: Reading, catalog: Catalog) -> dict[str, Any]:
    """The reading as plain JSON values, keys in a fixed order; what is unknown is null, never 0.

    origin is the catalogue's hint for the model, `undetermined` where the catalogue has none: no rate follows
    from it.
    """
    return {
        "version": 1,
        "devices": [_device(device, catalog) for device in reading.devices],
        "samples": [sample_document(sample) for sample in reading.samples],
        "problems": list(reading.problems),
    }


def sample_document(sample: Sample) -> dict[str, Any]:
    """Every field of the sample as a plain JSON value; what is unknown is null."""
    document = {name: getattr(sample, name) for name in _FIELDS}
    document["at"] = timestamp(sample.at)
    document["throttled"] = None if sample.throttled is None else list(sample.throttled)
    document["health"] = sample.health.value if sample.health else None
    return document


def read_sample(document: Mapping[str, Any]) -> Sample:
    """The sample of a document; what the document leaves out is unknown. ValueError or KeyError for any other value."""
    held = {name: document[name] for name in _FIELDS if document.get(name) is not None}
    held["at"] = instant(document["at"])
    if "throttled" in held:
        held["throttled"] = tuple(held["throttled"])
    if "health" in held:
        held["health"] = Health(held["health"])
    return Sample(**held)


def event_document(event: DeviceEvent) -> dict[str, Any]:
    """The event as plain JSON values."""
    severity = event.severity.value if event.severity else None
    return {"uuid": event.uuid, "at": timestamp(event.at), "code": event.code, "severity": severity, "text": event.text}


def read_event(document: Mapping[str, Any]) -> DeviceEvent:
    """The event of a document. ValueError or KeyError when it is none."""
    return DeviceEvent(
        uuid=document["uuid"],
        at=instant(document["at"]),
        code=document["code"],
        severity=Severity(document["severity"]) if document.get("severity") else None,
        text=document.get("text"),
    )


def read_partition(document: Mapping[str, Any] | None) -> Partition | None:
    """The partition of a document; None for a whole device. ValueError for a kind that is not known."""
    if document is None:
        return None
    return Partition(
        kind=PartitionKind(document["kind"]), parent_uuid=document["parent_uuid"], profile=document.get("profile")
    )


def process_documents(uses: Sequence[ProcessUse]) -> list[dict[str, Any]]:
    """Who holds which device, as plain JSON values."""
    return [asdict(use) for use in uses]


def link_documents(links: Sequence[Link]) -> list[dict[str, Any]]:
    """How devices are joined, as plain JSON values; nearness by its name."""
    return [{**asdict(link), "nearness": link.nearness.name.lower()} for link in links]


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
        "partition": partition_document(device.partition),
        "visible_id": device.visible_id,
        "health_code": device.health_code,
    }


def partition_document(partition: Partition | None) -> dict[str, Any] | None:
    """{kind, parent_uuid, profile}; None for a whole device."""
    if partition is None:
        return None
    return {"kind": partition.kind.value, "parent_uuid": partition.parent_uuid, "profile": partition.profile}
