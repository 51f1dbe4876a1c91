"""Append-only: triggers that refuse to change or remove a record, on SQLite and on PostgreSQL."""

from __future__ import annotations

from alembic import op


def append_only(table: str) -> None:
    """From now on nobody edits or removes a record of the table; a correction is a new record."""
    message = f"{table} is append-only: corrections are new records"
    if op.get_bind().dialect.name == "postgresql":
        body = f"BEGIN RAISE EXCEPTION '{message}'; END"
        op.execute(f"CREATE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
        # Per statement, so that TRUNCATE is one too; ALWAYS, so that a session in replica role is refused as well.
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_refuse()"
        )
        op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_append_only")
        return
    for act in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{act.lower()} BEFORE {act} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
        )
