"""Policy routes: one in full, two side by side, and a simulation that leaves the books as they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from metering.impact import compare, sample_of
from metering.parameters.description import describe, difference
from metering.schema import CHAINED, settlements
from tests.api.service import FIRM, JOB, OTHER, Service
from tests.metering.cases import POLICY, REGISTRY, RULES

LATER = "etown-2024-29"
SIMULATE = f"/v1/policies/simulate?policy={POLICY}&against={LATER}"


def settled(service: Service, *wanted: tuple[str, str], seconds: float = 3600) -> None:
    """Firms' jobs on these chips run side by side for so long and are settled."""
    jobs = [service.submit(who, JOB.replace("Ascend910B3", model)) for who, model in wanted]
    for _ in range(3):
        service.services.loop.tick()
    service.clock.advance(seconds)
    for job in jobs:
        service.backend.end(f"{job}.1", 0)
    service.services.loop.tick()


DOMESTIC, FOREIGN = "Ascend910B3", "H800"


@pytest.mark.parametrize("name", [POLICY, LATER])
def test_anyone_reads_a_policy_in_full(service: Service, name: str) -> None:
    answer = service.get(None, f"/v1/policies/{name}")

    assert answer.status_code == 200
    assert answer.json() == describe(REGISTRY.policy(name))
    again = service.get(None, f"/v1/policies/{name}", If_None_Match=answer.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")


def test_anyone_sees_how_two_differ(service: Service) -> None:
    answer = service.get(None, f"/v1/policies/{POLICY}/diff/{LATER}")

    assert answer.json() == difference(REGISTRY.policy(POLICY), REGISTRY.policy(LATER))


@pytest.mark.parametrize(
    "path",
    ["/v1/policies/etown-2024-1O", f"/v1/policies/{POLICY}/diff/none", SIMULATE.replace(LATER, "none"),
     SIMULATE.replace(POLICY, "x" * 100)],
)  # fmt: skip
def test_an_unknown_policy_is_a_problem_that_names_those_there_are(service: Service, path: str) -> None:
    answer = service.get("finance", path, Accept_Language="en")

    assert (answer.status_code, answer.json()["code"]) == (404, "POLICY_UNKNOWN")
    assert POLICY in answer.json()["detail"]


@pytest.mark.parametrize(
    "query", ["", f"?policy={POLICY}", f"{SIMULATE[21:]}&from=yesterday", f"{SIMULATE[21:]}&to=2026-01-01"]
)
def test_a_simulation_that_is_not_fully_asked_for_is_refused(service: Service, query: str) -> None:
    assert service.get("finance", f"/v1/policies/simulate{query}").status_code == 422


def test_a_simulation_tells_each_firm_s_loss_and_changes_nothing(service: Service) -> None:
    """8 domestic devices for an hour at 20.00: fee 160.00, 64.00 at 40% and 48.00 at 30%; a foreign hour loses nothing."""
    settled(service, ("firm", DOMESTIC), ("other", FOREIGN))
    before = counted(service)

    found = service.get("auditor", SIMULATE).json()

    rows = {row["firm"]: row for row in found["firms"]}
    assert (rows[FIRM]["deduction_fen"], rows[FIRM]["deduction_against_fen"], rows[FIRM]["outcome"]) == (
        6400,
        4800,
        "loses",
    )
    assert (rows[OTHER]["difference_fen"], rows[OTHER]["outcome"]) == (0, "same")
    assert (found["total"]["cases"], found["total"]["difference_fen"]) == (2, -1600)
    assert {"code": "POLICY_SETTLES_NOTHING", "facts": {"policy": LATER}} in found["warnings"]
    assert counted(service) == before


def counted(service: Service) -> dict[str, Any]:
    """The head of every chain and every balance."""
    with service.services.database.read() as tx:
        heads = {name: tuple(tx.execute(select(func.count(), func.max(t.c.hash))).one()) for name, t in CHAINED.items()}
        balances = [tuple(row) for row in tx.execute(text("SELECT * FROM accounts ORDER BY id"))]
    return {**heads, "accounts": balances}


def test_under_the_same_policy_a_simulation_repeats_what_was_settled(service: Service) -> None:
    settled(service, ("firm", DOMESTIC), ("firm", FOREIGN), ("other", DOMESTIC), seconds=1234.567)
    with service.services.database.read() as tx:
        stored = tx.execute(select(func.sum(settlements.c.deduction_fen)).where(settlements.c.final == 1)).scalar()

    found = service.get("operator", SIMULATE.replace(LATER, POLICY)).json()
    assert (found["total"]["deduction_fen"], found["total"]["difference_fen"]) == (stored, 0)


def test_a_period_counts_only_the_usage_inside_it(service: Service) -> None:
    """NOON is noon in Beijing; the job starts then and runs an hour, of which a quarter lies before 12:15."""
    settled(service, ("firm", DOMESTIC))
    whole = service.get("finance", SIMULATE).json()["total"]["fee_fen"]
    parts = [
        service.get("finance", f"{SIMULATE}&{bound}=2026-06-01T12:15:00%2B08:00").json()["total"]["fee_fen"]
        for bound in ("to", "from")
    ]

    assert parts == [4000, 12000]
    assert sum(parts) == whole == 16000


def test_cases_are_each_job_s_latest_page_by_page_and_settle_offline_alike(service: Service) -> None:
    settled(service, ("firm", DOMESTIC), ("other", FOREIGN))
    first = service.get("auditor", "/v1/policies/cases?limit=1").json()
    rest = service.get("auditor", f"/v1/policies/cases?limit=1&cursor={first['next_cursor']}").json()
    items = [*first["items"], *rest["items"]]

    assert [item["firm"] for item in items] == [FIRM, OTHER]
    assert rest["next_cursor"] is None
    samples = [sample_of(item["id"], json.dumps(item["case"]), REGISTRY, RULES) for item in items]
    offline = compare(samples, REGISTRY.policy(POLICY), REGISTRY.policy(LATER), RULES, in_sequence=True).document()
    online = service.get("auditor", SIMULATE).json()
    assert {**offline, "warnings": online["warnings"]} == online


@pytest.mark.parametrize("who", ["firm", "provider", "agent", None])
@pytest.mark.parametrize("path", [SIMULATE, "/v1/policies/cases"])
def test_what_other_firms_used_is_for_the_zone_only(service: Service, who: str | None, path: str) -> None:
    assert service.get(who, path).status_code == (403 if who else 401)


def test_a_stored_case_that_cannot_be_settled_is_named(service: Service) -> None:
    settled(service, ("firm", DOMESTIC))
    with service.services.database.write() as tx:
        for trigger in tx.execute(
            text("SELECT name FROM sqlite_master WHERE type='trigger' AND tbl_name='settlements'")
        ).all():
            tx.execute(text(f'DROP TRIGGER "{trigger.name}"'))
        tx.execute(update(settlements).values(case_json='{"version": 1, "firm": {"id": "F"}, "usage": []}'))

    answer = service.get("finance", SIMULATE)
    assert (answer.status_code, answer.json()["code"]) == (409, "SIMULATION_IMPOSSIBLE")
    assert answer.json()["facts"]["settlement"].startswith("settlement:")
