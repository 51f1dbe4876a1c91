"""Journal: append-only tables whose rows are hash-chained; the head is kept beside, so a cut tail shows too."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Dialect, Table, bindparam, insert, select, update

from adapters.chain import GENESIS, Form, link, sealed
from scheduler.schema import chain_heads

CHAIN_COLUMNS = ("seq", "prev_hash", "hash")


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """The first record of a stream that does not hold."""

    stream: str
    record: str
    problem: str


def append(tx: Connection, table: Table, values: Mapping[str, Any]) -> int:
    """Append one record to the table's chain inside `tx`; returns its position, counted from 1."""
    return append_all(tx, table, [values])


def append_all(tx: Connection, table: Table, records: Sequence[Mapping[str, Any]]) -> int:
    """Append records to the table's chain inside `tx`, in their order; returns the position of the last one.

    One statement reads the head, one writes all records, one moves the head: the cost of a record hardly depends on the
    database. Returns the present length for no record at all.
    """
    stream = table.name
    found = tx.execute(_READ_HEAD, {"stream_": stream}).first()
    seq, previous = (int(found.seq), str(found.hash)) if found else (0, GENESIS)
    if not records:
        return seq
    names, form = _form(table)
    statement, ordered = _insertion(table, tx.dialect)
    rows_: list[Any] = []
    for number, values in enumerate(records, start=seq + 1):
        row = {name: values.get(name) for name in names}
        row["seq"] = number
        own = sealed(previous, form.canonical(row))
        row["prev_hash"], row["hash"] = previous, own
        rows_.append(row if ordered is None else ordered(row))
        previous = own
    tx.exec_driver_sql(statement, rows_)
    last = seq + len(rows_)
    if found is None:
        tx.execute(insert(chain_heads).values(stream=stream, seq=last, hash=previous))
    else:
        moved = tx.execute(_MOVE_HEAD, {"stream_": stream, "seq_": seq, "to_": last, "hash_": previous})
        assert moved.rowcount == 1, "the head moved inside our own write transaction"
    return last


@functools.lru_cache(maxsize=256)
def _form(table: Table) -> tuple[tuple[str, ...], Form]:
    """The table's columns that a record gives, and how a record of it is spelt."""
    names = tuple(str(c.name) for c in table.columns if c.name not in CHAIN_COLUMNS)
    return names, Form(["seq", *names])


@functools.lru_cache(maxsize=256)
def _insertion(table: Table, dialect: Dialect) -> tuple[str, Callable[[Any], tuple[Any, ...]] | None]:
    """The table's INSERT as the driver takes it, spelt once; and its values in order, None where they go by name."""
    compiled = insert(table).compile(dialect=dialect, column_keys=[c.name for c in table.columns])
    return str(compiled), None if compiled.positiontup is None else itemgetter(*compiled.positiontup)


_READ_HEAD = select(chain_heads.c.seq, chain_heads.c.hash).where(chain_heads.c.stream == bindparam("stream_"))
_MOVE_HEAD = (
    update(chain_heads)
    .where(chain_heads.c.stream == bindparam("stream_"), chain_heads.c.seq == bindparam("seq_"))
    .values(seq=bindparam("to_"), hash=bindparam("hash_"))
)


def head(tx: Connection, stream: str) -> tuple[int, str]:
    """Position and hash of a stream's last record; (0, GENESIS) when it has none."""
    row = tx.execute(select(chain_heads.c.seq, chain_heads.c.hash).where(chain_heads.c.stream == stream)).first()
    return (int(row.seq), str(row.hash)) if row else (0, GENESIS)


def rows(tx: Connection, table: Table) -> Iterator[Mapping[str, Any]]:
    """Every record in chain order, streamed."""
    # On the statement, not on the connection: there it would stay, and PostgreSQL cannot stream what writes.
    with tx.execute(select(table).order_by(table.c.seq), execution_options={"yield_per": 1000}) as result:
        for row in result:
            yield dict(row._mapping)


def verify(tx: Connection, table: Table) -> Break | None:
    """Recompute a chain from its first record to its head; the first record that does not hold, or None."""
    stream = table.name
    previous, expected = GENESIS, 1
    for row in rows(tx, table):
        name = f"{stream}:{row['seq']}"
        if row["seq"] != expected:
            return Break(stream=stream, record=f"{stream}:{expected}", problem="record missing")
        if row["prev_hash"] != previous:
            return Break(stream=stream, record=name, problem="does not follow the record before it")
        body = {k: v for k, v in row.items() if k not in CHAIN_COLUMNS}
        try:
            own = link(previous, {"seq": row["seq"], **body})
        except Exception as problem:  # noqa: BLE001 - a forged value may not even be JSON; that is a finding
            return Break(stream=stream, record=name, problem=f"unreadable: {problem}")
        if own != row["hash"]:
            return Break(stream=stream, record=name, problem="content does not match its hash")
        previous, expected = row["hash"], expected + 1
    seq, tip = head(tx, stream)
    if seq != expected - 1:
        return Break(stream=stream, record=f"{stream}:{expected}", problem=f"tail removed: the head says {seq} records")
    if tip != previous:
        return Break(stream=stream, record=f"{stream}:{seq}", problem="the head's hash is another record's")
    return None
