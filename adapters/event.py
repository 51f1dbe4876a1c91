"""Event: what a node's agent swears about one allocation, as a signed CloudEvent 1.0 in structured JSON.

One stream is (source, boot, allocation). Its events are counted from 1, each carries the hash of the one before
it, and the id `{node}:{boot}:{allocation}:{seq}` is the same however often the event is sent. Start and stop
are authoritative; `monotonic_ms` is cumulative since the start, so that a lost heartbeat loses nothing.

Sources: CloudEvents 1.0.2 §3.1 (attributes); RFC 8032 (Ed25519); RFC 8785 (the bytes that are signed); RFC 7638
and RFC 8037 appendix A.3 (a key's id is its JWK thumbprint).
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from adapters.chain import GENESIS, instant, timestamp

TYPE_PREFIX, TYPE_SUFFIX = "cn.etown.compute.allocation.", ".v1"
SOURCE_PREFIX = "urn:yisuan:agent:"
ENVELOPE = ("specversion", "type", "source", "id", "time", "datacontenttype", "keyid", "signature", "data")
DATA = ("allocation", "devices", "share_permille", "monotonic_ms", "seq", "boot", "prev_hash", "agent_version", "model")
EXACT = 1 << 53  # integers beyond it are not the same number to every JSON reader (RFC 8785 §3.2.2.3)
DEVICES_MAX = 256
_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, check_circular=False).encode
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_TEXT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,200}")
_HASH = re.compile(r"[0-9a-f]{64}")


class Kind(enum.StrEnum):
    """What happened. MIGRATED: from its `monotonic_ms` on, other devices than before."""

    STARTED = "started"
    HEARTBEAT = "heartbeat"
    STOPPED = "stopped"
    MIGRATED = "migrated"


_KINDS = {f"{TYPE_PREFIX}{kind}{TYPE_SUFFIX}": kind for kind in Kind}


class EventInvalid(ValueError):
    """A document is not one of our events. field, value, expected: what is wrong and what would be right."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field, self.value, self.expected = field, value, expected
        super().__init__(f"{field}: {str(value)[:80]!r} is not {expected}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One statement about an allocation. seq: from 1. at: the agent's wall clock, whole milliseconds, UTC.

    monotonic_ms: since the allocation started, cumulative, by a clock that only moves forward. devices: uuids held
    from this event on. share_permille: 1..1000 of each. model: None when the agent does not know it.
    """

    kind: Kind
    node: str
    boot: str
    allocation: str
    seq: int
    at: datetime
    devices: tuple[str, ...]
    share_permille: int
    monotonic_ms: int
    prev_hash: str
    agent_version: str
    key_id: str
    model: str | None = None

    @property
    def source(self) -> str:
        return SOURCE_PREFIX + self.node

    @property
    def id(self) -> str:
        return f"{self.node}:{self.boot}:{self.allocation}:{self.seq}"

    @property
    def stream(self) -> tuple[str, str, str]:
        """(source, boot, allocation): a host that booted again begins another stream."""
        return self.source, self.boot, self.allocation


@dataclass(frozen=True, slots=True)
class Signed:
    """An event with its signature and the very bytes that were signed."""

    event: Event
    raw: bytes
    signature: bytes

    @property
    def hash(self) -> str:
        """What the next event of the stream carries as prev_hash; `adapters.chain.link` over the unsigned event."""
        return hashlib.sha256(self.event.prev_hash.encode() + self.raw).hexdigest()

    @property
    def body_sha256(self) -> str:
        """Tells a repetition from another statement under the same id."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def signature_text(self) -> str:
        """The signature in base64url."""
        return encode(self.signature)

    def document(self) -> dict[str, Any]:
        """The CloudEvent as it is sent."""
        return {**json.loads(self.raw), "signature": self.signature_text}


def build(event: Event) -> bytes:
    """The canonical bytes (RFC 8785) of an event without its signature; EventInvalid if a field is unfit."""
    _check(event)
    data: dict[str, Any] = {
        "agent_version": event.agent_version,
        "allocation": event.allocation,
        "boot": event.boot,
        "devices": event.devices,
        "monotonic_ms": event.monotonic_ms,
        "prev_hash": event.prev_hash,
        "seq": event.seq,
        "share_permille": event.share_permille,
    }
    if event.model is not None:
        data["model"] = event.model
    body = {
        "data": data,
        "datacontenttype": "application/json",
        "id": event.id,
        "keyid": event.key_id,
        "source": event.source,
        "specversion": "1.0",
        "time": timestamp(event.at),
        "type": f"{TYPE_PREFIX}{event.kind}{TYPE_SUFFIX}",
    }
    # For these fields (checked: ASCII keys, no control characters, integers below 2^53) this is RFC 8785, ten times
    # faster than the general form; a test holds it to adapters.chain.canonical.
    return _ENCODE(body).encode()


def sign(event: Event, key: Ed25519PrivateKey) -> Signed:
    """The event under the key's signature. EventInvalid if the event names another key."""
    raw = build(event)
    if event.key_id != key_id_of(key.public_key()):
        raise EventInvalid("keyid", event.key_id, f"{key_id_of(key.public_key())}, the key that signs")
    return Signed(event, raw, key.sign(raw))


def verify(signed: Signed, key: Ed25519PublicKey) -> bool:
    """Whether the key's owner said exactly these bytes (RFC 8032 §5.1.7)."""
    try:
        key.verify(signed.signature, signed.raw)
    except InvalidSignature:
        return False
    return True


def parse(document: object) -> Signed:
    """A CloudEvent read back. The bytes are built anew from what was understood, so nothing unread is believed.

    EventInvalid names the first field that is missing, unknown or unfit.
    """
    body = _mapping("event", document, ENVELOPE, optional=())
    data = _mapping("data", body["data"], DATA, optional=("model",))
    for field, expected in (("specversion", "1.0"), ("datacontenttype", "application/json")):
        if body[field] != expected:
            raise EventInvalid(field, body[field], expected)
    kind, source = body["type"], body["source"]
    if not isinstance(kind, str) or kind not in _KINDS:
        raise EventInvalid("type", kind, f"one of {', '.join(_KINDS)}")
    if not isinstance(source, str) or not source.startswith(SOURCE_PREFIX):
        raise EventInvalid("source", source, f"{SOURCE_PREFIX}<node>")
    if not isinstance(data["devices"], list):
        raise EventInvalid("data.devices", data["devices"], "a list of uuids")
    if not isinstance(body["signature"], str):
        raise EventInvalid("signature", body["signature"], "64 bytes in base64url")
    event = Event(
        kind=_KINDS[kind],
        node=source.removeprefix(SOURCE_PREFIX),
        boot=data["boot"],
        allocation=data["allocation"],
        seq=data["seq"],
        at=_time(body["time"]),
        devices=tuple(data["devices"]),
        share_permille=data["share_permille"],
        monotonic_ms=data["monotonic_ms"],
        prev_hash=data["prev_hash"],
        agent_version=data["agent_version"],
        key_id=body["keyid"],
        model=data.get("model"),
    )
    if "model" in data and data["model"] is None:
        raise EventInvalid("data.model", None, "a text, or left out when unknown")
    raw = build(event)
    if body["id"] != event.id:
        raise EventInvalid("id", body["id"], event.id)
    return Signed(event, raw, decode("signature", body["signature"], 64))


# --- keys -----------------------------------------------------------------------------------------


def public_text(key: Ed25519PublicKey) -> str:
    """A public key as the 32 bytes of RFC 8032 in base64url, the `x` of its JWK (RFC 8037 §2)."""
    return encode(key.public_bytes_raw())


def public_key(text: str) -> Ed25519PublicKey:
    """The key that `public_text` wrote; EventInvalid for anything else."""
    raw = decode("public_key", text, 32)
    try:
        return Ed25519PublicKey.from_public_bytes(raw)
    except ValueError:
        raise EventInvalid("public_key", text, "an Ed25519 public key") from None


def key_id_of(key: Ed25519PublicKey) -> str:
    """The key's JWK thumbprint (RFC 7638 §3 with the members of RFC 8037 §2)."""
    jwk = f'{{"crv":"Ed25519","kty":"OKP","x":"{public_text(key)}"}}'
    return encode(hashlib.sha256(jwk.encode()).digest())


def encode(raw: bytes) -> str:
    """base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(field: str, text: str, length: int) -> bytes:
    """The `length` bytes that `encode` wrote, in their one spelling; EventInvalid for anything else."""
    try:
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError, AttributeError):
        raw = b""
    if len(raw) != length or encode(raw) != text:
        raise EventInvalid(field, text, f"{length} bytes in base64url without padding")
    return raw


# --- checks ---------------------------------------------------------------------------------------


def _mapping(field: str, value: object, known: tuple[str, ...], optional: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise EventInvalid(field, value, f"an object with {', '.join(known)}")
    for name in value:
        if name not in known:
            raise EventInvalid(field, name, f"one of {', '.join(known)}")
    for name in known:
        if name not in value and name not in optional:
            raise EventInvalid(field, sorted(value), f"complete: {name} is missing")
    return value


def _time(text: object) -> datetime:
    try:
        at = instant(text) if isinstance(text, str) else None
        if at is not None and timestamp(at) == text:
            return at
    except (ValueError, OverflowError):
        pass
    raise EventInvalid("time", text, "UTC with milliseconds and Z, such as 2026-06-01T04:00:00.000Z")


def _check(event: Event) -> None:
    for field in ("node", "boot", "allocation"):
        value = getattr(event, field)
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise EventInvalid(field, value, "1 to 200 letters, digits, _ . and -")
    if type(event.seq) is not int or not 1 <= event.seq < EXACT:
        raise EventInvalid("data.seq", event.seq, "a whole number from 1")
    if type(event.monotonic_ms) is not int or not 0 <= event.monotonic_ms < EXACT:
        raise EventInvalid("data.monotonic_ms", event.monotonic_ms, "a whole number of milliseconds from 0")
    if type(event.share_permille) is not int or not 1 <= event.share_permille <= 1000:
        raise EventInvalid("data.share_permille", event.share_permille, "a whole number from 1 to 1000")
    texts = [("data.agent_version", event.agent_version), ("keyid", event.key_id)]
    if event.model is not None:
        texts.append(("data.model", event.model))
    for field, value in texts:
        if not isinstance(value, str) or not _TEXT.fullmatch(value):
            raise EventInvalid(field, value, "a text of 1 to 200 printable characters")
    if not isinstance(event.prev_hash, str) or not _HASH.fullmatch(event.prev_hash):
        raise EventInvalid("data.prev_hash", event.prev_hash, "64 digits of hexadecimal")
    if (event.seq == 1) != (event.kind is Kind.STARTED):
        raise EventInvalid("data.seq", event.seq, "1 for a start and more for every other event")
    if event.seq == 1 and (event.prev_hash != GENESIS or event.monotonic_ms != 0):
        raise EventInvalid("data.prev_hash", event.prev_hash, "64 zeros, with monotonic_ms 0, at the start of a stream")
    if not 1 <= len(event.devices) <= DEVICES_MAX or len(set(map(str, event.devices))) != len(event.devices):
        raise EventInvalid("data.devices", event.devices, f"1 to {DEVICES_MAX} different uuids")
    for device in event.devices:
        if not isinstance(device, str) or not _TEXT.fullmatch(device):
            raise EventInvalid("data.devices", device, "a uuid of 1 to 200 printable characters")
