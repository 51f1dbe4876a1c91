"""Event streams: where each stream stands and which device it held when, kept up as events arrive.

Both tables follow from the stored events alone, whatever their order. The database refuses an interval that would
promise more than a whole device at any instant.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Table,
    Text,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql

from adapters.event import Event, Kind, parse
from metering.event_schema import device_intervals, event_streams, usage_events
from metering.metered import Stream, placements
from scheduler.clock import to_ms

EXCEEDED = "device_intervals: the shares of a device pass 1000 permille"  # the trigger's words


@dataclass(slots=True, kw_only=True)
class Standing:
    """One stream. anchor_ms: time minus monotonic_ms of its lowest event; reached_ms: the largest monotonic_ms."""

    anchor_seq: int
    anchor_ms: int
    reached_ms: int
    last_seq: int
    events: int
    stopped: int
    devices: str
    share_permille: int
    moved: int
    received_at_ms: int

    def take(self, event: Event, received_at_ms: int) -> None:
        """The stream with one more event, in any order."""
        self.reached_ms = max(self.reached_ms, event.monotonic_ms)
        self.last_seq = max(self.last_seq, event.seq)
        self.events += 1
        self.stopped |= event.kind is Kind.STOPPED
        held = _text(event.devices)
        self.moved |= event.kind is Kind.MIGRATED or held != self.devices
        if event.seq < self.anchor_seq:
            self.anchor_seq, self.anchor_ms, self.devices = event.seq, to_ms(event.at) - event.monotonic_ms, held
        self.received_at_ms = max(self.received_at_ms, received_at_ms)


def advance(tx: Connection, events: Sequence[Event], now: datetime) -> None:
    """Streams and device intervals with these events, which are stored already and were not before.

    IntegrityError with EXCEEDED when a device would be promised more than once.
    """
    found = _standings(tx, {event.allocation for event in events})
    new: set[Stream] = set()
    touched: dict[Stream, Standing] = {}
    for event in events:
        standing = touched.get(event.stream) or found.get(event.stream)
        if standing is None:
            standing = begin(event, to_ms(now))
            new.add(event.stream)
        standing.take(event, to_ms(now))
        touched[event.stream] = standing
    _write_standings(tx, touched, new)
    _write_intervals(tx, touched, new)


def among(tx: Connection, column: ColumnElement[str], values: Sequence[str]) -> ColumnElement[bool]:
    """column is one of the values, however many: one parameter, by an index where the column has one."""
    if tx.dialect.name == "postgresql":
        return column == func.any(literal(list(values), postgresql.ARRAY(Text)))
    listed = func.json_each(json.dumps(list(values))).table_valued("value")
    return column.in_(select(listed.c.value))


def rivals(tx: Connection, event: Event) -> list[str]:
    """Allocations that hold one of the event's devices up to its time or later, most recent first; at most 8."""
    i = device_intervals.c
    query = (
        select(i.allocation)
        .where(i.device.in_(event.devices), i.to_ms > to_ms(event.at) - event.monotonic_ms)
        .where(i.allocation != event.allocation)
        .order_by(i.to_ms.desc())
        .limit(64)
    )
    return list(dict.fromkeys(row.allocation for row in tx.execute(query)))[:8]


def begin(event: Event, received_at_ms: int) -> Standing:
    """A stream of which nothing was heard before; the event itself is still to be taken."""
    return Standing(
        anchor_seq=event.seq,
        anchor_ms=to_ms(event.at) - event.monotonic_ms,
        reached_ms=0,
        last_seq=event.seq,
        events=0,
        stopped=0,
        devices=_text(event.devices),
        share_permille=event.share_permille,
        moved=0,
        received_at_ms=received_at_ms,
    )


def _standings(tx: Connection, allocations: Iterable[str]) -> dict[Stream, Standing]:
    found = {}
    query = select(event_streams).where(among(tx, event_streams.c.allocation, sorted(allocations)))
    for row in tx.execute(query).mappings():
        values = dict(row)
        stream = (values.pop("source"), values.pop("boot"), values.pop("allocation"))
        found[stream] = Standing(**values)
    return found


