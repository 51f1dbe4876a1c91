"""`yisuan settle`: the worked pairs exactly, what is accepted, and every kind of badness named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.case import CaseError, schema, settle_document
from metering.case_format import CASE, OUTPUT
from metering.settlement import REASONS
from tests.metering.cases import PAIRS, REGISTRY, RULES, always, case, cases, entry

ROOT = Path(__file__).parents[2]


def settled(text: str | bytes) -> dict[str, Any]:
    return settle_document(text, REGISTRY, RULES)


def refused(text: str | bytes) -> CaseError:
    with pytest.raises(CaseError) as bad:
        settled(text)
    json.dumps(bad.value.facts)
    return bad.value


# --- the worked pairs -----------------------------------------------------------------------------


def test_there_are_eighteen_worked_pairs() -> None:
    assert len(PAIRS) == 18


@pytest.mark.parametrize("path", PAIRS, ids=lambda path: path.stem)
def test_a_worked_case_gives_exactly_its_output(path: Path) -> None:
    out = settled(path.read_bytes())

    assert re.fullmatch("[0-9a-f]{64}", out.pop("bundle_sha256"))
    assert json.loads(path.with_suffix(".out.json").read_text(encoding="utf-8")) == out


def test_keys_come_in_the_documented_order() -> None:
    out = settled(json.dumps(case(entry(), rooms={"contract": 5, "tranche": 6})))

    properties = OUTPUT["anyOf"][0]["properties"]
    assert list(properties) == list(out)
    assert list(properties["lines"]["items"]["properties"]) == list(out["lines"][0])
    assert list(properties["rooms_after"]["properties"]) == list(out["rooms_after"])


# --- what is accepted -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start",
    [
        "2025-06-01T09:00:00+08:00",
        "2025-06-01T09:00+08:00",
        "2025-06-01t01:00Z",
        "2025-06-01T01:00:00z",
        "2025-06-01T01:00:00.0Z",
        "2025-06-01T01:00:00.000000000000Z",
        "2025-05-31T20:30:00-04:30",
        "2025-06-01T01:00:00-00:00",
    ],
)
def test_one_instant_has_many_spellings_and_one_print(start: str) -> None:
    out = settled(json.dumps(case(entry(start=start))))

    assert out["lines"][0]["start"] == "2025-06-01T01:00:00.000Z"


def test_milliseconds_are_judged_by_value() -> None:
    out = settled(json.dumps(case(entry(end="2025-06-01T09:00:00.1230000+08:00"))))

    assert (out["lines"][0]["device_ms"], out["lines"][0]["end"]) == (123, "2025-06-01T01:00:00.123Z")


@pytest.mark.parametrize("to", [{}, {"to": None}, {"to": "9999-12-31T23:59:59-08:00"}, {"to": "9999-12-31T23:59:59Z"}])
@pytest.mark.parametrize("start", ["0001-01-01T00:00:00+08:00", "0001-01-01T00:00:00Z", "2025-06-01T09:00:00+08:00"])
def test_open_ends_may_be_said_with_the_ends_of_time(start: str, to: dict[str, Any]) -> None:
    out = settled(json.dumps(case(entry(), firm={"id": "f", "eligible": [{"from": start, **to}]})))

    assert [line["rate_bp"] for line in out["lines"]] == [4000]


@pytest.mark.parametrize(
    ("start", "end"),
    [("9999-12-31T23:00:00-08:00", None), ("0001-01-01T00:00:00+08:00", "0001-01-01T00:00:00+07:00")],
)
def test_an_interval_beyond_the_ends_of_time_holds_at_no_instant_of_it(start: str, end: str | None) -> None:
    eligible = [{"from": start, "to": end}]
    usage = entry(start="0001-01-01T00:00:00Z", end="9999-12-31T23:59:59.999Z", price_fen_per_device_hour=1)
    out = settled(json.dumps(case(usage, firm={"id": "f", "eligible": eligible})))

    assert all("FIRM_NOT_ELIGIBLE" in line["reasons"] for line in out["lines"])
    assert (
        out["lines"][0]["start"], out["lines"][0]["year"], out["lines"][-1]["year"]
    ) == ("0001-01-01T00:00:00.000Z", 1, 10_000)  # fmt: skip


def test_the_largest_integers_are_settled_exactly() -> None:
    largest = 2**53 - 1
    one = entry(devices=largest, price_fen_per_device_hour=largest, end="2026-12-31T09:00:00+08:00")
    out = settled(json.dumps(case(one, rooms={"pool": {"2025": largest}, "firm": {"2025": largest, "2026": 0}})))

    exact = sum((2 * line["device_ms"] * largest + 3_600_000) // 7_200_000 for line in out["lines"])
    assert exact == out["totals"]["fee_fen"]
    assert out["rooms_after"]["pool"] == {"2025": 0, "2026": 10_000_000_000}
    assert out["rooms_after"]["firm"] == {"2025": 0, "2026": 0}


def test_names_are_free_text_and_come_back_as_they_were() -> None:
    names = {"lease": "", "model": "昇腾 910B3 \u2028 \ud800 😀", "site": "a/~b"}
    out = settled(json.dumps(case(entry(**names), sites={"a/~b": {"eligible": always()}})))

    assert ("", names["model"]) == (out["lines"][0]["lease"], out["lines"][0]["model"])


# --- what is refused ------------------------------------------------------------------------------


def changed(path: str, value: Any) -> str:
    """The valid case with one thing replaced (or taken away, with `...`)."""
    found: Any = case(
        entry(site="s"),
        sites={"s": {"eligible": [{"from": "2024-01-01T00:00Z", "to": None}]}},
        rooms={"pool": {"2025": 5}, "firm": {}, "contract": 3},
    )
    found = json.loads(json.dumps(found))
    *steps, last = path.split("/")[1:]
    target = found
    for step in steps:
        target = target[int(step)] if isinstance(target, list) else target[step]
    key: Any = int(last) if isinstance(target, list) else last
    if value is ...:
        del target[key]
    else:
        target[key] = value
    return json.dumps(found)


TIMES = ["/usage/0/start", "/usage/0/end", "/firm/eligible/0/from", "/sites/s/eligible/0/to"]
BAD_TIMES = [
    "2025-06-01T09:00:00",
    "2025-06-01",
    "2025-06-01 09:00:00+08:00",
    "20250601T090000Z",
    "2025-6-1T09:00:00Z",
    "2025-06-01T09Z",
    "2025-06-01T09:00:00+8",
    "2025-06-01T09:00:00+0800",
    "2025-06-01T09:00:00+24:00",
    "2025-06-01T09:00:00+08:60",
    "2025-06-01T09:00:00.Z",
    "2025-06-01T09:00:00,5Z",
    "2025-06-01T09:00:00.0001Z",
    "2025-06-01T09:00:00.1230001Z",
    "2025-06-01T24:00:00Z",
    "2025-06-01T09:60:00Z",
    "2025-06-01T09:00:61Z",
    "2025-02-29T00:00:00Z",
    "2025-13-01T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "２０２５-06-01T09:00:00Z",
    "2025-06-01T09:00:00Z\n",
    " 2025-06-01T09:00:00Z",
    "",
    "now",
]


@pytest.mark.parametrize("path", TIMES)
@pytest.mark.parametrize("value", BAD_TIMES)
def test_a_time_that_is_not_rfc_3339_in_milliseconds_is_refused(path: str, value: str) -> None:
    bad = refused(changed(path, value))

    assert ("BAD_TIME", path, value) == (bad.code, bad.facts["path"], bad.facts["value"])


BAD: list[tuple[str, Any, str]] = [
    ("/version", 2, "UNKNOWN_VERSION"),
    ("/version", 0, "UNKNOWN_VERSION"),
    ("/version", "1", "WRONG_TYPE"),
    ("/version", True, "WRONG_TYPE"),
    ("/version", 1.0, "WRONG_TYPE"),
    ("/version", None, "WRONG_TYPE"),
    ("/policy", "etown-2024-11", "UNKNOWN_POLICY"),
    ("/policy", "etown-2024-29", "POLICY_NOT_ACTIVE"),
    ("/policy", 10, "WRONG_TYPE"),
    ("/firm", [], "WRONG_TYPE"),
    ("/firm", None, "WRONG_TYPE"),
    ("/firm/id", 5, "WRONG_TYPE"),
    ("/firm/id", None, "WRONG_TYPE"),
    ("/firm/eligible", {}, "WRONG_TYPE"),
    ("/firm/eligible", None, "WRONG_TYPE"),
    ("/firm/eligible/0", "always", "WRONG_TYPE"),
    ("/firm/eligible/0/from", None, "WRONG_TYPE"),
    ("/firm/eligible/0/from", 1748739600, "WRONG_TYPE"),
    ("/firm/eligible/0/to", "2022-12-31T23:59:59.999+08:00", "END_BEFORE_START"),
    ("/firm/eligible/0/to", False, "WRONG_TYPE"),
    ("/sites", None, "WRONG_TYPE"),
    ("/sites", [], "WRONG_TYPE"),
    ("/sites/s", [], "WRONG_TYPE"),
    ("/sites/s", ..., "UNKNOWN_SITE"),
    ("/sites", ..., "UNKNOWN_SITE"),
    ("/rooms", None, "WRONG_TYPE"),
    ("/rooms/pool", None, "WRONG_TYPE"),
    ("/rooms/pool", 5, "WRONG_TYPE"),
    ("/rooms/pool/2025", None, "WRONG_TYPE"),
    ("/rooms/pool/2025", "5", "WRONG_TYPE"),
    ("/rooms/pool/2025", -1, "OUT_OF_RANGE"),
    ("/rooms/pool/2025", 5.0, "WRONG_TYPE"),
    ("/rooms/pool/2025", True, "WRONG_TYPE"),
    ("/rooms/pool/2025", 2**53, "OUT_OF_RANGE"),
    ("/rooms/pool/25", 1, "BAD_YEAR"),
    ("/rooms/pool/20255", 1, "BAD_YEAR"),
    ("/rooms/firm/２０２５", 1, "BAD_YEAR"),
    ("/rooms/firm/2025 ", 1, "BAD_YEAR"),
    ("/rooms/contract", None, "WRONG_TYPE"),
    ("/rooms/contract", -5, "OUT_OF_RANGE"),
    ("/rooms/tranche", {}, "WRONG_TYPE"),
    ("/usage", {}, "WRONG_TYPE"),
    ("/usage", None, "WRONG_TYPE"),
    ("/usage/0", None, "WRONG_TYPE"),
    ("/usage/0", [], "WRONG_TYPE"),
    ("/usage/0/lease", 1, "WRONG_TYPE"),
    ("/usage/0/model", None, "WRONG_TYPE"),
    ("/usage/0/origin", "Domestic", "UNKNOWN_ORIGIN"),
    ("/usage/0/origin", "", "UNKNOWN_ORIGIN"),
    ("/usage/0/origin", None, "WRONG_TYPE"),
    ("/usage/0/devices", 0, "OUT_OF_RANGE"),
    ("/usage/0/devices", -1, "OUT_OF_RANGE"),
    ("/usage/0/devices", 8.0, "WRONG_TYPE"),
    ("/usage/0/devices", True, "WRONG_TYPE"),
    ("/usage/0/devices", "8", "WRONG_TYPE"),
    ("/usage/0/share_permille", 0, "OUT_OF_RANGE"),
    ("/usage/0/share_permille", 1001, "OUT_OF_RANGE"),
    ("/usage/0/share_permille", None, "WRONG_TYPE"),
    ("/usage/0/share_permille", 0.5, "WRONG_TYPE"),
    ("/usage/0/site", "s2", "UNKNOWN_SITE"),
    ("/usage/0/site", None, "WRONG_TYPE"),
    ("/usage/0/site", 7, "WRONG_TYPE"),
    ("/usage/0/end", "2025-06-01T08:59:59.999+08:00", "END_BEFORE_START"),
    ("/usage/0/start", None, "WRONG_TYPE"),
    ("/usage/0/start", 0, "WRONG_TYPE"),
    ("/usage/0/start", "0001-01-01T00:00:00+08:00", "BAD_TIME"),
    ("/usage/0/end", "9999-12-31T23:59:59-08:00", "BAD_TIME"),
    ("/usage/0/price_fen_per_device_hour", -1, "OUT_OF_RANGE"),
    ("/usage/0/price_fen_per_device_hour", 19.99, "WRONG_TYPE"),
    ("/usage/0/price_fen_per_device_hour", 10**400, "OUT_OF_RANGE"),
    *((path, ..., "MISSING_KEY") for path in ("/version", "/policy", "/firm", "/usage", "/firm/id", "/firm/eligible")),
    *((path, ..., "MISSING_KEY") for path in ("/sites/s/eligible", "/firm/eligible/0/from")),
    *((f"/usage/0/{key}", ..., "MISSING_KEY") for key in CASE["properties"]["usage"]["items"]["required"]),
    *(
        (f"{path}/extra", 1, "UNKNOWN_KEY")
        for path in ("", "/firm", "/sites/s", "/rooms", "/usage/0", "/firm/eligible/0")
    ),
]


@pytest.mark.parametrize(("path", "value", "code"), BAD, ids=lambda part: str(part)[:40])
def test_what_a_case_must_not_say_is_refused_where_it_says_it(path: str, value: Any, code: str) -> None:
    bad = refused(changed(path, value))

    assert code == bad.code
    parent = path.rsplit("/", 1)[0]
    expected = {
        "UNKNOWN_SITE": "/usage/0/site",
        "MISSING_KEY": parent,
        "UNKNOWN_KEY": parent,
        "BAD_YEAR": parent,
    }
    assert expected.get(code, path) == bad.facts["path"]


VALID = json.dumps(case(entry(), rooms={"pool": {"2025": 1}}))
TEXTS: list[tuple[str, str | bytes, str]] = [
    ("nothing", "", "NOT_JSON"),
    ("no JSON", "version: 1", "NOT_JSON"),
    ("half of it", json.dumps(case(entry()))[:-1], "NOT_JSON"),
    ("two documents", json.dumps(case()) * 2, "NOT_JSON"),
    ("a byte order mark", b"\xef\xbb\xbf" + json.dumps(case()).encode(), "NOT_JSON"),
    ("UTF-16", json.dumps(case()).encode("utf-16"), "NOT_JSON"),
    ("no UTF-8", b'{"version": "\xff"}', "NOT_JSON"),
    ("a control character", '{"a": "\n"}', "NOT_JSON"),
    ("a trailing comma", '{"version": 1,}', "NOT_JSON"),
    ("a comment", "{} // none", "NOT_JSON"),
    ("NaN", json.dumps(case(entry(devices=float("nan")))), "NOT_JSON"),
    ("Infinity", json.dumps(case(entry(devices=float("inf")))), "NOT_JSON"),
    ("a very deep nest", "[" * 200_000, "NOT_JSON"),
    ("a deep nest that closes", "[" * 100_000 + "]" * 100_000, "NOT_JSON"),
    ("a deep nest inside", json.dumps(case())[:-1] + ',"x":' + "[" * 50_000 + "]" * 50_000 + "}", "NOT_JSON"),
    ("a list", "[]", "WRONG_TYPE"),
    ("a null", "null", "WRONG_TYPE"),
    ("a number", "5", "WRONG_TYPE"),
    ("a fraction", "0.5", "WRONG_TYPE"),
    ("a huge number", "9" * 10_000, "OUT_OF_RANGE"),
    ("an exponent", json.dumps(case(entry())).replace('"devices": 1', '"devices": 1e0'), "WRONG_TYPE"),
    ("a key twice", VALID.replace('"usage"', '"version": 1, "usage"'), "DUPLICATE_KEY"),
    ("a key twice below", VALID.replace('"origin"', '"lease": "L1", "origin"'), "DUPLICATE_KEY"),
    ("a key twice in escapes", VALID.replace('"usage"', '"\\u0076ersion": 1, "usage"'), "DUPLICATE_KEY"),
    ("a year twice", VALID.replace('"2025": 1', '"2025": 1, "2025": 1'), "DUPLICATE_KEY"),
]


@pytest.mark.parametrize(("what", "text", "code"), TEXTS, ids=[row[0] for row in TEXTS])
def test_text_that_is_not_one_strict_document_is_refused(what: str, text: str | bytes, code: str) -> None:
    assert code == refused(text).code, what


@pytest.mark.parametrize(
    ("path", "value", "nearest"),
    [
        ("/usage/0/origin", "domestik", "domestic"),
        ("/policy", "etown-2024-1", "etown-2024-10"),
        ("/usage/0/share_permile", 5, "share_permille"),
        ("/rooms/contracts", 5, "contract"),
    ],
)
def test_a_near_miss_is_told_the_nearest_spelling(path: str, value: Any, nearest: str) -> None:
    assert nearest == refused(changed(path, value)).facts["nearest"]


def test_an_error_says_where_and_what_in_one_line() -> None:
    bad = refused(changed("/usage/0/devices", 0))

    assert str(bad) == 'OUT_OF_RANGE at /usage/0/devices: value 0, expected "1 to 9007199254740991"'


@given(text=st.text(max_size=60) | st.binary(max_size=60))
def test_no_text_crashes_it(text: str | bytes) -> None:
    assert refused(text).code in (
        "NOT_JSON",
        "WRONG_TYPE",
        "MISSING_KEY",
        "UNKNOWN_KEY",
        "DUPLICATE_KEY",
        "OUT_OF_RANGE",
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150)
@given(found=cases(), data=st.data())
def test_any_value_in_any_place_is_settled_or_refused_and_never_crashes(
    found: dict[str, Any], data: st.DataObject
) -> None:
    target: Any = found
    while True:
        keys = list(target) if isinstance(target, dict) else list(range(len(target)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        if isinstance(target[key], (dict, list)) and target[key] and data.draw(st.booleans()):
            target = target[key]
            continue
        target[key] = data.draw(JSON)
        break
    text = json.dumps(found)
    try:
        out = settled(text)
    except CaseError:
        out = {"lines": [], "refused": json.dumps(refused(text).facts)}
    assert {reason for line in out["lines"] for reason in line["reasons"]} <= set(REASONS)


# --- the schemas ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "shape"), [("settle-case", CASE), ("settle-output", OUTPUT)])
def test_the_published_schema_is_the_one_in_the_code(name: str, shape: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "schemas" / f"{name}.json").read_text(encoding="utf-8")

    assert json.dumps(shape, indent=2, ensure_ascii=False) + "\n" == text


def test_the_schema_handed_out_is_a_copy() -> None:
    schema()["properties"].clear()

    assert schema() == CASE
    assert CASE["properties"]


@pytest.mark.parametrize("value", ["2025-06-01T09:00+08:00", "2025-06-01t01:00:00.1230z", *BAD_TIMES])
def test_the_schema_s_pattern_accepts_no_time_that_the_reader_finds_misspelt(value: str) -> None:
    """The pattern knows spelling, the reader also the calendar: what the reader takes, the pattern takes."""
    pattern = CASE["properties"]["usage"]["items"]["properties"]["start"]["pattern"]
    try:
        settled(changed("/usage/0/start", value))
        taken = True
    except CaseError as bad:
        taken = bad.code != "BAD_TIME"

    assert not taken or re.fullmatch(pattern[1:-1], value)
