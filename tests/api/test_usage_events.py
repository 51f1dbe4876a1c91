"""The agents' routes: a key is enrolled, rotated and revoked, and signed events get one answer each."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select

from adapters.chain import timestamp
from adapters.event import Kind, key_id_of, public_text
from api.schema import idempotency
from metering import enrolment
from metering.event_schema import agent_keys, enrolment_codes
from tests.api.service import Service
from tests.metering.event_cases import Voice

NODE = "ascend-1"
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
NEW = Ed25519PrivateKey.from_private_bytes(b"n" * 32)


def issue(service: Service, who: str = "operator", **more: Any) -> Any:
    return service.post(who, "/v1/agents/enrolments", {"site": "bj1", "node": NODE, **more})


def enrol(service: Service, code: str, key: Ed25519PrivateKey = KEY) -> Any:
    body = {"code": code, "public_key": public_text(key.public_key()), "proof": enrolment.proof(key, code)}
    return service.post(None, "/v1/agents/keys", body)


def enrolled(service: Service) -> str:
    answer = enrol(service, issue(service).json()["code"])
    assert answer.status_code == 201, answer.text
    return str(answer.json()["key"])


def devices_of(service: Service) -> list[str]:
    items = service.get("operator", "/v1/snapshot").json()["nodes"]
    return next(list(node["devices"]) for node in items if node["id"] == NODE)


def voice(service: Service, **more: Any) -> Voice:
    made = {"node": NODE, "key": KEY, "devices": devices_of(service)[:2], "start": service.clock.now(), **more}
    return Voice(**made)


# --- keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["operator", "provider"])
def test_a_code_enrols_one_key_and_is_used_up(service: Service, who: str) -> None:
    code = issue(service, who).json()["code"]
    answer = enrol(service, code)

    assert answer.status_code == 201
    assert answer.json()["node"] == NODE
    assert answer.json()["key"] == key_id_of(KEY.public_key())
    assert enrol(service, code).json() == answer.json()  # the same call again answers the same
    again = enrol(service, code, NEW)
    assert (again.status_code, again.json()["code"]) == (409, "ENROLMENT_CODE_INVALID")
    items = service.get("auditor", "/v1/agents/enrolments").json()["items"]
    assert [(item["node"], item["revoked_from"]) for item in items] == [(NODE, None)]


def test_a_code_is_stored_nowhere_in_the_clear(service: Service) -> None:
    code = issue(service).json()["code"]
    with service.services.database.read() as tx:
        everything = [*tx.execute(select(enrolment_codes)), *tx.execute(select(idempotency))]

    assert code.encode() not in b"".join(str(tuple(row)).encode() for row in everything)


def test_a_code_is_good_until_its_hour_has_passed(service: Service) -> None:
    code, other = (issue(service, hours=2).json()["code"] for _ in range(2))
    service.clock.advance(2 * 3600 - 0.001)
    assert enrol(service, code).status_code == 201
    service.clock.advance(0.001)

    assert enrol(service, other, NEW).json()["code"] == "ENROLMENT_CODE_INVALID"


def test_a_key_without_its_holder_is_not_enrolled(service: Service) -> None:
    code = issue(service).json()["code"]
    body = {"code": code, "public_key": public_text(KEY.public_key()), "proof": enrolment.proof(NEW, code)}

    assert service.post(None, "/v1/agents/keys", body).json()["code"] == "KEY_PROOF_INVALID"
    assert enrol(service, "ye_guess").json()["code"] == "ENROLMENT_CODE_INVALID"
    assert enrol(service, code).status_code == 201  # a failed attempt uses nothing up
    assert enrol(service, issue(service).json()["code"]).json()["code"] == "KEY_ALREADY_ENROLLED"


@pytest.mark.parametrize(
    "change",
    [
        {"public_key": "x"}, {"public_key": "A" * 44}, {"proof": 5}, {"code": ""}, {"extra": 1}, {"public_key": "é" * 43},
    ],
)  # fmt: skip
def test_a_malformed_key_is_refused_by_name(service: Service, change: dict[str, Any]) -> None:
    code = issue(service).json()["code"]
    body = {"code": code, "public_key": public_text(KEY.public_key()), "proof": enrolment.proof(KEY, code), **change}
    answer = service.post(None, "/v1/agents/keys", body)

    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == f"/{next(iter(change))}"


def test_nobody_gets_a_code_for_a_node_that_is_not_there_or_not_theirs(service: Service) -> None:
    assert issue(service, node="nowhere").json()["code"] == "NODE_NOT_AT_SITE"
    assert issue(service, site="elsewhere").json()["code"] == "NODE_NOT_AT_SITE"
    with service.services.database.write() as tx:
        got = enrolment.issue_code(
            tx, site="bj1", node=NODE, by="x", now=service.clock.now(), provider="another"
        )  # fmt: skip
    assert getattr(got, "code", None) == "NODE_NOT_AT_SITE"


def rotation(service: Service, old: str, **more: Any) -> Any:
    at = service.clock.now()
    word = enrolment.rotation_word(old, at)
    body = {
        "public_key": public_text(NEW.public_key()),
        "at": timestamp(at),
        "proof": enrolment.proof(NEW, word),
        "old_proof": enrolment.old_proof(KEY, NEW.public_key(), word),
        **more,
    }
    return service.post("agent", f"/v1/agents/keys/{old}/rotate", body)


def test_a_key_hands_over_to_the_next(service: Service) -> None:
    old = enrolled(service)
    speaker = voice(service)
    speaker.say(Kind.STARTED)
    service.clock.advance(60)
    answer = rotation(service, old)

    assert answer.status_code == 201, answer.text
    assert rotation(service, old).json() == answer.json()  # repeated under another Idempotency-Key
    speaker.key = NEW
    speaker.say(Kind.HEARTBEAT, 60, key_id=key_id_of(NEW.public_key()))
    speaker.key = KEY
    late = voice(service, allocation="job_b.1", devices=devices_of(service)[2:3]).say(Kind.STARTED)
    items = service.post("agent", "/v1/usage-events", {"events": [*speaker.documents, late.document()]}).json()["items"]
    assert [(item["status"], item["code"]) for item in items] == [
        ("accepted", None), ("accepted", None), ("quarantined", "EVENT_KEY_REVOKED"),
    ]  # fmt: skip


def test_a_rotation_needs_both_keys_and_the_right_time(service: Service) -> None:
    old = enrolled(service)
    wrong = enrolment.proof(NEW, "another word")

    assert rotation(service, old, old_proof=wrong).json()["code"] == "KEY_PROOF_INVALID"
    assert rotation(service, old, proof=wrong).json()["code"] == "KEY_PROOF_INVALID"
    assert rotation(service, "nobody").json()["code"] == "KEY_UNKNOWN"
    at = service.clock.now() + timedelta(minutes=6)
    word = enrolment.rotation_word(old, at)
    more = {
        "at": timestamp(at),
        "proof": enrolment.proof(NEW, word),
        "old_proof": enrolment.old_proof(KEY, NEW.public_key(), word),
    }
    assert rotation(service, old, **more).json()["code"] == "ROTATION_TIME_INVALID"
    service.post("operator", f"/v1/agents/keys/{old}/revoke", {"reason": "stolen"})
    assert rotation(service, old).json()["code"] == "KEY_REVOKED"


def test_an_operator_revokes_and_a_strange_provider_does_not(service: Service) -> None:
    key = enrolled(service)
    with service.services.database.write() as tx:
        got = enrolment.revoke(
            tx, key=key, since=service.clock.now(), by="x", reason="x", now=service.clock.now(), provider="another"
        )
    assert getattr(got, "code", None) == "KEY_UNKNOWN"

    answer = service.post("provider", f"/v1/agents/keys/{key}/revoke", {"reason": "stolen"})
    assert answer.json()["revoked_from"] == timestamp(service.clock.now())
    with service.services.database.read() as tx:
        assert tx.execute(select(agent_keys.c.reason)).scalar() == "stolen"


# --- events -------------------------------------------------------------------------------------------------------


def test_events_get_one_answer_each_and_can_be_looked_at(service: Service) -> None:
    enrolled(service)
    documents = voice(service).story(60, 120)
    service.clock.advance(180)
    body = {"events": [*documents, {"id": "x"}, documents[0]], "sent_at": timestamp(service.clock.now())}
    answer = service.post("agent", "/v1/usage-events", body, key="one")

    assert answer.status_code == 200, answer.text
    statuses = [item["status"] for item in answer.json()["items"]]
    assert statuses == ["accepted"] * 3 + ["quarantined", "duplicate"]
    assert service.post("agent", "/v1/usage-events", body, key="one").json() == answer.json()
    again = service.post("agent", "/v1/usage-events", body, key="two").json()["items"]
    assert [item["status"] for item in again] == ["duplicate"] * 3 + ["quarantined", "duplicate"]

    first = service.get("auditor", "/v1/usage-events?allocation=job_a.1&limit=2").json()
    rest = service.get("auditor", f"/v1/usage-events?limit=2&cursor={first['next_cursor']}").json()
    assert [item["event"] for item in first["items"] + rest["items"]] == documents
    assert {item["skew_ms"] for item in first["items"]} == {0}
    kept = service.get("finance", "/v1/usage-events/quarantined").json()["items"]
    assert [(item["code"], item["id"], json.loads(item["raw"])) for item in kept] == [
        ("EVENT_INVALID", "x", {"id": "x"})
    ]


@pytest.mark.parametrize(
    "body",
    ["", "null", "[]", "{}", '{"events": {}}', '{"events": []}', '{"events": [1], "x": 2}', '{"events": [1', "\x00",
     json.dumps({"events": [1] * 1001}), '{"events": [1], "sent_at": "yesterday"}'],
)  # fmt: skip
def test_a_malformed_body_is_a_problem_and_no_crash(service: Service, body: str) -> None:
    answer = service.post("agent", "/v1/usage-events", body)

    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == "INPUT_INVALID"


@pytest.mark.parametrize("event", ["1", "null", '"\\ud800"', "[" * 50 + "]" * 50, '{"a": 1e400}', '{"id": "\\u0000"}'])
def test_a_malformed_event_is_quarantined_and_no_crash(service: Service, event: str) -> None:
    answer = service.post("agent", "/v1/usage-events", f'{{"events": [{event}]}}')

    assert answer.status_code == 200, answer.text
    assert answer.json()["items"][0]["code"] == "EVENT_INVALID"
    assert service.get("auditor", "/v1/usage-events/quarantined").status_code == 200


def test_an_operator_closes_a_stream_whose_stop_is_lost(service: Service) -> None:
    enrolled(service)
    speaker = voice(service)
    speaker.story(60, stop=False)
    service.clock.advance(60)
    service.post("agent", "/v1/usage-events", {"events": speaker.documents})
    source, boot, allocation = speaker.said[0].event.stream
    body = {"source": source, "boot": boot, "allocation": allocation, "reason": "host burnt"}

    assert service.post("operator", "/v1/usage-events/closed-streams", body).status_code == 200
    missing = service.post("operator", "/v1/usage-events/closed-streams", {**body, "boot": "b9"})
    assert (missing.status_code, missing.json()["code"]) == (409, "EVENT_STREAM_UNKNOWN")
