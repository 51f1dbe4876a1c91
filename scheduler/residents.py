"""Residents: the members of running leases as columns, row by row, kept from plan to plan. Pure.

What is kept is checked lease by lease against the state that asks, so any state may ask in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from scheduler.clock import to_ms
from scheduler.columns import WHOLE, Flags, Ints, NodeColumns
from scheduler.job import FirmId
from scheduler.lease import LeaseId, Member
from scheduler.making_room import MINIMUM_MS
from scheduler.node import PoolId
from scheduler.shape import JobClass, MemberShape, class_of
from scheduler.snapshot import RunningLease
from scheduler.zone import Zone

if TYPE_CHECKING:
    from scheduler.engine import State
    from scheduler.workspace import Workspace

Floats = npt.NDArray[np.float64]
NEVER = 1 << 62  # in ms since 1970: it may not be moved at any time


@dataclass(frozen=True, slots=True)
class Kind:
    """Members of one kind may move to the same places. alone: the only member of its gang; by_model: its pace depends on it."""

    shape: MemberShape
    job: JobClass | None
    pool: PoolId
    firm: FirmId
    alone: bool
    by_model: bool


class Residents:
    """Slot i is the same member in every array. row: -1 = the slot is free. place: its first device, places: all of them.

    kind: its number in `kinds`. since: from when on it may be moved, ms since 1970. shapes, ranks: of the kinds, what each wants
    and its place in an order that does not depend on which was seen first.
    """

    def __init__(self, width: int) -> None:
        self.row, self.place, self.count, self.share, self.cpu, self.memory, self.kind, self.since = (
            np.full(64, fill, dtype=np.int64) for fill in (-1, 0, 0, 0, 0, 0, 0, NEVER)
        )
        self.places: Flags = np.zeros((64, width), dtype=np.bool_)
        self.kinds: list[Kind] = []
        self.shapes = np.zeros((0, 4), dtype=np.int64)
        self.ranks = np.zeros(0, dtype=np.int64)
        self._numbers: dict[Kind, int] = {}
        self._names: list[tuple[LeaseId, int]] = []
        self._spare: list[int] = []
        self._known: dict[LeaseId, RunningLease] = {}
        self._slots: dict[LeaseId, list[int]] = {}
        self._leases: Mapping[LeaseId, RunningLease] | None = None
        self._terms: object = None
        self._pools: dict[int, tuple[int, ...]] = {}
        self._stamp = np.zeros(0, dtype=np.int64)
        self._vain: set[object] = set()

    def follow(self, state: State, columns: NodeColumns) -> None:
        """The members are those of this state."""
        leases = state.leases
        if leases is self._leases:
            return
        known = self._known
        come = [lease for name, lease in leases.items() if known.get(name) is not lease]
        gone = [lease.id for lease in come if lease.id in known]
        if len(known) - len(gone) + len(come) != len(leases):
            gone += [name for name in known if name not in leases]
        for name in gone:
            del known[name]
            for slot in self._slots.pop(name):
                self.row[slot], self.since[slot] = -1, NEVER
                self._spare.append(slot)
        for lease in come:
            known[lease.id] = lease
            self._slots[lease.id] = [self._add(lease, member, columns) for member in lease.members]
        self._leases = leases
        self._vain = set()
        if len(self.shapes) != len(self.kinds):
            found = [(k.shape.count, k.shape.share, k.shape.cpu, k.shape.memory) for k in self.kinds]
            self.shapes = np.array(found, dtype=np.int64).reshape(-1, 4)
            self.ranks = np.argsort(np.argsort([repr(k) for k in self.kinds]))

    def name(self, slot: int) -> tuple[LeaseId, int]:
        """The lease of the member in a slot, and its rank."""
        return self._names[slot]

    def slots(self, names: Iterable[str]) -> list[int]:
        """The slots of these leases' members."""
        return [slot for name in names for slot in self._slots.get(LeaseId(name), ())]

    def order(self, slots: Ints, first: Ints | Floats, then: Ints | Floats) -> Ints:
        """How to sort these slots by two keys; those alike by place and kind, whoever was seen first."""
        return np.lexsort((self.ranks[self.kind[slots]], self.place[slots], self.row[slots], then, first))

    def on_row(self, row: int) -> Ints:
        """Slots of the members on a row."""
        return np.flatnonzero(self.row == row)

    def pools(self, number: int, work: Workspace) -> tuple[int, ...]:
        """Pools where members of this kind may be: those in which their job could have started at the same terms."""
        if self._terms is not work.state.terms:
            self._terms, self._pools = work.state.terms, {}
            self._vain.clear()
        if number not in self._pools:
            self._pools[number] = tuple(_pools(self.kinds[number], work))
        return self._pools[number]

    def vain(self, columns: NodeColumns) -> set[object]:
        """What was looked for in vain among these leases on rows with exactly this content."""
        if not np.array_equal(self._stamp, columns.stamp):
            self._stamp, self._vain = columns.stamp.copy(), set()
        return self._vain

    def _add(self, lease: RunningLease, member: Member, columns: NodeColumns) -> int:
        slot = self._spare.pop() if self._spare else len(self._names)
        if slot == len(self.row):
            self._grow()
        if slot == len(self._names):
            self._names.append((lease.id, member.rank))
        self._names[slot] = (lease.id, member.rank)
        row = columns.row_of.get(member.node, -1)
        held = columns.devices[row] if row >= 0 else ()
        at = [held.index(name) for name in dict.fromkeys(member.devices) if name in held]
        number = self._number(lease, member)
        ready = row >= 0 and len(at) == len(member.devices) and self.kinds[number].job is not None
        self.row[slot], self.kind[slot] = row, number
        self.since[slot] = _movable_since(lease) if ready else NEVER
        self.count[slot], self.share[slot] = len(at), lease.share_permille
        self.cpu[slot], self.memory[slot] = lease.cpu_milli, lease.memory_bytes
        self.places[slot] = False
        self.places[slot, at] = True
        self.place[slot] = min(at, default=0)
        return slot

    def _grow(self) -> None:
        self.row, self.place, self.count, self.share, self.cpu, self.memory, self.kind, self.since = (
            np.concatenate([column, np.full_like(column, fill)])
            for column, fill in (
                (self.row, -1), (self.place, 0), (self.count, 0), (self.share, 0), (self.cpu, 0), (self.memory, 0),
                (self.kind, 0), (self.since, NEVER),
            )
        )  # fmt: skip
        self.places = np.concatenate([self.places, np.zeros_like(self.places)])

    def _number(self, lease: RunningLease, member: Member) -> int:
        """The number of the member's kind; job: None where the lease may never be moved."""
        again = lease.again if lease.checkpoint_interval_ms is not None else None
        if again is not None and (again.request.topology_required is not None or again.nodes != len(lease.members)):
            again = None
        firm = lease.firm if lease.share_permille < WHOLE else None
        shape = MemberShape(len(member.devices), lease.share_permille, lease.cpu_milli, lease.memory_bytes, firm)
        alone = len(lease.members) == 1
        job = class_of(again) if again is not None and alone else None
        kind = Kind(shape, job, lease.pool, lease.firm, alone, again is not None and again.workload is not None)
        number = self._numbers.get(kind)
        if number is None:
            number = self._numbers[kind] = len(self.kinds)
            self.kinds.append(kind)
        return number


