"""Columns: the nodes of a zone as arrays, sorted by id, so that fitting and choosing cost a few vector operations. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from immutables import Map

from scheduler.clock import to_ms
from scheduler.job import FirmId
from scheduler.lease import LeaseId
from scheduler.node import Node, NodeId, PoolId
from scheduler.snapshot import RunningLease

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
WHOLE = 1000  # thousandths of a device
UNKNOWN = 1 << 60  # CPU or memory of a node that nobody has told: not checked
NOBODY, SEVERAL = 0, -1  # tenants of a device
_stamps = itertools.count(1)


@dataclass(frozen=True, slots=True, eq=False)
class NodeColumns:
    """Row i is one node in every array; column j of the two-dimensional ones is its j-th device.

    rows: per pool, its rows in ascending order (= ascending id). size: devices. free: thousandths of each device that no
    lease holds, 0 beyond the last device, below 0 where leases overlap. full: wholly free devices. cpu, memory: free milli-cores and bytes.
    tenant: NOBODY, the number of the one firm whose shares are on it, or SEVERAL. usable: schedulable.
    stamp: a number that no other content of this row has had, so that what was worked out from it can be kept.
    shared: leases of shares by device. by_row [4, rows] holds full, cpu, memory and stamp, by_device [2, rows, devices] free
    and tenant: these are views of them.
    """

    ids: tuple[NodeId, ...]
    row_of: Mapping[NodeId, int]
    rows: Mapping[PoolId, Ints]
    pool_of: tuple[PoolId, ...]
    devices: tuple[tuple[str, ...], ...]
    size: Ints
    usable: Flags
    firms: dict[FirmId, int]
    shared: Map[tuple[int, int], frozenset[tuple[LeaseId, FirmId]]]
    by_row: Ints
    by_device: npt.NDArray[np.int32]
    full: Ints = field(init=False)
    cpu: Ints = field(init=False)
    memory: Ints = field(init=False)
    stamp: Ints = field(init=False)
    free: npt.NDArray[np.int32] = field(init=False)
    tenant: npt.NDArray[np.int32] = field(init=False)

    def __post_init__(self) -> None:
        for name, column in zip(("full", "cpu", "memory", "stamp"), self.by_row, strict=True):
            object.__setattr__(self, name, column)
        object.__setattr__(self, "free", self.by_device[0])
        object.__setattr__(self, "tenant", self.by_device[1])

    def copy(self) -> NodeColumns:
        """The same content, whose arrays of what is free may be written."""
        return NodeColumns(
            self.ids, self.row_of, self.rows, self.pool_of, self.devices, self.size, self.usable, self.firms, self.shared,
            self.by_row.copy(), self.by_device.copy(),
        )  # fmt: skip

    def firm(self, firm: FirmId) -> int:
        """The firm's number here, from 1."""
        return self.firms.setdefault(firm, len(self.firms) + 1)

    def take(self, row: int, places: Iterable[int], share: int, cpu: int, memory: int, firm: FirmId) -> None:
        """Devices `places` of a row lose `share`, the row its CPU and memory. The arrays are written: only on a copy."""
        for place in places:
            self.full[row] -= self.free[row, place] == WHOLE
            self.free[row, place] -= share
            if share < WHOLE:
                self.tenant[row, place] = self.firm(firm)
        self.cpu[row] -= cpu
        self.memory[row] -= memory
        self.stamp[row] = next(_stamps)


def columns_of(nodes: Iterable[Node], leases: Iterable[RunningLease]) -> NodeColumns:
    """Columns of these nodes, less what the leases hold. Unknown CPU or memory counts as UNKNOWN."""
    found = sorted(nodes, key=lambda node: node.id)
    pools: dict[PoolId, list[int]] = {}
    for row, node in enumerate(found):
        pools.setdefault(node.pool, []).append(row)
    size = np.array([len(node.devices) for node in found], dtype=np.int64)
    width = int(size.max()) if len(found) else 0
    free = np.where(np.arange(width)[None, :] < size[:, None], WHOLE, 0).astype(np.int32)
    cpu = [UNKNOWN if n.cpu_milli is None else n.cpu_milli for n in found]
    memory = [UNKNOWN if n.memory_bytes is None else n.memory_bytes for n in found]
    columns = NodeColumns(
        ids=tuple(node.id for node in found),
        row_of={node.id: row for row, node in enumerate(found)},
        rows={pool: np.array(rows, dtype=np.int64) for pool, rows in pools.items()},
        pool_of=tuple(node.pool for node in found),
        devices=tuple(node.devices for node in found),
        size=size,
        usable=np.array([node.schedulable for node in found], dtype=np.bool_),
        firms={},
        shared=Map(),
        by_row=np.array([size, cpu, memory, [next(_stamps) for _ in found]], dtype=np.int64),
        by_device=np.array([free, np.zeros_like(free)]),
    )
    return with_leases(columns, (), leases)


