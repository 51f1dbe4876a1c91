"""Evidence: a node is asked and answers under its key; benchmarks and people's decisions about one device; what follows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from secrets import randbelow, token_hex
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import AwareDatetime, Field, model_validator
from sqlalchemy import Connection, select

from adapters.accelerator import Accelerator
from adapters.chain import digest
from adapters.event import EventInvalid
from adapters.evidence import NONCE_BYTES, StatementInvalid, parse_statement
from api import schemas
from api.auth import Authorised, Principal
from api.idempotency import Posted
from api.problems import Problem
from api.routes.binding import speak_for
from api.routes.shared import Shared
from api.wiring import Services
from metering import allowance, evidence, evidence_challenge
from metering.fingerprint import BenchmarkInvalid, half_precision_tflops, judge
from metering.offer_evidence import registered
from metering.parameters.policy import FINGERPRINT_HIGHEST, FINGERPRINT_LOWEST, LEVEL_FOR_RATE
from scheduler.refusal import Refusal
from scheduler.schema import devices, nodes, pools

routes = APIRouter(tags=["evidence"])
Word = Annotated[str, Field(min_length=1, max_length=200)]


class Answer(schemas.Body):
    """What a node states over the nonce it was given (adapters/evidence.py), with its key's signature."""

    statement: dict[str, Any]
    key: Word | None = None
    signature: Word | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Answer:
        if (self.key is None) != (self.signature is None):
            raise ValueError("/signature goes with /key: give both or none")
        return self


class Benchmark(schemas.Body):
    """The document that `yisuan bench -o json` prints."""

    result: dict[str, Any]


class Act(schemas.Body):
    """A person's decision. audit wants the paper's hash, who decided, how and since when; move the node; withdraw the number."""

    act: Literal["audit", "move", "clear", "withdraw"]
    reason: schemas.Name
    document_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    decided_by: schemas.Name | None = None
    start: Annotated[AwareDatetime | None, Field(strict=False, alias="from")] = None
    end: Annotated[AwareDatetime | None, Field(strict=False, alias="to")] = None
    to_node: schemas.Id | None = None
    seq: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Act:
        needed = {"audit": ("document_sha256", "decided_by", "start"), "move": ("to_node",), "withdraw": ("seq",)}
        for name in needed.get(self.act, ()):
            if getattr(self, name) is None:
                raise ValueError(f"/{'from' if name == 'start' else name} is needed for {self.act}")
        return self


@routes.post("/v1/agents/{node}/challenge", status_code=201)
def challenge(node: str, once: Posted, services: Shared) -> Response:
    """A nonce for the node to answer once within five minutes, shown this once."""

    def act(tx: Connection) -> Any:
        _mine(tx, node, once.principal)
        return evidence.issue_challenge(tx, node=node, by=once.principal.key_id, now=services.clock.now())

    return once.do(act, kept=lambda shown: {**shown, "nonce": None})


@routes.post("/v1/agents/{node}/evidence", status_code=201)
def answer(node: str, body: Answer, once: Posted, services: Shared) -> Response:
    """What the node states of its devices, judged against what is known of them; the nonce is used up by it."""
    speak_for(once.principal, node)
    try:
        statement = parse_statement(body.statement)
    except StatementInvalid as problem:
        raise _invalid(f"/statement/{problem.field}", str(problem)) from None

    def act(tx: Connection) -> Any:
        try:
            return evidence.answer_challenge(
                tx, node=node, statement=statement, key=body.key, signature=body.signature,
                policy=services.budget.policy, catalog=services.catalog, by=once.principal.key_id,
                now=services.clock.now(),
            )  # fmt: skip
        except EventInvalid as problem:
            raise _invalid("/signature", str(problem)) from None

    return once.do(act)


class KernelAnswer(schemas.Body):
    """What the kernel gave on the device (adapters/bench/challenge.py), or why the node could not run it."""

    answer: dict[str, Any] | None = None
    reason: Annotated[str, Field(min_length=1, max_length=1000)] | None = None

    @model_validator(mode="after")
    def _one(self) -> KernelAnswer:
        if (self.answer is None) == (self.reason is None):
            raise ValueError("/answer or /reason: give one of them")
        return self


@routes.post("/v1/agents/{node}/kernels/{challenge}", status_code=201)
def begin_kernel(node: str, challenge: str, once: Posted, services: Shared) -> Response:
    """The nonce and size of a kernel that the platform asked this node for; its time runs from now."""
    speak_for(once.principal, node)
    nonce = token_hex(NONCE_BYTES)

    def act(tx: Connection) -> Any:
        return evidence_challenge.begin(tx, node=node, challenge=challenge, nonce=nonce, now=services.clock.now())

    return once.do(act)


@routes.post("/v1/agents/{node}/kernels/{challenge}/answer", status_code=201)
def answer_kernel(node: str, challenge: str, body: KernelAnswer, once: Posted, services: Shared) -> Response:
    """Judged at once: right in rows that are drawn now, in time by the platform's clock, and no faster than the model can be."""
    speak_for(once.principal, node)
    now, verdict = services.clock.now(), None
    if body.answer is not None:
        with services.database.read() as tx:
            found = evidence_challenge.judge(
                tx, services.catalog, node=node, challenge=challenge, given=body.answer, draw=randbelow, now=now
            )
        verdict = None if isinstance(found, Refusal) else found

    def act(tx: Connection) -> Any:
        if body.answer is not None and verdict is None:
            return found
        return evidence_challenge.finish(
            tx, node=node, challenge=challenge, verdict=verdict, reason=body.reason, by=once.principal.key_id, now=now
        )

    return once.do(act)


