"""Golden scenarios: a short script in, readable text out. A change of behaviour is reviewed as a text diff.

Commands: submit NAME ACCELERATORS [nodes=N] [limit=2h] [priority=high] [voucher=none] [array=0-3%2] [after=NAME:succeeded]
[retry=node_fail:2] [deadline=3h] · tick [60s] · end NAME CODE... · lose NAME RANK · stopped NAME CODE... · cancel NAME ·
hold NAME · release NAME · jobs · why NAME · statement NAME · rooms · books. `YISUAN_GOLDENS=write` rewrites the outputs.
The planner's own rules are in `scenarios/zone`.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from metering import store as money
from metering.statement import job_statement
from scheduler import store
from scheduler.job import JobId
from scheduler.lease import Cause
from scheduler.schema import jobs
from tests.platform import FIRM, Platform, make_platform
from tests.zone_script import play

SCRIPTS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))
ZONES = sorted((Path(__file__).parent / "scenarios" / "zone").glob("*.txt"))
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scenario_prints_what_it_printed(script: Path, tmp_path: Path) -> None:
    """The script's output equals its .out file."""
    platform = make_platform(tmp_path)
    text = "\n".join(run(platform, script.read_text(encoding="utf-8"))) + "\n"
    platform.database.close()
    assert _golden(script, text) == text


@pytest.mark.parametrize("script", ZONES, ids=lambda path: path.stem)
def test_zone_script_prints_what_it_printed(script: Path) -> None:
    """The planner alone, without store or loop; the commands are those of tests/zone_script.py."""
    text = "\n".join(play(script.read_text(encoding="utf-8"))) + "\n"
    assert _golden(script, text) == text


def _golden(script: Path, text: str) -> str:
    golden = script.with_suffix(".out")
    if os.environ.get("YISUAN_GOLDENS") == "write":
        golden.write_text(text, encoding="utf-8")
    return golden.read_text(encoding="utf-8")


def run(platform: Platform, script: str) -> Iterator[str]:
    """Every command of the script and what it printed."""
    for line in script.splitlines():
        if not line.strip() or line.startswith("#"):
            yield line
            continue
        yield f"> {line}"
        words = shlex.split(line)
        yield from COMMANDS[words[0]](platform, *words[1:])


def submit(platform: Platform, name: str, accelerators: str, *options: str) -> Iterator[str]:
    given = dict(option.split("=", 1) for option in options)
    text = f"name: {name}\nnodes: {given.get('nodes', '1')}\ntime_limit: {given.get('limit', '2h')}\n"
    text += f"priority: {given.get('priority', 'normal')}\nresources: {{accelerators: {accelerators}}}\nentrypoint: 'true'\n"
    text += f"money: {{voucher: {given['voucher']}}}\n" if "voucher" in given else ""
    if "array" in given:
        text += f"array: {given['array']}\n"
    if "after" in given:
        job, when = given["after"].split(":")
        text += f"depends_on: [{{job: {job}, when: {when}}}]\n"
    if "retry" in given:
        event, limit = given["retry"].split(":")
        text += f"retry: {{on_events: [{event}], limit: {limit}}}\n"
    if "deadline" in given:
        at = platform.clock.now() + timedelta(seconds=int(given["deadline"][:-1]) * UNITS[given["deadline"][-1]])
        text += f"deadline: {at.isoformat()}\n"
    platform.submit(name, text)
    yield "  submitted"


def tick(platform: Platform, span: str = "0s") -> Iterator[str]:
    platform.clock.advance(int(span[:-1]) * UNITS[span[-1]])
    platform.beat()
    before = {row["id"]: row["state"] for row in platform.rows(jobs)}
    platform.loop.tick()
    for row in platform.rows(jobs):
        if row["state"] != before.get(row["id"]):
            yield f"  {row['id'].removeprefix('job_')}: {before[row['id']]} -> {row['state']}"


def end(platform: Platform, name: str, *codes: str) -> Iterator[str]:
    platform.backend.end(lease_of(platform, name), *(int(code) for code in codes))
    yield from ()


