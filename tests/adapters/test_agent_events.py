"""What drivers say of devices reaches placement and the platform; what the bus and the adapters say reaches the status."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, cast

import pytest

from adapters.accelerator import Accelerator, Health, Partition, PartitionKind, Source
from adapters.adapter import Adapter, AdapterError, Reading
from adapters.agent import Agent, Refused
from adapters.device_event import DeviceEvent, Severity
from adapters.fault import FILE, Faults
from adapters.link import Link, Nearness
from adapters.process import ProcessUse
from adapters.survey import problems_of
from adapters.vendors.hygon import Hygon
from adapters.vendors.nvidia import Nvidia
from adapters.vendors.simulated import Declaration, Simulated
from tests.adapters.nvml_stub import Host, build
from tests.adapters.recorded import AT
from tests.adapters.test_agent import Recorder, two

FATAL = DeviceEvent(uuid="sim:n1:0", at=AT, code="XID 79", severity=Severity.FATAL)


class Talkative(Simulated):
    """Devices whose driver says what a test puts in its mouth."""

    def __init__(self) -> None:
        super().__init__([Declaration(node="n1", model="H800", count=2)])
        self.said: list[DeviceEvent] = []
        self.asked = 0
        self.closed = False
        self.complaints: tuple[str, ...] = ()
        self.deaf = False

    def events(self, wait_ms: int = 0) -> tuple[DeviceEvent, ...]:
        self.asked += 1
        if self.deaf:
            raise AdapterError("the driver does not answer")
        found, self.said = tuple(self.said), []
        return found

    def problems(self) -> tuple[str, ...]:
        return self.complaints

    def processes(self, uuids: object = None) -> tuple[ProcessUse, ...]:
        return (ProcessUse(uuid="sim:n1:0", pid=7, memory_used_bytes=5),)

    def links(self) -> tuple[Link, ...]:
        return (Link(a_uuid="sim:n1:0", b_uuid="sim:n1:1", nearness=Nearness.FABRIC, fabric="nvlink", count=8),)

    def close(self) -> None:
        self.closed = True


def held(push: Recorder, agent: Agent) -> dict[str, Accelerator]:
    return {device.uuid: device for device in agent.scene().devices}


def test_a_fatal_event_fails_its_device_with_its_code_until_the_host_starts_again(tmp_path: Path) -> None:
    push, adapter = Recorder(), Talkative()
    agent = Agent("n1", [adapter], push, faults=Faults(tmp_path / FILE, "boot-1"))
    agent.beat(AT)
    adapter.said = [FATAL]
    agent.sample(AT)

    assert push.events == [FATAL], "told with the readings, before the next beat"
    assert held(push, agent)["sim:n1:0"].health is Health.FAILED, "and seen at once by whoever looks"
    agent.beat(AT)
    agent.beat(AT)
    device = held(push, agent)["sim:n1:0"]
    assert push.health == [Health.FAILED, Health.OK]
    assert (device.health_code, len(device.problems)) == ("XID 79", 1)
    assert device.problems[0].startswith("XID 79 at 2026-03-01")

    again = Agent("n1", [Talkative()], push, faults=Faults(tmp_path / FILE, "boot-1"))
    again.beat(AT)
    assert push.health == [Health.FAILED, Health.OK], "a restarted agent has not forgotten"
    Agent("n1", [Talkative()], push, faults=Faults(tmp_path / FILE, "boot-2")).beat(AT)
    assert push.health == [Health.OK, Health.OK]


def test_an_operator_who_reset_the_device_forgets_its_fault(tmp_path: Path) -> None:
    faults = Faults(tmp_path / FILE, "b")
    faults.note([FATAL])
    faults.forget()

    assert faults.judge(two().inventory()[0]).health is Health.OK
    assert not (tmp_path / FILE).exists()


def test_a_warning_degrades_and_a_jobs_own_error_does_nothing(tmp_path: Path) -> None:
    faults, (first, second) = Faults(), two().inventory()
    faults.note([replace(FATAL, severity=Severity.INFO), replace(FATAL, uuid=second.uuid, severity=None)])
    assert (faults.judge(first), faults.judge(second)) == (first, second)
    faults.note([replace(FATAL, code="XID 63", severity=Severity.WARNING)])
    assert faults.judge(first).health is Health.DEGRADED
    assert faults.judge(replace(first, health=Health.FAILED)).health is Health.FAILED
    faults.note([FATAL, replace(FATAL, code="XID 48")])
    assert faults.judge(first).health_code == "XID 79", "the first of the worst"
    part = replace(first, uuid="MIG-1", partition=Partition(kind=PartitionKind.MIG, parent_uuid=first.uuid))
    assert faults.judge(part).health is Health.FAILED


def test_a_spoiled_file_of_faults_is_said_and_hides_no_device(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    agent = Agent("n1", [two()], Recorder(), faults=Faults(tmp_path / FILE, "b"))

    assert agent.beat(AT)
    assert "cannot be read" in agent.status().adapters[0]


def test_drivers_are_watched_from_the_start_and_a_deaf_one_stops_nothing() -> None:
    push, adapter, stop = Recorder(), Talkative(), threading.Event()
    adapter.deaf = True
    stop.set()
    agent = Agent("n1", [adapter], push)
    agent.run(stop, 15)
    assert (adapter.asked, adapter.closed) == (1, True)
    agent.beat(AT)
    agent.sample(AT)
    assert len(push.batches[0]) == 2
    assert agent.status().adapters == ("simulated: events: the driver does not answer",)
    adapter.deaf = False
    agent.sample(AT)
    assert agent.status().adapters == ()


def test_events_that_could_not_be_delivered_wait_with_the_readings() -> None:
    push, adapter = Recorder(), Talkative()
    agent = Agent("n1", [adapter], push)
    agent.beat(AT)
    push.down = True
    adapter.said = [FATAL]
    agent.sample(AT)
    push.down = False
    agent.sample(AT + timedelta(seconds=15))

    assert push.events == [FATAL]


def test_what_an_adapter_and_the_bus_say_of_no_device_reaches_the_status() -> None:
    adapter = Talkative()
    adapter.complaints = ("GPU-9 was here and is no longer counted",)
    agent = Agent(
        "n1", [adapter], Recorder(), attest=lambda devices: (tuple(devices), ("0000:1b:00.0: present, unmanaged",))
    )
    agent.beat(AT)

    assert agent.status().adapters == (
        "0000:1b:00.0: present, unmanaged",
        "simulated: GPU-9 was here and is no longer counted",
    )


def test_a_bus_that_cannot_be_read_silences_no_tool() -> None:
    def broken(devices: object) -> tuple[tuple[Accelerator, ...], tuple[str, ...]]:
        raise OSError("sysfs is gone")

    push = Recorder()
    agent = Agent("n1", [two()], push, attest=broken)
    assert agent.beat(AT)
    assert push.heard == [("sim:n1:0", "sim:n1:1")]
    assert agent.status().adapters == ("bus: sysfs is gone",)


def test_processes_and_links_are_read_only_for_whoever_looks() -> None:
    plain, detailed = (Agent("n1", [Talkative()], Recorder(), detailed=detail) for detail in (False, True))
    for agent in (plain, detailed):
        agent.beat(AT)
        agent.sample(AT)

    assert (plain.scene().processes, plain.scene().links) == ((), ())
    assert [use.pid for use in detailed.scene().processes] == [7]
    assert [link.fabric for link in detailed.scene().links] == ["nvlink"]


def test_a_report_that_is_refused_for_good_holds_up_no_other() -> None:
    class Picky(Recorder):
        def samples(self, node: str, batch: object, events: object = ()) -> None:
            if not self.batches:
                self.batches.append(())
                raise Refused("INPUT_INVALID: /samples/0", final=True)
            super().samples(node, batch, events)  # type: ignore[arg-type]

    push = Picky()
    agent = Agent("n1", [two()], push)
    agent.beat(AT)
    assert agent.sample(AT) == 0
    assert agent.status().refused == 2
    assert "INPUT_INVALID" in agent.status().adapters[-1]
    assert agent.sample(AT) == 0
    assert agent.status().delivered == 2


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


@pytest.fixture
def nvidia(host: Host) -> Iterator[Nvidia]:
    adapter = Nvidia(libraries=[str(build())], clock=lambda: AT)
    yield adapter
    adapter.close()


def test_an_xid_of_the_real_library_fails_its_device(host: Host, nvidia: Nvidia) -> None:
    host.hold(3)
    push = Recorder()
    agent = Agent("n1", [cast(Adapter, nvidia)], push, detailed=True)
    agent.watch()
    agent.beat(AT)
    host.tell("xid 1 79")
    agent.sample(AT)
    agent.beat(AT)

    assert push.health == [Health.OK, Health.FAILED, Health.OK]
    assert [(event.uuid, event.code) for event in push.events] == [("GPU-1", "XID 79")]
    assert all(device.source is Source.LIBRARY for device in agent.scene().devices)
    assert {use.pid for use in agent.scene().processes} == {4242}
    assert len(agent.scene().links) == 3


def test_live_adapters_keep_what_their_answers_say_of_no_device() -> None:
    class Told(Hygon):
        answers: ClassVar[list[tuple[str, ...]]] = [("a",), ("b",), ()]

        def _read_tool(self) -> Reading:
            return Reading(devices=(), samples=(), problems=self.answers.pop(0))

    adapter = Told(run=lambda words: "")
    said = []
    for read in (adapter.inventory, adapter.samples, adapter.samples):
        read()
        said.append(problems_of(adapter))
    assert said == [("hygon: a",), ("hygon: b",), ()]
    assert problems_of(two()) == ()
