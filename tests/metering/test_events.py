"""Signed usage events: stored once whatever comes twice, late or in another order; what lies is kept apart.

Names in brackets are complaints about other metering systems that became tests here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from adapters.event import Kind
from metering import enrolment
from metering.event_schema import device_intervals, event_streams, quarantined_events, usage_events
from metering.events import close_stream, events_of, ingest, metered_of, watch
from metering.schema import reviews
from scheduler.clock import to_ms
from scheduler.database import Database
from scheduler.refusal import Refusal
from tests.fakes import NOON
from tests.metering.event_cases import KEYS, Voice, Zone, furnish, make_zone

LATER = NOON + timedelta(days=2)


@pytest.fixture
def zone(database_url: str) -> Iterator[Zone]:
    """On SQLite and on PostgreSQL."""
    made = furnish(Database(database_url))
    yield made
    made.close()


def send(zone: Zone, documents: list[Any], at: Any = LATER, **more: Any) -> list[tuple[str, str | None]]:
    with zone.database.write() as tx:
        return [(outcome.status, outcome.code) for outcome in ingest(tx, documents, at, **more)]


def derived(zone: Zone) -> dict[str, list[dict[str, Any]]]:
    """Everything that follows from the events, without the times at which we heard them."""
    found = {"streams": zone.rows(event_streams), "intervals": zone.rows(device_intervals)}
    for rows in found.values():
        for row in rows:
            row.pop("received_at_ms", None)
        rows.sort(key=str)
    return found


# --- once, in any order -------------------------------------------------------------------------------------------


def test_a_valid_stream_is_accepted_and_metered_to_the_millisecond(zone: Zone) -> None:
    voice = Voice(devices=("n1d0", "n1d1"))

    assert send(zone, voice.story(60, 120, 3600.123)) == [("accepted", None)] * 4
    with zone.database.read() as tx:
        found = metered_of(tx, voice.allocation)
    assert (found.device_ms, found.provisional, found.gaps, found.skew_ms) == (2 * 3_600_123, False, (), 0)
    assert [row["raw"].encode() for row in zone.rows(usage_events)] == [signed.raw for signed in voice.said]
    assert {row["received_at_ms"] for row in zone.rows(usage_events)} == {to_ms(LATER)}


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """Two streams' documents, and batches in which each comes at least once, in any order, some of them doubled."""
    moves = draw(st.booleans())
    first, other = Voice(devices=("n1d0", "n1d1")), Voice(node="n2", allocation="job_b.1", devices=("n2d0",), share=300)
    first.say(Kind.STARTED)
    at = 0.0
    for _ in range(draw(st.integers(0, 5))):
        at += draw(st.integers(0, 100_000)) / 1000
        if moves and draw(st.booleans()):
            first.devices = draw(st.sampled_from([("n1d0", "n1d1"), ("n1d2",), ("n1d3", "n1d0")]))
            first.say(Kind.MIGRATED, at)
        else:
            first.say(Kind.HEARTBEAT, at)
    if draw(st.booleans()):
        first.say(Kind.STOPPED, at + 1)
    documents = first.documents + other.story(30, 60)
    sent = draw(st.permutations(documents + draw(st.lists(st.sampled_from(documents), max_size=5))))
    cuts = sorted(draw(st.lists(st.integers(0, len(sent)), max_size=4)))
    batches = [sent[low:high] for low, high in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    return documents, batches


@settings(max_examples=30)
@given(delivery=deliveries())
def test_any_order_delay_or_doubling_stores_and_meters_the_same(
    delivery: tuple[list[dict[str, Any]], list[list[dict[str, Any]]]],
) -> None:
    documents, batches = delivery
    plain, shuffled = make_zone(), make_zone()
    try:
        assert set(send(plain, documents)) == {("accepted", None)}
        for number, batch in enumerate(batches):
            outcomes = send(shuffled, batch, LATER + timedelta(minutes=number))
            assert {status for status, _ in outcomes} <= {"accepted", "duplicate"}
        assert shuffled.stored() == plain.stored()
        assert derived(shuffled) == derived(plain)
        for allocation in ("job_a.1", "job_b.1"):
            with plain.database.read() as one, shuffled.database.read() as two:
                assert metered_of(one, allocation) == metered_of(two, allocation)
        assert shuffled.quarantined() == shuffled.reviews() == []
    finally:
        plain.close()
        shuffled.close()


def test_doubled_events_change_nothing(zone: Zone) -> None:
    """[openmeter 2; akash console 3449: customers charged two or three times]"""
    documents = Voice().story(60, 120)
    send(zone, documents)
    before = derived(zone)

    assert send(zone, documents + documents) == [("duplicate", None)] * 6
    assert send(zone, documents, sent_at=LATER) == [("duplicate", None)] * 3
    assert derived(zone) == before
    assert len(zone.rows(usage_events)) == 3


def test_a_failed_transaction_and_a_retry_store_once(zone: Zone) -> None:
    """[openmeter 5118: the key claimed before the write; after a failed write the retry stored nothing]"""
    documents = Voice().story(60)

    def lost() -> None:
        with zone.database.write() as tx:
            ingest(tx, documents, LATER)
            raise RuntimeError("the disk went away before the commit")

    with pytest.raises(RuntimeError):
        lost()
    assert zone.stored() == []

    assert send(zone, documents) == [("accepted", None)] * 2
    assert len(zone.stored()) == 2


def test_the_database_itself_refuses_a_second_row(zone: Zone) -> None:
    """[flexprice 2184: deduplication that proceeds when the lock cannot be had]"""
    send(zone, Voice().story(60))
    row = {name: value for name, value in zone.rows(usage_events)[0].items() if name != "number"}

    with pytest.raises(IntegrityError), zone.database.write() as tx:
        tx.execute(insert(usage_events).values(row))


def test_a_missing_event_shows_as_a_gap_until_it_arrives(zone: Zone) -> None:
    voice = Voice()
    start, beat, stop = voice.story(60, 3600)
    send(zone, [start, stop])
    with zone.database.read() as tx:
        found = metered_of(tx, voice.allocation)
    assert (found.device_ms, found.provisional) == (3_600_000, True)
    assert [(gap.first, gap.last) for gap in found.gaps] == [(2, 2)]

    send(zone, [beat])
    with zone.database.read() as tx:
        found = metered_of(tx, voice.allocation)
        known_then = metered_of(tx, voice.allocation, as_known_at=LATER - timedelta(seconds=1))
    assert (found.provisional, found.gaps) == (False, ())
    assert known_then.device_ms == 0


# --- what cannot be believed --------------------------------------------------------------------------------------


def test_another_statement_under_a_known_id_is_kept_apart_and_both_are_seen(zone: Zone) -> None:
    send(zone, Voice().story(60))
    liar = Voice()
    liar.story(90)

    assert send(zone, [liar.documents[1]]) == [("quarantined", "EVENT_CONFLICT")]
    assert len(zone.stored()) == 2
    assert json.loads(zone.rows(quarantined_events)[0]["raw"]) == liar.documents[1]
    assert zone.reviews() == ["EVENT_CONFLICT"]
    assert send(zone, [liar.documents[1]]) == [("quarantined", "EVENT_CONFLICT")]  # again: nothing new
    assert len(zone.quarantined()) == 1


def test_two_statements_under_one_id_in_one_batch_are_told_apart(zone: Zone) -> None:
    one, two = Voice(), Voice(share=500)

    assert send(zone, [*one.story(), *two.story()]) == [("accepted", None), ("quarantined", "EVENT_CONFLICT")]


TAMPERED = [
    ("time", "2026-06-01T04:00:01.000Z", "EVENT_SIGNATURE_INVALID"),
    ("data.monotonic_ms", 61_000, "EVENT_SIGNATURE_INVALID"),
    ("data.devices", ["n1d7"], "EVENT_SIGNATURE_INVALID"),
    ("data.share_permille", 1, "EVENT_SIGNATURE_INVALID"),
    ("data.prev_hash", "1" * 64, "EVENT_SIGNATURE_INVALID"),
    ("data.agent_version", "0.2", "EVENT_SIGNATURE_INVALID"),
    ("data.model", "H800", "EVENT_SIGNATURE_INVALID"),
    ("data.seq", 3, "EVENT_INVALID"),  # the id says 2
    ("id", "n1:b1:job_a.1:3", "EVENT_INVALID"),
    ("keyid", "x" * 43, "EVENT_KEY_UNKNOWN"),
    ("extra", 1, "EVENT_INVALID"),
]


@pytest.mark.parametrize(("field", "value", "code"), TAMPERED)
def test_a_tampered_field_is_refused_and_the_others_are_stored(zone: Zone, field: str, value: Any, code: str) -> None:
    start, beat = Voice().story(60)
    target = beat["data"] if field.startswith("data.") else beat
    target[field.removeprefix("data.")] = value

    other = Voice(node="n2", allocation="job_b.1", devices=("n2d0",)).story(5)
    assert send(zone, [beat, start, *other]) == [("quarantined", code)] + [("accepted", None)] * 3
    assert zone.reviews() == [code]


def test_every_tampered_byte_of_a_document_is_noticed() -> None:
    zone = make_zone()
    start = Voice().story()[0]
    whole = json.dumps(start).encode()
    rng = random.Random(7)
    for place in rng.sample(range(len(whole)), 120):
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.randrange(7)
        try:
            document = json.loads(changed)
        except ValueError:
            continue
        if document != start:
            assert send(zone, [document])[0][0] == "quarantined", (place, bytes(changed))
    assert zone.stored() == []
    zone.close()


JUNK: list[Any] = [
    None, 0, "x", [], {}, True, 1.5, {"id": None}, {"id": "\x00", "source": "\ud800"}, {"data": {}}, {"source": ["x"]},
    [[[[]]]], {"specversion": "1.0", "id": "a" * 100_000},
]  # fmt: skip


def test_what_is_no_event_at_all_is_kept_apart_and_blocks_nothing(zone: Zone) -> None:
    """[airavata-custos 535: one bad job stops the cycle]"""
    good = Voice().story(60)

    assert send(zone, [*JUNK, *good]) == [("quarantined", "EVENT_INVALID")] * len(JUNK) + [("accepted", None)] * 2
    assert len(zone.quarantined()) == len(JUNK)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"prev_hash": "1" * 64}, "EVENT_CHAIN_BROKEN"),
        ({"monotonic_ms": 59_999}, "EVENT_CLOCK_BACKWARDS"),
        ({"devices": ("n1d1",)}, "EVENT_DEVICES_CHANGED"),
        ({"share_permille": 500}, "EVENT_SHARE_CHANGED"),
        ({"devices": ("n1d0", "n2d0")}, "EVENT_DEVICE_UNKNOWN"),
        ({"devices": ("nowhere",)}, "EVENT_DEVICE_UNKNOWN"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_neighbours_must_agree_whichever_came_first(zone: Zone, more: dict[str, Any], code: str, late: bool) -> None:
    voice = Voice()
    voice.story(60, stop=False)
    voice.say(Kind.HEARTBEAT, 120, **more)
    documents = voice.documents if not late else voice.documents[::-1]
    outcomes = send(zone, documents)

    assert ("quarantined", code) in outcomes
    assert len(zone.stored()) == 2


def test_nothing_is_said_after_the_stop(zone: Zone) -> None:
    voice = Voice()
    voice.story(60)
    voice.say(Kind.HEARTBEAT, 120)

    assert send(zone, voice.documents)[-1] == ("quarantined", "EVENT_AFTER_STOP")


def test_the_future_is_refused_and_the_past_is_welcome(zone: Zone) -> None:
    voice = Voice()
    voice.story(600, 601)
    at = NOON + timedelta(minutes=5)

    assert send(zone, voice.documents, at) == [
        ("accepted", None), ("accepted", None), ("quarantined", "EVENT_CLOCK_SKEWED"),
    ]  # fmt: skip
    slow = Voice(node="n2", allocation="job_b.1", devices=("n2d0",)).story(1)
    assert {code for _, code in send(zone, slow, LATER, sent_at=LATER - timedelta(minutes=6))} == {"EVENT_CLOCK_SKEWED"}
    near = Voice(node="n2", allocation="job_c.1", devices=("n2d0",)).story(1)
    send(zone, near, LATER, sent_at=LATER - timedelta(seconds=2))
    assert {row["skew_ms"] for row in zone.rows(usage_events)} == {None, -2000}


# --- keys ---------------------------------------------------------------------------------------------------------


def test_a_key_speaks_only_for_its_node(zone: Zone) -> None:
    stranger = Voice(key=KEYS["xx"]).story()
    neighbour = Voice(key=KEYS["n2"]).story()

    assert send(zone, stranger + neighbour) == [
        ("quarantined", "EVENT_KEY_UNKNOWN"), ("quarantined", "EVENT_KEY_OF_ANOTHER_NODE"),
    ]  # fmt: skip


def test_a_revoked_key_is_believed_up_to_its_time(zone: Zone) -> None:
    voice = Voice()
    voice.story(59.999, 60, stop=False)
    key = voice.said[0].event.key_id
    with zone.database.write() as tx:
        enrolment.revoke(tx, key=key, since=NOON + timedelta(seconds=60), by="op", reason="stolen", now=LATER)

    assert send(zone, voice.documents) == [
        ("accepted", None), ("accepted", None), ("quarantined", "EVENT_KEY_REVOKED"),
    ]  # fmt: skip
    with zone.database.write() as tx:
        enrolment.revoke(tx, key=key, since=NOON + timedelta(seconds=70), by="op", reason="later", now=LATER)
        shown = enrolment.revoke(tx, key=key, since=NOON, by="op", reason="earlier", now=LATER)
    assert isinstance(shown, dict)
    assert shown["revoked_from"] == "2026-06-01T04:00:00.000Z"
    assert zone.reviews() == ["EVENT_KEY_REVOKED", "KEY_REVOKED_AFTER_USE"]
    assert len(zone.stored()) == 2


# --- whose device, when -------------------------------------------------------------------------------------------


def test_one_device_is_not_used_twice_at_once(zone: Zone) -> None:
    send(zone, Voice().story(60, 120))
    second = Voice(allocation="job_b.1", start=NOON + timedelta(seconds=119)).story(0.5, 1, 2)

    assert send(zone, second) == [
        ("accepted", None),  # at the very instant of its start it has held nothing yet
        *[("quarantined", "DEVICE_SHARES_EXCEEDED")] * 3,
    ]
    facts = json.loads(next(r for r in zone.rows(reviews) if r["code"] == "DEVICE_SHARES_EXCEEDED")["facts"])
    assert facts == {"allocation": "job_b.1", "others": ["job_a.1"]}
    third = Voice(allocation="job_c.1", start=NOON + timedelta(seconds=120)).story(60)
    assert send(zone, third) == [("accepted", None)] * 2  # half-open: where one ends the next begins


def test_a_violation_in_a_batch_blocks_no_other_event(zone: Zone) -> None:
    one = Voice().story(60)
    two = Voice(allocation="job_b.1").story(60)
    three = Voice(allocation="job_c.1", devices=("n1d1",)).story(60)
    outcomes = send(zone, [*one, *two, *three])

    assert outcomes[:2] == [("accepted", None)] * 2
    assert outcomes[3] == ("quarantined", "DEVICE_SHARES_EXCEEDED")
    assert outcomes[4:] == [("accepted", None)] * 2


@pytest.mark.parametrize(("shares", "fits"), [((500, 300, 200), True), ((500, 300, 201), False), ((1000, 1), False)])
def test_shares_of_a_device_reach_a_whole_and_no_more(zone: Zone, shares: tuple[int, ...], fits: bool) -> None:
    """[opencost 3828: fractions charged as whole cards]"""
    last = []
    for number, share in enumerate(shares):
        last = send(zone, Voice(allocation=f"job_{number}.1", share=share).story(60))

    assert (last[-1][0] == "accepted") is fits


@settings(max_examples=80)
@given(
    spans=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6), st.sampled_from([250, 400, 600, 1000])), max_size=9)
)
def test_the_trigger_agrees_with_a_count_of_every_instant(spans: list[tuple[int, int, int]]) -> None:
    zone = make_zone()
    kept: list[tuple[int, int, int]] = []
    for number, (start, length, share) in enumerate(spans):
        row = {"source": "s", "boot": "b", "allocation": str(number), "device": "d", "part": 0, "share_permille": share}
        trial = [*kept, (start, start + length, share)]
        fits = all(sum(s for low, high, s in trial if low <= at < high) <= 1000 for at in range(20))
        try:
            with zone.database.write() as tx:  # born small, then grown: both triggers are asked
                tx.execute(insert(device_intervals).values(**row, from_ms=start, to_ms=start))
                tx.execute(
                    update(device_intervals)
                    .where(device_intervals.c.allocation == str(number))
                    .values(to_ms=start + length)
                )
            assert fits
            kept = trial
        except IntegrityError:
            assert not fits
    zone.close()


