"""Policies as dated data: what ships, what a change changes, and what the loader refuses, named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.accelerator import Origin
from metering.parameters import (
    ParameterError,
    Registry,
    UnknownParameter,
    UnknownPolicy,
    load_origin_register,
    load_policies,
)
from tests.metering.cases import POLICY, REGISTRY, case, cases, entry
from tests.metering.parameter_cases import ANSWERS, HEAD, MID_2025, SHIPPED, TERM, VOUCHER, WHOLE, edit, settled

Settle = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "parameters"))


# --- what ships -----------------------------------------------------------------------------------


def test_the_notice_in_force_has_the_numbers_of_its_clauses() -> None:
    """2.1.1: 40% and 30%, 100 million a year, 20 million a firm and year. 4.3: to 31 March 2027."""
    policy = REGISTRY.policy(POLICY)

    assert (
        policy.status,
        policy.zone.key,
        policy.years,
    ) == ("active", "Asia/Shanghai", (2024, 2025, 2026, 2027))
    assert [policy.rate_bp(origin, MID_2025) for origin in Origin] == [4000, 3000, 3000]
    assert dict.fromkeys(policy.years, 10_000_000_000) == policy.pool_fen
    assert dict.fromkeys(policy.years, 2_000_000_000) == policy.firm_cap_fen
    assert policy.value_at("compute_voucher.claim_mode", MID_2025) == "draw_right"
    assert tuple(policy.value_at(f"server_subsidy.{name}", MID_2025) for name in ("rate_ceiling", "project_cap")) == (
        1000,
        1_000_000_000,
    )
    assert tuple(policy.value_at(f"model_voucher.{name}", MID_2025) for name in ("rate", "pool", "firm_cap")) == (
        5000,
        10_000_000_000,
        500_000_000,
    )
    written = {number for number, clause in policy.clauses.items() if not clause.platform}
    assert {"2.1.1", "2.1.2", "2.4.7", "4.1", "4.2", "4.3", "4.4"} == written


@pytest.mark.parametrize(
    ("moment", "in_force"),
    [
        ("2024-03-27T23:59:59.999+08:00", False),
        ("2024-03-28T00:00:00+08:00", True),
        ("2027-03-31T23:59:59.999+08:00", True),
        ("2027-04-01T00:00:00+08:00", False),
    ],
)
def test_the_term_is_half_open_at_local_midnight(moment: str, in_force: bool) -> None:
    at, policy = datetime.fromisoformat(moment), REGISTRY.policy(POLICY)

    assert in_force is policy.in_force_at(at)
    assert (4000 if in_force else None) == policy.rate_bp(Origin.DOMESTIC, at)


def test_the_later_notice_is_readable_flat_and_settles_nothing() -> None:
    policy = REGISTRY.policy("etown-2024-29")

    assert policy.status == "awaiting_confirmation"
    assert {3000} == {policy.rate_bp(origin, MID_2025) for origin in Origin}
    assert policy.value_at("compute_voucher.review_required", MID_2025) is True
    assert policy.text_sha256 is None


def test_every_value_rests_on_a_clause_that_is_described_and_every_question_has_an_answer() -> None:
    for policy in REGISTRY.policies.values():
        assert policy.interpretations
        for parameter in policy.parameters.values():
            for row in parameter.rows:
                assert row.clauses
                assert set(row.clauses) <= set(policy.clauses)
        for question in policy.interpretations:
            assert question.chosen in question.options


def test_asking_for_what_there_is_not_names_the_nearest() -> None:
    with pytest.raises(UnknownPolicy, match=f"nearest is '{POLICY}'"):
        REGISTRY.policy("etown-2024-1O")
    with pytest.raises(UnknownParameter, match=r"nearest is 'compute_voucher.pool'"):
        REGISTRY.policy(POLICY).value_at("compute_voucher.pol", MID_2025)


# --- changes --------------------------------------------------------------------------------------


def test_two_edited_rates_change_the_amounts_and_the_hash_and_nothing_else(copy: Path) -> None:
    found = case(entry(), entry(origin="foreign"), entry(origin="undetermined"))
    edit(edit(copy, VOUCHER, "value: 4000", "value: 3500"), VOUCHER, "value: 3000", "value: 1234")
    before, after = settled(found, REGISTRY), settled(found, load_policies(copy))

    assert [line["deduction_fen"] for line in before["lines"]] == [400, 300, 300]
    assert [line["deduction_fen"] for line in after["lines"]] == [350, 123, 123], "2000 fen at 1234 bp are 246.8"
    assert before["bundle_sha256"] != after["bundle_sha256"]
    kept = ("lease", "start", "end", "year", "device_ms", "fee_fen", "reasons", "clauses")
    for one, other in zip(before["lines"], after["lines"], strict=True):
        assert {name: one[name] for name in kept} == {name: other[name] for name in kept}


def test_a_copy_rewritten_by_a_yaml_library_settles_alike(copy: Path) -> None:
    """Layout, quoting, comments and order of files are not content."""
    for file in copy.rglob("*.yaml"):
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text(encoding="utf-8"))), encoding="utf-8")

    assert {name: policy.bundle_sha256 for name, policy in REGISTRY.policies.items()} == {
        name: policy.bundle_sha256 for name, policy in load_policies(copy).policies.items()
    }
    assert load_origin_register() == load_origin_register(copy)


def test_the_folder_of_one_policy_is_enough_and_keeps_status_and_hash(copy: Path) -> None:
    for name, policy in REGISTRY.policies.items():
        alone = load_policies(copy / name)

        assert [name] == list(alone.policies)
        assert (policy.status, policy.bundle_sha256) == (
            alone.policy(name).status,
            alone.policy(name).bundle_sha256,
        )


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("clauses", "gist_en: >-", "gist_en: >-\n    Also:"),
        ("interpretations", "note: natural years", "note: calendar years"),
        ("notices", "lines_ending_after: 2024-11-24", "lines_ending_after: 2024-11-25"),
        ("term", "recorded_at: 2026-11-23", "recorded_at: 2026-11-24"),
        ("model_voucher", "value: 5000", "value: 4999"),
        ("policy", "title_en: Beijing", "title_en: The Beijing"),
    ],
)
def test_any_change_of_content_changes_the_hash_of_its_policy_only(copy: Path, file: str, old: str, new: str) -> None:
    changed = load_policies(edit(copy, f"{POLICY}/{file}.yaml", old, new))

    differs = {
        name: policy.bundle_sha256 != changed.policy(name).bundle_sha256 for name, policy in REGISTRY.policies.items()
    }
    assert differs == {POLICY: True, "etown-2024-29": False}


SPLIT = """  - valid_from: 2024-03-28
    valid_to: {day}
    value: 4000
    refs: [{{policy: etown-2024-10, clause: "2.1.1"}}]
    status: in_force
    recorded_at: 2026-11-23
  - valid_from: {day}
    valid_to: 2027-04-01
    value: {value}
