"""What holds for every object of every set of values, drawn ones too."""

from __future__ import annotations

import copy
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chart.chart import CHART, SETS, Thing, containers, named, pod_of, pods, rendered, tool

VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
VENDORS = sorted(VALUES["agents"]["vendors"])
LABELS = {"name", "instance", "component", "version", "part-of", "managed-by"}
SELECTS = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"}
ALWAYS_THERE = {"default"}  # accounts


def check(things: tuple[Thing, ...], secrets: set[str]) -> None:
    """Every law. secrets: names that the values give."""
    names = [(t["kind"], t["metadata"].get("namespace"), t["metadata"]["name"]) for t in things]
    assert len(names) == len(set(names)), "two objects of one name"
    for thing in things:
        labels = thing["metadata"]["labels"]
        assert {f"app.kubernetes.io/{name}" for name in LABELS} <= set(labels), names
        cluster_wide = thing["kind"].startswith("ClusterRole")
        assert cluster_wide == ("namespace" not in thing["metadata"]), f"{thing['kind']} {thing['metadata']}"
        check_selector(thing)
    for where, pod in pods(things):
        check_pod(where, pod)
        for secret in secrets_of(pod):
            assert secret in secrets, f"{where}: Secret {secret} is in no value"
        check_references(where, pod, things)
    check_selected(things)


def check_selector(thing: Thing) -> None:
    """It matches the object's own pods, and holds nothing that changes with a version: selectors cannot change."""
    if thing["kind"] not in ("Deployment", "StatefulSet", "DaemonSet"):
        return
    selector = thing["spec"]["selector"]["matchLabels"]
    labels = thing["spec"]["template"]["metadata"]["labels"]
    assert selector.items() <= labels.items()
    assert set(selector) - {"yisuan/vendor"} == SELECTS
    for claim in thing["spec"].get("volumeClaimTemplates", ()):  # cannot change either
        assert set(claim["metadata"]["labels"]) == SELECTS


def check_pod(where: str, pod: Thing) -> None:
    spec, agent = pod["spec"], where.startswith("DaemonSet/")
    assert spec["enableServiceLinks"] is False, f"{where}: YISUAN_PORT of a Service would be taken for the setting"
    assert spec["automountServiceAccountToken"] is False or spec["serviceAccountName"].endswith(
        ("api", "loop", "server")
    )
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
    assert not any(spec.get(key) for key in ("hostNetwork", "hostIPC")), where
    if not agent:
        assert spec["securityContext"]["runAsNonRoot"] is True, where
        assert not spec.get("hostPID"), where
        assert not any("hostPath" in volume for volume in spec.get("volumes", ())), where
    volumes = {volume["name"] for volume in spec.get("volumes", ())}
    for container in containers(pod):
        named_so = f"{where}/{container['name']}"
        asked = container["resources"]
        assert asked["requests"]["cpu"], named_so
        assert asked["requests"]["memory"], named_so
        assert asked["limits"]["memory"], named_so
        assert re.search(r"@sha256:[0-9a-f]{64}$|:(?!latest$)[\w][\w.-]*$", container["image"]), container["image"]
        confined = container["securityContext"]
        assert confined["readOnlyRootFilesystem"] is True, named_so
        if confined.get("privileged"):
            assert agent, named_so
            assert container["name"] == "agent", named_so
        else:
            assert confined["allowPrivilegeEscalation"] is False, named_so
            assert confined["capabilities"] == {"drop": ["ALL"]}, named_so
        variables = [one["name"] for one in container.get("env", ())]
        assert len(variables) == len(set(variables)), f"{named_so}: a variable twice"
        assert all(isinstance(one.get("value", ""), str) for one in container.get("env", ())), named_so
        mounts = [mount["name"] for mount in container.get("volumeMounts", ())]
        volumes |= {"data"} if where.startswith("StatefulSet/") else set()
        assert set(mounts) <= volumes, f"{named_so}: mounts {set(mounts) - volumes}"
        assert not any(mount.get("subPath") for mount in container.get("volumeMounts", ())), f"{named_so}: not updated"


def secrets_of(pod: Thing) -> set[str]:
    found = {volume["secret"]["secretName"] for volume in pod["spec"].get("volumes", ()) if "secret" in volume}
    found |= {one["name"] for one in pod["spec"].get("imagePullSecrets", ())}
    for container in containers(pod):
        for one in container.get("env", ()):
            found |= {one.get("valueFrom", {}).get("secretKeyRef", {}).get("name")} - {None}
    return found


