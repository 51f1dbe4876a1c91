"""Migrations: one Alembic history for every store, run from inside the package (a wheel has no alembic.ini)."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config

from scheduler.database import Database

HERE = Path(__file__).parent


def config_of(database: Database | None = None) -> Config:
    """Alembic's configuration for a database of ours."""
    config = Config()
    config.set_main_option("script_location", str(HERE))
    config.attributes["database"] = database
    return config


def upgrade(database: Database) -> None:
    """The database has this version's schema; repeating is harmless."""
    command.upgrade(config_of(database), "head")