_KEPT: WeakKeyDictionary[Zone, Residents] = WeakKeyDictionary()


def residents_of(work: Workspace) -> Residents:
    """The members of the leases that the workspace knows."""
    found = _KEPT.get(work.zone)
    if found is None:
        found = _KEPT[work.zone] = Residents(work.columns.free.shape[1])
    found.follow(work.state, work.columns)
    return found


def _movable_since(lease: RunningLease) -> int:
    """Once it has had its guaranteed minimum; while it starts or stops, never."""
    if lease.started_at is None or lease.stopping:
        return NEVER
    return to_ms(lease.started_at) + MINIMUM_MS


def _pools(kind: Kind, work: Workspace) -> Iterable[int]:
    zone = work.zone
    own = zone.numbers.get(kind.pool)
    if own is None or kind.job is None:
        return
    here = _terms(kind, own, work)
    for number in sorted({way.number for way in zone.ways(kind.job) if way.shape == kind.shape}):
        if number == own or _terms(kind, number, work) == here:
            yield number


def _terms(kind: Kind, number: int, work: Workspace) -> tuple[object, ...]:
    """What must be the same after a move: money, the class of chip that the voucher pays for, where the data lies, the pace."""
    pool = work.zone.pools[number]
    terms = work.state.terms.get((kind.firm, pool.id))
    money = None if terms is None else (terms.price_fen_per_device_hour, terms.rate_bp, terms.shadow_price_permille)
    model = pool.model if kind.by_model else None
    return (
        pool.price_fen_per_device_hour,
        money,
        pool.origin,
        pool.region,
        pool.site,
        pool.provider,
        pool.backend,
        model,
    )
