"""Lifecycle: what may happen to a case, by whom, and where it then stands. Pure data and one question.

Who approves does not pay and does not configure (research: R28): operators enrol, verify and submit, reviewers approve,
finance pays. Two acts named in APART are also never done by the same person on the same case, whatever roles they hold.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from scheduler.refusal import Refusal

OPERATOR = frozenset({"operator"})
REVIEWER = frozenset({"reviewer"})
FINANCE = frozenset({"finance"})
FIRM = frozenset({"firm"})
PROVIDER = frozenset({"provider"})
PLATFORM = frozenset({"platform"})  # the platform itself, when a record makes it so
NONE = "none"  # before the first act
SAME = ""  # the act leaves the case where it stands


@dataclass(frozen=True, slots=True)
class Step:
    """One act: from any of `before` to `after`, for these roles. reason: True where one has to be given."""

    before: frozenset[str]
    after: str
    roles: frozenset[str]
    reason: bool = False


def _step(before: str, after: str, roles: frozenset[str], *, reason: bool = False) -> Step:
    return Step(frozenset(before.split()), after, roles, reason)


Machine = Mapping[str, Step]

MACHINES: Mapping[str, Machine] = MappingProxyType(
    {
        # Clause 4.1: a firm's standing. Facts say since when; this says what was decided about them.
        "eligibility": {
            "submit": _step("none", "submitted", OPERATOR | FIRM),
            "verify": _step("none submitted", "verified", OPERATOR),
            "suspend": _step("verified reinstated", "suspended", OPERATOR, reason=True),
            "reinstate": _step("suspended", "reinstated", OPERATOR, reason=True),
            "revoke": _step("verified suspended reinstated", "revoked", REVIEWER, reason=True),
        },
        # A firm's right to draw in a programme (申领).
        "right": {
            "claim": _step("none", "active", FIRM | PLATFORM),
            "freeze": _step("active", "frozen", OPERATOR | REVIEWER, reason=True),
            "unfreeze": _step("frozen", "active", REVIEWER, reason=True),
            "revoke": _step("active frozen", "revoked", REVIEWER, reason=True),
        },
        "programme": {
            "freeze": _step("none open", "frozen", OPERATOR | REVIEWER | FINANCE, reason=True),
            "unfreeze": _step("frozen", "open", REVIEWER, reason=True),
        },
        "year": {"close": _step("none", "closed", FINANCE, reason=True)},
        # From the final settlement on; before, a settlement is open, measured, priced and deducted in one transaction.
        "settlement": {
            "issue": _step("none", "issued", PLATFORM),
            "firm_paid": _step("issued", "firm_paid", PLATFORM),
            "verify": _step("issued firm_paid", "verified", OPERATOR),
            "submit": _step("verified paid closed", "submitted", PLATFORM),  # another year of it may be due later
            "send_back": _step("submitted", "verified", PLATFORM),
            "withdraw": _step("approved", "verified", PLATFORM),
            "approve": _step("submitted", "approved", PLATFORM),
            "pay": _step("approved", "paid", PLATFORM),
            "payment_returned": _step("paid closed", "approved", PLATFORM),
            "close": _step("paid", "closed", PLATFORM),
            "correct": _step("issued firm_paid verified paid closed", "corrected", PLATFORM),
        },
        "clearing": {
            "build": _step("none", "building", OPERATOR),
            "submit": _step("building", "submitted", OPERATOR),
            "send_back": _step("submitted", "building", REVIEWER, reason=True),
            "abandon": _step("building", "abandoned", OPERATOR, reason=True),
            "approve": _step("submitted", "approved", REVIEWER),
            "withdraw_item": _step("approved part_paid", SAME, REVIEWER, reason=True),
            "pay_part": _step("approved part_paid", "part_paid", FINANCE),
            "pay": _step("approved part_paid", "paid", FINANCE),
            "complete": _step("approved part_paid", "paid", PLATFORM),  # offsets and withdrawals left nothing to pay
            "payment_returned": _step("part_paid paid reconciled", "part_paid", FINANCE, reason=True),
            "reconcile": _step("paid", "reconciled", FINANCE),
        },
        "clawback": {
            "open": _step("none", "opened", OPERATOR | PLATFORM, reason=True),
            "notice": _step("opened", "noticed", OPERATOR),
            "confirm": _step("noticed", "confirmed", REVIEWER, reason=True),
            "drop": _step("opened noticed", "dropped", REVIEWER, reason=True),
            "supersede": _step("opened noticed", "superseded", PLATFORM),  # the amount has changed: another case
            "offset": _step("confirmed", "offset", FINANCE),
            "repay": _step("confirmed", "repaid", FINANCE),
            "write_off": _step("confirmed", "written_off", REVIEWER, reason=True),
        },
        "dispute": {
            "open": _step("none", "opened", FIRM | PROVIDER, reason=True),
            "withdraw": _step("opened", "withdrawn", FIRM | PROVIDER),
            "uphold": _step("opened", "upheld", OPERATOR | REVIEWER, reason=True),
            "dismiss": _step("opened", "dismissed", OPERATOR | REVIEWER, reason=True),
        },
        # Clause 2.1.2.
        "project": {
            "draft": _step("none", "drafted", PROVIDER | OPERATOR),
            "verify_contract": _step("drafted", "contract_verified", OPERATOR),
            "deliver": _step("contract_verified", "delivered", OPERATOR),
            "list": _step("delivered", "listed", OPERATOR),
            "meet_serving": _step("listed", "serving_evidence_met", OPERATOR),
            "assess": _step("serving_evidence_met", "assessed", REVIEWER),
            "pay": _step("assessed", "paid", FINANCE),
            "monitor": _step("paid", "monitored", OPERATOR),
            "close": _step("monitored", "closed", OPERATOR),
            "claw_back": _step("paid monitored closed", "clawed_back", REVIEWER, reason=True),
            "reject": _step("drafted contract_verified delivered listed serving_evidence_met assessed", "rejected", OPERATOR | REVIEWER,
                            reason=True),
        },
        # Clause 2.4.7.
        "application": {
            "submit": _step("none", "submitted", FIRM),
            "verify": _step("submitted", "verified", OPERATOR),
            "reject": _step("submitted verified approved", "rejected", OPERATOR | REVIEWER, reason=True),
            "approve": _step("verified", "approved", REVIEWER),
            "pay": _step("approved", "paid", FINANCE),
            "claw_back": _step("paid", "clawed_back", REVIEWER, reason=True),
        },
        "correction": {"order": _step("none", "ordered", OPERATOR | PLATFORM, reason=True)},
        "price": {
            "propose": _step("none", "proposed", OPERATOR, reason=True),
            "approve": _step("proposed", "applied", REVIEWER, reason=True),
            "reject": _step("proposed", "rejected", REVIEWER, reason=True),
        },
        "review": {
            "open": _step("none closed", "open", PLATFORM),
            "close": _step("open", "closed", OPERATOR | REVIEWER | PLATFORM, reason=True),
        },
    }
)  # fmt: skip

# (first, second): who last did the first may not do the second on the same case.
APART: Mapping[str, tuple[tuple[str, str], ...]] = MappingProxyType(
    {
        "clearing": (("submit", "approve"), ("approve", "pay"), ("approve", "pay_part"), ("submit", "pay"), ("build", "approve")),
        "project": (("assess", "pay"), ("meet_serving", "assess"), ("verify_contract", "assess")),
        "application": (("verify", "approve"), ("approve", "pay"), ("verify", "pay")),
        "clawback": (("open", "confirm"), ("confirm", "repay"), ("confirm", "offset")),
        "price": (("propose", "approve"),),
        "right": (("freeze", "unfreeze"),),
        "programme": (("freeze", "unfreeze"),),
    }
)  # fmt: skip


def next_state(
    kind: str, state: str, act: str, *, role: str, by: str, reason: str, done: Mapping[str, str]
) -> str | Refusal:
    """Where the case stands after the act; a Refusal says what stands in the way.

    done: who did each earlier act on this case. Raises KeyError for a kind that has no machine.
    """
    machine = MACHINES[kind]
    step = machine.get(act)
    if step is None:
        near = difflib.get_close_matches(act, machine, n=1, cutoff=0.0)[0]
        return Refusal(code="ACT_UNKNOWN", facts={"kind": kind, "act": act, "nearest": near})
    if role not in step.roles:
        return Refusal(
            code="ACT_NOT_YOURS", facts={"kind": kind, "act": act, "role": role, "roles": sorted(step.roles)}
        )
    if state not in step.before:
        possible = sorted(name for name, s in machine.items() if state in s.before and role in s.roles)
        return Refusal(code="ACT_NOT_NOW", facts={"kind": kind, "act": act, "state": state, "possible": possible})
    for first, second in APART.get(kind, ()):
        if act == second and done.get(first) == by:
            return Refusal(code="SAME_PERSON", facts={"kind": kind, "act": act, "did": first})
    if step.reason and not reason.strip():
        return Refusal(code="REASON_MISSING", facts={"kind": kind, "act": act})
    return step.after or state
