"""Rotation: a plan for training jobs that take turns. Waiting and running jobs are looked at alike, once a round. Pure.

Who takes no turns - shares of a device, jobs without devices - starts first, on what is free. The policy then gives out
all devices that no fixed lease holds. A lease keeps its place if its job's turn is there; else it is stopped (code ROUND)
and its job waits or is launched elsewhere, by the attempt that follows. Fixed are leases that may not be moved, that start
or stop, and that have not yet run most of a round: what was just started is not moved again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import numpy as np

from scheduler.columns import NodeColumns, with_leases
from scheduler.job import JobId
from scheduler.lease import LeaseId, lease_id
from scheduler.node import NodeId, PoolId
from scheduler.placing import affordable, place
from scheduler.plan import Candidate, Launch, Plan, Preempt
from scheduler.policy import Ints, Policy
from scheduler.preemption import Free, Need, Victim, lost, protected, victims
from scheduler.shape import WHOLE, MemberShape, class_of
from scheduler.snapshot import RunningLease, Throughput, WaitingJob
from scheduler.waiting import CLASS
from scheduler.waits import Verdict, Waits
from scheduler.workspace import Workspace
from scheduler.zone import Way

if TYPE_CHECKING:
    from scheduler.engine import State

SETTLED = 4, 5  # of a round: how long a lease has run before its turn can be over


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run a job until the next round: `nodes` members of `count` devices each in the pool."""

    pool: PoolId
    model: str
    nodes: int
    count: int

    @property
    def devices(self) -> int:
        return self.nodes * self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """What a round policy decides on.

    jobs: all that take turns; leases: of those that run now, `held` being the option of each, and its job as it would
    wait if it were stopped. options: where each job could run, on nodes large enough and at a price it allows, were all
    of `leases` stopped. devices: of each pool, and room: of each queue (None = no limit), that they may hold together.
    """

    now: datetime
    jobs: Mapping[JobId, WaitingJob]
    leases: Mapping[JobId, RunningLease]
    held: Mapping[JobId, Option]
    options: Mapping[JobId, tuple[Option, ...]]
    devices: Mapping[PoolId, int]
    room: Mapping[str, int | None]
    throughputs: Mapping[tuple[str, str, int], Throughput]


class RoundPolicy(Policy, Protocol):
    """A policy that decides turns: one of its options, or None, for every job of `turns.options`."""

    round_ms: int

    def allocate_round(self, turns: Turns) -> Mapping[JobId, Option | None]: ...


def rotate(state: State, policy: RoundPolicy, order: Ints) -> Plan:
    """Stops first, then launches that count on them; every waiting job is launched or waits for its turn."""
    return Rotation(state, policy, order).plan()


def turns_of(state: State, policy: RoundPolicy) -> Turns:
    """What the policy is asked about this state, nobody having started first."""
    return Rotation(state, policy, np.zeros(0, dtype=np.int64)).turns()


