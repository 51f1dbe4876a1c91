"""Reading: what one write transaction has read of a firm's standing and rooms, so that many jobs of a batch read it once.

Writers are serial, so facts cannot change under the reader; rooms change only by what the batch itself draws, which it says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from metering import acts, exclusion, left, standing, store
from metering.facts import Interval
from metering.ledger import (
    PROGRAMME,
    AccountId,
    Code,
    Phase,
    Transfer,
    contract_room,
    firm_room,
    pool_room,
    shared_room,
    tranche_room,
)
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
        self._rooms: dict[AccountId, int] = {}
        self._years: dict[str, dict[str, tuple[int, ...]]] = {}
        self._subjects: dict[str, dict[int, str]] = {}
        self._supported: frozenset[str] | None = None
        self._foregone: dict[tuple[str, str], bool] = {}

    def prepare(
        self,
        firms: Collection[str],
        sites: Collection[str],
        served: Collection[tuple[str, str]],
        years: Collection[int],
    ) -> None:
        """What settling needs of all these is read at once. served: (firm, provider).

        Without it the same answers are read one by one as they are asked for.
        """
        self._read_all(sorted(firms))
        known = standing.intervals_of(self.tx, {*firms, *sites, *(standing.relation(*pair) for pair in served)})
        for kind, subjects in (("firm", firms), ("site", sites)):
            for subject in subjects:
                self._eligible.setdefault((kind, subject), standing.meets(kind, known.get((kind, subject), {})))
        for firm, provider in served:
            told = known.get(("relation", standing.relation(firm, provider)), {})
            self._related.setdefault((firm, provider), told.get(standing.RELATED, ()))
        rights = left.rights_of(self.tx, sorted(firms))
        self._rights = {**{firm: rights.get(firm) for firm in firms}, **self._rights}
        asked = {
            "right": [f"{PROGRAMME}:{firm}" for firm in sorted(firms)],
            "year": [f"{PROGRAMME}:{year}" for year in sorted(years)],
            "programme": [PROGRAMME],
        }
        self._states = {**acts.states_of_all(self.tx, asked), **self._states}

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
        """What is left now of the pool and the firm's rooms, per year; "firm" includes what it shares with linked firms."""
        self._read(firm)
        years = self._years[firm]
        found = {
            "pool": {year: self._rooms[pool_room(year)] for year in years["pool"]},
            "firm": {year: self._rooms[firm_room(firm, year)] for year in years["firm"]},
            "tranche": {year: self._rooms[tranche_room(firm, year)] for year in years["tranche"]},
        }
        for year, subject in self._subjects[firm].items():
            found["firm"][year] = found["firm"].get(year, 0) + self._rooms[shared_room(subject, year)]
        return found

    def _read(self, firm: str) -> None:
        if firm not in self._years:
            self._read_all([firm])

    def _read_all(self, firms: Sequence[str]) -> None:
        fresh = [firm for firm in firms if firm not in self._years]
        if not fresh:
            return
        apart, subjects = left.rooms_apart(self.tx, fresh)
        for firm in fresh:
            mine = apart[firm]
            self._years[firm] = {kind: tuple(years) for kind, years in mine.items()}
            self._subjects[firm] = subjects[firm]
            named = {
                **{pool_room(year): fen for year, fen in mine["pool"].items()},
                **{firm_room(firm, year): fen for year, fen in mine["firm"].items()},
                **{tranche_room(firm, year): fen for year, fen in mine["tranche"].items()},
                **{shared_room(subject, year): mine["shared"][year] for year, subject in subjects[firm].items()},
            }
            for room, fen in named.items():
                self._rooms.setdefault(room, fen)  # what was read before carries what the batch drew since

    def share(self, firm: str, year: int, amount: int, key: str, changed: Mapping[AccountId, int]) -> list[Transfer]:
        """What the firm's own room lacks for the amount comes from the room it shares; [] where it shares none.

        changed: what the batch does to rooms before this.
        """
        self._read(firm)
        subject = self._subjects[firm].get(year)
        own = firm_room(firm, year)
        lacks = amount - self._rooms.get(own, 0) - changed.get(own, 0)
        if subject is None or lacks <= 0:
            return []
        return [
            Transfer(
                id=f"{key}:share:{year}",
                phase=Phase.POSTED,
                code=Code.SHARE,
                debit=shared_room(subject, year),
                credit=own,
                amount_fen=lacks,
            )
        ]

    def shares(self, firm: str) -> bool:
        """True where the firm shares its room of any year."""
        self._read(firm)
        return bool(self._subjects[firm])

    def contract(self, contract: str) -> int:
        """What is left now of a contract's room."""
        room = contract_room(contract)
        if room not in self._rooms:
            self._rooms[room] = store.balance(self.tx, room).available
        return self._rooms[room]

    def closed(self, year: int) -> bool:
        """True once the year was closed."""
        return self.state("year", f"{PROGRAMME}:{year}") == "closed"

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

    def gave(self, firm: str, contract: str | None, changed: Mapping[AccountId, int]) -> None:
        """The rooms have so much more (below zero: less) once the batch is posted."""
        self._read(firm)
        if contract is not None:
            self.contract(contract)
        for room, fen in changed.items():
            if room in self._rooms:
                self._rooms[room] += fen
