"""Frozen values: what has begun is not edited, and what is forced all the same is on record."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from metering.parameters import HERE, ParameterError, load_policies
from metering.parameters.frozen import (
    FILE,
    Baseline,
    FrozenChanged,
    baseline_document,
    changes,
    check_at_start,
    freeze,
    guard,
    observe,
    read_baseline,
    wanting_people,
    write_baseline,
)
from tests.metering.cases import POLICY, REGISTRY

NOW = datetime(2026, 12, 1, tzinfo=UTC)
BASELINE = read_baseline(HERE / FILE)
VOUCHER, TERM = f"{POLICY}/compute_voucher.yaml", f"{POLICY}/term.yaml"
ROW = '    refs: [{policy: etown-2024-10, clause: "2.1.1"}]\n    status: in_force\n'


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(HERE, tmp_path / "parameters"))


def edit(directory: Path, file: str, old: str, new: str) -> Path:
    path = directory / file
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{old!r} is not in {file}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return directory


def found(directory: Path, now: datetime = NOW, baseline: Baseline = BASELINE) -> list[tuple[str, str]]:
    return [(one.what, one.key) for one in changes(load_policies(directory), baseline, now)]


def test_what_ships_agrees_with_its_baseline_now_and_after_every_date_in_it() -> None:
    last = max(row.end for row in observe(REGISTRY) if row.end is not None) + timedelta(days=1)
    for now in (datetime(2024, 1, 1, tzinfo=UTC), NOW, last):
        assert changes(REGISTRY, BASELINE, now) == ()
    assert wanting_people(REGISTRY) == ()


RATE, POOL = "compute_voucher.rate_ceiling.domestic", "compute_voucher.pool"
EDITS = [
    ("a rate", VOUCHER, "value: 4000", "value: 3999", [("EDITED", RATE)]),
    ("its clause", VOUCHER, 'clause: "2.1.1"', 'clause: "4.3"', [("EDITED", RATE)]),
    ("who approved it", VOUCHER, "approved_by: zone-legal", "approved_by: zone-lawyer", [("EDITED", RATE)]),
    ("when it was recorded", VOUCHER, "recorded_at: 2026-11-23", "recorded_at: 2024-01-01", [("EDITED", RATE)]),
    (
        "its start, with the term's",
        VOUCHER,
        "valid_from: 2024-03-28",
        "valid_from: 2024-03-27",
        [("REMOVED", RATE), ("BACK_DATED", RATE)],
    ),
    ("an end that has passed", TERM, "valid_to: 2027-04-01", "valid_to: 2026-11-30",
     [("ENDED_IN_THE_PAST", "policy.in_force")]),
    ("an end to come", TERM, "valid_to: 2027-04-01", "valid_to: 2027-02-01", []),
    ("a year to come", VOUCHER, "valid_to: 2028-01-01, value: 10_000_000_000", "valid_to: 2028-01-01, value: 1", []),
    ("this year", VOUCHER, "valid_to: 2027-01-01, value: 10_000_000_000", "valid_to: 2027-01-01, value: 1",
     [("EDITED", POOL)]),
    ("an interpretation's note", f"{POLICY}/interpretations.yaml", "natural years", "calendar years", []),
]  # fmt: skip


@pytest.mark.parametrize(("what", "file", "old", "new", "expected"), EDITS, ids=[row[0] for row in EDITS])
def test_of_a_begun_value_only_the_end_may_be_set_and_only_ahead(
    copy: Path, what: str, file: str, old: str, new: str, expected: list[tuple[str, str]]
) -> None:
    assert found(edit(copy, file, old, new)) == expected, what


def test_a_value_is_frozen_from_its_first_millisecond(copy: Path) -> None:
    baseline = freeze(REGISTRY, BASELINE, datetime(2027, 1, 1, tzinfo=UTC))
    edit(copy, VOUCHER, "valid_to: 2028-01-01, value: 10_000_000_000", "valid_to: 2028-01-01, value: 1")
    begins = datetime(2026, 12, 31, 16, tzinfo=UTC)

    assert found(copy, begins - timedelta(milliseconds=1), baseline) == []
    assert found(copy, begins, baseline) == [("EDITED", POOL)]


def split(directory: Path, recorded: str, day: str = "2026-11-28") -> Path:
    """The domestic rate is another one from the day on; written down on `recorded`."""
    old = f"    valid_to: 2027-04-01\n    value: 4000\n{ROW}    recorded_at: 2026-11-23\n"
    people = "    recorded_by: zone-operator\n    approved_by: zone-legal\n"
    first = f"    valid_to: {day}\n    value: 4000\n{ROW}    recorded_at: 2026-11-23\n{people}"
    second = f"  - valid_from: {day}\n    valid_to: 2027-04-01\n    value: 3000\n{ROW}    recorded_at: {recorded}\n"
    return edit(directory, VOUCHER, old, first + second)


def test_a_change_written_down_in_time_is_no_edit_once_it_has_begun(copy: Path) -> None:
    """Its old row's end was set while it lay ahead; the baseline of then is the one that must know it."""
    split(copy, "2026-11-24")
    then = freeze(load_policies(copy), BASELINE, datetime(2026, 11, 25, tzinfo=UTC))

    assert found(copy, NOW, then) == []


