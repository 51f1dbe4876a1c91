"""The platform asks by itself: who answers is believed, who does not, or with another's key, or late, or twice, is not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from adapters.accelerator import Accelerator
from adapters.deadline import Worker
from adapters.respondent import Respondent
from api.push import HttpPush, PushRefused
from metering import audit_events, evidence_challenge
from metering.evidence_challenge import KERNEL_ONE_IN, PARTS, due_after
from metering.evidence_schema import evidence_records, node_challenges
from scheduler.journal import verify
from scheduler.schema import devices
from tests.api.service import Service
from tests.api.test_evidence import KEY, NODE, OTHER, accelerator, beat, bus, card, items, level, send, stated
from tests.api.test_evidence import service as service
from tests.api.test_signing_agents import push_of

HOUR = 3600.0


@pytest.fixture(autouse=True)
def _no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest wait and no kernel, unless a test draws otherwise."""
    draw_always(monkeypatch, lambda n: n - 1)


def draw_always(monkeypatch: pytest.MonkeyPatch, draw: Any) -> None:
    monkeypatch.setattr("api.routes.agents.randbelow", draw)


def asked_of(service: Service, node: str = NODE) -> Any:
    answer = beat(service, node, card(0), card(1))
    assert answer.status_code == 200, answer.text
    return answer.json()["challenge"]


def told(service: Service) -> list[dict[str, Any]]:
    return list(service.get("auditor", f"/v1/agents/{NODE}/challenges").json()["items"])


def late(service: Service, seconds: float) -> None:
    service.clock.advance(seconds)
    with service.services.database.write() as tx:
        evidence_challenge.watch(tx, service.clock.now())


# --- asking and answering -------------------------------------------------------------------------


def test_a_nodes_first_heartbeat_is_answered_with_a_challenge_and_its_answer_raises_the_level(service: Service) -> None:
    asked = asked_of(service)
    assert asked["kernel"] is None
    assert asked_of(service)["nonce"] == asked["nonce"], "an open challenge is told until it is answered"
    assert send(service, stated(service, asked["nonce"])).status_code == 201

    assert asked_of(service) is None
    assert level(service, "VDIE-0") == (3, "NODE_SIGNED")
    assert [(one["outcome"], one["kind"]) for one in told(service)] == [("ANSWERED", "statement")]
    with service.services.database.read() as tx:
        assert verify(tx, evidence_records) is None
        assert all(check() is None for _, check in audit_events.laws(tx))


