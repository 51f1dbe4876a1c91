"""Prometheus reads what the agent saw, in its own format; what is unknown is no series."""

from __future__ import annotations

import shutil
import subprocess
import urllib.request
from collections.abc import Iterable
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from adapters.accelerator import Accelerator, EvidenceLevel, Health, Partition, PartitionKind, Source
from adapters.agent import Agent, AgentStatus, Scene
from adapters.hardware_metrics import HardwareMetrics, serve
from adapters.link import Link, Nearness
from adapters.process import ProcessUse
from adapters.sample import Sample
from tests.adapters.recorded import AT
from tests.adapters.test_agent import Recorder, two

STATUS = AgentStatus(waiting=3, thinned=1, delivered=9, problem="away", adapters=("x",))
DEVICE = Accelerator(
    uuid="GPU-1",
    index=0,
    vendor="nvidia",
    model_raw='NVIDIA "H800"\\\n',
    serial="165",
    pci_bdf="0000:1b:00.0",
    pci_vendor_id=0x10DE,
    pci_device_id=0x2324,
    memory_total_bytes=1 << 36,
    driver_version="550",
    power_limit_watts=700.0,
    health=Health.FAILED,
    health_code="XID 79",
    source=Source.LIBRARY,
    evidence_level=EvidenceLevel.KERNEL_OBSERVED,
)
PART = replace(
    DEVICE,
    uuid="MIG-1",
    health=Health.UNKNOWN,
    memory_total_bytes=None,
    power_limit_watts=None,
    partition=Partition(kind=PartitionKind.MIG, parent_uuid="GPU-1"),
)
SAMPLE = Sample(
    uuid="GPU-1",
    at=AT,
    utilisation_ratio=0.0,
    memory_used_bytes=7,
    power_watts=410.25,
    energy_joules_total=5000.0,
    temperature_celsius=55.0,
    memory_temperature_celsius=61.0,
    core_clock_mhz=1755.0,
    ecc_corrected_total=3,
    ecc_uncorrected_total=0,
    link_errors_total=2,
    throttled=("thermal", "thermal"),
)
SCENE = Scene(
    devices=(DEVICE, PART),
    samples=(SAMPLE, Sample(uuid="MIG-1", at=AT)),
    processes=(ProcessUse(uuid="GPU-1", pid=4242, name="python", memory_used_bytes=5),),
    links=(Link(a_uuid="GPU-1", b_uuid="GPU-2", nearness=Nearness.FABRIC, fabric="nvlink", bandwidth_gbs=400.0),),
    happened=((("GPU-1", "XID 79", "fatal"), 2),),
)


def page(scene: Scene = SCENE, status: AgentStatus = STATUS) -> str:
    registry = CollectorRegistry()
    registry.register(HardwareMetrics(lambda: scene, lambda: status))
    return generate_latest(registry).decode()


def series(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_every_reading_has_its_name_unit_and_labels() -> None:
    found = series(page())

    one = {"hw_id": "GPU-1"}
    assert found["hw_gpu_utilization_ratio"] == [(one, 0.0)], "a printed 0 is 0"
    assert found["hw_gpu_memory_usage_bytes"] == [(one, 7.0)]
    assert found["hw_gpu_memory_limit_bytes"] == [(one, float(1 << 36))]
    assert found["hw_power_watts"] == [(one, 410.25)]
    assert found["hw_energy_joules_total"] == [(one, 5000.0)]
    assert found["hw_temperature_celsius"] == [
        ({**one, "hw_sensor_location": "core"}, 55.0),
        ({**one, "hw_sensor_location": "memory"}, 61.0),
    ]
    assert found["hw_errors_total"] == [
        ({**one, "error_type": kind}, count) for kind, count in (("corrected", 3), ("uncorrected", 0), ("link", 2))
    ]
    assert found["hw_status"] == [
        ({**one, "hw_state": state}, value) for state, value in (("ok", 0), ("degraded", 0), ("failed", 1))
    ]
    assert found["hw_gpu_clock_hertz"] == [({**one, "domain": "core"}, 1.755e9)]
    assert found["hw_gpu_throttled"] == [({**one, "reason": "thermal"}, 1.0)]
    assert found["hw_device_events_total"] == [({**one, "code": "XID 79", "severity": "fatal"}, 2.0)]
    assert found["hw_gpu_process_memory_bytes"] == [({**one, "pid": "4242", "name": "python"}, 5.0)]
    assert found["hw_gpu_link_bandwidth_bytes_per_second"][0][1] == 4e11
    assert found["yisuan_agent_delivering"] == [({}, 0.0)]
    assert found["yisuan_agent_thinned_samples_total"] == [({}, 1.0)]


def test_one_info_metric_says_what_a_device_is_and_the_others_do_not_repeat_it() -> None:
    found = series(page())

    first, part = (labels for labels, value in found["hw_gpu_info"] if value == 1.0)
    assert first["hw_model"] == DEVICE.model_raw, "whatever it is called"
    assert (first["pci_vendor_id"], first["pci_bdf"], first["evidence_level"]) == ("0x10de", "0000:1b:00.0", "L2")
    assert (first["health_code"], first["hw_serial_number"], first["hw_parent"]) == ("XID 79", "165", "")
    assert part["hw_parent"] == "GPU-1"
    assert not any("hw_model" in labels for name, rows in found.items() if name != "hw_gpu_info" for labels, _ in rows)


def test_what_is_unknown_is_no_series() -> None:
    found = series(page())
    holders = {name: {labels.get("hw_id") for labels, _ in rows} for name, rows in found.items()}

    assert [name for name, uuids in holders.items() if "MIG-1" in uuids] == ["hw_gpu_info"]
    bare = series(page(Scene()))
    assert not [name for name in bare if name.startswith("hw_")]
    assert "yisuan_agent_waiting_events" not in bare, "an agent that signs nothing has none that wait"


def test_a_device_that_is_named_twice_is_one_series() -> None:
    assert len(series(page(replace(SCENE, samples=(SAMPLE, SAMPLE))))["hw_power_watts"]) == 1


def test_an_adapter_that_fails_takes_its_series_with_it() -> None:
    adapter = two()
    agent = Agent("n1", [adapter], Recorder())
    metrics = HardwareMetrics(agent.scene, agent.status)

    def names() -> Iterable[str]:
        return [metric.name for metric in metrics.collect()]

    agent.beat(AT)
    agent.sample(AT)
    assert "hw_status" in names()
    assert "hw_gpu_utilization_ratio" not in names(), "nobody told it what holds the devices"
    assert "hw_gpu_memory_limit_bytes" in names()


def test_it_is_served_where_it_was_told_and_nowhere_after() -> None:
    end = None
    for port in range(29500, 29600):
        try:
            end = serve(HardwareMetrics(lambda: SCENE, lambda: STATUS), port, "127.0.0.1")
        except OSError:
            continue
        break
    assert end is not None
    with pytest.raises(OSError, match="in use"):
        serve(HardwareMetrics(lambda: SCENE, lambda: STATUS), port, "127.0.0.1")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert series(answer.read().decode())["hw_power_watts"][0][1] == 410.25
    end()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10)


def test_promtool_finds_no_fault_with_it() -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not on the path; the parser of prometheus_client has read the page")
    done = subprocess.run([tool, "check", "metrics"], input=page(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
