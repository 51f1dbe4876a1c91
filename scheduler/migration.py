"""Migration: which running members move so that a job fits which fits nowhere though the cluster has room in sum. Pure.

A move disturbs whoever runs, so there is a budget (`Snapshot.migrations`; 0, the default, moves nobody) and a price: for each move
the job must bring `price` thousandths of a device. Of the sets of members that make room the smallest wins, then the one
after which the recent mix can use most of what is idle (fragmentation.py). A member moves at most once a plan, only if its
job writes checkpoints and has had its first minutes, and only to where its job could have started at the same terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from scheduler.columns import NOBODY, WHOLE, Flags, Ints
from scheduler.fragmentation import Nodes, gain, waste
from scheduler.rearranging import Board, untouched
from scheduler.shape import MemberShape, least_nodes
from scheduler.snapshot import WaitingJob
from scheduler.zone import Way

if TYPE_CHECKING:
    from scheduler.workspace import Workspace

Floats = npt.NDArray[np.float64]
KINDS_TRIED = 24  # kinds of members whose destinations are looked at closely, those that free most first
NODES_TRIED = 12  # nodes looked at closely when one move is not enough, those with the fewest moves first
CHAINS_TRIED = 6  # kinds of members for which another would have to move first
SWAPS_TRIED = 8  # members of a kind that are tried to change places
MOST = 16  # moves for one job
DEAR = 900  # thousandths of a device that a move must bring while there is much to come
CHEAP = 150  # and when all is full; these five were found on published traces (benchmarks/README.md)
FEW = 0.016  # moves left for each device of the zone: more make a move cheaper yet
PLENTY = 0.03  # moves left for each device of the zone: fewer make a move dearer while
EMPTY = 0.02  # of the devices more than these are wholly free


def price(left: int, devices: int, free: int) -> int:
    """Thousandths of a device that a move must bring when `left` moves remain in a zone of so many devices, `free` of them
    wholly free. Moves wait for the time when nothing else helps: the emptier the zone and the fewer are left, the dearer.
    """
    cheap = CHEAP * min(1.0, FEW * devices / max(1, left))
    scarce = 1 - min(1.0, left / max(1.0, PLENTY * devices))
    return round(cheap + (DEAR - cheap) * scarce * min(1.0, free / max(1.0, EMPTY * devices)))


def make_room(job: WaitingJob, ways: Sequence[Way], work: Workspace) -> bool:
    """Members have moved in the workspace so that the job fits in one of these ways; False, and nothing moved, if none may.

    Not for gangs, nor for jobs that ask for a topology. Nothing moves in a pool where this plan has made a reservation, and after a
    move this plan stops nobody.
    """
    left = work.state.migrations - len(work.migrations)
    if left <= 0 or least_nodes(job) != 1 or job.nodes != 1 or job.request.topology_required is not None:
        return False
    cost = price(left, int(work.columns.size.sum()), int(work.columns.full.sum()))
    for shape in dict.fromkeys(way.shape for way in ways):
        most = min(left, MOST, shape.count * min(shape.share, WHOLE) // max(1, cost))
        numbers = [way.number for way in ways if way.shape == shape and untouched(way.number, work)]
        if not most or not numbers:
            continue
        search = _Search(work)
        asked = (shape, most, tuple(numbers), job.time_limit_ms)
        if search.in_vain(asked):
            continue
        if search.clear(_Want(shape, search.open_rows(numbers, job.time_limit_ms)), most):
            search.commit()
            return True
        search.vain(asked)
    return False


class _Want:
    """A member that needs a place: its shape, and the rows where it may be."""

    def __init__(self, shape: MemberShape, rows: Flags) -> None:
        self.shape, self.rows = shape, rows


class _Search(Board):
    """Which members to move."""

    # --- what makes room --------------------------------------------------------------------------------------------

    def clear(self, want: _Want, most: int) -> bool:
        """At most so many members have moved and the wanted one has a place; else nothing has changed."""
        before = (self.columns.copy(), len(self.moves))
        for moved in (self._one, self._chain, self._swap, partial(self._several, most=most)):
            if moved(want) and len(self.moves) <= most and self._fits(want):
                return True
            self._back(*before)
            if most == 1:
                return False
        return False

    def _one(self, want: _Want) -> bool:
        """One member moves."""
        found = self._single(want)
        if found is not None:
            self._move(*found)
        return found is not None

    def _single(self, want: _Want, *, banned: int = -1) -> tuple[int, int, tuple[int, ...]] | None:
        """The best member whose move alone makes room: its slot, where it goes to."""
        able = self._alone(want, banned)
        able = able[self._with_room()[self.residents.kind[able]]]
        if not len(able):
            return None
        worth = self._source_gain(want, able)
        kinds = self.residents.kind[able]
        best_of = np.full(len(self.residents.kinds), -np.inf)
        np.maximum.at(best_of, kinds, worth)
        tried = np.lexsort((self.residents.ranks, -best_of))
        tried = tried[best_of[tried] > -np.inf]
        total, to = np.full(len(able), -np.inf), np.zeros(len(able), dtype=np.int64)
        looked = 0
        rows = self.residents.row[able]
        for number in tried.tolist():
            score = self._score(number, banned)
            first = int(score.argmax())
            if score[first] == -np.inf:
                continue
            these = kinds == number
            to[these], total[these] = first, worth[these] + score[first]
            same = these & (rows == first)
            if same.any():
                kept, score[first] = score[first], -np.inf
                second = int(score.argmax())
                to[same], total[same] = second, worth[same] + score[second]
                score[first] = kept
            looked += 1
            if looked == KINDS_TRIED:
                break
        if total.max(initial=-np.inf) == -np.inf:
            return None
        ties = np.flatnonzero(total == total.max())
        best = min(ties.tolist(), key=lambda i: self.residents.name(int(able[i])))
        slot, row = int(able[best]), int(to[best])
        return slot, row, self._places(slot, row)

    def _alone(self, want: _Want, banned: int) -> Ints:
        """Slots of members without which, were each gone alone, the wanted one would fit on their row."""
        r, c, shape = self.residents, self.columns, want.shape
        row = r.row
        able = self.movable & want.rows[row] & (row != banned)
        able &= (c.cpu[row] + r.cpu >= shape.cpu) & (c.memory[row] + r.memory >= shape.memory)
        slots = np.flatnonzero(able)
        row, place, share, count = r.row[slots], r.place[slots], r.share[slots], r.count[slots]
        after = c.free[row, place] + share
        if shape.count == 0:
            fits = np.ones(len(slots), dtype=np.bool_)
        elif shape.share >= WHOLE:
            fits = c.full[row] + np.where(share >= WHOLE, count, (count > 0) & (after == WHOLE)) >= shape.count
        else:
            mine = self._mine(shape)
            fits = np.where(mine, c.free, 0).max(axis=1)[row] >= shape.share
            fits |= (count > 0) & (after >= shape.share) & (mine[row, place] | (after == WHOLE))
        return slots[fits]

    def _fits(self, want: _Want) -> bool:
        """The wanted one has a place now."""
        score = self.work.packing.scores(want.shape, self.columns, want.rows).score
        return bool((score[want.rows] > -np.inf).any())

    def _source_gain(self, want: _Want, slots: Ints) -> Floats:
        """How much less idle is out of the mix's reach once each member is gone from its row and the wanted one there."""
        r, c, shape, packing = self.residents, self.columns, want.shape, self.work.packing
        rows = r.row[slots]
        free, cpu = np.maximum(c.free[rows], 0).astype(np.int64), c.cpu[rows]
        left = np.minimum(free + r.places[slots] * r.share[slots, None], WHOLE)
        if shape.share < WHOLE:
            left *= self._mine(shape)[rows] | (left == WHOLE)
        model = packing.model[rows]
        before = waste(packing.tables, Nodes(free, cpu, model))
        better, _ = gain(packing.tables, Nodes(left, cpu + r.cpu[slots], model), before, shape.count,
                         min(shape.share, WHOLE), shape.cpu)  # fmt: skip
        found: Floats = better - packing.slope[rows]
        return found

    def _chain(self, want: _Want) -> bool:
        """Two moves: one member makes room for another, whose move makes room for the wanted one."""
        slots = self._alone(want, -1)
        if not len(slots):
            return False
        worth = self._source_gain(want, slots)
        order = self.residents.order(slots, self.residents.share[slots] * self.residents.count[slots], -worth)
        seen: set[int] = set()
        for i in order.tolist():
            slot = int(slots[i])
            kind = int(self.residents.kind[slot])
            if kind in seen:
                continue
            if len(seen) == CHAINS_TRIED:
                return False
            seen.add(kind)
            slot = self._alike(slot)
            other = _Want(self.residents.kinds[kind].shape, self._rows_of(kind))
            found = self._single(other, banned=int(self.residents.row[slot]))
            if found is None:
                continue
            before = (self.columns.copy(), len(self.moves))
            self._move(*found)
            score = self._score(kind, int(self.residents.row[slot]))
            row = int(score.argmax())
            if score[row] > -np.inf:
                self._move(slot, row, self._places(slot, row))
                return True
            self._back(*before)
        return False

    def _swap(self, want: _Want) -> bool:
        """Two moves: a member changes places with a smaller one elsewhere, and what it leaves suffices for the wanted one."""
        r, c, shape = self.residents, self.columns, want.shape
        if not shape.count:
            return False
        mine = np.where(self._mine(shape), c.free, 0)
        there = c.full >= shape.count if shape.share >= WHOLE else mine.max(axis=1) >= shape.share
        slots = np.flatnonzero(self.movable & want.rows[r.row] & (r.count <= 1))
        row = r.row[slots]
        cpu = c.cpu[row] + r.cpu[slots] - shape.cpu  # what the smaller one may have at most, and so on
        memory = c.memory[row] + r.memory[slots] - shape.memory
        room = np.where(r.count[slots] > 0, c.free[row, r.place[slots]] + r.share[slots], 0)
        if shape.share < WHOLE:
            own = self._mine(shape)[row, r.place[slots]]
            room -= np.where(there[row], 0, np.where(own, shape.share, WHOLE))
        else:
            room = np.where(there[row], room, -1)
        open_ = (cpu >= 0) & (memory >= 0) & ((room > 0) | ((r.count[slots] == 0) & there[row]))
        slots, cpu, memory, room = slots[open_], cpu[open_], memory[open_], room[open_]
        if not len(slots):
            return False
        others = np.flatnonzero(self.movable & (r.count <= 1))
        others = others[r.order(others, -np.where(r.count[others] > 0, r.share[others], 0), -r.cpu[others])]
        at = r.row[others]
        left_cpu, left_memory = c.cpu[at] + r.cpu[others], c.memory[at] + r.memory[others]
        left = np.where(r.count[others] > 0, c.free[at, r.place[others]] + r.share[others], 0)
        takes = np.where(r.count[others] > 0, r.share[others], 0)
        of_kind = [NOBODY if k.shape.firm is None else c.firm(k.shape.firm) for k in r.kinds]
        firms = np.array(of_kind, dtype=np.int64)[r.kind[others]]
        mine_too = NOBODY if shape.firm is None else c.firm(shape.firm)
        pairs: list[Ints] = [np.zeros((0, 2), dtype=np.int64)]
        kinds = r.kind[slots]
        for number in np.unique(kinds).tolist():
            big = r.kinds[number].shape
            needs = big.share if big.count else 0
            able = self._rows_of(number)[at] & (left_cpu >= big.cpu) & (left_memory >= big.memory) & (left >= needs)
            able &= (r.count[others] == big.count) & ((takes < needs) | (r.cpu[others] < big.cpu))
            if big.firm is not None:  # on a device that others of its firm may be on too
                able &= firms == c.firm(big.firm)
            smaller = np.flatnonzero(able)
            these = np.flatnonzero(kinds == number)
            these = these[r.order(slots[these], -cpu[these], -room[these])[:SWAPS_TRIED]]
            fits = (
                (takes[smaller] <= room[these, None]) & (r.cpu[others[smaller]] <= cpu[these, None])
                & (r.memory[others[smaller]] <= memory[these, None]) & (at[smaller] != r.row[slots[these], None])
                & (there[r.row[slots[these], None]] | (firms[smaller] == mine_too))
            )  # fmt: skip
            fits &= fits.cumsum(axis=1) <= SWAPS_TRIED
            i, k = fits.nonzero()
            pairs.append(np.column_stack([slots[these[i]], others[smaller[k]]]))
        both = np.concatenate(pairs)
        allowed = [bool(self._rows_of(int(r.kind[b]))[r.row[a]]) for a, b in both.tolist()]
        both = both[allowed]
        if not len(both):
            return False
        worth = self._swap_gain(want, both)
        if worth.max() == -np.inf:
            return False
        ties = both[worth == worth.max()]
        a, b = min((r.name(a), r.name(b), a, b) for a, b in ties.tolist())[2:]
        a, b = self._alike(a), self._alike(b)
        from_, to = int(r.row[a]), int(r.row[b])
        at_a, at_b = ((int(r.place[s]),) if r.count[s] else () for s in (a, b))
        self._move(a, to, at_b)
        self._move(b, from_, at_a)
        return True

    def _alike(self, slot: int) -> int:
        """Of the members of this kind in the same place, the first by name: so it does not matter who came in first."""
        r = self.residents
        same = (r.row == r.row[slot]) & (r.kind == r.kind[slot]) & (r.place == r.place[slot]) & self.movable
        return min(np.flatnonzero(same).tolist(), key=r.name)

    def _swap_gain(self, want: _Want, pairs: Ints) -> Floats:
        """How much less idle is out of the mix's reach after the swap and the start."""
        r, c, packing, shape = self.residents, self.columns, self.work.packing, want.shape
        a, b = pairs.T
        found = np.zeros(len(pairs))
        for out, come, wanted in ((a, b, shape), (b, a, None)):
            rows = r.row[out]
            free, cpu = np.maximum(c.free[rows], 0).astype(np.int64), c.cpu[rows]
            before = waste(packing.tables, Nodes(free, cpu, packing.model[rows]))
            left = np.clip(free + r.places[out] * (r.share[out] - r.share[come])[:, None], 0, WHOLE)
            cpu = cpu + r.cpu[out] - r.cpu[come]
            if wanted is not None and wanted.share < WHOLE:
                left *= self._mine(wanted)[rows] | (left == WHOLE)
            if wanted is None:
                found += before - waste(packing.tables, Nodes(left, cpu, packing.model[rows]))
            else:
                better, _ = gain(packing.tables, Nodes(left, cpu, packing.model[rows]), before, wanted.count,
                                 min(wanted.share, WHOLE), wanted.cpu)  # fmt: skip
                found += better
        return found

    def _several(self, want: _Want, most: int) -> bool:
        """Several members of one row move, the row chosen by how few they are."""
        found = [(len(slots), row, slots) for row in self._rows_worth(want, most) if (slots := self._needed(want, row))]
        for count, _, slots in sorted(found, key=lambda one: one[:2])[:NODES_TRIED]:
            if count > most:
                return False
            before = (self.columns.copy(), len(self.moves))
            if all(self._leave(slot) for slot in slots):
                return True
            self._back(*before)
        return False

    def _rows_worth(self, want: _Want, most: int) -> list[int]:
        """Rows on which so few members stand in the way that it is worth to look, the fewest first."""
        r, c, shape = self.residents, self.columns, want.shape
        slots = np.flatnonzero(self.movable & want.rows[r.row])
        rows = r.row[slots]
        n = len(c.ids)
        cpu = c.cpu + np.bincount(rows, weights=r.cpu[slots], minlength=n)
        memory = c.memory + np.bincount(rows, weights=r.memory[slots], minlength=n)
        on = np.zeros(c.free.shape, dtype=np.float64)
        back = c.free.astype(np.int64)
        np.add.at(on, rows, r.places[slots] / np.maximum(r.count[slots], 1)[:, None])
        np.add.at(back, rows, r.places[slots] * r.share[slots, None])
        moves = np.where(c.free == WHOLE, 0.0, np.where(back == WHOLE, on, np.inf))
        if 0 < shape.count <= moves.shape[1] and shape.share >= WHOLE:
            least = np.sort(moves, axis=1)[:, : shape.count].sum(axis=1)
        elif shape.count and shape.share < WHOLE:
            least = np.where((back >= shape.share), 1.0, np.inf).min(axis=1)
        else:
            least = np.where(c.size >= shape.count, 0.0, np.inf)
        able = want.rows & (cpu >= shape.cpu) & (memory >= shape.memory) & (least <= most)
        found = np.flatnonzero(able)
        order = np.lexsort((found, -c.cpu[found], least[found]))
        return [int(row) for row in found[order][: 4 * NODES_TRIED]]

    def _needed(self, want: _Want, row: int) -> list[int]:
        """Slots of members that stand in the way of the wanted one on this row, the largest first; [] if they cannot go."""
        r, c, shape = self.residents, self.columns, want.shape
        here = [s for s in r.on_row(row).tolist() if self.movable[s]]
        out: list[int] = []
        if shape.count and shape.share >= WHOLE:
            per: list[tuple[int, int, list[int]]] = []
            for place in range(int(c.size[row])):
                on = [s for s in here if r.places[s, place]]
                if int(c.free[row, place]) + sum(int(r.share[s]) for s in on) == WHOLE:
                    per.append((len(on), place, on))
            if len(per) < shape.count:
                return []
            for _, _, on in sorted(per)[: shape.count]:
                out += [s for s in on if s not in out]
        elif shape.count:
            mine = self._mine(shape)[row]
            ranked: list[tuple[int, int, list[int]]] = []
            for place in range(int(c.size[row])):
                free = int(c.free[row, place])
                chosen: list[int] = []
                for s in sorted((s for s in here if r.places[s, place]), key=lambda s: (-int(r.share[s]), r.name(s))):
                    if free >= shape.share and (mine[place] or free == WHOLE):
                        break
                    chosen.append(s)
                    free += int(r.share[s])
                if free >= shape.share and (mine[place] or free == WHOLE):
                    ranked.append((len(chosen), place, chosen))
            if not ranked:
                return []
            out = min(ranked)[2]
        cpu = int(c.cpu[row]) + sum(int(r.cpu[s]) for s in out)
        memory = int(c.memory[row]) + sum(int(r.memory[s]) for s in out)
        for s in sorted((s for s in here if s not in out), key=lambda s: (int(r.count[s]), -int(r.cpu[s]), r.name(s))):
            if cpu >= shape.cpu and memory >= shape.memory:
                break
            if (cpu < shape.cpu and r.cpu[s]) or (memory < shape.memory and r.memory[s]):
                out.append(s)
                cpu, memory = cpu + int(r.cpu[s]), memory + int(r.memory[s])
        if cpu < shape.cpu or memory < shape.memory:
            return []
        return sorted(out, key=lambda s: (-int(r.share[s] * r.count[s]), -int(r.cpu[s]), r.name(s)))
