"""Enrolment: which key speaks for which node, from when, and until when.

A provider or operator issues a one-time code bound to a site and a node. The agent makes its key on the node and
posts the public half with the code and a proof that it holds the other half. Codes are stored as hashes.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import Connection, RowMapping, func, insert, or_, select, update

from adapters.chain import canonical, timestamp
from adapters.event import EventInvalid, decode, encode, key_id_of, public_key, public_text
from metering.event_schema import agent_keys, enrolment_codes, usage_events
from metering.schema import sites
from metering.store import open_review
from scheduler.clock import from_ms, to_ms
from scheduler.refusal import Refusal
from scheduler.schema import nodes, pools

CODE_LASTS = timedelta(hours=24)
ROTATION_SKEW = timedelta(minutes=5)
PURPOSE = "cn.etown.compute.agent.enrol.v1"  # a signature made for this can be taken for nothing else


def issue_code(
    tx: Connection,
    *,
    site: str,
    node: str,
    by: str,
    now: datetime,
    provider: str | None = None,
    lasts: timedelta = CODE_LASTS,
) -> str | Refusal:
    """A one-time code, returned this once, with which the node's agent enrols a key until now + lasts.

    provider: whose site it must be; None: anybody's. NODE_NOT_AT_SITE if the node is not in a pool of that site.
    """
    if lasts <= timedelta(0):
        raise ValueError(f"lasts: {lasts} is not positive; the nearest is one millisecond")
    query = select(sites.c.provider).join(pools, pools.c.site == sites.c.id).join(nodes, nodes.c.pool == pools.c.id)
    row = tx.execute(query.where(nodes.c.id == node, sites.c.id == site)).first()
    if row is None or (provider is not None and row.provider != provider):
        return Refusal(code="NODE_NOT_AT_SITE", facts={"node": node, "site": site})
    code = f"ye_{secrets.token_urlsafe(24)}"
    tx.execute(
        insert(enrolment_codes).values(
            code_sha256=_hash(code),
            site=site,
            node=node,
            issued_by=by,
            issued_at_ms=to_ms(now),
            expires_at_ms=to_ms(now + lasts),
        )
    )
    return code


def proof(key: Ed25519PrivateKey, word: str) -> str:
    """The holder of the key asks for its enrolment under `word`: a code, or `<old key id> <time>` for a rotation."""
    return encode(key.sign(_asked(public_text(key.public_key()), word)))


def enrol(tx: Connection, *, code: str, key: str, proof: str, now: datetime) -> dict[str, Any] | Refusal:
    """The key speaks for the code's node from now on; the code is used up. The same call again answers the same.

    key: `adapters.event.public_text`; proof: see `proof`. EventInvalid for what is neither a key nor a signature.
    Refusals: ENROLMENT_CODE_INVALID (unknown, used, too old), KEY_PROOF_INVALID, KEY_ALREADY_ENROLLED.
    """
    opened = public_key(key)
    identity, hashed = key_id_of(opened), _hash(code)
    if not _proven(opened, proof, code):
        return Refusal(code="KEY_PROOF_INVALID", facts={"key": identity})
    row = tx.execute(select(enrolment_codes).where(enrolment_codes.c.code_sha256 == hashed)).mappings().first()
    if row is not None and row["key_id"] == identity:
        return _shown(keys_of(tx, [identity])[identity])
    if row is None or row["used_at_ms"] is not None or row["expires_at_ms"] <= to_ms(now):
        return Refusal(code="ENROLMENT_CODE_INVALID")
    if keys_of(tx, [identity]):
        return Refusal(code="KEY_ALREADY_ENROLLED", facts={"key": identity})
    unused = (enrolment_codes.c.code_sha256 == hashed, enrolment_codes.c.used_at_ms.is_(None))
    used = tx.execute(update(enrolment_codes).where(*unused).values(used_at_ms=to_ms(now), key_id=identity))
    if used.rowcount != 1:
        return Refusal(code="ENROLMENT_CODE_INVALID")
    return _add(tx, identity, key, row["site"], row["node"], f"code:{hashed}", now)


def rotate(
    tx: Connection, *, old: str, key: str, at: datetime, proof: str, old_proof: str, now: datetime
) -> dict[str, Any] | Refusal:
    """The new key speaks for the old one's node; events that the old one signed with a time before `at` stay valid.

    Both sign the same request (`proof` with the word `rotation_word(old, at)`; old_proof: by the old key, over the
    new one). at: within five minutes of now. Refusals: KEY_UNKNOWN, KEY_REVOKED, KEY_PROOF_INVALID,
    KEY_ALREADY_ENROLLED, ROTATION_TIME_INVALID. The same call again answers the same.
    """
    opened, word = public_key(key), rotation_word(old, at)
    identity = key_id_of(opened)
    found = keys_of(tx, [old, identity])
    if old not in found:
        return Refusal(code="KEY_UNKNOWN", facts={"key": old})
    before = found[old]
    if not _proven(opened, proof, word) or not _proven(public_key(before["public_key"]), old_proof, word, over=key):
        return Refusal(code="KEY_PROOF_INVALID", facts={"key": identity})
    if identity in found:
        if found[identity]["enrolled_by"] == f"key:{old}":
            return _shown(found[identity])
        return Refusal(code="KEY_ALREADY_ENROLLED", facts={"key": identity})
    if before["revoked_from_ms"] is not None:
        since = timestamp(from_ms(before["revoked_from_ms"]))
        return Refusal(code="KEY_REVOKED", facts={"key": old, "revoked_at": since})
    if abs(at - now) > ROTATION_SKEW:
        return Refusal(code="ROTATION_TIME_INVALID", facts={"rotation_at": timestamp(at), "now_at": timestamp(now)})
    _end(tx, old, to_ms(at), f"key:{identity}", "rotated", now)
    return _add(tx, identity, key, before["site"], before["node"], f"key:{old}", now)


def rotation_word(old: str, at: datetime) -> str:
    """What both keys put their names to in a rotation."""
    return f"{old} {timestamp(at)}"


def old_proof(old: Ed25519PrivateKey, new: Ed25519PublicKey, word: str) -> str:
    """The old key hands over to the new one."""
    return encode(old.sign(_asked(public_text(new), word)))


def revoke(
    tx: Connection, *, key: str, since: datetime, by: str, reason: str, now: datetime, provider: str | None = None
) -> dict[str, Any] | Refusal:
    """Events signed with a time of `since` or later are refused; those before stay valid. Only ever moved earlier.

    Events already stored with such a time stay, for records are not thrown away, but get a review item. provider:
    whose site's key it must be; None: anybody's. Refusal KEY_UNKNOWN.
    """
    row = keys_of(tx, [key]).get(key)
    if row is not None and provider is not None:
        owner = tx.execute(select(sites.c.provider).where(sites.c.id == row["site"])).scalar()
        row = row if owner == provider else None
    if row is None:
        return Refusal(code="KEY_UNKNOWN", facts={"key": key})
    _end(tx, key, to_ms(since), by, reason, now)
    stored = (usage_events.c.key_id == key, usage_events.c.time_ms >= to_ms(since))
    count = tx.execute(select(func.count()).select_from(usage_events).where(*stored)).scalar_one()
    if count:
        facts = {"key": key, "node": row["node"], "events": count, "revoked_at": timestamp(since)}
        open_review(tx, code="KEY_REVOKED_AFTER_USE", subject=key, facts=facts, now=now)
    return _shown(keys_of(tx, [key])[key])


def keys_of(tx: Connection, identities: Iterable[str]) -> dict[str, RowMapping]:
    """Those of the keys that are enrolled, revoked ones too."""
    query = select(agent_keys).where(agent_keys.c.id.in_(sorted(set(identities))))
    return {row["id"]: row for row in tx.execute(query).mappings()}


def enrolments(tx: Connection, provider: str | None) -> list[dict[str, Any]]:
    """Every enrolled key of the provider's sites (None: of all), in order of node and time."""
    query = select(agent_keys).order_by(agent_keys.c.node, agent_keys.c.enrolled_at_ms, agent_keys.c.id)
    if provider is not None:
        query = query.join(sites, sites.c.id == agent_keys.c.site).where(sites.c.provider == provider)
    return [_shown(row) for row in tx.execute(query).mappings()]


