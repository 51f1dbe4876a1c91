"""xpu-smi: a dump with a sample a line, JSON answers joined by device, and boxes; Kunlunxin's namesake is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta

import pytest

from adapters.accelerator import Health
from adapters.adapter import AdapterError, Reading
from adapters.vendors.intel import Intel
from adapters.xpu_smi import DAY_ONLY
from tests.adapters.reading_of import read_text_as
from tests.adapters.recorded import AT
from tests.adapters.tool_samples import (
    KUNLUN,
    XPU_BOXES,
    XPU_DETAIL,
    XPU_DISCOVERY,
    XPU_DUMP,
    XPU_HEALTH,
    XPU_PROPERTIES,
    XPU_STATS,
)

MIB = 1024 * 1024


def read(text: str) -> Reading:
    return read_text_as(Intel(), text)


def test_a_dump_has_a_sample_for_each_line_two_seconds_apart_over_midnight() -> None:
    reading = read(XPU_DUMP)

    assert [device.uuid for device in reading.devices] == ["intel:index:0", "intel:index:1"]
    assert [(sample.uuid[-1], sample.at) for sample in reading.samples] == [
        ("0", AT - timedelta(seconds=2)),
        ("1", AT - timedelta(seconds=2)),
        ("0", AT),
    ]
    first, other, last = reading.samples
    assert (first.utilisation_ratio, first.power_watts, first.memory_used_bytes) == (None, 250.25, 100 * MIB)
    assert (other.utilisation_ratio, other.power_watts, other.memory_used_bytes) == (0.4, None, 0)
    assert (last.utilisation_ratio, last.memory_used_bytes, last.energy_joules_total) == (0.5, None, 12.5)
    assert (last.temperature_celsius, last.core_clock_mhz) == (36.5, 1600.0)
    assert reading.problems == (DAY_ONLY,)


def test_json_answers_are_joined_by_device() -> None:
    reading = read("\n".join([XPU_DISCOVERY, XPU_DETAIL, XPU_STATS, XPU_HEALTH]))

    (device,), (sample,) = reading.devices, reading.samples
    assert (device.uuid, device.pci_bdf, device.pci_device_id) == ("0000-bd5", "0000:4d:00.0", 0xBD5)
    assert (device.model, device.memory_total_bytes, device.serial) == ("Max1550", 137438953472, None)
    assert (device.health, device.health_code) == (Health.DEGRADED, "memory")
    assert (sample.utilisation_ratio, sample.memory_used_bytes, sample.power_watts) == (0.0, 240648192, 300.5)
    assert sample.energy_joules_total == 6159.791


def test_properties_and_boxes_are_an_inventory() -> None:
    rows, boxes = read(XPU_PROPERTIES), read(XPU_BOXES)

    assert (rows.devices[0].uuid, rows.devices[0].memory_total_bytes) == ("intel:0000:23:00.0", 24480 * MIB)
    assert boxes.devices[0].uuid == "00000000-0000-0000-0000-020a00008086"
    assert rows.samples == boxes.samples == ()


def test_the_tool_of_the_same_name_is_refused() -> None:
    with pytest.raises(AdapterError, match="none of its known outputs"):
        read(KUNLUN)


def test_a_live_host_is_asked_for_every_device() -> None:
    asked: list[Sequence[str]] = []

    def answer(words: Sequence[str]) -> str:
        asked.append(words)
        if words[1:3] == ("health", "-d"):
            raise AdapterError("xpu-smi: exit code 1")
        if words[1] == "ps":
            return json.dumps({"device_util_by_proc_list": [{"device_id": 0, "process_id": 9, "mem_size": 2048}]})
        return {"discovery": XPU_DETAIL if "-d" in words else XPU_DISCOVERY, "stats": XPU_STATS}[words[1]]

    adapter = Intel(run=answer, clock=lambda: AT)

    (device,) = adapter.inventory()
    assert (device.uuid, device.memory_total_bytes, device.health) == ("0000-bd5", 137438953472, Health.UNKNOWN)
    assert [(use.uuid, use.pid, use.memory_used_bytes) for use in adapter.processes()] == [("0000-bd5", 9, 2 * MIB)]
    assert adapter.visibility([device]) == {"ZE_AFFINITY_MASK": "0"}
    assert ("xpu-smi", "stats", "-d", "0", "-j") in asked
