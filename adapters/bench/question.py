"""Question: what a challenge asks and what is thought of its answer. Loads no numerical library: who only asks needs none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NONCE = re.compile(r"[A-Za-z0-9_.=+-]{8,128}")
FASTER_THAN_PEAK = 1.05  # no device outdoes its maker's dense figure by more than a boost clock's few per cent
LIMIT_S = 5.0  # from the asking to the answer; a process that has its library loaded needs a small part of it
SIZE_RANGE, DEPTH_RANGE = (64, 4096), (1, 64)


class ChallengeInvalid(ValueError):
    """A nonce or size that is none; the message names field, value and range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """What is asked: `depth` multiplications of size × size. nonce: fresh, from the platform, used once."""

    nonce: str
    size: int = 1024
    depth: int = 4

    def __post_init__(self) -> None:
        if not NONCE.fullmatch(self.nonce):
            raise ChallengeInvalid(f"nonce: {self.nonce[:140]!r} is not 8 to 128 of letters, digits and _ . = + -")
        for name, (low, high) in (("size", SIZE_RANGE), ("depth", DEPTH_RANGE)):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ChallengeInvalid(f"{name}: {value!r} is not a whole number from {low} to {high}")

    @property
    def flops(self) -> int:
        """Operations of the whole chain: 2·size³·depth."""
        return 2 * self.size**3 * self.depth


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether an answer stands. code: OK, MALFORMED, NOT_THIS_CHALLENGE, WRONG, LATE or FASTER_THAN_PEAK."""

    ok: bool
    code: str
    facts: Mapping[str, Any]
