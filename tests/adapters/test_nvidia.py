"""NVIDIA devices are read through NVML and from nvidia-smi's recordings."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.accelerator import Accelerator, Health, Source
from adapters.adapter import AdapterError, Reading
from adapters.catalog import load_catalog
from adapters.nvidia_smi import BARE_QUERY, parse_csv, parse_xml
from adapters.vendors.nvidia import Nvidia
from tests.adapters.mutation import mutate
from tests.adapters.recorded import AT, SMI_CSV, SMI_XML, recordings
from tests.adapters.test_npu_smi import assert_sound

MIB = 1024 * 1024


class NvmlError(Exception):
    """What the fake library raises."""


class Nvml:
    """A library of two H800 in NVML's shape.

    `broken` names calls that fail, for all devices or for `name:index`.
    """

    NVMLError = NvmlError
    nvmlMemory_v2 = 0x2000028  # noqa: N815  the library's own spelling

    def __init__(self, *broken: str) -> None:
        self.broken = set(broken)
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            self.called.append(name)
            if name in self.broken or (arguments and f"{name}:{arguments[0]}" in self.broken):
                raise NvmlError(f"{name}: Not Supported")
            answers = {
                "nvmlInit": None,
                "nvmlShutdown": None,
                "nvmlSystemGetDriverVersion": "550.90.07",
                "nvmlDeviceGetCount": 2,
                "nvmlDeviceGetHandleByIndex": arguments[0] if arguments else None,
                "nvmlDeviceGetUUID": f"GPU-{arguments[0] if arguments else ''}",
                "nvmlDeviceGetName": b"NVIDIA H800",
                "nvmlDeviceGetSerial": "165000",
                "nvmlDeviceGetPciInfo": SimpleNamespace(busId=b"00000000:1B:00.0"),
                "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=81559 * MIB, used=7 * MIB),
                "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=42, memory=1),
                "nvmlDeviceGetPowerUsage": 410250,
                "nvmlDeviceGetEnforcedPowerLimit": 700000,
                "nvmlDeviceGetPowerManagementLimit": 700000,
                "nvmlDeviceGetTotalEnergyConsumption": 5_000_000,
                "nvmlDeviceGetTemperature": 55,
                "nvmlDeviceGetTotalEccErrors": (1 << 64) - 1,  # a blank, printed as a number
                "nvmlDeviceGetRemappedRows": (0, 0, 0, 0),
                "nvmlDeviceGetMigMode": (0, 0),
                "nvmlDeviceGetNumaNodeId": 1,
                "nvmlDeviceGetVbiosVersion": "96.00",
                "nvmlDeviceGetRetiredPagesPendingStatus": 0,
            }
            if name not in answers:
                raise NvmlError(f"{name}: Function Not Found")
            return answers[name]

        return call


def test_nvml_units_become_watts_joules_bytes_and_ratios() -> None:
    adapter = Nvidia(library=Nvml(), clock=lambda: AT)

    device, sample = adapter.inventory()[0], adapter.samples()[0]

    assert device == Accelerator(
        uuid="GPU-0",
        index=0,
        vendor="nvidia",
        model_raw="NVIDIA H800",
        model="H800",
        serial="165000",
        pci_bdf="0000:1b:00.0",
        numa_node=1,
        visible_id="GPU-0",
        memory_total_bytes=81559 * MIB,
        power_limit_watts=700.0,
        driver_version="550.90.07",
        firmware_version="96.00",
        health=Health.OK,
        source=Source.LIBRARY,
    )
    assert (sample.utilisation_ratio, sample.memory_used_bytes) == (0.42, 7 * MIB)
    assert (sample.power_watts, sample.energy_joules_total, sample.temperature_celsius) == (
        410.25,
        5000.0,
        55,
    )
    assert sample.ecc_uncorrected_total is None  # the sentinel is no count


def test_every_optional_call_that_fails_is_an_unknown_of_that_device_only() -> None:
    optional = [
        *("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption"),
        *("nvmlDeviceGetTemperature", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetTotalEccErrors"),
        *("nvmlDeviceGetSerial", "nvmlDeviceGetPciInfo", "nvmlDeviceGetRemappedRows", "nvmlDeviceGetMigMode"),
        *("nvmlDeviceGetNumaNodeId", "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetVbiosVersion"),
        "nvmlDeviceGetRetiredPagesPendingStatus",
    ]
    adapter = Nvidia(library=Nvml(*(f"{name}:1" for name in optional)), clock=lambda: AT)

    whole, poor = adapter.inventory()
    samples = adapter.samples()

    assert (whole.serial, whole.problems) == ("165000", ())
    assert (poor.serial, poor.pci_bdf, poor.memory_total_bytes) == (None, None, None)
    assert poor.health is Health.UNKNOWN
    assert samples[0].power_watts == 410.25
    unread = (samples[1].utilisation_ratio, samples[1].memory_used_bytes, samples[1].power_watts)
    assert unread == (None, None, None)


def test_a_device_that_cannot_be_opened_is_listed_as_failed_beside_its_siblings() -> None:
    adapter = Nvidia(library=Nvml("nvmlDeviceGetHandleByIndex:0"), clock=lambda: AT)

    lost, whole = adapter.inventory()

    assert (lost.uuid, lost.health) == ("nvidia:index:0", Health.FAILED)
    assert "NVML cannot read device 0" in lost.problems[0]
    assert (whole.uuid, whole.problems) == ("GPU-1", ())
    assert adapter.samples()[0].raw_error is not None


def test_a_device_without_a_uuid_goes_by_its_bus_address_with_a_problem() -> None:
    device = Nvidia(library=Nvml("nvmlDeviceGetUUID")).inventory()[0]

    assert (device.uuid, device.visible_id) == ("nvidia:0000:1b:00.0", None)
    assert device.problems == ("the device's uuid cannot be read",)


def test_a_library_that_does_not_start_is_absent_with_its_reason() -> None:
    probe = Nvidia(library=Nvml("nvmlInit")).probe()

    assert not probe.available
    assert (probe.reason or "").startswith("NVML: nvmlInit: Not Supported")


def test_a_driver_that_went_away_is_opened_anew_at_the_next_question() -> None:
    library = Nvml("nvmlDeviceGetCount")
    adapter = Nvidia(library=library)
    with pytest.raises(AdapterError, match="cannot be counted"):
        adapter.inventory()
    library.broken.clear()

    assert len(adapter.inventory()) == 2
    assert library.called.count("nvmlInit") == 2


def test_devices_are_shown_by_uuid_in_bus_order_and_none_means_none() -> None:
    adapter = Nvidia(library=Nvml())

    shown = adapter.visibility(adapter.inventory())

    assert shown == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "GPU-0,GPU-1",
        "NVIDIA_VISIBLE_DEVICES": "GPU-0,GPU-1",
    }
    assert adapter.visibility([])["NVIDIA_VISIBLE_DEVICES"] == "void"


def test_the_xml_log_gives_readings_and_keeps_blanks_unknown() -> None:
    reading = parse_xml(SMI_XML, AT, load_catalog())

    first, second = reading.devices
    assert (first.model, first.pci_bdf, first.serial) == ("H800", "0000:1b:00.0", "1650000000001")
    assert (first.health, second.health) == (Health.OK, Health.FAILED)
    assert (first.index, second.index, second.serial) == (0, 1, None)
    full, blank = reading.samples
    assert (full.utilisation_ratio, full.power_watts, full.temperature_celsius) == (0.42, 410.25, 55.0)
    assert (full.memory_used_bytes, full.ecc_uncorrected_total) == (1024 * MIB, 3)
    assert full.at == datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
    assert blank.utilisation_ratio is None
    assert blank.power_watts is None
    assert blank.memory_used_bytes is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('<!DOCTYPE x [<!ENTITY a "b">]><nvidia_smi_log/>', "entities"),
        ("<!DOCTYPE nvidia_smi_log [\n<!ELEMENT a ANY>]><nvidia_smi_log/>", "DTD of its own"),
        ("<nvidia_smi_log><gpu>", "XML"),
        ("<other/>", "the root is <other>"),
    ],
)
def test_xml_that_is_no_plain_log_is_refused(text: str, said: str) -> None:
    with pytest.raises(AdapterError, match=said):
        parse_xml(text, AT, load_catalog())


def test_csv_columns_are_found_by_their_header() -> None:
    reading = parse_csv(SMI_CSV, AT, load_catalog())

    assert [(device.index, device.model) for device in reading.devices] == [(1, "T4"), (0, "T4")]
    idle, blank = reading.samples
    assert (idle.utilisation_ratio, idle.memory_used_bytes, idle.power_watts) == (0.0, 0, 9.5)
    assert (blank.utilisation_ratio, blank.memory_used_bytes, blank.power_watts) == (None, None, None)


def test_csv_without_header_is_read_for_the_one_known_query_only() -> None:
    cells = dict.fromkeys(BARE_QUERY, "[N/A]") | {"uuid": "GPU-1", "name": "Tesla T4", "index": "4"}
    bare = ", ".join(cells[name] for name in BARE_QUERY)

    assert parse_csv(bare, AT, load_catalog()).devices[0].index == 4
    with pytest.raises(AdapterError, match="no header with a known column"):
        parse_csv(bare + ", 3", AT, load_catalog())


def test_a_csv_row_of_another_width_is_reported_and_hides_no_other() -> None:
    reading = parse_csv(SMI_CSV + "2, GPU-c\n", AT, load_catalog())

    assert len(reading.devices) == 2
    assert any("row 3 has 2 cells" in problem for problem in reading.problems)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_mutated_recording_is_read_or_refused(data: st.DataObject) -> None:
    sample = data.draw(st.sampled_from([SMI_XML, SMI_CSV]))

    assert_sound(mutate(sample, data), read)


def read(text: str) -> Reading:
    return (parse_xml if text.lstrip().startswith("<") else parse_csv)(text, AT, load_catalog())


def test_every_real_recording_is_read() -> None:
    folder = recordings("nvidia", "nvidia-smi")
    models = {
        path.name: [device.model for device in Nvidia().parse_recording(path).devices]
        for path in sorted(folder.iterdir())
        if path.suffix in (".xml", ".csv")
    }

    assert models["a100-sxm4-v12.xml"] == ["A100-80GB"] * 5  # the device and its four MIG partitions
    assert models["tesla-t4.xml"] == ["T4"]
    assert models["rtx-4000-sff-ada-v13.xml"] == ["RTX4000-SFF-Ada"]
    assert models["query_gpu_noheader_nounits_A100.csv"] == ["A100-40GB"] * 2


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"hello", b"a,b\n1,2\n", b"<a>" * 2000])
def test_a_file_that_is_no_recording_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recording"
    path.write_bytes(content)

    with pytest.raises(AdapterError):
        Nvidia().parse_recording(path)
