"""What was kept apart for its clock can be admitted or rejected once, with a reason; nothing else can."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from adapters.event import Kind
from metering import audit_events, quarantine
from metering.acts import Actor
from metering.event_schema import quarantine_acts, quarantined_events
from metering.events import ingest, metered_of
from metering.schema import reviews
from scheduler.database import Database
from scheduler.refusal import Refusal
from tests.fakes import NOON
from tests.metering.event_cases import Voice, Zone, furnish

OPERATOR = Actor(by="op", role="operator")
NOW = NOON + timedelta(minutes=2)


@pytest.fixture
def zone(database_url: str) -> Iterator[Zone]:
    made = furnish(Database(database_url))
    yield made
    made.close()


def tell(zone: Zone, documents: list[Any], ahead: timedelta = timedelta(0)) -> list[str | None]:
    """sent_at: the agent's clock, `ahead` of ours."""
    with zone.database.write() as tx:
        return [outcome.code for outcome in ingest(tx, documents, NOW, sent_at=NOW + ahead)]


def answer(zone: Zone, number: int, action: str, actor: Actor = OPERATOR) -> Any:
    with zone.database.write() as tx:
        return quarantine.answer(tx, number=number, action=action, reason="the clock was set", actor=actor, now=NOW)


def numbers(zone: Zone) -> list[int]:
    return [row["number"] for row in zone.rows(quarantined_events)]


def open_items(zone: Zone) -> list[str]:
    return [row["id"] for row in zone.rows(reviews) if row["closed_at_ms"] is None]


def kept(zone: Zone) -> tuple[Voice, list[int]]:
    """A story whose start is believed, and whose heartbeat and stop came from a clock ten minutes off."""
    voice = Voice()
    story = voice.story(30, 60)
    assert tell(zone, story[:1]) == [None]
    assert tell(zone, story[1:], timedelta(minutes=10)) == ["EVENT_CLOCK_SKEWED"] * 2
    return voice, numbers(zone)


def test_admitted_events_count_and_the_item_is_closed_with_the_last(zone: Zone) -> None:
    voice, (beat, stop) = kept(zone)
    (item,) = open_items(zone)
    assert item == "EVENT_CLOCK_SKEWED:" + ":".join(voice.said[0].event.stream)

    assert answer(zone, stop, "admit") == {"number": stop, "id": voice.said[2].event.id, "action": "admitted"}
    assert open_items(zone) == [item], "another of its events waits"
    answer(zone, beat, "admit")
    assert open_items(zone) == []

    with zone.database.read() as tx:
        told = metered_of(tx, "job_a.1")
        assert (told.device_ms, told.provisional) == (60_000, False)
        assert [check() for _, check in audit_events.laws(tx)] == [None] * 4
    closed = zone.rows(reviews)[0]
    assert (closed["action"], closed["reason"], closed["closed_by"]) == ("accepted", "the clock was set", "op")


def test_a_rejected_event_stays_apart_for_good(zone: Zone) -> None:
    _, (beat, stop) = kept(zone)
    for number in (beat, stop):
        assert answer(zone, number, "reject")["action"] == "rejected"
    assert len(zone.stored()) == 1
    assert open_items(zone) == []
    assert answer(zone, beat, "admit") == Refusal(
        code="QUARANTINED_ANSWERED", facts={"number": beat, "action": "rejected"}
    )


def test_the_same_answer_again_changes_nothing(zone: Zone) -> None:
    _, (beat, _) = kept(zone)
    assert answer(zone, beat, "admit") == answer(zone, beat, "admit")
    assert len(zone.rows(quarantine_acts)) == 1
    assert len(zone.stored()) == 2


def test_an_event_that_came_again_in_time_is_no_second_one(zone: Zone) -> None:
    voice, (beat, _) = kept(zone)
    tell(zone, voice.documents)
    assert answer(zone, beat, "admit")["action"] == "admitted"
    assert len(zone.stored()) == 3


def test_only_a_clock_can_be_forgiven(zone: Zone) -> None:
    forged = Voice().story(30)
    forged[0]["data"]["monotonic_ms"] = 0
    forged[0]["signature"] = forged[1]["signature"]
    tell(zone, forged[:1])
    (number,) = numbers(zone)
    assert answer(zone, number, "admit") == Refusal(
        code="QUARANTINED_NOT_ADMISSIBLE", facts={"number": number, "because": "EVENT_SIGNATURE_INVALID"}
    )
    assert answer(zone, number, "reject")["action"] == "rejected"
    assert open_items(zone) == []


def test_what_contradicts_its_neighbours_is_not_admitted(zone: Zone) -> None:
    voice = Voice()
    voice.say(Kind.STARTED)
    tell(zone, voice.documents)
    other = Voice(share=500)
    other.story(30)
    tell(zone, other.documents[1:], timedelta(minutes=10))
    (number,) = numbers(zone)
    refused = answer(zone, number, "admit")
    assert isinstance(refused, Refusal)
    assert refused.code == "EVENT_CHAIN_BROKEN"
    assert zone.rows(quarantine_acts) == []


def test_an_unknown_number_and_an_unknown_action_say_so(zone: Zone) -> None:
    assert answer(zone, 9, "reject") == Refusal(code="QUARANTINED_UNKNOWN", facts={"number": 9})
    with pytest.raises(ValueError, match="action: 'forget' is not one of admit, reject"):
        answer(zone, 9, "forget")


def test_who_may_not_close_an_item_may_not_answer(zone: Zone) -> None:
    _, (beat, stop) = kept(zone)
    answer(zone, beat, "admit")
    assert isinstance(answer(zone, stop, "admit", Actor(by="f", role="firm")), Refusal)
