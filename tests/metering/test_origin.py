"""The origin register: dated verdicts on (vendor, model), and undetermined where it says nothing."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import metering.parameters
from adapters.accelerator import Origin
from adapters.catalog import load_catalog
from metering.parameters import ParameterError, load_origin_register

SHIPPED = Path(metering.parameters.__file__).parent
MID_2025 = datetime(2025, 6, 1, tzinfo=UTC)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "parameters"))


def test_the_register_knows_the_demonstration_s_chips_and_says_why() -> None:
    register = load_origin_register()
    for vendor, model, origin in (
        ("ascend", "Ascend910B3", Origin.DOMESTIC),
        ("cambricon", "MLU590", Origin.DOMESTIC),
        ("thead", "PPU-ZW810E", Origin.DOMESTIC),
        ("nvidia", "H800", Origin.FOREIGN),
        ("nvidia", "H100", Origin.FOREIGN),
    ):
        found, row = register.origin(vendor, model, MID_2025)
        assert found is origin
        assert row is not None
        assert row.basis


@pytest.mark.parametrize(
    ("vendor", "model", "at"),
    [
        ("ascend", "X1", MID_2025),
        ("nvidia", "Ascend910B3", MID_2025),  # the pair is the identity
        ("ascend", "Ascend910B3", datetime(2023, 12, 31, 15, 59, 59, 999_000, tzinfo=UTC)),
    ],
)
def test_what_the_register_does_not_say_is_undetermined(vendor: str, model: str, at: datetime) -> None:
    assert load_origin_register().origin(vendor, model, at) == (Origin.UNDETERMINED, None)


def test_every_registered_model_is_spelt_as_in_the_catalogue() -> None:
    known = {chip.model for chip in load_catalog()}

    assert set() == {model for _, model in load_origin_register().rows} - known


def test_a_determination_that_ends_and_another_that_begins_are_edges(copy: Path) -> None:
    later = (
        "- origin: undetermined\n  basis_type: review\n  basis: under review\n  determined_by: operator\n"
        "  valid_from: 2026-03-01\n  valid_to: null\n  chips: [{vendor: ascend, models: [Ascend910A]}]\n"
    )
    path = copy / "origin" / "register.yaml"
    text = path.read_text(encoding="utf-8").replace("Ascend910A, ", "", 1)
    first = later.replace("undetermined", "domestic").replace("2026-03-01", "2024-01-01").replace("null", "2026-02-01")
    path.write_text(text + first + later, encoding="utf-8")
    register = load_origin_register(copy)

    edges = register.edges("ascend", "Ascend910A")
    assert [(f"{(at + timedelta(hours=8)).year}", (at + timedelta(hours=8)).month) for at in edges] == [
        ("2024", 1),
        ("2026", 2),
        ("2026", 3),
    ]
    assert [register.origin("ascend", "Ascend910A", at)[0] for at in edges] == [
        Origin.DOMESTIC,
        Origin.UNDETERMINED,
        Origin.UNDETERMINED,
    ]
    assert [register.origin("ascend", "Ascend910A", at)[1] is not None for at in edges] == [True, False, True]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("origin: domestic", "origin: domestc", "nearest is 'domestic'"),
        ("models: [MLU290, ", "models: [MLU290, MLU290, ", "two rows hold"),
        ("determined_by", "decided_by", "unknown key 'decided_by'"),
        ("valid_to: null", "valid_to: 2023-01-01", "is not after"),
    ],
)
def test_a_register_that_contradicts_itself_is_refused(copy: Path, old: str, new: str, said: str) -> None:
    path = copy / "origin" / "register.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")

    with pytest.raises(ParameterError, match=said):
        load_origin_register(copy)


def test_every_model_of_the_catalogue_has_a_row_and_two_people_behind_it() -> None:
    rows = load_origin_register().rows

    assert [chip.model for chip in load_catalog() if (chip.vendor, chip.model) not in rows] == []
    assert all(row.approved_by not in (None, row.determined_by) for mine in rows.values() for row in mine)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("approved_by: zone-legal", "approved_by: Platform Operator", "another approves"),
        ("document_sha256: null", "document_sha256: abc", "64 hexadecimal digits"),
    ],
)
def test_who_determined_does_not_approve_and_a_paper_is_named_by_its_hash(
    copy: Path, old: str, new: str, said: str
) -> None:
    path = copy / "origin" / "register.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ParameterError, match=said):
        load_origin_register(copy)
