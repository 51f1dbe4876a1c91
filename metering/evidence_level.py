"""Evidence level: how well a device's origin is shown, decided from facts alone. Pure.

    decide(facts) -> Verdict                 at one instant
    course(records, base) -> tuple[Step]     over time, from what was put on record

The ladder is that of the vendors' interface survey: L0 declared; L1 a tool reports it; L2 the kernel's bus confirms it on a bare
host; L3 the same, signed by the node's enrolled key over a nonce of the platform; L4 the device signs for itself (publicly only
NVIDIA's do, so it shows a foreign origin and never a domestic one); L5 somebody went and looked, with a document.
What a level allows is no part of this: see allowance.py.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.accelerator import EvidenceLevel

VERSION = 2  # of these rules; on every record, so that a later set of rules can judge the same facts again


class Kind(enum.StrEnum):
    """What a record of evidence says of its device."""

    OBSERVED = "observed"  # tool and bus of a node, without its key's signature
    SIGNED = "signed"  # the same under the node's key
    ATTESTED = "attested"  # the device's own signed claims
    AUDITED = "audited"  # out of band: a document, and who decided
    FINGERPRINT = "fingerprint"  # a benchmark of it, within the model's band or outside
    SUSPECT = "suspect"  # something contradicts it
    CLEARED = "cleared"  # a person looked, and what was said against it no longer counts
    WITHDRAWN = "withdrawn"  # an earlier record, by number, no longer counts
    MOVED = "moved"  # maintenance: it may appear on another node
    LAPSED = "lapsed"  # the node was asked anew: what it said of the device before no longer counts
    KERNEL = "kernel"  # the platform's challenge kernel on it, right and in time or not


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of one device at one instant.

    reported: a tool lists it. bus: whether the kernel's bus confirms it with a driver bound, None = nothing to compare.
    bare_metal: the host is no virtual machine, None = not known. signed: bus and host were told under the node's key,
    fresh. fingerprint: its benchmark lies in the model's band, None = never measured. kernel: the platform's last challenge
    kernel on it stands, None = never asked. lapsed: the node was asked anew and said nothing of it since. doubts: what
    contradicts it.
    """

    reported: bool = True
    bus: bool | None = None
    bare_metal: bool | None = None
    signed: bool = False
    attested: bool = False
    audited: bool = False
    fingerprint: bool | None = None
    kernel: bool | None = None
    lapsed: bool = False
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """level, and the codes of what it rests on or what keeps it down, most weighty first."""

    level: EvidenceLevel
    because: tuple[str, ...]

    @property
    def suspect(self) -> bool:
        """Something contradicts the device: it shows nothing until a person looked."""
        return "SUSPECT" in self.because


def decide(facts: Facts) -> Verdict:
    """The level that these facts come to. More facts in favour never lower it; a doubt always takes all of it away.

    A virtual machine's kernel says what the hypervisor wants, so bus and node count for nothing there: L1. A benchmark outside
    the model's band, or a challenge kernel answered wrongly or not at all, holds everything at L1 until the next one is right or a
    person clears it.
    """
    if facts.doubts:
        return Verdict(EvidenceLevel.DECLARED, ("SUSPECT", *facts.doubts))
    level, because = _ladder(facts)
    if facts.lapsed and level <= EvidenceLevel.TOOL_REPORTED:
        because = ("CHALLENGE_UNANSWERED", *because)
    if facts.kernel is False and level > EvidenceLevel.TOOL_REPORTED:
        level, because = EvidenceLevel.TOOL_REPORTED, ("KERNEL_FAILED", *because)
    if facts.fingerprint is False and level > EvidenceLevel.TOOL_REPORTED:
        return Verdict(EvidenceLevel.TOOL_REPORTED, ("FINGERPRINT_OUT_OF_BAND", *because))
    return Verdict(level, because)


