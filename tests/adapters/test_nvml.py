"""NVML-shaped libraries are read through their real C ABI: a stub of them, in the process that may be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.accelerator import Health, PartitionKind, Source
from adapters.adapter import AdapterError
from adapters.device_event import EventReader, Severity
from adapters.link import LinkReader, Nearness
from adapters.nvml_adapter import NvmlAdapter, read_event, read_nearness
from adapters.process import ProcessReader
from adapters.smi import MIG_ON
from adapters.vendors.biren import Biren
from adapters.vendors.enflame import Enflame
from adapters.vendors.iluvatar import Iluvatar
from adapters.vendors.nvidia import Nvidia
from adapters.vendors.thead import Thead
from tests.adapters.nvml_stub import MIB, Host, build
from tests.adapters.recorded import AT

DEADLINE_S = 2.0  # of one question; the stub answers in milliseconds, or never
BOUND_S = 40.0  # far below a hang, far above a slow machine


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


@pytest.fixture
def nvidia(host: Host) -> Iterator[Nvidia]:
    adapter = Nvidia(libraries=[str(build())], clock=lambda: AT, ask_s=DEADLINE_S)
    yield adapter
    adapter.close()


def test_stock_pynvml_reads_the_stub(host: Host) -> None:
    host.hold(3)
    script = (
        "import json, pynvml as n; n.nvmlInit(); h = n.nvmlDeviceGetHandleByIndex(2);"
        "print(json.dumps([n.nvmlDeviceGetCount(), n.nvmlDeviceGetUUID(h), n.nvmlDeviceGetPowerUsage(h),"
        "n.nvmlDeviceGetMemoryInfo(h, n.nvmlMemory_v2).total, n.nvmlDeviceGetPciInfo(h).busId,"
        "n.nvmlDeviceGetComputeRunningProcesses(h)[0].pid, n.nvmlDeviceGetTemperature(h, 0)]))"
    )
    environment = {**os.environ, "LD_LIBRARY_PATH": str(build().parent)}

    out = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True).stdout

    assert json.loads(out) == [3, "GPU-2", 410250, 81559 * MIB, "00000000:1D:00.0", 4242, 55]


def test_eight_healthy_devices_are_listed_with_what_they_are(host: Host, nvidia: Nvidia) -> None:
    host.hold(8)

    devices = nvidia.inventory()

    assert [(device.uuid, device.index) for device in devices] == [(f"GPU-{index}", index) for index in range(8)]
    assert {(device.model, device.health, device.source, device.problems) for device in devices} == {
        ("H800", Health.OK, Source.LIBRARY, ())
    }
    first = devices[0]
    assert (first.pci_bdf, first.pci_vendor_id, first.pci_device_id) == ("0000:1b:00.0", 0x10DE, 0x2324)
    assert (first.memory_total_bytes, first.power_limit_watts, first.numa_node) == (81559 * MIB, 700.0, 1)
    assert (first.driver_version, first.firmware_version, first.serial) == ("999.1", "96.00", "165")


def test_readings_come_in_our_units(host: Host, nvidia: Nvidia) -> None:
    host.hold(1)

    sample = nvidia.samples()[0]

    assert (sample.utilisation_ratio, sample.memory_bandwidth_ratio) == (0.42, 0.12)
    assert (sample.memory_used_bytes, sample.power_watts, sample.energy_joules_total) == (7 * MIB, 410.25, 5000.0)
    assert (sample.temperature_celsius, sample.memory_temperature_celsius) == (55.0, 61.0)
    assert (sample.core_clock_mhz, sample.memory_clock_mhz) == (1755, 1593)
    assert (sample.ecc_corrected_total, sample.ecc_uncorrected_total, sample.retired_pages) == (3, 0, 1)
    assert (sample.link_errors_total, sample.throttled) == (2, ("sw_power_cap",))  # idle (0x1) holds nothing down


def test_what_the_device_does_not_answer_is_unknown_and_a_zero_is_zero(host: Host, nvidia: Nvidia) -> None:
    gone = ("util", "power", "energy", "temp", "memtemp", "clock", "ecc_unc", "rows", "crc", "throttle", "total")
    host.hold(2, {0: dict.fromkeys(gone), 1: {"power": 0, "util": 0, "used": 0}})

    poor, idle = nvidia.samples()

    assert poor.utilisation_ratio is poor.power_watts is poor.energy_joules_total is poor.temperature_celsius is None
    assert poor.memory_used_bytes is poor.memory_temperature_celsius is poor.core_clock_mhz is None
    assert poor.ecc_uncorrected_total is poor.retired_pages is poor.link_errors_total is poor.throttled is None
    assert (idle.power_watts, idle.utilisation_ratio, idle.memory_used_bytes) == (0.0, 0.0, 0)
    assert nvidia.inventory()[0].memory_total_bytes is None


@pytest.mark.parametrize(
    ("key", "value"), [("power", 0xFFFFFFFF), ("energy", (1 << 64) - 1), ("ecc_unc", (1 << 63) - 16), ("temp", 65535)]
)
def test_a_blank_that_is_printed_as_a_number_is_unknown(host: Host, nvidia: Nvidia, key: str, value: int) -> None:
    host.hold(1, {0: {key: value}})
    fields = {
        "power": "power_watts",
        "energy": "energy_joules_total",
        "ecc_unc": "ecc_uncorrected_total",
        "temp": "temperature_celsius",
    }

    assert getattr(nvidia.samples()[0], fields[key]) is None


def test_one_lost_of_eight_is_failed_and_hides_none(host: Host, nvidia: Nvidia) -> None:
    host.hold(8)
    before = nvidia.inventory()
    host.tell("lost 3")

    devices, samples = nvidia.inventory(), nvidia.samples()

    assert [device.uuid for device in devices] == [device.uuid for device in before]
    assert [device.health for device in devices] == [Health.OK] * 3 + [Health.FAILED] + [Health.OK] * 4
    assert "GPU is lost" in devices[3].problems[0]
    assert devices[3].model == "H800"  # named as it was before
    assert [sample.uuid for sample in samples] == [device.uuid for device in devices]
    assert [sample.raw_error is None for sample in samples] == [index != 3 for index in range(8)]
    assert samples[3].power_watts is None


def test_a_device_lost_before_it_was_ever_read_goes_by_its_number(host: Host, nvidia: Nvidia) -> None:
    host.hold(2)
    host.tell("lost 0")

    lost, whole = nvidia.inventory()

    assert (lost.uuid, lost.health, lost.visible_id) == ("nvidia:index:0", Health.FAILED, None)
    assert (whole.uuid, whole.health) == ("GPU-1", Health.OK)


def test_a_device_that_must_be_reset_says_so(host: Host, nvidia: Nvidia) -> None:
    host.hold(2)
    nvidia.inventory()
    host.tell("reset 1")

    assert "GPU requires reset" in nvidia.inventory()[1].problems[0]


def test_a_hanging_device_is_reported_at_its_deadline_and_hides_none(host: Host, nvidia: Nvidia) -> None:
    host.hold(8)
    nvidia.inventory()
    host.tell("hang 2 DeviceGetPowerUsage")
    started = time.monotonic()

    samples = nvidia.samples()

    assert time.monotonic() - started < BOUND_S
    assert [sample.uuid for sample in samples] == [f"GPU-{index}" for index in range(8)]
    assert [sample.power_watts for sample in samples] == [410.25] * 2 + [None] + [410.25] * 5
    assert "no answer within its deadline" in (samples[2].raw_error or "")


def test_a_device_that_hung_is_left_alone_for_a_while(host: Host, nvidia: Nvidia) -> None:
    host.hold(2)
    nvidia.inventory()
    host.tell("hang 0 any")
    nvidia.samples()
    host.tell()

    hung, whole = nvidia.inventory()

    assert (hung.uuid, hung.health) == ("GPU-0", Health.FAILED)
    assert "left alone" in hung.problems[0]
    assert whole.health is Health.OK


def test_a_driver_that_hangs_altogether_is_an_error_at_its_deadline(host: Host) -> None:
    host.hold(2)
    host.tell("hang_init")
    adapter = Nvidia(libraries=[str(build())], ask_s=0.2, open_s=0.8)
    started = time.monotonic()

    with pytest.raises(AdapterError, match="no answer within its deadline"):
        adapter.inventory()
    probe = adapter.probe()

    assert (probe.available, "no answer" in (probe.reason or "")) == (False, True)
    assert time.monotonic() - started < BOUND_S
    adapter.close()


def test_a_driver_that_dies_midway_leaves_the_rest_unknown_not_failed(host: Host, nvidia: Nvidia) -> None:
    host.hold(4)
    nvidia.inventory()
    nvidia._asked._open_s = 0.5  # type: ignore[attr-defined]
    host.tell("hang 1 any", "hang_init")

    devices = nvidia.inventory()

    assert [device.uuid for device in devices] == [f"GPU-{index}" for index in range(4)]
    assert [device.health for device in devices] == [Health.OK, Health.FAILED, Health.UNKNOWN, Health.UNKNOWN]
    assert "was not asked" in devices[3].problems[0]


def test_a_library_that_crashes_costs_one_device_and_not_our_process(host: Host, nvidia: Nvidia) -> None:
    host.hold(3)
    nvidia.inventory()
    host.tell("crash 1 DeviceGetName")

    devices = nvidia.inventory()

    assert [device.health for device in devices] == [Health.OK, Health.FAILED, Health.OK]
    assert "SIGSEGV" in devices[1].problems[0]


def test_a_device_pulled_out_is_no_longer_listed_and_the_others_keep_their_names(host: Host, nvidia: Nvidia) -> None:
    host.hold(8)
    nvidia.inventory()
    host.tell("gone 5")

    devices, samples = nvidia.inventory(), nvidia.samples()

    left = [f"GPU-{index}" for index in range(8) if index != 5]
    assert [device.uuid for device in devices] == left
    assert [sample.uuid for sample in samples] == left
    assert {device.health for device in devices} == {Health.OK}


def test_a_copied_uuid_names_both_devices_and_says_so(host: Host, nvidia: Nvidia) -> None:
    host.hold(2, {1: {"uuid": "GPU-0"}})

    devices, samples = nvidia.inventory(), nvidia.samples()

    assert [device.uuid for device in devices] == ["GPU-0", "nvidia:0000:1c:00.0"]
    assert devices[1].problems == ("its uuid GPU-0 is also that of device 0",)
    assert [sample.uuid for sample in samples] == ["GPU-0", "nvidia:0000:1c:00.0"]


def test_mig_partitions_are_devices_with_parent_and_profile(host: Host, nvidia: Nvidia) -> None:
    host.hold(2, {0: {"mig": 2}})

    parent, first, second, other = nvidia.inventory()
    samples = {sample.uuid: sample for sample in nvidia.samples()}

    assert (parent.uuid, parent.partition, parent.visible_id, parent.problems) == ("GPU-0", None, None, (MIG_ON,))
    assert [part.uuid for part in (first, second)] == ["MIG-GPU-0-0", "MIG-GPU-0-1"]
    assert first.partition is not None
    assert (first.partition.kind, first.partition.parent_uuid) == (PartitionKind.MIG, "GPU-0")
    assert (first.partition.profile, first.visible_id, first.model) == ("1g.10gb", "MIG-GPU-0-0", "H800")
    assert first.memory_total_bytes == 81559 * MIB // 8
    assert (other.uuid, other.problems) == ("GPU-1", ())
    assert set(samples) == {"GPU-0", "MIG-GPU-0-0", "MIG-GPU-0-1", "GPU-1"}
    # The board's power is told once, of the board.
    assert (samples["MIG-GPU-0-0"].power_watts, samples["GPU-0"].power_watts) == (None, 410.25)


def test_processes_are_told_under_their_device_or_partition(host: Host, nvidia: Nvidia) -> None:
    host.hold(2, {1: {"pid": None}})
    assert isinstance(nvidia, ProcessReader)

    (use,) = nvidia.processes()

    assert (use.uuid, use.pid, use.name, use.memory_used_bytes) == ("GPU-0", 4242, "process-4242", 1 << 30)
    assert nvidia.processes(["GPU-1"]) == ()


def test_links_join_every_pair_by_fabric_or_bus(host: Host, nvidia: Nvidia) -> None:
    host.hold(3, {2: {"links": 0}})
    assert isinstance(nvidia, LinkReader)

    links = {(link.a_uuid, link.b_uuid): link for link in nvidia.links()}

    assert set(links) == {("GPU-0", "GPU-1"), ("GPU-0", "GPU-2"), ("GPU-1", "GPU-2")}
    joined, apart = links["GPU-0", "GPU-1"], links["GPU-0", "GPU-2"]
    assert (joined.nearness, joined.fabric, joined.count, joined.bandwidth_gbs) == (Nearness.FABRIC, "nvlink", 8, 400.0)
    assert (apart.nearness, apart.fabric, apart.count) == (Nearness.SWITCHES, None, None)


def test_an_xid_is_told_once_and_stays_the_devices_last_error(host: Host, nvidia: Nvidia) -> None:
    host.hold(2)
    assert isinstance(nvidia, EventReader)
    assert nvidia.events() == ()
    host.tell("xid 1 79")

    (event,) = nvidia.events(200)

    assert (event.uuid, event.code, event.severity, event.at) == ("GPU-1", "XID 79", Severity.FATAL, AT)
    assert nvidia.events() == ()
    assert [sample.last_error for sample in nvidia.samples()] == [None, "XID 79"]


@pytest.mark.parametrize(("number", "severity"), [(31, Severity.INFO), (94, Severity.WARNING), (7777, None)])
def test_an_xid_is_as_bad_as_nvidias_catalogue_says(number: int, severity: Severity | None) -> None:
    told = {"type": 8, "number": number, "uuid": "GPU-0", "bdf": None}

    assert read_event(told, "GPU-0", AT).severity is severity
    assert read_event(told, "GPU-0", AT, graded=False).severity is None  # another vendor's numbers are its own


def test_growing_ecc_errors_are_read_as_they_grow(host: Host, nvidia: Nvidia) -> None:
    host.hold(1)
    counts = [nvidia.samples()[0].ecc_uncorrected_total]
    for growth in (2, 9):
        host.tell(f"ecc 0 {growth}")
        counts.append(nvidia.samples()[0].ecc_uncorrected_total)

    assert counts == [0, 2, 9]


def test_rows_that_failed_or_wait_show_in_the_health(host: Host, nvidia: Nvidia) -> None:
    host.hold(2, {0: {"rows_failed": 1}, 1: {"rows_pending": 1}})

    assert [device.health for device in nvidia.inventory()] == [Health.FAILED, Health.DEGRADED]


def test_a_library_that_cannot_count_is_opened_anew(host: Host, nvidia: Nvidia) -> None:
    host.hold(2)
    host.tell("fail_count")
    with pytest.raises(AdapterError, match="cannot be counted"):
        nvidia.inventory()
    host.tell()

    assert len(nvidia.inventory()) == 2


@pytest.mark.parametrize(
    ("vendor", "prefix", "own_pci"),
    [(Iluvatar, "nvml", False), (Thead, "hgml", False), (Enflame, "efml", True), (Biren, "brml", True)],
)
def test_libraries_of_nvmls_shape_are_read_under_their_own_names(
    host: Host, vendor: type[NvmlAdapter], prefix: str, own_pci: bool
) -> None:
    host.hold(2, {0: {"name": "any"}, 1: {"name": "any"}})
    library = build(prefix, "libstub.so", own_pci=own_pci)
    adapter = vendor(libraries=[str(library)], ask_s=DEADLINE_S)

    devices, samples = adapter.inventory(), adapter.samples()
    host.tell("lost 0")
    lost, whole = adapter.inventory()

    assert [device.uuid for device in devices] == ["GPU-0", "GPU-1"]
    assert [device.pci_bdf for device in devices] == ["0000:1b:00.0", "0000:1c:00.0"]
    assert devices[0].pci_vendor_id == 0x10DE
    assert devices[0].visible_id == ("GPU-0" if adapter.by_uuid else "0")
    assert devices[0].memory_total_bytes == 81559 * MIB
    assert {(sample.power_watts, sample.utilisation_ratio) for sample in samples} == {(410.25, 0.42)}
    assert {sample.memory_used_bytes for sample in samples} == {7 * MIB}
    assert (lost.uuid, lost.health, whole.health) == ("GPU-0", Health.FAILED, Health.OK)
    adapter.close()


def test_without_library_and_tool_the_vendor_is_absent_and_says_why() -> None:
    adapter = Thead(libraries=["libabsent.so"])

    probe = adapter.probe()

    assert not probe.available
    assert "libabsent.so" in (probe.reason or "")
    assert "ppu-smi is not on the path" in (probe.reason or "")
    with pytest.raises(AdapterError, match=r"libabsent\.so"):
        adapter.inventory()


def test_without_library_the_tool_is_asked() -> None:
    table = "index, name, uuid, memory.total [MiB], power.draw [W]\n0, Iluvatar BI-V100, GPU-a, 32768 MiB, 40 W\n"
    adapter = Iluvatar(libraries=["libabsent.so"], run=lambda arguments: table)

    (device,) = adapter.inventory()

    assert (device.uuid, device.model, device.source) == ("GPU-a", "BI-V100", Source.CLI)
    assert adapter.samples()[0].power_watts == 40
    assert adapter.probe().available
    assert (adapter.links(), adapter.processes(), adapter.events()) == ((), (), ())


@pytest.mark.parametrize(
    ("level", "nearness"), [(0, Nearness.SWITCH), (30, Nearness.HOST_BRIDGE), (None, Nearness.UNKNOWN), (7, 100)]
)
def test_levels_of_the_bus_are_nvmls_numbers(level: int | None, nearness: int) -> None:
    assert read_nearness(level) == nearness
