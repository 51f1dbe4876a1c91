"""cnmon: what Cambricon's tool prints. Pure.

Three forms: the table (two lines a card, in cells under two header lines, whose columns differ between 4.x and 5.x),
the blocks of `cnmon info` (a `Card 0` line, sections, `key : value`), and cnmon_info.json (`cnmon info -j`). MiB are
2^20 bytes, and so are the bare numbers of the JSON. Sources: tables of 4.20 and 5.10; the JSON's keys as its readers
use them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from adapters.adapter import AdapterError, Reading
from adapters.block import flatten, pick, read_blocks
from adapters.catalog import Catalog
from adapters.cell import read_bdf, read_count, read_text
from adapters.form import read_documents
from adapters.process import ProcessUse
from adapters.quantity import read_bytes, read_celsius, read_share, read_watts
from adapters.row import NO_TIME, Row, assemble

VENDOR = "cambricon"
SEMANTICS = "cnmon: average share of the MLU's cores busy"

_UNIT = re.compile(r"(\d)\s+(W|MiB|MB|GiB|GB|C)\b")
_OVER = re.compile(r"\s*/\s*(?=\d|N/A)")
_VERSION = re.compile(r"\bDriver\s+v?(\d[\w.\-]{0,30})")
_CARD = re.compile(r"\s*Card\s*(?:ID\s*:?\s*)?(\d{1,4})\s*:?\s*")
_PROCESS = re.compile(r"\|?\s*(\d{1,4})\s+\S+\s+(\d{1,10})\s+(.{1,200}?)\s+(\d{1,9})\s*(MiB|MB)\s*\|?")

# Keys of the blocks and of the JSON, as letters and digits only, sections joined by a dot.
PATHS: Mapping[str, tuple[str, ...]] = {
    "name": ("productname", "cardname", "name"),
    "uuid": ("uuid",),
    "serial": ("serialnumber", "cardsn", "sn"),
    "driver": ("driver", "driverversion", "version.driver"),
    "firmware": ("firmware", "mcu", "version.mcu", "version.firmware"),
    "bdf": ("pci.busid", "busid", "pci.bdf", "pci.bus id"),
    "total": ("physicalmemusage.total", "physicalmemoryusage.total", "memoryusage.total"),
    "used": ("physicalmemusage.used", "physicalmemoryusage.used", "memoryusage.used"),
    "ratio": ("utilization.mluaverage", "utilization.average", "utilization.mlu"),
    "temperature": ("temperature.chip", "temperature.board"),
    "hot": ("temperature.memory",),
    "power": ("power.usage", "power.currentusage", "power.current"),
    "limit": ("power.cap", "power.currentcap"),
}


def has_table(text: str) -> bool:
    """Whether the text holds a table whose first header names Card, Name and Firmware or VF."""
    return any(_is_first(line) for line in text.splitlines())


def has_blocks(text: str) -> bool:
    """Whether the text holds the blocks of `cnmon info`, or the JSON of `cnmon info -j`."""
    return bool(_blocks(text))


def is_mock(text: str) -> bool:
    """Whether the text configures the mock library that Cambricon publishes: device names as lists of numbers."""
    for document in read_documents(text):
        if (
            isinstance(document, dict)
            and isinstance(document.get("num"), int)
            and isinstance(document.get("uuid"), list)
        ):
            return True
        if isinstance(document, list) and document and isinstance(document[0], dict) and "device_num" in document[0]:
            return True
    return False


def parse_table(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """The cards of the table. AdapterError when its columns are not known or it has no card."""
    header, rows = _table(text)
    columns = set(header[0] + header[1])
    if "Memory-Usage" not in columns or not any(column.startswith("Pwr") for column in columns):
        raise AdapterError(
            f"cnmon: this table's layout is not known; its header is {' '.join(header[0] + header[1])!r}"
        )
    if not rows:
        raise AdapterError(f"cnmon: the table has no card; its header is {' '.join(header[0] + header[1])!r}")
    version = next((match[1] for line in text.splitlines()[:40] if (match := _VERSION.search(line))), None)
    found = [_row(cells, unread, version) for cells, unread in rows]
    return assemble(found, written_at, catalog, vendor=VENDOR, semantics=SEMANTICS, problems=(NO_TIME,))


def parse_blocks(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """The cards of `cnmon info`. AdapterError when there is none."""
    blocks = _blocks(text)
    if not blocks:
        raise AdapterError(f"cnmon info: no card; it begins {text[:80]!r}")
    rows = [_block_row(number, block) for number, block in blocks]
    return assemble(rows, written_at, catalog, vendor=VENDOR, semantics=SEMANTICS, problems=(NO_TIME,))


def read_processes(text: str, names: Mapping[int, str]) -> tuple[ProcessUse, ...]:
    """The table's process list. names: the uuid of each card's number; a process of an unknown card is left out."""
    found, begun = [], False
    for line in text.splitlines():
        begun = begun or "Processes" in line or ("PID" in line and "Command" in line)
        match = _PROCESS.fullmatch(line.strip()) if begun else None
        if match is not None and int(match[1]) in names:
            used = read_bytes(f"{match[4]} {match[5]}")
            found.append(
                ProcessUse(uuid=names[int(match[1])], pid=int(match[2]), name=match[3].strip(), memory_used_bytes=used)
            )
    return tuple(found)


def name_cards(reading: Reading) -> dict[int, str]:
    """The uuid of each card's number, for `read_processes`."""
    return {device.index: device.uuid for device in reading.devices}


