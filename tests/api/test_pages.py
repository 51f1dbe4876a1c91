"""The pages, in both languages, over a small platform that has run jobs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from adapters.catalog import load_catalog
from api import texts
from api.pages import rendering, router
from api.pages.read_jobs import LeaseRow, log_tail
from api.pages.visitor import SESSION_COOKIE
from scheduler import places
from scheduler.schema import jobs
from tests.api.browser import TestClient, browse
from tests.platform import FIRM, Platform, job_text, make_platform

PAGES = (
    "/",
    "/offers",
    "/jobs",
    "/jobs/job_done",
    "/jobs/job_waits",
    "/statements/jobs/job_done",
    f"/statements/firms/{FIRM}",
    "/login",
)
HOSTILE = "<script>alert(1)</script>"


@dataclass
class Writer:
    """A backend's log side: one text for every member."""

    log: bytes

    def logs(self, lease: str, rank: int, *, offset: int, limit: int) -> bytes:
        return self.log[offset : offset + limit]


def services(platform: Platform, *, pages_open: bool = True, log: bytes = b"epoch 1 loss 0.5\n") -> Any:
    """What wiring ties together, as far as pages ask for it."""
    return SimpleNamespace(
        settings=SimpleNamespace(ledger="demo", pages_open=pages_open),
        database=platform.database,
        budget=platform.budget,
        catalog=load_catalog(),
        clock=platform.clock,
        backends={"local": Writer(log)},
    )


def visit(made: Any) -> TestClient:
    return browse(router(made))


@pytest.fixture(scope="module")
def zone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """job_done ran an hour on eight domestic devices; job_runs holds every one of them now, so job_waits waits."""
    platform = make_platform(tmp_path_factory.mktemp("zone"))
    platform.submit("done", job_text("digits"))
    platform.loop.tick()
    platform.loop.tick()
    platform.clock.advance(3600)
    heartbeat(platform)
    platform.backend.end("job_done.1", 0)
    platform.loop.tick()
    platform.submit("runs", job_text("holds", nodes=2))
    platform.loop.tick()
    platform.loop.tick()
    platform.submit("waits", job_text("later"))
    platform.loop.tick()
    yield platform
    platform.database.close()


def heartbeat(platform: Platform) -> None:
    """Every node was heard just now."""
    with platform.database.write() as tx:
        for node in ("ascend-1", "ascend-2", "h800-1", "h800-2"):
            places.heartbeat(tx, node, [], platform.clock.now())


def words(html: str) -> str:
    """What a reader sees: the text without tags."""
    return re.sub(r"<[^>]+>", " ", html)


@pytest.mark.parametrize("lang", ["zh", "en"])
@pytest.mark.parametrize("path", PAGES)
def test_every_page_renders_in_both_languages_without_an_untranslated_code(
    zone: Platform, path: str, lang: str
) -> None:
    answer = visit(services(zone)).get(path, params={"lang": lang})

    assert answer.status_code == 200, answer.text
    assert f'<html lang="{"zh-CN" if lang == "zh" else "en"}">' in answer.text
    shown = words(answer.text)
    assert not re.search(
        r"\b(page|column|state|event|pending|cause|attention|usage|voucher|origin)\.[a-z_A-Z.]+", shown
    )
    assert not re.search(r"\b[A-Z]{3,}_[A-Z_]+\b", shown), "a code where a sentence should be"
    assert re.search(r"[一-鿿]", shown.replace("中文", "")) if lang == "zh" else "Skip to content" in shown


def test_a_language_once_asked_for_stays(zone: Platform) -> None:
    client = visit(services(zone))

    assert 'lang="zh-CN"' in client.get("/").text
    client.get("/", params={"lang": "en"})
    assert '<html lang="en">' in client.get("/jobs").text


def test_the_overview_counts_devices_and_the_years_pool(zone: Platform) -> None:
    shown = words(visit(services(zone)).get("/?lang=en").text)

    assert "Ascend910B3" in shown
    assert "H800" in shown
    assert "¥100,000,000.00" in shown
    assert "Demo ledger" in shown


