"""Checkpoint: what all chains held at one moment, kept in the database and in a file outside it.

A chain alone does not stop someone who rewrites all of it; a head that left the building does. Two kinds:

* a *head line* every few seconds: each stream's last position and hash. Cheap, so that hardly any tail goes unseen.
* a *seal* every hour and at every clearing batch: besides, each stream's Merkle root (RFC 6962, metering/merkle.py) over
  the record hashes, signed Ed25519 (RFC 8032) over its canonical form (RFC 8785). A record's inclusion and the growth
  from one seal to the next can be shown to someone who has only the seals.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import Connection, Table, insert, select

from adapters.chain import canonical, digest
from metering.merkle import Frontier, leaf_hash, root_of
from metering.schema import CHAINED as MONEY
from metering.schema import checkpoints
from scheduler.clock import to_ms
from scheduler.journal import head
from scheduler.schema import CHAINED as WORK

STREAMS: dict[str, Table] = {**WORK, **MONEY}
SEAL_EVERY = timedelta(hours=1)
SEAL = 1  # the version of a seal's form
SIGNED = ("seal", "at_ms", "reason", "heads", "roots", "merkle_root", "key")


class BrokenStream(ValueError):
    """A stream with a hole cannot be sealed: a signature would vouch for it. Names the record that is missing."""


# --- head lines ---------------------------------------------------------------------------------------------------


def heads(tx: Connection) -> dict[str, list[Any]]:
    """{stream: [seq, hash]} of every chain now."""
    return {stream: list(head(tx, stream)) for stream in sorted(STREAMS)}


def take(tx: Connection, file: Path | None, now: datetime) -> bool:
    """Record the heads, in the table and as a line of `file`; False when nothing moved since the last one."""
    found = heads(tx)
    last = tx.execute(select(checkpoints.c.heads).order_by(checkpoints.c.id.desc()).limit(1)).scalar()
    if last is not None and heads_of(json.loads(last)) == found:
        return False
    tx.execute(insert(checkpoints).values(at_ms=to_ms(now), heads=canonical(found).decode(), sha256=digest(found)))
    if file is not None:
        _append(file, {"at_ms": to_ms(now), "heads": found, "sha256": digest(found)})
    return True


def keep(tx: Connection, file: Path | None, now: datetime, key: Key) -> None:
    """A seal where one is due, else a head line; a stream that cannot be sealed gets head lines, and the audit names it."""
    with contextlib.suppress(BrokenStream):
        if seal_due(tx, now):
            seal(tx, file, now, "hour", key)
            return
    take(tx, file, now)


def is_seal(document: Mapping[str, Any]) -> bool:
    """Whether a stored row's content or a line is a seal; a head line's content has stream names for keys."""
    return isinstance(document.get("seal"), int)


def heads_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The heads in a stored row's content, of either kind."""
    return dict(document["heads"] if is_seal(document) else document)


# --- the key ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Key:
    """The platform's signing key; `public` is its Ed25519 public key in hex, which may be told to everyone."""

    private: Ed25519PrivateKey

    @property
    def public(self) -> str:
        return self.private.public_key().public_bytes_raw().hex()

    def sign(self, body: Mapping[str, Any]) -> str:
        """The Ed25519 signature over the canonical form, in hex."""
        return self.private.sign(canonical(body)).hex()


def load_key(path: Path) -> Key:
    """The key kept in `path` (32 bytes in hex, mode 0600), made once if there is none. ValueError for any other content.

    Not replaced when lost or unreadable: seals by another key are a finding, so that is for a person to decide.
    """
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, Ed25519PrivateKey.generate().private_bytes_raw().hex().encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    try:
        return Key(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text("ascii").strip())))
    except ValueError:
        raise ValueError(f"{path}: not an Ed25519 private key of 32 bytes in hex") from None


def signed_by(document: Mapping[str, Any], public: str) -> bool:
    """Whether the seal carries a good signature by this public key (hex); never raises for a forged one."""
    try:
        body = {name: document[name] for name in SIGNED}
        verifier = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        verifier.verify(bytes.fromhex(str(document["signature"])), canonical(body))
    except (KeyError, ValueError, TypeError, InvalidSignature):
        return False
    return bool(document["key"] == public)


# --- seals --------------------------------------------------------------------------------------------------------


def introduce(file: Path, key: Key, now: datetime) -> None:
    """The file tells the public key, once, in its first record wherever the file is new."""
    if file.exists() and any("introduces" in line for line in read_file(file)):
        return
    body = {"at_ms": to_ms(now), "heads": {}, "introduces": key.public}
    _append(file, {**body, "sha256": digest(body)})


