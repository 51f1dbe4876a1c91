"""`yisuan policy`: what it prints offline, that the guide's figures are the command's, what it refuses, what it asks."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.cli import main
from metering.parameters import HERE
from metering.parameters.description import describe, difference
from metering.parameters.frozen import FILE, read_baseline
from tests.api.service import FIRM, JOB, Service
from tests.metering.cases import PAIRS, POLICY, REGISTRY, case, entry

DOCS = Path(__file__).parents[2] / "docs"
LATER = "etown-2024-29"
VOUCHER = f"{POLICY}/compute_voucher.yaml"
BOTH = ("--policy", POLICY, "--against", LATER)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [n for n in os.environ if n.startswith("YISUAN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("YISUAN_SERVER", "http://127.0.0.1:9")
    monkeypatch.setenv("YISUAN_LANG", "en")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(HERE, tmp_path / "parameters"))


def edit(directory: Path, old: str, new: str) -> Path:
    file = directory / VOUCHER
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    return directory


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["policy", *arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def served(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """The command speaks to the service of the test, with the finance key."""

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode()
        found = service.client.request(request.method, path, headers=dict(request.headers), content=request.content)
        return httpx.Response(found.status_code, headers={"content-type": "application/json"}, content=found.content)

    real, transport = httpx.Client, httpx.MockTransport(answer)
    monkeypatch.setattr(httpx, "Client", lambda **given: real(**{**given, "transport": transport}))
    monkeypatch.setenv("YISUAN_KEY", service.keys["finance"])
    return service


def settle_one(service: Service) -> None:
    """Eight domestic devices for an hour at 20.00 yuan."""
    job = service.submit("firm", JOB)
    service.run_to_end(job)


# --- the hand calculation -----------------------------------------------------------------------------------------

HAND = (DOCS / "policy-10-against-29.md").read_text(encoding="utf-8")
HAND_CASE = str(DOCS / "policy-10-against-29.case.json")


def test_the_command_prints_exactly_the_figures_worked_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    [written] = re.findall(r"```csv\n(.*?)```", HAND, re.DOTALL)
    [command] = re.findall(r"^    yisuan policy (simulate .*)$", HAND, re.MULTILINE)
    words = [word if word != "docs/policy-10-against-29.case.json" else HAND_CASE for word in command.split()]

    assert run(*words, "-o", "csv") == 0
    assert capsys.readouterr().out == written


def test_every_amount_of_the_hand_calculation_is_the_command_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("simulate", *BOTH, HAND_CASE, "-o", "json") == 0
    total = json.loads(capsys.readouterr().out)["total"]

    shown = {name: f"¥{abs(fen) / 100:,.2f}" for name, fen in total.items() if name.endswith("_fen")}
    assert {name: amount in HAND for name, amount in shown.items()} == dict.fromkeys(shown, True)
    assert (total["payable_fen"], total["payable_against_fen"]) == (147034, 164634)


def test_a_person_reads_yuan_and_who_loses(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("simulate", *BOTH, HAND_CASE) == 0
    said = capsys.readouterr()

    for word in ("¥812.99", "¥636.99", "-¥176.00", "loses"):
        assert word in said.out
    assert "settles nothing" in said.err


# --- show and diff ------------------------------------------------------------------------------------------------


def test_a_policy_is_shown_in_full_offline_and_by_the_server_alike(
    served: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in (("--offline",), ()):
        assert run("show", POLICY, *more, "-o", "json") == 0
        assert json.loads(capsys.readouterr().out) == describe(REGISTRY.policy(POLICY))


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_a_person_sees_values_with_their_units_clauses_questions_and_warnings(
    lang: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("show", POLICY, "--offline", "--lang", lang) == 0
    said = capsys.readouterr()

    wanted = {
        "zh": ("40%", "¥100,000,000.00", "2024-03-28", "2.1.1", "每年的额度按使用时间还是结算时间归年？", "算力券"),
        "en": ("40%", "¥100,000,000.00", "2024-03-28", "2.1.1", "Which year counts", "Compute voucher"),
    }
    assert [word for word in wanted[lang] if word not in said.out] == []
    assert {"zh": "尚无答复", "en": "without an answer"}[lang] in said.err


def test_values_as_csv_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", POLICY, "--offline", "-o", "csv") == 0
    lines = capsys.readouterr().out.splitlines()

    assert lines[0] == "key,value,unit,from,to,clauses,status"
    assert "compute_voucher.rate_ceiling.domestic,4000,basis_point,2024-03-28,2027-04-01,2.1.1,in_force" in lines


def test_two_policies_side_by_side(served: Service, capsys: pytest.CaptureFixture[str]) -> None:
    for more in (("--offline",), ()):
        assert run("diff", POLICY, LATER, *more, "-o", "json") == 0
        assert json.loads(capsys.readouterr().out) == difference(REGISTRY.policy(POLICY), REGISTRY.policy(LATER))
    assert run("diff", POLICY, LATER, "--offline") == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "2024-11-24   2027-04-01" in line)
    assert row.split() == ["compute_voucher.rate_ceiling.domestic", "2024-11-24", "2027-04-01", "40%", "30%"]


def test_an_edited_folder_is_shown_and_compared(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(copy, "value: 4000", "value: 3000")
    assert run("diff", POLICY, LATER, "--parameters", str(copy), "-o", "json") == 0
    rows = json.loads(capsys.readouterr().out)["parameters"]

    rate = [(r["a"], r["b"]) for r in rows if r["key"] == "compute_voucher.rate_ceiling.domestic"]
    assert rate == [(3000, None), (None, 3000)]


# --- simulate -----------------------------------------------------------------------------------------------------


def test_many_files_are_told_one_by_one_and_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("simulate", *BOTH, *map(str, PAIRS), "-o", "json") == 0
    found = json.loads(capsys.readouterr().out)

    assert [row["case"] for row in found["cases"]] == [path.name for path in PAIRS]
    outputs = [json.loads(path.with_suffix(".out.json").read_text(encoding="utf-8")) for path in PAIRS]
    assert [row["deduction_fen"] for row in found["cases"]] == [one["totals"]["deduction_fen"] for one in outputs]
    assert found["total"]["difference_fen"] == sum(row["difference_fen"] for row in found["cases"])


def test_days_of_a_period_begin_at_midnight_in_beijing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(case(entry(start="2025-06-01T23:00:00+08:00", end="2025-06-02T02:00:00+08:00"))))

    for bound, fee in (("--from", 2000), ("--to", 1000)):
        assert run("simulate", *BOTH, str(path), bound, "2025-06-02", "-o", "json") == 0
        assert json.loads(capsys.readouterr().out)["total"]["fee_fen"] == fee


def test_the_server_s_jobs_are_simulated_without_a_file(served: Service, capsys: pytest.CaptureFixture[str]) -> None:
    settle_one(served)
    assert run("simulate", *BOTH, "--from", "2026-06-01", "-o", "csv") == 0

    assert capsys.readouterr().out.splitlines()[1:] == [f"{FIRM},1,16000,6400,4800,-1600,loses"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("edit",),
        ("show", POLICY, LATER),
        ("show", "etown-2024-1O", "--offline"),
        ("diff", POLICY, "--offline"),
        ("simulate", "--policy", POLICY),
        ("simulate", *BOTH, "--offline"),
        ("simulate", *BOTH, "/nope.json"),
        ("simulate", *BOTH, HAND_CASE, "--from", "yesterday"),
        ("simulate", *BOTH, HAND_CASE, "--from", "2026-01-01", "--to", "2026-01-01"),
        ("simulate", "--policy", POLICY, "--against", "none", HAND_CASE),
        ("check",),
        ("check", "--parameters", "/nope"),
        ("check", "--parameters", str(HERE), "--force"),
        ("check", "--parameters", str(HERE), "--approved-by", "zone-director"),
        ("check", "--parameters", str(HERE), "--baseline", "/nope.json"),
        ("freeze", "--parameters", str(HERE), "--force", "--approved-by", "  "),
    ],
)
def test_what_is_not_a_question_exits_2_with_nothing_on_stdout(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.strip()


# --- check and freeze ---------------------------------------------------------------------------------------------


def checked(capsys: pytest.CaptureFixture[str], *arguments: str, action: str = "check") -> tuple[int, dict[str, Any]]:
    code = run(action, *arguments, "-o", "json")
    return code, json.loads(capsys.readouterr().out)


def test_the_shipped_folder_passes(capsys: pytest.CaptureFixture[str]) -> None:
    code, report = checked(capsys, "--parameters", str(HERE))

    assert (code, report["ok"]) == (0, True)
    assert [report[name] for name in ("changes", "affected", "without_two_people", "cases_unmet")] == [[], [], [], []]


def test_an_edit_of_the_past_is_refused_with_the_settlements_it_would_change(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(copy, "value: 4000", "value: 3500")
    files = []
    for origin in ("domestic", "foreign"):
        files.append(tmp_path / f"{origin}.json")
        files[-1].write_text(json.dumps(case(entry(origin=origin))))
    code, report = checked(capsys, "--parameters", str(copy), *map(str, files))

    assert (code, report["ok"], report["approved_by"]) == (1, False, None)
    assert [(one["what"], one["was"], one["now"]) for one in report["changes"]] == [("EDITED", "4000", "3500")]
    kept = ("settlement", "deduction_before_fen", "deduction_after_fen")
    assert [tuple(one[k] for k in kept) for one in report["affected"]] == [("domestic.json", 400, 350)]
    assert "rate-domestic" in {one["case"] for one in report["cases_unmet"]}


def test_the_settlements_are_the_server_s_where_no_file_is_named(
    served: Service, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settle_one(served)
    edit(copy, "value: 4000", "value: 3500")
    code, report = checked(capsys, "--parameters", str(copy))

    assert code == 1
    assert [(one["firm"], one["difference_fen"]) for one in report["affected"]] == [(FIRM, -800)]


def test_without_a_server_an_edit_of_the_past_is_not_accepted_unseen(copy: Path) -> None:
    edit(copy, "value: 4000", "value: 3500")

    assert run("check", "--parameters", str(copy), "--force", "--approved-by", "zone-director") == 3


def test_a_forced_change_is_accepted_by_somebody_else_and_recorded(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(copy, "value: 4000", "value: 3500")
    shutil.rmtree(copy / LATER)
    registry = copy / "registry.yaml"
    text = registry.read_text(encoding="utf-8")
    start = text.index(f"- id: {LATER}")
    registry.write_text(text[:start] + text[text.index("# Levels") :], encoding="utf-8")
    (copy / POLICY / "cases.yaml").unlink()
    arguments = ("--parameters", str(copy), HAND_CASE, "--force", "--approved-by")

    assert run("freeze", *arguments, "Zone-Operator") == 1, "who recorded the value"
    assert "Zone-Operator" in capsys.readouterr().err
    code, report = checked(capsys, *arguments, "zone-director", action="freeze")
    assert (code, report["ok"], report["approved_by"]) == (0, True, "zone-director")
    assert [one.approved_by for one in read_baseline(copy / FILE).accepted] == ["zone-director"]
    assert checked(capsys, "--parameters", str(copy))[0] == 0


def test_checking_writes_nothing(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    edit(copy, "value: 4000", "value: 3500")
    changed = (copy / VOUCHER).read_bytes()
    run("check", "--parameters", str(copy), HAND_CASE, "--force", "--approved-by", "zone-director")
    run("freeze", "--parameters", str(copy), HAND_CASE)

    after = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert after == {**before, copy / VOUCHER: changed}


def test_a_value_nobody_approved_is_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A year to come, so that nothing that has begun is touched."""
    old = "valid_to: 2028-01-01, value: 10_000_000_000"
    text = (copy / VOUCHER).read_text(encoding="utf-8")
    line = next(one for one in text.splitlines() if old in one)
    edit(copy, line, line.replace(", approved_by: zone-legal", ""))
    code, report = checked(capsys, "--parameters", str(copy))

    assert (code, report["changes"]) == (1, [])
    assert [(one["key"], one["from"]) for one in report["without_two_people"]] == [
        ("compute_voucher.pool", "2026-12-31T16:00:00.000Z")
    ]


def test_a_person_reads_what_was_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(copy, "value: 4000", "value: 3500")

    assert run("check", "--parameters", str(copy), HAND_CASE) == 1
    said = capsys.readouterr()
    for word in ("a begun value was edited", "4000", "3500", "policy-10-against-29.case.json", "¥812.99", "¥724.99"):
        assert word in said.out
    assert "refused" in said.err
