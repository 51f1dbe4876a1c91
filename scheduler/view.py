"""View: what the store shows the core. Rows become values here and nowhere else."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from adapters.accelerator import Accelerator, EvidenceLevel, Health, Source
from adapters.catalog import load_catalog
from adapters.registry import load_adapter
from scheduler.clock import from_ms, to_ms
from scheduler.job import FirmId, JobId, JobSpec, Priority
from scheduler.lease import Lease, LeaseId, Member, Placement
from scheduler.lifecycle import State
from scheduler.node import Node, NodeId, Pool, PoolId
from scheduler.ports import Budget
from scheduler.schema import devices, jobs, lease_devices, nodes, pools, queues
from scheduler.snapshot import QueueQuota, RunningLease, Snapshot, WaitingJob
from scheduler.store import held_leases, spec_of, version

SILENT_AFTER = timedelta(seconds=60)  # a node unheard for longer takes no new lease


def snapshot(tx: Connection, now: datetime, budget: Budget) -> Snapshot:
    """Everything the planner may know at `now`, read in one transaction."""
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
            QueueQuota(name=row.name, nominal_devices=row.nominal_devices)
            for row in tx.execute(select(queues).order_by(queues.c.name))
        ),
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
    states = (State.SUBMITTED.value, State.PENDING.value)
    query = select(jobs).where(jobs.c.state.in_(states), jobs.c.cancel_requested_at_ms.is_(None))
    found = []
    for row in tx.execute(query.order_by(jobs.c.submitted_at_ms, jobs.c.id)).mappings():
        spec = spec_of(row)
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
            )
        )
    return found


def stacks_of(spec: JobSpec) -> tuple[str, ...]:
    """Software stacks the job can run on: those of its variants; empty = any, an entrypoint serves them all."""
    return () if spec.entrypoint else tuple(sorted(k for k, v in spec.variants.items() if v.run))


def _running(tx: Connection) -> list[RunningLease]:
    found = []
    for row in held_leases(tx):
        start = row["started_at_ms"] or row["reserved_at_ms"]
        found.append(
            RunningLease(
                id=LeaseId(row["id"]),
                job=JobId(row["job"]),
                firm=FirmId(row["firm"]),
                queue=row["queue"],
                pool=PoolId(row["pool"]),
                members=members_of(tx, row["id"]),
                ends_by=from_ms(start + row["time_limit_ms"]),
            )
        )
    return found


def members_of(tx: Connection, lease: str) -> tuple[Member, ...]:
    """The gang of a lease in rank order, devices in index order."""
    ranks: dict[int, tuple[str, list[str]]] = {}
    query = select(lease_devices).where(lease_devices.c.lease == lease)
    for row in tx.execute(query.order_by(lease_devices.c.rank, lease_devices.c.idx)):
        ranks.setdefault(row.rank, (row.node, []))[1].append(row.device)
    return tuple(Member(rank=r, node=NodeId(n), devices=tuple(d)) for r, (n, d) in sorted(ranks.items()))


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
