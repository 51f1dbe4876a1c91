"""nvidia-smi and the tools made after it: every form is recognised by what it holds, and read in our units."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import brsmi, efsmi, ixsmi, kunlun_smi, nvidia_smi, ppu_smi, smi, smi_log
from adapters.accelerator import Health
from adapters.adapter import AdapterError, Reading
from adapters.catalog import Catalog, load_catalog
from adapters.quantity import read_bytes, read_celsius, read_megahertz, read_share, read_watts
from adapters.smi import CUT_NAME, MIG_ON, PART_UUID
from tests.adapters import smi_samples as samples
from tests.adapters.mutation import mutate
from tests.adapters.recorded import AT, SMI_CSV, SMI_XML, recordings
from tests.adapters.test_npu_smi import assert_sound

MIB = 1024 * 1024
Parse = Callable[[str, datetime, Catalog], Reading]
PARSERS: dict[str, Parse] = {
    "nvidia": nvidia_smi.parse_recording,
    "iluvatar": ixsmi.parse_recording,
    "thead": ppu_smi.parse_recording,
    "biren": brsmi.parse_recording,
    "enflame": efsmi.parse_recording,
    "kunlunxin": kunlun_smi.parse_recording,
}


def read(vendor: str, text: str) -> Reading:
    return PARSERS[vendor](text, AT, load_catalog())


def test_the_table_of_nvidia_smi_gives_every_reading_and_keeps_errors_unknown() -> None:
    reading = read("nvidia", samples.NVIDIA_TABLE)

    busy, broken, split, part = reading.devices
    assert [device.uuid for device in (busy, broken, split)] == [
        "nvidia:0000:1b:00.0",
        "nvidia:0000:2c:00.0",
        "nvidia:0000:3d:00.0",
    ]
    assert (busy.model, busy.memory_total_bytes, busy.power_limit_watts) == ("H800", 81559 * MIB, 700.0)
    assert (busy.driver_version, broken.health, broken.health_code) == ("560.35.03", Health.FAILED, "ERR!")
    assert MIG_ON in split.problems
    assert part.partition is not None
    assert (part.uuid, part.partition.parent_uuid) == ("MIG-nvidia:0000:3d:00.0/9/0", "nvidia:0000:3d:00.0")
    assert (part.memory_total_bytes, part.model, part.problems) == (9728 * MIB, "A100-80GB", (PART_UUID,))
    full, blank, shared, _ = reading.samples
    assert (full.utilisation_ratio, full.power_watts, full.temperature_celsius) == (0.97, 412.0, 41.0)
    assert (full.memory_used_bytes, full.ecc_uncorrected_total) == (71234 * MIB, 2)
    assert full.at == datetime(2026, 3, 2, 9, 15, tzinfo=UTC)
    assert blank.utilisation_ratio is blank.power_watts is blank.temperature_celsius is blank.memory_used_bytes is None
    assert (shared.utilisation_ratio, shared.memory_used_bytes, shared.power_watts) == (None, 87 * MIB, 62.0)


def test_an_old_table_with_a_cut_name_says_that_it_is_cut() -> None:
    reading = read("nvidia", samples.OLD_TABLE)

    (device,) = reading.devices
    assert (device.model_raw, device.model) == ("Tesla V100-SXM2...", None)
    assert CUT_NAME in device.problems
    assert (reading.samples[0].memory_used_bytes, reading.samples[0].power_watts) == (0, 55.0)


def test_the_tables_of_ppu_smi_and_ixsmi_are_read_alike() -> None:
    ppu, ix = read("thead", samples.PPU_TABLE), read("iluvatar", samples.IX_TABLE)

    assert [(device.index, device.model) for device in ppu.devices] == [(0, "PPU-ZW810E"), (1, "PPU-ZW810E")]
    assert [device.memory_total_bytes for device in ppu.devices] == [96 << 30, None]
    assert (ppu.samples[0].utilisation_ratio, ppu.samples[0].power_watts) == (0.64, 174.0)
    assert (ppu.samples[1].utilisation_ratio, ppu.samples[1].power_watts) == (None, None)
    assert ppu.samples[1].memory_used_bytes is ppu.samples[1].temperature_celsius is None
    (device,), (sample,) = ix.devices, ix.samples
    assert (device.index, device.uuid, device.model) == (3, "iluvatar:0000:56:00.0", "BI-V150")
    assert (sample.utilisation_ratio, sample.power_watts, sample.core_clock_mhz) == (1.0, 190.0, 1500.0)
    assert (sample.memory_used_bytes, sample.memory_clock_mhz) == (60210 * MIB, 1600.0)


def test_lists_name_devices_partitions_and_what_cannot_be_opened() -> None:
    reading = read("nvidia", samples.NVIDIA_LIST)

    whole, small, large, other, lost = reading.devices
    assert (whole.uuid, whole.model, whole.problems) == (
        "GPU-aaaa0000-1111-2222-3333-444444444444",
        "A100-40GB",
        (MIG_ON,),
    )
    assert small.partition is not None
    assert large.partition is not None
    assert (small.partition.profile, large.partition.profile) == ("1g.5gb", "3g.20gb")
    assert {small.partition.parent_uuid, large.partition.parent_uuid} == {whole.uuid}
    assert (small.uuid[:8], small.visible_id, other.index) == ("MIG-bbbb", small.uuid, 1)
    assert (lost.uuid, lost.health) == ("nvidia:0000:c1:00.0", Health.FAILED)
    assert "GPU is lost" in (lost.health_code or "")
    assert [sample.uuid for sample in reading.samples] == [lost.uuid]  # a list has no readings, its error is one

    ppu = read("thead", samples.PPU_LIST)
    assert [device.partition and device.partition.profile for device in ppu.devices] == [None, None, "g1.c1.i1"]


def test_the_text_log_is_read_as_the_xml_is() -> None:
    (device,), (sample,) = (lambda found: (found.devices, found.samples))(read("nvidia", samples.NVIDIA_LOG))

    assert (device.model, device.pci_bdf, device.serial) == ("L20", "0000:4f:00.0", "1320000000001")
    assert (device.pci_vendor_id, device.pci_device_id, device.health) == (0x10DE, 0x26BA, Health.OK)
    assert (device.memory_total_bytes, device.power_limit_watts) == (46068 * MIB, 350.0)
    assert (sample.memory_used_bytes, sample.utilisation_ratio, sample.power_watts) == (3 * MIB, 0.07, 36.72)
    assert (sample.temperature_celsius, sample.core_clock_mhz, sample.throttled) == (47.0, 210.0, ("hw_slowdown",))
    assert sample.at == datetime(2026, 3, 4, 10, 0, tzinfo=UTC)


def test_csv_columns_are_known_under_every_vendors_word_for_a_device() -> None:
    ppu, ix = read("thead", samples.PPU_CSV), read("iluvatar", samples.IX_CSV)

    assert [(device.uuid, device.index) for device in ppu.devices] == [("GPU-019e-4", 4), ("GPU-019e-5", 5)]
    assert (ppu.samples[0].utilisation_ratio, ppu.samples[0].temperature_celsius) == (0.38, 44.0)
    assert ppu.samples[0].at == datetime(2026, 5, 12, 9, 24, 11, 139000, tzinfo=UTC)
    assert ppu.samples[1].utilisation_ratio is ppu.samples[1].memory_used_bytes is None
    assert [device.uuid for device in ix.devices] == ["iluvatar:index:0", "iluvatar:index:1"]
    assert [device.model for device in ix.devices] == ["MR-V100"] * 2
    assert [sample.power_watts for sample in ix.samples] == [42.0, None]


def test_processes_are_read_from_csv_and_xml() -> None:
    uses = smi.read_apps(samples.APPS_CSV, nvidia_smi.DIALECT)
    listed = read("nvidia", samples.APPS_CSV)
    xml = SMI_XML.replace(
        "</gpu>",
        "<processes><process_info><pid>77</pid><process_name>a</process_name><used_memory>5 MiB</used_memory>"
        "</process_info></processes></gpu>",
        1,
    )

    assert [(use.uuid, use.pid, use.memory_used_bytes) for use in uses] == [
        ("GPU-1", 4711, 1024 * MIB),
        ("GPU-1", 4712, None),
        ("GPU-2", 99, 7 * MIB),
    ]
    assert [device.uuid for device in listed.devices] == ["GPU-1", "GPU-2"]
    assert listed.samples == ()
    (use,) = smi_log.read_processes(xml, nvidia_smi.DIALECT)
    assert (use.uuid[:8], use.pid, use.memory_used_bytes) == ("GPU-1111", 77, 5 * MIB)


def test_an_exposition_of_dcgm_gives_devices_and_partitions_and_its_blanks_are_unknown() -> None:
    reading = read("nvidia", samples.DCGM)

    first, second, part = reading.devices
    assert (first.uuid, first.model, first.pci_bdf) == ("GPU-1", "H800", "0000:1b:00.0")
    assert part.partition is not None
    assert (part.partition.parent_uuid, part.partition.profile) == ("GPU-2", "1g.10gb")
    assert (part.memory_total_bytes, part.model) == (9984 * MIB, "H800")
    full, blank, small = reading.samples
    assert (full.power_watts, full.utilisation_ratio, full.energy_joules_total) == (301.5, 0.88, 5000.0)
    assert (full.memory_used_bytes, full.last_error) == (1024 * MIB, "XID 79")
    assert blank.uuid == second.uuid
    assert blank.temperature_celsius is blank.power_watts is blank.memory_used_bytes is None
    assert small.memory_used_bytes == 12 * MIB


def test_a_lost_card_in_the_xml_is_failed_and_its_words_are_no_readings() -> None:
    xml = SMI_XML.replace("<power_draw>410.25 W</power_draw>", "<power_draw>GPU is lost</power_draw>")
    xml = xml.replace("<gpu_util>42 %</gpu_util>", "<gpu_util>Unknown Error</gpu_util>")

    reading = read("nvidia", "Some log line before\r\n" + xml + "\nbash: exit\n")

    assert (reading.devices[0].health, reading.devices[0].health_code) == (Health.FAILED, "GPU is lost")
    assert (reading.samples[0].power_watts, reading.samples[0].utilisation_ratio) == (None, None)
    assert len(reading.devices) == 2


def test_efsmi_tables_of_both_generations_are_read() -> None:
    table, stars = read("enflame", samples.EF_TABLE), read("enflame", samples.EF_STARS)

    busy, blank, broken = table.devices
    assert (busy.uuid, busy.serial, busy.model) == ("enflame:0000:01:00.0", "A073640510015", "S60")
    assert (busy.memory_total_bytes, busy.power_limit_watts) == (42976 * MIB, 300.0)  # as the driver says, with ECC on
    assert (blank.uuid, broken.uuid, broken.health) == ("enflame:0000:0a:00.0", "enflame:index:2", Health.FAILED)
    assert table.samples[0].at == datetime(2026, 3, 7, 10, 0, tzinfo=UTC)  # CST is eight hours ahead
    full, unknown, _ = table.samples
    assert (full.power_watts, full.temperature_celsius, full.utilisation_ratio) == (205.0, 41.0, 0.775)
    assert unknown.power_watts is unknown.temperature_celsius is unknown.utilisation_ratio is None
    (device,), (sample,) = stars.devices, stars.samples
    assert (device.uuid, device.pci_bdf, device.model) == ("W28001210504", "0000:3d:00.0", "T20")
    assert (device.memory_total_bytes, sample.power_watts, sample.utilisation_ratio) == (32 << 30, 48.0, 0.0)


def test_efsmi_queries_monitors_and_exporter_are_read() -> None:
    query, dmon, exporter = (read("enflame", text) for text in (samples.EF_QUERY, samples.EF_DMON, samples.EF_EXPORTER))

    first, second = query.devices
    assert (first.uuid, first.pci_bdf, first.health) == ("TR6Y0000", "0001:9a:00.0", Health.FAILED)
    assert (first.index, first.driver_version, first.pci_device_id) == (3, "1.4.4", 0xC035)
    assert "exchange" in first.problems[0]
    assert (second.uuid, second.memory_total_bytes) == ("enflame:index:4", None)
    assert (query.samples[0].memory_used_bytes, query.samples[0].power_watts) == (1129 * MIB, 250.0)
    assert query.samples[0].ecc_uncorrected_total == 3
    assert [sample.power_watts for sample in dmon.samples] == [48.0, None]
    assert [sample.utilisation_ratio for sample in dmon.samples] == [0.125, None]
    (device,), (sample,) = exporter.devices, exporter.samples
    assert (device.uuid, device.index, device.health, device.model) == ("GCU-U5", 2, Health.FAILED, "T10")
    assert (sample.power_watts, sample.utilisation_ratio, sample.memory_used_bytes) == (56.0, 0.8, 1 << 30)


def test_kunlunxins_machine_mode_is_read_by_position_and_blanks_stay_unknown() -> None:
    reading = read("kunlunxin", samples.KL_MACHINE)

    assert [device.uuid for device in reading.devices] == ["kunlunxin:0000:03:00.0", "kunlunxin:0000:05:00.0"]
    assert {device.model for device in reading.devices} == {"P800"}
    full, blank = reading.samples
    assert (full.temperature_celsius, full.power_watts, full.utilisation_ratio) == (41.0, 212.0, 0.73)
    assert full.memory_used_bytes == 90440 * MIB
    assert blank.temperature_celsius is blank.power_watts is blank.utilisation_ratio is blank.memory_used_bytes is None


def test_kunlunxins_cards_of_two_chips_are_two_devices_of_one_package() -> None:
    reading = read("kunlunxin", samples.KL_TABLE)

    first, second, broken = reading.devices
    assert [first.uuid, second.uuid] == ["kunlunxin:0000:86:00.0/0", "kunlunxin:0000:86:00.0/1"]
    assert first.package_id == second.package_id == first.uuid
    assert (broken.uuid, broken.health, broken.health_code) == ("kunlunxin:0000:af:00.0", Health.FAILED, "ERROR")
    assert (reading.samples[0].memory_used_bytes, reading.samples[0].utilisation_ratio) == (504 * MIB, 0.12)
    assert (reading.samples[1].memory_used_bytes, reading.samples[1].utilisation_ratio) == (0, 0.0)
    assert (reading.samples[2].memory_used_bytes, reading.samples[2].power_watts) == (None, None)


def test_other_forms_of_kunlunxins_are_read() -> None:
    telegraf, xml, exporter = (
        read("kunlunxin", text) for text in (samples.KL_TELEGRAF, samples.KL_XML, samples.KL_EXPORTER)
    )

    assert (telegraf.devices[0].uuid, telegraf.devices[0].index, telegraf.devices[0].serial) == ("GPU-kl5", 5, "02K1")
    assert (telegraf.samples[0].power_watts, telegraf.samples[0].memory_used_bytes) == (187.5, 512 * MIB)
    assert (xml.devices[0].uuid, xml.devices[0].model, xml.devices[0].pci_bdf) == ("GPU-kl0", "P800", "0000:03:00.0")
    assert (xml.samples[0].utilisation_ratio, xml.samples[0].temperature_celsius) == (0.09, 36.0)
    assert (exporter.devices[0].memory_total_bytes, exporter.samples[0].utilisation_ratio) == (96 << 30, 0.65)


def test_ix_exporters_series_become_one_device_each() -> None:
    reading = read("iluvatar", samples.IX_EXPORTER)

    (device,), (sample,) = reading.devices, reading.samples
    assert (device.uuid, device.index, device.model) == ("GPU-ix2", 2, "BI-V150")
    assert (sample.memory_used_bytes, sample.power_watts, sample.temperature_celsius) == (MIB, 201.0, 61.0)
    assert (sample.utilisation_ratio, sample.last_error) == (0.5, "XID 45")


@pytest.mark.parametrize("vendor", sorted(PARSERS))
def test_an_unknown_layout_is_refused_and_shown(vendor: str) -> None:
    unknown = "+---+\n| Chip  Designation  Wattage |\n| 0  X  12 |\n"

    with pytest.raises(AdapterError, match="---"):
        read(vendor, unknown)


@pytest.mark.parametrize(
    ("vendor", "text", "header"),
    [
        ("enflame", "| DEV    NAME   | FW VER | BUS-ID ECC |\n| TEMP Dpm | Mem | DUsed SN |\n", "DEV    NAME"),
        ("kunlunxin", "| DevID | PCI Addr | Model | Memory |\n", "DevID"),
        ("nvidia", "| GPU  Name  Persistence-M | Bus-Id  Disp.A | ECC |\n", "Bus-Id"),
    ],
)
def test_a_table_without_rows_is_refused_with_its_header(vendor: str, text: str, header: str) -> None:
    with pytest.raises(AdapterError, match=header):
        read(vendor, text)


ALL = [
    *(("nvidia", text) for text in (SMI_XML, SMI_CSV, samples.NVIDIA_TABLE, samples.NVIDIA_LIST, samples.NVIDIA_LOG)),
    *(("nvidia", text) for text in (samples.DCGM, samples.APPS_CSV)),
    *(("thead", text) for text in (samples.PPU_TABLE, samples.PPU_LIST, samples.PPU_CSV)),
    *(("iluvatar", text) for text in (samples.IX_TABLE, samples.IX_CSV, samples.IX_EXPORTER)),
    *(("enflame", text) for text in (samples.EF_TABLE, samples.EF_STARS, samples.EF_QUERY, samples.EF_DMON)),
    ("enflame", samples.EF_EXPORTER),
    *(("kunlunxin", text) for text in (samples.KL_MACHINE, samples.KL_TABLE, samples.KL_TELEGRAF, samples.KL_XML)),
    ("kunlunxin", samples.KL_EXPORTER),
    ("biren", SMI_CSV),
]


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_mutated_recording_is_read_or_refused(data: st.DataObject) -> None:
    vendor, sample = data.draw(st.sampled_from(ALL))

    assert_sound(mutate(sample, data), lambda text: read(vendor, text))


@pytest.mark.parametrize(("vendor", "text"), ALL, ids=range(len(ALL)))
def test_line_ends_and_space_around_do_not_matter(vendor: str, text: str) -> None:
    plain = read(vendor, text.replace("\r", ""))
    dressed = "\n".join(f"{line}   \r" for line in text.replace("\r", "").splitlines())

    changed = read(vendor, f"\n{dressed}\n")

    assert [device.uuid for device in changed.devices] == [device.uuid for device in plain.devices]
    assert [sample.power_watts for sample in changed.samples] == [sample.power_watts for sample in plain.samples]


@given(blank=st.sampled_from(["N/A", "[N/A]", "[Not Supported]", "-", "", "[Unknown Error]", "?", "ERR!", "-1"]))
def test_a_blank_in_a_csv_is_unknown_whatever_its_spelling(blank: str) -> None:
    text = "index, uuid, memory.used [MiB], utilization.gpu [%], power.draw [W], temperature.gpu\n"
    text += f"0, GPU-1, {blank}, {blank}, {blank}, {blank}\n"

    sample = read("nvidia", text).samples[0]

    assert sample.memory_used_bytes is sample.utilisation_ratio is sample.power_watts is sample.temperature_celsius
    assert sample.power_watts is None


@pytest.mark.parametrize(
    ("cell", "held"),
    [("1 GiB", 1 << 30), ("32G", 32 << 30), ("5", 5 * MIB), ("7 kB", 7 << 10), ("3 apples", None), ("-4 MiB", None)],
)
def test_memory_is_bytes_whatever_its_unit(cell: str, held: int | None) -> None:
    assert read_bytes(cell) == held


def test_other_quantities_know_their_units() -> None:
    assert (read_watts("410250 mW"), read_watts("12.5"), read_watts("3 C")) == (410.25, 12.5, None)
    assert (read_celsius("40 ℃"), read_celsius("65535"), read_celsius("0")) == (40.0, None, 0.0)
    assert (read_megahertz("1.5 GHz"), read_megahertz("1500")) == (1500.0, 1500.0)
    assert (read_share("7 %"), read_share("101")) == (0.07, 1.01)


@pytest.mark.parametrize(
    ("vendor", "refused"),
    [
        ("nvidia", {"json": ("attestation", "topology")}),
        ("iluvatar", {}),
        ("thead", {"json": ("topology",)}),
        ("enflame", {}),
        ("kunlunxin", {}),
    ],
)
def test_every_real_recording_is_read_or_refused_with_words(vendor: str, refused: dict[str, tuple[str, ...]]) -> None:
    for path in sorted(recordings(vendor).rglob("*")):
        if not path.is_file():
            continue
        text = path.read_bytes().decode("utf-8-sig")
        useless = path.name == "SOURCE.txt" or path.suffix == ".yaml"
        useless = useless or any(word in str(path) for word in refused.get(path.suffix.lstrip("."), ()))
        if useless:
            with pytest.raises(AdapterError, match=r"\w"):
                read(vendor, text)
            continue
        reading = read(vendor, text)
        assert reading.devices, path
        assert {sample.uuid for sample in reading.samples} <= {device.uuid for device in reading.devices}
