"""The agents of a platform enrol themselves, sign what they see, and the platform believes them."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from adapters.assignment import Assignment, remove_assignment, write_assignment
from adapters.spool import Spool
from adapters.witness import KEY, SPOOL, Host, Witness, load_key
from api.commands.agent import ENROLLED, enrol_key, witness_of
from api.commands.console import Failure
from api.embedded import ASK_AGAIN_EVERY, EmbeddedAgents
from api.push import HttpPush, PushRefused
from metering import audit_events, enrolment
from metering.events import metered_of
from metering.verification import APART_FROM, Processes, verify_here
from tests.adapters.test_witness import device
from tests.api.service import Service
from tests.api.test_usage_events import KEY as PRIVATE
from tests.api.test_usage_events import NODE, devices_of, enrolled, issue, voice


def push_of(service: Service, who: str | None = "agent") -> HttpPush:
    push = HttpPush("http://testserver", None)
    push._http = service.client  # the same routes, without a socket
    push._http.headers.pop("Authorization", None)
    if who is not None:
        push._http.headers["Authorization"] = f"Bearer {service.keys[who]}"
    return push


def shown(service: Service) -> list[str]:
    items = service.get("auditor", "/v1/usage-events").json()["items"]
    return [f"{item['event']['type'].split('.')[-2]}:{item['event']['data']['monotonic_ms']}" for item in items]


def laws_hold(service: Service) -> bool:
    with service.services.database.read() as tx:
        return all(check() is None for _, check in audit_events.laws(tx))


# --- embedded -------------------------------------------------------------------------------------


def test_embedded_agents_enrol_themselves_and_what_runs_is_signed(service: Service) -> None:
    agents = EmbeddedAgents(service.services)
    agents.beat()
    assert service.get("auditor", "/v1/agents/enrolments").json()["items"][0]["node"] == NODE
    held = tuple(devices_of(service)[:2])
    write_assignment(agents.assignments, Assignment(allocation="job_a.1", devices=held))
    agents.beat()
    service.clock.advance(10)
    agents.beat()
    remove_assignment(agents.assignments, "job_a.1")
    service.clock.advance(5)
    agents.beat()
    agents.close()

    assert shown(service) == ["started:0", "heartbeat:10000", "stopped:15000"]
    with service.services.database.read() as tx:
        assert metered_of(tx, "job_a.1").device_ms == 30_000
    assert laws_hold(service)


def test_embedded_agents_that_come_back_use_the_same_key_and_go_on(service: Service) -> None:
    for _ in range(2):
        agents = EmbeddedAgents(service.services)
        write_assignment(agents.assignments, Assignment(allocation="job_a.1", devices=(devices_of(service)[0],)))
        agents.beat()
        agents.close()
        service.clock.advance(30)
    keys = service.get("auditor", "/v1/agents/enrolments").json()["items"]

    assert len({key["node"] for key in keys}) == len(keys), "one key a node"
    assert shown(service) == ["started:0", "heartbeat:30000"]
    folder = service.services.settings.data_dir / "agents" / NODE
    assert stat.S_IMODE((folder / KEY).stat().st_mode) == 0o600


@pytest.mark.parametrize("how", ["revoked", "spoiled", "busy"])
def test_a_node_that_cannot_sign_is_still_heard_from(service: Service, how: str) -> None:
    folder = service.services.settings.data_dir / "agents" / NODE
    key = load_key(folder)
    taken: Any = None
    if how == "revoked":
        agents = EmbeddedAgents(service.services)
        agents.beat()
        agents.close()
        now = service.clock.now()
        with service.services.database.write() as tx:
            mine = next(row["key"] for row in enrolment.enrolments(tx, None) if row["node"] == NODE)
            enrolment.revoke(tx, key=mine, since=now, by="op", reason="stolen", now=now)
    elif how == "spoiled":
        (folder / KEY).write_text("no key")
    else:
        taken = Spool(folder / SPOOL)
    agents = EmbeddedAgents(service.services)
    write_assignment(agents.assignments, Assignment(allocation="job_a.1", devices=(devices_of(service)[0],)))
    agents.beat()
    agents.close()

    assert key
    assert shown(service) == []
    heard = service.get("operator", "/v1/snapshot").json()["nodes"]
    assert next(node for node in heard if node["id"] == NODE)["schedulable"]
    if taken is not None:
        taken.close()


# --- on its own -----------------------------------------------------------------------------------


def test_agents_whose_spools_a_frozen_loop_still_has_sign_when_it_lets_go(service: Service) -> None:
    taken = Spool(service.services.settings.data_dir / "agents" / NODE / SPOOL)
    agents = EmbeddedAgents(service.services)
    write_assignment(agents.assignments, Assignment(allocation="job_a.1", devices=(devices_of(service)[0],)))
    agents.beat()
    assert shown(service) == []
    taken.close()
    for _ in range(ASK_AGAIN_EVERY):
        agents.beat()
    agents.close()

    assert shown(service) == ["started:0"]


def test_agents_whose_first_beat_fails_beat_all_the_same(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    agents, beats, stop = EmbeddedAgents(service.services), [], threading.Event()

    def beat() -> None:
        beats.append(len(beats))
        if len(beats) == 1:
            raise OSError("the database is away")
        stop.set()

    monkeypatch.setattr(agents, "beat", beat)
    agents.start(stop).join(30)

    assert beats == [0, 1]


def test_a_host_enrols_its_key_with_a_code_and_sends_what_it_signs(service: Service, tmp_path: Path) -> None:
    code = issue(service).json()["code"]
    for _ in range(2):  # the answer may be lost: asked again, the same
        enrol_key(NODE, tmp_path / "agent", code, push_of(service, None))
    told = json.loads((tmp_path / "agent" / ENROLLED).read_text())
    assert told["node"] == NODE

    devices = devices_of(service)
    write_assignment(tmp_path / "assignments", Assignment(allocation="job_a.1", devices=(devices[0],)))
    host = Host(boot="b", now=service.clock.now, boot_ms=service.clock.boot_ms)
    witness = witness_of(NODE, tmp_path / "agent", tmp_path / "assignments", push_of(service), host)
    assert isinstance(witness, Witness)

    assert witness.look([device(devices[0])]) == 0
    assert witness.problems == ()
    witness.close()
    assert shown(service) == ["started:0"]
    assert laws_hold(service)


def test_a_code_that_is_no_good_says_so_and_leaves_nothing_enrolled(service: Service, tmp_path: Path) -> None:
    with pytest.raises(Failure, match="登记"):
        enrol_key(NODE, tmp_path, "ye_wrong", push_of(service, None))
    other = issue(service).json()["code"]
    with pytest.raises(Failure, match=NODE):
        enrol_key("another-node", tmp_path, other, push_of(service, None))
    assert not (tmp_path / ENROLLED).exists()


def test_an_agent_without_an_enrolled_key_signs_nothing(service: Service, tmp_path: Path) -> None:
    assert witness_of(NODE, tmp_path, tmp_path, push_of(service)) is None
    (tmp_path / ENROLLED).write_text("{}")
    assert witness_of(NODE, tmp_path, None, push_of(service)) is None


def test_events_are_refused_to_a_key_of_another_role(service: Service) -> None:
    with pytest.raises(PushRefused):
        push_of(service, "firm").events([{}], service.clock.now())


# --- many at once ---------------------------------------------------------------------------------


def test_many_events_are_verified_apart_with_the_same_answers(service: Service) -> None:
    enrolled(service)
    speaker = voice(service)
    documents = speaker.story(*range(1, APART_FROM + 20), stop=False)
    service.clock.advance(APART_FROM + 20)
    documents[7]["signature"] = documents[8]["signature"]
    answer = service.post("agent", "/v1/usage-events", {"events": documents})

    codes = [item["code"] for item in answer.json()["items"]]
    assert codes[7] == "EVENT_SIGNATURE_INVALID"
    assert [code for code in codes if code] == ["EVENT_SIGNATURE_INVALID"]
    assert laws_hold(service)


def test_a_pool_whose_processes_died_answers_all_the_same() -> None:
    from adapters.event import public_text

    public = public_text(PRIVATE.public_key())
    claims = [(public, b"m", PRIVATE.sign(b"m" if n % 2 else b"x")) for n in range(APART_FROM)]
    expected = [bool(n % 2) for n in range(APART_FROM)]
    pool = Processes(2)
    try:
        assert pool(claims) == verify_here(claims) == expected
        assert pool._pool is not None
        for process in list(pool._pool._processes.values()):
            process.kill()
            process.join()
        assert pool(claims) == expected
        assert pool(claims) == expected, "and starts again"
    finally:
        pool.close()


def test_an_operator_admits_an_event_whose_clock_was_off(service: Service) -> None:
    enrolled(service)
    documents = voice(service).story(60)
    ahead = "2199-01-01T00:00:00.000Z"
    service.clock.advance(60)
    service.post("agent", "/v1/usage-events", {"events": documents, "sent_at": ahead})
    items = service.get("auditor", "/v1/usage-events/quarantined").json()["items"]
    path = f"/v1/usage-events/quarantined/{items[0]['number']}/answers"
    body = {"action": "admit", "reason": "the clock was set by hand"}

    assert service.post("agent", path, body).status_code == 403
    assert service.post("operator", path, body).json()["action"] == "admitted"
    again = service.post("operator", path, {**body, "action": "reject"})
    assert (again.status_code, again.json()["code"]) == (409, "QUARANTINED_ANSWERED")
    assert service.post("operator", path, {**body, "action": "forget"}).status_code == 422
    assert shown(service) == ["started:0"]
