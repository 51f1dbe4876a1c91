"""Status: what a job's entry at the head says of a lease's members. Pure.

The driver keeps its members under the entry's metadata key `yisuan` (ray_driver.py); the entry itself says whether the
driver lives. A member that had not ended when the driver had is lost: all of it died with the driver.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from scheduler.lease import Cause, MemberPhase, MemberStatus, Report, report_of

TERMINAL = ("SUCCEEDED", "STOPPED", "FAILED")  # ray.job_submission.JobStatus.is_terminal
LINE = "yisuan {"
PHASES = {"starting", "running", "exited", "lost"}


def told_by(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the driver last wrote into the job's entry; None when it has written nothing that can be read."""
    metadata = row.get("metadata")
    return _told(metadata.get("yisuan")) if isinstance(metadata, dict) else None


def told_in(log: str) -> dict[str, Any] | None:
    """What the driver last printed; None when it has printed nothing that can be read."""
    for line in reversed(log.splitlines()):
        if line.startswith(LINE):
            return _told(line.partition(" ")[2])
    return None


def complete(told: Mapping[str, Any] | None) -> bool:
    """Whether every member is said to have ended."""
    return bool(told) and all(m["phase"] in ("exited", "lost") for m in told["members"])  # type: ignore[index]


def ended(told: Mapping[str, Any] | None, ranks: Sequence[int], row: Mapping[str, Any] | None, why: str) -> list[Any]:
    """The members after their driver has ended or the head has forgotten it: those that had not ended are lost."""
    known = {m["rank"]: m for m in told["members"]} if told else {}
    found = []
    for rank in ranks:
        member = dict(known.get(rank) or {"rank": rank, "phase": "starting"})
        if member["phase"] not in ("exited", "lost"):
            began = "started_ms" in member
            failed = {} if began or row is None else {"cause": Cause.LAUNCH_FAILED.value}
            member.update(phase="lost", detail=why, **failed)
        found.append(member)
    return found


def why_over(row: Mapping[str, Any]) -> str:
    """Why a job is over, in the head's own words, one line."""
    message = str(row.get("message") or "")
    lines = [line.strip() for line in message.splitlines() if line.strip() and not line.startswith(LINE)]
    kind = row.get("error_type") or row["status"]
    return f"the Ray job ended: {kind}{': ' + lines[0][:300] if lines else ''}"


def statuses(members: Sequence[Mapping[str, Any]], boot_id: str) -> tuple[MemberStatus, ...]:
    """One status a rank, in rank order; milliseconds are of the driver's clock, which boot_id names."""
    return tuple(_status(member, boot_id) for member in sorted(members, key=lambda m: int(m["rank"])))


def report_in(told: Mapping[str, Any] | None) -> Report | None:
    """What the job last wrote of itself, while a member runs; None where that is no report."""
    if told is None or not any(m["phase"] == "running" for m in told["members"]):
        return None
    try:
        return report_of(json.loads(told.get("report") or "null"))
    except (ValueError, TypeError, RecursionError):
        return None


def _status(member: Mapping[str, Any], boot_id: str) -> MemberStatus:
    started = member.get("started_ms")
    return MemberStatus(
        rank=int(member["rank"]),
        phase=MemberPhase(member["phase"]),
        pid=member.get("pid"),
        boot_id=boot_id,
        started_at=None if started is None else datetime.fromtimestamp(started / 1000, UTC),
        started_ms=started,
        ended_ms=member.get("ended_ms"),
        exit_code=member.get("exit_code"),
        cause=Cause(member["cause"]) if member.get("cause") else None,
        detail=member.get("detail"),
    )


def _told(text: Any) -> dict[str, Any] | None:
    """The driver's words, None where they are not: whoever reaches the head can write there."""
    try:
        body = json.loads(text)
        members = body["members"]
        fit = all(_fits(m) for m in members) and sorted(m["rank"] for m in members) == list(range(len(members)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return dict(body) if members and fit else None


def _fits(member: Mapping[str, Any]) -> bool:
    whole = all(type(member.get(k, 0)) is int for k in ("rank", "pid", "started_ms", "ended_ms"))
    cause, code = member.get("cause"), member.get("exit_code")
    return (
        whole
        and member["phase"] in PHASES
        and (cause is None or cause in set(Cause))
        and (code is None or type(code) is int)
        and (member.get("started_ms") is not None or member["phase"] != "running")
        and all(member.get(k) is None or isinstance(member[k], str) for k in ("detail", "log", "node_id"))
    )