def test_a_value_written_down_after_it_began_is_back_dated(copy: Path) -> None:
    split(copy, "2026-11-30")

    assert ("BACK_DATED", RATE) in found(copy)
    assert ("ENDED_IN_THE_PAST", RATE) in found(copy)


def test_confirming_the_later_notice_reaches_back_and_is_told(copy: Path) -> None:
    edit(copy, "etown-2024-29/term.yaml", "status: awaiting_confirmation", "status: in_force")

    assert found(copy) == [("BACK_DATED", "policy.in_force")]


def test_a_change_tells_what_it_was_and_what_it_is(copy: Path) -> None:
    [change] = changes(load_policies(edit(copy, VOUCHER, "value: 4000", "value: 3999")), BASELINE, NOW)

    assert change.document() == {
        "what": "EDITED",
        "policy": POLICY,
        "key": RATE,
        "from": "2024-03-27T16:00:00.000Z",
        "was": "4000",
        "now": "3999",
    }


# --- forcing ------------------------------------------------------------------------------------------------------


def test_freezing_an_edit_needs_an_approval_which_stays_on_record(copy: Path) -> None:
    changed = load_policies(edit(copy, VOUCHER, "value: 4000", "value: 3999"))
    with pytest.raises(FrozenChanged, match=f"EDITED {POLICY} {RATE}"):
        freeze(changed, BASELINE, NOW)

    forced = freeze(changed, BASELINE, NOW, approved_by="zone-director")
    write_baseline(copy / FILE, forced)
    again = read_baseline(copy / FILE)
    assert again == forced
    assert [(one.approved_by, one.changes[0]["was"]) for one in again.accepted] == [("zone-director", "4000")]
    assert changes(changed, again, NOW) == ()
    assert freeze(changed, again, NOW).accepted == again.accepted


def test_a_value_without_two_people_can_be_tried_but_not_served(copy: Path) -> None:
    """The first `approved_by` of the file is that of the domestic rate."""
    changed = load_policies(edit(copy, VOUCHER, "    approved_by: zone-legal\n", ""))

    assert wanting_people(changed) == ((POLICY, RATE, "2024-03-27T16:00:00.000Z"),)


# --- the service's start ------------------------------------------------------------------------------------------


