"""Engine: `step(state, changes, policy) -> (state, Plan)`. The state is what is known; a plan is made from all of it. Pure.

Folding any sequence of changes equals planning the final snapshot: every table is keyed, every choice is ordered by
value and id, and nothing depends on the order in which facts arrived.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from scheduler.columns import NodeColumns, columns_of, free_count
from scheduler.decision import decide
from scheduler.job import FirmId, JobId
from scheduler.lease import LeaseId
from scheduler.node import Node, NodeId, Pool, PoolId
from scheduler.plan import Plan
from scheduler.policy import Policy
from scheduler.snapshot import QueueQuota, RunningLease, Snapshot, Terms, WaitingJob

Value = Pool | Node | WaitingJob | RunningLease | Terms | QueueQuota


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


Change = Set | Remove | Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything known. Tables are keyed by id; `taken` and `columns` follow from them."""

    now: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    version: int = 0
    pools: Mapping[PoolId, Pool] = field(default_factory=dict)
    nodes: Mapping[NodeId, Node] = field(default_factory=dict)
    jobs: Mapping[JobId, WaitingJob] = field(default_factory=dict)
    leases: Mapping[LeaseId, RunningLease] = field(default_factory=dict)
    terms: Mapping[tuple[FirmId, PoolId], Terms] = field(default_factory=dict)
    queues: Mapping[str, QueueQuota] = field(default_factory=dict)
    taken: Mapping[NodeId, frozenset[str]] = field(default_factory=dict)
    columns: NodeColumns = field(default_factory=lambda: columns_of((), {}))


EMPTY = State()
_TABLES: Mapping[type[Any], str] = {
    Pool: "pools",
    Node: "nodes",
    WaitingJob: "jobs",
    RunningLease: "leases",
    Terms: "terms",
    QueueQuota: "queues",
}


def step(state: State, changes: Iterable[Change], policy: Policy) -> tuple[State, Plan]:
    """The state with the changes, and the plan for it. The given state is left as it is; launches are not applied:
    what comes of them returns as changes."""
    after = apply(state, changes)
    return after, decide(after, policy)


def apply(state: State, changes: Iterable[Change]) -> State:
    """The state with the changes; only tables that change are copied."""
    tables: dict[str, dict[Any, Any]] = {}
    values: dict[str, Any] = {}

    def table(kind: type[Any]) -> dict[Any, Any]:
        name = _TABLES[kind]
        if name not in tables:
            tables[name] = dict(getattr(state, name))
        return tables[name]

    touched: set[NodeId] = set()
    for change in changes:
        match change:
            case Clock():
                values |= {"now": change.now, "version": change.version}
            case Set():
                value = change.value
                if isinstance(value, RunningLease):
                    touched |= _nodes_of(table(RunningLease).get(value.id)) | _nodes_of(value)
                table(type(value))[_key(value)] = value
            case Remove():
                gone = table(change.kind).pop(change.key, None)
                if change.kind is RunningLease:
                    touched |= _nodes_of(gone)
    values |= tables
    after = replace(state, **values)
    return _derive(state, after, touched, nodes_changed="nodes" in tables)


def _derive(before: State, after: State, touched: set[NodeId], *, nodes_changed: bool) -> State:
    taken = before.taken
    if touched:
        fresh: dict[NodeId, set[str]] = {node: set() for node in touched}
        for lease in after.leases.values():
            for member in lease.members:
                if member.node in fresh:
                    fresh[member.node] |= set(member.devices)
        taken = {n: d for n, d in before.taken.items() if n not in touched}
        taken |= {node: frozenset(held) for node, held in fresh.items() if held}
    if nodes_changed:
        columns = columns_of(after.nodes.values(), taken)
    elif touched:
        known = {node: free_count(after.nodes[node], taken) for node in touched if node in after.nodes}
        columns = before.columns.with_free(known)
    else:
        columns = before.columns
    return replace(after, taken=taken, columns=columns)


def _nodes_of(lease: RunningLease | None) -> set[NodeId]:
    return {member.node for member in lease.members} if lease else set()


def _key(value: Value) -> Any:
    match value:
        case Terms():
            return (value.firm, value.pool)
        case QueueQuota():
            return value.name
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
    )
    return (Clock(snapshot.now, snapshot.version), *(Set(value) for value in values))
