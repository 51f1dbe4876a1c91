"""Documents and exports over HTTP and on the command line: who may have whose, in which form, and what is refused."""

from __future__ import annotations

import csv
import io
import re
import sys
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from beancount import loader

from api.cli import main
from api.routes.documents import file_name
from metering.focus import COLUMNS
from tests.api import sheets
from tests.api.service import FIRM, OTHER, PROVIDER, Service

MEDIA = {
    "html": ("text/html; charset=utf-8", b"<!doctype html>"),
    "pdf": ("application/pdf", b"%PDF-"),
    "xlsx": ("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", b"PK"),
    "json": ("application/json", b"{"),
    "csv": ("text/csv; charset=utf-8", b"\xef\xbb\xbf"),
}


@pytest.fixture
def settled(service: Service) -> tuple[Service, str]:
    """A service on which the firm's job ran for an hour; with the id of its settlement."""
    job = service.submit()
    service.run_to_end(job)
    found = service.get("firm", f"/v1/settlements?job={job}").json()["items"][-1]
    return service, str(found["id"])


def paths(settlement: str) -> list[str]:
    job = settlement.split(":")[1]
    return [
        f"/v1/documents/statements/jobs/{job}",
        f"/v1/documents/statements/firms/{FIRM}",
        f"/v1/documents/settlements/{settlement}",
    ]


def test_every_document_in_every_form_and_language(settled: tuple[Service, str]) -> None:
    service, settlement = settled

    for path in paths(settlement):
        for form, (media, start) in MEDIA.items():
            for lang, tag in (("zh", "zh-CN"), ("en", "en")):
                answer = service.get("firm", f"{path}?format={form}&lang={lang}")
                assert (answer.status_code, answer.headers["content-type"]) == (200, media), (path, form)
                assert answer.content.startswith(start)
                assert answer.headers["content-language"] == tag
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert ("attachment" in answer.headers.get("content-disposition", "")) == (form != "html")


def test_a_document_says_what_the_settlement_says(settled: tuple[Service, str]) -> None:
    service, settlement = settled
    said = service.get("firm", f"/v1/settlements/{settlement}").json()
    made = service.get("firm", f"/v1/documents/settlements/{settlement}?format=json").json()
    facts = {fact["key"]: fact["value"] for fact in made["facts"]}

    assert {name: facts[name] for name in ("fee_fen", "deduction_fen", "payable_fen")} == {
        name: said["totals"][name] for name in ("fee_fen", "deduction_fen", "payable_fen")
    }
    assert facts["payable_fen"] == 9_600
    assert facts["payable_capital"] == "人民币玖拾陆元整"
    assert said["hash"] in [item["sha256"] for item in made["hashes"]]
    assert made["demo"] is True


def test_html_is_the_form_and_chinese_the_language_unless_asked(settled: tuple[Service, str]) -> None:
    service, settlement = settled
    path = paths(settlement)[2]

    assert '<html lang="zh-CN">' in service.get("firm", path).text
    assert '<html lang="en">' in service.get("firm", path, Accept_Language="en-GB,en").text
    answer = service.get("firm", path, Accept_Language="en-GB,en")
    assert re.search(r"style-src 'sha256-[A-Za-z0-9+/=]+'", answer.headers["content-security-policy"])


def test_another_firm_s_documents_are_not_there(settled: tuple[Service, str]) -> None:
    service, settlement = settled

    for path in paths(settlement):
        assert service.get("other", path).status_code == 404, path
        for role in ("operator", "finance", "auditor"):
            assert service.get(role, path).status_code == 200, (path, role)
        assert service.get(None, path).status_code == 401


@pytest.mark.parametrize("path", ["statements/jobs/x", "statements/firms/x", "settlements/x", "settlements/x/../../y"])
def test_what_is_not_there_is_404(service: Service, path: str) -> None:
    assert service.get("operator", f"/v1/documents/{path}").status_code == 404