def test_a_service_starts_remembers_and_starts_again(copy: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory.json"
    for now in (NOW, NOW + timedelta(days=60)):
        check_at_start(load_policies(copy), copy, memory, now)

    assert read_baseline(memory).as_of == NOW + timedelta(days=60)


def test_a_folder_without_a_baseline_is_held_to_the_shipped_one(copy: Path, tmp_path: Path) -> None:
    (copy / FILE).unlink()
    check_at_start(load_policies(copy), copy, tmp_path / "memory.json", NOW)
    check_at_start(REGISTRY, None, tmp_path / "memory.json", NOW)
    changed = load_policies(edit(copy, VOUCHER, "value: 4000", "value: 3999"))
    with pytest.raises(FrozenChanged, match="3999"):
        check_at_start(changed, copy, tmp_path / "other.json", NOW)


def test_a_service_does_not_start_with_a_value_nobody_approved(copy: Path, tmp_path: Path) -> None:
    changed = load_policies(edit(copy, VOUCHER, "    approved_by: zone-legal\n", ""))
    with pytest.raises(ParameterError, match=rf"{POLICY} {RATE}: .* two people"):
        check_at_start(changed, copy, tmp_path / "memory.json", NOW)
    assert not (tmp_path / "memory.json").exists()


def test_a_service_refuses_an_edit_even_where_the_baseline_was_rewritten(copy: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory.json"
    check_at_start(load_policies(copy), copy, memory, NOW)
    before = memory.read_bytes()
    changed = load_policies(edit(copy, VOUCHER, "value: 4000", "value: 3999"))
    with pytest.raises(FrozenChanged, match="3999"):
        check_at_start(changed, copy, memory, NOW)

    write_baseline(copy / FILE, freeze(changed, None, NOW))
    with pytest.raises(FrozenChanged, match="3999"):
        check_at_start(changed, copy, memory, NOW)
    assert memory.read_bytes() == before, "a refused start leaves no trace"


def test_a_service_starts_with_an_edit_that_was_approved(copy: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory.json"
    check_at_start(load_policies(copy), copy, memory, NOW)
    changed = load_policies(edit(copy, VOUCHER, "value: 4000", "value: 3999"))
    write_baseline(copy / FILE, freeze(changed, BASELINE, NOW, approved_by="zone-director"))

    check_at_start(changed, copy, memory, NOW)
    check_at_start(changed, copy, memory, NOW)


def test_a_value_that_is_new_with_a_release_starts_if_its_baseline_knows_it(copy: Path) -> None:
    memory = freeze(REGISTRY, None, NOW)
    rows = {place: row for place, row in memory.rows.items() if row.key != "review.sampling"}
    older = Baseline(as_of=NOW, rows=rows)

    assert guard(REGISTRY, BASELINE, older, NOW).rows.keys() == memory.rows.keys()
    with pytest.raises(FrozenChanged, match=r"review\.sampling"):
        guard(REGISTRY, Baseline(as_of=BASELINE.as_of, rows=rows), older, NOW)


# --- the file -----------------------------------------------------------------------------------------------------


def test_the_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    write_baseline(tmp_path / FILE, BASELINE)

    assert (tmp_path / FILE).read_bytes() == (HERE / FILE).read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"version": 1', '"version": 2', "2 is not 1"),
        ('"as_of"', '"asof"', "nearest is 'as_of'"),
        ('"as_of": "2026', '"as_of": "soon', "is not an instant"),
        ('"sha256"', '"sha"', "unknown key 'sha'"),
        ('"recorded_at": "2026-11-23"', '"recorded_at": "23 November"', "is not a day"),
        ('"rows": [', '"rows": [3,', "is not a mapping"),
        ('{"version"', '{{"version"', "is not JSON"),
        ('"accepted": []', '"accepted": {}', "is not a list"),
        (
            '"accepted": []',
            '"accepted": [{"at": "2026-11-23T00:00:00Z", "approved_by": "", "changes": [1]}]',
            "not text",
        ),
    ],
)
def test_a_baseline_is_refused_for(copy: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ParameterError) as refused:
        read_baseline(edit(copy, FILE, old, new) / FILE)

    assert said in str(refused.value)
    assert FILE in str(refused.value)


def test_a_missing_baseline_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="cannot be read"):
        read_baseline(tmp_path / FILE)


def test_the_document_is_plain_json() -> None:
    assert json.loads(json.dumps(baseline_document(BASELINE)))["rows"][0]["policy"] == POLICY
