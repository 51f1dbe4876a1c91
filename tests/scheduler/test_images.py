"""A job that names a container image goes where images are run, and one that names none where they are not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.accelerator import Origin, Source
from scheduler.admission import unsupported
from scheduler.job import Alternative, FirmId, JobId, Money, Priority, Request
from scheduler.jobfile import parse_job
from scheduler.node import Images, Node, NodeId, Pool, PoolId
from scheduler.planner import plan
from scheduler.registry import POLICIES, load_policy, registered
from scheduler.snapshot import Snapshot, WaitingJob
from scheduler.view import images_of, stacks_of
from scheduler.zone import images_fit
from tests.builders import snapshots

NOW = datetime(2026, 6, 1, tzinfo=UTC)
FILE = """
name: sft
queue: t/train
time_limit: 1h
resources: {accelerators: {any_of: [H800:8, Ascend910B3:8]}}
variants:
  cuda: {image: zone/cuda, run: python a.py}
  cann: {run: python a.py}
"""


def pool(images: Images, model: str = "H800") -> Pool:
    return Pool(
        id=PoolId(f"{model}-{images}"), provider="z", site="s", region="r", backend="b", vendor="v", model=model,
        origin=Origin.FOREIGN, memory_bytes=None, price_fen_per_device_hour=100, source=Source.SIMULATED, images=images,
    )  # fmt: skip


def job(*images: str, stacks: tuple[str, ...] = (), name: str = "j") -> WaitingJob:
    return WaitingJob(
        id=JobId(name), name=name, firm=FirmId("f"), queue="q", priority=Priority.NORMAL, submitted_at=NOW, nodes=1,
        time_limit_ms=1000, money=Money(), images=images, stacks=stacks,
        request=Request(alternatives=(Alternative(text="H800:8", count=8, models=("H800",)),)),
    )  # fmt: skip


def zone(*pools: Pool, jobs: tuple[WaitingJob, ...]) -> Snapshot:
    nodes = tuple(
        Node(id=NodeId(f"n-{one.id}"), pool=one.id, devices=tuple(f"{one.id}/{i}" for i in range(8))) for one in pools
    )
    return Snapshot(version=1, now=NOW, pools=pools, nodes=nodes, jobs=jobs, leases=(), terms=(), queues=())


@pytest.mark.parametrize(
    ("images", "where", "fits"),
    [
        ((), Images.NONE, True),
        ((), Images.REQUIRED, False),
        ((), Images.EITHER, True),
        (("cuda",), Images.NONE, False),
        (("cuda",), Images.REQUIRED, True),
        (("cuda",), Images.EITHER, True),
        (("cann",), Images.NONE, True),  # of another stack than this pool's
        (("cann",), Images.REQUIRED, False),
    ],
)
def test_an_image_is_run_where_images_are_run(images: tuple[str, ...], where: Images, fits: bool) -> None:
    assert images_fit(job(*images), pool(where)) is fits


def test_a_model_that_the_catalogue_does_not_have_has_no_image() -> None:
    assert images_fit(job("cuda"), pool(Images.NONE, "unheard-of"))
    assert not images_fit(job("cuda"), pool(Images.REQUIRED, "unheard-of"))


@pytest.mark.parametrize("name", sorted(registered(POLICIES)))
def test_each_of_two_jobs_starts_in_the_pool_of_its_kind(name: str) -> None:
    found = zone(pool(Images.NONE), pool(Images.REQUIRED), jobs=(job("cuda", name="with"), job(name="without")))
    decided = plan(found, load_policy(name))

    assert {one.job: one.placement.pool for one in decided.launches} == {
        "with": "H800-required",
        "without": "H800-none",
    }


def test_where_no_pool_is_of_its_kind_it_says_so_and_counts_the_nodes() -> None:
    (wait,) = plan(zone(pool(Images.NONE), jobs=(job("cuda"),)), load_policy("net_cost")).waits

    assert (wait.pending.code, wait.pending.kind) == ("IMAGE_MISMATCH", "never")
    assert [(one.code, one.n, one.m) for one in wait.pending.n_of_m] == [("IMAGE_MISMATCH", 1, 1)]


@given(snapshots(), st.sampled_from(sorted(registered(POLICIES))))
def test_no_job_with_an_image_is_placed_where_none_run(snapshot: Snapshot, name: str) -> None:
    marked = tuple(replace(one, images=("cuda", "cann")) if i % 2 else one for i, one in enumerate(snapshot.jobs))
    pools = tuple(replace(one, images=list(Images)[i % 3]) for i, one in enumerate(snapshot.pools))
    decided = plan(replace(snapshot, jobs=marked, pools=pools), load_policy(name))
    jobs, where = {one.id: one for one in marked}, {one.id: one for one in pools}

    assert all(images_fit(jobs[one.job], where[one.placement.pool]) for one in decided.launches)


def test_a_job_file_tells_the_stacks_it_has_images_for_and_may_go_on() -> None:
    spec = parse_job(FILE)

    assert (stacks_of(spec), images_of(spec)) == (("cann", "cuda"), ("cuda",))
    assert unsupported(spec) == ()
