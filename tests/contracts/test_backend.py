"""The backend port's promises, kept by every registered backend."""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from adapters.catalog import load_catalog
from scheduler.job import FirmId, JobId, JobSpec, Request
from scheduler.lease import Cause, Lease, LeaseId, Member, MemberPhase, Observation, Placement, billed_interval
from scheduler.node import NodeId, PoolId
from scheduler.ports import Backend
from scheduler.registry import BACKENDS, load_backend_class, registered

if TYPE_CHECKING:
    from tests.ray.cluster import Cluster

pytestmark = pytest.mark.contract
ABSENT, RUNNING, EXITED = MemberPhase.ABSENT, MemberPhase.RUNNING, MemberPhase.EXITED


@dataclass(frozen=True, slots=True, kw_only=True)
class Harness:
    """How the suite drives one backend. restarted: another object over the same world, None where it keeps nothing.

    pass_time: lets the world go on a little. real: members are processes with exit codes and logs. close: lets go of it all.
    """

    backend: Backend
    restarted: Callable[[], Backend] | None
    pass_time: Callable[[], None]
    real: bool
    close: Callable[[], None] = lambda: None


def local_harness(folder: Path) -> Harness:
    make = load_backend_class("local")

    def fresh() -> Backend:
        made: Backend = make(folder / "local", private=(folder,))
        return made

    return Harness(backend=fresh(), restarted=fresh, pass_time=lambda: time.sleep(0.02), real=True)


def simulated_harness(_: Path) -> Harness:
    now = [0]

    def advance() -> None:
        now[0] += 500

    made = load_backend_class("simulated")(lambda: now[0], {"job_quick": 1000, "job_bad": 1000})
    return Harness(backend=made, restarted=None, pass_time=advance, real=False)


def kubernetes_harness(_: Path) -> Harness:
    """Real processes behind a real API server; skips where the control plane is not built."""
    contract = pytest.importorskip("tests.kubernetes.harness", reason="only the contracts are here").contract
    fresh, close = contract()
    return Harness(backend=fresh(), restarted=fresh, pass_time=lambda: time.sleep(0.02), real=True, close=close)


def ray_harness(folder: Path, cluster: Cluster) -> Harness:
    make = load_backend_class("ray")
    cluster.clear()

    def fresh() -> Backend:
        model = next(iter(load_catalog())).model
        options = {"models": {"NPU": model}, "python": sys.executable, "work": str(folder / "work")}
        owner = f"test-{zlib.crc32(bytes(folder)):x}"  # Ray takes a submission id once
        made: Backend = make("zone", cluster.address, folder / "ray", owner=owner, **options)
        return made

    return Harness(backend=fresh(), restarted=fresh, pass_time=lambda: time.sleep(0.1), real=True)


HARNESSES: dict[str, Callable[..., Harness]] = {
    "local": local_harness,
    "ray": ray_harness,
    "simulated": simulated_harness,
}
WORLDS = {"ray": "ray_cluster"}  # fixtures that a harness needs beside a directory
HARNESSES["kubernetes"] = kubernetes_harness


@pytest.fixture(params=sorted(registered(BACKENDS)))
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    """A registered backend without a harness fails here: say in HARNESSES how the suite drives it."""
    try:
        worlds = [request.getfixturevalue(name) for name in [WORLDS.get(request.param)] if name]
    except pytest.FixtureLookupError:
        pytest.skip(f"only the contracts are here, without {WORLDS[request.param]}")
    made = HARNESSES[request.param](tmp_path, *worlds)
    yield made
    for lease in ("job_quick.1", "job_long.1", "job_bad.1"):
        made.backend.stop(LeaseId(lease), grace_ms=0, signal=None)
    until(made, "job_long.1", lambda seen: seen.all_ended or seen.members[0].phase is ABSENT)
    made.close()


