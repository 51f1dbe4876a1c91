"""Topology: which rows a gang gets, and which devices of a node, by how well they are connected. Pure.

Levels, from the closest: node, group (NVLink or HCCS between nodes), rack, region. `required`: all members in one domain of
that level, or not at all. `preferred`: as few domains of that level as possible, and these within the closest level that
allows so few. Source: the required and preferred topologies of Kueue's topology-aware scheduling, with fewest domains
proven rather than tried level by level. Inside a node, devices that share a fast link go together.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from scheduler.columns import Ints

LEVELS = ("node", "group", "rack", "region")
INSIDE = ("node", "nvlink", "hccs")  # what a job file asks of each member's own node
SPELLINGS = {"nvlink": "group", "hccs": "group", "site": "region"}
UNKNOWN = -1  # a row whose domain is not known: it shares one with no other row


class TopologyError(ValueError):
    """A level that does not exist: its spelling and the nearest one that does."""


def level_of(word: str) -> str:
    """The level a job file's word means."""
    level = SPELLINGS.get(word, word)
    if level not in LEVELS:
        near = difflib.get_close_matches(word, (*LEVELS, *SPELLINGS), n=1, cutoff=0.0)[0]
        raise TopologyError(f"topology: {word!r} is no level; nearest: {near}")
    return level


def choose(
    rows: Ints,
    capacity: Ints,
    domains: Mapping[str, Ints],
    nodes: int,
    required: str | None,
    preferred: str | None,
    score: npt.NDArray[np.generic],
) -> Ints | None:
    """The rows of the gang's members, ascending; a row that hosts several comes as often. None = no room as required.

    capacity: members each row can host; domains: per level, of each row, UNKNOWN where it is not known; score: of each row,
    lower is better. All run along `rows`. Level node needs no entry; a level without one is unknown for every row. Among
    equals: the lower score, then the domain it fills best, then the lower domain and row. Raises TopologyError for a level
    that does not exist.
    """
    outer = level_of(required) if required else None
    inner = level_of(preferred) if preferred else None
    room = np.minimum(np.maximum(capacity, 0), nodes)
    able = room > 0
    if nodes < 1 or int(room.sum()) < nodes:
        return None
    table = _Rows(rows[able], room[able], {k: v[able] for k, v in domains.items()}, nodes, score[able])
    within = np.zeros(len(table.rows), dtype=np.int64)
    if outer is not None:
        within = table.domains(outer)
        known = table.known(outer)
        table, within = table.only(known), within[known]
        if not len(table.rows):
            return None
    if inner is None:
        chosen = table.best(within)
        return None if chosen is None else table.fill(np.flatnonzero(within == chosen))
    return _fewest(table, within, inner)


def parts(domain: Ints) -> tuple[Ints, ...]:
    """Of each known domain, in ascending order, the places of its rows."""
    known = np.flatnonzero(domain != UNKNOWN)
    order = known[np.argsort(domain[known], kind="stable")]
    if not len(order):
        return ()
    return tuple(np.split(order, np.flatnonzero(np.diff(domain[order])) + 1))


def largest_group(links: Sequence[int], size: int) -> int:
    """The most devices of a node that share one fast link. links: of each device, its group; () = all in one."""
    return max(Counter(links).values()) if links else size


def devices(free: Sequence[int], links: Sequence[int], count: int, required: bool = False) -> tuple[int, ...] | None:
    """`count` of the free device indices, ascending: of one link group where one has enough, else of the fewest groups.

    links: of each device of the node, its group; () = all in one. Among groups that suffice the smallest is taken, so that
    large ones stay whole. required: of one group or None. None when fewer are free. Raises TopologyError for an index
    without a group.
    """
    if links and free and not 0 <= min(free) <= max(free) < len(links):
        raise TopologyError(f"links: {len(links)} entries for device {max(free)}; nearest: one entry for each device")
    groups: dict[int, list[int]] = {}
    for index in sorted(set(free)):
        groups.setdefault(links[index] if links else 0, []).append(index)
    taken: list[int] = []
    while len(taken) < count:
        missing = count - len(taken)
        enough = [g for g, found in groups.items() if len(found) >= missing]
        if not enough and (required or not groups):
            return None
        best = (
            min(enough, key=lambda g: (len(groups[g]), g))
            if enough
            else min(groups, key=lambda g: (-len(groups[g]), g))
        )
        taken += groups.pop(best)[:missing]
    return tuple(sorted(taken))


