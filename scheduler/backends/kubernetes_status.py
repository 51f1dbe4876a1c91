"""What a lease's Job and pods say of it. Pure: the same objects give the same answer, whoever asks and when.

Cluster clocks: a container's start and end are its kubelet's, in whole seconds of wall time, and so are the milliseconds of a
member here, all of one "boot" per cluster. A job's setup runs in its container, so it counts as running.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from scheduler.backends.kubernetes_objects import END, LIMIT, NODES, QUEUE, STOP, index_of
from scheduler.clock import to_ms
from scheduler.lease import Cause, MemberPhase, MemberStatus

NOT_RUN = 126  # POSIX sh: found, but cannot be executed
SIGNALS = 64  # 128 + n is how a container runtime says: ended by signal n
CLOSED = timedelta(seconds=20)  # a node that was closed while a lease came to it; a Ready condition may still come back
OVERDUE = timedelta(seconds=30)  # past its grace on a node that does not answer, a pod counts as gone
EPOCH = datetime(1970, 1, 2, tzinfo=UTC)
HOPELESS = frozenset({"InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Why and when a lease was told to stop. cause: cancelled, time_limit, launch_failed (its own fault: it could not
    start) or node_fail (the cluster's)."""

    cause: Cause
    at: datetime
    detail: str | None = None


def stop_of(job: Mapping[str, Any] | None) -> Stop | None:
    """What the Job says of a stop; None while nobody asked for one."""
    text = _annotations(job).get(STOP)
    if text is None:
        return None
    said = json.loads(text)
    return Stop(cause=Cause(said["cause"]), at=datetime.fromisoformat(said["at"]), detail=said.get("detail"))


def stop_text(stop: Stop) -> str:
    """As `stop_of` reads it."""
    return json.dumps({"cause": stop.cause.value, "at": stop.at.isoformat(timespec="seconds"), "detail": stop.detail})


def ranks_of(job: Mapping[str, Any] | None, pods: Sequence[Mapping[str, Any]]) -> int:
    """How many members the lease has; by its pods where the Job was deleted under us."""
    return int(job["spec"]["completions"]) if job else max((index_of(pod) + 1 for pod in pods), default=0)


def is_over(job: Mapping[str, Any]) -> bool:
    """Does the Job say that none of its pods runs, or ever will again?"""
    return any(_holds(job, kind) for kind in ("Complete", "Failed"))


def members_of(
    job: Mapping[str, Any] | None,
    pods: Sequence[Mapping[str, Any]],
    *,
    boot: str,
    now: datetime,
    answers: Callable[[str], bool | None],
) -> tuple[MemberStatus, ...]:
    """One status per rank; () for a lease that the cluster does not know.

    pods: in the order of their creation. answers: whether a node is Ready, None where there is no such node.
    """
    kept = _annotations(job).get(END)
    if kept is not None:
        return _read(kept)
    last = {index_of(pod): pod for pod in pods}
    seen = {rank: last.get(rank) for rank in range(ranks_of(job, pods))}
    failing = _failing_at(job)
    own = frozenset(rank for rank, pod in seen.items() if pod is not None and _failed_by_itself(pod, failing))
    look = _Look(job, stop_of(job), own, boot, now, answers)
    return tuple(look.member(rank, pod) for rank, pod in seen.items())


def end_text(members: Sequence[MemberStatus]) -> str:
    """The members' end, for the Job to keep once its pods may go."""
    found = []
    for member in members:
        body = {key: value for key, value in asdict(member).items() if value is not None}
        if member.started_at is not None:
            body["started_at"] = member.started_at.isoformat()
        found.append(body)
    return json.dumps(found)


def _read(text: str) -> tuple[MemberStatus, ...]:
    found = []
    for body in json.loads(text):
        started = body.pop("started_at", None)
        at = datetime.fromisoformat(started) if started else None
        cause = Cause(body.pop("cause")) if "cause" in body else None
        found.append(MemberStatus(**body | {"phase": MemberPhase(body["phase"])}, started_at=at, cause=cause))
    return tuple(found)


