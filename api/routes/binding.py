"""Binding: an agent's key speaks for its own node and for no other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, select

from adapters.event import SOURCE_PREFIX
from api.auth import Principal
from api.problems import Problem
from scheduler.schema import devices


def speak_for(who: Principal, node: str) -> None:
    """The principal may speak for the node; else 403 KEY_OF_ANOTHER_NODE. Other roles are not bound to nodes."""
    if who.node is not None and who.node != node:
        raise Problem(403, "KEY_OF_ANOTHER_NODE", {"node": node, "own": who.node})


def speak_of(tx: Connection, who: Principal, uuids: Iterable[str]) -> None:
    """None of these devices is another node's; an unknown one is nobody's."""
    if who.node is None:
        return
    wanted = sorted(set(uuids))
    query = select(devices.c.node).where(devices.c.uuid.in_(wanted), devices.c.node != who.node)
    other = tx.execute(query.order_by(devices.c.node).limit(1)).scalar()
    if other is not None:
        speak_for(who, other)


def speak_in(who: Principal, events: Iterable[Any]) -> None:
    """None of these signed events claims to be another node's. What has no source that can be read is judged later, by itself."""
    for event in events if who.node is not None else ():
        source = event.get("source") if isinstance(event, dict) else None
        if isinstance(source, str) and source.startswith(SOURCE_PREFIX):
            speak_for(who, source.removeprefix(SOURCE_PREFIX)[:80])
