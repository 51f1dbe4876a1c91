"""Idempotency: a POST with the same key and body has one effect and one answer, however often it is sent.

The answer is stored in the transaction of the effect, so a crash leaves both or neither.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.responses import Response
from sqlalchemy import Connection, insert, select

from api.auth import Authorised
from api.problems import Problem
from api.schema import idempotency
from scheduler.clock import to_ms
from scheduler.refusal import Refusal

BODY_MAX = 1 << 20
KEY_MAX = 200


@dataclass(frozen=True, slots=True)
class Once:
    """One POST. do(act) runs `act` in a write transaction, unless this very request was answered before."""

    request: Request
    principal: Authorised
    body: bytes

    def do(
        self,
        act: Callable[[Connection], Any],
        status: int = 201,
        kept: Callable[[dict[str, Any]], dict[str, Any]] = lambda value: value,
    ) -> Response:
        """The answer of `act`: its JSON value with `status`, or a Refusal as a problem (409; nothing is kept).

        kept: what of the answer is stored for a repeat; a secret must not be.
        """
        key = self.request.headers.get("idempotency-key", "")
        if not key or len(key) > KEY_MAX or not key.isprintable():
            raise Problem(400, "IDEMPOTENCY_KEY_MISSING", {"header": "Idempotency-Key"})
        services = self.request.app.state.services
        print_ = hashlib.sha256(f"{self.request.method} {self.request.url.path}\n".encode() + self.body).hexdigest()
        with services.database.write() as tx:
            mine = (idempotency.c.principal == self.principal.key_id, idempotency.c.key == key)
            row = tx.execute(select(idempotency).where(*mine)).mappings().first()
            if row is not None:
                if row["fingerprint"] != print_:
                    raise Problem(422, "IDEMPOTENCY_KEY_REUSED", {"key": key})
                return _response(row["status"], row["body"], {"Idempotent-Replayed": "true"})
            value = act(tx)
            if isinstance(value, Refusal):
                raise Problem(409, value.code, value.facts)
            content = json.dumps(value, ensure_ascii=False).encode()
            tx.execute(
                insert(idempotency).values(
                    principal=self.principal.key_id,
                    key=key,
                    fingerprint=print_,
                    status=status,
                    media_type="application/json",
                    body=json.dumps(kept(value), ensure_ascii=False).encode(),
                    created_at_ms=to_ms(services.clock.now()),
                )
            )
        return _response(status, content, {})


def _response(status: int, body: bytes, headers: dict[str, str]) -> Response:
    return Response(body, status_code=status, media_type="application/json", headers=headers)


async def _raw(request: Request) -> bytes:
    """The body as it was sent, at most BODY_MAX bytes."""
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > BODY_MAX:
        raise Problem(413, "TOO_LARGE", {"limit": BODY_MAX})
    body = await request.body()
    if len(body) > BODY_MAX:
        raise Problem(413, "TOO_LARGE", {"limit": BODY_MAX})
    return body


def _once(request: Request, principal: Authorised, body: Annotated[bytes, Depends(_raw)]) -> Once:
    return Once(request, principal, body)


Posted = Annotated[Once, Depends(_once)]
