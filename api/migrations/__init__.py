"""Migrations: one Alembic history for every store, run from inside the package (a wheel has no alembic.ini)."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from scheduler.database import Database

HERE = Path(__file__).parent


def config_of(database: Database | None = None, connection: Connection | None = None) -> Config:
    """Alembic's configuration for a database of ours, or for a write transaction of one."""
    config = Config()
    config.set_main_option("script_location", str(HERE))
    config.attributes["database"] = database
    config.attributes["connection"] = connection
    return config


def upgrade(database: Database) -> None:
    """The database has this version's schema; repeating is harmless."""
    command.upgrade(config_of(database), "head")


def upgrade_within(tx: Connection, revision: str = "head") -> None:
    """The same up to `revision`, as part of a write transaction that may still be rolled back."""
    command.upgrade(config_of(connection=tx), revision)


def revision_of(tx: Connection) -> str | None:
    """The schema revision a database has; None for one that was never migrated."""
    return MigrationContext.configure(tx).get_current_revision()


def known_revisions() -> tuple[str, ...]:
    """Every revision this version knows, oldest first."""
    found = ScriptDirectory.from_config(config_of()).walk_revisions()
    return tuple(reversed([script.revision for script in found]))
