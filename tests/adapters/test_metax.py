"""mx-smi in its four forms, and mx-exporter's page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from adapters.accelerator import Health
from adapters.adapter import AdapterError, Reading
from adapters.mx_smi import LIST_ONLY, SHARE_ONLY
from adapters.vendors.metax import MetaX
from tests.adapters.reading_of import read_text_as
from tests.adapters.recorded import AT
from tests.adapters.tool_samples import MX_LIST, MX_MONITOR, MX_OLD, MX_PAGE, MX_PROCESSES, MX_TABLE

MIB = 1024 * 1024
GIB = 1024 * MIB


def read(text: str) -> Reading:
    return read_text_as(MetaX(), text)


def test_the_table_gives_devices_states_and_its_own_time() -> None:
    reading = read(MX_TABLE)

    first, second = reading.devices
    assert (first.uuid, first.model_raw, first.model) == ("metax:0000:01:00.0", "MetaX N260", "N260")
    assert (first.memory_total_bytes, first.power_limit_watts) == (65536 * MIB, 225.0)
    assert (first.driver_version, first.firmware_version) == ("3.0.11", "1.26.1.0")
    assert (first.health, second.health, second.health_code) == (Health.OK, Health.FAILED, "Not Available")
    busy, blank = reading.samples
    assert (busy.utilisation_ratio, busy.memory_used_bytes, busy.power_watts) == (0.12, 702 * MIB, 31.0)
    assert (busy.temperature_celsius, busy.at) == (39.0, datetime(2026, 3, 6, 10, 20, 30, tzinfo=UTC))
    assert (blank.utilisation_ratio, blank.memory_used_bytes, blank.power_watts) == (None, None, None)
    assert "the output counts 3 devices and lists 2" in reading.problems


def test_the_table_of_2_1_6_has_no_cap() -> None:
    (device,), (sample,) = read(MX_OLD).devices, read(MX_OLD).samples

    assert (device.model, device.power_limit_watts, device.health) == ("C500", None, Health.UNKNOWN)
    assert (sample.power_watts, sample.temperature_celsius, sample.memory_used_bytes) == (68.0, 49.0, 51200 * MIB)


def test_a_broken_row_is_listed_and_hides_no_other() -> None:
    reading = read(MX_TABLE.replace("702/65536 MiB", "much of it   "))

    assert [device.uuid for device in reading.devices] == ["metax:0000:01:00.0", "metax:0000:02:00.0"]
    assert any("cannot be read" in problem for problem in reading.devices[0].problems)
    assert reading.samples[0].memory_used_bytes is None


def test_the_monitors_last_reading_counts_and_memory_is_a_share() -> None:
    reading = read(MX_MONITOR)

    assert [device.uuid for device in reading.devices] == ["metax:0000:08:00.0", "metax:0000:09:00.0"]
    busy, blank = reading.samples
    assert (busy.utilisation_ratio, busy.memory_used_bytes, busy.power_watts) == (0.72, 16 * GIB, 160.0)
    assert (blank.utilisation_ratio, blank.memory_used_bytes, blank.power_watts) == (None, None, None)
    assert SHARE_ONLY in reading.problems


def test_both_spellings_of_the_list_are_read() -> None:
    new, old = read(MX_LIST), read("GPU 0: MXC500 (UUID: MX-abc)\nGPU 1: MXC550\n")

    assert [(device.uuid, device.health) for device in new.devices] == [
        ("GPU-abc-123", Health.OK),
        ("metax:0000:02:00.0", Health.FAILED),
    ]
    assert [(device.uuid, device.model) for device in old.devices] == [("MX-abc", "C500"), ("metax:index:1", "C550")]
    assert (new.samples, new.problems) == ((), (LIST_ONLY,))


def test_the_exporter_counts_in_kib_and_milliwatts() -> None:
    (device,), (sample,) = read(MX_PAGE).devices, read(MX_PAGE).samples

    assert (device.uuid, device.model, device.memory_total_bytes, device.health) == (
        "GPU-a",
        "C500",
        64 * GIB,
        Health.OK,
    )
    assert (sample.utilisation_ratio, sample.memory_used_bytes, sample.power_watts) == (0.25, GIB, 71.0)


def test_another_makers_tool_of_the_same_name_is_refused() -> None:
    with pytest.raises(AdapterError, match="none of its known outputs"):
        read("GPU 0: Moffett S30 (UUID: 1)\n")


def test_a_live_host_has_its_uuids_from_the_list() -> None:
    def answer(words: Sequence[str]) -> str:
        return {"-L": MX_LIST, "--show-process": MX_PROCESSES}.get(words[-1], MX_TABLE)

    adapter = MetaX(run=answer, clock=lambda: AT)

    assert [device.uuid for device in adapter.inventory()] == ["GPU-abc-123", "metax:0000:02:00.0"]
    assert [(sample.uuid, sample.at) for sample in adapter.samples(["GPU-abc-123"])] == [("GPU-abc-123", AT)]
    assert [(use.uuid, use.pid, use.name) for use in adapter.processes()] == [("GPU-abc-123", 4711, "python worker")]
