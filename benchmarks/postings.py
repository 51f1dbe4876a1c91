"""Transfers posted per second, by transfers per commit, on SQLite and PostgreSQL, each beside that store's own ceiling.

The ceiling is the same shape of write with nothing around it, in the same run: per transfer the same reads, two counter
updates, one insert and the head's update, by sqlite3's own statements, and by a pgbench script on the same server.
`pure` is the other bound: the same transfers made, their bodies and records hashed, their effects summed, with no database.
"""

from __future__ import annotations

import itertools
import re
import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from adapters.chain import GENESIS, digest, link
from api.migrations import upgrade
from metering import store
from metering.ledger import (
    Code,
    Phase,
    Transfer,
    authority,
    cap_source,
    effect,
    firm_room,
    firm_spent,
    pool_room,
    pool_spent,
)
from scheduler.clock import to_ms
from scheduler.database import Database
from tests.fakes import NOON
from tests.postgres import NoPostgres, Server, running_postgres

BATCHES = (1, 10, 100)
SECONDS = 3.0
YEAR = 2026
PAIRS = ((firm_room("f", YEAR), firm_spent("f", YEAR)), (pool_room(YEAR), pool_spent(YEAR)))
ROWS = ("room", "spent")


def measure() -> dict[str, Any]:
    """{pure_per_s, store: {batch: {transfers_per_s, ceiling_per_s, of_ceiling, of_both}}}; postgresql is None where none can be had."""
    alone = pure()
    found: dict[str, Any] = {"pure_per_s": round(alone)}
    with tempfile.TemporaryDirectory() as directory:
        found["sqlite"] = on_sqlite(Path(directory), alone)
    try:
        with running_postgres() as server:
            found["postgresql"] = on_postgresql(server, alone) if server.programs else None
    except NoPostgres:
        found["postgresql"] = None
    return found


def on_sqlite(directory: Path, alone: float) -> dict[str, Any]:
    database = Database(f"sqlite:///{directory / 'yisuan.db'}")
    upgrade(database)
    rates = posted(database)
    database.close()
    return {str(n): beside(rates[n], bare_sqlite(directory / f"bare{n}.db", n), alone) for n in BATCHES}


def on_postgresql(server: Server, alone: float) -> dict[str, Any]:
    name = server.create()
    database = Database(server.url(name))
    rates = posted(database)
    database.close()
    server.drop(name)
    return {str(n): beside(rates[n], bare_postgresql(server, n), alone) for n in BATCHES}


def beside(rate: float, ceiling: float, alone: float) -> dict[str, float]:
    """of_both: of what the ceiling and the bare Python work leave, one after the other, as they are here."""
    both = 1 / (1 / ceiling + 1 / alone)
    return {
        "transfers_per_s": round(rate),
        "ceiling_per_s": round(ceiling),
        "of_ceiling": round(rate / ceiling, 2),
        "of_both": round(rate / both, 2),
    }


def posted(database: Database) -> dict[int, float]:
    """Transfers per second through metering.store.post_all, by transfers per commit. Firm and pool rooms in turn."""
    with database.write() as tx:
        for code, source, (room, _) in zip(
            (Code.OPEN_ROOM, Code.APPROPRIATE), (cap_source(), authority(YEAR)), PAIRS, strict=True
        ):
            opened = Transfer(
                id=f"open:{room}", phase=Phase.POSTED, code=code, debit=source, credit=room, amount_fen=10**12
            )
            store.post(tx, opened, NOON)
    numbers = itertools.count()
    rates = {}
    for batch in BATCHES:
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < SECONDS:
            with database.write() as tx:
                store.post_all(tx, [drawn(number) for number in itertools.islice(numbers, batch)], NOON)
            done += batch
        rates[batch] = done / (time.perf_counter() - began)
    return rates


