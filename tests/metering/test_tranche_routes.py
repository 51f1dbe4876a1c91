"""Tranches and linked firms over the routes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.service import FIRM as CODE
from tests.api.service import OTHER as SECOND
from tests.api.service import PROVIDER, Service, running
from tests.metering.answers import answered
from tests.metering.tranche_cases import YEAR

# --- routes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path) as made:
        budget = made.services.budget
        budget.policy = answered(
            budget.policy, claim_mode="tranche", tranche_size=1_000, tranche_idle=30, cap_subject="linked_firms"
        )
        yield made


def test_a_claim_over_the_route_is_instant_once_and_shown(service: Service) -> None:
    first = service.post("firm", "/v1/vouchers", {"id": "mine"})
    assert first.status_code == 201, first.text
    assert first.json()["tranche"]["amount_fen"] == 1_000
    assert first.json()["rooms"]["tranche"] == {str(YEAR): 1_000}
    assert service.post("firm", "/v1/vouchers", {"id": "mine"}).json()["tranche"] == first.json()["tranche"]
    again = service.post("firm", "/v1/vouchers", {})
    assert (again.status_code, again.json()["code"]) == (409, "TRANCHE_OPEN")
    (item,) = [i for i in service.get("firm", "/v1/vouchers").json()["items"] if i["firm"] == CODE]
    (shown_,) = item["tranches"]
    assert {name: shown_[name] for name in ("year", "issued_fen", "drawn_fen", "held_fen", "left_fen")} == {
        "year": YEAR, "issued_fen": 1_000, "drawn_fen": 0, "held_fen": 0, "left_fen": 1_000
    }  # fmt: skip
    assert shown_["idle_from"] is not None
    assert [one["number"] for one in shown_["issued"]] == [1]


def test_the_idempotency_key_names_the_tranche_of_a_claim_without_an_id(service: Service) -> None:
    first = service.post("firm", "/v1/vouchers", {"programme": "compute_voucher"}, key="k-1")
    again = service.post("firm", "/v1/vouchers", {"programme": "compute_voucher"}, key="k-1")
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()


@pytest.mark.parametrize(
    "body",
    [{"id": ""}, {"id": "a b"}, {"id": 5}, {"id": "x" * 64}, {"year": "2026"}, {"year": 0}, {"year": 10_000},
     {"year": 2026.0}, {"year": True}, {"size": 5}],
)  # fmt: skip
def test_a_malformed_claim_is_refused_by_its_field(service: Service, body: dict[str, Any]) -> None:
    got = service.post("firm", "/v1/vouchers", body)
    assert got.status_code == 422, got.text
    assert next(iter(body)) in got.text
    assert "tranches" in service.get("firm", "/v1/vouchers").text


def test_a_link_over_the_route_is_on_record_and_shares_the_cap(service: Service) -> None:
    link = {"codes": [CODE, SECOND], "from": "2026-01-01T00:00:00+08:00", "evidence": {"document": "merger"}}
    assert service.post("firm", "/v1/links", link).status_code == 403
    got = service.post("operator", "/v1/links", link)
    assert got.status_code == 201, got.text
    subjects = got.json()["subjects"]
    assert subjects == {"2026": min(CODE, SECOND), "2027": min(CODE, SECOND)}
    (item,) = service.get("operator", "/v1/links").json()["items"]
    assert (item["codes"], item["to"], item["withdrawn"]) == (sorted((CODE, SECOND)), None, False)
    service.post("firm", "/v1/vouchers", {"id": "mine"})
    shown_ = {i["firm"]: i["subjects"] for i in service.get("operator", "/v1/vouchers").json()["items"]}
    assert shown_[CODE] == subjects
    gone = {**link, "to": link["from"], "withdraws": item["seq"]}
    assert service.post("operator", "/v1/links", gone).json()["subjects"] == {}


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"codes": [CODE]}, 422, "codes"),
        ({"codes": [CODE, SECOND, PROVIDER]}, 422, "codes"),
        ({"codes": [CODE, "911"]}, 422, "codes"),
        ({"codes": [CODE, CODE]}, 409, "LINK_NEEDS_TWO"),
        ({"codes": [CODE, PROVIDER]}, 409, "FIRM_UNKNOWN"),
        ({"from": "yesterday"}, 422, "from"),
        ({"from": "2026-01-01T00:00:00"}, 422, "from"),
        ({"to": "2025-01-01T00:00:00Z"}, 422, "to"),
        ({"to": "2026-01-01T00:00:00+08:00"}, 409, "TERM_EMPTY"),
        ({"evidence": "a letter"}, 422, "evidence"),
        ({"withdraws": "1"}, 422, "withdraws"),
        ({"withdraws": 99_999}, 409, "LINK_UNKNOWN"),
        ({"because": "x"}, 422, "because"),
    ],
)
def test_a_malformed_link_is_refused_by_its_field(
    service: Service, changes: dict[str, Any], status: int, said: str
) -> None:
    link = {"codes": [CODE, SECOND], "from": "2026-01-01T00:00:00+08:00", "evidence": {}, **changes}
    got = service.post("operator", "/v1/links", link)
    assert got.status_code == status, got.text
    assert said in got.text
    assert service.get("operator", "/v1/links").json()["items"] == []