def test_a_migration_moves_the_devices_and_frees_the_old_ones(zone: Zone) -> None:
    voice = Voice(devices=("n1d0",))
    voice.say(Kind.STARTED)
    voice.devices = ("n1d1", "n1d2")
    voice.say(Kind.MIGRATED, 60)
    voice.devices = ("n1d0",)
    voice.say(Kind.MIGRATED, 100)
    voice.say(Kind.STOPPED, 110)
    assert {status for status, _ in send(zone, voice.documents)} == {"accepted"}
    with zone.database.read() as tx:
        assert metered_of(tx, voice.allocation).device_ms == 60_000 + 2 * 40_000 + 10_000

    between = Voice(allocation="job_b.1", start=NOON + timedelta(seconds=60)).story(40)
    assert {status for status, _ in send(zone, between)} == {"accepted"}


@pytest.mark.parametrize("table", [usage_events, quarantined_events])
def test_a_stored_event_is_not_edited_or_removed(zone: Zone, table: Any) -> None:
    send(zone, [*Voice().story(60), "junk"])
    for act in (update(table).values(event_id="x"), delete(table)):
        with pytest.raises(DBAPIError, match="append-only"), zone.database.write() as tx:
            tx.execute(act)
    assert (len(zone.stored()), len(zone.quarantined())) == (2, 1)


