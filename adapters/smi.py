"""smi: the outputs that nvidia-smi and the tools made after it (ixsmi, ppu-smi, brsmi, xpu-smi) have in common. Pure.

Five forms, told apart by content: the XML log and the text log of `-q` (smi_log.py), the table (smi_table.py), and,
here, the CSV of `--query-gpu` and `--query-compute-apps` and the list of `-L`. A Dialect says how one vendor's tool
differs. Columns are those of `nvidia-smi --help-query-gpu`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from adapters.accelerator import Accelerator, Health, Partition, PartitionKind
from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog
from adapters.cell import read_bdf, read_count, read_text
from adapters.process import ProcessUse
from adapters.quantity import read_bytes, read_celsius, read_megahertz, read_share, read_watts
from adapters.row import NO_TIME, NO_ZONE, Row, assemble, name_device

# What stands in a cell instead of a reading when the card or driver is in trouble: kept as the vendor's code.
LOST = ("gpu is lost", "ppu is lost", "gpu requires reset", "ppu requires reset", "reset required", "err!")
SILENT = (
    *("unknown error", "insufficient permissions", "requested functionality has been deprecated"),
    *("no permission", "function not found", "error", "n/a n/a"),
)
MIG_ON = "MIG is on: jobs get its partitions, which are listed where the output names them"
PART_UUID = "the output does not print the partition's uuid; it is named by its instances"
CUT_NAME = "the tool cut the model's name off"
LIST_ONLY = "a list has no readings"
APPS_ONLY = "a list of processes names devices and has no readings of them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One vendor's tool. unit: what it calls a device (`gpu`, `ppu`, `xpu`); semantics: what its utilisation means.

    bare: columns of the one query that is understood without a header line. by_uuid: whether processes are confined
    by uuid (else by index).
    """

    vendor: str
    tool: str
    semantics: str
    unit: str = "gpu"
    bare: tuple[str, ...] = ()
    by_uuid: bool = True


_WHEN = re.compile(r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) +[A-Z][a-z]{2} +\d{1,2} +\d\d:\d\d:\d\d +\d{4}")
_LISTED = re.compile(r"\s*([A-Za-z]{2,8}) (\d{1,4}): (.{0,200}?) ?\(UUID: ([^()\s]{1,128})\)\s*")
_PART = re.compile(r"\s+MIG (\S{1,40}?),?\s+Device\s+(\d{1,3}):?\s*\(UUID: ([^()\s]{1,128})\)\s*")
_UNREACHED = re.compile(
    r"Unable to determine the device handle for [a-z]{3}\s*(?:(\d{1,4}): )?\s*([0-9A-Fa-f:.]{7,16}): (.{1,200})", re.I
)
_COLUMN = re.compile(r"[a-z0-9_.]{1,60}")
_NAMES = {"uuid", "index", "pci.bus_id", "name", "serial", "gpu_uuid", "gpu_name", "gpu_bus_id", "gpu_serial", "bus_id"}
_KNOWN = ("memory.", "utilization.", "temperature.", "power.", "clocks.", "pci.", "ecc.", "board.power", "gpu.power")


def read_said(cell: str | None) -> str | None:
    """The cell's text; None for blanks and for what a tool prints in place of a reading it cannot take."""
    text = read_text(cell)
    word = (text or "").strip("[]").strip().lower()
    return None if word in SILENT or word in LOST else text


def read_fault(*cells: str | None) -> str | None:
    """The first cell that says the card is lost or must be reset, as printed."""
    return next((cell.strip() for cell in cells if cell and cell.strip().strip("[]").lower() in LOST), None)


