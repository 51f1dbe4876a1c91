"""Names of policies and backends → lazily imported objects, through entry points and nothing else."""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from scheduler.policy import Policy

POLICIES = "yisuan.policies"
BACKENDS = "yisuan.backends"


class UnknownPlugin(ValueError):
    """No such entry point; the message names the nearest registered one."""


def registered(group: str) -> dict[str, EntryPoint]:
    """Every registration of a group by name; imports none of them."""
    return {point.name: point for point in entry_points(group=group)}


def load_policy(name: str) -> Policy:
    """The registered placement policy of that name."""
    policy: Policy = _load(POLICIES, name)()
    return policy


def load_backend_class(name: str) -> Any:
    """The registered backend class of that name; the application constructs it with its settings."""
    return _load(BACKENDS, name)


def _load(group: str, name: str) -> Any:
    found = registered(group)
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1, cutoff=0.0)
        raise UnknownPlugin(f"{group}: {name!r} is not registered; nearest: {near[0] if near else 'none'}")
    return found[name].load()
