"""efsmi of Enflame, and gcu-exporter: what their recorded outputs say. Pure.

Seen of drivers 1.2 to 1.7 and of V1.20 with the T20: the table (two lines a device, cells cut at `|`, borders of `|` or
`*`, one label line saying whether the last cell is a serial number or a uuid), `-q` (titles and values), and `--dmon`
(columns by name). Memory MiB, power W, temperature °C. With ECC on, the driver gives less memory than was sold: it is
passed on as it is. The exporter (v1.7 of its manual): bytes, W, °C, %, health 2 healthy, 1 RMA due, 0 unknown; its
`power_usage` is a percentage of the capability and not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone

from adapters.accelerator import Health
from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog
from adapters.cell import read_bdf, read_count, read_text
from adapters.exposition import Meter, exposition_time, gather, read_exposition
from adapters.gpustack import is_detected, parse_detected
from adapters.quantity import read_bytes, read_celsius, read_megahertz, read_share, read_watts
from adapters.row import NO_TIME, NO_ZONE, Row, assemble
from adapters.smi_output import refuse_other_json, show_head

VENDOR = "enflame"
SEMANTICS = "efsmi: share of the last window in which the GCU worked"
# gcu-exporter's manual: unhealthy means that the RMA flag is set; the card must be exchanged.
HEALTH = {0: Health.UNKNOWN, 1: Health.FAILED, 2: Health.OK}
RMA = "the tool says that the card is due for exchange (RMA)"

_BUS = re.compile(r"(?<![0-9A-Fa-f:])(?:([0-9A-Fa-f]{1,8}):)?([0-9A-Fa-f]{2}):([0-9A-Fa-f]{1,2})\.([0-7])(?![0-9])")
_FIRST = re.compile(r"(\d{1,4})\s+(\S.{0,80})")
_TAIL = re.compile(r"(\S+?)\s*%\s*(\S+)?|(N/?A|-)\s+(\S+)", re.I)
_WHEN = re.compile(r"(\d{4}-\d\d-\d\d),? (\d\d:\d\d:\d\d)(?: (CST|UTC|GMT))?")
_DRIVER = re.compile(r"Driver Ver(?:sion)?\s*:\s*([^\s|*]+)")
_BLOCK = re.compile(r"^\s*DEV ID\s+(\d{1,4})\s*$", re.M)
ZONES = {"CST": timezone(timedelta(hours=8)), "UTC": timezone(timedelta()), "GMT": timezone(timedelta())}


def parse_recording(text: str, written_at: datetime, catalog: Catalog) -> Reading:
    """The Reading of a recorded output. AdapterError, which shows how it begins, when it is none of the known."""
    if is_detected(text):
        return parse_detected(text, written_at, catalog, VENDOR)
    refuse_other_json(text, "efsmi")
    at, when = _when(text, written_at)
    if any(line.startswith("enflame_") for line in text.splitlines()):
        taken = exposition_time(text)
        return _reading(_exporter(text), taken or written_at, catalog, "" if taken else NO_TIME)
    lines = text.splitlines()
    rows = _queried(text) or _table(lines)
    if rows:
        return _reading(rows, at, catalog, when)
    rows = _monitored(lines)
    if rows:
        return _reading(rows, at, catalog, when)
    header = next((line.strip() for line in lines if "DEV" in line and "NAME" in line), None)
    if header is not None:
        raise AdapterError(f"efsmi: the table has no device rows that can be read; its header is {header[:120]!r}")
    raise AdapterError(
        "efsmi: neither its table, `-q`, `--dmon` with its header, nor gcu-exporter's series; "
        f"it begins {show_head(text)!r}"
    )


def _reading(rows: Sequence[Row], at: datetime, catalog: Catalog, *problems: str) -> Reading:
    return assemble(rows, at, catalog, vendor=VENDOR, semantics=SEMANTICS, problems=problems)


def _when(text: str, written_at: datetime) -> tuple[datetime, str]:
    """The time in the table's upper border, in the zone it names: CST is China's on these hosts."""
    found = _WHEN.search(text)
    if found is None:
        return written_at, NO_TIME
    try:
        read = datetime.fromisoformat(f"{found[1]}T{found[2]}")
    except ValueError:
        return written_at, NO_TIME
    return read.replace(tzinfo=ZONES.get(found[3] or "UTC")).astimezone(ZONES["UTC"]), "" if found[3] else NO_ZONE


def _cells(line: str) -> list[str]:
    body = line.strip()
    if not body.startswith(("|", "*")):
        return []
    return [cell.strip() for cell in body.strip("|*").split("|")]


def _table(lines: Sequence[str]) -> list[Row]:
    driver = next((match[1] for line in lines if (match := _DRIVER.search(line))), None)
    uuid = any("DEV-Util" in line and "UUID" in line for line in lines)
    found: list[Row] = []
    for place, line in enumerate(lines):
        above = _cells(line)
        head = _FIRST.fullmatch(above[0]) if len(above) >= 3 else None
        if head is None or "%" in above[-1]:
            continue
        below = _cells(lines[place + 1]) if place + 1 < len(lines) else []
        if len(below) < 3 or (_FIRST.fullmatch(below[0]) and _BUS.search(below[-1])):
            below = []
        found.append(_table_row(head, above, below, driver, uuid=uuid))
    return found


def _table_row(
    head: re.Match[str], above: Sequence[str], below: Sequence[str], driver: str | None, *, uuid: bool
) -> Row:
    index = int(head[1])
    tail = _TAIL.search(below[2]) if below else None
    named = read_text((tail[2] or tail[4]) if tail else None)
    temperature, power, limit = _state(below[0] if below else "")
    used, total = _memory(below[1] if below else "")
    bdf = _bdf(above[2])
    return Row(
        index=index,
        name=read_text(head[2]),
        uuid=named if uuid else None,
        serial=named,
        bdf=bdf,
        driver=driver,
        firmware=read_text(above[1]),
        visible_id=str(index),
        total=total,
        used=used,
        limit=limit,
        power=power,
        temperature=temperature,
        ratio=read_share(f"{tail[1]} %") if tail and tail[1] else None,
        health=Health.UNKNOWN if bdf else Health.FAILED,
        problems=() if bdf else ("its bus address cannot be read; it is taken as failed",),
        raw_error=None if below else "its second line is missing",
    )


def _state(cell: str) -> tuple[float | None, float | None, float | None]:
    """Temperature, power drawn, power capability: `39 C   Sleep    105W  300W`, `35℃ LP1 68W / 300W`."""
    words = [word for word in re.split(r"\s+|(?<=[WwAa])/(?=\d)", cell) if word not in ("", "/", "C", "℃", "°C")]
    if len(words) < 2:
        return None, None, None
    watts = [read_watts(word) for word in words[2:4]] + [None, None]
    return read_celsius(words[0]), watts[0], watts[1]


def _memory(cell: str) -> tuple[int | None, int | None]:
    """Used and in all; most releases print only what there is, before the state of virtualisation."""
    word = re.split(r"\s+(?=[A-Za-z])|(?<=[A-Za-z])\s+(?=[A-Za-z])", cell, maxsplit=1)[0]
    used, mark, total = word.partition("/")
    if mark and read_bytes(total) is not None:
        return read_bytes(used), read_bytes(total)
    return None, read_bytes(word.split()[0]) if word.split() else None


def _bdf(cell: str) -> str | None:
    match = _BUS.search(cell)
    if match is None:
        return None
    domain, bus, device, function = match.groups()
    return read_bdf(f"{int(domain or '0', 16):04x}:{bus}:{int(device, 16):02x}.{function}")


def _queried(text: str) -> list[Row]:
    """`efsmi -q`: a block a device; keys are looked for by name, since sections were renamed between releases."""
    pieces = _BLOCK.split(text)
    return [_block(int(index), body) for index, body in zip(pieces[1::2], pieces[2::2], strict=True)]


def _block(index: int, body: str) -> Row:
    held: dict[str, str] = {}
    section = ""
    for line in body.splitlines():
        title, mark, value = line.strip().partition(":")
        if not mark:
            section = title.strip().lower() or section
            continue
        key = " ".join(title.lower().split())
        held.setdefault(f"{section}/{key}", value.strip())
        held.setdefault(key, value.strip())

    def find(*names: str) -> str | None:
        return next((said for name in names if (said := read_text(held.get(name)))), None)

    sane = (find("health") or "").lower()
    rma = (find("rma info/flags", "flags") or "").lower() == "true"
    health = {"true": Health.OK, "healthy": Health.OK, "false": Health.FAILED, "unhealthy": Health.FAILED}.get(sane)
    place = [find(f"pcie info/{name}", name) for name in ("domain", "bus", "dev", "func")]
    vendor_id, device_id = _hex(find("vendor id")), _hex(find("device id"))
    return Row(
        index=index,
        name=find("dev name", "device name", "name"),
        uuid=find("dev uuid", "uuid"),
        unnamed="dev uuid" in held,
        serial=find("dev sn", "sn"),
        bdf=read_bdf("{}:{}:{}.{}".format(*place)) if all(place) else None,
        pci_vendor_id=vendor_id,
        pci_device_id=device_id,
        driver=find("driver info/ver", "driver ver", "ver"),
        firmware=find("fw ver", "boot fw ver"),
        visible_id=str(index),
        total=read_bytes(find("total size", "mem size", "device mem info/total")),
        used=read_bytes(find("device mem info/used", "used", "mem usage", "used size")),
        limit=read_watts(find("power capa", "power capability")),
        power=read_watts(find("cur power", "power")),
        temperature=read_celsius(find("gcu temp", "dtu temp", "asic temp", "board temp")),
        memory_temperature=read_celsius(find("mem temp", "hbm temp")),
        core_clock=read_megahertz(find("gcu clk", "dtu clk")),
        memory_clock=read_megahertz(find("mem clk")),
        ratio=read_share(find("gcu usage", "dtu usage", "usage")),
        uncorrected=read_count(find("total dbe", "dbe", "double bit error")),
        corrected=read_count(find("total sbe", "sbe", "single bit error")),
        health=health or (Health.DEGRADED if rma else Health.UNKNOWN),
        health_code=find("health"),
        problems=(RMA,) if rma else (),
    )


def _monitored(lines: Sequence[str]) -> list[Row]:
    """`--dmon`: a line of column names, one of units in some releases, and a line a device."""
    header: list[str] = []
    found: dict[int, Row] = {}
    for line in lines:
        words = [word.lower() for word in line.strip().strip("*|#").split()]
        if len(words) > 3 and words[0] in ("dev", "gcu", "idx") and "pwr" in words:
            header = words
        elif header and words and words[0].isdigit() and len(words) == len(header):
            row = _monitor_row(dict(zip(header, words, strict=True)), int(words[0][:4]))
            found[row.index] = row  # a second round of the monitor is newer
    return list(found.values())


def _monitor_row(cells: Mapping[str, str], index: int) -> Row:
    total, share = read_bytes(cells.get("mem")), read_share(cells.get("mused"))
    known = total is not None and share is not None and share <= 1
    return Row(
        index=index,
        visible_id=str(index),
        total=total,
        used=round(total * share) if known and total is not None and share is not None else None,
        power=read_watts(cells.get("pwr")),
        temperature=read_celsius(cells.get("dtemp")),
        memory_temperature=read_celsius(cells.get("m1temp")),
        ratio=read_share(cells.get("dused")),
        core_clock=read_megahertz(cells.get("dclk")),
        memory_clock=read_megahertz(cells.get("mclk")),
    )


def _exporter(text: str) -> list[Row]:
    meters = gather(
        [series for series in read_exposition(text) if series[0].startswith("enflame_gcu_")],
        lambda labels: (labels.get("uuid") or labels.get("busid") or labels.get("minor_number") or "").strip(),
    )
    return [_metered(meter, position) for position, meter in enumerate(meters.values())]


def _metered(meter: Meter, position: int) -> Row:
    number = read_count(meter.labels.get("minor_number"))
    code = meter.count("enflame_gcu_health")
    index = position if number is None else number
    total, used = meter.value("enflame_gcu_memory_total_bytes"), meter.value("enflame_gcu_memory_used_bytes")
    return Row(
        index=index,
        name=meter.labels.get("name"),
        uuid=meter.labels.get("uuid"),
        unnamed=True,
        bdf=_bdf(meter.labels.get("busid", "")),
        visible_id=str(index),
        total=None if total is None else int(total),
        used=None if used is None else int(used),
        limit=meter.value("enflame_gcu_power_capability"),
        power=meter.value("enflame_gcu_power_consumption"),
        temperature=meter.value("enflame_gcu_temperatures"),
        core_clock=meter.value("enflame_gcu_clock"),
        ratio=meter.share("enflame_gcu_usage"),
        corrected=meter.count("enflame_gcu_ecc_single_bit_error_total_count"),
        uncorrected=meter.count("enflame_gcu_ecc_double_bit_error_total_count"),
        health=HEALTH.get(code if code is not None else 0, Health.UNKNOWN),
        health_code=meter.labels.get("healthmsg") or (None if code is None else str(code)),
        problems=(RMA,) if code == 1 else (),
    )


def _hex(cell: str | None) -> int | None:
    match = re.fullmatch(r"(?:0x)?([0-9A-Fa-f]{4})", cell or "")
    return int(match[1], 16) if match else None
