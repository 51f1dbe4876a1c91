"""Levels of pools: what is kept is what would be worked out anew, whatever was put on record, undone or withdrawn meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, update

from adapters.accelerator import EvidenceLevel
from metering import evidence
from metering.event_schema import agent_keys
from metering.evidence_level import Kind, Record, course, standing_at, verdict_at
from metering.evidence_pools import LEVELS, Counts, levels_of_pools
from scheduler.clock import to_ms
from scheduler.schema import devices, nodes
from tests.fakes import NOON
from tests.platform import Platform, make_platform

MINUTE = timedelta(minutes=1)
SHOWN = {"bus": True, "bare_metal": True, "key": "k1"}
KINDS = st.sampled_from(
    [Kind.SIGNED, Kind.OBSERVED, Kind.LAPSED, Kind.KERNEL, Kind.FINGERPRINT, Kind.SUSPECT, Kind.CLEARED]
)
FACTS = {
    Kind.SIGNED: SHOWN, Kind.OBSERVED: SHOWN, Kind.KERNEL: {"ok": False}, Kind.FINGERPRINT: {"within": False},
    Kind.SUSPECT: {"doubts": ["x"]},
}  # fmt: skip


@st.composite
def records(draw: st.DrawFn) -> list[Record]:
    found = []
    for seq in range(1, draw(st.integers(0, 8)) + 1):
        kind, start = draw(KINDS), draw(st.integers(0, 20))
        end = draw(st.none() | st.integers(start + 1, 25))
        found.append(Record(seq=seq, kind=kind, from_ms=start, to_ms=end, facts=FACTS.get(kind, {})))
    return found


@given(records(), st.integers(0, 26), st.none() | st.integers(0, 20))
def test_the_verdict_now_is_the_courses_and_holds_until_it_says(
    told: list[Record], at: int, revoked: int | None
) -> None:
    ended = {} if revoked is None else {"k1": revoked}
    live = [record for record in told if record.to_ms is None or record.to_ms > at]
    steps = course(told, EvidenceLevel.TOOL_REPORTED, revoked=ended)
    verdict, until = standing_at(live, EvidenceLevel.TOOL_REPORTED, at, revoked=ended)
    assert verdict == verdict_at(steps, at)
    for later in range(at, until if until is not None else 30):
        assert verdict_at(steps, later) == verdict


def anew(platform: Platform, now: object) -> dict[str, Counter[int]]:
    """The same from every device's whole course."""
    found: dict[str, Counter[int]] = {}
    with platform.database.read() as tx:
        query = select(devices.c.uuid, nodes.c.pool).join(nodes, nodes.c.id == devices.c.node)
        rows = tx.execute(query.where(devices.c.leasable == 1)).all()
        known = evidence.courses(tx, [row.uuid for row in rows])
    for row in rows:
        level = verdict_at(known[row.uuid], to_ms(now)).level  # type: ignore[arg-type]
        found.setdefault(row.pool, Counter())[int(level)] += 1
    return found


def kept(platform: Platform, now: object) -> dict[str, Counter[int]]:
    with platform.database.read() as tx:
        return counted(levels_of_pools(tx, now))  # type: ignore[arg-type]


def counted(levels: Counts) -> dict[str, Counter[int]]:
    return {pool: Counter({n: many[n] for n in range(LEVELS) if many[n]}) for pool, many in levels.items()}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    made = make_platform(Path(tmp_path_factory.mktemp("pools")))
    with made.database.write() as tx:
        tx.execute(update(devices).values(source="library", evidence_level=1))
    yield made
    made.database.close()


DEVICES = [f"sim:{pool}-{node}:{index}" for pool in ("ascend", "h800") for node in (1, 2) for index in range(8)]
MOVES = st.lists(
    st.tuples(
        st.sampled_from(["record", "undone", "withdraw", "base", "unlease", "key", "wait", "ask"]),
        st.sampled_from(DEVICES),
        KINDS,
        st.integers(1, 5),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(MOVES)
def test_what_is_kept_is_what_would_be_worked_out_anew(
    platform: Platform, moves: list[tuple[str, str, Kind, int]]
) -> None:
    for act, device, kind, minutes in moves:
        platform.clock.advance(1)
        now = platform.clock.now()
        try:
            with platform.database.write() as tx:
                row = tx.execute(select(devices).where(devices.c.uuid == device)).mappings().one()
                if act in ("record", "undone"):
                    until = now + minutes * MINUTE
                    evidence._record(tx, device, row["node"], kind, FACTS.get(kind, {}), now, "t", until=until)
                elif act == "withdraw":
                    known = evidence.records_of(tx, [device]).get(device, [])
                    if known:
                        evidence.withdraw(tx, device=device, seq=known[-1].seq, reason="r", by="t", now=now)
                elif act == "base":
                    tx.execute(
                        update(devices).where(devices.c.uuid == device).values(evidence_level=1 - row["evidence_level"])
                    )
                elif act == "unlease":
                    tx.execute(update(devices).where(devices.c.uuid == device).values(leasable=1 - row["leasable"]))
                elif act == "key" and minutes == 1 and not evidence.keys_of(tx, ["k1"]):
                    values = {"id": "k1", "public_key": "x", "site": "bj1", "node": row["node"], "enrolled_by": "t"}
                    ended = {"enrolled_at_ms": 1, "revoked_from_ms": to_ms(now), "revoked_at_ms": to_ms(now)}
                    tx.execute(insert(agent_keys).values(**values, **ended))
                elif act == "wait":
                    platform.clock.advance(60 * minutes)
                if act == "undone":
                    counted(levels_of_pools(tx, now))
                    raise Undone
        except Undone:
            pass
        at = platform.clock.now()
        assert kept(platform, at) == anew(platform, at)
    earlier = NOON - MINUTE
    assert kept(platform, earlier) == anew(platform, earlier), "an earlier instant is none of what was kept"


class Undone(Exception):
    """The transaction is not kept."""
