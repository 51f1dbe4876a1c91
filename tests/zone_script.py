"""Zone scripts: a zone, its queues and jobs in a line each, and what the planner does with them as time passes.

A script is read once and played through `scheduler.engine.step`; every launch of a plan runs from then on, every lease that a
plan preempts ends and its job waits again. Times are from the start, prices in fen for a device hour, sizes in GiB.

    policy NAME
    pool NAME MODEL [price=1000] [region=r] · nodes POOL N [devices=8] [rack=NAME] [links=0,0,1,1]
    link A B megabit=1000 [price=5] · power REGION price=500000 [night=300000] [carbon=500000]
    terms FIRM POOL price=1000 rate=4000 room=1000000 [shadow=0]
    queue NAME [nominal=8] [cohort=C] [borrow=4] [lend=4] [weight=1]
    maintain NAME NODE,NODE start=2h end=3h · cordon NODE · open NODE
    job NAME MODEL:COUNT[,MODEL:COUNT] [nodes=1] [least=1] [queue=q] [firm=f] [priority=normal] [limit=1h] [share=500]
        [required=rack] [preferred=rack] [cap=1000] [data=REGION:10] [gate=HELD] [checkpoint=30m]
    run NAME … on=NODE,NODE — the same as a job that runs already, on the first free devices of these nodes
    plan · after 30m · end NAME · drop NAME · held
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from adapters.accelerator import Origin, Source
from scheduler.engine import EMPTY, Change, Clock, Remove, Set, State, apply, step
from scheduler.job import Alternative, FirmId, JobId, Money, Priority, Request
from scheduler.lease import LeaseId, Member
from scheduler.node import Node, NodeId, Pool, PoolId
from scheduler.plan import Launch, Pending, Plan
from scheduler.policies.fair import Fair
from scheduler.policies.fifo import Fifo
from scheduler.policies.net_cost import NetCost
from scheduler.policy import Policy
from scheduler.regions import RegionFacts
from scheduler.snapshot import Gate, Link, Maintenance, QueueQuota, RunningLease, Terms, WaitingJob

START = datetime(2026, 6, 1, tzinfo=UTC)
GIB = 1 << 30
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Conservative(NetCost):
    """net_cost with a reservation for every gang that waits."""

    name = "net_cost with conservative backfill"
    backfill = 1 << 20


POLICIES: dict[str, Policy] = {
    "net_cost": NetCost(),
    "fifo": Fifo(),
    "fair": Fair(),
    "conservative": Conservative(),
}


def play(script: str) -> Iterator[str]:
    """Every line of the script and what it printed."""
    scene = Scene()
    for line in script.splitlines():
        if not line.strip() or line.startswith("#"):
            yield line
            continue
        yield f"> {line}"
        word, *rest = shlex.split(line)
        plain = [one for one in rest if "=" not in one]
        yield from getattr(scene, f"do_{word}")(*plain, **dict(one.split("=", 1) for one in rest if "=" in one))


@dataclass
class Scene:
    """What is known, and the jobs that run, as they would wait."""

    state: State = EMPTY
    policy: Policy = field(default_factory=NetCost)
    running: dict[str, WaitingJob] = field(default_factory=dict)

    # --- the zone ---------------------------------------------------------------------------------------------------

    def do_policy(self, name: str) -> Iterator[str]:
        self.policy = POLICIES[name]
        yield from ()

    def do_pool(self, name: str, model: str, *, price: str = "1000", region: str = "r") -> Iterator[str]:
        yield from self._set(
            Pool(
                id=PoolId(name), provider="p", site="s", region=region, backend="simulated", vendor="v", model=model,
                origin=Origin.FOREIGN, memory_bytes=64 * GIB, price_fen_per_device_hour=int(price),
                source=Source.SIMULATED,
            )
        )  # fmt: skip

    def do_nodes(
        self, pool: str, count: str, *, devices: str = "8", rack: str | None = None, links: str = ""
    ) -> Iterator[str]:
        known = sum(node.pool == pool for node in self.state.nodes.values())
        groups = tuple(int(one) for one in links.split(",")) if links else ()
        for number in range(known + 1, known + 1 + int(count)):
            name = NodeId(f"{pool}-{number}")
            each = tuple(f"{name}:{i}" for i in range(int(devices)))
            yield from self._set(Node(id=name, pool=PoolId(pool), devices=each, rack=rack, links=groups))

    def do_link(self, a: str, b: str, *, megabit: str, price: str = "0") -> Iterator[str]:
        yield from self._set(Link(a=a, b=b, megabit_per_s=int(megabit), price_fen_per_gib=int(price)))

    def do_power(
        self, region: str, *, price: str, night: str | None = None, carbon: str | None = None
    ) -> Iterator[str]:
        day, dark = int(price), int(night or price)
        yield from self._set(
            RegionFacts(
                region=region, price_micro_yuan_per_kwh=(dark,) * 8 + (day,) * 16, price_source="scenario",
                carbon_mg_per_kwh=int(carbon) if carbon else None, carbon_source="scenario",
            )
        )  # fmt: skip

    def do_terms(self, firm: str, pool: str, *, price: str, rate: str, room: str, shadow: str = "0") -> Iterator[str]:
        yield from self._set(
            Terms(
                firm=FirmId(firm), pool=PoolId(pool), price_fen_per_device_hour=int(price), rate_bp=int(rate),
                room_fen=int(room), shadow_price_permille=int(shadow),
            )
        )  # fmt: skip

    def do_queue(
        self,
        name: str,
        *,
        nominal: str | None = None,
        cohort: str | None = None,
        borrow: str | None = None,
        lend: str | None = None,
        weight: str = "1",
    ) -> Iterator[str]:
        yield from self._set(
            QueueQuota(
                name=name, nominal_devices=_number(nominal), cohort=cohort, borrowing_limit=_number(borrow),
                lending_limit=_number(lend), weight=int(weight),
            )
        )  # fmt: skip

    def do_maintain(self, name: str, nodes: str, *, start: str, end: str) -> Iterator[str]:
        names = tuple(NodeId(one) for one in nodes.split(","))
        yield from self._set(Maintenance(id=name, nodes=names, start=START + _span(start), end=START + _span(end)))

    def do_cordon(self, node: str) -> Iterator[str]:
        yield from self._set(replace(self.state.nodes[NodeId(node)], schedulable=False))

    def do_open(self, node: str) -> Iterator[str]:
        yield from self._set(replace(self.state.nodes[NodeId(node)], schedulable=True))

    # --- jobs -------------------------------------------------------------------------------------------------------

    def do_job(self, name: str, accelerators: str, **given: str) -> Iterator[str]:
        yield from self._set(self._job(name, accelerators, **given))

    def do_run(self, name: str, accelerators: str, *, on: str, **given: str) -> Iterator[str]:
        job = self._job(name, accelerators, nodes=str(1 + on.count(",")), **given)
        count = job.request.alternatives[0].count
        taken = {(m.node, d) for one in self.state.leases.values() for m in one.members for d in m.devices}
        members = []
        for rank, node in enumerate(on.split(",")):
            found = self.state.nodes[NodeId(node)]
            free = [device for device in found.devices if (found.id, device) not in taken][:count]
            taken |= {(found.id, device) for device in free}
            members.append(Member(rank=rank, node=found.id, devices=tuple(free)))
        self._start(job, self.state.nodes[members[0].node].pool, tuple(members))
        yield from ()

    def do_end(self, name: str) -> Iterator[str]:
        yield from self._apply(Remove(RunningLease, self._lease_of(name).id))

    def do_drop(self, name: str) -> Iterator[str]:
        yield from self._apply(Remove(WaitingJob, JobId(name)))

    # --- what the planner does --------------------------------------------------------------------------------------

    def do_after(self, span: str) -> Iterator[str]:
        """Time passes; what reaches its limit ends."""
        now = self.state.now + _span(span)
        over = sorted(one.job for one in self.state.leases.values() if one.ends_by <= now)
        for name in over:
            yield f"  {name} ends"
            yield from self._apply(Remove(RunningLease, self._lease_of(name).id))
        yield from self._apply(Clock(now, self.state.version + 1))

    def do_plan(self) -> Iterator[str]:
        self.state, plan = step(self._begun(), (), self.policy)
        yield from self._told(plan)
        for one in plan.preempts:
            self.state = apply(self.state, [Remove(RunningLease, one.lease)])
            again = self.running[one.job]
            self.state = apply(self.state, [Set(replace(again, attempt=again.attempt + 1))])
        for launch in plan.launches:
            job = replace(self.state.jobs[launch.job], nodes=len(launch.placement.members), min_nodes=None)
            self.state = apply(self.state, [Remove(WaitingJob, launch.job)])
            self._start(job, launch.placement.pool, launch.placement.members)

    def do_held(self) -> Iterator[str]:
        """Devices in use by queue."""
        for queue, devices in sorted(self.state.used.items()):
            yield f"  {queue} {devices}"

    # --- parts ------------------------------------------------------------------------------------------------------

    def _begun(self) -> State:
        return self.state if self.state.now >= START else apply(self.state, [Clock(START, 1)])

    def _set(self, value: Any) -> Iterator[str]:
        yield from self._apply(Set(value))

    def _apply(self, change: Change) -> Iterator[str]:
        self.state = apply(self._begun(), [change])
        yield from ()

    def _start(self, job: WaitingJob, pool: PoolId, members: tuple[Member, ...]) -> None:
        lease = RunningLease(
            id=LeaseId(f"{job.id}.{job.attempt}"), job=job.id, firm=job.firm, queue=job.queue, pool=pool, members=members,
            ends_by=self._begun().now + timedelta(milliseconds=job.time_limit_ms), share_permille=job.share_permille,
            priority=job.priority, started_at=self._begun().now, checkpoint_interval_ms=job.checkpoint_interval_ms,
        )  # fmt: skip
        self.running[job.id] = job
        self.state = apply(self._begun(), [Set(lease)])

    def _lease_of(self, job: str) -> RunningLease:
        (found,) = [one for one in self.state.leases.values() if one.job == job]
        return found

    def _job(
        self,
        name: str,
        accelerators: str,
        *,
        nodes: str = "1",
        least: str | None = None,
        queue: str = "q",
        firm: str = "f",
        priority: str = "normal",
        limit: str = "1h",
        share: str = "1000",
        required: str | None = None,
        preferred: str | None = None,
        cap: str | None = None,
        data: str = "",
        gate: str | None = None,
        checkpoint: str | None = None,
    ) -> WaitingJob:
        asked = [one.split(":") for one in accelerators.split(",")]
        ways = tuple(Alternative(text=f"{m}:{n}", count=int(n), models=(m,)) for m, n in asked)
        inputs = [one.split(":") for one in data.split(",")] if data else []
        return WaitingJob(
            id=JobId(name), name=name, firm=FirmId(firm), queue=queue, priority=Priority(priority),
            submitted_at=self._begun().now + timedelta(milliseconds=len(self.state.jobs) + len(self.running)),
            nodes=int(nodes), min_nodes=_number(least), time_limit_ms=int(_span(limit).total_seconds() * 1000),
            request=Request(alternatives=ways, topology_required=required, topology_preferred=preferred),
            money=Money(max_net_fen=_number(cap)), share_permille=int(share), gate=Gate(code=gate) if gate else None,
            checkpoint_interval_ms=int(_span(checkpoint).total_seconds() * 1000) if checkpoint else None,
            data={region: int(size) * GIB for region, size in inputs},
        )  # fmt: skip

    def _told(self, plan: Plan) -> Iterator[str]:
        for one in plan.preempts:
            yield f"  stop {one.job} for {one.by} ({one.code}), {one.cost_device_ms} device-ms lost"
        for move in plan.migrations:
            yield f"  move {move.lease} rank {move.rank} to {move.to.node}"
        for launch in plan.launches:
            yield f"  start {launch.job} on {_where(launch)}{_saved(launch)}"
        for wait in plan.waits:
            yield f"  {wait.job} waits: {_reason(wait.pending)}"


def _where(launch: Launch) -> str:
    """Nodes with the indices of their devices."""
    found = []
    for member in launch.placement.members:
        places = ",".join(device.rpartition(":")[2] for device in member.devices)
        found.append(f"{member.node}[{places}]")
    return " ".join(found)


def _saved(launch: Launch) -> str:
    one = launch.saved
    if one is None or not launch.chosen.region or one.against == launch.chosen.region:
        return ""
    return f", {one.fen} fen less than {one.against}"


def _reason(pending: Pending) -> str:
    text = f"{pending.code} in {pending.scope}, needs {pending.needed}, there are {pending.available}"
    return text if pending.earliest_start is None else f"{text}, from {_clock(pending.earliest_start)}"


def _clock(moment: datetime) -> str:
    seconds = int((moment - START).total_seconds())
    return f"{seconds // 3600}:{seconds % 3600 // 60:02}:{seconds % 60:02}"


def _span(text: str) -> timedelta:
    return timedelta(seconds=int(text[:-1]) * UNITS[text[-1]])


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)
