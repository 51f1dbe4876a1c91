"""Every row of the table of edge cases (research on metering, §1.9), as one worked example here or where this says.

| case | tested in |
|---|---|
| cap crossed inside one settlement | here |
| two settlements race for the last fen | test_races: test_the_last_fen_of_a_pool_is_given_once |
| job spans 31 Dec 24:00 | here |
| hold taken in Y, job ends in Y+1 | here |
| job spans 2027-04-01 | here |
| settlement arrives after policy end | here |
| refund after settlement | test_corrections: test_a_refund_gives_each_its_own_share, test_a_year_closes_once_… |
| provider gives an ex-post rebate | test_corrections: test_a_rebate_is_a_refund_and_neither_passes_what_was_charged |
| mixed-origin job | here |
| origin re-determined backwards | here |
| rate change mid-job | test_parameters: test_a_rate_that_changes_cuts_the_line_and_one_that_stays_does_not |
| late usage after issue | here |
| duplicate event, same id, other payload | test_events: test_another_statement_under_a_known_id_is_kept_apart_… |
| budget exhausted, then refunds arrive | here |
| firm loses eligibility mid-job | here |
| penalty discovered later, back-dated | test_clearing: test_what_was_paid_and_is_not_due_is_clawed_back |
| firm merges or changes its code | test_linked_firms |
| claim hoarding | here (a right to draw locks nothing); test_tranches: test_a_claim_finds_an_idle_tranche_given_back |
| also gets a city voucher, 入区协议 promises better | here |
| zero-rate, zero-fee, sub-fen lines | here |
| negative price, credit note larger than the bill | here; test_facts: test_prices_that_overlap_or_are_negative_are_refused |
| leap second, DST, clock skew | here; test_consumption: test_midnight_is_the_zone_s |
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from adapters.accelerator import Origin, Source
from metering import acts, correction, exclusion, refunding, store
from metering.case import settle_document
from metering.ledger import Code, Phase, Transfer, firm_room, pool_room, pool_spent
from metering.parameters.origin import OriginRegister
from metering.schema import holds, settlements
from metering.statement import lines_of
from scheduler.job import FirmId, JobId
from scheduler.lease import LeaseId
from scheduler.refusal import Refusal
from scheduler.store import add_usage
from scheduler.usage import UsageKind, UsageRecord
from tests.metering.cases import REGISTRY, RULES, case, entry
from tests.metering.office import OPERATOR, Office, audited_office, code
from tests.platform import FIRM, PROVIDER, job_text

POOL, CAP = 10_000_000_000, 2_000_000_000
NEW_YEAR = datetime(2026, 12, 31, 16, tzinfo=UTC)
TERM_END = datetime(2027, 3, 31, 16, tzinfo=UTC)
MS = timedelta(milliseconds=1)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with audited_office(tmp_path) as made:
        yield made


def go_to(office: Office, at: datetime) -> None:
    office.platform.clock.advance((at - office.now).total_seconds())


def start(office: Office, name: str = "long", limit: str = "2h") -> str:
    """Eight Ascend910B3 at 20.00 an hour run: 16,000 fen an hour, 6,400 of them the voucher's."""
    office.platform.beat()
    job = office.platform.submit(name, job_text(name, limit=limit))
    office.platform.loop.tick()
    return job


def end(office: Office, job: str, seconds: float) -> None:
    office.platform.clock.advance(seconds)
    office.platform.backend.end(f"{job}.1", 0)
    office.platform.loop.tick()


def lines(office: Office, job: str) -> list[tuple[int, int, int, list[str]]]:
    """(year, fee, deduction, reasons) of the job's latest settlement."""
    with office.platform.database.read() as tx:
        found = lines_of(tx, office.settlement(job)["id"])
    return [(line["year"], line["fee_fen"], line["deduction_fen"], line["reasons"]) for line in found]


