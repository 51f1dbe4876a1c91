"""The soak's client: submits and cancels jobs at random, each with an Idempotency-Key, and writes down what it was told.

An answer below 500 is sure; a 5xx, a broken connection or no answer in TIMEOUT_S leaves it unknown whether the deed was done.
Unknowns are sent again with the same key, at a replica chosen at random; some clients give up, so that unknowns remain.
"""

from __future__ import annotations

import heapq
import json
import random
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.soak_history import Op, Try

TIMEOUT_S = 8.0
PAUSE_S = 0.5
GIVES_UP_PERMILLE = 250  # of those whose answer is unknown, after a few tries
MEMBER = Path(__file__).with_name("soak_member.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What jobs of a backend look like. models: accelerators to ask for; counts: devices of one member; nodes: of a gang.

    gap_s: between two submits of one client, on average. longest_s: a job that is not stopped.
    """

    models: Sequence[str]
    counts: Sequence[int]
    nodes: Sequence[int]
    gap_s: float
    longest_s: float = 6.0
    voucher: str = "auto"


# kind, weight, states it may end in, exit code
KINDS: Sequence[tuple[str, int, tuple[str, ...], int | None]] = (
    ("short", 34, ("SUCCEEDED",), 0),
    ("gang", 16, ("SUCCEEDED",), 0),
    ("failing", 10, ("FAILED",), 3),
    ("gangfailing", 6, ("FAILED",), 3),
    ("endless", 10, ("CANCELLED",), None),
    ("checked", 14, ("SUCCEEDED",), 0),
    ("late", 5, ("TIMEOUT",), None),
    ("bad", 5, (), None),
)


def job_of(kind: str, name: str, world: World, folder: Path, chance: random.Random) -> str:
    """The job file of a job of that kind; `bad` is one that must be refused."""
    seconds, code, who, extra, limit = round(chance.uniform(0.5, world.longest_s), 1), 0, "all", "", "1h"
    nodes = chance.choice(world.nodes) if kind.startswith("gang") else 1
    model = "NoSuchChip" if kind == "bad" else chance.choice(world.models)
    if kind in ("failing", "gangfailing"):
        code, who = 3, "last"
    if kind in ("endless", "late"):
        seconds = 3000.0
    if kind == "late":
        limit = f"{chance.randint(3, 6)}s"
    words = [sys.executable, "-I", "-S", str(MEMBER), str(folder), str(seconds), str(code), who]
    if kind == "checked":
        words.append("resume")
        extra = "checkpoint: {path: saved, interval: 1s, signal: SIGTERM, grace: 2s}\n"
    if kind in ("checked", "gang"):
        extra += "retry: {on_events: [node_fail, preempted], limit: 5}\n"
    return (
        f"name: {name}\nnodes: {nodes}\ntime_limit: {limit}\n"
        f"resources: {{accelerators: '{model}:{chance.choice(world.counts)}'}}\n"
        f"entrypoint: {json.dumps('exec ' + ' '.join(words))}\nmoney: {{voucher: {world.voucher}}}\n{extra}"
    )


class Client:
    """One client in a thread of its own. ops: everything it asked for, with every answer."""

    def __init__(
        self, number: int, seed: int, world: World, folder: Path, servers: Sequence[str], key: str, log: Path
    ) -> None:
        self.number, self.world, self.folder = number, world, folder
        self.servers, self.key, self.log = servers, key, log
        self.chance = random.Random(f"{seed}-client-{number}")
        self.ops: list[Op] = []
        self.lost_reads: list[str] = []
        self._due: list[tuple[float, str]] = []
        self._count = 0
        self._http = httpx.Client(timeout=TIMEOUT_S, trust_env=False)

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set; then every open question is asked to its end, but for those it gives up."""
        while not stop.is_set():
            self._submit()
            self._cancel_due()
            stop.wait(self.chance.expovariate(1 / self.world.gap_s))
        self._due = [(0.0, job) for _, job in self._due]
        self._cancel_due()
        self._http.close()

    def cancel(self, job: str) -> Op:
        """The job is asked to end, until somebody answers."""
        op = Op(key=f"cancel-{self.number}-{len(self.ops)}", kind="cancel", job=job)
        self._ask(op, f"/v1/jobs/{job}/cancel", "{}", "application/json", gives_up=False)
        return op

    def _submit(self) -> None:
        kinds = [one[0] for one in KINDS]
        kind = self.chance.choices(kinds, [one[1] for one in KINDS])[0]
        _, _, expected, code = KINDS[kinds.index(kind)]
        self._count += 1
        name = f"{kind}-{self.number}-{self._count}"
        text = job_of(kind, name, self.world, self.folder, self.chance)
        op = Op(key=f"submit-{name}", kind="submit", name=name, expected=expected, exit_code=code)
        self._ask(op, "/v1/jobs", text, "application/yaml", gives_up=self.chance.randrange(1000) < GIVES_UP_PERMILLE)
        told = [one.id for one in op.tries if one.id]
        if told:
            self._read(told[0])
            if kind == "endless" or self.chance.random() < 0.08:
                after = self.chance.uniform(0.0, 3 * self.world.longest_s)
                heapq.heappush(self._due, (time.monotonic() + after, told[0]))

    def _cancel_due(self) -> None:
        while self._due and self._due[0][0] <= time.monotonic():
            self.cancel(heapq.heappop(self._due)[1])

    def _read(self, job: str) -> None:
        """What was acknowledged is seen at once, at any replica that answers."""
        try:
            answer = self._http.get(
                f"{self.chance.choice(self.servers)}/v1/jobs/{job}", headers={"Authorization": f"Bearer {self.key}"}
            )
        except httpx.HTTPError:
            return
        if 400 <= answer.status_code < 500:
            self.lost_reads.append(f"{job}: {answer.status_code} right after it was acknowledged")

    def _ask(self, op: Op, path: str, body: str, kind: str, *, gives_up: bool) -> None:
        self.ops.append(op)
        headers = {"Authorization": f"Bearer {self.key}", "Idempotency-Key": op.key, "Content-Type": kind}
        patience = self.chance.randint(1, 3) if gives_up else 10_000
        for _ in range(patience):
            said = self._try(self.chance.choice(self.servers) + path, body, headers)
            op.tries.append(said)
            with self.log.open("a", encoding="utf-8") as out:
                at = time.time_ns() // 1_000_000
                out.write(
                    json.dumps({"at_ms": at, "key": op.key, "name": op.name, "job": op.job, **asdict(said)}) + "\n"
                )
            if said.outcome != "unknown":
                return
            time.sleep(self.chance.uniform(0.1, 2 * PAUSE_S))

    def _try(self, url: str, body: str, headers: dict[str, str]) -> Try:
        try:
            answer = self._http.post(url, content=body.encode(), headers=headers)
        except httpx.HTTPError as problem:
            return Try(outcome="unknown", said=type(problem).__name__)
        if answer.status_code >= 500:
            return Try(outcome="unknown", status=answer.status_code, said=answer.text[:200])
        said: Any = answer.json()
        if answer.status_code >= 400:
            return Try(outcome="failed", status=answer.status_code, said=str(said.get("code")))
        return Try(outcome="ok", status=answer.status_code, id=str(said["id"]))
