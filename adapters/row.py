"""Row: one device as a tool's output tells it, and how rows become a Reading. Pure.

Parsers fill rows in our units; naming, doubles, the catalogue and impossible pairs are dealt with here, once for
all vendors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from adapters.accelerator import Accelerator, Health, Partition, Source
from adapters.adapter import Reading
from adapters.catalog import Catalog
from adapters.sample import Sample

MIB = 1024 * 1024
NO_TIME = "the recording holds no time; the file's own was used"
NO_ZONE = "the recording's time has no offset; it was read as UTC"
NO_UUID = "the device's uuid cannot be read"
NO_ADDRESS = "the output prints neither uuid nor bus address; the device is named by its number"
NO_NAME = "the output does not say which model it is"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one device's lines say, in the units of Accelerator and Sample. None is what they do not say.

    unnamed: whether a missing uuid is a fault of this output (its layout has one) rather than how the tool prints.
    sampled: whether the output holds readings at all; a pure inventory gives no sample.
    """

    index: int
    name: str | None = None
    uuid: str | None = None
    unnamed: bool = False
    bdf: str | None = None
    serial: str | None = None
    driver: str | None = None
    firmware: str | None = None
    pci_vendor_id: int | None = None
    pci_device_id: int | None = None
    partition: Partition | None = None
    package_id: str | None = None
    numa_node: int | None = None
    visible_id: str | None = None
    total: int | None = None
    limit: float | None = None
    health: Health = Health.UNKNOWN
    health_code: str | None = None
    problems: tuple[str, ...] = ()
    sampled: bool = True
    ratio: float | None = None
    used: int | None = None
    power: float | None = None
    energy: float | None = None
    temperature: float | None = None
    bandwidth: float | None = None
    memory_temperature: float | None = None
    core_clock: float | None = None
    memory_clock: float | None = None
    corrected: int | None = None
    uncorrected: int | None = None
    retired: int | None = None
    link_errors: int | None = None
    throttled: tuple[str, ...] | None = None
    last_error: str | None = None
    raw_error: str | None = None


def name_device(vendor: str, row: Row) -> str:
    """The vendor's own uuid; else `<vendor>:<bdf>`; else `<vendor>:index:<n>`."""
    return row.uuid or (f"{vendor}:{row.bdf}" if row.bdf else f"{vendor}:index:{row.index}")


def assemble(
    rows: Iterable[Row],
    at: datetime,
    catalog: Catalog,
    *,
    vendor: str,
    semantics: str,
    source: Source = Source.CLI,
    problems: Sequence[str] = (),
) -> Reading:
    """A Reading of the rows, in their order. Every sample's uuid is one of the devices'.

    A device printed twice is listed once, with a problem of the reading. A share above 1 and memory used beyond
    what there is are unknown, with a problem of the device.
    """
    devices: dict[str, Accelerator] = {}
    samples: list[Sample] = []
    said = [problem for problem in problems if problem]
    for row in rows:
        uuid = name_device(vendor, row)
        if uuid in devices:
            said.append(f"device {row.index}: {uuid} is printed twice; only the first is listed")
            continue
        sample, doubts = _sample(row, uuid, at, semantics)
        device = _device(row, uuid, vendor, source, doubts)
        devices[uuid] = catalog.label(device) if row.name and row.partition is None else device
        if row.sampled:
            samples.append(sample)
    for device in devices.values():
        parent = devices.get(device.partition.parent_uuid) if device.partition else None
        if parent is not None and device.model is None:  # a chip's part is of the chip's model, hence of its origin
            devices[device.uuid] = replace(device, model=parent.model)
    return Reading(devices=tuple(devices.values()), samples=tuple(samples), problems=tuple(said))


def _device(row: Row, uuid: str, vendor: str, source: Source, doubts: Sequence[str]) -> Accelerator:
    named = () if row.uuid else (NO_UUID,) if row.unnamed else () if row.bdf else (NO_ADDRESS,)
    own = (*named, *(() if row.name or row.partition else (NO_NAME,)))
    return Accelerator(
        uuid=uuid,
        index=row.index,
        vendor=vendor,
        model_raw=row.name or "",
        serial=row.serial,
        pci_bdf=row.bdf,
        pci_vendor_id=row.pci_vendor_id,
        pci_device_id=row.pci_device_id,
        partition=row.partition,
        package_id=row.package_id,
        numa_node=row.numa_node,
        visible_id=row.visible_id,
        memory_total_bytes=row.total or None,
        power_limit_watts=row.limit or None,
        driver_version=row.driver,
        firmware_version=row.firmware,
        health=row.health,
        health_code=row.health_code,
        source=source,
        problems=(*row.problems, *own, *doubts),
    )


def _sample(row: Row, uuid: str, at: datetime, semantics: str) -> tuple[Sample, tuple[str, ...]]:
    doubts = []
    ratio, used = row.ratio, row.used
    if ratio is not None and not 0 <= ratio <= 1:
        doubts.append(f"utilisation of {ratio:.2f} times the device cannot be; read as unknown")
        ratio = None
    if used is not None and row.total and used > row.total:
        doubts.append(f"memory used, {used} bytes, is more than there is, {row.total} bytes; read as unknown")
        used = None
    return Sample(
        uuid=uuid,
        at=at,
        utilisation_ratio=ratio,
        utilisation_semantics=semantics,
        memory_used_bytes=used,
        power_watts=row.power,
        energy_joules_total=row.energy,
        temperature_celsius=row.temperature,
        memory_bandwidth_ratio=row.bandwidth if row.bandwidth is not None and row.bandwidth <= 1 else None,
        memory_temperature_celsius=row.memory_temperature,
        core_clock_mhz=row.core_clock,
        memory_clock_mhz=row.memory_clock,
        ecc_corrected_total=row.corrected,
        ecc_uncorrected_total=row.uncorrected,
        retired_pages=row.retired,
        link_errors_total=row.link_errors,
        throttled=row.throttled,
        health=None if row.health is Health.UNKNOWN else row.health,
        health_code=row.health_code,
        last_error=row.last_error,
        raw_error=row.raw_error,
    ), tuple(doubts)
