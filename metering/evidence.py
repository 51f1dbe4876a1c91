"""Evidence: what is put on record about a device's identity, by whom, and the doubts that a person has to look at.

    issue_challenge → the node answers with a signed statement → answer_challenge puts on record what it shows of each device
    sight           what a node says it holds, compared with every other node: a serial twice, a uuid that moved
    audit, move, clear, withdraw   what a person decides, with a document or a reason

Nothing here is edited: levels follow from the records (evidence_level.py). A suspect device's node takes no new jobs until an
operator lets it, and a review item waits. Every function takes an open transaction; now is the platform's clock.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from adapters.accelerator import Accelerator, EvidenceLevel, Source
from adapters.catalog import Catalog
from adapters.chain import canonical, timestamp
from adapters.event import public_key
from adapters.evidence import NONCE_BYTES, Statement, is_signed_by
from adapters.pci import attest
from metering import review, store
from metering.attestation import check_claims
from metering.enrolment import keys_of
from metering.event_schema import agent_keys
from metering.evidence_level import VERSION, Kind, Record, Step, course, verdict_at
from metering.evidence_pools import AT_ONCE
from metering.evidence_schema import evidence_challenges, evidence_records, node_challenges
from metering.parameters import Policy
from metering.parameters.policy import EVIDENCE_LASTS
from scheduler import journal, places
from scheduler.clock import from_ms, to_ms
from scheduler.refusal import Refusal
from scheduler.schema import devices, lease_devices, nodes

CHALLENGE_LASTS = timedelta(minutes=5)
SILENT_AFTER = timedelta(
    seconds=90
)  # a node nobody heard from for so long does not vouch for its devices, as for placement
SUSPECT, MOVED = "DEVICE_SUSPECT", "DEVICE_MOVED"  # review items, by device
ROTATED = "rotated"  # of a key's end: what it signed before stays good


# --- the nonce ------------------------------------------------------------------------------------


def issue_challenge(tx: Connection, *, node: str, by: str, now: datetime) -> dict[str, Any] | Refusal:
    """{node, nonce, expires_at}: the nonce is shown this once, and good for one answer within five minutes."""
    if tx.execute(select(nodes.c.id).where(nodes.c.id == node)).first() is None:
        return Refusal(code="NODE_UNKNOWN", facts={"node": node})
    nonce = secrets.token_hex(NONCE_BYTES)
    values = {"nonce_sha256": _sha256(nonce), "node": node, "issued_by": by, "issued_at_ms": to_ms(now)}
    tx.execute(insert(evidence_challenges).values(**values, expires_at_ms=to_ms(now + CHALLENGE_LASTS)))
    return {"node": node, "nonce": nonce, "expires_at": timestamp(now + CHALLENGE_LASTS)}


def answer_challenge(
    tx: Connection,
    *,
    node: str,
    statement: Statement,
    key: str | None,
    signature: str | None,
    policy: Policy,
    catalog: Catalog,
    by: str,
    now: datetime,
) -> dict[str, Any] | Refusal:
    """What the statement shows is on record, and the nonce is used up: {node, sha256, devices: [{device, level, because}], …}.

    key, signature: of the node's enrolled key; both None = unsigned, which shows the bus (L2) and no more. `unknown`: devices of
    the statement that the platform does not have on this node. A device that bus and tool contradict becomes suspect. Of a nonce
    that the platform gave out by itself the answer replaces what was said before: a device that it leaves out, or confirms no more,
    shows no more than that from now on.
    Refusals: CHALLENGE_UNKNOWN, CHALLENGE_USED, CHALLENGE_EXPIRED, EVIDENCE_OF_ANOTHER_NODE, KEY_UNKNOWN, KEY_REVOKED,
    EVIDENCE_SIGNATURE_INVALID, CHALLENGE_NEEDS_SIGNATURE, SIMULATED_NEEDS_DEMO_LEDGER.
    """
    if statement.node != node:
        return Refusal(code="EVIDENCE_OF_ANOTHER_NODE", facts={"node": node, "says": statement.node})
    if any(d.source is Source.SIMULATED for d in statement.devices) and store.ledger_mark(tx) != "demo":
        return Refusal(code="SIMULATED_NEEDS_DEMO_LEDGER", facts={"pool": node})
    asked = _asked(tx, node, statement.nonce)
    if asked is not None and key is None:
        return Refusal(code="CHALLENGE_NEEDS_SIGNATURE", facts={"node": node})
    refusal = _unsigned(tx, node, statement, key, signature, now) or _use_nonce(tx, node, statement.nonce, now)
    if refusal is not None:
        return refusal
    if asked is not None:
        _answered(tx, node, asked, now)
    known = {row["uuid"]: row for row in tx.execute(select(devices).where(devices.c.node == node)).mappings()}
    told, unmanaged = attest(statement.devices, statement.functions, bare_metal=statement.bare_metal)
    drivers = {function.bdf: function.driver for function in statement.functions}
    kind = Kind.OBSERVED if key is None else Kind.SIGNED
    doubtful: dict[str, tuple[str, ...]] = {}
    left = {row["uuid"] for row in known.values() if row["source"] != Source.SIMULATED.value} if asked else set()
    for uuid in sorted(left - {device.uuid for device in told}):
        lapse(tx, uuid, node, challenge=str(asked), start=now, now=now, by=by)
    for device in told:
        row = known.get(device.uuid)
        if row is None or device.source is Source.SIMULATED or row["source"] == Source.SIMULATED.value:
            continue  # a simulated device has no bus, no key and no maker: it stays declared
        doubts = (*(f"bus: {doubt}" for doubt in device.problems), *_contradictions(row, device))
        bus: bool | None = None if device.pci_bdf is None or not statement.functions else not device.problems
        if bus and drivers.get(device.pci_bdf or "") is None:
            bus = None  # nothing drives it, so nothing on the bus is known to answer for it
        facts = {"bus": bus, "bare_metal": statement.bare_metal, "key": key}
        lasts = _lasts(policy, now)
        if asked is not None and (bus, statement.bare_metal) != (True, True):
            lapse(tx, device.uuid, node, challenge=asked, start=now, now=now, by=by)
        if not doubts:
            _record(tx, device.uuid, node, kind, facts, now, by, sha256=statement.sha256, until=lasts, catalog=catalog)
        claims = statement.attestations.get(device.uuid)
        if claims is not None and key is not None:
            doubts += _attested(tx, device, node, claims, statement, lasts, by, now, catalog)
        if doubts:
            doubtful[device.uuid] = doubts
    for uuid, doubts in doubtful.items():
        quarantine(tx, uuid, [node], doubts, by=by, now=now)
    mine = [device.uuid for device in told if device.uuid in known]
    return {
        "node": node,
        "sha256": statement.sha256,
        "devices": [_told(uuid, steps, now) for uuid, steps in courses(tx, mine).items()],
        "unknown": sorted(device.uuid for device in told if device.uuid not in known),
        "unmanaged": list(unmanaged),
    }


def _asked(tx: Connection, node: str, nonce: str) -> str | None:
    """The challenge that the platform drew by itself, if the nonce is of one."""
    c = node_challenges.c
    query = select(c.id).where(c.node == node, c.nonce == nonce, c.kind == "statement")
    found: str | None = tx.execute(query).scalar()
    return found


def _answered(tx: Connection, node: str, challenge: str, now: datetime) -> None:
    values = {"outcome": "ANSWERED", "ended_at_ms": to_ms(now)}
    tx.execute(update(node_challenges).where(node_challenges.c.id == challenge).values(**values))
    review.follow(tx, f"CHALLENGE_UNANSWERED:{node}", "answered", "a later challenge was answered", now)


def lapse(tx: Connection, device: str, node: str, *, challenge: str, start: datetime, now: datetime, by: str) -> None:
    """From start on, what the node swore of the device before no longer counts."""
    _record(tx, device, node, Kind.LAPSED, {"challenge": challenge}, now, by, start=start)


def record_kernel(tx: Connection, device: str, node: str, facts: Mapping[str, Any], *, now: datetime, by: str) -> None:
    """What the platform's challenge kernel showed of the device is on record. facts: {ok, code, challenge, …}."""
    _record(tx, device, node, Kind.KERNEL, facts, now, by)


