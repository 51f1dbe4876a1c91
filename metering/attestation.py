"""Attestation: what the claims that an NVIDIA GPU signs say, as far as can be seen without NVIDIA's service. Pure.

The claims are those of NVIDIA's verifiers (EAT, RFC 9711: eat_nonce, ueid, oemid, hwmodel, with NVIDIA's own `x-nvidia-gpu-…`).
They are taken from the node, which signs for having them from a verifier; the token's own signature wants NVIDIA's keys and is
not checked here. No maker of domestic chips publishes such a thing, so this shows a foreign origin and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

VENDOR = "nvidia"
OEM = "5703"  # NVIDIA's IANA private enterprise number, as its claims carry it
VERIFIERS = ("LOCAL_GPU_VERIFIER", "https://nras.attestation.nvidia.com")
_P = "x-nvidia-gpu-"
TRUE = tuple(
    _P + name
    for name in (
        "arch-check", "attestation-report-parsed", "attestation-report-nonce-match",
        "attestation-report-signature-verified", "driver-rim-signature-verified",
        "driver-rim-measurements-available", "vbios-rim-signature-verified", "vbios-rim-measurements-available",
        "vbios-index-no-conflict",
    )
)  # fmt: skip
# The chip that products are built on, as the first word of hwmodel says it; of no other one are claims published.
CHIPS: Mapping[str, frozenset[str]] = MappingProxyType(
    {"GH100": frozenset({"H100", "H100-PCIe", "H800", "H20-96GB", "H20-141GB", "H200"})}
)


@dataclass(frozen=True, slots=True)
class Attested:
    """lacks: the claims that are missing or do not hold; doubts: what contradicts what the node says of the device."""

    lacks: tuple[str, ...]
    doubts: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Everything that can be seen here is in order."""
        return not self.lacks and not self.doubts


def check_claims(claims: Mapping[str, Any], *, nonce: str, vendor: str, model: str | None, now: datetime) -> Attested:
    """What the claims show of a device that its node calls (vendor, model). nonce: the one the platform issued, 64 hex digits.

    A claim that is missing or false leaves the device where it is; one about another chip contradicts the node.
    """
    lacks = [name for name in TRUE if claims.get(name) is not True]
    if claims.get("measres") not in ("success", "comparison-successful"):
        lacks.append("measres")
    if claims.get("eat_nonce") != nonce:
        lacks.append("eat_nonce")
    if claims.get("iss") not in VERIFIERS:
        lacks.append("iss")
    if claims.get("secboot") is not True:
        lacks.append("secboot")
    if claims.get("dbgstat") != "disabled":
        lacks.append("dbgstat")
    if not str(claims.get("ueid") or "").isdigit():
        lacks.append("ueid")
    if str(claims.get("oemid")) != OEM:
        lacks.append("oemid")
    begins, ends, at = claims.get("nbf"), claims.get("exp"), int(now.timestamp())
    if not isinstance(begins, int) or not isinstance(ends, int) or not begins <= at < ends:
        lacks.append("exp")
    chip = str(claims.get("hwmodel") or "").partition(" ")[0]
    doubts = []
    if vendor != VENDOR:
        doubts.append("ATTESTED_BY_ANOTHER_MAKER")
    elif chip not in CHIPS:
        lacks.append("hwmodel")
    elif model not in CHIPS[chip]:
        doubts.append("ATTESTED_AS_ANOTHER_CHIP")
    return Attested(tuple(lacks), tuple(doubts))
