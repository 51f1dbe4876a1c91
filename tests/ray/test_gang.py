"""Gangs over two nodes, and what becomes of leases when a raylet, a driver or the head dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from scheduler.lease import Cause, MemberPhase, billed_interval
from tests.ray.cluster import Cluster
from tests.ray.leases import backend_of, gone, lease_of, over, processes, running, until, until_not

EXITED, LOST, RUNNING = MemberPhase.EXITED, MemberPhase.LOST, MemberPhase.RUNNING


@pytest.fixture
def two_nodes(ray_cluster: Cluster) -> Iterator[Cluster]:
    """The shared head and a second raylet, gone afterwards."""
    ray_cluster.add("n2")
    yield ray_cluster
    if "n2" in ray_cluster.raylets:
        ray_cluster.kill("n2")
    until_not(lambda: "n2" in ray_cluster.nodes())


def test_a_gang_runs_on_the_nodes_it_was_placed_on(two_nodes: Cluster, tmp_path: Path) -> None:
    backend = backend_of(two_nodes, tmp_path)
    gang = lease_of("gang", "echo $RANK of $WORLD_SIZE at $MASTER_ADDR:$MASTER_PORT; sleep 1", nodes=("n2", "n1"))
    backend.launch(gang)
    seen = until(backend, gang.id, over)
    logs = [backend.logs(gang.id, rank, offset=0, limit=1000).decode() for rank in (0, 1)]
    told = {m["rank"]: m["node_id"] for m in backend.records.read(gang.id)["final"]["members"]}
    billed = billed_interval(seen)

    assert told == {0: two_nodes.nodes()["n2"], 1: two_nodes.nodes()["n1"]}
    assert [log.split(" at ")[0] for log in logs] == ["0 of 2", "1 of 2"]
    assert logs[0].split(" at ")[1] == logs[1].split(" at ")[1]
    assert f" at {two_nodes.address_of('n2')}:" in logs[0]
    assert [m.exit_code for m in seen.members] == [0, 0]
    assert billed is not None
    assert 0 < billed.duration_ms <= 60_000
    assert {node.name: node.devices for node in backend.nodes()} == {"n1": 4, "n2": 4}


def test_a_raylet_that_dies_loses_its_member_and_ends_the_gang(two_nodes: Cluster, tmp_path: Path) -> None:
    backend = backend_of(two_nodes, tmp_path)
    gang = lease_of("torn", f": {tmp_path.name}; while :; do sleep 0.1; done", nodes=("n1", "n2"))
    backend.launch(gang)
    until(backend, gang.id, running)
    two_nodes.kill("n2")
    seen = until(backend, gang.id, over)

    assert [m.phase for m in seen.members] == [EXITED, LOST]
    assert seen.members[0].cause is Cause.CANCELLED
    assert seen.members[1].detail
    assert seen.members[1].ended_ms is None
    assert gone(f": {tmp_path.name};")
    assert replace(backend_of(two_nodes, tmp_path).observe([gang.id])[0], now_ms=None) == replace(seen, now_ms=None)


def test_a_driver_that_is_killed_takes_every_member_along(ray_cluster: Cluster, tmp_path: Path) -> None:
    backend = backend_of(ray_cluster, tmp_path)
    gang = lease_of("orphans", f": {tmp_path.name}; sleep 600 & setsid sleep 601; wait", nodes=("n1", "n1"))
    backend.launch(gang)
    until(backend, gang.id, running)
    for pid in processes("driver.py"):
        if gang.id in " ".join(psutil.Process(pid).environ().values()):
            os.kill(pid, signal.SIGKILL)
    seen = until(backend, gang.id, over)

    assert [m.phase for m in seen.members] == [LOST, LOST]
    assert "the Ray job ended" in (seen.members[0].detail or "")
    assert gone(f": {tmp_path.name};")


def test_a_member_whose_shim_is_killed_is_lost_and_the_rest_ends(ray_cluster: Cluster, tmp_path: Path) -> None:
    backend = backend_of(ray_cluster, tmp_path)
    gang = lease_of("shimless", f": {tmp_path.name}; while :; do sleep 0.1; done", nodes=("n1", "n1"))
    backend.launch(gang)
    until(backend, gang.id, running)
    word = f"{backend.owner}-{gang.id}-1/shim.py"
    (top,) = [p for p in processes(word) if psutil.Process(p).ppid() not in processes(word)]
    os.kill(top, signal.SIGKILL)
    seen = until(backend, gang.id, over)

    assert [m.phase for m in seen.members] == [EXITED, LOST]
    assert gone(f": {tmp_path.name};")


def test_a_job_that_the_cluster_stops_is_ended_in_order(ray_cluster: Cluster, tmp_path: Path) -> None:
    backend = backend_of(ray_cluster, tmp_path)
    job = lease_of("foreign", "trap 'exit 6' TERM; while :; do sleep 0.1; done")
    backend.launch(job)
    until(backend, job.id, running)
    backend.head.stop(f"{backend.owner}-{job.id}")
    (member,) = until(backend, job.id, over).members

    assert (member.phase, member.exit_code, member.cause) == (EXITED, 6, Cause.CANCELLED)


def test_a_restarted_head_has_lost_what_we_submitted_and_it_is_not_run_again(
    ray_cluster: Cluster, tmp_path: Path
) -> None:
    backend = backend_of(ray_cluster, tmp_path)
    ended, lost = lease_of("ended", "exit 3"), lease_of("lost", f": {tmp_path.name}; sleep 600")
    backend.launch(ended)
    until(backend, ended.id, over)
    backend.launch(lost)
    until(backend, lost.id, running)
    ray_cluster.stop()
    with pytest.raises(ConnectionError):
        backend.observe([lost.id])
    (known,) = backend.observe([ended.id])
    ray_cluster.start_head()
    another = backend_of(ray_cluster, tmp_path)
    seen = until(another, lost.id, over)
    another.launch(lost)
    time.sleep(1)

    assert known.members[0].exit_code == 3
    assert [m.phase for m in seen.members] == [LOST]
    assert seen.members[0].started_ms is not None
    assert seen.members[0].ended_ms is None
    assert "no longer knows" in (seen.members[0].detail or "")
    assert not another.head.jobs()[0]
    assert gone(f": {tmp_path.name};")
