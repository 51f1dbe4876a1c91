"""What adapters say of devices has a code and facts in both languages, and what nobody knows is shown as it was said."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import binding, efsmi, gpustack, pci, row, smi
from adapters.accelerator import Accelerator, Source
from adapters.agent import _doubted
from adapters.device_event import DeviceEvent, Severity
from adapters.device_problem import CODES, OTHER, coded
from adapters.fault import Faults
from api.texts import known, text

DEVICE = Accelerator(
    uuid="u", index=0, vendor="nvidia", model_raw="NVIDIA H800", pci_bdf="0000:1b:00.0", pci_device_id=0x2324, source=Source.LIBRARY
)  # fmt: skip
FUNCTION = pci.PciDevice(bdf="0000:1b:00.0", vendor_id=0x10DE, device_id=0x2324, class_code=0x0302, driver="nvidia")


def befallen(severity: Severity) -> str:
    faults = Faults()
    faults.note([DeviceEvent(uuid="u", at=datetime(2026, 6, 1, tzinfo=UTC), code="XID 79", severity=severity)])
    return faults.judge(DEVICE).problems[0]


@pytest.mark.parametrize(
    ("said", "code", "fact"),
    [
        (pci._doubts(DEVICE, None)[0], "NOT_ON_BUS", ("bdf", "0000:1b:00.0")),
        (pci._doubts(DEVICE, replace(FUNCTION, vendor_id=0x19E5))[0], "BUS_OTHER_VENDOR", ("holder", "ascend")),
        (pci._doubts(DEVICE, replace(FUNCTION, device_id=0x1111))[0], "BUS_OTHER_DEVICE", ("says", "2324")),
        (pci._doubts(DEVICE, replace(FUNCTION, class_code=0x0106))[0], "BUS_NO_ACCELERATOR", ("kind", "0106")),
        (pci._doubts(DEVICE, replace(FUNCTION, driver="amdgpu"))[0], "DRIVER_OF_ANOTHER", ("driver", "amdgpu")),
        (befallen(Severity.FATAL), "EVENT_FATAL", ("event", "XID 79")),
        (befallen(Severity.WARNING), "EVENT_WARNING", ("event", "XID 79")),
        (_doubted(DEVICE).problems[0], "NOT_READ_NOW", None),
        (smi.MIG_ON, "SPLIT_ON", None),
        (binding.SPLIT, "SPLIT", None),
        (gpustack.SPLIT, "SPLIT", None),
        (efsmi.RMA, "DUE_FOR_EXCHANGE", None),
        (row.NO_UUID, "NO_UUID", None),
        (row.NO_NAME, "NO_NAME", None),
        ("something new", OTHER, ("said", "something new")),
    ],
)
def test_what_adapters_say_has_a_code(said: str, code: str, fact: tuple[str, str] | None) -> None:
    problem = coded(said)
    assert (problem.code, problem.facts["said"]) == (code, said)
    if fact is not None:
        assert problem.facts[fact[0]] == fact[1]


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_words(code: str) -> None:
    assert known(f"device.problem.{code}")


@given(st.text(max_size=300))
def test_whatever_is_said_is_kept_and_never_fails(said: str) -> None:
    problem = coded(said)
    assert problem.facts["said"] == said
    for lang in ("zh", "en"):
        assert text(f"device.problem.{problem.code}", problem.facts, lang)