def read_when(text: str, written_at: datetime) -> tuple[datetime, str]:
    """The time that the output prints (without offset; read as UTC), else the file's; and the problem to tell."""
    found = _WHEN.search(text)
    if found is not None:
        try:
            return datetime.strptime(" ".join(found[0].split()), "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC), NO_ZONE
        except ValueError:
            pass
    return written_at, NO_TIME


def name_part(dialect: Dialect, parent: Row, instances: Sequence[int | None]) -> str:
    """A partition's name by its instances, in the form that drivers before 470 gave to MIG devices."""
    return "/".join(
        [
            f"MIG-{name_device(dialect.vendor, parent)}",
            *("?" if number is None else str(number) for number in instances),
        ]
    )


def part_row(
    dialect: Dialect, parent: Row, *, index: int, uuid: str | None, profile: str | None, **read: object
) -> Row:
    """The row of a MIG partition. Power and temperature are of the whole board and stay with the parent."""
    name = f"{parent.name} MIG {profile}" if parent.name and profile else parent.name
    problems = () if uuid else (PART_UUID,)
    instances = (read.pop("gpu_instance", None), read.pop("compute_instance", None))
    numbers = [number if isinstance(number, int) else None for number in instances]
    named = uuid or name_part(dialect, parent, numbers if any(number is not None for number in numbers) else [index])
    part = Row(
        index=index,
        name=name,
        uuid=named,
        visible_id=uuid,
        bdf=parent.bdf,
        driver=parent.driver,
        numa_node=parent.numa_node,
        partition=Partition(kind=PartitionKind.MIG, parent_uuid=name_device(dialect.vendor, parent), profile=profile),
        problems=problems,
        sampled=parent.sampled,
    )
    return replace(part, **read)  # type: ignore[arg-type]


def is_list(text: str) -> bool:
    """Whether the text holds a line as `-L` prints them."""
    return any(_LISTED.fullmatch(line) for line in text.splitlines())


def parse_list(text: str, written_at: datetime, catalog: Catalog, dialect: Dialect) -> Reading:
    """The devices, and MIG partitions below them, that `-L` prints."""
    rows: list[Row] = []
    parent: Row | None = None
    for line in text.splitlines():
        if listed := _LISTED.fullmatch(line):
            index, uuid = int(listed[2]), listed[4]
            shown = uuid if dialect.by_uuid else str(index)
            parent = Row(index=index, name=read_said(listed[3]), uuid=uuid, visible_id=shown, sampled=False)
            rows.append(parent)
        elif parent is not None and (part := _PART.fullmatch(line)):
            rows.append(part_row(dialect, parent, index=int(part[2]), uuid=part[3], profile=part[1]))
    return assemble_split([*rows, *unreached(text, rows)], written_at, catalog, dialect, LIST_ONLY)


def unreached(text: str, rows: Sequence[Row]) -> list[Row]:
    """A failed row for each device that the tool says, in a line of its own, it cannot open."""
    found: list[Row] = []
    held = {row.bdf for row in rows}
    for match in _UNREACHED.finditer(text):
        bdf = read_bdf(match[2])
        if bdf is None or bdf in held:
            continue
        held.add(bdf)
        index = int(match[1]) if match[1] else len(rows) + len(found)
        said = match[3].strip()
        found.append(Row(index=index, bdf=bdf, health=Health.FAILED, health_code=said, raw_error=said))
    return found


def has_columns(text: str, dialect: Dialect) -> bool:
    """Whether some line is a CSV header of this family, or the first is a row of the known bare query."""
    return any(_is_header(_columns(line, dialect)) for line in text.splitlines()) or _is_bare(text, dialect)


def parse_csv(text: str, written_at: datetime, catalog: Catalog, dialect: Dialect) -> Reading:
    """What `--query-gpu=… --format=csv` says: columns by their header, or the bare query's without one."""
    lines = text.splitlines()
    start = next((place for place, line in enumerate(lines) if _is_header(_columns(line, dialect))), None)
    if start is not None:
        header, lines = _columns(lines[start], dialect), lines[start + 1 :]
    elif _is_bare(text, dialect):
        header = list(dialect.bare)
    else:
        shown = next((line for line in lines if line.strip()), "")
        raise AdapterError(f"{dialect.tool} CSV: no header with a known column; it begins {shown[:120]!r}")
    if "pid" in header:
        return _apps_reading(text, written_at, catalog, dialect)
    rows: list[Row] = []
    problems: list[str] = []
    at, when = written_at, NO_TIME
    for number, cells in enumerate(_cells(lines), start=1):
        if len(cells) == 1 and len(header) > 1:
            continue  # a log line, a shell prompt, or what `unreached` reads
        if len(cells) != len(header):
            problems.append(f"row {number} has {len(cells)} cells where the header has {len(header)}; not read")
            continue
        if [cell.lower() for cell in cells] == header:
            continue  # printed again, as `-l` does after a restart
        row = dict(zip(header, cells, strict=True))
        at, when = _stamp(row.get("timestamp"), (at, when))
        rows.append(_csv_row(row, len(rows), dialect))
    rows += unreached(text, rows)
    if not rows:
        raise AdapterError(f"{dialect.tool} CSV: no rows under the header {', '.join(header)[:120]!r}")
    return assemble_split(rows, at, catalog, dialect, when, *problems)


def read_apps(text: str, dialect: Dialect) -> tuple[ProcessUse, ...]:
    """The processes that `--query-compute-apps` lists, each under the uuid of its device."""
    lines = text.splitlines()
    start = next((place for place, line in enumerate(lines) if "pid" in _columns(line, dialect)), None)
    if start is None:
        return ()
    header = _columns(lines[start], dialect)
    found = []
    for cells in _cells(lines[start + 1 :]):
        row = dict(zip(header, cells, strict=False))
        uuid, pid = read_said(_first(row, "gpu_uuid", "uuid")), read_count(row.get("pid"))
        if uuid is None or pid is None:
            continue
        found.append(
            ProcessUse(
                uuid=uuid,
                pid=pid,
                name=read_said(_first(row, "process_name", "name")),
                memory_used_bytes=read_bytes(_first(row, "used_gpu_memory", "used_memory")),
            )
        )
    return tuple(found)


def judge_health(*, failed: bool | None, waiting: bool | None) -> Health:
    """Row remapping failed: the memory is worn out. Remapping or page retirement pending: a reset is due."""
    if failed:
        return Health.FAILED
    if waiting:
        return Health.DEGRADED
    return Health.UNKNOWN if failed is None and waiting is None else Health.OK


def read_serial(cell: str | None) -> str | None:
    """Boards without a serial number, and some hypervisors, print zeros."""
    said = read_said(cell)
    return said if said and said.strip("0") else None


def read_flag(cell: str | None) -> bool | None:
    return {"yes": True, "no": False, "1": True, "0": False}.get((cell or "").strip().lower())


def doubt_name(name: str | None) -> tuple[str, ...]:
    return (CUT_NAME,) if name and name.endswith("...") else ()


def assemble_split(rows: Sequence[Row], at: datetime, catalog: Catalog, dialect: Dialect, *problems: str) -> Reading:
    """The rows' Reading; a split device says so, and its partitions are of its model."""
    parents = {row.partition.parent_uuid for row in rows if row.partition}
    told = [
        replace(row, problems=(*row.problems, MIG_ON))
        if name_device(dialect.vendor, row) in parents and MIG_ON not in row.problems
        else row
        for row in rows
    ]
    reading = assemble(told, at, catalog, vendor=dialect.vendor, semantics=dialect.semantics, problems=problems)
    return replace(reading, devices=inherit_models(reading.devices))


def inherit_models(devices: Sequence[Accelerator]) -> tuple[Accelerator, ...]:
    """The devices, each partition with the model of the device it is of: a chip's part is of the chip's origin."""
    models = {device.uuid: device.model for device in devices}
    return tuple(
        replace(device, model=models.get(device.partition.parent_uuid))
        if device.partition and device.model is None
        else device
        for device in devices
    )


def _apps_reading(text: str, written_at: datetime, catalog: Catalog, dialect: Dialect) -> Reading:
    seen = dict.fromkeys(use.uuid for use in read_apps(text, dialect))
    if not seen:
        raise AdapterError(f"{dialect.tool} CSV: no process under a device's uuid; nothing to list")
    rows = [
        Row(index=index, uuid=uuid, visible_id=uuid if dialect.by_uuid else None, sampled=False)
        for index, uuid in enumerate(seen)
    ]
    return assemble_split(rows, written_at, catalog, dialect, APPS_ONLY)


def _csv_row(cells: Mapping[str, str], position: int, dialect: Dialect) -> Row:
    def cell(*names: str) -> str | None:
        return next((text for name in names if (text := read_said(cells.get(name)))), None)

    fault = read_fault(*cells.values())
    uuid = cell("uuid", "gpu_uuid")
    number = read_count(cell("index"))
    index = position if number is None else number
    failed = read_flag(cell("remapped_rows.failure"))
    name = cell("name", "gpu_name")
    return Row(
        index=index,
        uuid=uuid,
        unnamed="uuid" in cells or "gpu_uuid" in cells,
        bdf=read_bdf(cell("pci.bus_id", "gpu_bus_id", "bus_id")),
        name=name,
        serial=read_serial(cell("serial", "gpu_serial")),
        driver=cell("driver_version"),
        firmware=cell("vbios_version"),
        visible_id=uuid if dialect.by_uuid else (None if number is None else str(number)),
        total=read_bytes(cell("memory.total")),
        limit=read_watts(cell("enforced.power.limit", "power.limit", "gpu.power.limit", "board.power.limit")),
        health=Health.FAILED
        if fault
        else judge_health(failed=failed, waiting=read_flag(cell("remapped_rows.pending", "retired_pages.pending"))),
        health_code=fault,
        raw_error=fault,
        problems=doubt_name(name),
        ratio=read_share(cell("utilization.gpu")),
        used=read_bytes(cell("memory.used")),
        power=read_watts(
            cell("power.draw", "power.draw.instant", "power.draw.average", "board.power.draw", "gpu.power.draw")
        ),
        temperature=read_celsius(cell("temperature.gpu")),
        memory_temperature=read_celsius(cell("temperature.memory")),
        bandwidth=read_share(cell("utilization.memory")),
        core_clock=read_megahertz(cell("clocks.current.sm", "clocks.sm", "clocks.current.graphics", "clocks.gr")),
        memory_clock=read_megahertz(cell("clocks.current.memory", "clocks.mem")),
        corrected=read_count(cell("ecc.errors.corrected.aggregate.total")),
        uncorrected=read_count(cell("ecc.errors.uncorrected.aggregate.total")),
    )


def _columns(line: str, dialect: Dialect) -> list[str]:
    """The line's cells as column names: units in brackets cut off, the vendor's word for a device made NVIDIA's."""
    names = [cell.split("[")[0].strip().lower() for cell in line.split(",")]
    return [re.sub(rf"(?<![a-z]){dialect.unit}(?![a-z])", "gpu", name) for name in names]


def _is_header(names: Sequence[str]) -> bool:
    named = any(name in _NAMES or name == "pid" for name in names)
    known = sum(name in _NAMES or name.startswith(_KNOWN) or name == "pid" for name in names)
    if not all(_COLUMN.fullmatch(name) for name in names):
        return False  # a command line that names columns, or prose
    # One word alone ("name", "index") is also English; a header has two columns or the dotted kind.
    return named and known >= min(2, len(names)) and (len(names) > 1 or names[0] in ("uuid", "pci.bus_id"))


def _is_bare(text: str, dialect: Dialect) -> bool:
    if not dialect.bare:
        return False
    first = next((line for line in text.splitlines() if line.strip()), "")
    cells = [cell.strip() for cell in first.split(",")]
    place = dialect.bare.index("uuid")
    return len(cells) == len(dialect.bare) and cells[place].startswith(("GPU-", "MIG-"))


def _cells(lines: Sequence[str]) -> list[list[str]]:
    try:
        rows = csv.reader(io.StringIO("\n".join(line.rstrip() for line in lines)), skipinitialspace=True, strict=True)
        return [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise AdapterError(f"CSV: {error}") from error


def _stamp(cell: str | None, held: tuple[datetime, str]) -> tuple[datetime, str]:
    for form in ("%Y/%m/%d %H:%M:%S.%f", "%Y/%m/%d %H:%M:%S"):
        try:
            return datetime.strptime((cell or "").strip(), form).replace(tzinfo=UTC), NO_ZONE
        except ValueError:
            continue
    return held


def _first(row: Mapping[str, str], *names: str) -> str | None:
    return next((row[name] for name in names if name in row), None)
