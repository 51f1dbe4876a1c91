"""What a soak leaves behind, and the laws it must obey: pure functions over histories, each of which names what broke it.

Times are UTC milliseconds (`*_ms`), but a member's own intervals, which are of the host's monotonic clock.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scheduler.lifecycle import State

Row = Mapping[str, Any]
PLATFORM_CAUSES = ("node_fail", "launch_failed", "preempted")
TERMINAL = frozenset(state.value for state in State if state.terminal)
BILL_SLACK_MS = (
    5_000  # between what a member wrote of itself and what is billed: its start-up, a kubelet's whole seconds
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One request and its answer. outcome: ok, failed (a 4xx, which promises that nothing was done) or unknown."""

    outcome: str
    id: str | None = None
    status: int | None = None
    said: str = ""


@dataclass(slots=True, kw_only=True)
class Op:
    """What a client wanted done once: all tries bear the same Idempotency-Key. kind: submit or cancel.

    name: of the job it submits, its own; job: the id it cancels. expected: the states the job may end in.
    """

    key: str
    kind: str
    name: str = ""
    job: str = ""
    expected: tuple[str, ...] = ()
    exit_code: int | None = None
    tries: list[Try] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """ok if any try was, else what the last one was; unknown before the first."""
        if any(one.outcome == "ok" for one in self.tries):
            return "ok"
        return self.tries[-1].outcome if self.tries else "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRun:
    """One process of a member, by its own record. ended_ms: its last sign of life; code: None if it did not say that it ends."""

    lease: str
    rank: int
    run: str
    started_ms: int
    ended_ms: int
    code: int | None
    shown: tuple[str, ...] = ()
    began_at_ms: int = 0
    ended_at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Everything that is looked at when all is still."""

    ops: Sequence[Op] = ()
    jobs: Sequence[Row] = ()
    leases: Sequence[Row] = ()
    lease_devices: Sequence[Row] = ()
    usage: Sequence[Row] = ()
    holds: Sequence[Row] = ()
    members: Sequence[MemberRun] = ()
    audit: str | None = None
    left: Sequence[str] = ()
    ended_badly: Sequence[str] = ()
    members_may_die: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A law and the facts that break it."""

    law: str
    facts: Mapping[str, Any]


def check(history: History) -> list[Violation]:
    """Every violation of every law; [] = all hold."""
    return [found for law in LAWS.values() for found in law(history)]


def member_runs(lines: Iterable[Row]) -> list[MemberRun]:
    """The runs that the lines of members' files tell of, in order of their start."""
    by_run: dict[tuple[str, int, str], list[Row]] = defaultdict(list)
    for line in lines:
        by_run[line["lease"], line["rank"], line["run"]].append(line)
    found = []
    for (lease, rank, run), said in by_run.items():
        first, last = min(said, key=lambda one: one["boot_ms"]), max(said, key=lambda one: one["boot_ms"])
        stops = [one["code"] for one in said if one["what"] == "stop"]
        shown = next((one["shown"] for one in said if one.get("shown")), "")
        found.append(
            MemberRun(
                lease=lease, rank=rank, run=run, started_ms=first["boot_ms"], ended_ms=last["boot_ms"],
                code=stops[-1] if stops else None, shown=tuple(shown.split(",")) if shown else (),
                began_at_ms=first["at_ms"], ended_at_ms=last["at_ms"],
            )
        )  # fmt: skip
    return sorted(found, key=lambda one: (one.started_ms, one.lease, one.rank))


# --- what clients were told -------------------------------------------------------------------------------------------


def answers_hold(history: History) -> Iterator[Violation]:
    """An acknowledged submit is there, under the id that was told; a refused one is not; an unknown one is there at most once."""
    by_name: dict[str, list[Row]] = defaultdict(list)
    for job in history.jobs:
        by_name[job["name"]].append(job)
    submits = [op for op in history.ops if op.kind == "submit"]
    for op in submits:
        there = [job["id"] for job in by_name.get(op.name, ())]
        told = sorted({one.id for one in op.tries if one.outcome == "ok" and one.id is not None})
        facts = {"name": op.name, "key": op.key, "told": told, "there": there}
        if op.outcome == "ok" and (len(told) != 1 or there != told):
            yield Violation(law="acknowledged_submit_is_there_once", facts=facts)
        elif op.outcome == "failed" and there:
            yield Violation(law="refused_submit_is_not_there", facts=facts)
        elif op.outcome == "unknown" and len(there) > 1:
            yield Violation(law="unknown_submit_is_there_at_most_once", facts=facts)
    unasked = set(by_name) - {op.name for op in submits}
    for name in sorted(unasked):
        yield Violation(law="nothing_is_there_that_nobody_submitted", facts={"name": name})


