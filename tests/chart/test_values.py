"""Values at odds with the schema are refused, naming the key; the schema knows every value, and no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from adapters.kubernetes_names import TABLE
from api.settings import Settings
from scheduler import cluster_file
from tests.chart.chart import CHART, named, pods, rendered, run

SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("given", "key", "why"),
    [
        ("api.replicas=two", "/api/replicas", "got string, want integer"),
        ("api.replicas=0", "/api/replicas", "minimum: got 0, want 1"),
        ("api.replica=3", "/api", "'replica' not allowed"),
        ("databse.kind=postgresql", "", "'databse' not allowed"),
        ("database.kind=mysql", "/database/kind", "must be one of 'sqlite', 'postgresql'"),
        ("database.kind=postgresql", "/database/existingSecret", "minLength"),
        ("database.kind=postgresql", "/sealKey/existingSecret", "minLength"),
        ("image.tag=latest", "/image/tag", "'not' failed"),
        ("image.digest=sha256:12", "/image/digest", "does not match pattern"),
        ("runAs=0", "/runAs", "minimum: got 0, want 1"),
        ("settings.pagesOpen=true", "/settings/ledger", "must be 'demo'"),
        ("settings.tickMs=1", "/settings/tickMs", "minimum: got 1, want 10"),
        ("settings.drainSeconds=301", "/settings/drainSeconds", "maximum: got 301, want 300"),
        ("clusters[0].name=east", "/clusters/0", "missing properties"),
        ("agents.vendors.nvidea.enabled=true", "/agents/vendors", "'nvidea' not allowed"),
        ("agents.vendors.nvidia.hostPaths[0]=opt", "/agents/vendors/nvidia/hostPaths/0", "does not match pattern"),
        ("agents.stateDir=/", "/agents/stateDir", "does not match pattern"),
        ("ingress.enabled=true", "/ingress/hosts", "minItems"),
        ("monitoring.serviceMonitor.interval=fast", "/monitoring/serviceMonitor/interval", "does not match pattern"),
        ("monitoring.rules.voucherPoolFen.26=5", "/monitoring/rules/voucherPoolFen", "'26' not allowed"),
        ("service.port=70000", "/service/port", "maximum"),
        ("secretMounts[0].secret=a", "/secretMounts/0", "missing property 'path'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(given: str, key: str, why: str) -> None:
    done = run("helm", "template", "yisuan", str(CHART), "--set", given)
    assert done.returncode != 0
    assert any(f"at '{key}'" in line and why in line for line in done.stderr.splitlines()), done.stderr


def walk(schema: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, schema
    for name, one in schema.get("properties", {}).items():
        yield from walk(one, f"{path}/{name}")


def test_every_mapping_of_ours_is_closed() -> None:
    free = {"/global", "/regions"}
    for path, schema in walk(SCHEMA):
        if schema.get("type") == "object" and path not in free:
            assert "additionalProperties" in schema, path


def test_the_schema_and_the_values_have_the_same_keys() -> None:
    def keys(values: Any, schema: Any, path: str = "") -> None:
        if "properties" not in schema:
            return
        assert isinstance(values, dict), path
        assert set(values) == set(schema["properties"]) - {"global"}, path
        for name, value in values.items():
            keys(value, schema["properties"][name], f"{path}/{name}")

    keys(VALUES, SCHEMA)


def test_every_vendor_with_a_name_in_clusters_has_an_agent() -> None:
    vendors = {names.vendor for names in TABLE}
    assert set(VALUES["agents"]["vendors"]) == vendors
    assert len(vendors) == 13
    for vendor, of in VALUES["agents"]["vendors"].items():
        assert of["nodeSelector"], f"{vendor}: an agent without a selector would run on every node"


def test_the_limits_of_settings_and_clusters_are_those_of_the_code() -> None:
    """A value that the schema takes is one that the process takes."""
    ours = {key: SCHEMA["properties"]["settings"]["properties"][key] for key in VALUES["settings"]}
    for key, field in (
        ("movesPerHour", "moves_per_hour"),
        ("challengeHours", "challenge_hours"),
        ("tickMs", "tick_ms"),
    ):
        limits = {type(one).__name__: one for one in Settings.model_fields[field].metadata}
        assert (ours[key]["minimum"], ours[key]["maximum"]) == (limits["Ge"].ge, limits["Le"].le)
    cluster = SCHEMA["$defs"]["cluster"]["properties"]
    assert tuple(cluster) == cluster_file.KEYS
    assert set(cluster["backend"]["enum"]) == set(cluster_file.OPTIONS)
    assert cluster["prices"]["additionalProperties"]["maximum"] == cluster_file.FEN_MAX
    assert cluster["provider"]["pattern"].strip("^$") == cluster_file.CODE.pattern
    assert cluster["name"]["pattern"].strip("^$") == cluster_file.NAME.pattern
    assert tuple(cluster["name"]["not"]["enum"]) == cluster_file.TAKEN


def test_a_process_takes_the_variables_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variable is one of Settings', and its value is valid; every setting can be set."""
    fields = {f"YISUAN_{name.upper()}" for name in Settings.model_fields}
    seen: set[str] = set()
    for name in ("default", "trial", "production"):
        more = ("--set-file", f"parameters.registry\\.yaml={CHART / 'Chart.yaml'}")
        for where, pod in pods(rendered(name, *more)):
            container = pod["spec"]["containers"][0]
            if container["command"][:2] not in (["yisuan", "serve"], ["yisuan", "migrate"]):
                continue
            given = {one["name"]: one.get("value", "sqlite://") for one in container["env"]}
            ours = {key: value for key, value in given.items() if key.startswith("YISUAN_")}
            assert set(ours) <= fields, where
            seen |= set(ours)
            with monkeypatch.context() as patch:
                for key, value in ours.items():
                    patch.setenv(key, value)
                assert Settings().host in ("0.0.0.0", "127.0.0.1")  # noqa: S104 - in a pod
    assert fields - seen == {"YISUAN_ROLE", "YISUAN_JOB_PATH"}  # the first is in the command


def test_the_cluster_file_is_one_that_the_platform_reads() -> None:
    text = named(rendered("production"), "ConfigMap", "yisuan-config")["data"]["clusters.yaml"]
    here, east = cluster_file.parse_clusters(text)
    assert (here.name, here.options["namespace"], here.prices) == (
        "here",
        "yisuan-jobs",
        {"H800": 1800, "Ascend910B3": 1200},
    )
    assert east.options["kubeconfig"] == "/etc/yisuan/east/kubeconfig"


def test_a_large_number_stays_a_whole_number() -> None:
    rules = named(rendered("production"), "PrometheusRule")["spec"]["groups"][-1]["rules"]
    assert "/ 10000000000 >= 0.80" in rules[0]["expr"]


def test_a_command_takes_the_options_that_it_is_given() -> None:
    """Every command line of a container is one of the program's own."""
    from typer.main import get_command

    from api.cli import app

    known = get_command(app)
    for where, pod in pods(rendered("production")):
        container = pod["spec"]["containers"][0]
        name, *words = container["command"]
        if name != "yisuan":
            continue
        command = known.get_command(None, words[0])  # type: ignore[attr-defined]
        options = {option for one in command.params for option in one.opts}
        for word in words[1:]:
            assert word.partition("=")[0] in options, f"{where}: {word}"
