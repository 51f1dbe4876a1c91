"""The clusters file: what is read, and what is refused by field, value and nearest valid one."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
import yaml

from scheduler.backends.kubernetes import KubernetesBackend
from scheduler.backends.kubernetes_objects import Settings
from scheduler.cluster_file import OPTIONS, ClusterFileError, parse_clusters
from scheduler.registry import load_backend_class

GOOD: dict[str, Any] = {
    "name": "east",
    "backend": "kubernetes",
    "provider": "911100006000373415",
    "site": "bj1",
    "region": "beijing",
    "prices": {"H800": 1800, "ascend 910B3": 2000},
    "options": {"context": "east", "namespace": "jobs", "plugin": "hami", "models": {"nvidia.com/gpu": "H800"}},
}


def parsed(**changed: Any) -> Any:
    entry = {key: value for key, value in (GOOD | changed).items() if value is not None}
    return parse_clusters(yaml.safe_dump({"clusters": [entry]}))[0]


def test_a_cluster_is_read_with_the_catalogues_spelling_of_its_models() -> None:
    cluster = parsed()

    assert cluster.prices == {"H800": 1800, "Ascend910B3": 2000}
    assert (cluster.pool_of("Ascend910B3"), cluster.node_of("gpu-01")) == ("east-ascend910b3", "east.gpu-01")
    assert cluster.options["models"] == {"nvidia.com/gpu": "H800"}
    assert parsed(backend="ray", options={"address": "http://head:8265"}).options == {"address": "http://head:8265"}
    assert parse_clusters("clusters: []") == ()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"nmae": "x"}, "/clusters/0/nmae: unknown key; nearest: name"),
        ({"backend": "kubernets"}, "'kubernets' is none of kubernetes, ray; nearest: kubernetes"),
        ({"site": None}, "/clusters/0/site: is required"),
        ({"prices": None}, "/clusters/0/prices: is required"),
        ({"region": 7}, "/clusters/0/region: must be a text, not 7"),
        ({"name": "East One"}, "nearest: 'east-one'"),
        ({"name": "local"}, "nearest: 'local-1'"),
        ({"provider": "91110000600037341"}, "is no unified social credit code"),
        ({"provider": "91110302ma01a2b3c4"}, "nearest: '91110302MA01A2B3C4'"),
        ({"prices": {"H8OO": 1}}, "model 'H8OO' is not known; nearest: H800"),
        ({"prices": {"H800": -1}}, "from 0 to 100000000, not -1; nearest: 0"),
        ({"prices": {"H800": True}}, "not True"),
        ({"prices": {"H800": 18.5}}, "not 18.5"),
        ({"prices": {"H800": 1, "h-800": 1}}, "H800 stands twice"),
        ({"prices": [1]}, "must be a mapping of models"),
        ({"options": {"contxt": "a"}}, "/options/contxt: unknown key; nearest: context"),
        ({"options": {"plugin": "hamy"}}, "nearest: hami"),
        ({"options": {"run_as": 0}}, "nearest: 1"),
        ({"options": {"models": {"nvidia.com/gpu": "H8OO"}}}, "nearest: H800"),
        ({"options": {"resources": "x"}}, "must be a mapping of models to resource names"),
        ({"backend": "ray", "options": {}}, "/options/address: is required"),
        ({"backend": "ray", "options": {"address": "a", "timeout_s": 0}}, "above 0"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ClusterFileError) as problem:
        parsed(**changed)

    assert says in str(problem.value)


@pytest.mark.parametrize("text", ["clusters: {", "[]", "clusters: {}", "{}", "cluster: []", "clusters: []\nmore: 1"])
def test_what_is_no_clusters_file_is_refused(text: str) -> None:
    with pytest.raises(ClusterFileError):
        parse_clusters(text)


def test_two_clusters_of_one_name_are_refused() -> None:
    with pytest.raises(ClusterFileError, match="/clusters/1/name: 'east' stands twice"):
        parse_clusters(yaml.safe_dump({"clusters": [GOOD, GOOD]}))


def test_every_option_is_an_argument_of_its_backend() -> None:
    known = {field.name for field in dataclasses.fields(Settings)} - {"cluster"}
    own = set(inspect.signature(KubernetesBackend.__init__).parameters) - {"self", "cluster", "clock", "options"}
    assert set(OPTIONS["kubernetes"]) == known | own
    ray = inspect.signature(load_backend_class("ray").__init__).parameters
    assert set(OPTIONS["ray"]) <= set(ray)
