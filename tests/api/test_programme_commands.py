"""The commands of papers, clearing, review and programmes: a whole journey by hand, every form, bad input, exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from api.cli import main
from api.client import Client
from api.commands import clearing, money, papers, programmes, zone
from api.commands.console import Failure
from api.texts import known
from metering.disputes import REASONS
from metering.ledger import Programme
from metering.lifecycle import MACHINES
from metering.support import MODEL_USES
from scheduler.duration import format_money
from tests.api.paperwork import Paperwork
from tests.api.service import FIRM, PROVIDER, Service

Run = Callable[..., int]
CONTRACT = f"""\
id: C-1
number: 合-2024-1
programme: compute_voucher
buyer: {FIRM}
seller: {PROVIDER}
signed_on: 2024-03-28
from: 2024-03-28T00:00:00+08:00
to: 2027-12-31T00:00:00+08:00
amount_fen: 1000000.50 CNY
tax_basis: tax_included
items:
  - {{description: 算力, model: Ascend910B3, quantity: 1, amount_fen: 1000000.5 CNY, domestic: true}}
"""
FORMS: dict[str, Mapping[str, str]] = {
    "contract": papers.PAPER,
    "invoice": papers.PAPER,
    "slip": papers.PAPER,
    "clearing": clearing.CLEARING,
    "dispute": clearing.DISPUTE,
    "clawback": clearing.CLAWBACK,
    "subsidy": programmes.SUBSIDY,
    "model-voucher": programmes.MODEL_VOUCHER,
    "voucher": money.RIGHT,
    "review": zone.REVIEW,
}


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [n for n in os.environ if n.startswith("YISUAN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("YISUAN_SERVER", "http://127.0.0.1:9")
    monkeypatch.setenv("YISUAN_LANG", "en")


@pytest.fixture
def run(service: Service, monkeypatch: pytest.MonkeyPatch) -> Run:
    """run(who, *arguments): the exit code of a command with that key, against the service of the test."""

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode()
        found = service.client.request(request.method, path, headers=dict(request.headers), content=request.content)
        return httpx.Response(found.status_code, headers={"content-type": "application/json"}, content=found.content)

    real, transport = httpx.Client, httpx.MockTransport(answer)
    monkeypatch.setattr(httpx, "Client", lambda **given: real(**{**given, "transport": transport}))

    def call(who: str, *arguments: str) -> int:
        monkeypatch.setenv("YISUAN_KEY", service.keys[who])
        return exit_of(*arguments)

    return call


@pytest.fixture
def paperwork(service: Service) -> Paperwork:
    return Paperwork(service)


def exit_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def written(path: Path, content: Any) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def facts_of(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


# --- the journey --------------------------------------------------------------------------------------------------


def test_from_the_contract_to_the_payment_by_hand(
    run: Run, paperwork: Paperwork, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = paperwork.run()
    settlement = paperwork.settlement(job)

    assert run("operator", "contract", "add", written(tmp_path / "c.yaml", CONTRACT)) == 0
    assert "¥1,000,000.50" in capsys.readouterr().out, "read exactly to the fen"
    assert run("provider", "invoice", "add", written(tmp_path / "i.json", paperwork.bill_body(job))) == 0
    capsys.readouterr()
    assert run("firm", "clearing", "why", settlement) == 0
    told = capsys.readouterr().out
    assert "FIRM_SHARE_UNPAID" in told
    assert "DECLARATION_MISSING" in told
    paperwork.declare()
    slip = {**paperwork.slip_body(), "amount_fen": "96.00 CNY"}
    assert run("firm", "slip", "add", written(tmp_path / "s.yaml", yaml.safe_dump(slip))) == 1, "nobody's own word"
    assert "ROLE_NOT_ALLOWED" in capsys.readouterr().err
    assert run("operator", "slip", "add", written(tmp_path / "s.yaml", yaml.safe_dump(slip))) == 0
    assert "¥96.00" in capsys.readouterr().out

    assert run("operator", "clearing", "verify", settlement) == 0
    capsys.readouterr()
    assert run("operator", "clearing", "build", PROVIDER, "2026", "-o", "json") == 0
    batch = facts_of(capsys)["id"]
    assert run("operator", "clearing", "submit", batch) == 0
    assert run("reviewer", "clearing", "send-back", batch, "--reason", "wrong year") == 0
    assert run("operator", "clearing", "abandon", batch, "--reason", "sent back") == 0
    capsys.readouterr()
    assert run("operator", "clearing", "build", PROVIDER, "2026", "-o", "json") == 0
    batch = facts_of(capsys)["id"]
    assert run("operator", "clearing", "submit", batch) == 0
    assert run("reviewer", "clearing", "approve", batch) == 0
    assert "¥64.00" in capsys.readouterr().out
    assert run("finance", "clearing", "pay", batch, "64.00 CNY", "--reference", "T-1") == 0
    assert run("finance", "clearing", "returned", batch, "--reference", "T-1", "--reason", "wrong account") == 0
    assert run("finance", "clearing", "pay", batch, "64 CNY", "--reference", "T-2") == 0
    assert run("finance", "clearing", "reconcile", batch) == 0
    capsys.readouterr()

    assert run("provider", "clearing", "show", batch, "-o", "json") == 0
    shown = facts_of(capsys)
    assert (shown["state"], shown["left_fen"]) == ("reconciled", 0)
    assert [payment["amount_fen"] for payment in shown["payments"]] == [6_400, 6_400, 6_400]
    assert run("provider", "clearing", "show", batch) == 0
    told = capsys.readouterr().out
    assert all(part in told for part in (settlement, "INV-1", "S-1", "T-2", "wrong account", "¥160.00", "¥96.00"))
    assert run("auditor", "clearing", "-o", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["state"] for row in rows] == ["abandoned", "reconciled"]


def test_a_dispute_a_refund_and_what_comes_back(
    run: Run, paperwork: Paperwork, capsys: pytest.CaptureFixture[str]
) -> None:
    job = paperwork.ready()
    paperwork.clear()
    settlement = paperwork.settlement(job)
    assert run("firm", "dispute", "open", settlement, "an hour too many", "--code", "quantity", "-o", "json") == 0
    dispute = facts_of(capsys)["id"]
    assert run("firm", "dispute", "uphold", dispute, "--reason", "mine") == 1
    assert run("operator", "dispute", "uphold", dispute, "--reason", "measured again") == 0
    capsys.readouterr()
    assert run("firm", "dispute") == 0
    told = capsys.readouterr().out
    assert "the quantity" in told
    assert "an hour too many" in told

    assert run("operator", "refund", job, "10.01 CNY", "--reason", "an hour", "-o", "json") == 0
    assert facts_of(capsys)["returned_fen"] == 1_001
    assert run("operator", "refund", "train", "0.99 CNY", "--reason", "loyal", "--rebate") == 0
    assert "¥11.00" in capsys.readouterr().out, "what has gone back of the job so far"
    assert run("provider", "clawback", "-o", "json") == 0
    cases = facts_of(capsys)
    live = [case for case in cases if case["state"] == "opened"]
    assert sum(case["amount_fen"] for case in live) == 440, "of 160.00 the voucher paid 64.00, of 149.00 it owes 59.60"
    case = live[0]["id"]
    assert run("operator", "clawback", "notice", case) == 0
    assert run("reviewer", "clawback", "confirm", case, "--reason", "paid before the refund") == 0
    assert run("reviewer", "clawback", "write-off", case, "--reason", "below the limit") == 0
    assert "written off" in capsys.readouterr().out
    assert run("operator", "clawback") == 0
    assert "refunded" in capsys.readouterr().out


def test_an_approved_batch_goes_on_without_a_settlement(
    run: Run, paperwork: Paperwork, capsys: pytest.CaptureFixture[str]
) -> None:
    settlement = paperwork.settlement(paperwork.ready())
    batch = paperwork.batch()
    assert run("reviewer", "clearing", "approve", batch) == 0
    assert run("operator", "clearing", "withdraw", batch, settlement, "--reason", "measured twice") == 1
    assert "ACT_NOT_YOURS" in capsys.readouterr().err
    assert run("reviewer", "clearing", "withdraw", batch, settlement, "--reason", "measured twice") == 0
    assert "¥0.00" in capsys.readouterr().out, "it comes to nothing now, which is known"
    assert run("provider", "clearing", "show", batch) == 0
    told = capsys.readouterr().out
    assert all(part in told for part in ("one settlement withdrawn", "settled in full", "measured twice"))
    assert run("firm", "clearing", "why", settlement) == 0
    assert "verified" in capsys.readouterr().out
    assert run("reviewer", "clearing", "withdraw", batch, settlement, "--reason", "again") == 1


def test_a_correction_shows_both_settlements(
    run: Run, paperwork: Paperwork, capsys: pytest.CaptureFixture[str]
) -> None:
    job = paperwork.run()
    assert run("operator", "correct", job, "--reason", "related") == 1
    assert "NOTHING_TO_CORRECT" in capsys.readouterr().err
    related = {"provider": PROVIDER, "firm": FIRM, "fact": "related", "from": "2024-03-28T00:00:00+08:00"}
    paperwork.do("operator", "/v1/relations", related)

    assert run("operator", "correct", job, "--reason", "related", "-o", "csv") == 0
    before, after = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (before["deduction_fen"], after["deduction_fen"]) == ("6400", "0")
    assert (before["which"], after["which"]) == ("before", "after")


def test_review_lists_the_actions_of_each_item_and_takes_one(
    run: Run, paperwork: Paperwork, capsys: pytest.CaptureFixture[str]
) -> None:
    body = {"settlement": paperwork.settlement(paperwork.run()), "code": "quantity", "text": "why"}
    paperwork.do("firm", "/v1/disputes", body)
    assert run("reviewer", "review", "-o", "json") == 0
    [item] = [each for each in facts_of(capsys) if each["code"] == "DISPUTE_OPENED"]
    assert run("reviewer", "review") == 0
    assert "upheld, dismissed, withdrawn" in capsys.readouterr().out

    assert run("reviewer", "review", "answer", item["id"], "dismised", "--reason", "measured twice") == 1
    assert "dismissed" in capsys.readouterr().err, "the nearest action is named"
    assert run("reviewer", "review", "answer", item["id"], "dismissed", "--reason", "measured twice") == 0
    capsys.readouterr()
    assert run("auditor", "review", "--closed") == 0
    assert "measured twice" in capsys.readouterr().out


def test_freezing_and_unfreezing(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("operator", "freeze", "compute-voucher", "--reason", "odd prices") == 0
    capsys.readouterr()
    assert run("firm", "programmes", "-o", "json") == 0
    states = {item["programme"]: item["state"] for item in facts_of(capsys)}
    assert states == {"compute_voucher": "frozen", "server_subsidy": "open", "model_voucher": "open"}
    assert run("operator", "unfreeze", "compute_voucher", "--reason", "checked") == 1
    assert run("reviewer", "unfreeze", "compute_voucher", "--reason", "checked") == 0
    assert run("operator", "freeze", "nothing", "--reason", "x") == 1
    assert run("operator", "voucher", "freeze", FIRM, "--reason", "under review") == 0
    assert run("reviewer", "voucher", "unfreeze", FIRM, "--reason", "cleared") == 0
    capsys.readouterr()
    assert run("reviewer", "voucher", "revoke", FIRM, "--reason", "moved away", "-o", "json") == 0
    assert facts_of(capsys)["state"] == "revoked"
    assert run("firm", "voucher", "freeze", FIRM, "--reason", "x") == 1
    assert run("firm", "voucher") == 0


def test_a_project_and_an_application_from_their_own_side(
    run: Run, paperwork: Paperwork, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [{"description": "s", "model": "Ascend910B3", "quantity": 1, "amount_fen": 1_000, "domestic": True}]
    assert run("provider", "subsidy", "draft", "P-1", "hall one") == 0
    paperwork.purchase(items)
    paperwork.purchase(items, identity="C-T")
    assert run("operator", "subsidy", "act", "P-1", "verify-contract") == 0
    assert run("operator", "subsidy", "act", "P-1", "deliver") == 1, "no invoice, no payment, no serial"
    serial = {"serial": "SN-1", "contract": "C-S", "model": "Ascend910B3", "device": "nowhere"}
    capsys.readouterr()
    assert run("provider", "subsidy", "serial", "P-1", written(tmp_path / "sn.json", serial)) == 1
    assert "DEVICE_UNKNOWN" in capsys.readouterr().err
    assert run("provider", "subsidy", "show", "P-1") == 0
    told = capsys.readouterr().out
    assert all(part in told for part in ("hall one", "C-S, C-T", "¥10.00", "2.1.2"))
    assert run("auditor", "subsidy", "-o", "json") == 0
    assert [project["state"] for project in facts_of(capsys)] == ["contract_verified"]

    paperwork.contract("C-M", programme="model_voucher", amount_fen=100_000)
    body = {"id": "A-1", "contract": "C-M", "use": "api_calls", "model": "m", "controlled": {"sha256": "b" * 64}}
    assert run("firm", "model-voucher", "apply", written(tmp_path / "a.json", body)) == 0
    paperwork.do("provider", "/v1/invoices", paperwork.bill_body(number="INV-M", contract="C-M", amount_fen=100_000))
    paperwork.pay_share("INV-M", 60_001, "S-M")
    assert run("operator", "model-voucher", "act", "A-1", "verify") == 0
    assert run("reviewer", "model-voucher", "act", "A-1", "approve") == 0
    assert run("finance", "model-voucher", "act", "A-1", "pay") == 1
    assert run("finance", "model-voucher", "act", "A-1", "pay", "--reference", "T-M") == 0
    capsys.readouterr()
    assert run("firm", "model-voucher", "show", "A-1") == 0
    told = capsys.readouterr().out
    assert "¥300.00" in told, "half, rounded down"
    assert "50%" in told
    assert run("firm", "model-voucher", "show", "A-2") == 1
    assert run("other", "model-voucher", "show", "A-1") == 1
    capsys.readouterr()
    assert run("other", "model-voucher", "-o", "json") == 0
    assert facts_of(capsys) == []


def test_contracts_are_shown_with_their_items_and_only_to_their_parties(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "c.yaml", CONTRACT)
    assert run("operator", "contract", "add", file) == 0
    assert run("operator", "contract", "add", file) == 0, "the very same again changes nothing"
    assert run("operator", "contract", "add", written(tmp_path / "d.yaml", CONTRACT.replace("000.50", "000.5"))) == 0
    assert run("operator", "contract", "add", written(tmp_path / "e.yaml", CONTRACT.replace("000.5", "000.6"))) == 1
    capsys.readouterr()
    assert run("firm", "contract", "C-1") == 0
    assert "算力" in capsys.readouterr().out
    assert run("other", "contract", "C-1") == 1
    capsys.readouterr()
    assert run("other", "contract") == 0
    assert capsys.readouterr().out == ""
    for path in ("invoice", "slip"):
        assert run("auditor", path, "-o", "json") == 0
        assert facts_of(capsys) == []


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_money_is_right_aligned_and_has_two_decimals(
    run: Run, paperwork: Paperwork, lang: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paperwork.contract("C-1", amount_fen=5)
    paperwork.contract("C-2", amount_fen=10**9)
    assert run("operator", "contract", "--lang", lang) == 0
    lines = capsys.readouterr().out.splitlines()
    small, large = (next(line for line in lines if identity in line) for identity in ("C-1", "C-2"))
    assert small.rindex("¥0.05") + len("¥0.05") == large.rindex("¥10,000,000.00") + len("¥10,000,000.00")


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("contract", "add"),
        ("contract", "add", "/nope.yaml"),
        ("contract", "C-1", "more"),
        ("contract", ""),
        ("contract", ".."),
        ("clearing", "approve", "."),
        ("freeze", "..", "--reason", "x"),
        ("invoice", "edit"),
        ("slip", "add", "a.yaml", "b.yaml"),
        ("clearing", "pay", "b", "12.345 CNY", "--reference", "T"),
        ("clearing", "pay", "b", "12.34", "--reference", "T"),
        ("clearing", "pay", "b", "-1 CNY", "--reference", "T"),
        ("clearing", "pay", "b", "12.34 CNY"),
        ("clearing", "build", PROVIDER, "26"),
        ("clearing", "build", PROVIDER, "２０２６"),
        ("clearing", "send-back", "b"),
        ("clearing", "withdraw", "b", "s"),
        ("clearing", "withdraw", "b", "--reason", "x"),
        ("clearing", "approve", "b", "--reference", "T"),
        ("clearing", "show", " "),
        ("clearing", "list", "b"),
        ("dispute", "open", "s", "text"),
        ("dispute", "list", "--code", "quantity"),
        ("refund", "j", "ten CNY", "--reason", "x"),
        ("refund", "j", "10 CNY"),
        ("correct", "j"),
        ("clawback", "repay", "c"),
        ("review", "answer", "r", "passed"),
        ("review", "answer", "r", "passed", "--reason", "x", "--closed"),
        ("subsidy", "draft", "P-1"),
        ("model-voucher", "apply"),
        ("voucher", "freeze", FIRM),
        ("voucher", "freeze", FIRM, "--reason", "x", "--claim"),
        ("voucher", "thaw", FIRM),
        ("freeze", "compute_voucher"),
        ("unfreeze",),
    ],
)
def test_bad_input_exits_2_before_anything_is_sent(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(self: Client, *_: Any, **__: Any) -> None:
        raise AssertionError("the server was asked")

    monkeypatch.setattr(Client, "_answer", asked)
    assert exit_of(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("- a\n", "not a mapping"),
        ("id: 1\nid: 2\n", "duplicate key"),
        ("id: [\n", "strict YAML"),
        ("amount_fen: 12.345 CNY\n", "12.345 CNY"),
        ("items: [{amount_fen: ten}]\n", "ten"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_a_bad_file_exits_2_and_says_what_is_wrong_with_it(
    content: str | bytes, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert exit_of("contract", "add", str(file)) == 2
    assert named in capsys.readouterr().err


def test_what_the_server_finds_malformed_exits_2_and_names_the_field(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("operator", "contract", "add", written(tmp_path / "c.yaml", CONTRACT.replace("buyer", "byer"))) == 2
    assert "/byer" in capsys.readouterr().err
    assert run("firm", "dispute", "open", "s", "text", "--code", "price") == 2
    assert "/code" in capsys.readouterr().err


def test_a_misspelt_action_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("clearing", "aprove", "b") == 2
    assert "approve" in capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize("command", ["contract", "clearing", "dispute", "clawback", "review", "subsidy", "programmes"])
def test_without_a_server_they_exit_3(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of(command) == 3
    assert capsys.readouterr().out == ""


def test_an_id_is_one_part_of_a_path_whatever_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path.decode())
        return httpx.Response(404, json={"code": "NOT_FOUND", "detail": "nothing here"})

    real, transport = httpx.Client, httpx.MockTransport(answer)
    monkeypatch.setattr(httpx, "Client", lambda **given: real(**{**given, "transport": transport}))
    assert exit_of("clearing", "approve", "b/../acts?x=1#y") == 1
    assert seen == ["/v1/clearing/b%2F..%2Facts%3Fx%3D1%23y/acts"]


# --- laws ---------------------------------------------------------------------------------------------------------


@given(st.integers(min_value=0, max_value=2**53 - 1))
def test_an_amount_is_read_exactly_to_the_fen(fen: int) -> None:
    assert papers.fen_of(format_money(fen)) == fen


@given(st.text(max_size=12) | st.from_regex(r"[-+ ]?\d{0,3}[.,]?\d{0,3} ?(CNY|cny)?"))
def test_an_amount_is_read_or_refused_and_never_guessed(spelled: str) -> None:
    if re.fullmatch(r"\s*\d+(\.\d{1,2})?\s*CNY\s*", spelled):
        assert papers.fen_of(spelled) >= 0
        return
    with pytest.raises(Failure) as refused:
        papers.fen_of(spelled)
    assert refused.value.code == 2


@given(st.sampled_from(sorted(FORMS)), st.lists(st.text(max_size=3), max_size=4), st.data())
def test_only_the_right_number_of_words_is_taken(command: str, words: list[str], data: st.DataObject) -> None:
    forms = FORMS[command]
    action = data.draw(st.sampled_from(sorted(forms)))
    wanted = papers.OPTION.sub("", forms[action]).split()
    options = {name: "x" for _, name in papers.OPTION.findall(forms[action])}
    if len(words) == len(wanted) and all(word.strip() for word in words):
        assert papers.take(command, forms, action, words, **options) == words
        return
    with pytest.raises(Failure) as refused:
        papers.take(command, forms, action, words, **options)
    assert refused.value.code == 2


@pytest.mark.parametrize("command", FORMS)
def test_the_help_of_a_command_names_every_form(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of(command, "--help") == 0
    told = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for action, form in FORMS[command].items():
        assert [line for line in told if f"{line}  ".startswith(f"{action} {form}".strip() + "  ")], action


def test_every_state_act_reason_and_use_that_is_shown_has_words() -> None:
    wanted = [f"document.act.{name}" for machine in MACHINES.values() for name in machine]
    wanted += [
        f"document.state.{step.after}" for machine in MACHINES.values() for step in machine.values() if step.after
    ]
    wanted += [f"role.{role}" for machine in MACHINES.values() for step in machine.values() for role in step.roles]
    wanted += [f"dispute.{reason}" for reason in REASONS] + [f"model.{use}" for use in MODEL_USES]
    wanted += [f"voucher.programme.{each.value}" for each in Programme] + ["programme.open", "programme.frozen"]
    wanted += [f"column.{kind}" for kind in ("items", "payments", "before", "after", "contract", "slip", "serial")]
    assert sorted({code for code in wanted if not known(code)}) == []