def leave(office: Office, year: int, fen: int) -> None:
    """Others have drawn all but so much of the year's pool."""
    with office.platform.database.write() as tx:
        left = store.balance(tx, pool_room(year)).available - fen
        taken = Transfer(
            id=f"others:{year}", phase=Phase.POSTED, code=Code.DRAW, debit=pool_room(year), credit=pool_spent(year),
            amount_fen=left,
        )  # fmt: skip
        store.post(tx, taken, office.now)


def settled(*usage: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return settle_document(json.dumps(case(*usage, **changes)), REGISTRY, RULES)


# --- caps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("room", "parts", "reasons"),
    [
        (1_000, [400, 400, 200], []),
        (999, [400, 399, 200], ["FIRM_CAP_REACHED"]),  # 399.6, 399.6 and 199.8: two get the odd fen, the first ones
        (1, [1, 0, 0], ["FIRM_CAP_REACHED"]),
        (0, [0, 0, 0], ["FIRM_CAP_REACHED"]),
    ],
)
def test_a_cap_crossed_inside_one_settlement_is_shared_by_its_lines(
    room: int, parts: list[int], reasons: list[str]
) -> None:
    usage = [entry(lease=f"L{n}", price_fen_per_device_hour=price) for n, price in enumerate((1000, 1000, 500))]
    out = settled(*usage, rooms={"firm": {"2025": room}})

    assert sum(parts) == out["totals"]["deduction_fen"] == min(room, 1_000)
    assert [line["reasons"] for line in out["lines"]] == [reasons] * 3
    given = [line["deduction_fen"] for line in out["lines"]]
    assert all(abs(part - room * share / 2500) < 1 for part, share in zip(given, (1000, 1000, 500), strict=True))
    assert out["totals"]["payable_fen"] == 2_500 - sum(parts), "what the cap keeps back is the firm's to pay"


# --- dates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (3600, [(2026, 16_000, 6_400, []), (2027, 16_000, 6_400, [])]),
        (7200, [(2026, 32_000, 12_800, [])]),  # ends as the year does
        (0, [(2027, 32_000, 12_800, [])]),  # begins as the year does
    ],
)
def test_a_job_over_new_year_draws_from_each_year_what_it_used_in_it(
    office: Office, before: int, expected: list[Any]
) -> None:
    go_to(office, NEW_YEAR - timedelta(seconds=before))
    job = office.run(seconds=7200)

    assert lines(office, job) == expected
    drawn = {year: sum(line[2] for line in expected if line[0] == year) for year in (2026, 2027)}
    for year, fen in drawn.items():
        assert office.balance(pool_room(year)).available == POOL - fen
        assert office.balance(firm_room(FIRM, year)).available == CAP - fen


def test_a_year_without_budget_promises_nothing_and_the_other_keeps_its_promise(office: Office) -> None:
    leave(office, 2027, 0)
    go_to(office, NEW_YEAR - timedelta(hours=1))
    job = start(office)
    assert [(row["year"], row["amount_fen"], row["state"]) for row in office.platform.rows(holds)] == [
        (2026, 6_400, "held"),
        (2027, 0, "voided"),
    ]
    end(office, job, 7200)
    assert lines(office, job) == [(2026, 16_000, 6_400, []), (2027, 16_000, 0, ["POOL_EXHAUSTED"])]


