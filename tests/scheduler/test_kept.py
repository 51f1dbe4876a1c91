"""The state kept between questions equals the one read anew, whatever happened in between; and it reads only what changed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select

from scheduler import places, progress, store, view
from scheduler.engine import State, apply, changes_of
from scheduler.job import JobId
from scheduler.kept import Kept
from scheduler.lease import Cause
from scheduler.schema import leases
from tests.fakes import simulated_device
from tests.platform import Platform, job_text, make_platform

MODELS = ("Ascend910B3:8", "Ascend910B3:4", "H800:8", "{any_of: [H800:2, Ascend910B3:2]}")


def anew(platform: Platform) -> State:
    with platform.database.read() as tx:
        return apply(State(), changes_of(view.snapshot(tx, platform.clock.now(), platform.budget)))


def check(platform: Platform, kept: Kept, done: list[str]) -> None:
    fresh = anew(platform)
    with platform.database.read() as tx, kept.state(tx, platform.clock.now()) as found:
        for name in State.__dataclass_fields__:
            if State.__dataclass_fields__[name].compare:
                assert getattr(found, name) == getattr(fresh, name), (name, done)
        assert dict(found.used) == dict(fresh.used), done
        assert (found.columns.free == fresh.columns.free).all(), done
        assert (found.columns.usable == fresh.columns.usable).all(), done


class Day:
    """What may happen to a platform, drawn from a seed."""

    def __init__(self, platform: Platform, seed: int) -> None:
        self.platform, self.rng, self.jobs = platform, random.Random(seed), 0

    def submit(self) -> None:
        self.jobs += 1
        after = f"depends_on: [{{job: t{self.jobs - 1}}}]\n" if self.jobs > 1 and self.rng.random() < 0.3 else ""
        self.platform.submit(
            f"t{self.jobs}", job_text(name=f"t{self.jobs}", accelerators=self.rng.choice(MODELS), extra=after)
        )

    def tick(self) -> None:
        self.platform.clock.advance(self.rng.choice((0, 1, 30, 70, 4000)))
        if self.rng.random() < 0.8:
            self.platform.beat()
        self.platform.loop.tick()

    def end(self) -> None:
        with self.platform.database.read() as tx:
            held = list(tx.execute(select(leases.c.id).where(leases.c.released_at_ms.is_(None))).scalars())
        if held:
            cause = self.rng.choice((None, Cause.CANCELLED))
            self.platform.backend.end(self.rng.choice(sorted(held)), 0, **({"cause": cause} if cause else {}))

    def cancel(self) -> None:
        if self.jobs:
            with self.platform.database.write() as tx:
                name = JobId(f"job_t{self.rng.randint(1, self.jobs)}")
                store.request_cancel(tx, name, self.platform.clock.now())

    def cordon(self) -> None:
        node = self.rng.choice(("ascend-1", "h800-2"))
        with self.platform.database.write() as tx:
            places.set_schedulable(tx, node, self.rng.random() < 0.5, self.platform.clock.now())

    def quota(self) -> None:
        with self.platform.database.write() as tx:
            places.set_queue(tx, "default", self.rng.choice((None, 8, 24)))


@pytest.mark.parametrize("seed", range(8))
def test_what_is_kept_is_what_is_stored(tmp_path: Path, seed: int) -> None:
    platform = make_platform(tmp_path)
    kept, day, done = Kept(platform.budget), Day(platform, seed), list[str]()
    for _ in range(25):
        name = day.rng.choice(("submit", "submit", "tick", "tick", "end", "cancel", "cordon", "quota"))
        getattr(day, name)()
        done.append(name)
        if day.rng.random() < 0.7:
            check(platform, kept, done)
    platform.database.close()


def test_a_second_question_reads_no_device_and_no_lease_that_did_not_change(tmp_path: Path) -> None:
    platform = make_platform(tmp_path)
    kept = Kept(platform.budget)
    for number in range(2):
        platform.submit(f"t{number}", job_text(name=f"t{number}"))
    platform.loop.tick()
    platform.loop.tick()
    check(platform, kept, [])
    said: list[str] = []

    def hear(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        said.append(statement)

    event.listen(platform.database.engine, "before_cursor_execute", hear)
    with platform.database.read() as tx, kept.state(tx, platform.clock.now()):
        pass
    event.remove(platform.database.engine, "before_cursor_execute", hear)
    assert said
    assert not [one for one in said if "lease_devices" in one or "devices.uuid" in one]
    platform.database.close()


def test_a_state_of_its_own_shares_no_numbers_with_the_loop(tmp_path: Path) -> None:
    platform = make_platform(tmp_path)
    kept = Kept(platform.budget)
    from scheduler.engine import EMPTY

    with platform.database.read() as tx, kept.state(tx, platform.clock.now()) as found:
        assert found.registry is not EMPTY.registry
    platform.database.close()


def test_what_a_job_reports_is_known_without_an_event(tmp_path: Path) -> None:
    platform = make_platform(tmp_path)
    kept = Kept(platform.budget)
    job = platform.submit("t1", job_text(name="t1", extra="workload: resnet\n"))
    platform.loop.tick()
    platform.loop.tick()
    check(platform, kept, ["submit", "tick"])
    for steps in (10, 20):
        platform.clock.advance(1)
        with platform.database.write() as tx:
            assert progress.report(tx, JobId(job), steps=steps, total_steps=100, now=platform.clock.now()) is None
        check(platform, kept, ["report"])
        with platform.database.read() as tx, kept.state(tx, platform.clock.now()) as found:
            (lease,) = found.leases.values()
            assert lease.remaining_steps == 100 - steps
    platform.database.close()


def test_a_node_that_is_new_is_known_at_once(tmp_path: Path) -> None:
    platform = make_platform(tmp_path)
    kept = Kept(platform.budget)
    check(platform, kept, [])
    with platform.database.write() as tx:
        more = [simulated_device("h800-3", i, "H800", "nvidia") for i in range(8)]
        places.add_node(tx, id="h800-3", pool="h800", devices=more, now=platform.clock.now())
    check(platform, kept, ["node"])
    platform.database.close()
