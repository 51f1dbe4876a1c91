"""Foresight: between which instants a job would start in a pool, given who goes first and when leases end. Pure.

Two timelines per pool. In the late one every lease runs to its limit and everybody who goes first and could start here
does, for the whole of its own limit; in the early one leases end when they are predicted to, and whoever goes first and
could run elsewhere is taken to do so. Who has a reservation under the policy may fill a gap; all others start in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from scheduler.backfill import Timeline
from scheduler.clock import to_ms
from scheduler.columns import ENDS, SHARED, Ints
from scheduler.netcost import predicted_ms
from scheduler.plan import Plan
from scheduler.policy import Policy
from scheduler.shape import WHOLE, class_of, least_nodes
from scheduler.snapshot import RunningLease, WaitingJob
from scheduler.topology import choose
from scheduler.workspace import Workspace
from scheduler.zone import Way

if TYPE_CHECKING:
    from scheduler.engine import State

CELLS = 60_000  # events of a timeline times jobs laid out one by one; jobs beyond are bounded together
LEAST = 8  # so many are laid out one by one whatever the size


@dataclass(frozen=True, slots=True)
class Start:
    """In milliseconds since 1970 UTC; None = unknown. promised: whoever comes later cannot make it later."""

    earliest_ms: int | None
    latest_ms: int | None
    promised: bool


@dataclass(slots=True)
class _Line:
    """A pool's timeline with those who go first laid out in it. floor_ms: nobody without a reservation starts before."""

    timeline: Timeline
    floor_ms: int
    laid: int
    rest: tuple[WaitingJob, ...]
    last_ms: int  # nothing that is laid out lasts longer


