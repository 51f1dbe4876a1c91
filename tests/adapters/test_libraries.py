"""DCMI and CNDEV through our bindings, on stub libraries with the real C ABI: lost, hung, dying and unwilling ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from adapters.accelerator import Health, PartitionKind, Source
from adapters.adapter import AdapterError
from adapters.binding import MOST_HUNG, SPLIT, Memory, find_library, read_library
from adapters.catalog import load_catalog
from adapters.deadline import DeadlineError, Worker
from adapters.link import LinkReader, Nearness
from adapters.process import ProcessReader
from adapters.vendors.ascend import Ascend
from adapters.vendors.cambricon import Cambricon
from tests.adapters.recorded import AT, NPU_23
from tests.adapters.stubs.compiled import compile_stub

MIB = 1024 * 1024
SOON = 1.5  # seconds after which a stub counts as hung


class Host:
    """A stub library, what it is told, and the adapter that reads it at the host's time."""

    def __init__(
        self, library: Path, told: Path, target: str, variable: str, make: Callable[[Host], Ascend | Cambricon]
    ):
        self._told = told
        self.now = AT
        self.worker = Worker(target, {"library": str(library)}, ask_s=SOON, environment={variable: str(told)})
        self.adapter = make(self)
        self.tell()

    def tell(self, *lines: str) -> None:
        self._told.write_text("\n".join((*lines, "")), encoding="utf-8")


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stubs")
    compile_stub("dcmi/dcmi.c", folder / "libdcmi.so")
    compile_stub("cndev/cndev.c", folder / "libcndev.so")
    return folder


@pytest.fixture
def ascend(stubs: Path, tmp_path: Path) -> Iterator[Host]:
    host = Host(
        stubs / "libdcmi.so",
        tmp_path / "told-dcmi",
        "adapters.dcmi:Driver",
        "DCMI_STUB",
        lambda host: Ascend(library=host.worker, which=lambda tool: None, clock=lambda: host.now),
    )
    yield host
    host.worker.close()


@pytest.fixture
def cambricon(stubs: Path, tmp_path: Path) -> Iterator[Host]:
    host = Host(
        stubs / "libcndev.so",
        tmp_path / "told-cndev",
        "adapters.cndev:Driver",
        "CNDEV_STUB",
        lambda host: Cambricon(library=host.worker, which=lambda tool: None, clock=lambda: host.now),
    )
    yield host
    host.worker.close()


@pytest.fixture(params=["ascend", "cambricon"])
def host(request: pytest.FixtureRequest) -> Host:
    found: Host = request.getfixturevalue(request.param)
    return found


def test_dcmi_gives_eight_healthy_chips_in_our_units(ascend: Host) -> None:
    devices, samples = ascend.adapter.inventory(), ascend.adapter.samples()

    assert [device.index for device in devices] == list(range(8))
    first = devices[1]
    assert first.uuid == "02000100 02000101 02000102 02000103 02000104"
    assert (first.model, first.serial, first.pci_bdf, first.driver_version) == (
        "Ascend910B3",
        "SN0001",
        "0000:41:00.0",
        "25.5.1",
    )
    assert (first.memory_total_bytes, first.pci_vendor_id, first.pci_device_id) == (65536 * MIB, 0x19E5, 0xD802)
    assert (first.health, first.source, first.package_id, first.problems) == (Health.OK, Source.LIBRARY, None, ())
    sample = samples[1]
    assert (sample.utilisation_ratio, sample.memory_used_bytes, sample.power_watts) == (0.37, 3401 * MIB, 101.3)
    assert (sample.temperature_celsius, sample.memory_temperature_celsius, sample.at) == (45.0, 41.0, AT)
    assert (sample.core_clock_mhz, sample.memory_clock_mhz, sample.memory_bandwidth_ratio) == (1800, 1600, 0.05)
    assert (sample.ecc_corrected_total, sample.ecc_uncorrected_total, sample.retired_pages) == (0, 0, 0)


def test_cndev_gives_eight_healthy_cards_in_our_units(cambricon: Host) -> None:
    devices, samples = cambricon.adapter.inventory(), cambricon.adapter.samples()

    assert [device.uuid[:12] for device in devices] == [f"MLU-1000101{n}" for n in range(8)]
    first = devices[1]
    assert (first.model, first.serial, first.pci_bdf, first.numa_node) == (
        "MLU370-X8",
        "502212000001",
        "0000:3a:00.0",
        0,
    )
    assert (first.memory_total_bytes, first.power_limit_watts, first.driver_version) == (23374 * MIB, 250.0, "5.10.22")
    assert (first.health, first.firmware_version, first.problems) == (Health.OK, "1.1.6", ())
    sample = samples[1]
    assert (sample.utilisation_ratio, sample.memory_used_bytes, sample.power_watts) == (0.11, 121 * MIB, 106.0)
    assert (sample.temperature_celsius, sample.memory_temperature_celsius) == (39.0, None)
    assert (sample.core_clock_mhz, sample.memory_clock_mhz, sample.ecc_corrected_total) == (1300.0, None, 0)


