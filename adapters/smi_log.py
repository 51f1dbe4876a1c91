"""smi log: what `-q` prints of nvidia-smi and the tools made after it, as XML (`-q -x`) and as text. Pure.

Seen of nvidia-smi 384 to 595. The text log has the XML's sections under titles of their own; both are made one map of
paths, and the same reader takes it. Where drivers print a quantity under several names, the newest stands first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from xml.etree import ElementTree

from adapters.accelerator import Health
from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog
from adapters.cell import read_bdf, read_count
from adapters.process import ProcessUse
from adapters.quantity import read_bytes, read_celsius, read_megahertz, read_share, read_watts
from adapters.row import Row, name_device
from adapters.smi import (
    MIG_ON,
    Dialect,
    assemble_split,
    judge_health,
    part_row,
    read_fault,
    read_flag,
    read_said,
    read_serial,
    read_when,
    unreached,
)

Find = Callable[[str], str | None]
ROOT = re.compile(r"<([A-Za-z_]{2,30}_log)\b")

POWER_DRAW = (
    *("gpu_power_readings/instant_power_draw", "gpu_power_readings/power_draw"),
    *("gpu_power_readings/average_power_draw", "power_readings/power_draw"),
)
POWER_LIMIT = (
    *("gpu_power_readings/current_power_limit", "gpu_power_readings/enforced_power_limit"),
    *("power_readings/enforced_power_limit", "power_readings/power_limit"),
)
TEMPERATURE = ("temperature/gpu_temp", "temperature/gpu_current_temp")
MEMORY_TEMPERATURE = ("temperature/memory_temp", "temperature/memory_current_temp")
TOTAL = ("fb_memory_usage/total", "memory_usage/total", "global_memory_usage/total")
USED = ("fb_memory_usage/used", "memory_usage/used", "global_memory_usage/used")
SERIAL = ("serial", "serial_number")
UUID = ("uuid", "gpu_uuid")
REASONS = ("clocks_event_reasons", "clocks_throttle_reasons")
IDLE = "gpu_idle"  # a device at rest is not held down
UNCORRECTABLE = (
    *("sram_uncorrectable", "dram_uncorrectable"),
    *("sram_uncorrectable_parity", "sram_uncorrectable_secded"),
)
CORRECTABLE = ("sram_correctable", "dram_correctable")
OLD_ECC = {"corrected": "single_bit/total", "uncorrected": "double_bit/total"}  # drivers before 440


def is_xml(text: str) -> bool:
    return ROOT.search(text[:4000]) is not None or text.lstrip().startswith("<?xml")


def is_log(text: str, dialect: Dialect) -> bool:
    """Whether the text is the text log: a device's line, and titled values under it."""
    return _block_head(dialect).search(text) is not None and re.search(r"^\s+Product Name\s*:", text, re.M) is not None


def parse_xml(text: str, written_at: datetime, catalog: Catalog, dialect: Dialect) -> Reading:
    """What one `-q -x` says. Entity declarations and internal subsets are refused unread."""
    root = _root(text, dialect)
    driver = read_said(root.findtext("driver_version"))
    rows: list[Row] = []
    parts: list[Row] = []
    for position, gpu in enumerate(root.findall("gpu")):
        row = _row(_finder(gpu), position, driver, dialect, gpu.get("id"))
        rows.append(row)
        for number, device in enumerate(gpu.iterfind("mig_devices/mig_device")):
            parts.append(_part(_finder(device), number, row, dialect))
    if not rows:
        raise AdapterError(f"{dialect.tool} XML: no device in <{root.tag}>")
    at, when = read_when(root.findtext("timestamp") or "", written_at)
    return assemble_split([*rows, *parts], at, catalog, dialect, when)


def read_processes(text: str, dialect: Dialect) -> tuple[ProcessUse, ...]:
    """The processes that an XML log lists, each under its device."""
    found = []
    for position, gpu in enumerate(_root(text, dialect).findall("gpu")):
        uuid = name_device(dialect.vendor, _row(_finder(gpu), position, None, dialect, gpu.get("id")))
        for info in gpu.iterfind("processes/process_info"):
            pid = read_count(info.findtext("pid"))
            if pid is not None:
                found.append(
                    ProcessUse(
                        uuid=uuid,
                        pid=pid,
                        name=read_said(info.findtext("process_name")),
                        memory_used_bytes=read_bytes(info.findtext("used_memory")),
                    )
                )
    return tuple(found)


