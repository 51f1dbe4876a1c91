"""smi table: what nvidia-smi and the tools made after it print without arguments. Pure.

Seen of nvidia-smi 384 to 595, ixsmi 3.1 and ppu-smi 1.28. A device takes two or three lines between borders: number,
name and bus address on the first; temperature, power, memory and utilisation on the second. Nothing counts columns of
characters: cells are cut at `|` and their values found by unit. The table has no uuid; devices go by bus address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime

from adapters.accelerator import Health
from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog
from adapters.cell import read_bdf, read_count
from adapters.quantity import read_bytes, read_celsius, read_megahertz, read_share, read_watts
from adapters.row import Row
from adapters.smi import (
    MIG_ON,
    Dialect,
    assemble_split,
    doubt_name,
    part_row,
    read_fault,
    read_said,
    read_when,
    unreached,
)

# The first cell ends in the state of persistence mode, two spaces or more after the name.
_HEAD = re.compile(r"(\d{1,4})\s+(\S.{0,120}?)(?:\s{2,}(?:On|Off|N/A|Enabled|Disabled))?", re.I)
_BUS = re.compile(r"([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7])\b")
_PAIR = re.compile(r"(\S+?)\s*/\s*(\S+)")
_MEMORY = re.compile(r"([\d.]+\s*[KMGT]i?B|N/A|ERR!)\s*/\s*([\d.]+\s*[KMGT]i?B|N/A|ERR!)", re.I)
_DEGREES = re.compile(r"(?<!\S)(\d{1,5})\s*°?[C℃](?!\S)")
_PER_CENT = re.compile(r"(?<!\S)(\d{1,5})\s*%")
_CLOCKS = re.compile(r"(\d{1,5})\s*MHz\s+(\d{1,5})\s*MHz")
_DRIVER = re.compile(r"Driver Version:\s*(\S+)", re.I)
_ECC = re.compile(r"\d{1,9}")
_MIG = re.compile(r"(\d{1,4})\s+(\d{1,4})\s+(\d{1,4})\s+(\d{1,4})")
_SECTION = re.compile(r"\bprocesses\b|\bmig devices\b", re.I)


def has_table(text: str) -> bool:
    """Whether the text holds the header of such a table, or its device rows."""
    lines = text.splitlines()
    return any(_is_header(line) for line in lines) or any(_is_first(line) for line in lines)


def parse_table(text: str, written_at: datetime, catalog: Catalog, dialect: Dialect) -> Reading:
    """Devices and samples of the table, MIG partitions of the one below it; the process list is not read.

    AdapterError when there is a header and no row beneath it.
    """
    lines = text.splitlines()
    driver = next((match[1] for line in lines if (match := _DRIVER.search(line))), None)
    rows = [_row(block, position, driver, dialect) for position, block in enumerate(_blocks(lines))]
    rows += unreached(text, rows)
    if not rows:
        header = next((line.strip() for line in lines if _is_header(line)), "")
        raise AdapterError(f"{dialect.tool}: the table has no device rows; its header is {header[:120]!r}")
    at, when = read_when(text, written_at)
    return assemble_split([*rows, *_parts(lines, rows, dialect)], at, catalog, dialect, when)


def _is_header(line: str) -> bool:
    words = line.replace("|", " ").split()
    return "|" in line and "Name" in words and "Bus-Id" in words


def _is_first(line: str) -> bool:
    cells = _cells(line)
    return len(cells) >= 2 and _HEAD.fullmatch(cells[0]) is not None and _BUS.match(cells[1]) is not None


def _cells(line: str) -> list[str]:
    body = line.strip()
    return [cell.strip() for cell in body.strip("|").split("|")] if body.startswith("|") else []


def _blocks(lines: Sequence[str]) -> Iterator[list[list[str]]]:
    """The cells of each device's lines: from a line with number and bus address to the next border."""
    block: list[list[str]] = []
    for line in lines:
        if _is_first(line):
            if block:
                yield block
            block = [_cells(line)]
        elif block and line.strip().startswith("|") and not line.strip().startswith(("|-", "|=")):
            if _SECTION.search(line):
                break
            block.append(_cells(line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _row(block: Sequence[Sequence[str]], position: int, driver: str | None, dialect: Dialect) -> Row:
    first, rest = block[0], block[1:]
    head = _HEAD.fullmatch(first[0])
    bus = _BUS.match(first[1])
    left = " ".join(cells[0] for cells in rest if cells)
    middle = " ".join(cells[1] for cells in rest if len(cells) > 1)
    right = " ".join(cells[2] for cells in rest if len(cells) > 2)
    beside = first[2] if len(first) > 2 else ""
    number = int(head[1]) if head else position
    fault = read_fault(*left.split(), *right.split(), *middle.split())
    memory = _MEMORY.search(middle)
    clocks = _CLOCKS.search(beside)
    used, limit = _power(left)
    degrees, share = _DEGREES.search(left), _PER_CENT.search(right)
    name = read_said(head[2]) if head else None
    split = bool(re.search(r"\bEnabled\b", right))
    return Row(
        index=number,
        name=name,
        bdf=read_bdf(bus[1]) if bus else None,
        driver=driver,
        visible_id=None if dialect.by_uuid else str(number),
        total=read_bytes(memory[2]) if memory else None,
        used=read_bytes(memory[1]) if memory else None,
        limit=limit,
        power=used,
        temperature=read_celsius(degrees[1]) if degrees else None,
        ratio=read_share(share[1]) if share else None,
        core_clock=read_megahertz(clocks[1]) if clocks else None,
        memory_clock=read_megahertz(clocks[2]) if clocks else None,
        uncorrected=read_count(beside) if _ECC.fullmatch(beside) else None,
        health=Health.FAILED if fault else Health.UNKNOWN,
        health_code=fault,
        raw_error=fault,
        problems=(*doubt_name(name), *((MIG_ON,) if split else ())),
    )


def _power(cell: str) -> tuple[float | None, float | None]:
    """`51W / 400W` in the cell beside temperature and performance state."""
    pairs = [match for match in _PAIR.finditer(cell) if match[2] != "A"]  # N/A is no pair
    watts = [(read_watts(match[1].removeprefix("P0")), read_watts(match[2])) for match in pairs]
    return next((pair for pair in watts if pair != (None, None)), (None, None))


def _parts(lines: Sequence[str], rows: Sequence[Row], dialect: Dialect) -> list[Row]:
    """The partitions in the table of MIG devices: parent, GPU instance, compute instance, number; memory."""
    start = next((place for place, line in enumerate(lines) if "MIG devices" in line), None)
    if start is None:
        return []
    parents = {row.index: row for row in rows}
    found = []
    for line in lines[start + 1 :]:
        cells = _cells(line)
        if "Processes" in line:
            break
        if len(cells) < 2 or (numbers := _MIG.fullmatch(cells[0])) is None:
            continue
        parent, memory = parents.get(int(numbers[1])), _MEMORY.search(cells[1])
        if parent is None:
            continue
        found.append(
            part_row(
                dialect,
                parent,
                index=int(numbers[4]),
                uuid=None,
                profile=None,
                gpu_instance=int(numbers[2]),
                compute_instance=int(numbers[3]),
                total=read_bytes(memory[2]) if memory else None,
                used=read_bytes(memory[1]) if memory else None,
            )
        )
    return found
