"""Every form of every tool-read vendor: real recordings where they are, damage that breaks nothing, blanks never zero."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.adapter import AdapterError, Reading
from adapters.tool import ToolAdapter
from adapters.vendors.amd import Amd
from adapters.vendors.ascend import Ascend
from adapters.vendors.cambricon import Cambricon
from adapters.vendors.hygon import Hygon
from adapters.vendors.intel import Intel
from adapters.vendors.metax import MetaX
from adapters.vendors.mthreads import MThreads
from tests.adapters import recorded, tool_samples
from tests.adapters.mutation import mutate
from tests.adapters.reading_of import read_text_as
from tests.adapters.recorded import recordings

SAMPLES: dict[str, tuple[type[ToolAdapter], tuple[str, ...]]] = {
    "amd": (Amd, ("ROCM_JSON", "ROCM_TABLE", "ROCM_NAMED", "AMD_ANSWERS")),
    "ascend": (
        Ascend,
        ("NPU_USAGES", "NPU_COMMON", "NPU_LOG", "NPU_PAGE", "DETECTED_DIES", "NPU_23", "NPU_A3", "NPU_BOARD"),
    ),
    "cambricon": (Cambricon, ("CNMON_5", "CNMON_4", "CNMON_INFO", "CNMON_JSON", "MLU_PAGE", "MLU_COLLECTED")),
    "hygon": (Hygon, ("HY_BROKEN", "HY_CSV", "HY_LINES", "HY_TABLE", "DCU_PAGE")),
    "intel": (Intel, ("XPU_DUMP", "XPU_DISCOVERY", "XPU_STATS", "XPU_HEALTH", "XPU_PROPERTIES", "XPU_BOXES")),
    "metax": (MetaX, ("MX_TABLE", "MX_OLD", "MX_LIST", "MX_MONITOR", "MX_PROCESSES", "MX_PAGE")),
    "mthreads": (MThreads, ("GMI_JSON", "GMI_TABLE", "GMI_TEXT")),
}
CASES = [(vendor, name) for vendor, (_, names) in SAMPLES.items() for name in names]

# Folder of a vendor → its files → how many devices; None: no tool output, refused with the words that follow.
REAL: dict[str, dict[str, int | str]] = {
    "amd/rocm-smi": {"mi100_rocm571.json": 6, "vega-20-WKS-GL-XE.json": 1},
    "ascend/npu-exporter": {"prometheus_metrics.prom": 8, "doc_sample_response.md": "quotes"},
    "cambricon/cndev-mock": {"mock.json": "mock", "cntopo.json": "mock"},
    "cambricon/cnmon": {"cnmon_v4.20.11_MLU370-X4_rows.txt": 1, "cnmon_v5.10.13_MLU370-X8.txt": 2},
    "cambricon/mlu-exporter": {"collect_metrics.json": 8, "metrics.yaml": "none of its known outputs"},
    "hygon/hy-smi": {
        "hy_smi_json_HCU_1.25.0.json": 1,
        "hy_smi_meminfo_text.txt": 3,
        "hy_smi_meminfo_text_old.txt": 2,
        "hy_smi_table_HCU.txt": 2,
        "rocm_smi_dcu_Z100_paddle.txt": 4,
        "rocm_smi_dcu_table.txt": 4,
    },
    "intel/xpu-smi": {"xpu_smi_dump.csv": 1},
    "metax/mx-smi": {
        "mx_smi_2.1.12_C500.txt": 2,
        "mx_smi_L.txt": 3,
        "mx_smi_dmon.csv": 2,
        "mx_smi_show_process.txt": 2,
    },
    "mthreads/mthreads-gmi": {"mthreads_gmi_q_json_S5000.json": 2, "mthreads_gmi_table_S5000.txt": 1},
}


def sample(name: str) -> str:
    return str(getattr(tool_samples, name, None) or getattr(recorded, name))


@pytest.mark.parametrize("folder", REAL)
def test_every_real_recording_is_read_or_refused_with_its_reason(folder: str) -> None:
    adapter = SAMPLES[folder.split("/")[0]][0]()
    known = REAL[folder]
    for path in sorted(recordings(*folder.split("/")).iterdir()):
        expected = known.get(path.name, "known outputs|neither the table")
        if isinstance(expected, str):
            with pytest.raises(AdapterError, match=expected):
                adapter.parse_recording(path)
            continue
        reading = adapter.parse_recording(path)
        assert len(reading.devices) == expected, path.name
        assert_sound(reading)


@pytest.mark.parametrize(("vendor", "name"), CASES)
def test_no_other_vendor_takes_a_recording_for_its_own_unseen(vendor: str, name: str) -> None:
    """A reading under another vendor's name is possible only for forms that AMD's and Hygon's tools share."""
    shared = {"amd": {"hygon"}, "hygon": {"amd"}}
    for other, (adapter, _) in SAMPLES.items():
        if other == vendor or other in shared.get(vendor, set()):
            continue
        with pytest.raises(AdapterError):
            read_text_as(adapter(), sample(name))


