"""mlu-exporter: what Cambricon's exporter serves, and the JSON in which its collector's metrics are kept. Pure.

Memory is in bytes, power in W, temperature in °C, use in per cent, clocks in MHz; the prefix (`mlu_`) is set at
deployment. A series with a `vf` is of a virtual function, not of the card. sMLU and MIM instances are parts of their
card. Source: the exporter's metric catalogue (metrics.yaml) and its collector's test data, which was made up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from adapters.accelerator import Health, Partition, PartitionKind
from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog
from adapters.cell import read_bdf, read_count, read_text
from adapters.exposition import Meter, Series, exposition_time, gather, is_exposition, read_exposition
from adapters.form import read_documents, read_hex
from adapters.row import NO_TIME, Row, assemble

VENDOR = "cambricon"
SEMANTICS = "mlu-exporter: average share of the MLU's cores busy"
# One of these always is there; the prefix is what stands before it.
ANCHORS = ("memory_total", "power_usage", "utilization")
PARTS = (("smlu_instance_info", "smlu", PartitionKind.SMLU), ("mim_instance_info", "mim", PartitionKind.SMLU))

_NAME = re.compile(r'fqName:\s*"([a-zA-Z_:][a-zA-Z0-9_:]*)"')


def fits(text: str) -> bool:
    """Whether the text is this exporter's page, or its collector's metrics as JSON."""
    if '"Desc"' in text and "fqName" in text:
        return any(_device(labels) for _, labels, _ in _collected(text))
    if not any(_device(labels) and "mlu" in labels for _, labels, _ in read_exposition(text)):
        return False
    return is_exposition(text, *{name for name, labels, _ in read_exposition(text) if "mlu" in labels})


def parse(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """The cards that the series name, each followed by its instances. AdapterError when they name none."""
    series = list(_collected(text)) if '"Desc"' in text else read_exposition(text)
    prefix = _prefix(series)
    held = ((name.removeprefix(prefix), labels, value) for name, labels, value in series)
    meters = gather((one for one in held if not one[1].get("vf")), _device)
    if not meters:
        raise AdapterError("mlu-exporter: no series names a device (labels mlu and uuid)")
    rows = []
    for position, (key, meter) in enumerate(meters.items()):
        row = _row(position, key, meter)
        rows += [row, *_parts(row, key, meter)]
    at = exposition_time(text)
    said = () if at else (NO_TIME,)
    return assemble(rows, at or written_at, catalog, vendor=VENDOR, semantics=SEMANTICS, problems=said)


def _collected(text: str) -> Iterator[Series]:
    for document in read_documents(text):
        for entry in document if isinstance(document, list) else ():
            found = _entry(entry)
            if found is not None:
                yield found


def _entry(entry: Any) -> Series | None:
    metric = entry.get("Metric") if isinstance(entry, dict) else None
    named = _NAME.search(str(entry.get("Desc"))) if isinstance(metric, dict) else None
    if named is None or not isinstance(metric, dict):
        return None
    listed = metric.get("label")
    pairs = [pair for pair in listed if isinstance(pair, dict)] if isinstance(listed, list) else []
    labels = {str(pair.get("name")): str(pair.get("value") or "") for pair in pairs}
    gauge = next((kind for name in ("gauge", "counter", "untyped") if isinstance(kind := metric.get(name), dict)), {})
    value = gauge.get("value")
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 62
    return named[1], labels, float(value) if known and value is not None else None


def _device(labels: Mapping[str, str]) -> str | None:
    """A card by its uuid; series of the node, and of the exporter itself, have none."""
    return labels.get("uuid") or labels.get("sn") or None


def _prefix(series: list[Series]) -> str:
    names = {name for name, labels, _ in series if "mlu" in labels and _device(labels)}
    found = [name.removesuffix(anchor) for anchor in ANCHORS for name in names if name.endswith(anchor)]
    return min(found, key=len, default="")


def _row(position: int, key: str, meter: Meter) -> Row:
    number = read_count(meter.labels.get("mlu"))
    health = meter.value("health")
    slowed = meter.value("thermal_slow_down")
    xid = meter.labels.get("xid")
    return Row(
        index=position if number is None else number,
        name=read_text(meter.labels.get("model")),
        uuid=key,
        bdf=read_bdf(meter.labels.get("pcie_id")),
        serial=read_text(meter.labels.get("sn")),
        driver=(read_text(meter.labels.get("driver")) or "").removeprefix("v") or None,
        firmware=read_text(meter.labels.get("mcu")),
        pci_vendor_id=read_hex(meter.labels.get("pcie_vendor")),
        pci_device_id=read_hex(meter.labels.get("pcie_device_id")),
        numa_node=meter.count("numa_node_id"),
        visible_id=None if number is None else str(number),
        total=meter.count("memory_total"),
        limit=meter.value("power_current_limit", "power_default_limit"),
        health=Health.UNKNOWN if health is None else Health.OK if health == 1 else Health.FAILED,
        health_code=read_text(meter.labels.get("unhealth_reason")) if health == 0 else None,
        ratio=meter.share("utilization"),
        used=meter.count("memory_used"),
        power=meter.value("power_usage"),
        temperature=meter.value("chip_temperature", "temperature"),
        memory_temperature=max(
            (value for name, _, value in meter.series if name == "memory_temperature" and value is not None),
            default=None,
        ),
        core_clock=meter.value("frequency"),
        memory_clock=meter.value("ddr_frequency"),
        corrected=_known(
            meter.total("ecc_corrected_error_total"), meter.total("aggr_dram_ecc_sbe_count", "aggr_sram_ecc_sbe_count")
        ),
        uncorrected=_known(
            meter.total("ecc_uncorrected_error_total"),
            meter.total("aggr_dram_ecc_dbe_count", "aggr_sram_ecc_dbe_count"),
        ),
        retired=meter.total("single_bit_retired_page_count", "double_bit_retired_page_count"),
        link_errors=meter.total(
            "mlulink_err_corrected_total",
            "mlulink_err_uncorrected_total",
            "mlulink_err_fatal_total",
            "mlulink_err_crc24_total",
        ),
        throttled=None if slowed is None else ("thermal slow-down",) if slowed else (),
        last_error=f"XID {xid}" if xid and meter.value("last_xid_error") else None,
    )


def _known(*counts: int | None) -> int | None:
    return next((count for count in counts if count is not None), None)


def _parts(row: Row, key: str, meter: Meter) -> Iterator[Row]:
    for name, prefix, kind in PARTS:
        for held, labels, value in meter.series:
            if held != name or not value:
                continue
            number = read_count(labels.get(f"{prefix}_instance_id"))
            total = read_count(labels.get(f"{prefix}_mem_total")) if prefix == "smlu" else None
            yield Row(
                index=number or 0,
                name=row.name,
                uuid=f"{key}/{read_text(labels.get(f'{prefix}_uuid')) or prefix}/{number or 0}",
                bdf=row.bdf,
                driver=row.driver,
                total=total,
                sampled=False,
                partition=Partition(
                    kind=kind, parent_uuid=key, profile=read_text(labels.get(f"{prefix}_profile_name"))
                ),
            )
