"""The pages, in both languages, over a small platform that has run jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from adapters.catalog import load_catalog
from api import texts
from api.pages import router
from api.pages.read_jobs import LeaseRow, log_tail
from scheduler import store
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
            store.heartbeat(tx, node, [], platform.clock.now())


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
