"""Schemas: request bodies. Unknown fields are refused; what a client may not decide (origin, rate) is not here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from stdnum.cn import uscc
from stdnum.exceptions import ValidationError

Name = Annotated[str, Field(min_length=1, max_length=120)]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


def _uscc(value: str) -> str:
    try:
        return str(uscc.validate(value))
    except ValidationError as problem:
        raise ValueError(f"not a unified social credit code: {problem}") from None


CreditCode = Annotated[str, Field(max_length=40), AfterValidator(_uscc)]


FIRST, LAST = datetime(2000, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)


def _bounded(value: datetime) -> datetime:
    """An instant that every database, calendar and program can hold, in any zone."""
    if not FIRST <= value < LAST:
        raise ValueError(f"{value.isoformat()} is not from {FIRST.year} to {LAST.year - 1}")
    return value


Instant = Annotated[AwareDatetime, Field(strict=False), AfterValidator(_bounded)]


def _clean(value: Any, where: str = "") -> Any:
    """The value, when every text can be stored and hashed anywhere and every number is exact; ValueError says where not."""
    if isinstance(value, str):
        if "\x00" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ValueError(f"{where or '/'} has a character that cannot be stored")
    elif isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"{where or '/'} is no number: {value}")
    elif isinstance(value, int):
        if abs(value) >= 2**53:
            raise ValueError(f"{where or '/'} is beyond 2^53, not every reader keeps it exact")
    elif isinstance(value, dict):
        for key, each in value.items():
            _clean(key, f"{where}/{key!r}")
            _clean(each, f"{where}/{key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            _clean(each, f"{where}/{index}")
    return value


class Body(BaseModel):
    """Strict: no unknown field, no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        return _clean(value)

    @field_validator("end", mode="after", check_fields=False)
    @classmethod
    def _ends_after_it_begins(cls, value: datetime | None, info: ValidationInfo) -> datetime | None:
        start = info.data.get("start")
        if start is not None and value is not None and value < start:
            raise ValueError(f"{value.isoformat()} is before from, {start.isoformat()}")
        return value


class Party(Body):
    """A provider or firm under its unified social credit code."""

    id: CreditCode
    name: Name


class Site(Body):
    id: Id
    provider: CreditCode
    name: Name
    region: Id


class Pool(Body):
    id: Id
    provider: CreditCode
    site: Id
    region: Id
    backend: Id = "local"
    vendor: Id
    model: Annotated[str, Field(min_length=1, max_length=80)]
    source: Literal["library", "cli", "simulated"]
    price_fen_per_device_hour: Annotated[int, Field(ge=0, le=100_000_000)]


class Simulated(Body):
    """Devices that are declared, not found; they can only be settled in a ledger marked demo."""

    model: Annotated[str, Field(min_length=1, max_length=80)]
    count: Annotated[int, Field(ge=1, le=64)]


class Device(Body):
    """One device of an inventory, as `yisuan devices -o json` prints it."""

    model_config = ConfigDict(extra="ignore", strict=True)

    uuid: Annotated[str, Field(min_length=1, max_length=200)]
    index: Annotated[int, Field(ge=0, le=4096)]
    vendor: Id
    model_raw: Annotated[str, Field(max_length=200)]
    model: str | None = None
    serial: str | None = None
    pci_bdf: str | None = None
    visible_id: str | None = None
    memory_total_bytes: Annotated[int, Field(ge=0)] | None = None
    driver_version: str | None = None
    health: Literal["ok", "degraded", "failed", "unknown"] = "unknown"
    source: Literal["library", "cli", "simulated"]
    evidence_level: Annotated[int, Field(ge=0, le=5)] = 1
    problems: list[str] = Field(default_factory=list)


class Node(Body):
    id: Id
    pool: Id
    simulated: Simulated | None = None
    devices: list[Device] | None = None
    cpu_milli: Annotated[int, Field(ge=1)] | None = None
    memory_bytes: Annotated[int, Field(ge=1)] | None = None
    rack: Id | None = None


class Schedulable(Body):
    schedulable: bool


class Queue(Body):
    nominal_devices: Annotated[int, Field(ge=0)] | None


class Fact(Body):
    """A dated fact with its evidence: a firm's eligibility (clause 4.1) or a site's energy papers (clause 4.2)."""

    subject_kind: Literal["firm", "site"]
    subject: Name
    fact: Annotated[str, Field(max_length=40)]
    start: Annotated[Instant, Field(alias="from")]
    end: Annotated[Instant | None, Field(alias="to")] = None
    evidence: dict[str, Any] = Field(default_factory=dict)
    withdraws: int | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Fact:
        """An empty interval says nothing, unless it takes back an earlier fact and puts nothing in its place."""
        if self.end is not None and self.end == self.start and self.withdraws is None:
            raise ValueError(f"/to is the same as from, {self.start.isoformat()}: no time is covered")
        return self


class Claim(Body):
    programme: Literal["compute_voucher"] = "compute_voucher"


class Key(Body):
    name: Name
    role: Literal["provider", "firm", "operator", "reviewer", "finance", "auditor", "agent"]
    tenant: str | None = None


class Heartbeat(Body):
    node: Id
    at: Instant
    devices: Annotated[list[Device], Field(max_length=256)]


class Reading(Body):
    model_config = ConfigDict(extra="ignore", strict=True)

    uuid: Annotated[str, Field(min_length=1, max_length=200)]
    at: Annotated[datetime, Field(strict=False)]
    utilisation_ratio: Annotated[float, Field(ge=0, le=1, strict=False)] | None = None
    utilisation_semantics: str | None = None
    memory_used_bytes: Annotated[int, Field(ge=0)] | None = None
    power_watts: Annotated[float, Field(ge=0, strict=False)] | None = None
    temperature_celsius: Annotated[float, Field(strict=False)] | None = None


class Samples(Body):
    node: Id
    samples: Annotated[list[Reading], Field(max_length=20_000)]
