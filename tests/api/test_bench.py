"""Benchmarks on record and on the listing: whose they may be, what is refused, what the public sees; and the command."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import insert, select, update

from adapters.bench.report import verify
from adapters.catalog import load_catalog
from adapters.chain import digest, timestamp
from api.cli import main
from metering.audit import audit
from metering.benchmark import measured
from metering.benchmark_schema import benchmarks
from metering.evidence_schema import evidence_records
from scheduler.schema import devices
from tests.api.service import PROVIDER, Service


def result(service: Service, uuid: str = "NPU-1", **more: Any) -> dict[str, Any]:
    """A result of a 910B3, whose catalogued peak is 313 TFLOPS, as `yisuan bench -o json` prints it."""
    found: dict[str, Any] = {
        "version": 1,
        "at": timestamp(service.clock.now()),
        "seed": 5,
        "seconds": 60.0,
        "stack": "torch",
        "backend": "npu",
        "versions": {"torch": "2.6.0", "torch_npu": "2.6.0"},
        "device": {
            "uuid": uuid,
            "vendor": "ascend",
            "model": "Ascend910B3",
            "model_raw": "910B3",
            "kind": "accelerator",
        },
        "host": {"name": "secret-host", "machine": "aarch64", "kernel": "5.10"},
        "measurements": [
            figure("gemm", "fp16", 250.0, "TFLOPS"),
            figure("gemm", "bf16", 240.0, "TFLOPS"),
            figure("memory_copy", None, 1000.0, "GB/s"),
            figure("memory_triad", None, 1100.0, "GB/s"),
        ],
        "problems": [],
        "log_sha256": "a" * 64,
    }
    return found | more


def figure(name: str, precision: str | None, value: float, unit: str) -> dict[str, Any]:
    spread = {"median": value, "p10": value, "p90": value, "repeats": 5, "peak": 1e9, "ratio_of_peak": 0.5}
    return {"name": name, "precision": precision, "value": value, "unit": unit, **spread, "log_sha256": "b" * 64}


@pytest.fixture
def zone(service: Service) -> Service:
    """The service with a pool of two real 910B3."""
    service.clock.advance(190 * 86_400)  # 8 December 2026: the model's band is in force
    body = {"id": "real", "provider": PROVIDER, "site": "bj1", "region": "beijing", "vendor": "ascend"}
    more = {"model": "Ascend910B3", "source": "library", "price_fen_per_device_hour": 2000}
    assert service.post("operator", "/v1/pools", {**body, **more}).status_code == 201
    given = [
        {
            "uuid": f"NPU-{n}",
            "index": n,
            "vendor": "ascend",
            "model": "Ascend910B3",
            "model_raw": "910B3",
            "memory_total_bytes": 64 << 30,
            "health": "ok",
            "source": "library",
        }
        for n in (1, 2)
    ]
    answer = service.post("operator", "/v1/nodes", {"id": "n1", "pool": "real", "devices": given})
    assert answer.status_code == 201, answer.text
    return service


def submit(zone: Service, document: Any, who: str = "agent") -> Any:
    return zone.post(who, "/v1/agents/benchmarks", {"document": document})


def listed(zone: Service, pool: str = "real") -> dict[str, Any]:
    return dict(zone.get(None, f"/v1/listings/{pool}").json())


def test_a_result_is_on_record_and_beside_the_nominal_figures(zone: Service) -> None:
    assert listed(zone)["measured"] is None
    document = result(zone)
    answer = submit(zone, document)

    assert answer.status_code == 201, answer.text
    assert answer.json() == {"seq": 1, "device": "NPU-1", "document_sha256": digest(document), "within": True}
    shown = listed(zone)
    at = document["at"]
    assert shown["measured"] == {
        "devices": 1,
        "fp16_tflops": 250.0,
        "memory_bandwidth_gbs": 1100.0,
        "oldest_at": at,
        "newest_at": at,
        "newest": {
            "device": "NPU-1", "document_sha256": digest(document), "log_sha256": document["log_sha256"],
        },
        "percent_of_peak": {"fp16_tflops": 79.9, "memory_bandwidth_gbs": 68.8},
    }  # fmt: skip
    chip = zone.services.catalog.get("Ascend910B3")
    assert chip is not None
    assert shown["nominal"] == {"fp16_tflops": chip.fp16_tflops, "memory_bandwidth_gbs": chip.memory_bandwidth_gbs}
    public = zone.get(None, "/v1/benchmarks").json()["items"]
    assert [one["document_sha256"] for one in public] == [digest(document)]
    assert "secret-host" not in json.dumps(public)


def test_the_last_result_of_a_device_counts_and_the_median_of_several(zone: Service) -> None:
    submit(zone, result(zone))
    zone.clock.advance(60)
    submit(zone, result(zone, measurements=[figure("gemm", "fp16", 260.0, "TFLOPS")]))
    submit(zone, result(zone, "NPU-2", measurements=[figure("gemm", "bf16", 280.0, "TFLOPS")]))

    shown = listed(zone)["measured"]
    assert (shown["devices"], shown["fp16_tflops"], shown["memory_bandwidth_gbs"]) == (2, 270.0, None)
    assert len(zone.get(None, "/v1/benchmarks").json()["items"]) == 2
    with zone.services.database.read() as tx:
        assert len(tx.execute(select(benchmarks)).all()) == 3, "what was recorded stays"


def test_a_figure_that_no_such_device_reaches_is_kept_reviewed_and_not_shown(zone: Service) -> None:
    answer = submit(zone, result(zone, measurements=[figure("gemm", "fp16", 5000.0, "TFLOPS")]))

    assert (answer.status_code, answer.json()["within"]) == (201, False)
    assert listed(zone)["measured"] is None
    reviews = zone.get("operator", "/v1/reviews").json()["items"]
    assert [r["code"] for r in reviews if r["subject"] == "NPU-1"] == ["FINGERPRINT_OUT_OF_BAND"]


def test_what_no_such_device_can_be_is_not_shown_before_any_band_is_in_force() -> None:
    at = "2026-06-01T04:00:00.000Z"
    told = {"pool": "p", "model": "Ascend910B3", "within": None, "at": at, "device": "d"}
    told |= {"document_sha256": "0" * 64, "log_sha256": "1" * 64}
    fast = {**told, "measurements": [figure("gemm", "fp16", 400.0, "TFLOPS"), figure("memory_copy", None, 1e4, "GB/s")]}
    fair = {**told, "measurements": [figure("gemm", "fp16", 313.0 * 1.05, "TFLOPS")]}

    assert measured([fast], load_catalog())["p"]["fp16_tflops"] is None
    assert measured([fast], load_catalog())["p"]["memory_bandwidth_gbs"] is None
    assert measured([fast, fair], load_catalog())["p"]["fp16_tflops"] == 313.0 * 1.05


def test_the_same_document_twice_is_one_record(zone: Service) -> None:
    document = result(zone)
    first, second = submit(zone, document), submit(zone, document, "operator")

    assert first.json() == second.json()
    with zone.services.database.read() as tx:
        assert len(tx.execute(select(benchmarks)).all()) == 1
        assert len(tx.execute(select(evidence_records)).all()) == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"device": {"uuid": "NPU-9", "model": "Ascend910B3", "kind": "accelerator"}}, "DEVICE_UNKNOWN"),
        ({"device": {"uuid": "NPU-1", "model": "Ascend910B3", "kind": "cpu"}}, "BENCHMARK_OF_PROCESSOR"),
        ({"device": {"uuid": "NPU-1", "model": "H800", "kind": "accelerator"}}, "BENCHMARK_OF_ANOTHER_MODEL"),
        ({"device": {"uuid": "NPU-1", "model": None, "kind": "accelerator"}}, "BENCHMARK_OF_ANOTHER_MODEL"),
    ],
)
def test_what_is_not_the_device_s_own_result_is_refused(zone: Service, change: dict[str, Any], code: str) -> None:
    answer = submit(zone, result(zone, **change))

    assert (answer.status_code, answer.json()["code"]) == (409, code)
    assert zone.get(None, "/v1/benchmarks").json()["items"] == []


def test_a_simulated_device_has_no_benchmark(zone: Service) -> None:
    """Neither a declared one, whatever the document says, nor in a ledger marked demo."""
    with zone.services.database.read() as tx:
        uuid = tx.execute(select(devices.c.uuid).where(devices.c.source == "simulated").order_by("uuid")).scalar()
    answer = submit(zone, result(zone, str(uuid)))

    assert (answer.status_code, answer.json()["code"]) == (409, "BENCHMARK_OF_SIMULATED")


@pytest.mark.parametrize(("days", "status"), [(-8, 409), (-6, 201), (1, 409)])
def test_a_result_is_of_these_days(zone: Service, days: int, status: int) -> None:
    at = timestamp(zone.clock.now() + timedelta(days=days))

    assert submit(zone, result(zone, at=at)).status_code == status


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"measurements": None}, {"log_sha256": "x"}, {"at": "yesterday"}, {"seed": -1}, {"device": {}},
        {"measurements": [figure("gemm", "fp16", -1.0, "TFLOPS")]}, {"measurements": [figure("gemm", "fp5", 1.0, "TFLOPS")]},
        {"measurements": [figure("gemm", "fp16", 1.0, "MFLOPS")]}, {"measurements": [figure("Gemm", "fp16", 1.0, "TFLOPS")]},
        {"measurements": [{**figure("gemm", "fp16", 1.0, "TFLOPS"), "value": True}]}, {"versions": {"torch": 2}},
    ],
)  # fmt: skip
def test_what_is_no_result_is_refused_with_a_pointer(zone: Service, change: dict[str, Any]) -> None:
    answer = submit(zone, result(zone, **change))

    assert answer.status_code == 422
    assert all(error["pointer"].startswith("/document") for error in answer.json()["errors"])


def test_a_device_that_became_another_model_shows_nothing_old(zone: Service) -> None:
    submit(zone, result(zone))
    with zone.services.database.write() as tx:
        tx.execute(update(devices).where(devices.c.uuid == "NPU-1").values(model="Ascend910B2"))

    assert listed(zone)["measured"] is None
    assert zone.get(None, "/v1/benchmarks").json()["items"] == []


def test_records_are_never_changed_and_the_audit_covers_them(zone: Service) -> None:
    submit(zone, result(zone))
    path = zone.services.settings.data_dir / "yisuan.db"
    assert audit(path).ok
    with pytest.raises(Exception, match="append-only"), zone.services.database.write() as tx:
        tx.execute(update(benchmarks).values(log_sha256="c" * 64))
    with zone.services.database.write() as tx:
        row = dict(tx.execute(select(benchmarks)).mappings().one())
        tx.execute(insert(benchmarks).values({**row, "seq": 2, "device": "NPU-2"}))
    assert not audit(path).ok


def test_nothing_measured_is_nothing_shown() -> None:
    assert measured([], load_catalog()) == {}


# --- the command ----------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_command_prints_a_document_and_keeps_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(
        capsys, "--stack", "numpy", "--seconds", "20", "--seed", "9", "--log", str(tmp_path), "-o", "json"
    )
    document = json.loads(out)
    log = tmp_path / f"{document['log_sha256']}.jsonl"

    assert code == 0, err
    assert (document["seed"], document["stack"], document["device"]["kind"]) == (9, "numpy", "cpu")
    assert verify(document, log.read_bytes()) == []
    assert str(log) in err


@pytest.mark.parametrize(("lang", "said"), [("zh", "矩阵乘"), ("en", "matrix product")])
def test_the_table_is_in_the_language(tmp_path: Path, capsys: pytest.CaptureFixture[str], lang: str, said: str) -> None:
    code, out, _ = run(capsys, "--stack", "numpy", "--seconds", "20", "--log", str(tmp_path), "--lang", lang)

    assert code == 0
    assert said in out


def test_a_challenge_is_answered_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--stack", "numpy", "--challenge", "nonce-0001", "-o", "yaml")
    answer = yaml.safe_load(out)

    assert code == 0
    assert (answer["nonce"], answer["size"], answer["depth"], len(answer["rows"])) == ("nonce-0001", 1024, 4, 1024)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--stack", "numpy", "--challenge", "short"), 2), (("--stack", "jax"), 2), (("--seconds", "1"), 2), (("--seed", "-1"), 2),
        (("--device", "GPU-not-here"), 2), (("--device", "all"), 3),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_said_and_exits_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int
) -> None:
    monkeypatch.setattr("adapters.registry.vendors", dict)
    ended, out, err = run(capsys, *arguments)

    assert (ended, out) == (code, "")
    assert err
