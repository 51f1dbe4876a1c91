"""View: what the store shows the core. Rows become values here and nowhere else."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, select

from adapters.accelerator import Accelerator, EvidenceLevel, Health, Source
from adapters.catalog import load_catalog
from adapters.reading import read_partition
from adapters.registry import load_adapter
from scheduler.clock import from_ms, to_ms
from scheduler.gates import gates_of, waiting_jobs
from scheduler.job import FirmId, JobId, JobSpec, Priority
from scheduler.lease import Lease, LeaseId, Member, Placement
from scheduler.node import Images, Node, NodeId, Pool, PoolId
from scheduler.ports import Budget
from scheduler.progress import profile_name, progress_rows, steps_left, throughputs_of
from scheduler.refusal import Refusal
from scheduler.region_file import RegionFile
from scheduler.relocations import moved_lately, relocations
from scheduler.schema import devices, jobs, lease_devices, leases, nodes, pools, queues
from scheduler.snapshot import Gate, MixShape, QueueQuota, RunningLease, Snapshot, WaitingJob
from scheduler.store import parsed, spec_of, version

SILENT_AFTER = timedelta(seconds=60)  # a node unheard for longer takes no new lease
RECENT = timedelta(days=7)  # the requests that packing leaves room for
MIX_JOBS = 5_000


def snapshot(
    tx: Connection,
    now: datetime,
    budget: Budget,
    mix: tuple[MixShape, ...] | None = None,
    *,
    moves_per_hour: int = 0,
) -> Snapshot:
    """Everything the planner may know at `now`, read in one transaction. mix: None = `mix_of` that instant.

    moves_per_hour: the zone's budget of members that may be moved; the plan may use what the last hour left of it.
    """
    found_pools = tuple(listed_pools(tx, budget, now))
    queued, held = tuple(waiting(tx)), tuple(running(tx))
    firms = sorted({job.firm for job in queued})
    known = {job.firm for job in queued if job.workload} | {lease.firm for lease in held if lease.workload}
    return Snapshot(
        version=version(tx),
        now=now,
        pools=found_pools,
        nodes=tuple(_nodes(tx, now)),
        jobs=queued,
        leases=held,
        terms=budget.terms(tx, firms, found_pools, now) if firms else (),
        queues=quotas(tx),
        mix=mix_of(tx, now) if mix is None else mix,
        throughputs=throughputs_of(tx, known) if known else (),
        migrations=_movable(tx, moves_per_hour, now),
    )


def quotas(tx: Connection) -> tuple[QueueQuota, ...]:
    """What each queue may hold."""
    return tuple(
        QueueQuota(
            name=row.name,
            nominal_devices=row.nominal_devices,
            cohort=row.cohort,
            borrowing_limit=row.borrowing_limit,
            lending_limit=row.lending_limit,
            weight=row.weight,
        )
        for row in tx.execute(select(queues).order_by(queues.c.name))
    )


def regional(tx: Connection, found: Snapshot, known: RegionFile) -> Snapshot:
    """The snapshot with what the zone recorded of its regions, and of each waiting job where its inputs lie."""
    inputs: dict[str, Mapping[str, str]] = {}
    if known.data:
        query = waiting_jobs().where(jobs.c.spec.contains('"inputs":{"', autoescape=True))
        inputs = {row["id"]: parsed(row["spec"]).inputs for row in tx.execute(query).mappings()}
    placed = tuple(replace(one, data=known.data_of(inputs[one.id])) if one.id in inputs else one for one in found.jobs)
    return replace(found, jobs=placed, links=known.links, regions=tuple(known.facts.values()))


def _movable(tx: Connection, per_hour: int, now: datetime) -> int:
    """None while one moves: what it makes room for is not free yet, and would be asked for again."""
    if per_hour <= 0 or relocations(tx):
        return 0
    return max(0, per_hour - moved_lately(tx, now))


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
        spec = parsed(row.spec)
        first = spec.request.alternatives[0]
        alike = [one for one in spec.request.alternatives if one.count == first.count]
        models = {model for one in alike for model in one.models} if all(one.models for one in alike) else set()
        found[first.count, share_permille(spec), tuple(sorted(models))] += spec.nodes
    return tuple(
        MixShape(weight=weight, count=count, share_permille=share, models=models)
        for (count, share, models), weight in sorted(found.items())
    )


def listed_pools(tx: Connection, budget: Budget, now: datetime) -> list[Pool]:
    """The pools that take jobs."""
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
                images=Images(row["images"]),
            )
        )
    return found


def _nodes(tx: Connection, now: datetime) -> list[Node]:
    by_node: dict[str, list[str]] = defaultdict(list)
    usable = select(devices.c.node, devices.c.uuid).where(
        devices.c.health != Health.FAILED.value, devices.c.leasable == 1
    )
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


def waiting(tx: Connection, only: Collection[str] | None = None) -> list[WaitingJob]:
    """The jobs that wait. only: those of these ids."""
    gates = gates_of(tx)
    query = waiting_jobs() if only is None else waiting_jobs().where(jobs.c.id.in_(only))
    rows = list(tx.execute(query).mappings())
    progress = progress_rows(tx, query.with_only_columns(jobs.c.id).order_by(None))
    found = []
    for row in rows:
        gate, left = gates.get(JobId(row["id"])), steps_left(progress.get(row["id"]), running=False)
        shown = Gate(code=gate.code) if isinstance(gate, Refusal) else gate
        found.append(waiting_job(row, parsed(row["spec"]), left, shown))
    return found


def waiting_job(row: Mapping[Any, Any], spec: JobSpec, left: int | None, gate: Gate | None = None) -> WaitingJob:
    """The job of a stored row as it waits. left: steps still to do."""
    return WaitingJob(
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
        images=images_of(spec),
        attempt=row["attempt"] + 1,
        pending_since=from_ms(row["pending_since_ms"]) if row["pending_since_ms"] else None,
        share_permille=share_permille(spec),
        min_nodes=spec.gang_min_nodes if spec.gang_min_nodes < spec.nodes else None,
        workload=profile_name(row["firm"], spec.workload),
        remaining_steps=left,
        checkpoint_interval_ms=spec.checkpoint.interval_ms if spec.checkpoint else None,
        deadline=spec.deadline,
        gate=gate,
    )


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


def stacks_of(spec: JobSpec) -> tuple[str, ...]:
    """Software stacks the job can run on: those of its variants; empty = any, an entrypoint serves them all."""
    return () if spec.entrypoint else tuple(sorted(k for k, v in spec.variants.items() if v.run))


def images_of(spec: JobSpec) -> tuple[str, ...]:
    """Software stacks for which the job names a container image."""
    return tuple(sorted(k for k, v in spec.variants.items() if v.image is not None))


def running(tx: Connection, only: Collection[str] | None = None) -> list[RunningLease]:
    """What holds devices, or will once it has moved there. only: of the jobs of these ids."""
    held: ColumnElement[bool] = leases.c.released_at_ms.is_(None)
    if only is not None:
        held = and_(held, leases.c.job.in_(only))
    gangs = _gangs(tx, select(leases.c.id).where(held))
    progress = progress_rows(tx, select(leases.c.job).where(held))
    lease_columns = [column.label(f"lease_{column.name}") for column in leases.c]
    query = select(jobs, *lease_columns).join(jobs, jobs.c.id == leases.c.job).where(held)
    rows = list(tx.execute(query.order_by(leases.c.reserved_at_ms, leases.c.id)).mappings())
    found = [_lease(row, gangs.get(row["lease_id"], ()), progress.get(row["id"])) for row in rows]
    moving = _targets(tx, {one.id: one for one in found})
    return found + [one for one in moving if only is None or one.job in only]


def _lease(row: Mapping[Any, Any], members: tuple[Member, ...], progress: Mapping[Any, Any] | None) -> RunningLease:
    """row: of the job, and of its lease with names that begin with lease_.

    again: only of a job that declares a checkpoint, which alone may be moved.
    """
    spec, begun = parsed(row["spec"]), row["lease_started_at_ms"]
    stopping = row["lease_stop_requested_at_ms"] is not None
    ends = (begun if begun is not None else row["lease_reserved_at_ms"]) + row["lease_time_limit_ms"]
    mine = progress if progress is not None and progress["lease"] == row["lease_id"] else None
    saved = mine["checkpointed_at_ms"] if mine else None
    return RunningLease(
        id=LeaseId(row["lease_id"]),
        job=JobId(row["id"]),
        firm=FirmId(row["firm"]),
        queue=row["lease_queue"],
        pool=PoolId(row["lease_pool"]),
        members=members,
        ends_by=from_ms(ends if row["deadline_at_ms"] is None else min(ends, row["deadline_at_ms"])),
        share_permille=share_permille(spec),
        priority=Priority(row["priority"]),
        started_at=from_ms(begun) if begun is not None else None,
        checkpointed_at=from_ms(saved) if saved is not None else None,
        checkpoint_interval_ms=spec.checkpoint.interval_ms if spec.checkpoint else None,
        workload=profile_name(row["firm"], spec.workload),
        remaining_steps=steps_left(progress, running=mine is not None),
        stopping=stopping,
        again=waiting_job(row, spec, steps_left(progress, running=False)) if spec.checkpoint and not stopping else None,
    )


def _targets(tx: Connection, held: Mapping[str, RunningLease]) -> list[RunningLease]:
    """Where leases that move go to counts as taken until they are there, in no queue, since their queue has them already."""
    found = []
    for one in relocations(tx):
        source = held.get(one.lease)
        taken = {device for member in source.members for device in member.devices} if source else set()
        members = [replace(m, devices=tuple(d for d in m.devices if d not in taken)) for m in one.target.members]
        lease = RunningLease(
            id=LeaseId(f"{one.lease}.moves"),
            job=one.job,
            firm=source.firm if source else FirmId(""),
            queue="",
            pool=one.target.pool,
            members=tuple(member for member in members if member.devices),
            ends_by=source.ends_by if source else from_ms(one.asked_at_ms + one.time_limit_ms),
            priority=Priority.HIGH,
        )
        found.append(lease)
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
        health_code=row["health_code"],
        partition=read_partition(json.loads(row["partition"] or "null")),
    )
