"""The chart under test: real helm renders it, real kubectl and promtool look at it. `sh tests/chart/tools` fetches the three."""

from __future__ import annotations

import functools
import hashlib
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CHART = ROOT / "helm" / "yisuan"
SETS: Mapping[str, tuple[Path, ...]] = {
    "default": (),
    "trial": (CHART / "ci" / "trial-values.yaml",),
    "production": (CHART / "ci" / "production-values.yaml",),
}
OPERATOR = ("--api-versions", "monitoring.coreos.com/v1")
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")
Thing = dict[str, Any]


def tool(name: str) -> str:
    """The program's path. Skips the test, saying why, where it has not been fetched."""
    done = subprocess.run(["sh", str(HERE / "tools"), "--where"], capture_output=True, text=True, check=True)
    path = Path(done.stdout.strip()) / name
    if not path.exists():
        pytest.skip(f"no {name}: run `sh tests/chart/tools` once")
    return str(path)


def run(name: str, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What the program said; it may have failed."""
    return subprocess.run([tool(name), *arguments], capture_output=True, text=True, env=env, timeout=300, check=False)


def values_of(name: str) -> list[str]:
    """Helm's arguments for a set of values."""
    return [word for path in SETS[name] for word in ("-f", str(path))]


@functools.cache
def rendered(
    name: str = "default", *more: str, release: str = "yisuan", namespace: str = "yisuan"
) -> tuple[Thing, ...]:
    """Every object that helm makes of a set of values and further arguments, hooks and tests with them."""
    done = run("helm", "template", release, str(CHART), "-n", namespace, *OPERATOR, *values_of(name), *more)
    assert done.returncode == 0, done.stderr
    return tuple(thing for thing in yaml.safe_load_all(done.stdout) if thing)


def named(things: Sequence[Thing], kind: str, name: str | None = None) -> Thing:
    """The one object of this kind (and name)."""
    fit = [thing for thing in things if thing["kind"] == kind and name in (None, thing["metadata"]["name"])]
    assert len(fit) == 1, f"{len(fit)} objects {kind} {name}"
    return fit[0]


def pod_of(thing: Thing) -> Thing | None:
    """The pod that an object is or makes: its metadata and spec; None for one that makes none."""
    if thing["kind"] == "Pod":
        return thing
    return thing["spec"]["template"] if thing["kind"] in WORKLOADS else None


def pods(things: Sequence[Thing]) -> Iterator[tuple[str, Thing]]:
    """(kind/name, pod) of every object that makes one."""
    for thing in things:
        pod = pod_of(thing)
        if pod is not None:
            yield f"{thing['kind']}/{thing['metadata']['name']}", pod


def containers(pod: Thing) -> list[Thing]:
    """Those that prepare, then those that run."""
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def golden(name: str) -> str:
    """The objects as kept in golden/NAME.yaml: in order, long texts by their hash, two vendors' agents for all of them."""
    things = [thing for thing in rendered(name) if not _further_agent(thing)]
    things.sort(key=lambda thing: (thing["kind"], thing["metadata"].get("namespace", ""), thing["metadata"]["name"]))
    return yaml.safe_dump_all([_short(thing) for thing in things], sort_keys=True, width=120, allow_unicode=True)


def _further_agent(thing: Thing) -> bool:
    vendor = thing["metadata"]["labels"].get("yisuan/vendor")
    return vendor is not None and vendor not in ("ascend", "nvidia")


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get("kind") == "PrometheusRule":
            value = {**value, "spec": {**value["spec"], "groups": [group["name"] for group in value["spec"]["groups"]]}}
        return {key: _short(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_short(one) for one in value]
    if isinstance(value, str) and value.count("\n") > 2 and not re.match(r"clusters:|regions:", value):
        return f"{value.count(chr(10))} lines, sha256 {hashlib.sha256(value.encode()).hexdigest()[:12]}"
    return value