def test_a_job_that_is_not_settled_yet_has_no_statement(service: Service) -> None:
    job = service.submit()

    assert service.get("firm", f"/v1/documents/statements/jobs/{job}").status_code == 404


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("format=docx", "/format"),
        ("format=", "/format"),
        ("lang=fr", "/lang"),
        ("from=yesterday", "/from"),
        ("to=2026-06-01T00:00:00", "/to"),
        ("from=2026-06-02T00:00:00Z&to=2026-06-01T00:00:00Z", "/to"),
        ("from=2026-06-02T00:00:00Z&to=2026-06-02T00:00:00Z", "/to"),
    ],
)
def test_a_malformed_question_is_refused_by_field(service: Service, query: str, pointer: str) -> None:
    answer = service.get("firm", f"/v1/documents/statements/firms/{FIRM}?{query.replace('+', '%2B')}")

    assert answer.status_code == 422
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]


@pytest.mark.parametrize(
    ("module", "function", "path", "found"),
    [
        ("metering.clearing", "batch_document", "clearing/batch_1", sheets.batch()),
        ("metering.subsidy_evidence", "application_document", "subsidies/subsidy_1", sheets.application()),
    ],
)
def test_a_provider_s_papers_are_for_it_and_the_zone(
    service: Service, monkeypatch: pytest.MonkeyPatch, module: str, function: str, path: str, found: dict[str, Any]
) -> None:
    stand_in = ModuleType(module)
    known = {path.split("/")[1]: {**found, "provider": PROVIDER}, "theirs": {**found, "provider": "another"}}
    setattr(stand_in, function, lambda tx, identity, *given: known.get(identity))
    monkeypatch.setitem(sys.modules, module, stand_in)
    theirs = f"{path.split('/')[0]}/theirs"

    for form, (media, start) in MEDIA.items():
        answer = service.get("provider", f"/v1/documents/{path}?format={form}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, media)
        assert answer.content.startswith(start)
    assert service.get("provider", f"/v1/documents/{theirs}").status_code == 404
    assert service.get("finance", f"/v1/documents/{theirs}").status_code == 200
    assert service.get("firm", f"/v1/documents/{path}").status_code == 403
    assert service.get("finance", f"/v1/documents/{path.split('/')[0]}/none").status_code == 404


@pytest.mark.parametrize(
    ("number", "name"),
    [
        ("settlement:job_a:1", "settlement-job_a-1"),
        ("../../etc/passwd", "etc-passwd"),
        ('a"\r\nX: y', "a-X-y"),
        ("批次", "document"),
        ("x" * 500, "x" * 120),
    ],
)
def test_a_file_name_is_harmless(number: str, name: str) -> None:
    assert file_name(number) == name


# --- exports ------------------------------------------------------------------------------------------------------


def rows_of(answer: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_the_focus_export_sums_to_the_statement_either_way(settled: tuple[Service, str]) -> None:
    service, settlement = settled
    said = service.get("firm", f"/v1/statements/firms/{FIRM}").json()["totals"]

    for setting, name in (("column", "fee_fen"), ("credit", "payable_fen")):
        answer = service.get("firm", f"/v1/exports/focus?voucher_as={setting}")
        rows = rows_of(answer)
        assert tuple(rows[0]) == COLUMNS
        assert sum(Decimal(row["BilledCost"]) for row in rows) * 100 == said[name]
        assert {row["InvoiceId"] for row in rows} == {settlement}
        as_json = service.get("firm", f"/v1/exports/focus?voucher_as={setting}&format=json").json()
        assert [{k: v or "" for k, v in row.items()} for row in as_json] == rows


def test_a_firm_exports_its_own_and_the_zone_anybody_s(settled: tuple[Service, str]) -> None:
    service, _ = settled

    assert len(rows_of(service.get("firm", f"/v1/exports/focus?firm={FIRM}"))) == 1
    assert rows_of(service.get("other", "/v1/exports/focus")) == []
    assert service.get("other", f"/v1/exports/focus?firm={FIRM}").status_code == 404
    assert {row["BillingAccountId"] for row in rows_of(service.get("finance", "/v1/exports/focus"))} == {FIRM}
    assert rows_of(service.get("finance", f"/v1/exports/focus?firm={OTHER}")) == []
    assert service.get("finance", "/v1/exports/focus?firm=nobody").status_code == 404
    assert rows_of(service.get("firm", "/v1/exports/focus?to=2020-01-01T00:00:00Z")) == []


@pytest.mark.parametrize(
    ("query", "pointer"), [("voucher_as=row", "/voucher_as"), ("format=xlsx", "/format"), ("from=x", "/from")]
)
def test_a_malformed_export_is_refused_by_field(service: Service, query: str, pointer: str) -> None:
    answer = service.get("firm", f"/v1/exports/focus?{query}")

    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


def test_the_ledger_is_a_file_that_bean_check_accepts(settled: tuple[Service, str]) -> None:
    service, _ = settled
    answer = service.get("auditor", "/v1/exports/beancount")
    entries, errors, _ = loader.load_string(answer.text)

    assert errors == []
    assert len(entries) > 10
    assert service.get("firm", "/v1/exports/beancount").status_code == 403


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[httpx.Request]:
    """A server that answers every document with its bytes; the requests it got."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if request.url.path == "/v1/jobs":
            return httpx.Response(200, json={"items": [{"id": "job_1", "name": "train"}], "next_cursor": None})
        return httpx.Response(200, content=b"%PDF-made", headers={"content-type": "application/pdf"})

    for name, value in {"HOME": str(tmp_path), "YISUAN_SERVER": "http://127.0.0.1:9", "YISUAN_LANG": "en"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("YISUAN_DATA_DIR", raising=False)
    real = httpx.Client
    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(httpx, "Client", lambda **given: real(**{**given, "transport": transport}))
    return seen


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "path", "query"),
    [
        (
            ("document", "settlement", "settlement:job_1:2", "--format", "pdf"),
            "/settlements/settlement:job_1:2",
            "format=pdf",
        ),
        (("document", "job", "train", "--format", "csv"), "/statements/jobs/job_1", "format=csv"),
        (("document", "firm", "F", "--from", "2026-01-01T00:00:00Z"), "/statements/firms/F", "from=2026-01-01"),
        (("document", "clearing", "a/b"), "/clearing/a%2Fb", "lang=en"),
        (("document", "subsidy", "s", "--format", "xlsx"), "/subsidies/s", "format=xlsx"),
    ],
)
def test_document_writes_what_the_server_made(
    asked: list[httpx.Request], tmp_path: Path, arguments: tuple[str, ...], path: str, query: str
) -> None:
    out = tmp_path / "made"

    assert run(*arguments, "-o", str(out)) == 0
    assert out.read_bytes() == b"%PDF-made"
    assert asked[-1].url.raw_path.decode().startswith(f"/v1/documents{path}?")
    assert query in str(asked[-1].url)


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (("export", "focus", "--voucher-as", "credit"), "/v1/exports/focus?voucher_as=credit"),
        (("export", "focus", "--firm", "F", "--format", "json"), "/v1/exports/focus?format=json&firm=F"),
        (("export", "beancount"), "/v1/exports/beancount"),
    ],
)
def test_export_writes_what_the_server_made(
    asked: list[httpx.Request], tmp_path: Path, arguments: tuple[str, ...], path: str
) -> None:
    out = tmp_path / "made"

    assert run(*arguments, "-o", str(out)) == 0
    assert out.read_bytes() == b"%PDF-made"
    assert asked[-1].url.raw_path.decode() == path


@pytest.mark.parametrize(
    "arguments",
    [
        ("document", "invoice", "x"),
        ("document", "job"),
        ("document", "settlement", "x", "--format", "docx"),
        ("document", "settlement", "x", "--format", "pdf"),
        ("document", "settlement", "x", "--from", "2026-01-01T00:00:00Z"),
        ("document", "settlement", "x", "-o", "/nope/made.html"),
        ("export", "ledger"),
        ("export", "beancount", "--firm", "F"),
        ("export", "beancount", "--from", "2026-01-01T00:00:00Z"),
        ("export",),
    ],
)
def test_malformed_arguments_exit_2_and_write_nothing(
    asked: list[httpx.Request], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert run(*arguments) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.strip()


def test_text_forms_go_to_stdout(asked: list[httpx.Request], capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run("document", "settlement", "x", "--format", "json") == 0
    assert capfdbinary.readouterr().out == b"%PDF-made"
