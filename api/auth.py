"""Auth: API keys stored as hashes, page sessions, and which role may use which route."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

import uuid_utils
from fastapi import Depends, Request
from sqlalchemy import Connection, delete, insert, select, update

from api.problems import Problem
from api.schema import api_keys, sessions
from metering.acts import Actor
from scheduler.clock import to_ms

ROLES = ("provider", "firm", "operator", "reviewer", "finance", "auditor", "agent")
TENANT_ROLES = ("provider", "firm")
SESSION = timedelta(hours=12)
USED_EVERY_MS = 60_000  # last use is shown to the minute, so that reading does not become writing

ZONE = frozenset({"operator", "reviewer", "finance", "auditor"})
ALL = frozenset(ROLES)
OPERATOR = frozenset({"operator"})
PARTIES = frozenset({"firm", "provider"})
DECIDE = frozenset({"operator", "reviewer", "finance"})
# Who may use what; a route that is not here and not public answers nobody. The whole matrix is tested.
ROUTE_ROLES: dict[tuple[str, str], frozenset[str]] = {
    ("POST", "/v1/jobs"): frozenset({"firm"}),
    ("GET", "/v1/jobs"): ZONE | {"firm"},
    ("GET", "/v1/jobs/{job}"): ZONE | {"firm"},
    ("POST", "/v1/jobs/{job}/cancel"): frozenset({"firm", "operator"}),
    ("POST", "/v1/jobs/{job}/hold"): frozenset({"firm", "operator"}),
    ("POST", "/v1/jobs/{job}/release"): frozenset({"firm", "operator"}),
    ("POST", "/v1/jobs/{job}/progress"): frozenset({"firm"}),
    ("GET", "/v1/jobs/{job}/events"): ZONE | {"firm"},
    ("GET", "/v1/jobs/{job}/logs"): frozenset({"firm", "operator", "auditor"}),
    ("POST", "/v1/quotes"): frozenset({"firm"}),
    ("GET", "/v1/queues"): ZONE | {"firm"},
    ("PUT", "/v1/queues/{name:path}"): OPERATOR,
    ("GET", "/v1/pools"): ZONE | {"provider", "firm"},
    ("POST", "/v1/pools"): OPERATOR,
    ("GET", "/v1/nodes"): ZONE | {"provider"},
    ("POST", "/v1/nodes"): OPERATOR,
    ("POST", "/v1/nodes/{node}/schedulable"): OPERATOR,
    ("GET", "/v1/providers"): ZONE | {"provider"},
    ("POST", "/v1/providers"): OPERATOR,
    ("GET", "/v1/sites"): ZONE | {"provider"},
    ("POST", "/v1/sites"): OPERATOR,
    ("GET", "/v1/firms"): ZONE | {"firm"},
    ("POST", "/v1/firms"): OPERATOR,
    ("GET", "/v1/facts"): ZONE,
    ("POST", "/v1/facts"): OPERATOR,
    ("GET", "/v1/vouchers"): ZONE | {"firm"},
    ("POST", "/v1/vouchers"): frozenset({"firm"}),
    ("GET", "/v1/budgets"): ZONE | {"firm"},
    ("POST", "/v1/budgets"): frozenset({"firm", "operator"}),
    ("GET", "/v1/links"): ZONE,
    ("POST", "/v1/links"): OPERATOR,
    ("GET", "/v1/usage"): ZONE | {"firm", "provider"},
    ("GET", "/v1/settlements"): ZONE | {"firm"},
    ("GET", "/v1/settlements/{settlement:path}"): ZONE | {"firm"},
    ("GET", "/v1/statements/jobs/{job}"): ZONE | {"firm"},
    ("GET", "/v1/statements/firms/{firm}"): ZONE | {"firm"},
    ("GET", "/v1/ledger"): ZONE,
    ("GET", "/v1/ledger/proofs/{stream}/{seq}"): ZONE | {"firm"},
    ("GET", "/v1/ledger/consistency"): ZONE | {"firm"},
    ("GET", "/v1/explain"): ZONE | {"firm"},
    ("GET", "/v1/documents/statements/jobs/{job}"): ZONE | {"firm"},
    ("GET", "/v1/documents/statements/firms/{firm}"): ZONE | {"firm"},
    ("GET", "/v1/documents/settlements/{settlement:path}"): ZONE | {"firm"},
    ("GET", "/v1/documents/clearing/{batch}"): ZONE | {"provider"},
    ("GET", "/v1/documents/subsidies/{application}"): ZONE | {"provider"},
    ("GET", "/v1/exports/focus"): ZONE | {"firm"},
    ("GET", "/v1/exports/beancount"): ZONE,
    ("GET", "/v1/reviews"): ZONE,
    ("POST", "/v1/reviews/{item:path}/answers"): frozenset({"operator", "reviewer"}),
    ("GET", "/v1/contracts"): ZONE | PARTIES,
    ("GET", "/v1/contracts/{contract}"): ZONE | PARTIES,
    ("POST", "/v1/contracts"): OPERATOR,
    ("GET", "/v1/invoices"): ZONE | PARTIES,
    ("POST", "/v1/invoices"): frozenset({"operator", "provider"}),
    ("GET", "/v1/slips"): ZONE | PARTIES,
    ("POST", "/v1/slips"): OPERATOR,
    ("POST", "/v1/relations"): frozenset({"firm", "operator"}),
    ("GET", "/v1/other-supports"): ZONE | {"firm"},
    ("POST", "/v1/other-supports"): frozenset({"firm", "operator"}),
    ("GET", "/v1/clearing/settlements/{settlement:path}"): ZONE | PARTIES,
    ("POST", "/v1/clearing/verifications"): OPERATOR,
    ("GET", "/v1/clearing"): ZONE | {"provider"},
    ("GET", "/v1/clearing/{batch}"): ZONE | {"provider"},
    ("POST", "/v1/clearing"): OPERATOR,
    ("POST", "/v1/clearing/{batch}/acts"): DECIDE,
    ("POST", "/v1/clearing/{batch}/payments"): frozenset({"finance"}),
    ("POST", "/v1/clearing/{batch}/returns"): frozenset({"finance"}),
    ("GET", "/v1/clawbacks"): ZONE | {"provider"},
    ("POST", "/v1/clawbacks/{case:path}/acts"): DECIDE,
    ("GET", "/v1/disputes"): ZONE | PARTIES,
    ("POST", "/v1/disputes"): PARTIES,
    ("POST", "/v1/disputes/{dispute:path}/acts"): PARTIES | {"operator", "reviewer"},
    ("POST", "/v1/refunds"): frozenset({"operator", "provider"}),
    ("POST", "/v1/corrections"): OPERATOR,
    ("GET", "/v1/programmes"): ALL,
    ("POST", "/v1/programmes/{programme}/acts"): DECIDE,
    ("POST", "/v1/vouchers/{firm}/acts"): frozenset({"operator", "reviewer"}),
    ("POST", "/v1/firms/{firm}/eligibility"): frozenset({"operator", "reviewer", "firm"}),
    ("POST", "/v1/years"): frozenset({"finance"}),
    ("POST", "/v1/prices"): OPERATOR,
    ("POST", "/v1/prices/{price:path}/acts"): frozenset({"reviewer"}),
    ("POST", "/v1/pools/{pool}/listing"): frozenset({"operator", "provider"}),
    ("GET", "/v1/subsidies"): ZONE | {"provider"},
    ("GET", "/v1/subsidies/{project}"): ZONE | {"provider"},
    ("POST", "/v1/subsidies"): frozenset({"provider"}),
    ("POST", "/v1/subsidies/{project}/serials"): frozenset({"operator", "provider"}),
    ("POST", "/v1/subsidies/{project}/acts"): DECIDE,
    ("GET", "/v1/model-vouchers"): ZONE | {"firm"},
    ("POST", "/v1/model-vouchers"): frozenset({"firm"}),
    ("POST", "/v1/model-vouchers/{application}/acts"): DECIDE,
    ("GET", "/v1/policies/cases"): ZONE,
    ("GET", "/v1/policies/simulate"): ZONE,
    ("GET", "/v1/snapshot"): OPERATOR,
    ("POST", "/v1/keys"): DECIDE,
    ("POST", "/v1/agents/heartbeat"): frozenset({"agent"}),
    ("POST", "/v1/agents/samples"): frozenset({"agent"}),
    ("POST", "/v1/agents/benchmarks"): frozenset({"agent", "operator"}),
    ("POST", "/v1/agents/{node}/challenge"): frozenset({"agent", "operator", "provider"}),
    ("POST", "/v1/agents/{node}/evidence"): frozenset({"agent"}),
    ("POST", "/v1/agents/{node}/kernels/{challenge}"): frozenset({"agent"}),
    ("POST", "/v1/agents/{node}/kernels/{challenge}/answer"): frozenset({"agent"}),
    ("GET", "/v1/agents/{node}/challenges"): ZONE | {"provider"},
    ("GET", "/v1/evidence"): ZONE | {"provider"},
    ("GET", "/v1/evidence/{device:path}"): ZONE | {"provider"},
    ("POST", "/v1/evidence/{device:path}/fingerprint"): frozenset({"agent", "operator", "provider"}),
    ("POST", "/v1/evidence/{device:path}/acts"): frozenset({"operator", "reviewer"}),
    ("GET", "/v1/device-events"): ZONE,
    ("POST", "/v1/agents/enrolments"): frozenset({"operator", "provider"}),
    ("GET", "/v1/agents/enrolments"): ZONE | {"provider"},
    ("POST", "/v1/agents/keys/{key}/rotate"): frozenset({"agent"}),
    ("POST", "/v1/agents/keys/{key}/revoke"): frozenset({"operator", "provider"}),
    ("POST", "/v1/usage-events"): frozenset({"agent"}),
    ("GET", "/v1/usage-events"): ZONE,
    ("GET", "/v1/usage-events/quarantined"): ZONE,
    ("POST", "/v1/usage-events/quarantined/{number}/answers"): OPERATOR,
    ("POST", "/v1/usage-events/closed-streams"): OPERATOR,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks. tenant: the firm's or provider's id, of an agent its node, None for zone roles; key_id scopes idempotency
    keys."""

    role: str
    tenant: str | None
    key_id: str

    @property
    def firm(self) -> str | None:
        """The only firm this principal may see; None when it may see all."""
        return (self.tenant or "") if self.role == "firm" else None

    @property
    def party(self) -> str | None:
        """The firm or provider whose own things alone this principal may see; None when it may see all."""
        return (self.tenant or "") if self.role in TENANT_ROLES else None

    @property
    def node(self) -> str | None:
        """The only node this agent may speak for; None for other roles, and for an agent's key made before keys were bound."""
        return self.tenant if self.role == "agent" else None

    @property
    def actor(self) -> Actor:
        """The principal as the one who acts on a case."""
        return Actor(by=self.key_id, role=self.role)

    @property
    def provider(self) -> str | None:
        """The only provider this principal may see; None when it may see all."""
        return (self.tenant or "") if self.role == "provider" else None


