"""The adapter port's promises, kept by every registered vendor, on hosts with and without its devices."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.accelerator import Accelerator, Source
from adapters.adapter import Adapter, AdapterError, Capability, Reading
from adapters.catalog import load_catalog
from adapters.command import run_tool
from adapters.reading import reading_document
from adapters.registry import load_adapter, vendors

pytestmark = pytest.mark.contract


@pytest.fixture(params=sorted(vendors()))
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return load_adapter(request.param)


def device(vendor: str, index: int) -> Accelerator:
    known = next((chip for chip in load_catalog() if chip.vendor == vendor), None)
    return Accelerator(
        uuid=f"{vendor}:0000:{index:02x}:00.0",
        index=index,
        vendor=vendor,
        model_raw="any",
        model=known.model if known else None,
        visible_id=str(index),
        source=Source.CLI,
    )


def test_it_speaks_the_port(adapter: Adapter) -> None:
    assert isinstance(adapter, Adapter)
    assert adapter.capabilities <= frozenset(Capability)


def test_it_is_registered_under_its_own_name(request: pytest.FixtureRequest, adapter: Adapter) -> None:
    assert adapter.vendor == request.node.callspec.params["adapter"]


def test_probe_never_raises_and_an_absence_has_a_reason(adapter: Adapter) -> None:
    probe = adapter.probe()

    assert probe.available == (probe.reason is None)


def test_inventory_and_samples_join_by_uuid_or_say_why_they_cannot(adapter: Adapter) -> None:
    if not adapter.probe().available:
        try:
            assert adapter.inventory() == ()
        except AdapterError as error:
            assert str(error)  # noqa: PT017  nothing here, said in either way
        return
    devices, samples = adapter.inventory(), adapter.samples()
    uuids = [found.uuid for found in devices]
    assert len(uuids) == len(set(uuids))
    assert {sample.uuid for sample in samples} <= set(uuids)
    assert all(sample.at.utcoffset() == timedelta(0) for sample in samples)
    assert all(found.memory_total_bytes != 0 for found in devices)
    assert adapter.samples([]) == ()
    assert {sample.uuid for sample in adapter.samples(uuids[:1])} <= set(uuids[:1])


def test_visibility_names_the_devices_in_order_and_no_others(adapter: Adapter) -> None:
    shown = adapter.visibility([device(adapter.vendor, 5), device(adapter.vendor, 2)])

    lists = [value for value in shown.values() if "," in value]
    assert lists
    assert set(lists) == {"5,2"}


def test_visibility_of_nothing_shows_nothing(adapter: Adapter) -> None:
    some = adapter.visibility([device(adapter.vendor, 3)])
    none = adapter.visibility([])

    assert none
    assert not any("3" in value for value in none.values())
    assert any("3" in value for value in some.values())


def test_visibility_leaves_the_devices_as_they_were(adapter: Adapter) -> None:
    given = [device(adapter.vendor, 1)]

    assert adapter.visibility(given) == adapter.visibility([replace(given[0])])
    assert given == [device(adapter.vendor, 1)]


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\xfe", b"not a recording\n", b"{}", b"<x/>", b"| NPU Name Health |\n"]
)
def test_a_file_that_is_no_recording_of_it_is_refused_with_words(
    adapter: Adapter, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "recording"
    path.write_bytes(content)

    with pytest.raises(AdapterError, match=r"\w"):
        adapter.parse_recording(path)


def test_a_missing_recording_is_an_adapter_error(adapter: Adapter, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="absent"):
        adapter.parse_recording(tmp_path / "absent")


def test_an_inventory_prints_as_a_document(adapter: Adapter) -> None:
    reading = Reading(devices=(device(adapter.vendor, 0),), samples=())

    document = reading_document(reading, load_catalog())

    assert document["devices"][0]["serial"] is None
    assert document["devices"][0]["origin"] in {"domestic", "foreign", "undetermined"}


# The one form of recording that every vendor's devices come in, and so the one in which all vendors can be compared.
MIB = 1024 * 1024
TOOLS = (
    *(
        "nvidia-smi",
        "npu-smi",
        "amd-smi",
        "rocm-smi",
        "hy-smi",
        "cnmon",
        "mthreads-gmi",
        "mx-smi",
        "xpu-smi",
        "xpu_smi",
    ),
    *("ixsmi", "efsmi", "brsmi", "ppu-smi"),
)
HARDWARE = [name for name in sorted(vendors()) if name != "simulated"]
BOUND_S = 30.0  # far below the ten minutes that a hanging tool sleeps here


def entry(vendor: str, index: int, **changes: Any) -> dict[str, Any]:
    held = {
        "manufacturer": vendor,
        "index": index,
        "name": "any",
        "uuid": f"U-{index}",
        "driver_version": "1.2",
        "cores_utilization": 40,
        "memory": 65536,
        "memory_used": 1024,
        "memory_status": "healthy",
        "temperature": 50,
        "power": 300,
        "power_used": 120.5,
        "appendix": {"bdf": f"0000:{index + 1:02x}:00.0"},
    }
    return held | changes


def detect(vendor: str, tmp_path: Path, *entries: Any) -> Reading:
    path = tmp_path / "detected.json"
    path.write_text(json.dumps(list(entries)), encoding="utf-8")
    return load_adapter(vendor).parse_recording(path)


@pytest.mark.parametrize("vendor", HARDWARE)
def test_every_vendor_converts_units_once(vendor: str, tmp_path: Path) -> None:
    reading = detect(vendor, tmp_path, entry(vendor, 0), entry(vendor, 1))

    assert [found.uuid for found in reading.devices] == ["U-0", "U-1"]
    assert {found.vendor for found in reading.devices} == {vendor}
    first, sample = reading.devices[0], reading.samples[0]
    assert (first.memory_total_bytes, first.power_limit_watts, first.pci_bdf) == (65536 * MIB, 300, "0000:01:00.0")
    assert (sample.utilisation_ratio, sample.memory_used_bytes) == (0.4, 1024 * MIB)
    assert (sample.power_watts, sample.temperature_celsius) == (120.5, 50)


@pytest.mark.parametrize("vendor", HARDWARE)
@pytest.mark.parametrize("blank", [None, "N/A", "", -1, 2**63 - 10, True, [], {}])
def test_every_vendor_keeps_the_unknown_unknown(vendor: str, blank: object, tmp_path: Path) -> None:
    fields = ("cores_utilization", "memory", "memory_used", "temperature", "power", "power_used", "driver_version")
    reading = detect(vendor, tmp_path, entry(vendor, 0, **dict.fromkeys(fields, blank)), entry(vendor, 1))

    blanked, sample = reading.devices[0], reading.samples[0]
    assert (blanked.memory_total_bytes, blanked.power_limit_watts, blanked.driver_version) == (None, None, None)
    assert sample.utilisation_ratio is sample.memory_used_bytes is sample.power_watts is sample.temperature_celsius
    assert sample.power_watts is None
    assert reading.samples[1].power_watts == 120.5


@pytest.mark.parametrize("vendor", HARDWARE)
def test_every_vendor_takes_a_printed_zero_for_a_zero(vendor: str, tmp_path: Path) -> None:
    sample = detect(vendor, tmp_path, entry(vendor, 0, cores_utilization=0, memory_used=0, power_used=0)).samples[0]

    assert (sample.utilisation_ratio, sample.memory_used_bytes, sample.power_watts) == (0, 0, 0)


@pytest.mark.parametrize("vendor", HARDWARE)
def test_every_vendor_doubts_what_cannot_be(vendor: str, tmp_path: Path) -> None:
    reading = detect(vendor, tmp_path, entry(vendor, 0, cores_utilization=140, memory_used=99999))

    assert (reading.samples[0].utilisation_ratio, reading.samples[0].memory_used_bytes) == (None, None)
    assert any("140" in problem or "1.40" in problem for problem in reading.devices[0].problems)


@pytest.mark.parametrize("vendor", HARDWARE)
def test_every_vendor_lists_one_bad_card_beside_its_siblings(vendor: str, tmp_path: Path) -> None:
    bad = {"manufacturer": vendor, "index": 1, "name": None, "uuid": None, "appendix": None}
    reading = detect(vendor, tmp_path, entry(vendor, 0), bad, entry(vendor, 2))

    assert [found.uuid for found in reading.devices] == ["U-0", f"{vendor}:index:1", "U-2"]
    assert reading.devices[1].problems
    assert [sample.power_watts for sample in reading.samples] == [120.5, None, 120.5]


@pytest.mark.parametrize("vendor", HARDWARE)
def test_every_vendor_says_when_a_uuid_comes_twice(vendor: str, tmp_path: Path) -> None:
    reading = detect(vendor, tmp_path, entry(vendor, 0), entry(vendor, 1, uuid="U-0"), entry(vendor, 2))

    uuids = [found.uuid for found in reading.devices]
    assert len(uuids) == len(set(uuids))
    assert {sample.uuid for sample in reading.samples} <= set(uuids)
    told = [*reading.problems, *(problem for found in reading.devices for problem in found.problems)]
    assert any("U-0" in problem for problem in told)


@pytest.mark.parametrize("vendor", HARDWARE)
def test_every_vendor_keeps_names_when_a_card_is_pulled_out(vendor: str, tmp_path: Path) -> None:
    left = detect(vendor, tmp_path, entry(vendor, 0), entry(vendor, 2))

    assert [found.uuid for found in left.devices] == ["U-0", "U-2"]
    assert [sample.uuid for sample in left.samples] == ["U-0", "U-2"]


@pytest.mark.parametrize("vendor", HARDWARE)
def test_every_vendor_refuses_anothers_devices(vendor: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"\w"):
        detect(vendor, tmp_path, entry("somebody-else", 0))


@pytest.mark.parametrize("vendor", HARDWARE)
@given(data=st.data())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_vendor_reads_or_refuses_a_damaged_recording(vendor: str, tmp_path: Path, data: st.DataObject) -> None:
    text = json.dumps([entry(vendor, 0), entry(vendor, 1)], indent=1)
    for _ in range(data.draw(st.integers(1, 4))):
        place, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 12))
        text = text[:place] + data.draw(st.text('0129-.,:{}[]"eN \x00é', max_size=3)) + text[place + length :]
    path = tmp_path / "damaged"
    path.write_text(text, encoding="utf-8")

    try:
        reading = load_adapter(vendor).parse_recording(path)
    except AdapterError as error:
        assert str(error)  # noqa: PT017  refusing is as right as reading; crashing is not
        return
    uuids = [found.uuid for found in reading.devices]
    assert len(uuids) == len(set(uuids))
    assert {sample.uuid for sample in reading.samples} <= set(uuids)
    assert all(found.memory_total_bytes != 0 for found in reading.devices)


@pytest.fixture(params=HARDWARE)
def absent(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Adapter:
    """An adapter whose devices are not on this host."""
    found = load_adapter(request.param)
    if found.probe().available:
        pytest.skip(f"{request.param} is on this host; its tool cannot be replaced")
    monkeypatch.setitem(run_tool.__kwdefaults__ or {}, "deadline_s", 0.3)
    return load_adapter(request.param)


def put_tools(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    for name in TOOLS:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_tool_that_hangs_is_an_error_at_its_deadline(
    absent: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_tools(tmp_path, monkeypatch, "exec sleep 600")
    started = time.monotonic()

    assert absent.probe().available
    with pytest.raises(AdapterError, match="no answer within"):
        absent.inventory()
    with pytest.raises(AdapterError, match="no answer within"):
        absent.samples()

    assert time.monotonic() - started < BOUND_S


@pytest.mark.parametrize(
    "script", ["exit 3", "echo gibberish", "true", "printf '\\377\\376'", "echo '[]'", "kill -SEGV $$"]
)
def test_a_tool_that_fails_or_raves_is_an_error_with_words(
    absent: Adapter, script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_tools(tmp_path, monkeypatch, script)

    with pytest.raises(AdapterError, match=r"\w"):
        absent.inventory()