class Starts:
    """The starts of one job in any pool. plan: of those who go first; work: as it left the zone; line: who still waits."""

    def __init__(
        self, state: State, policy: Policy, plan: Plan, work: Workspace, line: Sequence[WaitingJob], job: WaitingJob
    ) -> None:
        work.book()
        self.state, self.policy, self.plan, self.work, self.job = state, policy, plan, work, job
        self._line = line
        self._lines: dict[tuple[int, bool], _Line] = {}
        self._here: dict[int, list[tuple[WaitingJob, Way, bool]]] | None = None
        self._leases: dict[int, list[tuple[RunningLease, int]]] | None = None

    def of(self, job: WaitingJob, way: Way) -> Start:
        """When a job like this would start by this way; a job with neither instant finds no nodes that could host it."""
        needed = least_nodes(job) * way.shape.count
        if not self.short_of_quota(job, needed) and self._now(job, way):
            return Start(self.work.now_ms, self.work.now_ms, True)
        late, early = self._at(job, way, late=True), self._at(job, way, late=False)
        if late is None and early is None:
            return Start(None, None, False)
        promised = late is not None and self._lines[way.number, True].laid < self.policy.backfill
        least = self._quota_ms(job, needed)
        if least is not None:  # its queue must give back first: nobody knows when at the latest
            if least < 0:
                return Start(None, None, False)
            early = least if early is None else max(early, least)
            return Start(early, None, False)
        if late is not None and early is not None:
            early = min(early, late)
        return Start(early, late, promised)

    def short_of_quota(self, job: WaitingJob, needed: int) -> bool:
        """Its queue may not take as many now, after those of it that go first."""
        room = self.work.quotas.headroom(job.queue)
        if room is None:
            return False
        first = sum(_least(one) for one in self._line if one.queue == job.queue)
        return needed + first > room

    # --- now --------------------------------------------------------------------------------------------------------

    def _now(self, job: WaitingJob, way: Way) -> bool:
        if self.work.blocked.get(way.number) or not self.work.fitting([way], job):
            return False
        required = job.request.topology_required
        if required is None or job.nodes == 1:
            return True
        rows = self.work.zone.rows[way.number]
        able = self.work.score([way], job)[0][rows] > -np.inf
        domains = {level: domain[rows] for level, domain in self.work.zone.domains().items()}
        if required not in domains:
            return True
        score = np.zeros(len(rows))
        return choose(rows, able.astype(np.int64), domains, least_nodes(job), required, None, score) is not None

    # --- later ------------------------------------------------------------------------------------------------------

    def _at(self, job: WaitingJob, way: Way, *, late: bool) -> int | None:
        if way.shape.share < WHOLE and not late:
            ends = [
                end for lease, end in self._held(way.number) if lease.share_permille < WHOLE and lease.firm == job.firm
            ]
            ends += [end for lease, end in self._held(way.number) if lease.share_permille >= WHOLE]
            return max(self.work.now_ms + 1, min(ends)) if ends else None
        line = self._laid_out(way.number, late=late)
        rows = self._roomy(job, way)
        if len(rows) < least_nodes(job):
            return None
        if late and line.rest:
            return line.last_ms + _batches([*line.rest, job], len(rows))
        reserved = line.laid < self.policy.backfill or (not late and self.policy.backfill > 0)
        begin = self.work.now_ms if reserved else line.floor_ms
        found = self._earliest(line.timeline, job, way, least_nodes(job), begin, max(1, job.time_limit_ms), rows)
        return None if found is None else found[0]

    def _earliest(
        self, timeline: Timeline, job: WaitingJob, way: Way, nodes: int, begin: int, limit: int, rows: Ints
    ) -> tuple[int, tuple[int, ...]] | None:
        """`Timeline.earliest` within one domain where the job requires one."""
        count, required = max(1, way.shape.count), job.request.topology_required
        parts = [rows]
        if nodes > 1 and required is not None:
            parts = [np.intersect1d(rows, part) for part in self.work.zone.parts(way.number, required)]
        found = [timeline.earliest(count, nodes, begin, limit, part) for part in parts if len(part) >= nodes]
        return min((one for one in found if one is not None), default=None)

    def _laid_out(self, number: int, *, late: bool) -> _Line:
        """The pool's timeline with all who go first in it; of a long line, as many as CELLS allows."""
        if (number, late) in self._lines:
            return self._lines[number, late]
        timeline, events, last = self._empty(number, late=late)
        here = [one for one in self._by_pool().get(number, []) if late or one[2]]
        depth = max(LEAST, CELLS // max(1, events))
        floor, now = self.work.now_ms, self.work.now_ms
        width = int(self.work.columns.size[self.work.zone.rows[number]].max(initial=1))
        for place, (one, way, _) in enumerate(here[:depth]):
            begin = now if place < self.policy.backfill or (not late and self.policy.backfill > 0) else floor
            limit = max(1, one.time_limit_ms if late else self._lasts(one, way))
            count, rows = max(1, way.shape.count), self._roomy(one, way)
            nodes = one.nodes if late else least_nodes(one)
            found = self._earliest(timeline, one, way, nodes, begin, limit, rows)
            if found is None and nodes > least_nodes(one):
                found = self._earliest(timeline, one, way, least_nodes(one), begin, limit, rows)
            if found is None:  # its nodes take no work now
                continue
            start, chosen = found
            crowded = (
                late and bool(self.job.cpu_milli or self.job.memory_bytes) and bool(one.cpu_milli or one.memory_bytes)
            )
            timeline.reserve(chosen, width if crowded else count, start, start + limit)
            floor, last = max(floor, start), max(last, start + limit)
        rest = tuple(one for one, _, _ in here[depth:])
        line = self._lines[number, late] = _Line(timeline, floor, len(here), rest, last)
        return line

    def _empty(self, number: int, *, late: bool) -> tuple[Timeline, int, int]:
        """The pool with what runs and what starts now; how many events that are, and when the last of it ends."""
        work = self.work
        rows, columns = work.zone.rows[number], work.columns
        usable = columns.usable[rows]
        pool = work.zone.pools[number]
        row, held, share, end = self._columns(late=late)
        here = (work.zone.pool_of[row] == number) & columns.usable[row]
        place, held, share, end = np.searchsorted(rows, row[here]), held[here], share[here], end[here]
        starts: list[tuple[int, int, int, int]] = []
        devices: dict[int, set[str]] = {}  # in shares, by place
        for launch in self.plan.launches:
            if launch.placement.pool == pool.id:
                one = self.state.jobs[launch.job]
                lasts = one.time_limit_ms if late else self._predicted(one, pool.model, launch.placement.device_count)
                for member in launch.placement.members:
                    at = int(np.searchsorted(rows, columns.row_of[member.node]))
                    starts.append(
                        (at, len(member.devices), int(one.share_permille < WHOLE), work.now_ms + max(1, lasts))
                    )
                    if one.share_permille < WHOLE:
                        devices.setdefault(at, set()).update(member.devices)
        if starts:
            more = np.array(starts, dtype=np.int64)
            place, held, share, end = (
                np.concatenate([one, more[:, i]]) for i, one in enumerate((place, held, share, end))
            )
        free = np.where(usable, columns.full[rows], 0)
        # A device in shares is whole again, and a crowded node roomy, at the latest when all that runs on it has ended.
        until = np.zeros(len(rows), dtype=np.int64)
        np.maximum.at(until, place, end)
        whole = (share == 0) & (held > 0)
        releases = np.column_stack([place[whole], held[whole], end[whole]])
        if (share != 0).any():
            releases = np.concatenate([releases, self._shared(rows, place[share != 0], devices, until)])
        if late and (self.job.cpu_milli or self.job.memory_bytes):
            crowded = usable & (
                (columns.cpu[rows] < self.job.cpu_milli) | (columns.memory[rows] < self.job.memory_bytes)
            )
            busy = np.flatnonzero(crowded & (until > 0))
            size = np.column_stack([busy, columns.size[rows[busy]], until[busy]])
            releases = np.concatenate([releases[~np.isin(releases[:, 0], busy)], size])
            free = np.where(crowded, 0, free)
        windows = work.windows(number)
        last = max([work.now_ms, int(end.max(initial=0)), *(w.end_ms or 0 for w in windows if w.rows)])
        return Timeline(free, releases, work.now_ms, windows), len(rows) + len(releases), last

    def _columns(self, *, late: bool) -> tuple[Ints, Ints, Ints, Ints]:
        """Of each member of a running lease: its row, its devices, whether they are shares, and when it ends."""
        table = self.work.held()
        owner = table.owner()
        ends = table.facts[:, ENDS].copy()
        if not late:
            ends = np.maximum(ends, self.work.now_ms + 1)
            if self.work.profiles:
                for place, name in enumerate(table.ids.tolist()):
                    lease = self.state.leases[name]
                    if lease.workload is not None and lease.pool in self.work.zone.numbers:
                        ends[place] = self._end(lease, self.work.zone.numbers[lease.pool])
        return table.members[:, 0], table.members[:, 1], table.facts[owner, SHARED], ends[owner]

    def _shared(self, rows: Ints, places: Ints, started: Mapping[int, set[str]], until: Ints) -> Ints:
        """What comes free on nodes with devices in shares: each of these devices, when all that runs there has ended."""
        devices = {place: set(names) for place, names in started.items()}
        wanted = {self.work.columns.ids[rows[place]]: int(place) for place in np.unique(places)}
        for lease in self.state.leases.values():
            if lease.share_permille < WHOLE:
                for member in lease.members:
                    if member.node in wanted:
                        devices.setdefault(wanted[member.node], set()).update(member.devices)
        found = [(place, len(names), int(until[place])) for place, names in sorted(devices.items())]
        return np.array(found, dtype=np.int64).reshape(-1, 3)

    # --- parts ------------------------------------------------------------------------------------------------------

    def _by_pool(self) -> dict[int, list[tuple[WaitingJob, Way, bool]]]:
        """By pool, those who go first and could run there, by which way, and whether there is no other pool for them."""
        if self._here is None:
            self._here = {}
            for one in self._line:
                ways: dict[int, Way] = {}
                for way in self.work.zone.ways(class_of(one)):
                    ways.setdefault(way.number, way)
                for number, way in ways.items():
                    self._here.setdefault(number, []).append((one, way, len(ways) == 1))
        return self._here

    def _held(self, number: int) -> list[tuple[RunningLease, int]]:
        """The pool's leases, each with the instant it is predicted to end, its limit where nothing tells."""
        if self._leases is None:
            self._leases = {}
            for lease in self.state.leases.values():
                at = self.work.zone.numbers.get(lease.pool)
                if at is None:
                    continue
                self._leases.setdefault(at, []).append((lease, self._end(lease, at)))
        return self._leases.get(number, [])

    def _end(self, lease: RunningLease, number: int) -> int:
        size = sum(len(member.devices) for member in lease.members)
        # predicted_ms reads workload and remaining_steps alone, and a lease has both
        left = predicted_ms(cast(WaitingJob, lease), self.work.zone.pools[number].model, size, self.work.profiles)
        end = to_ms(lease.ends_by)
        return max(end if left is None else min(end, self.work.now_ms + left), self.work.now_ms + 1)

    def _lasts(self, one: WaitingJob, way: Way) -> int:
        return self._predicted(one, way.pool.model, one.nodes * way.shape.count)

    def _predicted(self, one: WaitingJob, model: str, devices: int) -> int:
        found = predicted_ms(one, model, devices, self.work.profiles)
        return one.time_limit_ms if found is None else min(found, one.time_limit_ms)

    def _roomy(self, job: WaitingJob, way: Way) -> Ints:
        """Rows of the pool, by place in it, that could host a member once what runs there has ended."""
        rows = self.work.zone.rows[way.number]
        cpu, memory = self.work.zone.totals()
        able = self.work.columns.usable[rows] & (cpu[rows] >= job.cpu_milli) & (memory[rows] >= job.memory_bytes)
        able &= self.work.columns.size[rows] >= way.shape.count
        found: Ints = np.flatnonzero(able)
        return found

    def _quota_ms(self, job: WaitingJob, needed: int) -> int | None:
        """When its queue can have given back enough, if it must: None = it need not, -1 = it never does by itself."""
        room = self.work.quotas.headroom(job.queue)
        if room is None or not self.short_of_quota(job, needed):
            return None
        ends = sorted(
            (end, sum(len(member.devices) for member in lease.members))
            for number in range(len(self.work.zone.pools))
            for lease, end in self._held(number)
            if lease.queue == job.queue
        )
        for end, devices in ends:
            room += devices
            if room >= needed:
                return end
        return self.work.now_ms + 1 if room >= needed or self._line else -1


def _least(job: WaitingJob) -> int:
    return least_nodes(job) * min(one.count for one in job.request.alternatives)


def _batches(jobs: Sequence[WaitingJob], rows: int) -> int:
    """Milliseconds from an empty pool of so many nodes to the start of the last job, all started in order at the latest.

    Jobs whose members all fit on nodes of their own run together; the next ones begin when the longest of those has ended.
    """
    elapsed = longest = used = 0
    for job in jobs:
        nodes = min(job.nodes, rows)
        if used + nodes > rows:
            elapsed, longest, used = elapsed + longest, 0, 0
        used, longest = used + nodes, max(longest, job.time_limit_ms)
    return elapsed
