"""Exporter: vendors' Prometheus exporters whose series stand one a device, each told by a table. Pure.

A Layout names the labels that identify a device and, for each of our readings, the series and the factor to our unit.
Sources: the exporters' metric lists and, where those are not published, their consumers' queries (each says which).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

from adapters.accelerator import Accelerator, Health
from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog
from adapters.cell import read_bdf, read_count, read_text
from adapters.exposition import Meter, exposition_time, gather, is_exposition, read_exposition
from adapters.form import Form
from adapters.row import NO_TIME, Row, assemble

KIB = 1024.0
MIB = 1024.0 * 1024
Metric = tuple[str, float] | tuple[str, float, Mapping[str, str]]

_WHOLE = ("total", "used", "corrected", "uncorrected", "retired", "link_errors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One exporter: labels by what they say, the first that is not blank counts; readings by Row's field names.

    health: the value of the health series that means well, and the series. of_part: a label that is set only on
    series of a part of a device, which are passed over. after_model: what follows the model in a device's name.
    """

    vendor: str
    tool: str
    semantics: str
    prefixes: tuple[str, ...]
    device: tuple[str, ...]
    number: tuple[str, ...]
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    readings: Mapping[str, Sequence[Metric]] = field(default_factory=dict)
    health: tuple[str, float] | None = None
    of_part: tuple[str, ...] = ()
    after_model: str = ""


DCU = Layout(  # dcu-exporter's source
    vendor="hygon",
    tool="dcu-exporter",
    semantics="dcu-exporter: share of the last window in which the DCU was busy",
    prefixes=("dcu_",),
    device=("device_id", "minor_number"),
    number=("minor_number",),
    texts={"name": ("name",), "bdf": ("pcieBus_number",), "uuid": ("device_id",)},
    readings={
        "total": (("dcu_memorycap_bytes", 1),),
        "used": (("dcu_usedmemory_bytes", 1),),
        "ratio": (("dcu_utilizationrate", 0.01),),
        "power": (("dcu_power_usage", 1),),
        "limit": (("dcu_powercap", 1),),
        "temperature": (("dcu_temp", 1),),
        "core_clock": (("dcu_sclk", 1),),
        "corrected": (("dcu_ce_count", 1),),
        "uncorrected": (("dcu_ue_count", 1),),
    },
)
MTGPU = Layout(  # as its consumers ask for it
    vendor="mthreads",
    tool="mtgpu-exporter",
    semantics="mtgpu-exporter: share of the last window in which the GPU was busy",
    prefixes=("mtgpu_",),
    device=("uuid", "gpu_uuid", "gpu", "index"),
    number=("index", "gpu", "gpu_id", "minor_number"),
    texts={
        "name": ("name", "model", "modelName"),
        "bdf": ("pci_bus_id", "busid", "bus_id"),
        "uuid": ("uuid", "gpu_uuid"),
        "driver": ("driver_version",),
    },
    readings={
        "total": (("mtgpu_memory_total_bytes", 1),),
        "used": (("mtgpu_memory_used_bytes", 1),),
        "ratio": (("mtgpu_gpu_utilization", 0.01),),
        "power": (("mtgpu_power_usage_milliwatts", 0.001),),
        "temperature": (("mtgpu_gpu_temp", 1),),
    },
)
MX = Layout(  # as its consumers ask for it: KiB, mW, per cent
    vendor="metax",
    tool="mx-exporter",
    semantics="mx-exporter: share of the last window in which the GPU was busy",
    prefixes=("mx_",),
    device=("uuid", "deviceId"),
    number=("deviceId",),
    texts={
        "name": ("modelName", "deviceName", "model"),
        "bdf": ("bdfId", "pciBusId"),
        "uuid": ("uuid",),
        "driver": ("driver_version", "driverVersion"),
    },
    readings={
        "total": (("mx_memory_total", KIB, {"type": "vram"}), ("mx_memory_total", KIB, {"memType": "vram"})),
        "used": (("mx_memory_used", KIB, {"type": "vram"}), ("mx_memory_used", KIB, {"memType": "vram"})),
        "ratio": (("mx_gpu_usage", 0.01),),
        "power": (("mx_board_power", 0.001),),
        "temperature": (("mx_chip_hotspot_temp", 1), ("mx_core_temp", 1), ("mx_board_core_temp", 1)),
        "memory_temperature": (("mx_chip_hbm_temp", 1),),
        "core_clock": (("mx_gpu_clock", 1),),
        "memory_clock": (("mx_mem_clock", 1),),
    },
    health=("mx_gpu_state", 1),
)
NPU = Layout(  # npu-exporter's source and its documentation
    vendor="ascend",
    tool="npu-exporter",
    semantics="npu-exporter: share of AI cores busy",
    prefixes=("npu_chip_", "machine_npu_nums"),
    device=("vdie_id", "uuid", "id", "npuID"),
    number=("id", "npuID"),
    texts={
        "name": ("model_name", "modelName"),
        "bdf": ("pcie_bus_info", "pcie"),
        "uuid": ("vdie_id", "uuid"),
        "serial": ("serial_number",),
    },
    readings={
        "total": (("npu_chip_info_hbm_total_memory", MIB), ("npu_chip_info_total_memory", MIB)),
        "used": (("npu_chip_info_hbm_used_memory", MIB), ("npu_chip_info_used_memory", MIB)),
        "ratio": (("npu_chip_info_utilization", 0.01), ("npu_chip_info_overall_utilization", 0.01)),
        "power": (("npu_chip_info_power", 1),),
        "temperature": (("npu_chip_info_temperature", 1),),
        "memory_temperature": (("npu_chip_info_hbm_temperature", 1),),
        "bandwidth": (("npu_chip_info_hbm_bandwidth_utilization", 0.01),),
        "core_clock": (("npu_chip_info_aicore_current_freq", 1),),
        "corrected": (
            ("npu_chip_info_hbm_ecc_total_single_bit_error_cnt", 1),
            ("npu_chip_info_hbm_ecc_single_bit_error_cnt", 1),
        ),
        "uncorrected": (
            ("npu_chip_info_hbm_ecc_total_double_bit_error_cnt", 1),
            ("npu_chip_info_hbm_ecc_double_bit_error_cnt", 1),
        ),
    },
    health=("npu_chip_info_health_status", 1),
    of_part=("v_dev_id",),
    after_model="-Ascend-",
)


