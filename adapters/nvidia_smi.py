"""nvidia-smi: what its recorded outputs say. Pure.

Sources: output of `nvidia-smi -q -x` of drivers 515 to 595 and of `--query-gpu`, whose columns `nvidia-smi
--help-query-gpu` explains. `N/A`, `[Not Supported]` and the like are None.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

from adapters.accelerator import Accelerator, Health, Source
from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog
from adapters.cell import read_bdf, read_count, read_number, read_ratio, read_text
from adapters.sample import Sample

VENDOR = "nvidia"
SEMANTICS = "NVML: share of the last window in which a kernel ran"
MIB = 1024 * 1024
MIG_ON = "MIG is on: the device is listed whole, its partitions are not read"
NO_ZONE = "the recording's time has no offset; it was read as UTC"
NO_TIME = "the recording holds no time; the file's own was used"

# The one query understood without a header line:
# nvidia-smi --query-gpu=<these, by comma> --format=csv,noheader,nounits
BARE_QUERY = (
    *("index", "name", "uuid", "serial", "vbios_version", "memory.total", "memory.used", "memory.free"),
    *("utilization.gpu", "temperature.gpu", "power.draw", "driver_version"),
)


# Where drivers from 515 to 595 print the same quantity in `-q -x`; the newest spelling first.
POWER_DRAW = (
    *("gpu_power_readings/instant_power_draw", "gpu_power_readings/power_draw"),
    *("gpu_power_readings/average_power_draw", "power_readings/power_draw"),
)
POWER_LIMIT = ("gpu_power_readings/current_power_limit", "power_readings/enforced_power_limit")
UNCORRECTABLE = (
    *("sram_uncorrectable", "dram_uncorrectable"),
    *("sram_uncorrectable_parity", "sram_uncorrectable_secded"),
)


def parse_xml(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """What one `nvidia-smi -q -x` says. Entity declarations and internal subsets are refused unread."""
    head = text[: text.find("<nvidia_smi_log") + 1] if "<nvidia_smi_log" in text else text[:2000]
    if "<!ENTITY" in text or "[" in head:
        raise AdapterError("nvidia-smi XML: declares entities or a DTD of its own; a real log does neither")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314  entities are refused above, the size by the caller
    except ElementTree.ParseError as error:
        raise AdapterError(f"nvidia-smi XML: {error}; it begins {text[:80]!r}") from error
    if root.tag != "nvidia_smi_log":
        raise AdapterError(f"nvidia-smi XML: the root is <{root.tag}>, not <nvidia_smi_log>")
    at, problem = _logged_at(root.findtext("timestamp"), written_at)
    driver = read_text(root.findtext("driver_version"))
    rows = [_xml_row(gpu, driver) for gpu in root.findall("gpu")]
    return _reading(rows, at, (problem,), catalog)


def parse_csv(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """What `nvidia-smi --query-gpu=… --format=csv` says: columns by their header, or BARE_QUERY without."""
    try:
        lines = [row for row in csv.reader(io.StringIO(text), skipinitialspace=True, strict=True) if row]
    except csv.Error as error:
        raise AdapterError(f"nvidia-smi CSV: {error}") from error
    if not lines:
        raise AdapterError("nvidia-smi CSV: no rows")
    header = [cell.split("[")[0].strip() for cell in lines[0]]
    if "uuid" in header:
        lines = lines[1:]
    elif len(lines[0]) == len(BARE_QUERY) and lines[0][2].startswith("GPU-"):
        header = list(BARE_QUERY)
    else:
        raise AdapterError(f"nvidia-smi CSV: no header with a uuid column; it begins {','.join(lines[0])[:120]!r}")
    rows, problems = [], []
    for number, cells in enumerate(lines, start=1):
        if len(cells) != len(header):
            problems.append(f"row {number} has {len(cells)} cells where the header has {len(header)}; not read")
            continue
        rows.append(_csv_row(dict(zip(header, cells, strict=True))))
    return _reading(rows, written_at, (NO_TIME, *problems), catalog)


def _xml_row(gpu: ElementTree.Element, driver: str | None) -> dict[str, Any]:
    def first(*paths: str) -> str | None:
        return next((text for path in paths if (text := read_text(gpu.findtext(path)))), None)

    errors = [read_count(gpu.findtext(f"ecc_errors/aggregate/{name}")) for name in UNCORRECTABLE]
    counted = [count for count in errors if count is not None]
    mig = first("mig_mode/current_mig") == "Enabled"
    return {
        "uuid": first("uuid"),
        "index": None,  # `-q` prints devices in NVML's order; minor_number is another count
        "bdf": read_bdf(gpu.findtext("pci/pci_bus_id") or gpu.get("id")),
        "name": first("product_name"),
        "serial": _serial(first("serial")),
        "driver": driver,
        "firmware": first("vbios_version"),
        "total": _mib(first("fb_memory_usage/total")),
        "used": _mib(first("fb_memory_usage/used")),
        "ratio": read_ratio(first("utilization/gpu_util")),
        "temperature": read_number(first("temperature/gpu_temp"), unit="C"),
        "power": read_number(first(*POWER_DRAW), unit="W"),
        "limit": read_number(first(*POWER_LIMIT), unit="W"),
        "ecc": sum(counted) if counted else None,
        "health": judge_health(
            failed=_flag(first("remapped_rows/remapped_row_failure")),
            waiting=_flag(first("remapped_rows/remapped_row_pending", "retired_pages/pending_retirement")),
        ),
        "problems": (MIG_ON,) if mig else (),
    }


def _csv_row(cells: Mapping[str, str]) -> dict[str, Any]:
    def cell(*names: str) -> str | None:
        return next((text for name in names if (text := read_text(cells.get(name)))), None)

    return {
        "uuid": cell("uuid", "gpu_uuid"),
        "index": read_count(cell("index")),
        "bdf": read_bdf(cell("pci.bus_id", "gpu_bus_id")),
        "name": cell("name", "gpu_name"),
        "serial": _serial(cell("serial", "gpu_serial")),
        "driver": cell("driver_version"),
        "firmware": cell("vbios_version"),
        "total": _mib(cell("memory.total")),
        "used": _mib(cell("memory.used")),
        "ratio": read_ratio(cell("utilization.gpu")),
        "temperature": read_number(cell("temperature.gpu")),
        "power": read_number(cell("power.draw", "power.draw.instant"), unit="W"),
        "limit": read_number(cell("enforced.power.limit", "power.limit"), unit="W"),
        "ecc": read_count(cell("ecc.errors.uncorrected.aggregate.total")),
        "health": Health.UNKNOWN,
        "problems": (),
    }


def _reading(rows: Sequence[Mapping[str, Any]], at: datetime, problems: Sequence[str], catalog: Catalog) -> Reading:
    devices: list[Accelerator] = []
    samples: list[Sample] = []
    said = [problem for problem in problems if problem]
    for position, row in enumerate(rows):
        index = row["index"] if row["index"] is not None else position
        uuid, own = name_device(row["uuid"], row["bdf"], index)
        if uuid in {device.uuid for device in devices}:
            said.append(f"device {index}: uuid {uuid} is printed twice; only the first is listed")
            continue
        device = Accelerator(
            uuid=uuid,
            index=index,
            vendor=VENDOR,
            model_raw=row["name"] or "",
            serial=row["serial"],
            pci_bdf=row["bdf"],
            visible_id=uuid if not own else None,
            memory_total_bytes=row["total"] or None,
            power_limit_watts=row["limit"],
            driver_version=row["driver"],
            firmware_version=row["firmware"],
            health=row["health"],
            source=Source.CLI,
            problems=(*own, *row["problems"]),
        )
        devices.append(catalog.label(device))
        samples.append(
            Sample(
                uuid=uuid,
                at=at,
                utilisation_ratio=row["ratio"],
                utilisation_semantics=SEMANTICS,
                memory_used_bytes=row["used"],
                power_watts=row["power"],
                temperature_celsius=row["temperature"],
                ecc_uncorrected_total=row["ecc"],
            )
        )
    return Reading(devices=tuple(devices), samples=tuple(samples), problems=tuple(said))


def name_device(uuid: str | None, bdf: str | None, index: int) -> tuple[str, tuple[str, ...]]:
    if uuid:
        return uuid, ()
    return f"{VENDOR}:{bdf or f'index{index}'}", ("the device's uuid cannot be read",)


def judge_health(*, failed: bool | None, waiting: bool | None) -> Health:
    """Row remapping failed: the memory is worn out. Remapping or page retirement pending: a reset is due."""
    if failed:
        return Health.FAILED
    if waiting:
        return Health.DEGRADED
    return Health.UNKNOWN if failed is None and waiting is None else Health.OK


def _serial(cell: str | None) -> str | None:
    """Boards without a serial number, and some hypervisors, print zeros."""
    return cell if cell and cell.strip("0") else None


def _mib(cell: str | None) -> int | None:
    count = read_count(cell, unit="MiB")
    return count * MIB if count is not None else None


def _flag(cell: str | None) -> bool | None:
    return {"yes": True, "no": False}.get((cell or "").lower())


def _logged_at(stamp: str | None, written_at: datetime) -> tuple[datetime, str]:
    try:
        return datetime.strptime((stamp or "").strip(), "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC), NO_ZONE
    except ValueError:
        return written_at, NO_TIME