def mint_key(tx: Connection, *, name: str, role: str, tenant: str | None, now: datetime) -> str:
    """A new key, returned this once; only its SHA-256 is stored. tenant: of an agent the node that it speaks for; None: for any."""
    if role not in ROLES:
        raise ValueError(f"role {role!r} is none of {', '.join(ROLES)}")
    if role != "agent" and (role in TENANT_ROLES) != (tenant is not None):
        raise ValueError(f"role {role} {'needs' if role in TENANT_ROLES else 'has no'} tenant")
    identity = f"key_{uuid_utils.uuid7()}"
    secret = f"yk_{secrets.token_urlsafe(32)}"
    values = {"id": identity, "name": name, "role": role, "tenant": tenant, "created_at_ms": to_ms(now)}
    tx.execute(insert(api_keys).values(**values, secret_sha256=_hash(secret)))
    return secret


def principal_of_key(tx: Connection, secret: str, now: datetime) -> Principal | None:
    """Whose key this is; None if it is unknown, expired or revoked."""
    row = tx.execute(select(api_keys).where(api_keys.c.secret_sha256 == _hash(secret))).mappings().first()
    if row is None or row["revoked_at_ms"] is not None:
        return None
    if row["expires_at_ms"] is not None and row["expires_at_ms"] <= to_ms(now):
        return None
    return Principal(role=row["role"], tenant=row["tenant"], key_id=row["id"])