def form(layout: Layout) -> Form:
    """This exporter's page as a form of its vendor's recordings."""
    return Form(f"{layout.tool}'s metrics", partial(fits, layout=layout), partial(parse, layout=layout))


def fits(text: str, layout: Layout) -> bool:
    """Whether the text is this exporter's page (not one of prose that quotes it)."""
    return is_exposition(text, *layout.prefixes)


def parse(text: str, written_at: datetime, catalog: Catalog, layout: Layout) -> Reading:
    """The devices that the series name. AdapterError when they name none."""
    series = [held for held in read_exposition(text) if held[0].startswith(layout.prefixes)]
    whole = [held for held in series if not any(held[1].get(label) for label in layout.of_part)]
    meters = gather(whole, lambda labels: next((labels[name] for name in layout.device if labels.get(name)), None))
    if not meters:
        raise AdapterError(f"{layout.tool}: no series names a device (labels {' or '.join(layout.device)})")
    rows = [_row(position, meter, layout) for position, meter in enumerate(meters.values())]
    at = exposition_time(text)
    said = () if at else (NO_TIME,)
    read = assemble(rows, at or written_at, catalog, vendor=layout.vendor, semantics=layout.semantics, problems=said)
    return replace(read, devices=tuple(_name_model(device, catalog, layout) for device in read.devices))


def _name_model(device: Accelerator, catalog: Catalog, layout: Layout) -> Accelerator:
    """npu-exporter writes `910B3-Ascend-V1`: the model is what stands before the maker's name."""
    model, mark, _ = device.model_raw.partition(layout.after_model) if layout.after_model else ("", "", "")
    known = catalog.identify(layout.vendor, model, device.memory_total_bytes) if mark and device.model is None else None
    if known is None:
        return device
    return replace(device, model=known, problems=tuple(p for p in device.problems if "catalogue" not in p))


def _row(position: int, meter: Meter, layout: Layout) -> Row:
    def text(what: str) -> str | None:
        return next((said for name in layout.texts.get(what, ()) if (said := read_text(meter.labels.get(name)))), None)

    number = next((count for name in layout.number if (count := read_count(meter.labels.get(name))) is not None), None)
    found: dict[str, Any] = {name: _reading(name, meter, metrics) for name, metrics in layout.readings.items()}
    found |= _memory(meter, layout)
    state = meter.value(layout.health[0]) if layout.health else None
    health = Health.UNKNOWN if state is None or layout.health is None else Health.FAILED
    if state is not None and layout.health is not None and state == layout.health[1]:
        health = Health.OK
    return Row(
        index=position if number is None else number,
        name=text("name"),
        uuid=text("uuid"),
        bdf=read_bdf(text("bdf")),
        serial=text("serial"),
        driver=text("driver"),
        visible_id=None if number is None else str(number),
        health=health,
        health_code=None if state is None else f"{state:g}",
        **found,
    )


def _memory(meter: Meter, layout: Layout) -> dict[str, Any]:
    """Used and total of the first kind of memory of which there is any: a total of 0 is none of that kind."""
    totals, uses = layout.readings.get("total", ()), layout.readings.get("used", ())
    known = [_reading("total", meter, [metric]) for metric in totals]
    place = next((place for place, total in enumerate(known) if total), None)
    if place is None:
        return {"total": None, "used": _reading("used", meter, uses) if not any(t == 0 for t in known) else None}
    used = uses[place : place + 1] if len(uses) == len(totals) else uses
    return {"total": known[place], "used": _reading("used", meter, used)}


def _reading(name: str, meter: Meter, metrics: Sequence[Metric]) -> float | int | None:
    """The first known of the metrics in our unit."""
    for metric in metrics:
        labels = metric[2] if len(metric) == 3 else {}
        value = meter.value(metric[0], **labels)
        if value is None:
            continue
        factor = metric[1]
        scaled = value / round(1 / factor) if factor < 1 else value * factor
        return int(scaled) if name in _WHOLE else scaled
    return None