def seal(tx: Connection, file: Path | None, now: datetime, reason: str, key: Key) -> dict[str, Any]:
    """Seal every stream, in the table and as a line of `file`; reason: hour | clearing:<id> | any word.

    Returns {id, merkle_root, roots: {stream: {size, head, root}}, key, signature, at_ms, reason}. merkle_root is the RFC
    6962 root over canonical([stream, size, head, root]), streams by name. Only records newer than the last seal are
    read. Call it as the last act of its transaction: the line in the file cannot be rolled back. BrokenStream if a
    record is missing.
    """
    found = heads(tx)
    before = _newest(tx, key)
    frontiers = {stream: _grown(tx, stream, size, before.get(stream)) for stream, (size, _) in found.items()}
    roots = {stream: frontier.root().hex() for stream, frontier in frontiers.items()}
    body: dict[str, Any] = {
        "seal": SEAL,
        "at_ms": to_ms(now),
        "reason": reason,
        "heads": found,
        "roots": roots,
        "merkle_root": combined(found, roots),
        "key": key.public,
    }
    line = {**body, "signature": key.sign(body)}
    row = {**line, "frontiers": {name: [h.hex() for h in one.hashes] for name, one in frontiers.items()}}
    inserted = tx.execute(
        insert(checkpoints).values(at_ms=to_ms(now), heads=canonical(row).decode(), sha256=digest(row))
    )
    if file is not None:
        introduce(file, key, now)
        _append(file, {**line, "sha256": digest(line)})
    number = inserted.inserted_primary_key
    return {
        "id": int(number[0]) if number else None,
        "merkle_root": body["merkle_root"],
        "roots": {stream: {"size": size, "head": tip, "root": roots[stream]} for stream, (size, tip) in found.items()},
        **{name: line[name] for name in ("key", "signature", "at_ms", "reason")},
    }


def combined(found: Mapping[str, Any], roots: Mapping[str, str]) -> str:
    """The Merkle root over all streams, hex: leaves canonical([stream, size, head, root]) in the order of names."""
    return root_of(leaf_hash(canonical([s, *found[s], roots[s]])) for s in sorted(found)).hex()


def seal_due(tx: Connection, now: datetime) -> bool:
    """True when no seal was made for an hour and something moved since the last one."""
    last = next(seals(tx), None)
    return last is None or (to_ms(now) - last[1]["at_ms"] >= SEAL_EVERY // timedelta(milliseconds=1)
                            and last[1]["heads"] != heads(tx))  # fmt: skip


