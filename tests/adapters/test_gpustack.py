"""gpustack's detector: one JSON form for every vendor, parts of split devices among them."""

from __future__ import annotations

import json

import pytest

from adapters.accelerator import Health, PartitionKind
from adapters.adapter import AdapterError
from adapters.catalog import load_catalog
from adapters.gpustack import is_detected, parse_detected
from tests.adapters.recorded import AT, recordings
from tests.adapters.tool_samples import DETECTED, DETECTED_DIES, DISTANCES

MIB = 1024 * 1024


def test_a_device_is_read_in_our_units() -> None:
    reading = parse_detected(DETECTED, AT, load_catalog(), "nvidia")

    device, sample = reading.devices[2], reading.samples[2]
    assert (device.uuid, device.index, device.model, device.pci_bdf) == ("GPU-1", 1, "H100", "0000:00:0b.0")
    assert (device.memory_total_bytes, device.power_limit_watts, device.numa_node) == (81559 * MIB, None, 1)
    assert (device.health, device.health_code, device.visible_id) == (Health.DEGRADED, "unhealthy", "GPU-1")
    assert (sample.utilisation_ratio, sample.memory_used_bytes) == (0.375, 482 * MIB)
    assert (sample.power_watts, sample.temperature_celsius, sample.at) == (73.0, 39.0, AT)


def test_a_split_device_is_listed_with_its_parts_whose_power_stays_the_boards() -> None:
    whole, part, _ = parse_detected(DETECTED, AT, load_catalog(), "nvidia").devices
    samples = parse_detected(DETECTED, AT, load_catalog(), "nvidia").samples

    assert (whole.uuid, whole.memory_total_bytes, whole.numa_node) == ("nvidia:0000:00:0a.0", None, None)
    assert any("split" in problem for problem in whole.problems)
    assert part.partition is not None
    assert (part.uuid, part.partition.kind, part.partition.profile) == ("MIG-1", PartitionKind.MIG, "1g.20gb")
    assert part.partition.parent_uuid == whole.uuid
    assert (part.memory_total_bytes, part.problems) == (20096 * MIB, ())
    assert [sample.power_watts for sample in samples[:2]] == [71.0, None]
    assert [sample.utilisation_ratio for sample in samples[:2]] == [None, 0.0]


def test_dies_of_one_card_share_a_package() -> None:
    reading = parse_detected(DETECTED_DIES, AT, load_catalog(), "ascend")

    assert {device.package_id for device in reading.devices} == {"16E96E64 00000000"}
    assert [device.visible_id for device in reading.devices] == ["0", "1"]
    assert [sample.power_watts for sample in reading.samples] == [None, None]


@pytest.mark.parametrize(
    ("text", "vendor", "words"),
    [
        (DISTANCES, "amd", "topology"),
        (DETECTED, "amd", "devices are of nvidia"),
        ("[]", "amd", "no JSON list of devices"),
        ("not JSON", "amd", "no JSON list of devices"),
        ("[" * 100000, "amd", "no JSON list of devices"),
    ],
)
def test_what_holds_no_device_of_the_vendor_is_refused(text: str, vendor: str, words: str) -> None:
    with pytest.raises(AdapterError, match=words):
        parse_detected(text, AT, load_catalog(), vendor)


def test_damaged_values_are_unknown_and_hide_no_device() -> None:
    entries = json.loads(DETECTED)
    entries[1] |= {
        "memory": -1,
        "memory_used": True,
        "power_used": "73",
        "temperature": 1e300,
        "cores_utilization": 400,
    }
    entries[1]["appendix"] = "none"

    reading = parse_detected(json.dumps(entries), AT, load_catalog(), "nvidia")

    device, sample = reading.devices[2], reading.samples[2]
    assert (device.memory_total_bytes, device.pci_bdf) == (None, None)
    assert (sample.memory_used_bytes, sample.power_watts, sample.temperature_celsius) == (None, None, None)
    assert sample.utilisation_ratio is None
    assert any("4.00 times" in problem for problem in device.problems)


def test_devices_of_others_in_the_file_are_told() -> None:
    both = json.dumps(json.loads(DETECTED) + json.loads(DETECTED_DIES))

    assert len(parse_detected(both, AT, load_catalog(), "ascend").devices) == 2
    assert (
        "devices of nvidia are in the file and not listed"
        in parse_detected(both, AT, load_catalog(), "ascend").problems
    )


def test_every_real_detection_is_read_and_every_topology_refused() -> None:
    folder = recordings()
    for path in sorted(folder.glob("*/gpustack-runtime/*.json")):
        text, vendor = path.read_text(encoding="utf-8"), path.parts[-3]
        assert is_detected(text)
        if path.name.startswith("topology"):
            with pytest.raises(AdapterError, match="topology"):
                parse_detected(text, AT, load_catalog(), vendor)
            continue
        reading = parse_detected(text, AT, load_catalog(), vendor)
        entries = json.loads(text)
        parts = sum(len(entry.get("appendix", {}).get("mig_devices", ())) for entry in entries)
        assert len(reading.devices) == len(entries) + parts
        named = {entry["uuid"]: entry for entry in entries if "uuid" in entry}
        for sample in reading.samples:
            if sample.uuid in named and named[sample.uuid]["power_used"] is not None:
                assert sample.power_watts == named[sample.uuid]["power_used"]