def _unsigned(
    tx: Connection, node: str, statement: Statement, key: str | None, signature: str | None, now: datetime
) -> Refusal | None:
    """Why the statement is not the node's; None for one that its key signed, and for one that nobody claims to have."""
    if key is None and signature is None:
        return None
    row = keys_of(tx, [key or ""]).get(key or "")
    if row is None or row["node"] != node:
        return Refusal(code="KEY_UNKNOWN", facts={"key": key})
    if row["revoked_from_ms"] is not None and row["revoked_from_ms"] <= to_ms(now):
        since = timestamp(from_ms(row["revoked_from_ms"]))
        return Refusal(code="KEY_REVOKED", facts={"key": key, "revoked_at": since})
    if signature is None or not is_signed_by(statement, signature, public_key(row["public_key"])):
        return Refusal(code="EVIDENCE_SIGNATURE_INVALID", facts={"node": node, "key": key})
    return None


def _use_nonce(tx: Connection, node: str, nonce: str, now: datetime) -> Refusal | None:
    c = evidence_challenges.c
    row = tx.execute(select(evidence_challenges).where(c.nonce_sha256 == _sha256(nonce))).mappings().first()
    if row is None or row["node"] != node:
        return Refusal(code="CHALLENGE_UNKNOWN", facts={"node": node})
    used = update(evidence_challenges).where(c.nonce_sha256 == _sha256(nonce), c.used_at_ms.is_(None))
    if row["used_at_ms"] is not None:
        return Refusal(code="CHALLENGE_USED", facts={"node": node, "used_at": timestamp(from_ms(row["used_at_ms"]))})
    if row["expires_at_ms"] <= to_ms(now):
        ended = timestamp(from_ms(row["expires_at_ms"]))
        return Refusal(code="CHALLENGE_EXPIRED", facts={"node": node, "expired_at": ended})
    if tx.execute(used.values(used_at_ms=to_ms(now))).rowcount != 1:
        return Refusal(code="CHALLENGE_USED", facts={"node": node, "used_at": timestamp(now)})
    return None