def cancels_hold(history: History) -> Iterator[Violation]:
    """A job whose cancel was acknowledged bears it; one that nobody asked to cancel is not cancelled."""
    by_id = {job["id"]: job for job in history.jobs}
    asked: dict[str, list[str]] = defaultdict(list)
    for op in history.ops:
        if op.kind == "cancel":
            asked[op.job].append(op.outcome)
    for id_, outcomes in asked.items():
        job = by_id.get(id_)
        if "ok" in outcomes and (job is None or not _cancelled(job)):
            yield Violation(law="acknowledged_cancel_is_there", facts={"job": id_, "state": job and job["state"]})
        if set(outcomes) == {"failed"} and job is not None and _cancelled(job):
            yield Violation(law="refused_cancel_is_not_there", facts={"job": id_, "state": job["state"]})
    for id_, job in by_id.items():
        if _cancelled(job) and id_ not in asked:
            yield Violation(law="nobody_cancelled_it", facts={"job": id_, "state": job["state"]})


def _cancelled(job: Row) -> bool:
    return job["state"] == "CANCELLED" or job["cancel_requested_at_ms"] is not None


def ends_hold(history: History) -> Iterator[Violation]:
    """Every job has ended, in a state that its kind can end in, with the exit code that it was told to have."""
    wanted = {op.name: op for op in history.ops if op.kind == "submit"}
    cancelled = {op.job for op in history.ops if op.kind == "cancel" and op.outcome != "failed"}
    for job in history.jobs:
        facts = {"job": job["id"]} | {key: job[key] for key in ("name", "state", "exit_code", "cause")}
        if job["state"] not in TERMINAL:
            yield Violation(law="every_job_ends", facts=facts)
            continue
        op = wanted.get(job["name"])
        if op is None or not op.expected:
            continue
        allowed = {*op.expected, *(["CANCELLED"] if job["id"] in cancelled else [])}
        allowed |= {"NODE_FAIL"} if history.members_may_die else set()
        if job["state"] not in allowed:
            yield Violation(law="a_job_ends_as_it_must", facts=facts | {"allowed": sorted(allowed)})
        if job["state"] == "FAILED" and op.exit_code is not None and job["exit_code"] != op.exit_code:
            yield Violation(law="a_job_ends_as_it_must", facts=facts | {"wanted_code": op.exit_code})


# --- devices ----------------------------------------------------------------------------------------------------------


def leases_hold(history: History) -> Iterator[Violation]:
    """No device was under two open leases, and none is under one at the end."""
    lease_of = {row["id"]: row for row in history.leases}
    by_device: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for row in history.lease_devices:
        lease = lease_of[row["lease"]]
        if lease["released_at_ms"] is None or not row["released"]:
            facts = {"lease": row["lease"], "device": row["device"], "released_at_ms": lease["released_at_ms"]}
            yield Violation(law="no_lease_stays_open", facts=facts)
            continue
        by_device[row["device"]].append((lease["reserved_at_ms"], lease["released_at_ms"], row["lease"]))
    yield from _overlaps("no_device_under_two_leases", by_device)


def members_hold(history: History) -> Iterator[Violation]:
    """No device had two members at a time: by the places that leases name, and by what members were shown."""
    place = {(row["lease"], row["rank"]): row["node"] for row in history.lease_devices}
    granted: dict[tuple[str, int], list[str]] = defaultdict(list)
    for row in history.lease_devices:
        granted[row["lease"], row["rank"]].append(row["device"])
    by_device: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for run in history.members:
        at = run.lease, run.rank
        if at not in granted:
            yield Violation(law="no_member_without_a_lease", facts={"lease": run.lease, "rank": run.rank})
            continue
        name = f"{run.lease}/{run.rank}"
        for device in granted[at]:
            by_device[device].append((run.started_ms, run.ended_ms, name))
        for index in run.shown:
            by_device[f"{place[at]}#{index}"].append((run.started_ms, run.ended_ms, name))
    yield from _overlaps("no_device_with_two_members", by_device)


def _overlaps(law: str, by_device: Mapping[str, list[tuple[int, int, str]]]) -> Iterator[Violation]:
    for device, intervals in sorted(by_device.items()):
        latest: tuple[int, int, str] | None = None
        for one in sorted(intervals):
            if latest is not None and one[0] < latest[1] and one[2] != latest[2]:
                yield Violation(law=law, facts={"device": device, "first": latest, "second": one})
            if latest is None or one[1] > latest[1]:
                latest = one


# --- once -------------------------------------------------------------------------------------------------------------


