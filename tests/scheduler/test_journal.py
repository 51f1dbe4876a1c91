"""The hash chain under every append-only table."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, select, update

from scheduler import journal
from scheduler.database import Database
from scheduler.schema import job_events, metadata

VALUES = st.fixed_dictionaries(
    {
        "job": st.text(max_size=8),
        "at_ms": st.integers(0, 2**52),
        "event": st.just("e"),
        "state_to": st.just("PENDING"),
        "facts": st.text(max_size=8),
    }
)


def chain(directory: str, records: list[dict[str, Any]]) -> Database:
    database = Database(f"sqlite:///{Path(directory) / 'j.db'}")
    metadata.create_all(database.engine)
    with database.write() as tx:
        for record in records:
            journal.append(tx, job_events, record)
    return database


@given(records=st.lists(VALUES, min_size=1, max_size=6), data=st.data())
def test_any_single_change_to_a_chain_is_found_at_the_changed_record(
    records: list[dict[str, Any]], data: st.DataObject
) -> None:
    """An edit is found at the record; a removal at the hole; an untouched chain holds."""
    with tempfile.TemporaryDirectory() as directory:
        database = chain(directory, records)
        with database.read() as tx:
            assert journal.verify(tx, job_events) is None
        at = data.draw(st.integers(1, len(records)))
        act = data.draw(st.sampled_from(["edit", "remove"]))
        with database.write() as tx:
            row = job_events.c.seq == at
            if act == "edit":
                before = tx.execute(select(job_events.c.at_ms).where(row)).scalar_one()
                tx.execute(update(job_events).where(row).values(at_ms=before + 1))
            else:
                tx.execute(delete(job_events).where(row))
        with database.read() as tx:
            broken = journal.verify(tx, job_events)
        database.close()

    assert broken is not None
    assert f"job_events:{at}" == broken.record
