"""xpu-smi: what Intel's tool prints. Pure.

Five forms: `dump` CSV (a time and a device in each row, the unit in each header), `discovery -j` and `stats -j` JSON,
`discovery --dump` CSV, and the boxes of `discovery`. JSON memory is in bytes where the key says so and MiB in `stats`,
energy in mJ. Kunlunxin's tool has the same name: what names Kunlunxin's devices is refused here.
Sources: the tool's user guide (1.2 to 2.0) and outputs that users posted.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

from adapters.accelerator import Health
from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog
from adapters.cell import read_bdf, read_count, read_text
from adapters.form import as_text, read_documents, read_hex
from adapters.process import ProcessUse
from adapters.quantity import read_bytes, read_celsius, read_megahertz, read_share, read_watts
from adapters.row import NO_TIME, Row, assemble
from adapters.sample import Sample

VENDOR = "intel"
SEMANTICS = "Level Zero sysman: share of the last window in which the GPU's engines were busy"
DAY_ONLY = "the recording's times have no date; the file's own time was used"
HEALTH = {
    "ok": Health.OK,
    "warning": Health.DEGRADED,
    "critical": Health.FAILED,
    "pass": Health.OK,
    "fail": Health.FAILED,
    "failed": Health.FAILED,
}
# Columns of the CSVs, without their unit, lower case; and the JSON's metrics.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "index": ("deviceid", "device id"),
    "name": ("device name",),
    "uuid": ("uuid",),
    "serial": ("serial number",),
    "bdf": ("pci bdf address", "bdf"),
    "driver": ("driver version", "kernel version"),
    "firmware": ("gfx firmware version", "firmware version"),
    "total": ("memory physical size", "gpu memory size"),
    "used": ("gpu memory used",),
    "ratio": ("gpu utilization", "compute engine group utilization"),
    "bandwidth": ("gpu memory bandwidth utilization",),
    "power": ("gpu power",),
    "energy": ("gpu energy consumed",),
    "core_clock": ("gpu frequency",),
    "memory_clock": ("gpu memory frequency",),
    "temperature": ("gpu core temperature",),
    "hot": ("gpu memory temperature",),
    "throttled": ("throttle reason",),
}
METRICS: Mapping[str, str] = {
    "used": "XPUM_STATS_MEMORY_USED",
    "ratio": "XPUM_STATS_GPU_UTILIZATION",
    "bandwidth": "XPUM_STATS_MEMORY_BANDWIDTH",
    "power": "XPUM_STATS_POWER",
    "energy": "XPUM_STATS_ENERGY",
    "core_clock": "XPUM_STATS_GPU_FREQUENCY",
    "temperature": "XPUM_STATS_GPU_CORE_TEMPERATURE",
    "hot": "XPUM_STATS_MEMORY_TEMPERATURE",
}
_READINGS = ("used", "ratio", "bandwidth", "power", "energy", "core_clock", "temperature", "hot")

_HEADED = re.compile(r"([^(\[]+?)\s*(?:[(\[]([^)\]]{0,40})[)\]])?")
_BOX = re.compile(r"\|\s*(\d{0,4})\s*\|\s*([A-Z][\w /]{1,40}?):\s*(.*?)\s*\|")
_UNITS = {
    "%": "%",
    "w": "W",
    "mhz": "MHz",
    "celsius degree": "C",
    "mib": "MiB",
    "kb": "KiB",
    "kib": "KiB",
    "j": "J",
    "mj": "mJ",
}

Fields = dict[str, tuple[str, str]]  # what a device said, and the unit of its header


def fits(text: str) -> bool:
    """Whether the text is one of the forms, and not of Kunlunxin's tool."""
    return any(True for _ in _devices(text))