def lease_of(job: str, run: str, ranks: int = 1) -> Lease:
    model = next(iter(load_catalog())).model
    members = tuple(Member(rank=r, node=NodeId("n1"), devices=(f"d{r}",)) for r in range(ranks))
    return Lease(
        id=LeaseId(f"{job}.1"),
        job=JobId(job),
        firm=FirmId("firm"),
        spec=JobSpec(name=job, request=Request(alternatives=()), time_limit_ms=60_000, nodes=ranks, entrypoint=run),
        placement=Placement(pool=PoolId("p1"), model=model, members=members),
        backend="local",
        price_fen_per_device_hour=0,
        reserved_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


QUICK = lease_of("job_quick", "echo once")
LONG = lease_of("job_long", "sleep 600", ranks=2)
BAD = lease_of("job_bad", "exit 7")


def look(backend: Backend, lease: str) -> Observation:
    """What a backend sees, but for when it looked."""
    (seen,) = backend.observe([LeaseId(lease)])
    return replace(seen, now_ms=None)


def until(harness: Harness, lease: str, holds: Callable[[Observation], bool]) -> Observation:
    for _ in range(500):
        seen = look(harness.backend, lease)
        if holds(seen):
            return seen
        harness.pass_time()
    raise AssertionError(f"still {seen}")


def running(seen: Observation) -> bool:
    return all(member.phase is RUNNING for member in seen.members)


def test_it_bears_the_name_it_is_registered_under(harness: Harness, request: pytest.FixtureRequest) -> None:
    assert harness.backend.name == request.node.callspec.params["harness"]


def test_a_lease_it_has_never_seen_has_absent_members(harness: Harness) -> None:
    (seen,) = harness.backend.observe([LeaseId("job_nobody.1")])

    assert [m.phase for m in seen.members] == [ABSENT]
    assert not seen.all_ended


def test_it_answers_for_exactly_the_given_leases_in_order(harness: Harness) -> None:
    harness.backend.launch(LONG)

    assert list(harness.backend.observe([])) == []
    assert ["job_x.1", LONG.id] == [seen.lease for seen in harness.backend.observe([LeaseId("job_x.1"), LONG.id])]


def test_a_launched_member_runs_and_ends_with_a_billable_interval(harness: Harness) -> None:
    assert harness.backend.launch(QUICK) is None
    seen = until(harness, QUICK.id, lambda seen: seen.all_ended)

    billed = billed_interval(seen)
    assert [m.exit_code for m in seen.members] == [0]
    assert seen.members[0].cause is None
    assert billed is not None
    assert billed.start.utcoffset() is not None
    assert billed.duration_ms >= 0


def test_launching_twice_is_launching_once(harness: Harness) -> None:
    harness.backend.launch(QUICK)
    harness.backend.launch(QUICK)
    first = until(harness, QUICK.id, lambda seen: seen.all_ended)
    harness.backend.launch(QUICK)
    harness.pass_time()

    assert first == look(harness.backend, QUICK.id)
    if harness.real:
        assert harness.backend.logs(QUICK.id, 0, offset=0, limit=100) == b"once\n"


def test_every_rank_of_a_gang_is_answered_for_in_order(harness: Harness) -> None:
    harness.backend.launch(LONG)
    seen = until(harness, LONG.id, running)

    assert [m.rank for m in seen.members] == [0, 1]
    assert seen.all_running_or_done


def test_stopping_ends_every_member_and_stopping_again_changes_nothing(harness: Harness) -> None:
    harness.backend.launch(LONG)
    until(harness, LONG.id, running)
    harness.backend.stop(LONG.id, grace_ms=2000, signal="SIGTERM")
    harness.backend.stop(LONG.id, grace_ms=2000, signal="SIGTERM")
    ended = until(harness, LONG.id, lambda seen: seen.all_ended)
    harness.backend.stop(LONG.id, grace_ms=0, signal=None)

    assert [m.cause for m in ended.members] == [Cause.CANCELLED, Cause.CANCELLED]
    assert ended == look(harness.backend, LONG.id)


def test_stopping_what_was_never_launched_or_has_ended_is_allowed(harness: Harness) -> None:
    harness.backend.stop(LeaseId("job_never.1"), grace_ms=0, signal=None)
    harness.backend.launch(QUICK)
    ended = until(harness, QUICK.id, lambda seen: seen.all_ended)
    harness.backend.stop(QUICK.id, grace_ms=0, signal=None)

    assert ended == look(harness.backend, QUICK.id)
    assert ended.members[0].cause is None


def test_forgetting_an_ended_lease_keeps_its_end_and_may_be_repeated(harness: Harness) -> None:
    harness.backend.launch(QUICK)
    ended = until(harness, QUICK.id, lambda seen: seen.all_ended)
    harness.backend.forget(QUICK.id)
    harness.backend.forget(QUICK.id)

    assert ended == look(harness.backend, QUICK.id)


def test_logs_of_the_unknown_are_empty(harness: Harness) -> None:
    assert harness.backend.logs(LeaseId("job_nobody.1"), 0, offset=0, limit=10) == b""


def test_a_bad_exit_code_is_reported_as_it_was(harness: Harness) -> None:
    if not harness.real:
        pytest.skip("nothing runs there, so nothing fails by itself")
    harness.backend.launch(BAD)
    seen = until(harness, BAD.id, lambda seen: seen.all_ended)

    assert [(m.phase, m.exit_code, m.cause) for m in seen.members] == [(EXITED, 7, None)]


def test_logs_are_the_bytes_from_an_offset_up_to_a_limit(harness: Harness) -> None:
    if not harness.real:
        pytest.skip("nothing runs there, so nothing is written")
    harness.backend.launch(QUICK)
    until(harness, QUICK.id, lambda seen: seen.all_ended)

    assert harness.backend.logs(QUICK.id, 0, offset=1, limit=2) == b"nc"
    assert harness.backend.logs(QUICK.id, 0, offset=100, limit=2) == b""


def test_another_object_over_the_same_world_finds_the_lease(harness: Harness) -> None:
    if harness.restarted is None:
        pytest.skip("its world lives in the object alone")
    harness.backend.launch(LONG)
    seen = until(harness, LONG.id, running)
    another = harness.restarted()

    assert seen == look(another, LONG.id)
    assert another.launch(LONG) is None
    assert seen == look(another, LONG.id)
