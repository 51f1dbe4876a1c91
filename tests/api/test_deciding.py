"""Forms that decide: a firm disputes its settlement, the zone answers reviews, anybody takes their papers away."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.api.service import Service

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ORIGIN = "http://testserver"


def signed_in(service: Service, who: str) -> dict[str, str]:
    """The session cookie of somebody who signed in with their key."""
    answer = service.client.post(
        "/login", content=f"key={service.keys[who]}", headers={**FORM, "Origin": ORIGIN}, follow_redirects=False
    )
    service.client.cookies.clear()  # each request says itself whose it is
    return {"Cookie": answer.headers["set-cookie"].split(";")[0]}


def sent(service: Service, path: str, body: str, cookie: dict[str, str], origin: str = ORIGIN) -> Any:
    return service.client.post(path, content=body, headers={**FORM, "Origin": origin, **cookie}, follow_redirects=False)


def test_a_firm_disputes_its_settlement_on_the_page_and_nobody_else_can(service: Service) -> None:
    job = service.submit()
    service.run_to_end(job)
    path = f"/statements/jobs/{job}/disputes"
    mine, other, zone = (signed_in(service, who) for who in ("firm", "other", "operator"))
    assert sent(service, path, "code=quantity&text=t", mine, "http://evil.example").status_code == 403
    for cookie in (other, zone, {}):
        assert sent(service, path, "code=quantity&text=t", cookie).status_code == 404
    assert sent(service, path, "code=nonsense&text=t", mine).status_code == 404
    assert "refused=REASON_MISSING" in sent(service, path, "code=quantity&text=+", mine).headers["location"]
    assert sent(service, path, "code=quantity&text=two+hours+only", mine).status_code == 303
    page = service.client.get(f"/statements/jobs/{job}?lang=en", headers=mine).text
    assert "two hours only" in page
    assert "Dispute this settlement" in page
    assert "Dispute this settlement" not in service.client.get(f"/statements/jobs/{job}?lang=en", headers=zone).text


def test_the_zone_answers_a_review_with_an_action_and_a_reason(service: Service) -> None:
    job = service.submit()
    service.run_to_end(job)
    sent(service, f"/statements/jobs/{job}/disputes", "code=quantity&text=why", signed_in(service, "firm"))
    zone, auditor = signed_in(service, "operator"), signed_in(service, "auditor")
    (item,) = [i["id"] for i in service.get("operator", "/v1/reviews").json()["items"] if i["code"] == "DISPUTE_OPENED"]
    body = f"item={quote(item)}&action=dismissed&reason="
    assert sent(service, "/reviews", body + "seen", auditor).status_code == 404, "an auditor only looks"
    assert sent(service, "/reviews", body + "seen", zone, "http://evil.example").status_code == 403
    refused = sent(service, "/reviews", body, zone)
    assert refused.status_code == 409
    assert sent(service, "/reviews", body + "seen", zone).status_code == 303
    page = service.client.get("/reviews?lang=en", headers=zone).text
    assert "seen" in page
    assert "dismissed" in page
    (dispute,) = service.get("operator", "/v1/disputes").json()["items"]
    assert dispute["state"] == "dismissed", "one answer does both"
    assert service.client.get("/reviews", headers=signed_in(service, "firm")).status_code == 404
    assert service.client.get("/reviews", follow_redirects=False).status_code == 303


def test_a_statement_can_be_taken_away_as_a_paper(service: Service) -> None:
    job = service.submit()
    service.run_to_end(job)
    mine = signed_in(service, "firm")
    kinds = {"html": "text/html", "pdf": "application/pdf", "json": "application/json", "csv": "text/csv"}
    for form, media in kinds.items():
        answer = service.client.get(f"/statements/jobs/{job}/papers?format={form}", headers=mine)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(media)
    assert service.client.get(f"/statements/jobs/{job}/papers?format=doc", headers=mine).status_code == 404
    assert service.client.get(f"/statements/jobs/{job}/papers", headers=signed_in(service, "other")).status_code == 404
