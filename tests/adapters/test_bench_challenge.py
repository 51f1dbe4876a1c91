"""A challenge has one answer on every stack; a changed, late, partial or impossible one is told apart."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.bench.challenge import answer, chosen_rows, digest, judge, matrices, predict, row_hashes
from adapters.bench.numpy_stack import Numpy
from adapters.bench.question import Challenge, ChallengeInvalid
from tests.adapters.bench_stacks import Lazy

ASKED = Challenge(nonce="nonce-0001", size=128, depth=3)
ROWS = (0, 5, 64, 127)
PINNED = "4f3a4eb95b5fadbf17040d38425e49a0bd6fe57aaa5bd246254a442f5c4dce8a"


class Steps:
    """A clock that goes on by a step at every look."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


GIVEN = answer(ASKED, Numpy(), Steps(0.5))


def verdict(given: dict[str, Any], asked: Challenge = ASKED, **more: Any) -> str:
    return judge(asked, given, **{"elapsed_s": 1.0, "rows": ROWS, **more}).code


def test_an_honest_answer_stands() -> None:
    assert judge(ASKED, GIVEN, elapsed_s=1.0, rows=ROWS).ok
    assert GIVEN["chain_seconds"] == 0.5
    assert GIVEN["digest"] == digest(GIVEN["rows"])


def test_the_answer_is_the_same_in_integers_and_in_every_precision() -> None:
    """Exact integer arithmetic is the reference; a half-precision stack rounds nothing."""
    x, steps = matrices(ASKED)
    for step in steps:
        y = x.astype(np.int64) @ step.astype(np.int64)
        assert np.abs(y).max() < 256, "bf16 holds whole numbers to 256"
        x = ((y + 1) % 3 - 1).astype(np.int8)

    assert row_hashes(x) == GIVEN["rows"]
    for kind in (np.float16, np.float64):
        first, rest = matrices(ASKED)
        z = first.astype(kind)
        for step in rest:
            y = (z @ step.astype(kind)).astype(np.float32)
            z = (y - 3 * np.rint(y / 3)).astype(kind)
        assert row_hashes(z.astype(np.int8)) == GIVEN["rows"]


def test_matrices_follow_from_shake_256_alone() -> None:
    word = b"cn.etown.compute.bench.challenge.v1:nonce-0001:128:3:0"
    first = matrices(ASKED)[0]

    assert first[0, 0] == hashlib.shake_256(word).digest(1)[0] % 3 - 1
    assert set(np.unique(first)) == {-1, 0, 1}


def test_a_pinned_answer() -> None:
    """Were this to change, agents and platforms of different versions would call each other liars."""
    assert GIVEN["digest"] == PINNED


def test_rows_are_predicted_apart_from_each_other() -> None:
    assert predict(ASKED, ROWS) == {row: GIVEN["rows"][row] for row in ROWS}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda a: a.update(rows=a["rows"][:-1]), "MALFORMED"),
        (lambda a: a.update(rows=None), "MALFORMED"),
        (lambda a: a.update(rows=[1] * 128), "MALFORMED"),
        (lambda a: a.update(chain_seconds=0), "MALFORMED"),
        (lambda a: a.update(chain_seconds=float("nan")), "MALFORMED"),
        (lambda a: a.update(chain_seconds=True), "MALFORMED"),
        (lambda a: a.pop("chain_seconds"), "MALFORMED"),
        (lambda a: a.update(nonce="nonce-0002"), "NOT_THIS_CHALLENGE"),
        (lambda a: a.update(depth=2), "NOT_THIS_CHALLENGE"),
        (lambda a: a["rows"].__setitem__(5, "0" * 16), "WRONG"),
        (lambda a: a["rows"].__setitem__(6, "0" * 16), "WRONG"),
        (lambda a: a.update(digest="0" * 64), "WRONG"),
        (lambda a: a.update(chain_seconds=2.0), "FASTER_THAN_PEAK"),
    ],
)
def test_a_bad_answer_is_told_apart(change: Callable[[dict[str, Any]], Any], code: str) -> None:
    given = copy.deepcopy(GIVEN)
    change(given)

    assert verdict(given) == code


def test_an_answer_to_another_nonce_is_wrong_even_under_this_one_s_name() -> None:
    other = answer(Challenge(nonce="nonce-0002", size=128, depth=3), Numpy(), Steps(0.5))

    assert verdict({**other, "nonce": ASKED.nonce}) == "WRONG"


def test_an_answer_after_the_limit_is_late_and_one_at_it_is_not() -> None:
    assert verdict(GIVEN, elapsed_s=5.0) == "OK"
    assert verdict(GIVEN, elapsed_s=5.001) == "LATE"


def test_no_device_is_faster_than_its_peak() -> None:
    rate = ASKED.flops / GIVEN["chain_seconds"] / 1e12

    assert verdict(GIVEN, peak_tflops=rate) == "OK"
    assert verdict(GIVEN, peak_tflops=rate / 1.04) == "OK"
    assert verdict(GIVEN, peak_tflops=rate / 1.06) == "FASTER_THAN_PEAK"


def test_a_stack_that_leaves_out_a_step_is_wrong() -> None:
    assert verdict(answer(ASKED, Lazy(), Steps(0.5))) == "WRONG"


@pytest.mark.parametrize(
    "given",
    [
        {"nonce": "short"}, {"nonce": "with space"}, {"nonce": "x" * 129}, {"nonce": "nonce-0001", "size": 32},
        {"nonce": "nonce-0001", "size": 5000}, {"nonce": "nonce-0001", "depth": 0}, {"nonce": "nonce-0001", "depth": True},
    ],
)  # fmt: skip
def test_what_is_no_challenge_is_an_error_that_names_the_field(given: dict[str, Any]) -> None:
    with pytest.raises(ChallengeInvalid, match=r"^(nonce|size|depth): "):
        Challenge(**given)


@given(st.integers(1, 300), st.integers(1, 40), st.randoms())
def test_chosen_rows_are_different_and_within(size: int, count: int, random: Any) -> None:
    rows = chosen_rows(size, random.randrange, count)

    assert rows == sorted(set(rows))
    assert len(rows) == min(size, count)
    assert all(0 <= row < size for row in rows)
