"""Firm budget: what a firm is willing to pay for usage in an interval, net of the voucher. Records are never edited.

The last record of one interval stands; several intervals may overlap, and each of them binds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from adapters.chain import instant, timestamp
from metering.schema import firm_budgets, firms
from scheduler import journal
from scheduler.clock import from_ms, to_ms
from scheduler.job import FirmId
from scheduler.refusal import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmBudget:
    """limit_fen: of usage in [start, end), end None = open."""

    firm: FirmId
    start: datetime
    end: datetime | None
    limit_fen: int


def set_budget(
    tx: Connection, *, firm: str, start: datetime, end: datetime | None, limit_fen: int | None, by: str, now: datetime
) -> dict[str, Any] | Refusal:
    """From now on the firm pays at most limit_fen for usage in [start, end); None lifts what this interval had.

    ValueError names an empty interval or a limit below 0; a firm nobody enrolled is refused.
    """
    if end is not None and end <= start:
        raise ValueError(
            f"end: {end.isoformat()} is not after start {start.isoformat()}; nearest: none, an open interval"
        )
    if limit_fen is not None and limit_fen < 0:
        raise ValueError(f"limit_fen: must be 0 or more, not {limit_fen}; nearest: 0")
    if tx.execute(select(firms.c.id).where(firms.c.id == firm)).first() is None:
        return Refusal(code="FIRM_UNKNOWN", facts={"firm": firm})
    row = {
        "firm": firm,
        "from_ms": to_ms(start),
        "to_ms": to_ms(end) if end is not None else None,
        "limit_fen": limit_fen,
        "recorded_at_ms": to_ms(now),
        "actor": by,
    }
    return _shown({**row, "seq": journal.append(tx, firm_budgets, row)})


def budgets(tx: Connection, firm: str | None) -> list[dict[str, Any]]:
    """Every record, oldest first, of one firm or of all; `stands`: none of its interval came after it."""
    query = select(firm_budgets).order_by(firm_budgets.c.seq)
    if firm is not None:
        query = query.where(firm_budgets.c.firm == firm)
    rows = [dict(row) for row in tx.execute(query).mappings()]
    last = {_interval(row): row["seq"] for row in rows}
    return [{**_shown(row), "stands": last[_interval(row)] == row["seq"]} for row in rows]


def standing_budgets(tx: Connection, of: Collection[str]) -> list[FirmBudget]:
    """The limits that stand for these firms, whatever their interval, by firm and start."""
    query = select(firm_budgets).where(firm_budgets.c.firm.in_(sorted(of))).order_by(firm_budgets.c.seq)
    last = {_interval(row): row for row in tx.execute(query).mappings()}
    found = [
        FirmBudget(
            firm=FirmId(row["firm"]),
            start=from_ms(row["from_ms"]),
            end=from_ms(row["to_ms"]) if row["to_ms"] is not None else None,
            limit_fen=row["limit_fen"],
        )
        for row in last.values()
        if row["limit_fen"] is not None
    ]
    return sorted(found, key=lambda one: (one.firm, one.start))


def interval_of(item: Mapping[str, Any]) -> tuple[FirmId, datetime, datetime | None]:
    """Firm, start and end of a shown record."""
    return FirmId(item["firm"]), instant(item["from"]), instant(item["to"]) if item["to"] is not None else None


def _interval(row: Any) -> tuple[str, int, int | None]:
    return (row["firm"], row["from_ms"], row["to_ms"])


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "seq": row["seq"],
        "firm": row["firm"],
        "from": timestamp(from_ms(row["from_ms"])),
        "to": timestamp(from_ms(row["to_ms"])) if row["to_ms"] is not None else None,
        "limit_fen": row["limit_fen"],
        "recorded_at": timestamp(from_ms(row["recorded_at_ms"])),
        "actor": row["actor"],
    }
