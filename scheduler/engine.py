"""Engine: `step(state, changes, policy) -> (state, Plan)`. The state is what is known; a plan is made from all of it. Pure.

Folding any sequence of changes equals planning the final snapshot: every table is keyed, every choice is ordered by
value and id, and nothing depends on the order in which facts arrived. A step costs what changed, not what is known: tables
are persistent maps, columns are copied arrays, and scores are kept for nodes that did not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

from immutables import Map

from scheduler.columns import NOTHING_HELD, Held, NodeColumns, columns_of, restamped, with_leases
from scheduler.decision import decide
from scheduler.job import FirmId, JobId
from scheduler.lease import LeaseId
from scheduler.node import Node, NodeId, Pool, PoolId
from scheduler.plan import Plan
from scheduler.policy import Policy
from scheduler.regions import RegionFacts
from scheduler.snapshot import (
    Link,
    Maintenance,
    MixShape,
    QueueQuota,
    RunningLease,
    Snapshot,
    Terms,
    Throughput,
    WaitingJob,
)
from scheduler.waiting import NONE_WAITING, Registry, WaitingColumns
from scheduler.zone import Zone

Value = Pool | Node | WaitingJob | RunningLease | Terms | QueueQuota | Throughput | Maintenance | Link | RegionFacts


@dataclass(frozen=True, slots=True)
class Set:
    """The value is so from now on, new or instead of the one of its key."""

    value: Value


@dataclass(frozen=True, slots=True)
class Remove:
    """Nothing of this kind has this key any more; removing what is not there changes nothing."""

    kind: type[Any]
    key: Any


@dataclass(frozen=True, slots=True)
class Clock:
    """It is `now`, and the store's counter says `version`."""

    now: datetime
    version: int


@dataclass(frozen=True, slots=True)
class Outlook:
    """The recent mix of requests, and how many running members a plan may move, are so from now on."""

    mix: tuple[MixShape, ...] = ()
    migrations: int = 0


