"""Trial: one bench run of one device. Tests are asked one by one of a process that can be killed; time is limited."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from adapters.adapter import AdapterError
from adapters.bench.collective import Asked
from adapters.bench.log import Log
from adapters.bench.report import Measurement, document, measurement
from adapters.bench.target import Target
from adapters.bench.timing import Clock
from adapters.catalog import Catalog, Chip
from adapters.chain import timestamp

OPEN_S = 60.0  # the first import of a large library from a cold disk; never more than what is left
LEAST_S = 0.2  # with less left nothing is begun
FIRM_S, SLACK = 5.0, 3.0  # a test is killed at three times its budget, not before five seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """One measurement to ask for: a method of Rig and its arguments before the budget."""

    name: str
    precision: str | None
    method: str
    arguments: tuple[Any, ...]

    @property
    def title(self) -> str:
        return f"{self.name} {self.precision}" if self.precision else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The document, and the bytes of the log whose hash is in it. wrong: some result was; it is among the problems."""

    document: dict[str, Any]
    log: bytes
    wrong: bool


Progress = Callable[[int, int, str], None]  # done, of how many, what is being measured


def askings(about: Mapping[str, Any]) -> list[Asking]:
    """What can be measured on such a stack and device, in order; the links of an accelerator only."""
    found = [Asking(name="gemm", precision=one, method="gemm", arguments=(one,)) for one in about["precisions"]]
    found += [
        Asking(name=f"memory_{kind}", precision=None, method="memory", arguments=(kind,)) for kind in ("copy", "triad")
    ]
    if about["kind"] == "accelerator":
        found += [
            Asking(name=way, precision=None, method="transfer", arguments=(way, None))
            for way in ("host_to_device", "device_to_host")
        ]
    return found


def measure(
    ask: Callable[[str], Asked],
    target: Target,
    *,
    stack: str,
    seed: int,
    seconds: float,
    at: datetime,
    catalog: Catalog,
    clock: Clock,
    progress: Progress | None = None,
) -> Outcome:
    """The device's document after at most `seconds` (a kill takes a moment more).

    ask: makes a rig of a stack's name in a process of its own. AdapterError when not even the stack can be asked.
    A test that fails, is wrong or late is a problem and no measurement; the others go on.
    """
    until = clock() + seconds
    rig = ask(stack)
    try:
        about = rig.ask("about", deadline_s=min(OPEN_S, seconds))
        log = Log()
        device = described(target, about)
        log.add({"kind": "header", "version": 1, "at": timestamp(at), "seed": seed, "seconds": seconds})
        log.add({"kind": "about", "about": about, "device": device, "host": host()})
        problems = mismatch(device, about, catalog)
        if target.device is not None and device["uuid"] is None:
            problems.append(f"device: no stack here reaches {target.device.uuid}; the processor was measured instead")
        chip = catalog.get(device["model"]) if device["model"] else None
        made: list[Measurement] = []
        wrong = False
        wanted = askings(about)
        for number, test in enumerate(wanted):
            if progress:
                progress(number, len(wanted), test.title)
            left = until - clock()
            if left < LEAST_S:
                problems.append(f"{test.title}: no time was left of {seconds:g} s")
                continue
            budget = left / (len(wanted) - number)
            lost, bad, told = _one(rig, test, budget, min(left, max(FIRM_S, SLACK * budget)), log, chip, made)
            problems += told
            wrong = wrong or bad
            if lost:
                rig.close()
                rig = _again(ask, about["name"], until - clock(), problems)
        if progress:
            progress(len(wanted), len(wanted), "")
    finally:
        rig.close()
    return Outcome(
        document=document(
            about=about, device=device, host=host(), seed=seed, seconds=seconds, at=at, made=made, problems=problems,
            log=log.bytes(),
        ),
        log=log.bytes(),
        wrong=wrong,
    )  # fmt: skip


def _one(
    rig: Asked, test: Asking, budget_s: float, deadline_s: float, log: Log, chip: Chip | None, made: list[Measurement]
) -> tuple[bool, bool, list[str]]:
    """Whether the rig is lost, whether the result was wrong, and what to tell; a right answer is added to `made`."""
    asked = {"kind": "test", "name": test.name, "precision": test.precision, "budget_s": budget_s}
    try:
        answer = rig.ask(test.method, *test.arguments, budget_s, deadline_s=deadline_s)
    except AdapterError as problem:
        log.add({**asked, "problem": str(problem)})
        return type(problem) is not AdapterError, False, [f"{test.title}: {problem}"]
    line = log.add({**asked, "answer": answer})
    if not answer["ok"]:
        shown = "not a number" if answer["error"] is None else f"{answer['error']:.3g}"
        told = f"{test.title}: the result is wrong: error {shown}, allowed {answer['tolerance']:.3g}"
        return False, True, [told]
    made.append(measurement(test.name, test.precision, answer, chip, line))
    return False, False, []


def _again(ask: Callable[[str], Asked], stack: str, left: float, problems: list[str]) -> Asked:
    """Another process in place of a lost one. Where it cannot be opened, each of its tests says so for itself."""
    rig = ask(stack)
    if left > LEAST_S:
        try:
            rig.ask("about", deadline_s=min(OPEN_S, left))
        except AdapterError as problem:
            problems.append(f"{stack}: {problem}")
    return rig


def described(target: Target, about: Mapping[str, Any]) -> dict[str, Any]:
    """The device that was measured. A processor's figures never carry an accelerator's uuid."""
    device = target.device if about["kind"] == "accelerator" else None
    return {
        "uuid": device.uuid if device else None,
        "vendor": device.vendor if device else None,
        "model": device.model if device else None,
        "model_raw": device.model_raw if device else about["device_name"],
        "kind": about["kind"],
    }


def mismatch(device: Mapping[str, Any], about: Mapping[str, Any], catalog: Catalog) -> list[str]:
    """A problem where the stack's own name for the device is another model's than the tool's."""
    if device["uuid"] is None or device["model"] is None:
        return []  # nothing is claimed
    named = catalog.identify(device["vendor"], about["device_name"], about["memory_bytes"])
    if named in (None, device["model"]):
        return []
    return [f"device: the vendor's tool says {device['model']}, {about['name']} says {about['device_name']}"]


def host() -> dict[str, Any]:
    """The host's name, kind of processor and kernel."""
    return {"name": platform.node(), "machine": platform.machine(), "kernel": platform.release()}
