"""Database: one engine, write transactions that take the lock first, read transactions that see one moment.

Two stores, one contract. Writers are serial across all processes: the hash chains (scheduler/journal.py) are single
streams, so two writers could not append at once anyhow. Readers never wait for a writer nor hold one up. An acknowledged
commit survives a power cut, which money needs.

SQLite: WAL with synchronous=FULL; a writer says BEGIN IMMEDIATE.
PostgreSQL: a writer's first statement is pg_advisory_xact_lock. READ COMMITTED is then enough, and needed: each statement
sees what was committed before it began, so everything after the lock sees all earlier writers, whereas the one snapshot
of REPEATABLE READ would be taken before the lock is had. The lock is let go after the commit is visible to others.
"""

from __future__ import annotations

import contextlib
import copy
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event
from sqlalchemy.exc import OperationalError

BUSY_TIMEOUT_S = 30  # other processes (audit, backup) may read meanwhile; writers of this process queue on the lock
WRITER_LOCK = 0x79697375616E01  # "yisuan" and a number: advisory locks are one name space per PostgreSQL database
WRITER_IDLE_S = 8.0  # of a service: its longest computation between two statements of a write, with room to spare


class Database:
    """Owns the engine. write(): what was read inside cannot change before the commit."""

    def __init__(self, url: str, *, writer_idle_s: float | None = None) -> None:
        """writer_idle_s: PostgreSQL ends a write transaction whose process has said nothing for so long, so that one that
        is frozen, or whose host is gone, does not keep every other writer waiting; None = never."""
        self.url = url
        self.engine = _engine(url)
        self.postgresql = self.engine.dialect.name == "postgresql"
        self._lock_sql = f"SELECT pg_advisory_xact_lock({WRITER_LOCK})"
        if writer_idle_s is not None:
            idle = f"set_config('idle_in_transaction_session_timeout', '{round(writer_idle_s * 1000)}', true)"
            self._lock_sql = f"SELECT {idle}, pg_advisory_xact_lock({WRITER_LOCK})"
        self._writer = threading.RLock()
        self._fence: Callable[[Connection], None] | None = None
        self._stamp_sql = "SELECT pg_current_snapshot()::text" if self.postgresql else "PRAGMA data_version"
        self._asking = threading.Lock()
        self._asker: Any = None

    def fenced(self, fence: Callable[[Connection], None]) -> Database:
        """The same database; `fence` is called first in every write transaction and may refuse it by raising."""
        other = copy.copy(self)
        other._fence = fence
        return other

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A write transaction: committed at the end of the block, rolled back whole on any exception."""
        options: dict[str, Any] = {"yisuan_write": True}
        if self.postgresql:
            options["isolation_level"] = "READ COMMITTED"
        with self._writer, self.engine.connect().execution_options(**options) as connection, connection.begin():
            if self.postgresql:
                connection.exec_driver_sql(self._lock_sql)
            if self._fence is not None:
                self._fence(connection)
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view of one moment; nothing in it blocks the writer."""
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True} if self.postgresql else {}
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    def stamp(self) -> str:
        """Two equal stamps: nothing was committed in between, by whomever. Reads no table and waits for nobody.

        PostgreSQL: the current snapshot, which names every transaction that has an id and is not over; what writes has
        one. SQLite: PRAGMA data_version, which changes with every commit of another connection, and this one never writes.
        """
        with self._asking:
            try:
                if self._asker is None:
                    self._asker = self._bare()
                return str(self._asker.execute(self._stamp_sql).fetchone()[0])
            except DRIVER_ERRORS as problem:
                self._forget_asker()
                raise OperationalError(self._stamp_sql, None, problem) from problem

    def _bare(self) -> Any:
        """A driver's own connection outside the pool, on which every statement is its own transaction."""
        pooled = self.engine.raw_connection()
        bare: Any = pooled.driver_connection
        pooled.detach()
        if self.postgresql:
            bare.autocommit = True
        return bare

    def close(self) -> None:
        with self._asking:
            self._forget_asker()
        self.engine.dispose()

    def _forget_asker(self) -> None:
        asker, self._asker = self._asker, None
        if asker is not None:
            with contextlib.suppress(*DRIVER_ERRORS):
                asker.close()


def _engine(url: str) -> Engine:
    if url.startswith("sqlite"):
        return _sqlite(url)
    return _postgresql(url)


def _sqlite(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, see _begin
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("yisuan_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


DRIVER_ERRORS = (sqlite3.Error, psycopg.Error)
IDLE_IN_TRANSACTION = "25P03"  # idle_in_transaction_session_timeout
CLIENT = {  # the same the other way round: a server or a network that is gone is noticed within 10 s
    "connect_timeout": 5,
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 8000,
}


def _postgresql(url: str) -> Engine:
    if url.startswith("postgresql://"):
        url = "postgresql+psycopg://" + url.removeprefix("postgresql://")
    # pool_pre_ping: after a restart of the server the next transaction finds it again. 40 threads serve routes.
    engine = create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=40, connect_args=CLIENT)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        settings = [
            f"lock_timeout = '{BUSY_TIMEOUT_S}s'",
            "tcp_keepalives_idle = 4",  # a session whose machine lost power is gone within 10 s, with what it locked
            "tcp_keepalives_interval = 2",
            "tcp_keepalives_count = 2",
            "tcp_user_timeout = 8000",  # also where the server was in the middle of an answer
        ]
        with connection.cursor() as cursor:
            # off or local: a commit is acknowledged before it is on the disk, or on the standby the operator asked for
            if cursor.execute("SHOW synchronous_commit").fetchone()[0] == "off":
                settings.append("synchronous_commit = on")
            for setting in settings:
                cursor.execute(f"SET {setting}")
        connection.commit()

    @event.listens_for(engine, "handle_error")
    def _away(context: ExceptionContext) -> BaseException | None:
        # The server ended the session; the driver calls just this one of the ways it can do so an internal error.
        said = context.original_exception
        away = getattr(said, "sqlstate", None) == IDLE_IN_TRANSACTION
        return OperationalError(context.statement, None, said) if away else None

    return engine
