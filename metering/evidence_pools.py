"""Evidence of pools: how many of a pool's devices that can be leased stand at each level now.

Asked in every round and at every quote, so what was once worked out is kept for each database: a device's level is decided again
only when something new is on record of it, its node's key was revoked, or one of its records begins or ends to count. The records
are a hash chain, so it is enough to know that the last one read is still there; if it is not (a transaction was undone, a backup
restored), everything is read anew.
"""

from __future__ import annotations

import heapq
import json
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, or_, select

from adapters.accelerator import EvidenceLevel, Source
from metering.event_schema import agent_keys
from metering.evidence_level import Kind, Record, standing_at
from metering.evidence_schema import evidence_records
from scheduler.clock import from_ms, to_ms
from scheduler.schema import devices, nodes

AT_ONCE = 5_000  # devices a query names; SQLite takes 32,766 values
LEVELS = len(EvidenceLevel)

Counts = Mapping[str, tuple[int, ...]]  # pool → devices at L0, L1, … L5


@dataclass
class _Kept:
    """What one database's records came to.

    levels: device → (level its node reports, level now, until when). ends: (until when, device), a heap; an entry that `levels`
    does not have any more means nothing. seen: what devices there were when they were counted.
    """

    head: tuple[int, str] = (0, "")
    revoked: tuple[int, int] = (0, 0)
    levels: dict[str, tuple[int, int, int | None]] = field(default_factory=dict)
    ends: list[tuple[int, str]] = field(default_factory=list)
    pool_of: dict[str, str] = field(default_factory=dict)
    counts: dict[str, list[int]] = field(default_factory=dict)
    seen: tuple[Any, ...] = ()
    at_ms: int = 0


_kept: weakref.WeakKeyDictionary[Engine, _Kept] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def levels_of_pools(tx: Connection, now: datetime) -> Counts:
    """Every pool with devices that can be leased, with how many of them are at each level at `now`.

    A simulated device is at L0: nothing is shown of it.
    """
    with _lock:
        return _counted(tx, _of(tx), to_ms(now))


def changes_at(tx: Connection, now: datetime) -> datetime | None:
    """When `levels_of_pools` next changes by time alone, with nothing new on record; None = never. It may be sooner than needed."""
    with _lock:
        kept = _of(tx)
        _counted(tx, kept, to_ms(now))
        return from_ms(kept.ends[0][0]) if kept.ends else None


def forget() -> None:
    """Nothing is kept; the next question reads everything."""
    with _lock:
        _kept.clear()


def _of(tx: Connection) -> _Kept:
    return _kept.setdefault(tx.engine, _Kept())


def _counted(tx: Connection, kept: _Kept, now_ms: int) -> Counts:
    try:
        _follow(tx, kept, now_ms)
    except BaseException:  # half followed is not to be trusted
        _kept.pop(tx.engine, None)
        raise
    return {pool: tuple(levels) for pool, levels in kept.counts.items()}


def _follow(tx: Connection, kept: _Kept, now_ms: int) -> None:
    stale, ended, moved = _news(tx, kept)
    seen = tuple(tx.execute(_SIGNATURE).one())
    if now_ms < kept.at_ms:
        kept.levels.clear()  # an earlier instant: what ended since would be missing
        moved = True
    kept.at_ms = now_ms
    while kept.ends and kept.ends[0][0] <= now_ms:
        stale.add(heapq.heappop(kept.ends)[1])
    if moved or seen != kept.seen:
        kept.seen = seen
        _count_all(tx, kept, stale, ended, now_ms)
    elif stale := {device for device in stale if device in kept.pool_of}:
        for device in stale:
            kept.counts[kept.pool_of[device]][kept.levels[device][1]] -= 1
        _decide(tx, kept, {device: kept.levels[device][0] for device in stale}, ended, now_ms)
        for device in stale:
            kept.counts[kept.pool_of[device]][kept.levels[device][1]] += 1


def _count_all(tx: Connection, kept: _Kept, stale: set[str], ended: Mapping[str, int], now_ms: int) -> None:
    rows = tx.execute(_LEASABLE).all()
    missing = {}
    for row in rows:
        base, has = _base(row.evidence_level, row.source), kept.levels.get(row.uuid)
        if has is None or has[0] != base or row.uuid in stale:
            missing[row.uuid] = base
    _decide(tx, kept, missing, ended, now_ms)
    kept.pool_of = {row.uuid: row.pool for row in rows}
    kept.levels = {uuid: kept.levels[uuid] for uuid in kept.pool_of}
    kept.counts = {pool: [0] * LEVELS for pool in kept.pool_of.values()}
    for uuid, pool in kept.pool_of.items():
        kept.counts[pool][kept.levels[uuid][1]] += 1