def _contradictions(row: Mapping[Any, Any], device: Accelerator) -> tuple[str, ...]:
    """Where the statement says something else of a device than its node's inventory; what either leaves out says nothing."""
    names = ("vendor", "model", "serial", "pci_bdf")
    differs = [n for n in names if None not in (row[n], getattr(device, n)) and row[n] != getattr(device, n)]
    return tuple(f"{name}: the inventory has {row[name]}, the statement {getattr(device, name)}" for name in differs)


def _attested(
    tx: Connection,
    device: Accelerator,
    node: str,
    claims: Mapping[str, Any],
    statement: Statement,
    until: datetime | None,
    by: str,
    now: datetime,
    catalog: Catalog,
) -> tuple[str, ...]:
    """The claims are on record if they hold; else, the doubts that they raise. One chip's claims are one device's."""
    found = check_claims(claims, nonce=statement.nonce, vendor=device.vendor, model=device.model, now=now)
    if not found.holds:
        return found.doubts
    ueid = str(claims["ueid"])
    query = select(evidence_records.c.device, evidence_records.c.facts).where(
        evidence_records.c.kind == Kind.ATTESTED.value, evidence_records.c.device != device.uuid
    )
    if any(json.loads(row.facts).get("ueid") == ueid for row in tx.execute(query)):
        return (f"ueid: {ueid} is another device's",)
    facts = {"ueid": ueid, "hwmodel": claims["hwmodel"], "origin": "foreign", "issuer": claims["iss"]}
    _record(tx, device.uuid, node, Kind.ATTESTED, facts, now, by, sha256=statement.sha256, until=until, catalog=catalog)
    return ()