def _add(
    tx: Connection, identity: str, key: str, site: str, node: str, enrolled_by: str, now: datetime
) -> dict[str, Any]:
    values = {"id": identity, "public_key": key, "site": site, "node": node, "enrolled_by": enrolled_by}
    tx.execute(insert(agent_keys).values(**values, enrolled_at_ms=to_ms(now)))
    return _shown(keys_of(tx, [identity])[identity])


def _end(tx: Connection, key: str, from_ms_: int, by: str, reason: str, now: datetime) -> None:
    k = agent_keys.c
    earlier = or_(k.revoked_from_ms.is_(None), k.revoked_from_ms > from_ms_)
    values = {"revoked_from_ms": from_ms_, "revoked_at_ms": to_ms(now), "revoked_by": by, "reason": reason}
    tx.execute(update(agent_keys).where(k.id == key, earlier).values(values))


def _shown(row: RowMapping) -> dict[str, Any]:
    revoked = row["revoked_from_ms"]
    return {
        "key": row["id"],
        "node": row["node"],
        "site": row["site"],
        "enrolled_at": timestamp(from_ms(row["enrolled_at_ms"])),
        "revoked_from": None if revoked is None else timestamp(from_ms(revoked)),
        "reason": row["reason"],
    }


def _proven(key: Ed25519PublicKey, signature: str, word: str, *, over: str | None = None) -> bool:
    try:
        key.verify(decode("proof", signature, 64), _asked(over or public_text(key), word))
    except (InvalidSignature, EventInvalid):
        return False
    return True


def _asked(key: str, word: str) -> bytes:
    return canonical({"purpose": PURPOSE, "key": key, "word": word})


def _hash(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
