"""mthreads-gmi: JSON whose keys may end in a space, blocks, and a table of three lines a device."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from adapters.accelerator import PartitionKind
from adapters.adapter import AdapterError, Reading
from adapters.row import NO_ZONE
from adapters.vendors.mthreads import MThreads
from tests.adapters.reading_of import read_text_as
from tests.adapters.recorded import AT
from tests.adapters.tool_samples import GMI_JSON, GMI_TABLE, GMI_TEXT

MIB = 1024 * 1024


def read(text: str) -> Reading:
    return read_text_as(MThreads(), text)


def test_the_json_is_read_with_its_own_time_and_its_missing_device_told() -> None:
    reading = read(GMI_JSON)

    first, second = reading.devices
    assert (first.uuid, first.model, first.serial, first.pci_bdf) == ("aa11", "MTT-S4000", "MY1", "0000:2a:00.0")
    assert (first.pci_vendor_id, first.driver_version, first.power_limit_watts) == (0x1ED5, "3.3.5-server", 450.0)
    assert (second.uuid, second.problems) == ("mthreads:index:1", ("the device's uuid cannot be read",))
    busy, blank = reading.samples
    assert (busy.utilisation_ratio, busy.memory_used_bytes, busy.power_watts) == (0.09, 12 * MIB, 88.25)
    assert (busy.temperature_celsius, busy.at) == (27.0, datetime(2026, 7, 22, 9, 10, 11, tzinfo=UTC))
    assert (blank.utilisation_ratio, blank.memory_used_bytes, blank.power_watts) == (None, None, None)
    assert reading.problems == (NO_ZONE, "the output counts 3 devices and lists 2")


def test_blocks_say_what_the_json_says() -> None:
    (device,), (sample,) = read(GMI_TEXT).devices, read(GMI_TEXT).samples

    assert (device.uuid, device.pci_bdf, device.driver_version) == ("aa11", "0000:04:00.0", "3.3.5-server")
    assert (sample.utilisation_ratio, sample.memory_used_bytes, sample.power_watts) == (0.01, 2 * MIB, 30.5)


def test_the_table_is_read_and_its_processes_are_no_devices() -> None:
    reading = read(GMI_TABLE)

    assert [device.uuid for device in reading.devices] == ["mthreads:0000:2a:00.0", "mthreads:0000:3a:00.0"]
    assert {device.model for device in reading.devices} == {"MTT-S3000"}
    busy, blank = reading.samples
    assert (busy.utilisation_ratio, busy.memory_used_bytes, busy.temperature_celsius) == (0.61, 20480 * MIB, 52.0)
    assert (blank.utilisation_ratio, blank.memory_used_bytes, blank.temperature_celsius) == (None, 0, None)


def test_an_instance_of_a_split_device_is_its_part() -> None:
    part = read(GMI_TABLE.replace("Physical ", "MPC Instance ")).devices[1]

    assert part.partition is not None
    assert (part.partition.kind, part.partition.parent_uuid) == (PartitionKind.SGPU, "mthreads:0000:2a:00.0")


def test_a_table_without_devices_is_refused_with_its_header() -> None:
    with pytest.raises(AdapterError, match="no device; its header is 'ID   Name"):
        read("\n".join(GMI_TABLE.splitlines()[:8]))


def test_a_live_host_is_asked_in_json_and_its_processes_in_the_table() -> None:
    def answer(words: Sequence[str]) -> str:
        return GMI_JSON if "--json" in words else GMI_TABLE

    adapter = MThreads(run=answer, clock=lambda: AT)

    assert [device.uuid for device in adapter.inventory()] == ["aa11", "mthreads:index:1"]
    assert [(use.uuid, use.pid, use.memory_used_bytes) for use in adapter.processes()] == [("aa11", 1123, 134 * MIB)]
    assert adapter.visibility(adapter.inventory()[:1]) == {"MUSA_VISIBLE_DEVICES": "0", "MTHREADS_VISIBLE_DEVICES": "0"}
