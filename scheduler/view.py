"""View: what the store shows the core. Rows become values here and nowhere else."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, select

from adapters.accelerator import Accelerator, EvidenceLevel, Health, Source
from adapters.catalog import load_catalog
from adapters.registry import load_adapter
from scheduler.clock import from_ms, to_ms
from scheduler.gating import Known, gate_of
from scheduler.job import FirmId, JobId, JobSpec, Priority
from scheduler.lease import Lease, LeaseId, Member, Placement
from scheduler.lifecycle import State
from scheduler.node import Node, NodeId, Pool, PoolId
from scheduler.ports import Budget
from scheduler.refusal import Refusal
from scheduler.schema import devices, jobs, lease_devices, leases, nodes, pools, queues
from scheduler.snapshot import Gate, MixShape, QueueQuota, RunningLease, Snapshot, WaitingJob
from scheduler.store import spec_of, version

SILENT_AFTER = timedelta(seconds=60)  # a node unheard for longer takes no new lease
RECENT = timedelta(days=7)  # the requests that packing leaves room for
MIX_JOBS = 5_000


def snapshot(tx: Connection, now: datetime, budget: Budget, mix: tuple[MixShape, ...] | None = None) -> Snapshot:
    """Everything the planner may know at `now`, read in one transaction. mix: None = `mix_of` that instant."""
    found_pools = tuple(_pools(tx, budget, now))
    waiting = tuple(_waiting(tx))
    firms = sorted({job.firm for job in waiting})
    return Snapshot(
        version=version(tx),
        now=now,
        pools=found_pools,
        nodes=tuple(_nodes(tx, now)),
        jobs=waiting,
        leases=tuple(_running(tx)),
        terms=budget.terms(tx, firms, found_pools, now) if firms else (),
        queues=tuple(
            QueueQuota(
                name=row.name,
                nominal_devices=row.nominal_devices,
                cohort=row.cohort,
                borrowing_limit=row.borrowing_limit,
                lending_limit=row.lending_limit,
                weight=row.weight,
            )
            for row in tx.execute(select(queues).order_by(queues.c.name))
        ),
        mix=mix_of(tx, now) if mix is None else mix,
    )


def mix_of(tx: Connection, now: datetime) -> tuple[MixShape, ...]:
    """What was asked for in the RECENT time before this hour: each shape of a member, weighed by how many there were.

    The same all hour long. Of a job with a choice the first way counts, with the models of all ways of its size; of more
    than MIX_JOBS jobs the last.
    """
    until = now.replace(minute=0, second=0, microsecond=0)
    since = until - RECENT
    query = select(jobs.c.spec).where(jobs.c.submitted_at_ms >= to_ms(since), jobs.c.submitted_at_ms < to_ms(until))
    found: Counter[tuple[int, int, tuple[str, ...]]] = Counter()
    for row in tx.execute(query.order_by(jobs.c.submitted_at_ms.desc(), jobs.c.id).limit(MIX_JOBS)):
        spec = _parsed(row.spec)
        first = spec.request.alternatives[0]
        alike = [one for one in spec.request.alternatives if one.count == first.count]
        models = {model for one in alike for model in one.models} if all(one.models for one in alike) else set()
        found[first.count, share_permille(spec), tuple(sorted(models))] += spec.nodes
    return tuple(
        MixShape(weight=weight, count=count, share_permille=share, models=models)
        for (count, share, models), weight in sorted(found.items())
    )


def _pools(tx: Connection, budget: Budget, now: datetime) -> list[Pool]:
    catalog = load_catalog()
    found = []
    for row in tx.execute(select(pools).where(pools.c.listed == 1).order_by(pools.c.id)).mappings():
        chip = catalog.get(row["model"])
        found.append(
            Pool(
                id=PoolId(row["id"]),
                provider=row["provider"],
                site=row["site"],
                region=row["region"],
                backend=row["backend"],
                vendor=row["vendor"],
                model=row["model"],
                origin=budget.origin(row["vendor"], row["model"], now),
                memory_bytes=chip.memory_bytes if chip else None,
                price_fen_per_device_hour=row["price_fen_per_device_hour"],
                source=Source(row["source"]),
            )
        )
    return found


def _nodes(tx: Connection, now: datetime) -> list[Node]:
    by_node: dict[str, list[str]] = defaultdict(list)
    usable = select(devices.c.node, devices.c.uuid).where(devices.c.health != Health.FAILED.value)
    for row in tx.execute(usable.order_by(devices.c.node, devices.c.idx)):
        by_node[row.node].append(row.uuid)
    oldest = to_ms(now - SILENT_AFTER)
    return [
        Node(
            id=NodeId(row.id),
            pool=PoolId(row.pool),
            devices=tuple(by_node[row.id]),
            cpu_milli=row.cpu_milli,
            memory_bytes=row.memory_bytes,
            rack=row.rack,
            schedulable=bool(row.schedulable) and (row.heartbeat_at_ms or 0) >= oldest,
        )
        for row in tx.execute(select(nodes).order_by(nodes.c.id))
    ]


def _waiting(tx: Connection) -> list[WaitingJob]:
    gates = gates_of(tx)
    found = []
    for row in tx.execute(_waiting_rows()).mappings():
        spec, gate = _parsed(row["spec"]), gates.get(JobId(row["id"]))
        found.append(
            WaitingJob(
                id=JobId(row["id"]),
                name=row["name"],
                firm=FirmId(row["firm"]),
                queue=row["queue"],
                priority=Priority(row["priority"]),
                submitted_at=from_ms(row["submitted_at_ms"]),
                nodes=spec.nodes,
                time_limit_ms=spec.time_limit_ms,
                request=spec.request,
                money=spec.money,
                stacks=stacks_of(spec),
                attempt=row["attempt"] + 1,
                pending_since=from_ms(row["pending_since_ms"]) if row["pending_since_ms"] else None,
                share_permille=share_permille(spec),
                min_nodes=spec.gang_min_nodes if spec.gang_min_nodes < spec.nodes else None,
                workload=spec.workload,
                checkpoint_interval_ms=spec.checkpoint.interval_ms if spec.checkpoint else None,
                deadline=spec.deadline,
                gate=Gate(code=gate.code) if isinstance(gate, Refusal) else gate,
            )
        )
    return found


def _waiting_rows() -> Select[Any]:
    states = (State.SUBMITTED.value, State.PENDING.value)
    query = select(jobs).where(jobs.c.state.in_(states), jobs.c.cancel_requested_at_ms.is_(None))
    return query.order_by(jobs.c.submitted_at_ms, jobs.c.id)


def gates_of(tx: Connection) -> dict[JobId, Gate | Refusal]:
    """Of the waiting jobs that depend on others: what each still waits for, or why it never can start. The rest may."""
    dependent = jobs.c.spec.contains('"depends_on":[{', autoescape=True)
    rows = list(tx.execute(_waiting_rows().where(dependent)).mappings())
    if not rows:
        return {}
    wanted = {one.job for row in rows for one in _parsed(row["spec"]).depends_on}
    columns = (jobs.c.id, jobs.c.name, jobs.c.firm, jobs.c.submitted_at_ms, jobs.c.state)
    query = select(*columns).where(jobs.c.firm.in_({row["firm"] for row in rows}))
    by_firm: dict[str, dict[str, list[Known]]] = defaultdict(lambda: defaultdict(list))
    for one in tx.execute(query.where(jobs.c.id.in_(wanted) | jobs.c.name.in_(wanted))):
        known = Known(id=one.id, name=one.name, submitted_ms=one.submitted_at_ms, state=State(one.state))
        for name in {one.id, one.name}:
            by_firm[one.firm][name].append(known)
    found: dict[JobId, Gate | Refusal] = {}
    for row in rows:
        gate = gate_of(row["id"], row["submitted_at_ms"], _parsed(row["spec"]).depends_on, by_firm[row["firm"]])
        if gate is not None:
            found[JobId(row["id"])] = gate
    return found


def share_permille(spec: JobSpec) -> int:
    """Thousandths of a device that each member wants: the cores, or the memory on the smallest model it could have,
    whichever is more, rounded up; 1000 where a model's memory is unknown."""
    request = spec.request
    if request.whole:
        return 1000
    share = request.share_cores_permille or 1
    if request.share_memory_bytes is not None:
        catalog = load_catalog()
        names = {name for one in request.alternatives for name in one.models}
        sizes = [chip.memory_bytes if (chip := catalog.get(name)) else None for name in sorted(names)]
        if not sizes or not all(sizes):
            return 1000
        share = max(share, -(-request.share_memory_bytes * 1000 // min(size for size in sizes if size)))
    return min(1000, share)


@lru_cache(maxsize=1 << 14)
def _parsed(text: str) -> JobSpec:
    """The job of a stored canonical form; what waits for long is parsed once."""
    return spec_of({"spec": text})


def stacks_of(spec: JobSpec) -> tuple[str, ...]:
    """Software stacks the job can run on: those of its variants; empty = any, an entrypoint serves them all."""
    return () if spec.entrypoint else tuple(sorted(k for k, v in spec.variants.items() if v.run))


def _running(tx: Connection) -> list[RunningLease]:
    held = leases.c.released_at_ms.is_(None)
    gangs = _gangs(tx, select(leases.c.id).where(held))
    query = select(leases, jobs.c.spec, jobs.c.priority).join(jobs, jobs.c.id == leases.c.job).where(held)
    found = []
    for row in tx.execute(query.order_by(leases.c.reserved_at_ms, leases.c.id)).mappings():
        begun, spec = row["started_at_ms"], _parsed(row["spec"])
        start = begun if begun is not None else row["reserved_at_ms"]
        found.append(
            RunningLease(
                id=LeaseId(row["id"]),
                job=JobId(row["job"]),
                firm=FirmId(row["firm"]),
                queue=row["queue"],
                pool=PoolId(row["pool"]),
                members=gangs.get(row["id"], ()),
                ends_by=from_ms(start + row["time_limit_ms"]),
                share_permille=share_permille(spec),
                priority=Priority(row["priority"]),
                started_at=from_ms(begun) if begun is not None else None,
                checkpoint_interval_ms=spec.checkpoint.interval_ms if spec.checkpoint else None,
                workload=spec.workload,
                stopping=row["stop_requested_at_ms"] is not None,
            )
        )
    return found


def members_of(tx: Connection, lease: str) -> tuple[Member, ...]:
    """The gang of a lease in rank order, devices in index order."""
    return _gangs(tx, [lease]).get(lease, ())


def _gangs(tx: Connection, which: Any) -> dict[str, tuple[Member, ...]]:
    gangs: dict[str, dict[int, tuple[str, list[str]]]] = defaultdict(dict)
    query = select(lease_devices).where(lease_devices.c.lease.in_(which))
    for row in tx.execute(query.order_by(lease_devices.c.lease, lease_devices.c.rank, lease_devices.c.idx)):
        gangs[row.lease].setdefault(row.rank, (row.node, []))[1].append(row.device)
    return {
        lease: tuple(Member(rank=r, node=NodeId(n), devices=tuple(d)) for r, (n, d) in sorted(ranks.items()))
        for lease, ranks in gangs.items()
    }


def lease_of(tx: Connection, row: Mapping[str, Any]) -> Lease:
    """The Lease value of a stored row, with the variables that show each member its own devices."""
    job = tx.execute(select(jobs).where(jobs.c.id == row["job"])).mappings().one()
    members = members_of(tx, row["id"])
    return Lease(
        id=LeaseId(row["id"]),
        job=JobId(row["job"]),
        firm=FirmId(row["firm"]),
        spec=spec_of(job),
        placement=Placement(pool=PoolId(row["pool"]), model=row["model"], members=members),
        backend=row["backend"],
        price_fen_per_device_hour=row["price_fen_per_device_hour"],
        reserved_at=from_ms(row["reserved_at_ms"]),
        visibility={member.rank: visibility(tx, member.devices) for member in members},
    )


def visibility(tx: Connection, uuids: Sequence[str]) -> Mapping[str, str]:
    """What the vendor's adapter injects so that a process sees exactly these devices."""
    found = tx.execute(select(devices).where(devices.c.uuid.in_(uuids)).order_by(devices.c.idx)).mappings().all()
    if not found:
        return {}
    first = accelerator_of(found[0])
    adapter = load_adapter("simulated" if first.source is Source.SIMULATED else first.vendor)
    return adapter.visibility([accelerator_of(row) for row in found])


def accelerator_of(row: RowMapping) -> Accelerator:
    """The device a row stores."""
    return Accelerator(
        uuid=row["uuid"],
        index=row["idx"],
        vendor=row["vendor"],
        model_raw=row["model_raw"],
        model=row["model"],
        serial=row["serial"],
        pci_bdf=row["pci_bdf"],
        visible_id=row["visible_id"],
        memory_total_bytes=row["memory_total_bytes"],
        driver_version=row["driver_version"],
        health=Health(row["health"]),
        source=Source(row["source"]),
        evidence_level=EvidenceLevel(row["evidence_level"]),
        problems=tuple(json.loads(row["problems"])),
    )
