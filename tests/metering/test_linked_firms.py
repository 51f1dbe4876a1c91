"""Linked firms: two credit codes that are one firm share one cap a year from their link on; with `credit_code` never."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering import correction, linking, refunding, rooms, store, tranche
from metering.audit import audit_connection
from metering.facts import Interval
from metering.ledger import (
    Code,
    Phase,
    Transfer,
    firm_room,
    firm_spent,
    lapsed,
    link_source,
    pool_room,
    shared_room,
)
from metering.reading import Reading
from metering.rule import load_rules
from metering.schema import cap_subjects, facts
from metering.statement import lines_of
from scheduler.database import Database
from tests.fakes import NOON
from tests.metering.answers import OTHER, THIRD, answer, answered, end, enrol, in_tranches, start
from tests.metering.office import FINANCE, OPERATOR, Office, audited_office, code, make_office
from tests.platform import FIRM, POLICY

POOL, CAP = 10_000_000_000, 2_000_000_000
YEAR = 2026
NEW_YEAR = datetime(2026, 12, 31, 16, tzinfo=UTC)
SUBJECT = min(FIRM, OTHER)
LINKED = "linked_firms"


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with audited_office(
        tmp_path, lambda made: answer(made, cap_subject=LINKED), lambda made: enrol(made, OTHER)
    ) as made:
        yield made


def join(
    office: Office,
    one: str = FIRM,
    other: str = OTHER,
    start: datetime | None = None,
    end: datetime | None = None,
    withdraws: int | None = None,
) -> Any:
    return office.call(
        linking.link, office.platform.budget.policy, codes=(one, other), start=start or office.now, end=end,
        evidence={"sha256": "d" * 64}, by="op", withdraws=withdraws,
    )  # fmt: skip


def left(office: Office, firm: str, year: int = YEAR) -> int:
    """What the firm may still draw."""
    with office.platform.database.read() as tx:
        return store.rooms(tx, firm)["firm"][year]


def draw(office: Office, firm: str, fen: int, year: int = YEAR) -> None:
    """So much of the firm's own room is drawn."""
    with office.platform.database.write() as tx:
        drawn = Transfer(
            id=f"draw:{firm}:{year}:{store.count_transfers(tx)}",
            phase=Phase.POSTED,
            code=Code.DRAW,
            debit=firm_room(firm, year),
            credit=firm_spent(firm, year),
            amount_fen=fen,
        )
        store.post(tx, drawn, office.now)


def tick(office: Office, at: datetime | None = None) -> None:
    if at is not None:
        office.platform.clock.advance((at - office.now).total_seconds())
    office.platform.loop.tick()


