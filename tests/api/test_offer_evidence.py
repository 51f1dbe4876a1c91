"""Offers say how well their devices are shown, what that allows, what the register says, and what was measured."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.offer_evidence import evidence_of
from metering.parameters import load_origin_register, load_policies
from tests.api.service import Service
from tests.api.test_evidence import NODE, beat, bus, card, enrol, nonce_of, send, stated
from tests.api.test_evidence import OTHER as OTHER_KEY
from tests.api.test_evidence import service as service
from tests.api.test_programme_commands import Run, _plain_environment, run  # noqa: F401 - fixtures

DECEMBER, JANUARY = datetime(2026, 12, 15, tzinfo=UTC), datetime(2027, 1, 15, tzinfo=UTC)
POLICY, REGISTER = load_policies().policy("etown-2024-10"), load_origin_register()
ASCEND = {"vendor": "ascend", "model": "Ascend910B3", "source": "library"}
H800 = {"vendor": "nvidia", "model": "H800", "source": "library"}


def at(service: Service, moment: datetime) -> None:
    service.clock.wall = moment
    for node, cards in ((NODE, (card(0), card(1))), ("real-2", (card(2),))):
        beat(service, node, *cards)


def listed(service: Service, pool: str = "real") -> dict[str, Any]:
    answer = service.get(None, f"/v1/listings/{pool}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def answer_all(service: Service) -> None:
    assert send(service, stated(service, nonce_of(service))).status_code == 201
    enrol(service, "real-2", OTHER_KEY)
    from tests.api.test_evidence import accelerator

    said = stated(service, nonce_of(service, "real-2"), "real-2", devices=[accelerator(card(2))], functions=[bus(2)])
    assert send(service, said, OTHER_KEY, "real-2").status_code == 201


# --- what is allowed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pool", "levels", "moment", "level", "allows", "billed_as"),
    [
        (ASCEND, (0, 3), DECEMBER, 1, (True, True, False), "domestic"),
        (ASCEND, (1, 2), DECEMBER, 0, (False, False, False), "undetermined"),
        (ASCEND, (0, 0, 0, 8), JANUARY, 3, (True, True, True), "domestic"),
        (ASCEND, (0, 0, 1, 7), JANUARY, 2, (True, False, False), "undetermined"),
        (ASCEND, (), JANUARY, None, (None, None, None), "domestic"),
        (ASCEND | {"source": "simulated"}, (8,), JANUARY, 0, (True, True, True), "domestic"),
        (H800, (0, 8), JANUARY, 1, (True, None, None), "foreign"),
        (ASCEND, (8,), datetime(2026, 6, 1, tzinfo=UTC), 0, (True, True, True), "domestic"),
    ],
)
def test_a_pool_is_allowed_what_its_least_shown_device_is(
    pool: dict[str, str], levels: tuple[int, ...], moment: datetime, level: int | None, allows: tuple[bool | None, ...],
    billed_as: str,
) -> None:  # fmt: skip
    found = evidence_of(pool, levels, POLICY, REGISTER, moment)
    assert (found["level"], tuple(found["allows"].values()), found["billed_as"]) == (level, allows, billed_as)


@given(st.lists(st.integers(0, 3), min_size=6, max_size=6), st.integers(0, 5))
def test_one_more_device_never_allows_more(levels: list[int], more: int) -> None:
    before = evidence_of(ASCEND, levels, POLICY, REGISTER, JANUARY)["allows"]
    levels[more] += 1
    after = evidence_of(ASCEND, levels, POLICY, REGISTER, JANUARY)["allows"]
    assert all(before[use] is None or not yes or before[use] for use, yes in after.items())


# --- what is shown --------------------------------------------------------------------------------


def test_a_listing_says_level_register_and_rate_and_the_answer_of_its_nodes_raises_it(service: Service) -> None:
    at(service, JANUARY)
    shown = listed(service)["evidence"]
    assert (shown["level"], shown["devices_by_level"]) == (1, {"1": 3})
    assert shown["asked"] == {"list": 1, "domestic_rate": 3, "subsidy": 3}
    assert shown["register"]["verdict"] == "domestic"
    assert {"basis", "determined_by", "approved_by"} <= set(shown["register"])
    before = listed(service)
    assert (before["origin"], before["rate_bp"], shown["billed_as"]) == ("domestic", 3000, "undetermined")
    answer_all(service)
    after = listed(service)
    assert (after["evidence"]["level"], after["evidence"]["allows"]["domestic_rate"], after["rate_bp"]) == (
        3,
        True,
        4000,
    )
    assert after["net_fen_per_device_hour"] == 600


def test_the_published_net_price_is_the_explained_one_and_says_why(service: Service) -> None:
    at(service, JANUARY)
    for rate in (3000, 4000):
        listing = listed(service)
        told = service.get("auditor", "/v1/explain?amount=listing:real%23rate_bp").json()
        root = told["amounts"][0] if "amounts" in told else told["roots"][0] if "roots" in told else told
        assert f"'value': {rate}" in str(root)
        assert listing["rate_bp"] == rate
        assert ("explain.evidence_below" in str(told)) is (rate == 3000)
        assert "evidence_level" in str(told)
        answer_all(service) if rate == 3000 else None


@pytest.mark.parametrize(
    ("lang", "words"),
    [
        ("en", ("L1", "may be listed", "no domestic rate: wants L3", "never measured")),
        ("zh", ("L1", "可上架", "不享国产费率：须 L3", "未实测")),
    ],
)
def test_the_offers_page_says_it_in_both_languages(service: Service, lang: str, words: tuple[str, ...]) -> None:
    at(service, JANUARY)
    page = service.client.get(f"/offers?lang={lang}")
    assert page.status_code == 200
    for word in words:
        assert word in page.text


def test_the_offers_command_has_a_table_and_the_whole_document(
    run: Run,  # noqa: F811
    service: Service,
    capsys: pytest.CaptureFixture[str],
) -> None:
    at(service, JANUARY)
    assert run("firm", "offers", "--lang", "en") == 0
    told = capsys.readouterr().out
    assert "L1" in told
    assert "listing" in told
    assert run("firm", "offers", "-o", "json") == 0
    import json

    by_pool = {one["id"]: one for one in json.loads(capsys.readouterr().out)}
    assert by_pool["real"]["evidence"]["allows"] == {"list": True, "domestic_rate": False, "subsidy": False}
    assert by_pool["real"]["measured"] is None
    assert run("firm", "offers", "-o", "csv") == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("region,log_sha256")
