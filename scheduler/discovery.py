"""Discovery: the nodes and devices that an engine underneath already knows become pools of the zone by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection, Select, exists, insert, select, update

from adapters.accelerator import EvidenceLevel, Health, Source
from adapters.catalog import load_catalog
from scheduler.clock import to_ms
from scheduler.cluster_file import Cluster
from scheduler.places import add_pool
from scheduler.refusal import Refusal
from scheduler.schema import devices, lease_devices, nodes, pools
from scheduler.store import text_of, touch

BATCH = 500  # nodes per statement


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundNode:
    """A node as its engine describes it. name: the engine's own; vendor, model: of the catalogue, of all its devices.

    devices: how many may be leased there, those that jobs of others hold left out. schedulable: false while cordoned,
    draining, tainted or not ready; why: the engine's own word for it. cpu_milli, memory_bytes: None = unknown.
    """

    name: str
    vendor: str
    model: str
    devices: int
    cpu_milli: int | None = None
    memory_bytes: int | None = None
    rack: str | None = None
    schedulable: bool = True
    why: str | None = None
    source: Source = Source.ENGINE
    labels: Mapping[str, str] = field(default_factory=dict)


class Discovery(Protocol):
    """What a backend of an existing cluster can do beside the port: say what is there now.

    Raises ConnectionError while the engine cannot be asked: nothing is known then, which is not "nothing is there".
    """

    def nodes(self) -> Sequence[FoundNode]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What `record` did. pools: those it made now. refused: what it left out, and why. written: rows that changed."""

    pools: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()
    written: int = 0


def record(tx: Connection, cluster: Cluster, found: Sequence[FoundNode], now: datetime) -> Recorded:
    """Pools, nodes and devices of the cluster are as found; only what differs is written, and nothing is ever deleted.

    A pool per model, `<cluster>-<model>`, whose backend is the cluster; a model without a price has none, and its nodes are left
    out (PRICE_MISSING). A node that is not found, or takes no jobs, is not scheduled onto; one that is was heard from at `now`.
    A device is a place of its node, `<cluster>/<node>/<i>`: an engine counts devices and does not name them. Of those that may be
    leased the ones with open leases come first, so that a count that sinks never takes a held place away. Where an agent runs on the
    node its devices are the places, and those that were only counted are used no more.
    """
    pools_made, refused, written = [], [], 0
    known = {row["id"]: row for row in tx.execute(_of_cluster(cluster)).mappings()}
    places = _places(tx, cluster)
    new = _New()
    told: set[str] = set()
    answered: dict[str, Refusal | None] = {}
    for node in sorted(found, key=lambda one: one.name):
        if node.model not in answered:
            answered[node.model], made = _pool(tx, cluster, node, now)
            pools_made += made
        refusal = answered[node.model]
        if refusal is not None:
            refused.append(refusal)
            continue
        before = known.get(cluster.node_of(node.name))
        if before is not None and before["pool"] != cluster.pool_of(node.model):
            facts = {"node": before["id"], "pool": before["pool"], "model": node.model}
            refused.append(Refusal(code="NODE_CHANGED_MODEL", facts=facts))
            continue
        told.add(cluster.node_of(node.name))
        written += _node(tx, cluster, node, before, places.get(cluster.node_of(node.name), ()), new, now)
    for table, values in ((nodes, new.nodes), (devices, new.devices)):
        if values:
            tx.execute(insert(table), values)
    gone = [id_ for id_, row in known.items() if id_ not in told and row["schedulable"]]
    for id_ in gone:
        tx.execute(update(nodes).where(nodes.c.id == id_).values(schedulable=0))
    heard = sorted(told)
    for first in range(0, len(heard), BATCH):
        some = nodes.c.id.in_(heard[first : first + BATCH])
        tx.execute(update(nodes).where(some).values(heartbeat_at_ms=to_ms(now)))
    written += len(gone)
    if written:
        touch(tx)
    unique = {text_of({"code": one.code, **one.facts}): one for one in refused}
    return Recorded(pools=tuple(pools_made), refused=tuple(unique.values()), written=written)


def _of_cluster(cluster: Cluster) -> Select[Any]:
    return select(nodes).join(pools, pools.c.id == nodes.c.pool).where(pools.c.backend == cluster.name)


