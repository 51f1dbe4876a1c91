"""Batches: what a clearing batch holds, and what happens to its settlements when nothing of it is left to pay."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from metering import acts, store
from metering.ledger import clearing_room
from metering.programme_schema import acts as acts_table
from metering.programme_schema import clearing_items

KEPT = (
    "settlement",
    "job",
    "firm",
    "provider",
    "year",
    "fee_fen",
    "deduction_fen",
    "payable_fen",
    "contract",
    "invoice",
    "slip",
)


def items_of(tx: Connection, batch: str) -> list[dict[str, Any]]:
    """The batch's items in order, those withdrawn left out."""
    gone = withdrawn_of(tx, [batch]).get(batch, frozenset())
    query = select(clearing_items).where(clearing_items.c.batch == batch).order_by(clearing_items.c.seq)
    return [{key: row[key] for key in KEPT} for row in tx.execute(query).mappings() if row["settlement"] not in gone]


def withdrawn_of(tx: Connection, batches: Sequence[str]) -> dict[str, frozenset[str]]:
    """The settlements that were taken out of each batch after its approval."""
    query = select(acts_table.c.subject, acts_table.c.body).where(
        acts_table.c.kind == "clearing", acts_table.c.act == "withdraw_item", acts_table.c.subject.in_(batches)
    )
    found: dict[str, set[str]] = {}
    for row in tx.execute(query) if batches else ():
        found.setdefault(row.subject, set()).add(json.loads(row.body)["settlement"])
    return {batch: frozenset(each) for batch, each in found.items()}


def year_of(tx: Connection, batch: str) -> int:
    """The local year the batch is paid from."""
    built = acts.told(tx, "clearing", batch, "build")
    assert built is not None, "a batch begins by being built"
    return int(built["year"])


def complete_if_paid(tx: Connection, batch: str, now: datetime, body: Mapping[str, Any]) -> None:
    """A batch whose room offsets or withdrawals emptied is paid; its settlements with it."""
    if (
        acts.state_of(tx, "clearing", batch) in ("approved", "part_paid")
        and not store.balance(tx, clearing_room(batch)).available
    ):
        acts.must(tx, "clearing", batch, "complete", now, body=body)
        move_settlements(tx, batch, "approved", "pay", now)


def move_settlements(tx: Connection, batch: str, before: str, act: str, now: datetime) -> None:
    """The batch's settlements that stand at `before` take the act; one corrected meanwhile stays where it is."""
    for item in items_of(tx, batch):
        if acts.state_of(tx, "settlement", item["settlement"]) == before:
            acts.must(tx, "settlement", item["settlement"], act, now, body={"batch": batch})
