"""Workspace: what changes while one plan is made: free devices, quotas, places kept, reservations. Never shared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from scheduler.backfill import FOREVER, Timeline
from scheduler.capacity import Capacity
from scheduler.clock import to_ms
from scheduler.columns import NodeColumns
from scheduler.making_room import Stops
from scheduler.netcost import candidate
from scheduler.packing import Packing
from scheduler.plan import Candidate, Migration, Preempt
from scheduler.policy import Ints, Policy
from scheduler.quota import Quotas, Standing
from scheduler.shape import WHOLE, class_of, least_nodes
from scheduler.snapshot import Terms, WaitingJob
from scheduler.waiting import CLASS, DEVICES, GATED, LIMIT, QUEUE
from scheduler.zone import ClassTable, Way, Zone

if TYPE_CHECKING:
    from scheduler.engine import State

Flags = npt.NDArray[np.bool_]
NO_QUOTAS = Quotas(())


class Workspace:
    """What is left as the plan is made.

    blocked: per pool (by number), jobs that wait there and let nobody pass. booked: jobs with a reservation there.
    closing: per row, the instant from which it is reserved or under maintenance; None while there is none.
    bookings: of each job with a reservation, when it starts.
    tests: jobs tried in vain since the first reservation.
    """

    def __init__(self, state: State, policy: Policy) -> None:
        zone = state.zone if state.zone is not None else Zone(state.pools, state.nodes, state.columns)
        self.state, self.policy, self.zone = state, policy, zone
        self.now_ms = to_ms(state.now)
        self.columns: NodeColumns = state.columns
        self._own = False
        self.packing: Packing = zone.packing(state.mix)
        quotas = Quotas(state.queues.values()) if state.queues else NO_QUOTAS
        self.most = quotas.most
        self.quotas: Standing = quotas.standing(state.used)
        self.blocked: dict[int, int] = {}
        self.booked: dict[int, int] = {}
        self.closing: Ints | None = _maintenance(state) if state.maintenance else None
        self.bookings: dict[str, int] = {}
        self.profiles = state.registry.profiles(state.throughputs)
        self.tests = 0
        self.preempts: list[Preempt] = []
        self.stops = Stops(self)
        self.migrations: list[Migration] = []
        self._timelines: dict[int, Timeline] = {}
        self._starts: list[tuple[int, int, int]] = []
        self._tried: dict[int, int] = {}
        self._moved = False
        self._reserved: dict[int, Ints] = {}
        self._priced_job: WaitingJob | None = None
        self._priced: dict[object, Candidate] = {}
        self._unbooked: list[tuple[WaitingJob, Sequence[Way]]] = []

    # --- fit --------------------------------------------------------------------------------------------------------

    def score(self, ways: Sequence[Way], job: WaitingJob) -> tuple[npt.NDArray[np.float64], Ints]:
        """Per row, how well a member fits (-inf: not, or not for as long as the job may run) and the place of a share.

        The ways want the same of a node. Rows of other pools hold anything.
        """
        kept = self.packing.scores(ways[0].shape, self.columns, self.zone.mask([way.number for way in ways]))
        if self.closing is None:
            return kept.score, kept.device
        return np.where(self.closing >= self.now_ms + job.time_limit_ms, kept.score, -np.inf), kept.device

    def fitting(self, ways: Sequence[Way], job: WaitingJob) -> list[Way]:
        """The ways in whose pools its smallest gang can be hosted from now until the job's time limit."""
        least = least_nodes(job)
        found = []
        for shape in dict.fromkeys(way.shape for way in ways):
            alike = [way for way in ways if way.shape == shape]
            score, _ = self.score(alike, job)
            open_ = (score > -np.inf).nonzero()[0]
            counts = np.bincount(self.zone.pool_of[open_], minlength=len(self.zone.pools) + 1)
            found += [way for way in alike if counts[way.number] >= least]
        return found

    def candidate(self, job: WaitingJob, way: Way) -> Candidate:
        """What the job would cost there. Pools at the same terms cost the same: it is worked out once a job."""
        terms = self.state.terms.get((job.firm, way.pool.id))
        price = way.pool.price_fen_per_device_hour
        key = (way.alternative, way.pool.model if job.workload else None, price if terms is None else _money(terms))
        if self._priced_job is not job:
            self._priced_job, self._priced = job, {}
        known = self._priced.get(key)
        if known is None:
            known = self._priced[key] = candidate(job, way.alternative, way.pool, terms, self.profiles)
        if known.pool == way.pool.id:
            return known
        return Candidate(
            alternative=way.alternative,
            pool=way.pool.id,
            model=way.pool.model,
            gross_fen=known.gross_fen,
            net_fen=known.net_fen,
            hold_fen=known.hold_fen,
            effective_fen=known.effective_fen,
            predicted_ms=known.predicted_ms,
            expected_fen=known.expected_fen,
            shadow_price_permille=known.shadow_price_permille,
            exceeds_limit=known.exceeds_limit,
        )

    def start(self, way: Way, rows: Sequence[int], places: Sequence[Sequence[int]], job: WaitingJob) -> None:
        """The job holds these places of these rows from now on."""
        if not self._own:
            self.columns, self._own = self.columns.copy(), True
        self._moved = True
        for row, held in zip(rows, places, strict=True):
            self.columns.take(row, held, way.shape.share, way.shape.cpu, way.shape.memory, job.firm)
        if way.shape.share >= WHOLE and way.shape.count:
            end = self.now_ms + max(1, job.time_limit_ms)
            self._starts += [(int(row), len(held), end) for row, held in zip(rows, places, strict=True)]
            if (timeline := self._timelines.get(way.number)) is not None:
                first = np.searchsorted(self.zone.rows[way.number], rows)
                timeline.reserve(first.tolist(), way.shape.count, self.now_ms, end)

    # --- those who wait ---------------------------------------------------------------------------------------------

    def hold(self, ways: Iterable[Way]) -> None:
        """A job waits for these pools: whoever comes later there is behind it."""
        for number in {way.number for way in ways}:
            self.blocked[number] = self.blocked.get(number, 0) + 1

    def wait(self, job: WaitingJob, ways: Sequence[Way]) -> None:
        """The job does not fit now: it keeps its place, by holding its pools or, with backfill, by a reservation."""
        depth = self.policy.backfill
        if depth == 0:
            self.hold(ways)
            return
        self.tests += bool(self.booked)
        self._unbooked.append((job, ways))
        number = self.state.registry.class_number(class_of(job))
        self._tried[number] = min(self._tried.get(number, FOREVER), job.time_limit_ms)

    def book(self) -> None:
        """Those found to wait have their reservations, as far as the depth allows: asked before another job is placed."""
        for job, ways in self._unbooked:
            depth = self.policy.backfill
            open_ = [way for way in ways if self.booked.get(way.number, 0) < depth and way.shape.share >= WHOLE]
            if open_ and self._book(job, open_):
                self._tried.clear()
        self._unbooked.clear()

    def _book(self, job: WaitingJob, ways: Sequence[Way]) -> bool:
        """Reserve the earliest start among these ways: until then others may use its nodes, from then on nobody."""
        best: tuple[int, int, Way, tuple[int, ...]] | None = None
        for rank, way in enumerate(ways):
            if not way.shape.count:
                continue
            found = self.timeline(way.number).earliest(
                way.shape.count, least_nodes(job), self.now_ms, max(1, job.time_limit_ms), self._roomy(way)
            )
            if found is not None and (best is None or (found[0], rank) < best[:2]):
                best = (found[0], rank, way, found[1])
        if best is None:
            return False
        start, _, way, chosen = best
        self.timeline(way.number).reserve(chosen, way.shape.count, start, start + max(1, job.time_limit_ms))
        self.bookings[job.id] = start
        self.booked[way.number] = self.booked.get(way.number, 0) + 1
        if self.closing is None:
            self.closing = np.full(self.zone.row_count, FOREVER, dtype=np.int64)
        rows = self.zone.rows[way.number][list(chosen)]
        self.closing[rows] = np.minimum(self.closing[rows], start)
        self._reserved.pop(way.number, None)
        return True

    def _roomy(self, way: Way) -> Ints:
        """Rows of the pool, by place in it, that could host a member once the leases there have ended."""
        rows = self.zone.rows[way.number]
        cpu, memory = self.zone.totals()
        able = self.columns.usable[rows] & (cpu[rows] >= way.shape.cpu) & (memory[rows] >= way.shape.memory)
        found: Ints = np.flatnonzero(able)
        return found

    def timeline(self, number: int) -> Timeline:
        """The pool's whole devices from now on, with what this plan has started and reserved so far."""
        if number not in self._timelines:
            rows = self.zone.rows[number]
            usable = self.columns.usable[rows]
            held = np.concatenate([self.state.held.rows, np.array(self._starts, dtype=np.int64).reshape(-1, 3)])
            here = held[(self.zone.pool_of[held[:, 0]] == number) & self.columns.usable[held[:, 0]]]
            releases = np.column_stack([np.searchsorted(rows, here[:, 0]), here[:, 1], here[:, 2]])
            free = np.where(usable, self.columns.full[rows], 0)
            self._timelines[number] = Timeline(free, releases, self.now_ms)
        return self._timelines[number]

    # --- whole queues at once ---------------------------------------------------------------------------------------

    def worth(self, values: Ints) -> Flags:
        """Which waiting jobs might start, or must be looked at because they would keep a place. The others wait."""
        table = self.zone.classes(self.state.registry, self.columns)
        capacity = self.zone.capacity()
        capacity.update(self.columns)
        full = np.array([self._closed(number) for number in range(len(self.zone.pools))], dtype=np.bool_)
        open_ = table.any_way(~full[table.pool]) & table.possible
        cls = values[:, CLASS]
        if self.policy.backfill:
            anywhere = table.by_pool(capacity.counts[table.shape, table.pool] >= table.least)
            feasible = self._feasible(values, table, capacity, anywhere)
            limit = np.full(table.count, FOREVER, dtype=np.int64)
            for number, tried in self._tried.items():
                limit[number] = tried
            look = (feasible & (values[:, LIMIT] < limit[cls])) | (~anywhere.any(axis=1) & open_)[cls]
        else:
            look = open_[cls]
        names = self.state.registry.names
        room = np.array([FOREVER if (h := self.quotas.headroom(name)) is None else h for name in names], dtype=np.int64)
        open_jobs: Flags = look & (values[:, GATED] == 0) & (values[:, DEVICES] <= room[values[:, QUEUE]])
        return open_jobs

    def _feasible(self, values: Ints, table: ClassTable, capacity: Capacity, anywhere: Flags) -> Flags:
        """Of each job, whether its nodes are free in some pool, those left out that are reserved before it would end."""
        if self.closing is None:
            return np.asarray(anywhere[values[:, CLASS]].any(axis=1))
        reserved = (self.closing < FOREVER).nonzero()[0]
        first = np.full(len(self.zone.pools) + 1, FOREVER, dtype=np.int64)
        np.minimum.at(first, self.zone.pool_of[reserved], self.closing[reserved])
        open_ = capacity.counts_without(reserved)
        lasting = table.by_pool(open_[table.shape, table.pool] >= table.least)
        short = values[:, LIMIT, None] <= (first[None, :-1] - self.now_ms)
        cls = values[:, CLASS]
        return np.asarray((lasting[cls] | (anywhere[cls] & short)).any(axis=1))

    def still_worth(self, value: Ints) -> bool:
        """The same for one job, after what was decided since; True where only a closer look can tell."""
        ways = self.zone.ways_of(int(value[CLASS]), self.state.registry)
        if self.policy.backfill:
            number = int(value[CLASS])
            if int(value[LIMIT]) >= self._tried.get(number, FOREVER):
                return False
            self.book()
            if not any(self._may_start(way, int(value[LIMIT])) or not self._closed(way.number) for way in ways):
                return False
        elif all(self.blocked.get(way.number) for way in ways):
            return False
        room = self.quotas.headroom(self.state.registry.names[int(value[QUEUE])])
        return room is None or int(value[DEVICES]) <= room

    def _may_start(self, way: Way, limit_ms: int) -> bool:
        """Enough nodes of the pool are free now, those left out that are reserved before the limit is over."""
        capacity = self.zone.capacity()
        if self._moved:
            capacity.update(self.columns)
            self._moved = False
        code = capacity.codes[way.shape]
        count = int(capacity.counts[code, way.number])
        if self.closing is not None and count >= way.least:
            rows = self._reserved_rows(way.number)
            if len(rows) and self.now_ms + limit_ms > int(self.closing[rows].min()):
                count -= capacity.hosts(code, rows)
        return count >= way.least

    def _reserved_rows(self, number: int) -> Ints:
        if number not in self._reserved:
            assert self.closing is not None, "asked when something is reserved"
            rows = self.zone.rows[number]
            self._reserved[number] = rows[self.closing[rows] < FOREVER]
        return self._reserved[number]

    def _closed(self, number: int) -> bool:
        if self.policy.backfill:
            return self.booked.get(number, 0) >= self.policy.backfill
        return bool(self.blocked.get(number))

    def share(self, queue: int) -> float:
        """Devices the queue uses for each unit of its weight."""
        name = self.state.registry.names[queue]
        quota = self.state.queues.get(name)
        return self.quotas.used().get(name, 0) / max(1, quota.weight if quota else 1)


def _money(terms: Terms) -> tuple[int, int, int, int]:
    return (terms.price_fen_per_device_hour, terms.rate_bp, terms.room_fen, terms.shadow_price_permille)


def _maintenance(state: State) -> Ints:
    closing = np.full(len(state.columns.ids), FOREVER, dtype=np.int64)
    for one in state.maintenance.values():
        if one.end > state.now:
            for name in one.nodes:
                row = state.columns.row_of.get(name)
                if row is not None:
                    closing[row] = min(int(closing[row]), to_ms(max(one.start, state.now)))
    return closing