_LEASABLE = (
    select(devices.c.uuid, devices.c.evidence_level, devices.c.source, nodes.c.pool)
    .join(nodes, nodes.c.id == devices.c.node)
    .where(devices.c.leasable == 1)
)
# What tells that devices are others, or that their nodes report another level of them. Two that change against each other in one
# moment are missed until the next change: a quote's promise is at stake, never a bill.
_SIGNATURE = select(
    func.count(), func.coalesce(func.sum(devices.c.leasable), 0), func.coalesce(func.sum(devices.c.evidence_level), 0)
).select_from(devices)


def _base(level: int, source: str) -> int:
    """What the node itself reports, L0 or L1; -1 for a simulated device, which stays declared whatever is on record."""
    return -1 if source == Source.SIMULATED.value else min(level, EvidenceLevel.TOOL_REPORTED)


def _news(tx: Connection, kept: _Kept) -> tuple[set[str], dict[str, int], bool]:
    """(devices whose level has to be decided again, key → from when it is not believed, whether devices have to be counted anew)."""
    c, k = evidence_records.c, agent_keys.c
    ended = {
        row.id: row.revoked_from_ms for row in tx.execute(select(k.id, k.revoked_from_ms).where(k.revoked_at_ms > 0))
    }
    many, newest = tx.execute(select(func.count(k.revoked_at_ms), func.coalesce(func.max(k.revoked_at_ms), 0))).one()
    last = tx.execute(select(c.seq, c.hash).order_by(c.seq.desc()).limit(1)).first()
    head = (0, "") if last is None else (int(last.seq), str(last.hash))
    stale: set[str] = set()
    moved = False
    if head != kept.head:
        before = tx.execute(select(c.hash).where(c.seq == kept.head[0])).scalar() or ""
        if before != kept.head[1]:  # what was read last is there no more
            kept.levels.clear()
            moved = True
        else:
            news = tx.execute(select(c.device, c.kind).where(c.seq > kept.head[0]).distinct()).all()
            stale |= {row.device for row in news}
            moved = any(row.kind == Kind.MOVED.value for row in news)
    if (many, newest) != kept.revoked:
        since = select(k.node).where(k.revoked_at_ms >= kept.revoked[1])
        stale |= set(tx.execute(select(c.device).where(c.node.in_(since)).distinct()).scalars())
    kept.head, kept.revoked = head, (int(many), int(newest))
    return stale, ended, moved


def _decide(tx: Connection, kept: _Kept, wanted: Mapping[str, int], ended: Mapping[str, int], now_ms: int) -> None:
    """Each device's level now, from the level that its node reports. Ends that no longer mean anything are dropped when they are many."""
    told = _live_records(tx, [uuid for uuid, base in wanted.items() if base >= 0], now_ms)
    for uuid, base in wanted.items():
        if base < 0:
            kept.levels[uuid] = (base, 0, None)
            continue
        verdict, until = standing_at(told.get(uuid, ()), EvidenceLevel(base), now_ms, revoked=ended)
        kept.levels[uuid] = (base, int(verdict.level), until)
        if until is not None:
            heapq.heappush(kept.ends, (until, uuid))
    if len(kept.ends) > 2 * len(kept.levels) + AT_ONCE:
        kept.ends = [(until, uuid) for uuid, (_, _, until) in kept.levels.items() if until is not None]
        heapq.heapify(kept.ends)


def _live_records(tx: Connection, uuids: Sequence[str], now_ms: int) -> dict[str, list[Record]]:
    """What counts now or later of these devices, in order of number. Of very many, everything is read through once."""
    c = evidence_records.c
    query = select(c.seq, c.device, c.kind, c.from_ms, c.to_ms, c.facts).where(or_(c.to_ms.is_(None), c.to_ms > now_ms))
    found: dict[str, list[Record]] = {uuid: [] for uuid in uuids}
    if len(found) <= AT_ONCE:
        query = query.where(c.device.in_(uuids))
    parsed: dict[str, Any] = {}  # a node says the same of its devices each time
    for seq, device, kind, start, end, facts in tx.execute(query.order_by(c.seq)):
        mine = found.get(device)
        if mine is None:
            continue
        told = parsed.get(facts)
        if told is None:
            told = json.loads(facts)
            if len(parsed) < AT_ONCE:
                parsed[facts] = told
        mine.append(Record(seq=seq, kind=Kind(kind), from_ms=start, to_ms=end, facts=told))
    return found
