"""Migrations: one Alembic history for every store, run from inside the package (a wheel has no alembic.ini).

Expand, then contract: the version before goes on serving while the database already has the next schema. A revision that
allows it says so with `compatible_from = "0009"`: code that knows the schema up to 0009 reads and writes this one rightly.
Without the word no older code serves it. docs/operating.md has the rules that such a revision keeps.
"""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import OperationalError

from scheduler.database import Database
from scheduler.schema import counters

HERE = Path(__file__).parent
COMPATIBLE = "schema_compatible_from"
LOCK_NOT_AVAILABLE = "55P03"  # PostgreSQL's lock_not_available
LOCK_WAIT_MS = 3000  # a table is waited for, and everybody who wants it behind us, so long at most
TRIES, PAUSE_S = 20, 1.0


def config_of(database: Database | None = None, connection: Connection | None = None) -> Config:
    """Alembic's configuration for a database of ours, or for a write transaction of one."""
    config = Config()
    config.set_main_option("script_location", str(HERE))
    config.attributes["database"] = database
    config.attributes["connection"] = connection
    return config


def upgrade(database: Database) -> None:
    """The database has this version's schema, or a newer one that this version may serve; repeating is harmless, also at
    the same time elsewhere.

    SchemaNewer if it belongs to a version that says nothing about this one. On PostgreSQL nobody waits longer than
    LOCK_WAIT_MS for a table that this waits for: it gives way and tries again, TRIES times, then OperationalError.
    """
    with database.read() as tx:
        before = served_revision(tx)
    head = known_revisions()[-1]
    if before == head or before not in (None, *known_revisions()):
        return
    for left in reversed(range(TRIES)):
        try:
            command.upgrade(config_of(database), "head")
            break
        except OperationalError as problem:
            if getattr(problem.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE or not left:
                raise
            threading.Event().wait(PAUSE_S)
    if before is not None:
        with database.write() as tx:
            _tell_compatible(tx, head)


def _tell_compatible(tx: Connection, head: str) -> None:
    """Older versions can read whether they may go on; a database that none of them ever served needs no such word."""
    oldest, name = compatible_from(head), f"{COMPATIBLE}:{head}"
    if oldest != head and tx.execute(select(counters.c.value).where(counters.c.name == name)).first() is None:
        tx.execute(insert(counters).values(name=name, value=int(oldest)))


def compatible_from(revision: str) -> str:
    """The oldest revision whose code may serve a database at this one; itself where it says nothing."""
    script = ScriptDirectory.from_config(config_of()).get_revision(revision)
    assert script is not None, "one of our own revisions"
    return str(getattr(script.module, "compatible_from", revision))


def served_revision(tx: Connection) -> str | None:
    """The revision a database has, which this version may serve or bring to its own; SchemaNewer where it may not."""
    found, known = revision_of(tx), known_revisions()
    if found is None or found in known:
        return found
    row = tx.execute(select(counters.c.value).where(counters.c.name == f"{COMPATIBLE}:{found}")).first()
    if row is None or int(known[-1]) < row.value:
        raise SchemaNewer(f"the database has schema {found}, this version knows {known[-1]} and may not serve it")
    return found


class SchemaNewer(Exception):
    """The database has the schema of a newer version, which has not said that this one may go on with it."""


def upgrade_within(tx: Connection, revision: str = "head") -> None:
    """The same up to `revision`, as part of a write transaction that may still be rolled back."""
    command.upgrade(config_of(connection=tx), revision)


def revision_of(tx: Connection) -> str | None:
    """The schema revision a database has; None for one that was never migrated."""
    return MigrationContext.configure(tx).get_current_revision()


@cache
def known_revisions() -> tuple[str, ...]:
    """Every revision this version knows, oldest first."""
    found = ScriptDirectory.from_config(config_of()).walk_revisions()
    return tuple(reversed([script.revision for script in found]))
