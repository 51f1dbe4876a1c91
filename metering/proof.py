"""Proof: that a record is under a seal, and that one seal only adds to another (RFC 6962 §2.1.1, §2.1.2). Reads only."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from metering.checkpoint import STREAMS, hash_at, leaves, seals
from metering.merkle import Node, consistency_path, inclusion_path, node_hash, root_of
from scheduler.journal import head
from scheduler.refusal import Refusal

BLOCK = 10  # perfect subtrees of 2^10 records and more are remembered: a proof of a long stream reads little of it
REMEMBERED = 50_000  # so many of them, 5 MiB; then it starts over
_subtrees: dict[tuple[str, int, int, str], bytes] = {}


def prove_inclusion(tx: Connection, stream: str, seq: int) -> dict[str, Any] | Refusal:
    """That record `stream:seq` is in the newest seal: {stream, seq, hash, leaf_index, size, path, root, checkpoint}.

    Refusal STREAM_UNKNOWN, RECORD_UNKNOWN, or NOT_SEALED_YET with how many records the newest seal covers.
    """
    if stream not in STREAMS:
        return Refusal(code="STREAM_UNKNOWN", facts={"stream": stream, "known": sorted(STREAMS)})
    own = hash_at(tx, stream, seq)
    if own is None:
        return Refusal(code="RECORD_UNKNOWN", facts={"stream": stream, "seq": seq, "last": head(tx, stream)[0]})
    number, newest = next(seals(tx), (0, {}))
    size = newest.get("heads", {}).get(stream, (0, ""))[0]
    if seq > size:
        return Refusal(code="NOT_SEALED_YET", facts={"stream": stream, "seq": seq, "sealed": size})
    path = inclusion_path(seq - 1, size, _nodes(tx, stream))
    return {
        "stream": stream,
        "seq": seq,
        "hash": own,
        "leaf_index": seq - 1,
        "size": size,
        "path": [step.hex() for step in path],
        "root": newest["roots"][stream],
        "checkpoint": {"id": number, **newest},
    }


def prove_consistency(tx: Connection, start: int, end: int | None) -> dict[str, Any] | Refusal:
    """That seal `end` (None: the newest) only adds to seal `start`: {from, to, streams: {name: {from, to, path}}}.

    An empty stream has an empty path: everything is consistent with nothing. Refusal CHECKPOINT_UNKNOWN for an id that
    is no seal's, CHECKPOINT_ORDER when start is newer than end.
    """
    old = next(seals(tx, start), None)
    new = next(seals(tx, end), None)
    if old is None or new is None:
        missing = start if old is None else end
        newest = next(seals(tx), None)
        return Refusal(code="CHECKPOINT_UNKNOWN", facts={"id": missing, "newest": newest[0] if newest else None})
    if old[0] > new[0]:
        return Refusal(code="CHECKPOINT_ORDER", facts={"from": old[0], "to": new[0]})
    streams = {}
    for stream, (size, _) in sorted(new[1]["heads"].items()):
        before = old[1]["heads"].get(stream, (0, ""))[0]
        path = consistency_path(before, size, _nodes(tx, stream)) if before else []
        streams[stream] = {"from": before, "to": size, "path": [step.hex() for step in path]}
    return {"from": {"id": old[0], **old[1]}, "to": {"id": new[0], **new[1]}, "streams": streams}


def _nodes(tx: Connection, stream: str) -> Node:
    """The stream's perfect subtrees. A big one is known by the hash of its last record, which covers all before it."""

    def node(level: int, index: int) -> bytes:
        if level < BLOCK:
            start = index << level
            return root_of(leaf for _, leaf in leaves(tx, stream, start, start + (1 << level)))
        key = (stream, level, index, hash_at(tx, stream, (index + 1) << level) or "")
        found = _subtrees.get(key)
        if found is None:
            if level == BLOCK:
                start = index << level
                found = root_of(leaf for _, leaf in leaves(tx, stream, start, start + (1 << level)))
            else:
                found = node_hash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))
            if len(_subtrees) >= REMEMBERED:
                _subtrees.clear()
            _subtrees[key] = found
        return found

    return node
