"""Readiness: whether a process may be sent requests, and if not, every reason. Read from the database, the same on every
process, so that one that only serves routes knows of the loop what the loop knows of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from adapters.chain import timestamp
from api.leadership import QUIET, Leader, leader_of
from api.migrations import SchemaNewer, known_revisions, served_revision

if TYPE_CHECKING:
    from api.wiring import Services


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why not: a text code and its facts."""

    code: str
    facts: Mapping[str, Any]


def reasons(services: Services) -> tuple[tuple[Reason, ...], Leader | None]:
    """Every reason why this process should not be sent requests now, none if it should; and who was the loop last."""
    found: list[Reason] = []
    if services.draining.is_set():
        found.append(Reason(code="READY_STOPPING", facts={}))
    leader: Leader | None = None
    try:
        with services.database.read() as tx:
            schema = _schema(served_revision(tx))
            leader = leader_of(tx) if schema is None else None
    except SchemaNewer as problem:
        schema = Reason(code="READY_SCHEMA", facts={"problem": str(problem)})
    except SQLAlchemyError as problem:
        said = str(getattr(problem, "orig", None) or problem).strip().partition("\n")[0]
        return (*found, Reason(code="READY_DATABASE", facts={"problem": said})), None
    if schema is not None:
        return (*found, schema), None
    silent = _loop(leader, services.loop.ticked_at, services.clock.now())
    return (*found, *([silent] if silent else [])), leader


def _schema(revision: str | None) -> Reason | None:
    """A revision before this version's own: its migration has not run, or the database is not the one that was served."""
    known = known_revisions()
    if revision is not None and (revision == known[-1] or revision not in known):
        return None
    return Reason(code="READY_SCHEMA", facts={"problem": f"{revision or '—'} < {known[-1]}"})


def _loop(leader: Leader | None, own: datetime | None, now: datetime) -> Reason | None:
    """own: when this process's loop ticked last. A loop may tick without having told everybody yet."""
    known = [at for at in (own, leader.ticked_at if leader else None) if at is not None]
    if known and now - max(known) <= QUIET:
        return None
    facts = {"who": leader.who if leader else "—", "at": timestamp(max(known)) if known else "—"}
    return Reason(code="READY_LOOP", facts=facts)