def test_a_hold_of_one_year_pays_its_year_and_the_next_is_a_new_draw(office: Office) -> None:
    """A limit of one hour taken at noon of the last day and passed by a day: nothing of the new year was held."""
    go_to(office, NEW_YEAR - timedelta(hours=2))
    job = start(office, limit="1h")
    assert office.balance(pool_room(2026)).debits_pending == 6_400
    assert office.balance(pool_room(2027)).debits_pending == 0
    end(office, job, 3 * 3600)

    assert lines(office, job) == [(2026, 32_000, 12_800, []), (2027, 16_000, 6_400, [])]
    assert office.balance(pool_room(2026)).available == POOL - 12_800
    assert office.balance(pool_room(2027)).available == POOL - 6_400


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (3600, [(2027, 16_000, 6_400, []), (2027, 16_000, 0, ["POLICY_NOT_IN_FORCE"])]),
        (7200, [(2027, 32_000, 12_800, [])]),
        (0, [(2027, 32_000, 0, ["POLICY_NOT_IN_FORCE"])]),
    ],
)
def test_a_job_over_the_end_of_the_term_draws_up_to_it_and_its_hold_is_released(
    office: Office, before: int, expected: list[Any]
) -> None:
    go_to(office, TERM_END - timedelta(seconds=before))
    job = start(office)
    assert office.balance(pool_room(2027)).debits_pending == sum(line[2] for line in expected)
    end(office, job, 7200)

    assert lines(office, job) == expected
    assert office.balance(pool_room(2027)).debits_pending == 0
    assert office.balance(pool_room(2027)).available == POOL - sum(line[2] for line in expected)


def test_usage_before_the_end_of_the_term_is_settled_and_cleared_after_it(office: Office) -> None:
    """tail_settlement_days is without_limit: only the usage has to lie inside the term."""
    go_to(office, TERM_END - timedelta(hours=1))
    job = start(office)
    office.platform.clock.advance(3600)
    office.platform.backend.end(f"{job}.1", 0)
    office.platform.clock.advance(86_400 * 40)  # nobody looked for forty days
    office.platform.loop.tick()

    assert lines(office, job) == [(2027, 16_000, 6_400, [])]
    assert office.settlement(job)["settled_at_ms"] > TERM_END.timestamp() * 1000
    office.ready(job)
    office.clear(2027)


# --- origin ---------------------------------------------------------------------------------------


def test_a_job_of_two_origins_is_settled_by_device_group() -> None:
    """One lease with domestic and foreign cards: 40 % of the one part and 30 % of the other, and no rate for the whole."""
    out = settled(entry(devices=3), entry(devices=2, model="H800", origin="foreign"))

    assert [(line["rate_bp"], line["deduction_fen"]) for line in out["lines"]] == [(4000, 1_200), (3000, 600)]
    assert out["totals"]["deduction_fen"] == 1_800


@pytest.mark.parametrize(("since", "left"), [(-3600, 4_800), (1800, 3_200 + 2_400), (3600, 6_400)])
def test_an_origin_determined_anew_backwards_corrects_and_claws_back(office: Office, since: int, left: int) -> None:
    """The register now says foreign from before, within or after a job that was paid as domestic."""
    began = office.now
    job = office.run()
    office.ready(job)
    office.clear()
    budget = office.platform.budget
    key = ("ascend", "Ascend910B3")
    row = budget.register.rows[key][-1]
    edge = began + timedelta(seconds=since)
    after = replace(row, origin=Origin.FOREIGN, valid_from=edge)
    budget.register = OriginRegister(
        MappingProxyType({**budget.register.rows, key: (replace(row, valid_to=edge), after)})
    )

    got = office.call(correction.correct, budget, job, OPERATOR, "the register was corrected")
    if left == 6_400:
        assert code(got) == "NOTHING_TO_CORRECT", "an origin that changes as the job ends changes nothing of it"
        return
    assert got["after"]["deduction_fen"] == left
    assert len(got["clawbacks"]) == 1
    with office.platform.database.read() as tx:
        opened = acts.told(tx, "clawback", got["clawbacks"][0], "open")
    assert opened is not None
    assert (opened["amount_fen"], opened["party"]) == (6_400 - left, PROVIDER)
    assert office.balance(pool_room(2026)).available == POOL - left


# --- late, again, back ------------------------------------------------------------------------------


