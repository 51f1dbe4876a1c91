"""The alerts: a rule file that promtool takes, over metrics that exist, each with a test that makes it fire and a page that
says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters.accelerator import Health
from adapters.agent import AgentStatus, Scene
from adapters.hardware_metrics import HardwareMetrics
from api.telemetry import Telemetry
from scheduler.database import Database
from tests.chart.chart import CHART, HERE, ROOT, Thing, named, rendered, run

FILE = CHART / "files" / "alerts.yaml"
GUIDE = ROOT / "docs" / "install-kubernetes.md"
SUFFIXES = ("_total", "_bucket", "_sum", "_count")


def alerts(groups: list[Thing] | None = None) -> list[Thing]:
    found = groups or yaml.safe_load(FILE.read_text(encoding="utf-8"))["groups"]
    return [rule for group in found for rule in group["rules"]]


def test_the_file_is_one_that_prometheus_takes() -> None:
    done = run("promtool", "check", "rules", str(FILE))
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_not_before(tmp_path: Path) -> None:
    told = (HERE / "rules_test.yaml").read_text(encoding="utf-8").replace("[ALERTS]", f"['{FILE}']")
    (tmp_path / "test.yaml").write_text(told, encoding="utf-8")
    done = run("promtool", "test", "rules", str(tmp_path / "test.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_alert_that_never_fires_is_noticed(tmp_path: Path) -> None:
    """The test above is not vacuous: with a threshold that nothing reaches it fails."""
    (tmp_path / "alerts.yaml").write_text(FILE.read_text(encoding="utf-8").replace("> 30\n", "> 30000\n"))
    told = (HERE / "rules_test.yaml").read_text(encoding="utf-8").replace("[ALERTS]", "[alerts.yaml]")
    (tmp_path / "test.yaml").write_text(told, encoding="utf-8")
    assert run("promtool", "test", "rules", str(tmp_path / "test.yaml")).returncode != 0


def test_every_alert_is_in_a_test() -> None:
    told = (HERE / "rules_test.yaml").read_text(encoding="utf-8")
    unnamed = {"YisuanAgentThins", "YisuanAgentComplains", "YisuanDeviceFailed", "YisuanDeviceMemoryErrors"}
    for rule in alerts():
        assert rule["alert"] in told or rule["alert"] in unnamed, rule["alert"]  # the last test counts these four


@pytest.mark.parametrize(("release", "namespace"), [("yisuan", "yisuan"), ("east", "zone-east")])
def test_what_the_chart_makes_of_them_prometheus_takes_too(release: str, namespace: str, tmp_path: Path) -> None:
    things = rendered("production", release=release, namespace=namespace)
    groups = named(things, "PrometheusRule")["spec"]["groups"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}), encoding="utf-8")
    done = run("promtool", "check", "rules", str(tmp_path / "rules.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    front = "yisuan" if release == "yisuan" else f"{release}-yisuan"
    jobs = {f"{front}|{front}-loop", f"{namespace}/{front}-agent"}
    services = {thing["metadata"]["name"] for thing in things if thing["kind"] == "Service"}
    assert services == {front, f"{front}-loop"}, "a ServiceMonitor's `job` is the Service's name"
    assert named(things, "PodMonitor")["metadata"]["name"] == f"{front}-agent", "a PodMonitor's is namespace/name"
    for rule in alerts(groups):
        assert set(re.findall(r'job=~?"([^"]*)"', rule["expr"])) <= jobs, rule["expr"]
        selectors = re.findall(r"\{([^}]*)\}", rule["expr"])
        assert all(f'namespace="{namespace}"' in one and "job=" in one for one in selectors), rule["expr"]


def test_the_monitor_finds_the_services_and_ports() -> None:
    things = rendered("production")
    spec = named(things, "ServiceMonitor")["spec"]
    (component,) = spec["selector"]["matchExpressions"]
    for service in (thing for thing in things if thing["kind"] == "Service"):
        labels = service["metadata"]["labels"]
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        assert labels["app.kubernetes.io/component"] in component["values"]
        assert {end["port"] for end in spec["endpoints"]} <= {port["name"] for port in service["spec"]["ports"]}


def known_metrics(tmp_path: Path) -> set[str]:
    """What the platform and an agent can say, without the endings that Prometheus adds."""
    telemetry = Telemetry(Database(f"sqlite:///{tmp_path / 'x.db'}"), None)  # type: ignore[arg-type]
    names = {metric.name for metric in telemetry.registry.collect()}
    names |= {metric.name for metric in hardware()}
    return names | {"up"}


def hardware() -> Iterator[Any]:
    """Every metric of an agent whose device tells everything."""
    source = (ROOT / "adapters" / "hardware_metrics.py").read_text(encoding="utf-8")
    from prometheus_client.core import GaugeMetricFamily

    status = AgentStatus(waiting=0, problem=None, delivered=0, thinned=0, adapters=(), unsaid=(), events=0)
    scene = Scene()
    yield from HardwareMetrics(lambda: scene, lambda: status).collect()
    for name in re.findall(r'"(hw_[a-z_]+)"', source):
        yield GaugeMetricFamily(name, "")


def metrics_in(expression: str) -> set[str]:
    """The metrics that a PromQL expression reads, found by the parser of Prometheus' own grammar."""
    promql = pytest.importorskip("promql_parser", reason="no promql-parser")
    promql.parse(expression)
    return {_plain(name) for name in re.findall(r"\b((?:yisuan|hw)_[a-z_]+|up)\b(?=\{|\[|\)|\s|$)", expression)}


def _plain(name: str) -> str:
    return next((name.removesuffix(end) for end in SUFFIXES if name.endswith(end)), name)


def test_every_alert_reads_metrics_that_exist(tmp_path: Path) -> None:
    known = known_metrics(tmp_path)
    for rule in [*alerts(), *alerts(named(rendered("production"), "PrometheusRule")["spec"]["groups"])]:
        read = metrics_in(rule["expr"])
        assert read, rule["expr"]
        assert read <= known, f"{rule['alert']}: {read - known}"


def test_states_in_alerts_are_states() -> None:
    from scheduler.lifecycle import State

    text = FILE.read_text(encoding="utf-8")
    states = set(re.findall(r'[{,]state="([^"]+)"', text))
    assert states <= {state.value for state in State} | {"free", "allocated"}
    assert set(re.findall(r'hw_state="([^"]+)"', text)) <= {health.value for health in Health}


def test_every_alert_has_a_page_that_says_what_to_do() -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    for rule in alerts(named(rendered("production"), "PrometheusRule")["spec"]["groups"]):
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"]
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "docs/install-kubernetes.md"
        assert re.search(rf"^#+ .*{rule['alert']}", guide, re.MULTILINE), f"{rule['alert']} is not in {page}"
        headings = re.findall(r"^#+ (.*)$", guide, re.MULTILINE)
        assert anchor in {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings}, anchor