def trouble_of(
    job: Mapping[str, Any],
    pods: Sequence[Mapping[str, Any]],
    now: datetime,
    limit: timedelta,
    closed: Callable[[str], str | None],
) -> Stop | None:
    """Why a lease that has not started in its time must end: launch_failed where the job is to blame, node_fail else.

    An image that cannot be had is the job's; that no node takes its pod is the cluster's, and waited for only shortly where the
    node it is pinned to takes none. closed: why a node takes none, None if it does.
    """
    pinned = json.loads(_annotations(job).get(NODES, "[]")) if QUEUE not in _labels(job) else []
    for pod in pods:
        reason, message = _waiting(pod)
        since = now - _at(pod["metadata"]["creationTimestamp"])
        if reason is None:
            continue
        rank = index_of(pod)
        why = closed(pinned[rank]) if reason == "Unschedulable" and rank < len(pinned) else None
        if why is not None and since >= min(limit, CLOSED):
            return Stop(cause=Cause.NODE_FAIL, at=now, detail=f"{pinned[rank]}: {why}")
        if since >= limit or reason in HOPELESS:
            cause = Cause.NODE_FAIL if reason == "Unschedulable" else Cause.LAUNCH_FAILED
            return Stop(cause=cause, at=now, detail=f"{reason}: {message}")
    return None


def overdue(job: Mapping[str, Any], members: Sequence[MemberStatus], now: datetime) -> bool:
    """Has the lease run longer than it may, counted from when all its members ran?"""
    limit = _annotations(job).get(LIMIT)
    starts = [m.started_ms for m in members]
    if limit is None or not any(m.phase is MemberPhase.RUNNING for m in members) or None in starts:
        return False
    return to_ms(now) - max(s for s in starts if s is not None) >= int(limit)


