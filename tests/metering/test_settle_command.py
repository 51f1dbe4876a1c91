"""`yisuan settle` on files: streams, exit codes, one compact document a line, parameters from a folder."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

import metering.parameters
from metering.case import run_settle
from tests.metering.cases import PAIRS, case, entry


def run(*paths: Path | str, parameters: Path | None = None) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = run_settle(paths, parameters, out, err)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.json"
    path.write_text(json.dumps(case(entry(model="昇腾\u2028"))), encoding="utf-8")
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(case(entry(devices=0))), encoding="utf-8")
    return path


def test_one_document_a_line_compact_ascii_and_in_order(good: Path) -> None:
    code, out, err = run(good, *PAIRS)

    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 19
    assert out.isascii()
    assert all(json.dumps(json.loads(line), separators=(",", ":")) == line for line in lines)
    for path, line in zip(PAIRS, lines[1:], strict=True):
        assert json.loads(path.with_suffix(".out.json").read_text(encoding="utf-8")) == {
            key: value for key, value in json.loads(line).items() if key != "bundle_sha256"
        }


def test_an_exclusion_or_a_shortfall_is_an_answer_and_not_an_error(tmp_path: Path) -> None:
    path = tmp_path / "never.json"
    path.write_text(
        json.dumps(case(entry(), firm={"id": "f", "eligible": []}, rooms={"contract": 0})), encoding="utf-8"
    )

    assert run(path)[0] == 0


def test_a_bad_file_alone_leaves_stdout_empty_and_the_problem_on_stderr(bad: Path, tmp_path: Path) -> None:
    for path, said in (
        (bad, "OUT_OF_RANGE at /usage/0/devices"),
        (tmp_path / "gone.json", "No such file"),
        (tmp_path, "UNREADABLE"),
    ):
        code, out, err = run(path)
        assert (code, out) == (2, "")
        assert said in err
        assert len(err.splitlines()) == 1


def test_a_bad_file_among_several_is_an_error_document_on_its_line(good: Path, bad: Path) -> None:
    code, out, _ = run(good, bad, "\0", good)

    assert code == 2
    first, second, third, fourth = (json.loads(line) for line in out.splitlines())
    assert first == fourth
    assert first["totals"]["fee_fen"] == 1000
    assert {"version", "error"} == set(second)
    assert (
        second["version"], second["error"]["code"], second["error"]["facts"]["path"]
    ) == (1, "OUT_OF_RANGE", "/usage/0/devices")  # fmt: skip
    assert third["error"]["code"] == "UNREADABLE"


def test_parameters_from_a_folder_are_used_and_bad_ones_stop_everything(good: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(Path(metering.parameters.__file__).parent, tmp_path / "parameters"))
    file = folder / "etown-2024-10" / "compute_voucher.yaml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("value: 4000", "value: 100"), encoding="utf-8")
    before, after = json.loads(run(good)[1]), json.loads(run(good, parameters=folder)[1])
    assert [(out["lines"][0]["rate_bp"], out["totals"]["deduction_fen"]) for out in (before, after)] == [
        (4000, 400),
        (100, 10),
    ]
    assert before["bundle_sha256"] != after["bundle_sha256"]
    assert after == json.loads(run(good, parameters=folder / "etown-2024-10")[1])

    file.write_text(text.replace("value: 4000", "value: lots"), encoding="utf-8")
    for parameters in (folder, tmp_path / "gone"):
        code, out, err = run(good, good, parameters=parameters)
        assert (code, out) == (2, "")
        assert "parameters" in err


def test_no_file_at_all_is_bad_usage() -> None:
    assert run()[:2] == (2, "")