Change = Set | Remove | Clock | Outlook


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything known. Tables are keyed by id; columns, waiting and zone follow from them, used counts devices by queue,
    used_in thousandths of devices by queue and pool, ranks leases by the rank of their priority."""

    now: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    version: int = 0
    pools: Mapping[PoolId, Pool] = field(default_factory=Map)
    nodes: Mapping[NodeId, Node] = field(default_factory=Map)
    jobs: Mapping[JobId, WaitingJob] = field(default_factory=Map)
    leases: Mapping[LeaseId, RunningLease] = field(default_factory=Map)
    terms: Mapping[tuple[FirmId, PoolId], Terms] = field(default_factory=Map)
    queues: Mapping[str, QueueQuota] = field(default_factory=Map)
    throughputs: Mapping[tuple[str, str, int], Throughput] = field(default_factory=Map)
    maintenance: Mapping[str, Maintenance] = field(default_factory=Map)
    links: Mapping[tuple[str, str], Link] = field(default_factory=Map)
    regions: Mapping[str, RegionFacts] = field(default_factory=Map)
    mix: tuple[MixShape, ...] = ()
    migrations: int = 0
    columns: NodeColumns = field(default_factory=lambda: columns_of((), ()), compare=False)
    held: Held = field(default=NOTHING_HELD, compare=False)
    waiting: WaitingColumns = field(default=NONE_WAITING, compare=False)
    registry: Registry = field(default_factory=Registry, compare=False, repr=False)
    zone: Zone | None = field(default=None, compare=False, repr=False)
    used: Mapping[str, int] = field(default_factory=Map, compare=False)
    ranks: Mapping[int, int] = field(default_factory=Map, compare=False)
    used_in: Mapping[tuple[str, PoolId], int] = field(default_factory=Map, compare=False)


EMPTY = State()
_TABLES: Mapping[type[Any], str] = {
    Pool: "pools",
    Node: "nodes",
    WaitingJob: "jobs",
    RunningLease: "leases",
    Terms: "terms",
    QueueQuota: "queues",
    Throughput: "throughputs",
    Maintenance: "maintenance",
    Link: "links",
    RegionFacts: "regions",
}
_FIELDS = tuple(State.__dataclass_fields__)
_CONTENT = attrgetter(*_FIELDS)


def step(state: State, changes: Iterable[Change], policy: Policy) -> tuple[State, Plan]:
    """The state with the changes, and the plan for it. The given state is left as it is; launches are not applied:
    what comes of them returns as changes."""
    after = apply(state, changes)
    return after, decide(after, policy)


def apply(state: State, changes: Iterable[Change]) -> State:
    """The state with the changes; what does not change is shared with the state given."""
    values: dict[str, Any] = {}
    mutations: dict[type[Any], Any] = {}
    gone: list[RunningLease] = []
    come: dict[LeaseId, RunningLease] = {}
    jobs: set[JobId] = set()
    before_nodes = state.nodes

    def table(kind: type[Any]) -> Any:
        found = mutations.get(kind)
        if found is None:
            found = mutations[kind] = getattr(state, _TABLES[kind]).mutate()
        return found

    for change in changes:
        if isinstance(change, Set):
            value = change.value
            kind = type(value)
            rows = table(kind)
            if kind is RunningLease:
                _replaced(rows, value.id, gone, come)  # type: ignore[union-attr]
                come[value.id] = value  # type: ignore[union-attr,index,assignment]
            elif kind is WaitingJob:
                jobs.add(value.id)  # type: ignore[union-attr,arg-type]
            rows[_key(value)] = value
        elif isinstance(change, Remove):
            rows = table(change.kind)
            if change.kind is RunningLease:
                _replaced(rows, change.key, gone, come)
            elif change.kind is WaitingJob:
                jobs.add(change.key)
            rows.pop(change.key, None)
        elif isinstance(change, Clock):
            values["now"], values["version"] = change.now, change.version
        else:
            values["mix"], values["migrations"] = change.mix, change.migrations
    for kind, mutation in mutations.items():
        values[_TABLES[kind]] = mutation.finish()
    if jobs:
        values["waiting"] = state.waiting.changed(values["jobs"], jobs, state.registry)
    if gone or come:
        values |= _totals(state, gone, come.values())
    if Node in mutations:
        values |= _with_nodes(state, before_nodes, values, gone, come.values())
        if "zone" in values and (gone or come):
            values["held"] = state.held.changed(
                gone, come.values(), values["columns"].row_of, state.registry.queue_number
            )
        elif "zone" not in values:
            everything = values.get("leases", state.leases).values()
            values["held"] = NOTHING_HELD.changed((), everything, values["columns"].row_of, state.registry.queue_number)
    elif gone or come:
        values["columns"] = with_leases(state.columns, gone, come.values())
        values["held"] = state.held.changed(gone, come.values(), state.columns.row_of, state.registry.queue_number)
    if Pool in mutations or (Node in mutations and "zone" not in values):
        columns = values.get("columns", state.columns)
        values["zone"] = Zone(values.get("pools", state.pools), values.get("nodes", state.nodes), columns)
    return State(**(dict(zip(_FIELDS, _CONTENT(state), strict=True)) | values))


def _replaced(rows: Any, key: Any, gone: list[RunningLease], come: dict[LeaseId, RunningLease]) -> None:
    """The lease of this key no longer holds what it held: before these changes, or by one of them."""
    if key in come:
        del come[key]
    elif (old := rows.get(key)) is not None:
        gone.append(old)


def _with_nodes(
    state: State,
    before: Mapping[NodeId, Node],
    values: Mapping[str, Any],
    gone: list[RunningLease],
    come: Iterable[RunningLease],
) -> dict[str, Any]:
    """New columns. Nodes that only opened or closed keep their rows and the zone; any other change makes both anew."""
    after: Mapping[NodeId, Node] = values["nodes"]
    if len(after) == len(before):
        changed = {name: node for name, node in after.items() if before.get(name) is not node}
        if all(_same_but_open(before.get(name), node) for name, node in changed.items()):
            columns = with_leases(state.columns, gone, come)
            zone = {"zone": state.zone} if state.zone is not None else {}
            return {"columns": restamped(columns, {n: node.schedulable for n, node in changed.items()}), **zone}
    leases: Mapping[LeaseId, RunningLease] = values.get("leases", state.leases)
    return {"columns": columns_of(after.values(), leases.values())}


def _same_but_open(before: Node | None, after: Node) -> bool:
    if before is None:
        return False
    return (before.pool, before.devices, before.cpu_milli, before.memory_bytes, before.rack, before.links) == (
        after.pool, after.devices, after.cpu_milli, after.memory_bytes, after.rack, after.links,
    )  # fmt: skip


def _totals(state: State, gone: Iterable[RunningLease], come: Iterable[RunningLease]) -> dict[str, Any]:
    """used, used_in and ranks after leases have gone and others have come."""
    used, used_in, ranks = state.used.mutate(), state.used_in.mutate(), state.ranks.mutate()  # type: ignore[attr-defined]
    for sign, leases in ((-1, gone), (1, come)):
        for lease in leases:
            devices = 0
            for member in lease.members:
                devices += len(member.devices)
            _add(used, lease.queue, sign * devices)
            _add(used_in, (lease.queue, lease.pool), sign * lease.share_permille * devices)
            _add(ranks, lease.priority.rank, sign)
    return {"used": used.finish(), "used_in": used_in.finish(), "ranks": ranks.finish()}


def _add(table: Any, key: Any, n: int) -> None:
    if total := table.get(key, 0) + n:
        table[key] = total
    else:
        table.pop(key, None)


def _key(value: Value) -> Any:
    match value:
        case Terms():
            return (value.firm, value.pool)
        case QueueQuota():
            return value.name
        case Throughput():
            return (value.workload, value.model, value.devices)
        case Link():
            return (min(value.a, value.b), max(value.a, value.b))
        case RegionFacts():
            return value.region
        case _:
            return value.id


def changes_of(snapshot: Snapshot) -> tuple[Change, ...]:
    """The changes that lead from nothing to this snapshot."""
    values: tuple[Value, ...] = (
        *snapshot.pools,
        *snapshot.nodes,
        *snapshot.jobs,
        *snapshot.leases,
        *snapshot.terms,
        *snapshot.queues,
        *snapshot.throughputs,
        *snapshot.maintenance,
        *snapshot.links,
        *snapshot.regions,
    )
    mix = tuple(sorted(snapshot.mix, key=repr))
    return (
        Clock(snapshot.now, snapshot.version),
        Outlook(mix, snapshot.migrations),
        *(Set(value) for value in values),
    )
