"""The audit of usage events names the first record that was touched, and holds for whatever an honest agent does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text, update

from adapters.assignment import Assignment, remove_assignment, write_assignment
from adapters.event import Kind, key_id_of, public_text
from adapters.witness import Host, Witness, load_key
from api.migrations import upgrade
from metering import audit_events, checkpoint, enrolment
from metering.event_schema import APPEND_ONLY, event_batches, usage_events
from metering.events import ingest, metered_of
from scheduler.database import Database
from tests.adapters.test_witness import device
from tests.fakes import NOON
from tests.metering.event_cases import NODES, Voice, Zone, furnish, make_zone


@pytest.fixture
def zone(tmp_path: Path) -> Iterator[Zone]:
    database = Database(f"sqlite:///{tmp_path / 'e.db'}")
    upgrade(database)
    made = furnish(database)
    yield made
    database.close()


def broken(zone: Zone) -> dict[str, tuple[str, str]]:
    """Law → (record, problem) of those that do not hold."""
    with zone.database.read() as tx:
        found = [(law, check()) for law, check in audit_events.laws(tx)]
    return {law: problem for law, problem in found if problem is not None}


def tell(zone: Zone, *batches: list[dict[str, Any]]) -> None:
    for number, batch in enumerate(batches):
        with zone.database.write() as tx:
            outcomes = ingest(tx, batch, NOON + timedelta(hours=1, minutes=number))
        assert {outcome.status for outcome in outcomes} <= {"accepted", "duplicate"}, outcomes


def force(zone: Zone, statement: str) -> None:
    """As somebody with the database in hand would, past every trigger."""
    with zone.database.write() as tx:
        for row in tx.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
            tx.execute(text(f"DROP TRIGGER {row.name}"))
        assert tx.execute(text(statement)).rowcount > 0, "the test must change something"


def stories(zone: Zone) -> None:
    mover = Voice(node="n1", allocation="mover.1", devices=("n1d1", "n1d2"))
    mover.story(10, 20, stop=False)
    mover.devices = ("n1d2", "n1d3")
    mover.say(Kind.MIGRATED, 30)
    mover.say(Kind.HEARTBEAT, 40)
    mover.say(Kind.STOPPED, 50)
    half = [Voice(node="n2", allocation=f"half_{n}.1", devices=("n2d0",), share=500) for n in range(2)]
    plain = Voice(node="n1", allocation="plain.1", devices=("n1d0",))
    late = plain.story(10, 20, 30)
    tell(zone, mover.documents + late[2:], late[:2] + half[0].story(60), half[1].story(30, 60))


def test_honest_events_hold_in_whatever_order_they_came(database_url: str) -> None:
    either = furnish(Database(database_url))
    stories(either)
    assert broken(either) == {}
    assert [row["events"] for row in either.rows(event_batches)] == [8, 4, 3]
    either.close()


FIRST, SEALED, SHARES, ANSWERED = [
    "usage events verify and follow each other",
    "usage events are those that were sealed",
    "no device metered beyond 1000 permille",
    "quarantined events are answered once, in the open",
]


@pytest.mark.parametrize(
    ("statement", "law", "record", "problem"),
    [
        ("UPDATE usage_events SET monotonic_ms = 99 WHERE number = 2", FIRST, "usage_events:2", "monotonic_ms is 99"),
        ("UPDATE usage_events SET hash = body_sha256 WHERE number = 2", FIRST, "usage_events:2", "hash is"),
        (
            "UPDATE usage_events SET raw = replace(raw, 'mover', 'maker') WHERE number = 2",
            FIRST, "usage_events:2", "event_id is",
        ),
        (
            "UPDATE usage_events SET raw = replace(raw, 'Ascend910B3', 'Ascend910B4') WHERE number = 2",
            FIRST, "usage_events:2", "hash is",
        ),
        (
            "UPDATE usage_events SET signature = (SELECT signature FROM usage_events WHERE number = 1) WHERE number = 2",
            FIRST, "usage_events:2", "the signature is not by key",
        ),
        ("UPDATE usage_events SET received_at_ms = 1 WHERE number = 2", SEALED, "usage_events:2", "not received when"),
        ("DELETE FROM usage_events WHERE number = 2", SEALED, "event_batches:1", "8 events were stored together, 7"),
        ("DELETE FROM usage_events WHERE allocation = 'half_1.1'", SEALED, "event_batches:3", "3 events"),
        ("DELETE FROM event_batches WHERE seq = 3", SEALED, "usage_events:13", "is in no batch"),
        ("UPDATE event_batches SET root = hash WHERE seq = 2", SEALED, "event_batches:2", "not those that were stored"),
        ("UPDATE usage_events SET number = number + 100 WHERE number = 2", SEALED, "event_batches:1", "7 are left"),
        ("DELETE FROM agent_keys WHERE node = 'n1'", FIRST, "usage_events:1", "was never enrolled"),
        ("UPDATE agent_keys SET node = 'n2'", FIRST, "usage_events:1", "is node n2's"),
        (
            "UPDATE agent_keys SET revoked_from_ms = 0, revoked_at_ms = 0", FIRST, "usage_events:1", "revoked before",
        ),
        (
            "UPDATE agent_keys SET public_key = (SELECT public_key FROM agent_keys WHERE node = 'n2') WHERE node = 'n1'",
            FIRST, "usage_events:1", "is not the thumbprint",
        ),
        ("UPDATE event_streams SET reached_ms = 1 WHERE allocation = 'plain.1'", FIRST, "event_streams:", "reached_ms"),
        ("DELETE FROM event_streams WHERE allocation = 'plain.1'", FIRST, "event_streams:", "missing"),
        ("UPDATE device_intervals SET to_ms = to_ms - 1 WHERE device = 'n1d3'", FIRST, "device_intervals:", "not what"),
        ("DELETE FROM device_intervals WHERE device = 'n1d3'", FIRST, "device_intervals:", "missing"),
        (
            ("INSERT INTO event_streams SELECT 'x', boot, 'x', anchor_seq, anchor_ms, reached_ms, last_seq, events, "
             "stopped, devices, share_permille, moved, received_at_ms FROM event_streams LIMIT 1"),
            FIRST, "event_streams", "has 5 rows, the events make 4",
        ),
        (
            "UPDATE device_intervals SET share_permille = 501 WHERE allocation = 'half_0.1'",
            SHARES, "device_intervals:", "device n2d0 is metered at 1001 permille",
        ),
        (
            "INSERT INTO quarantine_acts VALUES (7, 'rejected', 'op', 'why', 1)", ANSWERED, "quarantine_acts:7", "not",
        ),
    ],
)  # fmt: skip
def test_what_was_touched_is_named(zone: Zone, statement: str, law: str, record: str, problem: str) -> None:
    stories(zone)
    force(zone, statement)
    found = broken(zone)
    assert law in found, found
    assert found[law][0].startswith(record), found[law]
    assert problem in found[law][1]


def test_a_forged_event_of_the_right_form_breaks_the_chain(zone: Zone) -> None:
    """A node's own key, stolen, can sign anything; but not between what was signed before."""
    plain = Voice(allocation="plain.1").story(10, 20)
    other = Voice(allocation="plain.1").story(11, 20)
    tell(zone, plain)
    with zone.database.read() as tx:
        row = tx.execute(select(usage_events).where(usage_events.c.seq == 2)).mappings().one()
    assert row["number"] == 2
    tampered = make_zone()
    try:
        tell(tampered, other)
        mine = tampered.rows(usage_events)[1]
    finally:
        tampered.close()
    force(zone, "UPDATE usage_events SET skew_ms = 0 WHERE number = 2")
    with zone.database.write() as tx:
        names = ("raw", "signature", "hash", "body_sha256", "time_ms", "monotonic_ms")
        tx.execute(update(usage_events).where(usage_events.c.number == 2).values({name: mine[name] for name in names}))
    found = broken(zone)
    assert found[FIRST] == ("usage_events:3", "EVENT_CHAIN_BROKEN after n1:b1:plain.1:2")
    assert SEALED in found, "and the batch has another root, which the checkpoints know"


