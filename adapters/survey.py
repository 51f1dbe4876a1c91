"""Survey: what several adapters of one host say together, and what the bus says of it.

Used by `yisuan devices` and by the agent. A vendor that is absent is not here; one that cannot answer is a problem and
hides no other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

from adapters import pci
from adapters.accelerator import Accelerator
from adapters.adapter import Adapter, AdapterError
from adapters.link import Link, LinkReader
from adapters.process import ProcessReader, ProcessUse

Attest = Callable[[Sequence[Accelerator]], tuple[tuple[Accelerator, ...], tuple[str, ...]]]


@runtime_checkable
class ProblemReader(Protocol):
    """An adapter that remembers what its last inventory or samples said about no device it lists."""

    def problems(self) -> tuple[str, ...]: ...


@runtime_checkable
class Closing(Protocol):
    """An adapter that holds something, as a library's process; the next question opens it again."""

    def close(self) -> None: ...


def attest_here(devices: Sequence[Accelerator]) -> tuple[tuple[Accelerator, ...], tuple[str, ...]]:
    """The devices with what this host's bus says of them, and what the bus has that no tool lists (`pci.attest`)."""
    return pci.attest(devices, pci.scan(), bare_metal=_is_bare_metal())


@functools.cache
def _is_bare_metal() -> bool | None:
    return pci.is_bare_metal()  # does not change while a process runs


def problems_of(adapter: Adapter) -> tuple[str, ...]:
    """What the adapter's last answer said about no device; () where it keeps nothing of the kind."""
    if not isinstance(adapter, ProblemReader):
        return ()
    return tuple(f"{adapter.vendor}: {problem}" for problem in adapter.problems())


def read_processes(adapters: Iterable[Adapter]) -> tuple[tuple[ProcessUse, ...], tuple[str, ...]]:
    """(who holds which device, what could not be asked). Adapters of absent vendors, and without the port, say nothing."""
    found: list[ProcessUse] = []
    problems: list[str] = []
    for adapter in adapters:
        if isinstance(adapter, ProcessReader):
            try:
                found += adapter.processes() if adapter.probe().available else ()
            except AdapterError as error:
                problems.append(f"{adapter.vendor}: processes: {error}")
    return tuple(found), tuple(problems)


def read_links(adapters: Iterable[Adapter]) -> tuple[tuple[Link, ...], tuple[str, ...]]:
    """(how devices are joined, what could not be asked), as `read_processes`."""
    found: list[Link] = []
    problems: list[str] = []
    for adapter in adapters:
        if isinstance(adapter, LinkReader):
            try:
                found += adapter.links() if adapter.probe().available else ()
            except AdapterError as error:
                problems.append(f"{adapter.vendor}: links: {error}")
    return tuple(found), tuple(problems)