@pytest.mark.parametrize(("vendor", "name"), CASES)
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_damaged_recording_is_read_or_refused(vendor: str, name: str, data: st.DataObject) -> None:
    text = mutate(sample(name), data)

    try:
        reading = read_text_as(SAMPLES[vendor][0](), text)
    except AdapterError as error:
        assert str(error)  # noqa: PT017  refusing is as right as reading; crashing is not
        return
    assert_sound(reading)


@pytest.mark.parametrize(("vendor", "name"), CASES)
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_number_that_becomes_a_blank_becomes_no_zero(vendor: str, name: str, data: st.DataObject) -> None:
    text = sample(name)
    places = [match.span() for match in re.finditer(r"(?<![\w.:-])\d+(?:\.\d+)?(?![\w.:-])", text)]
    start, end = data.draw(st.sampled_from(places))
    blanked = text[:start] + data.draw(st.sampled_from(["N/A", "NA", "-", ""])) + text[end:]

    before = read_text_as(SAMPLES[vendor][0](), text)
    try:
        after = read_text_as(SAMPLES[vendor][0](), blanked)
    except AdapterError:
        return
    assert zeros(after) <= zeros(before)


@pytest.mark.parametrize(("vendor", "name"), CASES)
def test_carriage_returns_trailing_space_and_log_lines_change_nothing(vendor: str, name: str) -> None:
    adapter, text = SAMPLES[vendor][0](), sample(name)
    plain = read_text_as(adapter, text)
    worn = "\r\n".join(line + "  " for line in text.splitlines()) + "\r\n"

    assert read_text_as(adapter, worn) == plain


def zeros(reading: Reading) -> int:
    """How many readings are exactly 0."""
    names = ("utilisation_ratio", "memory_used_bytes", "power_watts", "temperature_celsius", "energy_joules_total")
    held = [getattr(one, name) for one in reading.samples for name in names]
    return sum(value == 0 for value in (*held, *(device.memory_total_bytes for device in reading.devices)))


def assert_sound(reading: Reading) -> None:
    uuids = [device.uuid for device in reading.devices]
    assert uuids
    assert len(uuids) == len(set(uuids))
    assert {found.uuid for found in reading.samples} <= set(uuids)
    assert all(device.memory_total_bytes != 0 for device in reading.devices)
    for found in reading.samples:
        assert found.utilisation_ratio is None or 0 <= found.utilisation_ratio <= 1
        assert found.memory_used_bytes is None or found.memory_used_bytes >= 0
        assert found.power_watts is None or 0 <= found.power_watts < float("inf")
    parents = {device.partition.parent_uuid for device in reading.devices if device.partition}
    assert parents <= set(uuids)


def test_a_huge_damaged_recording_is_refused_in_time(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    path.write_text("[{\n" * 20_000 + "GPU 0 | " * 20_000, encoding="utf-8")

    for adapter, _ in SAMPLES.values():
        with pytest.raises(AdapterError):
            adapter().parse_recording(path)