def _pool(tx: Connection, cluster: Cluster, node: FoundNode, now: datetime) -> tuple[Refusal | None, list[str]]:
    id_, price = cluster.pool_of(node.model), cluster.prices.get(node.model)
    if tx.execute(select(pools.c.id).where(pools.c.id == id_, pools.c.backend == cluster.name)).first() is not None:
        return None, []
    if price is None:
        return Refusal(code="PRICE_MISSING", facts={"cluster": cluster.name, "model": node.model}), []
    refusal = add_pool(
        tx,
        id=id_,
        provider=cluster.provider,
        site=cluster.site,
        region=cluster.region,
        backend=cluster.name,
        vendor=node.vendor,
        model=node.model,
        source=node.source.value,
        price_fen_per_device_hour=price,
        images=cluster.images,
        now=now,
    )
    return refusal, [] if refusal is not None else [id_]


@dataclass(slots=True)
class _New:
    """Rows to insert, all at once: the first look at a large cluster must not keep other writers waiting."""

    nodes: list[dict[str, Any]] = field(default_factory=list)
    devices: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Place:
    """A device row as stored. held: an open lease is on it. named: an agent found it on the node itself."""

    uuid: str
    index: int
    leasable: bool
    held: bool
    named: bool


def _places(tx: Connection, cluster: Cluster) -> dict[str, list[_Place]]:
    """By node, in one reading: clusters have thousands of nodes."""
    held = exists().where(lease_devices.c.device == devices.c.uuid, lease_devices.c.released == 0)
    query = (
        select(devices.c.node, devices.c.uuid, devices.c.idx, devices.c.leasable, held.label("held"))
        .join(nodes, nodes.c.id == devices.c.node)
        .join(pools, pools.c.id == nodes.c.pool)
        .where(pools.c.backend == cluster.name)
    )
    found: dict[str, list[_Place]] = {}
    for row in tx.execute(query):
        named = not row.uuid.startswith(f"{cluster.name}/")
        found.setdefault(row.node, []).append(_Place(row.uuid, row.idx, bool(row.leasable), bool(row.held), named))
    return found


def _node(
    tx: Connection,
    cluster: Cluster,
    node: FoundNode,
    before: Mapping[Any, Any] | None,
    there: Sequence[_Place],
    new: _New,
    now: datetime,
) -> int:
    """The node's row and its places are as found; how many rows changed."""
    id_ = cluster.node_of(node.name)
    wanted = {
        "cpu_milli": node.cpu_milli,
        "memory_bytes": node.memory_bytes,
        "rack": node.rack,
        "schedulable": int(node.schedulable),
    }
    if before is None:
        values = {"id": id_, "pool": cluster.pool_of(node.model), "created_at_ms": to_ms(now), **wanted}
        new.nodes.append(values)
    elif changed := {key: value for key, value in wanted.items() if before[key] != value}:
        tx.execute(update(nodes).where(nodes.c.id == id_).values(**changed))
    else:
        return _devices(tx, cluster, node, there, new)
    return 1 + _devices(tx, cluster, node, there, new)


def _devices(tx: Connection, cluster: Cluster, node: FoundNode, there: Sequence[_Place], new: _New) -> int:
    """As many places as were found may be leased: devices that an agent named where there are any, else counted ones."""
    counted = {place.index: place for place in there if not place.named}
    named = [place for place in there if place.named]
    changed = 0
    if named:
        free = node.devices - sum(place.held for place in counted.values())
        wanted = {place.uuid for place in sorted(named, key=_first)[: max(0, free)]}
    else:
        for index in sorted(set(range(node.devices)) - counted.keys()):
            counted[index] = _Place(_uuid(cluster, node, index), index, True, False, False)
            new.devices.append(_device(cluster, node, index))
            changed += 1
        wanted = {place.uuid for place in sorted(counted.values(), key=_first)[: node.devices]}
    for place in (*counted.values(), *named):
        if place.leasable != (place.uuid in wanted):
            mine = devices.c.uuid == place.uuid
            tx.execute(update(devices).where(mine).values(leasable=int(place.uuid in wanted)))
            changed += 1
    return changed


def _first(place: _Place) -> tuple[bool, int]:
    """Places with an open lease come first."""
    return not place.held, place.index


def _device(cluster: Cluster, node: FoundNode, index: int) -> dict[str, Any]:
    chip = load_catalog().get(node.model)
    memory = chip.memory_bytes // chip.dies if chip and chip.memory_bytes else None
    return {
        "uuid": _uuid(cluster, node, index),
        "node": cluster.node_of(node.name),
        "idx": index,
        "vendor": node.vendor,
        "model": node.model,
        "model_raw": node.model,
        "visible_id": str(index),
        "memory_total_bytes": memory,
        "health": Health.OK.value,
        "source": node.source.value,
        "evidence_level": int(EvidenceLevel.DECLARED),
    }


def _uuid(cluster: Cluster, node: FoundNode, index: int) -> str:
    return f"{cluster.name}/{node.name}/{index}"
