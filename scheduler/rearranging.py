"""Rearranging: what would be free on each row if some members were elsewhere, before anybody is moved. Pure.

The board is a copy: the workspace is not touched before `commit`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from scheduler.backfill import FOREVER
from scheduler.columns import NOBODY, WHOLE, Flags, NodeColumns
from scheduler.job import FirmId
from scheduler.lease import Member
from scheduler.making_room import TRIES
from scheduler.plan import Migration
from scheduler.residents import Residents, residents_of
from scheduler.shape import MemberShape
from scheduler.topology import devices

if TYPE_CHECKING:
    from scheduler.workspace import Workspace

Floats = npt.NDArray[np.float64]


class Board:
    """residents: who is where. columns: what is free after the moves. moves: slot, row, places. movable: by slot, who may still go."""

    def __init__(self, work: Workspace) -> None:
        self.work = work
        self.residents: Residents = residents_of(work)
        self.columns: NodeColumns = work.columns.copy()
        self.moves: list[tuple[int, int, tuple[int, ...]]] = []  # slot, row, places
        self.movable: Flags = self.residents.since <= work.now_ms
        self.movable[self.residents.slots([*(m.lease for m in work.migrations), *(p.lease for p in work.preempts)])] = (
            False
        )
        self._open: dict[int, Flags] = {}
        closing = None if work.closing is None else work.closing.tobytes()
        self._when = (work.now_ms, closing, tuple(sorted(work.blocked)), tuple(sorted(work.booked)),
                      tuple(m.lease for m in work.migrations), tuple(p.lease for p in work.preempts))  # fmt: skip
        self._room: Flags | None = None

    def open_rows(self, numbers: Sequence[int], time_limit_ms: int) -> Flags:
        """Rows of these pools that stay open for so long."""
        rows = self.columns.usable & self.work.zone.mask(numbers)
        if self.work.closing is not None:
            rows &= self.work.closing >= self.work.now_ms + time_limit_ms
        return rows

    def in_vain(self, asked: Hashable) -> bool:
        """The same was looked for when all was as it is now, and not found."""
        return (self._when, asked) in self.residents.vain(self.columns)

    def vain(self, asked: Hashable) -> None:
        """Nothing was found."""
        self.residents.vain(self.columns).add((self._when, asked))

    # --- where a member may go --------------------------------------------------------------------------------------

    def _with_room(self) -> Flags:
        """Of each kind, whether some row has the devices, CPU and memory, wherever it is."""
        if self._room is None:
            c, shapes = self.columns, self.residents.shapes
            unlike, of = np.unique(shapes, axis=0, return_inverse=True)
            count, share, cpu, memory = unlike.T[:, :, None]
            rows = np.flatnonzero(c.usable)
            most = c.free[rows].max(axis=1, initial=0)
            fits = (c.cpu[rows] >= cpu) & (c.memory[rows] >= memory)
            fits &= np.where(share < WHOLE, (most >= share) | (count == 0), c.full[rows] >= count)
            self._room = np.asarray(fits.any(axis=1)[of.reshape(-1)])
        return self._room

    def _score(self, number: int, banned: int) -> Floats:
        """How well a member of this kind suits each row; -inf: it may not go there."""
        shape, rows = self.residents.kinds[number].shape, self._rows_of(number)
        kept = self.work.packing.scores(shape, self.columns, rows)
        score = np.where(rows, kept.score, -np.inf)
        if banned >= 0:
            score[banned] = -np.inf
        return score

    def _rows_of(self, number: int) -> Flags:
        """Rows where a member of this kind may be, full or not."""
        if number not in self._open:
            pools = self.residents.pools(number, self.work)
            rows = self.columns.usable & self.work.zone.mask([n for n in pools if untouched(n, self.work)])
            if self.work.closing is not None:
                rows &= self.work.closing >= FOREVER
            self._open[number] = rows
        return self._open[number]

    def _places(self, slot: int, row: int) -> tuple[int, ...]:
        """The devices of the row that the member would have."""
        shape = self.residents.kinds[int(self.residents.kind[slot])].shape
        if not shape.count:
            return ()
        if shape.share < WHOLE:
            only = np.arange(len(self.columns.ids)) == row
            return (int(self.work.packing.scores(shape, self.columns, only).device[row]),)
        free = np.flatnonzero(self.columns.free[row] == WHOLE).tolist()
        links = self.work.zone.links(row)
        found = devices(free, links, shape.count, False) if links else None
        return found if found is not None else tuple(free[: shape.count])

    def _mine(self, shape: MemberShape) -> Flags:
        """Devices that hold no other firm's share."""
        found: Flags = self.columns.tenant == NOBODY
        if shape.firm is not None:
            found |= self.columns.tenant == self.columns.firm(shape.firm)
        return found

    # --- moving -----------------------------------------------------------------------------------------------------

    def _leave(self, slot: int) -> bool:
        """The member goes to the best row but its own; False if there is none."""
        score = self._score(int(self.residents.kind[slot]), int(self.residents.row[slot]))
        row = int(score.argmax())
        if score[row] == -np.inf:
            return False
        self._move(slot, row, self._places(slot, row))
        return True

    def _move(self, slot: int, row: int, places: tuple[int, ...]) -> None:
        r, c = self.residents, self.columns
        shape, old = r.kinds[int(r.kind[slot])].shape, int(r.row[slot])
        firm = self._firm(slot)
        c.take(row, places, shape.share, shape.cpu, shape.memory, firm)
        left = np.flatnonzero(r.places[slot]).tolist()
        held = c.tenant[old, left].copy()
        c.take(old, left, -shape.share, -shape.cpu, -shape.memory, firm)
        c.tenant[old, left] = np.where(c.free[old, left] == WHOLE, NOBODY, held)
        c.full[old] = int((c.free[old] == WHOLE).sum())
        self.movable[slot] = False
        self._room = None
        self.moves.append((slot, row, places))

    def _back(self, columns: NodeColumns, count: int) -> None:
        """All is as it was when there were these columns and so many moves."""
        self.movable[[slot for slot, _, _ in self.moves[count:]]] = True
        self.columns, self._room = columns, None
        del self.moves[count:]

    def _firm(self, slot: int) -> FirmId:
        return self.residents.kinds[int(self.residents.kind[slot])].firm

    def commit(self) -> None:
        """The workspace has the moves. Whoever moved is where it moved to, for reservations too; nobody is stopped now."""
        from scheduler.engine import Set, apply

        work = self.work
        come = []
        for slot, row, places in self.moves:
            name, rank = self.residents.name(slot)
            names = self.columns.devices[row]
            to = Member(rank=rank, node=self.columns.ids[row], devices=tuple(names[i] for i in places))
            work.migrations.append(Migration(lease=name, rank=rank, to=to))
            before = work.state.leases[name]
            come.append(replace(before, members=tuple(to if m.rank == rank else m for m in before.members)))
        work.state = apply(work.state, [Set(lease) for lease in come])
        work.columns, work._own, work._moved, work._releases = self.columns, True, True, None
        work.stops.tries = TRIES


def untouched(number: int, work: Workspace) -> bool:
    """Nothing is reserved in the pool by this plan, and nobody waits there whom others may not pass."""
    return not work.blocked.get(number) and not work.booked.get(number)
