"""Exporters' pages are read line by line; what is no series is passed over, blanks of counters are unknown."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.exposition import exposition_time, gather, is_exposition, read_exposition

PAGE = """\
# HELP a_b what
# TYPE a_b gauge
a_b{x="1",y="a\\"b\\\\c\\nd"} 1.5e2 1723621883587
a_b{x="2",} 9223372036854775794
c NaN
d{} +Inf
e 4294967295
f{x="1" 3
g{x="3"} 7 # {trace="1"} 2
h
# EOF
"""


def test_series_have_names_labels_and_values_and_blanks_are_unknown() -> None:
    assert read_exposition(PAGE) == [
        ("a_b", {"x": "1", "y": 'a"b\\c\nd'}, 150.0),
        ("a_b", {"x": "2"}, None),
        ("c", {}, None),
        ("d", {}, None),
        ("e", {}, None),
        ("g", {"x": "3"}, 7.0),
    ]


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        ("1723621883587", datetime(2024, 8, 14, 7, 51, 23, 587000, UTC)),
        ("1606402000", datetime(2020, 11, 26, 14, 46, 40, tzinfo=UTC)),
        ("9999999999999999999", None),
        ("-5", None),
    ],
)
def test_the_newest_time_counts_in_milliseconds_or_seconds(stamp: str, expected: datetime | None) -> None:
    assert exposition_time(f"a 1 5\nb 2 {stamp}\nc 3") == (
        expected or (None if "999" in stamp else datetime(1970, 1, 1, 0, 0, 5, tzinfo=UTC))
    )


def test_a_page_of_prose_that_quotes_series_is_no_page_of_an_exporter() -> None:
    assert is_exposition(PAGE, "a_b")
    assert not is_exposition(PAGE, "z_")
    assert not is_exposition("One\nTwo\nThree\nFour\n" + "a_b 1\n", "a_b")


def test_series_are_gathered_by_device_and_asked_by_label() -> None:
    series = read_exposition('m{d="0",t="x"} 1\nm{d="0",t="y"} 2\nm{d="1",t="y"} -1\nn{d="0"} 3.5\nm 9\n')

    meters = gather(series, lambda labels: labels.get("d"))

    assert list(meters) == ["0", "1"]
    assert (meters["0"].value("m", t="y"), meters["0"].value("z", "n")) == (2.0, 3.5)
    assert (meters["1"].value("m"), meters["0"].count("n"), meters["0"].total("m"), meters["0"].share("n")) == (
        None,
        None,
        3,
        0.035,
    )


@given(st.text())
def test_any_text_is_read_without_harm(text: str) -> None:
    for name, labels, value in read_exposition(text):
        assert name
        assert isinstance(labels, dict)
        assert value is None or value == value
    exposition_time(text)