def test_a_stored_event_of_a_key_revoked_since_stays_good(zone: Zone) -> None:
    stories(zone)
    with zone.database.write() as tx:
        for row in enrolment.enrolments(tx, None):
            enrolment.revoke(tx, key=row["key"], since=NOON, by="op", reason="lost", now=NOON + timedelta(hours=2))
    assert broken(zone) == {}


def test_batches_are_in_the_checkpoints_and_their_tables_refuse_changes(zone: Zone) -> None:
    stories(zone)
    assert checkpoint.STREAMS["event_batches"] is event_batches
    with zone.database.write() as tx:
        assert checkpoint.heads(tx)["event_batches"][0] == 3
    for table in APPEND_ONLY:
        with zone.database.read() as tx:
            triggers = tx.execute(
                text("SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :table"),
                {"table": table},
            )
            assert triggers.scalar_one() == 2, table


def test_a_batch_that_stores_nothing_seals_nothing(zone: Zone) -> None:
    batch = Voice().story(10)
    tell(zone, batch, batch)
    assert len(zone.rows(event_batches)) == 1


# --- the agent, the platform and the audit together -----------------------------------------------


@dataclass
class Scene:
    """One node on which anything may happen, and the platform it reports to."""

    zone: Zone
    root: Path
    at_ms: int = 0
    step_ms: int = 0
    boot: int = 0
    away: bool = False
    witness: Witness | None = None
    ran: dict[str, int] = field(default_factory=dict)  # allocation → device milliseconds it truly held
    running: dict[str, tuple[str, ...]] = field(default_factory=dict)
    outcomes: list[Any] = field(default_factory=list)

    def now(self) -> datetime:
        return NOON + timedelta(milliseconds=self.at_ms + self.step_ms)

    def send(self, batch: list[dict[str, Any]], sent_at: datetime) -> list[dict[str, Any]]:
        if self.away:
            raise ConnectionError
        with self.zone.database.write() as tx:
            found = ingest(tx, batch, NOON + timedelta(milliseconds=self.at_ms), sent_at=sent_at)
        self.outcomes += found
        return [{"id": outcome.id, "status": outcome.status} for outcome in found]

    def pass_time(self, ms: int) -> None:
        self.at_ms += ms
        for allocation, devices in self.running.items():
            self.ran[allocation] = self.ran.get(allocation, 0) + ms * len(devices)

    def look(self) -> None:
        if self.witness is None:
            start, host = self.at_ms, Host(boot=f"boot-{self.boot}", now=self.now, boot_ms=lambda: self.at_ms)
            self.witness = Witness(NODES[0], self.root / "agent", self.root / "assignments", self.send, host)
            assert start == self.at_ms
        self.witness.look([device(f"n1d{n}") for n in range(3)])

    def down(self) -> None:
        if self.witness is not None:
            self.witness.close()
        self.witness = None

    def swap(self, place: int) -> None:
        """Whatever holds the device goes, and something new comes at once."""
        for allocation, devices in list(self.running.items()):
            if f"n1d{place}" in devices:
                del self.running[allocation]
                remove_assignment(self.root / "assignments", allocation)
        name = f"job_{self.at_ms}_{place}.{len(self.ran)}"
        self.running[name] = (f"n1d{place}",)
        self.ran[name] = 0
        write_assignment(self.root / "assignments", Assignment(allocation=name, devices=(f"n1d{place}",)))