def test_one_lost_of_eight_is_listed_as_failed_under_its_name_and_hides_no_other(host: Host) -> None:
    before = [device.uuid for device in host.adapter.inventory()]
    host.tell("lost 3")

    after, samples = host.adapter.inventory(), host.adapter.samples()

    assert [device.uuid for device in after] == before
    assert [device.index for device in after if device.health is Health.FAILED] == [3]
    assert any("the library cannot read it" in problem for problem in after[3].problems)
    assert (samples[3].utilisation_ratio, samples[3].memory_used_bytes, samples[3].power_watts) == (None, None, None)
    assert samples[3].raw_error is not None
    assert all(sample.raw_error is None for number, sample in enumerate(samples) if number != 3)


def test_a_device_that_was_lost_from_the_start_has_a_number_for_a_name(host: Host) -> None:
    host.tell("lost 0")

    devices = host.adapter.inventory()

    assert devices[0].uuid == f"{host.adapter.vendor}:index:0"
    assert (devices[0].health, len({device.uuid for device in devices})) == (Health.FAILED, 8)


def test_a_hung_call_is_ended_at_its_deadline_and_the_others_are_read(host: Host) -> None:
    before = [device.uuid for device in host.adapter.inventory()]
    host.tell("hang 5")

    after = host.adapter.inventory()

    assert [device.uuid for device in after] == before
    assert [device.index for device in after if device.health is Health.FAILED] == [5]
    assert "no answer within its deadline" in after[5].problems[0]
    host.tell()
    assert "left alone for a minute" in host.adapter.inventory()[5].problems[0]
    host.now = AT + timedelta(minutes=1)
    assert all(device.health is Health.OK for device in host.adapter.inventory())


def test_a_removed_device_is_gone_and_the_others_stay(host: Host) -> None:
    before = [device.uuid for device in host.adapter.inventory()]
    host.tell("cards 7")

    assert [device.uuid for device in host.adapter.inventory()] == before[:7]
    assert before[7] in str(host.adapter._read().problems)


def test_a_library_that_ends_its_process_loses_that_device_alone(host: Host) -> None:
    host.adapter.inventory()
    host.tell("die 6")

    devices = host.adapter.inventory()

    assert [device.index for device in devices if device.health is Health.FAILED] == [6]
    assert "ended the process" in devices[6].problems[0]
    host.tell()
    assert {device.health for device in host.adapter.inventory()} == {Health.OK}


@pytest.mark.parametrize(
    ("name", "calls", "lacking"),
    [
        (
            "ascend",
            [
                *("dcmi_get_device_power_info", "dcmi_get_device_die_v2", "dcmi_get_device_ecc_info"),
                *("dcmi_get_device_hbm_info", "dcmi_get_device_health", "dcmi_get_device_errorcode_v2"),
            ],
            "ascend:0000:40:00.0",
        ),
        (
            "cambricon",
            [
                *("cndevGetDevicePowerInfo", "cndevGetUUID", "cndevGetECCInfo", "cndevGetMemoryUsageV2"),
                *("cndevGetCardHealthState", "cndevGetCardSN"),
            ],
            "cambricon:0000:39:00.0",
        ),
    ],
)
def test_readings_that_a_driver_does_not_support_are_unknown(
    name: str, calls: list[str], lacking: str, request: pytest.FixtureRequest
) -> None:
    host: Host = request.getfixturevalue(name)
    host.tell(*(f"without {call}" for call in calls))

    device, sample = host.adapter.inventory()[0], host.adapter.samples()[0]

    assert (device.uuid, device.health, device.memory_total_bytes) == (lacking, Health.UNKNOWN, None)
    assert (sample.power_watts, sample.memory_used_bytes) == (None, None)
    assert (sample.ecc_corrected_total, sample.ecc_uncorrected_total) == (None, None)
    assert sample.utilisation_ratio is not None


def test_ecc_errors_grow_and_a_sick_device_says_its_code(ascend: Host, cambricon: Host) -> None:
    ascend.tell("single 2 17", "fault 4")
    cambricon.tell("single 2 17", "sick 4")

    assert [sample.ecc_corrected_total for sample in ascend.adapter.samples()[2:4]] == [17, 0]
    assert [sample.ecc_corrected_total for sample in cambricon.adapter.samples()[2:4]] == [17, 0]
    assert (ascend.adapter.inventory()[4].health, ascend.adapter.samples()[4].last_error) == (Health.FAILED, "80E01801")
    assert cambricon.adapter.inventory()[4].health_code == "health 0, device 0, driver 4"