def once_holds(history: History) -> Iterator[Violation]:
    """A member starts at most once; of a job that succeeded each did, and said 0; what ended by itself is not run again."""
    starts = Counter((run.lease, run.rank) for run in history.members)
    for (lease, rank), count in sorted(starts.items()):
        if count > 1:
            yield Violation(law="a_member_runs_once", facts={"lease": lease, "rank": rank, "starts": count})
    ranks: dict[str, set[int]] = defaultdict(set)
    for row in history.lease_devices:
        ranks[row["lease"]].add(row["rank"])
    codes = {(run.lease, run.rank): run.code for run in history.members}
    by_job: dict[str, list[Row]] = defaultdict(list)
    for lease in history.leases:
        by_job[lease["job"]].append(lease)
    for job in history.jobs:
        mine = sorted(by_job.get(job["id"], ()), key=lambda one: int(one["id"].rpartition(".")[2]))
        numbers = [int(one["id"].rpartition(".")[2]) for one in mine]
        if numbers != list(range(1, len(mine) + 1)) or job["attempt"] != len(mine):
            facts = {"job": job["id"], "attempt": job["attempt"], "leases": numbers}
            yield Violation(law="attempts_are_counted", facts=facts)
        for earlier in mine[:-1]:
            if earlier["cause"] not in PLATFORM_CAUSES:
                facts = {"lease": earlier["id"], "cause": earlier["cause"]}
                yield Violation(law="only_what_the_platform_ended_runs_again", facts=facts)
        if job["state"] in ("SUCCEEDED", "FAILED") and not mine:
            yield Violation(law="what_ended_has_run", facts={"job": job["id"], "state": job["state"]})
        elif job["state"] == "SUCCEEDED":
            last = mine[-1]["id"]
            said = {rank: codes.get((last, rank), "never started") for rank in sorted(ranks[last])}
            if set(said.values()) != {0}:
                yield Violation(law="what_succeeded_has_run", facts={"lease": last, "members": said})


# --- usage and money --------------------------------------------------------------------------------------------------


def usage_holds(history: History) -> Iterator[Violation]:
    """The records of a lease tile its life without a gap or an overlap, once; what is billed is what its members were there."""
    by_lease: dict[str, list[Row]] = defaultdict(list)
    for row in history.usage:
        by_lease[row["lease"]].append(row)
    runs: dict[str, list[MemberRun]] = defaultdict(list)
    for run in history.members:
        runs[run.lease].append(run)
    known = {lease["id"] for lease in history.leases}
    for lease in sorted(set(by_lease) - known):
        yield Violation(law="usage_is_of_a_lease", facts={"lease": lease})
    for lease in history.leases:
        mine = sorted(by_lease.get(lease["id"], ()), key=lambda row: (row["start_ms"], row["end_ms"]))
        shown = [(row["kind"], row["start_ms"], row["end_ms"]) for row in mine]
        facts = {key: lease[key] for key in ("id", "cause", "reserved_at_ms", "released_at_ms")} | {"records": shown}
        if not mine:
            yield Violation(law="every_lease_has_usage", facts=facts)
            continue
        long = [row for row in mine if row["end_ms"] > row["start_ms"]]
        if len(set(shown)) != len(shown):
            yield Violation(law="usage_is_there_once", facts=facts)
        if any(one["end_ms"] != other["start_ms"] for one, other in itertools.pairwise(long)):
            yield Violation(law="usage_has_no_gap_and_no_overlap", facts=facts)
        if mine[0]["start_ms"] > lease["reserved_at_ms"] + (1000 if runs[lease["id"]] else 0):
            yield Violation(law="usage_begins_with_its_lease", facts=facts)
        if lease["released_at_ms"] is not None and mine[-1]["end_ms"] > lease["released_at_ms"] + 1000:
            yield Violation(law="usage_ends_with_its_lease", facts=facts)
        billed = sum(row["end_ms"] - row["start_ms"] for row in mine if row["kind"] == "run")
        if billed and lease["cause"] in PLATFORM_CAUSES and lease["cause"] != "preempted":
            yield Violation(law="what_the_platform_lost_costs_nothing", facts=facts)
        yield from _billed_as_seen(billed, runs[lease["id"]], facts)


def _billed_as_seen(billed: int, runs: Sequence[MemberRun], facts: Mapping[str, Any]) -> Iterator[Violation]:
    if not billed or not runs:
        if billed:
            yield Violation(law="what_is_billed_has_run", facts=facts)
        return
    seen = max(run.ended_at_ms for run in runs) - max(run.began_at_ms for run in runs)
    if abs(billed - max(0, seen)) > BILL_SLACK_MS:
        yield Violation(law="what_is_billed_has_run", facts={**facts, "billed_ms": billed, "seen_ms": seen})


def money_holds(history: History) -> Iterator[Violation]:
    """No money is held when nothing runs, and the audit finds nothing."""
    for row in history.holds:
        if row["state"] == "held":
            yield Violation(law="nothing_is_held_when_idle", facts=dict(row))
    if history.audit is not None:
        yield Violation(law="the_audit_is_clean", facts={"said": history.audit})


def nothing_left(history: History) -> Iterator[Violation]:
    """No process, job or pod of a lease is there, and every process of the platform ended in order."""
    for one in history.left:
        yield Violation(law="nothing_is_left_behind", facts={"what": one})
    for one in history.ended_badly:
        yield Violation(law="the_platform_ends_in_order", facts={"what": one})


LAWS = {
    "answers": answers_hold,
    "cancels": cancels_hold,
    "ends": ends_hold,
    "leases": leases_hold,
    "members": members_hold,
    "once": once_holds,
    "usage": usage_holds,
    "money": money_holds,
    "left": nothing_left,
}