# --- what other nodes say -------------------------------------------------------------------------


def conflicts(tx: Connection, node: str, inventory: Sequence[Accelerator]) -> bool:
    """Whether another node has a device of one of these uuids, or of the same maker and serial. Reads only."""
    return bool(_elsewhere(tx, node, inventory) or _same_serial(tx, node, inventory))


def sight(tx: Connection, node: str, inventory: Sequence[Accelerator], *, by: str, now: datetime) -> None:
    """What the node says it holds is compared with all others, and what cannot be is on record.

    A uuid that maintenance sent here is of this node afterwards. One that another node still vouches for is suspect (it is there
    twice); one of a node that is silent waits for a person (DEVICE_MOVED) and stays where it was. Two devices with one maker
    and serial on different nodes are both suspect; dies of one board share a serial on one node.
    """
    for row in _elsewhere(tx, node, inventory):
        uuid, home = row["uuid"], row["node"]
        if _expected(tx, uuid, node) and not _in_use(tx, uuid):
            tx.execute(update(devices).where(devices.c.uuid == uuid).values(node=node))
            _record(tx, uuid, node, Kind.MOVED, {"to": node, "arrived": True}, now, by)
            review.follow(tx, f"{MOVED}:{uuid}", "accepted", "maintenance is on record", now)
            continue
        heard = tx.execute(select(nodes.c.heartbeat_at_ms).where(nodes.c.id == home)).scalar()
        if heard is not None and heard > to_ms(now - SILENT_AFTER):
            quarantine(tx, uuid, [home, node], (f"uuid: {home} and {node} both hold it",), by=by, now=now)
        else:
            facts = {"device": uuid, "from": home, "to": node}
            store.open_review(tx, code=MOVED, subject=uuid, facts=facts, now=now)
    for own, row in _same_serial(tx, node, inventory):
        doubt = f"serial: {own.vendor} {own.serial} is on {min(node, row['node'])} and {max(node, row['node'])}"
        for uuid, place in ((own.uuid, node), (row["uuid"], row["node"])):
            quarantine(tx, uuid, [place], (doubt,), by=by, now=now)


def _elsewhere(tx: Connection, node: str, inventory: Iterable[Accelerator]) -> list[RowMapping]:
    uuids = [device.uuid for device in inventory]
    query = select(devices.c.uuid, devices.c.node).where(devices.c.uuid.in_(uuids), devices.c.node != node)
    return list(tx.execute(query.order_by(devices.c.uuid)).mappings())


def _same_serial(tx: Connection, node: str, inventory: Iterable[Accelerator]) -> list[tuple[Accelerator, RowMapping]]:
    mine = {(d.vendor, d.serial): d for d in inventory if d.serial and d.source is not Source.SIMULATED}
    wanted = [serial for _, serial in mine]
    query = select(devices.c.uuid, devices.c.node, devices.c.vendor, devices.c.serial).where(
        devices.c.serial.in_(wanted), devices.c.node != node, devices.c.source != Source.SIMULATED.value
    )
    found = [(mine.get((row["vendor"], row["serial"])), row) for row in tx.execute(query).mappings()] if mine else []
    return [(own, row) for own, row in found if own is not None and own.uuid != row["uuid"]]


def _expected(tx: Connection, device: str, node: str) -> bool:
    """Whether the newest move on record sends the device here."""
    moves = [record for record in records_of(tx, [device]).get(device, ()) if record.kind is Kind.MOVED]
    return bool(moves) and moves[-1].facts.get("to") == node


def _in_use(tx: Connection, device: str) -> bool:
    held = select(lease_devices.c.lease).where(lease_devices.c.device == device, lease_devices.c.released == 0)
    return tx.execute(held.limit(1)).first() is not None