@dataclass(frozen=True, slots=True)
class _Look:
    """What all members of a lease share. own: the ranks that failed by themselves; the others were ended for them."""

    job: Mapping[str, Any] | None
    stop: Stop | None
    own: frozenset[int]
    boot: str
    now: datetime
    answers: Callable[[str], bool | None]

    def member(self, rank: int, pod: Mapping[str, Any] | None) -> MemberStatus:
        blank = MemberStatus(rank=rank, phase=MemberPhase.STARTING, boot_id=self.boot)
        if pod is None:
            return self._without(blank)
        state = _state(pod)
        begun = (state.get("running") or state.get("terminated") or {}).get("startedAt")
        if begun and _at(begun) > EPOCH:  # a container that could not be started began in 1970
            blank = replace(blank, started_at=_at(begun), started_ms=to_ms(_at(begun)))
        if state.get("terminated") and (blank.started_ms is not None or not _deleted(pod)):
            return self._terminated(blank, pod, state["terminated"])
        if (gone := self._gone(pod)) is not None:
            return replace(blank, phase=MemberPhase.LOST, detail=gone)
        if state.get("running"):
            return replace(blank, phase=MemberPhase.RUNNING)
        if state.get("terminated") or pod.get("status", {}).get("phase") in ("Failed", "Succeeded") or _never(pod):
            return self._unstarted(blank, pod)
        reason, message = _waiting(pod)
        return replace(blank, detail=f"{reason}: {message}" if reason else None)

    def _without(self, blank: MemberStatus) -> MemberStatus:
        """No pod: none yet, or none any more."""
        if self.job is None:
            return replace(blank, phase=MemberPhase.LOST, detail="its Job was deleted")
        if not is_over(self.job):
            return blank
        if _holds(self.job, "Complete"):
            return replace(blank, phase=MemberPhase.EXITED, exit_code=0, detail="its pod was deleted after it ended")
        return self._never_ran(blank, "its pod was deleted")

    def _unstarted(self, blank: MemberStatus, pod: Mapping[str, Any]) -> MemberStatus:
        status = pod.get("status", {})
        said = ": ".join(part for part in (status.get("reason"), status.get("message")) if part)
        return self._never_ran(blank, said or "its pod was deleted before it started")

    def _never_ran(self, blank: MemberStatus, otherwise: str) -> MemberStatus:
        ended = replace(blank, phase=MemberPhase.EXITED)
        if self.stop is not None and self.stop.cause is Cause.LAUNCH_FAILED:
            return replace(ended, exit_code=NOT_RUN, detail=self.stop.detail)
        if self.stop is not None and self.stop.cause is Cause.NODE_FAIL:
            return replace(blank, phase=MemberPhase.LOST, detail=self.stop.detail)
        if self.stop is not None:
            return replace(ended, cause=self.stop.cause, detail="it was stopped before it started")
        if self._deadline():
            return replace(ended, cause=Cause.TIME_LIMIT, detail="it did not start within its time limit")
        if self.own:
            return replace(ended, cause=Cause.CANCELLED, detail="another member failed before it started")
        return replace(blank, phase=MemberPhase.LOST, detail=otherwise)

    def _terminated(self, blank: MemberStatus, pod: Mapping[str, Any], end: Mapping[str, Any]) -> MemberStatus:
        finished = _at(end["finishedAt"]) if end.get("finishedAt") else None
        ended = replace(
            blank,
            phase=MemberPhase.EXITED,
            ended_ms=to_ms(finished) if finished and blank.started_ms is not None else None,
            exit_code=_code(end["exitCode"]),
            detail=_words(end),
        )
        lost = replace(blank, phase=MemberPhase.LOST)
        disrupted, asked = self._disrupted(pod), _deleted_at(pod)
        if disrupted is not None and (finished is None or finished >= _at(disrupted["lastTransitionTime"])):
            return replace(lost, detail=_disruption(disrupted))
        if not _deleted(pod) or (finished is not None and asked is not None and finished < asked):
            return ended
        if self.stop is not None and (finished is None or finished >= self.stop.at):
            if self.stop.cause is Cause.NODE_FAIL:
                return replace(lost, detail=self.stop.detail)
            cause = Cause.CANCELLED if self.stop.cause is Cause.LAUNCH_FAILED else self.stop.cause
            return replace(ended, cause=cause)
        if self._deadline():
            return replace(ended, cause=Cause.TIME_LIMIT)
        if self.own - {blank.rank}:
            return ended if blank.rank in self.own else replace(ended, cause=Cause.CANCELLED)
        if asked is None and end["exitCode"] < 128:
            return ended
        return replace(lost, detail="its pod was deleted")

    def _gone(self, pod: Mapping[str, Any]) -> str | None:
        """Why the pod will never say anything again; None while it may."""
        node = pod["spec"].get("nodeName")
        if node is None:
            return None
        ready = self.answers(node)
        if ready is None:
            return f"{node}: no such node any more"
        disrupted = self._disrupted(pod)
        if not ready and disrupted is not None:
            return f"{node} does not answer; {_disruption(disrupted)}"
        until = pod["metadata"].get("deletionTimestamp")
        if not ready and until is not None and self.now > _at(until) + OVERDUE:
            return f"{node} does not answer"
        return None

    def _disrupted(self, pod: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The cluster took the pod away before anybody asked us to stop it; in the same second counts as before."""
        found = _condition(pod, "DisruptionTarget")
        if found is None or (self.stop is not None and _at(found["lastTransitionTime"]) > self.stop.at):
            return None
        return found

    def _deadline(self) -> bool:
        """The Job ran out of its own time. A stop sets its deadline to now (kubernetes.py): one that comes before the limit is
        the stop's, by the cluster's clock alone."""
        job = self.job or {}
        found = (_condition(job, kind) for kind in ("FailureTarget", "Failed"))
        at = [_at(c["lastTransitionTime"]) for c in found if c is not None and c.get("reason") == "DeadlineExceeded"]
        if not at or self.stop is None:
            return bool(at)
        started, limit = job.get("status", {}).get("startTime"), _annotations(job).get(LIMIT)
        return started is not None and limit is not None and to_ms(min(at)) - to_ms(_at(started)) >= int(limit)


def _failed_by_itself(pod: Mapping[str, Any], failing: datetime | None) -> bool:
    """It ended badly before anybody deleted it, or the cluster disrupted it: the cause of the others' end.

    failing: since when the Job's controller ends its pods. Where it is not known when a pod was deleted, one that
    ended before that, and not by a signal, ended by itself.
    """
    if _condition(pod, "DisruptionTarget") is not None:
        return True
    end, asked = _state(pod).get("terminated"), _deleted_at(pod)
    if not end or end["exitCode"] == 0:
        return False
    finished = _at(end["finishedAt"]) if end.get("finishedAt") else None
    if not _deleted(pod) or finished is None:
        return not _deleted(pod)
    if asked is not None:
        return finished < asked
    return bool(end["exitCode"] < 128 and (failing is None or finished < failing))


def _failing_at(job: Mapping[str, Any] | None) -> datetime | None:
    """Since when the Job counts as failed and its pods are ended; None while it does not."""
    found = _condition(job, "FailureTarget") or _condition(job, "Failed")
    return _at(found["lastTransitionTime"]) if found else None


def _deleted(pod: Mapping[str, Any]) -> bool:
    return pod["metadata"].get("deletionTimestamp") is not None


def _deleted_at(pod: Mapping[str, Any]) -> datetime | None:
    """When its deletion was asked for, where that can be known: deletionTimestamp is when the grace is over.

    A kubelet's last word is a deletion without grace, and moves the timestamp to when it says so: then it is not known.
    """
    until, grace = pod["metadata"].get("deletionTimestamp"), pod["metadata"].get("deletionGracePeriodSeconds")
    return _at(until) - timedelta(seconds=grace) if until is not None and grace else None


def _never(pod: Mapping[str, Any]) -> bool:
    """Deleted before any node had it, or without grace: nobody will ever say that it ended."""
    return _deleted(pod) and not (pod["spec"].get("nodeName") and pod["metadata"].get("deletionGracePeriodSeconds"))


def _waiting(pod: Mapping[str, Any]) -> tuple[str | None, str]:
    """Why a pod has not started: the kubelet's word, else kube-scheduler's; (None, '') where nobody says."""
    waiting = _state(pod).get("waiting") or {}
    if waiting.get("reason") and waiting["reason"] not in ("ContainerCreating", "PodInitializing"):
        return str(waiting["reason"]), str(waiting.get("message", ""))
    placed = _condition(pod, "PodScheduled", "False")
    if placed is not None and placed.get("reason") == "Unschedulable":
        return "Unschedulable", str(placed.get("message", ""))
    return None, ""


def _state(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    found = pod.get("status", {}).get("containerStatuses") or [{}]
    state: Mapping[str, Any] = found[0].get("state") or {}
    return state


def _condition(thing: Mapping[str, Any] | None, kind: str, status: str = "True") -> Mapping[str, Any] | None:
    found = ((thing or {}).get("status") or {}).get("conditions") or ()
    return next((c for c in found if c["type"] == kind and c["status"] == status), None)


def _holds(job: Mapping[str, Any], kind: str) -> bool:
    return _condition(job, kind) is not None


def _annotations(thing: Mapping[str, Any] | None) -> Mapping[str, str]:
    found: Mapping[str, str] = ((thing or {}).get("metadata") or {}).get("annotations") or {}
    return found


def _labels(thing: Mapping[str, Any]) -> Mapping[str, str]:
    found: Mapping[str, str] = thing["metadata"].get("labels") or {}
    return found


def _disruption(condition: Mapping[str, Any]) -> str:
    return ": ".join(part for part in (condition.get("reason"), condition.get("message")) if part)


def _words(end: Mapping[str, Any]) -> str | None:
    if end.get("reason") in (None, "Completed", "Error"):
        return None
    return ": ".join(str(part) for part in (end["reason"], end.get("message")) if part)


def _code(code: int) -> int:
    return 128 - code if 128 < code <= 128 + SIGNALS else code


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
