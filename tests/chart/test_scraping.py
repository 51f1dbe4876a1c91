"""A real Prometheus scrapes a platform's and an agent's expositions, and every question of alerts and dashboards is put to it."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from adapters.hardware_metrics import HardwareMetrics
from api import leadership
from api.telemetry import Telemetry
from scheduler.clock import to_ms
from tests.adapters.test_hardware_metrics import SCENE, STATUS
from tests.chart.chart import CHART, tool
from tests.chart.test_generated import VARIABLES
from tests.chart.test_rules import alerts
from tests.kubernetes.plane import free_port, wait_for
from tests.platform import job_text, make_platform

READY_S = 60


def serving(says: Callable[[], bytes]) -> ThreadingHTTPServer:
    """A server whose every path answers what `says` says; shutdown() ends it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = says()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def platform_says(folder: Path) -> Callable[[], bytes]:
    """A platform with jobs and devices whose loop makes a round at each scrape."""
    platform = make_platform(folder)
    for number in range(3):
        platform.submit(f"a{number}", job_text(name=f"a{number}"))
    platform.loop.tick()
    now = to_ms(platform.clock.now())
    with platform.database.write() as tx:
        leadership.begins(tx, "here", 1, now)
        leadership.ticked(tx, "here", 1, now)
    telemetry = Telemetry(platform.database, platform.clock, lambda: True)

    def says() -> bytes:
        telemetry.ticked(0.02)
        return telemetry.exposition()

    return says


def agent_says() -> bytes:
    registry = CollectorRegistry()
    registry.register(HardwareMetrics(lambda: SCENE, lambda: STATUS))
    return generate_latest(registry)


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], list[Any]]]:
    """Puts PromQL to a Prometheus that has scraped both at least three times; the answer's series."""
    program, folder, port = tool("prometheus"), tmp_path_factory.mktemp("prometheus"), free_port()
    servers = {"yisuan": serving(platform_says(folder)), "yisuan/yisuan-agent": serving(agent_says)}
    labels = {"namespace": "yisuan", "pod": "p", "node": "n1"}
    jobs = [
        {
            "job_name": job,
            "static_configs": [{"targets": [f"127.0.0.1:{server.server_port}"], "labels": labels}],
        }
        for job, server in servers.items()
    ]
    settings = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    address = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )

    def query(expression: str) -> list[Any]:
        answer = httpx.get(f"{address}/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        found: list[Any] = answer["data"]["result"]
        return found

    def scraped() -> bool:
        try:
            found = query("min_over_time(up[1m]) * on (job) count_over_time(up[1m])")
        except httpx.HTTPError:
            return False
        return len(found) == len(servers) and all(float(one["value"][1]) >= 3 for one in found)

    try:
        wait_for(scraped, READY_S, lambda: (folder / "log").read_text(encoding="utf-8")[-2000:])
        yield query
    finally:
        process.terminate()
        process.wait(20)
        for server in servers.values():
            server.shutdown()
            server.server_close()


@pytest.mark.parametrize("name", ["zone", "devices"])
def test_every_panel_has_an_answer(ask: Callable[[str], list[Any]], name: str) -> None:
    """But those that show only what is above 0, where nothing is."""
    dashboard = json.loads((CHART / "dashboards" / f"{name}.json").read_text(encoding="utf-8"))
    job = {"zone": "yisuan", "devices": "yisuan/yisuan-agent"}[name]
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in {**VARIABLES, "$__rate_interval": "1m", "$job": job}.items():
                expression = expression.replace(variable, value)
            found = ask(expression)
            assert found or "> 0" in expression, f"{panel['title']}: {expression} finds nothing"


def test_every_alert_can_be_asked_and_says_what_is_so(ask: Callable[[str], list[Any]]) -> None:
    firing = {rule["alert"] for rule in alerts() if ask(rule["expr"])}
    # The platform's clock is a test's own, years away; the agent's scene has a failed device and is not delivering.
    assert firing == {"YisuanLoopSilent", "YisuanAgentNotDelivering", "YisuanAgentComplains", "YisuanDeviceFailed"}


def test_the_variables_of_the_dashboards_find_their_values(ask: Callable[[str], list[Any]]) -> None:
    for name in ("zone", "devices"):
        dashboard = json.loads((CHART / "dashboards" / f"{name}.json").read_text(encoding="utf-8"))
        for variable in dashboard["templating"]["list"]:
            if variable["type"] != "query":
                continue
            series = variable["query"].removeprefix("label_values(").rpartition(",")[0].replace("$namespace", "yisuan")
            assert ask(series), f"{name}: {variable['name']}"
