"""What a level allows, on both sides of every threshold and date: the rate, the listing, the subsidy."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from adapters.accelerator import EvidenceLevel, Source
from metering import allowance, evidence, store
from metering.allowance import level_asked
from metering.case import settle_document
from metering.evidence_level import Kind
from metering.parameters import ParameterError, Policy, load_policies
from metering.parameters.policy import (
    LEVEL_FOR_RATE,
    LEVEL_FOR_SUBSIDY,
    LEVEL_TO_LIST,
)
from metering.schema import reviews, settlement_lines, settlements
from scheduler import places
from scheduler.clock import to_ms
from scheduler.schema import nodes, pools
from tests.fakes import simulated_device
from tests.metering.cases import RULES
from tests.metering.parameter_cases import SHIPPED, edit
from tests.platform import POLICY, Platform, job_text, make_platform

JOB = job_text(limit="4h")
DECEMBER = datetime(2026, 11, 30, 16, tzinfo=UTC)  # 1 December 2026 in Beijing
NEW_YEAR = datetime(2026, 12, 31, 16, tzinfo=UTC)  # 1 January 2027
TICK = timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("key", "at", "level"),
    [
        (LEVEL_TO_LIST, DECEMBER - TICK, 0),
        (LEVEL_TO_LIST, DECEMBER, 1),
        (LEVEL_FOR_RATE, DECEMBER - TICK, 0),
        (LEVEL_FOR_RATE, DECEMBER, 1),
        (LEVEL_FOR_RATE, NEW_YEAR - TICK, 1),
        (LEVEL_FOR_RATE, NEW_YEAR, 3),
        (LEVEL_FOR_SUBSIDY, DECEMBER - TICK, 0),
        (LEVEL_FOR_SUBSIDY, DECEMBER, 3),
    ],
)
def test_the_shipped_levels_begin_on_their_days(key: str, at: datetime, level: int) -> None:
    assert level_asked(load_policies().policy(POLICY), key, at) == level


@pytest.mark.parametrize("value", ["6", "-1", "true", '"3"'])
def test_a_level_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    import shutil

    copy = shutil.copytree(SHIPPED, tmp_path / "p")
    edit(copy, f"{POLICY}/evidence.yaml", "value: 3\n", f"value: {value}\n")
    with pytest.raises(ParameterError):
        load_policies(copy)


def test_a_policy_without_such_keys_asks_for_nothing() -> None:
    assert level_asked(load_policies().policy("etown-2024-29"), LEVEL_FOR_RATE, NEW_YEAR) == 0


# --- the rate -------------------------------------------------------------------------------------


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    """Only one node takes jobs: `real-1`, whose eight Ascend910B3 a library reported."""
    made = make_platform(tmp_path)
    with made.database.write() as tx:
        tx.execute(update(pools).values(listed=0))
        places.add_pool(
            tx, id="real", provider="911100006000373415", site="bj1", region="beijing", backend="local", vendor="ascend",
            model="Ascend910B3", source="library", price_fen_per_device_hour=1000, now=made.clock.now(),
        )  # fmt: skip
        store.set_price(
            tx, pool="real", model="Ascend910B3", fen=1000, start=made.clock.now(), by="o", now=made.clock.now()
        )
        cards = [
            replace(
                simulated_device("real-1", index),
                uuid=uuid_of(index),
                source=Source.LIBRARY,
                serial=f"S{index}",
                evidence_level=EvidenceLevel.TOOL_REPORTED,
            )
            for index in range(8)
        ]
        places.add_node(tx, id="real-1", pool="real", devices=cards, now=made.clock.now())
    return made


def uuid_of(index: int) -> str:
    return f"VDIE-{index}"


def put(platform: Platform, kind: Kind, *indexes: int, at: datetime | None = None, **facts: Any) -> None:
    """The same thing goes on record of these devices."""
    with platform.database.write() as tx:
        for index in indexes:
            evidence._record(tx, uuid_of(index), "real-1", kind, facts, at or platform.clock.now(), "test")


SIGNED = {"bus": True, "bare_metal": True, "key": "k"}


def run(platform: Platform, start: datetime, hours: float = 1) -> list[dict[str, Any]]:
    """The lines of a job that runs from then on for so long."""
    platform.clock.wall = start
    name = f"{to_ms(start)}"
    job = platform.submit(name, JOB)
    for _ in range(2):
        platform.beat()
        platform.loop.tick()
    platform.clock.advance(hours * 3600)
    platform.beat()
    platform.backend.end(f"{job}.1", 0)
    platform.loop.tick()
    lines = [row for row in platform.rows(settlement_lines) if row["lease"].startswith(job)]
    last = lines[-1]["settlement"]
    return [row for row in lines if row["settlement"] == last]


def shown(lines: list[dict[str, Any]]) -> list[tuple[str, int, int, int]]:
    return [(line["origin"], line["device_ms"] // 3_600, line["rate_bp"], line["deduction_fen"]) for line in lines]


WHOLE, PART = 8 * 1000, 1000  # thousandths of a device hour
DOMESTIC, UNDETERMINED = ("domestic", WHOLE, 4000, 3200), ("undetermined", WHOLE, 3000, 2400)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (datetime(2026, 6, 1, 5, tzinfo=UTC), DOMESTIC),  # no level is asked for yet
        (DECEMBER + timedelta(hours=1), DOMESTIC),  # L1 is enough
        (NEW_YEAR - timedelta(hours=2), DOMESTIC),
        (NEW_YEAR, UNDETERMINED),  # L3 is asked for
    ],
)
def test_a_tools_word_is_billed_by_the_level_asked_for_at_usage_time(
    platform: Platform, start: datetime, expected: tuple[str, int, int, int]
) -> None:
    assert shown(run(platform, start)) == [expected]
    opened = {row["id"] for row in platform.rows(reviews)}
    assert ("ORIGIN_UNDETERMINED:Ascend910B3" in opened) is (expected is UNDETERMINED)


@pytest.mark.parametrize(
    ("kind", "facts", "expected"),
    [
        (Kind.SIGNED, SIGNED, DOMESTIC),
        (Kind.OBSERVED, {**SIGNED, "key": None}, UNDETERMINED),  # L2
        (Kind.SIGNED, {**SIGNED, "bare_metal": False}, UNDETERMINED),  # a virtual machine
        (Kind.AUDITED, {}, DOMESTIC),
    ],
)
def test_from_2027_on_the_domestic_rate_wants_l3(
    platform: Platform, kind: Kind, facts: dict[str, Any], expected: tuple[str, int, int, int]
) -> None:
    put(platform, kind, *range(8), at=NEW_YEAR - timedelta(hours=3), **facts)
    assert shown(run(platform, NEW_YEAR + timedelta(hours=1))) == [expected]


def test_usage_across_the_new_year_is_cut_there(platform: Platform) -> None:
    lines = run(platform, NEW_YEAR - timedelta(hours=1), hours=2)

    assert shown(lines) == [DOMESTIC, UNDETERMINED]
    assert lines[0]["end_ms"] == lines[1]["start_ms"] == to_ms(NEW_YEAR)
    assert sum(line["fee_fen"] for line in lines) == 2 * 8 * 1000


def test_usage_is_cut_where_a_devices_level_changes(platform: Platform) -> None:
    start = NEW_YEAR + timedelta(days=1)
    put(platform, Kind.SIGNED, *range(8), at=start + timedelta(minutes=30), **SIGNED)

    assert [(line[0], line[1]) for line in shown(run(platform, start))] == [
        ("undetermined", WHOLE // 2),
        ("domestic", WHOLE // 2),
    ]


def test_of_a_lease_only_the_devices_that_are_not_shown_lose_the_rate(platform: Platform) -> None:
    put(platform, Kind.SIGNED, *range(7), at=NEW_YEAR, **SIGNED)
    lines = run(platform, NEW_YEAR + timedelta(days=1))

    assert shown(lines) == [("domestic", 7 * PART, 4000, 2800), ("undetermined", PART, 3000, 300)]


def test_a_suspect_device_has_the_foreign_rate_and_its_node_no_new_jobs(platform: Platform) -> None:
    start = DECEMBER + timedelta(days=1)
    with platform.database.write() as tx:
        evidence.quarantine(tx, uuid_of(3), ["real-1"], ["serial: twice"], by="test", now=start - TICK)
    assert dict(platform.rows(nodes)[-1])["schedulable"] == 0
    with platform.database.write() as tx:
        places.set_schedulable(tx, "real-1", True, start)

    assert shown(run(platform, start)) == [("domestic", 7 * PART, 4000, 2800), ("undetermined", PART, 3000, 300)]


def test_a_quote_does_not_promise_what_will_not_be_given(platform: Platform) -> None:
    def rate(at: datetime) -> int:
        from scheduler import view

        platform.clock.wall = at
        platform.beat()
        with platform.database.read() as tx:
            listed = view.listed_pools(tx, platform.budget, at)
            (terms,) = platform.budget.terms(tx, ["91110302MA01A2B3C4"], listed, at)  # type: ignore[list-item]
        return terms.rate_bp

    assert (rate(NEW_YEAR - TICK), rate(NEW_YEAR)) == (4000, 3000)
    put(platform, Kind.SIGNED, *range(8), at=NEW_YEAR, **SIGNED)
    assert rate(NEW_YEAR) == 4000


def test_simulated_devices_of_the_demo_ledger_go_on_as_before(tmp_path: Path) -> None:
    platform = make_platform(tmp_path)
    assert [line[0] for line in shown(run(platform, NEW_YEAR + timedelta(days=1)))] == ["domestic"]


def test_what_was_stored_settles_again_offline_to_the_fen(platform: Platform) -> None:
    put(platform, Kind.SIGNED, *range(5), at=NEW_YEAR, **SIGNED)
    run(platform, NEW_YEAR - timedelta(hours=1), hours=2)
    stored = platform.rows(settlements)[-1]
    again = settle_document(stored["case_json"], load_policies(), RULES)

    assert again["totals"]["deduction_fen"] == stored["deduction_fen"]
    assert [line["origin"] for line in again["lines"]] == ["domestic", "domestic", "undetermined"]


# --- the listing and the subsidy --------------------------------------------------------------------


@pytest.fixture
def policy() -> Policy:
    return load_policies().policy(POLICY)


def test_a_declared_device_is_not_listed_from_december_on(platform: Platform, policy: Policy) -> None:
    from scheduler.schema import devices

    with platform.database.write() as tx:
        tx.execute(update(devices).where(devices.c.uuid == uuid_of(2)).values(evidence_level=0))
        assert allowance.unlistable(tx, policy, "real", DECEMBER - TICK) is None
        refusal = allowance.unlistable(tx, policy, "real", DECEMBER)
        assert refusal is not None
        assert (refusal.code, dict(refusal.facts)) == (
            "EVIDENCE_BELOW_LEVEL",
            {"pool": "real", "level": 1, "devices": [uuid_of(2)]},
        )
        assert allowance.hold_back(tx, policy, "real", "real-1", DECEMBER) is not None
        assert not tx.execute(select(nodes.c.schedulable).where(nodes.c.id == "real-1")).scalar_one()
        assert allowance.unlistable(tx, policy, "ascend", DECEMBER) is None, "simulated ones are the demo's"


def test_the_subsidy_counts_only_what_a_key_signed_for(platform: Platform, policy: Policy) -> None:
    uuids = [uuid_of(0), uuid_of(1)]
    put(platform, Kind.SIGNED, 0, at=DECEMBER, **SIGNED)
    with platform.database.write() as tx:
        assert allowance.uncounted(tx, policy, "P", uuids, DECEMBER - TICK) is None
        refusal = allowance.uncounted(tx, policy, "P", uuids, DECEMBER)
        assert refusal is not None
        assert refusal.facts["devices"] == [uuid_of(1)]
        assert allowance.uncounted(tx, policy, "P", uuids[:1], DECEMBER) is None
