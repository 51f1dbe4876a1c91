"""Kubernetes lease: scheduler.election.Election by a Lease object of coordination.k8s.io/v1, as client-go elects.

Nobody's wall clock is compared with anybody else's. Who stands by counts, by its own clock, how long the object has not
changed; who leads counts from when it sent its last renewal. The lead changes hands by compare-and-swap on the object's
resourceVersion. leaseTransitions is the fencing token: it grows with every new holder, and it is the epoch that is written
into the database, where only a greater one is taken. So one that was frozen between the two acts comes too late for good.

Times: renewed every PULSE_S, trusted by the leader for VALID_S, given up by the others after DURATION_S. client-go's own
defaults (15, 10 and 2 s; k8s.io/client-go/tools/leaderelection) would take longer than the 10 s that a takeover may.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from scheduler.backends.kubernetes_api import Refused, Unreachable
from scheduler.database import Database
from scheduler.election import LeadLost, Pulse, boot_s, epoch_of, write_epoch

log = structlog.get_logger("election")
DURATION_S, VALID_S = 6, 4.0
CONFLICT, MISSING = 409, 404


class Api(Protocol):
    """What is needed of scheduler.backends.kubernetes_api.ClusterApi."""

    def request(self, method: str, path: str, body: Any = None) -> Any: ...


class LeaseElection:
    """The process that the Lease object names, as long as it renews it, leads."""

    def __init__(self, database: Database, api: Api, *, namespace: str, name: str, holder: str) -> None:
        """holder: a name that no other process ever has, such as a pod's with a number."""
        self.database, self.api, self.holder = database, api, holder
        self.collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self.path = f"{self.collection}/{name}"
        self.name, self.namespace = name, namespace
        self.epoch: int | None = None
        self._lease: dict[str, Any] = {}
        self._seen: tuple[str, float] | None = None
        self._pulse: Pulse | None = None
        self._guard = threading.Lock()

    def try_lead(self) -> int | None:
        """The object names this process and its epoch is written, or somebody else's time is not over yet."""
        with self._guard:
            if self._pulse is not None and self._pulse.certain() and self._pulse.beat():
                return self.epoch
            self._drop()
            sent_at = boot_s()
            try:
                lease = self._taken()
            except Unreachable as problem:
                log.warning("lease_not_reached", problem=str(problem))
                return None
            if lease is None:
                return None
            self._lease = lease
            epoch = int(lease["spec"]["leaseTransitions"])
            try:
                with self.database.write() as tx:
                    newest = write_epoch(tx, epoch)
            except BaseException:
                self._release()
                raise
            if not newest:  # another one has led since the object was read
                self._release()
                return None
            self.epoch = epoch
            self._pulse = Pulse(self._renew, VALID_S)
            self._pulse.start(sent_at)
            return epoch

    def still(self) -> bool:
        return self._pulse is not None and self._pulse.certain()

    def resign(self) -> None:
        with self._guard:
            led = self._pulse is not None
            self.epoch = None
            self._drop()
            if led:
                self._release()

    # --- the object -------------------------------------------------------------------------------------------------

    def _taken(self) -> dict[str, Any] | None:
        """The object with our name in it, a transition on; None if it is another's or another was quicker."""
        with self.database.read() as tx:
            newest = epoch_of(tx)
        try:
            lease = self.api.request("GET", self.path)
        except Refused as refused:
            if refused.status != MISSING:
                raise
            named = {"name": self.name, "namespace": self.namespace}
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": named}
            return self._written("POST", self.collection, {**body, "spec": self._spec(newest + 1)})
        if lease["spec"].get("holderIdentity") not in ("", None, self.holder) and not self._over(lease):
            return None
        turn = max(int(lease["spec"].get("leaseTransitions") or 0), newest) + 1
        return self._written("PUT", self.path, {**lease, "spec": self._spec(turn)})

    def _over(self, lease: Mapping[str, Any]) -> bool:
        """It has not changed before our eyes for as long as its holder said."""
        version, now = str(lease["metadata"]["resourceVersion"]), boot_s()
        if self._seen is None or self._seen[0] != version:
            self._seen = version, now
        return now - self._seen[1] >= float(lease["spec"].get("leaseDurationSeconds") or DURATION_S)

    def _renew(self) -> None:
        spec = {**self._lease["spec"], "renewTime": _now()}
        renewed = self._written("PUT", self.path, {**self._lease, "spec": spec})
        if renewed is None:  # somebody wrote it: another holder, or only a label
            lease = self.api.request("GET", self.path)
            ours = ("holderIdentity", "leaseTransitions")
            if any(lease["spec"].get(key) != self._lease["spec"][key] for key in ours):
                raise LeadLost(f"the lease is held by {lease['spec'].get('holderIdentity')!r}")
            renewed = self._written("PUT", self.path, {**lease, "spec": spec})
            if renewed is None:
                raise ConnectionError("the lease was written twice meanwhile; tried again with the next pulse")
        self._lease = renewed

    def _release(self) -> None:
        """The next one may take it at once, and not when it has waited."""
        with contextlib.suppress(Refused, Unreachable):
            self._written("PUT", self.path, {**self._lease, "spec": {**self._lease["spec"], "holderIdentity": ""}})

    def _drop(self) -> None:
        pulse, self._pulse = self._pulse, None
        if pulse is not None:
            pulse.stop()

    def _written(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """None if somebody else wrote it since it was read, or took it away."""
        try:
            return dict(self.api.request(method, path, body))
        except Refused as refused:
            if refused.status in (CONFLICT, MISSING):
                return None
            raise

    def _spec(self, transitions: int) -> dict[str, Any]:
        return {
            "holderIdentity": self.holder,
            "leaseDurationSeconds": DURATION_S,
            "leaseTransitions": transitions,
            "acquireTime": _now(),
            "renewTime": _now(),
        }


def _now() -> str:
    """MicroTime: six digits, also where they are all zero. For people to read; nothing is decided by it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
