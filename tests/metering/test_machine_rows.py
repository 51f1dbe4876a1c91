"""Every row of the machines (metering/lifecycle.py), said once more by state, and every way to change a row noticed: docs/mutants.md.

The tool that makes mutants does not change tables. Here each row is dropped, and each of its roles, states and its reason
changed, one at a time; what STEPS and APART_TOO say of the acts must then no longer hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest

from metering import lifecycle
from metering.lifecycle import APART, MACHINES, SAME, Machine, Step, next_state
from scheduler.refusal import Refusal

ROLES = ("firm", "provider", "operator", "reviewer", "finance", "platform")

# KIND STATE: ACT by ROLES -> STATE AFTER [because, where a reason has to be given]. What is not here nobody may do.
STEPS = """
eligibility none: submit by firm operator -> submitted
eligibility none: verify by operator -> verified
eligibility submitted: verify by operator -> verified
eligibility verified: suspend by operator -> suspended because
eligibility verified: revoke by reviewer -> revoked because
eligibility suspended: reinstate by operator -> reinstated because
eligibility suspended: revoke by reviewer -> revoked because
eligibility reinstated: suspend by operator -> suspended because
eligibility reinstated: revoke by reviewer -> revoked because
right none: claim by firm platform -> active
right active: freeze by operator reviewer -> frozen because
right active: revoke by reviewer -> revoked because
right frozen: unfreeze by reviewer -> active because
right frozen: revoke by reviewer -> revoked because
programme none: freeze by operator reviewer finance -> frozen because
programme frozen: unfreeze by reviewer -> open because
programme open: freeze by operator reviewer finance -> frozen because
year none: close by finance -> closed because
settlement none: issue by platform -> issued
settlement issued: firm_paid by platform -> firm_paid
settlement issued: verify by operator -> verified
settlement issued: correct by platform -> corrected
settlement firm_paid: verify by operator -> verified
settlement firm_paid: correct by platform -> corrected
settlement verified: submit by platform -> submitted
settlement verified: correct by platform -> corrected
settlement submitted: send_back by platform -> verified
settlement submitted: approve by platform -> approved
settlement approved: withdraw by platform -> verified
settlement approved: pay by platform -> paid
settlement paid: submit by platform -> submitted
settlement paid: payment_returned by platform -> approved
settlement paid: close by platform -> closed
settlement paid: correct by platform -> corrected
settlement closed: submit by platform -> submitted
settlement closed: payment_returned by platform -> approved
settlement closed: correct by platform -> corrected
clearing none: build by operator -> building
clearing building: submit by operator -> submitted
clearing building: abandon by operator -> abandoned because
clearing submitted: send_back by reviewer -> building because
clearing submitted: approve by reviewer -> approved
clearing approved: withdraw_item by reviewer -> approved because
clearing approved: pay_part by finance -> part_paid
clearing approved: pay by finance -> paid
clearing approved: complete by platform -> paid
clearing part_paid: withdraw_item by reviewer -> part_paid because
clearing part_paid: pay_part by finance -> part_paid
clearing part_paid: pay by finance -> paid
clearing part_paid: complete by platform -> paid
clearing part_paid: payment_returned by finance -> part_paid because
clearing paid: payment_returned by finance -> part_paid because
clearing paid: reconcile by finance -> reconciled
clearing reconciled: payment_returned by finance -> part_paid because
clawback none: open by operator platform -> opened because
clawback opened: notice by operator -> noticed
clawback opened: drop by reviewer -> dropped because
clawback opened: supersede by platform -> superseded
clawback noticed: confirm by reviewer -> confirmed because
clawback noticed: drop by reviewer -> dropped because
clawback noticed: supersede by platform -> superseded
clawback confirmed: offset by finance -> offset
clawback confirmed: repay by finance -> repaid
clawback confirmed: write_off by reviewer -> written_off because
dispute none: open by firm provider -> opened because
dispute opened: withdraw by firm provider -> withdrawn
dispute opened: uphold by operator reviewer -> upheld because
dispute opened: dismiss by operator reviewer -> dismissed because
project none: draft by provider operator -> drafted
project drafted: verify_contract by operator -> contract_verified
project drafted: reject by operator reviewer -> rejected because
project contract_verified: deliver by operator -> delivered
project contract_verified: reject by operator reviewer -> rejected because
project delivered: list by operator -> listed
project delivered: reject by operator reviewer -> rejected because
project listed: meet_serving by operator -> serving_evidence_met
project listed: reject by operator reviewer -> rejected because
project serving_evidence_met: assess by reviewer -> assessed
project serving_evidence_met: reject by operator reviewer -> rejected because
project assessed: pay by finance -> paid
project assessed: reject by operator reviewer -> rejected because
project paid: monitor by operator -> monitored
project paid: claw_back by reviewer -> clawed_back because
project monitored: close by operator -> closed
project monitored: claw_back by reviewer -> clawed_back because
project closed: claw_back by reviewer -> clawed_back because
application none: submit by firm -> submitted
application submitted: verify by operator -> verified
application submitted: reject by operator reviewer -> rejected because
application verified: reject by operator reviewer -> rejected because
application verified: approve by reviewer -> approved
application approved: reject by operator reviewer -> rejected because
application approved: pay by finance -> paid
application paid: claw_back by reviewer -> clawed_back because
correction none: order by operator platform -> ordered because
price none: propose by operator -> proposed because
price proposed: approve by reviewer -> applied because
price proposed: reject by reviewer -> rejected because
review none: open by platform -> open
review open: close by operator reviewer platform -> closed because
review closed: open by platform -> open
"""

# KIND: ACT then ACT, which one person may not both do on one case.
APART_TOO = """
clearing: build then approve
clearing: submit then approve
clearing: submit then pay
clearing: approve then pay
clearing: approve then pay_part
project: verify_contract then assess
project: meet_serving then assess
project: assess then pay
application: verify then approve
application: verify then pay
application: approve then pay
clawback: open then confirm
clawback: confirm then repay
clawback: confirm then offset
price: propose then approve
right: freeze then unfreeze
programme: freeze then unfreeze
"""

Said = dict[
    tuple[str, str], dict[str, tuple[frozenset[str], str, bool]]
]  # (kind, act): {state: (roles, after, reason)}


def said() -> Said:
    found: Said = {}
    for line in STEPS.split("\n"):
        if line:
            head, _, tail = line.partition(": ")
            (kind, state), (act, rest) = head.split(), tail.split(" by ")
            roles, _, end = rest.partition(" -> ")
            after, *because = end.split()
            found.setdefault((kind, act), {})[state] = (frozenset(roles.split()), after, because == ["because"])
    return found


SAID = said()
TOGETHER = {tuple(line.replace(":", "").replace(" then", "").split()) for line in APART_TOO.split("\n") if line}
STATES = {
    kind: sorted({"nowhere", *(x for (k, _), rows in SAID.items() if k == kind for s in rows for x in (s, rows[s][1]))})
    for kind in MACHINES
}


def disagreements(kind: str, act: str) -> Iterator[str]:
    """Where `next_state` does not do with this act what STEPS say, for every state, role and reason."""
    for state in STATES[kind]:
        roles, after, because = SAID.get((kind, act), {}).get(state, (frozenset[str](), "", False))
        for role in ROLES:
            for reason in ("", "because"):
                got = next_state(kind, state, act, role=role, by="p", reason=reason, done={})
                wanted = after if role in roles and (reason or not because) else None
                if (None if isinstance(got, Refusal) else got) != wanted:
                    yield f"{kind} {state}: {act} by {role} with reason {reason!r} gives {got}, not {wanted}"


def too_close(kind: str, first: str, second: str) -> bool:
    """True when the same person may do the second act after the first."""
    ((state, (roles, after, _)), *_) = SAID[kind, second].items()
    got = next_state(kind, state, second, role=min(roles), by="p", reason="because", done={first: "p"})
    assert got == after or (isinstance(got, Refusal) and got.code == "SAME_PERSON")
    return got == after


def test_what_is_said_is_said_of_every_row() -> None:
    assert set(SAID) == {(kind, act) for kind, machine in MACHINES.items() for act in machine}
    assert len([line for line in STEPS.split("\n") if line]) == sum(map(len, SAID.values())), "a step said twice"


@pytest.mark.parametrize(("kind", "act"), sorted(SAID))
def test_each_act_does_what_is_said_and_nothing_else(kind: str, act: str) -> None:
    assert list(disagreements(kind, act)) == []


@pytest.mark.parametrize("kind", sorted(MACHINES))
def test_two_acts_are_kept_apart_where_it_is_said_and_nowhere_else(kind: str) -> None:
    apart = {
        (kind, first, second)
        for first in MACHINES[kind]
        for second in MACHINES[kind]
        if not too_close(kind, first, second)
    }
    assert apart == {each for each in TOGETHER if each[0] == kind}


def test_money_moves_by_finance_alone_and_what_is_taken_away_says_why() -> None:
    """Research R28: who approves does not pay. Clause 4.1 and 4.4: what is refused, frozen or revoked has its reason."""
    for (kind, act), rows in SAID.items():
        for roles, after, because in rows.values():
            if kind != "settlement" and (after in ("paid", "repaid", "offset", "part_paid") and act != "withdraw_item"):
                assert roles in ({"finance"}, {"platform"}), (kind, act)
            if after in ("suspended", "revoked", "frozen", "rejected", "abandoned", "dropped", "clawed_back", "closed"):
                assert because or kind in ("settlement", "project"), (kind, act)


# --- every row changed ----------------------------------------------------------------------------------------------


def changed(kind: str, act: str, step: Step) -> Iterator[tuple[str, Step | None]]:
    """(what was done to the row, the row then; None where it is dropped)."""
    states = [state for state in STATES[kind] if state != "nowhere"]
    yield "dropped", None
    for role in ROLES:
        roles = step.roles ^ {role}
        yield f"role {role} {'added' if role in roles else 'taken'}", replace(step, roles=roles)
    for state in states:
        before = step.before ^ {state}
        yield f"before {state} {'added' if state in before else 'taken'}", replace(step, before=before)
    for state in (*states, SAME):
        if state != step.after and not (state == SAME and step.before == {step.after}):
            yield f"to {state or 'the same'}", replace(step, after=state)
    yield "reason", replace(step, reason=not step.reason)


def with_row(kind: str, act: str, row: Step | None) -> Mapping[str, Machine]:
    machine = {name: step for name, step in MACHINES[kind].items() if name != act}
    return MappingProxyType({**MACHINES, kind: machine if row is None else {**machine, act: row}})


@pytest.mark.parametrize(("kind", "act"), sorted(SAID))
def test_every_change_of_a_row_is_noticed(kind: str, act: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = MACHINES[kind][act]
    missed = []
    for what, row in changed(kind, act, original):
        with monkeypatch.context() as patch:
            patch.setattr(lifecycle, "MACHINES", with_row(kind, act, row))
            if row is None and not lifecycle.MACHINES[kind]:
                continue  # a machine of one act: without it the kind is unknown
            if next(disagreements(kind, act), None) is None:
                missed.append(what)
    assert missed == []


@pytest.mark.parametrize(("kind", "pair"), [(kind, pair) for kind, pairs in APART.items() for pair in pairs])
def test_every_pair_that_is_no_longer_kept_apart_is_noticed(
    kind: str, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not too_close(kind, *pair)
    monkeypatch.setattr(lifecycle, "APART", {**APART, kind: tuple(each for each in APART[kind] if each != pair)})
    assert too_close(kind, *pair)
