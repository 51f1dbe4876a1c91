"""Rows: dated values read from a file, checked one by one and against one another."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from metering.parameters import document
from metering.parameters.document import ParameterError
from metering.parameters.kinds import KEYS, Kind, check_value
from metering.parameters.policy import AWAITING, PROPOSED, WITHDRAWN, Clause, Parameter, Row
from metering.year import local_year, year_start

STATUSES = ("in_force", AWAITING, PROPOSED, WITHDRAWN)
SET_ASIDE = (PROPOSED, WITHDRAWN)
FIELDS = ("valid_from", "valid_to", "value", "refs", "status", "recorded_at")
OPTIONAL = ("recorded_by", "approved_by", "withdrawn_at", "note")


def read_parameters(
    file: Path,
    where: str,
    value: Any,
    source: str,
    clauses: Mapping[str, Clause],
    zone: ZoneInfo,
    *,
    gaps: bool = False,
) -> list[Parameter]:
    """The parameters of a file. Rows that settle are sorted and do not overlap; they touch unless `gaps` may be.

    source: the id that refs must name. Raises ParameterError naming file, key, row and value.
    """
    found: list[Parameter] = []
    for index, item in enumerate(document.sequence(file, where, value)):
        at = f"{where}[{index}]"
        document.mapping(file, at, item, required=("key", "unit", "values"), optional=("note",))
        key = document.choice(file, f"{at}.key", item["key"], KEYS)
        if any(parameter.key == key for parameter in found):
            raise ParameterError(file, key, "is defined twice in this file")
        kind = KEYS[key]
        document.choice(file, f"{key}.unit", item["unit"], (kind.unit,))
        rows = [
            _row(file, f"{key}.values[{number}]", row, kind, source, clauses, zone)
            for number, row in enumerate(document.sequence(file, f"{key}.values", item["values"]))
        ]
        rows.sort(key=lambda row: row.start)
        settling = tuple(row for row in rows if row.status not in SET_ASIDE)
        if not settling and not gaps:
            raise ParameterError(file, key, f"has no value that settles, only {' and '.join(SET_ASIDE)} ones")
        _check_order(file, key, settling, zone, gaps=gaps)
        found.append(Parameter(key, kind.unit, settling, tuple(row for row in rows if row.status in SET_ASIDE)))
    return found


def _check_order(file: Path, key: str, rows: tuple[Row, ...], zone: ZoneInfo, *, gaps: bool) -> None:
    for before, after in pairwise(rows):
        if before.end is None or before.end > after.start:
            raise ParameterError(file, key, f"two values hold from {after.start.astimezone(zone).isoformat()}")
        if before.end < after.start and not gaps:
            until = after.start.astimezone(zone).isoformat()
            raise ParameterError(file, key, f"no value from {before.end.astimezone(zone).isoformat()} to {until}")


def _row(
    file: Path, where: str, item: Any, kind: Kind, source: str, clauses: Mapping[str, Clause], zone: ZoneInfo
) -> Row:
    document.mapping(file, where, item, required=FIELDS, optional=OPTIONAL)
    start = document.moment(file, f"{where}.valid_from", item["valid_from"], zone)
    end = None if item["valid_to"] is None else document.moment(file, f"{where}.valid_to", item["valid_to"], zone)
    if end is not None and end <= start:
        raise ParameterError(file, f"{where}.valid_to", f"{item['valid_to']!r} is not after {item['valid_from']!r}")
    if kind.yearly:
        for name, at in (("valid_from", start), ("valid_to", end)):
            if at is None or at != year_start(local_year(at, zone), zone):
                raise ParameterError(file, f"{where}.{name}", f"{item[name]!r} is not the first day of a year")
    numbers = []
    for number, ref in enumerate(document.sequence(file, f"{where}.refs", item["refs"])):
        cited = f"{where}.refs[{number}]"
        document.mapping(file, cited, ref, required=("policy", "clause"))
        document.choice(file, f"{cited}.policy", ref["policy"], (source,))
        numbers.append(document.choice(file, f"{cited}.clause", ref["clause"], clauses))
    status = document.choice(file, f"{where}.status", item["status"], STATUSES)
    people = _people(file, where, item)
    return Row(
        start=start,
        end=end,
        value=check_value(file, f"{where}.value", item["value"], kind),
        clauses=tuple(numbers),
        status=status,
        recorded_at=document.day(file, f"{where}.recorded_at", item["recorded_at"]),
        recorded_by=people[0],
        approved_by=people[1],
        withdrawn_at=_withdrawn_at(file, where, item, status),
        source=source,
        note=None if item.get("note") is None else document.text(file, f"{where}.note", item["note"]),
    )


def _people(file: Path, where: str, item: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Who recorded and who approved, None where nobody is named; the same one twice is refused."""
    said = []
    for name in ("recorded_by", "approved_by"):
        value = item.get(name)
        said.append(None if value is None else document.text(file, f"{where}.{name}", value))
    if said[1] is not None and (said[0] or "").strip().casefold() == said[1].strip().casefold():
        raise ParameterError(file, f"{where}.approved_by", f"{said[1]!r} recorded this value; another one approves it")
    return said[0], said[1]


def _withdrawn_at(file: Path, where: str, item: Mapping[str, Any], status: str) -> str | None:
    """The day of withdrawal, which a withdrawn value has and no other; never before it was recorded."""
    value = item.get("withdrawn_at")
    if (value is not None) is not (status == WITHDRAWN):
        needed = "needs the day it was withdrawn" if status == WITHDRAWN else f"is for a value that is {WITHDRAWN}"
        raise ParameterError(file, f"{where}.withdrawn_at", needed)
    if value is None:
        return None
    day = document.day(file, f"{where}.withdrawn_at", value)
    if day < str(item["recorded_at"]):
        raise ParameterError(file, f"{where}.withdrawn_at", f"{day} is before recorded_at {item['recorded_at']}")
    return day