def test_usage_that_comes_after_the_settlement_is_a_correction_that_cites_it(office: Office) -> None:
    job = office.run()
    first = office.settlement(job)
    began = office.now
    late = UsageRecord(
        lease=LeaseId(f"{job}.1"), job=JobId(job), firm=FirmId(FIRM), provider=PROVIDER, site="bj1", pool="ascend",
        vendor="ascend", model="Ascend910B3", source=Source.SIMULATED, kind=UsageKind.RUN, cause=None, devices=8,
        share_permille=1000, start=began, end=began + timedelta(minutes=30), price_fen_per_device_hour=2000,
    )  # fmt: skip
    with office.platform.database.write() as tx:
        add_usage(tx, late)
    got = office.call(correction.correct, office.platform.budget, job, OPERATOR, "the node was cut off")

    assert got["cites"] == first["id"]
    assert (got["before"]["fee_fen"], got["after"]["fee_fen"]) == (16_000, 24_000)
    kept = [row for row in office.platform.rows(settlements) if row["id"] == first["id"]]
    assert kept == [first], "the first is not edited"
    assert office.balance(pool_room(2026)).available == POOL - 9_600


@pytest.mark.parametrize(("share", "again"), [(16_000, 6_400), (8_000, 3_200), (1, 1)])
def test_what_a_refund_brings_back_to_an_empty_pool_is_drawn_by_the_next(
    office: Office, share: int, again: int
) -> None:
    """compute_voucher.refill is `reissue`. One fen of a fee brings one fen: the voucher's part is rounded up."""
    leave(office, 2026, 6_400)
    first = office.run()
    assert office.balance(pool_room(2026)).available == 0
    second = office.run()
    assert lines(office, second) == [(2026, 16_000, 0, ["POOL_EXHAUSTED"])]
    got = office.call(refunding.refund, job=first, amount_fen=share, kind="refund", reason="idle", actor=OPERATOR)
    assert got["voucher_fen"] == again
    third = office.run()
    assert lines(office, third) == [(2026, 16_000, again, [] if again == 6_400 else ["POOL_EXHAUSTED"])]


@pytest.mark.parametrize(("amount", "answer"), [(16_000, None), (16_001, "REFUND_TOO_LARGE")])
def test_a_credit_note_never_exceeds_what_was_charged(office: Office, amount: int, answer: str | None) -> None:
    job = office.run()
    got = office.call(refunding.refund, job=job, amount_fen=amount, kind="rebate", reason="r", actor=OPERATOR)
    if answer is not None:
        assert code(got) == answer
        return
    assert (got["firm_fen"], got["voucher_fen"]) == (9_600, 6_400)


# --- the firm ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost_after", "expected"),
    [
        (timedelta(), [(2026, 16_000, 0, ["FIRM_NOT_ELIGIBLE"])]),
        (MS, [(2026, 0, 0, []), (2026, 16_000, 0, ["FIRM_NOT_ELIGIBLE"])]),  # 0.004 fen are a line of nothing
        (timedelta(minutes=15), [(2026, 4_000, 1_600, []), (2026, 12_000, 0, ["FIRM_NOT_ELIGIBLE"])]),
        (timedelta(hours=1), [(2026, 16_000, 6_400, [])]),
    ],
)
def test_a_firm_keeps_its_deduction_up_to_the_instant_it_loses_its_standing(
    office: Office, lost_after: timedelta, expected: list[Any]
) -> None:
    began = office.now
    job = start(office)
    office.call(
        store.record_fact, subject_kind="firm", subject=FIRM, fact="suspended", start=began + lost_after, end=None,
        evidence={}, by="op",
    )  # fmt: skip
    end(office, job, 3600)
    assert lines(office, job) == expected


def test_a_claim_locks_nothing_however_often_it_is_made(office: Office) -> None:
    """claim_mode is draw_right: a firm that claims and does not compute keeps no money from the others."""
    caps = office.platform.budget.policy.firm_cap_fen
    before = office.balance(pool_room(2026))
    for _ in range(3):
        got = office.call(store.claim, firm=FIRM, by="firm", policy="etown-2024-10", caps=caps)
        assert got["rooms"]["firm"][2026] == CAP
    assert office.balance(pool_room(2026)) == before
    assert office.balance(firm_room(FIRM, 2026)).credits_posted == CAP


