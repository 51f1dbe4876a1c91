"""A node's statement: what is signed, and what is read back."""

from __future__ import annotations

import contextlib
import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from adapters.accelerator import Accelerator, Source
from adapters.event import EventInvalid
from adapters.evidence import (
    Statement,
    StatementInvalid,
    is_signed_by,
    parse_statement,
    sign_statement,
    state,
)
from adapters.pci import PciDevice

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
AT = datetime(2026, 12, 1, tzinfo=UTC)
CARD = Accelerator(
    uuid="VDIE-1", index=0, vendor="ascend", model_raw="910B3", model="Ascend910B3", serial="S1",
    pci_bdf="0000:c1:00.0", source=Source.LIBRARY,
)  # fmt: skip
BUS = PciDevice(bdf="0000:c1:00.0", vendor_id=0x19E5, device_id=0xD802, class_code=0x1200, driver="davinci")
NETWORK = PciDevice(bdf="0000:02:00.0", vendor_id=0x19E5, device_id=0x0222, class_code=0x0200, driver="hinic3")


def made(**changes: Any) -> Statement:
    given = {"node": "n1", "nonce": "a" * 64, "at": AT, "devices": [CARD], "functions": [BUS, NETWORK]}
    return state(**{**given, "bare_metal": True, **changes})


def test_a_statement_reads_back_as_it_was_made() -> None:
    again = parse_statement(json.loads(json.dumps(made().document())))

    assert again.document() == made().document()
    assert (again.devices[0].uuid, again.devices[0].serial, again.functions) == ("VDIE-1", "S1", (BUS,))
    assert again.sha256 == made().sha256


def test_of_the_bus_only_accelerators_are_told() -> None:
    assert [function.bdf for function in made().functions] == [BUS.bdf]


def test_a_signature_is_of_one_key_over_exactly_this() -> None:
    signature = sign_statement(made(), KEY)

    assert is_signed_by(made(), signature, KEY.public_key())
    assert not is_signed_by(made(), signature, Ed25519PrivateKey.from_private_bytes(b"n" * 32).public_key())
    for other in (made(node="n2"), made(nonce="b" * 64), made(bare_metal=None), made(functions=[])):
        assert not is_signed_by(other, signature, KEY.public_key())
    with pytest.raises(EventInvalid):
        is_signed_by(made(), "no signature", KEY.public_key())


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"purpose": "another"}, "purpose"),
        ({"nonce": "A" * 64}, "nonce"),
        ({"nonce": 5}, "nonce"),
        ({"node": ""}, "node"),
        ({"at": "2026-12-01"}, "at"),
        ({"bare_metal": 1}, "bare_metal"),
        ({"bare_metal": "yes"}, "bare_metal"),
        ({"devices": {}}, "devices"),
        ({"functions": [1]}, "functions[0]"),
        ({"extra": 1}, "statement"),
        ({"attestations": []}, "attestations"),
        ({"attestations": {"other": {}}}, "attestations"),
        ({"attestations": {"VDIE-1": {"a": [1]}}}, "attestations.VDIE-1.a"),
    ],
)
def test_what_is_no_statement_is_named_by_its_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(StatementInvalid) as raised:
        parse_statement({**made().document(), **change})
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("where", "name", "value", "field"),
    [
        ("devices", "uuid", None, "devices[0].uuid"),
        ("devices", "source", "seen", "devices[0].source"),
        ("devices", "pci_vendor_id", True, "devices[0].pci_vendor_id"),
        ("devices", "serial", "x\n", "devices[0].serial"),
        ("functions", "bdf", "c1:00.0", "functions[0].bdf"),
        ("functions", "device_id", 70000, "functions[0].device_id"),
        ("functions", "driver", "", "functions[0].driver"),
    ],
)
def test_what_is_wrong_inside_is_named_too(where: str, name: str, value: Any, field: str) -> None:
    document = copy.deepcopy(made().document())
    document[where][0][name] = value
    with pytest.raises(StatementInvalid) as raised:
        parse_statement(document)
    assert raised.value.field == field


def test_a_device_stands_once_in_a_statement() -> None:
    with pytest.raises(StatementInvalid, match="every uuid stands once"):
        parse_statement(made(devices=[CARD, CARD]).document())


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([*made().document()]), PLAIN)
def test_anything_else_is_refused_and_never_crashes(name: str, value: Any) -> None:
    document = {**made().document(), name: value}
    with contextlib.suppress(StatementInvalid):
        assert parse_statement(document).document() == document
