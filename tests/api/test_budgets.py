"""Budgets over HTTP: who sets them, what is refused by name, what they show."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update
from stdnum.cn import uscc

from scheduler.clock import to_ms
from scheduler.schema import nodes
from tests.api.service import FIRM, OTHER, Service

UNKNOWN = (BASE := "91110302MA0YDEMA3") + uscc.calc_check_digit(BASE)
YEAR = {"from": "2026-01-01T00:00:00+08:00", "to": "2027-01-01T00:00:00+08:00"}


def body(fen: int | None = 10_000_000, **more: Any) -> dict[str, Any]:
    return {**YEAR, "limit_fen": fen, **more}


def beat(service: Service) -> None:
    with service.services.database.write() as tx:
        tx.execute(update(nodes).values(heartbeat_at_ms=to_ms(service.clock.now())))


def test_a_firm_sets_its_own_budget_and_sees_no_other(service: Service) -> None:
    made = service.post("firm", "/v1/budgets", body())
    assert made.status_code == 201, made.text
    assert service.post("operator", "/v1/budgets", body(5, firm=OTHER)).status_code == 201

    (mine,) = service.get("firm", "/v1/budgets").json()["items"]
    assert (mine["firm"], mine["limit_fen"], mine["stands"], mine["spent_fen"]) == (FIRM, 10_000_000, True, 0)
    assert (mine["from"], mine["to"]) == ("2025-12-31T16:00:00.000Z", "2026-12-31T16:00:00.000Z")
    assert [item["firm"] for item in service.get("other", "/v1/budgets").json()["items"]] == [OTHER]
    assert {item["firm"] for item in service.get("auditor", "/v1/budgets").json()["items"]} == {FIRM, OTHER}
    assert [i["firm"] for i in service.get("auditor", f"/v1/budgets?firm={OTHER}").json()["items"]] == [OTHER]


def test_the_last_record_of_an_interval_stands_and_shows_what_is_spent(service: Service) -> None:
    service.post("firm", "/v1/budgets", body(10_000_000))
    service.run_to_end(service.submit())
    service.post("firm", "/v1/budgets", body(9_600))
    service.post("firm", "/v1/budgets", {"from": "2026-06-02T00:00:00+08:00", "limit_fen": 7})

    items = service.get("firm", "/v1/budgets").json()["items"]
    assert [(i["limit_fen"], i["stands"], i["spent_fen"]) for i in items] == [
        (10_000_000, False, None),
        (9_600, True, 9_600),  # an hour on eight Ascend910B3, net
        (7, True, 0),
    ]
    beat(service)
    refused = service.submit()
    service.services.loop.tick()
    shown = service.get("firm", f"/v1/jobs/{refused}").json()
    assert (shown["state"], shown["pending"]["code"]) == ("PENDING", "FIRM_BUDGET_TOO_LOW")


def test_a_line_over_the_edge_of_an_interval_counts_in_proportion(service: Service) -> None:
    """Noon to one; the interval ends at a quarter past twelve: a quarter of 96.00."""
    service.post("firm", "/v1/budgets", body(10_000, to="2026-06-01T12:15:00+08:00"))
    service.run_to_end(service.submit())

    assert service.get("firm", "/v1/budgets").json()["items"][0]["spent_fen"] == 2_400


@pytest.mark.parametrize(
    ("who", "wrong", "pointer"),
    [
        ("firm", body(firm=OTHER), "/firm"),
        ("operator", body(), "/firm"),
        ("firm", body(-1), "/limit_fen"),
        ("firm", body(1.5), "/limit_fen"),  # type: ignore[arg-type]
        ("firm", {**YEAR}, "/limit_fen"),
        ("firm", body(to="2025-12-31T16:00:00Z"), "/body"),
        ("firm", {**body(), "from": "2026-01-01T00:00:00"}, "/from"),
        ("firm", body(currency="CNY"), "/currency"),
        ("firm", body(firm="911"), "/firm"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_kept(
    service: Service, who: str, wrong: dict[str, Any], pointer: str
) -> None:
    answer = service.post(who, "/v1/budgets", wrong)

    assert answer.status_code == 422, answer.text
    assert pointer in [error["pointer"].removesuffix("/") for error in answer.json()["errors"]], answer.text
    assert service.get("auditor", "/v1/budgets").json()["items"] == []


def test_a_firm_nobody_enrolled_is_refused(service: Service) -> None:
    answer = service.post("operator", "/v1/budgets", body(firm=UNKNOWN))

    assert (answer.status_code, answer.json()["code"]) == (409, "FIRM_UNKNOWN")


def test_the_same_key_sets_a_budget_once(service: Service) -> None:
    answers = [service.post("firm", "/v1/budgets", body(), key="one") for _ in range(2)]

    assert answers[0].json() == answers[1].json()
    assert len(service.get("firm", "/v1/budgets").json()["items"]) == 1