def quarantine(
    tx: Connection, device: str, places_: Sequence[str], doubts: Sequence[str], *, by: str, now: datetime
) -> None:
    """The device is suspect, these nodes take no new jobs, and a person is asked to look. The same doubts again add nothing."""
    steps = courses(tx, [device]).get(device) or course(
        records_of(tx, [device]).get(device, ()), EvidenceLevel.DECLARED
    )
    if not set(doubts) <= set(verdict_at(steps, to_ms(now)).because):
        _record(tx, device, places_[0], Kind.SUSPECT, {"doubts": list(doubts), "nodes": list(places_)}, now, by)
    for place in places_:
        row = tx.execute(select(nodes.c.schedulable).where(nodes.c.id == place)).first()
        if row is not None and row.schedulable:
            places.set_schedulable(tx, place, False, now)
    facts = {"device": device, "nodes": list(places_), "doubts": list(doubts)}
    store.open_review(tx, code=SUSPECT, subject=device, facts=facts, now=now)


def keep_out(tx: Connection, node: str, now: datetime) -> None:
    """A node that was added with a suspect device takes no jobs either."""
    uuids = list(tx.execute(select(devices.c.uuid).where(devices.c.node == node)).scalars())
    if any(verdict_at(steps, to_ms(now)).suspect for steps in courses(tx, uuids).values()):
        places.set_schedulable(tx, node, False, now)


# --- what people decide ---------------------------------------------------------------------------


def audit(
    tx: Connection,
    *,
    device: str,
    document_sha256: str,
    decided_by: str,
    how: str,
    start: datetime,
    end: datetime | None,
    by: str,
    now: datetime,
) -> dict[str, Any] | Refusal:
    """Somebody saw the device or its papers (L5) over [start, end): the document's hash, how, and who decided are on record.

    Who records it is not who decided. ValueError for a time that is empty or begins in the future.
    """
    if start > now or (end is not None and end <= start):
        raise ValueError(f"from: {timestamp(start)} must not be after now, {timestamp(now)}, nor reach to")
    if decided_by.strip().casefold() == by.strip().casefold():
        return Refusal(code="AUDIT_NEEDS_TWO", facts={"device": device, "by": by})
    facts = {"decided_by": decided_by, "how": how}
    return _decide(
        tx, device, Kind.AUDITED, facts, by=by, now=now, sha256=document_sha256, start=start, until=end
    )  # fmt: skip


def move(tx: Connection, *, device: str, to: str, reason: str, by: str, now: datetime) -> dict[str, Any] | Refusal:
    """Maintenance takes the device to another node: when that node says it holds it, it is there."""
    if tx.execute(select(nodes.c.id).where(nodes.c.id == to)).first() is None:
        return Refusal(code="NODE_UNKNOWN", facts={"node": to})
    if _in_use(tx, device):
        return Refusal(code="DEVICE_IN_USE", facts={"device": device})
    return _decide(tx, device, Kind.MOVED, {"to": to, "reason": reason}, by=by, now=now)


def clear(tx: Connection, *, device: str, reason: str, by: str, now: datetime) -> dict[str, Any] | Refusal:
    """A person looked: what was said against the device, and a benchmark outside its band, no longer count; its items are closed.

    Its nodes stay out of use until somebody puts them back.
    """
    done = _decide(tx, device, Kind.CLEARED, {"reason": reason}, by=by, now=now)
    if not isinstance(done, Refusal):
        for code in (SUSPECT, MOVED, "FINGERPRINT_OUT_OF_BAND", "KERNEL_FAILED"):
            review.follow(tx, f"{code}:{device}", "cleared", reason, now)
    return done


