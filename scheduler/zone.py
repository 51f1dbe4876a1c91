"""Zone: what follows from the pools and the nodes alone, worked out once until one of them changes. Pure.

It also keeps what was worked out before (scores, counts, ways). None of that is a fact: each is checked against what it
was made from, so a zone may be shared by any number of states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adapters.catalog import load_catalog
from scheduler.backfill import FOREVER
from scheduler.capacity import Capacity
from scheduler.columns import UNKNOWN, Ints, NodeColumns
from scheduler.job import Alternative
from scheduler.node import Images, Node, NodeId, Pool, PoolId
from scheduler.packing import Packing
from scheduler.plan import Candidate
from scheduler.shape import WHOLE, JobClass, MemberShape
from scheduler.snapshot import MixShape, WaitingJob
from scheduler.topology import INSIDE, LEVELS, largest_group, level_of, parts
from scheduler.waiting import Registry


@dataclass(frozen=True, slots=True)
class Way:
    """One alternative of a class in one pool it could run in, were everything free."""

    alternative: int
    pool: Pool
    number: int
    shape: MemberShape
    least: int


class ClassTable:
    """ways: by class number. The same as columns, by class: cls, shape (its number in the capacity), pool, least (nodes).

    pair: shape and pool as one number, the place in the capacity's counts. books: it may have a reservation, so it is of
    whole devices. need: of each class, the devices its smallest gang takes; FOREVER: it has no way. some: classes with any
    way, starts: their first. whole: classes that share no device. known: of a part, the numbers of its classes.
    """

    def __init__(self) -> None:
        self.count = 0
        self.ways: list[tuple[Way, ...]] = []
        self.known: Ints | None = None
        self.cls = self.shape = self.pool = self.least = self.pair = self.devices = np.zeros(0, dtype=np.int64)
        self.some = self.starts = self.need = np.zeros(0, dtype=np.int64)
        self.whole: npt.NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)
        self.books: npt.NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)

    def extend(self, zone: Zone, registry: Registry, columns: NodeColumns) -> None:
        """Every class of the registry is in."""
        if self.count == len(registry.known):
            return
        new = registry.known[self.count :]
        capacity = zone.capacity()
        numbers = range(self.count, self.count + len(new))
        self.ways += [zone.ways_of(number, registry) for number in numbers]
        capacity.add([way.shape for number in numbers for way in self.ways[number]], columns)
        rows = [(n, capacity.codes[w.shape], w.number, w.least) for n in numbers for w in self.ways[n]]
        self.count = len(registry.known)
        table = np.array(rows, dtype=np.int64).reshape(-1, 4)
        old = (self.cls, self.shape, self.pool, self.least)
        self.cls, self.shape, self.pool, self.least = (np.concatenate([c, table[:, i]]) for i, c in enumerate(old))
        self.pair = self.shape * len(zone.pools) + self.pool
        some, starts = np.unique(table[:, 0], return_index=True)
        self.some = np.concatenate([self.some, some])
        self.starts = np.concatenate([self.starts, starts + len(old[0])])
        self.need = np.full(self.count, FOREVER, dtype=np.int64)
        if len(self.starts):
            devices = np.concatenate([self.devices, np.array([w.shape.count for n in numbers for w in self.ways[n]])])
            self.devices = devices.astype(np.int64)
            self.need[self.some] = np.minimum.reduceat(self.devices * self.least, self.starts)
        self.whole = np.concatenate([self.whole, np.array([one.share >= WHOLE for one in new], dtype=np.bool_)])
        fresh = [w.shape.count > 0 and w.shape.share >= WHOLE for n in numbers for w in self.ways[n]]
        self.books = np.concatenate([self.books, np.array(fresh, dtype=np.bool_)])

    def place(self, number: int) -> int | None:
        """Where the class stands in this table; None: it is not in it."""
        if self.known is None:
            return number
        found = int(np.searchsorted(self.known, number))
        return found if found < len(self.known) and self.known[found] == number else None

    def part(self, known: Ints) -> ClassTable:
        """The table of these classes alone (ascending), numbered from 0; its `ways` are not there."""
        found = ClassTable()
        found.count, found.known, found.whole, found.need = len(known), known, self.whole[known], self.need[known]
        first = np.searchsorted(self.cls, known)
        lengths = np.searchsorted(self.cls, known, side="right") - first
        ends = np.cumsum(lengths)
        rows = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(first - (ends - lengths), lengths)
        found.cls = np.repeat(np.arange(len(known)), lengths)
        found.shape, found.pool, found.least = self.shape[rows], self.pool[rows], self.least[rows]
        found.pair, found.books = self.pair[rows], self.books[rows]
        found.some = np.flatnonzero(lengths)
        found.starts = (ends - lengths)[found.some]
        return found

    def most(self, values: Ints, none: int) -> Ints:
        """Per class, the most of these values of its ways; `none` where it has no way."""
        found = np.full(self.count, none, dtype=np.int64)
        if len(self.starts):
            found[self.some] = np.maximum.reduceat(values, self.starts)
        return found


class Zone:
    """pools in ascending order of id; a pool's number is its place there."""

    def __init__(self, pools: Mapping[PoolId, Pool], nodes: Mapping[NodeId, Node], columns: NodeColumns) -> None:
        self.pools: tuple[Pool, ...] = tuple(pools[p] for p in sorted(pools) if p in columns.rows)
        self.numbers = {pool.id: number for number, pool in enumerate(self.pools)}
        self.row_count = len(columns.ids)
        self.rows: tuple[Ints, ...] = tuple(columns.rows[pool.id] for pool in self.pools)
        self.size = columns.size
        self.pool_of = np.array([self.numbers.get(name, len(self.pools)) for name in columns.pool_of], dtype=np.int64)
        self._nodes = nodes
        self._ids = columns.ids
        self._models = [pools[p].model if p in pools else "" for p in columns.pool_of]
        self._width = columns.free.shape[1]
        self._capacity: Capacity | None = None
        self._by_number: list[tuple[Way, ...] | None] = []
        self._pairs: dict[object, list[tuple[int, int]]] = {}
        self._sizes: dict[tuple[int, int, str | None], int] = {}
        self._parts: dict[tuple[int, str], tuple[Ints, ...]] = {}
        self._ways: dict[JobClass, tuple[Way, ...]] = {}
        self._within: dict[tuple[int, ...], Ints] = {}
        self._masks: dict[tuple[int, ...], npt.NDArray[np.bool_]] = {}
        self._packing: tuple[tuple[MixShape, ...], Packing] | None = None
        self._domains: Mapping[str, Ints] | None = None
        self._totals: tuple[Ints, Ints] | None = None
        self._links = {
            row: node.links for row, node in enumerate(nodes[name] for name in columns.ids) if len(set(node.links)) > 1
        }
        self._classes = ClassTable()
        self.offers: dict[tuple[int, int, int, bool], dict[tuple[object, ...], Candidate]] = {}

    def links(self, row: int) -> tuple[int, ...]:
        """The fast-link group of each device of the row; () where there is only one."""
        return self._links.get(row, ())

    def totals(self) -> tuple[Ints, Ints]:
        """Milli-cores and bytes of every row when nothing runs there."""
        if self._totals is None:
            nodes = [self._nodes[name] for name in self._ids]
            cpu = [UNKNOWN if n.cpu_milli is None else n.cpu_milli for n in nodes]
            memory = [UNKNOWN if n.memory_bytes is None else n.memory_bytes for n in nodes]
            self._totals = (np.array(cpu, dtype=np.int64), np.array(memory, dtype=np.int64))
        return self._totals

    def classes(self, registry: Registry, columns: NodeColumns) -> ClassTable:
        """The ways of every class that the registry knows, as columns."""
        self._classes.extend(self, registry, columns)
        return self._classes

    def packing(self, mix: tuple[MixShape, ...]) -> Packing:
        """Scores under this mix; the last mix asked for is kept."""
        if self._packing is None or (self._packing[0] is not mix and self._packing[0] != mix):
            self._packing = (mix, Packing(mix, self._models, self._width))
        return self._packing[1]

    def capacity(self) -> Capacity:
        """Counts of nodes by pool number."""
        if self._capacity is None:
            by_pool = {pool.id: rows for pool, rows in zip(self.pools, self.rows, strict=True)}
            self._capacity = Capacity(by_pool, [pool.id for pool in self.pools], self.row_count)
        return self._capacity

    def ways(self, found: JobClass) -> tuple[Way, ...]:
        """Where jobs of the class could run if every node were free and schedulable, by alternative, then pool."""
        known = self._ways.get(found)
        if known is None:
            known = self._ways[found] = tuple(self._ways_of(found))
        return known

    def ways_of(self, number: int, registry: Registry) -> tuple[Way, ...]:
        """The same, by the number of the class."""
        if len(self._by_number) <= number:
            self._by_number += [None] * (len(registry.known) - len(self._by_number))
        known = self._by_number[number]
        if known is None:
            known = self._by_number[number] = self.ways(registry.known[number])
        return known

    def mask(self, numbers: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Rows of these pools."""
        key = tuple(numbers)
        if key not in self._masks:
            mask = np.zeros(self.row_count, dtype=np.bool_)
            for number in key:
                mask[self.rows[number]] = True
            self._masks[key] = mask
        return self._masks[key]

    def within(self, numbers: Sequence[int]) -> Ints:
        """Rows of these pools, ascending."""
        if len(numbers) == 1:
            return self.rows[numbers[0]]
        key = tuple(numbers)
        if key not in self._within:
            self._within[key] = np.sort(np.concatenate([self.rows[number] for number in key]))
        return self._within[key]

    def domains(self) -> Mapping[str, Ints]:
        """By level of topology, the domain of every row; -1 where nobody has told."""
        if self._domains is None:
            nodes = [self._nodes[name] for name in self._ids]
            racks: dict[str, int] = {}
            regions: dict[str, int] = {}
            region = {pool.id: pool.region for pool in self.pools}
            rack = [-1 if n.rack is None else racks.setdefault(f"{n.pool}/{n.rack}", len(racks)) for n in nodes]
            where = [-1 if n.pool not in region else regions.setdefault(region[n.pool], len(regions)) for n in nodes]
            found = {"node": np.arange(len(nodes)), "rack": np.array(rack), "region": np.array(where)}
            self._domains = {level: found.get(level, found["node"]).astype(np.int64) for level in LEVELS}
        return self._domains

    def _ways_of(self, found: JobClass) -> list[Way]:
        key = (found.request.alternatives, found.stacks, found.images)
        if key not in self._pairs:
            self._pairs[key] = [
                (index, number)
                for index, alternative in enumerate(found.request.alternatives)
                for number, pool in enumerate(self.pools)
                if matches(alternative, pool) and runs_on(found, pool) and images_fit(found, pool)
            ]
        shapes = [found.shape(alternative) for alternative in found.request.alternatives]
        return [
            Way(index, self.pools[number], number, shapes[index], found.least)
            for index, number in self._pairs[key]
            if self.most(number, shapes[index].count, found.request.topology_required) >= found.least
        ]

    def parts(self, number: int, required: str | None) -> tuple[Ints, ...]:
        """The places in the pool's rows within which a gang must keep that requires this level, by domain; else all at once."""
        if required is None or required in INSIDE or level_of(required) == "region":
            return (np.arange(len(self.rows[number]), dtype=np.int64),)
        key = (number, level_of(required))
        if key not in self._parts:
            self._parts[key] = parts(self.domains()[key[1]][self.rows[number]])
        return self._parts[key]

    def most(self, number: int, count: int, required: str | None = None) -> int:
        """The most nodes of the pool with so many devices, free or not, that a gang of this requirement could have."""
        key = (number, count, required)
        if key not in self._sizes:
            rows = self.rows[number]
            large = self.size[rows] >= count
            if required in INSIDE[1:] and self._links:
                groups = (largest_group(self.links(row), int(self.size[row])) for row in rows.tolist())
                large &= np.fromiter(groups, dtype=np.int64, count=len(rows)) >= count
            self._sizes[key] = max((int(large[part].sum()) for part in self.parts(number, required)), default=0)
        return self._sizes[key]


def matches(alternative: Alternative, pool: Pool) -> bool:
    """The pool's model, origin and memory are what is asked for; unknown memory matches no demand for memory."""
    if alternative.models and pool.model not in alternative.models:
        return False
    if alternative.origin is not None and pool.origin is not alternative.origin:
        return False
    least = alternative.memory_bytes_min
    return least is None or (pool.memory_bytes is not None and pool.memory_bytes >= least)


def runs_on(job: WaitingJob | JobClass, pool: Pool) -> bool:
    """The job has a command for the pool's software stack (stacks (): one for all)."""
    if not job.stacks:
        return True
    chip = load_catalog().get(pool.model)
    return chip is not None and chip.stack in job.stacks


def images_fit(job: WaitingJob | JobClass, pool: Pool) -> bool:
    """The job names a container image for the pool's software stack where images are run, and none where they are not."""
    if pool.images is Images.EITHER:
        return True
    if not job.images:
        return pool.images is Images.NONE
    chip = load_catalog().get(pool.model)
    return (chip is not None and chip.stack in job.images) is (pool.images is Images.REQUIRED)
