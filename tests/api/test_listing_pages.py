"""Lists of cases come in pages: bounded, by state, each its party's own, and followed to the end by a cursor."""

from __future__ import annotations

from typing import Any

import pytest

from metering import acts, docket
from metering.acts import Actor
from tests.api.paperwork import Paperwork
from tests.api.service import FIRM, OTHER, PROVIDER, Service

OPENED: dict[str, tuple[str, dict[str, Any], str, str]] = {  # kind: path, the body of its opening act, who may open it, a state it begins in
    "clearing": ("/v1/clearing", {"provider": PROVIDER, "year": 2026, "programme": "compute_voucher"}, "operator", "building"),
    "clawback": ("/v1/clawbacks", {"party": PROVIDER, "year": 2026, "amount_fen": 1, "job": "j"}, "platform", "opened"),
    "dispute": ("/v1/disputes", {"settlement": "s", "job": "j", "party": PROVIDER, "code": "quantity"}, "firm", "opened"),
    "project": ("/v1/subsidies", {"provider": PROVIDER, "name": "n", "policy": "p"}, "provider", "drafted"),
    "application": ("/v1/model-vouchers", {"firm": FIRM, "contract": "c", "use": "api_calls"}, "firm", "submitted"),
}  # fmt: skip


@pytest.fixture
def paperwork(service: Service) -> Paperwork:
    return Paperwork(service)


def fill(service: Service, kind: str, count: int, other: int = 0) -> None:
    """So many cases of the provider or firm, and so many of another's that only say its name in a text."""
    _, body, role, _ = OPENED[kind]
    owner = next(name for name in ("provider", "party", "firm") if name in body)
    act = docket.OPENING[kind]
    with service.services.database.write() as tx:
        for number in range(count + other):
            told = dict(body)
            if number >= count:
                told |= {owner: OTHER, "name": f'"{owner}":"{body[owner]}"'}
            done = acts.act(
                tx, kind, f"c-{number}", act, Actor(by="b", role=role), service.clock.now(), reason="r", body=told
            )
            assert isinstance(done, str), done


@pytest.mark.parametrize("kind", sorted(OPENED))
def test_pages_follow_each_other_and_hold_every_case_once(paperwork: Paperwork, kind: str) -> None:
    path, _, _, _ = OPENED[kind]
    fill(paperwork.service, kind, 5, other=2)
    who = "firm" if kind == "application" else "provider"
    seen, cursor, pages = [], None, 0
    while True:
        page = paperwork.ask(who, f"{path}?limit=2" + (f"&cursor={cursor}" if cursor else ""))
        assert len(page["items"]) <= 2
        seen += [item["seq"] for item in page["items"]]
        cursor, pages = page["next_cursor"], pages + 1
        if cursor is None:
            break
    assert (len(seen), len(set(seen)), pages) == (5, 5, 3)
    assert seen == sorted(seen)
    assert len(paperwork.ask("auditor", path)["items"]) == 7, "a zone role sees all"


@pytest.mark.parametrize("kind", sorted(OPENED))
def test_a_state_is_asked_for_by_its_name(paperwork: Paperwork, kind: str) -> None:
    path, _, _, state = OPENED[kind]
    fill(paperwork.service, kind, 2)
    assert len(paperwork.ask("auditor", f"{path}?state={state}")["items"]) == 2
    others = [each for each in docket.states_of(kind) if each != state]
    assert others
    for each in others:
        assert paperwork.ask("auditor", f"{path}?state={each}") == {"items": [], "next_cursor": None}
    problem = paperwork.ask("auditor", f"{path}?state={state}x", 422)
    assert (problem["errors"][0]["pointer"], problem["errors"][0]["nearest"]) == ("/state", state)


@pytest.mark.parametrize("kind", sorted(OPENED))
@pytest.mark.parametrize(
    "asked", ["cursor=%21%21", "cursor=YWJj", "cursor=LTE%3D", "limit=0", "limit=201", "limit=x", "cursor=" + "A" * 401]
)
def test_what_is_no_page_names_its_field(paperwork: Paperwork, kind: str, asked: str) -> None:
    problem = paperwork.ask("auditor", f"{OPENED[kind][0]}?{asked}", 422)
    assert problem["code"] == "INPUT_INVALID"
    assert problem["errors"][0]["pointer"] == f"/{asked.partition('=')[0]}"


def test_a_case_acted_on_while_paging_is_not_missed(paperwork: Paperwork) -> None:
    fill(paperwork.service, "clearing", 3)
    first = paperwork.ask("auditor", "/v1/clearing?limit=2")
    with paperwork.service.services.database.write() as tx:
        now = paperwork.service.clock.now()
        assert (
            acts.act(tx, "clearing", "c-0", "abandon", Actor(by="b", role="operator"), now, reason="r") == "abandoned"
        )
    rest = paperwork.ask("auditor", f"/v1/clearing?limit=5&cursor={first['next_cursor']}")
    assert [item["id"] for item in rest["items"]] == ["c-2", "c-0"]


# --- words ------------------------------------------------------------------------------------------------------------


def test_a_title_is_a_sentence_without_facts_in_either_language() -> None:
    from api.problems import Problem, title_of
    from api.texts import catalogue

    for lang in ("zh", "en"):
        codes = [code for code in catalogue(lang) if code.isupper() and code.replace("_", "").isalnum()]
        assert len(codes) > 100
        for code in codes:
            for status in (403, 404, 409, 413, 422, 503):
                title = title_of(Problem(status, code), lang)
                assert title, code
                assert "{" not in title, code
                assert "—" not in title or "{" not in catalogue(lang)[code], (code, title)
    assert title_of(Problem(404, "JOB_UNKNOWN"), "en") == "It was not found"
    assert title_of(Problem(409, "FROM_A_NEWER_SERVER"), "en") == "FROM_A_NEWER_SERVER"


def test_no_act_that_is_possible_is_said_in_words() -> None:
    from api.texts import text

    facts = {"kind": "clearing", "act": "pay", "state": "reconciled", "possible": []}
    assert text("ACT_NOT_NOW", facts, "en").endswith("this role may do: none")
    assert text("ACT_NOT_NOW", facts, "zh").endswith("此角色现在可做：无")


def test_a_fact_that_covers_no_time_is_refused_and_names_the_field(paperwork: Paperwork) -> None:
    at = "2026-01-01T00:00:00+08:00"
    body = {
        "subject_kind": "firm",
        "subject": FIRM,
        "fact": "eligible",
        "from": at,
        "to": at,
        "evidence": {"sha256": "d" * 64},
    }
    problem = paperwork.do("operator", "/v1/facts", body, 422)
    assert problem["errors"][0]["pointer"] == "/to"
    utc = {**body, "to": "2025-12-31T16:00:00Z"}
    assert paperwork.do("operator", "/v1/facts", utc, 422)["errors"][0]["pointer"] == "/to", "the same instant"
    first = paperwork.do("operator", "/v1/facts", {**body, "to": "2026-01-01T00:00:01+08:00"})
    assert paperwork.do("operator", "/v1/facts", {**body, "withdraws": first["seq"]})["seq"] > first["seq"]
