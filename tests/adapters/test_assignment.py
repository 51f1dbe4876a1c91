"""An assignment is on disk whole or not at all, and a file that is none is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.adapter import AdapterError
from adapters.assignment import Assignment, read_assignments, remove_assignment, write_assignment

FIT = Assignment(allocation="job_1.1", devices=("sim:n1:0", "sim:n1:1"), share_permille=250, pids=(7, 9), cgroup="/x")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_assignment(tmp_path / "new", FIT)

    assert read_assignments(tmp_path / "new") == (FIT,)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["job_1.1.json"]


def test_a_second_write_replaces_and_a_second_removal_changes_nothing(tmp_path: Path) -> None:
    write_assignment(tmp_path, FIT)
    write_assignment(tmp_path, Assignment(allocation="job_1.1", devices=("sim:n1:5",)))

    assert [found.devices for found in read_assignments(tmp_path)] == [("sim:n1:5",)]

    remove_assignment(tmp_path, "job_1.1")
    remove_assignment(tmp_path, "job_1.1")
    assert read_assignments(tmp_path) == ()


def test_a_folder_that_is_not_there_holds_no_assignment(tmp_path: Path) -> None:
    assert read_assignments(tmp_path / "absent") == ()


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b", "x" * 300])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a file"):
        write_assignment(tmp_path, Assignment(allocation=name, devices=("u",)))
    with pytest.raises(ValueError, match="cannot name a file"):
        remove_assignment(tmp_path, name)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not an assignment"),
        ('{"version": 1, "allocation": "a", "devices": ["u"], "extra": 1}', "not an assignment"),
        ('{"version": 1, "allocation": "a", "devices": []}', "devices"),
        ('{"version": 1, "allocation": "a", "devices": ["u", "u"]}', "twice"),
        ('{"version": 1, "allocation": "b", "devices": ["u"]}', "not the file's name"),
        ('{"version": 1, "allocation": "a", "devices": ["u"], "share_permille": 0}', "share_permille"),
        ('{"version": 1, "allocation": "a", "devices": ["u"], "share_permille": 1001}', "share_permille"),
        ('{"version": 1, "allocation": "a", "devices": ["u"], "pids": [true]}', "pids"),
        ('{"version": 1, "allocation": "a", "devices": ["u"], "pids": [0]}', "pids"),
    ],
)
def test_a_file_that_is_no_assignment_is_named(tmp_path: Path, body: str, said: str) -> None:
    (tmp_path / "a.json").write_text(body)

    with pytest.raises(AdapterError, match=f"a.json.*{said}"):
        read_assignments(tmp_path)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_any_value_in_any_field_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    folder = tmp_path_factory.mktemp("assignments", numbered=True)
    for key in ("allocation", "devices", "share_permille", "pids", "cgroup", "version"):
        body = {"version": 1, "allocation": "a", "devices": ["u"], key: value}
        (folder / "a.json").write_text(json.dumps(body))
        try:
            assert read_assignments(folder)[0].allocation == "a"
        except AdapterError as error:
            assert "a.json" in str(error)  # noqa: PT017  either outcome is right, a crash is not
