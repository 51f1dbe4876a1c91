"""Places: pools, nodes with their devices, and queues, as stored. Every function takes an open transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from adapters.accelerator import Accelerator, Health
from adapters.device_event import DeviceEvent, Severity
from adapters.reading import partition_document, sample_document
from adapters.sample import Sample
from adapters.smi import MIG_ON
from scheduler.clock import to_ms
from scheduler.refusal import Refusal
from scheduler.schema import device_events, devices, nodes, pools, queues, samples
from scheduler.store import text_of, touch


def add_pool(
    tx: Connection,
    *,
    id: str,  # noqa: A002 - the column's name
    provider: str,
    site: str,
    region: str,
    backend: str,
    vendor: str,
    model: str,
    source: str,
    price_fen_per_device_hour: int,
    now: datetime,
    images: str = "none",
) -> Refusal | None:
    """The pool exists afterwards; adding an equal one again changes nothing, another under its id is refused."""
    wanted = {
        "id": id,
        "provider": provider,
        "site": site,
        "region": region,
        "backend": backend,
        "vendor": vendor,
        "model": model,
        "source": source,
    }
    row = tx.execute(select(pools).where(pools.c.id == id)).mappings().first()
    if row is not None:
        different = sorted(k for k, v in wanted.items() if row[k] != v)
        return Refusal(code="POOL_EXISTS", facts={"pool": id, "different": different}) if different else None
    tx.execute(
        insert(pools).values(
            **wanted, images=images, price_fen_per_device_hour=price_fen_per_device_hour, created_at_ms=to_ms(now)
        )
    )
    touch(tx)
    return None


def add_node(
    tx: Connection,
    *,
    id: str,  # noqa: A002 - the column's name
    pool: str,
    devices: Sequence[Accelerator],
    now: datetime,
    cpu_milli: int | None = None,
    memory_bytes: int | None = None,
    rack: str | None = None,
) -> Refusal | None:
    """The node and its devices exist afterwards. A device known under another node is refused: serials are unique."""
    if tx.execute(select(pools.c.id).where(pools.c.id == pool)).first() is None:
        return Refusal(code="POOL_UNKNOWN", facts={"pool": pool})
    row = tx.execute(select(nodes.c.pool).where(nodes.c.id == id)).first()
    if row is not None and row.pool != pool:
        return Refusal(code="NODE_EXISTS", facts={"node": id, "pool": row.pool})
    elsewhere = _devices_elsewhere(tx, id, [d.uuid for d in devices])
    if elsewhere:
        return Refusal(code="DEVICE_ELSEWHERE", facts={"node": id, "devices": elsewhere})
    if row is None:
        tx.execute(
            insert(nodes).values(
                id=id, pool=pool, cpu_milli=cpu_milli, memory_bytes=memory_bytes, rack=rack, created_at_ms=to_ms(now)
            )
        )
    _put_devices(tx, id, devices)
    tx.execute(update(nodes).where(nodes.c.id == id).values(heartbeat_at_ms=to_ms(now)))
    touch(tx)
    return None


def heartbeat(tx: Connection, node: str, inventory: Sequence[Accelerator], at: datetime) -> Refusal | None:
    """The node was alive at `at` and held these devices; an unknown node, or a device of another one, is refused.

    A device that the node had and does not name any more is not leased again until it is named, nor is a whole one that is
    split, or set to be split and has no part yet (MIG on: nothing can run on it); an inventory of
    nothing only says that the node is alive.
    """
    if tx.execute(select(nodes.c.id).where(nodes.c.id == node)).first() is None:
        return Refusal(code="NODE_UNKNOWN", facts={"node": node})
    elsewhere = _devices_elsewhere(tx, node, [d.uuid for d in inventory])
    if elsewhere:
        return Refusal(code="DEVICE_ELSEWHERE", facts={"node": node, "devices": elsewhere})
    _put_devices(tx, node, inventory)
    tx.execute(update(nodes).where(nodes.c.id == node).values(heartbeat_at_ms=to_ms(at)))
    return None


def set_schedulable(tx: Connection, node: str, schedulable: bool, now: datetime) -> Refusal | None:
    """The planner uses the node (again), or leaves it out; running leases stay."""
    done = tx.execute(update(nodes).where(nodes.c.id == node).values(schedulable=int(schedulable)))
    if done.rowcount == 0:
        return Refusal(code="NODE_UNKNOWN", facts={"node": node, "at": to_ms(now)})
    touch(tx)
    return None


def set_queue(tx: Connection, name: str, nominal_devices: int | None) -> None:
    """The queue may always have nominal_devices, and in no cohort no more; None lifts the limit."""
    upsert(tx, queues, {"name": name, "nominal_devices": nominal_devices}, key=("name",))
    touch(tx)


def set_cohort(
    tx: Connection,
    name: str,
    *,
    cohort: str | None,
    borrowing_limit: int | None = None,
    lending_limit: int | None = None,
    weight: int = 1,
) -> Refusal | None:
    """The queue lends to and borrows from the others of its cohort within these limits (None: all); weight: of its share.

    A queue nobody set is refused; ValueError names a weight below 1 or a limit below 0.
    """
    if weight < 1:
        raise ValueError(f"weight: must be 1 or more, not {weight}; nearest: 1")
    for field, limit in (("borrowing_limit", borrowing_limit), ("lending_limit", lending_limit)):
        if limit is not None and limit < 0:
            raise ValueError(f"{field}: must be 0 or more, not {limit}; nearest: 0")
    values = {"borrowing_limit": borrowing_limit, "lending_limit": lending_limit, "weight": weight}
    done = tx.execute(update(queues).where(queues.c.name == name).values(cohort=cohort, **values))
    if done.rowcount == 0:
        return Refusal(code="QUEUE_UNKNOWN", facts={"queue": name})
    touch(tx)
    return None


def add_samples(tx: Connection, batch: Sequence[Sample]) -> int:
    """Keep readings of known devices, one row per (device, instant); returns how many rows were new."""
    known = set(tx.execute(select(devices.c.uuid)).scalars())
    values = [
        {
            "device": s.uuid,
            "at_ms": to_ms(s.at),
            "utilisation_ratio": s.utilisation_ratio,
            "utilisation_semantics": s.utilisation_semantics,
            "memory_used_bytes": s.memory_used_bytes,
            "power_watts": s.power_watts,
            "temperature_celsius": s.temperature_celsius,
            "more": _more(s),
        }
        for s in batch
        if s.uuid in known
    ]
    if not values:
        return 0
    make = pg_insert if tx.dialect.name == "postgresql" else sqlite_insert
    return max(0, tx.execute(make(samples).on_conflict_do_nothing(), values).rowcount)


COLUMNS = frozenset(column.name for column in samples.c) | {"uuid", "at"}
JUDGED = {Severity.FATAL: Health.FAILED, Severity.WARNING: Health.DEGRADED}  # what an event makes of a device


def add_device_events(tx: Connection, node: str, batch: Sequence[DeviceEvent]) -> int:
    """Events of the node's devices are kept, each once, and a device is as bad as the worst of them; how many were new.

    It stays so until a heartbeat of its node says otherwise. Events of devices that are not the node's are passed over.
    """
    held = tx.execute(select(devices.c.uuid, devices.c.health).where(devices.c.node == node))
    mine: dict[str, str] = {row.uuid: row.health for row in held}
    known = [event for event in batch if event.uuid in mine]
    if not known:
        return 0
    values = [
        {
            "device": event.uuid,
            "at_ms": to_ms(event.at),
            "code": event.code,
            "severity": event.severity.value if event.severity else None,
            "text": event.text,
        }
        for event in known
    ]
    make = pg_insert if tx.dialect.name == "postgresql" else sqlite_insert
    kept = max(0, tx.execute(make(device_events).on_conflict_do_nothing(), values).rowcount)
    for event in known if kept else ():
        health = JUDGED.get(event.severity) if event.severity else None
        if health is None or mine[event.uuid] == Health.FAILED.value:
            continue
        mine[event.uuid] = health.value
        row = devices.c.uuid == event.uuid
        tx.execute(update(devices).where(row).values(health=health.value, health_code=event.code))
        touch(tx)
    return kept


def _more(sample: Sample) -> str | None:
    """The readings that have no column of their own, where there are any."""
    told = {k: v for k, v in sample_document(sample).items() if k not in COLUMNS and v is not None}
    return text_of(told) if told else None


def _devices_elsewhere(tx: Connection, node: str, uuids: Sequence[str]) -> list[str]:
    found = tx.execute(select(devices.c.uuid).where(devices.c.uuid.in_(uuids), devices.c.node != node)).scalars()
    return sorted(found)


def _put_devices(tx: Connection, node: str, inventory: Sequence[Accelerator]) -> None:
    parents = {device.partition.parent_uuid for device in inventory if device.partition is not None}
    if inventory:
        gone = (devices.c.node == node, devices.c.uuid.not_in([device.uuid for device in inventory]))
        tx.execute(update(devices).where(*gone).values(leasable=0))
    for device in inventory:
        upsert(
            tx,
            devices,
            {
                "uuid": device.uuid,
                "node": node,
                "idx": device.index,
                "vendor": device.vendor,
                "model": device.model,
                "model_raw": device.model_raw,
                "serial": device.serial,
                "pci_bdf": device.pci_bdf,
                "visible_id": device.visible_id,
                "memory_total_bytes": device.memory_total_bytes,
                "driver_version": device.driver_version,
                "health": device.health.value,
                "source": device.source.value,
                "evidence_level": int(device.evidence_level),
                "problems": text_of(list(device.problems)),
                "health_code": device.health_code,
                "partition": text_of(partition_document(device.partition)) if device.partition else None,
                "leasable": int(
                    device.uuid not in parents and not (device.partition is None and MIG_ON in device.problems)
                ),
            },
            key=("uuid",),
        )


def upsert(tx: Connection, table: Any, values: Mapping[str, Any], *, key: tuple[str, ...]) -> None:
    """Insert, or update the row of that key, on SQLite and PostgreSQL."""
    make = pg_insert if tx.dialect.name == "postgresql" else sqlite_insert
    rest = {k: v for k, v in values.items() if k not in key}
    statement = make(table).values(**values)
    tx.execute(
        statement.on_conflict_do_update(index_elements=list(key), set_=rest)
        if rest
        else statement.on_conflict_do_nothing()
    )
