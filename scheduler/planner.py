"""Planner: what to do about a snapshot.

    plan(snapshot, policy) -> Plan

Order the waiting jobs; for each, find the pools it fits in now; let the policy choose among them; place the whole gang,
or say why not. The steps are in decision.py; what is known and how it changes in engine.py; why a job waits in pending.py.
"""

from __future__ import annotations

from scheduler.engine import EMPTY, changes_of, step
from scheduler.plan import Plan
from scheduler.policy import Policy
from scheduler.snapshot import Snapshot


def plan(snapshot: Snapshot, policy: Policy) -> Plan:
    """Every waiting job is launched or waits with its reason. Pure: same snapshot and policy, same plan.

    It is `step` from nothing: one planner for the service, the simulator and the offline tool.
    """
    return step(EMPTY, changes_of(snapshot), policy)[1]
