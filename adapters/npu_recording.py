"""npu-smi's recordings: which of its outputs a text holds, and all that they say together. Pure.

A log of a host may hold a table, a mapping, boards and `-t` answers of several chips; what they say of one chip is
joined by its card and number, and by its bus address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from adapters.accelerator import Accelerator, Health, Source
from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog
from adapters.cell import read_bdf, read_count
from adapters.npu_query import NO_NUMBER, SHARE_ONLY, Address, Query, read_log, read_queries, read_refusal
from adapters.npu_smi import SEMANTICS, VENDOR, Slot, add_board, has_table, parse_table, read_boards, read_mapping
from adapters.process import ProcessUse
from adapters.row import MIB, NO_NAME, NO_TIME, NO_ZONE, Row, assemble
from adapters.sample import Sample

_DATETIME = re.compile(r"^Datetime:\s*(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)", re.MULTILINE)
_CHIP = re.compile(r"\|\s*(\d{1,4})\s")
_PROCESS = re.compile(
    r"\|\s*(\d{1,4})\s+(\d{1,3})?\s*\|\s*(\d{1,10})\s*\|\s*(\S[^|]*?)\s*\|\s*(\d{1,9})\s*(?:\|.*)?\|?"
)


def parse_recording(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """What a recording holds: a table of `npu-smi info`, else a mapping, boards and `-t` answers, else a polling log.

    AdapterError when it is none of these, or a table whose header is not a known layout.
    """
    written_at, when = _logged_at(text, written_at)
    boards = read_boards(text)
    if has_table(text):
        reading = parse_table(text, written_at, catalog)
        devices = tuple(add_board(device, boards) for device in reading.devices)
        told = replace(reading, devices=devices, problems=(when, *reading.problems))
        return name_dies(told, boards)
    slots, queries = read_mapping(text), read_queries(text)
    if slots or boards or queries:
        return name_dies(_inventory(slots, boards, queries, written_at, catalog, when), boards)
    logged = read_log(text)
    if logged:
        return _logged(logged, catalog)
    if "npu_chip_info_" in text:
        raise AdapterError("npu-exporter: this page quotes some of its series; a recording holds nothing else")
    refused = read_refusal(text)
    said = f"; the tool said {refused!r}" if refused else ""
    raise AdapterError(
        "npu-smi: neither the table of `npu-smi info`, nor a mapping (`info -m`), nor a board (`-t board`), nor "
        f"readings (`-t usages`, `common`, `temp`, `power`, `health`); it begins {text[:80]!r}{said}"
    )


def _logged_at(text: str, written_at: datetime) -> tuple[datetime, str]:
    """The time a host's log begins with (`Datetime: …`, without offset), else the file's."""
    match = _DATETIME.search(text[:4096])
    if match is not None:
        try:
            return datetime.fromisoformat(f"{match[1]}T{match[2]}").replace(tzinfo=UTC), NO_ZONE
        except ValueError:
            pass
    return written_at, NO_TIME


def _inventory(
    slots: Sequence[Slot],
    boards: Sequence[Mapping[str, str]],
    queries: Mapping[Address, Query],
    at: datetime,
    catalog: Catalog,
    when: str,
) -> Reading:
    """The chips of a mapping, else of boards, else of `-t` answers, each with what the others say of it."""
    devices: dict[Address, Accelerator] = {}
    problems: list[str] = []
    for slot in slots:
        _place(devices, (slot.npu, slot.chip), _mapped(slot, boards), problems)
    for board in boards if not slots else ():
        npu = read_count(board.get("NPU ID"))
        _place(devices, (npu, read_count(board.get("Chip ID")) or 0), _boarded(board), problems)
    for address in queries:
        if address not in devices:
            _place(devices, address, _asked(address), problems)
    samples: dict[str, Sample] = {}
    for address, device in devices.items():
        query = queries.get(address)
        if query is not None:
            devices[address], samples[device.uuid] = _fill(device, query, at)
            if "hbm_share" in query.said or "ddr_share" in query.said:
                problems.append(SHARE_ONLY)
    said = () if samples else ("an inventory has no readings",)
    return Reading(
        devices=tuple(catalog.label(device) if device.model_raw else device for device in devices.values()),
        samples=tuple(samples.values()),
        problems=tuple(dict.fromkeys((*((when,) if samples else ()), *said, *problems))),
    )


def _place(devices: dict[Address, Accelerator], address: Address, device: Accelerator, problems: list[str]) -> None:
    if device.uuid in {held.uuid for held in devices.values()} or address in devices:
        problems.append(f"{device.uuid} is printed twice; only the first is listed")
        return
    devices[address] = device


def _asked(address: Address) -> Accelerator:
    npu, chip = address
    return Accelerator(
        uuid=f"{VENDOR}:npu{npu}-chip{chip}" if npu is not None else f"{VENDOR}:index:0",
        index=npu or 0,
        vendor=VENDOR,
        model_raw="",
        source=Source.CLI,
        problems=("readings alone have no bus address; the uuid is the slot's", NO_NAME)
        if npu is not None
        else (NO_NUMBER, NO_NAME),
    )


def _fill(device: Accelerator, query: Query, at: datetime) -> tuple[Accelerator, Sample]:
    readings = query.readings()
    health = readings["health"] if readings["health"] is not Health.UNKNOWN else device.health
    known = {name: readings[name] for name in ("ratio", "used", "power", "temperature")}
    told = replace(
        device,
        memory_total_bytes=device.memory_total_bytes or readings["total"],
        health=health,
        health_code=device.health_code or readings["health_code"],
    )
    ratio = known["ratio"] if known["ratio"] is not None and known["ratio"] <= 1 else None
    return told, Sample(
        uuid=device.uuid,
        at=at,
        utilisation_ratio=ratio,
        utilisation_semantics=SEMANTICS,
        memory_used_bytes=known["used"],
        power_watts=known["power"],
        temperature_celsius=known["temperature"],
        memory_bandwidth_ratio=readings["bandwidth"],
        memory_temperature_celsius=readings["memory_temperature"],
        core_clock_mhz=readings["core_clock"],
        memory_clock_mhz=readings["memory_clock"],
        ecc_corrected_total=readings["corrected"],
        ecc_uncorrected_total=readings["uncorrected"],
        health=None if health is Health.UNKNOWN else health,
        health_code=readings["health_code"],
        last_error=readings["last_error"],
    )


def _logged(logged: Sequence[tuple[int, datetime, Mapping[str, float | None]]], catalog: Catalog) -> Reading:
    """A polling log's devices, by their number alone, with a sample for each of its lines."""
    rows = [Row(index=number, sampled=False, visible_id=str(number)) for number in sorted({line[0] for line in logged})]
    reading = assemble(rows, logged[-1][1], catalog, vendor=VENDOR, semantics=SEMANTICS)
    names = {device.index: device.uuid for device in reading.devices}
    samples = tuple(
        Sample(
            uuid=names[number],
            at=at,
            power_watts=readings["power"],
            temperature_celsius=readings["temperature"],
            core_clock_mhz=readings["core_clock"],
        )
        for number, at, readings in logged
    )
    return replace(reading, samples=samples)