def _write_standings(tx: Connection, touched: dict[Stream, Standing], new: set[Stream]) -> None:
    made = [{**_named(stream), **_values(touched[stream])} for stream in sorted(new)]
    if made:
        tx.execute(insert(event_streams), made)
    moved = [{**_bound(stream), **_values(touched[stream])} for stream in sorted(touched) if stream not in new]
    if moved:
        _update(tx, event_streams, Standing.__slots__, moved)


def _write_intervals(tx: Connection, touched: dict[Stream, Standing], new: set[Stream]) -> None:
    """Steady streams move their end; those that moved between devices are laid out anew from their events."""
    made: list[dict[str, Any]] = []
    grown: list[dict[str, Any]] = []
    for stream, standing in sorted(touched.items()):
        if standing.moved:
            tx.execute(delete(device_intervals).filter_by(**_named(stream)))
            made += _laid_out(tx, stream, standing)
        elif stream in new:
            made += intervals_of(stream, standing, ())
        else:
            end = standing.anchor_ms + standing.reached_ms
            grown.append({**_bound(stream), "from_ms": standing.anchor_ms, "to_ms": end})
    if grown:
        _update(tx, device_intervals, ("from_ms", "to_ms"), grown)
    if made:
        tx.execute(insert(device_intervals), sorted(made, key=lambda row: (row["device"], row["from_ms"])))


def _laid_out(tx: Connection, stream: Stream, standing: Standing) -> list[dict[str, Any]]:
    u = usage_events.c
    query = select(u.raw, u.signature).filter_by(**_named(stream)).order_by(u.seq)
    told = [parse({**json.loads(row.raw), "signature": row.signature}).event for row in tx.execute(query)]
    return intervals_of(stream, standing, told)


def intervals_of(stream: Stream, standing: Standing, told: Sequence[Event]) -> list[dict[str, Any]]:
    """The rows of device_intervals for a stream. told: its events in order of seq; read only where it moved."""
    if not standing.moved:
        end = standing.anchor_ms + standing.reached_ms
        held = json.loads(standing.devices)
        return [_interval(stream, device, 0, standing, standing.anchor_ms, end) for device in held]
    return [
        _interval(stream, device, number, standing, standing.anchor_ms + part.from_ms, standing.anchor_ms + part.to_ms)
        for number, part in enumerate(placements(told))
        for device in part.devices
    ]


def _interval(
    stream: Stream,
    device: str,
    part: int,
    standing: Standing,
    from_ms: int,
    to_ms: int,
) -> dict[str, Any]:
    span = {"from_ms": from_ms, "to_ms": to_ms, "share_permille": standing.share_permille}
    return {**_named(stream), "device": device, "part": part, **span}


def _values(standing: Standing) -> dict[str, Any]:
    return {name: int(value) if isinstance(value, bool) else value for name, value in asdict(standing).items()}


def _named(stream: Stream) -> dict[str, str]:
    return dict(zip(("source", "boot", "allocation"), stream, strict=True))


def _bound(stream: Stream) -> dict[str, str]:
    return {f"of_{name}": value for name, value in _named(stream).items()}


def _update(tx: Connection, table: Table, names: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """The rows' streams say in `table` what the rows say; one statement for all, where the database can read them."""
    given: dict[str, Any]
    if tx.dialect.name == "postgresql":
        columns = [Column(f"of_{name}", Text) for name in ("source", "boot", "allocation")]
        columns += [Column(name, table.c[name].type) for name in names]
        listed = func.json_to_recordset(cast(bindparam("rows", type_=Text), postgresql.JSON))
        record = listed.table_valued(*columns).render_derived(with_types=True)
        given = {name: record.c[name] for name in names}
        mine = [table.c[name] == record.c[f"of_{name}"] for name in ("source", "boot", "allocation")]
        parameters: Any = {"rows": json.dumps(rows)}
    else:
        given = {name: bindparam(name) for name in names}
        mine = [table.c[name] == bindparam(f"of_{name}") for name in ("source", "boot", "allocation")]
        parameters = rows
    changed = or_(*(table.c[name] != given[name] for name in names))
    tx.execute(update(table).where(*mine, changed).values(given), parameters)


def _text(devices: Sequence[str]) -> str:
    return json.dumps(list(devices), ensure_ascii=False, separators=(",", ":"))
