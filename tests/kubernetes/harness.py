"""How the backend contract suite drives Kubernetes: one shared control plane, a kubelet for node n1, a namespace per test."""

from __future__ import annotations

import atexit
import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from adapters.catalog import load_catalog
from adapters.kubernetes_names import Plugin, Role, resource_of
from tests.kubernetes.kubelet import Kubelet
from tests.kubernetes.plane import NoPlane, Plane, shared

_numbers = itertools.count(1)
DEVICES = 8


def plane() -> Plane:
    """The shared control plane; skips the test, saying why, where it or the client cannot be had."""
    pytest.importorskip("kubernetes", reason="no Kubernetes client: install yisuan[kubernetes]")
    try:
        return shared()
    except NoPlane as problem:
        pytest.skip(f"no control plane: {problem}")


@functools.cache
def resource() -> str:
    """What the catalogue's first model is called in a cluster."""
    chip = next(iter(load_catalog()))
    found = resource_of(chip.vendor, Role.COUNT, plugin=Plugin.OFFICIAL, model=chip.model)
    assert found is not None, "every vendor has a name"
    return found.name


@functools.cache
def contract_node() -> Kubelet:
    """Node n1, with a kubelet, for as long as the process lives."""
    kubelet = Kubelet(plane(), {"n1": {resource(): DEVICES}})
    kubelet.__enter__()
    atexit.register(kubelet.__exit__, None, None, None)
    return kubelet


def fresh_namespace(**labels: str) -> str:
    """A namespace nobody used, with the pod security level `restricted` enforced."""
    strict = {"pod-security.kubernetes.io/enforce": "restricted"}
    return plane().namespace(f"test-{next(_numbers)}", **(strict | labels))


class Backends:
    """Makes backends over one namespace, and closes them all."""

    def __init__(self, namespace: str | None = None, **options: Any) -> None:
        self.namespace = namespace or fresh_namespace()
        self.options = {"image": "registry.invalid/job:1", **options}
        self.made: list[Any] = []

    def fresh(self) -> Any:
        """Another object over the same world."""
        from scheduler.backends.kubernetes import KubernetesBackend

        made = KubernetesBackend("zone", kubeconfig=str(plane().kubeconfig), namespace=self.namespace, **self.options)
        self.made.append(made)
        return made

    def close(self) -> None:
        """None of them has a thread or a connection any more."""
        for made in self.made:
            made.close()


def contract() -> tuple[Callable[[], Any], Callable[[], None]]:
    """How to make a backend over a new namespace, and how to close all that were made."""
    contract_node()
    backends = Backends()
    return backends.fresh, backends.close