def open_session(tx: Connection, secret: str, now: datetime) -> str | None:
    """A page session for the key's owner, as a token for a cookie; None if the key is no good."""
    principal = principal_of_key(tx, secret, now)
    if principal is None:
        return None
    token = secrets.token_urlsafe(32)
    tx.execute(delete(sessions).where(sessions.c.expires_at_ms <= to_ms(now)))
    expires = to_ms(now + SESSION)
    tx.execute(insert(sessions).values(token_sha256=_hash(token), key_id=principal.key_id, expires_at_ms=expires))
    return token


def principal_of_session(tx: Connection, token: str, now: datetime) -> Principal | None:
    """Whose session this is; it ends with its time or with its key."""
    query = (
        select(api_keys)
        .join(sessions, sessions.c.key_id == api_keys.c.id)
        .where(sessions.c.token_sha256 == _hash(token), sessions.c.expires_at_ms > to_ms(now))
        .where(api_keys.c.revoked_at_ms.is_(None))
    )
    row = tx.execute(query).mappings().first()
    if row is None or (row["expires_at_ms"] is not None and row["expires_at_ms"] <= to_ms(now)):
        return None
    return Principal(role=row["role"], tenant=row["tenant"], key_id=row["id"])


def close_session(tx: Connection, token: str) -> None:
    """The token opens nothing any more."""
    tx.execute(delete(sessions).where(sessions.c.token_sha256 == _hash(token)))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _authorised(request: Request) -> Principal:
    """The principal of the request's key, if its role may use the route; else a problem."""
    services = request.app.state.services
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise Problem(401, "KEY_MISSING")
    now = services.clock.now()
    with services.database.read() as tx:
        principal = principal_of_key(tx, secret.strip(), now)
        used = tx.execute(select(api_keys.c.last_used_at_ms).where(api_keys.c.secret_sha256 == _hash(secret))).scalar()
    if principal is None:
        raise Problem(401, "KEY_INVALID")
    if used is None or to_ms(now) - used >= USED_EVERY_MS:
        with services.database.write() as tx:
            tx.execute(update(api_keys).where(api_keys.c.id == principal.key_id).values(last_used_at_ms=to_ms(now)))
    path = request.scope["route"].path
    if principal.role not in ROUTE_ROLES.get((request.method, path), frozenset()):
        raise Problem(403, "ROLE_NOT_ALLOWED", {"role": principal.role, "route": f"{request.method} {path}"})
    return principal


Authorised = Annotated[Principal, Depends(_authorised)]
