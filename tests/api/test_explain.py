"""Explaining a number over HTTP and on the command line: to whom, in which words, and with which exit code."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from api import texts
from api.cli import main
from api.commands import explain as command
from api.commands.explain import said
from metering import checkpoint
from metering.explain_settlement import TOTALS
from metering.merkle import consistent, included, leaf_hash
from tests.api.service import FIRM, Service, running

FORMULAS = (
    *("fee", "device_time", "sum_of_lines", "sum_of_classes", "sum_of_jobs", "payable", "ceiling", "deduction_of_year"),
    *("class_share", "line_share", "available", "debits_posted", "debits_pending", "credits_posted", "credits_pending"),
    *("not_posted_yet", "within_hold", "left_of_hold", "net_price", "refund_share", "refund_pro_rata", "refunded_now"),
    *("refund_to_firm", "left_to_clear", "sum_of_items", "sum_of_payments", "left_to_pay", "within_left", "clawback"),
    *(
        "cleared_so_far",
        "due_by_the_books",
        "spoken_for",
        "sum_of_invoices",
        "sum_of_slips",
        "sum_of_contracts",
        "bought",
    ),
    *("domestic_bought", "granted", "completed_of_invoice", "completed", "model_part_completed", "best_other"),
    *("best_support", "lapsed", "tranche", "caps_beyond_one", "given_up", "cap_lacks", "within_shared", "lacks"),
    *("drawn_and_held", "returned_to_closed"),
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for every test that only reads, or only adds; it shadows the fixture of one service a test."""
    with running(tmp_path_factory.mktemp("explain")) as made:
        yield made


@pytest.fixture(scope="module")
def job(service: Service) -> str:
    """A settled job of the firm."""
    return settled(service)


def settled(service: Service) -> str:
    found = service.submit()
    service.run_to_end(found)
    return found


def altered(service: Service, *statements: str) -> None:
    """The store is edited behind the platform's back, its triggers dropped first."""
    connection = sqlite3.connect(service.services.settings.data_dir / "yisuan.db")
    triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for statement in (*(f"DROP TRIGGER {name}" for (name,) in triggers), *statements):
        connection.execute(statement)
    connection.commit()
    connection.close()


def sealed(service: Service) -> dict[str, Any]:
    """Another seal of the service's ledger, under its own key."""
    folder = service.services.settings.data_dir
    with service.services.database.write() as tx:
        return checkpoint.seal(
            tx,
            folder / "checkpoints.jsonl",
            service.clock.now(),
            "test",
            checkpoint.load_key(folder / "checkpoint.key"),
        )


# --- the routes -------------------------------------------------------------------------------------------------------


def test_what_a_statement_shows_is_what_its_explanation_says(service: Service, job: str) -> None:
    shown = service.get("firm", f"/v1/statements/jobs/{job}").json()["totals"]
    for name in TOTALS:
        answer = service.get("firm", f"/v1/explain?amount=statement:{job}%23{name}")
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert (found["version"], found["ok"]) == (1, True)
        assert found["tree"]["value"] == found["tree"]["recomputed"] == shown[name]


def test_every_account_of_the_ledger_and_every_listing_explains_itself(service: Service, job: str) -> None:
    del job
    for row in service.get("finance", "/v1/ledger").json()["accounts"]:
        found = service.get("finance", f"/v1/explain?amount={row['id']}").json()
        values = {n["title"].partition("#")[2]: n["value"] for n in found["tree"]["children"]}
        assert found["ok"], row["id"]
        assert all(values[name] == row[name] for name in values if name != "available")
        assert values.get("available") == row["available_fen"]
    for row in service.get(None, "/v1/listings").json()["items"]:
        found = service.get("firm", f"/v1/explain?amount=listing:{row['id']}").json()
        values = {n["title"].partition("#")[2]: n["value"] for n in found["tree"]["children"]}
        assert found["ok"]
        assert values == {name: row[name] for name in values}
        assert len(values) == 3


def test_a_firm_cannot_explain_anothers_numbers_nor_tell_that_they_exist(service: Service, job: str) -> None:
    for amount in (f"settlement:{job}:1", f"statement:{job}", f"statement-firm:{FIRM}", f"hold:{job}.1:2026:1",
                   f"room:{FIRM}:compute_voucher:2026", f"firm:{FIRM}:payable", "transfers:1"):  # fmt: skip
        answer = service.get("other", f"/v1/explain?amount={amount}")
        assert answer.status_code == 404, amount
        assert answer.json()["code"] == "AMOUNT_UNKNOWN"
        assert job not in answer.json()["facts"]["nearest"]
        assert service.get("finance", f"/v1/explain?amount={amount}").status_code == 200


