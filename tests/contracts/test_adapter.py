"""The adapter port's promises, kept by every registered vendor, on hosts with and without its devices."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from adapters.accelerator import Accelerator, Source
from adapters.adapter import Adapter, AdapterError, Capability
from adapters.catalog import load_catalog
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
    from adapters.adapter import Reading

    reading = Reading(devices=(device(adapter.vendor, 0),), samples=())

    document = reading_document(reading, load_catalog())

    assert document["devices"][0]["serial"] is None
    assert document["devices"][0]["origin"] in {"domestic", "foreign", "undetermined"}
