"""Ray backend: a lease is one Ray job of an existing cluster, whose submission id derives from the lease's.

The head is asked over HTTP alone (ray_head.py); the job's driver and the small processes beside each member run in the
cluster (ray_driver.py), where nothing of the platform is imported. What lies where:

head     the job's entry: its status, and the members' records as the driver last told them, so that one list answers
         for all leases and a restarted platform reads the same; a stop request, as a package that outlives our process.
node     a member's log, among Ray's own; its shim's records while it runs.
here     <state>/<lease>.json, written before the job is submitted, with all that was ever seen of its members: a head
         that restarts forgets its jobs, and then a lease we submitted is LOST, never ABSENT and run again. And
         <state>/<lease>.<rank>.log, the bytes of logs that were read once: they stay when the node has gone.

Submitted at most once: looked up first, and the head itself stores an entry only where there is none of that name, so
that an answer that never came back may be asked for again. A submission without an answer counts as made as soon as the
head's session is another one. A stop before launch is in <state>, so nothing is submitted after it; a stop that crosses
a submission is at the head before the driver looks for it, which it does before it starts anything.

Time is the driver's: its wall clock read once and monotonic since, one for all members of a gang (ray_driver.Member).
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from adapters.catalog import load_catalog
from scheduler.backends.ray_head import Head, HeadAway
from scheduler.backends.ray_nodes import Devices, devices_of, found_nodes
from scheduler.backends.ray_package import packed
from scheduler.backends.ray_records import SAFE, Records
from scheduler.backends.ray_status import TERMINAL, complete, ended, report_in, statuses, told_by, told_in, why_over
from scheduler.discovery import FoundNode
from scheduler.lease import Cause, Lease, LeaseId, MemberPhase, MemberStatus, Observation
from scheduler.refusal import Refusal

log = structlog.get_logger("ray")
LIST_S = 0.2  # a list of jobs answers for all leases of one round
STOP_ALLOWANCE_MS = 30_000  # beyond its grace a driver is told by Ray itself to end
LOG_MAX = 256 << 20  # bytes of one member's log that are kept here
FORGET_LOG_MAX = 8 << 20  # of them, what is fetched when its lease is forgotten
CLEAR_AFTER_MS = 5_000  # Ray's own watch over a job ends within 1 s of it, and puts its entry back if it is gone before
FREEING_S = 30.0  # Ray counts devices as held for a moment after their job has ended


class RayBackend:
    """scheduler.ports.Backend and scheduler.discovery.Discovery for one Ray cluster.

    cluster: its name, which prefixes its nodes' ids. address: of the head's dashboard, such as http://head:8265.
    state: a directory of this cluster alone, that a restarted platform finds again. models: from a resource or
    accelerator type to a catalogue key, where Ray's word does not say. python: what runs the driver on the head's node.
    work: where jobs' directories are on the nodes; a checkpoint outlives its node only on a file system they share.
    path: PATH of jobs, None for the node's own. token_file: holds the cluster's token; ca_file: its certificates.
    start_timeout_ms: how long Ray may take to start a job and to grant its devices. timeout_s: of one request.
    owner: prefixes submission ids; two platforms that share a cluster need two.
    """

    name = "ray"

    def __init__(
        self,
        cluster: str,
        address: str,
        state: Path,
        *,
        models: Mapping[str, str] | None = None,
        python: str = "python",
        work: str = "/tmp/yisuan-work",  # noqa: S108 - made 0700 and its owner checked, see ray_driver._own
        path: str | None = None,
        token_file: Path | str | None = None,
        ca_file: Path | str | None = None,
        start_timeout_ms: int = 300_000,
        timeout_s: float = 10.0,
        owner: str = "yisuan",
    ) -> None:
        catalog = load_catalog()
        for word, model in (models or {}).items():
            if model not in catalog:
                raise ValueError(
                    f"models: {word}: {model!r} is not in the catalogue; nearest: {catalog.nearest(model)}"
                )
        for field, word in (("cluster", cluster), ("owner", owner)):
            if not SAFE.fullmatch(word):
                near = re.sub(r"[^A-Za-z0-9_.-]", "-", word) or "ray"
                raise ValueError(f"{field}: {word!r} is not letters, digits, dot, dash; nearest: {near!r}")
        if not work.startswith("/"):
            raise ValueError(f"work: {work!r} is not an absolute path; nearest: {'/' + work!r}")
        if start_timeout_ms < 1000:
            raise ValueError(f"start_timeout_ms: {start_timeout_ms} is below 1000; nearest: 1000")
        self.cluster, self.owner = cluster, owner
        self.models = dict(models or {})
        self.python, self.work, self.path = python, work, path
        self.start_timeout_ms = start_timeout_ms
        self.head = Head(
            address,
            token_file=Path(token_file) if token_file else None,
            ca_file=Path(ca_file) if ca_file else None,
            timeout_s=timeout_s,
        )
        self.records = Records(state)
        self._listed: tuple[float, dict[str, Mapping[str, Any]], int] | None = None
        self._freed: dict[LeaseId, float] = {}
        self._told_of: dict[str, str] = {}

    def close(self) -> None:
        """Connections to the head are closed; the jobs there go on."""
        self.head.close()

    # --- the port -----------------------------------------------------------------------------------------------------

    def launch(self, lease: Lease) -> Refusal | None:
        """The head has the lease's job, or its members' end is recorded: it was stopped, or lost, before.

        Refusals: BAD_LEASE_NAME, SHARE_NOT_SUPPORTED, NO_SUCH_DEVICES. Raises ConnectionError while the head is away;
        the same call may then be made again.
        """
        if not SAFE.fullmatch(lease.id) or not SAFE.fullmatch(lease.job):
            return Refusal(code="BAD_LEASE_NAME", facts={"lease": lease.id, "job": lease.job})
        if not lease.spec.request.whole:
            return Refusal(code="SHARE_NOT_SUPPORTED", facts={"backend": self.name})
        record = self.records.read(lease.id)
        ranks = [{"rank": m.rank, "node": self._ray_name(m.node), "devices": len(m.devices)} for m in _members(lease)]
        if record.get("final") or record.get("submitted"):
            return None
        record = {**record, "job": lease.job, "firm": lease.firm, "members": ranks}
        if record.get("stop") and not record.get("session"):
            self._end(lease.id, record, [_stopped(m) for m in ranks])
            return None
        submission = self._submission(lease.id)
        if self.head.job(submission) is None:
            asked = self._resources(ranks, lease.placement.model)
            if isinstance(asked, Refusal):
                return asked
            session = self.head.session()
            lost = [f"node {m['node']} is not in the cluster" for m in ranks if m["rank"] not in asked]
            if record.get("session", session) != session:
                lost.append("the head was restarted when the job had just been handed to it")
            if lost:
                gone = [m for m in ranks if record.get("session", session) != session or m["rank"] not in asked]
                self._end(lease.id, record, [_lost(m, lost[0]) if m in gone else _stopped(m) for m in ranks])
                return None
            resources = {rank: {devices.resource: amount} for rank, (devices, amount) in asked.items()}
            stop = record.get("stop_name") or f"yisuan-stop-{lease.id}-{secrets.token_hex(8)}"
            record = {**record, "session": session, "submitted_ms": _now_ms(), "stop_name": stop}
            record["resources"] = {str(rank): devices.resource for rank, (devices, _) in asked.items()}
            self.records.keep(lease.id, record)
            self._submit(lease, submission, {m["rank"]: m["node"] for m in ranks}, resources, stop)
        self.records.keep(lease.id, {"submitted_ms": _now_ms(), **record, "submitted": True})
        self._listed = None
        return None

    def stop(self, lease: LeaseId, *, grace_ms: int, signal: str | None) -> None:
        """Every member is asked to end: signal, grace, SIGKILL; one that has not started never will.

        The first request stands. Raises ConnectionError while the head cannot be told; then ask again.
        """
        if not SAFE.fullmatch(lease):
            return
        record = self.records.read(lease)
        if record.get("final"):
            return
        if not record.get("stop"):
            record["stop"] = {"signal": signal, "grace_ms": grace_ms, "at_ms": _now_ms(), "told": False}
            self.records.keep(lease, record)
        if record["stop"]["told"]:
            return
        if not record.get("stop_name"):  # never submitted, or by a platform that kept its records elsewhere
            row = self.head.job(self._submission(lease))
            if row is None:
                return
            record["stop_name"] = _stop_name(row)
        request = {"signal": record["stop"]["signal"], "grace_ms": record["stop"]["grace_ms"]}
        self.head.put(record["stop_name"], json.dumps(request).encode())
        record["stop"]["told"] = True
        self.records.keep(lease, record)
        self._listed = None

    def observe(self, leases: Sequence[LeaseId]) -> tuple[Observation, ...]:
        """What the drivers told the head, in one list for all; what has ended is answered from the record here.

        Raises ConnectionError while the head is away and a lease of them has not ended.
        """
        records = {lease: self.records.read(lease) for lease in leases}
        asks = any(not record.get("final") for record in records.values())
        jobs, now_ms = self._jobs() if asks else ({}, _now_ms())
        return tuple(self._observed(lease, records[lease], jobs, now_ms) for lease in leases)

    def logs(self, lease: LeaseId, rank: int, *, offset: int, limit: int) -> bytes:
        """Bytes [offset, offset + limit) of what a member wrote to stdout and stderr; empty past the end.

        Read through the node's agent and kept here, up to LOG_MAX; what nobody read before its node went is gone.
        """
        offset, limit = max(0, offset), max(0, limit)
        record = self.records.read(lease)
        seen = {m["rank"]: m for m in (record.get("final") or record.get("seen") or {}).get("members", [])}
        if rank not in seen:
            return b""
        self._fetch(lease, rank, seen[rank], min(offset + limit, LOG_MAX), over=bool(record.get("final")))
        path = self.records.log(lease, rank)
        if not path.exists():
            return b""
        with path.open("rb") as stream:
            stream.seek(offset)
            return stream.read(limit)

    def forget(self, lease: LeaseId) -> None:
        """The head's entry of the job goes CLEAR_AFTER_MS after its end. The end and the logs stay here."""
        record = self.records.read(lease)
        if not record.get("final"):
            return
        for member in record["final"]["members"]:
            try:
                self._fetch(lease, member["rank"], member, FORGET_LOG_MAX, over=True)
            except HeadAway as away:
                log.warning("log_not_kept", lease=lease, rank=member["rank"], why=str(away))
        self.records.keep(lease, {**record, "forgotten": True})

    # --- discovery ----------------------------------------------------------------------------------------------------

    def nodes(self) -> Sequence[FoundNode]:
        """The cluster's nodes with accelerators; one whose model cannot be told is left out, and why is logged once."""
        self._jobs()
        held, draining = self.head.usage()
        found, problems = found_nodes(self.head.nodes(), held, draining, self._ours(), self.models, load_catalog())
        for name, why in problems.items():
            if self._told_of.get(name) != why:
                log.warning("node_left_out", cluster=self.cluster, node=name, why=why)
        self._told_of = problems
        return found

    def _ours(self) -> dict[tuple[str, str], int]:
        """Devices that our own leases hold, by node and resource."""
        held: Counter[tuple[str, str]] = Counter()
        since = time.monotonic() - FREEING_S
        freed = [(lease, self.records.read(lease)) for lease, at in list(self._freed.items()) if at > since]
        for _, record in [*self.records.open_leases(), *freed]:
            for member in record.get("members", ()) if record.get("session") else ():
                held[member["node"], record.get("resources", {}).get(str(member["rank"]), "")] += member["devices"]
        return held

    # --- launching ----------------------------------------------------------------------------------------------------

    def _submission(self, lease: str) -> str:
        return f"{self.owner}-{lease}"

    def _ray_name(self, node: str) -> str:
        return node.removeprefix(f"{self.cluster}.")

    def _resources(self, ranks: Sequence[Mapping[str, Any]], model: str) -> dict[int, tuple[Devices, int]] | Refusal:
        """What each rank takes of its node, ranks whose node is gone left out; a Refusal where it has no such chips."""
        rows = {row["node_name"]: row for row in self.head.nodes() if row["state"] == "ALIVE"}
        found = {}
        for member in ranks:
            row = rows.get(member["node"])
            if row is None:
                continue
            devices = devices_of(row, self.models, load_catalog())
            if not isinstance(devices, Devices) or devices.model != model:
                has = devices.model if isinstance(devices, Devices) else devices
                return Refusal(code="NO_SUCH_DEVICES", facts={"node": member["node"], "model": model, "has": has})
            found[int(member["rank"])] = (devices, int(member["devices"]))
        return found

    def _submit(
        self,
        lease: Lease,
        submission: str,
        nodes: Mapping[int, str],
        resources: Mapping[int, Mapping[str, float]],
        stop: str,
    ) -> None:
        given = (self.work, self.path, self.start_timeout_ms)
        name, content = packed(lease, submission, nodes, resources, stop, *given)
        uri = self.head.put(name, content)
        self.head.expire(name)  # should the submission fail for good; a job that refers to it keeps it
        metadata = {"yisuan_lease": lease.id, "yisuan_ranks": str(len(nodes)), "yisuan_stop": stop}
        self.head.submit(submission, f"exec {self.python} driver.py", uri, metadata)

    # --- looking ------------------------------------------------------------------------------------------------------

    def _jobs(self) -> tuple[dict[str, Mapping[str, Any]], int]:
        """The head's jobs; those that we have done with are cleared on the way."""
        if self._listed is not None and time.monotonic() - self._listed[0] < LIST_S:
            return self._listed[1], self._listed[2]
        jobs, now_ms = self.head.jobs()
        for submission, row in jobs.items():
            if row["status"] in TERMINAL and now_ms - _whole(row.get("end_time"), now_ms) > CLEAR_AFTER_MS:
                self._clear(submission)
        self._listed = (time.monotonic(), jobs, now_ms)
        return jobs, now_ms

    def _clear(self, submission: str) -> None:
        """A job of ours that is forgotten leaves nothing at the head."""
        lease = submission.removeprefix(f"{self.owner}-")
        record = self.records.read(lease) if submission == self._submission(lease) else {}
        if record.get("forgotten"):
            self.head.delete(submission)
            if record.get("stop") and record.get("stop_name"):
                self.head.expire(record["stop_name"])

    def _observed(
        self, lease: LeaseId, record: dict[str, Any], jobs: Mapping[str, Mapping[str, Any]], now_ms: int
    ) -> Observation:
        if record.get("final"):
            return self._said(lease, record["final"], now_ms)
        row = jobs.get(self._submission(lease))
        if row is None:
            return self._unlisted(lease, record, now_ms)
        if not record.get("members"):
            record = self._adopt(lease, record, row)
        ranks = [m["rank"] for m in record["members"]]
        told = _later(told_by(row), record.get("seen"))
        over = row["status"] in TERMINAL
        if over and not complete(told):
            told = _later(told_in(self.head.driver_log(self._submission(lease))), told)
            return self._end(lease, record, self._over(told, ranks, row, record), told, now_ms)
        if complete(told):
            assert told is not None, "asked by complete"
            return self._end(lease, record, told["members"], told, now_ms)
        if told is None and row["status"] == "PENDING":
            late = self._give_up(lease, record, now_ms)
            if late is not None:
                return late
        if told is not None and told != record.get("seen"):
            self.records.keep(lease, {**record, "seen": told})
        self._press(lease, record, row)
        blank = [{"rank": rank, "phase": "starting"} for rank in ranks]
        return self._said(lease, told or {"members": blank}, now_ms)

    def _over(
        self, told: dict[str, Any] | None, ranks: Sequence[int], row: Mapping[str, Any], record: Mapping[str, Any]
    ) -> list[Any]:
        """The members of a job that is over. One that we had stopped before its driver said anything was stopped."""
        if told is None and record.get("stop"):
            return [_stopped({"rank": rank}) for rank in ranks]
        return ended(told, ranks, row, why_over(row))

    def _unlisted(self, lease: LeaseId, record: dict[str, Any], now_ms: int) -> Observation:
        """The head has no such job: it was never submitted, or it is forgotten and lost."""
        absent = Observation(lease=lease, members=_absent(record), now_ms=now_ms)
        if not record.get("session"):
            return absent
        if not record.get("submitted") and self.head.session() == record["session"]:
            return absent
        self._listed = None  # asked again: the entry may have come between the list and now
        if self.head.job(self._submission(lease)) is not None:
            return Observation(lease=lease, members=_starting(record), now_ms=now_ms)
        why = "the head no longer knows its job: it was restarted, or the job was deleted there"
        seen = record.get("seen")
        return self._end(lease, record, ended(seen, [m["rank"] for m in record["members"]], None, why), seen, now_ms)

    def _give_up(self, lease: LeaseId, record: dict[str, Any], now_ms: int) -> Observation | None:
        """A job that Ray does not start in time is told to stop, and once that is at the head and it still waits, is over.

        Its driver, should it ever start, finds the request before it starts a member.
        """
        if _now_ms() - record.get("submitted_ms", _now_ms()) < self.start_timeout_ms:
            return None
        if not record.get("given_up"):
            self.stop(lease, grace_ms=0, signal=None)
            self.records.keep(lease, {**self.records.read(lease), "given_up": True})
            return None
        why = f"Ray did not start its job in {self.start_timeout_ms} ms"
        return self._end(lease, record, ended(None, [m["rank"] for m in record["members"]], {}, why), None, now_ms)

    def _press(self, lease: LeaseId, record: dict[str, Any], row: Mapping[str, Any]) -> None:
        """A driver that does not heed a request in time is ended by Ray, and its members with it."""
        stop = record.get("stop")
        if not stop or row["status"] != "RUNNING" or stop.get("pressed"):
            return
        if _now_ms() > stop["at_ms"] + stop["grace_ms"] + STOP_ALLOWANCE_MS:
            self.head.stop(self._submission(lease))
            self.records.keep(lease, {**record, "stop": {**stop, "pressed": True}})

    def _adopt(self, lease: LeaseId, record: dict[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
        """A job of ours that the head knows and this directory does not: the directory is new."""
        told = told_by(row)
        count = str(_metadata(row).get("yisuan_ranks", "1"))
        known = {m["rank"]: m.get("node", "") for m in told["members"]} if told else {}
        ranks = range(len(known) or (int(count) if count.isdigit() else 1))
        members = [{"rank": rank, "node": known.get(rank, ""), "devices": 0} for rank in ranks]
        record = {**record, "members": members, "session": self.head.session(), "submitted": True}
        record["stop_name"] = _stop_name(row)
        self.records.keep(lease, {**record, "submitted_ms": _now_ms()})
        return record

    def _end(
        self,
        lease: LeaseId,
        record: dict[str, Any],
        members: Sequence[Mapping[str, Any]],
        told: Mapping[str, Any] | None = None,
        now_ms: int | None = None,
    ) -> Observation:
        """The lease's end is recorded, and is the answer from now on."""
        final = {**(told or {}), "members": list(members)}
        self.records.keep(lease, {**record, "final": final})
        now = time.monotonic()
        self._freed = {**{k: at for k, at in self._freed.items() if at > now - FREEING_S}, lease: now}
        return self._said(lease, final, _now_ms() if now_ms is None else now_ms)

    def _said(self, lease: LeaseId, told: Mapping[str, Any], now_ms: int) -> Observation:
        members = statuses(told["members"], f"ray:{self.cluster}")
        return Observation(lease=lease, members=members, report=report_in(told), now_ms=now_ms)

    def _fetch(self, lease: LeaseId, rank: int, member: Mapping[str, Any], until: int, *, over: bool) -> None:
        """What is kept of a log reaches `until`, or as far as there is more on its node. over: no more will be written."""
        have, whole = self.records.logged(lease, rank)
        if have >= until or whole or not member.get("node_id") or not member.get("log"):
            return
        data = self.head.file(member["node_id"], member["log"], offset=have, limit=until - have)
        if data is not None:
            self.records.add_log(lease, rank, have, data, whole=over and have + len(data) < until)


def _members(lease: Lease) -> list[Any]:
    return sorted(lease.placement.members, key=lambda m: m.rank)


def _stopped(member: Mapping[str, Any]) -> dict[str, Any]:
    cause = Cause.CANCELLED.value
    return {"rank": member["rank"], "phase": "exited", "cause": cause, "detail": "stopped before it started"}


def _lost(member: Mapping[str, Any], why: str) -> dict[str, Any]:
    return {"rank": member["rank"], "phase": "lost", "detail": why}


def _absent(record: Mapping[str, Any]) -> tuple[MemberStatus, ...]:
    return tuple(MemberStatus(rank=m["rank"], phase=MemberPhase.ABSENT) for m in record.get("members") or [{"rank": 0}])


def _starting(record: Mapping[str, Any]) -> tuple[MemberStatus, ...]:
    return tuple(MemberStatus(rank=m["rank"], phase=MemberPhase.STARTING) for m in record["members"])


def _metadata(row: Mapping[str, Any]) -> Mapping[str, Any]:
    found = row.get("metadata")
    return found if isinstance(found, dict) else {}


def _stop_name(row: Mapping[str, Any]) -> str:
    """What the job's driver looks for; a name that nobody looks for where its entry does not say."""
    return str(_metadata(row).get("yisuan_stop") or f"yisuan-stop-{row.get('submission_id')}")


def _whole(value: Any, default: int) -> int:
    return value if type(value) is int else default


def _later(told: dict[str, Any] | None, before: dict[str, Any] | None) -> dict[str, Any] | None:
    """What was told now, unless it knows less than what was told before: an entry that was written over."""
    if told is None or before is None:
        return told or before
    known = [sum(m["phase"] in ("exited", "lost") for m in body["members"]) for body in (told, before)]
    return told if known[0] >= known[1] else before


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
