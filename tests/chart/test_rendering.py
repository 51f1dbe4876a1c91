"""What helm makes of three sets of values: lint, goldens, and every object valid for the API server's own schemas."""

from __future__ import annotations

import pytest
import yaml

from tests.chart.chart import CHART, HERE, SETS, golden, named, rendered, run, values_of

NOT_KNOWN = {"PodMonitor", "PrometheusRule", "ServiceMonitor"}  # of the Prometheus operator


@pytest.mark.parametrize("name", SETS)
def test_the_linter_has_nothing_to_say(name: str) -> None:
    done = run("helm", "lint", "--strict", str(CHART), *values_of(name))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize("name", SETS)
def test_the_objects_are_those_that_were_looked_at(name: str) -> None:
    """`python -m tests.chart` writes the goldens anew."""
    assert golden(name) == (HERE / "golden" / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("version", ["1.31", "1.37"])
@pytest.mark.parametrize("name", SETS)
def test_every_object_is_valid_and_has_no_field_that_nobody_knows(name: str, version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="no kubernetes-validate")
    for thing in rendered(name):
        if thing["kind"] in NOT_KNOWN:
            continue
        validate.validate(thing, version, strict=True)


def test_a_field_that_nobody_knows_is_found() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="no kubernetes-validate")
    service = {**named(rendered(), "Service", "yisuan"), "spce": {}}
    with pytest.raises(validate.ValidationError):
        validate.validate(service, "1.37", strict=True)


def test_without_the_operator_its_objects_are_not_made_and_the_notes_say_so() -> None:
    done = run("helm", "template", "yisuan", str(CHART), *values_of("production"))
    assert done.returncode == 0, done.stderr
    assert not NOT_KNOWN & {thing["kind"] for thing in yaml.safe_load_all(done.stdout) if thing}
    assert {thing["kind"] for thing in rendered("production")} >= NOT_KNOWN
    done = run("helm", "install", "yisuan", str(CHART), "--dry-run=client", *values_of("production"))
    assert "NOT MADE: ServiceMonitor" in done.stdout, done.stderr
    done = run("helm", "install", "yisuan", str(CHART), "--dry-run=client")
    assert "NOT MADE" not in done.stdout
    assert "This is a trial" in done.stdout


def test_the_same_values_give_the_same_objects() -> None:
    first, second = (run("helm", "template", "a", str(CHART), *values_of("production")).stdout for _ in range(2))
    assert first == second


def test_a_name_of_any_length_stays_a_name() -> None:
    release = "a" * 53  # the longest that helm takes
    validate = pytest.importorskip("kubernetes_validate", reason="no kubernetes-validate")
    for thing in rendered("production", release=release, namespace="n" * 63):
        name = thing["metadata"]["name"]
        longest = 253 if "Role" in thing["kind"] else 63
        assert len(name) <= longest - (11 if thing["kind"] == "StatefulSet" else 0), name
        if thing["kind"] not in NOT_KNOWN:
            validate.validate(thing, "1.37", strict=True)
