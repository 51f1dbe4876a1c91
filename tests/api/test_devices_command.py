"""`yisuan devices`: what the host has, compared with its bus; who uses it, and how it is joined."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from adapters import pci, registry, survey
from adapters.adapter import Adapter
from adapters.pci import PciDevice
from adapters.vendors.nvidia import Nvidia
from tests.adapters.nvml_stub import Host, build
from tests.api.test_cli import run

DRIVEN = {"vendor_id": 0x10DE, "device_id": 0x2324, "class_code": 0x0302, "driver": "nvidia", "numa_node": 1}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A bare host with one NVIDIA device on its bus that the library knows, and one passed through."""
    found = Host(tmp_path, monkeypatch)
    found.hold(2)
    library = str(build())
    real = registry.load_adapter

    def load(name: str) -> Adapter:
        return cast(Adapter, Nvidia(libraries=[library])) if name == "nvidia" else real(name)

    monkeypatch.setattr(registry, "load_adapter", load)
    seen = [PciDevice(bdf=f"0000:{number:02x}:00.0", **DRIVEN) for number in (0x1B, 0x1C)]  # type: ignore[arg-type]
    away: dict[str, Any] = {**DRIVEN, "driver": "vfio-pci"}
    huawei: dict[str, Any] = {**DRIVEN, "vendor_id": 0x19E5, "device_id": 0xD802, "class_code": 0x1200, "driver": None}
    more = (PciDevice(bdf="0000:1d:00.0", **away), PciDevice(bdf="0000:8d:00.0", **huawei))
    monkeypatch.setattr(pci, "scan", lambda: (*seen, *more))
    monkeypatch.setattr(survey, "_is_bare_metal", lambda: True)
    return found


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert run("devices", *words, "-o", "json") == 0
    return dict(json.loads(capsys.readouterr().out))


def test_live_devices_are_compared_with_the_bus(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    document = printed(capsys)

    assert [device["evidence_level"] for device in document["devices"]] == [2, 2]
    assert [device["problems"] for device in document["devices"]] == [[], []]
    assert [problem.split(" is present")[0] for problem in document["problems"]] == [
        "0000:1d:00.0: nvidia 10de:2324",
        "0000:8d:00.0: ascend 19e5:d802",
    ]
    assert list(document) == ["version", "devices", "samples", "problems"]


def test_of_vendors_that_were_not_asked_nothing_is_missed(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    problems = printed(capsys, "--vendor", "nvidia")["problems"]
    assert len(problems) == 1
    assert "vfio-pci" in problems[0]


def test_every_reading_is_printed_after_the_first_six(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    sample = printed(capsys, "--vendor", "nvidia")["samples"][0]

    assert list(sample)[:6] == [
        *("uuid", "at", "utilisation_ratio", "memory_used_bytes", "power_watts", "temperature_celsius")
    ]
    assert (sample["energy_joules_total"], sample["core_clock_mhz"], sample["throttled"]) == (
        5000.0, 1755, ["sw_power_cap"],
    )  # fmt: skip
    assert sample["health"] is None
    assert sample["raw_error"] is None


def test_parts_are_printed_with_their_parent(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.hold(1, {0: {"mig": 2}})
    devices = printed(capsys, "--vendor", "nvidia")["devices"]

    assert devices[0]["partition"] is None
    assert devices[0]["visible_id"] is None
    parts = [device["partition"] for device in devices[1:]]
    assert len(parts) == 2
    assert all(part["parent_uuid"] == devices[0]["uuid"] and part["kind"] == "mig" for part in parts)


def test_processes_and_links_are_printed_when_asked_for(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    document = printed(capsys, "--vendor", "nvidia", "--processes", "--links")

    assert {use["pid"] for use in document["processes"]} == {4242}
    assert [(link["a_uuid"], link["b_uuid"], link["nearness"]) for link in document["links"]] == [
        ("GPU-0", "GPU-1", "fabric")
    ]
    assert run("devices", "--vendor", "nvidia", "--processes", "--links") == 0
    assert "4242" in capsys.readouterr().out


def test_a_recording_has_neither_processes_nor_links(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r"
    path.write_text("{}")
    assert run("devices", "--vendor", "simulated", "--recording", str(path), "--links") == 2
    assert "--links" in capsys.readouterr().err
