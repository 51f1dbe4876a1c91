"""Programme schemas: request bodies of contracts, papers, clearing, disputes and the other programmes."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from api.schemas import Body, CreditCode, Id, Instant, Name
from metering.contracts import TAX_BASES
from metering.disputes import REASONS
from metering.ledger import Programme
from metering.listing import STATUSES
from metering.support import MODEL_USES

Fen = Annotated[int, Field(ge=0, le=2**53 - 1)]
Signed = Annotated[int, Field(ge=-(2**53) + 1, le=2**53 - 1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _day(value: str) -> str:
    """The text of a day that is on the calendar."""
    date.fromisoformat(value)
    return value


Day = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), AfterValidator(_day)]
Reference = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,79}$")]
Text = Annotated[str, Field(max_length=2000)]
Reason = Annotated[str, Field(min_length=1, max_length=2000)]


class Item(Body):
    """A part of a contract; domestic: it counts as a domestic-chip server."""

    description: Name
    model: Annotated[str, Field(max_length=80)]
    quantity: Annotated[int, Field(ge=1, le=1_000_000)]
    amount_fen: Fen
    domestic: bool


class Contract(Body):
    id: Id
    number: Name
    programme: Literal[tuple(p.value for p in Programme)]  # type: ignore[valid-type]
    buyer: CreditCode
    seller: CreditCode
    signed_on: Day
    start: Annotated[Instant, Field(alias="from")]
    end: Annotated[Instant, Field(alias="to")]
    amount_fen: Fen
    tax_basis: Literal[TAX_BASES]  # type: ignore[valid-type]
    support_cap_fen: Fen | None = None
    project: Id | None = None
    items: Annotated[list[Item], Field(max_length=500)] = Field(default_factory=list)
    evidence: dict[str, Any] = Field(default_factory=dict)


class Invoice(Body):
    """amount_fen is with tax; corrects: the number of the invoice that this supplement or red one brings up to date."""

    number: Reference
    contract: Id
    amount_fen: Signed
    tax_fen: Signed
    issued_on: Day
    sha256: Sha256
    jobs: Annotated[list[Annotated[str, Field(max_length=80)]], Field(max_length=5000)] = Field(default_factory=list)
    corrects: Reference | None = None


class Slip(Body):
    reference: Reference
    invoice: Reference
    payer: CreditCode
    amount_fen: Annotated[int, Field(ge=1, le=2**53 - 1)]
    paid_at: Instant
    sha256: Sha256


class Settled(Body):
    settlement: Annotated[str, Field(max_length=120)]


class Batch(Body):
    provider: CreditCode
    year: Annotated[int, Field(ge=2000, le=2999)]


class Act(Body):
    """A step of a case. reference: of the bank slip, payment or batch, where the step asks for one."""

    act: Annotated[str, Field(max_length=40)]
    reason: Text = ""
    reference: Annotated[str, Field(max_length=120)] | None = None


class Payment(Body):
    amount_fen: Annotated[int, Field(ge=1, le=2**53 - 1)]
    reference: Reference


class PaymentReturned(Body):
    reference: Reference
    reason: Reason


class Dispute(Body):
    settlement: Annotated[str, Field(max_length=120)]
    code: Literal[REASONS]  # type: ignore[valid-type]
    text: Reason


class Refund(Body):
    job: Annotated[str, Field(max_length=80)]
    kind: Literal["refund", "rebate"]
    amount_fen: Annotated[int, Field(ge=1, le=2**53 - 1)]
    reason: Reason


class Correction(Body):
    job: Annotated[str, Field(max_length=80)]
    reason: Reason


class Answer(Body):
    """What answers a review item: one of its actions, and why."""

    action: Annotated[str, Field(max_length=40)]
    reason: Reason


class Price(Body):
    """A price from a moment to come on; or, with force, one that is back-dated and waits for a reviewer."""

    pool: Id
    price_fen_per_device_hour: Annotated[int, Field(ge=0, le=100_000_000)]
    start: Annotated[Instant, Field(alias="from")]
    force: bool = False
    reason: Text = ""


class Freeze(Body):
    reason: Reason


class YearClose(Body):
    year: Annotated[int, Field(ge=2000, le=2999)]
    reason: Reason


class Project(Body):
    id: Id
    name: Name


class Serial(Body):
    serial: Reference
    contract: Id
    model: Annotated[str, Field(max_length=80)]
    device: Annotated[str, Field(max_length=200)]


class Application(Body):
    id: Id
    contract: Id
    use: Literal[MODEL_USES]  # type: ignore[valid-type]
    model: Name
    controlled: dict[str, Any]
    model_part_fen: Fen | None = None


class OtherSupport(Body):
    firm: CreditCode
    project: Id
    instrument: Name
    amount_fen: Fen
    cumulative: bool = False
    evidence: dict[str, Any] = Field(default_factory=dict)


class Relation(Body):
    """A dated fact about a firm and a provider: the firm declares unrelated, an operator records related."""

    provider: CreditCode
    firm: CreditCode | None = None
    fact: Literal["related", "unrelated"] = "unrelated"
    start: Annotated[Instant, Field(alias="from")]
    end: Annotated[Instant | None, Field(alias="to")] = None
    evidence: dict[str, Any] = Field(default_factory=dict)


class Listing(Body):
    status: Literal[STATUSES]  # type: ignore[valid-type]
    reason: Text = ""
