"""gpustack's detector: the one JSON form in which it prints every vendor's devices. Pure.

A list of devices with `manufacturer`, `index`, `name`, `uuid`; memory in MiB, power in W, temperature in °C, use in
per cent; `appendix` holds the bus address, and what a vendor adds. A split NVIDIA or T-Head device stands there
without a name and carries its parts in `appendix.mig_devices`. Its topology form lists distances and no devices, and
is refused. Source: gpustack/runtime, detector samples of 2026-08.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from adapters.accelerator import Health, Partition, PartitionKind
from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog
from adapters.cell import read_bdf, read_text
from adapters.row import MIB, NO_TIME, Row, assemble, name_device

# The detector's own verdict on a device's memory; `unhealthy` counts uncorrectable errors, and jobs may still run.
HEALTH = {"healthy": Health.OK, "unhealthy": Health.DEGRADED}
# Whose processes are confined by uuid, because their runtimes and libraries count devices differently.
BY_UUID = frozenset({"nvidia", "thead", "iluvatar"})
LARGEST = 1 << 53  # beyond it JSON numbers are no longer exact
SPLIT = "the device is split; its parts are listed, and it has no name or memory of its own here"


def is_detected(text: str) -> bool:
    """Whether the text is gpustack's JSON: of devices, or of their topology (which `parse_detected` refuses)."""
    return any(isinstance(entry.get("manufacturer"), str) for entry in _entries(text))


def parse_detected(text: str, written_at: datetime, catalog: Catalog, vendor: str) -> Reading:
    """This vendor's devices in a detector's output, parts of split devices after the device they are of.

    AdapterError when it is not the detector's JSON, is its topology, or names no device of this vendor.
    """
    entries = [entry for entry in _entries(text) if isinstance(entry.get("manufacturer"), str)]
    if not entries:
        raise AdapterError(f"gpustack detector: no JSON list of devices with a manufacturer; it begins {text[:80]!r}")
    if any("devices_distances" in entry for entry in entries):
        raise AdapterError("gpustack detector: this is its topology, which lists distances between devices, no devices")
    makers = sorted({str(entry["manufacturer"]) for entry in entries})
    own = [entry for entry in entries if entry["manufacturer"] == vendor]
    if not own:
        raise AdapterError(f"gpustack detector: no {vendor} device; the devices are of {', '.join(makers)[:80]}")
    others = [f"devices of {maker} are in the file and not listed" for maker in makers if maker != vendor]
    rows = _packaged([row for position, entry in enumerate(own) for row in _rows(entry, position, vendor)], own, vendor)
    return assemble(
        rows,
        written_at,
        catalog,
        vendor=vendor,
        semantics=f"gpustack cores_utilization, as {vendor}'s library counts it",
        problems=(NO_TIME, *others),
    )


def _entries(text: str) -> list[Mapping[str, Any]]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if isinstance(document, dict):
        held = document.get("devices")
        document = held if isinstance(held, list) else [document]
    return [entry for entry in document if isinstance(entry, dict)] if isinstance(document, list) else []


def _rows(entry: Mapping[str, Any], position: int, vendor: str) -> Iterator[Row]:
    appendix = _appendix(entry)
    parts = appendix.get("mig_devices")
    parts = [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    row = _row(entry, position, vendor)
    if parts:
        row = replace(row, problems=(*row.problems, SPLIT), unnamed=False, visible_id=None)
    yield row
    for number, part in enumerate(parts):
        # The detector repeats the board's power on each part: counted there, it would count several times.
        held = _row(part, number, vendor)
        parent = name_device(vendor, row)
        yield replace(
            held,
            uuid=held.uuid or f"{parent}:part:{held.index}",
            name=held.name,
            power=None,
            limit=None,
            partition=Partition(kind=PartitionKind.MIG, parent_uuid=parent, profile=held.name),
        )


def _row(entry: Mapping[str, Any], position: int, vendor: str) -> Row:
    appendix = _appendix(entry)
    index, uuid = _count(entry.get("index")), _string(entry.get("uuid"))
    index = position if index is None else index
    status = _string(entry.get("memory_status"))
    share = _number(entry.get("cores_utilization"))
    return Row(
        index=index,
        name=_string(entry.get("name")),
        uuid=uuid,
        unnamed=True,
        bdf=read_bdf(_string(appendix.get("bdf"))),
        serial=_string(appendix.get("serial")),
        driver=_string(entry.get("driver_version")),
        numa_node=_node(appendix.get("numa")),
        visible_id=uuid if vendor in BY_UUID else str(index),
        total=_mib(entry.get("memory")),
        limit=_number(entry.get("power")),
        health=HEALTH.get((status or "").lower(), Health.UNKNOWN),
        health_code=status,
        ratio=None if share is None else share / 100,
        used=_mib(entry.get("memory_used")),
        power=_number(entry.get("power_used")),
        temperature=_number(entry.get("temperature")),
    )


def _packaged(rows: Sequence[Row], entries: Sequence[Mapping[str, Any]], vendor: str) -> list[Row]:
    """Dies of one card (Ascend: `device_id_max` above 0) share the name of the card's first die."""
    cards: dict[tuple[int, str | None], str] = {}
    by_uuid = {
        str(entry.get("uuid")): card
        for entry in entries
        if _count(_appendix(entry).get("device_id_max"))
        and (card := _count(_appendix(entry).get("card_id"))) is not None
    }
    found = []
    for row in rows:
        card = by_uuid.get(row.uuid or "")
        if card is not None:
            row = replace(row, package_id=cards.setdefault((card, row.bdf), name_device(vendor, row)))
        found.append(row)
    return found


def _appendix(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    held = entry.get("appendix")
    return held if isinstance(held, dict) else {}


def _string(value: Any) -> str | None:
    return read_text(value) if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST:
        return None
    return float(value) if math.isfinite(value) else None


def _count(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number == int(number) else None


def _mib(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number * MIB)


def _node(value: Any) -> int | None:
    """One node's number; a range (`0-1`) is no single node."""
    text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None
