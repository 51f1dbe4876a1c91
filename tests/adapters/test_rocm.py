"""rocm-smi, hy-smi, amd-smi and dcu-exporter: the same devices in four printed forms, JSON answers, and a page."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from adapters.accelerator import Health, PartitionKind, Source
from adapters.adapter import AdapterError, Reading
from adapters.amd_smi import read_links, read_processes
from adapters.link import Nearness
from adapters.vendors.amd import Amd
from adapters.vendors.hygon import Hygon
from tests.adapters.reading_of import read_text_as
from tests.adapters.recorded import AT
from tests.adapters.tool_samples import (
    AMD_ANSWERS,
    DCU_PAGE,
    HY_BROKEN,
    HY_CSV,
    HY_LINES,
    HY_TABLE,
    ROCM_JSON,
    ROCM_NAMED,
    ROCM_TABLE,
)

MIB = 1024 * 1024


def amd(text: str) -> Reading:
    return read_text_as(Amd(), text)


def hygon(text: str) -> Reading:
    return read_text_as(Hygon(), text)


def test_rocm_json_gives_devices_and_readings_in_our_units() -> None:
    reading = amd(ROCM_JSON)

    first, second = reading.devices
    assert (first.uuid, first.model, first.serial, first.pci_bdf) == (
        "0x1234abcd",
        "MI300X",
        "692024000810",
        "0000:26:00.0",
    )
    assert (first.memory_total_bytes, first.power_limit_watts, first.numa_node) == (206141652992, 750.0, 1)
    assert (first.driver_version, first.firmware_version, first.pci_device_id) == ("6.10.5", "113-D1", 0x74A1)
    assert (second.uuid, second.serial, second.visible_id) == ("amd:0000:46:00.0", None, "1")
    busy, idle = reading.samples
    assert (busy.utilisation_ratio, busy.memory_used_bytes, busy.power_watts) == (0.12, 297795584, 133.5)
    assert (busy.temperature_celsius, busy.memory_temperature_celsius) == (41.0, 38.0)
    assert (busy.core_clock_mhz, busy.memory_clock_mhz, busy.at) == (132.0, 1300.0, AT)
    assert (idle.utilisation_ratio, idle.power_watts, idle.temperature_celsius) == (None, None, None)
    assert idle.memory_used_bytes == 0


def test_the_concise_tables_of_6_are_read_with_their_names() -> None:
    table, named = amd(ROCM_TABLE), amd(ROCM_NAMED)

    assert [sample.utilisation_ratio for sample in table.samples] == [0.07, None]
    assert [sample.power_watts for sample in table.samples] == [133.0, None]
    assert [sample.temperature_celsius for sample in table.samples] == [35.0, None]
    assert (named.devices[0].model_raw, named.devices[0].model) == ("AMD Instinct MI300X", "MI300X")


def test_amd_smi_answers_are_joined_by_number() -> None:
    reading = amd(AMD_ANSWERS)

    whole, part = reading.devices
    assert (whole.uuid, whole.model, whole.serial) == ("75ff75a3-0000-1000", "MI355X", "PCB01")
    assert (whole.memory_total_bytes, whole.power_limit_watts) == (294896 * MIB, 1400.0)
    assert (whole.pci_vendor_id, whole.pci_device_id, whole.numa_node) == (0x1002, 0x75A3, 1)
    assert part.partition is not None
    assert (part.partition.kind, part.partition.parent_uuid) == (PartitionKind.VGPU, whole.uuid)
    sample = reading.samples[0]
    assert (sample.utilisation_ratio, sample.memory_used_bytes, sample.power_watts) == (0.09, 283 * MIB, 239.0)
    assert (sample.energy_joules_total, sample.temperature_celsius, sample.throttled) == (12500.0, 36.0, ())
    assert (sample.ecc_corrected_total, sample.ecc_uncorrected_total, sample.core_clock_mhz) == (4, 0, 132.0)
    assert (reading.samples[1].utilisation_ratio, reading.samples[1].power_watts) == (None, None)


def test_amd_smi_processes_and_links_name_devices_by_uuid() -> None:
    processes = read_processes(
        '[{"gpu": 0, "uuid": "u0", "process_list": [{"process_info": {"pid": 42, "name": "python",'
        ' "memory_usage": {"vram_mem": {"value": 2, "unit": "MB"}}}}, {"process_info": "No running processes"}]}]'
    )
    links = read_links(
        '[{"gpu": 0, "bdf": "0000:05:00.0", "links": [{"gpu": 1, "bdf": "0000:15:00.0", "link_type": "XGMI",'
        ' "num_hops": 1}]}, {"gpu": 1, "bdf": "0000:15:00.0", "links": []}]'
    )

    assert [(use.uuid, use.pid, use.memory_used_bytes) for use in processes] == [("u0", 42, 2 * MIB)]
    assert [(link.nearness, link.fabric) for link in links] == [(Nearness.FABRIC, "xgmi")]


def test_hy_smi_json_without_commas_is_read_pair_by_pair() -> None:
    reading = hygon(HY_BROKEN)

    first, second = reading.devices
    assert (first.uuid, first.index, first.visible_id, first.model) == ("TCH01", 1, "0", "K100-AI")
    assert (second.index, second.visible_id) == (2, "1")
    busy, other = reading.samples
    assert (busy.utilisation_ratio, busy.memory_used_bytes, busy.power_watts) == (0.0, 60160 * MIB, 96.5)
    assert (busy.temperature_celsius, busy.memory_temperature_celsius) == (54.0, 51.0)
    assert (other.utilisation_ratio, other.memory_used_bytes) == (0.075, None)


def test_hy_smi_csv_lines_and_tables_are_read() -> None:
    rows, lines, table = hygon(HY_CSV), hygon(HY_LINES), hygon(HY_TABLE)

    assert [device.uuid for device in rows.devices] == ["hygon:0000:33:00.0", "hygon:0000:34:00.0"]
    assert [sample.utilisation_ratio for sample in rows.samples] == [0.03, None]
    assert [sample.memory_used_bytes for sample in rows.samples] == [10850304, None]
    assert [device.memory_total_bytes for device in lines.devices] == [65520 * MIB] * 2
    assert lines.devices[0].driver_version == "6.3.32"
    assert [sample.memory_used_bytes for sample in lines.samples] == [2 * MIB, None]
    assert [sample.utilisation_ratio for sample in table.samples] == [0.13, None]
    assert any("cannot be read: '1       unreadable'" in problem for problem in table.devices[1].problems)


def test_dcu_exporter_is_read_without_virtual_cards() -> None:
    reading = hygon(DCU_PAGE)

    (device,), (sample,) = reading.devices, reading.samples
    assert (device.uuid, device.model, device.pci_bdf) == ("TCH01", "K100-AI", "0000:09:00.0")
    assert (sample.utilisation_ratio, sample.memory_used_bytes, sample.power_watts) == (0.125, 2 * MIB, 104.0)
    assert (sample.ecc_corrected_total, sample.ecc_uncorrected_total) == (3, None)


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (amd, HY_TABLE, "Hygon"),
        (hygon, ROCM_JSON, "ask for vendor amd"),
        (hygon, "HCU     Temp     AvgPwr     Perf\n", "'HCU Temp AvgPwr Perf'"),
        (amd, '{"card0": 3}', "none of its known outputs"),
    ],
)
def test_devices_of_another_vendor_and_unknown_layouts_are_refused(read: object, text: str, words: str) -> None:
    with pytest.raises(AdapterError, match=words):
        read(text)  # type: ignore[operator]


def test_a_live_host_asks_amd_smi_and_falls_back_to_rocm_smi() -> None:
    listed, static, metric = AMD_ANSWERS.split("\n")[1:]
    asked: list[Sequence[str]] = []

    def answer(words: Sequence[str]) -> str:
        asked.append(words)
        if words[1] == "process":
            return '[{"gpu": 0, "process_list": [{"process_info": {"pid": 7}}]}]'
        return {"list": listed, "static": static, "metric": metric}[words[1]]

    live = Amd(run=answer, clock=lambda: AT)
    old = Amd(which=lambda tool: f"/opt/rocm/bin/{tool}" if tool == "rocm-smi" else None)
    old._ask = lambda *words: ROCM_JSON  # type: ignore[method-assign]

    assert [device.model for device in live.inventory()] == ["MI355X", "MI355X"]
    assert [sample.uuid for sample in live.samples(["75ff75a3-0000-1000"])] == ["75ff75a3-0000-1000"]
    assert [(use.uuid, use.pid) for use in live.processes()] == [("75ff75a3-0000-1000", 7)]
    assert [device.model for device in old.inventory()] == ["MI300X", "MI300X"]
    assert old.processes() == old.links() == ()
    assert all(device.source is Source.CLI and device.health is Health.UNKNOWN for device in old.inventory())
    assert ("amd-smi", "list", "--json") in asked
