"""Origin: the dated register that decides whether a chip counts as domestic. The catalogue only hints.

metering/parameters/origin/register.yaml holds determinations; each applies to the models it lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

from adapters.accelerator import Origin
from metering.parameters import document
from metering.parameters.document import ParameterError


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginRow:
    """What was determined about one model over [valid_from, valid_to); None = until further notice.

    document_sha256: of the paper it rests on, None while there is none. determined_by, approved_by: roles, never the same.
    """

    vendor: str
    model: str
    origin: Origin
    basis_type: str
    basis: str
    determined_by: str
    valid_from: datetime
    valid_to: datetime | None
    document_sha256: str | None = None
    approved_by: str | None = None


@dataclass(frozen=True, slots=True)
class OriginRegister:
    """(vendor, model) → its rows, sorted, without overlap; in a hole nothing is determined."""

    rows: Mapping[tuple[str, str], tuple[OriginRow, ...]]

    def origin(self, vendor: str, model: str, at: datetime) -> tuple[Origin, OriginRow | None]:
        """The verdict in force and the row it rests on; (undetermined, None) where there is none."""
        for row in self.rows.get((vendor, model), ()):
            if row.valid_from <= at and (row.valid_to is None or at < row.valid_to):
                return row.origin, row
        return Origin.UNDETERMINED, None

    def edges(self, vendor: str, model: str) -> tuple[datetime, ...]:
        """Every instant at which the verdict may change, sorted: usage across one is two entries."""
        found = set()
        for row in self.rows.get((vendor, model), ()):
            found.add(row.valid_from)
            if row.valid_to is not None:
                found.add(row.valid_to)
        return tuple(sorted(found))


def register_of(rows: Iterable[OriginRow]) -> OriginRegister:
    """The rows as a register; ValueError if two of one model hold at the same instant."""
    found: dict[tuple[str, str], list[OriginRow]] = {}
    for row in rows:
        found.setdefault((row.vendor, row.model), []).append(row)
    for (vendor, model), mine in found.items():
        mine.sort(key=lambda row: row.valid_from)
        for before, after in pairwise(mine):
            if before.valid_to is None or before.valid_to > after.valid_from:
                raise ValueError(f"{vendor} {model}: two rows hold at {after.valid_from.isoformat()}")
    return OriginRegister(MappingProxyType({key: tuple(mine) for key, mine in found.items()}))


def load_origin_register(directory: Path | None = None) -> OriginRegister:
    """The register in `directory`/origin/register.yaml; the shipped one without an argument.

    Raises ParameterError naming file, row and value.
    """
    file = (directory or Path(__file__).parent) / "origin" / "register.yaml"
    head = document.mapping(file, "", document.read(file), required=("zone", "determinations"))
    zone = ZoneInfo(document.text(file, "zone", head["zone"]))
    rows = []
    for index, item in enumerate(document.sequence(file, "determinations", head["determinations"])):
        rows += _rows(file, f"determinations[{index}]", item, zone)
    try:
        return register_of(rows)
    except ValueError as problem:
        raise ParameterError(file, "determinations", str(problem)) from problem


def _rows(file: Path, where: str, item: Any, zone: ZoneInfo) -> list[OriginRow]:
    words = ("basis_type", "basis", "determined_by")
    needed = ("origin", *words, "valid_from", "valid_to", "chips")
    document.mapping(file, where, item, required=needed, optional=("document_sha256", "approved_by"))
    origin = Origin(document.choice(file, f"{where}.origin", item["origin"], [o.value for o in Origin]))
    said = {word: document.text(file, f"{where}.{word}", item[word]) for word in words}
    start = document.moment(file, f"{where}.valid_from", item["valid_from"], zone)
    end = None if item["valid_to"] is None else document.moment(file, f"{where}.valid_to", item["valid_to"], zone)
    if end is not None and end <= start:
        raise ParameterError(file, f"{where}.valid_to", f"{item['valid_to']!r} is not after {item['valid_from']!r}")
    people: dict[str, str | None] = {}
    for word in ("document_sha256", "approved_by"):
        value = item.get(word)
        people[word] = None if value is None else document.text(file, f"{where}.{word}", value)
    if people["approved_by"] is not None and people["approved_by"].casefold() == said["determined_by"].casefold():
        raise ParameterError(
            file, f"{where}.approved_by", f"{people['approved_by']!r} determined this; another approves"
        )
    paper = people["document_sha256"]
    if paper is not None and (len(paper) != 64 or set(paper) - set("0123456789abcdef")):
        raise ParameterError(file, f"{where}.document_sha256", f"{paper!r} is not 64 hexadecimal digits")
    found = []
    for number, chip in enumerate(document.sequence(file, f"{where}.chips", item["chips"])):
        at = f"{where}.chips[{number}]"
        document.mapping(file, at, chip, required=("vendor", "models"))
        vendor = document.text(file, f"{at}.vendor", chip["vendor"])
        for model in document.sequence(file, f"{at}.models", chip["models"]):
            found.append(
                OriginRow(
                    vendor=vendor,
                    model=document.text(file, f"{at}.models", model),
                    origin=origin,
                    **said,
                    document_sha256=paper,
                    approved_by=people["approved_by"],
                    valid_from=start,
                    valid_to=end,
                )
            )
    return found