@pytest.mark.parametrize(
    ("amount", "code", "nearest"),
    [
        ("settlement:JOB:7", "AMOUNT_UNKNOWN", "settlement:JOB:1"),
        ("settlement:JOB:1%23payable", "AMOUNT_FIELD_UNKNOWN", "payable_fen"),
        ("zzz", "AMOUNT_UNKNOWN", "settlement:JOB:N/LINE#payable_fen"),
        ("x%00y", "AMOUNT_UNKNOWN", "settlement:JOB:N/LINE#payable_fen"),
        ("%F0%9F%92%B0", "AMOUNT_UNKNOWN", "settlement:JOB:N/LINE#payable_fen"),
    ],
)
def test_an_unknown_amount_is_a_404_that_names_the_nearest(
    service: Service, job: str, amount: str, code: str, nearest: str
) -> None:
    answer = service.get("firm", f"/v1/explain?amount={amount.replace('JOB', job)}", Accept_Language="en")

    assert (answer.status_code, answer.json()["code"]) == (404, code)
    if "JOB:N" not in nearest:
        nearest = nearest.replace("JOB", job)
    assert answer.json()["facts"]["nearest"] == nearest
    assert nearest in answer.json()["detail"]


@pytest.mark.parametrize("query", ["", "?amount=", "?amount=" + "x" * 401, "?amount2=x"])
def test_a_question_without_an_amount_is_bad_input(service: Service, query: str) -> None:
    assert service.get("firm", f"/v1/explain{query}").status_code == 422


def test_an_alteration_shows_over_the_route(tmp_path: Path) -> None:
    with running(tmp_path) as own:
        job = settled(own)
        altered(own, "UPDATE usage_records SET end_ms = end_ms + 1 WHERE seq = 1")
        found = own.get("auditor", f"/v1/explain?amount=settlement:{job}:1/1%23fee_fen").json()
    leaves = {node["title"]: node["verified"] for node in found["tree"]["children"] if node["kind"] == "record"}

    assert not found["ok"]
    assert leaves.pop("usage_records:1") is False
    assert leaves
    assert all(leaves.values())


def test_the_running_platform_seals_by_itself_and_tells_its_key(service: Service, job: str) -> None:
    """An hour passed while the job ran; what the loop calls after each tick then seals."""
    assert job
    assert service.services.loop.on_tick is not None
    service.services.loop.on_tick(0.0)
    folder = service.services.settings.data_dir
    lines = checkpoint.read_file(folder / "checkpoints.jsonl")
    public = checkpoint.load_key(folder / "checkpoint.key").public

    assert {line["introduces"] for line in lines if "introduces" in line} == {public}
    assert any(line.get("reason") == "hour" and checkpoint.signed_by(line, public) for line in lines)


def test_a_proof_verifies_against_the_root_that_was_sealed(service: Service, job: str) -> None:
    del job
    roots = sealed(service)["roots"]
    answer = service.get("firm", "/v1/ledger/proofs/settlements/1")
    found = answer.json()
    path = [bytes.fromhex(step) for step in found["path"]]

    assert answer.status_code == 200
    assert found["root"] == roots["settlements"]["root"]
    assert included(leaf_hash(bytes.fromhex(found["hash"])), 0, found["size"], path, bytes.fromhex(found["root"]))
    assert "case_json" not in answer.text, "a proof tells hashes, never contents"


def test_two_seals_are_consistent_over_the_route(service: Service, job: str) -> None:
    first = sealed(service)
    service.submit("other")
    second = sealed(service)
    found = service.get("auditor", f"/v1/ledger/consistency?from={first['id']}&to={second['id']}").json()
    one = found["streams"]["job_events"]
    roots = [bytes.fromhex(each["roots"]["job_events"]["root"]) for each in (first, second)]

    assert one["from"] < one["to"]
    assert consistent(one["from"], roots[0], one["to"], roots[1], [bytes.fromhex(step) for step in one["path"]])
    assert service.get("auditor", f"/v1/ledger/consistency?from={first['id']}").json() == found
    assert job


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("proofs/nothing/1", 404, "STREAM_UNKNOWN"),
        ("proofs/api_keys/1", 404, "STREAM_UNKNOWN"),
        ("proofs/transfers/999999", 404, "RECORD_UNKNOWN"),
        ("proofs/transfers/0", 422, "INPUT_INVALID"),
        ("proofs/transfers/x", 422, "INPUT_INVALID"),
        ("proofs/transfers/99999999999999999999", 422, "INPUT_INVALID"),
        ("consistency?from=99999", 404, "CHECKPOINT_UNKNOWN"),
        ("consistency", 422, "INPUT_INVALID"),
        ("consistency?from=0", 422, "INPUT_INVALID"),
    ],
)
def test_what_cannot_be_proved_says_why(service: Service, path: str, status: int, code: str) -> None:
    answer = service.get("firm", f"/v1/ledger/{path}")

    assert (answer.status_code, answer.json()["code"]) == (status, code)