def test_two_dies_share_a_package_whose_power_counts_once_and_a_lost_card_keeps_both(ascend: Host) -> None:
    ascend.tell("cards 2", "chips 2")
    devices, samples = ascend.adapter.inventory(), ascend.adapter.samples()
    assert [device.package_id for device in devices] == [
        devices[0].uuid,
        devices[0].uuid,
        devices[2].uuid,
        devices[2].uuid,
    ]
    assert [sample.power_watts for sample in samples] == [101.3, None, 101.3, None]
    assert {device.model for device in devices} == {"Ascend910C"}

    ascend.tell("cards 2", "chips 2", "lost 1")

    assert [device.health for device in ascend.adapter.inventory()] == [Health.OK] * 2 + [Health.FAILED] * 2


def test_virtual_devices_are_parts_of_their_chip(ascend: Host) -> None:
    ascend.tell("cards 1", "split 0 2")

    whole, *parts = ascend.adapter.inventory()

    assert [part.partition.kind for part in parts if part.partition] == [PartitionKind.VNPU] * 2
    assert {part.partition.parent_uuid for part in parts if part.partition} == {whole.uuid}
    assert {part.model for part in parts} == {"Ascend910B3"}
    assert (whole.visible_id, whole.problems) == (None, (SPLIT,))
    assert len(ascend.adapter.samples()) == 1


def test_processes_and_links_are_told_by_the_library(ascend: Host, cambricon: Host) -> None:
    assert isinstance(ascend.adapter, ProcessReader)
    assert isinstance(ascend.adapter, LinkReader)
    uuids = [device.uuid for device in ascend.adapter.inventory()]

    links = {frozenset((link.a_uuid, link.b_uuid)): link for link in ascend.adapter.links()}

    assert len(links) == 28
    assert (links[frozenset(uuids[:2])].nearness, links[frozenset(uuids[:2])].fabric) == (Nearness.FABRIC, "hccs")
    assert links[frozenset((uuids[0], uuids[7]))].nearness is Nearness.SYSTEM
    (use,) = ascend.adapter.processes([uuids[2]])
    assert (use.pid, use.memory_used_bytes) == (4002, 2048 * MIB)
    assert [use.pid for use in cambricon.adapter.processes()] == list(range(5000, 5008))


def test_a_library_that_cannot_count_leaves_the_tool_to_answer(stubs: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    told.write_text("without dcmi_get_card_list\n", encoding="utf-8")
    worker = Worker(
        "adapters.dcmi:Driver", {"library": str(stubs / "libdcmi.so")}, environment={"DCMI_STUB": str(told)}
    )
    adapter = Ascend(library=worker, run=lambda words: NPU_23 if words[-1] == "info" else "", clock=lambda: AT)

    assert [device.uuid for device in adapter.inventory()] == ["ascend:0000:c1:00.0", "ascend:0000:01:00.0"]
    worker.close()


def test_a_driver_that_hangs_is_not_asked_again_through_its_tool() -> None:
    class Hung:
        def ask(self, method: str, *arguments: object, deadline_s: float | None = None) -> object:
            raise DeadlineError(f"{method}: no answer")

    with pytest.raises(DeadlineError):
        Cambricon(library=Hung(), run=lambda words: pytest.fail("the tool was asked")).inventory()


def test_a_driver_that_hangs_again_and_again_is_not_asked_for_every_device() -> None:
    class Hanging:
        asked = 0

        def ask(self, method: str, *arguments: object, deadline_s: float | None = None) -> object:
            if method == "keys":
                return [str(number) for number in range(16)]
            Hanging.asked += 1
            raise DeadlineError(f"{method}: no answer")

    reading = read_library(Hanging(), Memory(), AT, load_catalog(), vendor="ascend", semantics="")

    assert (len(reading.devices), Hanging.asked) == (16, MOST_HUNG)
    assert {device.health for device in reading.devices} == {Health.FAILED}


def test_a_missing_library_is_an_error_with_its_file(tmp_path: Path) -> None:
    worker = Worker("adapters.cndev:Driver", {"library": str(tmp_path / "libcndev.so")})

    with pytest.raises(AdapterError, match=r"libcndev\.so"):
        Cambricon(library=worker, which=lambda tool: None).inventory()
    worker.close()


def test_a_library_is_found_by_its_file_without_loading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libthere.so").write_bytes(b"not a library")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere:{tmp_path}")

    assert find_library("libthere.so") == str(tmp_path / "libthere.so")
    assert find_library("libabsent.so", [str(tmp_path)]) is None
