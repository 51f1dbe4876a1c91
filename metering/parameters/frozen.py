"""Frozen: a value that has begun to hold is not edited any more. Its end may be set, to a moment still to come.

    observe(registry) -> tuple[Frozen, ...]                      every value that settles, as a row with a hash
    changes(registry, baseline, now) -> tuple[Change, ...]       what differs from the baseline although it has begun
    freeze(registry, baseline, now) -> Baseline                  the baseline that knows everything begun by `now`
    check_at_start(registry, directory, memory, now)             all of it, for a service

The baseline is `frozen.json` beside registry.yaml. `yisuan settle --parameters COPY` does not look at it, so that a
change can be tried; the service at its start and `yisuan policy check` do. After CloudKitty's rules: started values are
immutable except for their end, and a back-dated change needs force.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adapters.chain import digest, instant, timestamp
from metering.parameters import document
from metering.parameters.document import ParameterError
from metering.parameters.policy import AWAITING, Parameter, Registry, Row

FILE = "frozen.json"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """One value over [start, end) of a policy or overlay. sha256: of all it says except its end."""

    source: str
    key: str
    start: datetime
    end: datetime | None
    sha256: str
    recorded_at: str
    shown: str

    @property
    def place(self) -> tuple[str, str, datetime]:
        """What makes it the same value: whose, which key, from when."""
        return self.source, self.key, self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """Changes to time that had passed, forced at `at` with somebody's approval. changes: as `Change.document` says."""

    at: datetime
    approved_by: str
    changes: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The values that had begun at `as_of`, by place, as they were then. accepted: every change forced so far."""

    as_of: datetime
    rows: Mapping[tuple[str, str, datetime], Frozen]
    accepted: tuple[Acceptance, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A begun value that was edited, removed, ended in the past, or written down after it began.

    what: EDITED | REMOVED | ENDED_IN_THE_PAST | BACK_DATED. start: the first instant that it concerns.
    """

    what: str
    source: str
    key: str
    start: datetime
    was: str | None
    now: str | None

    def document(self) -> dict[str, Any]:
        """The change as plain values."""
        return {
            "what": self.what,
            "policy": self.source,
            "key": self.key,
            "from": timestamp(self.start),
            "was": self.was,
            "now": self.now,
        }


class FrozenChanged(Exception):
    """Parameters that edit values which have begun; `changes` lists every one of them."""

    def __init__(self, changes: tuple[Change, ...]) -> None:
        self.changes = changes
        told = "; ".join(f"{c.what} {c.source} {c.key} from {timestamp(c.start)}: {c.was} → {c.now}" for c in changes)
        super().__init__(f"values that have begun to hold were changed: {told}")


def observe(registry: Registry) -> tuple[Frozen, ...]:
    """Every value that settles, of policies and overlays; what only awaits confirmation or is proposed is not among them."""
    found = [row for policy in registry.policies.values() for row in _rows(policy.id, policy.own.values())]
    for overlay in registry.overlays:
        found += _rows(overlay.id, overlay.parameters.values())
    return tuple(sorted(found, key=lambda row: row.place))


def _rows(source: str, parameters: Iterable[Parameter]) -> list[Frozen]:
    return [
        Frozen(
            source=source,
            key=parameter.key,
            start=row.start,
            end=row.end,
            sha256=_hash(parameter, row),
            recorded_at=row.recorded_at,
            shown=str(row.value),
        )
        for parameter in parameters
        for row in parameter.rows
        if row.status != AWAITING
    ]


def _hash(parameter: Parameter, row: Row) -> str:
    said = {
        "key": parameter.key,
        "unit": parameter.unit,
        "valid_from": timestamp(row.start),
        "value": row.value,
        "clauses": list(row.clauses),
        "status": row.status,
        "recorded_at": row.recorded_at,
        "recorded_by": row.recorded_by,
        "approved_by": row.approved_by,
    }
    return digest(said)


