"""Alembic's entry: run the revisions on the connection that was handed over, else in a transaction of the Database."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

import api.schema  # noqa: F401 - the one metadata must know every table
from api import migrations
from scheduler.schema import metadata


def run(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {migrations.LOCK_WAIT_MS}")
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with context.config.attributes["database"].write() as tx:
        run(tx)
