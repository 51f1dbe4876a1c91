"""`yisuan voucher`: a tranche claimed by id and year, links between credit codes listed and put on record."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from api.client import Client
from tests.api.service import FIRM, OTHER, Service
from tests.api.test_programme_commands import (  # noqa: F401 - fixtures
    Run,
    _plain_environment,
    exit_of,
    facts_of,
    run,
    written,
)
from tests.metering.answers import answered

LINK = f"""\
codes: ["{FIRM}", "{OTHER}"]
from: 2026-01-01T00:00:00+08:00
evidence: {{document: merger, sha256: "{"a" * 64}"}}
"""


@pytest.fixture
def service(service: Service) -> Service:
    """Claims take tranches, linked firms share one cap."""
    budget = service.services.budget
    budget.policy = answered(
        budget.policy, claim_mode="tranche", tranche_size=1_000, tranche_idle=30, cap_subject="linked_firms"
    )
    return service


def vouchers(capsys: pytest.CaptureFixture[str]) -> Any:
    (item,) = facts_of(capsys)
    return item


# --- tranches ---------------------------------------------------------------------------------------------------------


def test_a_tranche_is_claimed_by_its_id_and_year_once(run: Run, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    for _ in range(2):
        assert run("firm", "voucher", "--claim", "--id", "t1", "--year", "2027", "-o", "json") == 0
        (found,) = vouchers(capsys)["tranches"]
        assert (found["year"], found["issued_fen"], found["left_fen"]) == (2027, 1_000, 1_000)
        assert [one["id"] for one in found["issued"]] == [f"{FIRM}:t1"]
    assert run("firm", "voucher", "--claim", "--id", "t2", "--year", "2027") == 1
    assert "2027" in capsys.readouterr().err
    assert run("firm", "voucher", "--claim", "--id", "t1", "--year", "2026") == 1, "the id is that of 2027"


def test_a_claim_without_a_year_is_for_this_one(run: Run, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    assert run("firm", "voucher", "--claim", "-o", "json") == 0
    assert [each["year"] for each in vouchers(capsys)["tranches"]] == [2026]


@pytest.mark.parametrize(
    ("lang", "words"), [("en", ["issued", "given back", "goes back if idle"]), ("zh", ["已发放", "已退回"])]
)
def test_people_see_what_of_a_tranche_is_left(
    run: Run,  # noqa: F811
    lang: str,
    words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("firm", "voucher", "--claim", "--id", "t1", "--lang", lang) == 0
    told = capsys.readouterr().out
    assert all(each in told for each in (*words, "¥10.00", "¥0.00"))


def test_a_tranche_is_explained_by_its_id(run: Run, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    assert run("firm", "voucher", "--claim", "--id", "t1") == 0
    capsys.readouterr()
    run("firm", "explain", f"tranche:{FIRM}:t1")
    told = capsys.readouterr().out
    assert "size" in told
    assert "compute_voucher.tranche_size" in told


# --- links ------------------------------------------------------------------------------------------------------------


def test_a_link_is_put_on_record_listed_and_withdrawn(
    run: Run,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("operator", "voucher", "links", "-o", "json") == 0
    assert facts_of(capsys) == []
    file = written(tmp_path / "link.yaml", LINK)
    assert run("firm", "voucher", "link", file) == 1, "by an operator"
    assert "ROLE_NOT_ALLOWED" in capsys.readouterr().err
    assert run("operator", "voucher", "link", file, "-o", "json") == 0
    made = facts_of(capsys)
    assert made["codes"] == sorted((FIRM, OTHER))
    assert made["subjects"] == {"2026": min(FIRM, OTHER), "2027": min(FIRM, OTHER)}
    assert run("auditor", "voucher", "links", "-o", "json") == 0
    (listed,) = facts_of(capsys)
    assert listed["evidence"] == {"document": "merger", "sha256": "a" * 64}
    assert run("firm", "voucher") == 0
    assert f"2026 {min(FIRM, OTHER)}" in capsys.readouterr().out

    gone = {
        "codes": [FIRM, OTHER],
        "from": listed["from"],
        "to": listed["from"],
        "evidence": {},
        "withdraws": made["seq"],
    }
    assert run("operator", "voucher", "link", written(tmp_path / "gone.json", gone)) == 0
    capsys.readouterr()
    assert run("operator", "voucher", "links", "-o", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["withdrawn"] for row in rows] == ["True", "False"]
    assert {row["codes"] for row in rows} == {" ".join(sorted((FIRM, OTHER)))}


@pytest.mark.parametrize(
    ("lang", "words"), [("en", ["credit codes", "withdrawn"]), ("zh", ["统一社会信用代码", "已撤销"])]
)
def test_people_read_links_in_their_language(
    run: Run,  # noqa: F811
    lang: str,
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("operator", "voucher", "link", written(tmp_path / "link.yaml", LINK), "--lang", lang) == 0
    assert min(FIRM, OTHER) in capsys.readouterr().out
    assert run("operator", "voucher", "links", "--lang", lang) == 0
    told = capsys.readouterr().out
    assert all(each in told for each in (*words, FIRM, OTHER))


@pytest.mark.parametrize(
    ("changes", "exit_code", "said"),
    [
        ({"codes": [FIRM]}, 2, "codes"),
        ({"codes": [FIRM, FIRM]}, 1, FIRM),
        ({"from": "yesterday"}, 2, "from"),
        ({"evidence": "a letter"}, 2, "evidence"),
        ({"because": "x"}, 2, "because"),
        ({"withdraws": 99_999}, 1, "99999"),
    ],
)
def test_a_link_that_is_none_is_told_by_its_field(
    run: Run,  # noqa: F811
    changes: dict[str, Any],
    exit_code: int,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    body = {"codes": [FIRM, OTHER], "from": "2026-01-01T00:00:00+08:00", "evidence": {}, **changes}
    assert run("operator", "voucher", "link", written(tmp_path / "link.json", json.dumps(body))) == exit_code
    assert said in capsys.readouterr().err.replace(",", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("voucher", "link"),
        ("voucher", "link", "/nope.yaml"),
        ("voucher", "link", "a.yaml", "b.yaml"),
        ("voucher", "link", "a.yaml", "--reason", "x"),
        ("voucher", "links", "a"),
        ("voucher", "links", "--claim"),
        ("voucher", "links", "--firm", FIRM),
        ("voucher", "--id", "t1"),
        ("voucher", "--year", "2026"),
        ("voucher", "--claim", "--year", "26"),
        ("voucher", "--claim", "--year", "２０２６"),
        ("voucher", "freeze", FIRM, "--reason", "x", "--id", "t1"),
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
