"""Draws: what a job has drawn of rooms, returned and refunded, by year; and the transfers that move its rooms to a target."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from metering import tranche
from metering.ledger import (
    AccountId,
    Code,
    Phase,
    Transfer,
    draw_pairs,
    firm_room,
    is_firm_room,
    lapsed,
    pool_room,
    released,
)
from metering.reading import Reading
from metering.store import Movements, net_of, signed

if TYPE_CHECKING:
    from metering.budget import VoucherBudget

DRAWS, DRAWS_BACK = (Code.DRAW,), (Code.REVERSE_DRAW,)


def drawn(movements: Movements) -> dict[int, int]:
    """What the job's transfers have drawn of the firm's rooms so far, by year."""
    moved = net_of(movements, DRAWS, DRAWS_BACK)
    return {_year_of(room): fen for (room, _), fen in moved.items() if is_firm_room(room)}


def returned(movements: Movements) -> dict[int, int]:
    """What the job's own reversals brought back to closed years, where it lapsed, less what it drew of that again."""
    found: dict[int, int] = {}
    for code, debit, credit, fen in movements:
        if code is Code.LAPSE and debit.startswith("pool:"):
            found[_year_of(debit)] = found.get(_year_of(debit), 0) + fen
        elif code is Code.REISSUE and credit.startswith("pool:"):
            found[_year_of(credit)] = found.get(_year_of(credit), 0) - fen
    return found


def peak(movements: Movements, year: int) -> int:
    """The most that the job had drawn of the year at any time."""
    now, most = 0, 0
    for code, debit, credit, fen in movements:
        room, sign = (debit, 1) if code in DRAWS else (credit, -1)
        if code in (*DRAWS, *DRAWS_BACK) and is_firm_room(room) and _year_of(room) == year:
            now += sign * fen
            most = max(most, now)
    return most


def _year_of(account: AccountId) -> int:
    return int(account.rsplit(":", 1)[1])


def refunded(movements: Movements) -> dict[int, int]:
    """What refunds brought back to the firm's rooms: there already, so no room of this job besides."""
    found: dict[int, int] = {}
    for code, debit, credit, fen in movements:
        if code is Code.REFUND_DRAW and (is_firm_room(debit) or is_firm_room(credit)):
            room, sign = (credit, 1) if is_firm_room(credit) else (debit, -1)
            found[_year_of(room)] = found.get(_year_of(room), 0) + sign * fen
    return found


def draw(
    budget: VoucherBudget,
    reading: Reading,
    open_holds: Sequence[Mapping[Any, Any]],
    job: str,
    firm: str,
    contract: str | None,
    settlement: str,
    net: Mapping[int, int],
    over: Collection[int],
    shut: Collection[int],
    now: datetime,
) -> list[Transfer]:
    """What moves the rooms by `net` fen a year, from the holds first and the rest at once.

    over: years of which nothing more will be used, so that their holds are released. shut: closed years, of which what is
    drawn was this job's own before it lapsed and comes back from there.
    """
    tx, missing = reading.tx, dict(net)
    batch: list[Transfer] = []
    for hold in open_holds:
        year = hold["year"]
        used = min(max(missing.get(year, 0), 0), hold["amount_fen"])
        rest = hold["amount_fen"] - used
        if used or year in over:
            phase = Phase.POST if used else Phase.VOID
            batch += budget.resolution(tx, hold, used, phase, settlement)
            if rest and year not in over:
                batch += budget.renewal(tx, hold, rest)
        missing[year] = missing.get(year, 0) - used
    held = pending(open_holds, batch)
    for year, amount in sorted(missing.items()):
        issued = amount > 0 and year not in shut and tranche.in_use(budget.policy, year, now)
        if amount > 0 and year in shut:
            for room in (firm_room(firm, year), pool_room(year)):
                key = f"{settlement}:reissue:{room}"
                batch += signed(key, Code.REISSUE, Code.LAPSE, (lapsed(year), room), amount, job, settlement)
        elif amount > 0:
            batch += reading.share(firm, year, amount, settlement, released(batch, held))
        for kind, room, spent in draw_pairs(firm, year, contract, tranche=issued):
            key = f"{settlement}:draw:{year}:{kind}"
            batch += signed(key, Code.DRAW, Code.REVERSE_DRAW, (room, spent), amount, job, settlement)
    return batch


def pending(open_holds: Sequence[Mapping[Any, Any]], batch: Sequence[Transfer]) -> dict[str, int]:
    """The amounts of the holds' transfers that the batch resolves, by their ids."""
    held = {(h["lease"], h["year"], h["generation"]): h["amount_fen"] for h in open_holds}
    wanted = {t.pending_id for t in batch if t.pending_id is not None}
    return {
        f"hold:{lease}:{year}:{generation}:{kind}": fen
        for (lease, year, generation), fen in held.items()
        for kind in ("firm", "contract", "tranche", "pool")
        if f"hold:{lease}:{year}:{generation}:{kind}" in wanted
    }