@routes.get("/v1/agents/{node}/challenges")
def list_challenges(node: str, who: Authorised, services: Shared) -> dict[str, Any]:
    """What the platform asked of the node by itself, with what it drew and what came of it, newest first."""
    with services.database.read() as tx:
        _mine(tx, node, who)
        return {"items": evidence_challenge.history(tx, [node]), "next_cursor": None}


@routes.get("/v1/evidence")
def list_evidence(who: Authorised, services: Shared) -> dict[str, Any]:
    """Every device with its level now; a provider sees its own."""
    with services.database.read() as tx:
        own = None
        if who.provider is not None:
            query = select(nodes.c.id).join(pools, pools.c.id == nodes.c.pool).where(pools.c.provider == who.provider)
            own = list(tx.execute(query).scalars())
        return {"items": evidence.listing(tx, services.clock.now(), own), "next_cursor": None}


@routes.get("/v1/evidence/{device:path}")
def show_evidence(device: str, who: Authorised, services: Shared) -> dict[str, Any]:
    """The device's level over time, every record behind it, what the register says of its model and what its level allows."""
    now = services.clock.now()
    with services.database.read() as tx:
        home = tx.execute(select(devices.c.node).where(devices.c.uuid == device)).scalar()
        if home is None:
            raise Problem(404, "NOT_FOUND", {"what": "device", "id": device})
        _mine(tx, home, who)
        shown = evidence.document_of(tx, device, now) or {}
    return {**shown, **_origin(services, shown, now)}


@routes.post("/v1/evidence/{device:path}/fingerprint", status_code=201)
def fingerprint(device: str, body: Benchmark, once: Posted, services: Shared) -> Response:
    """A benchmark of the device, compared with its model's peak; outside the band a person is asked to look."""
    now, policy = services.clock.now(), services.budget.policy
    try:
        measured = half_precision_tflops(body.result)
        sha256 = digest(body.result)
    except (BenchmarkInvalid, ValueError) as problem:
        raise _invalid("/result", str(problem)) from None

    def act(tx: Connection) -> Any:
        row = tx.execute(select(devices.c.node, devices.c.model).where(devices.c.uuid == device)).first()
        if row is None:
            return Refusal(code="DEVICE_UNKNOWN", facts={"device": device})
        _mine(tx, row.node, once.principal)
        said = (body.result.get("device") or {}).get("uuid") if isinstance(body.result.get("device"), dict) else None
        if said is not None and said != device:
            return Refusal(code="BENCHMARK_OF_ANOTHER_DEVICE", facts={"device": device, "says": str(said)[:200]})
        low, high = (policy.answer_at(key, now) for key in (FINGERPRINT_LOWEST, FINGERPRINT_HIGHEST))
        found = judge(
            measured,
            services.catalog.get(row.model or ""),
            None if low is None else int(low),
            None if high is None else int(high),
        )
        return evidence.record_fingerprint(
            tx, device=device, facts=found, sha256=sha256, by=once.principal.key_id, now=now, catalog=services.catalog
        )

    return once.do(act)


@routes.post("/v1/evidence/{device:path}/acts", status_code=201)
def decide(device: str, body: Act, once: Posted, services: Shared) -> Response:
    """audit (out of band, L5), move (maintenance), clear (somebody looked at the doubts), withdraw (an earlier record)."""
    now, by = services.clock.now(), once.principal.key_id

    def act(tx: Connection) -> Any:
        if body.act == "move":
            return evidence.move(tx, device=device, to=str(body.to_node), reason=body.reason, by=by, now=now)
        if body.act == "clear":
            return evidence.clear(tx, device=device, reason=body.reason, by=by, now=now)
        if body.act == "withdraw":
            return evidence.withdraw(tx, device=device, seq=int(body.seq or 0), reason=body.reason, by=by, now=now)
        try:
            return evidence.audit(
                tx, device=device, document_sha256=str(body.document_sha256), decided_by=str(body.decided_by),
                how=body.reason, start=body.start or now, end=body.end, by=by, now=now,
            )  # fmt: skip
        except ValueError as problem:
            raise _invalid("/from", str(problem)) from None

    return once.do(act)


def sight(services: Services, node: str, inventory: Sequence[Accelerator], by: str) -> None:
    """What contradicts other nodes is on record, also where the request that tells of it is then refused."""
    with services.database.read() as tx:
        if not evidence.conflicts(tx, node, inventory):
            return
    with services.database.write() as tx:
        evidence.sight(tx, node, inventory, by=by, now=services.clock.now())


def _origin(services: Services, shown: dict[str, Any], now: datetime) -> dict[str, Any]:
    """The register's verdict on the model, its basis and who determined it; and the origin that this device is billed with."""
    register = services.budget.register
    told = registered(register, shown["vendor"], shown["model"] or "", now)
    verdict = told["verdict"]
    asked = allowance.level_asked(services.budget.policy, LEVEL_FOR_RATE, now)
    simulated = shown["source"] == "simulated"
    below = verdict == "domestic" and not simulated and shown["level"] < asked
    return {"register": told, "level_asked": asked, "billed_as": "undetermined" if below else verdict}


def _mine(tx: Connection, node: str, who: Principal) -> None:
    """A provider deals with its own nodes alone; another's do not exist for it. An agent speaks for its own."""
    speak_for(who, node)
    if who.provider is None:
        return
    owner = select(pools.c.provider).join(nodes, nodes.c.pool == pools.c.id).where(nodes.c.id == node)
    if tx.execute(owner).scalar() != who.provider:
        raise Problem(404, "NOT_FOUND", {"what": "node", "id": node})


def _invalid(pointer: str, detail: str) -> Problem:
    return Problem(422, "INPUT_INVALID", {}, [{"pointer": pointer, "detail": detail}])