def with_leases(columns: NodeColumns, gone: Iterable[RunningLease], come: Iterable[RunningLease]) -> NodeColumns:
    """Columns after leases have gone and others have come; those given are left as they are.

    A lease may hold devices that its node no longer reports and nodes that are not known: these count for nothing.
    """
    after = columns.copy()
    before = columns.shared
    holders: dict[tuple[int, int], frozenset[tuple[LeaseId, FirmId]]] = {}
    for sign, leases in ((1, gone), (-1, come)):
        for lease in leases:
            for member in lease.members:
                row = after.row_of.get(member.node)
                if row is None:
                    continue
                devices = after.devices[row]
                for device in set(member.devices):
                    place = _place_of(devices, device)
                    if place is None:
                        continue
                    was = after.free[row, place]
                    after.free[row, place] = now = was + sign * lease.share_permille
                    after.full[row] += int(now == WHOLE) - int(was == WHOLE)
                    if lease.share_permille < WHOLE:
                        key, holder = (row, place), frozenset([(lease.id, lease.firm)])
                        known = holders[key] if key in holders else before.get(key, frozenset())
                        holders[key] = known - holder if sign > 0 else known | holder
                after.cpu[row] += sign * lease.cpu_milli
                after.memory[row] += sign * lease.memory_bytes
                after.stamp[row] = next(_stamps)
    if not holders:
        return after
    shared = before.mutate()
    for (row, place), found in holders.items():
        firms = {firm for _, firm in found}
        after.tenant[row, place] = SEVERAL if len(firms) > 1 else after.firm(firms.pop()) if firms else NOBODY
        if found:
            shared[row, place] = found
        else:
            shared.pop((row, place), None)
    return replace(after, shared=shared.finish())


def _place_of(devices: tuple[str, ...], device: str) -> int | None:
    try:
        return devices.index(device)
    except ValueError:
        return None


def restamped(columns: NodeColumns, open_: Mapping[NodeId, bool]) -> NodeColumns:
    """The columns after these nodes have opened (True) or closed."""
    after, usable = columns.copy(), columns.usable.copy()
    for name, value in open_.items():
        row = after.row_of[name]
        usable[row] = value
        after.stamp[row] = next(_stamps)
    return replace(after, usable=usable)


RANK, QUEUE, STARTED, SAVED, SIZE, CPU, MEMORY, ENDS, STOPPING, SHARED = range(10)
NOT_YET = -1  # STARTED of a lease that starts still
LOGGED = 4096  # steps whose leases are written down and not yet sorted in


