"""Clusters: the backends of the existing clusters that a zone runs on, and what is found there, recorded as it changes.

`<data_dir>/clusters.yaml` names them (scheduler/cluster_file.py). Each becomes a backend under its own name. Where this process
is the loop, a thread per cluster asks it for its nodes and records them: pools, nodes and devices appear and change by themselves.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from metering.schema import sites
from metering.store import set_price
from scheduler.cluster_file import Cluster, ClusterFileError, read_cluster_file
from scheduler.discovery import Recorded, record
from scheduler.ports import Backend
from scheduler.refusal import Refusal
from scheduler.registry import load_backend_class

if TYPE_CHECKING:
    from api.wiring import Services

log = structlog.get_logger("clusters")
LOOK_S = (
    10.0  # between two looks at a cluster; a node unheard for 60 s takes no new lease (scheduler.view.SILENT_AFTER)
)
WAKE_S = 0.1
BY = "clusters.yaml"  # who set a pool's first price


def read_clusters(data_dir: Path) -> tuple[Cluster, ...]:
    """The clusters of the data directory's file; () where there is none. ClusterFileError if it cannot be read."""
    path = data_dir / "clusters.yaml"
    return read_cluster_file(path) if path.is_file() else ()


def backends_of(clusters: Sequence[Cluster], data_dir: Path) -> dict[str, Backend]:
    """A backend per cluster by its name. Nothing is asked of a cluster yet, so one that is away keeps nobody waiting.

    ClusterFileError where the extra that brings the engine's client is not installed.
    """
    found: dict[str, Backend] = {}
    for cluster in clusters:
        if importlib.util.find_spec(cluster.backend) is None:
            raise ClusterFileError(
                f"{cluster.name}: backend {cluster.backend!r} needs its client: yisuan[{cluster.backend}]"
            )
        options = dict(cluster.options)
        if cluster.backend == "ray":
            options["state"] = data_dir / "clusters" / cluster.name
        found[cluster.name] = load_backend_class(cluster.backend)(cluster.name, **options)
    return found


class Lookout:
    """look() once at one cluster; start() does it for all of them until told to stop."""

    def __init__(self, services: Services, clusters: Sequence[Cluster]) -> None:
        self.services = services
        self.clusters = tuple(clusters)
        self._threads: list[threading.Thread] = []
        self._told: dict[str, Any] = {}

    def look(self, cluster: Cluster) -> Recorded | Refusal | None:
        """What the cluster has is recorded; SITE_UNKNOWN before its site is enrolled; None while it does not answer."""
        backend: Any = self.services.backends[cluster.name]
        try:
            found = backend.nodes()
        except ConnectionError as problem:
            self._say(cluster, "cluster_away", problem=str(problem))
            return None
        now = self.services.clock.now()
        with self.services.books.write() as tx:
            site = tx.execute(select(sites.c.provider).where(sites.c.id == cluster.site)).scalar()
            if site != cluster.provider:
                refusal = Refusal(code="SITE_UNKNOWN", facts={"site": cluster.site, "provider": cluster.provider})
            else:
                refusal = None
                done = record(tx, cluster, found, now)
                for pool in done.pools:
                    model, fen = next((m, f) for m, f in cluster.prices.items() if cluster.pool_of(m) == pool)
                    set_price(tx, pool=pool, model=model, fen=fen, start=now, by=BY, now=now)
        if refusal is not None:
            self._say(cluster, "cluster_refused", refused=[(refusal.code, dict(refusal.facts))])
            return refusal
        closed = sorted(f"{node.name}: {node.why}" for node in found if not node.schedulable)
        self._say(
            cluster,
            "cluster_seen",
            nodes=len(found),
            closed=closed,
            refused=[(r.code, dict(r.facts)) for r in done.refused],
        )
        return done

    def start(self, stop: threading.Event) -> Lookout:
        """A thread per cluster looks at it every LOOK_S until `stop` is set."""
        for cluster in self.clusters:
            thread = threading.Thread(
                target=self._run, args=(cluster, stop), name=f"cluster {cluster.name}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        return self

    def join(self) -> None:
        """Every look is over; for after `stop` was set."""
        for thread in self._threads:
            thread.join()

    def _run(self, cluster: Cluster, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self.look(cluster)
            except OperationalError as problem:  # the database is away, or another process leads
                log.warning("cluster_not_recorded", cluster=cluster.name, problem=str(problem.orig))
            except Exception:  # what one cluster answers must not end the looking
                log.exception("look_failed", cluster=cluster.name)
            self._wait(cluster, stop)

    def _wait(self, cluster: Cluster, stop: threading.Event) -> None:
        """Until it is time to look again: at once where the backend says that nodes changed, so that a node that is drained or
        falls silent takes no job that was just thrown out of it."""
        changed = getattr(self.services.backends[cluster.name], "changed", None)
        for _ in range(round(LOOK_S / WAKE_S)):
            if stop.wait(WAKE_S) or (changed is not None and changed.is_set()):
                return

    def _say(self, cluster: Cluster, event: str, **facts: Any) -> None:
        """In the log when it differs from what was said last."""
        if self._told.get(cluster.name) != (event, facts):
            self._told[cluster.name] = (event, facts)
            log.info(event, cluster=cluster.name, **facts)
