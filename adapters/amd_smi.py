"""amd-smi: what its JSON says. Pure.

`amd-smi list|static|metric|monitor|process|partition --json` print lists of objects with the member `gpu`; since ROCm 7
static and metric wrap them in `gpu_data`. A reading is `{"value": 71, "unit": "W"}`, a bare number, or "N/A". One
recording may hold the answers of several commands, and they are joined by `gpu`. MB are MiB there (an MI300X prints
196592). Sources: outputs of amd-smi 24.5 to 26.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from adapters.accelerator import Partition, PartitionKind
from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog
from adapters.cell import read_bdf, read_count, read_text
from adapters.form import as_text, read_documents, read_hex
from adapters.link import Link, Nearness
from adapters.process import ProcessUse
from adapters.quantity import read_bytes, read_celsius, read_megahertz, read_share, read_watts
from adapters.row import NO_TIME, Row, assemble, name_device

VENDOR = "amd"
SEMANTICS = "AMD SMI gfx_activity: share of the last window in which the graphics engine was busy"

Gpu = dict[str, Any]

# Where versions put the same reading; the preferred first. The unit is that of a bare number.
PATHS: Mapping[str, tuple[str, ...]] = {
    "name": ("asic.market_name", "board.product_name", "market_name", "name"),
    "uuid": ("uuid", "asic.uuid"),
    "bdf": ("bus.bdf", "bdf"),
    "serial": ("board.product_serial", "asic.asic_serial"),
    "driver": ("driver.version", "driver.driver_version", "driver_version"),
    "firmware": ("vbios.version", "ifwi.version", "vbios.part_number"),
    "vendor_id": ("asic.vendor_id",),
    "device_id": ("asic.device_id",),
    "numa": ("numa.node", "node_id"),
    "total": ("mem_usage.total_vram", "vram.size", "vram.vram_size", "vram_total", "vram_usage.vram_total"),
    "used": ("mem_usage.used_vram", "vram_used", "vram_usage.vram_used"),
    "ratio": ("usage.gfx_activity", "gfx"),
    "bandwidth": ("usage.umc_activity", "mem"),
    "power": ("power.socket_power", "power.current_socket_power", "power.average_socket_power", "power_usage"),
    "limit": (
        *("limit.socket_power", "limit.ppt0.socket_power_limit", "limit.current_power", "limit.max_power"),
        *("limit.ppt0.max_power_limit", "max_power"),
    ),
    "energy": ("energy.total_energy_consumption",),
    "temperature": ("temperature.edge", "temperature.hotspot", "hotspot_temperature"),
    "hot": ("temperature.mem", "memory_temperature"),
    "core_clock": ("clock.gfx_0.clk", "clock.gfx.clk", "gfx_clk", "gfx_clock"),
    "memory_clock": ("clock.mem_0.clk", "clock.mem.clk", "mem_clk", "mem_clock"),
    "corrected": ("ecc.total_correctable_count", "ecc.total_correctable"),
    "uncorrected": ("ecc.total_uncorrectable_count", "ecc.total_uncorrectable"),
    "throttled": ("power.throttle_status", "throttle_status"),
}
_READINGS = ("used", "ratio", "power", "energy", "temperature", "core_clock", "corrected", "throttled")
_JOULES = {"j": 1.0, "mj": 0.001, "uj": 0.000001, "kj": 1000.0}


def fits(text: str) -> bool:
    """Whether the text holds amd-smi's JSON."""
    return bool(_gpus(text))


