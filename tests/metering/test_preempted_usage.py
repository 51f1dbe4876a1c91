"""What a preempted lease is billed: the run up to its last checkpoint, whatever interim records went beyond it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from adapters.chain import instant
from metering.budget import VoucherBudget
from metering.parameters import load_origin_register, load_policies
from metering.posting import entries
from metering.rule import load_rules
from scheduler.clock import to_ms
from scheduler.consumption import ending_of, usage_of_end, usage_until
from scheduler.job import Checkpoint
from scheduler.lease import Cause, LeaseId, MemberPhase, MemberStatus, Observation
from scheduler.usage import UsageRecord
from tests.fakes import NOON
from tests.platform import POLICY

BUDGET = VoucherBudget(load_policies(), load_rules(), load_origin_register(), POLICY)
POOL = {"provider": "p", "site": "s", "vendor": "ascend"}
ZONE = BUDGET.policy.zone


def lease(metered_ms: int | None) -> dict[str, Any]:
    return {
        "id": "j.1", "job": "j", "firm": "f", "pool": "q", "model": "Ascend910B3", "source": "simulated",
        "device_count": 8, "price_fen_per_device_hour": 2000, "reserved_at_ms": to_ms(NOON) - 5_000,
        "metered_until_ms": metered_ms, "stop_cause": "preempted",
    }  # fmt: skip


def row(record: UsageRecord) -> dict[str, Any]:
    found = {name: getattr(record, name) for name in UsageRecord.__slots__ if name not in ("start", "end", "kind")}
    return {**found, "kind": record.kind.value, "start_ms": to_ms(record.start), "end_ms": to_ms(record.end)}


def member(ran_ms: int, code: int, **changes: Any) -> MemberStatus:
    values = {"boot_id": "b", "started_at": NOON, "started_ms": 0, "ended_ms": ran_ms, "exit_code": code, **changes}
    return MemberStatus(rank=0, phase=MemberPhase.EXITED, cause=Cause.CANCELLED, **values)


def paid_and_all(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """Milliseconds at a price, and all that are settled."""
    found, _ = entries(rows, BUDGET)
    lengths = [
        (to_ms(instant(e["end"])) - to_ms(instant(e["start"])), bool(e["price_fen_per_device_hour"])) for e in found
    ]
    assert all(length for length, _ in lengths) or len(lengths) == 1, "a mark is no entry of its own"
    return sum(length for length, paid in lengths if paid), sum(length for length, _ in lengths)


@given(
    ran_ms=st.integers(0, 4 * 86_400_000),
    interval_ms=st.none() | st.integers(1, 3 * 86_400_000),
    signal=st.booleans(),
    killed=st.booleans(),
)
def test_exactly_the_time_up_to_the_last_checkpoint_is_paid(
    ran_ms: int, interval_ms: int | None, signal: bool, killed: bool
) -> None:
    """And every device millisecond of the run is recorded and settled once, whichever midnights were settled before."""
    seen = Observation(lease=LeaseId("j.1"), members=(member(ran_ms, -9 if killed else 0),))
    going = Observation(
        lease=LeaseId("j.1"), members=(MemberStatus(rank=0, phase=MemberPhase.RUNNING, started_at=NOON, started_ms=0),)
    )
    interim = usage_until(lease(None), POOL, going, ran_ms, ZONE)
    metered = to_ms(interim[-1].end) if interim else None
    checkpoint = Checkpoint(path="ck", interval_ms=interval_ms, signal="SIGUSR1" if signal else None)
    ended = lease(metered)
    last = usage_of_end(ended, POOL, seen, ending_of(ended, seen), NOON + timedelta(milliseconds=ran_ms), checkpoint)
    records = [*interim, *last]

    whole = ran_ms // interval_ms * interval_ms if interval_ms else 0
    kept = ran_ms if signal and not killed else whole
    assert paid_and_all([row(record) for record in records]) == (kept, ran_ms)
    keys = [(record.kind, record.start) for record in records]
    assert len(set(keys)) == len(keys), "the same stretch twice would be refused by the database"
    assert all(record.price_fen_per_device_hour == 0 for record in records if record.kind.value != "run")


@given(metered=st.none() | st.integers(1, 86_400_000))
def test_a_gang_that_never_ran_as_a_whole_pays_nothing(metered: int | None) -> None:
    """Not even for a day that was settled in between."""
    seen = Observation(lease=LeaseId("j.1"), members=(member(10, 0, started_at=None, started_ms=None),))
    until = None if metered is None else to_ms(NOON) + metered
    ended, now = lease(until), NOON + timedelta(days=2)
    rows = [row(one) for one in usage_of_end(ended, POOL, seen, ending_of(ended, seen), now)]
    if metered is not None:
        run = {**rows[0], "kind": "run", "cause": None, "start_ms": to_ms(NOON), "end_ms": until}
        rows.insert(0, {**run, "price_fen_per_device_hour": 2000})

    assert paid_and_all(rows)[0] == 0
