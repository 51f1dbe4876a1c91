"""The agent loses nothing that it can keep, and one broken adapter or a silent platform stops it never."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from adapters.accelerator import Accelerator, Health
from adapters.adapter import AdapterError, Probe
from adapters.agent import Agent
from adapters.device_event import DeviceEvent
from adapters.sample import Sample, integrate
from adapters.vendors.simulated import Declaration, Simulated
from tests.adapters.recorded import AT


class Recorder:
    """A platform that keeps what it is told, or refuses while `down`."""

    def __init__(self) -> None:
        self.down = False
        self.heard: list[tuple[str, ...]] = []
        self.health: list[Health] = []
        self.batches: list[tuple[Sample, ...]] = []
        self.events: list[DeviceEvent] = []

    def heartbeat(self, node: str, devices: Sequence[Accelerator], at: datetime) -> None:
        self._refuse()
        self.heard.append(tuple(device.uuid for device in devices))
        self.health = [device.health for device in devices]

    def samples(self, node: str, batch: Sequence[Sample], events: Sequence[DeviceEvent] = ()) -> None:
        self._refuse()
        self.batches.append(tuple(batch))
        self.events += events

    def _refuse(self) -> None:
        if self.down:
            raise ConnectionError("platform is away")


class Fickle(Simulated):
    """Devices whose tool works until it breaks."""

    broken = False

    def inventory(self) -> tuple[Accelerator, ...]:
        if self.broken:
            raise AdapterError("tool: no answer within 20 s; killed")
        return super().inventory()

    def samples(self, uuids: object = None) -> tuple[Sample, ...]:
        if self.broken:
            raise AdapterError("tool: no answer within 20 s; killed")
        return super().samples()

    def probe(self) -> Probe:
        return Probe(available=True)


def two(kind: type[Simulated] = Simulated) -> Simulated:
    return kind([Declaration(node="n1", model="H800", count=2)])


def test_idle_devices_are_sampled_and_all_samples_of_a_batch_share_the_instant(tmp_path: Path) -> None:
    push = Recorder()
    agent = Agent("n1", [two()], push, tmp_path)

    assert agent.beat(AT)
    assert agent.sample(AT) == 0

    assert push.heard == [("sim:n1:0", "sim:n1:1")]
    assert [(sample.at, sample.utilisation_ratio) for sample in push.batches[0]] == [(AT, 0.0)] * 2


def test_an_absent_vendor_is_skipped() -> None:
    push = Recorder()
    agent = Agent("n1", [Simulated(), two()], push)

    assert agent.beat(AT)
    assert push.heard == [("sim:n1:0", "sim:n1:1")]
    assert agent.status().adapters == ()


def test_a_broken_tool_keeps_its_devices_named_and_hides_no_other_adapter() -> None:
    push = Recorder()
    fickle = two(Fickle)
    other = Simulated([Declaration(node="n2", model="MLU590", count=1)])
    agent = Agent("n1", [fickle, other], push)
    agent.beat(AT)
    assert isinstance(fickle, Fickle)
    fickle.broken = True

    agent.beat(AT)
    agent.sample(AT)

    assert push.heard[1] == ("sim:n1:0", "sim:n1:1", "sim:n2:0")
    assert push.health == [Health.UNKNOWN, Health.UNKNOWN, Health.OK]
    assert [sample.uuid for sample in push.batches[0]] == ["sim:n2:0"]
    assert agent.status().adapters == ("simulated: tool: no answer within 20 s; killed",), "said once"
    fickle.broken = False
    agent.beat(AT)
    agent.sample(AT)
    assert agent.status().adapters == ()


def test_what_could_not_be_delivered_waits_and_goes_out_in_order() -> None:
    push = Recorder()
    agent = Agent("n1", [two()], push)
    push.down = True
    instants = [AT + timedelta(seconds=10 * step) for step in range(4)]

    assert not agent.beat(AT)
    assert [agent.sample(at) for at in instants[:3]] == [2, 4, 6]
    assert agent.status().problem == "ConnectionError: platform is away"

    push.down = False
    assert agent.sample(instants[3]) == 0
    assert [batch[0].at for batch in push.batches] == instants
    assert (agent.status().delivered, agent.status().problem) == (8, None)


def test_a_full_queue_thins_its_older_half_and_says_by_how_much() -> None:
    push = Recorder()
    agent = Agent("n1", [two()], push, capacity=8)
    push.down = True
    instants = [AT + timedelta(seconds=10 * step) for step in range(9)]
    for at in instants:
        agent.sample(at)

    assert (agent.status().waiting, agent.status().thinned) == (14, 4)
    push.down = False
    agent.sample(instants[-1] + timedelta(seconds=10))
    kept = [batch[0].at for batch in push.batches]
    assert kept == [instants[0], instants[2], *instants[4:], instants[-1] + timedelta(seconds=10)]
    readings = [(at, 1.0) for at in kept]
    assert integrate(readings, instants[0], instants[-1], period_ms=10_000).gap_ms == 0


@pytest.mark.parametrize("periods", [100, 1000])
def test_the_queue_never_outgrows_its_capacity_and_counts_every_sample(periods: int) -> None:
    push = Recorder()
    push.down = True
    agent = Agent("n1", [two()], push, capacity=10)

    for step in range(periods):
        agent.sample(AT + timedelta(seconds=step))

    status = agent.status()
    assert status.waiting <= 20
    assert status.waiting + status.thinned == 2 * periods


def test_it_runs_until_it_is_stopped() -> None:
    push, stop = Recorder(), threading.Event()
    agent = Agent("n1", [two()], push, clock=lambda: AT)
    thread = threading.Thread(target=agent.run, args=(stop, 0.01))
    thread.start()
    while len(push.batches) < 3 and thread.is_alive():
        stop.wait(0.005)
    stop.set()
    thread.join(timeout=5)

    assert not thread.is_alive()
    assert len(push.heard) == 1  # beats are not sent at every reading
    assert len(push.batches) >= 3


def test_a_queue_too_small_to_thin_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity: 1"):
        Agent("n1", [], Recorder(), capacity=1)