@dataclass(frozen=True, slots=True, eq=False)
class HeldTable:
    """Leases as columns sorted by id. facts [leases, 10] by the names above; members [m, 2] = (row, devices), grouped by
    lease in the same order, only those on known nodes; counts: of each lease.

    RANK: of the priority. STARTED, ENDS: ms since 1970; SAVED: what stopping it cannot take back any more. SIZE: devices, on
    unknown nodes too. CPU, MEMORY: of each member. STOPPING, SHARED: 1 or 0.
    """

    ids: npt.NDArray[np.object_]
    facts: Ints
    counts: Ints
    members: Ints

    def owner(self) -> Ints:
        """Of each member, the place of its lease."""
        return np.repeat(np.arange(len(self.counts), dtype=np.int64), self.counts)

    def releases(self) -> Ints:
        """[n, 3]: row, whole devices, and the latest end in ms (0: it was told to stop)."""
        owner = self.owner()
        keep = (self.members[:, 1] > 0) & (self.facts[owner, SHARED] == 0)
        owner = owner[keep]
        ends = np.where(self.facts[owner, STOPPING] == 1, 0, self.facts[owner, ENDS])
        return np.column_stack([self.members[keep], ends])

    def patched(
        self, net: Mapping[LeaseId, RunningLease | None], row_of: Mapping[NodeId, int], queue: Callable[[str], int]
    ) -> HeldTable:
        """The table once these leases are so (None: gone)."""
        ids, facts, counts, members = self.ids, self.facts, self.counts, self.members
        if len(ids) and net:
            names = np.array(sorted(net), dtype=object)
            at = np.searchsorted(ids, names)
            inside = at < len(ids)
            old = at[inside][ids[at[inside]] == names[inside]]
            if len(old):
                keep = np.ones(len(ids), dtype=np.bool_)
                keep[old] = False
                members = members[np.repeat(keep, counts)]
                ids, facts, counts = ids[keep], facts[keep], counts[keep]
        come = sorted((lease for lease in net.values() if lease is not None), key=lambda lease: lease.id)
        if not come:
            return HeldTable(ids, facts, counts, members)
        new = np.empty(len(come), dtype=object)
        new[:] = [lease.id for lease in come]
        where = [[(row_of[m.node], len(m.devices)) for m in lease.members if m.node in row_of] for lease in come]
        sizes = np.array([len(found) for found in where], dtype=np.int64)
        held = np.array([one for found in where for one in found], dtype=np.int64).reshape(-1, 2)
        rows = np.array([_facts(lease, queue(lease.queue)) for lease in come], dtype=np.int64)
        if not len(ids):
            return HeldTable(new, rows, sizes, held)
        places = np.searchsorted(ids, new)
        starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
        return HeldTable(
            np.insert(ids, places, new),
            np.insert(facts, places, rows, axis=0),
            np.insert(counts, places, sizes),
            np.insert(members, np.repeat(starts[places], sizes), held, axis=0),
        )


def _facts(lease: RunningLease, queue: int) -> tuple[int, ...]:
    started = NOT_YET if lease.started_at is None else to_ms(lease.started_at)
    saved = started
    if lease.checkpointed_at is not None:
        saved = max(to_ms(lease.checkpointed_at), started)
    return (
        lease.priority.rank, queue, started, saved, sum(len(member.devices) for member in lease.members), lease.cpu_milli,
        lease.memory_bytes, to_ms(lease.ends_by), lease.stopping, lease.share_permille < WHOLE,
    )  # fmt: skip


NO_LEASES = HeldTable(
    np.empty(0, dtype=object), np.zeros((0, 10), dtype=np.int64), np.zeros(0, dtype=np.int64),
    np.zeros((0, 2), dtype=np.int64),
)  # fmt: skip
_Log = tuple["_Log | None", tuple[RunningLease, ...], tuple[RunningLease, ...]]


@dataclass(slots=True, eq=False)
class Held:
    """The table of the leases, written when it is asked for: most steps never ask. Its content never changes."""

    _table: HeldTable = NO_LEASES
    _log: _Log | None = None
    _length: int = 0

    def changed(
        self,
        gone: Iterable[RunningLease],
        come: Iterable[RunningLease],
        row_of: Mapping[NodeId, int],
        queue: Callable[[str], int],
    ) -> Held:
        """After leases have gone and others have come."""
        if self._length >= LOGGED:
            self.table(row_of, queue)
        return Held(self._table, (self._log, tuple(gone), tuple(come)), self._length + 1)

    def table(self, row_of: Mapping[NodeId, int], queue: Callable[[str], int]) -> HeldTable:
        """The leases as columns. row_of: of the nodes that these leases were held under all along."""
        if self._log is None:
            return self._table
        log: list[_Log] = []
        entry: _Log | None = self._log
        while entry is not None:
            log.append(entry)
            entry = entry[0]
        net: dict[LeaseId, RunningLease | None] = {}
        for _, gone, come in reversed(log):
            net |= {lease.id: None for lease in gone}
            net |= {lease.id: lease for lease in come}
        self._table = self._table.patched(net, row_of, queue)
        self._log, self._length = None, 0
        return self._table


NOTHING_HELD = Held()