"""


def split(directory: Path, day: str, value: int) -> Registry:
    return load_policies(edit(directory, VOUCHER, WHOLE, SPLIT.format(day=day, value=value)))


def test_a_rate_that_changes_cuts_the_line_and_one_that_stays_does_not(copy: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    found = case(entry(start="2025-06-30T23:00:00+08:00", end="2025-07-01T02:00:00+08:00"))
    cut, same = (
        settled(found, split(copy, "2025-07-01", 2000)),
        settled(found, split(other, "2025-07-01", 4000)),
    )

    assert [(line["fee_fen"], line["rate_bp"], line["deduction_fen"]) for line in cut["lines"]] == [
        (1000, 4000, 400),
        (2000, 2000, 400),
    ]
    assert [(line["fee_fen"], line["rate_bp"], line["deduction_fen"]) for line in same["lines"]] == [(3000, 4000, 1200)]


@pytest.fixture(scope="module")
def settled_after(tmp_path_factory: pytest.TempPathFactory) -> Settle:
    """Settles under parameters in which the domestic rate is 1% from 1 January 2026 on."""
    changed = split(Path(shutil.copytree(SHIPPED, tmp_path_factory.mktemp("changed") / "p")), "2026-01-01", 100)
    return lambda found: settled(found, changed)


@settings(max_examples=40)
@given(found=cases())
def test_changing_a_parameter_from_a_date_on_leaves_every_settlement_before_it_byte_identical(
    settled_after: Settle, found: dict[str, Any]
) -> None:
    early = [
        one for one in found["usage"] if datetime.fromisoformat(one["end"]) <= datetime(2025, 12, 31, 16, tzinfo=UTC)
    ]
    before = {**settled({**found, "usage": early}, REGISTRY), "bundle_sha256": ""}
    after = {**settled_after({**found, "usage": early}), "bundle_sha256": ""}

    assert json.dumps(before) == json.dumps(after)


def test_the_change_is_felt_from_its_first_millisecond(settled_after: Settle) -> None:
    found = case(entry(start="2025-12-31T23:59:59.999+08:00", end="2026-01-01T00:00:00.001+08:00"))

    assert [line["rate_bp"] for line in settled_after(found)["lines"]] == [4000, 100]


def test_an_earlier_end_is_one_change(copy: Path) -> None:
    edit(copy, f"{POLICY}/term.yaml", "valid_to: 2027-04-01", "valid_to: 2025-06-01T09:30:00+08:00")
    lines = settled(case(entry()), load_policies(copy))["lines"]

    assert [(line["rate_bp"], line["reasons"]) for line in lines] == [
        (4000, []),
        (0, ["POLICY_NOT_IN_FORCE"]),
    ]


def test_another_year_s_pool_is_one_change(copy: Path) -> None:
    edit(copy, VOUCHER, "valid_to: 2026-01-01, value: 10_000_000_000", "valid_to: 2026-01-01, value: 399")

    assert settled(case(entry()), load_policies(copy))["totals"]["deduction_fen"] == 399


# --- what is refused ------------------------------------------------------------------------------

FIRST, LAST = "{valid_from: 2024-01-01", "{valid_from: 2027-01-01, valid_to: 2028-01-01"
REFS = 'refs: [{policy: etown-2024-10, clause: "2.1.1"}]'

REFUSED: list[tuple[str, str, str, str, str]] = [
    ("a gap", VOUCHER, "valid_from: 2025-01-01", "valid_from: 2026-01-01", "compute_voucher.pool"),
    (
        "an overlap",
        VOUCHER,
        "valid_to: 2025-01-01",
        "valid_to: 2026-01-01",
        "two values hold from 2025-01-01",
    ),
    ("a year without end", VOUCHER, "valid_to: 2025-01-01", "valid_to: null", "first day of a year"),
    ("an unknown key", VOUCHER, "compute_voucher.pool", "compute_voucher.pol", "'compute_voucher.pool'"),
    ("an unknown field", VOUCHER, "    status:", "    stauts:", "unknown key 'stauts'; nearest is 'status'"),
    ("a duplicate key", VOUCHER, "    value: 4000", "    value: 4000\n    value: 4000", "key 'value'"),
    ("a value under another key", VOUCHER, "compute_voucher.claim_mode", "policy.in_force", "unit"),
    ("no clause", VOUCHER, REFS, "refs: []", "at least one"),
    ("a clause that is not there", VOUCHER, '"2.1.1"', '"2.1.3"', "'2.1.3' is not one of"),
    (
        "another policy's clause",
        VOUCHER,
        "{policy: etown-2024-10",
        "{policy: etown-2024-29",
        "'etown-2024-29'",
    ),
    ("a rate in quotes", VOUCHER, "value: 4000", 'value: "4000"', "'4000' is not an integer from 0 to 10000"),
    ("a decimal rate", VOUCHER, "value: 4000", "value: 4000.0", "'4000.0' is not an integer"),
    ("an octal-looking rate", VOUCHER, "value: 4000", "value: 04000", "'04000' is not an integer"),
    ("a true rate", VOUCHER, "value: 4000", "value: true", "True is not an integer"),
    (
        "a rate above the fee",
        VOUCHER,
        "value: 4000",
        "value: 10001",
        "10001 is not an integer from 0 to 10000",
    ),
    ("a rate below nothing", VOUCHER, "value: 4000", "value: -1", "-1 is not an integer"),
    ("no value", VOUCHER, "value: 4000", "value:", "None is not an integer"),
    ("a missing field", VOUCHER, "    value: 4000\n", "", "key 'value' is missing"),
    ("another unit", VOUCHER, "unit: basis_point", "unit: percent", "'percent' is not one of basis_point"),
    ("a year from June", VOUCHER, FIRST, "{valid_from: 2024-06-01", "first day of a year"),
    ("a year without a pool", VOUCHER, LAST, "{valid_from: 2023-01-01, valid_to: 2024-01-01", "2027"),
    ("a rate too short", VOUCHER, "valid_to: 2027-04-01", "valid_to: 2027-03-01", "part of the term"),
    ("an end before the start", VOUCHER, "valid_to: 2027-04-01", "valid_to: 2024-03-28", "is not after"),
    ("a day that is none", VOUCHER, "valid_to: 2027-04-01", "valid_to: 2027-04-31", "is not a day"),
    ("a time without offset", VOUCHER, "valid_to: 2027-04-01", "valid_to: 2027-04-01T00:00:00", "no offset"),
    ("a word that is none", VOUCHER, "value: draw_right", "value: drawright", "nearest is 'draw_right'"),
    ("a yes", VOUCHER, "value: false", "value: no", "'no' is not true or false"),
    ("an active term without end", TERM, "valid_to: 2027-04-01", "valid_to: null", "needs the day it ends"),
    ("a term that is never", TERM, "value: true", "value: false", "true at no time"),
    ("a hash that is none", HEAD, '"19b8', '"9b8', "64 hexadecimal digits"),
    ("a zone that is none", HEAD, "Asia/Shanghai", "Asia/Peking", "time zone"),
    ("a folder of another name", HEAD, "id: etown-2024-10", "id: etown-2024-11", "in the folder"),
    ("an answer that is no option", ANSWERS, "chosen: usage", "chosen: usages", "nearest is 'usage'"),
    ("a notice without a date", f"{POLICY}/notices.yaml", ": 2024-11-24", ": soon", "'soon'"),
    ("a status that is none", "registry.yaml", "status: active", "status: activ", "nearest is 'active'"),
    ("a policy listed twice", "registry.yaml", "etown-2024-29", "etown-2024-10", "listed twice"),
    (
        "one person for both",
        VOUCHER,
        "approved_by: zone-legal",
        "approved_by: Zone-Operator",
        "another one approves it",
    ),
    ("a nameless person", VOUCHER, "approved_by: zone-legal", 'approved_by: ""', "is not text"),
    (
        "an approval without a record",
        VOUCHER,
        "    recorded_by: zone-operator\n    approved_by: zone-legal",
        '    recorded_by: null\n    approved_by: ""',
        "is not text",
    ),
    ("a withdrawal without a day", VOUCHER, "status: in_force", "status: withdrawn", "needs the day"),
    (
        "a day of withdrawal for nothing",
        VOUCHER,
        "    status: in_force",
        "    withdrawn_at: 2026-11-24\n    status: in_force",
        "is for a value that is withdrawn",
    ),
    (
        "a withdrawal before its record",
        VOUCHER,
        "    status: in_force",
        "    withdrawn_at: 2026-11-22\n    status: withdrawn",
        "is before recorded_at",
    ),
    ("a key that is only proposed", VOUCHER, "status: in_force", "status: proposed", "no value that settles"),
    ("a status that is none of a value", VOUCHER, "status: in_force", "status: inforce", "nearest is 'in_force'"),
    ("a platform rule like a clause", f"{POLICY}/clauses.yaml", "number: P1", 'number: "4.5"', "begin with P"),
    ("a clause like a platform rule", f"{POLICY}/clauses.yaml", 'number: "4.4"', "number: P9", "begin with P"),
    ("a sampling above all", f"{POLICY}/oversight.yaml", "value: 10\n", "value: 1001\n", "from 0 to 1000"),
    ("days that are no days", VOUCHER, "value: without_limit", "value: for_ever", "'for_ever' is not an integer"),
    ("a level that is no text", "registry.yaml", "[national, city]", "[national, 3]", "3 is not text"),
    ("no YAML", VOUCHER, "- key", "- {key", "strict YAML"),
]


@pytest.mark.parametrize(("what", "file", "old", "new", "said"), REFUSED, ids=[row[0] for row in REFUSED])
def test_the_loader_refuses(copy: Path, what: str, file: str, old: str, new: str, said: str) -> None:
    """The message names the file, and what is wrong in it."""
    with pytest.raises(ParameterError) as refused:
        load_policies(edit(copy, file, old, new))

    assert said in str(refused.value), what
    assert file.split("/")[0] in str(refused.value)


BROKEN: list[tuple[str, Callable[[Path], object], str]] = [
    ("a folder nobody listed", lambda d: shutil.copytree(d / POLICY, d / "etown-2030-1"), "is not listed"),
    ("a listed folder that is gone", lambda d: shutil.rmtree(d / POLICY), "has no policy.yaml"),
    ("a missing file", lambda d: (d / POLICY / "clauses.yaml").unlink(), "is missing"),
    (
        "a file that would be overlooked",
        lambda d: (d / POLICY / "extra.yml").write_text("[]"),
        "call it .yaml",
    ),
    ("a file of nothing", lambda d: (d / VOUCHER).write_text(""), "not a list"),
    ("no UTF-8", lambda d: (d / VOUCHER).write_bytes(b"\xff"), "not UTF-8"),
    ("a key in two files", lambda d: shutil.copy(d / VOUCHER, d / POLICY / "zz.yaml"), "defined twice"),
    ("no registry at all", lambda d: (d / "registry.yaml").unlink(), "neither registry.yaml nor policy.yaml"),
]


@pytest.mark.parametrize(("what", "breaks", "said"), BROKEN, ids=[row[0] for row in BROKEN])
def test_the_loader_refuses_a_folder_with(copy: Path, what: str, breaks: Callable[[Path], object], said: str) -> None:
    breaks(copy)
    with pytest.raises(ParameterError, match=said):
        load_policies(copy)


@given(text=st.text(max_size=200))
@settings(max_examples=60)
def test_no_text_in_a_parameter_file_crashes_the_loader(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "registry.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ParameterError, match=r"registry\.yaml"):
        load_policies(folder)
