"""What both stores promise: serial writers, readers of one moment, no edits of the record, one loop per database."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.exc import DBAPIError, OperationalError

import api.schema  # noqa: F401 - the one metadata must know every table
from api import migrations
from api.migrations import SchemaNewer, compatible_from, known_revisions, served_revision, upgrade, upgrade_within
from metering.checkpoint import STREAMS
from scheduler import journal
from scheduler.database import Database
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


def test_a_fence_refuses_a_write_before_anything_of_it_and_no_read(database_url: str) -> None:
    """The database itself, which routes use, is not fenced by it."""
    database = Database(database_url)
    fenced = database.fenced(refuse)
    with pytest.raises(ZeroDivisionError), fenced.write() as tx:
        journal.append(tx, job_events, EVENT)
    with fenced.read() as seen:
        assert journal.head(seen, "job_events")[0] == 0
    with database.write() as tx:
        journal.append(tx, job_events, EVENT)
    database.close()


def refuse(_tx: Connection) -> None:
    raise ZeroDivisionError


def test_a_writer_that_falls_silent_is_not_waited_for(postgres_url: str) -> None:
    """As one that is frozen inside its transaction, or whose host is gone: the server ends it, and what it did is gone."""
    silent, other = Database(postgres_url, writer_idle_s=0.2), Database(postgres_url)
    with pytest.raises(OperationalError), silent.write() as tx:  # noqa: PT012
        journal.append(tx, job_events, EVENT)
        with other.write() as second:  # waits for the lock that the first one has
            assert journal.append(second, job_events, EVENT) == 1
        tx.execute(text("SELECT 1"))
    with other.read() as seen:
        assert journal.head(seen, "job_events")[0] == 1
    with silent.write() as tx:  # its next one is as good as any
        journal.append(tx, job_events, EVENT)
    for database in (silent, other):
        database.close()


# --- a schema that is newer than the code -------------------------------------------------------------------------


def test_a_newer_schema_is_served_where_it_says_that_it_may_be(database_url: str) -> None:
    """What the next version's expanding migration leaves behind: its revision, its word, its table."""
    database = Database(database_url)
    expand(database, "9999", int(known_revisions()[-1]))
    upgrade(database)
    with database.read() as tx:
        assert served_revision(tx) == "9999"
    with database.write() as tx:
        journal.append(tx, job_events, EVENT)
    database.close()


@pytest.mark.parametrize("word", [None, 9998])
def test_a_newer_schema_that_says_nothing_of_this_version_is_refused(database_url: str, word: int | None) -> None:
    database = Database(database_url)
    expand(database, "9999", word)
    with pytest.raises(SchemaNewer, match="9999"):
        upgrade(database)
    database.close()


def test_the_word_of_another_revision_is_not_taken(database_url: str) -> None:
    """A word is of one revision: what 9998 allowed, 9999 need not."""
    database = Database(database_url)
    expand(database, "9998", int(known_revisions()[-1]))
    with database.write() as tx:
        tx.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaNewer):
        upgrade(database)
    database.close()


def test_the_words_of_our_own_revisions_are_revisions_that_come_before() -> None:
    known = known_revisions()
    assert [int(revision) for revision in known] == list(range(1, len(known) + 1)), "words compare as numbers"
    for revision in known:
        assert compatible_from(revision) in known[: known.index(revision) + 1]


def test_a_migration_gives_way_to_readers_and_comes_again(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """ALTER TABLE queues everybody who comes after it; so it waits a moment only, lets them go and tries again."""
    name = postgres.create("template0")
    database = Database(postgres.url(name))
    with database.write() as tx:
        upgrade_within(tx, "0003")
    tries = []
    with postgres.connect(name) as reader:
        reader.execute("BEGIN")
        reader.execute("LOCK TABLE jobs, devices, leases, pools, nodes IN ACCESS SHARE MODE")
        monkeypatch.setattr(migrations, "LOCK_WAIT_MS", 50)
        gone = threading.Timer(20, reader.execute, ("ROLLBACK",))  # who waits for longer than a moment gets it at once
        gone.start()
        real = command.upgrade

        def attempt(config: Config, revision: str) -> None:
            tries.append(revision)
            if len(tries) == 2:
                gone.cancel()
                reader.execute("ROLLBACK")
            real(config, revision)

        monkeypatch.setattr(command, "upgrade", attempt)
        upgrade(database)
    assert tries == ["head", "head"]
    with database.read() as tx:
        assert served_revision(tx) == known_revisions()[-1]
    database.close()
    postgres.drop(name)


def expand(database: Database, revision: str, oldest: int | None) -> None:
    """The database is as a later version leaves it; oldest: the revision of the code that may go on, None: no word."""
    with database.write() as tx:
        tx.exec_driver_sql("CREATE TABLE later (id INTEGER PRIMARY KEY)")
        tx.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
        if oldest is not None:
            tx.execute(insert(counters).values(name=f"{migrations.COMPATIBLE}:{revision}", value=oldest))
