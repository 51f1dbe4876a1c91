"""Rate ceiling: at most the dated share of the fee that its chips' origin class has at usage time. Pure.

Clause 2.1.1. A chip whose origin is undetermined has the foreign rate (interpretation undetermined_origin).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from metering.entry import UsageEntry
from metering.rule import Context, Rate, Rule


class RateCeiling(Rule):
    """The policy's dated rate of the entry's origin class."""

    name = "rate_ceiling"
    looks_at = ("origin",)

    def breakpoints(self, entry: UsageEntry, context: Context) -> Iterable[datetime]:
        return context.policy.rate_rows(entry.origin).edges_within(entry.start, entry.end)

    def rate(self, entry: UsageEntry, at: datetime, context: Context) -> Rate | None:
        row = context.policy.rate_rows(entry.origin).row_at(at)
        return None if row is None else Rate(int(row.value), row.clauses)
