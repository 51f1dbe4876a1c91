"""Cases for tests: a small one to vary, and a strategy that seeks out borders and tight rooms."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from metering.parameters import load_policies
from metering.rule import load_rules

OUTPUTS = sorted((Path(__file__).parents[1] / "cases" / "settle").glob("*.out.json"))
PAIRS = [path.with_name(path.name.replace(".out", "")) for path in OUTPUTS]
REGISTRY = load_policies()
RULES = load_rules()
POLICY = "etown-2024-10"


def always() -> list[dict[str, Any]]:
    """Eligible since before the policy and without an end; a new list each time, so that a test may spoil its own."""
    return [{"from": "2023-01-01T00:00:00+08:00", "to": None}]


def entry(**changes: Any) -> dict[str, Any]:
    """One device for one hour at 10.00 yuan, domestic, in the middle of 2025."""
    return {
        "lease": "L1",
        "model": "Ascend910B3",
        "origin": "domestic",
        "devices": 1,
        "start": "2025-06-01T09:00:00+08:00",
        "end": "2025-06-01T10:00:00+08:00",
        "price_fen_per_device_hour": 1000,
        **changes,
    }


def case(*usage: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A case of an eligible firm with these entries."""
    firm = {"id": "91110302MA01A2B3C4", "eligible": always()}
    return {"version": 1, "policy": POLICY, "firm": firm, "usage": list(usage), **changes}


BORDERS = [
    datetime(2024, 3, 27, 16, tzinfo=UTC),  # the term begins
    datetime(2024, 11, 23, 16, tzinfo=UTC),  # a later notice
    datetime(2024, 12, 31, 16, tzinfo=UTC),  # local years begin
    datetime(2025, 12, 31, 16, tzinfo=UTC),
    datetime(2026, 12, 31, 16, tzinfo=UTC),
    datetime(2027, 3, 31, 16, tzinfo=UTC),  # the term ends
]
OFFSETS = [-7_200_000, -1_800_000, -1801, -1, 0, 0, 1, 1800, 3_600_000, 5_400_000]


def text_of(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds")


@st.composite
def moments(draw: st.DrawFn) -> datetime:
    """Near a border, mostly."""
    border = draw(st.sampled_from(BORDERS))
    return border + timedelta(milliseconds=draw(st.sampled_from(OFFSETS) | st.integers(-(10**7), 10**7)))


@st.composite
def eligibilities(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Always, never, or up to four intervals that may overlap, touch or be empty, in any order."""
    kind = draw(st.sampled_from(["always", "always", "always", "never", "some", "some"]))
    if kind == "always":
        return always()
    if kind == "never":
        return []
    found = []
    for _ in range(draw(st.integers(1, 4))):
        a, b = sorted([draw(moments()), draw(moments())])
        found.append(
            {
                "from": text_of(a),
                **draw(st.sampled_from([{"to": text_of(b)}, {"to": None}, {"to": text_of(b)}, {}])),
            }
        )
    return found


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """Many origins, shares, sites and years; rooms from none to nothing."""
    usage = []
    for number in range(draw(st.integers(0, 6))):
        start = draw(moments())
        length = draw(st.sampled_from([0, 1, 1800, 3_600_000, 9_000_000, 40_000_000_000]) | st.integers(0, 10**7))
        one = entry(
            lease=f"L{number % 3}",
            origin=draw(st.sampled_from(["domestic", "foreign", "undetermined"])),
            devices=draw(st.integers(1, 9)),
            start=text_of(start),
            end=text_of(start + timedelta(milliseconds=length)),
            price_fen_per_device_hour=draw(st.sampled_from([0, 1, 3, 7, 999, 2000, 10**7])),
        )
        one |= draw(st.sampled_from([{}, {"share_permille": 1}, {"share_permille": 333}, {"share_permille": 1000}]))
        one |= draw(st.sampled_from([{}, {"site": "a"}, {"site": "b/~"}]))
        usage.append(one)
    fen = st.sampled_from([0, 1, 2, 3, 50, 399, 400, 401, 10_000, 10**9])
    by_year = st.dictionaries(st.sampled_from(["2023", "2024", "2025", "2026", "2027", "2028"]), fen, max_size=4)
    rooms: dict[str, Any] = {}
    for name, values in (("pool", by_year), ("firm", by_year), ("contract", fen), ("tranche", fen)):
        if draw(st.booleans()):
            rooms[name] = draw(values)
    found = case(*usage, firm={"id": "f", "eligible": draw(eligibilities())})
    found["sites"] = {"a": {"eligible": draw(eligibilities())}, "b/~": {"eligible": draw(eligibilities())}}
    said = draw(st.booleans())
    if rooms or said:
        found["rooms"] = rooms
    return found
