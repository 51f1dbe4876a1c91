"""Policy: what a notice fixes, as dated plain values.

Pure; metering/parameters/__init__.py reads it from files.
"""

from __future__ import annotations

import difflib
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from zoneinfo import ZoneInfo

from adapters.accelerator import Origin
from metering.facts import Timeline

IN_FORCE = "policy.in_force"
RATE_DOMESTIC = "compute_voucher.rate_ceiling.domestic"
RATE_FOREIGN = "compute_voucher.rate_ceiling.foreign"
POOL = "compute_voucher.pool"
FIRM_CAP = "compute_voucher.firm_cap"
CLAIM_MODE = "compute_voucher.claim_mode"
TRANCHE_SIZE = "compute_voucher.tranche_size"
TRANCHE_IDLE = "compute_voucher.tranche_idle"
CAP_SUBJECT = "compute_voucher.cap_subject"
REFILL = "compute_voucher.refill"
LEVEL_TO_LIST = "evidence.level_to_list"
LEVEL_FOR_RATE = "evidence.level_for_domestic_rate"
LEVEL_FOR_SUBSIDY = "evidence.level_for_subsidy"
EVIDENCE_LASTS = "evidence.signed_lasts"
FINGERPRINT_LOWEST = "evidence.fingerprint.lowest"
FINGERPRINT_HIGHEST = "evidence.fingerprint.highest"
PROPOSED, WITHDRAWN, AWAITING = "proposed", "withdrawn", "awaiting_confirmation"
PLATFORM_DEFAULT = "platform default, to be confirmed"
UNANSWERED = ("open", "undecided")  # options that say that a question has no answer yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One value over [start, end), end None = open; the clauses it rests on; when it was written down and by whom.

    recorded_by, approved_by: roles, never the same one; None while nobody did. withdrawn_at: the day from which a
    withdrawn value is no longer held to be true. source: id of the policy or overlay that says it.
    """

    start: datetime
    end: datetime | None
    value: int | bool | str
    clauses: tuple[str, ...]
    status: str
    recorded_at: str
    recorded_by: str | None = None
    approved_by: str | None = None
    withdrawn_at: str | None = None
    source: str = ""
    note: str | None = None

    def holds_at(self, at: datetime) -> bool:
        """Whether the instant lies in [start, end)."""
        return self.start <= at and (self.end is None or at < self.end)

    def known_on(self, day: str) -> bool:
        """Whether on that day (yyyy-mm-dd) the value was written down and not yet withdrawn."""
        return self.recorded_at <= day and (self.withdrawn_at is None or day < self.withdrawn_at)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One key's rows: sorted, touching, without overlap. set_aside: rows proposed or withdrawn, which settle nothing."""

    key: str
    unit: str
    rows: tuple[Row, ...]
    set_aside: tuple[Row, ...] = ()
    _starts: tuple[datetime, ...] = field(init=False, repr=False, compare=False)
    _edges: tuple[datetime, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        starts = tuple(row.start for row in self.rows)
        end = self.rows[-1].end if self.rows else None
        object.__setattr__(self, "_starts", starts)
        object.__setattr__(self, "_edges", starts if end is None else (*starts, end))

    def row_at(self, at: datetime) -> Row | None:
        """The row in force at the instant; None before the first and after the last."""
        index = bisect_right(self._starts, at) - 1
        if index < 0:
            return None
        row = self.rows[index]
        return row if row.end is None or at < row.end else None

    def row_known(self, at: datetime, known_on: str) -> Row | None:
        """The row that on the day `known_on` was held to cover the instant; of several the one written down last."""
        once = [*self.rows, *(row for row in self.set_aside if row.status == WITHDRAWN)]
        found = [row for row in once if row.holds_at(at) and row.known_on(known_on)]
        return max(found, key=lambda row: row.recorded_at, default=None)

    def edges_within(self, start: datetime, end: datetime) -> tuple[datetime, ...]:
        """Where the value may change strictly between start and end."""
        return self._edges[bisect_right(self._edges, start) : bisect_left(self._edges, end)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """A clause by its number in the official text, with our own gist of it; the text itself is not kept.

    platform: a rule of the platform, which no notice contains; its number begins with P.
    """

    number: str
    gist_zh: str
    gist_en: str
    platform: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpretation:
    """A question the text leaves open, the answers considered, and the one in use until it is decided."""

    id: str
    question_zh: str
    question_en: str
    options: tuple[str, ...]
    chosen: str
    decided_on: str
    decided_by: str
    clauses: tuple[str, ...]
    note: str | None

    @property
    def answered(self) -> bool:
        """False while the option in use says that there is no answer."""
        return self.chosen not in UNANSWERED

    @property
    def confirmed(self) -> bool:
        """Whether somebody entitled to interpret the notice gave the answer, and not the platform by default."""
        return self.answered and self.decided_by != PLATFORM_DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A code that every settlement carries which has a line ending after the instant."""

    code: str
    lines_ending_after: datetime
    gist_zh: str
    gist_en: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """What a higher level (city, nation) fixes and a zone's policy then follows, from a date (clause 4.3).

    level: one of the registry's precedence. applies_to: ids of policies. parameters: only the keys it shadows.
    """

    id: str
    number: str
    title_zh: str
    title_en: str
    issuer: str
    level: str
    applies_to: tuple[str, ...]
    clauses: Mapping[str, Clause]
    parameters: Mapping[str, Parameter]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A notice of the zone. Every value of it has a date, a unit and a clause.

    status: active | awaiting_confirmation | superseded; only an active one settles. zone: whose midnight
    local dates use. text_sha256: of the official text, None while nobody has seen the whole of it. pool_fen,
    firm_cap_fen: fen by local year. years: the local years in force. parameters: as they hold, overlays included; own:
    as the policy's own files say them. bundle_sha256: of the canonical JSON of all its files and overlays.
    """

    id: str
    number: str
    title_zh: str
    title_en: str
    status: str
    zone: ZoneInfo
    text_sha256: str | None
    issuer: str
    parameters: Mapping[str, Parameter]
    own: Mapping[str, Parameter]
    overlays: tuple[Overlay, ...]
    clauses: Mapping[str, Clause]
    interpretations: tuple[Interpretation, ...]
    notices: tuple[Notice, ...]
    in_force: Timeline
    years: tuple[int, ...]
    pool_fen: Mapping[int, int]
    firm_cap_fen: Mapping[int, int]
    bundle_sha256: str

    def in_force_at(self, at: datetime) -> bool:
        """True from the policy's first instant to its end, exclusive."""
        return self.in_force.holds_at(at)

    def rate_rows(self, origin: Origin) -> Parameter:
        """The dated rate ceilings of an origin; undetermined has the foreign ones."""
        return self.parameters[RATE_DOMESTIC if origin is Origin.DOMESTIC else RATE_FOREIGN]

    def rate_bp(self, origin: Origin, at: datetime) -> int | None:
        """The rate ceiling in basis points; None where no row holds. Says nothing of who is eligible."""
        row = self.rate_rows(origin).row_at(at)
        return None if row is None else int(row.value)

    def answer_at(self, key: str, at: datetime) -> int | bool | str | None:
        """The value of the last row that had begun by the instant: how a question was answered stays so after the term.

        None before the first row, and where the policy does not have the key.
        """
        parameter = self.parameters.get(key)
        begun = [row for row in parameter.rows if row.start <= at] if parameter is not None else []
        return begun[-1].value if begun else None

    def value_at(self, key: str, at: datetime, known_at: datetime | None = None) -> int | bool | str | None:
        """A parameter's value at the instant; None where no row holds.

        known_at: as it was known then, by the days on which rows were recorded and withdrawn; today's knowledge
        without it. UnknownParameter for a key it does not have.
        """
        if key not in self.parameters:
            raise UnknownParameter(f"{self.id} has no parameter {key!r}{nearest(key, self.parameters)}")
        parameter = self.parameters[key]
        day = None if known_at is None else known_at.astimezone(self.zone).date().isoformat()
        row = parameter.row_at(at) if day is None else parameter.row_known(at, day)
        return None if row is None else row.value


class UnknownParameter(LookupError):
    """A key that the policy does not have; the message names the nearest that it has."""


class UnknownPolicy(LookupError):
    """An id under which no policy was loaded; the message names the nearest that was."""


@dataclass(frozen=True, slots=True)
class Registry:
    """Every policy loaded, by id. overlays: every one there is, highest level first."""

    policies: Mapping[str, Policy]
    overlays: tuple[Overlay, ...] = ()

    def policy(self, id: str) -> Policy:  # noqa: A002 - the word of the format
        """The policy of this id; UnknownPolicy names the nearest that exists."""
        if id not in self.policies:
            raise UnknownPolicy(f"policy {id!r} is not known{nearest(id, self.policies)}")
        return self.policies[id]


def nearest(word: str, known: Mapping[str, object]) -> str:
    """The end of a message about an unknown word: "; nearest is 'x'", or what there is."""
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"; nearest is {close[0]!r}"
    return f"; known are {', '.join(sorted(known))}" if known else "; none is known"
