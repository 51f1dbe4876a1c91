"""Policies with one question answered otherwise, and a second firm beside the platform's own."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from metering import store
from metering.parameters import Parameter, Policy
from metering.parameters.policy import CLAIM_MODE, TRANCHE_IDLE, TRANCHE_SIZE
from tests.metering.office import Office
from tests.platform import POLICY, job_text

OTHER = "91110302MA0000002H"
THIRD = "91110302MA0000003D"


def answered(policy: Policy, **answers: Any) -> Policy:
    """The policy with these parameters (compute_voucher.<name>) at one value over the whole of their rows."""
    found = dict(policy.parameters)
    for name, value in answers.items():
        key = f"compute_voucher.{name}"
        before = found[key]
        rows = tuple(replace(row, value=value) for row in before.rows)
        found[key] = Parameter(key=key, unit=before.unit, rows=rows)
    return replace(policy, parameters=MappingProxyType(found))


def in_tranches(office: Office, size: int = 10_000, idle: int = 30) -> None:
    """The office's claims take tranches of so many fen, which go back after so many days."""
    names = {key.removeprefix("compute_voucher."): key for key in (CLAIM_MODE, TRANCHE_SIZE, TRANCHE_IDLE)}
    assert set(names) == {"claim_mode", "tranche_size", "tranche_idle"}
    budget = office.platform.budget
    budget.policy = answered(budget.policy, claim_mode="tranche", tranche_size=size, tranche_idle=idle)


def answer(office: Office, **answers: Any) -> None:
    office.platform.budget.policy = answered(office.platform.budget.policy, **answers)


def enrol(office: Office, *codes: str, claim: bool = True) -> None:
    """More firms, eligible like the first, each with its right claimed."""
    since = datetime(2024, 1, 1, tzinfo=UTC)
    policy = office.platform.budget.policy
    with office.platform.database.write() as tx:
        for code in codes:
            assert store.enrol_firm(tx, id=code, name=code, now=office.now) is None
            store.record_fact(
                tx, subject_kind="firm", subject=code, fact="eligible", start=since, end=None, evidence={}, by="op",
                now=office.now,
            )  # fmt: skip
            if claim:
                store.claim(tx, firm=code, by=code, policy=POLICY, caps=policy.firm_cap_fen, now=office.now)


def start(office: Office, firm: str, name: str, limit: str = "1h", devices: int = 8) -> str:
    """A job of the firm runs: eight Ascend910B3 at 20.00 an hour are 16,000 fen an hour, 6,400 of them the voucher's."""
    office.platform.beat()
    text = job_text(name, accelerators=f"Ascend910B3:{devices}", limit=limit)
    job = office.platform.submit(name, text, firm=firm)
    office.platform.loop.tick()
    assert office.platform.state(job) != "PENDING", "nothing runs"
    return job


def end(office: Office, job: str, seconds: float = 3600) -> dict[str, Any]:
    """It runs so long and ends; its settlement."""
    office.platform.clock.advance(seconds)
    office.platform.beat()
    office.platform.backend.end(f"{job}.1", 0)
    office.platform.loop.tick()
    return office.settlement(job)
