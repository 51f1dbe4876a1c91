"""DCGM: what NVIDIA's dcgm-exporter serves. Pure.

Units (dcgm-exporter's default counters): clocks MHz, temperature °C, power W, energy mJ, utilisation %, framebuffer
MiB. Blanks are sentinels (2^63-16 and above), which the reader of the text has made None. Two series of one device
share UUID; a MIG partition's carry GPU_I_ID and GPU_I_PROFILE beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog
from adapters.cell import read_bdf, read_count
from adapters.exposition import Meter, exposition_time, gather, read_exposition
from adapters.row import MIB, NO_TIME, Row
from adapters.smi import Dialect, assemble_split, part_row

PREFIX = "DCGM_FI_"


def is_exposition(text: str) -> bool:
    """Whether the text holds DCGM's series."""
    return any(line.startswith(PREFIX) and "{" in line for line in text.splitlines())


def parse_exposition(text: str, written_at: datetime, catalog: Catalog, dialect: Dialect) -> Reading:
    """The devices and partitions of one scrape. AdapterError when no series names a device."""
    meters = gather(read_exposition(text), _identify)
    rows: list[Row] = []
    whole: dict[str, Row] = {}
    for name, meter in meters.items():
        if "/" not in name:
            whole[name] = _row(meter, len(rows))
            rows.append(whole[name])
    for name, meter in meters.items():
        if "/" in name:
            parent = whole.get(meter.labels["UUID"])
            if parent is None:  # the exporter was told to serve partitions only
                labels = Meter(labels=meter.labels)
                parent = whole[meter.labels["UUID"]] = _row(labels, len(whole))
                rows.append(parent)
            rows.append(_part(meter, parent, dialect))
    if not rows:
        raise AdapterError("dcgm-exporter: no series carries a device's UUID")
    at = exposition_time(text)
    return assemble_split(rows, at or written_at, catalog, dialect, "" if at else NO_TIME)


def _identify(labels: Mapping[str, str]) -> str | None:
    uuid = labels.get("UUID", "").strip()
    if not uuid:
        return None
    instance = labels.get("GPU_I_ID", "").strip()
    return f"{uuid}/{instance}" if instance else uuid


def _row(meter: Meter, position: int) -> Row:
    labels, uuid = meter.labels, meter.labels["UUID"]
    index = read_count(labels.get("gpu"))
    used, free, kept = (meter.value(f"DCGM_FI_DEV_FB_{kind}") for kind in ("USED", "FREE", "RESERVED"))
    total = meter.value("DCGM_FI_DEV_FB_TOTAL")
    if total is None and used is not None and free is not None:
        total = used + free + (kept or 0)
    energy = meter.value("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION")
    xid = meter.count("DCGM_FI_DEV_XID_ERRORS")
    rows = [meter.count(f"DCGM_FI_DEV_{kind}_REMAPPED_ROWS") for kind in ("CORRECTABLE", "UNCORRECTABLE")]
    remapped = [count for count in rows if count is not None]
    return Row(
        index=position if index is None else index,
        uuid=uuid,
        name=labels.get("modelName"),
        bdf=read_bdf(labels.get("pci_bus_id")),
        driver=labels.get("DCGM_FI_DRIVER_VERSION"),
        visible_id=uuid,
        total=None if total is None else int(total * MIB),
        used=None if used is None else int(used * MIB),
        sampled=bool(meter.series),
        ratio=meter.share("DCGM_FI_DEV_GPU_UTIL"),
        bandwidth=meter.share("DCGM_FI_DEV_MEM_COPY_UTIL"),
        power=meter.value("DCGM_FI_DEV_POWER_USAGE"),
        energy=None if energy is None else energy / 1000,
        temperature=meter.value("DCGM_FI_DEV_GPU_TEMP"),
        memory_temperature=meter.value("DCGM_FI_DEV_MEMORY_TEMP"),
        core_clock=meter.value("DCGM_FI_DEV_SM_CLOCK"),
        memory_clock=meter.value("DCGM_FI_DEV_MEM_CLOCK"),
        corrected=meter.count("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL"),
        uncorrected=meter.count("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL"),
        retired=sum(remapped) if remapped else None,
        last_error=f"XID {xid}" if xid else None,
    )


def _part(meter: Meter, parent: Row, dialect: Dialect) -> Row:
    used, free = meter.value("DCGM_FI_DEV_FB_USED"), meter.value("DCGM_FI_DEV_FB_FREE")
    instance = read_count(meter.labels.get("GPU_I_ID"))
    return part_row(
        dialect,
        parent,
        index=instance or 0,
        uuid=None,
        profile=meter.labels.get("GPU_I_PROFILE"),
        gpu_instance=instance,
        compute_instance=None,
        total=None if used is None or free is None else int((used + free) * MIB),
        used=None if used is None else int(used * MIB),
        sampled=True,
    )
