"""Offer evidence: what a pool's devices are shown to be, what that allows, and what the register says of their model. Pure.

Three things are allowed by evidence (allowance.py): to be listed, to be billed at the domestic rate, to count for the server
subsidy. A pool is allowed what every device of it that can be leased is allowed; a simulated one, which only a demo ledger has, is let
through, and says that it is simulated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

from adapters.accelerator import Origin, Source
from adapters.chain import timestamp
from metering.allowance import level_asked
from metering.parameters import OriginRegister, Policy
from metering.parameters.policy import LEVEL_FOR_RATE, LEVEL_FOR_SUBSIDY, LEVEL_TO_LIST

ASKED: Mapping[str, str] = MappingProxyType(
    {"list": LEVEL_TO_LIST, "domestic_rate": LEVEL_FOR_RATE, "subsidy": LEVEL_FOR_SUBSIDY}
)


def evidence_of(
    pool: Mapping[Any, Any], levels: Sequence[int], policy: Policy, register: OriginRegister, now: datetime
) -> dict[str, Any]:
    """{level, devices_by_level, asked, allows, billed_as, register} of a pool. levels: its devices at L0, L1, … (evidence_pools.py).

    level: of the least shown device, None without devices. allows: by use, true or false; None where there is no device, and for the
    domestic rate and the domestic-server subsidy (clause 2.1.2) of what the register does not call domestic. billed_as: the
    origin that a quote reckons with now.
    """
    asked = {use: level_asked(policy, key, now) for use, key in ASKED.items()}
    verdict, _ = register.origin(pool["vendor"], pool["model"], now)
    lowest = next((level for level, count in enumerate(levels) if count), None)
    simulated = pool["source"] == Source.SIMULATED.value
    allows: dict[str, bool | None] = {
        use: None if lowest is None else simulated or lowest >= level for use, level in asked.items()
    }
    below = verdict is Origin.DOMESTIC and allows["domestic_rate"] is False
    if verdict is not Origin.DOMESTIC:
        allows["domestic_rate"] = allows["subsidy"] = None
    return {
        "level": lowest,
        "devices_by_level": {str(level): count for level, count in enumerate(levels) if count},
        "asked": asked,
        "allows": allows,
        "billed_as": (Origin.UNDETERMINED if below else verdict).value,
        "register": registered(register, pool["vendor"], pool["model"], now),
    }


def registered(register: OriginRegister, vendor: str, model: str, now: datetime) -> dict[str, Any]:
    """The register's verdict on the model with its basis, who determined and who approved it; the verdict alone where it has no row."""
    verdict, row = register.origin(vendor, model, now)
    told: dict[str, Any] = {"verdict": verdict.value}
    if row is not None:
        told |= {
            "basis_type": row.basis_type,
            "basis": row.basis,
            "document_sha256": row.document_sha256,
            "determined_by": row.determined_by,
            "approved_by": row.approved_by,
            "valid_from": timestamp(row.valid_from),
            "valid_to": None if row.valid_to is None else timestamp(row.valid_to),
        }
    return told