@dataclass(slots=True)
class Rotation:
    """One plan in the making. verdicts: why a job has no option. kept: movable leases whose turn is where they are."""

    state: State
    policy: RoundPolicy
    order: Ints
    work: Workspace = field(init=False)
    verdicts: dict[JobId, Verdict] = field(default_factory=dict)
    launches: dict[JobId, Launch] = field(default_factory=dict)
    kept: dict[LeaseId, RunningLease] = field(default_factory=dict)
    gone: dict[JobId, RunningLease] = field(default_factory=dict)
    _hosts: dict[tuple[int, MemberShape, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.work = Workspace(self.state, self.policy)

    def plan(self) -> Plan:
        names = [self.state.waiting.ids[row] for row in self.order.tolist()]
        self.start_others([self.state.jobs[name] for name in names])
        turns = self.turns()
        chosen = self.policy.allocate_round(turns)
        for job, lease in turns.leases.items():
            if chosen.get(job) == turns.held[job]:
                self.kept[lease.id] = lease
            else:
                self.stop([lease])
        position = {name: index for index, name in enumerate(names)}
        winners = [(turns.jobs[job], option) for job, option in chosen.items() if option and self.wants(job)]
        winners.sort(key=lambda one: (-one[1].count, -one[1].devices, position.get(one[0].id, -1), one[0].id))
        failed = [job for job, option in winners if not (self.launch(job, option) or self.squeeze_in(job, option))]
        moved = [lease for job, lease in sorted(self.gone.items()) if job in self.kept_before(turns, chosen)]
        for lease in moved:
            self.launch(turns.jobs[lease.job], turns.held[lease.job])
        if failed or moved:
            self.fill(turns, names)
        taken = np.array([name in self.launches for name in names], dtype=np.bool_)
        verdicts = {i: self.verdicts.get(name, Verdict("turn")) for i, name in enumerate(names) if not taken[i]}
        return Plan(
            based_on=self.state.version,
            now=self.state.now,
            policy=self.policy.name,
            launches=tuple(self.launches.values()),
            waits=Waits(self.state, self.work, self.order[~taken], np.flatnonzero(~taken), verdicts),
            preempts=tuple(self.work.preempts),
        )

    # --- what is to be decided --------------------------------------------------------------------------------------

    def start_others(self, jobs: Sequence[WaitingJob]) -> None:
        """Those that take no turns start on what is free, first come first served."""
        for job in jobs:
            if job.gate is not None:
                self.verdicts[job.id] = Verdict("gate")
            elif not takes_turns(job):
                ways = self.ways(job)
                if isinstance(ways, Verdict):
                    self.verdicts[job.id] = ways
                    continue
                plain = job if job.share_permille < WHOLE else replace(job, workload=None)  # no devices have no rate
                priced = [(way, self.work.candidate(plain, way)) for way in ways]
                able = [(way, one) for way, one in priced if affordable(job, one)]
                if self.placed(job, able) is None:
                    self.verdicts[job.id] = Verdict("busy" if able else "dear", tuple(one for _, one in able or priced))

    def turns(self) -> Turns:
        runs = [lease for lease in sorted(self.state.leases.values(), key=lambda one: one.id) if self.movable(lease)]
        leases = {lease.job: lease for lease in runs}
        held = {job: self.held(lease) for job, lease in leases.items()}
        again = {lease.job: lease.again for lease in runs if lease.again is not None}
        jobs = {**{name: job for name, job in self.state.jobs.items() if self.takes_part(job)}, **again}
        columns = with_leases(self.work.columns, runs, ())
        quotas = self.without(runs)
        options: dict[JobId, tuple[Option, ...]] = {}
        for name in sorted(jobs):
            found = self.options(jobs[name], columns)
            if name in held and held[name] not in found:
                found = (*found, held[name])
            options[name] = found
        return Turns(
            now=self.state.now,
            jobs=jobs,
            leases=leases,
            held=held,
            options=options,
            devices={pool: int(columns.full[rows][columns.usable[rows]].sum()) for pool, rows in columns.rows.items()},
            room=quotas,
            throughputs=self.state.throughputs,
        )

    def movable(self, lease: RunningLease) -> bool:
        """Its turn can be over: the job can go on elsewhere, and it has run most of a round, on nodes that are open."""
        settled = self.policy.round_ms * SETTLED[0] // SETTLED[1]
        if lease.again is None or lease.stopping or lease.job in self.state.jobs or not takes_turns(lease.again):
            return False
        rows = [self.work.columns.row_of.get(member.node) for member in lease.members]
        if not all(row is not None and self.work.columns.usable[row] for row in rows):
            return False
        same = {len(member.devices) for member in lease.members}
        return len(same) == 1 and not protected(lease, self.state.now, settled)

    def takes_part(self, job: WaitingJob) -> bool:
        return job.gate is None and takes_turns(job) and job.id not in self.launches

    def held(self, lease: RunningLease) -> Option:
        pool = self.state.pools.get(lease.pool)
        return Option(lease.pool, pool.model if pool else "", len(lease.members), len(lease.members[0].devices))

    def without(self, leases: Iterable[RunningLease]) -> dict[str, int | None]:
        """Per queue, how many devices its jobs may hold when these leases have gone."""
        for lease in leases:
            self.work.quotas.take(lease.queue, -size(lease))
        room = {name: self.work.quotas.headroom(name) for name in self.state.queues}
        for lease in leases:
            self.work.quotas.take(lease.queue, size(lease))
        return room

    def options(self, job: WaitingJob, columns: NodeColumns) -> tuple[Option, ...]:
        """Every pool and size in which enough nodes could host the job, at a price that it allows."""
        work = self.work
        ways = self.ways(job)
        if isinstance(ways, Verdict):
            self.verdicts[job.id] = ways
            return ()
        found: dict[Option, None] = {}
        dear: list[Candidate] = []
        for way in ways:
            for nodes in range(way.least, min(job.nodes, self.hosts(way, job.time_limit_ms, columns)) + 1):
                if job.money.max_net_fen is not None:
                    one = work.candidate(replace(job, nodes=nodes, min_nodes=None), way)
                    if not affordable(job, one):
                        dear.append(one)
                        continue
                found[Option(way.pool.id, way.pool.model, nodes, way.shape.count)] = None
        if not found:
            self.verdicts[job.id] = Verdict("dear" if dear else "busy", tuple(dear))
        return tuple(found)

    def hosts(self, way: Way, limit_ms: int, columns: NodeColumns) -> int:
        """Nodes of the pool that could host a member until the limit."""
        closing = self.work.closing
        key = (way.number, way.shape, limit_ms if closing is not None else 0)
        if key not in self._hosts:
            rows = self.work.zone.rows[way.number]
            able = columns.usable[rows] & (columns.full[rows] >= way.shape.count)
            able &= (columns.cpu[rows] >= way.shape.cpu) & (columns.memory[rows] >= way.shape.memory)
            if closing is not None:
                able &= closing[rows] >= self.work.now_ms + limit_ms
            self._hosts[key] = int(able.sum())
        return self._hosts[key]

    def ways(self, job: WaitingJob) -> Sequence[Way] | Verdict:
        """Where the job could run were everything free: with devices, if it takes turns."""
        ways: Sequence[Way] = self.work.zone.ways_of(self.class_number(job), self.state.registry)
        if takes_turns(job):
            ways = [way for way in ways if way.shape.count]
        if not ways:
            return Verdict("never")
        return self.work.linked(job, ways) or Verdict("far")

    def class_number(self, job: WaitingJob) -> int:
        state = self.state
        at = int(np.searchsorted(state.waiting.ids, job.id)) if len(state.waiting.ids) else 0
        if at < len(state.waiting.ids) and state.waiting.ids[at] == job.id:
            return int(state.waiting.values[at, CLASS])
        return state.registry.class_number(class_of(job))

    # --- carrying it out --------------------------------------------------------------------------------------------

    def wants(self, job: JobId) -> bool:
        """It does not run already where its turn is."""
        return job in self.gone or job in self.state.jobs

    def stop(self, leases: Sequence[RunningLease]) -> None:
        self.work.columns = with_leases(self.work.columns, leases, ())
        for lease in leases:
            self.kept.pop(lease.id, None)
            self.gone[lease.job] = lease
            self.work.quotas.take(lease.queue, -size(lease))
            cost = lost(lease, self.state.now)
            self.work.preempts.append(Preempt(lease=lease.id, job=lease.job, code="ROUND", cost_device_ms=cost))

    def launch(self, job: WaitingJob, option: Option) -> bool:
        """The job starts where its turn is, if its nodes are free there."""
        asked = replace(job, nodes=option.nodes, min_nodes=None)
        ways = self.ways(job)
        if isinstance(ways, Verdict) or job.id in self.launches:
            return False
        here = [way for way in ways if way.pool.id == option.pool and way.shape.count == option.count]
        priced = [(way, self.work.candidate(asked, way)) for way in here[:1]]
        return self.placed(asked, [(way, one) for way, one in priced if affordable(job, one)]) is not None

    def placed(self, job: WaitingJob, ways: Sequence[tuple[Way, Candidate]]) -> Launch | None:
        headroom = self.work.quotas.headroom(job.queue)
        least = job.nodes if job.min_nodes is None else job.min_nodes
        open_ = [(w, one) for w, one in ways if headroom is None or least * w.shape.count <= headroom]
        fitting = self.work.fitting([way for way, _ in open_], job) if open_ else []
        now = [(way, one) for way, one in open_ if way in fitting]
        ranked = self.policy.choose(job, [one for _, one in now]) if now else ()
        for best in ranked:
            found = place(job, [(way, one) for way, one in now if one == best], self.work, headroom)
            if found is not None:
                self.work.quotas.take(job.queue, found[1].device_count)
                lease = lease_id(JobId(job.id), job.attempt)
                launch = Launch(job=job.id, firm=job.firm, lease=lease, placement=found[1], chosen=found[0])
                self.launches[job.id] = launch
                return launch
        return None

    def squeeze_in(self, job: WaitingJob, option: Option) -> bool:
        """Enough devices are free, but not together: the fewest of those that would have stayed are stopped as well."""
        ways = self.ways(job)
        columns = self.work.columns
        if isinstance(ways, Verdict) or option.pool not in columns.rows:
            return False
        rows = columns.rows[option.pool]
        local = {columns.ids[row]: index for index, row in enumerate(rows.tolist())}
        here = [lease for lease in self.kept.values() if lease.pool == option.pool]
        need = Need(count=option.count, nodes=option.nodes, cpu_milli=job.cpu_milli, memory_bytes=job.memory_bytes)
        free = Free(
            devices=columns.full[rows], cpu_milli=columns.cpu[rows], memory_bytes=columns.memory[rows],
            usable=columns.usable[rows],
        )  # fmt: skip
        found = victims(need, free, [self.victim(lease, local) for lease in here])
        if not found:
            return False
        self.stop([self.kept[LeaseId(one.lease)] for one in found])
        return self.launch(job, option)

    def victim(self, lease: RunningLease, local: Mapping[NodeId, int]) -> Victim:
        return Victim(
            lease=lease.id,
            rows=tuple(local[member.node] for member in lease.members),
            devices=tuple(len(member.devices) for member in lease.members),
            rank=1,
            cost_device_ms=lost(lease, self.state.now),
            cpu_milli=lease.cpu_milli,
            memory_bytes=lease.memory_bytes,
        )

    def kept_before(self, turns: Turns, chosen: Mapping[JobId, Option | None]) -> set[JobId]:
        """Jobs whose turn was where they ran, and that made room all the same."""
        return {job for job in self.gone if chosen.get(job) == turns.held[job]}

    def fill(self, turns: Turns, names: Sequence[JobId]) -> None:
        """A turn could not be had on the nodes as they are: what it leaves free goes to those in line."""
        for job in [*sorted(self.gone), *names]:
            if job in turns.options and job not in self.launches:
                any(self.launch(turns.jobs[job], option) for option in turns.options[job])


def takes_turns(job: WaitingJob) -> bool:
    """Whole devices are wanted; shares of one and jobs without any are not moved about."""
    return job.share_permille >= WHOLE and any(alternative.count for alternative in job.request.alternatives)


def size(lease: RunningLease) -> int:
    return sum(len(member.devices) for member in lease.members)