def check_references(where: str, pod: Thing, things: tuple[Thing, ...]) -> None:
    """Accounts, ConfigMaps and claims that a pod names are of the release; a hook before it names none."""
    there = {(t["kind"], t["metadata"]["name"]) for t in things}
    spec = pod["spec"]
    account = spec.get("serviceAccountName", "default")
    assert account in ALWAYS_THERE or ("ServiceAccount", account) in there, where
    for volume in spec.get("volumes", ()):
        if "configMap" in volume:
            found = named(things, "ConfigMap", volume["configMap"]["name"])
            items = volume["configMap"].get("items", ())
            assert {item["key"] for item in items} <= set(found.get("data") or ()), where
        if "persistentVolumeClaim" in volume:
            name = volume["persistentVolumeClaim"]["claimName"]
            assert name == "mine" or ("PersistentVolumeClaim", name) in there, where
    if where.startswith("Job/"):
        assert account == "default", "the release's accounts are not there before it is"
        assert not any("configMap" in volume for volume in spec["volumes"])


def check_selected(things: tuple[Thing, ...]) -> None:
    """Every Service, budget and policy selects pods of the release, and names ports that they have."""
    found = [pod for thing in things if thing["kind"] != "Job" and (pod := pod_of(thing)) is not None]
    for thing in things:
        spec = thing.get("spec", {})
        if thing["kind"] == "Service":
            selector = spec["selector"]
        elif thing["kind"] in ("PodDisruptionBudget",):
            selector = spec["selector"]["matchLabels"]
        elif thing["kind"] == "NetworkPolicy":
            selector = spec["podSelector"]["matchLabels"]
        else:
            continue
        fit = [pod for pod in found if selector.items() <= pod["metadata"]["labels"].items()]
        if not fit:
            assert selector["app.kubernetes.io/component"] == "agent", f"{thing['metadata']['name']} selects nothing"
            continue
        components = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in fit}
        assert components == {selector["app.kubernetes.io/component"]}
        ports = {port["name"] for pod in fit for one in containers(pod) for port in one.get("ports", ())}
        if thing["kind"] == "Service":
            assert {port["targetPort"] for port in spec["ports"]} <= ports
        if thing["kind"] == "NetworkPolicy":
            named_ports = {p["port"] for rule in spec.get("ingress", ()) for p in rule.get("ports", ())}
            assert named_ports <= ports, f"{thing['metadata']['name']}: {named_ports - ports}"


PRODUCTION = {"registry", "yisuan-database", "yisuan-seal", "east-kubeconfig", "yisuan-agents"}


@pytest.mark.parametrize("name", SETS)
def test_the_laws_hold(name: str) -> None:
    check(rendered(name), PRODUCTION if name == "production" else set())


booleans = st.booleans()
drawn = st.fixed_dictionaries(
    {},
    optional={
        "fullnameOverride": st.sampled_from(["zone", "a", "x" * 40]),
        "runAs": st.sampled_from([1, 10001, None]),
        "image": st.sampled_from([{"tag": "1.2.3"}, {"digest": "sha256:" + "a" * 64}, {"pullSecrets": ["given"]}]),
        "database": st.sampled_from(
            [
                {"kind": "postgresql", "existingSecret": "given", "key": "uri"},
                {"sqlite": {"existingClaim": "mine"}},
                {"sqlite": {"keep": False, "storageClass": "fast"}},
            ]
        ),
        "parameters": st.sampled_from([{"registry.yaml": "a: 1\n", "etown/policy.yaml": "b: 'x'\n"}]),
        "secretMounts": st.sampled_from(
            [[{"secret": "given", "path": "/etc/x"}, {"secret": "given", "path": "/etc/y"}]]
        ),
        "clusters": st.sampled_from(
            [
                [
                    {
                        "name": "here",
                        "backend": "kubernetes",
                        "provider": "911100006000373415",
                        "site": "s",
                        "region": "r",
                        "prices": {},
                    }
                ]
            ]
        ),
        "rbac": st.fixed_dictionaries({"create": booleans}),
        "api": st.fixed_dictionaries(
            {"replicas": st.integers(1, 5), "pdb": st.fixed_dictionaries({"enabled": booleans})}
        ),
        "loop": st.fixed_dictionaries(
            {
                "replicas": st.integers(1, 3),
                "election": st.sampled_from(["database", "lease"]),
                "storage": st.fixed_dictionaries({"enabled": booleans, "keep": booleans}),
            }
        ),
        "migrate": st.fixed_dictionaries({"enabled": booleans}),
        "networkPolicy": st.fixed_dictionaries(
            {
                "enabled": booleans,
                "from": st.sampled_from([[], [{"podSelector": {}}]]),
                "egress": st.sampled_from([[], [{"to": [{"podSelector": {}}]}]]),
            }
        ),
        "monitoring": st.fixed_dictionaries(
            {
                "serviceMonitor": st.fixed_dictionaries({"enabled": booleans}),
                "rules": st.fixed_dictionaries({"enabled": booleans}),
            }
        ),
        "agents": st.fixed_dictionaries(
            {
                "keysSecret": st.sampled_from(["", "given"]),
                "metricsPort": st.sampled_from([0, 9837]),
                "hostPID": booleans,
                "vendors": st.dictionaries(
                    st.sampled_from(VENDORS), st.fixed_dictionaries({"enabled": booleans}), max_size=3
                ),
            }
        ),
    },
)


