"""The event as bytes: one form, one signature, nothing unread believed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from adapters.chain import GENESIS, canonical, link
from adapters.event import (
    Event,
    EventInvalid,
    Kind,
    Signed,
    build,
    key_id_of,
    parse,
    public_key,
    public_text,
    sign,
    verify,
)

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
NOON = datetime(2026, 6, 1, 4, tzinfo=UTC)


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Any event we may make, with texts from all of Unicode."""
    first = draw(st.booleans())
    return Event(
        kind=Kind.STARTED if first else draw(st.sampled_from([k for k in Kind if k is not Kind.STARTED])),
        node=draw(NAMES),
        boot=draw(NAMES),
        allocation=draw(NAMES),
        seq=1 if first else draw(st.integers(2, 2**53 - 1)),
        at=NOON + timedelta(milliseconds=draw(st.integers(-(10**12), 10**12))),
        devices=tuple(draw(st.lists(TEXTS, min_size=1, max_size=8, unique=True))),
        share_permille=draw(st.integers(1, 1000)),
        monotonic_ms=0 if first else draw(st.integers(0, 2**53 - 1)),
        prev_hash=GENESIS if first else draw(st.from_regex(r"[0-9a-f]{64}", fullmatch=True)),
        agent_version=draw(TEXTS),
        key_id=key_id_of(KEY.public_key()),
        model=draw(st.none() | TEXTS),
    )


def event(**more: Any) -> Event:
    values: dict[str, Any] = {
        "kind": Kind.HEARTBEAT, "node": "n1", "boot": "b1", "allocation": "job_a.1", "seq": 2, "at": NOON,
        "devices": ("d0",), "share_permille": 1000, "monotonic_ms": 5, "prev_hash": "a" * 64, "agent_version": "0.1",
        "key_id": key_id_of(KEY.public_key()), **more,
    }  # fmt: skip
    return Event(**values)


@given(made=events())
def test_a_signed_event_comes_back_through_json_byte_for_byte(made: Event) -> None:
    signed = sign(made, KEY)
    back = parse(json.loads(json.dumps(signed.document())))

    assert back == signed
    assert verify(back, KEY.public_key())


@given(made=events())
def test_the_bytes_are_rfc_8785_and_the_hash_is_the_chain_s(made: Event) -> None:
    body = json.loads(build(made))

    assert build(made) == canonical(body)
    assert Signed(made, build(made), b"").hash == link(made.prev_hash, body)


def test_the_signature_covers_what_places_the_event() -> None:
    body = json.loads(build(event()))

    assert {"source", "id", "time", "keyid", "type"} <= set(body)
    assert {"seq", "prev_hash", "boot", "allocation", "monotonic_ms", "devices"} <= set(body["data"])
    assert body["type"] == "cn.etown.compute.allocation.heartbeat.v1"
    assert (body["source"], body["id"]) == ("urn:yisuan:agent:n1", "n1:b1:job_a.1:2")


def test_a_key_s_id_is_the_thumbprint_of_rfc_8037() -> None:
    """The key and the thumbprint of RFC 8037 appendix A.3."""
    key = public_key("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")

    assert key_id_of(key) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    assert public_text(key) == "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"


UNFIT: list[tuple[str, dict[str, Any]]] = [
    ("node", {"node": "a:b"}), ("node", {"node": ""}), ("boot", {"boot": "x" * 201}), ("allocation", {"allocation": "é"}),
    ("data.seq", {"seq": 0}), ("data.seq", {"seq": 2**53}), ("data.seq", {"seq": True}), ("data.seq", {"seq": 2.0}),
    ("data.seq", {"seq": 1}), ("data.seq", {"kind": Kind.STARTED}),
    ("data.prev_hash", {"kind": Kind.STARTED, "seq": 1, "monotonic_ms": 0}),
    ("data.prev_hash", {"kind": Kind.STARTED, "seq": 1, "prev_hash": GENESIS}),
    ("data.prev_hash", {"prev_hash": "A" * 64}), ("data.prev_hash", {"prev_hash": None}),
    ("data.monotonic_ms", {"monotonic_ms": -1}), ("data.monotonic_ms", {"monotonic_ms": "5"}),
    ("data.share_permille", {"share_permille": 0}), ("data.share_permille", {"share_permille": 1001}),
    ("data.devices", {"devices": ()}), ("data.devices", {"devices": ("d", "d")}), ("data.devices", {"devices": ("",)}),
    ("data.devices", {"devices": (1,)}), ("data.devices", {"devices": tuple(map(str, range(257)))}),
    ("data.agent_version", {"agent_version": "\n"}), ("data.agent_version", {"agent_version": None}),
    ("data.model", {"model": ""}), ("data.model", {"model": []}), ("keyid", {"key_id": "\ud800"}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "more"), UNFIT)
def test_an_unfit_event_is_neither_made_nor_read(field: str, more: dict[str, Any]) -> None:
    with pytest.raises(EventInvalid) as raised:
        build(event(**more))
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"specversion": "0.3"}, "specversion"), ({"datacontenttype": "text/xml"}, "datacontenttype"),
        ({"type": "cn.etown.compute.allocation.paused.v1"}, "type"), ({"type": []}, "type"),
        ({"source": "urn:other:n1"}, "source"), ({"source": None}, "source"), ({"id": "n1:b1:job_a.1:3"}, "id"),
        ({"time": "2026-06-01T12:00:00.000+08:00"}, "time"), ({"time": "2026-06-01T04:00:00Z"}, "time"),
        ({"time": "0000"}, "time"), ({"time": 5}, "time"), ({"signature": "A" * 85}, "signature"),
        ({"signature": "A" * 84 + "=="}, "signature"), ({"signature": None}, "signature"), ({"data": []}, "data"),
        ({"subject": "x"}, "event"),
    ],
)  # fmt: skip
def test_a_document_that_is_not_ours_says_where(change: dict[str, Any], field: str) -> None:
    with pytest.raises(EventInvalid) as raised:
        parse({**sign(event(), KEY).document(), **change})
    assert raised.value.field == field


@pytest.mark.parametrize("name", ["id", "time", "source", "type", "keyid", "signature", "data", "specversion"])
def test_a_missing_attribute_is_named(name: str) -> None:
    document = sign(event(), KEY).document()
    del document[name]
    with pytest.raises(EventInvalid, match=f"{name} is missing"):
        parse(document)


@pytest.mark.parametrize("last", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
def test_a_signature_has_one_spelling(last: str) -> None:
    """64 bytes leave four bits of the last character unused; another value of them would be another spelling."""
    document = sign(event(), KEY).document()
    other = {**document, "signature": document["signature"][:-1] + last}
    believed = _believed(other)

    assert believed == (other == document)


def _believed(document: dict[str, Any]) -> bool:
    try:
        return verify(parse(document), KEY.public_key())
    except EventInvalid:
        return False


def test_nobody_signs_in_the_name_of_another_key() -> None:
    with pytest.raises(EventInvalid, match="keyid"):
        sign(event(key_id="x"), KEY)
