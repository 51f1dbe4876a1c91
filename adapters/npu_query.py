"""npu-smi -t: what the tool says of one chip at a time, and a polling log of it. Pure.

`info -t usages|common|temp|power|health|ecc|memory -i N [-c C]` print `key : value` lines, the unit in the key. A
paragraph names its chip in its first or its last line (`Chip ID : 0`), the card's controller as `Chip Name : MCU`;
950 prints neither, and the line of the command, where a log keeps it, says which card was asked. Memory in use is
printed as a share of the capacity in whole per cent.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from adapters.accelerator import Health
from adapters.block import read_letters
from adapters.cell import read_count, read_number, read_text

MIB = 1024 * 1024
SHARE_ONLY = "memory used is printed in whole per cent: it is that share of the capacity, to one per cent"
NO_NUMBER = "the output does not say of which NPU it is"
HEALTH = {"ok": Health.OK, "warning": Health.DEGRADED, "alarm": Health.FAILED, "critical": Health.FAILED}
LARGEST_BYTES = 1 << 40

Address = tuple[int | None, int]  # card, chip; a card of None: not said
Paragraph = list[tuple[str, str]]

# Keys as letters and digits only, the preferred first.
KEYS: Mapping[str, tuple[str, ...]] = {
    "hbm": ("hbmcapacitymb",),
    "hbm_share": ("hbmusagerate",),
    "ddr": ("ddrcapacitymb", "memorycapacitymb"),
    "ddr_share": ("ddrusagerate", "memoryusagerate"),
    "ratio": ("aicoreusagerate", "nputilization", "npuutilization"),
    "bandwidth": ("hbmbandwidthusagerate",),
    "temperature": ("temperaturec", "nputemperaturec", "chiptemperaturec"),
    "hot": ("hbmtemperaturec", "hbmtempc"),
    "power": ("npurealtimepowerw", "powerdissipationw", "chippowerw"),
    "core_clock": ("aicorecurfreqmhz", "aicorefreqmhz"),
    "memory_clock": ("hbmclockspeedmhz", "ddrclockspeedmhz"),
    "health": ("healthstatus", "health"),
    "error": ("errorcode",),
    "corrected": ("hbmsinglebitaggregatetotalerrcnt", "hbmsinglebiterrorcount", "ddrsinglebitaggregatetotalerrcnt"),
    "uncorrected": ("hbmdoublebitaggregatetotalerrcnt", "hbmdoublebiterrorcount", "ddrdoublebitaggregatetotalerrcnt"),
}
_KNOWN = frozenset(key for keys in KEYS.values() for key in keys)

_LINE = re.compile(r"\s*([A-Za-z][\w .()%/-]{1,60}?)\s*:\s*(\S.{0,300}?)?\s*")
_COMMAND = re.compile(r"\bnpu-smi\s+info\b(?=.*\s-i\s*(\d{1,4}))(?:.*\s-c\s*(\d{1,4}))?")
_REFUSED = re.compile(r"(Invalid card id|Error parameter|This device does not support|Not supported)[^\n]{0,80}", re.I)


@dataclass(slots=True)
class Query:
    """What was said of one chip, by KEYS' names."""

    said: dict[str, str] = field(default_factory=dict)

    def number(self, what: str) -> float | None:
        return read_number(self.said.get(what), unit="%")

    def readings(self) -> dict[str, Any]:
        """Fields of a Row. Memory is HBM, or DDR where the chip has no HBM."""
        kind = "hbm" if self.number("hbm") else "ddr"
        total, share = self.number(kind), self.number(f"{kind}_share")
        ratio, bandwidth = self.number("ratio"), self.number("bandwidth")
        health = HEALTH.get(self.said.get("health", "").lower(), Health.UNKNOWN)
        capacity = int(total * MIB) if total and total * MIB < LARGEST_BYTES else None
        known = capacity is not None and share is not None and share <= 100
        code = read_text(self.said.get("error"))
        return {
            "total": capacity,
            "used": int(capacity * share / 100) if known and capacity is not None and share is not None else None,
            "ratio": None if ratio is None else ratio / 100,
            "bandwidth": None if bandwidth is None else bandwidth / 100,
            "temperature": self.number("temperature"),
            "memory_temperature": self.number("hot"),
            "power": self.number("power"),
            "core_clock": self.number("core_clock"),
            "memory_clock": self.number("memory_clock"),
            "corrected": read_count(self.said.get("corrected")),
            "uncorrected": read_count(self.said.get("uncorrected")),
            "health": health,
            "health_code": read_text(self.said.get("health")),
            "last_error": None if code in (None, "0") else code,
        }


