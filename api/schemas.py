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

from scheduler.lease import STEPS_MAX

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


Health = Literal["ok", "degraded", "failed", "unknown"]
Uuid = Annotated[str, Field(min_length=1, max_length=200)]


class Partition(Body):
    """Of which device this one is a part."""

    kind: Literal["mig", "vnpu", "smlu", "sgpu", "svi", "vgpu"]
    parent_uuid: Uuid
    profile: Annotated[str, Field(max_length=80)] | None = None


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
    health: Health = "unknown"
    health_code: Annotated[str, Field(max_length=400)] | None = None
    partition: Partition | None = None
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


Devices = Annotated[int, Field(ge=0, le=1_000_000_000)]


class Queue(Body):
    """The whole of a queue's quota: what is left out has its default, None = no limit. Limits on lending need a cohort."""

    nominal_devices: Devices | None
    cohort: Id | None = None
    borrowing_limit: Devices | None = None
    lending_limit: Devices | None = None
    weight: Annotated[int, Field(ge=1, le=1_000_000)] = 1

    @model_validator(mode="after")
    def _limits_within_a_cohort(self) -> Queue:
        for name in ("borrowing_limit", "lending_limit"):
            if self.cohort is None and getattr(self, name) is not None:
                raise ValueError(f"/{name} needs a cohort: a queue of none lends and borrows nothing")
        return self


Steps = Annotated[int, Field(ge=0, le=STEPS_MAX)]


class Progress(Body):
    """Steps a job has done in all its attempts, of how many, and how many its last complete checkpoint holds."""

    steps: Steps
    total_steps: Annotated[Steps, Field(ge=1)] | None = None
    checkpointed_steps: Steps | None = None

    @model_validator(mode="after")
    def _within_the_total(self) -> Progress:
        if self.total_steps is not None and self.steps > self.total_steps:
            raise ValueError(f"/steps: {self.steps} is more than total_steps, {self.total_steps}")
        if self.checkpointed_steps is not None and self.checkpointed_steps > self.steps:
            raise ValueError(f"/checkpointed_steps: {self.checkpointed_steps} is more than steps, {self.steps}")
        return self


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
    node: Id | None = None  # of an agent: the one that it speaks for


class Heartbeat(Body):
    node: Id
    at: Instant
    devices: Annotated[list[Device], Field(max_length=256)]


Ratio = Annotated[float, Field(ge=0, le=1, strict=False)]
Figure = Annotated[float, Field(strict=False)]
Amount = Annotated[float, Field(ge=0, strict=False)]
Count = Annotated[int, Field(ge=0)]
Word = Annotated[str, Field(max_length=400)]


class Reading(Body):
    """One reading of one device, as `yisuan devices -o json` prints it; what is left out or null is unknown."""

    model_config = ConfigDict(extra="ignore", strict=True)

    uuid: Uuid
    at: Instant
    utilisation_ratio: Ratio | None = None
    utilisation_semantics: Word | None = None
    memory_used_bytes: Count | None = None
    power_watts: Amount | None = None
    energy_joules_total: Amount | None = None
    temperature_celsius: Figure | None = None
    memory_bandwidth_ratio: Ratio | None = None
    memory_temperature_celsius: Figure | None = None
    core_clock_mhz: Amount | None = None
    memory_clock_mhz: Amount | None = None
    ecc_corrected_total: Count | None = None
    ecc_uncorrected_total: Count | None = None
    retired_pages: Count | None = None
    link_errors_total: Count | None = None
    throttled: Annotated[list[Word], Field(max_length=32)] | None = None
    health: Health | None = None
    health_code: Word | None = None
    last_error: Word | None = None
    raw_error: str | None = None


class DeviceEvent(Body):
    """What a driver said of a device, in its own code."""

    model_config = ConfigDict(extra="ignore", strict=True)

    uuid: Uuid
    at: Instant
    code: Annotated[str, Field(min_length=1, max_length=120)]
    severity: Literal["info", "warning", "fatal"] | None = None
    text: Annotated[str, Field(max_length=2000)] | None = None


class Samples(Body):
    node: Id
    samples: Annotated[list[Reading], Field(max_length=20_000)]
    events: Annotated[list[DeviceEvent], Field(max_length=20_000)] = Field(default_factory=list)
