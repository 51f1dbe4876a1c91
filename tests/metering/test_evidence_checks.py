"""What a device signs for itself, and what a benchmark of it says."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from adapters.catalog import load_catalog
from metering.attestation import TRUE, Attested, check_claims
from metering.fingerprint import BenchmarkInvalid, half_precision_tflops, judge
from tests.adapters.recorded import recordings

NONCE = "931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb"
NOW = datetime(2026, 12, 1, tzinfo=UTC)
CLAIMS: dict[str, Any] = {
    **dict.fromkeys(TRUE, True), "measres": "success", "eat_nonce": NONCE, "iss": "LOCAL_GPU_VERIFIER", "secboot": True,
    "dbgstat": "disabled", "ueid": "481858311570236547493498289839486179865867984732", "oemid": "5703",
    "hwmodel": "GH100 A01 GSP BROM", "nbf": 1727394219, "exp": 4880995383,
}  # fmt: skip


def checked(vendor: str = "nvidia", model: str | None = "H800", now: datetime = NOW, **changes: Any) -> Attested:
    claims = {name: value for name, value in {**CLAIMS, **changes}.items() if value is not ...}
    return check_claims(claims, nonce=NONCE, vendor=vendor, model=model, now=now)


def test_claims_in_order_hold() -> None:
    assert checked() == Attested((), ())
    assert checked(model="H100").holds


@pytest.mark.parametrize(
    "change",
    [
        *({name: value} for name in TRUE for value in (False, ...)),
        {"measres": "fail"}, {"eat_nonce": "0" * 64}, {"iss": "somebody"}, {"secboot": False}, {"dbgstat": "enabled"},
        {"ueid": ...}, {"oemid": "1"}, {"hwmodel": "TU104"}, {"hwmodel": ...},
    ],
)  # fmt: skip
def test_a_claim_that_is_missing_or_false_is_named(change: dict[str, Any]) -> None:
    found = checked(**change)
    assert (found.lacks, found.doubts) == (tuple(change), ())
    assert not found.holds


@pytest.mark.parametrize(
    ("at", "holds"), [(1727394218, False), (1727394219, True), (4880995382, True), (4880995383, False)]
)
def test_claims_hold_in_their_time(at: int, holds: bool) -> None:
    assert checked(now=datetime.fromtimestamp(at, UTC)).holds is holds


def test_another_chip_than_the_node_says_is_a_contradiction() -> None:
    assert checked(model="A100-80GB").doubts == ("ATTESTED_AS_ANOTHER_CHIP",)
    assert checked(vendor="ascend", model="Ascend910B3").doubts == ("ATTESTED_BY_ANOTHER_MAKER",)


def test_the_recorded_claims_of_nvidias_verifier_are_read() -> None:
    """They lack no claim; only their nonce was of that day."""
    claims = json.loads(
        (recordings("nvidia", "attestation") / "detached_claims_local.json").read_text(encoding="utf-8")
    )

    found = check_claims(claims, nonce=claims["eat_nonce"], vendor="nvidia", model="H100", now=NOW)
    assert found == Attested((), ())
    assert check_claims(claims, nonce="0" * 64, vendor="nvidia", model="H100", now=NOW).lacks == ("eat_nonce",)


# --- the benchmark --------------------------------------------------------------------------------


def result(*measurements: dict[str, Any]) -> dict[str, Any]:
    return {"version": 1, "measurements": list(measurements)}


def gemm(value: Any, precision: str = "fp16", unit: str = "TFLOPS", name: str = "gemm") -> dict[str, Any]:
    return {"name": name, "precision": precision, "value": value, "unit": unit, "log_sha256": "0" * 64}


@pytest.mark.parametrize(
    ("document", "tflops"),
    [
        (result(), None),
        (result(gemm(250.5)), 250.5),
        (result(gemm(200.0), gemm(260.0, "bf16"), gemm(900.0, "fp8")), 260.0),
        (result(gemm(250_000, unit="GFLOP/s")), 250.0),
        (result({"name": "gemm_fp16", "value": 5, "unit": "tflops"}), 5.0),
        (result(gemm(None)), None),
        (result(gemm(3000, name="memory_copy")), None),
        (result(gemm(19, "fp32"), gemm(500, "int8", "TOPS")), None),
    ],
)
def test_half_precision_is_found_in_a_result(document: dict[str, Any], tflops: float | None) -> None:
    assert half_precision_tflops(document) == tflops


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "measurements"), (result(5), r"measurements\[0\]"), (result(gemm("x")), "value"),  # type: ignore[arg-type]
        (result(gemm(True)), "value"), (result(gemm(float("nan"))), "value"), (result(gemm(-1)), "value"),
        (result(gemm(1, unit="GB/s")), "unit"),
    ],
)  # fmt: skip
def test_what_is_no_result_is_named(document: dict[str, Any], said: str) -> None:
    with pytest.raises(BenchmarkInvalid, match=said):
        half_precision_tflops(document)


@pytest.mark.parametrize(
    ("percent", "within"), [(19.99, False), (20, True), (100, True), (105, True), (105.01, False), (0, False)]
)
def test_both_ends_of_the_band_are_inside(percent: float, within: bool) -> None:
    chip = load_catalog().get("H800")
    assert chip is not None
    assert chip.fp16_tflops is not None
    assert judge(chip.fp16_tflops * percent / 100, chip, 20, 105)["within"] is within


def test_without_a_peak_a_band_or_a_measurement_nothing_is_said() -> None:
    catalog = load_catalog()
    bare = next(chip for chip in catalog if chip.fp16_tflops is None)
    assert judge(100.0, bare, 20, 105)["within"] is None
    assert judge(100.0, None, 20, 105)["within"] is None
    assert judge(None, catalog.get("H800"), 20, 105)["within"] is None
    assert judge(100.0, catalog.get("H800"), None, None)["within"] is None


def test_a_die_is_measured_against_its_share_of_the_package() -> None:
    double = next(chip for chip in load_catalog() if chip.dies == 2 and chip.fp16_tflops)
    assert double.fp16_tflops is not None
    assert judge(double.fp16_tflops / 2, double, 95, 105)["within"] is True
