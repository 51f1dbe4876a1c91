"""Group: what several devices of one host do together, their links pairwise in a ring and one all-reduce over all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from adapters.accelerator import Accelerator
from adapters.adapter import AdapterError
from adapters.bench import collective
from adapters.bench.collective import Asked
from adapters.bench.log import Log
from adapters.bench.report import Measurement, document, measurement
from adapters.bench.timing import Clock
from adapters.bench.trial import OPEN_S, Outcome, Progress, host
from adapters.chain import timestamp


def measure_group(
    ask: Callable[[int], Asked],
    devices: Sequence[Accelerator],
    *,
    seed: int,
    seconds: float,
    at: datetime,
    clock: Clock,
    progress: Progress | None = None,
) -> Outcome:
    """The group's document: `device.uuids` instead of `uuid`; each link names its two ends.

    ask: makes a rig on the index-th of the devices, in a process that sees all of them. AdapterError when the first
    cannot be asked.
    """
    until = clock() + seconds
    log = Log()
    first = ask(0)
    try:
        about = first.ask("about", deadline_s=min(OPEN_S, seconds))
    finally:
        first.close()
    uuids = [device.uuid for device in devices]
    models = {device.model for device in devices}
    device = {
        "uuid": None,
        "uuids": uuids,
        "vendor": devices[0].vendor,
        "model": models.pop() if len(models) == 1 else None,
        "model_raw": about["device_name"],
        "kind": "group",
    }
    log.add({"kind": "header", "version": 1, "at": timestamp(at), "seed": seed, "seconds": seconds})
    log.add({"kind": "about", "about": about, "device": device, "host": host()})
    problems: list[str] = []
    made: list[Measurement] = []
    wrong: list[str] = []

    def one(name: str, ends: list[str], act: Callable[[], dict[str, Any]]) -> None:
        asked = {"kind": "test", "name": name, "precision": None, "ends": ends}
        try:
            answer = act()
        except AdapterError as problem:
            log.add({**asked, "problem": str(problem)})
            problems.append(f"{name} {' '.join(ends)}: {problem}")
            return
        line = log.add({**asked, "answer": answer})
        if answer["ok"]:
            made.append({**measurement(name, None, answer, None, line), "ends": ends})
        else:
            wrong.append(f"{name} {' '.join(ends)}: the result is wrong")

    count, total = len(devices), len(devices) + 1
    ring = [(number, (number + 1) % count) for number in range(count)]
    for done, (here, there) in enumerate(ring):
        if progress:
            progress(done, total, "device_to_device")
        share = max(0.0, until - clock()) / (total - done)
        one("device_to_device", [uuids[here], uuids[there]], lambda h=here, t=there, s=share: _link(ask, h, t, s))  # type: ignore[misc]
    if progress:
        progress(count, total, "all_reduce")
    one("all_reduce", uuids, lambda: _reduced(ask, count, about["kind"], until, clock))
    if progress:
        progress(total, total, "")
    return Outcome(
        document=document(
            about=about, device=device, host=host(), seed=seed, seconds=seconds, at=at, made=made,
            problems=[*problems, *wrong],
            log=log.bytes(),
        ),
        log=log.bytes(),
        wrong=bool(wrong),
    )  # fmt: skip


def _link(ask: Callable[[int], Asked], here: int, there: int, share: float) -> dict[str, Any]:
    rig = ask(here)
    try:
        answer: dict[str, Any] = rig.ask("transfer", "device_to_device", there, share * 0.5, deadline_s=max(share, 0.1))
    finally:
        rig.close()
    return answer


def _reduced(ask: Callable[[int], Asked], count: int, kind: str, until: float, clock: Clock) -> dict[str, Any]:
    return collective.measure([ask(rank) for rank in range(count)], kind, until, clock)
