"""The soak's checker on made-up histories: a good one breaks no law, and each law broken once is found. And its plan and proxy."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.soak_history import History, MemberRun, Op, Try, check, member_runs
from benchmarks.soak_nemesis import EVERYWHERE, OF_BACKEND, Proxy, plan

OK, FAILED, UNKNOWN = Try(outcome="ok", id="job_1"), Try(outcome="failed", status=422), Try(outcome="unknown")


def job(number: int, **changed: Any) -> dict[str, Any]:
    body = {"id": f"job_{number}", "name": f"short-0-{number}", "state": "SUCCEEDED", "exit_code": 0, "cause": "exited"}
    return {**body, "attempt": 1, "cancel_requested_at_ms": None, **changed}


def lease(number: int, attempt: int = 1, **changed: Any) -> dict[str, Any]:
    body = {"id": f"job_{number}.{attempt}", "job": f"job_{number}", "cause": "exited", "exit_code": 0}
    start = number * 100_000
    return {**body, "reserved_at_ms": start, "released_at_ms": start + 12_000, **changed}


def place(number: int, device: str = "d0", **changed: Any) -> dict[str, Any]:
    return {"lease": f"job_{number}.1", "device": device, "node": "n1", "rank": 0, "idx": 0, "released": 1, **changed}


def usage(number: int, kind: str, since: int, until: int, **changed: Any) -> dict[str, Any]:
    start = number * 100_000
    return {"lease": f"job_{number}.1", "kind": kind, "start_ms": start + since, "end_ms": start + until, **changed}


def member(number: int, **changed: Any) -> MemberRun:
    start = number * 100_000 + 1_000
    run = MemberRun(
        lease=f"job_{number}.1", rank=0, run=f"r{number}", started_ms=start, ended_ms=start + 10_000, code=0, shown=("0",),
        began_at_ms=start, ended_at_ms=start + 10_000,
    )  # fmt: skip
    return replace(run, **changed)


def submit(number: int, *tries: Try, **changed: Any) -> Op:
    told = tuple(replace(one, id=f"job_{number}") if one.outcome == "ok" else one for one in tries or (OK,))
    return Op(
        key=f"k{number}",
        kind="submit",
        name=f"short-0-{number}",
        expected=("SUCCEEDED",),
        exit_code=0,
        tries=list(told),
        **changed,
    )


def good() -> History:
    """Two jobs one after the other on one device, a refused submit, and an unknown one that is not there."""
    return History(
        ops=[submit(1), submit(2, UNKNOWN, OK), submit(3, FAILED), submit(4, UNKNOWN)],
        jobs=[job(1), job(2)],
        leases=[lease(1), lease(2)],
        lease_devices=[place(1), place(2)],
        usage=[
            usage(n, kind, *at) for n in (1, 2) for kind, at in (("starting", (0, 1_000)), ("run", (1_000, 11_000)))
        ],
        holds=[{"lease": "job_1.1", "amount_fen": 3, "state": "posted"}],
        members=[member(1), member(2)],
    )


def broken(**changed: Any) -> set[str]:
    return {found.law for found in check(replace(good(), **changed))}


def test_a_good_history_breaks_no_law() -> None:
    assert check(good()) == []
    assert check(History()) == []


BAD: dict[str, dict[str, Any]] = {
    "acknowledged_submit_is_there_once": {"ops": [submit(1), submit(2), submit(5)]},
    "refused_submit_is_not_there": {"ops": [submit(1), submit(2, FAILED)]},
    "unknown_submit_is_there_at_most_once": {
        "ops": [submit(1), submit(2, UNKNOWN)],
        "jobs": [job(1), job(2), job(2, id="job_9", attempt=0, state="REJECTED")],
    },
    "nothing_is_there_that_nobody_submitted": {"ops": [submit(1)]},
    "acknowledged_cancel_is_there": {
        "ops": [submit(1), submit(2), Op(key="c", kind="cancel", job="job_1", tries=[OK])]
    },
    "refused_cancel_is_not_there": {
        "ops": [submit(1), submit(2), Op(key="c", kind="cancel", job="job_1", tries=[FAILED])],
        "jobs": [job(1, cancel_requested_at_ms=5), job(2)],
    },
    "nobody_cancelled_it": {"jobs": [job(1, cancel_requested_at_ms=5), job(2)]},
    "every_job_ends": {"jobs": [job(1), job(2, state="RUNNING")]},
    "a_job_ends_as_it_must": {"jobs": [job(1), job(2, state="NODE_FAIL")]},
    "no_lease_stays_open": {"leases": [lease(1), lease(2, released_at_ms=None)]},
    "no_device_under_two_leases": {"leases": [lease(1), lease(2, reserved_at_ms=105_000)]},
    "no_device_with_two_members": {"members": [member(1, ended_ms=250_000), member(2)]},
    "no_member_without_a_lease": {"members": [member(1), member(2), member(7)]},
    "a_member_runs_once": {
        "members": [member(1), member(2), member(2, run="again", started_ms=230_000, ended_ms=231_000)]
    },
    "attempts_are_counted": {"jobs": [job(1), job(2, attempt=2)]},
    "only_what_the_platform_ended_runs_again": {
        "jobs": [job(1), job(2, attempt=2)],
        "leases": [lease(1), lease(2), lease(2, 2)],
    },
    "what_ended_has_run": {"leases": [lease(1)], "lease_devices": [place(1)], "usage": [], "members": [member(1)]},
    "what_succeeded_has_run": {"members": [member(1), member(2, code=None)]},
    "usage_is_of_a_lease": {"usage": [*good().usage, usage(8, "run", 0, 1)]},
    "every_lease_has_usage": {"usage": good().usage[:2]},
    "usage_is_there_once": {"usage": [*good().usage, good().usage[1]]},
    "usage_has_no_gap_and_no_overlap": {"usage": [*good().usage[:3], usage(2, "run", 4_000, 11_000)]},
    "usage_begins_with_its_lease": {"usage": [*good().usage[:2], usage(2, "run", 2_500, 11_000)]},
    "usage_ends_with_its_lease": {"usage": [*good().usage[:3], usage(2, "run", 1_000, 13_500)]},
    "what_is_billed_has_run": {"usage": [*good().usage[:3], usage(2, "run", 1_000, 5_000)]},
    "what_the_platform_lost_costs_nothing": {"leases": [lease(1), lease(2, cause="node_fail")]},
    "nothing_is_held_when_idle": {"holds": [{"lease": "job_1.1", "amount_fen": 3, "state": "held"}]},
    "the_audit_is_clean": {"audit": "exit 1: a chain is broken"},
    "nothing_is_left_behind": {"left": ["process 7"]},
    "the_platform_ends_in_order": {"ended_badly": ["loop-1 ended with 1"]},
}


@pytest.mark.parametrize("law", BAD)
def test_each_law_broken_once_is_found(law: str) -> None:
    assert law in broken(**BAD[law])


def test_an_acknowledged_submit_that_names_two_ids_is_found() -> None:
    twice = submit(2, OK)
    twice.tries.append(replace(OK, id="job_9"))
    assert "acknowledged_submit_is_there_once" in broken(ops=[submit(1), twice])


def test_the_devices_that_members_were_shown_count_beside_those_of_their_lease() -> None:
    """Two leases on two devices whose members both saw device 0 of the node."""
    leases = [lease(1), lease(2, reserved_at_ms=100_000, released_at_ms=112_000)]
    both = [member(1), member(2, started_ms=101_000, ended_ms=111_000, began_at_ms=101_000, ended_at_ms=111_000)]
    places = [place(1), place(2, "d1")]
    records = [
        *good().usage[:2],
        *(usage(1, row["kind"], 0, 0) | row | {"lease": "job_2.1"} for row in good().usage[:2]),
    ]
    same = {"leases": leases, "lease_devices": places, "usage": records}
    assert broken(**same, members=both) == {"no_device_with_two_members"}
    assert broken(**same, members=[both[0], replace(both[1], shown=("1",))]) == set()


def test_a_short_overlap_behind_a_long_interval_is_found() -> None:
    """The third lease overlaps the first, not its neighbour."""
    history = replace(
        good(),
        leases=[lease(1, released_at_ms=400_000), lease(2), lease(3)],
        lease_devices=[place(1), place(2, "d1"), place(3)],
    )
    found = [one.facts["device"] for one in check(history) if one.law == "no_device_under_two_leases"]
    assert found == ["d0"]


def test_a_job_whose_node_may_die_may_end_so_and_run_again() -> None:
    ended = job(2, state="NODE_FAIL", cause="node_fail", exit_code=None)
    changed = {
        "jobs": [job(1), ended],
        "leases": [lease(1), lease(2, cause="node_fail")],
        "usage": [*good().usage[:2], usage(2, "lost", 0, 12_000)],
        "members": [member(1), member(2, code=None)],
    }
    assert broken(**changed) == {"a_job_ends_as_it_must"}
    assert broken(**changed, members_may_die=True) == set()


def test_a_run_that_was_killed_has_no_code_and_ends_with_its_last_sign_of_life() -> None:
    lines = [
        {"what": what, "lease": "l", "rank": 1, "run": "x", "boot_ms": at, "at_ms": at + 5, **more}
        for what, at, more in (("start", 10, {"shown": "2,3"}), ("beat", 30, {}), ("beat", 20, {}))
    ]
    (found,) = member_runs(lines)
    assert (found.started_ms, found.ended_ms, found.code, found.shown) == (10, 30, None, ("2", "3"))
    stopped = {**lines[0], "what": "stop", "boot_ms": 40, "code": 3}
    assert member_runs([*lines, stopped])[0].code == 3


@given(st.integers(0, 2**31), st.sampled_from(sorted(OF_BACKEND)), st.integers(0, 3600))
def test_a_plan_follows_from_its_seed_and_stays_in_its_time(seed: int, backend: str, seconds: int) -> None:
    made = plan(seed, backend, seconds)
    known = {**EVERYWHERE, **OF_BACKEND[backend]}
    assert made == plan(seed, backend, seconds)
    assert [deed.at_s for deed in made] == sorted(deed.at_s for deed in made)
    for deed in made:
        _, low, high = known[deed.what]
        assert 5 <= deed.at_s <= seconds
        assert low <= deed.for_s <= high


def test_plans_of_long_soaks_do_every_deed() -> None:
    for backend, more in OF_BACKEND.items():
        assert {deed.what for deed in plan(1, backend, 3600)} == {*EVERYWHERE, *more}


def test_a_cut_proxy_resets_what_is_open_and_refuses_what_comes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as behind:
        threading.Thread(target=_echo, args=(behind,), daemon=True).start()
        proxy = Proxy(behind.getsockname()[1])
        try:
            with _said(proxy) as one:
                assert _answer(one) == b"hello"
                proxy.cut()
                assert _answer(one) == b""
            try:  # it may be reset before the connection is there, or after
                with _said(proxy) as other:
                    found = _answer(other)
            except OSError:
                found = b""
            assert found == b""
            proxy.mend()
            with _said(proxy) as again:
                assert _answer(again) == b"hello"
        finally:
            proxy.close()


def _echo(server: socket.socket) -> None:
    while True:
        try:
            one, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_send_back, args=(one,), daemon=True).start()


def _send_back(one: socket.socket) -> None:
    try:
        while data := one.recv(100):
            one.sendall(data)
    except OSError:
        return


def _said(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def _answer(one: socket.socket) -> bytes:
    """What comes back of a word that is sent; nothing where the connection is broken."""
    try:
        one.sendall(b"hello")
        return one.recv(100)
    except OSError:
        return b""