# --- worked cases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cap_subject", ["credit_code", LINKED])
def test_a_link_joins_caps_only_where_the_policy_counts_linked_firms(office: Office, cap_subject: str) -> None:
    answer(office, cap_subject=cap_subject)
    draw(office, FIRM, CAP // 4)
    draw(office, OTHER, CAP // 2)
    got = join(office)
    assert got["codes"] == sorted((FIRM, OTHER))
    if cap_subject == "credit_code":
        assert got["subjects"] == {}
        assert (left(office, FIRM), left(office, OTHER)) == (CAP - CAP // 4, CAP // 2)
        assert office.platform.rows(cap_subjects) == []
        return
    assert got["subjects"] == {str(year): SUBJECT for year in (2026, 2027)}, "2024 and 2025 ended before the link began"
    assert left(office, FIRM) == left(office, OTHER) == CAP - CAP // 4 - CAP // 2
    assert left(office, FIRM, 2027) == left(office, OTHER, 2027) == CAP
    assert left(office, FIRM, 2025) == left(office, OTHER, 2025) == CAP
    assert office.balance(link_source(SUBJECT, YEAR)).credits_posted == CAP


def test_before_the_link_each_draws_its_own_and_after_it_both_draw_one(office: Office) -> None:
    draw(office, FIRM, CAP - 10_000)
    at = office.now + timedelta(hours=3)
    join(office, start=at)
    assert office.platform.rows(cap_subjects) == [], "the link has not begun"
    before = end(office, start(office, OTHER, "a"))
    assert before["deduction_fen"] == 6_400
    tick(office, at)
    assert left(office, FIRM) == left(office, OTHER) == 10_000 - 6_400
    after = end(office, start(office, OTHER, "b"))
    assert after["deduction_fen"] == 3_600, "what both have left"
    with office.platform.database.read() as tx:
        assert lines_of(tx, after["id"])[0]["reasons"] == ["FIRM_CAP_REACHED"]
    assert end(office, start(office, FIRM, "c"))["deduction_fen"] == 0
    assert left(office, FIRM) == left(office, OTHER) == 0


def test_a_hold_of_one_code_leaves_the_other_the_rest_and_its_release_is_shared(office: Office) -> None:
    draw(office, FIRM, CAP - 10_000)
    join(office)
    first = start(office, FIRM, "a", limit="2h")  # holds min(12,800, 10,000)
    assert office.balance(firm_room(FIRM, YEAR)).debits_pending == 10_000
    second = start(office, OTHER, "b")
    assert left(office, OTHER) == 0
    assert end(office, first, 1800)["deduction_fen"] == 3_200
    assert left(office, OTHER) == left(office, FIRM) == 6_800, "what was not used is both's again, at once"
    assert office.balance(shared_room(SUBJECT, YEAR)).available == 6_800
    assert end(office, second, 1800)["deduction_fen"] == 6_400, "settled from what is left then"


def test_a_hold_from_before_the_link_stays_its_own(office: Office) -> None:
    draw(office, FIRM, CAP - 6_400)
    draw(office, OTHER, CAP - 6_400)
    job = start(office, FIRM, "a")
    join(office)
    assert left(office, OTHER) == 0, "together they drew nearly two caps"
    assert end(office, job)["deduction_fen"] == 6_400, "it was promised"
    assert left(office, FIRM) == 0


@pytest.mark.parametrize(
    ("drawn", "refunded", "room"),
    [
        ((CAP - 3_200, CAP), 8_000, 0),  # 3,200 come back of 3,200 + CAP too much
        ((0, CAP - 3_200), 8_000, 0),
        ((0, CAP - 6_400), 8_000, 3_200),
        ((0, CAP - 4_800), 8_000, 1_600),  # 1,600 too much were drawn, and 3,200 come back
    ],
)
def test_what_comes_back_first_makes_up_for_what_both_drew_beyond_one_cap(
    office: Office, drawn: tuple[int, int], refunded: int, room: int
) -> None:
    """A job of 6,400 is drawn by the first before the link as well."""
    if drawn[0]:
        draw(office, FIRM, drawn[0] - 3_200)
    job = end(office, start(office, FIRM, "a"))["job"]
    draw(office, OTHER, drawn[1])
    join(office)
    assert left(office, FIRM) == max(0, CAP - sum(drawn) - (6_400 if not drawn[0] else 3_200))
    office.call(refunding.refund, job=job, amount_fen=refunded, kind="refund", reason="r", actor=OPERATOR)
    tick(office)
    assert left(office, FIRM) == left(office, OTHER) == room


def test_a_correction_across_the_link_gives_back_to_both(office: Office) -> None:
    began = office.now
    job = end(office, start(office, OTHER, "a"))["job"]
    join(office)
    assert left(office, FIRM) == CAP - 6_400
    office.call(
        store.record_fact,
        subject_kind="firm",
        subject=OTHER,
        fact="suspended",
        start=began,
        end=None,
        evidence={},
        by="op",
    )
    office.call(correction.correct, office.platform.budget, job, OPERATOR, "was suspended")
    assert office.settlement(job)["deduction_fen"] == 0
    assert left(office, FIRM) == left(office, OTHER) == CAP


def test_a_link_that_ends_gives_each_its_own_cap_less_what_it_drew(office: Office) -> None:
    draw(office, FIRM, 1_000)
    until = office.now + timedelta(days=2)
    join(office, end=until)
    end(office, start(office, FIRM, "a"))
    end(office, start(office, OTHER, "b"))
    assert left(office, FIRM) == CAP - 1_000 - 12_800
    tick(office, until - timedelta(milliseconds=1))
    assert left(office, OTHER) == CAP - 1_000 - 12_800
    tick(office, until)
    assert (left(office, FIRM), left(office, OTHER)) == (CAP - 1_000 - 6_400, CAP - 6_400)
    assert office.balance(shared_room(SUBJECT, YEAR)).available == 0
    assert office.platform.rows(cap_subjects) == []


def test_a_link_that_was_none_is_withdrawn_and_nothing_of_it_stays(office: Office) -> None:
    seq = join(office)["seq"]
    assert left(office, FIRM, 2027) == left(office, OTHER, 2027) == CAP
    got = join(office, other=OTHER, start=office.now, end=office.now, withdraws=seq)
    assert got["subjects"] == {}
    draw(office, FIRM, CAP)
    assert (left(office, FIRM), left(office, OTHER)) == (0, CAP)


def test_three_codes_in_a_chain_are_one_subject(office: Office) -> None:
    enrol(office, THIRD)
    for firm, fen in ((FIRM, 100), (OTHER, 200), (THIRD, 300)):
        draw(office, firm, fen)
    join(office, OTHER, THIRD)
    assert (left(office, FIRM), left(office, OTHER), left(office, THIRD)) == (CAP - 100, CAP - 500, CAP - 500)
    join(office, FIRM, OTHER)
    assert {left(office, firm) for firm in (FIRM, OTHER, THIRD)} == {CAP - 600}
    assert {row["subject"] for row in office.platform.rows(cap_subjects)} == {min(FIRM, OTHER, THIRD)}


def test_a_code_that_claims_after_the_link_adds_no_second_cap(office: Office) -> None:
    enrol(office, THIRD, claim=False)
    join(office, FIRM, THIRD)
    draw_of = left(office, FIRM)
    assert draw_of == CAP
    office.call(store.claim, firm=THIRD, by="t", policy=POLICY, caps=office.platform.budget.policy.firm_cap_fen)
    tick(office)
    assert left(office, FIRM) == left(office, THIRD) == CAP


def test_over_new_year_the_old_year_stays_as_it_ended(office: Office) -> None:
    join(office, end=NEW_YEAR)
    draw_before = end(office, start(office, FIRM, "a"))["deduction_fen"]
    tick(office, NEW_YEAR)
    assert (left(office, FIRM, 2027), left(office, OTHER, 2027)) == (CAP, CAP)
    assert left(office, FIRM, 2026) == left(office, OTHER, 2026) == CAP - draw_before


def test_a_year_of_linked_firms_closes_and_lapses_once(office: Office) -> None:
    join(office)
    end(office, start(office, OTHER, "a"))
    tick(office, NEW_YEAR)
    policy = office.platform.budget.policy
    done = office.call(rooms.close_year, policy, YEAR, FINANCE, "over")
    assert done["lapsed_fen"] == POOL - 6_400
    assert office.balance(lapsed(YEAR)).credits_posted == POOL - 6_400 + CAP - 6_400
    assert left(office, FIRM) == left(office, OTHER) == 0
    tick(office)


def test_a_correction_after_the_close_is_put_right_for_linked_firms_too(office: Office) -> None:
    join(office)
    began = office.now
    job = end(office, start(office, OTHER, "a"))["job"]
    tick(office, NEW_YEAR)
    office.call(rooms.close_year, office.platform.budget.policy, YEAR, FINANCE, "over")
    fact = {"subject_kind": "firm", "subject": OTHER, "fact": "suspended", "start": began, "evidence": {}, "by": "op"}
    seq = office.call(store.record_fact, end=None, **fact)
    office.call(correction.correct, office.platform.budget, job, OPERATOR, "it seemed")
    assert (office.settlement(job)["deduction_fen"], left(office, FIRM)) == (0, 0)
    office.call(store.record_fact, end=began, withdraws=seq, **fact)
    office.call(correction.correct, office.platform.budget, job, OPERATOR, "it was not")
    assert (office.settlement(job)["deduction_fen"], left(office, OTHER)) == (6_400, 0)


def test_linked_firms_with_tranches_draw_each_its_own_within_one_cap(office: Office) -> None:
    in_tranches(office, size=5_000)
    draw(office, FIRM, CAP - 7_000)
    join(office)
    policy = office.platform.budget.policy
    first = office.call(tranche.issue, policy, id="a", firm=FIRM, by="k")
    second = office.call(tranche.issue, policy, id="b", firm=OTHER, by="k")
    assert (first["amount_fen"], second["amount_fen"]) == (5_000, 5_000)
    assert end(office, start(office, FIRM, "a"))["deduction_fen"] == 5_000
    assert end(office, start(office, OTHER, "b"))["deduction_fen"] == 2_000, "the cap they share"


def test_alerts_are_of_the_shared_room(office: Office) -> None:
    join(office)
    assert office.call(rooms.raise_alerts, office.platform.budget.policy) == 0
    with office.platform.database.write() as tx:
        room = shared_room(SUBJECT, YEAR)
        moved = Transfer(
            id="share",
            phase=Phase.POSTED,
            code=Code.SHARE,
            debit=room,
            credit=firm_room(FIRM, YEAR),
            amount_fen=CAP * 8 // 10,
        )
        store.post(tx, moved, office.now)
    draw(office, FIRM, CAP * 8 // 10)
    assert office.call(rooms.raise_alerts, office.platform.budget.policy) == 1


# --- malformed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "answered_with"),
    [
        ({"codes": (FIRM, FIRM)}, "LINK_NEEDS_TWO"),
        ({"codes": (FIRM,)}, "LINK_NEEDS_TWO"),
        ({"codes": (FIRM, OTHER, THIRD)}, "LINK_NEEDS_TWO"),
        ({"codes": (FIRM, THIRD)}, "FIRM_UNKNOWN"),
        ({"end": NOON - timedelta(seconds=1)}, "TERM_EMPTY"),
        ({"end": NOON}, "TERM_EMPTY"),
        ({"withdraws": 10**6}, "LINK_UNKNOWN"),
        ({"withdraws": 1}, "LINK_UNKNOWN"),  # a site's paper
    ],
)
def test_a_link_that_is_none_is_refused_and_not_kept(
    office: Office, changes: dict[str, Any], answered_with: str
) -> None:
    values = {"codes": (FIRM, OTHER), "start": NOON, "end": None, "evidence": {}, "by": "op", **changes}
    before = len(office.platform.rows(facts))
    assert code(office.call(linking.link, office.platform.budget.policy, **values)) == answered_with
    assert len(office.platform.rows(facts)) == before


def test_the_audit_names_a_share_that_nobody_has_or_that_is_too_large(tmp_path: Path) -> None:
    office = make_office(tmp_path)
    answer(office, cap_subject=LINKED)
    enrol(office, OTHER)
    join(office)
    office.audit()
    for statement in (
        "DELETE FROM cap_subjects",
        "DELETE FROM cap_subjects WHERE firm <> subject",
        "UPDATE cap_subjects SET subject = 'x'",
        "UPDATE accounts SET credits_posted = credits_posted - 1 WHERE id LIKE 'capsrc:linked:%'",
    ):
        with office.platform.database.engine.connect() as tx, tx.begin() as transaction:
            tx.exec_driver_sql(statement)
            report = audit_connection(tx, [], office.platform.budget.registry, load_rules())
            assert any(f.law.startswith("linked firms") and not f.ok for f in report.laws), statement
            transaction.rollback()
    office.platform.database.close()


# --- laws -----------------------------------------------------------------------------------------------------------------

CODES = st.sampled_from(["A", "B", "C", "D", "E"])
HOURS = st.integers(0, 20)
LINKS = st.lists(st.tuples(CODES, CODES, HOURS, st.none() | HOURS).filter(lambda x: x[0] != x[1]), max_size=6)


def _timed(found: Sequence[tuple[str, str, int, int | None]]) -> list[tuple[str, str, Interval]]:
    def at(hour: int) -> datetime:
        return NOON + timedelta(hours=hour)

    return [(a, b, Interval(start=at(s), end=None if e is None else at(e))) for a, b, s, e in found]


@given(links=LINKS, hour=HOURS)
def test_groups_are_the_connected_codes_named_by_their_least(
    links: list[tuple[str, str, int, int | None]], hour: int
) -> None:
    got = linking.groups_at(_timed(links), NOON + timedelta(hours=hour))
    assert got == linking.groups_at(
        _timed([(b, a, s, e) for a, b, s, e in reversed(links)]), NOON + timedelta(hours=hour)
    )
    now = [(a, b) for a, b, s, e in links if s <= hour and (e is None or hour < e)]
    reach = {c: {c} for c in "ABCDE"}
    for _ in range(5):
        for a, b in now:
            joint = reach[a] | reach[b]
            for c in joint:
                reach[c] = joint
    wanted = {min(members): tuple(sorted(members)) for members in reach.values() if len(members) > 1}
    assert got == wanted


@settings(max_examples=15, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["draw", "join", "part"]), st.sampled_from([0, 1, 2]), st.integers(0, CAP)),
        min_size=1,
        max_size=8,
    )
)
def test_linked_firms_never_draw_beyond_one_cap_once_linked_and_lose_nothing(
    steps: list[tuple[str, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Through joining, drawing and parting: what each may draw is the cap less what its subject drew, and never less than 0."""
    office = make_office(tmp_path_factory.mktemp("law"))
    answer(office, cap_subject=LINKED)
    enrol(office, OTHER, THIRD)
    codes = (FIRM, OTHER, THIRD)
    pairs = ((FIRM, OTHER), (OTHER, THIRD), (FIRM, THIRD))
    drawn = dict.fromkeys(codes, 0)
    known: dict[int, int] = {}
    for act, index, fen in steps:
        if act == "join" and index not in known:
            known[index] = join(office, *pairs[index])["seq"]
        elif act == "part" and index in known:
            join(office, *pairs[index], start=office.now, end=office.now, withdraws=known.pop(index))
        elif act == "draw":
            firm, amount = codes[index], min(fen, left(office, codes[index]))
            with office.platform.database.write() as tx:
                shares = Reading(tx).share(firm, YEAR, amount, f"d{store.count_transfers(tx)}", {})
                store.post_all(tx, shares, office.now)
            if amount:
                draw(office, firm, amount)
            drawn[firm] += amount
        groups = linking.groups_at([(*pairs[i], Interval(start=NOON)) for i in known], NOON)
        for firm in codes:
            members = next((m for m in groups.values() if firm in m), (firm,))
            assert left(office, firm) == max(0, CAP - sum(drawn[m] for m in members))
    office.audit()
    office.platform.database.close()


# --- the last fen ---------------------------------------------------------------------------------------------------------


def test_two_codes_race_for_the_last_fen_and_one_has_it(postgres_url: str, tmp_path: Path) -> None:
    """Eight connections each, one fen a try, 100 fen shared: a hundred get one, on a real PostgreSQL."""
    office = make_office(tmp_path, url=postgres_url)
    answer(office, cap_subject=LINKED)
    enrol(office, OTHER)
    join(office)
    for firm, keep in ((FIRM, 0), (OTHER, 100)):
        with office.platform.database.write() as tx:
            take = left(office, firm) - keep if keep else CAP // 2
            store.post_all(tx, Reading(tx).share(firm, YEAR, take, f"all:{firm}", {}), office.now)
        draw(office, firm, take)
    assert left(office, FIRM) == left(office, OTHER) == 100

    def race(number: int) -> int:
        firm = (FIRM, OTHER)[number % 2]
        database, got = Database(postgres_url), 0
        for attempt in range(16):
            try:
                with database.write() as tx:
                    key = f"race:{number}:{attempt}"
                    room, spent = firm_room(firm, YEAR), firm_spent(firm, YEAR)
                    one = Transfer(id=key, phase=Phase.POSTED, code=Code.DRAW, debit=room, credit=spent, amount_fen=1)
                    store.post_all(tx, [*Reading(tx).share(firm, YEAR, 1, key, {}), one], NOON)
                got += 1
            except store.RoomExceeded:
                pass
        database.close()
        return got

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(race, range(16)))
    assert sum(won) == 100
    assert left(office, FIRM) == left(office, OTHER) == 0
    assert office.balance(pool_room(YEAR)).available == POOL
    office.audit()
    office.platform.database.close()


def test_the_shipped_answer_counts_by_credit_code(tmp_path: Path) -> None:
    office = make_office(tmp_path)
    policy = office.platform.budget.policy
    assert policy.value_at("compute_voucher.cap_subject", office.now) == "credit_code"
    assert answered(policy, cap_subject=LINKED).value_at("compute_voucher.cap_subject", office.now) == LINKED
    office.platform.database.close()
