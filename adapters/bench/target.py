"""Target: which device is measured, and the environment in which a process sees exactly that one.

A simulated device is no target: there is nothing to measure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from adapters.accelerator import Accelerator, Source
from adapters.adapter import Adapter, AdapterError

ALL = "all"


class TargetUnknown(ValueError):
    """No device of this host has that uuid; the message lists those it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device as its adapter names it; None where no vendor's tool lists one, and the stack takes what it finds."""

    device: Accelerator | None
    environment: Mapping[str, str]


Listed = tuple[Adapter, Accelerator]
HOST = Target(device=None, environment={})


def found(adapters: Iterable[Adapter]) -> tuple[list[Listed], list[str]]:
    """Every real device that the vendors' tools list, whole or part, and what could not be read."""
    devices: list[Listed] = []
    problems: list[str] = []
    for adapter in adapters:
        if not adapter.probe().available:
            continue
        try:
            listed = adapter.inventory()
        except AdapterError as problem:
            problems.append(f"{adapter.vendor}: {problem}")
            continue
        devices += [(adapter, one) for one in listed if one.source is not Source.SIMULATED]
    return devices, problems


def choose(listed: Sequence[Listed], wanted: str | None) -> list[Listed]:
    """wanted: a uuid; `all`; None: the first one, or none where the host has none. TargetUnknown for another uuid."""
    if wanted is None:
        return list(listed[:1])
    if wanted == ALL:
        return list(listed)
    chosen = [one for one in listed if one[1].uuid == wanted]
    if not chosen:
        known = ", ".join(one.uuid for _, one in listed) or "none"
        raise TargetUnknown(f"device: {wanted!r} is not on this host; known are {known}, or write all")
    return chosen


def targets(chosen: Sequence[Listed], tell: Callable[[str], None]) -> list[Target]:
    """One for each device that a process can be shown; the others are told with the reason."""
    made: list[Target] = []
    for adapter, device in chosen:
        try:
            made.append(Target(device=device, environment=dict(adapter.visibility([device]))))
        except ValueError as problem:
            tell(f"{device.uuid}: {problem}")
    return made


def together(chosen: Sequence[Listed]) -> list[tuple[list[Accelerator], dict[str, str]]]:
    """Two or more devices of one vendor and the environment in which every process sees all of them, for each vendor."""
    by_vendor: dict[str, list[Listed]] = {}
    for adapter, device in chosen:
        if device.visible_id is not None and device.partition is None:
            by_vendor.setdefault(adapter.vendor, []).append((adapter, device))
    groups = []
    for members in by_vendor.values():
        if len(members) > 1:
            devices = [device for _, device in members]
            groups.append((devices, dict(members[0][0].visibility(devices))))
    return groups