def changes(registry: Registry, baseline: Baseline, now: datetime) -> tuple[Change, ...]:
    """What the parameters change about time that has passed at `now`, in order of policy, key and date; () when nothing.

    A value that the baseline does not have is back-dated if it began by the baseline's `as_of`, or by `now` and later
    than the day on which it was written down allows. A new end is allowed while both it and the old one lie ahead.
    """
    zones = {policy.id: policy.zone for policy in registry.policies.values()}
    current = {row.place: row for row in observe(registry)}
    found = []
    for place, was in sorted(baseline.rows.items()):
        if was.start > now:
            continue
        row = current.get(place)
        if row is None:
            found.append(_change("REMOVED", was, was.start, was.shown, None))
        elif row.sha256 != was.sha256:
            found.append(_change("EDITED", was, was.start, was.shown, row.shown))
        elif row.end != was.end and (_passed(row.end, now) or _passed(was.end, now)):
            ends = [end for end in (row.end, was.end) if end is not None]
            found.append(_change("ENDED_IN_THE_PAST", was, min(ends), _end(was), _end(row)))
    for place, row in sorted(current.items()):
        if place in baseline.rows or row.start > now:
            continue
        zone = zones.get(row.source, UTC)
        if row.start <= baseline.as_of or row.recorded_at > row.start.astimezone(zone).date().isoformat():
            found.append(_change("BACK_DATED", row, row.start, None, row.shown))
    return tuple(found)


def _change(what: str, row: Frozen, start: datetime, was: str | None, now: str | None) -> Change:
    return Change(what=what, source=row.source, key=row.key, start=start, was=was, now=now)


def _passed(end: datetime | None, now: datetime) -> bool:
    return end is not None and end <= now


def _end(row: Frozen) -> str:
    return f"{row.shown} until {'further notice' if row.end is None else timestamp(row.end)}"


def freeze(registry: Registry, baseline: Baseline | None, now: datetime, *, approved_by: str | None = None) -> Baseline:
    """A baseline of every value that has begun by `now`.

    Raises FrozenChanged if one differs from the old baseline, unless somebody approved it; then the change is on record.
    """
    accepted = () if baseline is None else baseline.accepted
    if baseline is not None and (found := changes(registry, baseline, now)):
        if approved_by is None:
            raise FrozenChanged(found)
        forced = Acceptance(at=now, approved_by=approved_by, changes=tuple(change.document() for change in found))
        accepted = (*accepted, forced)
    rows = {row.place: row for row in observe(registry) if row.start <= now}
    return Baseline(as_of=now, rows=rows, accepted=accepted)


def guard(registry: Registry, baseline: Baseline, memory: Baseline | None, now: datetime) -> Baseline:
    """What a service remembers of these parameters; FrozenChanged names every begun value that was changed.

    baseline: of the folder of parameters, reviewed with it. memory: what this service remembered at its last start; a
    change since then passes if the baseline has it as accepted, and a value that is new to the memory if the baseline
    has it as it is.
    """
    found = dict.fromkeys(changes(registry, baseline, now))
    if memory is not None:
        forced = [change for one in baseline.accepted for change in one.changes]
        current = {row.place: row for row in observe(registry)}
        for change in changes(registry, memory, now):
            place = (change.source, change.key, change.start)
            known = baseline.rows.get(place)
            new = change.what == "BACK_DATED" and known is not None and known.sha256 == current[place].sha256
            if not new and change.document() not in forced:
                found[change] = None
    if found:
        raise FrozenChanged(tuple(found))
    rows = {row.place: row for row in observe(registry) if row.start <= now}
    return Baseline(as_of=now if memory is None else max(now, memory.as_of), rows=rows)


def wanting_people(registry: Registry) -> tuple[tuple[str, str, str], ...]:
    """(policy, key, from) of values that settle without one who recorded and another who approved them.

    A copy for trial may have such values; a service may not.
    """
    return tuple(
        (source, parameter.key, timestamp(row.start))
        for source, parameters in (
            *((policy.id, policy.own) for policy in registry.policies.values()),
            *((overlay.id, overlay.parameters) for overlay in registry.overlays),
        )
        for parameter in parameters.values()
        for row in parameter.rows
        if row.status != AWAITING and (row.recorded_by is None or row.approved_by is None)
    )


# --- the file -----------------------------------------------------------------------------------------------------