def parse_log(text: str, written_at: datetime, catalog: Catalog, dialect: Dialect) -> Reading:
    """What one `-q` says, without `-x`."""
    rows: list[Row] = []
    driver = next((line.split(":", 1)[1] for line in text.splitlines() if line.startswith("Driver Version")), None)
    for position, (bus, held) in enumerate(_blocks(text, dialect)):
        rows.append(_row(held.get, position, read_said(driver), dialect, bus))
    at, when = read_when(text, written_at)
    return assemble_split([*rows, *unreached(text, rows)], at, catalog, dialect, when)


def _root(text: str, dialect: Dialect) -> ElementTree.Element:
    opened = ROOT.search(text)
    head = text[: opened.start() + 1] if opened else text[:2000]
    if "<!ENTITY" in text or "[" in head:
        raise AdapterError(f"{dialect.tool} XML: declares entities or a DTD of its own; a real log does neither")
    body = text[max(head.find("<"), 0) :] if opened else text
    if opened and (end := body.rfind(f"</{opened[1]}>")) > 0:
        body = body[: end + len(opened[1]) + 3]  # what a shell printed after the log is none of it
    try:
        root = ElementTree.fromstring(body)  # noqa: S314  entities are refused above, the size by the caller
    except ElementTree.ParseError as error:
        raise AdapterError(f"{dialect.tool} XML: {error}; it begins {text[:80]!r}") from error
    if not root.tag.endswith("_log"):
        raise AdapterError(f"{dialect.tool} XML: the root is <{root.tag[:60]}>, not <nvidia_smi_log> or its like")
    if dialect.unit != "gpu":
        for element in root.iter():
            element.tag = _plain(element.tag, dialect)
    return root


def _plain(name: str, dialect: Dialect) -> str:
    """The name with NVIDIA's word for a device in place of this vendor's."""
    return re.sub(rf"(?<![a-z]){dialect.unit}(?![a-z])", "gpu", name.lower())


def _finder(element: ElementTree.Element) -> Find:
    return lambda path: element.findtext(path)


def _row(find: Find, position: int, driver: str | None, dialect: Dialect, bus: str | None) -> Row:
    def first(paths: Sequence[str]) -> str | None:
        return next((text for path in paths if (text := read_said(find(path)))), None)

    uuid = first(UUID)
    fault = read_fault(
        *(find(path) for path in ("product_name", "uuid", *POWER_DRAW, *TEMPERATURE, *USED, "utilization/gpu_util"))
    )
    action = read_said(find("gpu_recovery_action"))
    health = judge_health(
        failed=read_flag(first(("remapped_rows/remapped_row_failure", "remapped_rows/remapping_failure_occurred"))),
        waiting=read_flag(
            first(("remapped_rows/remapped_row_pending", "remapped_rows/pending", "retired_pages/pending_retirement"))
        ),
    )
    vendor_id, device_id = _pci(first(("pci/pci_device_id", "pci/device_id")))
    split = (find("mig_mode/current_mig") or find("mig_mode/current") or "").strip() == "Enabled"
    return Row(
        index=position,  # `-q` prints devices in the library's order; minor_number is another count
        uuid=uuid,
        unnamed=True,
        bdf=read_bdf(find("pci/pci_bus_id") or find("pci/bus_id") or bus),
        name=first(("product_name",)),
        serial=read_serial(first(SERIAL)),
        driver=driver,
        firmware=first(("vbios_version",)),
        pci_vendor_id=vendor_id,
        pci_device_id=device_id,
        visible_id=uuid if dialect.by_uuid else str(position),
        total=read_bytes(first(TOTAL)),
        used=read_bytes(first(USED)),
        limit=read_watts(first(POWER_LIMIT)),
        health=Health.FAILED if fault else health,
        health_code=fault or action,
        raw_error=fault,
        problems=(MIG_ON,) if split else (),
        ratio=read_share(first(("utilization/gpu_util", "utilization/gpu"))),
        bandwidth=read_share(first(("utilization/memory_util", "utilization/memory"))),
        power=read_watts(first(POWER_DRAW)),
        temperature=read_celsius(first(TEMPERATURE)),
        memory_temperature=read_celsius(first(MEMORY_TEMPERATURE)),
        core_clock=read_megahertz(first(("clocks/sm_clock", "clocks/sm", "clocks/graphics_clock"))),
        memory_clock=read_megahertz(first(("clocks/mem_clock", "clocks/memory"))),
        corrected=_errors(find, CORRECTABLE, OLD_ECC["corrected"]),
        uncorrected=_errors(find, UNCORRECTABLE, OLD_ECC["uncorrected"]),
        retired=_retired(find),
        throttled=_reasons(find),
    )