def test_the_job_page_says_why_it_waits_and_polls_until_the_job_ends(zone: Platform) -> None:
    client = visit(services(zone))

    waiting = client.get("/jobs/job_waits?lang=en").text
    assert "Why it waits" in waiting
    assert 'hx-trigger="every 2s"' in waiting
    ended = client.get("/jobs/job_done?lang=en").text
    assert "hx-get" not in ended
    assert "epoch 1 loss 0.5" in ended


def test_the_fragment_is_the_live_part_alone(zone: Platform) -> None:
    fragment = visit(services(zone)).get("/jobs/job_waits/live").text.strip()

    assert fragment.startswith('<div id="live"')
    assert "<html" not in fragment
    assert 'hx-get="/jobs/job_waits/live"' in fragment


def test_a_statement_shows_every_fen_with_its_clause(zone: Platform) -> None:
    shown = words(visit(services(zone)).get("/statements/jobs/job_done?lang=en").text)

    assert "¥160.00" in shown
    assert "40%" in shown
    assert "¥64.00" in shown
    assert "¥96.00" in shown
    assert "clause 2.1.1" in shown
    assert re.search(r"\b[0-9a-f]{64}\b", shown)


def test_hostile_names_and_logs_are_shown_and_not_run(platform: Platform) -> None:
    platform.submit("evil", job_text("evil"))
    platform.loop.tick()
    with platform.database.write() as tx:
        tx.execute(update(jobs).where(jobs.c.id == "job_evil").values(name=HOSTILE, queue=HOSTILE))
    client = visit(services(platform, log=HOSTILE.encode()))

    for path in ("/jobs", "/jobs/job_evil", "/"):
        page = client.get(path).text
        assert HOSTILE not in page
    assert "&lt;script&gt;" in client.get("/jobs/job_evil").text


def test_no_page_needs_inline_script_or_style_and_headers_forbid_them(zone: Platform) -> None:
    client = visit(services(zone))

    for path in PAGES:
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", answer.text)
        assert not re.search(r"(src|href)=\"https?://", answer.text), "pages load nothing from elsewhere"


def test_every_table_has_a_caption_and_every_input_a_label(zone: Platform) -> None:
    client = visit(services(zone))

    for path in PAGES:
        page = client.get(path).text
        assert page.count("<table") == page.count("<caption")
        for name in re.findall(r'<(?:input|select)[^>]*\bid="([^"]+)"', page):
            assert f'for="{name}"' in page


def test_a_stranger_sees_the_zone_but_no_jobs_unless_pages_are_open(zone: Platform) -> None:
    client = visit(services(zone, pages_open=False))

    assert client.get("/").status_code == 200
    assert client.get("/offers").status_code == 200
    for path in (
        "/jobs",
        "/jobs/job_done",
        "/jobs/job_done/live",
        "/statements/jobs/job_done",
        f"/statements/firms/{FIRM}",
    ):
        answer = client.get(path)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/login?next=/")
    assert "digits" not in client.get("/").text


def test_an_unknown_job_is_a_page_that_says_so(zone: Platform) -> None:
    client = visit(services(zone))

    for path in (
        "/jobs/job_nope",
        "/statements/jobs/job_nope",
        "/statements/jobs/job_waits",
        "/statements/firms/nobody",
    ):
        answer = client.get(path)
        assert answer.status_code == 404
        assert texts.text("page.missing.title", None, "zh") in answer.text


