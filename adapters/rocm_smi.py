"""rocm-smi and its fork hy-smi: what their recorded and live outputs say. Pure.

AMD's ROCm SMI tool and Hygon's (`rocm-smi` of old, `hy-smi` since) print the same things in four ways: JSON with a
`cardN` for each device and the unit in each key, CSV with the same keys as columns, lines `GPU[0] : key: value`,
and a concise table. Between versions the prefix (GPU, DCU, HCU), the unit (`(B)`, `(MiB)`) and letter case change,
so keys are matched by pattern. hy-smi with three power rails leaves out commas; such JSON is read pair by pair.

Sources: outputs of ROCm 4.1 to 6.4, DTK 22 to 26.04 (hy-smi 1.25).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog
from adapters.cell import read_bdf, read_count, read_text
from adapters.form import as_text, read_documents, read_hex
from adapters.quantity import read_bytes, read_celsius, read_megahertz, read_share, read_watts
from adapters.row import NO_TIME, Row, assemble

SEMANTICS = {
    "amd": "ROCm SMI: share of the last window in which the graphics engine was busy",
    "hygon": "hy-smi: share of the last window in which the DCU was busy",
}
AMD = re.compile(r"advanced micro devices|\bAMD\b", re.IGNORECASE)

# Patterns of normalised keys (lower case, one space, without the device's prefix), the preferred first.
KEYS: Mapping[str, tuple[str, ...]] = {
    "name": ("device name", "product name", "card name", "card series", "card model", "market name"),
    "maker": ("card vendor",),
    "uuid": ("unique id",),
    "serial": ("serial number", "serial"),
    "bdf": ("pci bus", "pci bus id", "bus"),
    "firmware": ("vbios version",),
    "device": ("device id", "id"),
    "driver": ("driver version",),
    "numa": (r"\(topology\) numa node",),
    "total": (r"vram total memory \((\w+)\)",),
    "used": (r"vram total used memory \((\w+)\)",),
    "ratio": (r"use(?: \(%\))?", r"%"),
    "power": (
        r"current socket graphics package power \((\w+)\)",
        r"average graphics package power \((\w+)\)",
        r"(?:current|average) (?:socket|package|board) power \((\w+)\)",
    ),
    "limit": (r"max graphics package power \((\w+)\)", r"power ?cap \((\w+)\)"),
    "temperature": tuple(rf"temperature \(sensor {name}\) \((\w)\)" for name in ("edge", "junction", "core")),
    "hot": (r"temperature \(sensor (?:mem|memory|hbm 0)\) \((\w)\)",),
    "core_clock": ("sclk clock speed",),
    "memory_clock": ("mclk clock speed",),
    "retired": ("retired pages?(?: count)?",),
}
_READINGS = ("used", "ratio", "power", "temperature", "hot", "core_clock")
# Columns of the concise table, as keys.
COLUMNS = {
    "temp": "temperature (sensor edge) (c)",
    "avgpwr": "average graphics package power (w)",
    "power": "average graphics package power (w)",
    "pwrcap": "max graphics package power (w)",
    **dict.fromkeys(("gpu%", "dcu%", "hcu%"), "use (%)"),
    "sclk": "sclk clock speed",
    "mclk": "mclk clock speed",
}

_PREFIX = re.compile(r"^(?:gpu|dcu|hcu) ?(?=\S)")
_CARD = re.compile(r"(?:card|gpu|dcu|hcu)[ _]?(\d{1,4})", re.IGNORECASE)
_LINE = re.compile(r"\s*(?:GPU|DCU|HCU)\[(\d{1,4})\]\s*:\s*([^:]{1,120}?)\s*:\s*(.*)")
_SYSTEM_LINE = re.compile(r"\s*Driver version\s*:\s*(\S.{0,80})", re.IGNORECASE)
_LOOSE_CARD = re.compile(r'"card(\d{1,4})"\s*:\s*\{([^{}]*)\}?')
_LOOSE_PAIR = re.compile(r'"([^"]{1,120})"\s*:\s*(?:"([^"]*)"|([^\s",}]{1,40}))')
_JOINED = re.compile(r",\s+|\s+(?=:)|(?<=:)\s+")
_CLOCK = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*([GMK]?Hz)", re.IGNORECASE)

Cards = dict[int, dict[str, str]]


def fits(text: str) -> bool:
    """Whether a text looks like any of the four forms; a table of unknown columns is refused by `parse`."""
    return bool(read_cards(text)[0]) or _header(text) is not None


def parse(text: str, written_at: datetime, catalog: Catalog, vendor: str) -> Reading:
    """This vendor's devices in the text. AdapterError for another vendor's, and for a table without known columns."""
    cards, driver = read_cards(text)
    if not cards:
        header = _header(text)
        if header is not None:
            raise AdapterError(f"{vendor}: no device row is read under the table's header {' '.join(header)!r}")
        raise AdapterError(f"{vendor}: no device in the output; it begins {text[:80]!r}")
    rows = [_row(number, card, cards, driver) for number, card in sorted(cards.items())]
    makers = {maker for card in cards.values() if (maker := _pick(card, "maker")[0])}
    if vendor == "amd" and any(_prefixed(key, ("dcu", "hcu")) for card in cards.values() for key in card):
        raise AdapterError("amd: the output counts DCU or HCU devices, which are Hygon's; ask for vendor hygon")
    if vendor != "amd" and makers and all(AMD.search(maker) for maker in makers):
        raise AdapterError(f"{vendor}: the devices say they are made by {sorted(makers)[0][:60]!r}; ask for vendor amd")
    return assemble(
        rows, written_at, catalog, vendor=vendor, semantics=SEMANTICS.get(vendor, "rocm-smi"), problems=(NO_TIME,)
    )


def read_cards(text: str) -> tuple[Cards, str | None]:
    """Every device's keys and values by its number, from all forms the text holds, and the driver's version."""
    cards: Cards = {}
    system: dict[str, str] = {}
    for document in read_documents(text):
        _add_document(document, cards, system)
    if not cards:
        _add_loose(text, cards)
    _add_csv(text, cards, system)
    for line in text.splitlines():
        if match := _LINE.fullmatch(line):
            cards.setdefault(int(match[1]), {}).setdefault(_key(match[2]), match[3].strip())
        elif match := _SYSTEM_LINE.fullmatch(line):
            system.setdefault("driver version", match[1].strip())
    _add_table(text, cards)
    return cards, read_text(system.get("driver version"))


def _add_document(document: Any, cards: Cards, system: dict[str, str]) -> None:
    """A JSON object with a member for each card; in an object of such objects, one call each, all are joined."""
    if not isinstance(document, dict):
        return
    for name, member in document.items():
        if not isinstance(member, dict):
            continue
        match = _CARD.fullmatch(str(name))
        if match is not None and not any(isinstance(value, dict) for value in member.values()):
            card = cards.setdefault(int(match[1]), {})
            for key, value in member.items():
                if (said := as_text(value)) is not None:
                    card.setdefault(_key(str(key)), said)
        elif name == "system":
            system.update({_key(str(key)): said for key, value in member.items() if (said := as_text(value))})
        elif any(isinstance(value, dict) and _CARD.fullmatch(str(key)) for key, value in member.items()):
            _add_document(member, cards, system)


def _add_loose(text: str, cards: Cards) -> None:
    """JSON with missing commas, which hy-smi prints: pairs are read one by one."""
    for card in _LOOSE_CARD.finditer(text):
        held = cards.setdefault(int(card[1]), {})
        for pair in _LOOSE_PAIR.finditer(card[2]):
            held.setdefault(_key(pair[1]), pair[2] if pair[2] is not None else pair[3])


def _add_csv(text: str, cards: Cards, system: dict[str, str]) -> None:
    header: list[str] = []
    try:
        for cells in csv.reader(io.StringIO(text.replace("\0", "")), skipinitialspace=True):
            if cells and cells[0].strip().lower() in ("device", "card"):
                header = [_key(cell) for cell in cells]
            elif header and len(cells) > 1 and (match := _CARD.fullmatch(cells[0].strip())):
                card = cards.setdefault(int(match[1]), {})
                for key, cell in zip(header[1:], cells[1:], strict=False):
                    card.setdefault(key, cell.strip())
            elif header and len(cells) > 1 and cells[0].strip() == "system":
                system.update(zip(header[1:], cells[1:], strict=False))
            else:
                header = []
    except csv.Error:
        return


def _header(text: str) -> list[str] | None:
    """The header words of the concise table, bracketed explanations left out; None when there is none."""
    for line in text.splitlines():
        words = _header_words(line)
        if words is not None:
            return words
    return None


def _header_words(line: str) -> list[str] | None:
    words = re.sub(r"\[[^\]]{0,40}\]", "[]", re.sub(r"\([^)]{0,40}\)", "", line)).split()
    if len(words) < 3 or words[0].lower() not in ("gpu", "dcu", "hcu", "device"):
        return None
    return words if any(word.lower() in ("temp", "avgpwr") for word in words) else None


def _add_table(text: str, cards: Cards) -> None:
    header: list[str] | None = None
    named, last = False, None  # ROCm 6.0 prints a device's name in a line of its own
    for line in text.splitlines():
        words = _header_words(line)
        if words is not None:
            header = [word.lower() for word in words]
            continue
        if header is not None and line.strip().startswith("Name ("):
            named = True
        cells = _JOINED.sub(lambda held: "," if "," in held[0] else "", line).split()
        if header is None or not cells or not cells[0].isascii() or not cells[0].isdigit() or len(cells[0]) > 4:
            if named and last is not None and cells and line[:4].isspace():
                last.setdefault("card name", line.strip())
            last = None
            continue
        last = card = cards.setdefault(int(cells[0]), {})
        if len(cells) != len(header):
            card.setdefault("unread", line.strip()[:120])
            continue
        card.setdefault("prefix", header[0])
        for column, cell in zip(header[1:], cells[1:], strict=True):
            if column in COLUMNS:
                card.setdefault(COLUMNS[column] if column[:3] not in ("dcu", "hcu") else f"{column[:3]} use (%)", cell)


def _key(key: str) -> str:
    return " ".join(key.strip().rstrip(":").lower().split())


def _prefixed(key: str, prefixes: Sequence[str]) -> bool:
    return key.startswith(tuple(f"{prefix} " for prefix in prefixes))


def _pick(card: Mapping[str, str], what: str) -> tuple[str | None, str]:
    """The first value that says something under one of the patterns, and the unit in its key ('' without)."""
    for pattern in KEYS[what]:
        for key, value in card.items():
            match = re.fullmatch(pattern, _PREFIX.sub("", key))
            if match is not None and (said := read_text(value)) is not None:
                return said, match[1] if match.re.groups else ""
    return None, ""


def _row(number: int, card: Mapping[str, str], cards: Cards, driver: str | None) -> Row:
    def pick(what: str) -> str | None:
        return _pick(card, what)[0]

    def measured(what: str, unit: str) -> tuple[str | None, str]:
        value, printed = _pick(card, what)
        return value, printed or unit

    total, used = measured("total", "B"), measured("used", "B")
    power, limit = measured("power", "W"), measured("limit", "W")
    unread = (f"cannot be read: {card['unread']!r}",) if "unread" in card else ()
    held = any(
        re.fullmatch(pattern, _PREFIX.sub("", key)) for key in card for what in _READINGS for pattern in KEYS[what]
    )
    return Row(
        index=number,
        name=_name(card),
        uuid=_unique(pick("uuid")),
        unnamed="unique id" in card,
        bdf=read_bdf(pick("bdf")),
        serial=_serial(pick("serial")),
        driver=pick("driver") or driver,
        firmware=pick("firmware"),
        pci_device_id=read_hex(pick("device")),
        numa_node=read_count(pick("numa")),
        visible_id=str(number - _base(cards)),
        total=read_bytes(total[0], unit=total[1]),
        limit=read_watts(limit[0], unit=limit[1]),
        sampled=held or bool(unread),
        problems=unread,
        ratio=read_share(pick("ratio")),
        used=read_bytes(used[0], unit=used[1]),
        power=read_watts(power[0], unit=power[1]),
        temperature=read_celsius(pick("temperature")),
        memory_temperature=read_celsius(pick("hot")),
        core_clock=_clock(pick("core_clock")),
        memory_clock=_clock(pick("memory_clock")),
        retired=read_count(pick("retired")),
    )


def _base(cards: Iterable[int]) -> int:
    """1 where the tool counts its cards 1, 2, 3 … without a gap, as older hy-smi does; the runtime counts from 0."""
    numbers = sorted(cards)
    return 1 if len(numbers) > 1 and numbers == list(range(1, len(numbers) + 1)) else 0


def _name(card: Mapping[str, str]) -> str | None:
    """The first of the naming keys that is a name; older tools print a model's hexadecimal number there."""
    for pattern in KEYS["name"]:
        for key, value in card.items():
            said = read_text(value)
            if key == pattern and said is not None and not re.fullmatch(r"0x[0-9a-f]+", said.lower()):
                return said
    return None


def _unique(said: str | None) -> str | None:
    return said if said and said.lower().removeprefix("0x").strip("0") else None


def _serial(said: str | None) -> str | None:
    return said if said and said.strip("0") else None


def _clock(said: str | None) -> float | None:
    match = _CLOCK.search(said or "")
    return read_megahertz(f"{match[1]}{match[2]}") if match else None
