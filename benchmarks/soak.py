"""Soak: jobs arrive while processes, the database and the engine are killed at random; afterwards every law must hold.

Exit 0 if all do. The seed, printed first, gives the same jobs and the same deeds of the nemesis again; what they meet differs. See
docs/soak.md.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.soak_client import Client
from benchmarks.soak_engines import ENGINES
from benchmarks.soak_history import TERMINAL, History, Op, Violation, check, member_runs
from benchmarks.soak_nemesis import plan
from benchmarks.soak_zone import Zone
from metering.schema import holds
from scheduler.schema import jobs, lease_devices, leases, usage_records

CLIENTS = 2
REVIVE_S = 1.0
SETTLE_S = 240.0  # how long jobs may take to end when everything is healed
CLEAN_S = 90.0  # and what runs them to be gone after that


def soak(backend: str, minutes: float, seed: int, folder: Path) -> dict[str, Any]:
    """What happened and which laws were broken."""
    with Zone(folder, backend) as zone:
        stop = threading.Event()
        clients = [
            Client(number, seed, zone.engine.world, zone.members, zone.servers, zone.key, folder / "client.jsonl")
            for number in range(CLIENTS)
        ]
        threads = [threading.Thread(target=client.run, args=(stop,), daemon=True) for client in clients]
        for thread in threads:
            thread.start()
        deeds = rage(zone, backend, minutes * 60, seed, folder / "nemesis.jsonl")
        stop.set()
        zone.heal()
        for thread in threads:
            thread.join(SETTLE_S)
        last = Client(CLIENTS, seed, zone.engine.world, zone.members, zone.servers, zone.key, folder / "client.jsonl")
        settle(zone, last)
        left = until_clean(zone)
        for name in zone.names:
            zone.end(name)
        left += [one for one in zone.processes_left() if one not in left]
        ops = [op for client in [*clients, last] for op in client.ops]
        history = read(zone, ops, left)
        found = check(history)
        found += [
            Violation(law="what_was_acknowledged_is_read", facts={"said": one}) for c in clients for one in c.lost_reads
        ]
        return {
            "backend": backend,
            "seed": seed,
            "minutes": minutes,
            "holds": not found,
            "violations": [asdict(one) for one in found],
            "deeds": dict(sorted(deeds.items())),
            "submits": dict(sorted(Counter(op.outcome for op in ops if op.kind == "submit").items())),
            "cancels": dict(sorted(Counter(op.outcome for op in ops if op.kind == "cancel").items())),
            "unknown_answers": sum(one.outcome == "unknown" for op in ops for one in op.tries),
            "jobs": dict(sorted(Counter(row["state"] for row in history.jobs).items())),
            "leases": dict(sorted(Counter(str(row["cause"]) for row in history.leases).items())),
            "usage_records": len(history.usage),
            "holds_made": len(history.holds),
            "members": len(history.members),
            "log_events": events_of(folder / "logs"),
        }


def rage(zone: Zone, backend: str, seconds: float, seed: int, log: Path) -> Counter[str]:
    """The nemesis's plan is carried out; what was done, counted. What is still broken then stays so for Zone.heal."""
    began, looked = time.monotonic(), 0.0
    todo = list(plan(seed, backend, seconds))
    heals: list[tuple[float, str, Any]] = []
    done: Counter[str] = Counter()
    with log.open("a", encoding="utf-8") as out:

        def note(what: str, hit: str) -> None:
            out.write(json.dumps({"at_ms": time.time_ns() // 1_000_000, "what": what, "hit": hit}) + "\n")
            out.flush()

        while (now := time.monotonic() - began) < seconds:
            due = sorted((one for one in heals if one[0] <= now), key=lambda one: one[0])
            for one in due:
                heals.remove(one)
                note("heal", one[1])
                one[2]()
            if todo and todo[0].at_s <= now:
                deed = todo.pop(0)
                hit = zone.break_(deed.what, deed.dice)
                note(deed.what, "nothing" if hit is None else hit[0])
                if hit is not None:
                    done[deed.what] += 1
                    heals.append((time.monotonic() - began + deed.for_s, f"{deed.what} {hit[0]}".strip(), hit[1]))
            if now - looked > REVIVE_S:
                looked = now
                zone.revive()
            time.sleep(0.05)
    return done


def settle(zone: Zone, client: Client) -> None:
    """Every job has ended, or SETTLE_S is over; endless ones whose cancel nobody answered for are cancelled now."""
    until = time.monotonic() + SETTLE_S
    asked: set[str] = set()
    while time.monotonic() < until:
        open_ = [row for row in zone.rows(jobs) if row["state"] not in TERMINAL]
        if not open_:
            return
        for row in open_:
            if row["name"].startswith("endless") and row["id"] not in asked and row["cancel_requested_at_ms"] is None:
                asked.add(row["id"])
                client.cancel(row["id"])
        zone.revive()
        time.sleep(0.5)


def until_clean(zone: Zone) -> list[str]:
    """What is still there of the leases when CLEAN_S is over; [] as soon as nothing is."""
    until = time.monotonic() + CLEAN_S
    while (found := [*zone.engine.left(), *zone.processes_left()]) and time.monotonic() < until:
        time.sleep(1)
    return found


def read(zone: Zone, ops: Sequence[Op], left: Sequence[str]) -> History:
    """The history of a zone that is still."""
    return History(
        ops=ops,
        jobs=zone.rows(jobs),
        leases=zone.rows(leases),
        lease_devices=zone.rows(lease_devices),
        usage=zone.rows(usage_records),
        holds=zone.rows(holds),
        members=member_runs(zone.lines()),
        audit=zone.audit(),
        left=left,
        ended_badly=zone.ended_badly,
        members_may_die=zone.engine.members_may_die,
    )


def events_of(logs: Path) -> dict[str, int]:
    """How often the processes logged each event of level warning or above; for the reader, not for a verdict."""
    found: Counter[str] = Counter()
    for path in logs.glob("*.log"):
        for line in re.sub(r"\x1b\[[0-9;]*m", "", path.read_text(errors="replace")).splitlines():
            match = re.search(r"\[(warning|error|critical)\s*\]\s+(\S+)", line)
            if match:
                found[f"{match[1]} {match[2]}"] += 1
    return dict(found.most_common(20))


def main(argv: Sequence[str] | None = None) -> int:
    """0 if every law holds, else 1; 2 for bad arguments."""
    parser = argparse.ArgumentParser(prog="benchmarks soak", description=__doc__)
    parser.add_argument("--backend", choices=list(ENGINES), default="local")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, help="default: a random one")
    parser.add_argument("--keep", action="store_true", help="keep the folder of records and logs, and print it")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    given = parser.parse_args(argv)
    seed = secrets.randbelow(1 << 31) if given.seed is None else given.seed
    sys.stderr.write(f"seed {seed}\n")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left behind
    folder = Path(tempfile.mkdtemp(prefix="yisuan-soak-"))
    kept = True
    try:
        found = soak(given.backend, given.minutes, seed, folder)
        kept = given.keep or not found["holds"]
    finally:
        if kept:
            sys.stderr.write(f"records and logs: {folder}\n")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if given.output == "json":
        sys.stdout.write(json.dumps(found, indent=2, default=str) + "\n")
    else:
        sys.stdout.write(told(found))
    return 0 if found["holds"] else 1


def told(found: dict[str, Any]) -> str:
    """The document as lines of text."""
    lines = [f"{key:16} {value}" for key, value in found.items() if key != "violations"]
    lines += [f"BROKEN {one['law']}: {json.dumps(one['facts'], default=str)}" for one in found["violations"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