def test_the_next_one_comes_when_it_was_drawn_and_no_sooner(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_always(monkeypatch, lambda n: n // 2)
    assert send(service, stated(service, asked_of(service)["nonce"])).status_code == 201
    service.clock.advance(36 * HOUR - 1)
    assert asked_of(service) is None
    service.clock.advance(1)
    assert asked_of(service) is not None
    with service.services.database.read() as tx:
        drawn = tx.execute(select(node_challenges.c.draws).where(node_challenges.c.issued_at_ms.is_(None))).scalar()
    assert drawn == f'{{"hours":24,"wait":{PARTS // 2},"wait_of":{PARTS}}}'
    assert len(told(service)) == 2, "what is only drawn is shown to nobody"


@given(st.integers(0, 2**41), st.integers(1, 720), st.integers(0, PARTS - 1))
def test_a_wait_is_from_the_hours_to_twice_the_hours(issued: int, hours: int, part: int) -> None:
    wait = due_after(issued, hours, part) - issued
    assert hours * 3_600_000 <= wait < 2 * hours * 3_600_000


def test_nobody_is_asked_without_a_key_or_where_it_is_turned_off(service: Service) -> None:
    answer = beat(service, "real-2", card(2))
    assert answer.json() == {"node": "real-2", "challenge": None}
    object.__setattr__(service.services.settings, "challenge_hours", 0)
    assert asked_of(service) is None


# --- what is refused ------------------------------------------------------------------------------


def test_another_key_no_key_and_a_changed_statement_are_refused_and_leave_the_challenge_open(service: Service) -> None:
    nonce = asked_of(service)["nonce"]
    said = stated(service, nonce)
    assert send(service, said, OTHER).json()["code"] == "KEY_UNKNOWN"
    assert send(service, said, None).json()["code"] == "CHALLENGE_NEEDS_SIGNATURE"
    signed_other = stated(service, nonce, bare_metal=False).document()
    assert send(service, said, statement=signed_other).json()["code"] == "EVIDENCE_SIGNATURE_INVALID"
    assert asked_of(service)["nonce"] == nonce
    assert level(service, "VDIE-0")[0] == 1


def test_a_late_answer_is_refused_and_lowers_what_was_believed_until_the_next_is_answered(service: Service) -> None:
    assert send(service, stated(service, asked_of(service)["nonce"])).status_code == 201
    service.clock.advance(48 * HOUR)
    nonce = asked_of(service)["nonce"]
    before = service.clock.now()
    service.clock.advance(300)
    assert send(service, stated(service, nonce)).json()["code"] == "CHALLENGE_EXPIRED"
    late(service, 0)

    assert level(service, "VDIE-0") == (1, "CHALLENGE_UNANSWERED")
    shown = service.get("auditor", "/v1/evidence/VDIE-0").json()
    assert shown["course"][-1]["from"] == (before + timedelta(seconds=300)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    assert items(service)[f"CHALLENGE_UNANSWERED:{NODE}"]["actions"] == ["explained", "removed"]
    assert asked_of(service) is None, "not at once"
    service.clock.advance(600)
    assert send(service, stated(service, asked_of(service)["nonce"])).status_code == 201
    assert level(service, "VDIE-0") == (3, "NODE_SIGNED")
    assert f"CHALLENGE_UNANSWERED:{NODE}" not in items(service)


def test_an_answer_sent_twice_is_refused_the_second_time(service: Service) -> None:
    said = stated(service, asked_of(service)["nonce"])
    assert send(service, said).status_code == 201
    assert send(service, said).json()["code"] == "CHALLENGE_USED"


def test_a_device_that_the_answer_leaves_out_or_confirms_no_more_is_lowered(service: Service) -> None:
    assert send(service, stated(service, asked_of(service)["nonce"])).status_code == 201
    service.clock.advance(48 * HOUR)
    said = stated(service, asked_of(service)["nonce"], devices=[accelerator(card(0))])
    assert send(service, said).status_code == 201
    assert (level(service, "VDIE-0")[0], level(service, "VDIE-1")) == (3, (1, "CHALLENGE_UNANSWERED"))
    service.clock.advance(48 * HOUR)
    said = stated(service, asked_of(service)["nonce"], bare_metal=False)
    assert send(service, said).status_code == 201
    assert level(service, "VDIE-0") == (1, "VIRTUAL_MACHINE")


# --- the agent ------------------------------------------------------------------------------------


class FakeGpu:
    """A rig that says it is an accelerator and multiplies with numpy; what a child process of a real agent would hold."""

    def __init__(self, wrong: bool = False, kind: str = "accelerator") -> None:
        from adapters.bench.numpy_stack import Numpy
        from adapters.bench.rig import Rig

        self._rig, self._wrong, self._kind = Rig(held=Numpy()), wrong, kind

    def about(self) -> dict[str, Any]:
        return {**self._rig.about(), "kind": self._kind}

    def challenge(self, nonce: str, size: int, depth: int) -> dict[str, Any]:
        found = self._rig.challenge("another-nonce" if self._wrong else nonce, size, depth)
        return {**found, "nonce": nonce}


class Cards:
    vendor = "ascend"

    def visibility(self, shown: Any) -> dict[str, str]:
        return {"ASCEND_RT_VISIBLE_DEVICES": ",".join(device.uuid for device in shown)}


def respondent(service: Service, key: Any = KEY, **rig: Any) -> Respondent:
    target = "tests.api.test_evidence_challenges:FakeGpu"
    push = push_of(service)

    def begin(node: str, challenge: str) -> Any:
        begun = HttpPush.begin(push, node, challenge)
        service.clock.advance(1)  # the set clock stands still, and nothing is computed in no time
        return begun

    push.begin = begin  # type: ignore[method-assign]
    return Respondent(
        NODE,
        key,
        push,
        [Cards()],  # type: ignore[list-item]
        clock=service.clock.now,
        functions=lambda: (bus(0), bus(1)),
        bare_metal=lambda: True,
        rig=lambda environment: Worker(target, rig, open_s=60, environment=environment),
    )


CARDS: list[Accelerator] = [accelerator(card(0)), accelerator(card(1))]


def round_of(service: Service, answering: Respondent) -> Any:
    """A heartbeat and what the respondent makes of its answer, as adapters.agent does."""
    asked = push_of(service).heartbeat(NODE, CARDS, service.clock.now())
    if asked is not None:
        answering.answer(asked, CARDS)
        if answering._running is not None:
            answering._running.join(60)
    return asked


def test_an_agent_answers_with_no_human_act_and_another_key_does_not(service: Service) -> None:
    wrong = respondent(service, OTHER)
    assert round_of(service, wrong) is not None
    assert "KEY_UNKNOWN" in wrong.problems[0]
    assert level(service, "VDIE-0")[0] == 1
    right = respondent(service)
    round_of(service, right)
    assert right.problems == ()
    assert level(service, "VDIE-0") == (3, "NODE_SIGNED")
    assert round_of(service, right) is None


def with_kernel(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are drawn, on the first idle device, and small."""
    draw_always(monkeypatch, lambda n: 0)
    monkeypatch.setattr(evidence_challenge, "KERNEL_SIZE", 128)
    monkeypatch.setattr(evidence_challenge, "KERNEL_DEPTH", 2)
    monkeypatch.setattr("api.routes.evidence.randbelow", _Count())


class _Count:
    def __init__(self) -> None:
        self.last = -1

    def __call__(self, n: int) -> int:
        self.last += 1
        return self.last % n


@pytest.mark.parametrize(
    ("rig", "outcome", "shown"),
    [
        ({}, "OK", (3, "NODE_SIGNED")),
        ({"wrong": True}, "WRONG", (1, "KERNEL_FAILED")),
        ({"kind": "cpu"}, "UNABLE", (3, "NODE_SIGNED")),
    ],
)
def test_a_kernel_is_run_in_a_child_on_the_drawn_device_and_judged(
    service: Service, monkeypatch: pytest.MonkeyPatch, rig: dict[str, Any], outcome: str, shown: tuple[int, str]
) -> None:
    with_kernel(service, monkeypatch)
    asked = round_of(service, running := respondent(service, **rig))
    assert (asked.kernel.device, running.problems) == ("VDIE-0", ())
    kernel = next(one for one in told(service) if one["kind"] == "kernel")
    assert (kernel["outcome"], kernel["device"]) == (outcome, "VDIE-0")
    assert kernel["draws"] == {"kernel": 0, "kernel_of": KERNEL_ONE_IN, "place": 0, "place_of": 2}
    assert level(service, "VDIE-0") == shown
    assert level(service, "VDIE-1") == (3, "NODE_SIGNED")
    assert ("KERNEL_FAILED:VDIE-0" in items(service)) is (outcome == "WRONG")
    if outcome == "WRONG":
        assert (
            service.post("operator", "/v1/evidence/VDIE-0/acts", {"act": "clear", "reason": "seen"}).status_code == 201
        )
        assert level(service, "VDIE-0")[0] == 3
        assert "KERNEL_FAILED:VDIE-0" not in items(service)


def test_a_kernel_is_answered_once_in_time_by_its_own_node(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    from adapters.bench.challenge import answer
    from adapters.bench.numpy_stack import Numpy
    from adapters.bench.question import Challenge

    with_kernel(service, monkeypatch)
    kernel = asked_of(service)["kernel"]["id"]
    path = f"/v1/agents/{NODE}/kernels/{kernel}"
    assert service.post("agent", f"/v1/agents/real-2/kernels/{kernel}").json()["code"] == "CHALLENGE_UNKNOWN"
    assert service.post("agent", f"{path}/answer", {"answer": {}}).json()["code"] == "CHALLENGE_UNKNOWN", "not begun"
    begun = service.post("agent", path).json()
    assert (begun["device"], begun["size"], begun["depth"]) == ("VDIE-0", 128, 2)
    assert service.post("agent", path).json()["code"] == "CHALLENGE_USED", "its nonce is given once"
    steps = iter(range(100))
    found = answer(Challenge(nonce=begun["nonce"], size=128, depth=2), Numpy(), lambda: next(steps) * 0.01)
    assert service.post("agent", f"{path}/answer", {"answer": found, "reason": "x"}).status_code == 422
    service.clock.advance(6)
    assert service.post("agent", f"{path}/answer", {"answer": found}).json()["code"] == "LATE"
    assert level(service, "VDIE-0") == (1, "TOOL_REPORTED"), "it showed no more before either"
    assert service.post("agent", f"{path}/answer", {"answer": found}).json()["code"] == "CHALLENGE_USED"


def test_a_kernel_nobody_begins_fails_unless_a_lease_took_the_device(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_kernel(service, monkeypatch)
    assert send(service, stated(service, asked_of(service)["nonce"])).status_code == 201
    late(service, 601)
    assert level(service, "VDIE-0") == (1, "KERNEL_FAILED")
    with service.services.database.write() as tx:
        tx.execute(update(node_challenges).values(ended_at_ms=None).where(node_challenges.c.kind == "kernel"))
        tx.execute(update(devices).values(leasable=0).where(devices.c.uuid == "VDIE-0"))
    late(service, 1)
    assert next(one["outcome"] for one in told(service) if one["kind"] == "kernel") == "UNABLE"


def test_a_held_device_is_not_asked_to_run_a_kernel(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from adapters.assignment import Assignment, write_assignment

    with_kernel(service, monkeypatch)
    write_assignment(tmp_path, Assignment(allocation="job_a.1", devices=("VDIE-0",)))
    running = respondent(service)
    running._assignments = tmp_path
    round_of(service, running)
    kernel = next(one for one in told(service) if one["kind"] == "kernel")
    assert (kernel["outcome"], kernel["facts"]) == ("UNABLE", {"reason": "allocation job_a.1 holds the device"})


def test_a_respondent_keeps_what_stops_it_to_itself(service: Service) -> None:
    class Away:
        def statement(self, *_: Any) -> None:
            raise PushRefused("no")

    running = respondent(service)
    running._answers = Away()  # type: ignore[assignment]
    round_of(service, running)
    assert running.problems == ("challenge: PushRefused: no",)
