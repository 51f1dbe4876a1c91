"""Gating: what must happen before a job may start, whatever is free: the jobs it depends on. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scheduler.job import Dependency
from scheduler.lifecycle import State
from scheduler.refusal import Refusal
from scheduler.snapshot import Gate


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A job of the same firm that a dependency may mean."""

    id: str
    name: str
    submitted_ms: int
    state: State


def gate_of(
    job: str, submitted_ms: int, dependencies: Sequence[Dependency], known: Mapping[str, Sequence[Known]]
) -> Gate | Refusal | None:
    """None when every dependency is met; a Gate on those that may still be; a Refusal when one never will.

    known: the firm's jobs by id and by name. A name that several jobs have means the last one submitted before this job,
    or where there is none the first one after it. A job nobody has submitted yet is waited for.
    """
    waits = []
    for one in dependencies:
        found = meant(job, submitted_ms, known.get(one.job, ()))
        if found is None or not found.state.terminal:
            waits.append(one.job)
        elif not _met(one.when, found.state):
            facts = {"job": one.job, "when": one.when, "state": found.state.value}
            return Refusal(code="DEPENDENCY_NEVER_MET", facts=facts)
    return Gate(code="DEPENDENCY", on=tuple(sorted(set(waits)))) if waits else None


def meant(job: str, submitted_ms: int, named: Sequence[Known]) -> Known | None:
    """The one of these that a dependency of this job means."""
    others = sorted((one for one in named if one.id != job), key=lambda one: (one.submitted_ms, one.id))
    before = [one for one in others if one.submitted_ms <= submitted_ms]
    return before[-1] if before else next(iter(others), None)


def _met(when: str, state: State) -> bool:
    """failed: it ended in any other way than succeeded."""
    match when:
        case "succeeded":
            return state is State.SUCCEEDED
        case "failed":
            return state is not State.SUCCEEDED
        case _:
            return True