ACTS = st.one_of(
    st.tuples(st.just("swap"), st.integers(0, 2)),
    st.tuples(st.just("look"), st.just(0)),
    st.tuples(st.just("pass"), st.integers(1, 90_000)),
    st.tuples(st.just("crash"), st.just(0)),
    st.tuples(st.just("reboot"), st.just(0)),
    st.tuples(st.just("away"), st.booleans()),
    st.tuples(st.just("step"), st.integers(-2000, 2000)),
)


@settings(max_examples=40, deadline=None)
@given(acts=st.lists(ACTS, max_size=30))
def test_whatever_happens_to_host_agent_and_platform_nothing_is_refused_or_metered_beyond_what_ran(
    acts: list[Any],
) -> None:
    zone = make_zone()
    try:
        with tempfile.TemporaryDirectory() as directory:
            scene = Scene(zone, Path(directory))
            key = load_key(scene.root / "agent")
            with zone.database.write() as tx:
                code = enrolment.issue_code(tx, site="s", node="n1", by="op", now=NOON - timedelta(hours=1))
                assert isinstance(code, str)
                word, public = enrolment.proof(key, code), public_text(key.public_key())
                made = enrolment.enrol(tx, code=code, key=public, proof=word, now=NOON - timedelta(hours=1))
                assert isinstance(made, dict)
                assert made["key"] == key_id_of(key.public_key())
            looks = perform(scene, acts)
            assert {outcome.status for outcome in scene.outcomes} <= {"accepted"}, scene.outcomes
            assert broken(zone) == {}
            with zone.database.read() as tx:
                for allocation, ran in scene.ran.items():
                    told = metered_of(tx, allocation)
                    assert told.device_ms <= ran + looks, "at most from the end to the next look"
                    assert told.gaps == ()
    finally:
        zone.close()


def perform(scene: Scene, acts: list[Any]) -> int:
    """The longest time between two looks of one agent, in milliseconds; AWAY bounds it."""
    for act, value in [*acts, ("away", False), ("look", 0)]:
        if act == "swap":
            scene.swap(value)
        elif act == "look":
            scene.look()
        elif act == "pass":
            scene.pass_time(value)
        elif act == "crash":
            scene.down()
        elif act == "reboot":
            scene.down()
            scene.boot += 1
            for allocation in list(scene.running):
                remove_assignment(scene.root / "assignments", allocation)
            scene.running.clear()
        elif act == "away":
            scene.away = value
        else:
            scene.step_ms = value
    scene.down()
    return 60_000
