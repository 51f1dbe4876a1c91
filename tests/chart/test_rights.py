"""The rights that the chart gives are those that the code uses: no more, so that a taken pod can do no more."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.backends.kubernetes_api import Refused
from scheduler.database import Database
from scheduler.kubernetes_lease import LeaseElection
from tests.chart.chart import ROOT, Thing, named, pods, rendered

PAGE = ROOT / "docs" / "kubernetes.md"
VERBS = {"GET": "get", "PUT": "update", "POST": "create", "PATCH": "patch", "DELETE": "delete"}


def rules(thing: Thing) -> set[tuple[str, str, str]]:
    """(group, resource, verb) of a role."""
    return {
        (group, resource, verb)
        for rule in thing["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_loop_has_the_rights_of_the_page_whose_test_runs_leases_with_them() -> None:
    match = re.search(r"```yaml rights\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    role, nodes = yaml.safe_load_all(match[1])
    things = rendered("production")
    assert rules(named(things, "Role", "yisuan-yisuan-leases")) == rules(role)
    assert rules(named(things, "ClusterRole")) == rules(nodes)
    trial = rendered("trial")
    assert rules(named(trial, "Role")) == rules(role)
    assert rules(named(trial, "ClusterRole")) == rules(nodes)


def test_who_only_shows_output_may_only_read() -> None:
    found = rules(named(rendered("production"), "Role", "yisuan-yisuan-output"))
    assert found < rules(named(rendered("production"), "Role", "yisuan-yisuan-leases"))
    assert {verb for _, _, verb in found} == {"get", "list", "watch"}


def test_rights_are_given_in_the_namespaces_of_this_cluster_alone() -> None:
    """`east` is another cluster: its account is in its kubeconfig."""
    roles = [t for t in rendered("production") if t["kind"] in ("Role", "RoleBinding")]
    assert {t["metadata"]["namespace"] for t in roles} == {"yisuan-jobs", "yisuan"}
    assert not [t for t in rendered("default") if "Role" in t["kind"]]
    assert not [t for t in rendered("production", "--set", "rbac.create=false") if "Role" in t["kind"]]


def test_a_binding_names_a_role_and_an_account_that_are_there() -> None:
    for name in ("trial", "production"):
        things = rendered(name)
        for binding in (t for t in things if t["kind"].endswith("Binding")):
            named(things, binding["roleRef"]["kind"], binding["roleRef"]["name"])
            for subject in binding["subjects"]:
                assert named(things, "ServiceAccount", subject["name"])["metadata"]["namespace"] == subject["namespace"]


def test_only_who_asks_the_api_server_has_a_token() -> None:
    def tokens(name: str, *more: str) -> set[str]:
        return {where for where, pod in pods(rendered(name, *more)) if pod["spec"]["automountServiceAccountToken"]}

    assert tokens("default") == set()
    assert tokens("trial") == {"Deployment/yisuan-server"}
    assert tokens("production") == {"Deployment/yisuan-api", "StatefulSet/yisuan-loop"}


class Object:
    """The API server's one Lease object; notes the verbs."""

    def __init__(self, lease: Mapping[str, Any] | None) -> None:
        self.lease = dict(lease) if lease else None
        self.verbs: set[str] = set()

    def request(self, method: str, path: str, body: Any = None) -> Any:
        self.verbs.add(VERBS[method])
        if method == "GET" and self.lease is None:
            raise Refused(404, "NotFound", path)
        if body is not None:
            version = int((self.lease or {}).get("metadata", {}).get("resourceVersion", 0)) + 1
            self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(version)}}
        return self.lease


def test_the_election_asks_for_what_it_may(tmp_path: Path) -> None:
    """The chart makes the object, so nobody needs the right to create one."""
    from api.migrations import upgrade

    things = rendered("production")
    lease = named(things, "Lease")
    served = {**lease, "spec": {}, "metadata": {**lease["metadata"], "resourceVersion": "1"}}
    role = named(things, "Role", "yisuan-election")
    assert {name for rule in role["rules"] for name in rule["resourceNames"]} == {lease["metadata"]["name"]}
    namespace, _, name = variable(things, "YISUAN_LEASE").partition("/")
    assert (namespace, name) == (lease["metadata"]["namespace"], lease["metadata"]["name"])

    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    upgrade(database)
    api = Object(served)
    election = LeaseElection(database, api, namespace=namespace, name=name, holder="a")
    assert election.try_lead() is not None
    election.resign()
    database.close()
    assert {("coordination.k8s.io", "leases", verb) for verb in api.verbs} == rules(role)


def variable(things: tuple[Thing, ...], name: str) -> str:
    found = {
        one["value"]
        for _, pod in pods(things)
        for one in pod["spec"]["containers"][0].get("env", ())
        if one["name"] == name
    }
    assert len(found) == 1
    return str(found.pop())


@pytest.mark.parametrize("name", ["default", "trial"])
def test_with_sqlite_nobody_elects_by_a_lease(name: str) -> None:
    things = rendered(name, "--set", "loop.election=lease")
    assert not [t for t in things if t["kind"] == "Lease"]


def test_the_object_that_elects_is_there_whoever_makes_the_roles() -> None:
    things = rendered("production", "--set", "rbac.create=false")
    assert named(things, "Lease") == named(rendered("production"), "Lease")
