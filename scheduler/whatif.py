"""What if: a snapshot replayed until all that waits in it has started, as the zone is and with nodes added or removed. Pure.

Running leases end when they are predicted to and at their limit where nothing tells; waiting jobs run for their predicted
time, else for their time limit. Nobody else comes. Both replays make the same assumptions, so that they can be compared.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import fmean
from typing import Any, cast

from adapters.chain import timestamp
from scheduler.clock import from_ms, to_ms
from scheduler.engine import Outlook, Value
from scheduler.job import JobId
from scheduler.netcost import predicted_ms, profiles_of
from scheduler.node import Node, NodeId
from scheduler.playback import Playback
from scheduler.policy import Policy
from scheduler.snapshot import RunningLease, Snapshot, WaitingJob

VERSION = 1


class WhatIfError(ValueError):
    """A change that cannot be made: the pool, the number, and the nearest that can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """When each waiting job would start; None = not while anything still happens. planned: launches and waits decided."""

    now: datetime
    starts: Mapping[JobId, datetime | None]
    planned: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One snapshot, as it is and with other nodes."""

    policy: str
    jobs: tuple[WaitingJob, ...]
    added: Mapping[str, int]
    removed: Mapping[str, int]
    before: Replay
    after: Replay

    def document(self) -> dict[str, Any]:
        """Version 1: one entry per waiting job, those that gain most first; earlier_s is below 0 where it starts later."""
        entries = sorted((self._entry(job) for job in self.jobs), key=_gain)
        known = [entry["earlier_s"] for entry in entries if entry["earlier_s"] is not None]
        return {
            "version": VERSION,
            "policy": self.policy,
            "now": timestamp(self.before.now),
            "added": dict(self.added),
            "removed": dict(self.removed),
            "waiting": len(self.jobs),
            "never_before": sum(start is None for start in self.before.starts.values()),
            "never_after": sum(start is None for start in self.after.starts.values()),
            "earlier": sum(gain > 0 for gain in known) + sum(_starts_at_all(entry) for entry in entries),
            "later": sum(gain < 0 for gain in known) + sum(_starts_no_more(entry) for entry in entries),
            "wait_mean_s_before": _mean_wait(self.before),
            "wait_mean_s_after": _mean_wait(self.after),
            "jobs": entries,
        }

    def _entry(self, job: WaitingJob) -> dict[str, Any]:
        before, after = self.before.starts[job.id], self.after.starts[job.id]
        earlier = None if before is None or after is None else (to_ms(before) - to_ms(after)) / 1000
        return {
            "job": job.id,
            "name": job.name,
            "firm": job.firm,
            "start_before": None if before is None else timestamp(before),
            "start_after": None if after is None else timestamp(after),
            "earlier_s": earlier,
        }


def compare(
    snapshot: Snapshot, policy: Policy, *, add: Mapping[str, int] | None = None, remove: Mapping[str, int] | None = None
) -> Comparison:
    """The snapshot replayed twice; WhatIfError if the change cannot be made."""
    changed = with_nodes(snapshot, add or {}, remove or {})
    before = replay(snapshot, policy)
    return Comparison(
        policy=policy.name,
        jobs=tuple(sorted(snapshot.jobs, key=lambda job: job.id)),
        added=dict(add or {}),
        removed=dict(remove or {}),
        before=before,
        after=before if changed == snapshot else replay(changed, policy),
    )


def with_nodes(snapshot: Snapshot, add: Mapping[str, int], remove: Mapping[str, int]) -> Snapshot:
    """New nodes are like the commonest of their pool and take work. Removed are first those where nothing runs, the last
    by name; of the others as many as are still wanted take no new work, and what runs there runs on."""
    pools = {str(pool.id) for pool in snapshot.pools}
    nodes = {node.id: node for node in snapshot.nodes}
    busy = {member.node for lease in snapshot.leases for member in lease.members}
    for name, count in (*add.items(), *remove.items()):
        if name not in pools:
            near = difflib.get_close_matches(name, sorted(pools), n=1, cutoff=0.0)
            raise WhatIfError(f"{name!r} is no pool of the snapshot" + (f"; nearest: {near[0]}" if near else ""))
        if count < 1:
            raise WhatIfError(f"{name}: {count} nodes is below 1; nearest: 1")
    for name, count in remove.items():
        own = sorted((n for n in nodes.values() if n.pool == name and n.schedulable), key=lambda n: n.id, reverse=True)
        if count > len(own):
            raise WhatIfError(f"{name}: {count} nodes to remove, and {len(own)} take work; nearest: {len(own)}")
        for node in sorted(own, key=lambda n: n.id in busy)[:count]:
            if node.id in busy:
                nodes[node.id] = replace(node, schedulable=False)
            else:
                del nodes[node.id]
    for name, count in add.items():
        for node in _copies(name, [n for n in snapshot.nodes if n.pool == name], set(nodes), count):
            nodes[node.id] = node
    return replace(snapshot, nodes=tuple(nodes.values()))


def replay(snapshot: Snapshot, policy: Policy) -> Replay:
    """The planner's own steps from the snapshot on, until all its jobs have started or nothing happens any more."""
    profiles = profiles_of(snapshot.throughputs)
    models = {pool.id: pool.model for pool in snapshot.pools}

    def lasts(job: WaitingJob, model: str, devices: int) -> int:
        found = predicted_ms(job, model, devices, profiles)
        return job.time_limit_ms if found is None else min(found, job.time_limit_ms)

    def ends(lease: RunningLease) -> int:
        size = sum(len(member.devices) for member in lease.members)
        # predicted_ms reads workload and remaining_steps alone, and a lease has both
        left = predicted_ms(cast(WaitingJob, lease), models.get(lease.pool, ""), size, profiles)
        limit = to_ms(lease.ends_by)
        end = limit if left is None else min(limit, to_ms(snapshot.now) + left)
        return max(end, to_ms(snapshot.now) + 1)

    now = to_ms(snapshot.now)
    playback = Playback(
        policy=policy,
        lasts=lasts,
        outlook=Outlook(tuple(sorted(snapshot.mix, key=repr)), snapshot.migrations),
        now_ms=now,
        version=snapshot.version,
    )
    known: tuple[Value, ...] = (
        *snapshot.pools,
        *snapshot.nodes,
        *snapshot.terms,
        *snapshot.queues,
        *snapshot.throughputs,
        *snapshot.maintenance,
        *snapshot.links,
    )
    wanted = {job.id for job in snapshot.jobs}
    playback.play(
        known,
        [(now, job) for job in sorted(snapshot.jobs, key=lambda job: job.id)],
        running=[(lease, ends(lease)) for lease in snapshot.leases],
        enough=lambda: wanted <= playback.started.keys(),
    )
    starts = {name: from_ms(at) if (at := playback.started.get(name)) is not None else None for name in sorted(wanted)}
    return Replay(now=snapshot.now, starts=starts, planned=playback.planned)