def parse(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """The devices, with a sample for each line of a dump. AdapterError when there is none."""
    held: dict[int, Fields] = {}
    for number, fields in _devices(text):
        held.setdefault(number, {}).update({key: said for key, said in fields.items() if read_text(said[0])})
        for key, said in fields.items():
            held[number].setdefault(key, said)
    if not held:
        raise AdapterError(f"xpu-smi: no device; it begins {text[:80]!r}")
    rows = [_row(number, fields) for number, fields in sorted(held.items())]
    when = DAY_ONLY if any("time" in fields for fields in held.values()) else NO_TIME
    reading = assemble(rows, written_at, catalog, vendor=VENDOR, semantics=SEMANTICS, problems=(when,))
    earlier = _dumped(text, {device.index: device.uuid for device in reading.devices}, written_at)
    return replace(reading, samples=earlier) if earlier else reading


def _dumped(text: str, names: Mapping[int, str], written_at: datetime) -> tuple[Sample, ...]:
    """A sample for each line of a dump, the last taken as the file's own time and the others by their distance to it."""
    lines = [(number, fields) for number, fields in _from_csv(text) if "time" in fields]
    clocks = [_seconds(fields["time"][0]) for _, fields in lines]
    known = [clock for clock in clocks if clock is not None]
    found: list[Sample] = []
    for (number, fields), clock in zip(lines, clocks, strict=True):
        if clock is None or number not in names:
            continue
        ago = (known[-1] - clock) % 86400  # a dump that passes midnight
        row = replace(_row(number, fields), uuid=names[number], name=None)
        told = assemble(
            [row], written_at - timedelta(seconds=ago), Catalog((), as_of=date.min), vendor=VENDOR, semantics=SEMANTICS
        )
        found += told.samples
    return tuple(found)


def _seconds(clock: str) -> float | None:
    """Seconds of the day of `08:08:16.817`, which may stand after a date."""
    match = re.search(r"(\d{1,2}):(\d\d):(\d\d(?:\.\d{1,6})?)", clock)
    return None if match is None else int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])


def read_processes(text: str, names: Mapping[int, str]) -> tuple[ProcessUse, ...]:
    """`xpu-smi ps -j`: memory there is in kB, which are KiB. names: the uuid of each device's number."""
    found = []
    for document in read_documents(text):
        listed = document.get("device_util_by_proc_list") if isinstance(document, dict) else None
        for entry in listed if isinstance(listed, list) else ():
            number, pid = _count(entry, "device_id"), _count(entry, "process_id")
            if number in names and pid is not None and number is not None:
                used = read_bytes(as_text(entry.get("mem_size")), unit="KiB")
                name = read_text(as_text(entry.get("process_name")))
                found.append(ProcessUse(uuid=names[number], pid=pid, name=name, memory_used_bytes=used))
    return tuple(found)


def _devices(text: str) -> Iterator[tuple[int, Fields]]:
    if re.search(r"kunlun|\bKL\d|\bP800\b|\bR[23]\d0\b", text[:20000], re.IGNORECASE) and "Intel" not in text:
        return
    yield from _from_json(text)
    yield from _from_csv(text)
    yield from _from_boxes(text)


def _from_json(text: str) -> Iterator[tuple[int, Fields]]:
    for document in read_documents(text):
        entries = document.get("device_list") if isinstance(document, dict) else document
        entries = entries if isinstance(entries, list) else [document]
        for entry in entries:
            number = _count(entry, "device_id")
            if number is None:
                continue
            if "device_level" in entry:
                yield number, _stats(entry)
            elif {"uuid", "pci_bdf_address", "device_name"} & set(entry):
                yield number, _discovered(entry)
            elif any(isinstance(part, dict) and "status" in part for part in entry.values()):
                yield number, _health(entry)


def _count(entry: Any, key: str) -> int | None:
    return read_count(as_text(entry.get(key))) if isinstance(entry, dict) else None


def _discovered(entry: Mapping[str, Any]) -> Fields:
    keys = {
        "name": "device_name",
        "uuid": "uuid",
        "bdf": "pci_bdf_address",
        "serial": "serial_number",
        "driver": "driver_version",
        "firmware": "gfx_firmware_version",
        "device": "pci_device_id",
        "vendor": "pci_vendor_id",
        "total": "memory_physical_size_byte",
    }
    units = {"total": "B"}
    found = {
        what: (said, units.get(what, "")) for what, key in keys.items() if (said := as_text(entry.get(key))) is not None
    }
    limit = as_text(entry.get("sustain_power_limit", entry.get("power_limit")))
    return {**found, "limit": (limit, "W")} if limit is not None else found


def _stats(entry: Mapping[str, Any]) -> Fields:
    """Whole-device metrics; tiles' are not added up, for some are averages of the device. Old versions say bytes."""
    found: Fields = {}
    level = entry.get("device_level")
    listed = (
        {str(part.get("metrics_type")): part for part in level if isinstance(part, dict)}
        if isinstance(level, list)
        else {}
    )
    units = {"used": "MiB", "energy": "mJ"}
    for what, metric in METRICS.items():
        said = as_text(listed.get(metric, {}).get("value"))
        if said is not None:
            unit = "B" if what == "used" and (read_count(said) or 0) > 1 << 24 else units.get(what, "")
            found[what] = (said, unit)
    return found or {"ratio": ("N/A", "")}


