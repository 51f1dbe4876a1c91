"""Evidence: what a node swears to about its devices, over a nonce of the platform, under the node's key.

The statement carries what the vendor's tool says and what the kernel's bus says side by side, unjudged: the platform compares
them itself, so that a node cannot award itself a level. Root on the node can still write anything here; the nonce shows that
it was written now, and the key that it was written by this node.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from adapters.accelerator import Accelerator, Source
from adapters.cell import read_bdf
from adapters.chain import canonical, digest, instant, timestamp
from adapters.event import decode, encode
from adapters.pci import PciDevice, accelerator_vendor

PURPOSE = "cn.etown.compute.agent.evidence.v1"  # a signature made for this can be taken for nothing else
DEVICES_MAX, FUNCTIONS_MAX, CLAIMS_MAX = 256, 1024, 64
NONCE_BYTES = 32  # what NVIDIA's attestation report takes (nvmlDeviceGetConfComputeGpuAttestationReport)

_NONCE = re.compile(r"[0-9a-f]{64}")
_TEXT = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_HEAD = ("purpose", "node", "nonce", "at", "bare_metal", "devices", "functions", "attestations")
_DEVICE = ("uuid", "vendor", "model_raw", "model", "serial", "pci_bdf", "pci_vendor_id", "pci_device_id", "source")
_NEEDED = frozenset({"uuid", "vendor", "source"})
_NUMBERS = ("pci_vendor_id", "pci_device_id")
_FUNCTION = ("bdf", "vendor_id", "device_id", "class_code", "driver")


class StatementInvalid(ValueError):
    """A statement that cannot be read; field, what it says, and what would do."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(f"{field}: {str(value)[:80]!r} is not {expected}")
        self.field, self.expected = field, expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What one node says of itself at one instant, by its own clock.

    nonce: 64 hexadecimal digits from the platform. bare_metal: whether the host is no virtual machine, None = nothing tells.
    functions: the accelerators on the bus. attestations: uuid → the claims a device signed (NVIDIA only, publicly).
    """

    node: str
    nonce: str
    at: datetime
    bare_metal: bool | None
    devices: tuple[Accelerator, ...]
    functions: tuple[PciDevice, ...]
    attestations: Mapping[str, Mapping[str, Any]]

    def document(self) -> dict[str, Any]:
        """The statement as plain JSON values, which is what is signed."""
        return {
            "purpose": PURPOSE,
            "node": self.node,
            "nonce": self.nonce,
            "at": timestamp(self.at),
            "bare_metal": self.bare_metal,
            "devices": [
                {name: device.source.value if name == "source" else getattr(device, name) for name in _DEVICE}
                for device in self.devices
            ],
            "functions": [{name: getattr(function, name) for name in _FUNCTION} for function in self.functions],
            "attestations": {uuid: dict(claims) for uuid, claims in self.attestations.items()},
        }

    @property
    def sha256(self) -> str:
        """Of the canonical form."""
        return digest(self.document())


def state(
    node: str,
    nonce: str,
    at: datetime,
    devices: Sequence[Accelerator],
    functions: Sequence[PciDevice],
    *,
    bare_metal: bool | None,
    attestations: Mapping[str, Mapping[str, Any]] | None = None,
) -> Statement:
    """The statement of a node that holds these devices. Of the functions on the bus only accelerators are told."""
    told = tuple(f for f in functions if accelerator_vendor(f) or f.bdf in {d.pci_bdf for d in devices})
    return Statement(
        node=node, nonce=nonce, at=at, bare_metal=bare_metal, devices=tuple(devices), functions=told,
        attestations=attestations or {},
    )  # fmt: skip


def sign_statement(statement: Statement, key: Ed25519PrivateKey) -> str:
    """The node key's signature over the canonical statement, in base64url."""
    return encode(key.sign(canonical(statement.document())))


def is_signed_by(statement: Statement, signature: str, key: Ed25519PublicKey) -> bool:
    """Whether the key's owner said exactly this (RFC 8032 §5.1.7). EventInvalid for what is no signature at all."""
    try:
        key.verify(decode("signature", signature, 64), canonical(statement.document()))
    except InvalidSignature:
        return False
    return True


