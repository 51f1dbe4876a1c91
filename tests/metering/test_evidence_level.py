"""The ladder: which facts come to which level, at an instant and over time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.accelerator import EvidenceLevel
from metering.evidence_level import Facts, Kind, Record, course, decide, verdict_at

L = EvidenceLevel
SHOWN = {"bus": True, "bare_metal": True, "key": "k1"}


@pytest.mark.parametrize(
    ("facts", "level", "first"),
    [
        (Facts(reported=False), L.DECLARED, "DECLARED"),
        (Facts(), L.TOOL_REPORTED, "TOOL_REPORTED"),
        (Facts(bus=True, bare_metal=True), L.KERNEL_OBSERVED, "BUS_CONFIRMS"),
        (Facts(bus=True, bare_metal=False), L.TOOL_REPORTED, "VIRTUAL_MACHINE"),
        (Facts(bus=True, bare_metal=None), L.TOOL_REPORTED, "HOST_NOT_KNOWN"),
        (Facts(bus=True, bare_metal=True, signed=True), L.NODE_SIGNED, "NODE_SIGNED"),
        (Facts(bus=True, bare_metal=False, signed=True), L.TOOL_REPORTED, "VIRTUAL_MACHINE"),
        (Facts(bus=None, bare_metal=True, signed=True), L.TOOL_REPORTED, "TOOL_REPORTED"),
        (Facts(attested=True), L.DEVICE_SIGNED, "ATTESTED"),
        (Facts(audited=True, bus=True, bare_metal=False), L.OUT_OF_BAND, "AUDITED"),
        (Facts(audited=True, doubts=("serial: twice",)), L.DECLARED, "SUSPECT"),
        (Facts(bus=True, bare_metal=True, signed=True, fingerprint=True), L.NODE_SIGNED, "NODE_SIGNED"),
        (Facts(bus=True, bare_metal=True, signed=True, fingerprint=False), L.TOOL_REPORTED, "FINGERPRINT_OUT_OF_BAND"),
        (Facts(audited=True, fingerprint=False), L.TOOL_REPORTED, "FINGERPRINT_OUT_OF_BAND"),
        (Facts(fingerprint=True), L.TOOL_REPORTED, "TOOL_REPORTED"),
        (Facts(reported=False, fingerprint=False), L.DECLARED, "DECLARED"),
        (Facts(lapsed=True), L.TOOL_REPORTED, "CHALLENGE_UNANSWERED"),
        (Facts(lapsed=True, audited=True), L.OUT_OF_BAND, "AUDITED"),
        (Facts(bus=True, bare_metal=True, signed=True, kernel=True), L.NODE_SIGNED, "NODE_SIGNED"),
        (Facts(bus=True, bare_metal=True, signed=True, kernel=False), L.TOOL_REPORTED, "KERNEL_FAILED"),
        (Facts(reported=False, kernel=False), L.DECLARED, "DECLARED"),
    ],
)
def test_facts_come_to_a_level(facts: Facts, level: EvidenceLevel, first: str) -> None:
    verdict = decide(facts)
    assert (verdict.level, verdict.because[0]) == (level, first)
    assert verdict.suspect is bool(facts.doubts)


maybe = st.none() | st.booleans()
FACTS = st.builds(
    Facts,
    reported=st.booleans(),
    bus=maybe,
    bare_metal=maybe,
    signed=st.booleans(),
    attested=st.booleans(),
    audited=st.booleans(),
    fingerprint=maybe,
)


@given(FACTS)
def test_more_in_favour_never_lowers_a_level_and_a_doubt_takes_all(facts: Facts) -> None:
    level = decide(facts).level
    for better in ({"audited": True}, {"attested": True}, {"reported": True}, {"bus": True, "bare_metal": True}):
        assert decide(replace(facts, **better)).level >= level  # type: ignore[arg-type]
    assert decide(replace(facts, doubts=("d",))).level is L.DECLARED
    if facts.fingerprint is not False:
        assert decide(replace(facts, fingerprint=False)).level <= level


@given(FACTS)
def test_no_virtual_machine_gets_above_a_tools_word_by_itself(facts: Facts) -> None:
    if facts.bare_metal is not True and not facts.attested and not facts.audited:
        assert decide(facts).level <= L.TOOL_REPORTED


# --- over time ------------------------------------------------------------------------------------


def record(seq: int, kind: Kind, start: int, end: int | None = None, **facts: Any) -> Record:
    return Record(seq=seq, kind=kind, from_ms=start, to_ms=end, facts=facts)


def levels(*records: Record, base: EvidenceLevel = L.TOOL_REPORTED, **more: Any) -> list[tuple[int | None, int]]:
    return [(step.start_ms, int(step.verdict.level)) for step in course(records, base, **more)]


def test_a_signed_statement_holds_from_its_instant_until_it_is_stale() -> None:
    signed = record(1, Kind.SIGNED, 100, 200, **SHOWN)

    assert levels(signed) == [(None, 1), (100, 3), (200, 1)]
    steps = course([signed], L.TOOL_REPORTED)
    assert [int(verdict_at(steps, at).level) for at in (99, 100, 199, 200)] == [1, 3, 3, 1]
    assert levels(signed, record(2, Kind.SIGNED, 150, 250, **SHOWN)) == [(None, 1), (100, 3), (250, 1)]


def test_a_doubt_lasts_until_a_person_cleared_it() -> None:
    found = levels(
        record(1, Kind.SIGNED, 100, None, **SHOWN),
        record(2, Kind.SUSPECT, 150, doubts=["x"]),
        record(3, Kind.CLEARED, 300),
        record(4, Kind.SUSPECT, 400, doubts=["y"]),
    )
    assert found == [(None, 1), (100, 3), (150, 0), (300, 3), (400, 0)]


def test_a_doubt_of_the_same_millisecond_as_the_clearing_goes_by_number() -> None:
    def doubt(seq: int) -> Record:
        return record(seq, Kind.SUSPECT, 5, doubts=["x"])

    assert levels(doubt(1), record(2, Kind.CLEARED, 5)) == [(None, 1)]
    assert levels(record(1, Kind.CLEARED, 5), doubt(2)) == [(None, 1), (5, 0)]


def test_a_benchmark_inside_the_band_lifts_what_one_outside_held_down() -> None:
    signed = record(1, Kind.SIGNED, 0, None, **SHOWN)
    outside, inside = (record(n, Kind.FINGERPRINT, n * 10, within=w) for n, w in ((2, False), (3, True)))
    unknown = record(4, Kind.FINGERPRINT, 40, within=None)

    assert levels(signed, outside, inside, unknown) == [(None, 1), (0, 3), (20, 1), (30, 3)]
    assert levels(signed, outside, unknown) == [(None, 1), (0, 3), (20, 1)], "one that says nothing lifts nothing"


def test_an_audit_has_its_time_and_can_be_withdrawn() -> None:
    audited = record(7, Kind.AUDITED, 10, 20)

    assert levels(audited) == [(None, 1), (10, 5), (20, 1)]
    assert levels(audited, record(8, Kind.WITHDRAWN, 15, withdraws=7)) == [(None, 1)]


def test_a_key_that_was_stolen_vouches_for_nothing_after() -> None:
    before, after = record(1, Kind.SIGNED, 10, 30, **SHOWN), record(2, Kind.SIGNED, 50, 70, **SHOWN)

    assert levels(before, after, revoked={"k1": 50}) == [(None, 1), (10, 3), (30, 1)]
    assert levels(before, after, revoked={"k1": 10}) == [(None, 1)]
    assert levels(before, after, revoked={"other": 10}) == [(None, 1), (10, 3), (30, 1), (50, 3), (70, 1)]


def test_an_unsigned_word_does_not_take_away_a_signed_one() -> None:
    signed, seen = record(1, Kind.SIGNED, 10, None, **SHOWN), {"bus": True, "bare_metal": True, "key": None}

    assert levels(signed, record(2, Kind.OBSERVED, 20, None, **seen)) == [(None, 1), (10, 3)]
    assert levels(record(2, Kind.OBSERVED, 20, None, **seen), base=L.DECLARED) == [(None, 0), (20, 2)]


@given(
    st.lists(
        st.tuples(st.sampled_from(list(Kind)), st.integers(0, 20), st.none() | st.integers(0, 20), maybe), max_size=6
    )
)
def test_between_two_steps_nothing_changes(told: list[tuple[Kind, int, int | None, bool | None]]) -> None:
    records = [
        record(n, kind, start, end, bus=flag, bare_metal=True, within=flag, doubts=["d"], withdraws=n - 1)
        for n, (kind, start, end, flag) in enumerate(told, start=1)
    ]
    steps = course(records, L.TOOL_REPORTED)
    starts = [step.start_ms for step in steps]

    assert starts[0] is None
    assert starts[1:] == sorted({at for at in starts if at is not None})
    assert all(a.verdict != b.verdict for a, b in zip(steps, steps[1:], strict=False))  # noqa: RUF007


def told(seq: int, kind: Kind, at: int, **facts: Any) -> Record:
    return Record(seq=seq, kind=kind, from_ms=at, facts=facts)


def test_who_was_asked_anew_is_believed_no_longer_until_it_says_it_again() -> None:
    signed, lapsed = told(1, Kind.SIGNED, 0, **SHOWN), told(2, Kind.LAPSED, 10)
    steps = course([signed, lapsed, told(3, Kind.SIGNED, 20, **SHOWN)], L.TOOL_REPORTED)
    assert [(step.start_ms, int(step.verdict.level), step.verdict.because[0]) for step in steps[1:]] == [
        (0, 3, "NODE_SIGNED"),
        (10, 1, "CHALLENGE_UNANSWERED"),
        (20, 3, "NODE_SIGNED"),
    ]


def test_a_statement_of_the_same_instant_as_the_asking_counts() -> None:
    steps = course([told(1, Kind.LAPSED, 5), told(2, Kind.SIGNED, 5, **SHOWN)], L.TOOL_REPORTED)
    assert verdict_at(steps, 5).level is L.NODE_SIGNED
    steps = course([told(1, Kind.SIGNED, 5, **SHOWN), told(2, Kind.LAPSED, 5)], L.TOOL_REPORTED)
    assert verdict_at(steps, 5).level is L.TOOL_REPORTED


def test_what_somebody_saw_does_not_lapse_and_what_a_device_signed_does() -> None:
    for kind, level in ((Kind.AUDITED, L.OUT_OF_BAND), (Kind.ATTESTED, L.TOOL_REPORTED)):
        steps = course([told(1, kind, 0), told(2, Kind.LAPSED, 10)], L.TOOL_REPORTED)
        assert verdict_at(steps, 10).level is level


def test_a_failed_kernel_counts_until_the_next_or_a_person() -> None:
    base = [told(1, Kind.SIGNED, 0, **SHOWN), told(2, Kind.KERNEL, 10, ok=False)]
    assert verdict_at(course(base, L.TOOL_REPORTED), 10).because[0] == "KERNEL_FAILED"
    for after in (told(3, Kind.KERNEL, 20, ok=True), told(3, Kind.CLEARED, 20)):
        assert verdict_at(course([*base, after], L.TOOL_REPORTED), 20).level is L.NODE_SIGNED
    assert verdict_at(course([*base, told(3, Kind.KERNEL, 20, ok=None)], L.TOOL_REPORTED), 20).level is L.TOOL_REPORTED
