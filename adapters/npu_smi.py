"""npu-smi: what its table, its mapping and its boards say, recorded and live. Pure.

Text only, no machine form. The table of `npu-smi info` has two lines a chip under two header lines, whose words say
which columns there are: 21.x has no hugepages, 22.x one column of memory, later ones DDR and HBM, A3 servers a Phy-ID,
26.x wider cells. Columns that we do not know are passed over. Boards (`-t board`) and the mapping (`info -m`) are
`key : value` lines and a plain table; the other `-t` answers are in npu_query.py. Huawei's MB are MiB (a 64 GiB device
prints 65536). Sources: outputs of tools 21.0.3 to 26.0, of 310, 310P, 910, 950 and of A3 servers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from adapters.accelerator import Accelerator, Health, Source
from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog
from adapters.cell import read_bdf, read_count, read_number, read_ratio, read_text
from adapters.form import read_hex
from adapters.sample import Sample

VENDOR = "ascend"
SEMANTICS = "npu-smi: share of AI cores busy"
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One form of the table: the words of its header's three cells, above and below.

    number: the column of the chip line that counts devices, None when there is none.
    """

    above: tuple[tuple[str, ...], ...]
    below: tuple[tuple[str, ...], ...]
    number: str | None


NUMBERS = ("Device", "Phy-ID")
BUSY = ("AICore(%)", "NPU-Util(%)")
MEMORY = ("Memory-Usage(MB)", "HBM-Usage(MB)")
# The tool's own words for a card's state (`info -t health`); Alarm and Critical call for service.
HEALTH = {"ok": Health.OK, "warning": Health.DEGRADED, "alarm": Health.FAILED, "critical": Health.FAILED}

