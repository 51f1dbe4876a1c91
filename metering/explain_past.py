"""Explain past: what stood when an act was done, read again from the records before it. Reads only; never raises for a
record that was altered: its text then says nothing, and its leaf says that it was altered.

Acts are one stream, so what came before an act is what has a smaller `seq`. Papers and transfers are other streams and
carry milliseconds: of several in the act's own millisecond any first few may have come before it (`until`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import or_, select

from metering.clawback import COUNTED
from metering.explain_records import TRANSFER, Reader
from metering.explain_tree import Node, amount, note
from metering.ledger import Code, Phase
from metering.lifecycle import NONE
from metering.programme_schema import acts, clearing_items
from metering.schema import transfers

Row = Mapping[Any, Any]
Key = tuple[str, int]  # (provider, year)
ACT = ("kind", "subject", "act", "before", "after", "by", "role", "reason", "body", "at_ms")
MOVED = (Phase.POSTED.value, Phase.POST.value)
SUBSIDIES = (Code.SUBSIDY.value, Code.REVERSE_SUBSIDY.value, Code.REFUND_SUBSIDY.value)
ITEM = ("batch", "settlement", "job", "firm", "provider", "year", "fee_fen", "deduction_fen", "payable_fen",
        "contract", "invoice", "slip")  # fmt: skip


# --- a number -----------------------------------------------------------------------------------------------------


def reckon(identity: str, shown: int, work: Callable[[list[Node]], int | None], unit: str = "fen") -> Node:
    """The number with what `work` makes of it. work: puts what it reads and computes into the list, and returns the result;
    where a record no longer reads as one, nothing is recomputed and what was found so far is shown."""
    children: list[Node] = []
    try:
        value = work(children)
    except (LookupError, ValueError, TypeError, AttributeError, AssertionError):
        value = None
    if value is None:
        children.insert(0, note("explain.not_recomputed"))
    return amount(identity, shown, value, children, unit)


# --- acts ---------------------------------------------------------------------------------------------------------


def steps(reader: Reader, kind: str, subject: str, before: int | None = None) -> list[Row]:
    """The case's acts in order; with `before`, those that precede this position."""
    query = select(acts).where(acts.c.kind == kind, acts.c.subject == subject)
    if before is not None:
        query = query.where(acts.c.seq < before)
    return list(reader.tx.execute(query.order_by(acts.c.seq)).mappings())


def last(reader: Reader, kind: str, subject: str, name: str, before: int | None = None) -> Row | None:
    """The case's latest act of this name; None if it was not done."""
    return next((row for row in reversed(steps(reader, kind, subject, before)) if row["act"] == name), None)