class _Rows:
    """Rows that can host a member, with their domains."""

    def __init__(
        self, rows: Ints, room: Ints, given: Mapping[str, Ints], nodes: int, score: npt.NDArray[np.generic]
    ) -> None:
        self.rows, self.room, self.given, self.nodes = rows, room, given, nodes
        self.score = score.astype(np.float64)
        self.order = np.lexsort((rows, self.score))

    def only(self, keep: npt.NDArray[np.bool_]) -> _Rows:
        given = {k: v[keep] for k, v in self.given.items()}
        return _Rows(self.rows[keep], self.room[keep], given, self.nodes, self.score[keep])

    def known(self, level: str) -> npt.NDArray[np.bool_]:
        if level == "node":
            return np.ones(len(self.rows), dtype=np.bool_)
        return self.domains(level) >= 0

    def domains(self, level: str) -> Ints:
        """Of each row, its domain; each unknown one a negative number of its own, the same in whatever order the rows come."""
        if level == "node":
            return self.rows
        given = self.given.get(level)
        if given is None:
            return -1 - self.rows
        return np.where(given == UNKNOWN, -1 - self.rows, given)

    def best(self, domain: Ints, among: Ints | None = None, wanted: int | None = None) -> int | None:
        """The domain that hosts `wanted` members at the lowest score, then with the least room left; None if none does."""
        need = self.nodes if wanted is None else wanted
        ids, at = np.unique(domain, return_inverse=True)
        room = np.bincount(at, weights=self.room, minlength=len(ids)).astype(np.int64)
        fits = room >= need
        if among is not None:
            fits &= np.isin(ids, among)
        if not fits.any():
            return None
        order = self.order[np.argsort(at[self.order], kind="stable")]  # by domain, then by score
        group = at[order]
        before = _ahead(self.room[order], group)
        used = np.clip(need - before, 0, self.room[order])
        total = np.bincount(group, weights=used * self.score[order], minlength=len(ids))
        able = np.flatnonzero(fits)
        return int(ids[able[np.lexsort((ids[able], room[able], np.round(total[able], 9)))[0]]])

    def fill(self, at: Ints, wanted: int | None = None) -> Ints:
        """The best rows among these positions, for `wanted` members; ascending."""
        need = self.nodes if wanted is None else wanted
        allowed = np.zeros(len(self.rows), dtype=np.bool_)
        allowed[at] = True
        order = self.order[allowed[self.order]]
        room = self.room[order]
        used = np.clip(need - (np.cumsum(room) - room), 0, room)
        assert used.sum() == need, "the caller saw that there is room"
        return np.sort(np.repeat(self.rows[order], used))


def _fewest(table: _Rows, within: Ints, inner: str) -> Ints | None:
    """As few domains of level `inner` as possible inside one domain of `within`, and these as close together as possible."""
    domain = table.domains(inner)
    best: tuple[int, npt.NDArray[np.bool_]] | None = None
    for level in (*LEVELS[LEVELS.index(inner) :], None):
        outer = within if level is None else _pairs(within, table.domains(level))
        ids, count = _domains_needed(table, outer, domain)
        least = int(count.min(initial=len(table.rows) + 1))
        if len(ids) and (best is None or least < best[0]):
            chosen = table.best(outer, ids[count == least])
            assert chosen is not None, "a domain that needs so few has the room"
            best = least, outer == chosen
    if best is None:
        return None
    count_, inside = best
    part, domain = table.only(inside), domain[inside]
    ids, at = np.unique(domain, return_inverse=True)
    room = np.bincount(at, weights=part.room, minlength=len(ids)).astype(np.int64)
    total = np.bincount(at, weights=part.room * part.score, minlength=len(ids))
    roomiest = ids[np.lexsort((ids, np.round(total, 9), -room))[: count_ - 1]]  # all but the last are taken whole
    whole = np.isin(domain, roomiest)
    filled = np.repeat(part.rows[whole], part.room[whole])
    last = part.only(~whole)
    missing = table.nodes - len(filled)
    found = last.best(domain[~whole], wanted=missing)
    assert found is not None, "so many domains have the room"
    return np.sort(np.concatenate([filled, last.fill(np.flatnonzero(domain[~whole] == found), missing)]))


def _domains_needed(table: _Rows, outer: Ints, inner: Ints) -> tuple[Ints, Ints]:
    """The outer domains with room for the gang, and how many inner ones each takes when the roomiest come first."""
    ids, group = np.unique(outer, return_inverse=True)
    pair, first, at = np.unique(_pairs(outer, inner), return_index=True, return_inverse=True)
    room = np.bincount(at, weights=table.room, minlength=len(pair)).astype(np.int64)
    order = np.lexsort((-room, group[first]))
    of = group[first][order]
    needed = np.bincount(of, weights=_ahead(room[order], of) < table.nodes, minlength=len(ids)).astype(np.int64)
    enough = np.bincount(group, weights=table.room, minlength=len(ids)) >= table.nodes
    return ids[enough], needed[enough]


def _ahead(room: Ints, group: Ints) -> Ints:
    """The sum of the room before each entry within its group; the entries of a group are adjacent."""
    total = np.cumsum(room) - room
    first = np.r_[True, group[1:] != group[:-1]]
    return total - total[np.maximum.accumulate(np.where(first, np.arange(len(room)), 0))]


def _pairs(a: Ints, b: Ints) -> Ints:
    """One number for each pair of domains, ascending with the pair."""
    _, first = np.unique(a, return_inverse=True)
    ids, second = np.unique(b, return_inverse=True)
    return (first * len(ids) + second).astype(np.int64)
