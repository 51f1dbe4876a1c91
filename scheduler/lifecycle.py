"""The job state table: (state, event) → state. No transition leaves a terminal state."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence


class State(enum.StrEnum):
    SUBMITTED = "SUBMITTED"
    PENDING = "PENDING"
    RESERVED = "RESERVED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    RECOVERING = "RECOVERING"
    COMPLETING = "COMPLETING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    DEADLINE = "DEADLINE"
    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    NO_CAPACITY = "NO_CAPACITY"
    REJECTED = "REJECTED"

    @property
    def terminal(self) -> bool:
        return self in TERMINAL

    @property
    def holds_devices(self) -> bool:
        return self in HOLDING


class Event(enum.StrEnum):
    EVALUATED = "evaluated"
    HELD = "held"
    LET_GO = "let_go"
    REJECTED = "rejected"
    RESERVED = "reserved"
    LAUNCHED = "launched"
    MEMBERS_RUNNING = "members_running"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    INTERRUPTED = "interrupted"
    REQUEUED = "requeued"
    STOPPING = "stopping"
    EXITED_ZERO = "exited_zero"
    EXITED_NONZERO = "exited_nonzero"
    CANCELLED = "cancelled"
    TIME_LIMIT = "time_limit"
    DEADLINE_PASSED = "deadline_passed"
    BUDGET_EXHAUSTED = "budget_exhausted"
    NODE_FAILED = "node_failed"
    PREEMPTED = "preempted"
    CAPACITY_WITHDRAWN = "capacity_withdrawn"


S, E = State, Event
_ENDS: Mapping[Event, State] = {
    E.EXITED_ZERO: S.SUCCEEDED,
    E.EXITED_NONZERO: S.FAILED,
    E.CANCELLED: S.CANCELLED,
    E.TIME_LIMIT: S.TIMEOUT,
    E.DEADLINE_PASSED: S.DEADLINE,
    E.BUDGET_EXHAUSTED: S.BUDGET_EXHAUSTED,
    E.NODE_FAILED: S.NODE_FAIL,
    E.PREEMPTED: S.PREEMPTED,
}
_WAITING_ENDS: Mapping[Event, State] = {
    E.CANCELLED: S.CANCELLED,
    E.DEADLINE_PASSED: S.DEADLINE,
    E.CAPACITY_WITHDRAWN: S.NO_CAPACITY,
    E.REJECTED: S.REJECTED,
    E.BUDGET_EXHAUSTED: S.BUDGET_EXHAUSTED,
}

TABLE: Mapping[State, Mapping[Event, State]] = {
    S.SUBMITTED: {
        E.EVALUATED: S.PENDING,
        E.HELD: S.SUBMITTED,
        E.LET_GO: S.SUBMITTED,
        E.RESERVED: S.RESERVED,
        **_WAITING_ENDS,
    },
    S.PENDING: {
        E.EVALUATED: S.PENDING,
        E.HELD: S.PENDING,
        E.LET_GO: S.PENDING,
        E.RESERVED: S.RESERVED,
        **_WAITING_ENDS,
    },
    S.RESERVED: {
        E.LAUNCHED: S.STARTING,
        E.STOPPING: S.COMPLETING,
        E.REQUEUED: S.PENDING,
        E.REJECTED: S.REJECTED,
        **_ENDS,
    },
    S.STARTING: {
        E.MEMBERS_RUNNING: S.RUNNING,
        E.STOPPING: S.COMPLETING,
        E.INTERRUPTED: S.RECOVERING,
        E.REQUEUED: S.PENDING,
        **_ENDS,
    },
    S.RUNNING: {E.SUSPENDED: S.SUSPENDED, E.INTERRUPTED: S.RECOVERING, E.STOPPING: S.COMPLETING, **_ENDS},
    S.SUSPENDED: {E.RESUMED: S.RUNNING, E.INTERRUPTED: S.RECOVERING, E.STOPPING: S.COMPLETING, **_ENDS},
    S.RECOVERING: {E.REQUEUED: S.PENDING, E.LAUNCHED: S.STARTING, E.MEMBERS_RUNNING: S.RUNNING, **_ENDS},
    S.COMPLETING: {E.INTERRUPTED: S.RECOVERING, **_ENDS},
}
TERMINAL = frozenset(State) - frozenset(TABLE)
HOLDING = frozenset({S.RESERVED, S.STARTING, S.RUNNING, S.SUSPENDED, S.RECOVERING, S.COMPLETING})


class InvalidTransition(Exception):
    """A broken promise: an event reached a job in a state that has no answer to it. Carries the job's story."""

    def __init__(self, job: str, state: State, event: Event, story: Sequence[str]) -> None:
        self.job, self.state, self.event, self.story = job, state, event, tuple(story)
        told = " → ".join(self.story) or "no events yet"
        super().__init__(f"job {job}: {event} cannot happen in {state}; its story so far: {told}")


def advance(job: str, state: State, event: Event, story: Sequence[str] = ()) -> State:
    """The state after `event`; raises InvalidTransition with the job's story where the table has none."""
    try:
        return TABLE[state][event]
    except KeyError:
        raise InvalidTransition(job, state, event, story) from None
