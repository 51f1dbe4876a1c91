"""What both stores promise: serial writers, readers of one moment, no edits of the record, one loop per database."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import DBAPIError

import api.schema  # noqa: F401 - the one metadata must know every table
from api.migrations import upgrade
from metering.checkpoint import STREAMS
from scheduler import journal
from scheduler.database import Database, LeadLost
from scheduler.schema import counters, job_events, metadata
from tests.postgres import Server

ROOT = Path(__file__).parents[2]
EVENT = {"job": "j", "at_ms": 2**52, "event": "e", "state_to": "PENDING", "facts": "{}"}


def value_of(database: Database) -> int:
    with database.read() as tx:
        return int(tx.execute(select(counters.c.value).where(counters.c.name == "n")).scalar_one())


def test_writers_never_lose_each_other_s_increments(database_url: str) -> None:
    """Read, then write: two engines stand for two processes; a lost update would show in the sum."""
    databases = [Database(database_url) for _ in range(4)]
    with databases[0].write() as tx:
        tx.execute(insert(counters).values(name="n", value=0))

    def count(database: Database) -> None:
        for _ in range(20):
            with database.write() as tx:
                value = tx.execute(select(counters.c.value).where(counters.c.name == "n")).scalar_one()
                tx.execute(update(counters).where(counters.c.name == "n").values(value=value + 1))
                journal.append(tx, job_events, EVENT)

    threads = [threading.Thread(target=count, args=(database,)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value_of(databases[0]) == 80
    with databases[0].read() as tx:
        assert journal.head(tx, "job_events")[0] == 80
        assert journal.verify(tx, job_events) is None
    for database in databases:
        database.close()


def test_a_reader_sees_one_moment_while_a_writer_commits(database_url: str) -> None:
    reader, writer = Database(database_url), Database(database_url)
    with writer.write() as tx:
        tx.execute(insert(counters).values(name="n", value=1))
    with reader.read() as tx:
        query = select(counters.c.value).where(counters.c.name == "n")
        assert tx.execute(query).scalar_one() == 1
        with writer.write() as other:
            other.execute(update(counters).where(counters.c.name == "n").values(value=2))
        assert tx.execute(query).scalar_one() == 1
    assert value_of(reader) == 2
    reader.close()
    writer.close()


def test_a_record_may_be_read_and_then_written_in_one_transaction(database_url: str) -> None:
    """Reading a chain streams; what is written after it on the same transaction must not."""
    database = Database(database_url)
    with database.write() as tx:
        journal.append(tx, job_events, EVENT)
        assert next(journal.rows(tx, job_events))["seq"] == 1
        assert journal.append(tx, job_events, EVENT) == 2
    database.close()


def test_an_exception_leaves_nothing_behind(database_url: str) -> None:
    database = Database(database_url)
    with contextlib.suppress(ZeroDivisionError), database.write() as tx:
        journal.append(tx, job_events, EVENT)
        raise ZeroDivisionError
    with database.read() as tx:
        assert journal.head(tx, "job_events")[0] == 0
    database.close()


def test_a_read_transaction_cannot_write_on_postgresql(postgres_url: str) -> None:
    database = Database(postgres_url)
    with pytest.raises(DBAPIError, match="read-only"), database.read() as tx:
        tx.execute(insert(counters).values(name="n", value=1))
    with database.write() as tx:  # the pooled connection is not read-only for good
        tx.execute(insert(counters).values(name="n", value=1))
    database.close()


def test_a_commit_is_never_acknowledged_before_it_is_on_the_disk(postgres: Server, postgres_url: str) -> None:
    name = postgres_url.split("/")[-1].split("?")[0]
    with postgres.connect() as connection:
        connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    database = Database(postgres_url)
    with database.write() as tx:
        assert tx.execute(text("SHOW synchronous_commit")).scalar() == "on"
    database.close()


def test_the_migrated_schema_is_the_code_s(database_url: str) -> None:
    database = Database(database_url)
    upgrade(database)  # again: harmless
    with database.read() as tx:
        assert compare_metadata(MigrationContext.configure(tx, opts={"compare_type": True}), metadata) == []
    database.close()


def test_two_processes_may_migrate_at_once(postgres: Server) -> None:
    name = postgres.create("template0")
    code = "from api.migrations import upgrade; from scheduler.database import Database; upgrade(Database({!r}))"
    code = code.format(postgres.url(name))
    running = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(2)]
    ended = [process.wait(timeout=60) for process in running]
    postgres.drop(name)
    assert ended == [0, 0]


@pytest.mark.parametrize("act", ["UPDATE {} SET hash = 'x'", "DELETE FROM {}", "TRUNCATE {}"])
def test_chained_tables_reject_edits_and_removals(database_url: str, act: str) -> None:
    """TRUNCATE is PostgreSQL's alone: SQLite has no such statement and refuses it as a syntax error."""
    database = Database(database_url)
    with database.write() as tx:
        journal.append(tx, job_events, EVENT)
    tables = ["job_events"] if database_url.startswith("sqlite") else sorted(STREAMS)
    expected = "syntax error" if database_url.startswith("sqlite") and "TRUNCATE" in act else "append-only"
    for table in tables:
        with pytest.raises(DBAPIError, match=expected), database.write() as tx:
            tx.exec_driver_sql(act.format(table))
    database.close()


