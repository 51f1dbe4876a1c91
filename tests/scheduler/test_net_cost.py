"""What a job would take and cost on a model, and whether its owner is willing to pay it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.accelerator import Origin, Source
from scheduler.job import Alternative, FirmId, JobId, Money, Objective, Priority, Request
from scheduler.lease import LeaseId
from scheduler.netcost import candidate, cost, predicted_ms, profiles_of
from scheduler.node import Pool, PoolId
from scheduler.plan import Candidate
from scheduler.policies.net_cost import NetCost
from scheduler.snapshot import Terms, Throughput, WaitingJob
from scheduler.spending import Burn, Limit, exhausted, may_start

NOW = datetime(2026, 6, 1, tzinfo=UTC)
HOUR = 3_600_000
FIRM = FirmId("f")


def terms(price: int = 1000, rate: int = 4000, room: int = 10**12, shadow: int = 0, pool: str = "p") -> Terms:
    return Terms(
        firm=FIRM, pool=PoolId(pool), price_fen_per_device_hour=price, rate_bp=rate, room_fen=room,
        shadow_price_permille=shadow,
    )  # fmt: skip


def pool(model: str, price: int = 1000) -> Pool:
    return Pool(
        id=PoolId(model), provider="z", site="s", region="r", backend="simulated", vendor="v", model=model,
        origin=Origin.FOREIGN, memory_bytes=None, price_fen_per_device_hour=price, source=Source.SIMULATED,
    )  # fmt: skip


def job(steps: int | None = 3600, workload: str | None = "w", **more: object) -> WaitingJob:
    base = WaitingJob(
        id=JobId("j"), name="j", firm=FIRM, queue="q", priority=Priority.NORMAL, submitted_at=NOW, nodes=1,
        time_limit_ms=10 * HOUR, money=Money(), workload=workload, remaining_steps=steps,
        request=Request(alternatives=(Alternative(text="a", count=8), Alternative(text="b", count=8))),
    )  # fmt: skip
    return replace(base, **more)  # type: ignore[arg-type]


def rate(model: str, devices: int, steps_per_ks: int, source: str = "measured") -> Throughput:
    return Throughput(workload="w", model=model, devices=devices, steps_per_ks=steps_per_ks, source=source)


# --- predicted time ---------------------------------------------------------------------------------------------------


def test_a_measured_scale_is_taken_as_it_is() -> None:
    known = profiles_of([rate("H800", 8, 1000), rate("H800", 16, 1800)])
    assert predicted_ms(job(), "H800", 8, known) == HOUR  # 3,600 steps at one a second
    assert predicted_ms(job(), "H800", 16, known) == 2_000_000
    assert predicted_ms(job(), "H800", 0, known) is None  # what holds no device makes no steps


def test_another_scale_follows_the_nearest_in_proportion() -> None:
    known = profiles_of([rate("H800", 8, 1000), rate("H800", 64, 4000)])
    assert predicted_ms(job(), "H800", 4, known) == 2 * HOUR


def test_measured_beats_learnt_beats_catalogue_whatever_their_order() -> None:
    rows = [rate("H800", 8, 4000, "catalogue"), rate("H800", 8, 2000, "learnt"), rate("H800", 8, 1000)]
    assert predicted_ms(job(), "H800", 8, profiles_of(rows)) == HOUR
    assert predicted_ms(job(), "H800", 8, profiles_of(rows[:2])) == HOUR // 2


def test_an_unseen_model_takes_the_ratio_of_the_catalogue() -> None:
    known = profiles_of([rate("Ascend910B3", 8, 1000)])  # 313 TFLOPS; an H800 has 989
    assert predicted_ms(job(), "H800", 8, known) == -(-HOUR * 313 // 989)


@pytest.mark.parametrize(
    "asked",
    [job(workload=None), job(steps=None), job(workload="other")],
    ids=["no workload", "no steps", "no profile"],
)
def test_what_nothing_tells_is_unknown(asked: WaitingJob) -> None:
    assert predicted_ms(asked, "H800", 8, profiles_of([rate("H800", 8, 1000)])) is None


def test_a_model_that_the_catalogue_does_not_know_is_unknown() -> None:
    assert predicted_ms(job(), "Abacus", 8, profiles_of([rate("H800", 8, 1000)])) is None
    assert predicted_ms(job(), "H800", 8, profiles_of([rate("H800", 8, 0)])) is None


@given(st.integers(1, 10**9), st.integers(1, 10**6), st.integers(1, 512))
def test_the_prediction_is_enough_and_not_a_millisecond_more(steps: int, per_ks: int, devices: int) -> None:
    found = predicted_ms(job(steps), "H800", devices, profiles_of([rate("H800", devices, per_ks)]))
    assert found is not None
    assert found * per_ks >= steps * 1_000_000 > (found - 1) * per_ks


# --- cost -------------------------------------------------------------------------------------------------------------


def test_the_effective_price_is_p_times_one_less_r_times_one_less_shadow() -> None:
    found = [cost(terms(shadow=s), 1, HOUR).effective_fen for s in (0, 500, 1000)]
    assert found == [600, 800, 1000]


def test_a_room_that_has_run_out_attracts_nobody() -> None:
    assert cost(terms(room=100), 1, HOUR).effective_fen == 900
    assert cost(terms(room=-5), 1, HOUR).net_fen == 1000
    assert cost(terms(), 1, HOUR, draws=False).net_fen == 1000


@given(
    st.integers(0, 10**5), st.sampled_from([0, 3000, 4000]), st.integers(0, 10**9), st.integers(0, 1000),
    st.integers(1, 512), st.integers(0, 10**9), st.integers(1, 1000),
)  # fmt: skip
def test_net_and_effective_lie_within_gross_and_the_draw_within_its_rate(
    price: int, bp: int, room: int, shadow: int, devices: int, ms: int, share: int
) -> None:
    found = cost(terms(price, bp, room, shadow), devices, ms, share_permille=share)
    assert abs(found.gross_fen * HOUR * 1000 - price * devices * ms * share) * 2 <= HOUR * 1000
    assert 0 <= found.draw_fen <= min(room, found.gross_fen * bp // 10_000)
    assert found.net_fen <= found.effective_fen <= found.gross_fen


def test_the_time_limit_is_held_and_the_predicted_time_compared() -> None:
    known = profiles_of([rate("H800", 8, 1000)])
    found = candidate(job(), 0, pool("H800"), terms(), known)
    assert (found.gross_fen, found.hold_fen, found.net_fen) == (80_000, 32_000, 48_000)
    assert found.effective_fen == 8_000 - 3_200


def test_without_a_prediction_the_time_limit_stands_for_it() -> None:
    found = candidate(job(workload=None), 0, pool("H800"), terms(), {})
    assert found.effective_fen == found.net_fen == 48_000


def test_without_terms_it_is_list_price() -> None:
    found = candidate(job(), 1, pool("H800", price=7), None, {})
    assert (found.alternative, found.gross_fen, found.hold_fen) == (1, 560, 0)


def test_a_faster_chip_wins_at_twice_the_price_and_a_shadow_price_turns_the_choice() -> None:
    known = profiles_of([rate("H800", 8, 2100), rate("Ascend910B3", 8, 1000)])
    dear, cheap = pool("H800", 2000), pool("Ascend910B3", 1000)

    def best(shadow: int) -> str:
        ways = [
            candidate(job(), 0, dear, terms(2000, 3000, shadow=shadow, pool="H800"), known),
            candidate(job(), 1, cheap, terms(1000, 4000, shadow=shadow, pool="Ascend910B3"), known),
        ]
        return NetCost().choose(job(), ways)[0].pool

    assert best(0) == "Ascend910B3"  # 0.6 × 8,000 against 0.7 × 7,619
    assert best(1000) == "H800"  # the voucher will be used up either way: 8,000 against 7,619


@pytest.mark.parametrize(
    ("objective", "first"), [(Objective.NET_COST, "c"), (Objective.GROSS_COST, "b"), (Objective.START_TIME, "a")]
)
def test_each_objective_has_its_own_first(objective: Objective, first: str) -> None:
    rows = [("a", 0, 30, 30), ("b", 1, 10, 20), ("c", 2, 20, 10)]
    ways = [
        Candidate(alternative=n, pool=name, model="m", gross_fen=g, net_fen=g, hold_fen=0, effective_fen=e)
        for name, n, g, e in rows
    ]
    assert NetCost().choose(job(money=Money(objective=objective)), ways)[0].pool == first


# --- spending ---------------------------------------------------------------------------------------------------------


def burn(name: str = "j", hours: int = 10, price: int = 1000, since: datetime = NOW, room: int = 10**12) -> Burn:
    return Burn(
        lease=LeaseId(f"{name}.1"), job=JobId(name), firm=FIRM, terms=terms(price, room=room), devices=1,
        metered_until=since, ends_by=since + timedelta(hours=hours),
    )  # fmt: skip


def limit(fen: int, spent: int = 0, of: str | None = "j", start: datetime = NOW, end: datetime | None = None) -> Limit:
    owner = None if of is None else JobId(of)
    return Limit(firm=FIRM, job=owner, limit_fen=fen, spent_fen=spent, start=start, end=end)


def test_a_lease_stops_in_the_hour_in_which_its_limit_is_spent() -> None:
    one = [burn()]  # 600 fen net an hour
    assert exhausted([limit(1200)], one, NOW + timedelta(hours=2) - timedelta(seconds=10)) == {}
    found = exhausted([limit(1200)], one, NOW + timedelta(hours=2))
    assert found[LeaseId("j.1")].code == "BUDGET_EXHAUSTED"
    assert found[LeaseId("j.1")].facts == {"limit_fen": 1200, "net_fen": 1200, "scope": "job"}


def test_grace_is_paid_for_out_of_the_limit() -> None:
    at = NOW + timedelta(hours=1, minutes=30)
    assert exhausted([limit(1200)], [burn()], at) == {}
    assert list(exhausted([limit(1200)], [burn()], at, grace_ms=HOUR // 2)) == ["j.1"]


def test_what_is_settled_counts_and_what_runs_free_goes_on() -> None:
    assert list(exhausted([limit(1200, spent=1200)], [burn()], NOW)) == ["j.1"]
    assert exhausted([limit(0)], [burn(price=0)], NOW + timedelta(hours=5)) == {}


def test_an_empty_room_makes_the_limit_come_sooner() -> None:
    at = NOW + timedelta(minutes=72, seconds=30)
    assert exhausted([limit(1200)], [burn()], at) == {}
    assert list(exhausted([limit(1200)], [burn(room=0)], at)) == ["j.1"]


def test_a_firms_budget_stops_all_its_leases_and_no_others() -> None:
    other = replace(burn("x"), firm=FirmId("g"))
    found = exhausted([limit(1200, of=None)], [burn("a"), burn("b"), other], NOW + timedelta(hours=1))
    assert sorted(found) == ["a.1", "b.1"]
    assert found[LeaseId("a.1")].facts["scope"] == "firm"


def test_a_budget_counts_its_own_interval_only() -> None:
    month = limit(1200, of=None, start=NOW + timedelta(hours=1), end=NOW + timedelta(hours=3))
    assert exhausted([month], [burn()], NOW + timedelta(hours=2, minutes=59)) == {}
    assert exhausted([month], [burn()], NOW + timedelta(hours=3)) == {}  # over: what comes now is of the next one
    assert list(exhausted([replace(month, limit_fen=600)], [burn()], NOW + timedelta(hours=2))) == ["j.1"]


def test_a_start_counts_everything_to_its_time_limit() -> None:
    running = [burn("a", hours=10)]  # 6,000 net at most
    assert may_start([limit(12_000, of=None)], running, burn("b")) is None
    refused = may_start([limit(11_999, of=None)], running, burn("b"))
    assert refused is not None
    assert refused.code == "FIRM_BUDGET_TOO_LOW"
    assert refused.facts == {"net_fen": 6_000, "max_net_fen": 11_999, "left_fen": 5_999}
    own = may_start([limit(5_999, of="b")], running, burn("b"))
    assert own is not None
    assert own.code == "MAX_NET_COST_TOO_LOW"


@given(st.integers(0, 20_000), st.lists(st.integers(1, 20), max_size=4), st.integers(0, 30))
def test_what_was_allowed_to_start_is_never_stopped_before_its_time_limit(fen: int, hours: list[int], at: int) -> None:
    started: list[Burn] = []
    for number, h in enumerate(hours):
        asked = burn(f"j{number}", hours=h)
        if may_start([limit(fen, of=None)], started, asked) is None:
            started.append(asked)
    now = NOW + timedelta(hours=at)
    still = [one for one in started if one.ends_by > now]
    assert exhausted([limit(fen, of=None)], still, now) == {}


@pytest.mark.parametrize(
    ("field", "bad"), [("limit_fen", {"limit_fen": -1}), ("end", {"end": NOW - timedelta(seconds=1)})]
)
def test_a_bad_limit_is_named(field: str, bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=field):
        replace(limit(1), **bad)  # type: ignore[arg-type]
