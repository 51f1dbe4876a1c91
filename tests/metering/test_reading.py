"""What is read for a whole batch at once is what is read one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metering import left, store
from metering.ledger import PROGRAMME
from metering.reading import Reading
from scheduler.schema import pools
from tests.metering.office import SINCE, Office, make_office
from tests.platform import FIRM, PROVIDER

OTHER, NOBODY = "91110302MA0000002H", "91110302MA0000009Z"


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """Two firms with rights, one related to the provider for a while, one frozen; a third of which nothing is known."""
    office = make_office(tmp_path)
    office.call(store.enrol_firm, id=OTHER, name="other")
    office.call(
        store.record_fact,
        subject_kind="firm",
        subject=OTHER,
        fact="eligible",
        start=SINCE,
        end=None,
        evidence={},
        by="o",
    )
    caps = office.platform.budget.policy.firm_cap_fen
    office.call(store.claim, firm=OTHER, by="o", policy=office.platform.budget.policy.id, caps=caps)
    office.declare("related", SINCE, office.now)
    office.run()
    return office


def answers(reading: Reading, firms: list[str], sites: list[str]) -> dict[str, Any]:
    return {
        "eligible": {firm: reading.eligible("firm", firm) for firm in firms},
        "sites": {site: reading.eligible("site", site) for site in sites},
        "related": {firm: reading.related(firm, PROVIDER) for firm in firms},
        "rights": {firm: reading.right(firm) for firm in firms},
        "states": {firm: reading.state("right", f"{PROGRAMME}:{firm}") for firm in firms},
        "programme": reading.state("programme", PROGRAMME),
        "closed": [reading.closed(year) for year in range(2023, 2029)],
        "rooms": {firm: reading.rooms(firm) for firm in firms},
        "shares": {firm: reading.shares(firm) for firm in firms},
    }


def test_what_is_prepared_is_what_is_asked_one_by_one(office: Office) -> None:
    firms = [FIRM, OTHER, NOBODY]
    with office.platform.database.read() as tx:
        sites = sorted({row["site"] for row in office.platform.rows(pools)})
        apart, prepared = Reading(tx), Reading(tx)
        prepared.prepare(firms, sites, [(firm, PROVIDER) for firm in firms], [2024, 2025, 2026])
        expected = answers(apart, firms, sites)
        assert answers(prepared, firms, sites) == expected
    assert expected["eligible"][OTHER]
    assert not expected["eligible"][NOBODY]
    assert expected["related"][FIRM]
    assert not expected["related"][OTHER]
    assert expected["rooms"][OTHER]["firm"]
    assert not expected["rooms"][NOBODY]["firm"]
    assert expected["rights"][NOBODY] is None


def test_more_firms_than_a_statement_takes(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    with office.platform.database.read() as tx:
        whole = left.rooms_apart(tx, [FIRM, OTHER, NOBODY])
        monkeypatch.setattr(left, "_AT_ONCE", 1)
        assert left.rooms_apart(tx, [FIRM, OTHER, NOBODY]) == whole
        assert left.rooms_apart(tx, [])[0] == {}
    assert whole[0][FIRM]["pool"]
    assert whole[0][OTHER]["firm"]