def withdraw(tx: Connection, *, device: str, seq: int, reason: str, by: str, now: datetime) -> dict[str, Any] | Refusal:
    """The device's record of this number no longer counts, for no time at all; usage it was settled with can be corrected."""
    if seq not in [record.seq for record in records_of(tx, [device]).get(device, ())]:
        last = journal.head(tx, evidence_records.name)[0]
        return Refusal(code="RECORD_UNKNOWN", facts={"stream": evidence_records.name, "seq": seq, "last": last})
    return _decide(tx, device, Kind.WITHDRAWN, {"withdraws": seq, "reason": reason}, by=by, now=now)


def _decide(
    tx: Connection,
    device: str,
    kind: Kind,
    facts: Mapping[str, Any],
    *,
    by: str,
    now: datetime,
    sha256: str | None = None,
    start: datetime | None = None,
    until: datetime | None = None,
) -> dict[str, Any] | Refusal:
    row = tx.execute(select(devices.c.node, devices.c.source).where(devices.c.uuid == device)).first()
    if row is None:
        return Refusal(code="DEVICE_UNKNOWN", facts={"device": device})
    if row.source == Source.SIMULATED.value and kind is Kind.AUDITED:
        return Refusal(code="SIMULATED_STAYS_DECLARED", facts={"device": device})
    seq = _record(tx, device, row.node, kind, facts, now, by, sha256=sha256, start=start, until=until)
    return {"seq": seq, "kind": kind.value, **_told(device, courses(tx, [device])[device], now)}


# --- what follows ---------------------------------------------------------------------------------


def records_of(tx: Connection, uuids: Sequence[str]) -> dict[str, list[Record]]:
    """What is on record of these devices, in order of number; a device without any is left out."""
    c = evidence_records.c
    query = select(c.seq, c.device, c.kind, c.from_ms, c.to_ms, c.facts).order_by(c.seq)
    found: dict[str, list[Record]] = {}
    for part in _parts(uuids):
        for row in tx.execute(query.where(c.device.in_(part))):
            record = Record(
                seq=row.seq, kind=Kind(row.kind), from_ms=row.from_ms, to_ms=row.to_ms, facts=json.loads(row.facts)
            )
            found.setdefault(row.device, []).append(record)
    return found


def _parts(uuids: Sequence[str]) -> list[Sequence[str]]:
    """So many at once as a query may name."""
    return [uuids[start : start + AT_ONCE] for start in range(0, len(uuids), AT_ONCE)]


def courses(tx: Connection, uuids: Sequence[str]) -> dict[str, tuple[Step, ...]]:
    """Each known device's verdict over time, in order of uuid. A simulated one is declared throughout."""
    query = select(devices.c.uuid, devices.c.evidence_level, devices.c.source)
    rows = [row for part in _parts(uuids) for row in tx.execute(query.where(devices.c.uuid.in_(part)))]
    rows.sort(key=lambda row: str(row.uuid))
    told = records_of(tx, [row.uuid for row in rows])
    keys = {str(record.facts["key"]) for records in told.values() for record in records if record.facts.get("key")}
    revoked: dict[str, int] = {}
    if keys:
        ended = select(agent_keys.c.id, agent_keys.c.revoked_from_ms).where(
            agent_keys.c.id.in_(sorted(keys)), agent_keys.c.revoked_from_ms.is_not(None)
        )
        revoked = {row.id: row.revoked_from_ms for row in tx.execute(ended)}
    found = {}
    for row in rows:
        real = row.source != Source.SIMULATED.value
        base = EvidenceLevel(min(row.evidence_level, EvidenceLevel.TOOL_REPORTED) if real else EvidenceLevel.DECLARED)
        found[row.uuid] = course(told.get(row.uuid, ()), base, revoked=revoked)
    return found


