"""npu-smi's answers about single chips, its polling log, wider tables, and npu-exporter's page."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from adapters.accelerator import Health
from adapters.adapter import AdapterError, Reading
from adapters.npu_query import SHARE_ONLY
from adapters.row import NO_TIME, NO_ZONE
from adapters.vendors.ascend import Ascend
from tests.adapters.reading_of import read_text_as
from tests.adapters.recorded import AT, NPU_23, NPU_BOARD, NPU_MAPPING
from tests.adapters.tool_samples import NPU_COMMON, NPU_LOG, NPU_PAGE, NPU_USAGES

MIB = 1024 * 1024


def read(text: str) -> Reading:
    return read_text_as(Ascend(), text)


def test_usages_are_read_chip_by_chip_and_memory_is_a_share() -> None:
    reading = read(NPU_USAGES)

    assert [(device.uuid, device.memory_total_bytes) for device in reading.devices] == [
        ("ascend:npu3-chip0", 32768 * MIB),
        ("ascend:npu3-chip1", 8192 * MIB),
    ]
    stacked, plain = reading.samples
    assert (stacked.utilisation_ratio, stacked.memory_used_bytes) == (0.37, 8192 * MIB)
    assert stacked.memory_bandwidth_ratio == 0.05
    assert (plain.utilisation_ratio, plain.memory_used_bytes) == (None, 4096 * MIB)
    assert reading.problems == (NO_TIME, SHARE_ONLY)


def test_the_health_of_the_chip_that_was_asked_is_its_own() -> None:
    sick, other = read(NPU_USAGES).devices

    assert (sick.health, sick.health_code, other.health) == (Health.FAILED, "Alarm", Health.UNKNOWN)
    assert read(NPU_USAGES).samples[0].last_error == "A4025021"


def test_the_controllers_power_is_that_of_a_card_with_one_chip() -> None:
    (device,), (sample,) = read(NPU_COMMON).devices, read(NPU_COMMON).samples

    assert device.index == 2944
    assert (sample.power_watts, sample.temperature_celsius, sample.core_clock_mhz) == (42.8, 45.0, 960.0)
    assert (sample.utilisation_ratio, sample.memory_used_bytes) == (0.0, None)


def test_readings_fill_in_the_devices_of_a_mapping() -> None:
    reading = read(NPU_MAPPING + "\n" + NPU_USAGES.replace("-i 3", "-i 2").replace(": 3\n", ": 2\n"))

    filled = next(device for device in reading.devices if device.uuid == "ascend:npu2-chip0")
    assert (filled.memory_total_bytes, filled.model) == (32768 * MIB, None)
    assert any("contradicts" in problem for problem in filled.problems)
    assert len(reading.samples) == 2


def test_a_chip_has_its_dies_name_where_a_board_prints_it() -> None:
    board = NPU_BOARD + "\tVDie ID                        : 42C711D4 20B03704 4A10C8D4 14CC040A D2102003\n"

    reading = read(NPU_23 + "\n" + board)

    assert reading.devices[0].uuid == "42C711D4 20B03704 4A10C8D4 14CC040A D2102003"
    assert reading.samples[0].uuid == reading.devices[0].uuid
    assert reading.devices[1].uuid == "ascend:0000:01:00.0"


def test_a_polling_log_is_a_sample_for_each_line_at_its_own_time() -> None:
    reading = read(NPU_LOG)

    assert [device.uuid for device in reading.devices] == ["ascend:index:0", "ascend:index:1"]
    assert [(sample.power_watts, sample.temperature_celsius, sample.core_clock_mhz) for sample in reading.samples] == [
        (69.6, 42.0, 1000.0),
        (None, None, 800.0),
        (69.0, 43.0, 1000.0),
    ]
    assert reading.samples[0].at == datetime(2022, 12, 3, 7, 27, 8, tzinfo=UTC)


def test_columns_that_are_not_known_are_passed_over() -> None:
    wider = (
        NPU_23.replace("HBM-Usage(MB)        |", "HBM-Usage(MB)  Util(%)|")
        .replace("30411/ 65536         |", "30411/ 65536   12     |")
        .replace("0    / 65536         |", "0    / 65536   NA     |")
    )

    assert read(wider).samples[0].memory_used_bytes == 30411 * MIB
    assert [device.problems for device in read(wider).devices] == [(), ()]


def test_a_hosts_log_begins_with_its_time() -> None:
    reading = read("Datetime: 2024-09-09 13:13:44.179645\n\n" + NPU_23)

    assert reading.samples[0].at == datetime(2024, 9, 9, 13, 13, 44, tzinfo=UTC)
    assert reading.problems[0] == NO_ZONE


def test_the_exporter_names_chips_by_die_and_model() -> None:
    reading = read(NPU_PAGE)

    well, sick = reading.devices
    assert (well.uuid, well.pci_bdf, well.model) == ("AB-0", "0000:c0:00.0", "Ascend910B3")
    assert (well.health, sick.health, well.problems) == (Health.OK, Health.FAILED, ())
    sample = reading.samples[0]
    assert (sample.utilisation_ratio, sample.memory_used_bytes, sample.power_watts) == (0.37, 3410 * MIB, 93.9)
    assert sample.at == datetime(2024, 8, 14, 7, 51, 23, 587000, UTC)


def test_a_page_that_quotes_the_exporter_is_no_recording() -> None:
    with pytest.raises(AdapterError, match="quotes"):
        read("One\n\nTwo\n\nThree\n\nFour\n\nFive\n" + NPU_PAGE.splitlines()[1])


def test_processes_below_the_table_belong_to_their_chips() -> None:
    adapter = Ascend(run=lambda words: NPU_23 if words[-1] == "info" else "", clock=lambda: AT)

    assert [(use.uuid, use.pid, use.name, use.memory_used_bytes) for use in adapter.processes()] == [
        ("ascend:0000:c1:00.0", 4242, "python", 27000 * MIB)
    ]
