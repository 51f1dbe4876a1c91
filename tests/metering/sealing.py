"""A sealed history, and ways to tamper with it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from adapters.chain import GENESIS, link
from metering import checkpoint
from metering.audit import Finding, audit
from metering.checkpoint import STREAMS, load_key, seal
from metering.store import set_price
from scheduler.database import Database
from tests.platform import job_text, make_platform

FILE = "checkpoints.jsonl"


LATER = datetime(2027, 1, 1, tzinfo=UTC)


def settle(platform: Any, name: str, accelerators: str) -> None:
    job = platform.submit(name, job_text(name, accelerators))
    platform.loop.tick()
    platform.clock.advance(3600)
    platform.beat()
    platform.backend.end(f"{job}.1", 0)
    platform.loop.tick()


@contextmanager
def writing(directory: Path) -> Iterator[Connection]:
    database = Database(f"sqlite:///{directory / 'yisuan.db'}")
    with database.write() as tx:
        yield tx
    database.close()


def tamper(directory: Path, *statements: str) -> None:
    connection = sqlite3.connect(directory / "yisuan.db")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def verdict(directory: Path) -> Finding:
    (law,) = [one for one in audit(directory / "yisuan.db").laws if one.law == "checkpoints"]
    return law


def rewrite(directory: Path, table_name: str, seq: int, **values: Any) -> None:
    """A record is altered and the whole chain after it hashed again, head included: what a chain alone cannot show."""
    table = STREAMS[table_name]
    connection = sqlite3.connect(directory / "yisuan.db")
    connection.row_factory = sqlite3.Row
    previous = GENESIS
    for row in connection.execute(f"SELECT * FROM {table_name} ORDER BY seq").fetchall():  # noqa: S608
        body = {c.name: row[c.name] for c in table.columns if c.name not in ("seq", "prev_hash", "hash")}
        if row["seq"] == seq:
            body |= values
            for name, value in values.items():
                connection.execute(f"UPDATE {table_name} SET {name} = ? WHERE seq = ?", (value, seq))  # noqa: S608
        own = link(previous, {"seq": row["seq"], **body})
        chained = f"UPDATE {table_name} SET prev_hash = ?, hash = ? WHERE seq = ?"  # noqa: S608
        connection.execute(chained, (previous, own, row["seq"]))
        previous = own
    connection.execute("UPDATE chain_heads SET hash = ? WHERE stream = ?", (previous, table_name))
    connection.commit()
    connection.close()


def sealed_books(directory: Path) -> Path:
    """A settled job, a seal, a head line, another settled job, a second seal, and a price after it."""
    platform = make_platform(directory)
    key = load_key(directory / "checkpoint.key")
    for name, accelerators in (("a", "Ascend910B3:8"), ("b", "H800:8")):
        settle(platform, name, accelerators)
        with platform.database.write() as tx:
            checkpoint.take(tx, directory / FILE, platform.clock.now())
            seal(tx, directory / FILE, platform.clock.now(), f"clearing:{name}", key)
    with platform.database.write() as tx:
        now = platform.clock.now()
        set_price(tx, pool="h800", model="H800", fen=1900, start=now + timedelta(days=1), by="op", now=now)
    platform.database.close()
    return directory
