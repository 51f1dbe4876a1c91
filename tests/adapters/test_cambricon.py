"""cnmon's tables and blocks, and mlu-exporter's page: MLUs with and without a name of their own."""

from __future__ import annotations

import pytest

from adapters.accelerator import Health, PartitionKind
from adapters.adapter import AdapterError, Reading
from adapters.vendors.cambricon import Cambricon
from tests.adapters.reading_of import read_text_as
from tests.adapters.recorded import AT
from tests.adapters.tool_samples import CNMON_4, CNMON_5, CNMON_INFO, CNMON_JSON, MLU_COLLECTED, MLU_PAGE

MIB = 1024 * 1024


def read(text: str) -> Reading:
    return read_text_as(Cambricon(), text)


def test_the_table_of_5_gives_addresses_and_blanks_stay_unknown() -> None:
    reading = read(CNMON_5)

    first, second = reading.devices
    assert (first.uuid, first.model, first.firmware_version) == ("cambricon:0000:39:00.0", "MLU370-X8", "v1.1.6")
    assert (first.memory_total_bytes, first.power_limit_watts, first.driver_version) == (23374 * MIB, 250.0, "5.10.13")
    assert (second.uuid, second.problems) == ("cambricon:0000:3d:00.0", ())
    busy, blank = reading.samples
    assert (busy.utilisation_ratio, busy.memory_used_bytes, busy.power_watts) == (0.17, 120 * MIB, 98.0)
    assert (busy.temperature_celsius, busy.ecc_uncorrected_total, busy.at) == (32.0, None, AT)
    assert (blank.utilisation_ratio, blank.memory_used_bytes, blank.power_watts) == (None, None, None)
    assert (blank.temperature_celsius, blank.ecc_uncorrected_total) == (None, 2)


def test_the_table_of_4_has_no_addresses_and_says_so() -> None:
    (device,), (sample,) = read(CNMON_4).devices, read(CNMON_4).samples

    assert (device.uuid, device.index, device.driver_version) == ("cambricon:index:3", 3, "4.20.11")
    assert any("named by its number" in problem for problem in device.problems)
    assert (sample.utilisation_ratio, sample.memory_used_bytes, sample.power_watts) == (0.0, 0, 30.0)


def test_a_table_of_other_columns_is_refused_with_its_header() -> None:
    with pytest.raises(AdapterError, match=r"layout is not known.*Memory"):
        read(CNMON_4.replace("Memory-Usage", "Memory"))


def test_a_row_that_cannot_be_read_is_listed_and_hides_no_other() -> None:
    reading = read(CNMON_5.replace("120 MiB/ 23374 MiB", "half of it, maybe"))

    assert [device.index for device in reading.devices] == [0, 1]
    assert any("cannot be read" in problem for problem in reading.devices[0].problems)
    assert reading.samples[0].memory_used_bytes is None


def test_blocks_and_json_give_uuids() -> None:
    blocks, listed = read(CNMON_INFO), read(CNMON_JSON)

    first, second = blocks.devices
    assert (first.uuid, first.serial, first.power_limit_watts) == ("MLU-2021", "5022120", 150.0)
    assert (second.uuid, second.problems[0]) == ("cambricon:index:1", "the device's uuid cannot be read")
    assert [sample.memory_used_bytes for sample in blocks.samples] == [7 * MIB, None]
    assert (blocks.samples[0].utilisation_ratio, blocks.samples[0].power_watts) == (0.07, 27.0)
    (device,), (sample,) = listed.devices, listed.samples
    assert (device.uuid, device.index, device.pci_bdf, device.model) == ("MLU-7", 2, "0000:3d:00.0", "MLU370-X4")
    assert (sample.utilisation_ratio, sample.memory_used_bytes, sample.temperature_celsius) == (0.03, 12 * MIB, 41.0)


@pytest.mark.parametrize("prefix", ["mlu_", "", "zone_a_"])
def test_the_exporter_is_read_whatever_its_prefix(prefix: str) -> None:
    reading = read(MLU_PAGE.replace("mlu_", prefix) if prefix else MLU_PAGE.replace("\nmlu_", "\n"))

    assert [(device.uuid, device.serial) for device in reading.devices[:2]] == [("MLU-0", "sn0"), ("MLU-1", "sn1")]
    assert [sample.power_watts for sample in reading.samples] == [30.0, 30.0]


def test_the_exporters_health_events_and_partitions() -> None:
    well, sick, part = read(MLU_PAGE).devices
    samples = read(MLU_PAGE).samples

    assert (well.health, well.model, well.pci_bdf, well.pci_vendor_id) == (
        Health.OK,
        "MLU370-X4",
        "0000:1a:00.0",
        0xCABC,
    )
    assert (sick.health, sick.health_code) == (Health.FAILED, "CNDEV_FR_TEMP_VIOLATION")
    assert samples[1].last_error == "XID 0x30d641"
    assert (samples[0].utilisation_ratio, samples[0].memory_used_bytes, samples[0].temperature_celsius) == (
        0.11,
        20971520,
        25.0,
    )
    assert part.partition is not None
    assert (part.partition.kind, part.partition.parent_uuid, part.partition.profile) == (
        PartitionKind.SMLU,
        "MLU-1",
        "1.000m.1gb",
    )
    assert (part.memory_total_bytes, len(samples)) == (1073741824, 2)


def test_the_collectors_metrics_are_read_as_json() -> None:
    (device,), (sample,) = read(MLU_COLLECTED).devices, read(MLU_COLLECTED).samples

    assert (device.uuid, device.model) == ("u", "MLU370-X4")
    assert (sample.memory_used_bytes, sample.power_watts, sample.utilisation_ratio) == (1024, 31.0, 0.05)


@pytest.mark.parametrize("text", ['{"num": 2, "uuid": [[49, 48, 0], [50, 0]]}', '[{"device_num": 2}]'])
def test_a_mock_librarys_configuration_is_refused_as_such(text: str) -> None:
    with pytest.raises(AdapterError, match=r"mock libcndev\.so"):
        read(text)


def test_a_live_host_without_the_library_is_read_through_the_table() -> None:
    adapter = Cambricon(run=lambda words: CNMON_5, clock=lambda: AT)

    assert [device.visible_id for device in adapter.inventory()] == ["0", "1"]
    assert [(use.uuid, use.pid, use.name) for use in adapter.processes()] == [
        ("cambricon:0000:39:00.0", 4242, "python train.py")
    ]
    assert adapter.samples(["cambricon:0000:3d:00.0"])[0].ecc_uncorrected_total == 2