def parse(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """The devices that the answers name, joined by their number. AdapterError when there is none."""
    gpus = _gpus(text)
    if not gpus:
        raise AdapterError(f"amd-smi: no JSON list of devices with a member `gpu`; it begins {text[:80]!r}")
    rows = [_row(number, gpu) for number, gpu in sorted(gpus.items())]
    return assemble(_parts(rows, gpus), written_at, catalog, vendor=VENDOR, semantics=SEMANTICS, problems=(NO_TIME,))


def read_processes(text: str) -> tuple[ProcessUse, ...]:
    """What `amd-smi process --json` says, each process under its device's name; () when it says nothing."""
    found = []
    for number, gpu in sorted(_gpus(text).items()):
        uuid = name_device(VENDOR, _row(number, gpu))
        listed = gpu.get("process_list")
        for entry in listed if isinstance(listed, list) else ():
            info = entry.get("process_info") if isinstance(entry, dict) else None
            pid = read_count(as_text(info.get("pid"))) if isinstance(info, dict) else None
            if not isinstance(info, dict) or pid is None:
                continue
            used = _said(info, ("memory_usage.vram_mem", "vram_mem", "mem_usage", "mem"))
            name = read_text(as_text(info.get("name")))
            found.append(ProcessUse(uuid=uuid, pid=pid, name=name, memory_used_bytes=read_bytes(used, unit="B")))
    return tuple(found)


def read_links(text: str) -> tuple[Link, ...]:
    """What `amd-smi topology --json` says of each pair of devices; () when it says nothing."""
    gpus = _gpus(text)
    names = {gpu_bdf: name_device(VENDOR, _row(number, gpu)) for number, gpu in gpus.items() if (gpu_bdf := _bdf(gpu))}
    found: dict[tuple[str, str], Link] = {}
    for gpu in gpus.values():
        mine, listed = _bdf(gpu), gpu.get("links")
        for entry in listed if isinstance(listed, list) and mine else ():
            other = read_bdf(as_text(entry.get("bdf"))) if isinstance(entry, dict) else None
            if other is None or other not in names or other == mine or mine is None:
                continue
            first, second = sorted((names[mine], names[other]))
            found[first, second] = _link(first, second, str(entry.get("link_type", "")).upper(), entry)
    return tuple(found[pair] for pair in sorted(found))


def _link(first: str, second: str, kind: str, entry: Mapping[str, Any]) -> Link:
    if kind != "XGMI":
        return Link(a_uuid=first, b_uuid=second, nearness=Nearness.UNKNOWN)
    return Link(
        a_uuid=first,
        b_uuid=second,
        nearness=Nearness.FABRIC,
        fabric="xgmi",
        count=read_count(as_text(entry.get("num_hops"))) if entry.get("num_hops") == 1 else None,
    )


def _gpus(text: str) -> dict[int, Gpu]:
    """The members of every answer by the device's number, joined; the first answer to a member stands."""
    found: dict[int, Gpu] = {}
    for entry in _entries(read_documents(text)):
        number = read_count(as_text(entry.get("gpu")))
        if number is not None:
            _join(found.setdefault(number, {}), entry)
    return found


def _entries(documents: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    for document in documents:
        if isinstance(document, list):
            yield from (entry for entry in document if isinstance(entry, dict) and "gpu" in entry)
        elif isinstance(document, dict):
            if "gpu" in document:
                yield document
            yield from _entries([member for member in document.values() if isinstance(member, list | dict)][:16])


def _join(held: Gpu, entry: Mapping[str, Any]) -> None:
    for key, value in entry.items():
        if isinstance(value, dict) and isinstance(held.get(key), dict):
            held[key] = {**value, **held[key]}
        else:
            held.setdefault(key, value)


def _said(gpu: Mapping[str, Any], paths: Sequence[str]) -> str | None:
    """The first reading at one of the paths as printed text with its unit; None when all are blank."""
    for path in paths:
        value: Any = gpu
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        unit = ""
        if isinstance(value, dict):
            unit, value = as_text(value.get("unit")) or "", value.get("value")
        said = read_text(as_text(value))
        if said is not None:
            return f"{said} {unit}".strip()
    return None


def _bdf(gpu: Mapping[str, Any]) -> str | None:
    return read_bdf(_said(gpu, PATHS["bdf"]))


def _row(number: int, gpu: Gpu) -> Row:
    def said(what: str) -> str | None:
        return _said(gpu, PATHS[what])

    serial = said("serial")
    held = any(_present(gpu, path) for what in _READINGS for path in PATHS[what])
    return Row(
        index=number,
        name=said("name"),
        uuid=said("uuid"),
        unnamed="uuid" in gpu,
        bdf=_bdf(gpu),
        serial=serial if serial and serial.lower().removeprefix("0x").strip("0") else None,
        driver=said("driver"),
        firmware=said("firmware"),
        pci_vendor_id=read_hex(said("vendor_id")),
        pci_device_id=read_hex(said("device_id")),
        numa_node=read_count(said("numa")),
        visible_id=str(number),
        total=read_bytes(said("total"), unit="MB"),
        limit=read_watts(said("limit")),
        sampled=held,
        ratio=read_share(said("ratio")),
        used=read_bytes(said("used"), unit="MB"),
        power=read_watts(said("power")),
        energy=_joules(said("energy")),
        temperature=read_celsius(said("temperature")),
        bandwidth=read_share(said("bandwidth")),
        memory_temperature=read_celsius(said("hot")),
        core_clock=read_megahertz(said("core_clock")),
        memory_clock=read_megahertz(said("memory_clock")),
        corrected=read_count(said("corrected")),
        uncorrected=read_count(said("uncorrected")),
        throttled=_throttled(said("throttled")),
    )


def _present(gpu: Mapping[str, Any], path: str) -> bool:
    value: Any = gpu
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name]
    return True


def _parts(rows: Sequence[Row], gpus: Mapping[int, Gpu]) -> list[Row]:
    """A split device (CPX, DPX) is listed once a part, one bus function each: those after part 0 are parts of it."""
    first = {_slot(row): row for row in rows if row.bdf and read_count(_said(gpus[row.index], ("partition_id",))) == 0}
    found = []
    for row in rows:
        parent = first.get(_slot(row))
        if parent is not None and parent is not row and read_count(_said(gpus[row.index], ("partition_id",))):
            profile = _said(gpus[row.index], ("partition.accelerator_partition", "partition.compute_partition"))
            uuid = name_device(VENDOR, parent)
            row = replace(
                row,
                partition=Partition(kind=PartitionKind.VGPU, parent_uuid=uuid, profile=profile),
                power=None,
                limit=None,
            )
        found.append(row)
    return found


def _slot(row: Row) -> str:
    return (row.bdf or "").partition(".")[0]


def _throttled(said: str | None) -> tuple[str, ...] | None:
    if said is None:
        return None
    return () if said.upper() in ("UNTHROTTLED", "NOT THROTTLED", "FALSE") else (said,)


def _joules(said: str | None) -> float | None:
    words = (said or "").split()
    try:
        value = float(words[0]) if words else -1.0
    except ValueError:
        return None
    factor = _JOULES.get(words[1].lower() if len(words) > 1 else "j")
    return value * factor if factor is not None and 0 <= value < float("inf") else None