def seals(tx: Connection, at: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(id, seal as its file line has it) newest first; `at`: that one only, if it is a seal."""
    query = select(checkpoints.c.id, checkpoints.c.heads).where(checkpoints.c.heads.like('%"seal":%'))
    if at is not None:
        query = query.where(checkpoints.c.id == at)
    for row in tx.execute(query.order_by(checkpoints.c.id.desc())):
        document = json.loads(row.heads)
        if is_seal(document):
            yield row.id, {name: document[name] for name in (*SIGNED, "signature")}


def _newest(tx: Connection, key: Key) -> dict[str, Frontier]:
    """The frontiers kept with the last seal, those that our own signature vouches for; none if there is no such seal."""
    query = select(checkpoints.c.heads).where(checkpoints.c.heads.like('%"seal":%'))
    text = tx.execute(query.order_by(checkpoints.c.id.desc()).limit(1)).scalar()
    document = json.loads(text) if text else {}
    if not text or not signed_by(document, key.public):
        return {}
    kept = {}
    for stream, hashes in document["frontiers"].items():
        size, tip = document["heads"].get(stream, (0, ""))
        with contextlib.suppress(ValueError):
            frontier = Frontier(size, tuple(bytes.fromhex(h) for h in hashes))
            if frontier.root().hex() == document["roots"].get(stream) and (
                not size or hash_at(tx, stream, size) == tip
            ):
                kept[stream] = frontier
    return kept


def hash_at(tx: Connection, stream: str, seq: int) -> str | None:
    """The stored hash of record `stream:seq`; None if there is none."""
    table = STREAMS.get(stream)
    return None if table is None else tx.execute(select(table.c.hash).where(table.c.seq == seq)).scalar()


def _grown(tx: Connection, stream: str, size: int, before: Frontier | None) -> Frontier:
    frontier = before if before is not None and before.size <= size else Frontier()
    frontier = frontier.extend(leaf for _, leaf in leaves(tx, stream, frontier.size, size))
    if frontier.size != size:
        raise BrokenStream(f"{stream} has {frontier.size} records where its head says {size}")
    return frontier


def leaves(tx: Connection, stream: str, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """(seq, leaf hash over the record's hash) of records start < seq ≤ end, streamed. BrokenStream at the first hole."""
    table = STREAMS[stream]
    query = select(table.c.seq, table.c.hash).where(table.c.seq > start, table.c.seq <= end).order_by(table.c.seq)
    expected = start + 1
    for row in tx.execute(query, execution_options={"yield_per": 1000}):
        if row.seq != expected:
            raise BrokenStream(f"{stream}:{expected} is missing")
        yield row.seq, leaf_hash(bytes.fromhex(row.hash))
        expected += 1


# --- the file -----------------------------------------------------------------------------------------------------


def read_file(file: Path) -> list[dict[str, Any]]:
    """The checkpoints a file holds; a torn last line (power cut while writing) is left out, a torn earlier one raises."""
    lines = file.read_text(encoding="utf-8").splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(json.loads(line))
        except ValueError:
            if number == len(lines):
                break
            raise ValueError(f"{file}: line {number} is not JSON") from None
    return found


def _append(file: Path, body: Mapping[str, Any]) -> None:
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        _drop_torn_line(descriptor)
        os.write(descriptor, canonical(body) + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _drop_torn_line(descriptor: int) -> None:
    """The file ends with a whole line: what a power cut left of one was never acknowledged and would spoil the next."""
    end = size = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - 65_536)
        at = os.pread(descriptor, end - start, start).rfind(b"\n")
        end = start + at + 1 if at >= 0 else start
        if at >= 0:
            break
    if end < size:
        os.ftruncate(descriptor, end)


# --- the law ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a checkpoint said of a stream when it had so many records; root None in a head line."""

    tip: str
    root: str | None
    name: str


def broken(tx: Connection, files: Sequence[Path]) -> tuple[str, str] | None:
    """(record, problem) of the first thing the checkpoints contradict, None when all of them hold.

    They hold when each one's own hash and signature are good, all seals are by the key that the file introduces, and
    each stream still begins with exactly the records that every checkpoint saw: each root is that of a prefix of the
    same list, so any two of them are consistent in the sense of RFC 6962.
    """
    wanted: dict[str, dict[int, list[_Claim]]] = {}
    public: str | None = None
    for name, document, checksum in _all(tx, files):
        if digest(document) != checksum:
            return name, "content does not match its hash"
        if "introduces" in document:
            if public not in (None, document["introduces"]):
                return name, f"introduces another key than {public}"
            public = document["introduces"]
            continue
        roots: Mapping[str, str] = {}
        if is_seal(document):
            public = public or str(document["key"])
            if not signed_by(document, public):
                return name, f"not signed by the platform's key {public}"
            roots = document["roots"]
            if document["merkle_root"] != combined(document["heads"], roots):
                return name, "its Merkle root is not that of its streams"
        for stream, (seq, tip) in heads_of(document).items():
            claims = wanted.setdefault(stream, {}).setdefault(seq, [])
            claim = _Claim(tip, roots.get(stream), name)
            for before in claims:
                if before.tip != tip or (None not in (before.root, claim.root) and before.root != claim.root):
                    return name, f"{stream}:{seq} has another hash than in {before.name}"
            if not claims or (claim.root is not None and all(c.root is None for c in claims)):
                claims.append(claim)
    for stream, claimed in sorted(wanted.items()):
        problem = _contradicted(tx, stream, claimed)
        if problem is not None:
            return problem
    return None


def _all(tx: Connection, files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(name, content, its stated hash) of every checkpoint: the files' first, for they introduce the key."""
    for file in files:
        for number, line in enumerate(read_file(file), start=1):
            plain = not is_seal(line) and "introduces" not in line
            content = line["heads"] if plain else {k: v for k, v in line.items() if k != "sha256"}
            yield f"{file.name}:{number}", content, line["sha256"]
    query = select(checkpoints.c.id, checkpoints.c.heads, checkpoints.c.sha256).order_by(checkpoints.c.id)
    for row in tx.execute(query, execution_options={"yield_per": 1000}):
        yield f"checkpoints:{row.id}", json.loads(row.heads), row.sha256


def _contradicted(tx: Connection, stream: str, claimed: Mapping[int, list[_Claim]]) -> tuple[str, str] | None:
    if stream not in STREAMS:
        return f"{stream}:{max(claimed)}", f"{claimed[max(claimed)][0].name} saw a stream that is not known here"
    table = STREAMS[stream]
    query = select(table.c.seq, table.c.hash).order_by(table.c.seq)
    frontier, pending, seen = Frontier(), [], 0
    rooted = max((seq for seq, claims in claimed.items() if any(c.root is not None for c in claims)), default=0)
    for row in tx.execute(query, execution_options={"yield_per": 1000}):
        seen += 1
        if row.seq != seen:
            return f"{stream}:{seen}", "record missing, but a later one was seen by a checkpoint"
        if seen <= rooted:
            try:
                pending.append(leaf_hash(bytes.fromhex(row.hash)))
            except (ValueError, TypeError):
                return f"{stream}:{seen}", "its hash is not one"
        for claim in claimed.get(seen, ()):
            if row.hash != claim.tip:
                return f"{stream}:{seen}", f"rewritten since {claim.name}"
            if claim.root is not None:
                frontier, pending = frontier.extend(pending), []
                if frontier.root().hex() != claim.root:
                    return f"{stream}:{seen}", f"records up to it are not those under the Merkle root of {claim.name}"
    missing = min((seq for seq in claimed if seq > seen), default=None)
    if missing is not None:
        return f"{stream}:{seen + 1}", f"record missing, but {claimed[missing][0].name} saw it: the tail was removed"
    return None