def _health(entry: Mapping[str, Any]) -> Fields:
    """The worst of the components' states, and the component that is in it."""
    states = [
        (HEALTH.get(str(part.get("status")).lower(), Health.UNKNOWN), name)
        for name, part in entry.items()
        if isinstance(part, dict)
    ]
    order = (Health.FAILED, Health.DEGRADED, Health.OK, Health.UNKNOWN)
    worst = next(((state, name) for kind in order for state, name in states if state is kind), (Health.UNKNOWN, ""))
    return {"health": (worst[0].value, ""), "component": (worst[1], "")}


def _from_csv(text: str) -> Iterator[tuple[int, Fields]]:
    header: list[tuple[str, str]] = []
    try:
        for cells in csv.reader(io.StringIO(text.replace("\0", "")), skipinitialspace=True):
            cells = [cell.strip() for cell in cells]
            heads = [_head(cell) for cell in cells]
            if any(name in COLUMNS["index"] for name, _ in heads):
                header = heads
            elif header and len(cells) >= 2:
                found = _named(dict(zip(header, cells, strict=False)))
                number = read_count(found["index"][0]) if "index" in found else None
                if number is not None and len(found) > 1:
                    yield number, found
    except csv.Error:
        return


def _head(cell: str) -> tuple[str, str]:
    match = _HEADED.fullmatch(cell)
    return (match[1].strip().lower(), (match[2] or "").strip().lower()) if match else (cell.lower(), "")


def _named(row: Mapping[tuple[str, str], str]) -> Fields:
    found: Fields = {}
    for (column, unit), cell in row.items():
        what = (
            "time" if column == "timestamp" else next((key for key, names in COLUMNS.items() if column in names), None)
        )
        if what is not None:
            found.setdefault(what, (cell, _UNITS.get(unit, unit)))
    return found


def _from_boxes(text: str) -> Iterator[tuple[int, Fields]]:
    """`| 0 | Device Name: …|` and the lines below it without a number."""
    number: int | None = None
    found: Fields = {}
    for line in text.splitlines():
        match = _BOX.fullmatch(line.strip())
        if match is None:
            continue
        if match[1]:
            if number is not None and found:
                yield number, found
            number, found = int(match[1]), {}
        what = next((key for key, names in COLUMNS.items() if match[2].strip().lower() in names), None)
        if number is not None and what is not None:
            found.setdefault(what, (match[3], ""))
    if number is not None and found:
        yield number, found


def _row(number: int, fields: Fields) -> Row:
    def said(what: str) -> str | None:
        return read_text(fields[what][0]) if what in fields else None

    def unit(what: str, otherwise: str) -> str:
        return fields[what][1] or otherwise if what in fields else otherwise

    health = next((state for state in Health if state.value == said("health")), Health.UNKNOWN)
    row = Row(
        index=number,
        name=said("name"),
        uuid=said("uuid"),
        unnamed="uuid" in fields,
        bdf=read_bdf(said("bdf")),
        serial=_serial(said("serial")),
        driver=said("driver"),
        firmware=said("firmware"),
        pci_vendor_id=read_hex(said("vendor")),
        pci_device_id=read_hex(said("device")),
        visible_id=str(number),
        total=read_bytes(said("total"), unit=unit("total", "MiB")),
        limit=read_watts(said("limit")),
        health=health,
        health_code=said("component") if health not in (Health.OK, Health.UNKNOWN) else None,
        sampled=any(what in fields for what in _READINGS),
        ratio=read_share(said("ratio")),
        bandwidth=read_share(said("bandwidth")),
        used=read_bytes(said("used"), unit=unit("used", "MiB")),
        power=read_watts(said("power"), unit=unit("power", "W")),
        energy=_joules(said("energy"), unit("energy", "J")),
        temperature=read_celsius(said("temperature")),
        memory_temperature=read_celsius(said("hot")),
        core_clock=read_megahertz(said("core_clock")),
        memory_clock=read_megahertz(said("memory_clock")),
    )
    reason = said("throttled")
    return row if reason is None else replace(row, throttled=() if reason.lower() == "not throttled" else (reason,))


def _serial(said: str | None) -> str | None:
    return said if said and said.strip("0") and said.lower() != "unknown" else None


def _joules(said: str | None, unit: str) -> float | None:
    words = (said or "").split()
    factor = {"J": 1.0, "mJ": 1000.0}.get(words[1] if len(words) > 1 else unit)
    try:
        value = float(words[0]) if words else -1.0
    except ValueError:
        return None
    return value / factor if factor is not None and 0 <= value < 1e18 else None