_VERSION = re.compile(r"\|\s*npu-smi\s+(\S+)\s+Version:\s*(\S+)\s*\|")
_OVER = re.compile(r"(?<=[^\s/])\s*/\s*(?=[^\s/])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where the mapping puts a chip. logic: what ASCEND_RT_VISIBLE_DEVICES counts, None when not printed."""

    npu: int
    chip: int
    logic: int | None
    name: str


def has_table(text: str) -> bool:
    """Whether the text holds what looks like the table of `npu-smi info`, of a known layout or not."""
    return any("|" in line and {"NPU", "Name", "Health"} <= set(_words(line)) for line in text.splitlines())


def parse_table(text: str, at: datetime, catalog: Catalog, slots: Sequence[Slot] = ()) -> Reading:
    """Devices and samples of the first table in the text; the process list below it is not read.

    A row whose bus address cannot be read is listed as a failed device with a problem, and hides no other.
    slots: the mapping, when known: it says which number the visibility variable wants.
    """
    lines = text.splitlines()
    start, layout = _find_layout(lines)
    driver = next((match[2] for line in lines[:start] if (match := _VERSION.search(line))), None)
    rows = [_read_row(pair, number, layout) for number, pair in enumerate(_pairs(lines[start + 2 :]))]
    if not rows:
        raise AdapterError(f"npu-smi: the table has no device rows; its header is {lines[start].strip()!r}")
    logic: dict[tuple[int | None, int | None], int | None]
    logic = {(slot.npu, slot.chip): slot.logic for slot in slots}
    devices: dict[str, Accelerator] = {}
    samples: list[Sample] = []
    problems: list[str] = []
    for row in rows:
        index = logic.get((row.npu, row.chip))
        device = _device(row, _index(row, rows) if index is None else index, driver, _package(row, rows))
        if device.uuid in devices:
            problems.append(f"row {row.position}: {device.uuid} is printed twice; only the first is listed")
            continue
        devices[device.uuid] = catalog.label(device)
        samples.append(_sample(row, device.uuid, at))
    return Reading(devices=tuple(devices.values()), samples=tuple(samples), problems=tuple(problems))


def read_mapping(text: str) -> tuple[Slot, ...]:
    """The chips that `npu-smi info -m` lists, without the MCU (the card's controller).

    () when there is no mapping.
    """
    found: list[Slot] = []
    header: list[str] = []
    for line in text.splitlines():
        cells = re.split(r"\s{2,}|\t", line.strip())
        if cells[0] == "NPU ID" and "Chip ID" in cells and "Chip Name" in cells:
            header = cells
            continue
        if not header:
            continue
        row = dict(zip(header, cells, strict=False))
        npu, chip = read_count(row.get("NPU ID")), read_count(row.get("Chip ID"))
        if len(cells) != len(header) or npu is None or chip is None:
            header = []  # the table is over
            continue
        logic = row.get("Chip Logic ID", row.get("Chip Phy-ID"))
        name = row["Chip Name"]
        if "mcu" not in (name.lower(), (logic or "").lower()):
            found.append(Slot(npu=npu, chip=chip, logic=read_count(logic), name=name))
    return tuple(found)


def read_boards(text: str) -> tuple[Mapping[str, str], ...]:
    """Every block of `npu-smi info -t board` in the text, as its keys and values.

    Blank values are left out.
    """
    blocks: list[dict[str, str]] = []
    for line in text.splitlines():
        key, mark, value = line.strip().partition(":")
        key, held = key.strip(), read_text(value)
        if key == "NPU ID" and mark:
            blocks.append({})
        if mark and blocks and held is not None and key not in blocks[-1]:
            blocks[-1][key] = held
    return tuple(block for block in blocks if "Board ID" in block or "PCIe Bus Info" in block)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One device of the table: two lines. What cannot be read is None."""

    position: int
    npu: int | None = None
    name: str = ""
    health: str | None = None
    power: float | None = None
    temperature: float | None = None
    chip: int | None = None
    number: int | None = None
    bdf: str | None = None
    ratio: float | None = None
    used: int | None = None
    total: int | None = None
    problems: tuple[str, ...] = ()


def _find_layout(lines: Sequence[str]) -> tuple[int, Layout]:
    for start, line in enumerate(lines):
        if not {"NPU", "Name", "Health"} <= set(_words(line)):
            continue
        above, below = _cells(line), _cells(lines[start + 1]) if start + 1 < len(lines) else ()
        told = {word for cell in (*above, *below) for word in cell}
        known = {"Power(W)", "Temp(C)", "Chip", "Bus-Id"} <= told and told & set(BUSY) and told & set(MEMORY)
        told_otherwise = {word for word in told if word.partition("(")[0] in ("Memory-Usage", "HBM-Usage")} - set(
            MEMORY
        )
        if not known or told_otherwise or (len(above), len(below)) != (3, 3) or below[1] != ("Bus-Id",):
            shown = f"{' '.join(_words(line))!r} / {' '.join(word for cell in below for word in cell)!r}"
            raise AdapterError(f"npu-smi: this table's layout is not known; its header is {shown}")
        number = next((word for word in below[0] if word in NUMBERS), None)
        return start, Layout(above=above, below=below, number=number)
    raise AdapterError("npu-smi: no table of `npu-smi info`")


def _cells(line: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(cell.split()) for cell in line.strip().strip("|").split("|"))


def _zip(columns: Sequence[str], cell: str) -> dict[str, str] | None:
    """The words of a cell under the header's, `0 / 0` being one; None when there are not as many."""
    words = _OVER.sub("/", cell).split()
    return dict(zip(columns, words, strict=True)) if len(words) == len(columns) else None


def _words(line: str) -> list[str]:
    return line.replace("|", " ").split()


def _pairs(lines: Sequence[str]) -> Iterator[list[str]]:
    """The lines of each device, two where all is well; ends where the process list begins."""
    pair: list[str] = []
    for line in lines:
        body = line.strip()
        if "Process" in _words(body):
            break
        if body.startswith("|"):
            pair.append(body)
        if pair and (len(pair) == 2 or body.startswith("+")):
            yield pair
            pair = []
    if pair:
        yield pair


def _read_row(pair: Sequence[str], position: int, layout: Layout) -> _Row:
    above = [cell.strip() for cell in pair[0].strip("|").split("|")]
    below = [cell.strip() for cell in pair[1].strip("|").split("|")] if len(pair) == 2 else []
    state = _zip(layout.above[2], above[2]) if len(above) == 3 else None
    use = _zip(layout.below[2], below[2]) if len(below) == 3 else None
    problems = [f"cannot be read: {line!r}" for line, read in zip(pair, (state, use), strict=False) if read is None]
    head, tail = above[0].split(None, 1), (below[0].split() if below else [])
    used, total = _memory(use) if use else (None, None)
    if used is not None and total is not None and used > total:
        problems.append(f"memory used, {used} MB, is more than there is, {total} MB; read as unknown")
        used = total = None
    counted = layout.number is not None and len(tail) == len(layout.below[0])
    return _Row(
        position=position,
        npu=read_count(head[0]) if head else None,
        name=head[1] if len(head) == 2 else "",
        health=read_text(above[1]) if len(above) == 3 else None,
        power=read_number((state or {}).get("Power(W)")),
        temperature=read_number((state or {}).get("Temp(C)")),
        chip=read_count(tail[0]) if tail else None,
        number=read_count(tail[layout.below[0].index(layout.number)]) if counted and layout.number else None,
        bdf=read_bdf(below[1]) if len(below) == 3 else None,
        ratio=next((read_ratio(use[name]) for name in BUSY if name in use), None) if use else None,
        used=used,
        total=total,
        problems=tuple(problems),
    )


def _memory(use: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Used and total in MB of the memory that jobs get: HBM, or DDR where the HBM column says `0 / 0`."""
    on_board, stacked = (
        tuple(read_count(word) for word in use[name].split("/")) if "/" in use.get(name, "") else None
        for name in MEMORY
    )
    chosen = on_board if stacked is None or stacked[1] == 0 else stacked
    if chosen is None or len(chosen) != 2 or not chosen[1]:
        return None, None
    return chosen[0], chosen[1]


def _index(row: _Row, rows: Sequence[_Row]) -> int:
    if row.number is not None:
        return row.number
    alone = all(other.chip == 0 for other in rows)
    return row.npu if alone and row.npu is not None else row.position


def _package(row: _Row, rows: Sequence[_Row]) -> str | None:
    """The first die's name where a card has several, so that its power and price count once."""
    dies = [other for other in rows if other.npu is not None and other.npu == row.npu]
    return _uuid(dies[0]) if len(dies) > 1 else None


def _uuid(row: _Row) -> str:
    if row.bdf is not None:
        return f"{VENDOR}:{row.bdf}"
    return f"{VENDOR}:row{row.position}" if row.npu is None else f"{VENDOR}:npu{row.npu}-chip{row.chip or 0}"


def _device(row: _Row, index: int, driver: str | None, package: str | None) -> Accelerator:
    lost = () if row.bdf else ("its bus address cannot be read; it is taken as failed",)
    return Accelerator(
        uuid=_uuid(row),
        index=index,
        vendor=VENDOR,
        model_raw=row.name,
        pci_bdf=row.bdf,
        package_id=package,
        visible_id=str(index) if row.bdf else None,
        memory_total_bytes=row.total * MIB if row.total else None,
        driver_version=driver,
        health=HEALTH.get((row.health or "").lower(), Health.UNKNOWN) if row.bdf else Health.FAILED,
        health_code=row.health,
        source=Source.CLI,
        problems=(*row.problems, *lost),
    )


def _sample(row: _Row, uuid: str, at: datetime) -> Sample:
    return Sample(
        uuid=uuid,
        at=at,
        utilisation_ratio=row.ratio,
        utilisation_semantics=SEMANTICS,
        memory_used_bytes=row.used * MIB if row.used is not None else None,
        power_watts=row.power,
        temperature_celsius=row.temperature,
        raw_error=None if row.bdf else "; ".join(row.problems) or "its bus address cannot be read",
    )


def add_board(device: Accelerator, boards: Sequence[Mapping[str, str]]) -> Accelerator:
    """The device with the serial number and firmware of the board at its bus address.

    Unchanged when there is none.
    """
    for board in boards:
        if device.pci_bdf is not None and read_bdf(board.get("PCIe Bus Info")) == device.pci_bdf:
            device = replace(
                device,
                serial=device.serial or board.get("Serial Number"),
                pci_vendor_id=device.pci_vendor_id or read_hex(board.get("PCI Vendor ID")),
                pci_device_id=device.pci_device_id or read_hex(board.get("PCI Device ID")),
                firmware_version=device.firmware_version or board.get("Firmware Version"),
                driver_version=device.driver_version or board.get("Software Version"),
            )
    return device