# --- what is left open --------------------------------------------------------------------------------------------


def test_a_lost_stop_bills_to_the_last_proof_of_life_until_somebody_closes_it(zone: Zone) -> None:
    """[skypilot 1751: never launched, shown at $880; cqlite 3284: a dead worker billed for 90 minutes]"""
    voice = Voice()
    send(zone, voice.story(60, 120, stop=False))
    stream = voice.said[0].event.stream
    with zone.database.write() as tx:
        found = metered_of(tx, voice.allocation)
        assert (found.device_ms, found.provisional) == (120_000, True)
        assert metered_of(tx, "job_never.1").device_ms == 0
        assert watch(tx, LATER + timedelta(minutes=9)) == []
        assert watch(tx, LATER + timedelta(minutes=10)) == [stream]
        assert close_stream(tx, stream, by="op", reason="host burnt", now=LATER) is None
        assert close_stream(tx, stream, by="op", reason="again", now=LATER) is None
        assert watch(tx, LATER + timedelta(hours=9)) == []
        found = metered_of(tx, voice.allocation)
        assert (found.device_ms, found.provisional) == (120_000, False)
        assert isinstance(close_stream(tx, ("s", "b", "a"), by="op", reason="", now=LATER), Refusal)
    assert zone.reviews() == ["EVENT_STREAM_SILENT"]


def test_a_boot_begins_another_stream_and_both_count(zone: Zone) -> None:
    """[blackfish 487: recycled ids brought a job of 2017]"""
    send(zone, Voice().story(60, stop=False))
    send(zone, Voice(boot="b2", start=NOON + timedelta(minutes=5)).story(30))
    with zone.database.read() as tx:
        found = metered_of(tx, "job_a.1")
        assert len(events_of(tx, "job_a.1")) == 4
    assert (found.device_ms, found.provisional) == (90_000, True)


def test_as_many_events_as_a_statement_can_bind_go_in_at_once(zone: Zone) -> None:
    voice = Voice()
    voice.story(*range(1, 2500), stop=False)

    assert set(send(zone, voice.documents)) == {("accepted", None)}
    with zone.database.read() as tx:
        assert tx.execute(text("SELECT count(*) FROM usage_events")).scalar() == 2500
