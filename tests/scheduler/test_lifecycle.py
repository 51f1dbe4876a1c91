"""The state table: every road ends, no road leads out of an end, and a wrong turn tells the story."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.lifecycle import HOLDING, TABLE, TERMINAL, Event, InvalidTransition, State, advance


@given(events=st.lists(st.sampled_from(list(Event)), max_size=30))
def test_no_transition_leaves_a_terminal_state(events: list[Event]) -> None:
    """Whatever events arrive in whatever order, an ended job stays as it ended."""
    state = State.SUBMITTED
    for event in events:
        if state.terminal:
            with pytest.raises(InvalidTransition):
                advance("j", state, event)
            continue
        if event in TABLE[state]:
            state = advance("j", state, event)


def test_every_state_is_reachable_and_every_open_state_can_end() -> None:
    reached, frontier = {State.SUBMITTED}, [State.SUBMITTED]
    while frontier:
        for after in TABLE.get(frontier.pop(), {}).values():
            if after not in reached:
                reached.add(after)
                frontier.append(after)

    assert set(State) == reached
    for state in TABLE:
        assert State.CANCELLED in TABLE[state].values(), f"a user cannot stop a job in {state}"


def test_terminal_states_are_the_design_s() -> None:
    names = "SUCCEEDED FAILED CANCELLED TIMEOUT DEADLINE BUDGET_EXHAUSTED NODE_FAIL PREEMPTED NO_CAPACITY REJECTED"

    assert {State(name) for name in names.split()} == TERMINAL
    assert not (TERMINAL & HOLDING), "an ended job holds nothing"


def test_an_invalid_transition_carries_the_job_s_story() -> None:
    with pytest.raises(
        InvalidTransition, match=r"job j1: launched cannot happen in SUCCEEDED.*submitted → reserved"
    ) as caught:
        advance("j1", State.SUCCEEDED, Event.LAUNCHED, ["submitted", "reserved"])

    assert caught.value.story == ("submitted", "reserved")
