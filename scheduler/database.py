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
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, select, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from scheduler.schema import counters

BUSY_TIMEOUT_S = 30  # other processes (audit, backup) may read meanwhile; writers of this process queue on the lock
WRITER_LOCK = 0x79697375616E01  # "yisuan" and a number: advisory locks are one name space per PostgreSQL database
LEADER_LOCK = 0x79697375616E02
EPOCH = "loop_epoch"


class LeadLost(Exception):
    """Another process has become the loop of this database; what this one was about to write is not written."""


class Database:
    """Owns the engine. write(): what was read inside cannot change before the commit."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _engine(url)
        self.postgresql = self.engine.dialect.name == "postgresql"
        self._writer = threading.RLock()
        self._lead: Connection | None = None
        self._epoch: int | None = None

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A write transaction: committed at the end of the block, rolled back whole on any exception.

        LeadLost if this process was the database's loop and another one has taken over.
        """
        options: dict[str, Any] = {"yisuan_write": True}
        if self.postgresql:
            options["isolation_level"] = "READ COMMITTED"
        with self._writer, self.engine.connect().execution_options(**options) as connection, connection.begin():
            if self.postgresql:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")
                if self._epoch is not None and _epoch(connection) != self._epoch:
                    raise LeadLost(f"another process is the loop of {self.engine.url!r}")
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view of one moment; nothing in it blocks the writer."""
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True} if self.postgresql else {}
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    def lead(self) -> bool:
        """This process is the database's loop afterwards, till it closes; False if another one is.

        PostgreSQL: a session's advisory lock elects, an epoch in `counters` fences. A server restart frees the lock;
        calling again takes it back, and if another process was quicker every write() of this one raises LeadLost.
        SQLite: always True, the data directory's lock file has elected already.
        """
        if not self.postgresql:
            return True
        if self._lead is not None and _alive(self._lead):
            return True
        self._drop_lead()
        connection = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        if not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({LEADER_LOCK})").scalar_one():
            connection.close()
            return False
        self._lead = connection
        try:
            with self.write() as tx:
                epoch = _next_epoch(tx)
        except BaseException:
            self._drop_lead()
            raise
        self._epoch = epoch
        return True

    def close(self) -> None:
        self._drop_lead()
        self._epoch = None
        self.engine.dispose()

    def _drop_lead(self) -> None:
        connection, self._lead = self._lead, None
        if connection is not None:
            with contextlib.suppress(SQLAlchemyError):  # at once, not when the server has noticed that we are gone
                connection.exec_driver_sql(f"SELECT pg_advisory_unlock({LEADER_LOCK})")
            connection.invalidate()  # the session ends, and its lock with it; a pooled one would keep it
            connection.close()


def _epoch(tx: Connection) -> int:
    return int(tx.execute(select(counters.c.value).where(counters.c.name == EPOCH)).scalar() or 0)


def _next_epoch(tx: Connection) -> int:
    after = _epoch(tx) + 1
    if after == 1:
        tx.execute(insert(counters).values(name=EPOCH, value=after))
    else:
        tx.execute(update(counters).where(counters.c.name == EPOCH).values(value=after))
    return after


def _alive(connection: Connection) -> bool:
    try:
        connection.exec_driver_sql("SELECT 1")
    except DBAPIError:
        return False
    return True


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


def _postgresql(url: str) -> Engine:
    if url.startswith("postgresql://"):
        url = "postgresql+psycopg://" + url.removeprefix("postgresql://")
    # pool_pre_ping: after a restart of the server the next transaction finds it again. 40 threads serve routes.
    engine = create_engine(
        url, pool_pre_ping=True, pool_size=10, max_overflow=40, connect_args={"connect_timeout": BUSY_TIMEOUT_S}
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        settings = [
            f"lock_timeout = '{BUSY_TIMEOUT_S}s'",
            "tcp_keepalives_idle = 30",  # a writer whose machine lost power holds the lock for a minute, not for hours
            "tcp_keepalives_interval = 10",
            "tcp_keepalives_count = 3",
        ]
        with connection.cursor() as cursor:
            # off or local: a commit is acknowledged before it is on the disk, or on the standby the operator asked for
            if cursor.execute("SHOW synchronous_commit").fetchone()[0] == "off":
                settings.append("synchronous_commit = on")
            for setting in settings:
                cursor.execute(f"SET {setting}")
        connection.commit()

    return engine