def lose(platform: Platform, name: str, rank: str) -> Iterator[str]:
    platform.backend.lose(lease_of(platform, name), int(rank))
    yield from ()


def cancel(platform: Platform, name: str) -> Iterator[str]:
    with platform.database.write() as tx:
        refusal = store.request_cancel(tx, JobId(f"job_{name}"), platform.clock.now())
    yield f"  {refusal.code if refusal else 'requested'}"


def stopped(platform: Platform, name: str, *codes: str) -> Iterator[str]:
    platform.backend.end(lease_of(platform, name), *(int(code) for code in codes), cause=Cause.CANCELLED)
    yield from ()


def hold(platform: Platform, name: str) -> Iterator[str]:
    with platform.database.write() as tx:
        refusal = store.hold_back(tx, JobId(f"job_{name}"), "operator", platform.clock.now())
    yield f"  {refusal.code if refusal else 'held'}"


def release(platform: Platform, name: str) -> Iterator[str]:
    with platform.database.write() as tx:
        refusal = store.let_go(tx, JobId(f"job_{name}"), "operator", platform.clock.now())
    yield f"  {refusal.code if refusal else 'released'}"


def lease_of(platform: Platform, name: str) -> str:
    """The lease of the job's last attempt."""
    (row,) = [row for row in platform.rows(jobs) if row["id"] == f"job_{name}"]
    return f"job_{name}.{row['attempt']}"


def show(platform: Platform) -> Iterator[str]:
    for row in platform.rows(jobs):
        yield f"  {row['id'].removeprefix('job_'):10} {row['state']}"


def why(platform: Platform, name: str) -> Iterator[str]:
    import json

    (row,) = [row for row in platform.rows(jobs) if row["id"] == f"job_{name}"]
    pending = json.loads(row["pending"]) if row["pending"] else None
    if pending is None:
        yield "  does not wait"
        return
    yield f"  {pending['code']} ({pending['kind']}) in {pending['scope']}"
    yield f"  needed {pending.get('needed')} available {pending.get('available')} position {pending.get('position')}"
    for count in pending.get("n_of_m", []):
        yield f"  {count['n']} of {count['m']} nodes: {count['code']}"
    yield f"  earliest start {pending.get('earliest_start')}"
    for remedy in pending.get("remedies", []):
        yield f"  remedy {remedy['code']} {json.dumps(remedy['facts'], sort_keys=True)}"


def statement(platform: Platform, name: str) -> Iterator[str]:
    with platform.database.read() as tx:
        found = job_statement(tx, f"job_{name}")
    if found is None:
        yield "  nothing settled"
        return
    for line in found["lines"]:
        yield (
            f"  {line['model']} {line['origin']} {line['device_ms']} device-ms fee {line['fee_fen']} rate {line['rate_bp']} "
            f"deduction {line['deduction_fen']} payable {line['payable_fen']} {','.join(line['reasons'])}".rstrip()
        )
    for usage in found["unbilled"]:
        yield f"  unbilled {usage['kind']} {usage['cause']} {usage['device_ms']} device-ms"
    yield f"  total fee {found['totals']['fee_fen']} deduction {found['totals']['deduction_fen']} payable {found['totals']['payable_fen']}"


def rooms(platform: Platform) -> Iterator[str]:
    with platform.database.read() as tx:
        left = money.rooms(tx, FIRM)
    for kind, years in left.items():
        yield f"  {kind} 2026: {years.get(2026)}"


def books(platform: Platform) -> Iterator[str]:
    with platform.database.read() as tx:
        balance = money.trial_balance(tx)
    for ledger, total in balance["totals"].items():
        yield f"  {ledger} posted {total['debits_posted']} = {total['credits_posted']} pending {total['debits_pending']}"
    yield f"  balanced {balance['balanced']}"


COMMANDS: dict[str, Callable[..., Iterator[str]]] = {
    "submit": submit,
    "tick": tick,
    "end": end,
    "lose": lose,
    "cancel": cancel,
    "stopped": stopped,
    "hold": hold,
    "release": release,
    "jobs": show,
    "why": why,
    "statement": statement,
    "rooms": rooms,
    "books": books,
}