@pytest.mark.parametrize(
    ("instrument", "other", "cumulative", "ours"),
    [
        ("city_voucher", 6_399, False, True),
        ("city_voucher", 6_400, False, True),  # equal: ours stays
        ("city_voucher", 6_401, False, False),
        ("agreement", 6_401, False, False),
        ("agreement", 6_401, True, True),  # it says itself that it comes on top
    ],
)
def test_of_two_supports_for_one_project_the_better_is_paid(
    office: Office, instrument: str, other: int, cumulative: bool, ours: bool
) -> None:
    job = office.run()
    bill = office.bill(job)
    office.pay_share(bill["number"], 9_600)
    shown = office.call(
        exclusion.record_other, firm=FIRM, project="C-1", instrument=instrument, amount_fen=other, cumulative=cumulative,
        evidence={}, actor=OPERATOR,
    )  # fmt: skip
    assert (shown["ours_fen"], shown["best_other_fen"]) == (6_400, 0 if cumulative else other), "both are shown"
    got = office.verify(job)
    if ours:
        assert got["state"] == "verified"
        return
    assert isinstance(got, Refusal)
    done = office.call(correction.correct, office.platform.budget, job, OPERATOR, "the firm takes the other support")
    assert (done["before"]["deduction_fen"], done["after"]["deduction_fen"]) == (6_400, 0)
    assert office.balance(pool_room(2026)).available == POOL, "what it foregoes is the others'"


# --- next to nothing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "milliseconds", "fee", "deduction"),
    [
        (0, 3_600_000, 0, 0),  # a free device
        (1_000, 0, 0, 0),  # no time
        (1, 1_799_999, 0, 0),  # just below half a fen
        (1, 1_800_000, 1, 0),  # half a fen is one; 40 % of it is none
        (2, 3_600_000, 2, 0),
        (3, 3_600_000, 3, 1),
    ],
)
def test_lines_of_nothing_are_kept_and_deduct_nothing(price: int, milliseconds: int, fee: int, deduction: int) -> None:
    begin = datetime(2025, 6, 1, 1, tzinfo=UTC)
    one = entry(
        price_fen_per_device_hour=price,
        start=begin.isoformat(),
        end=(begin + timedelta(milliseconds=milliseconds)).isoformat(timespec="milliseconds"),
    )
    (line,) = settled(one)["lines"]

    assert (line["fee_fen"], line["deduction_fen"], line["payable_fen"]) == (fee, deduction, fee - deduction)
    assert "-" not in f"{line['fee_fen']}{line['deduction_fen']}{line['payable_fen']}", "no negative nought"


@pytest.mark.parametrize("moved", [-86_400 * 365, -3600, 3600, 86_400 * 30])
def test_a_host_clock_that_is_set_changes_no_amount_and_no_year(office: Office, moved: int) -> None:
    """Wall time is a label, read once at the start; the length is monotonic."""
    job = start(office)
    office.platform.clock.advance(3600)
    office.platform.backend.end(f"{job}.1", 0)
    office.platform.clock.wall += timedelta(seconds=moved)
    office.platform.loop.tick()
    assert lines(office, job) == [(2026, 16_000, 6_400, [])]


def test_a_leap_second_costs_what_it_lasts() -> None:
    """2016-12-31T23:59:60Z has no UTC spelling here; the monotonic length around it is what counts."""
    begin = datetime(2025, 6, 1, 1, tzinfo=UTC)
    length = timedelta(hours=1, seconds=1)
    one = entry(price_fen_per_device_hour=3_600, start=begin.isoformat(), end=(begin + length).isoformat())
    assert settled(one)["totals"]["fee_fen"] == 3_601
