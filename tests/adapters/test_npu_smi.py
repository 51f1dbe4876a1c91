"""npu-smi's outputs are read in every known layout, and what is blank stays unknown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.accelerator import Accelerator, Health, Source
from adapters.adapter import AdapterError, Reading
from adapters.catalog import load_catalog
from adapters.npu_recording import parse_recording
from adapters.vendors.ascend import Ascend
from tests.adapters.mutation import mutate
from tests.adapters.recorded import (
    AT,
    NPU_21,
    NPU_22,
    NPU_23,
    NPU_A3,
    NPU_BOARD,
    NPU_MAPPING,
    recordings,
)

MIB = 1024 * 1024


def parse(text: str) -> Reading:
    return parse_recording(text, AT, load_catalog())


def test_the_table_of_23_to_25_gives_devices_and_samples_and_no_process_rows() -> None:
    reading = parse(NPU_23)

    first, second = reading.devices
    assert first == Accelerator(
        uuid="ascend:0000:c1:00.0",
        index=2,
        vendor="ascend",
        model_raw="910B3",
        model="Ascend910B3",
        pci_bdf="0000:c1:00.0",
        visible_id="2",
        memory_total_bytes=65536 * MIB,
        driver_version="24.1.0",
        health=Health.OK,
        health_code="OK",
        source=Source.CLI,
    )
    assert (second.uuid, second.health) == ("ascend:0000:01:00.0", Health.DEGRADED)
    busy = reading.samples[0]
    assert (busy.utilisation_ratio, busy.memory_used_bytes) == (0.37, 30411 * MIB)
    assert (busy.power_watts, busy.temperature_celsius, busy.at) == (101.5, 44.0, AT)


def test_na_and_dash_are_unknown_and_a_printed_zero_is_zero() -> None:
    sample = parse(NPU_23).samples[1]

    assert (sample.utilisation_ratio, sample.power_watts, sample.temperature_celsius) == (None, None, None)
    assert sample.memory_used_bytes == 0


def test_the_tables_of_21_and_22_read_ddr_where_there_is_no_hbm() -> None:
    chips, card = parse(NPU_21), parse(NPU_22)

    assert [(device.index, device.model) for device in chips.devices] == [(4, "Ascend310"), (5, "Ascend310")]
    assert chips.devices[0].memory_total_bytes == 8192 * MIB
    assert chips.devices[0].package_id == chips.devices[1].package_id == "ascend:0000:05:00.0"
    assert (card.devices[0].model, card.devices[0].package_id) == ("Ascend310P3", None)
    assert (card.samples[0].power_watts, card.samples[0].memory_used_bytes) == (None, 900 * MIB)


def test_two_dies_share_a_package_whose_power_counts_once() -> None:
    reading = parse(NPU_A3)

    assert [device.package_id for device in reading.devices] == ["ascend:0000:8d:00.0"] * 2
    assert [device.index for device in reading.devices] == [2, 3]
    assert {device.model for device in reading.devices} == {"Ascend910C"}
    assert [sample.power_watts for sample in reading.samples] == [180.1, None]


@pytest.mark.parametrize(
    ("ddr", "hbm", "used", "total"),
    [
        ("0    / 0    ", "3317 / 65536", 3317, 65536),
        ("920  / 13553", "0    / 32768", 0, 32768),
        ("861  / 21534", "0    / 0    ", 861, 21534),
        ("0    / 0    ", "0    / 0    ", None, None),
        ("920  / 13553", "NA   / NA   ", None, None),
        ("0    / 0    ", "70000/ 65536", None, None),
    ],
)
def test_memory_is_hbm_unless_that_column_says_there_is_none(
    ddr: str, hbm: str, used: int | None, total: int | None
) -> None:
    text = NPU_23.replace("0    / 0          30411/ 65536", f"{ddr} {hbm}")

    reading = parse(text)

    assert reading.devices[0].memory_total_bytes == (None if total is None else total * MIB)
    assert reading.samples[0].memory_used_bytes == (None if used is None else used * MIB)


def test_an_unknown_layout_is_refused_with_its_header() -> None:
    with pytest.raises(AdapterError, match=r"layout is not known.*Chip Bus-Id AICore\(%\) Memory-Usage\(GB\)"):
        parse(NPU_23.replace("Memory-Usage(MB)", "Memory-Usage(GB)"))


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(AdapterError, match="no device rows"):
        parse("\n".join(NPU_23.splitlines()[:6]))


def test_one_broken_row_is_listed_as_failed_and_hides_no_other() -> None:
    reading = parse(NPU_23.replace("0000:C1:00.0", "????:??:??.?"))

    broken, whole = reading.devices
    assert (broken.uuid, broken.health, broken.visible_id) == ("ascend:npu2-chip0", Health.FAILED, None)
    assert "its bus address cannot be read; it is taken as failed" in broken.problems
    assert whole.uuid == "ascend:0000:01:00.0"
    assert whole.problems == ()


def test_a_mapping_lists_chips_without_the_controller() -> None:
    reading = parse(NPU_MAPPING)

    assert [(device.index, device.visible_id) for device in reading.devices] == [(6, "6"), (7, "7")]
    assert {device.model for device in reading.devices} == {"Ascend910B3"}
    assert reading.samples == ()


def test_a_board_gives_serial_and_firmware_to_the_device_at_its_address() -> None:
    alone, joined = parse(NPU_BOARD), parse(NPU_23 + "\n" + NPU_BOARD)

    assert (alone.devices[0].uuid, alone.devices[0].serial) == ("ascend:0000:c1:00.0", "1024XYZ")
    assert [device.serial for device in joined.devices] == ["1024XYZ", None]


@pytest.mark.parametrize("text", [NPU_MAPPING, NPU_BOARD, NPU_23])
def test_a_device_that_is_printed_twice_is_listed_once_and_said_so(text: str) -> None:
    lines = text.splitlines()
    device = next(
        place
        for place, line in enumerate(lines)
        if line.lstrip("|\t ").startswith(("2 ", "NPU ID    ")) and "Chip ID" not in line
    )
    repeated = "\n".join([*lines, *lines[device:]]) if text is not NPU_23 else text.replace("01:00.0", "C1:00.0")

    reading = parse(repeated)

    assert len({found.uuid for found in reading.devices}) == len(reading.devices)
    assert any("printed twice" in problem for problem in reading.problems)


def test_a_live_host_is_read_through_table_mapping_and_boards() -> None:
    asked: list[Sequence[str]] = []

    def run(arguments: Sequence[str]) -> str:
        asked.append(tuple(arguments[1:]))
        if arguments[2:] == ("-t", "board", "-i", "5"):
            raise AdapterError("npu-smi: exit code 1")
        if "-c" in arguments:
            raise AdapterError("npu-smi: exit code 1")  # only newer tools tell of a chip's die
        return {"info": NPU_23, "-m": NPU_MAPPING, "2": NPU_BOARD}[arguments[-1]]

    adapter = Ascend(run=run, clock=lambda: AT)

    found = adapter.inventory()
    adapter.inventory()

    assert [(device.visible_id, device.serial) for device in found] == [("6", "1024XYZ"), ("7", None)]
    assert adapter.visibility(found)["ASCEND_RT_VISIBLE_DEVICES"] == "6,7"
    assert asked.count(("info", "-t", "board", "-i", "2")) == 1
    assert [sample.uuid for sample in adapter.samples(["ascend:0000:01:00.0"])] == ["ascend:0000:01:00.0"]


def test_a_device_without_a_number_can_confine_no_process() -> None:
    broken = parse(NPU_23.replace("0000:C1:00.0", "-")).devices[:1]

    with pytest.raises(ValueError, match="ascend:npu2-chip0"):
        Ascend().visibility(broken)


@pytest.mark.parametrize("sample", [NPU_21, NPU_22, NPU_23, NPU_A3, NPU_MAPPING, NPU_BOARD])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_a_mutated_output_is_read_or_refused_and_blanks_never_become_zero(sample: str, data: st.DataObject) -> None:
    assert_sound(mutate(sample, data), parse)


def assert_sound(text: str, read: Callable[[str], Reading]) -> None:
    try:
        reading = read(text)
    except AdapterError as error:
        assert str(error)  # noqa: PT017  refusing is as right as reading; crashing is not
        return
    uuids = [device.uuid for device in reading.devices]
    assert len(uuids) == len(set(uuids))
    assert {found.uuid for found in reading.samples} <= set(uuids)
    assert all(device.memory_total_bytes != 0 for device in reading.devices)
    for found in reading.samples:
        assert found.utilisation_ratio is None or 0 <= found.utilisation_ratio <= 1


@given(blank=st.sampled_from(["-", "NA", "N/A", "?", ""]))
def test_a_blank_in_any_reading_column_stays_unknown(blank: str) -> None:
    text = NPU_23.replace("101.5", f"{blank:5}").replace("| 37 ", f"| {blank:3}")

    sample = parse(text).samples[0]

    assert sample.power_watts is None
    assert sample.utilisation_ratio is None


NOT_INFO = {"SOURCE.txt": "says where the others come from"}
# What one chip's readings, a polling log and a host after a fault tell of.
ALONE = {"npu_info_after_910A.txt": 1, "npu_smi_0_details.csv": 1, "npu_smi_usages_950PR_swanlab.txt": 1}


def test_every_real_table_mapping_and_board_is_read() -> None:
    folder = recordings("ascend", "npu-smi")
    counts: dict[str, int] = {}
    for path in sorted(folder.iterdir()):
        if path.name in NOT_INFO:
            with pytest.raises(AdapterError):
                Ascend().parse_recording(path)
            continue
        counts[path.name] = len(Ascend().parse_recording(path).devices)

    assert counts.pop("npu_info_before_910A.txt") == 8
    assert {name: counts.pop(name) for name in ALONE} == ALONE
    assert counts == {name: printed_rows(folder / name) for name in counts}


def printed_rows(path: Path) -> int:
    text = path.read_text(encoding="utf-8")
    if "Health" in text:
        return sum("| 0000:" in line for line in text.splitlines())
    return sum(line.strip()[:1].isdigit() and "MCU" not in line for line in text.splitlines()) or 1