Header = tuple[list[str], list[str]]


def _is_first(line: str) -> bool:
    words = set(_columns(line))
    return "|" in line and {"Card", "Name"} <= words and bool({"Firmware", "VF", "Bus-Id"} & words)


def _columns(line: str) -> list[str]:
    return line.replace("|", " ").split()


def _table(text: str) -> tuple[Header, list[tuple[dict[str, str], tuple[str, ...]]]]:
    header: Header = ([], [])
    shape: tuple[list[list[str]], list[list[str]]] = ([], [])
    rows: list[tuple[dict[str, str], tuple[str, ...]]] = []
    lines = iter(text.splitlines())
    for line in lines:
        if _is_first(line):
            below = next((held for held in lines if "|" in held), "")
            header = (_columns(line), _columns(below))
            shape = ([cell.split() for cell in _cells(line)], [cell.split() for cell in _cells(below)])
        elif not shape[0] or "|" not in line:
            continue
        elif "Processes" in line or "PID" in line.split():
            break
        elif re.match(r"\|?\s*\d{1,4}\s", line.strip()):
            below = next((held for held in lines if "|" in held), "")
            cells, unread = _zip(line, shape[0])
            more, missed = _zip(below, shape[1])
            rows.append(({**more, **cells}, (*unread, *missed)))
    return header, rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _zip(line: str, shape: Sequence[Sequence[str]]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The cells' words under the header's; a name of several words takes what is over."""
    found: dict[str, str] = {}
    cells = _cells(line)
    for columns, cell in zip(shape, cells, strict=False):
        words = _OVER.sub("/", _UNIT.sub(r"\1\2", cell)).split() if "Card" not in columns else cell.split()
        over = len(words) - len(columns)
        if over > 0 and "Name" in columns:
            place = list(columns).index("Name")
            words[place : place + over + 1] = [" ".join(words[place : place + over + 1])]
        if len(words) != len(columns):
            return found, (f"cannot be read: {line.strip()[:120]!r}",)
        found.update(zip(columns, words, strict=True))
    return found, (() if len(cells) >= len(shape) else (f"cannot be read: {line.strip()[:120]!r}",))


def _row(cells: Mapping[str, str], unread: tuple[str, ...], version: str | None) -> Row:
    index = read_count(cells.get("Card")) or 0
    power, limit = _pair(next((cells[column] for column in cells if column.startswith("Pwr")), ""))
    used, total = _pair(cells.get("Memory-Usage", ""))
    driver = read_text(cells.get("Driver")) or version
    return Row(
        index=index,
        name=read_text(cells.get("Name")),
        bdf=read_bdf(cells.get("Bus-Id")),
        unnamed="Bus-Id" in cells and read_bdf(cells["Bus-Id"]) is None,
        driver=driver.removeprefix("v") if driver else None,
        firmware=read_text(cells.get("Firmware")),
        visible_id=str(index),
        total=read_bytes(total),
        limit=read_watts(limit),
        problems=unread,
        ratio=read_share(cells.get("Util")),
        used=read_bytes(used),
        power=read_watts(power),
        temperature=read_celsius(cells.get("Temp")),
        uncorrected=read_count(cells.get("Ecc-Error")),
    )


def _pair(cell: str) -> tuple[str, str]:
    """`106W/250W` as two; `N/A/250W` too."""
    blank = "N/A" if cell.startswith("N/A") else ""
    first, _, second = cell[len(blank) :].partition("/")
    return blank or first, second


def _blocks(text: str) -> list[tuple[int, dict[str, str]]]:
    found: list[tuple[int, dict[str, str]]] = []
    for document in read_documents(text) if "CnmonInfo" in text else []:
        listed = document.get("CnmonInfo") if isinstance(document, dict) else None
        for position, entry in enumerate(listed if isinstance(listed, list) else ()):
            if isinstance(entry, dict):
                block = dict(flatten(entry))
                number = read_count(block.get("cardnum", block.get("card")))
                found.append((position if number is None else number, block))
    if found:
        return found
    blocks = [(int(match[1]), block) for match, block in read_blocks(text, _CARD)]
    return [(number, block) for number, block in blocks if any(name in block for name in PATHS["name"])]


def _block_row(number: int, block: Mapping[str, str]) -> Row:
    def said(what: str) -> str | None:
        return pick(block, PATHS[what])

    parts = [block.get(f"pci.{name}", "") for name in ("domainid", "bus", "device", "function")]
    return Row(
        index=number,
        name=said("name"),
        uuid=said("uuid"),
        unnamed="uuid" in block,
        bdf=read_bdf(said("bdf")) or _bdf(parts),
        serial=said("serial"),
        driver=(said("driver") or "").removeprefix("v") or None,
        firmware=said("firmware"),
        visible_id=str(number),
        total=read_bytes(said("total")),
        limit=read_watts(said("limit")),
        sampled=any(path in block for what in ("used", "ratio", "power", "temperature") for path in PATHS[what]),
        ratio=read_share(said("ratio")),
        used=read_bytes(said("used")),
        power=read_watts(said("power")),
        temperature=read_celsius(said("temperature")),
        memory_temperature=read_celsius(said("hot")),
    )


def _bdf(parts: Sequence[str]) -> str | None:
    """`0`, `39`, `0`, `0` as the tool prints them, in hexadecimal."""
    try:
        domain, bus, device, function = (int(part.strip(), 16) for part in parts)
    except ValueError:
        return None
    return read_bdf(f"{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