# --- the command --------------------------------------------------------------------------------------------------------


class Routes:
    """The client of a command, asking the service in this process."""

    def __init__(self, service: Service, who: str) -> None:
        self.service, self.who = service, who

    def get(self, path: str, **parameters: Any) -> Any:
        answer = self.service.client.get(path, headers=self.service.headers(self.who), params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def run(service: Service, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command against the shared service."""
    return runner(service, monkeypatch)


def runner(service: Service, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    @contextmanager
    def connected(role: str = "firm") -> Iterator[Routes]:
        yield Routes(service, role)

    monkeypatch.setattr(command, "connect", connected)

    def call(*arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(("explain", *arguments))
        return int(ended.value.code or 0)

    return call


def test_the_command_prints_the_tree_in_either_language(
    run: Callable[..., int], job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"settlement:{job}:1#payable_fen", "--lang", "en") == 0
    english = capsys.readouterr()
    assert run(f"settlement:{job}:1#payable_fen", "--lang", "zh") == 0
    chinese = capsys.readouterr()

    assert "= ¥96.00 (9600 fen)" in english.out
    assert "half_up(2000 × 8 × 3600000 × 1000 / (3600000 × 1000)) = 16000" in english.out
    assert "Clause 2.1.1 (" in english.out
    assert "第 2.1.1 条（" in chinese.out
    assert "✓ usage_records:1" in english.out
    assert "✗" not in english.out + chinese.out
    assert "explain." not in english.out + chinese.out, "a code without words"
    assert texts.text("cli.explain.ok", {}, "en") in english.err


def test_json_is_the_routes_document(
    run: Callable[..., int], service: Service, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"settlement:{job}:1", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out) == service.get("firm", f"/v1/explain?amount=settlement:{job}:1").json()


def test_an_altered_record_is_marked_and_the_exit_code_is_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(tmp_path) as own:
        job, run = settled(own), runner(own, monkeypatch)
        altered(own, "UPDATE settlement_lines SET fee_fen = fee_fen + 1 WHERE seq = 1")

        assert run(f"settlement:{job}:1/1#fee_fen", "--lang", "en") == 1
        shown = capsys.readouterr().out
        assert "but recomputed it is ¥160.00 (16000 fen)" in shown
        assert "✗ settlement_lines:1" in shown
        assert "altered: content does not match its hash" in shown
        assert run(f"settlement:{job}:1/1#fee_fen", "-o", "json") == 1


@pytest.mark.parametrize("arguments", [(), ("settlement:x:1", "-o", "csv")])
def test_bad_usage_is_exit_2(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr(command, "one", lambda *_a, **_k: {"ok": True, "tree": {}})

    assert run(*arguments) == 2


def test_the_schema_is_the_published_one(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--schema") == 0
    published = Path(__file__).parents[2] / "docs" / "schemas" / "explanation.json"
    assert json.loads(capsys.readouterr().out) == json.loads(published.read_text(encoding="utf-8"))


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_every_formula_and_note_has_words(lang: str) -> None:
    notes = ("more_records", "not_recomputed", "released", "bundle_unknown", "hold", "voucher.declined",
             "voucher.unclaimed", "voucher.frozen", "mismatch", "altered")  # fmt: skip
    for code in (*(f"explain.formula.{name}" for name in FORMULAS), *(f"explain.{name}" for name in notes)):
        assert texts.strict_text(code, {}, lang)


def test_every_formula_in_the_source_is_one_of_those_with_words() -> None:
    import re

    root = Path(__file__).parents[2] / "metering"
    source = "".join(path.read_text(encoding="utf-8") for path in root.glob("explain*.py"))
    found = set(re.findall(r'tree\.(?:arithmetic|total|difference|least|greatest|share_of)\(\s*"([a-z_]+)"', source))

    assert found
    assert found <= set(FORMULAS)


def test_an_unknown_value_is_a_dash() -> None:
    node: dict[str, Any] = {
        "kind": "parameter",
        "title": "k",
        "value": None,
        "unit": "word",
        "policy": "p",
        "bundle_sha256": "b",
        "children": [],
    }

    assert "—" in said(node)