def told(row: Row | None) -> dict[str, Any]:
    """An act's body; {} where there is no act or its text is no longer an object."""
    try:
        found = json.loads(row["body"]) if row is not None else {}
    except (ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def values(text: Any) -> list[Any]:
    """A stored list; [] where its text is no longer one."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError):
        return []
    return found if isinstance(found, list) else []


def act_leaves(reader: Reader, rows: Sequence[Row | None]) -> list[Node]:
    """The acts' records."""
    return [reader.record(acts, row, ACT) for row in rows if row is not None]


def state_before(reader: Reader, kind: str, subject: str, seq: int) -> str:
    """Where the case stood before this position of the acts."""
    found = steps(reader, kind, subject, seq)
    return str(found[-1]["after"]) if found else NONE


# --- the same millisecond -----------------------------------------------------------------------------------------


def until(
    rows: Sequence[Row],
    at_ms: int,
    work: Callable[[Sequence[Row]], int],
    wanted: int | None,
    name: str = "recorded_at_ms",
) -> list[Row]:
    """The rows that were there at an act of `at_ms`: every earlier one, and of those in its own millisecond the first few
    with which the work comes to `wanted`; all of them where no number does."""
    sure = [row for row in rows if row[name] < at_ms]
    tied = [row for row in rows if row[name] == at_ms]
    choices = [[*sure, *tied[:count]] for count in range(len(tied), -1, -1)]
    return next((choice for choice in choices if work(choice) == wanted), choices[0])


# --- a job's support ----------------------------------------------------------------------------------------------


def cleared_before(reader: Reader, job: str, key: Key, seq: int, item: int | None = None) -> list[Row]:
    """Items that batches had taken up of a job for (provider, year) before this act; item: only items before that one."""
    query = select(clearing_items).where(
        clearing_items.c.job == job, clearing_items.c.provider == key[0], clearing_items.c.year == key[1]
    )
    if item is not None:
        query = query.where(clearing_items.c.seq < item)
    found: list[Row] = []
    for row in reader.tx.execute(query.order_by(clearing_items.c.seq)).mappings():
        counted = state_before(reader, "clearing", row["batch"], seq) in COUNTED
        if counted and row["settlement"] not in taken_out(reader, row["batch"], seq):
            found.append(row)
    return found


def taken_out(reader: Reader, batch: str, before: int | None = None) -> dict[str, Row]:
    """{settlement: act} of what was withdrawn from a batch."""
    found = [row for row in steps(reader, "clearing", batch, before) if row["act"] == "withdraw_item"]
    return {str(told(row).get("settlement")): row for row in found}


def cases_before(reader: Reader, of: str, key: Key, seq: int, states: Sequence[str]) -> list[Row]:
    """The opening acts of clawbacks of a job, project or application that stood in one of the states before this act."""
    query = select(acts).where(
        acts.c.kind == "clawback",
        acts.c.act == "open",
        acts.c.seq < seq,
        acts.c.subject.startswith(f"clawback:{of}:", autoescape=True),
    )
    found: list[Row] = []
    for row in reader.tx.execute(query.order_by(acts.c.seq)).mappings():
        body = told(row)
        same = (body.get("party"), body.get("year")) == key
        if same and state_before(reader, "clawback", row["subject"], seq) in states:
            found.append(row)
    return found


def subsidies_of(reader: Reader, job: str, key: Key) -> list[Row]:
    """Transfers that moved what the treasury owes a provider for a job of a year, in order."""
    query = select(transfers).where(
        transfers.c.job == job, transfers.c.phase.in_(MOVED), transfers.c.code.in_(SUBSIDIES)
    )
    return [row for row in reader.tx.execute(query.order_by(transfers.c.seq)).mappings() if _owed(row)[0] == key]


def owed_fen(rows: Sequence[Row]) -> int:
    """What the treasury owes by these transfers: debited it owes more, credited less."""
    return sum(_owed(row)[1] for row in rows)


def _owed(row: Row) -> tuple[Key, int]:
    more = row["debit"].startswith("treasury:")
    treasury, provider = (row["debit"], row["credit"]) if more else (row["credit"], row["debit"])
    key = (provider.split(":")[1], int(treasury.split(":")[2]))
    return key, int(row["amount_fen"]) * (1 if more else -1)


# --- a room -------------------------------------------------------------------------------------------------------


def room_before(reader: Reader, room: str, seq: int | None) -> list[Row]:
    """The transfers that touched an account before this position of theirs; None: all of them."""
    query = select(transfers).where(or_(transfers.c.debit == room, transfers.c.credit == room))
    if seq is not None:
        query = query.where(transfers.c.seq < seq)
    return list(reader.tx.execute(query.order_by(transfers.c.seq)).mappings())


def posted(reader: Reader, identity: str) -> Row | None:
    """A transfer's row by its id."""
    return reader.tx.execute(select(transfers).where(transfers.c.id == identity)).mappings().first()


def transfer_leaves(reader: Reader, rows: Sequence[Row | None]) -> list[Node]:
    """The transfers' records; of very many the newest and every altered one."""
    return reader.records(transfers, [row for row in rows if row is not None], TRANSFER)
