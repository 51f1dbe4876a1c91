"""mx-smi: what MetaX's tool prints. Pure.

Four forms: the table (two lines a device; the columns of its cells grew between 2.1 and 2.3), the CSV of
`dmon --format csv` (names in the first row, units in the second; `total` in GB, `vram` in per cent), the list of `-L`
(two spellings), and the table of `--show-process`. The table's MiB are 2^20 bytes. Sources: outputs of mx-smi 2.1.6
to 2.3.4. Moffett ships a tool of the same name; what holds neither MetaX's names nor these headers is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from adapters.accelerator import Health
from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog
from adapters.cell import read_bdf, read_count, read_text
from adapters.process import ProcessUse
from adapters.quantity import read_bytes, read_celsius, read_megahertz, read_share, read_watts
from adapters.row import NO_TIME, Row, assemble
from adapters.smi import read_when

VENDOR = "metax"
SEMANTICS = "mx-smi: share of the last window in which the GPU was busy"
STATES = {"available": Health.OK, "not available": Health.FAILED, "unavailable": Health.FAILED}
LIST_ONLY = "a list has no readings"
SHARE_ONLY = "memory used is printed in whole per cent: it is that share of the total, to one per cent"
PROCESSES_ONLY = "a list of processes names devices by number and has no readings of them"

_DRIVER = re.compile(r"Kernel Mode Driver Version:\s*([\w.\-]{1,40})")
_BIOS = re.compile(r"BIOS Version:\s*([\w.\-]{1,40})")
_ATTACHED = re.compile(r"Attached GPUs\s*:\s*(\d{1,4})")
_LISTED = re.compile(r"\s*GPU[ #](\d{1,4}):?\s+(.{1,160}?)\s*")
_UUID = re.compile(r"\s*\(UUID:\s*([^()\s]{1,80})\)")
_ADDRESS = re.compile(r"\b(?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[01][0-9a-fA-F]\.[0-7]\b")
_USED = re.compile(r"([\d.]+|N/?A)\s*/\s*([\d.]+|N/?A)\s*([KMGT]i?B)?", re.IGNORECASE)
_PROCESS = re.compile(r"\|\s*(\d{1,4})\s+(\d{1,10})\s+(\S.{0,200}?)\s+(\d{1,12}|N/?A)(?:\s*MiB)?\s*\|")


def has_table(text: str) -> bool:
    """Whether the text holds the table: a header with GPU, NAME and Bus-id."""
    return any(_is_header(line) for line in text.splitlines())


def has_monitor(text: str) -> bool:
    """Whether the text holds the CSV of dmon: a row with `dev` and another of its columns."""
    return any(_monitored(line) for line in text.splitlines())


def has_list(text: str) -> bool:
    """Whether the text holds lines of `-L`."""
    return any(_listed(line) is not None for line in text.splitlines())


def has_processes(text: str) -> bool:
    """Whether the text holds the table of `--show-process`."""
    return "Process" in text and any({"GPU", "PID"} <= set(_words(line)) for line in text.splitlines())


def parse_table(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """The devices of the table. AdapterError when it has none."""
    at, when = read_when(text, written_at)
    driver = match[1] if (match := _DRIVER.search(text)) else None
    bios = match[1] if (match := _BIOS.search(text)) else None
    rows = [_row(pair, header, driver, bios) for pair, header in _pairs(text)]
    if not rows:
        header = next((line.strip() for line in text.splitlines() if _is_header(line)), "")
        raise AdapterError(f"mx-smi: the table has no device; its header is {header!r}")
    return assemble(rows, at, catalog, vendor=VENDOR, semantics=SEMANTICS, problems=(when, *missing(text, len(rows))))


def missing(text: str, listed: int) -> tuple[str, ...]:
    """A problem when the output counts more devices than it lists."""
    match = _ATTACHED.search(text)
    if match is None or int(match[1]) <= listed:
        return ()
    return (f"the output counts {match[1]} devices and lists {listed}",)


def parse_monitor(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """The devices of `mx-smi dmon`; of a device that is printed many times, the last reading."""
    header: list[str] = []
    units: dict[str, str] = {}
    rows: dict[tuple[int, int], Row] = {}
    problems: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if _monitored(",".join(cells)):
            header = [cell.lower() for cell in cells]
        elif header and cells and cells[0].lower() == "idx":
            units = dict(zip(header, cells, strict=False))
        elif header and cells and read_count(cells[0]) is not None:
            if len(cells) < len(header):
                problems.append(f"a row of {len(cells)} cells where the header has {len(header)} is not read")
                continue
            row = _monitor_row(dict(zip(header, cells, strict=False)), units)
            rows[row.index, read_count(dict(zip(header, cells, strict=False)).get("die")) or 0] = row
    if not rows:
        raise AdapterError(f"mx-smi dmon: no device under the header {', '.join(header)!r}")
    found = [rows[key] for key in sorted(rows)]
    if "vram" in header and "used" not in header:
        problems.append(SHARE_ONLY)
    return assemble(found, written_at, catalog, vendor=VENDOR, semantics=SEMANTICS, problems=(NO_TIME, *problems))


def parse_list(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """The devices of `mx-smi -L`, without readings."""
    rows = [row for line in text.splitlines() if (row := _listed(line)) is not None]
    return assemble(rows, written_at, catalog, vendor=VENDOR, semantics=SEMANTICS, problems=(LIST_ONLY,))


def parse_processes(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """The devices that `--show-process` names: those with a process; nothing of them but their number."""
    numbers = sorted({number for number, *_ in _processes(text)})
    if not numbers:
        raise AdapterError("mx-smi --show-process: no process, hence no device")
    rows = [Row(index=number, visible_id=str(number), sampled=False) for number in numbers]
    return assemble(rows, written_at, catalog, vendor=VENDOR, semantics=SEMANTICS, problems=(PROCESSES_ONLY,))


def read_processes(text: str, names: Mapping[int, str]) -> tuple[ProcessUse, ...]:
    """The process list of `--show-process`, or below the table. names: the uuid of each device's number."""
    return tuple(
        ProcessUse(uuid=names[number], pid=pid, name=name, memory_used_bytes=used)
        for number, pid, name, used in _processes(text)
        if number in names
    )


