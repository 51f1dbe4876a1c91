"""Benchmarks: results of `yisuan bench`, submitted by a node's agent or an operator; everybody may read the last ones."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from api import schemas
from api.idempotency import Posted
from api.problems import Problem
from api.routes.binding import speak_of
from api.routes.public import tagged
from api.routes.shared import Shared
from metering import benchmark
from metering.fingerprint import BenchmarkInvalid

routes = APIRouter(tags=["benchmarks"])
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Figure = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Word = Annotated[str, Field(max_length=200)]


class Part(BaseModel):
    """A part of a result; what a later version adds is kept and not judged."""

    model_config = ConfigDict(extra="allow", strict=True)


class Measured(Part):
    name: Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,39}$")]
    precision: Literal["fp64", "fp32", "tf32", "fp16", "bf16", "int8", "fp8"] | None
    value: Figure
    unit: Literal["TFLOPS", "TOPS", "GB/s"]
    repeats: Annotated[int, Field(ge=1, le=10_000)]
    median: Figure
    p10: Figure
    p90: Figure
    log_sha256: Sha256


class MeasuredDevice(Part):
    uuid: Annotated[str, Field(min_length=1, max_length=200)]
    model: Annotated[str, Field(max_length=80)] | None
    kind: Literal["accelerator", "cpu", "group"]


class Result(Part):
    version: Literal[1]
    at: Annotated[AwareDatetime, Field(strict=False)]
    seed: Annotated[int, Field(ge=0, le=2**53)]
    stack: Word
    backend: Word
    versions: Annotated[dict[Word, Word], Field(max_length=40)]
    device: MeasuredDevice
    measurements: Annotated[list[Measured], Field(max_length=200)]
    problems: Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=200)]
    log_sha256: Sha256


class Submission(schemas.Body):
    """The document that `yisuan bench -o json` prints, as it is."""

    document: Result


@routes.get("/v1/benchmarks")
def list_benchmarks(request: Request, services: Shared) -> Response:
    """The last result of every listed device, with the hashes of the document and of its raw log."""
    with services.database.read() as tx:
        items = benchmark.latest(tx)
    return tagged(request, {"items": items, "next_cursor": None})


@routes.post("/v1/agents/benchmarks", status_code=201)
def submit(body: Submission, once: Posted, services: Shared) -> Response:
    """On record for good, compared with the model's band, and shown on the listing from then on."""
    del body  # it was judged; what is kept is the document as it came, whose hash others can compute
    document: dict[str, Any] = json.loads(once.body)["document"]

    def act(tx: Connection) -> Any:
        speak_of(tx, once.principal, [document["device"]["uuid"]])
        try:
            return benchmark.record(
                tx, document, policy=services.budget.policy, catalog=services.catalog, by=once.principal.key_id,
                now=services.clock.now(),
            )  # fmt: skip
        except (BenchmarkInvalid, ValueError) as problem:
            raise Problem(422, "INPUT_INVALID", {}, [{"pointer": "/document", "detail": str(problem)}]) from None

    return once.do(act)