def read_queries(text: str) -> dict[Address, Query]:
    """What the answers of `-t` in the text say, by card and chip; {} when there is none."""
    found: dict[Address, Query] = {}
    for card, chip, paragraph in _paragraphs(text):
        said = {read_letters(key): value for key, value in reversed(paragraph)}
        known = {what: value for what, keys in KEYS.items() if (value := _first(said, keys)) is not None}
        if not known:
            continue
        if said.get("chipname", "").lower() == "mcu":
            # The controller measures the card: its power is the chip's own on cards with one chip.
            alone = [address for address in found if address[0] == card]
            if len(alone) == 1 and "power" in known:
                found[alone[0]].said.setdefault("power", known["power"])
            continue
        query = found.setdefault((card, chip), Query())
        for what, value in known.items():
            query.said.setdefault(what, value)
    return found


def read_refusal(text: str) -> str | None:
    """What the tool said instead of an answer, as printed; None when it did not."""
    match = _REFUSED.search(text)
    return match[0].strip() if match else None


def read_log(text: str) -> list[tuple[int, datetime, dict[str, float | None]]]:
    """A polling log: CSV with time (seconds since 1970), dev_id, and power, freq, temp where there are. [] if none."""
    lines = [line for line in text.splitlines() if line.strip()]
    header = [cell.strip().lower() for cell in lines[0].split(",")] if lines else []
    if not {"time", "dev_id"} <= set(header) or not {"power", "temp"} & set(header):
        return []
    found = []
    for line in lines[1:]:
        cells = dict(zip(header, (cell.strip() for cell in line.split(",")), strict=False))
        device, seconds = read_count(cells.get("dev_id")), read_number(cells.get("time"))
        if device is None or seconds is None or not 0 < seconds < 1 << 33:
            continue
        readings = {
            "power": read_number(cells.get("power")),
            "core_clock": read_number(cells.get("freq")),
            "temperature": read_number(cells.get("temp")),
        }
        found.append((device, datetime.fromtimestamp(seconds, UTC), readings))
    return found


def _first(said: Mapping[str, str], keys: Sequence[str]) -> str | None:
    return next((text for key in keys if (text := read_text(said.get(key))) is not None), None)


def _paragraphs(text: str) -> Iterator[tuple[int | None, int, Paragraph]]:
    """Runs of `key : value` lines with the card and chip they are of; a blank or another line ends a run."""
    card: int | None = None
    asked: int | None = None
    run: Paragraph = []
    for line in [*text.splitlines(), ""]:
        if command := _COMMAND.search(line):
            yield from _split(run, card, asked)
            run, card, asked = [], int(command[1]), int(command[2]) if command[2] else None
            continue
        match = _LINE.fullmatch(line)
        if match is None or "|" in line:
            yield from _split(run, card, asked)
            run = []
            if line.strip() and not line[:1].isspace():
                card, asked = (card, asked) if read_refusal(line) else (None, None)
            continue
        key, value = match[1], match[2] or ""
        if read_letters(key) == "npuid":
            yield from _split(run, card, asked)
            run, card, asked = [], read_count(value), None
        else:
            run.append((key, value))


def _split(run: Paragraph, card: int | None, asked: int | None) -> Iterator[tuple[int | None, int, Paragraph]]:
    """A run by the chips it names: `Chip ID` opens each part, or closes it where the run does not begin with one."""
    places = [place for place, (key, _) in enumerate(run) if read_letters(key) == "chipid"]
    if not places:
        if any(read_letters(key) in _KNOWN for key, _ in run):
            yield card, asked or 0, run
        return
    opens = places[0] == 0
    bounds = [*places, len(run)] if opens else [0, *(place + 1 for place in places)]
    for place, (start, end) in zip(places, itertools.pairwise(bounds), strict=False):
        chip = read_count(run[place][1])
        if chip is not None:
            yield card, chip, run[start:end]
