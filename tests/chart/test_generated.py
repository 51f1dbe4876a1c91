"""What is made from something else is as its source says: the chart's README, its dashboards, its versions."""

from __future__ import annotations

import importlib.util
import json
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.chart.chart import CHART, ROOT, named, rendered
from tests.chart.test_rules import known_metrics, metrics_in

VARIABLES = {"$__rate_interval": "5m", "$namespace": "yisuan", "$job": "yisuan"}


def module(name: str) -> ModuleType:
    """helm/NAME.py, which is a script and in no package."""
    spec = importlib.util.spec_from_file_location(f"chart_{name}", ROOT / "helm" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # dataclasses look for it there
    spec.loader.exec_module(made)
    return made


def test_the_readme_is_that_of_the_values() -> None:
    assert module("readme").main(["--check"]) == 0, "run `python helm/readme.py`"


def test_every_value_is_described_once() -> None:
    readme = module("readme")
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    told = [path for path, _ in readme.described(text)]
    assert len(told) == len(set(told))
    covered = set(told) | {path[:3] for path in told if path[:2] == ("agents", "vendors")}
    for leaf in readme.leaves(yaml.safe_load(text)):
        assert any(leaf[: len(path)] == path for path in covered), f"{'.'.join(leaf)} has no `# --` line"


def test_a_stale_readme_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    readme = module("readme")
    monkeypatch.setattr(readme, "make", lambda: "other")
    assert readme.main(["--check"]) == 1


def test_the_dashboards_are_those_of_their_source(tmp_path: Path) -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="no grafana-foundation-sdk")
    assert module("dashboards").main(["--check"]) == 0, "run `python helm/dashboards.py`"


@pytest.mark.parametrize("path", sorted((CHART / "dashboards").glob("*.json")), ids=lambda path: path.stem)
def test_every_panel_asks_what_there_is_to_ask(path: Path, tmp_path: Path) -> None:
    known = known_metrics(tmp_path)
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    assert dashboard["uid"] == f"yisuan-{path.stem}"
    spots = set()
    for panel in dashboard["panels"]:
        spots.add((panel["gridPos"]["x"], panel["gridPos"]["y"]))
        assert panel["title"]
        for target in panel["targets"]:
            expression = target["expr"]
            assert 'namespace="$namespace",job=~"$job"' in expression, "another release would be mixed in"
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            read = metrics_in(expression)
            assert read, expression
            assert read <= known, f"{panel['title']}: {read - known}"
    assert len(spots) == len(dashboard["panels"]), "two panels in one place"


def test_every_dashboard_reaches_grafana() -> None:
    things = rendered("production")
    for path in (CHART / "dashboards").glob("*.json"):
        found = named(things, "ConfigMap", f"yisuan-dashboard-{path.stem}")
        assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert json.loads(found["data"][path.name]) == json.loads(path.read_text(encoding="utf-8"))
    assert not [t for t in rendered("default") if "dashboard" in t["metadata"]["name"]]


def test_the_chart_is_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == project["version"]
    assert f"Kubernetes {chart['kubeVersion'].removeprefix('>=')[:4]}" in (ROOT / "docs" / "kubernetes.md").read_text()
