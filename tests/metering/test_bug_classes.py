"""The ways in which metering and billing went wrong elsewhere (research on metering, §2.3), each held off by a named test.

COVERED says which; a class without one of its own elsewhere has it below. A name that no longer exists is an error.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from metering import correction, store
from metering.case import settle_document
from metering.ledger import firm_room, pool_room
from metering.schema import holds, settlements
from scheduler import store as scheduling
from scheduler.jobfile import parse_job
from scheduler.lease import Cause
from scheduler.refusal import Refusal
from scheduler.schema import usage_records
from tests.metering.cases import REGISTRY, RULES, case, entry
from tests.metering.office import OPERATOR, Office, audited_office
from tests.platform import FIRM, job_text

POOL = 10_000_000_000

# number: (what went wrong, the tests that would notice it here)
COVERED: dict[int, tuple[str, tuple[str, ...]]] = {
    1: ("deduplication key claimed before the write", ("test_events.test_a_failed_transaction_and_a_retry_store_once",)),
    2: ("deduplication off, or a cache", ("test_events.test_the_database_itself_refuses_a_second_row",)),
    3: ("credits rounded up exceed the bill", ("test_amount.test_a_ceiling_is_rounded_down",
        "test_amount.test_a_ceiling_never_passes_the_rate_and_misses_it_by_less_than_a_fen")),
    4: ("rounding at two levels", ("test_amount.test_a_fee_is_rounded_half_up_once",
        "test_settlement.test_all_parts_sum_and_no_class_passes_its_ceiling")),
    5: ("day boundaries in another zone bill twice", ("test_facts.test_the_local_year_begins_at_local_midnight",
        "tests.scheduler.test_consumption.test_midnight_is_the_zone_s")),
    6: ("a period not recognised as billed", ("test_bug_classes.test_a_day_that_was_settled_is_not_billed_again",)),
    7: ("time-zone differences", ("test_bug_classes.test_the_offset_a_time_is_written_in_moves_no_fen",
        "test_case.test_one_instant_has_many_spellings_and_one_print")),
    8: ("check, then debit", ("test_races.test_the_last_fen_of_a_pool_is_given_once",)),
    9: ("check without a lock, debit much later", ("test_races.test_a_hold_takes_both_rooms_or_neither",
        "test_bug_classes.test_what_is_held_cannot_be_promised_twice")),
    10: ("a hold that is never returned", ("test_bug_classes.test_a_hold_nobody_settles_expires_after_its_grace",)),
    11: ("money and status in two transactions", ("test_bug_classes.test_money_and_state_are_stored_together_or_not_at_all",)),
    12: ("totals grow with each refund", ("test_corrections.test_the_totals_do_not_grow_with_each_refund",)),
    13: ("compensation gives back too much",
         ("test_refund.test_everything_returned_leaves_nothing_charged_and_nothing_deducted",
          "test_refund.test_pay_70_refund_100_gives_back_70")),
    14: ("locks a moving target", ("test_races.test_the_last_fen_of_a_pool_is_given_once",
         "tests.keeping.test_database.test_writers_never_lose_each_other_s_increments")),
    15: ("the guard looks at another number than the debit",
         ("tests.laws.test_ledger_laws.test_books_balance_and_rooms_stay_above_zero_whatever_is_tried",)),
    16: ("balance read before the lock", ("tests.keeping.test_database.test_writers_never_lose_each_other_s_increments",
         "test_races.test_what_is_released_can_be_held_again")),
    17: ("a repeated run inserts again", ("test_bug_classes.test_settling_again_without_a_reason_adds_nothing",
         "tests.laws.test_metering_laws.test_settling_twice_changes_nothing")),
    18: ("a cost shown ten- or twofold", ("test_focus.test_costs_sum_to_the_invoice_and_products_are_exact",
         "test_settlement.test_a_second_implementation_agrees_to_the_fen")),
    19: ("a job over a month's end counted in both", ("test_reconciliation.test_a_job_over_midnight_counts_in_each_day_once",
         "test_bug_classes.test_a_job_over_a_month_s_end_is_counted_once")),
    20: ("job numbers come round again", ("test_bug_classes.test_a_job_s_name_is_never_used_again",)),
    21: ("late ones missed, one bad one stops the rest",
         ("test_events.test_any_order_delay_or_doubling_stores_and_meters_the_same",
          "test_events.test_a_violation_in_a_batch_blocks_no_other_event")),
    22: ("jobs over midnight lost",
         ("tests.scheduler.test_consumption.test_interim_records_and_the_last_one_cover_the_run_exactly",)),
    23: ("what never ran is billed", ("tests.scheduler.test_consumption.test_a_gang_that_never_ran_whole_is_not_billed",
         "test_bug_classes.test_what_never_started_costs_nothing")),
    24: ("cost without devices, negative cost", ("test_settlement.test_all_parts_sum_and_no_class_passes_its_ceiling",
         "test_facts.test_prices_that_overlap_or_are_negative_are_refused")),
    25: ("two ways to compute disagree", ("test_explain.test_every_number_of_a_settled_platform_is_recomputed_to_itself",)),
    26: ("a part of a card charged as a whole", ("test_bug_classes.test_parts_of_a_device_cost_their_part",
         "test_events.test_shares_of_a_device_reach_a_whole_and_no_more")),
    27: ("how to rate again", ("test_corrections.test_corrections_are_new_records",)),
    28: ("no key of the client's own", ("tests.api.test_service.test_a_repeated_post_has_one_effect_and_one_answer",
         "tests.api.test_service.test_the_same_post_from_many_threads_is_one_job")),
    29: ("a job that failed was metered as nothing", ("test_bug_classes.test_a_job_that_fails_is_metered_like_any_other",)),
    30: ("a dead worker billed on",
         ("test_events.test_a_lost_stop_bills_to_the_last_proof_of_life_until_somebody_closes_it",
          "test_bug_classes.test_a_node_that_is_lost_bills_nothing")),
    31: ("corrections left open", ("test_corrections.test_corrections_are_new_records",
         "test_focus.test_a_voucher_is_a_column_or_a_credit_row")),
}  # fmt: skip


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with audited_office(tmp_path) as made:
        yield made


def test_every_class_is_in_the_table() -> None:
    assert list(COVERED) == list(range(1, 32))


@pytest.mark.parametrize(
    ("number", "name"), [(number, name) for number, (_, names) in COVERED.items() for name in names]
)
def test_each_named_test_exists(number: int, name: str) -> None:
    module, _, function = name.rpartition(".")
    found = importlib.import_module(module if module.startswith("tests.") else f"tests.metering.{module}")
    assert callable(getattr(found, function, None)), f"class {number}: {name} is gone"
    assert function.startswith("test_"), "a function that no run collects proves nothing"


def start(office: Office, name: str, **options: Any) -> str:
    office.platform.beat()
    job = office.platform.submit(name, job_text(name, **options))
    office.platform.loop.tick()
    return job


def drawn(office: Office) -> int:
    return POOL - int(office.balance(pool_room(2026)).available)


# --- 6, 7, 19: days, zones, months ------------------------------------------------------------------


def test_a_day_that_was_settled_is_not_billed_again(office: Office) -> None:
    """A job over two midnights, looked at ever so often: what the three settlements posted is what one would have."""
    job = start(office, "long", limit="3d")
    for _ in range(59):
        office.platform.clock.advance(3600)
        office.platform.beat()
        office.platform.loop.tick()
        office.platform.loop.tick()
    office.platform.backend.end(f"{job}.1", 0)
    office.platform.loop.tick()

    assert [row["fee_fen"] for row in office.platform.rows(settlements)] == [12 * 16_000, 36 * 16_000, 59 * 16_000]
    assert drawn(office) == 59 * 6_400


@given(
    offset=st.integers(-23 * 60 - 59, 23 * 60 + 59), minutes=st.integers(0, 2 * 366 * 24 * 60), hours=st.integers(0, 50)
)
def test_the_offset_a_time_is_written_in_moves_no_fen(offset: int, minutes: int, hours: int) -> None:
    begin = datetime(2025, 12, 30, tzinfo=UTC) + timedelta(minutes=minutes)
    zone = timezone(timedelta(minutes=offset))
    times = {"start": begin, "end": begin + timedelta(hours=hours)}
    here = settle_document(json.dumps(case(entry(**{k: at.isoformat() for k, at in times.items()}))), REGISTRY, RULES)
    there = case(entry(**{k: at.astimezone(zone).isoformat() for k, at in times.items()}))
    assert settle_document(json.dumps(there), REGISTRY, RULES) == here


@pytest.mark.parametrize("before", [0, 1, 3600, 7199, 7200])
def test_a_job_over_a_month_s_end_is_counted_once(office: Office, before: int) -> None:
    edge = datetime(2026, 6, 30, 16, tzinfo=UTC)  # local midnight
    office.platform.clock.advance((edge - office.now).total_seconds() - before)
    job = start(office, "over")
    for part in (before, 7200 - before):
        office.platform.clock.advance(part)
        if part == before:
            office.platform.beat()
            office.platform.loop.tick()
    office.platform.backend.end(f"{job}.1", 0)
    office.platform.loop.tick()
    rows = [row for row in office.platform.rows(usage_records) if row["kind"] == "run"]
    assert sum(row["end_ms"] - row["start_ms"] for row in rows) == 7_200_000
    assert office.settlement(job)["fee_fen"] == 32_000


# --- 9, 10, 11, 17: holds, transactions, runs -------------------------------------------------------


def test_what_is_held_cannot_be_promised_twice(office: Office) -> None:
    """The room has 10,000 fen: the first job holds 6,400 of it, the second what is left, the third nothing."""
    office.agree("C-2", number="2", support_cap_fen=10_000)
    extra = "money: {contract: C-2}\n"
    for name in ("a", "b", "c"):
        start(office, name, limit="1h", extra=extra) if name != "c" else start(
            office, name, accelerators="H800:8", limit="1h", extra=extra
        )
    amounts = [row["amount_fen"] for row in office.platform.rows(holds)]
    assert amounts == [6_400, 3_600, 0]


@pytest.mark.parametrize(("late", "state"), [(-1, "held"), (0, "expired")])
def test_a_hold_nobody_settles_expires_after_its_grace(office: Office, late: int, state: str) -> None:
    """The lease is gone and its settlement never came: the hold ends an hour after the time limit, to the millisecond.

    The settlement that comes after all is a new draw.
    """
    job = start(office, "gone", limit="2h")
    office.platform.clock.advance(3600)
    with office.platform.database.write() as tx:
        scheduling.release(tx, f"{job}.1", cause=Cause.EXITED, exit_code=0, started=None, now=office.now)
    office.platform.clock.advance(2 * 3600 + late / 1000)
    office.call(office.platform.budget.sweep)
    assert [row["state"] for row in office.platform.rows(holds)] == [state]
    assert office.balance(firm_room(FIRM, 2026)).debits_pending == (12_800 if state == "held" else 0)
    assert office.call(office.platform.budget.sweep) == 0, "once"


def test_money_and_state_are_stored_together_or_not_at_all(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies after the settlement was written and before it was committed: nothing happened, and once again
    everything does."""
    job = start(office, "dies")
    office.platform.clock.advance(3600)
    office.platform.backend.end(f"{job}.1", 0)
    charge = office.platform.budget.charge

    def dies(*arguments: Any, **named: Any) -> None:
        charge(*arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(office.platform.budget, "charge", dies)
        with pytest.raises(KeyboardInterrupt):
            office.platform.loop.tick()
    assert office.platform.state(job) == "STARTING"
    assert [row["state"] for row in office.platform.rows(holds)] == ["held"]
    assert office.platform.rows(settlements) == office.platform.rows(usage_records) == []
    for _ in range(3):
        office.platform.loop.tick()
    assert office.platform.state(job) == "SUCCEEDED"
    assert (len(office.platform.rows(settlements)), drawn(office)) == (1, 6_400)


def test_settling_again_without_a_reason_adds_nothing(office: Office) -> None:
    job = office.run()
    before = office.platform.rows(settlements)
    for _ in range(3):
        got = office.call(correction.correct, office.platform.budget, job, OPERATOR, "again")
        assert isinstance(got, Refusal)
        assert got.code == "NOTHING_TO_CORRECT"
    assert office.platform.rows(settlements) == before
    assert drawn(office) == 6_400


# --- 20, 23, 26, 29, 30: what is billed ---------------------------------------------------------------


def test_a_job_s_name_is_never_used_again(office: Office) -> None:
    """An identity is one job for ever, ended or not."""
    job = office.run()
    with pytest.raises(IntegrityError), office.platform.database.write() as tx:
        scheduling.submit(tx, job=job, firm=FIRM, spec=parse_job(job_text("j1")), now=office.now)  # type: ignore[arg-type]
    assert len(office.platform.rows(settlements)) == 1


def test_what_never_started_costs_nothing(office: Office) -> None:
    """The backend refuses the launch after money was held: no usage, no fee, nothing held."""
    office.platform.backend.refuse = Refusal(code="NO_SUCH_PROGRAM")
    job = start(office, "never")
    assert office.platform.state(job) == "REJECTED"
    assert office.settlement(job)["fee_fen"] == 0
    room = office.balance(pool_room(2026))
    assert (room.available, room.debits_pending) == (POOL, 0)


@pytest.mark.parametrize(("share", "fee"), [(1, 1), (250, 250), (999, 999), (1000, 1000)])
def test_parts_of_a_device_cost_their_part(share: int, fee: int) -> None:
    found = settle_document(json.dumps(case(entry(share_permille=share))), REGISTRY, RULES)
    assert found["totals"]["fee_fen"] == fee
    assert found["totals"]["deduction_fen"] == fee * 4000 // 10_000


@pytest.mark.parametrize("exit_code", [0, 1, 137])
def test_a_job_that_fails_is_metered_like_any_other(office: Office, exit_code: int) -> None:
    job = start(office, "fails")
    office.platform.clock.advance(1800)
    office.platform.backend.end(f"{job}.1", exit_code)
    office.platform.loop.tick()
    assert office.platform.state(job) == ("FAILED" if exit_code else "SUCCEEDED")
    assert (office.settlement(job)["fee_fen"], drawn(office)) == (8_000, 3_200)


def test_a_node_that_is_lost_bills_nothing(office: Office) -> None:
    """Not even the day that was settled before the node went away; what it drew is back in the pool."""
    job = start(office, "lost", limit="2d")
    office.platform.clock.advance(13 * 3600)
    office.platform.beat()
    office.platform.loop.tick()
    assert drawn(office) == 48 * 6_400, "12 hours are drawn, 36 are held"
    assert office.settlement(job)["deduction_fen"] == 12 * 6_400
    office.platform.backend.lose(f"{job}.1")
    office.platform.loop.tick()
    assert office.platform.state(job) == "NODE_FAIL"
    assert (office.settlement(job)["fee_fen"], drawn(office)) == (0, 0)
    with office.platform.database.read() as tx:
        assert store.trial_balance(tx)["balanced"]
