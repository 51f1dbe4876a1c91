"""Alembic's entry: run the revisions on the connection of the Database that was handed over."""

from __future__ import annotations

from alembic import context

import api.schema  # noqa: F401 - the one metadata must know every table
from scheduler.schema import metadata

database = context.config.attributes["database"]
with database.write() as connection:
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    context.run_migrations()
