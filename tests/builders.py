"""Generated snapshots: small zones with odd corners, shrinkable."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from adapters.accelerator import Origin, Source
from scheduler.job import Alternative, FirmId, JobId, Money, Objective, Priority, Request
from scheduler.lease import LeaseId, Member
from scheduler.node import Node, NodeId, Pool, PoolId
from scheduler.snapshot import QueueQuota, RunningLease, Snapshot, Terms, WaitingJob

NOW = datetime(2026, 6, 1, tzinfo=UTC)
MODELS = (
    ("Ascend910B3", "ascend", Origin.DOMESTIC),
    ("H800", "nvidia", Origin.FOREIGN),
    ("T4", "nvidia", Origin.FOREIGN),
)
FIRMS = ("f1", "f2")
QUEUES = ("qa", "qb")


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """1–3 pools of 0–4 nodes of 1–8 devices, some leased, some cordoned; up to 8 waiting jobs; quotas and terms or none."""
    pools, nodes = [], []
    for index in range(draw(st.integers(1, 3))):
        model, vendor, origin = draw(st.sampled_from(MODELS))
        pool = Pool(
            id=PoolId(f"p{index}"),
            provider="p",
            site="s",
            region="r",
            backend="local",
            vendor=vendor,
            model=model,
            origin=origin,
            memory_bytes=draw(st.sampled_from([None, 16 << 30, 64 << 30])),
            price_fen_per_device_hour=draw(st.integers(0, 3000)),
            source=Source.SIMULATED,
        )
        pools.append(pool)
        for number in range(draw(st.integers(0, 4))):
            name = f"p{index}n{number}"
            devices = tuple(f"{name}d{i}" for i in range(draw(st.integers(1, 8))))
            usable = draw(st.booleans()) or draw(st.booleans())
            nodes.append(Node(id=NodeId(name), pool=pool.id, devices=devices, schedulable=usable))
    leases = draw(_leases(nodes))
    jobs = tuple(draw(_job(index)) for index in range(draw(st.integers(0, 8))))
    terms = tuple(
        Terms(
            firm=FirmId(firm),
            pool=pool.id,
            price_fen_per_device_hour=pool.price_fen_per_device_hour,
            rate_bp=draw(st.sampled_from([0, 3000, 4000])),
            room_fen=draw(st.integers(0, 10**7)),
            shadow_price_permille=draw(st.sampled_from([0, 500, 1000])),
        )
        for firm in FIRMS
        for pool in pools
        if draw(st.booleans())
    )
    quotas = tuple(
        QueueQuota(name=q, nominal_devices=draw(st.none() | st.integers(0, 20))) for q in QUEUES if draw(st.booleans())
    )
    return Snapshot(
        version=draw(st.integers(0, 99)), now=NOW, pools=tuple(pools), nodes=tuple(nodes), jobs=jobs, leases=leases,
        terms=terms, queues=quotas,
    )  # fmt: skip


@st.composite
def _leases(draw: st.DrawFn, nodes: list[Node]) -> tuple[RunningLease, ...]:
    found = []
    for index, node in enumerate(nodes):
        taken = draw(st.integers(0, len(node.devices)))
        if taken:
            found.append(
                RunningLease(
                    id=LeaseId(f"old{index}.1"),
                    job=JobId(f"old{index}"),
                    firm=FirmId(draw(st.sampled_from(FIRMS))),
                    queue=draw(st.sampled_from(QUEUES)),
                    pool=node.pool,
                    members=(Member(rank=0, node=node.id, devices=node.devices[:taken]),),
                    ends_by=NOW + timedelta(minutes=draw(st.integers(0, 600))),
                )
            )
    return tuple(found)


@st.composite
def _job(draw: st.DrawFn, index: int) -> WaitingJob:
    alternatives = tuple(
        draw(
            st.builds(
                Alternative,
                text=st.just("a"),
                count=st.integers(1, 8),
                models=st.sampled_from([(), ("Ascend910B3",), ("H800",), ("T4",), ("A100-80GB", "A100-40GB")]),
                origin=st.sampled_from([None, Origin.DOMESTIC, Origin.FOREIGN]),
                memory_bytes_min=st.sampled_from([None, 32 << 30]),
            )
        )
        for _ in range(draw(st.integers(1, 3)))
    )
    return WaitingJob(
        id=JobId(f"j{index}"),
        name=f"j{index}",
        firm=FirmId(draw(st.sampled_from(FIRMS))),
        queue=draw(st.sampled_from(QUEUES)),
        priority=draw(st.sampled_from(list(Priority))),
        submitted_at=NOW - timedelta(seconds=draw(st.integers(0, 5))),
        nodes=draw(st.integers(1, 4)),
        time_limit_ms=draw(st.integers(1, 10**8)),
        request=Request(alternatives=alternatives, ordered=draw(st.booleans())),
        money=Money(
            voucher=draw(st.sampled_from(["auto", "none"])),
            objective=draw(st.sampled_from(list(Objective))),
            max_net_fen=draw(st.none() | st.integers(0, 10**6)),
        ),
        stacks=draw(st.sampled_from([(), ("cuda",), ("cann", "cuda")])),
    )