def document_of(tx: Connection, device: str, now: datetime) -> dict[str, Any] | None:
    """The device with its level now, how it came to it, and every record; None for an unknown one."""
    row = tx.execute(select(devices).where(devices.c.uuid == device)).mappings().first()
    if row is None:
        return None
    steps = courses(tx, [device])[device]
    c = evidence_records.c
    kept = tx.execute(select(evidence_records).where(c.device == device).order_by(c.seq)).mappings()
    return {
        **_told(device, steps, now),
        **{name: row[name] for name in ("node", "vendor", "model", "model_raw", "serial", "pci_bdf", "source")},
        "course": [
            {
                "from": None if step.start_ms is None else timestamp(from_ms(step.start_ms)),
                "level": int(step.verdict.level),
                "because": list(step.verdict.because),
            }
            for step in steps
        ],
        "records": [
            {
                "seq": kept_row["seq"],
                "kind": kept_row["kind"],
                "node": kept_row["node"],
                "from": timestamp(from_ms(kept_row["from_ms"])),
                "to": None if kept_row["to_ms"] is None else timestamp(from_ms(kept_row["to_ms"])),
                "facts": json.loads(kept_row["facts"]),
                "document_sha256": kept_row["document_sha256"],
                "recorded_at": timestamp(from_ms(kept_row["recorded_at_ms"])),
                "recorded_by": kept_row["recorded_by"],
            }
            for kept_row in kept
        ],
    }


def listing(tx: Connection, now: datetime, provider_nodes: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Every device's level now, in order of node and place. provider_nodes: of these nodes alone."""
    query = select(devices.c.uuid, devices.c.node, devices.c.vendor, devices.c.model, devices.c.source)
    if provider_nodes is not None:
        query = query.where(devices.c.node.in_(provider_nodes))
    rows = list(tx.execute(query.order_by(devices.c.node, devices.c.idx)).mappings())
    known = courses(tx, [row["uuid"] for row in rows])
    return [
        {**_told(row["uuid"], known[row["uuid"]], now), **{k: row[k] for k in ("node", "vendor", "model", "source")}}
        for row in rows
    ]


def _told(device: str, steps: Sequence[Step], now: datetime) -> dict[str, Any]:
    verdict = verdict_at(steps, to_ms(now))
    return {"device": device, "level": int(verdict.level), "because": list(verdict.because)}


def _lasts(policy: Policy, now: datetime) -> datetime | None:
    """Until when what a node says now is fresh; None where the policy has no term for it."""
    days = policy.answer_at(EVIDENCE_LASTS, now)
    return None if days is None else now + timedelta(days=int(days))


def _record(
    tx: Connection,
    device: str,
    node: str,
    kind: Kind,
    facts: Mapping[str, Any],
    now: datetime,
    by: str,
    *,
    sha256: str | None = None,
    start: datetime | None = None,
    until: datetime | None = None,
    catalog: Catalog | None = None,
) -> int:
    versions = {"rules": VERSION} if catalog is None else {"rules": VERSION, "catalogue": catalog.as_of.isoformat()}
    values = {
        "device": device,
        "node": node,
        "kind": kind.value,
        "from_ms": to_ms(start or now),
        "to_ms": None if until is None else to_ms(until),
        "facts": canonical({**facts, "versions": versions}).decode(),
        "document_sha256": sha256,
        "recorded_at_ms": to_ms(now),
        "recorded_by": by,
    }
    return journal.append(tx, evidence_records, values)


def record_fingerprint(
    tx: Connection, *, device: str, facts: Mapping[str, Any], sha256: str, by: str, now: datetime, catalog: Catalog
) -> dict[str, Any] | Refusal:
    """What a benchmark said of the device is on record; one outside the model's band opens a review item."""
    row = tx.execute(select(devices.c.node, devices.c.source).where(devices.c.uuid == device)).first()
    if row is None:
        return Refusal(code="DEVICE_UNKNOWN", facts={"device": device})
    _record(tx, device, row.node, Kind.FINGERPRINT, facts, now, by, sha256=sha256, catalog=catalog)
    if facts["within"] is False:
        told = {"device": device, **{k: v for k, v in facts.items() if k != "within"}}
        store.open_review(tx, code="FINGERPRINT_OUT_OF_BAND", subject=device, facts=told, now=now)
    return {**_told(device, courses(tx, [device])[device], now), "fingerprint": dict(facts)}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
