"""Gating: what must happen before a job may start, whatever is free: the jobs it depends on, and its array's turn. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from scheduler.job import Dependency
from scheduler.lifecycle import State
from scheduler.refusal import Refusal
from scheduler.snapshot import Gate


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A job of the same firm that a dependency may mean. array: the id its array's elements share, None = it has none."""

    id: str
    name: str
    submitted_ms: int
    state: State
    array: str | None = None


def gate_of(
    job: str,
    submitted_ms: int,
    dependencies: Sequence[Dependency],
    known: Mapping[str, Sequence[Known]],
    array: str | None = None,
) -> Gate | Refusal | None:
    """None when every dependency is met; a Gate on those that may still be; a Refusal when one never will.

    known: the firm's jobs by id, by name and by their array's id. A name that several jobs have means the last one submitted
    before this job, or where there is none the first one after it; of an array it means all elements. array: the job's own.
    A job nobody has submitted yet is waited for.
    """
    waits = []
    for one in dependencies:
        found = meant(job, submitted_ms, known.get(one.job, ()), array)
        met = _met(one.when, [each.state for each in found]) if found else None
        if met is None:
            waits.append(one.job)
        elif not met:
            badly = [each.state for each in found if _badly(each.state)]
            state = badly[0] if badly else State.SUCCEEDED
            return Refusal(code="DEPENDENCY_NEVER_MET", facts={"job": one.job, "when": one.when, "state": state.value})
    return Gate(code="DEPENDENCY", on=tuple(sorted(set(waits)))) if waits else None


def meant(job: str, submitted_ms: int, named: Sequence[Known], array: str | None = None) -> tuple[Known, ...]:
    """The one of these that a dependency of this job means, or all elements of the array it means; never its own."""
    others = [one for one in named if one.id != job and (array is None or one.array != array)]
    others.sort(key=lambda one: (one.submitted_ms, one.id))
    before = [one for one in others if one.submitted_ms <= submitted_ms]
    found = before[-1] if before else next(iter(others), None)
    if found is None:
        return ()
    return (found,) if found.array is None else tuple(one for one in others if one.array == found.array)


def _met(when: str, states: Collection[State]) -> bool | None:
    """None while it may still be. failed: of them all one ended in any other way than succeeded."""
    ended = all(state.terminal for state in states)
    badly = any(_badly(state) for state in states)
    match when:
        case "succeeded":
            return False if badly else True if ended else None
        case "failed":
            return badly if ended else None
        case _:
            return True if ended else None


def _badly(state: State) -> bool:
    return state.terminal and state is not State.SUCCEEDED


def turns_of(array: str, parallel: int, running: int, ready: Sequence[str]) -> dict[str, Gate]:
    """Of an array's elements that could start, in order, those that must wait until fewer of it run, each with its gate.

    running: elements that hold devices now. Those left out and the running ones are together at most `parallel`, unless
    more run already.
    """
    return {job: Gate(code="ARRAY_LIMIT", on=(array,)) for job in ready[max(0, parallel - running) :]}
