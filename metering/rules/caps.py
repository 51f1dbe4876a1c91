"""Caps: a year's deduction stays within the firm's room, the pool, the contract and the tranche. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from metering.entry import Rooms
from metering.rule import Bound, Context, Rule


class Caps(Rule):
    """Clause 2.1.1: the firm's yearly cap, the year's vouchers; contract and tranche where given."""

    name = "caps"
    looks_at = ()

    def bounds(self, year: int, rooms: Rooms, context: Context) -> Iterable[Bound]:  # noqa: ARG002
        found = [Bound("FIRM_CAP_REACHED", rooms.firm[year]), Bound("POOL_EXHAUSTED", rooms.pool[year])]
        if rooms.contract is not None:
            found.append(Bound("CONTRACT_CAP_REACHED", rooms.contract))
        if rooms.tranche is not None:
            found.append(Bound("TRANCHE_EXHAUSTED", rooms.tranche))
        return found
