"""Arrays, holds, deadlines, reports and moves in the SQL of both databases: the same day has the same outcome."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from scheduler import progress, relocations, store, view
from scheduler.job import JobId
from scheduler.lease import Cause, LeaseId, Member
from scheduler.node import NodeId
from scheduler.plan import Migration
from scheduler.schema import jobs, throughputs
from tests.platform import FIRM, job_text, make_platform

EXTRA = "workload: sft\ncheckpoint: {path: ck, signal: SIGUSR1}\n"


def test_a_day_with_everything(tmp_path: Path, database_url: str) -> None:
    platform = make_platform(tmp_path, url=database_url)
    platform.loop.dispatch.moves_per_hour = 1
    now = platform.clock.now()
    array = platform.submit("array", job_text("array", "H800:2", extra="array: 0-2%1\n"))
    held = platform.submit("held", job_text("held", "H800:2"))
    late = platform.submit(
        "late", job_text("late", "MLU590:8", extra=f"deadline: {(now + timedelta(minutes=5)).isoformat()}\n")
    )
    after = platform.submit("after", job_text("after", "H800:2", extra="depends_on: [{job: array, when: ended}]\n"))
    moves = platform.submit("moves", job_text("moves", "Ascend910B3:4", extra=EXTRA))
    with platform.database.write() as tx:
        assert store.hold_back(tx, JobId(held), "operator", now) is None
    for _ in range(2):
        platform.loop.tick()

    with platform.database.read() as tx:
        waits = {job.id: job.gate.code for job in view.snapshot(tx, now, platform.budget).jobs if job.gate}
    assert waits == {f"{array}-1": "ARRAY_LIMIT", f"{array}-2": "ARRAY_LIMIT", held: "HELD", after: "DEPENDENCY"}

    for steps in (0, 600):
        with platform.database.write() as tx:
            done = progress.report(
                tx, JobId(moves), steps=steps, total_steps=1000, checkpointed_steps=steps, now=platform.clock.now()
            )
        assert done is None
        platform.clock.advance(600)
    assert [(row["firm"], row["steps_per_ks"]) for row in platform.rows(throughputs)] == [(FIRM, 1000)]

    target = Member(rank=0, node=NodeId("ascend-2"), devices=tuple(f"sim:ascend-2:{i}" for i in range(4)))
    platform.beat()
    platform.loop.dispatch._migrate(LeaseId(f"{moves}.1"), [Migration(lease=LeaseId(f"{moves}.1"), rank=0, to=target)])
    with platform.database.read() as tx:
        assert relocations.moved_lately(tx, platform.clock.now()) == 1
        assert view.snapshot(tx, platform.clock.now(), platform.budget, moves_per_hour=5).migrations == 0
    platform.backend.end(f"{moves}.1", 0, cause=Cause.CANCELLED)
    platform.loop.tick()
    with platform.database.read() as tx:
        assert view.members_of(tx, f"{moves}.2") == (target,)
        (again,) = [lease for lease in view.snapshot(tx, now, platform.budget).leases if lease.job == moves]
    assert (again.remaining_steps, again.workload) == (400, f"{FIRM}/sft")

    assert platform.state(late) == "DEADLINE"
    for element in range(3):
        platform.backend.end(f"{array}-{element}.1", 0)
        platform.loop.tick()
    with platform.database.write() as tx:
        assert store.let_go(tx, JobId(held), "operator", platform.clock.now()) is None
    platform.loop.tick()
    assert {row["id"]: row["state"] for row in platform.rows(jobs) if row["array_id"]} == {
        f"{array}-{i}": "SUCCEEDED" for i in range(3)
    }
    assert platform.state(held) == "STARTING"
    assert platform.state(after) in ("STARTING", "RUNNING")
    platform.database.close()
