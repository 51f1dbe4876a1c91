"""Workspace: what changes while one plan is made: free devices, quotas, places kept, reservations. Never shared."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from scheduler.backfill import FOREVER, Timeline, Window
from scheduler.clock import to_ms
from scheduler.columns import HeldTable, NodeColumns
from scheduler.fairness import Shares, shares_of
from scheduler.job import FirmId
from scheduler.making_room import TRIES, Stops
from scheduler.netcost import NO_REGIONS, Regions, candidate
from scheduler.packing import Kept, Packing
from scheduler.plan import Candidate, Migration, Preempt
from scheduler.policy import Ints, Policy
from scheduler.quota import Quotas, Standing
from scheduler.regions import Network
from scheduler.shape import WHOLE, MemberShape, class_of, least_nodes
from scheduler.snapshot import Terms, WaitingJob
from scheduler.waiting import DEVICES, GATED, QUEUE, Line
from scheduler.zone import ClassTable, Way, Zone

if TYPE_CHECKING:
    from scheduler.engine import State

Flags = npt.NDArray[np.bool_]
NO_QUOTAS = Quotas(())
FEW_CLASSES = 4096  # of so few jobs only their own classes are looked at
FEW_POOLS = 3  # of so few pools each is counted by itself, of more all rows at once
OFFERS = 1024  # of candidates kept, by what jobs ask for and by terms
LEVELS = 8  # instants at which rows of a pool close that are told apart when the whole queue is looked at


class Workspace:
    """What is left as the plan is made.

    blocked: per pool (by number), jobs that wait there and let nobody pass. booked: jobs with a reservation there.
    closing: per row, the instant from which it is reserved or under maintenance; None while there is none.
    bookings: of each job with a reservation, when it starts.
    claimed: queues of cohorts in which a job waits that would keep within its own nominal.
    owed: by queue, the most devices of its own that a job of it waits for. tests: jobs tried in vain since the first reservation.
    """

    def __init__(self, state: State, policy: Policy) -> None:
        zone = state.zone if state.zone is not None else Zone(state.pools, state.nodes, state.columns)
        self.state, self.policy, self.zone = state, policy, zone
        self.now_ms = to_ms(state.now)
        self._columns: NodeColumns = state.columns
        self._own = False
        self._taken: list[tuple[int, Sequence[int], MemberShape, FirmId]] = []
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
        self.owed: dict[str, int] = {}
        self.claimed: frozenset[str] = frozenset()
        self.preempts: list[Preempt] = []
        self.stops = Stops(weakref.ref(self))
        self.migrations: list[Migration] = []
        self._timelines: dict[int, Timeline] = {}
        self._releases: Ints | None = None
        self._starts: list[tuple[int, int, int]] = []
        self._tried: dict[int, int] = {}
        self._lasting: list[tuple[Ints, Ints]] | None = None
        self._moved = False
        self._scored: tuple[MemberShape, set[int], Kept] | None = None
        self._reserved: dict[int, tuple[Ints, Ints]] = {}
        self.near = NO_REGIONS
        if state.links or state.regions:
            self.near = Regions(network=Network(state.links.values()), facts=state.regions, now=state.now)
        self._shares: Shares | None = None
        if policy.fair:
            sizes = [int(zone.size[rows].sum()) for rows in zone.rows]
            self._shares = shares_of(zone.pools, sizes, state.used_in, state.queues)
        self._priced_job: WaitingJob | None = None
        self._priced: dict[object, Candidate] = {}
        self._unbooked: list[tuple[WaitingJob, Sequence[Way]]] = []

    @property
    def columns(self) -> NodeColumns:
        """The nodes, less what this plan has started: written only when it is asked for, the state's stay as they are."""
        if self._taken:
            if not self._own:
                self._columns, self._own = self._columns.copy(), True
            for row, held, shape, firm in self._taken:
                self._columns.take(row, held, shape.share, shape.cpu, shape.memory, firm)
            self._taken.clear()
        return self._columns

    @columns.setter
    def columns(self, after: NodeColumns) -> None:
        self._columns, self._own = after, False
        self._taken.clear()
        self._moved, self._lasting, self._scored = True, None, None

    # --- fit --------------------------------------------------------------------------------------------------------

    def score(self, ways: Sequence[Way], job: WaitingJob) -> tuple[npt.NDArray[np.float64], Ints]:
        """Per row, how well a member fits (-inf: not, or not for as long as the job may run) and the place of a share.

        The ways want the same of a node. Rows of other pools hold anything.
        """
        shape, numbers = ways[0].shape, {way.number for way in ways}
        if self._scored is not None and self._scored[0] is shape and self._scored[1] >= numbers:
            kept = self._scored[2]
        else:
            kept = self.packing.scores(shape, self.columns, self.zone.within(sorted(numbers)))
            self._scored = (shape, numbers, kept)
        if self.closing is None:
            return kept.score, kept.device
        return np.where(self.closing >= self.now_ms + job.time_limit_ms, kept.score, -np.inf), kept.device

    def fitting(self, ways: Sequence[Way], job: WaitingJob) -> list[Way]:
        """The ways in whose pools its smallest gang can be hosted from now until the job's time limit."""
        least, first = least_nodes(job), ways[0].shape
        one = not [way for way in ways if way.shape is not first]
        found: list[Way] = []
        for shape in (first,) if one else dict.fromkeys(way.shape for way in ways):
            alike = ways if one else [way for way in ways if way.shape == shape]
            score, _ = self.score(alike, job)
            numbers = {way.number for way in alike}
            counts: Mapping[int, int] | Ints
            if len(numbers) <= FEW_POOLS:
                counts = {n: int(np.count_nonzero(score.take(self.zone.rows[n]) > -np.inf)) for n in numbers}
            else:
                counts = np.bincount(self.zone.pool_of.compress(score > -np.inf), minlength=len(self.zone.pools))
            found += [way for way in alike if counts[way.number] >= least]
        return found if one else [way for way in ways if way in found]

    def candidate(self, job: WaitingJob, way: Way) -> Candidate:
        """What the job would cost there. Pools at the same terms cost the same: it is worked out once a job."""
        terms = self.state.terms.get((job.firm, way.pool.id)) if self.state.terms else None
        if job.workload is None and not job.data and not self.near.facts:
            return self._offer(job, way, terms)
        price = way.pool.price_fen_per_device_hour
        power = (way.pool.model, way.pool.source) if self.near.facts else None
        model = way.pool.model if job.workload else None
        where = way.pool.region if power or job.data else None
        key = (way.alternative, model, where, power, price if terms is None else _money(terms))
        if self._priced_job is not job:
            self._priced_job, self._priced = job, {}
        known = self._priced.get(key)
        if known is None:
            known = self._priced[key] = candidate(job, way.alternative, way.pool, terms, self.profiles, self.near)
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
            region=way.pool.region,
            transfer_ms=known.transfer_ms,
            transfer_fen=known.transfer_fen,
            energy_fen=known.energy_fen,
            carbon_g=known.carbon_g,
            expected_net_fen=known.expected_net_fen,
        )

    def _offer(self, job: WaitingJob, way: Way, terms: Terms | None) -> Candidate:
        """The same for a job of which nothing is predicted: kept from plan to plan, for jobs that ask for as much."""
        asked = (job.nodes, job.time_limit_ms, job.share_permille, job.money.voucher == "auto")
        offers = self.zone.offers.get(asked)
        if offers is None:
            if len(self.zone.offers) >= OFFERS:
                self.zone.offers.clear()
            offers = self.zone.offers[asked] = {}
        key = (way.number, way.alternative, way.shape.count, None if terms is None else _money(terms))
        found = offers.get(key)
        if found is None:
            found = candidate(job, way.alternative, way.pool, terms, self.profiles)
            if len(offers) < OFFERS:
                offers[key] = found
        return found

    def linked(self, job: WaitingJob, ways: Sequence[Way]) -> Sequence[Way]:
        """The ways into whose region links bring all of the job's inputs."""
        if not job.data:
            return ways
        return [way for way in ways if self.near.network.transfer(job.data, way.pool.region) is not None]

    def start(self, way: Way, rows: Sequence[int], places: Sequence[Sequence[int]], job: WaitingJob) -> None:
        """The job holds these places of these rows from now on."""
        self._moved, self._lasting, self._scored = True, None, None
        if self._shares is not None:
            self._shares.take(job.queue, way.pool.model, way.shape.share * sum(len(held) for held in places))
        for row, held in zip(rows, places, strict=True):
            self._taken.append((row, held, way.shape, job.firm))
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
            found = self.earliest(job, way)
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
        self._lasting = None
        return True

    def earliest(self, job: WaitingJob, way: Way) -> tuple[int, tuple[int, ...]] | None:
        """When its smallest gang would have nodes by this way, in one domain where it requires one, and which; None = never."""
        roomy = self._roomy(way)
        required, nodes = job.request.topology_required, least_nodes(job)
        parts = [roomy]
        if nodes > 1 and required is not None:
            parts = [np.intersect1d(roomy, part) for part in self.zone.parts(way.number, required)]
        line = self.timeline(way.number)
        found = [
            line.earliest(way.shape.count, nodes, self.now_ms, max(1, job.time_limit_ms), part)
            for part in parts
            if len(part) >= nodes
        ]
        return min((one for one in found if one is not None), default=None)

    def _roomy(self, way: Way) -> Ints:
        """Rows of the pool, by place in it, that could host a member once the leases there have ended."""
        rows = self.zone.rows[way.number]
        cpu, memory = self.zone.totals()
        able = self.columns.usable[rows] & (cpu[rows] >= way.shape.cpu) & (memory[rows] >= way.shape.memory)
        found: Ints = np.flatnonzero(able)
        return found

    def held(self) -> HeldTable:
        """What leases hold, as columns."""
        return self.state.held.table(self.columns.row_of, self.state.registry.queue_number)

    def timeline(self, number: int) -> Timeline:
        """The pool's whole devices from now on, with what this plan has started and reserved so far."""
        if number not in self._timelines:
            rows = self.zone.rows[number]
            usable = self.columns.usable[rows]
            if self._releases is None:
                self._releases = self.held().releases()
            held = np.concatenate([self._releases, np.array(self._starts, dtype=np.int64).reshape(-1, 3)])
            here = held[(self.zone.pool_of[held[:, 0]] == number) & self.columns.usable[held[:, 0]]]
            releases = np.column_stack([np.searchsorted(rows, here[:, 0]), here[:, 1], here[:, 2]])
            free = np.where(usable, self.columns.full[rows], 0)
            self._timelines[number] = Timeline(free, releases, self.now_ms, self.windows(number))
        return self._timelines[number]

    def windows(self, number: int) -> list[Window]:
        """Maintenance of the pool's nodes, by place in its rows."""
        rows, row_of = self.zone.rows[number], self.columns.row_of
        found = []
        for one in self.state.maintenance.values():
            inside = np.array([row for n in one.nodes if (row := row_of.get(n)) is not None], dtype=np.int64)
            places = np.searchsorted(rows, inside[self.zone.pool_of[inside] == number])
            if len(places):
                found.append(Window(tuple(places.tolist()), to_ms(one.start), to_ms(one.end)))
        return found

    # --- whole queues at once ---------------------------------------------------------------------------------------

    def worth(self, line: Line, places: Ints) -> Ints:
        """Of these places in the line, those of jobs that might start, or must be looked at because they would keep a place.

        The others wait.
        """
        self.book()
        cls = line.classes[places]
        table = self.zone.classes(self.state.registry, self.columns)
        if len(places) < FEW_CLASSES:
            known, cls = np.unique(cls, return_inverse=True)
            table = table.part(known)
        look = line.limit_ms[places] <= self._longest(table)[cls]
        if self.state.queues or self.policy.preempts:
            queue, need = line.queue[places], table.need[cls]
            names = self.state.registry.names
            lower, own = self.stops.reach()
            within = np.ones(len(places), dtype=np.bool_)
            if self.state.queues:
                room = np.array([FOREVER if (h := self.quotas.headroom(n)) is None else h for n in names])
                within = need <= room[queue]
                look &= within
            if self.policy.preempts and self.stops.tries < TRIES:
                look |= ((line.rank[places] < lower) & within | (need <= own[queue])) & table.whole[cls]
            if self.claimed:
                look |= (need <= own[queue]) & (need > self._owed(names)[queue])
        look &= line.ready[places]
        return places[look]

    def _longest(self, table: ClassTable) -> Ints:
        """Per class of the table, the longest time limit with which a job of it is worth a look; -1: none is."""
        full = np.array([self._closed(number) for number in range(len(self.zone.pools))], dtype=np.bool_)
        open_ = ~full[table.pool]
        if not self.policy.backfill:
            return table.most(np.where(open_, FOREVER, -1), -1)
        capacity = self.zone.capacity()
        capacity.update(self.columns)
        able = capacity.counts.ravel()[table.pair] >= table.least
        reach = np.where(able, FOREVER, -1)
        if self._lasting is None:
            self._lasting = [(until, capacity.counts_without(rows).ravel()) for until, rows in self._closings()]
        for until, counts in self._lasting:  # a job that runs longer cannot count on the rows left out
            reach = np.where(counts[table.pair] >= table.least, reach, np.minimum(reach, until[table.pool]))
        reach[open_ & table.books] = FOREVER  # it starts, or it keeps a place
        most = table.most(reach, -1)
        for number, tried in self._tried.items():
            place = table.place(number)
            if place is not None:
                most[place] = min(int(most[place]), tried - 1)
        return most

    def _closings(self) -> list[tuple[Ints, Ints]]:
        """By level: per pool, a length of time, and the rows that close before a job of more than that would end.

        A pool's k-th level is its k-th instant at which rows close; from LEVELS on they are taken together, at the last.
        """
        found: list[tuple[Ints, Ints]] = []
        if self.closing is None:
            return found
        pools = len(self.zone.pools)
        by_pool = [self._reserved_rows(number) for number in range(pools)]
        times = [np.unique(at) for _, at in by_pool]
        for level in range(min(LEVELS, max((len(one) for one in times), default=0))):
            until, out = np.full(pools, FOREVER, dtype=np.int64), []
            for number, (rows, at) in enumerate(by_pool):
                if level < len(times[number]):
                    last = times[number][-1 if level == LEVELS - 1 else level]
                    until[number] = last - self.now_ms
                    out.append(rows[: np.searchsorted(at, last, side="right")])
            found.append((until, np.concatenate(out)))
        return found

    def still_worth(self, line: Line, place: int) -> bool:
        """The same for one job, after what was decided since; True where only a closer look can tell."""
        number, limit_ms = int(line.classes[place]), int(line.limit_ms[place])
        ways = self.zone.ways_of(number, self.state.registry)
        if self.policy.backfill:
            if limit_ms >= self._tried.get(number, FOREVER):
                return self._may_matter(line, place)
            self.book()
            if not any(self._may_start(way, limit_ms) or not self._closed(way.number) for way in ways):
                return self._may_matter(line, place)
        elif all(self.blocked.get(way.number) for way in ways):
            return self._may_matter(line, place)
        if not self.state.queues:
            return True
        room = self.quotas.headroom(self.state.registry.names[int(line.queue[place])])
        return room is None or int(line.devices[place]) <= room or self._may_matter(line, place)

    def _may_matter(self, line: Line, place: int) -> bool:
        """It is one of those that might have running leases stopped, or for whom others leave devices."""
        stops = self.policy.preempts and self.stops.tries < TRIES
        if not stops and not self.claimed:
            return False
        lower, own = self.stops.reach()
        return bool((stops and line.rank[place] < lower) or line.devices[place] <= own[line.queue[place]])

    def _owed(self, names: Sequence[str]) -> Ints:
        return np.array([self.owed.get(name, 0) for name in names], dtype=np.int64)

    def _may_start(self, way: Way, limit_ms: int) -> bool:
        """Enough nodes of the pool are free now, those left out that are reserved before the limit is over."""
        capacity = self.zone.capacity()
        if self._moved:
            capacity.update(self.columns)
            self._moved = False
        code = capacity.codes[way.shape]
        count = int(capacity.counts[code, way.number])
        if self.closing is not None and count >= way.least:
            rows, at = self._reserved_rows(way.number)
            early = int(np.searchsorted(at, self.now_ms + limit_ms))
            if early:
                count -= capacity.hosts(code, rows[:early])
        return count >= way.least

    def _reserved_rows(self, number: int) -> tuple[Ints, Ints]:
        """The rows of the pool that are reserved or close for maintenance, and when, the first first."""
        if number not in self._reserved:
            assert self.closing is not None, "asked when something is reserved"
            rows = self.zone.rows[number]
            rows = rows[self.closing[rows] < FOREVER]
            order = np.argsort(self.closing[rows], kind="stable")
            self._reserved[number] = rows[order], self.closing[rows[order]]
        return self._reserved[number]

    def _closed(self, number: int) -> bool:
        if self.policy.backfill:
            return self.booked.get(number, 0) >= self.policy.backfill
        return bool(self.blocked.get(number))

    def owe(self, queue: str, devices: int) -> None:
        """A job waits that needs so many; counted if they are its queue's own."""
        if self.quotas.owed(queue, devices):
            self.owed[queue] = max(self.owed.get(queue, 0), devices)

    def leaves_enough(self, job: WaitingJob) -> bool:
        """Its queue may take devices, and with all that it wants no other of the cohort has less quota than it is owed."""
        if self.quotas.headroom(job.queue) == 0:
            return False
        most = job.nodes * max(one.count for one in job.request.alternatives)
        return not any(
            one.name != job.queue and (self.quotas.headroom(one.name) or 0) - most < self.owed[one.name]
            for one in self.quotas.cohort(job.queue)
            if one.name in self.owed
        )

    def claims(self) -> frozenset[str]:
        """Queues of cohorts in which a job waits that would keep within its own nominal."""
        if not self.state.queues or all(quota.cohort is None for quota in self.state.queues.values()):
            return frozenset()
        _, own = self.stops.reach()
        values, names = self.state.waiting.values, self.state.registry.names
        wants = (values[:, GATED] == 0) & (values[:, DEVICES] <= own[values[:, QUEUE]])
        self.claimed = frozenset(names[number] for number in np.unique(values[wants, QUEUE]).tolist())
        return self.claimed

    def share(self, queue: int) -> float:
        """The weighted dominant share of the queue (`scheduler.fairness`), with what this plan has started."""
        assert self._shares is not None, "asked by a fair policy"
        return self._shares.of(self.state.registry.names[queue])


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