def baseline_document(baseline: Baseline) -> dict[str, Any]:
    """The baseline as plain values, rows in order of policy, key and date."""
    return {
        "version": VERSION,
        "as_of": timestamp(baseline.as_of),
        "accepted": [
            {"at": timestamp(one.at), "approved_by": one.approved_by, "changes": [dict(c) for c in one.changes]}
            for one in baseline.accepted
        ],
        "rows": [
            {
                "policy": row.source,
                "key": row.key,
                "valid_from": timestamp(row.start),
                "valid_to": None if row.end is None else timestamp(row.end),
                "value": row.shown,
                "recorded_at": row.recorded_at,
                "sha256": row.sha256,
            }
            for _, row in sorted(baseline.rows.items())
        ],
    }


def read_baseline(file: Path) -> Baseline:
    """The baseline in a file; ParameterError if it is not one."""
    try:
        head = json.loads(file.read_text(encoding="utf-8"))
    except OSError as problem:
        raise ParameterError(file, "", f"cannot be read: {problem.strerror}") from problem
    except ValueError as problem:
        raise ParameterError(file, "", f"is not JSON: {problem}") from problem
    document.mapping(file, "", head, required=("version", "as_of", "accepted", "rows"))
    if head["version"] != VERSION:
        raise ParameterError(file, "version", f"{head['version']!r} is not {VERSION}")
    for name in ("rows", "accepted"):
        if not isinstance(head[name], list):
            raise ParameterError(file, name, f"{head[name]!r} is not a list")
    rows = [_frozen(file, f"rows[{index}]", item) for index, item in enumerate(head["rows"])]
    return Baseline(
        as_of=_instant(file, "as_of", head["as_of"]),
        rows={row.place: row for row in rows},
        accepted=tuple(_accepted(file, f"accepted[{i}]", item) for i, item in enumerate(head["accepted"])),
    )


def _accepted(file: Path, where: str, item: Any) -> Acceptance:
    document.mapping(file, where, item, required=("at", "approved_by", "changes"))
    listed = document.sequence(file, f"{where}.changes", item["changes"])
    names = ("what", "policy", "key", "from", "was", "now")
    return Acceptance(
        at=_instant(file, f"{where}.at", item["at"]),
        approved_by=document.text(file, f"{where}.approved_by", item["approved_by"]),
        changes=tuple(document.mapping(file, f"{where}.changes", change, required=names) for change in listed),
    )


def _frozen(file: Path, where: str, item: Any) -> Frozen:
    names = ("policy", "key", "valid_from", "valid_to", "value", "recorded_at", "sha256")
    document.mapping(file, where, item, required=names)
    return Frozen(
        source=document.text(file, f"{where}.policy", item["policy"]),
        key=document.text(file, f"{where}.key", item["key"]),
        start=_instant(file, f"{where}.valid_from", item["valid_from"]),
        end=None if item["valid_to"] is None else _instant(file, f"{where}.valid_to", item["valid_to"]),
        sha256=document.text(file, f"{where}.sha256", item["sha256"]),
        recorded_at=document.day(file, f"{where}.recorded_at", item["recorded_at"]),
        shown=document.text(file, f"{where}.value", item["value"]),
    )


def _instant(file: Path, where: str, value: Any) -> datetime:
    try:
        return instant(document.text(file, where, value))
    except ValueError as problem:
        raise ParameterError(file, where, f"{value!r} is not an instant: {problem}") from problem


def write_baseline(file: Path, baseline: Baseline) -> None:
    """The file holds the baseline afterwards, one row a line."""
    found = baseline_document(baseline)
    head = json.dumps({name: found[name] for name in ("version", "as_of", "accepted")}, ensure_ascii=False)
    rows = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in found["rows"])
    file.write_text(f'{head[:-1]}, "rows": [\n{rows}\n]}}\n', encoding="utf-8")


def check_at_start(registry: Registry, directory: Path | None, memory: Path, now: datetime) -> None:
    """Parameters that a service may start with; `memory` knows them afterwards, and is as it was if they are refused.

    directory: of the parameters, None: the shipped ones; its frozen.json is the baseline, the shipped one where it has
    none. memory: a file in the service's data directory. Raises FrozenChanged, or ParameterError for a value that
    settles without two people behind it.
    """
    shipped = Path(__file__).parent
    own = (directory or shipped) / FILE
    for source, key, start in wanting_people(registry):
        raise ParameterError(
            directory or shipped, f"{source} {key}", f"the value from {start} needs two people behind it"
        )
    known = read_baseline(memory) if memory.is_file() else None
    write_baseline(memory, guard(registry, read_baseline(own if own.is_file() else shipped / FILE), known, now))
