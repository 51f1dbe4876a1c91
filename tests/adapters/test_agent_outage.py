"""The platform is away for an hour, the agent is killed twice meanwhile: afterwards nothing is missing and nothing double.

The agent is a process of its own, killed with SIGKILL in the middle of a round. Clocks are simulated: 16 devices, a
round every 15 s.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from adapters.accelerator import Accelerator
from adapters.agent import Agent
from adapters.assignment import Assignment, write_assignment
from adapters.backlog import Backlog
from adapters.chain import GENESIS
from adapters.device_event import DeviceEvent
from adapters.event import Kind, Signed, parse, verify
from adapters.fault import FILE, Faults
from adapters.sample import Sample, integrate
from adapters.vendors.simulated import Declaration, Simulated
from adapters.witness import Host, Witness, load_key
from tests.adapters.recorded import AT

PERIOD_S, DEVICES, HOUR = 15, 16, 240
UUIDS = tuple(f"sim:n1:{index}" for index in range(DEVICES))
ROOT = Path(__file__).parents[2]


class Platform:
    """Keeps each event and each reading once, as the real one does, and counts how often they came."""

    def __init__(self, *, away: bool = False) -> None:
        self.away = away
        self.events: dict[str, Signed] = {}
        self.came: Counter[str] = Counter()
        self.readings: dict[tuple[str, float], Sample] = {}

    def heartbeat(self, node: str, devices: Sequence[Accelerator], at: object) -> None:
        self._answer()

    def samples(self, node: str, batch: Sequence[Sample], events: Sequence[DeviceEvent] = ()) -> None:
        self._answer()
        for sample in batch:
            self.readings.setdefault((sample.uuid, sample.at.timestamp()), sample)

    def send(self, batch: list[dict[str, Any]], sent_at: object) -> Sequence[Mapping[str, Any]]:
        self._answer()
        for document in batch:
            self.came[document["id"]] += 1
            self.events.setdefault(document["id"], parse(document))
        return [{"id": document["id"], "status": "accepted"} for document in batch]

    def _answer(self) -> None:
        if self.away:
            raise ConnectionError("platform is away")


class Time:
    """One clock for the agent and its host."""

    def __init__(self, step: int = 0) -> None:
        self.step = step

    def ms(self) -> int:
        return 1_000 + self.step * PERIOD_S * 1000

    def host(self) -> Host:
        return Host(boot="b-1", now=lambda: AT + timedelta(milliseconds=self.ms()), boot_ms=self.ms)


def agent_in(directory: Path, platform: Platform, time: Time) -> Agent:
    """The agent as `yisuan agent` puts it together."""
    state, assignments = directory / "state", directory / "assignments"
    return Agent(
        "n1",
        [Simulated([Declaration(node="n1", model="H800", count=DEVICES)])],
        platform,
        assignments,
        backlog=Backlog(state / "telemetry"),
        faults=Faults(state / FILE, "b-1"),
        witness=Witness("n1", state, assignments, platform.send, time.host()),
    )


def round_of(agent: Agent, time: Time) -> None:
    now = AT + timedelta(milliseconds=time.ms())
    agent.beat(now)
    agent.attest()
    agent.sample(now)


def serve(directory: Path) -> None:
    """A process: one round for every step that is written to it; the platform is away throughout."""
    time = Time()
    agent = agent_in(directory, Platform(away=True), time)
    for line in sys.stdin:
        time.step = int(line)
        round_of(agent, time)
        print(time.step, flush=True)


def killed_after(directory: Path, first: int, last: int) -> None:
    """Rounds [first, last) are done, round `last` has begun, and the agent's process is killed."""
    code = f"import pathlib, {__name__} as m; m.serve(pathlib.Path({str(directory)!r}))"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdin, child.stdout:
        for step in range(first, last):
            child.stdin.write(f"{step}\n")
            child.stdin.flush()
            assert child.stdout.readline() == f"{step}\n"
        child.stdin.write(f"{last}\n")
        child.stdin.flush()
        child.kill()
        assert child.wait() == -signal.SIGKILL


