"""Reading: what one write transaction has read of a firm's standing and rooms, so that many jobs of a batch read it once.

Writers are serial, so facts cannot change under the reader; rooms change only by what the batch itself draws, which it says.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from metering import acts, exclusion, standing, store
from metering.facts import Interval
from metering.ledger import contract_room
from metering.programme_schema import other_supports

Years = dict[int, int]


class Reading:
    """Answers are kept for the life of the object: use one per transaction, and none across two."""

    def __init__(self, tx: Connection) -> None:
        self.tx = tx
        self._eligible: dict[tuple[str, str], tuple[Interval, ...]] = {}
        self._related: dict[tuple[str, str], tuple[Interval, ...]] = {}
        self._states: dict[tuple[str, str], str] = {}
        self._rights: dict[str, dict[str, Any] | None] = {}
        self._rooms: dict[str, Years] = {}
        self._pool: Years | None = None
        self._contracts: dict[str, int] = {}
        self._supported: frozenset[str] | None = None
        self._foregone: dict[tuple[str, str], bool] = {}

    def eligible(self, subject_kind: str, subject: str) -> tuple[Interval, ...]:
        """When the subject meets its clause."""
        key = (subject_kind, subject)
        if key not in self._eligible:
            self._eligible[key] = standing.eligible_intervals(self.tx, subject_kind, subject)
        return self._eligible[key]

    def related(self, firm: str, provider: str) -> tuple[Interval, ...]:
        """When the two are known to be related."""
        key = (firm, provider)
        if key not in self._related:
            self._related[key] = standing.related_intervals(self.tx, firm, provider)
        return self._related[key]

    def state(self, kind: str, subject: str) -> str:
        """Where the case stands."""
        key = (kind, subject)
        if key not in self._states:
            self._states[key] = acts.state_of(self.tx, kind, subject)
        return self._states[key]

    def right(self, firm: str) -> dict[str, Any] | None:
        """The firm's right to draw."""
        if firm not in self._rights:
            self._rights[firm] = store.right_of(self.tx, firm)
        return self._rights[firm]

    def rooms(self, firm: str) -> dict[str, Years]:
        """What is left now of the pool and the firm's rooms, per year."""
        if firm not in self._rooms:
            found = store.rooms(self.tx, firm)
            self._rooms[firm] = found["firm"]
            if self._pool is None:
                self._pool = found["pool"]
        assert self._pool is not None, "read with the first firm"
        return {"pool": self._pool, "firm": self._rooms[firm]}

    def contract(self, contract: str) -> int:
        """What is left now of a contract's room."""
        if contract not in self._contracts:
            self._contracts[contract] = store.balance(self.tx, contract_room(contract)).available
        return self._contracts[contract]

    def supported(self, firm: str) -> bool:
        """True when any support of the firm from elsewhere is on record."""
        if self._supported is None:
            self._supported = frozenset(self.tx.execute(select(other_supports.c.firm)).scalars())
        return firm in self._supported

    def foregone(self, firm: str, contract: str | None) -> bool:
        """True when the contract's project takes another support instead of the voucher (clause 4.4)."""
        if contract is None or not self.supported(firm):
            return False
        key = (firm, contract)
        if key not in self._foregone:
            self._foregone[key] = exclusion.better_elsewhere(self.tx, firm, contract) is not None
        return self._foregone[key]

    def gave(self, firm: str, contract: str | None, year: int, fen: int) -> None:
        """The rooms have so much less (below zero: more) once the batch is posted."""
        rooms = self.rooms(firm)
        for years in rooms.values():
            years[year] = years.get(year, 0) - fen
        if contract is not None:
            self._contracts[contract] = self.contract(contract) - fen