def drawn(number: int) -> Transfer:
    debit, credit = PAIRS[number % 2]
    return Transfer(id=f"t{number}", phase=Phase.POSTED, code=Code.DRAW, debit=debit, credit=credit, amount_fen=1)


def pure(count: int = 50_000) -> float:
    """Transfers per second in memory: made, body and record hashed, the room's balance followed."""
    previous, room = GENESIS, 10**12
    times = {"effective_at_ms": to_ms(NOON), "recorded_at_ms": to_ms(NOON)}
    began = time.perf_counter()
    for number in range(count):
        transfer = drawn(number)
        body = transfer.body()
        room -= effect(transfer, None).posted
        previous = link(previous, {"seq": number + 1, **body, "body_sha256": digest(body), **times})
    took = time.perf_counter() - began
    assert room == 10**12 - count
    return count / took


TABLES = (
    "CREATE TABLE a (id text PRIMARY KEY, d bigint NOT NULL CHECK (d >= 0))",
    "CREATE TABLE h (stream text PRIMARY KEY, seq bigint NOT NULL, hash text NOT NULL)",
    "CREATE TABLE t (seq bigint PRIMARY KEY, id text NOT NULL UNIQUE, body text NOT NULL)",
    "INSERT INTO a VALUES ('room', 0), ('spent', 0)",
    "INSERT INTO h VALUES ('t', 0, '')",
)
BODY = "x" * 400  # a transfer's columns and hashes together


def bare_sqlite(path: Path, batch: int) -> float:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", *TABLES):
        connection.execute(statement)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        connection.execute("BEGIN IMMEDIATE")
        for number in range(done + 1, done + batch + 1):
            connection.execute("SELECT body FROM t WHERE id = ?", (f"t{number}",)).fetchone()
            for row in ROWS:
                connection.execute("SELECT id FROM a WHERE id = ?", (row,)).fetchone()
                connection.execute("UPDATE a SET d = d + 1 WHERE id = ?", (row,))
            connection.execute("SELECT seq, hash FROM h WHERE stream = 't'").fetchone()
            connection.execute("INSERT INTO t VALUES (?, ?, ?)", (number, f"t{number}", BODY))
            connection.execute("UPDATE h SET seq = ?, hash = 'x' WHERE stream = 't' AND seq = ?", (number, number - 1))
        connection.execute("COMMIT")
        done += batch
    rate = done / (time.perf_counter() - began)
    connection.close()
    return rate


def bare_postgresql(server: Server, batch: int) -> float:
    """pgbench: one client, simple protocol, the writer's lock taken first as Database.write() does."""
    assert server.programs is not None
    name = server.create("template0")
    with server.connect(name) as connection:
        for statement in (*TABLES, "CREATE SEQUENCE n"):
            connection.execute(statement.encode())
    one = [
        "SELECT nextval('n') AS n \\gset",
        "SELECT body FROM t WHERE id = 't' || :n;",
        *(f"SELECT id FROM a WHERE id = '{row}';\nUPDATE a SET d = d + 1 WHERE id = '{row}';" for row in ROWS),
        "SELECT seq, hash FROM h WHERE stream = 't';",
        f"INSERT INTO t VALUES (:n, 't' || :n, '{BODY}');",
        "UPDATE h SET seq = :n, hash = 'x' WHERE stream = 't';",
    ]
    script = ["BEGIN;", "SELECT pg_advisory_xact_lock(1);", *(one * batch), "COMMIT;"]
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write("\n".join(script) + "\n")
        file.flush()
        address = ("-h", str(server.home), "-U", "postgres")
        options = ("-n", "-c", "1", "-T", str(round(SECONDS)), "-f", file.name)
        ran = subprocess.run(
            [server.programs / "pgbench", *address, *options, name], capture_output=True, text=True, check=True
        )
    server.drop(name)
    found = re.search(r"^tps = ([0-9.]+)", ran.stdout, re.MULTILINE)
    assert found is not None, ran.stdout
    return float(found.group(1)) * batch