def parse_statement(document: object) -> Statement:
    """A statement read back: built anew from what was understood, so nothing unread is believed.

    StatementInvalid names the first field that is missing, unknown or unfit.
    """
    body = _mapping("statement", document, _HEAD)
    if body["purpose"] != PURPOSE:
        raise StatementInvalid("purpose", body["purpose"], PURPOSE)
    if not isinstance(body["nonce"], str) or not _NONCE.fullmatch(body["nonce"]):
        raise StatementInvalid("nonce", body["nonce"], "64 hexadecimal digits")
    if body["bare_metal"] is not None and type(body["bare_metal"]) is not bool:
        raise StatementInvalid("bare_metal", body["bare_metal"], "true, false or null")
    devices = tuple(_device(f"devices[{i}]", item, i) for i, item in enumerate(_list(body, "devices", DEVICES_MAX)))
    uuids = [device.uuid for device in devices]
    if len(set(uuids)) != len(uuids):
        raise StatementInvalid("devices", sorted(uuids), "a list in which every uuid stands once")
    functions = _list(body, "functions", FUNCTIONS_MAX)
    return Statement(
        node=_text("node", body["node"]),
        nonce=body["nonce"],
        at=_instant(body["at"]),
        bare_metal=body["bare_metal"],
        devices=devices,
        functions=tuple(_function(f"functions[{i}]", item) for i, item in enumerate(functions)),
        attestations=_claims(body["attestations"], set(uuids)),
    )


def _device(where: str, item: object, index: int) -> Accelerator:
    body = _mapping(where, item, _DEVICE)
    said: dict[str, Any] = {}
    for name in _DEVICE:
        value = body[name]
        if value is None and name not in _NEEDED:
            said[name] = None
        elif name in _NUMBERS:
            said[name] = _number(f"{where}.{name}", value, 0xFFFF)
        elif name == "source":
            if value not in [source.value for source in Source]:
                raise StatementInvalid(f"{where}.source", value, "library, cli or simulated")
            said[name] = Source(value)
        else:
            said[name] = "" if name == "model_raw" and value == "" else _text(f"{where}.{name}", value)
    return Accelerator(index=index, **{**said, "model_raw": said["model_raw"] or ""})


def _function(where: str, item: object) -> PciDevice:
    body = _mapping(where, item, _FUNCTION)
    bdf = read_bdf(body["bdf"]) if isinstance(body["bdf"], str) else None
    if bdf is None or bdf != body["bdf"]:
        raise StatementInvalid(f"{where}.bdf", body["bdf"], "an address such as 0000:66:00.0")
    return PciDevice(
        bdf=bdf,
        vendor_id=_number(f"{where}.vendor_id", body["vendor_id"], 0xFFFF),
        device_id=_number(f"{where}.device_id", body["device_id"], 0xFFFF),
        class_code=_number(f"{where}.class_code", body["class_code"], 0xFFFF),
        driver=None if body["driver"] is None else _text(f"{where}.driver", body["driver"]),
    )


def _claims(value: object, uuids: set[str]) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict):
        raise StatementInvalid("attestations", value, "an object of claims by uuid")
    for uuid, claims in value.items():
        if uuid not in uuids:
            raise StatementInvalid("attestations", uuid, "the uuid of a device of the statement")
        if not isinstance(claims, dict) or len(claims) > CLAIMS_MAX:
            raise StatementInvalid(f"attestations.{uuid}", claims, f"an object of at most {CLAIMS_MAX} claims")
        for name, claim in claims.items():
            plain = isinstance(claim, str) and len(claim) <= 500
            if not (plain or claim is None or (isinstance(claim, bool | int) and abs(claim) < 2**53)):
                raise StatementInvalid(f"attestations.{uuid}.{name}", claim, "a text, a whole number, true or false")
    return {str(uuid): dict(claims) for uuid, claims in value.items()}


def _mapping(field: str, value: object, names: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise StatementInvalid(field, value, f"an object with {', '.join(names)}")
    for name in value:
        if name not in names:
            raise StatementInvalid(field, name, f"one of {', '.join(names)}")
    for name in names:
        if name not in value:
            raise StatementInvalid(name if field == "statement" else f"{field}.{name}", None, "there: it is missing")
    return value


def _list(body: Mapping[str, Any], field: str, most: int) -> list[Any]:
    value = body[field]
    if not isinstance(value, list) or len(value) > most:
        raise StatementInvalid(field, value, f"a list of at most {most}")
    return value


def _text(field: str, value: object) -> str:
    if not isinstance(value, str) or not _TEXT.fullmatch(value):
        raise StatementInvalid(field, value, "a text of 1 to 200 printable characters")
    return value


def _number(field: str, value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise StatementInvalid(field, value, f"a whole number from 0 to {most}")
    return value


def _instant(value: object) -> datetime:
    try:
        at = instant(value) if isinstance(value, str) else None
        if at is not None and timestamp(at) == value:
            return at
    except (ValueError, OverflowError):
        pass
    raise StatementInvalid("at", value, "UTC with milliseconds and Z, such as 2026-06-01T04:00:00.000Z")