def _mapped(slot: Slot, boards: Sequence[Mapping[str, str]]) -> Accelerator:
    own = [board for board in boards if read_count(board.get("NPU ID")) == slot.npu]
    own = [board for board in own if read_count(board.get("Chip ID", str(slot.chip))) == slot.chip]
    bdf = next((bdf for board in own if (bdf := read_bdf(board.get("PCIe Bus Info")))), None)
    device = Accelerator(
        uuid=f"{VENDOR}:{bdf or f'npu{slot.npu}-chip{slot.chip}'}",
        index=slot.npu if slot.logic is None else slot.logic,
        vendor=VENDOR,
        model_raw=slot.name,
        pci_bdf=bdf,
        visible_id=None if slot.logic is None else str(slot.logic),
        source=Source.CLI,
        problems=() if bdf else ("a mapping has no bus address; the uuid is the slot's",),
    )
    return add_board(device, own)


def _boarded(board: Mapping[str, str]) -> Accelerator:
    npu, chip, bdf = (
        read_count(board.get("NPU ID")),
        read_count(board.get("Chip ID")),
        read_bdf(board.get("PCIe Bus Info")),
    )
    device = Accelerator(
        uuid=f"{VENDOR}:{bdf or f'npu{npu}-chip{chip or 0}'}",
        index=npu or 0,
        vendor=VENDOR,
        model_raw=board.get("Chip Name", ""),
        pci_bdf=bdf,
        source=Source.CLI,
        problems=() if board.get("Chip Name") else ("a board does not say which chip it carries",),
    )
    return add_board(device, (board,))


def name_dies(reading: Reading, boards: Sequence[Mapping[str, str]]) -> Reading:
    """The reading with each chip under its die's own number, where a board at its bus address prints one (`VDie ID`).

    DCMI gives the same number, so a chip keeps its name whether the library or the tool was asked.
    """
    dies = {
        bdf: board["VDie ID"]
        for board in boards
        if "VDie ID" in board and (bdf := read_bdf(board.get("PCIe Bus Info"))) is not None
    }
    names = {
        device.uuid: dies[device.pci_bdf] for device in reading.devices if device.pci_bdf in dies and device.pci_bdf
    }
    if len(set(names.values())) != len(names):
        return reading  # two chips would share a name
    return replace(
        reading,
        devices=tuple(
            replace(
                device,
                uuid=names.get(device.uuid, device.uuid),
                package_id=names.get(device.package_id, device.package_id) if device.package_id else None,
            )
            for device in reading.devices
        ),
        samples=tuple(replace(sample, uuid=names.get(sample.uuid, sample.uuid)) for sample in reading.samples),
    )


def read_processes(text: str, devices: Sequence[Accelerator]) -> tuple[ProcessUse, ...]:
    """The process list below the table: NPU, chip, process number, name and MB. Chips are found by their place there."""
    names: dict[tuple[int, int], str] = {}
    cards = [match for line in text.splitlines() if (match := _CHIP.match(line.strip()))]
    rows = [(int(above[1]), int(below[1])) for above, below in zip(cards[::2], cards[1::2], strict=False)]
    for address, device in zip(rows, devices, strict=False):
        names[address] = device.uuid
    found, begun = [], False
    for line in text.splitlines():
        begun = begun or {"Process", "NPU", "Chip"} <= set(line.replace("|", " ").split())
        match = _PROCESS.fullmatch(line.strip()) if begun else None
        uuid = names.get((int(match[1]), int(match[2] or 0))) if match else None
        if match is not None and uuid is not None:
            used = read_count(match[5])
            name = match[4].strip()
            found.append(
                ProcessUse(
                    uuid=uuid, pid=int(match[3]), name=name, memory_used_bytes=None if used is None else used * MIB
                )
            )
    return tuple(found)