def _pci(cell: str | None) -> tuple[int | None, int | None]:
    """`0x27B010DE` is device and vendor."""
    match = re.fullmatch(r"(?:0x)?([0-9a-fA-F]{4})([0-9a-fA-F]{4})", cell or "")
    return (int(match[2], 16), int(match[1], 16)) if match else (None, None)


def _errors(find: Find, names: Sequence[str], old: str) -> int | None:
    counted = [read_count(find(f"ecc_errors/aggregate/{name}")) for name in names]
    known = [count for count in counted if count is not None]
    return sum(known) if known else read_count(find(f"ecc_errors/aggregate/{old}"))


def _retired(find: Find) -> int | None:
    """Rows remapped where the chip remaps rows, else pages retired; both are memory taken out of use."""
    rows = [read_count(find(f"remapped_rows/remapped_row_{kind}")) for kind in ("corr", "unc")]
    pages = [
        read_count(find(f"retired_pages/{kind}/retired_count"))
        for kind in ("multiple_single_bit_retirement", "double_bit_retirement")
    ]
    for counts in (rows, pages):
        known = [count for count in counts if count is not None]
        if known:
            return sum(known)
    return None


NAMES = (
    *("gpu_idle", "applications_clocks_setting", "sw_power_cap", "hw_slowdown", "hw_thermal_slowdown"),
    *("hw_power_brake_slowdown", "sync_boost", "sw_thermal_slowdown", "display_clocks_setting"),
)


def _reasons(find: Find) -> tuple[str, ...] | None:
    for section in REASONS:
        said = {name: find(f"{section}/{section[:-1]}_{name}") or find(f"{section}/{name}") for name in NAMES}
        known = {name: word.strip() for name, word in said.items() if word and word.strip() in ("Active", "Not Active")}
        if known:
            return tuple(name for name, word in known.items() if word == "Active" and name != IDLE)
    return None


def _part(find: Find, number: int, parent: Row, dialect: Dialect) -> Row:
    index = read_count(find("index"))
    return part_row(
        dialect,
        parent,
        index=number if index is None else index,
        uuid=read_said(find("uuid")),
        profile=None,
        gpu_instance=read_count(find("gpu_instance_id")),
        compute_instance=read_count(find("compute_instance_id")),
        total=read_bytes(find("fb_memory_usage/total")),
        used=read_bytes(find("fb_memory_usage/used")),
        uncorrected=read_count(find("ecc_error_count/volatile_count/sram_uncorrectable")),
    )


def _block_head(dialect: Dialect) -> re.Pattern[str]:
    return re.compile(rf"^(?:GPU|{dialect.unit.upper()}) ([0-9A-Fa-f]{{4,8}}:[0-9A-Fa-f:.]{{4,12}})\s*$", re.M)


def _blocks(text: str, dialect: Dialect) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Each device's bus address, and its values under paths made of titles in the XML's spelling."""
    pieces = _block_head(dialect).split(text)
    for bus, body in zip(pieces[1::2], pieces[2::2], strict=True):
        held: dict[str, str] = {}
        stack: list[tuple[int, str]] = []
        for line in body.splitlines():
            if not line.strip():
                continue
            depth = len(line) - len(line.lstrip())
            if depth == 0:
                break
            while stack and stack[-1][0] >= depth:
                stack.pop()
            title, mark, value = line.strip().partition(":")
            name = re.sub(r"[^a-z0-9]+", "_", _plain(title.strip(), dialect)).strip("_")
            path = "/".join([*(above for _, above in stack), name])
            if mark and value.strip():
                held.setdefault(path, value.strip())
            else:
                stack.append((depth, name))
        yield bus, held
