"""Published: the listings as everybody may read them, made once and served until anything they are made from has changed.

Exact on every process alike: no answer is older than its request. For each one the database is asked whether anything was
committed since the listings were made (Database.stamp), after the request came. Requests that come while it is asked are
answered together by the next question, so a thousand of them cost one. What changes with time alone, without a commit,
is known beforehand: `until`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from fastapi import Request, Response
from sqlalchemy import Connection, func, select

from api import queries
from metering.evidence_pools import changes_at
from metering.offer import capacity_of
from metering.schema import facts
from scheduler.clock import from_ms, to_ms
from scheduler.schema import nodes
from scheduler.view import SILENT_AFTER

if TYPE_CHECKING:
    from api.wiring import Services


class Document:
    """An answer of JSON with its ETag, made ready to be sent any number of times, whole or as 304."""

    def __init__(self, body: Any) -> None:
        content = json.dumps(body, ensure_ascii=False).encode()
        self.tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        headers = {"ETag": self.tag, "Cache-Control": "no-cache"}
        self._whole = Response(content, media_type="application/json", headers=headers)
        self._known = Response(status_code=304, headers=headers)

    def answer(self, request: Request) -> Response:
        """304 without a body if the client has it already."""
        asked = request.headers.get("if-none-match")
        if asked is None:
            return self._whole
        tags = [part.strip().removeprefix("W/") for part in asked.split(",")]
        return self._known if self.tag in tags or "*" in tags else self._whole


@dataclass(frozen=True, slots=True)
class Kept:
    """The listings as they are at every instant of [start, until) while the database has this stamp."""

    stamp: str
    start: datetime
    until: datetime | None
    items: list[dict[str, Any]]
    _made: dict[str, Document] = field(default_factory=dict)

    def holds(self, stamp: str, now: datetime) -> bool:
        return self.stamp == stamp and self.start <= now and (self.until is None or now < self.until)

    def listings(self) -> Document:
        return self._document("listings", lambda: {"items": self.items, "next_cursor": None})

    def capacity(self) -> Document:
        return self._document("capacity", lambda: capacity_of(self.items))

    def _document(self, name: str, make: Callable[[], Any]) -> Document:
        if name not in self._made:
            self._made[name] = Document(make())
        return self._made[name]


class Published:
    """current(): the listings now, of whichever event loop asks."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._kept: Kept | None = None
        self._edges = dated_edges(services)
        self._rounds: WeakKeyDictionary[asyncio.AbstractEventLoop, Round] = WeakKeyDictionary()

    async def current(self) -> Kept:
        """The listings as they are at an instant after the call."""
        if not self.services.database.postgresql:  # a stamp of SQLite is read from shared memory
            kept, now = self._kept, self.services.clock.now()
            if kept is not None and kept.holds(self.services.database.stamp(), now):
                return kept
        loop = asyncio.get_running_loop()
        if loop not in self._rounds:
            self._rounds[loop] = Round(loop, self.look)
        return await self._rounds[loop].join()

    def look(self) -> Kept:
        """The listings now, made anew where they may have changed. Any number of threads may."""
        stamp = self.services.database.stamp()  # first: a commit after it is found by the next one who looks
        now, kept = self.services.clock.now(), self._kept
        if kept is not None and kept.holds(stamp, now):
            return kept
        with self.services.database.read() as tx:
            items = queries.listings(tx, self.services.budget, self.services.catalog, now)
            until = self._until(tx, now)
        self._kept = Kept(stamp, now, until, items)
        return self._kept

    def _until(self, tx: Connection, now: datetime) -> datetime | None:
        """No later than when the listings next change by themselves: a dated fact or parameter begins or ends, evidence runs
        out, or a node has been silent for so long that its devices count as free no more."""
        at = to_ms(now)
        edges = [from_ms(edge) for edge in _fact_edges(tx, at)]
        silent = SILENT_AFTER // timedelta(milliseconds=1)
        oldest = tx.execute(
            select(func.min(nodes.c.heartbeat_at_ms)).where(nodes.c.heartbeat_at_ms >= at - silent)
        ).scalar()
        if oldest is not None:
            edges.append(from_ms(oldest + silent + 1))
        if (soon := changes_at(tx, now)) is not None:
            edges.append(soon)
        edges += [edge for edge in self._edges if edge > now]
        return min(edges, default=None)


def _fact_edges(tx: Connection, at_ms: int) -> list[int]:
    """The next instant at which a recorded fact begins or ends."""
    found = (
        tx.execute(select(func.min(column)).where(column > at_ms)).scalar()
        for column in (facts.c.from_ms, facts.c.to_ms)
    )
    return [int(edge) for edge in found if edge is not None]


def dated_edges(services: Services) -> list[datetime]:
    """Every instant at which a value of the policy or a row of the origin register begins or ends."""
    policy, register = services.budget.policy, services.budget.register
    found: list[datetime | None] = list(policy.in_force.edges)
    for parameter in policy.parameters.values():
        found += [edge for row in parameter.rows for edge in (row.start, row.end)]
    for rows in register.rows.values():
        found += [edge for row in rows for edge in (row.valid_from, row.valid_to)]
    return [edge for edge in found if edge is not None]


class Round:
    """One question at a time on one event loop; who joins while one is under way is answered by the next."""

    def __init__(self, loop: asyncio.AbstractEventLoop, look: Callable[[], Kept]) -> None:
        self.loop, self.look = loop, look
        self._waiting: list[asyncio.Future[Kept]] = []
        self._task: asyncio.Task[None] | None = None

    async def join(self) -> Kept:
        """What a look that began after the call found; its exception if it failed."""
        mine: asyncio.Future[Kept] = self.loop.create_future()
        self._waiting.append(mine)
        if self._task is None:
            self._task = self.loop.create_task(self._run())
        return await mine

    async def _run(self) -> None:
        while self._waiting:
            asked, self._waiting = self._waiting, []
            try:
                found = await self.loop.run_in_executor(None, self.look)
            except Exception as problem:  # noqa: BLE001 - it is each asker's own
                for one in asked:
                    if not one.done():
                        one.set_exception(problem)
            else:
                for one in asked:
                    if not one.done():
                        one.set_result(found)
        self._task = None
