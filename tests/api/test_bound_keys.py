"""An agent's key speaks for its own node: not for another in heartbeats, readings, events, answers or benchmarks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.chain import timestamp
from adapters.event import SOURCE_PREFIX
from api.auth import Principal
from api.problems import Problem
from api.routes.binding import speak_for, speak_in
from tests.api.service import Service
from tests.api.test_evidence import NODE, card, nonce_of, send, stated
from tests.api.test_evidence import service as service

OTHER = "real-2"


@pytest.fixture
def bound(service: Service) -> Service:
    """`mine` is real-1's key, `theirs` real-2's."""
    for who, node in (("mine", NODE), ("theirs", OTHER)):
        made = service.post("operator", "/v1/keys", {"name": who, "role": "agent", "node": node})
        assert (made.status_code, made.json()["node"]) == (201, node), made.text
        service.keys[who] = made.json()["key"]
    return service


def is_refused(answer: Any, own: str = OTHER, node: str = NODE) -> bool:
    body = answer.json()
    return (answer.status_code, body["code"], body["facts"]) == (403, "KEY_OF_ANOTHER_NODE", {"node": node, "own": own})


def heartbeat(service: Service, who: str) -> Any:
    body = {"node": NODE, "at": timestamp(service.clock.now()), "devices": [card(0), card(1)]}
    return service.post(who, "/v1/agents/heartbeat", body)


def test_a_heartbeat_is_taken_from_its_own_node_alone(bound: Service) -> None:
    assert is_refused(heartbeat(bound, "theirs"))
    assert heartbeat(bound, "mine").status_code == 200


def test_readings_and_device_events_are_taken_of_its_own_devices_alone(bound: Service) -> None:
    at = timestamp(bound.clock.now())

    def push(who: str, node: str, *uuids: str) -> Any:
        readings = [{"uuid": uuid, "at": at, "utilisation_ratio": 0.5} for uuid in uuids]
        return bound.post(who, "/v1/agents/samples", {"node": node, "samples": readings, "events": []})

    assert is_refused(push("theirs", NODE, "VDIE-0"))
    assert is_refused(push("theirs", OTHER, "VDIE-2", "VDIE-0")), "nor under its own node's name"
    assert push("theirs", OTHER, "VDIE-2", "never-seen").json()["kept"] == 1
    assert push("mine", NODE, "VDIE-0").json()["kept"] == 1


def test_usage_events_are_taken_of_its_own_node_alone(bound: Service) -> None:
    signed = {"source": SOURCE_PREFIX + NODE}
    assert is_refused(bound.post("theirs", "/v1/usage-events", {"events": [signed]}))
    assert is_refused(bound.post("theirs", "/v1/usage-events", {"events": [{"source": SOURCE_PREFIX + OTHER}, signed]}))
    taken = bound.post("mine", "/v1/usage-events", {"events": [signed]})
    assert taken.status_code == 200
    assert taken.json()["items"][0]["status"] == "quarantined", "it is judged, and it is no event"


def test_challenges_statements_and_benchmarks_are_its_own_nodes_alone(bound: Service) -> None:
    assert is_refused(bound.post("theirs", f"/v1/agents/{NODE}/challenge"))
    said = stated(bound, nonce_of(bound))
    refused = bound.post("theirs", f"/v1/agents/{NODE}/evidence", {"statement": said.document()})
    assert is_refused(refused)
    assert send(bound, said).status_code == 201, "a key made before they were bound still speaks for any node"
    assert bound.post("mine", f"/v1/agents/{NODE}/challenge").status_code == 201
    assert is_refused(bound.post("theirs", f"/v1/agents/{NODE}/kernels/challenge_x"))
    assert is_refused(bound.post("theirs", f"/v1/agents/{NODE}/kernels/challenge_x/answer", {"reason": "r"}))
    assert is_refused(bound.post("theirs", "/v1/evidence/VDIE-0/fingerprint", {"result": {"measurements": []}}))
    rotation = {"public_key": "x", "at": timestamp(bound.clock.now()), "proof": "x", "old_proof": "x"}
    key = bound.get("auditor", "/v1/agents/enrolments").json()["items"][0]["key"]
    assert is_refused(bound.post("theirs", f"/v1/agents/keys/{key}/rotate", rotation))
    assert bound.post("mine", f"/v1/agents/keys/{key}/rotate", rotation).status_code == 422


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"role": "agent"}, "/node"),
        ({"role": "agent", "node": NODE, "tenant": "x"}, "/tenant"),
        ({"role": "auditor", "node": NODE}, "/node"),
    ],
)
def test_a_key_names_a_node_where_its_role_has_one(service: Service, body: dict[str, str], pointer: str) -> None:
    answer = service.post("operator", "/v1/keys", {"name": "k", **body})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


def test_a_key_for_a_node_nobody_knows_is_refused(service: Service) -> None:
    answer = service.post("operator", "/v1/keys", {"name": "k", "role": "agent", "node": "nowhere"})
    assert (answer.status_code, answer.json()["code"]) == (409, "NODE_UNKNOWN")


@given(st.text(max_size=20), st.text(max_size=20), st.sampled_from(["agent", "operator", "provider"]))
def test_only_agents_are_bound_and_only_to_one_node(own: str, node: str, role: str) -> None:
    who = Principal(role=role, tenant=own, key_id="k")
    if role == "agent" and own != node:
        with pytest.raises(Problem):
            speak_for(who, node)
    else:
        speak_for(who, node)


@given(
    st.lists(
        st.none() | st.integers() | st.dictionaries(st.text(max_size=8), st.none() | st.text(max_size=8)), max_size=5
    )
)
def test_what_is_no_event_is_left_to_be_judged(events: list[Any]) -> None:
    speak_in(Principal(role="agent", tenant=NODE, key_id="k"), events)
