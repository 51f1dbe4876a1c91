"""Respondent: answers what the platform asks of a node, under the node's key, with no person in between.

A statement is made and sent at once, in the agent's own round. The challenge kernel needs a numerical library and a device, so a
thread has it run in a process of its own, on an idle device only, and that process ends with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from adapters import pci
from adapters.accelerator import Accelerator, Source
from adapters.adapter import Adapter, AdapterError
from adapters.assignment import scan_assignments
from adapters.bench.question import LIMIT_S
from adapters.deadline import Worker
from adapters.event import key_id_of
from adapters.evidence import sign_statement, state
from adapters.survey import read_processes

OPEN_S = 120.0  # the first import of a large library from a cold disk; nothing is timed yet


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelAsked:
    """A challenge kernel that waits to be begun on the device."""

    id: str
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the platform asks of the node. nonce: for a statement, None = only the kernel is asked for."""

    nonce: str | None = None
    kernel: KernelAsked | None = None


class Answers(Protocol):
    """Takes answers. Raises as adapters.agent.Push does."""

    def statement(self, node: str, document: Mapping[str, Any], key: str, signature: str) -> None: ...

    def begin(self, node: str, challenge: str) -> Mapping[str, Any]:
        """{nonce, size, depth}; the time runs from now."""
        ...

    def kernel(self, node: str, challenge: str, answer: Mapping[str, Any] | None, reason: str | None) -> None:
        """answer None: it could not be run, for this reason."""
        ...


Rig = Callable[[Mapping[str, str]], Worker]


def rig(environment: Mapping[str, str], python: str | None = None) -> Worker:
    """A process that measures, which sees the devices that the environment shows. python: an interpreter that has the library."""
    return Worker("adapters.bench.rig:Rig", {"stack": "auto"}, open_s=0, environment=environment, python=python)


class Respondent:
    """One node's answers. adapters: those of this host. assignments: where it is said what holds which devices.

    functions, bare_metal: what the host's bus and firmware say. rig: makes the kernel's process.
    """

    def __init__(
        self,
        node: str,
        key: Ed25519PrivateKey,
        answers: Answers,
        adapters: Sequence[Adapter],
        assignments: Path | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        functions: Callable[[], Sequence[pci.PciDevice]] | None = None,
        bare_metal: Callable[[], bool | None] | None = None,
        rig: Rig = rig,
    ) -> None:
        self._node, self._key, self._answers, self._adapters = node, key, answers, tuple(adapters)
        self._assignments, self._clock, self._rig = assignments, clock, rig
        self._functions, self._bare_metal = (
            functions or (lambda: pci.scan()),
            bare_metal or (lambda: pci.is_bare_metal()),
        )
        self._running: threading.Thread | None = None
        self._taken: str | None = None  # the kernel begun last
        self.problems: tuple[str, ...] = ()

    def answer(self, asked: Asked, devices: Sequence[Accelerator]) -> None:
        """The statement over these devices, read just now, is sent; the kernel is begun and goes on by itself. Never raises."""
        problems = []
        if asked.nonce is not None:
            try:
                self._state(asked.nonce, devices)
            except Exception as problem:  # noqa: BLE001  whatever stops an answer must not stop the agent
                problems.append(f"challenge: {type(problem).__name__}: {problem}")
        kernel = asked.kernel
        if kernel is not None and kernel.id != self._taken and not self.busy():
            self._taken = kernel.id
            try:
                shown: Mapping[str, str] | str = self._shown(kernel.device, devices)
            except Exception as problem:  # noqa: BLE001  it is said to the platform instead
                shown = f"{type(problem).__name__}: {problem}"
            self._running = threading.Thread(target=self._run, args=(kernel, shown), name="kernel", daemon=True)
            self._running.start()
        self.problems = tuple(problems)

    def busy(self) -> bool:
        """Whether a kernel runs."""
        return self._running is not None and self._running.is_alive()

    def close(self, wait_s: float = 1.0) -> None:
        """A kernel that runs is waited for so long; the process's end takes it down."""
        if self._running is not None:
            self._running.join(wait_s)

    def _state(self, nonce: str, devices: Sequence[Accelerator]) -> None:
        said = state(self._node, nonce, self._clock(), devices, self._functions(), bare_metal=self._bare_metal())
        self._answers.statement(
            self._node, said.document(), key_id_of(self._key.public_key()), sign_statement(said, self._key)
        )

    def _shown(self, uuid: str, devices: Sequence[Accelerator]) -> Mapping[str, str] | str:
        """The environment in which a process sees the device alone, or why it may not now. Adapters are asked here, in the
        agent's own thread: they take one question at a time."""
        device = next((one for one in devices if one.uuid == uuid), None)
        if device is None or device.source is Source.SIMULATED:
            return "the node holds no such device now"
        if (holder := self._holder(uuid)) is not None:
            return holder
        uses, _ = read_processes(self._adapters)
        process = next((use for use in uses if use.uuid == uuid), None)
        if process is not None:
            return f"process {process.pid} uses the device"
        adapter = next((one for one in self._adapters if one.vendor == device.vendor), None)
        return {} if adapter is None else dict(adapter.visibility([device]))

    def _run(self, kernel: KernelAsked, shown: Mapping[str, str] | str) -> None:
        try:
            found, reason = (None, shown) if isinstance(shown, str) else self._computed(kernel, shown)
            self._answers.kernel(self._node, kernel.id, found, reason)
        except Exception as problem:  # noqa: BLE001  the platform counts it as unanswered
            self.problems = (f"kernel {kernel.id}: {type(problem).__name__}: {problem}",)

    def _computed(
        self, kernel: KernelAsked, environment: Mapping[str, str]
    ) -> tuple[dict[str, Any] | None, str | None]:
        """The answer, or why there is none. What goes wrong after `begin` raises: there is then no answer at all."""
        process = self._rig(environment)
        try:
            try:
                about = process.ask("about", deadline_s=OPEN_S)
            except AdapterError as problem:
                return None, str(problem)
            if about["kind"] != "accelerator":
                return None, f"no library here reaches the device: {about['name']} found only the processor"
            if (holder := self._holder(kernel.device)) is not None:  # opening took its time
                return None, holder
            asked = self._answers.begin(self._node, kernel.id)
            return process.ask("challenge", asked["nonce"], asked["size"], asked["depth"], deadline_s=LIMIT_S), None
        finally:
            process.close()

    def _holder(self, device: str) -> str | None:
        """Which allocation holds the device, in words; None for none. What cannot be read is taken to hold it."""
        if self._assignments is None:
            return None
        found, unread = scan_assignments(self._assignments)
        if unread:
            return f"an assignment cannot be read: {next(iter(unread.values()))}"
        holds = next((assignment.allocation for assignment in found if device in assignment.devices), None)
        return None if holds is None else f"allocation {holds} holds the device"