def test_a_session_that_says_it_is_a_replica_is_refused_too(postgres_url: str) -> None:
    database = Database(postgres_url)
    with pytest.raises(DBAPIError, match="append-only"), database.write() as tx:
        tx.exec_driver_sql("SET LOCAL session_replication_role = replica; DELETE FROM transfers")
    database.close()


def test_every_chained_table_is_guarded(postgres_url: str) -> None:
    """A table with the columns of a chain, whose migration forgot the trigger, is found here."""
    database = Database(postgres_url)
    with database.read() as tx:
        guarded = set(
            tx.execute(text("SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgenabled = 'A'")).scalars()
        )
        chains = "SELECT table_name FROM information_schema.columns WHERE column_name = 'prev_hash'"
        chained = set(tx.execute(text(chains)).scalars())
    database.close()
    assert chained <= guarded
    assert set(STREAMS) <= chained


def test_one_loop_leads_a_database(postgres_url: str) -> None:
    first, second = Database(postgres_url), Database(postgres_url)
    assert first.lead()
    assert first.lead(), "asking again changes nothing"
    assert not second.lead()
    first.close()
    assert second.lead()
    second.close()


def test_a_loop_that_lost_its_lead_writes_no_more(postgres_url: str) -> None:
    """The session of the lock ends (a server restart does that); another process leads; the first is fenced off."""
    first, second, other = Database(postgres_url), Database(postgres_url), Database(postgres_url)
    assert first.lead()
    _end_leader(other)
    with first.write() as tx:  # nobody took over: no harm done
        journal.append(tx, job_events, EVENT)
    assert second.lead()

    with pytest.raises(LeadLost), first.write() as tx:
        journal.append(tx, job_events, EVENT)
    with second.write() as tx, other.read() as seen:
        journal.append(tx, job_events, EVENT)
        assert journal.head(seen, "job_events")[0] == 1
    assert not first.lead()
    for database in (first, second, other):
        database.close()


def test_a_loop_takes_its_lead_back_when_nobody_else_has(postgres_url: str) -> None:
    first, second, other = Database(postgres_url), Database(postgres_url), Database(postgres_url)
    assert first.lead()
    _end_leader(other)
    assert first.lead()
    assert not second.lead()
    for database in (first, second, other):
        database.close()


def _end_leader(database: Database) -> None:
    """The session that holds the leader's lock is ended by the server, and gone when this returns."""
    with database.read() as tx:
        ended = tx.execute(
            text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' AND granted "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        )
        assert list(ended.scalars()) == [True]
