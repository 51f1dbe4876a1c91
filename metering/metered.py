"""Metered: what an allocation used, as far as its signed events prove it. Pure; the order of the events is no matter.

Start and stop are authoritative and `monotonic_ms` is cumulative, so the length of a stream is the largest one it
carries: heartbeats are never summed and a doubled or late one changes nothing. Where the stop is lost the stream
reaches to its last proof of life, provisionally, until a stop arrives or an operator closes it. Missing events are
reported as gaps, never filled with zeros.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from adapters.event import Event, Kind

Stream = tuple[str, str, str]  # source, boot, allocation
_MS = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """The devices one stream held over [start, end), share_permille of each."""

    source: str
    boot: str
    devices: tuple[str, ...]
    share_permille: int
    start: datetime
    end: datetime

    @property
    def device_ms(self) -> int:
        """devices × milliseconds, not scaled by the share."""
        return len(self.devices) * ((self.end - self.start) // _MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Events [first, last] of a stream, both counted in, that have not arrived."""

    source: str
    boot: str
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """One allocation. device_ms: over all intervals. provisional: it may still grow.

    skew_ms: the largest difference between an agent's wall clock and its monotonic one, since the stream's first
    event; None without events. last_proof_of_life: None when there is none; then nothing was used.
    """

    allocation: str
    intervals: tuple[Interval, ...]
    device_ms: int
    provisional: bool
    gaps: tuple[Gap, ...]
    skew_ms: int | None
    last_proof_of_life: datetime | None


@dataclass(frozen=True, slots=True)
class Placement:
    """Devices held from one reading of a stream's monotonic clock to another, in milliseconds since its start."""

    devices: tuple[str, ...]
    from_ms: int
    to_ms: int


def metered(allocation: str, events: Iterable[Event], closed: Collection[Stream] = ()) -> Metered:
    """What the events prove. closed: streams that an operator closed. ValueError for an event of another allocation.

    Every stream (another host, or the same one after it booted again) counts for itself.
    """
    streams: dict[Stream, dict[int, Event]] = {}
    for event in events:
        if event.allocation != allocation:
            raise ValueError(f"allocation: {event.id} belongs to {event.allocation}, not to {allocation}")
        streams.setdefault(event.stream, {})[event.seq] = event
    intervals: list[Interval] = []
    gaps: list[Gap] = []
    provisional, skew, proof = not streams, None, None
    for stream, found in sorted(streams.items()):
        told = [found[seq] for seq in sorted(found)]
        missing = gaps_of(stream, list(found))
        stopped = any(event.kind is Kind.STOPPED for event in told)
        provisional |= (not stopped or bool(missing)) and stream not in closed
        gaps += missing
        anchor = anchor_of(told[0])
        for part in placements(told):
            intervals.append(
                Interval(
                    source=stream[0],
                    boot=stream[1],
                    devices=part.devices,
                    share_permille=told[0].share_permille,
                    start=anchor + part.from_ms * _MS,
                    end=anchor + part.to_ms * _MS,
                )
            )
        skew = max(skew or 0, *(abs((event.at - anchor) // _MS - event.monotonic_ms) for event in told))
        reached = anchor + max(event.monotonic_ms for event in told) * _MS
        proof = reached if proof is None else max(proof, reached)
    return Metered(
        allocation=allocation,
        intervals=tuple(intervals),
        device_ms=sum(interval.device_ms for interval in intervals),
        provisional=provisional,
        gaps=tuple(gaps),
        skew_ms=skew,
        last_proof_of_life=proof,
    )


def device_ms_within(intervals: Iterable[Interval], start: datetime, end: datetime) -> int:
    """device_ms inside [start, end). Adjacent stretches add up to their union, at midnight as anywhere."""
    total = 0
    for interval in intervals:
        low, high = max(interval.start, start), min(interval.end, end)
        if low < high:
            total += len(interval.devices) * ((high - low) // _MS)
    return total


def anchor_of(first: Event) -> datetime:
    """Where a stream begins by the earliest event we have of it; exact when that is its start."""
    return first.at - first.monotonic_ms * _MS


def placements(told: Sequence[Event]) -> list[Placement]:
    """Which devices a stream held when. told: its events in order of seq.

    Where a migration's own event is missing, the old devices end at the last event that names them and the new ones
    begin at the first that does: the stretch between is nobody's.
    """
    parts: list[Placement] = []
    before: Event | None = None
    for event in told:
        if before is None:
            begin = event.monotonic_ms if event.kind is Kind.MIGRATED else 0
            parts.append(Placement(event.devices, begin, event.monotonic_ms))
        elif event.devices == before.devices:
            parts[-1] = Placement(event.devices, parts[-1].from_ms, event.monotonic_ms)
        else:
            if event.kind is Kind.MIGRATED and before.seq == event.seq - 1:
                parts[-1] = Placement(before.devices, parts[-1].from_ms, event.monotonic_ms)
            parts.append(Placement(event.devices, event.monotonic_ms, event.monotonic_ms))
        before = event
    return parts


def gaps_of(stream: Stream, seqs: Iterable[int]) -> list[Gap]:
    """What is missing from 1 up to the last event we have; what was lost after it cannot be seen."""
    gaps, expected = [], 1
    for seq in sorted(seqs):
        if seq > expected:
            gaps.append(Gap(source=stream[0], boot=stream[1], first=expected, last=seq - 1))
        expected = seq + 1
    return gaps


def disagreement(before: Event, before_hash: str, after: Event) -> str | None:
    """Why two neighbours of a stream cannot both be true, as a code; None if they can."""
    if after.prev_hash != before_hash:
        return "EVENT_CHAIN_BROKEN"
    if before.kind is Kind.STOPPED:
        return "EVENT_AFTER_STOP"
    if after.monotonic_ms < before.monotonic_ms:
        return "EVENT_CLOCK_BACKWARDS"
    if after.share_permille != before.share_permille:
        return "EVENT_SHARE_CHANGED"
    if after.kind is not Kind.MIGRATED and after.devices != before.devices:
        return "EVENT_DEVICES_CHANGED"
    return None
