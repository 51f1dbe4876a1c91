"""The agent swears to what it saw: starts, stops, other devices; and to nothing it did not see."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from adapters.accelerator import Accelerator, Health, Source
from adapters.agent import Agent
from adapters.assignment import Assignment, remove_assignment, write_assignment
from adapters.event import Event, parse
from adapters.spool import SpoolBusy
from adapters.vendors.simulated import Declaration, Simulated
from adapters.witness import AWAY_MS, KEY, SAY_EVERY_MS, SPOOL, Host, Witness, load_key
from tests.adapters.recorded import AT

BOOT = "3f2c0a52-0000-4000-8000-000000000001"


def device(uuid: str) -> Accelerator:
    return Accelerator(
        uuid=uuid,
        index=0,
        vendor="ascend",
        model_raw="x",
        model="Ascend910B3",
        health=Health.OK,
        source=Source.SIMULATED,
    )


@dataclass
class Scene:
    """One host, its assignments, and a platform that keeps what it is told unless it is away."""

    root: Path
    at_ms: int = 0
    step_ms: int = 0
    boot: str = BOOT
    away: bool = False
    heard: list[Event] = field(default_factory=list)
    witness: Witness | None = None

    def host(self) -> Host:
        return Host(boot=self.boot, now=self.now, boot_ms=lambda: self.at_ms)

    def now(self) -> datetime:
        return AT + timedelta(milliseconds=self.at_ms + self.step_ms)

    def send(self, batch: list[dict[str, Any]], sent_at: datetime) -> Sequence[Mapping[str, Any]]:
        assert sent_at == self.now()
        if self.away:
            raise ConnectionError("platform is away")
        self.heard += [parse(document).event for document in batch]
        return [{"id": document["id"], "status": "accepted"} for document in batch]

    def look(self, after_s: float = 0, *mine: str) -> list[str]:
        """What was newly heard, as `kind:milliseconds`."""
        self.at_ms += round(after_s * 1000)
        if self.witness is None:
            self.witness = Witness("n1", self.root / "agent", self.root / "assignments", self.send, self.host())
        known = len(self.heard)
        self.witness.look([device(uuid) for uuid in mine or ("d0", "d1")])
        return [f"{event.kind}:{event.monotonic_ms}" for event in self.heard[known:]]

    def crash(self) -> None:
        assert self.witness is not None
        self.witness.close()
        self.witness = None

    def assign(self, allocation: str, *devices: str, share: int = 1000) -> None:
        found = Assignment(allocation=allocation, devices=devices, share_permille=share)
        write_assignment(self.root / "assignments", found)

    def remove(self, allocation: str) -> None:
        remove_assignment(self.root / "assignments", allocation)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_an_allocation_is_told_from_its_start_to_its_stop_with_cumulative_heartbeats_between(scene: Scene) -> None:
    assert scene.look() == []
    scene.assign("job_a.1", "d0", "elsewhere", share=500)
    assert scene.look(2) == ["started:0"]
    assert scene.look(2) == [], "a heartbeat is said every ten seconds, not at every look"
    assert scene.look(SAY_EVERY_MS / 1000 - 2) == [f"heartbeat:{SAY_EVERY_MS}"]
    scene.remove("job_a.1")
    assert scene.look(3) == [f"stopped:{SAY_EVERY_MS + 3000}"]
    assert scene.look(60) == []

    first = scene.heard[0]
    assert (first.devices, first.share_permille, first.model) == (("d0",), 500, "Ascend910B3")
    assert [event.seq for event in scene.heard] == [1, 2, 3]
    assert first.boot == f"{BOOT}.2000"


def test_an_allocation_on_other_nodes_is_nothing_of_ours(scene: Scene) -> None:
    scene.assign("job_a.1", "elsewhere")
    assert scene.look() == []


def test_an_agent_that_comes_back_goes_on_where_the_allocation_still_runs(scene: Scene) -> None:
    scene.assign("job_a.1", "d0")
    scene.look()
    scene.crash()

    assert scene.look(3600) == ["heartbeat:3600000"]
    assert {event.boot for event in scene.heard} == {f"{BOOT}.0"}


@pytest.mark.parametrize("how", ["crashed", "asleep"])
def test_what_went_while_nobody_looked_ended_at_its_last_proof_of_life(scene: Scene, how: str) -> None:
    scene.assign("job_a.1", "d0")
    scene.look()
    scene.look(10)
    if how == "crashed":
        scene.crash()
    scene.remove("job_a.1")
    scene.assign("job_b.1", "d0")

    assert scene.look(AWAY_MS / 1000 + 1) == ["stopped:10000", "started:0"]
    stop, start = scene.heard[-2:]
    assert stop.at == AT + timedelta(seconds=10), "it happened no later than we last saw it"
    assert start.at == scene.now()


def test_streams_of_an_earlier_boot_end_at_their_last_proof_of_life(scene: Scene) -> None:
    scene.assign("job_a.1", "d0")
    scene.look(100)
    scene.look(20)
    scene.crash()
    scene.boot, scene.at_ms, scene.step_ms = BOOT.replace("1", "2"), 5000, 300_000

    assert scene.look() == ["stopped:20000", "started:0"], "whatever runs now began after the boot"
    assert scene.heard[-2].boot == f"{BOOT}.100000"
    assert scene.heard[-1].boot.startswith(scene.boot)


def test_an_allocation_seen_again_is_another_stream(scene: Scene) -> None:
    scene.assign("job_a.1", "d0")
    scene.look()
    scene.remove("job_a.1")
    scene.look(1)
    scene.assign("job_a.1", "d0")
    assert scene.look(1) == ["started:0"]
    assert len({event.id for event in scene.heard}) == 3


def test_a_start_never_precedes_the_stop_before_it_though_the_clock_was_set_back(scene: Scene) -> None:
    scene.assign("job_a.1", "d0")
    scene.look()
    scene.step_ms = -2000
    scene.remove("job_a.1")
    scene.assign("job_b.1", "d0")
    scene.look(10)

    stop, start = scene.heard[-2:]
    assert stop.monotonic_ms == 10_000
    assert start.at == AT + timedelta(seconds=10), "where the platform reckons that the first one ended"


def test_a_part_that_ends_gives_nothing_back_and_a_move_is_told(scene: Scene) -> None:
    scene.assign("job_a.1", "d0", "d1")
    scene.look()
    scene.assign("job_a.1", "d1")
    assert scene.look(1) == []
    scene.assign("job_a.1", "elsewhere")
    assert scene.look(1) == []
    scene.assign("job_a.1", "d2")
    assert scene.look(1, "d0", "d1", "d2") == ["migrated:3000"]
    assert scene.heard[-1].devices == ("d2",)


def test_a_spoiled_file_says_nothing_and_hides_no_other(scene: Scene) -> None:
    scene.assign("job_a.1", "d0")
    scene.look()
    (scene.root / "assignments" / "job_a.1.json").write_text("{")
    scene.assign("job_b.1", "d1")
    assert scene.look(5) == ["started:0"]
    assert scene.witness is not None
    assert "not JSON" in scene.witness.problems[0]
    scene.assign("job_a.1", "d0")
    assert "heartbeat:10000" in scene.look(5), "and what it hid meanwhile was held all along"
    assert scene.witness.problems == ()


def test_what_the_platform_did_not_hear_waits_on_disk_and_is_sent_in_order(scene: Scene) -> None:
    scene.away = True
    scene.assign("job_a.1", "d0")
    scene.look()
    assert scene.witness is not None
    assert scene.witness.problems == ("ConnectionError: platform is away",)
    scene.crash()
    scene.remove("job_a.1")
    scene.look(10)
    scene.away = False

    assert scene.look(1) == ["started:0", "stopped:0"]


def test_a_device_list_that_is_empty_for_a_while_stops_nothing(scene: Scene) -> None:
    scene.assign("job_a.1", "d0")
    scene.look()
    assert scene.witness is not None
    scene.witness.look([])
    assert scene.look(10) == ["heartbeat:10000"]


def test_key_and_spool_are_the_agents_alone(scene: Scene) -> None:
    scene.look()
    folder = scene.root / "agent"
    modes = {name: stat.S_IMODE((folder / name).stat().st_mode) for name in (KEY, SPOOL, ".")}
    assert modes == {KEY: 0o600, SPOOL: 0o600, ".": 0o700}
    assert load_key(folder).private_bytes_raw() == load_key(folder).private_bytes_raw()
    with pytest.raises(SpoolBusy):
        Witness("n1", folder, scene.root / "assignments", scene.send, scene.host())


def test_a_key_that_cannot_be_read_is_never_replaced(tmp_path: Path) -> None:
    load_key(tmp_path)
    (tmp_path / KEY).write_text("spoiled\n")
    with pytest.raises(ValueError, match=r"node\.key: not an Ed25519 private key"):
        load_key(tmp_path)
    assert (tmp_path / KEY).read_text() == "spoiled\n"


def test_a_boot_id_must_be_one() -> None:
    with pytest.raises(ValueError, match=r"boot: 'a\.b'"):
        Host(boot="a.b", now=lambda: AT, boot_ms=lambda: 0)


def test_the_agent_tells_its_witness_of_the_devices_it_found(scene: Scene) -> None:
    class Push:
        def heartbeat(self, *_: object) -> None:
            if scene.away:
                raise ConnectionError("away")

        def samples(self, *_: object) -> None: ...

    scene.assign("job_a.1", "sim:n1:0")
    witness = Witness("n1", scene.root / "agent", scene.root / "assignments", scene.send, scene.host())
    found = [Simulated([Declaration(node="n1", model="H800", count=2)])]
    agent = Agent("n1", found, Push(), scene.root / "assignments", witness=witness)
    scene.away = True
    agent.beat(AT)
    assert agent.attest() == 1
    assert agent.status().events == 1
    assert agent.status().unsaid == (), "what already could not be told is not tried twice"
    scene.away = False
    agent.beat(AT)
    assert agent.attest() == 0
    assert [event.devices for event in scene.heard] == [("sim:n1:0",)]
