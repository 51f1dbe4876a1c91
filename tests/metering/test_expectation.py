"""λ in the terms: read off the journal of placements, kept for a day and a minute, the same in every process."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from metering.budget import VoucherBudget
from scheduler import view
from scheduler.job import FirmId
from scheduler.schema import job_events
from scheduler.snapshot import Terms
from tests.platform import FIRM, Platform, job_text, make_platform


def consumed(platform: Platform, days: int, nodes: int = 2, extra: str = "", firm: str = FIRM) -> None:
    """Each day a job of 12 hours was placed on all Ascends there are; the ledger is not moved by it."""
    for day in range(days):
        platform.beat()
        job = platform.submit(
            f"{firm[-2:]}{day}", job_text(f"j{day}", nodes=nodes, limit="12h", extra=extra), firm=firm
        )
        platform.loop.tick()
        platform.loop.tick()
        platform.clock.advance(12 * 3600)
        platform.backend.end(f"{job}.1", *[0] * nodes)
        platform.loop.tick()
        platform.clock.advance(12 * 3600)


def terms(platform: Platform, budget: VoucherBudget | None = None, firm: str = FIRM) -> dict[str, Terms]:
    with platform.database.read() as tx:
        now = platform.clock.now()
        pools = view.snapshot(tx, now, platform.budget).pools
        return {one.pool: one for one in (budget or platform.budget).terms(tx, [FirmId(firm)], pools, now)}


def fresh(platform: Platform) -> VoucherBudget:
    kept = platform.budget
    return VoucherBudget(kept.registry, kept.rules, kept.register, kept.policy.id)


def price(platform: Platform) -> int:
    (found,) = {one.shadow_price_permille for one in terms(platform, fresh(platform)).values()}
    return found


def scarce(platform: Platform, left_fen: int) -> None:
    """The firm's room of this year holds no more than this any more."""
    from sqlalchemy import update

    from metering.schema import accounts

    with platform.database.write() as tx:
        room = accounts.c.id == f"room:{FIRM}:compute_voucher:2026"
        tx.execute(update(accounts).where(room).values(credits_posted=accounts.c.debits_posted + left_fen))


def test_plenty_of_room_has_no_price_and_little_has_one(platform: Platform) -> None:
    consumed(platform, 5)
    assert price(platform) == 0
    scarce(platform, 100_000)
    assert price(platform) == 1000


def test_a_firm_that_placed_nothing_has_no_price(platform: Platform) -> None:
    scarce(platform, 1)
    assert price(platform) == 0


def test_a_job_that_takes_no_voucher_wants_none(platform: Platform) -> None:
    consumed(platform, 5, extra="money: {voucher: none}\n")
    scarce(platform, 1)
    assert price(platform) == 0


def test_a_firm_without_a_right_has_no_price(tmp_path: Path) -> None:
    platform = make_platform(tmp_path, eligible=False)
    consumed(platform, 3)
    assert price(platform) == 0
    platform.database.close()


def test_a_price_is_worked_out_once_a_minute_and_a_day_s_jobs_once_a_day(platform: Platform) -> None:
    consumed(platform, 5)
    kept = fresh(platform)

    def kept_price() -> int:
        return terms(platform, kept)["ascend"].shadow_price_permille

    assert kept_price() == 0
    scarce(platform, 100_000)
    assert kept_price() == 0
    platform.clock.advance(60)
    assert kept_price() == 1000


def test_what_is_kept_says_what_a_new_process_says(platform: Platform) -> None:
    consumed(platform, 3)
    kept = fresh(platform)
    terms(platform, kept)
    platform.clock.advance(timedelta(days=1).total_seconds())
    scarce(platform, 2_000_000)
    assert terms(platform, kept) == terms(platform, fresh(platform))


def test_the_shadow_price_says_what_it_follows_from(platform: Platform) -> None:
    consumed(platform, 5)
    with platform.database.read() as tx:
        now = platform.clock.now()
        pools = view.snapshot(tx, now, platform.budget).pools
        found = fresh(platform).shadow_price(tx, FirmId(FIRM), pools, now)
    daily = 12 * 32_000 * 4 // 10  # twelve hours on both nodes, 40 % of it drawn
    assert found.days_left == 209  # noon of 6 June to the end of the year
    assert 0.9 * 209 * daily < found.wanted_fen < 1.1 * 209 * daily
    assert found.room_fen == 2_000_000_000 - 5 * daily


def test_the_journal_says_what_was_expected_of_every_way(platform: Platform) -> None:
    """Without a throughput profile nothing is expected and the time limit stands for it."""
    import json

    platform.submit("a", job_text(accelerators="{any_of: [Ascend910B3:8, H800:8]}"))
    platform.loop.tick()
    (facts,) = [json.loads(e["facts"]) for e in platform.rows(job_events) if e["event"] == "reserved"]
    assert (facts["expected_fen"], facts["predicted_ms"], facts["shadow_price_permille"]) == (None, None, 0)
    assert [set(one) for one in facts["rejected"]] == [{"pool", "net_fen", "gross_fen", "expected_fen"}]
