"""A cell is a value or unknown; nothing else comes out of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.cell import read_bdf, read_count, read_number, read_ratio, read_text


@pytest.mark.parametrize("blank", ["", "-", "NA", "N/A", "[N/A]", "[Not Supported]", " [Unknown] ", "None"])
def test_what_tools_print_for_no_reading_is_none(blank: str) -> None:
    assert read_text(blank) is None
    assert read_number(blank) is None
    assert read_ratio(blank) is None


@pytest.mark.parametrize(
    ("cell", "unit", "value"),
    [("12.5 W", "W", 12.5), ("12.5", "W", 12.5), ("12.5 kW", "W", None), ("-3", "", None), ("1e3", "", None)],
)
def test_a_number_carries_its_unit_or_none(cell: str, unit: str, value: float | None) -> None:
    assert read_number(cell, unit=unit) == value


@pytest.mark.parametrize(("cell", "ratio"), [("0 %", 0.0), ("100 %", 1.0), ("101 %", None), ("7", 0.07)])
def test_a_percentage_is_a_ratio_up_to_one(cell: str, ratio: float | None) -> None:
    assert read_ratio(cell) == ratio


@pytest.mark.parametrize(
    ("cell", "bdf"),
    [
        ("00000000:1B:00.0", "0000:1b:00.0"),
        ("0000:66:00.0", "0000:66:00.0"),
        ("3d:00.0", "0000:3d:00.0"),
        ("00010000:3D:00.0", "10000:3d:00.0"),
        ("0000:66:20.0", None),  # a bus holds 32 devices
        ("66", None),
    ],
)
def test_a_bus_address_has_one_spelling(cell: str, bdf: str | None) -> None:
    assert read_bdf(cell) == bdf


@given(st.text(max_size=12))
def test_no_text_without_a_zero_reads_as_zero(cell: str) -> None:
    assert read_number(cell) != 0 or "0" in cell
    assert read_count(cell) != 0 or "0" in cell
    assert read_ratio(cell) != 0 or "0" in cell