def _ladder(facts: Facts) -> tuple[EvidenceLevel, tuple[str, ...]]:
    if facts.audited:
        return EvidenceLevel.OUT_OF_BAND, ("AUDITED",)
    if facts.attested:
        return EvidenceLevel.DEVICE_SIGNED, ("ATTESTED",)
    if facts.bus is True and facts.bare_metal is True:
        if facts.signed:
            return EvidenceLevel.NODE_SIGNED, ("NODE_SIGNED",)
        return EvidenceLevel.KERNEL_OBSERVED, ("BUS_CONFIRMS",)
    if not facts.reported:
        return EvidenceLevel.DECLARED, ("DECLARED",)
    if facts.bus is True:
        return EvidenceLevel.TOOL_REPORTED, ("VIRTUAL_MACHINE" if facts.bare_metal is False else "HOST_NOT_KNOWN",)
    return EvidenceLevel.TOOL_REPORTED, ("TOOL_REPORTED",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One thing put on record about a device. from_ms, to_ms: when it counts, half-open, None = open; facts: see `Kind`."""

    seq: int
    kind: Kind
    from_ms: int
    to_ms: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def counts_at(self, at_ms: int) -> bool:
        """Whether the instant lies in its time."""
        return self.from_ms <= at_ms and (self.to_ms is None or at_ms < self.to_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """From start_ms (None: since ever) until the next step the verdict is this."""

    start_ms: int | None
    verdict: Verdict


def course(
    records: Sequence[Record], base: EvidenceLevel, *, revoked: Mapping[str, int] | None = None
) -> tuple[Step, ...]:
    """The device's verdict over time, from `base` (L0 or L1: what its node reports) and its records in order of number.

    revoked: key → the millisecond from which what it signs is not believed.
    """
    standing = _standing(records, revoked or {})
    edges = {record.from_ms for record in standing} | {r.to_ms for r in standing if r.to_ms is not None}
    found = [Step(start_ms=None, verdict=decide(Facts(reported=base >= EvidenceLevel.TOOL_REPORTED)))]
    for at in sorted(edges):
        verdict = decide(facts_at(standing, base, at))
        if verdict != found[-1].verdict:
            found.append(Step(start_ms=at, verdict=verdict))
    return tuple(found)


def standing_at(
    records: Sequence[Record], base: EvidenceLevel, at_ms: int, *, revoked: Mapping[str, int] | None = None
) -> tuple[Verdict, int | None]:
    """(the verdict in force at an instant, the next instant at which it may be another; None = never), as `course` has it.

    records: those that count at the instant or later, in order of number; what ended before changes nothing.
    """
    standing = _standing(records, revoked or {})
    edges = [record.from_ms for record in standing] + [r.to_ms for r in standing if r.to_ms is not None]
    later = [edge for edge in edges if edge > at_ms]
    return decide(facts_at(standing, base, at_ms)), min(later, default=None)


def verdict_at(steps: Sequence[Step], at_ms: int) -> Verdict:
    """The verdict in force at an instant."""
    return next(step.verdict for step in reversed(steps) if step.start_ms is None or step.start_ms <= at_ms)


def facts_at(records: Sequence[Record], base: EvidenceLevel, at_ms: int) -> Facts:
    """What the records come to at an instant: the best word on the bus since the node was last asked anew, the newest benchmark,
    every doubt since the last clearing."""
    counting = [record for record in records if record.counts_at(at_ms)]
    cleared = max((r.from_ms, r.seq) for r in [*_of(counting, Kind.CLEARED), _NEVER])
    since = [record for record in counting if (record.from_ms, record.seq) > cleared]
    doubts = [str(doubt) for record in _of(since, Kind.SUSPECT) for doubt in record.facts.get("doubts", ())]
    lapsed = max((r.from_ms, r.seq) for r in [*_of(counting, Kind.LAPSED), _NEVER])
    fresh = [record for record in counting if (record.from_ms, record.seq) > lapsed]
    told = [record for record in fresh if record.kind in (Kind.OBSERVED, Kind.SIGNED)]
    best = max(told, key=lambda r: (_worth(r), r.from_ms, r.seq), default=None)
    measured = [r for r in _of(since, Kind.FINGERPRINT) if r.facts.get("within") is not None]
    kernels = [r for r in _of(since, Kind.KERNEL) if r.facts.get("ok") is not None]
    return Facts(
        reported=base >= EvidenceLevel.TOOL_REPORTED or best is not None,
        bus=None if best is None else best.facts.get("bus"),
        bare_metal=None if best is None else best.facts.get("bare_metal"),
        signed=best is not None and best.kind is Kind.SIGNED,
        attested=bool(_of(fresh, Kind.ATTESTED)),
        audited=bool(_of(counting, Kind.AUDITED)),
        fingerprint=measured[-1].facts["within"] if measured else None,
        kernel=kernels[-1].facts["ok"] if kernels else None,
        lapsed=lapsed > (-1, 0) and not told,
        doubts=tuple(dict.fromkeys(doubts)),
    )


_NEVER = Record(seq=0, kind=Kind.CLEARED, from_ms=-1)


def _worth(record: Record) -> tuple[bool, bool]:
    shown = record.facts.get("bus") is True and record.facts.get("bare_metal") is True
    return shown, record.kind is Kind.SIGNED


def _of(records: Collection[Record], kind: Kind) -> list[Record]:
    return [record for record in records if record.kind is kind]


def _standing(records: Sequence[Record], revoked: Mapping[str, int]) -> list[Record]:
    """Those nobody withdrew, and whose key was believed when it signed."""
    gone = {int(record.facts.get("withdraws", 0)) for record in _of(records, Kind.WITHDRAWN)}
    return [
        record
        for record in records
        if record.seq not in gone and record.from_ms < revoked.get(str(record.facts.get("key")), record.from_ms + 1)
    ]