def test_pages_work_without_the_browser_file(zone: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is built from npm and may be missing; nothing is asked for then, and nothing but the refresh is lost."""
    monkeypatch.setattr(rendering, "HTMX", "vendor/absent.js")
    page = visit(services(zone)).get("/jobs/job_waits").text

    assert "<script" not in page
    assert "later" in page


def test_the_npm_lock_pins_one_version_by_hash_and_names_no_address() -> None:
    folder = Path(rendering.__file__).parent
    lock = (folder / "package-lock.json").read_text(encoding="utf-8")
    packages = json.loads(lock)["packages"]

    assert "http" not in lock
    assert json.loads((folder / "package.json").read_text(encoding="utf-8"))["dependencies"] == {"htmx.org": "4.0.1"}
    assert packages["node_modules/htmx.org"]["integrity"].startswith("sha512-")


def test_only_known_files_are_served(zone: Platform) -> None:
    client = visit(services(zone))

    assert client.get("/static/style.css").headers["content-type"].startswith("text/css")
    for name in ("../__init__.py", "%2e%2e/__init__.py", "vendor/../../build.py", "nope.css"):
        assert client.get(f"/static/{name}").status_code == 404


def test_the_log_tail_is_the_end_of_the_log_however_long_it_is() -> None:
    lease = LeaseRow(
        id="l.1", pool="p", backend="local", provider="x", model="m", simulated=True, device_count=1,
        price_fen_per_device_hour=1, reserved_at_ms=0, started_at_ms=0, released_at_ms=None,
        cause=None, exit_code=None, members=(),
    )  # fmt: skip
    log = "".join(f"line {n}\n" for n in range(20_000)).encode()

    for size in (0, 1, 2, 3, 1023, 16_384, 16_385, len(log)):
        text, cut = log_tail({"local": Writer(log[:size])}, lease, 0)  # type: ignore[dict-item]
        assert log[:size].decode().rstrip("\n").endswith(text.splitlines()[-1] if text else "")
        assert cut == (log[:size].count(b"\n") + (size > 0 and not log[:size].endswith(b"\n")) > 80)
    assert log_tail({}, replace(lease, backend="gone"), 0) == ("", False)


@pytest.fixture
def signed_in(zone: Platform, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """Pages that are closed, with one valid key `yk_good` of the firm; sessions are the key itself."""
    auth = pytest.importorskip("api.auth")
    keys = {key: SimpleNamespace(role="firm", tenant=firm) for key, firm in (("yk_good", FIRM), ("yk_other", "other"))}
    monkeypatch.setattr(auth, "principal_of_session", lambda tx, token, now: keys.get(token))
    monkeypatch.setattr(auth, "open_session", lambda tx, key, now: key if key in keys else None)
    monkeypatch.setattr(auth, "close_session", lambda tx, token: None)
    return visit(services(zone, pages_open=False))


OURS = {"origin": "http://zone.test"}


def test_a_key_opens_a_session_and_leads_back_to_the_page(signed_in: TestClient) -> None:
    answer = signed_in.post("/login", data={"key": " yk_good ", "next": "/jobs"}, headers=OURS)

    assert (answer.status_code, answer.headers["location"]) == (303, "/jobs")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "digits" in signed_in.get("/jobs").text
    assert signed_in.get(f"/statements/firms/{FIRM}").status_code == 200


def test_another_firms_key_shows_nothing_of_ours(signed_in: TestClient) -> None:
    signed_in.post("/login", data={"key": "yk_other"}, headers=OURS)

    assert "digits" not in signed_in.get("/jobs").text
    for path in ("/jobs/job_done", "/jobs/job_done/live", "/statements/jobs/job_done", f"/statements/firms/{FIRM}"):
        assert signed_in.get(path).status_code == 404


def test_a_wrong_key_is_told_and_opens_nothing(signed_in: TestClient) -> None:
    answer = signed_in.post("/login?lang=en", data={"key": "yk_bad"}, headers=OURS)

    assert answer.status_code == 403
    assert "not valid" in answer.text
    assert SESSION_COOKIE not in answer.headers.get("set-cookie", "")


@pytest.mark.parametrize("origin", [None, "null", "https://evil.test", "http://zone.test.evil.test", "zone.test"])
def test_forms_from_elsewhere_are_refused(signed_in: TestClient, origin: str | None) -> None:
    headers = {} if origin is None else {"origin": origin}

    assert signed_in.post("/login", data={"key": "yk_good"}, headers=headers).status_code == 403
    assert signed_in.post("/logout", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "after", ["//evil.test", "https://evil.test", "/\\evil.test", "jobs", "/jobs\r\nset-cookie: a=b"]
)
def test_signing_in_never_leads_to_another_site(signed_in: TestClient, after: str) -> None:
    answer = signed_in.post("/login", data={"key": "yk_good", "next": after}, headers=OURS)

    assert answer.headers["location"] == "/"