def _copies(pool: str, own: Sequence[Node], taken: set[NodeId], count: int) -> list[Node]:
    if not own:
        raise WhatIfError(f"{pool}: has no node to make others like; nearest: a pool with nodes")
    shapes = Counter((len(n.devices), n.cpu_milli, n.memory_bytes, n.links) for n in own)
    (devices, cpu, memory, links), _ = min(shapes.items(), key=lambda item: (-item[1], repr(item[0])))
    found: list[Node] = []
    number = 0
    while len(found) < count:
        number += 1
        name = NodeId(f"{pool}+{number:05d}")
        if name in taken:
            continue
        found.append(
            Node(
                id=name,
                pool=own[0].pool,
                devices=tuple(f"{name}:{i}" for i in range(devices)),
                cpu_milli=cpu,
                memory_bytes=memory,
                links=links,
            )
        )
    return found


def _gain(entry: Mapping[str, Any]) -> tuple[bool, bool, float, str]:
    return (not _starts_at_all(entry), entry["earlier_s"] is None, -(entry["earlier_s"] or 0), str(entry["job"]))


def _starts_at_all(entry: Mapping[str, Any]) -> bool:
    return entry["start_before"] is None and entry["start_after"] is not None


def _starts_no_more(entry: Mapping[str, Any]) -> bool:
    return entry["start_before"] is not None and entry["start_after"] is None


def _mean_wait(found: Replay) -> float | None:
    """From now on, of the jobs that start."""
    waits = [(to_ms(start) - to_ms(found.now)) / 1000 for start in found.starts.values() if start is not None]
    return round(fmean(waits), 6) if waits else None