def test_an_hours_outage_and_two_kills_lose_and_double_no_usage_event(tmp_path: Path) -> None:
    load_key(tmp_path / "state")
    held = {"job_a.1": UUIDS[:8], "job_b.1": UUIDS[8:12], "job_c.1": UUIDS[12:]}
    for allocation, devices in held.items():
        write_assignment(tmp_path / "assignments", Assignment(allocation=allocation, devices=devices))
    platform, time = Platform(), Time()
    before = agent_in(tmp_path, platform, time)
    round_of(before, time)
    before.close()
    assert len(platform.events) == 3, "the platform heard the starts before it went"

    killed_after(tmp_path, 1, 80)
    (tmp_path / "assignments" / "job_c.1.json").unlink()
    killed_after(tmp_path, 81, 160)
    killed_after(tmp_path, 161, HOUR)

    time.step = HOUR
    after = agent_in(tmp_path, platform, time)
    round_of(after, time)
    status = after.status()
    after.close()

    assert (status.waiting, status.events, status.problem, status.unsaid, status.thinned) == (0, 0, None, (), 0)
    streams: dict[tuple[str, str, str], list[Signed]] = {}
    for signed in platform.events.values():
        streams.setdefault(signed.event.stream, []).append(signed)
    assert sorted(stream[2] for stream in streams) == sorted(held), "one stream each: no start was said twice"
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex((tmp_path / "state" / "node.key").read_text().strip()))
    for stream, said in streams.items():
        said.sort(key=lambda signed: signed.event.seq)
        assert [signed.event.seq for signed in said] == list(range(1, len(said) + 1)), "none is missing, none double"
        hashes = [GENESIS, *(signed.hash for signed in said)]
        assert [signed.event.prev_hash for signed in said] == hashes[:-1]
        assert all(one.event.monotonic_ms <= two.event.monotonic_ms for one, two in pairwise(said))
        kinds = [signed.event.kind for signed in said]
        assert (kinds[0], kinds.count(Kind.STARTED)) == (Kind.STARTED, 1)
        ended = said[-1].event
        if stream[2] == "job_c.1":
            assert ended.kind is Kind.STOPPED
            assert 79 * PERIOD_S * 1000 <= ended.monotonic_ms <= 81 * PERIOD_S * 1000, "as far as anyone can prove"
        else:
            assert (ended.kind, ended.monotonic_ms) == (Kind.HEARTBEAT, HOUR * PERIOD_S * 1000)
            assert len(said) >= HOUR - 3, "every round was sworn to but those that a kill cut off"
        assert all(verify(signed, key.public_key()) for signed in said)
    assert max(platform.came.values()) == 1, "what was acknowledged is not sent again"
    covered_all(platform)


def covered_all(platform: Platform) -> None:
    """Of the hour no reading is missing but in the rounds that a kill cut off, and integration joins across those."""
    assert {uuid for uuid, _ in platform.readings} == set(UUIDS)
    for uuid in UUIDS:
        instants = sorted(sample.at for (name, _), sample in platform.readings.items() if name == uuid)
        assert HOUR - 3 <= len(instants) <= HOUR + 1
        whole = integrate([(at, 1.0) for at in instants], instants[0], instants[-1], period_ms=PERIOD_S * 1000)
        assert whole.gap_ms == 0
        assert instants[-1] - instants[0] == timedelta(hours=1)


def test_a_clean_end_sends_what_waits_and_keeps_what_cannot_be_sent(tmp_path: Path) -> None:
    load_key(tmp_path / "state")
    write_assignment(tmp_path / "assignments", Assignment(allocation="job_a.1", devices=UUIDS[:1]))
    platform, time = Platform(away=True), Time()
    agent = agent_in(tmp_path, platform, time)
    round_of(agent, time)
    agent.close()
    assert platform.events == {}
    assert list((tmp_path / "state" / "telemetry").glob("*.json"))

    agent = agent_in(tmp_path, platform, time)
    platform.away = False
    agent.close()
    assert [signed.event.kind for signed in platform.events.values()] == [Kind.STARTED, Kind.HEARTBEAT]
    assert len(platform.readings) == DEVICES, "sent without another round"
    assert list((tmp_path / "state" / "telemetry").iterdir()) == []
    assert json.loads((tmp_path / "assignments" / "job_a.1.json").read_text())["allocation"] == "job_a.1"
