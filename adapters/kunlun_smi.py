"""xpu-smi of Kunlunxin: what its recorded outputs say. Pure. (Intel's tool of the same name prints other things.)

Six forms, by content: `xpu_smi -m` (columns by position, from the vendor's users: 0 bus, 1 device, 3 serial, 4 °C,
8 W, 9 core MHz, 17 and 18 MiB used and in all, 19 %, 20 firmware, then the quoted model), the table of `xpu_smi`, the
five columns that FlagPerf keeps, the lines that telegraf makes of `-q -x`, the memory that libxpuml's example prints,
and the exporter's `node_xpu_*`. The XML itself is read by smi_log.py. Memory is MiB, power W, temperature °C.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from adapters.accelerator import Health
from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog
from adapters.cell import read_bdf, read_count, read_text
from adapters.exposition import Meter, exposition_time, gather, read_exposition
from adapters.quantity import read_bytes, read_celsius, read_megahertz, read_share, read_watts
from adapters.row import MIB, NO_TIME, Row, assemble
from adapters.smi import Dialect
from adapters.smi_output import parse_output

VENDOR = "kunlunxin"
SEMANTICS = "xpu-smi: share of the last window in which a kernel ran"
DIALECT = Dialect(vendor=VENDOR, tool="xpu-smi", unit="xpu", semantics=SEMANTICS, by_uuid=False)
# The table's State column: N is normal; ERROR calls for a reset (the vendor's own troubleshooting guide).
STATES = {"n": Health.OK, "normal": Health.OK, "running": Health.OK, "e": Health.FAILED, "error": Health.FAILED}

_MACHINE = re.compile(r"\s*([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7])\s+(\d{1,4})\s+(\S.*)")
_QUOTED = re.compile(r'"([^"]{0,80})"')
_FIVE = re.compile(r"\s*(\S+?)\s*C\s+(\S+?)\s*W\s+(\S+?)\s*MiB\s+(\S+?)\s*MiB\s+(\S+?)\s*%\s*")
_EXAMPLE = re.compile(r"Memory info of device at index (\d{1,4}): \{([^{}]{1,600})\}")
_FIELD = re.compile(r'([A-Za-z0-9_.]{1,60})=("(?:[^"\\]|\\.)*"|(?:\\.|[^,\s\\])*)')
_DRIVER = re.compile(r"^\s*Driver Version:\s*(\S+)", re.M | re.I)
_DEVICE_LABELS = (
    "uuid",
    "xpu_uuid",
    "sn",
    "xpu",
    "minor_number",
    "device_id",
    "deviceId",
    "devid",
    "index",
    "id",
    "dev",
)


def parse_recording(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """The Reading of a recorded output. AdapterError, which shows how it begins, when it is none of the known."""
    lines = text.splitlines()
    at = written_at
    for read in (_table, _machine, _telegraf, _five, _example):
        rows = read(lines)
        if rows:
            break
    else:
        if any(line.startswith("node_xpu_") for line in lines):
            rows = _exporter(text)
            at = exposition_time(text) or written_at
    if not rows:
        header = next((line.strip() for line in lines if "DevID" in line and "|" in line), None)
        if header is not None:
            raise AdapterError(f"xpu-smi: the table has no device rows; its header is {header[:120]!r}")
        return parse_output(text, written_at, catalog, DIALECT)
    when = NO_TIME if at is written_at else ""
    return assemble(_shared(rows), at, catalog, vendor=VENDOR, semantics=SEMANTICS, problems=(when,))


def _machine(lines: Sequence[str]) -> list[Row]:
    found = []
    for line in lines:
        match = _MACHINE.fullmatch(line.rstrip())
        if match is None:
            continue
        model = _QUOTED.search(match[3])
        cells = [match[1], match[2], *match[3].split('"')[0].split()]
        if len(cells) < 20:
            continue
        found.append(
            Row(
                index=int(match[2]),
                name=read_text(model[1]) if model else None,
                bdf=read_bdf(cells[0]),
                serial=_serial(cells[3]),
                firmware=cells[20] if len(cells) > 20 else None,
                visible_id=match[2],
                total=read_bytes(cells[18]),
                used=read_bytes(cells[17]),
                power=read_watts(cells[8]),
                temperature=read_celsius(cells[4]),
                core_clock=read_megahertz(cells[9]),
                ratio=read_share(cells[19]),
            )
        )
    return found


def _table(lines: Sequence[str]) -> list[Row]:
    """The DEVICES table: columns by their names, which releases add and leave out."""
    driver = _DRIVER.search("\n".join(lines))
    header: list[str] = []
    found: list[Row] = []
    for line in lines:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if "DevID" in cells:
            if "Memory" in cells and any(name in cells for name in ("PCI Addr", "INODE", "UseRate")):
                header = cells
                continue
            break  # the tables of videos and processes follow
        if not header or "|" not in line or not cells[0].isdigit():
            continue
        row = dict(zip(header, cells, strict=False))
        state = read_text(row.get("State"))
        used, _, total = (row.get("Memory") or "").partition("/")
        unit = total.strip().split()[-1] if total.strip().split()[1:] else "MB"
        found.append(
            Row(
                index=int(cells[0][:4]),
                name=read_text(row.get("Model")),
                bdf=read_bdf(row.get("PCI Addr")),
                serial=_serial(row.get("SN")),
                firmware=read_text(row.get("Firmware Version")),
                driver=driver[1] if driver else None,
                visible_id=cells[0],
                total=read_bytes(total, unit=unit),
                used=read_bytes(used, unit=unit),
                power=read_watts(row.get("Power(W)")),
                temperature=read_celsius(row.get("Temp")),
                core_clock=read_megahertz(row.get("Freq(MHz)")),
                ratio=read_share(row.get("UseRate")),
                health=STATES.get((state or "").lower(), Health.UNKNOWN),
                health_code=state,
            )
        )
    return found


def _five(lines: Sequence[str]) -> list[Row]:
    matches = [match for line in lines if (match := _FIVE.fullmatch(line))]
    return [
        Row(
            index=index,
            temperature=read_celsius(match[1]),
            power=read_watts(match[2]),
            used=read_bytes(match[3]),
            total=read_bytes(match[4]),
            ratio=read_share(match[5]),
        )
        for index, match in enumerate(matches)
    ]


def _example(lines: Sequence[str]) -> list[Row]:
    found = []
    for line in lines:
        match = _EXAMPLE.search(line)
        if match is None:
            continue
        held = dict(pair.split(":", 1) for pair in match[2].split() if ":" in pair)
        index = int(match[1])
        found.append(
            Row(
                index=index,
                visible_id=str(index),
                total=read_bytes(held.get("TotalGlobalMemory"), unit="B"),
                used=read_bytes(held.get("UsedGlobalMemory"), unit="B"),
            )
        )
    return found


def _telegraf(lines: Sequence[str]) -> list[Row]:
    """Line protocol: integers end in `i`, texts stand in quotes, spaces of tags are escaped."""
    found: list[Row] = []
    for line in lines:
        if not line.strip().startswith("xpusmi,"):
            continue
        held = {match[1]: _plain(match[2]) for match in _FIELD.finditer(line)}
        index = read_count(held.get("index"))
        uuid = read_text(held.get("uuid"))
        if index is None and uuid is None:
            continue
        found.append(
            Row(
                index=len(found) if index is None else index,
                name=read_text(held.get("name")),
                uuid=uuid,
                bdf=read_bdf(held.get("pci_bus_id")),
                serial=_serial(held.get("serial")),
                driver=read_text(held.get("driver_version")),
                visible_id=None if index is None else str(index),
                total=read_bytes(held.get("memory_total")),
                used=read_bytes(held.get("memory_used")),
                limit=read_watts(held.get("power_limit")),
                power=read_watts(held.get("power_draw")),
                temperature=read_celsius(held.get("temperature_gpu")),
                ratio=read_share(held.get("utilization_gpu")),
                core_clock=read_megahertz(held.get("clocks_current_cluster")),
                corrected=read_count(held.get("ecc_errors_dram_correctable")),
                uncorrected=read_count(held.get("ecc_errors_dram_uncorrectable")),
            )
        )
    return found


def _exporter(text: str) -> list[Row]:
    """xpu-exporter. memtotal and memused are bytes where above 2^24, which no device has in MiB, else MiB."""
    meters = gather(
        [series for series in read_exposition(text) if series[0].startswith("node_xpu_")],
        lambda labels: next(
            (f"{name}={labels[name]}" for name in _DEVICE_LABELS if labels.get(name, "").strip()), None
        ),
    )
    return [_metered(meter, position) for position, meter in enumerate(meters.values())]


def _metered(meter: Meter, position: int) -> Row:
    labels = meter.labels
    number = next((found for name in _DEVICE_LABELS[3:] if (found := read_count(labels.get(name))) is not None), None)
    index = position if number is None else number
    return Row(
        index=index,
        name=labels.get("model") or labels.get("name") or labels.get("modelName"),
        uuid=labels.get("uuid") or labels.get("xpu_uuid"),
        bdf=read_bdf(labels.get("pci_bus_id") or labels.get("busid") or labels.get("pci")),
        serial=labels.get("sn"),
        visible_id=str(index),
        total=_memory(meter.value("node_xpu_memtotal")),
        used=_memory(meter.value("node_xpu_memused"), meter.value("node_xpu_memtotal")),
        power=meter.value("node_xpu_powerUsage"),
        temperature=meter.value("node_xpu_temp"),
        ratio=meter.share("node_xpu_utilization"),
        core_clock=meter.value("node_xpu_clock"),
        corrected=meter.count("node_xpu_totalEccCorrectedErrors"),
        uncorrected=meter.count("node_xpu_totalEccUncorrectedErrors"),
    )


def _memory(value: float | None, total: float | None = None) -> int | None:
    if value is None:
        return None
    scale = 1 if (value if total is None else total) > 1 << 24 else MIB
    return int(value * scale)


def _shared(rows: Sequence[Row]) -> list[Row]:
    """A card of two chips (K100, K200) prints one bus address twice: each chip is a device, the card its package."""
    buses = [row.bdf for row in rows if row.uuid is None]
    seen: dict[str, int] = {}
    found = []
    for row in rows:
        if row.uuid is None and row.bdf is not None and buses.count(row.bdf) > 1 and _distinct(row, rows):
            number = seen[row.bdf] = seen.get(row.bdf, -1) + 1
            row = replace(row, uuid=f"{VENDOR}:{row.bdf}/{number}", package_id=f"{VENDOR}:{row.bdf}/0")
        found.append(row)
    return found


def _distinct(row: Row, rows: Sequence[Row]) -> bool:
    """Whether the row's number is its own: a line printed twice is no second chip."""
    return sum(other.bdf == row.bdf and other.index == row.index for other in rows) == 1


def _serial(cell: str | None) -> str | None:
    said = read_text(cell)
    return said if said and said.strip("0") else None


def _plain(value: str) -> str:
    if value.startswith('"'):
        return value.strip('"')
    return re.sub(r"(?<=\d)i$", "", value.replace("\\", ""))