def _processes(text: str) -> Iterator[tuple[int, int, str, int | None]]:
    begun = False
    for line in text.splitlines():
        begun = begun or {"GPU", "PID"} <= set(_words(line))
        match = _PROCESS.fullmatch(line.strip()) if begun else None
        if match is not None:
            yield int(match[1]), int(match[2]), match[3], read_bytes(match[4])


def _words(line: str) -> list[str]:
    return line.replace("|", " ").split()


def _is_header(line: str) -> bool:
    words = {word.lower() for word in _words(line)}
    return "|" in line and {"gpu", "name", "bus-id"} <= words


def _monitored(line: str) -> bool:
    cells = [cell.strip().lower() for cell in line.split(",")]
    return len(cells) > 2 and cells[0] == "dev" and bool({"die", "gpu", "vram", "power", "bdfid"} & set(cells))


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _pairs(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """The two lines of each device, and the two of the header above."""
    header: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        if _is_header(line):
            header = [line, next((held for held in lines if "|" in held), "")]
        elif header and {"GPU", "PID"} <= set(_words(line)):
            return
        elif header and re.match(r"\|?\s*\d{1,4}\s", line.strip()) and line.count("|") >= 2:
            below = next(lines, "")
            yield [line, below if below.count("|") >= 2 else ""], header


def _row(pair: Sequence[str], header: Sequence[str], driver: str | None, bios: str | None) -> Row:
    above, below = _cells(pair[0]), _cells(pair[1])
    first = above[0].split()
    columns = [word.lower() for word in _cells(header[0])[0].split()]
    name = first[1 : len(first) - max(0, len(columns) - 2)]  # a column after NAME (Persistence-M) is one word
    power, _, cap = _used_power(below[0])
    memory = _USED.search(below[1]) if len(below) > 1 else None
    state = read_text(below[2]) if len(below) > 2 else None
    problems = (
        [] if len(above) == 3 and len(below) >= 2 and memory else [f"cannot be read: {' '.join(pair).strip()[:120]!r}"]
    )
    unit = memory[3] or "MiB" if memory else "MiB"
    words = below[0].split()
    return Row(
        index=read_count(first[0]) or 0,
        name=" ".join(name) or None,
        bdf=read_bdf(above[1]) if len(above) > 1 else None,
        unnamed=len(above) < 2 or read_bdf(above[1]) is None,
        driver=driver,
        firmware=bios,
        visible_id=first[0],
        total=read_bytes(f"{memory[2]} {unit}") if memory else None,
        limit=read_watts(cap),
        health=STATES.get((state or "").lower(), Health.UNKNOWN),
        health_code=state,
        problems=tuple(problems),
        ratio=read_share(above[2].split()[0]) if len(above) > 2 and above[2].split() else None,
        used=read_bytes(f"{memory[1]} {unit}") if memory else None,
        power=read_watts(power),
        temperature=read_celsius(words[0]) if words else None,
    )


def _used_power(cell: str) -> tuple[str, str, str]:
    """`35C 54W / 350W P0` → 54W, /, 350W; `51C 71W` → 71W."""
    match = re.search(r"(\d[\d.]*\s*m?W|N/?A)(?:\s*/\s*(\d[\d.]*\s*m?W|N/?A))?", cell, re.IGNORECASE)
    return (match[1], "/", match[2] or "") if match else ("", "", "")


def _monitor_row(cells: Mapping[str, str], units: Mapping[str, str]) -> Row:
    total = read_bytes(cells.get("total"), unit=units.get("total") or "GB")
    share = read_share(cells.get("vram"))
    printed = "used" in cells
    index = read_count(cells.get("dev")) or 0
    return Row(
        index=index,
        bdf=read_bdf(cells.get("bdfid")),
        unnamed="bdfid" in cells and read_bdf(cells["bdfid"]) is None,
        name=read_text(cells.get("name")),
        visible_id=str(index),
        total=total,
        ratio=read_share(cells.get("gpu")),
        used=read_bytes(cells.get("used"), unit=units.get("used") or "MiB") if printed else _part(total, share),
        power=read_watts(cells.get("power"), unit=units.get("power") or "W"),
        temperature=read_celsius(cells.get("hottemp") or cells.get("coretemp") or cells.get("soctemp")),
        core_clock=read_megahertz(cells.get("gclk") or cells.get("xcore")),
    )


def _part(total: int | None, share: float | None) -> int | None:
    """dmon prints memory used in whole per cent only: what that is of the total, to one per cent."""
    return int(total * share) if total is not None and share is not None and share <= 1 else None


def _listed(line: str) -> Row | None:
    """`GPU 0: MXC500 (UUID: …)`, or `GPU#0  MXC600-AL  0000:06:00.0  Available (UUID: …)`."""
    match = _LISTED.fullmatch(line)
    if match is None or "|" in line:
        return None
    said = _UUID.search(match[2])
    rest = _UUID.sub("", match[2]).strip()
    address = _ADDRESS.search(rest)
    name, state = (rest[: address.start()], rest[address.end() :]) if address else (rest, "")
    if not re.match(r"MX|MetaX", name.strip(), re.IGNORECASE):
        return None
    uuid = said[1] if said and not set(said[1]) <= set(".-") and not said[1].endswith("...") else None
    failed = re.match(r"\s*not available", state, re.IGNORECASE) is not None
    return Row(
        index=int(match[1]),
        name=name.strip() or None,
        uuid=uuid,
        unnamed=said is not None,
        bdf=read_bdf(address[0]) if address else None,
        visible_id=match[1],
        health=Health.FAILED if failed else STATES.get(state.strip().lower(), Health.UNKNOWN),
        health_code=read_text(state),
        sampled=False,
    )
