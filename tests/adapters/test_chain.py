"""Canonical JSON is RFC 8785 to the byte, whichever encoder writes it; a chain shows any change."""

from __future__ import annotations

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from adapters.chain import GENESIS, Form, canonical, digest, link

TEXT = st.text(st.characters(codec="utf-8"))
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | TEXT
    | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXT, v, max_size=4), max_leaves=12)


@given(st.dictionaries(TEXT, VALUES) | st.lists(VALUES))
def test_every_value_has_the_library_s_bytes(value: dict[str, object] | list[object]) -> None:
    assert canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        {'\x00\x1f\x7f\b\t\n\f\r"\\/': '\x00\x1f\x7f\u2028\u2029\b\t\n\f\r"\\/é人\U0001f600'},
        {"b": 1, "a": 2, "B": 3, "": 4, "a b": 5, "_": 6, "10": 7, "9": 8},
        {"\U0001f600": 1, "\ufb33": 2},  # UTF-16 order is not code point order
        {"1": 1.0, "2": 1e21, "3": -0.0, "4": [], "5": {}, "6": (1, True, None)},
    ],
)
def test_escapes_keys_and_numbers(value: dict[str, object]) -> None:
    assert canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [2**53, -(2**53), float("nan"), float("inf"), "\ud800", b"x", object()])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    for body in ({"a": value}, [[value]]):
        with pytest.raises((ValueError, TypeError)):
            canonical(body)


@given(st.lists(st.dictionaries(TEXT, VALUES, max_size=3), min_size=2, max_size=4), st.data())
def test_a_chain_ends_elsewhere_when_any_record_changes(records: list[dict[str, object]], data: st.DataObject) -> None:
    def tip(of: list[dict[str, object]]) -> str:
        found = GENESIS
        for record in of:
            found = link(found, record)
        return found

    index = data.draw(st.integers(0, len(records) - 1))
    changed = [*records[:index], {**records[index], "changed": 1}, *records[index + 1 :]]
    if digest(changed[index]) != digest(records[index]):
        assert tip(changed) != tip(records)


FLAT = st.none() | st.text() | st.integers(-(2**54), 2**54) | st.booleans() | st.floats(-1e6, 1e6)


@given(st.dictionaries(st.sampled_from(["a", "b_2", "B", "seq", "zeta"]), FLAT, min_size=2))
def test_a_form_spells_what_the_canonical_form_spells(body: dict[str, object]) -> None:
    try:
        expected = canonical(body)
    except (ValueError, OverflowError) as refused:
        with pytest.raises(type(refused)):
            Form(body).canonical(body)
        return
    assert Form(body).canonical({**body, "other": 1}) == expected
    with pytest.raises(KeyError):
        Form([*body, "absent"]).canonical(body)
