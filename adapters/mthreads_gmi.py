"""mthreads-gmi: what Moore Threads' tool prints. Pure.

Three forms: the JSON of `-q --json` (every value a text with its unit; keys may end in a space; the driver stands at
the top), the same as `key : value` blocks (`-q`), and the table (three lines a device under three header lines).
MiB are 2^20 bytes, power W. Sources: outputs of mthreads-gmi 1.14 to 2.4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from adapters.accelerator import Partition, PartitionKind
from adapters.adapter import AdapterError, Reading
from adapters.block import flatten, pick, read_blocks
from adapters.catalog import Catalog
from adapters.cell import read_bdf, read_count, read_text
from adapters.form import read_documents, read_hex
from adapters.process import ProcessUse
from adapters.quantity import read_bytes, read_celsius, read_megahertz, read_share, read_watts
from adapters.row import Row, assemble
from adapters.smi import read_when

VENDOR = "mthreads"
SEMANTICS = "mthreads-gmi: share of the last window in which the GPU was busy"

PATHS: Mapping[str, tuple[str, ...]] = {
    "index": ("index", "minornumber"),
    "name": ("productname", "name"),
    "uuid": ("gpuuuid", "uuid"),
    "serial": ("serialnumber",),
    "firmware": ("mtbiosversion", "biosversion"),
    "driver": ("driverversion",),
    "bdf": ("pci.busid", "busid"),
    "vendor_id": ("pci.vendorid",),
    "device_id": ("pci.deviceid",),
    "total": ("fbmemoryusage.total", "memoryusage.total", "memory.total"),
    "used": ("fbmemoryusage.used", "memoryusage.used", "memory.used"),
    "ratio": ("utilization.gpu",),
    "temperature": ("temperature.gpucurrenttemp", "temperature.gpu", "temperature.gputemp"),
    "hot": ("temperature.memorycurrenttemp", "temperature.memory"),
    "power": ("powerreadings.powerdraw", "power.powerdraw", "powerdraw"),
    "limit": ("powerreadings.currentpowerlimit", "powerreadings.powerlimit", "power.powerlimit"),
    "core_clock": ("clocks.graphics", "clocks.gpu"),
    "memory_clock": ("clocks.memory",),
    "corrected": ("eccerrors.corrected", "ecc.corrected"),
    "uncorrected": ("eccerrors.uncorrected", "ecc.uncorrected"),
}
_READINGS = ("used", "ratio", "temperature", "power", "core_clock")

_GPU = re.compile(r"\s*GPU\s*#?(\d{1,3})\s*:?\s*([0-9a-fA-F:.]{7,16})?\s*")
_ATTACHED = re.compile(r'Attached GPUs"?\s*:\s*"?(\d{1,4})')
_DRIVER = re.compile(r"Driver Version\s*:\s*(\S{1,60})")
_FIRST = re.compile(r"\s*(\d{1,4})\s+(\S.{0,60}?)\s*\|\s*([0-9a-fA-F:.]{0,16}|N/A)\s*\|\s*(\S+)\s+(.{1,60}?)\s*\|?\s*")
_PROCESS = re.compile(r"\s*(\d{1,4})\s+(\d{1,10})\s+(\S.{0,200}?)\s+(\d{1,9}\s*[KMG]i?B)\s*")


def has_queries(text: str) -> bool:
    """Whether the text holds the answer of `-q`, as JSON or in blocks."""
    return bool(_listed(text)) or bool(_blocks(text))


def has_table(text: str) -> bool:
    """Whether the text holds the table: a header with ID, PCIe and %GPU."""
    return any(_is_header(line) for line in text.splitlines())


def parse_queries(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """The devices of `mthreads-gmi -q`. AdapterError when there is none."""
    at, when = read_when(text, written_at)
    found = _listed(text) or _blocks(text)
    if not found:
        raise AdapterError(f"mthreads-gmi -q: no device; it begins {text[:80]!r}")
    rows = [_row(position, block) for position, block in enumerate(found)]
    problems = (when, *missing(text, len(rows)))
    return assemble(rows, at, catalog, vendor=VENDOR, semantics=SEMANTICS, problems=problems)


def missing(text: str, listed: int) -> tuple[str, ...]:
    """A problem when the output counts more devices than it lists."""
    match = _ATTACHED.search(text)
    if match is None or int(match[1]) <= listed:
        return ()
    return (f"the output counts {match[1]} devices and lists {listed}",)


def parse_table(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """The devices of the table. AdapterError when it has none."""
    at, when = read_when(text, written_at)
    driver = match[1] if (match := _DRIVER.search(text)) else None
    rows: list[Row] = []
    pending: Row | None = None
    begun = False
    for line in text.splitlines():
        if _is_header(line):
            begun = True
        elif begun and line.strip().startswith(("Processes", "+---", "---")):
            _keep(rows, pending)
            pending = None
            begun = not line.strip().startswith("Processes")
        elif begun and line.count("|") >= 2 and re.match(r"\s{0,3}\d", line):
            _keep(rows, pending)
            pending = _first(line, driver)
        elif begun and pending is not None and line.count("|") >= 2:
            pending = _second(line, pending, rows)
    _keep(rows, pending)
    if not rows:
        header = next((line.strip() for line in text.splitlines() if _is_header(line)), "")
        raise AdapterError(f"mthreads-gmi: the table has no device; its header is {header!r}")
    return assemble(rows, at, catalog, vendor=VENDOR, semantics=SEMANTICS, problems=(when,))


def read_processes(text: str, names: Mapping[int, str]) -> tuple[ProcessUse, ...]:
    """The table's process list. names: the uuid of each device's number."""
    _, _, listed = text.partition("Processes")
    found = []
    for line in listed.splitlines():
        match = _PROCESS.fullmatch(line)
        if match is not None and int(match[1]) in names:
            used = read_bytes(match[4])
            found.append(
                ProcessUse(uuid=names[int(match[1])], pid=int(match[2]), name=match[3], memory_used_bytes=used)
            )
    return tuple(found)


def _is_header(line: str) -> bool:
    words = line.replace("|", " ").split()
    return len(words) > 3 and words[0] == "ID" and "%GPU" in words and "PCIe" in words


def _listed(text: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for document in read_documents(text):
        above = {key: value for key, value in document.items() if key != "GPU"} if isinstance(document, dict) else {}
        gpus: Any = document.get("GPU", document.get("GPUs")) if isinstance(document, dict) else None
        shared = {key: value for key, value in flatten(above) if key == "driverversion"}
        for entry in gpus if isinstance(gpus, list) else [gpus] if isinstance(gpus, dict) else []:
            if isinstance(entry, dict):
                found.append({**shared, **dict(flatten(entry))})
    return found


def _blocks(text: str) -> list[dict[str, str]]:
    driver = {"driverversion": match[1]} if (match := _DRIVER.search(text)) else {}
    blocks = read_blocks(text, _GPU)
    named = [(match, block) for match, block in blocks if any(path in block for path in PATHS["name"])]
    if not named or (
        "mthreads" not in text.lower() and not any("MTT" in " ".join(block.values()) for _, block in named)
    ):
        return []
    return [{**driver, "index": match[1], "busid": match[2] or "", **block} for match, block in named]


def _row(position: int, block: Mapping[str, str]) -> Row:
    def said(what: str) -> str | None:
        return pick(block, PATHS[what])

    index = read_count(said("index"))
    index = position if index is None else index
    return Row(
        index=index,
        name=said("name"),
        uuid=said("uuid"),
        unnamed=True,
        bdf=read_bdf(said("bdf")),
        serial=said("serial"),
        driver=said("driver"),
        firmware=said("firmware"),
        pci_vendor_id=read_hex(said("vendor_id")),
        pci_device_id=read_hex(said("device_id")),
        visible_id=str(index),
        total=read_bytes(said("total")),
        limit=read_watts(said("limit")),
        sampled=any(path in block for what in _READINGS for path in PATHS[what]),
        ratio=read_share(said("ratio")),
        used=read_bytes(said("used")),
        power=read_watts(said("power")),
        temperature=read_celsius(said("temperature")),
        memory_temperature=read_celsius(said("hot")),
        core_clock=read_megahertz(said("core_clock")),
        memory_clock=read_megahertz(said("memory_clock")),
        corrected=read_count(said("corrected")),
        uncorrected=read_count(said("uncorrected")),
    )


def _first(line: str, driver: str | None) -> Row:
    match = _FIRST.fullmatch(line)
    number = re.match(r"\s*(\d{1,4})\b", line)
    index = int(number[1]) if number else 0
    if match is None:
        return Row(index=index, driver=driver, problems=(f"cannot be read: {line.strip()[:120]!r}",))
    used, _, total = match[5].partition("(")
    return Row(
        index=index,
        name=read_text(match[2]),
        bdf=read_bdf(match[3]),
        unnamed=read_bdf(match[3]) is None,
        driver=driver,
        visible_id=str(index),
        total=read_bytes(total.rstrip(") ")),
        ratio=read_share(match[4]),
        used=read_bytes(used),
    )


def _second(line: str, row: Row, rows: list[Row]) -> Row:
    """The line below a device's first: its kind, and its temperature before the MPC mark."""
    cells = line.split("|")
    words = cells[2].split()
    kind = re.match(r"\s*(Physical|MPC Parent|MPC Instance|Virtual|SRIOV \w+)", cells[0])
    if row.temperature is None and words and read_celsius(words[0]) is not None:
        row = replace(row, temperature=read_celsius(words[0]))
    if kind is not None and kind[1] == "MPC Instance" and row.partition is None and rows:
        parent = rows[-1].partition.parent_uuid if rows[-1].partition else rows[-1].uuid or f"{VENDOR}:{rows[-1].bdf}"
        name = f"{parent}/mpc/{row.index}"
        row = replace(row, uuid=name, partition=Partition(kind=PartitionKind.SGPU, parent_uuid=parent))
    return row


def _keep(rows: list[Row], row: Row | None) -> None:
    if row is not None:
        rows.append(row)