@settings(max_examples=25)
@given(values=drawn)
def test_the_laws_hold_for_values_that_nobody_wrote(values: dict[str, Any]) -> None:
    tool("helm")
    if values.get("database", {}).get("kind") == "postgresql":
        values = {**values, "sealKey": {"existingSecret": "given"}}
    validate = pytest.importorskip("kubernetes_validate", reason="no kubernetes-validate")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(values, file)
        file.flush()
        things = rendered.__wrapped__("default", "-f", file.name)
    check(things, {"given"})
    for thing in things:
        if not thing["apiVersion"].startswith("monitoring."):
            validate.validate(thing, "1.37", strict=True)


def broken(name: str, change: Any) -> tuple[Thing, ...]:
    things = copy.deepcopy(rendered(name))
    change(things)
    return things


@pytest.mark.parametrize(
    "change",
    [
        lambda t: named(t, "Deployment")["spec"]["template"]["spec"].pop("enableServiceLinks"),
        lambda t: named(t, "Deployment")["spec"]["template"]["metadata"]["labels"].pop("app.kubernetes.io/instance"),
        lambda t: named(t, "Deployment")["spec"]["selector"]["matchLabels"].update({"app.kubernetes.io/version": "1"}),
        lambda t: containers(pod_of(named(t, "Deployment")) or {})[1].update(image="yisuan:latest"),
        lambda t: containers(pod_of(named(t, "Deployment")) or {})[1].pop("resources"),
        lambda t: containers(pod_of(named(t, "Deployment")) or {})[1]["securityContext"].update(privileged=True),
        lambda t: named(t, "Service")["spec"]["selector"].update({"app.kubernetes.io/component": "no"}),
    ],
)
def test_a_law_that_is_broken_is_noticed(change: Any) -> None:
    with pytest.raises((AssertionError, KeyError)):
        check(broken("default", change), set())


def test_a_name_that_is_changed_moves_no_selector_of_another_release() -> None:
    """Two releases in one namespace share no object and select none of each other's pods."""
    first, second = rendered("production", release="east"), rendered("production", release="west")
    names = [
        {(t["kind"], t["metadata"].get("namespace"), t["metadata"]["name"]) for t in one} for one in (first, second)
    ]
    assert not names[0] & names[1]
    for thing in first:
        if thing["kind"] == "Service":
            for _, pod in pods(second):
                assert not thing["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


def test_a_changed_configuration_makes_new_pods() -> None:
    def sums(*more: str) -> set[str]:
        found = rendered("trial", *more)
        return {named(found, "Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/config"]}

    assert sums() == sums("--set", "service.port=80")
    assert not sums() & sums("--set", "clusters[0].site=bj2")


@pytest.mark.parametrize("script", sorted(Path(CHART / "files").glob("*.py")), ids=lambda path: path.name)
def test_a_script_in_a_pod_is_the_file(script: Path) -> None:
    told = [a for _, pod in pods(rendered("production")) for c in containers(pod) for a in c.get("args", ())]
    assert any(arg.rstrip() == script.read_text(encoding="utf-8").rstrip() for arg in told)
