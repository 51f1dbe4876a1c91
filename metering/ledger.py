"""Ledger: accounts, transfers and what each transfer does to balances. Pure: posting to tables is metering/store.py.

Two ledgers in fen. *entitlement*: rights to support; every cap is a room that may not go below zero. *cash*: who owes
whom. Double entry: one transfer debits one account and credits another by the same amount, so the books always balance.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NewType

AccountId = NewType("AccountId", str)


class Programme(enum.StrEnum):
    """The three ways in which the notice supports: clauses 2.1.1, 2.1.2 and 2.4.7."""

    COMPUTE_VOUCHER = "compute_voucher"
    SERVER_SUBSIDY = "server_subsidy"
    MODEL_VOUCHER = "model_voucher"


PROGRAMME = Programme.COMPUTE_VOUCHER.value


class Phase(enum.StrEnum):
    """posted: at once. pending → post | void | expire, exactly once; a post may be for less, the rest is released."""

    POSTED = "posted"
    PENDING = "pending"
    POST = "post"
    VOID = "void"
    EXPIRE = "expire"


class Code(enum.StrEnum):
    """Why value moved."""

    APPROPRIATE = "appropriate"
    OPEN_ROOM = "open_room"
    HOLD = "hold"
    DRAW = "draw"
    REVERSE_DRAW = "reverse_draw"
    FEE = "fee"
    REVERSE_FEE = "reverse_fee"
    SUBSIDY = "subsidy"
    REVERSE_SUBSIDY = "reverse_subsidy"
    REFUND_DRAW = "refund_draw"
    REFUND_FEE = "refund_fee"
    REFUND_SUBSIDY = "refund_subsidy"
    FIRM_PAYS = "firm_pays"
    APPROVE = "approve"
    PAY = "pay"
    PAYMENT_RETURNED = "payment_returned"
    GRANT = "grant"
    CLAW_BACK = "claw_back"
    RECOVER = "recover"
    WITHDRAW = "withdraw"
    LAPSE = "lapse"
    TRANCHE = "tranche"
    TRANCHE_BACK = "tranche_back"
    REISSUE = "reissue"
    LINK = "link"
    SHARE = "share"


def authority(year: int | str, programme: str = PROGRAMME) -> AccountId:
    """Where a year's appropriation comes from; the only account of the programme that goes negative by design."""
    return AccountId(f"authority:{programme}:{year}")


def pool_room(year: int | str, programme: str = PROGRAMME) -> AccountId:
    """What of the year's money is not drawn or held (clauses 2.1.1, 2.4.7); a room."""
    return AccountId(f"pool:{programme}:{year}")


def cap_source(programme: str = PROGRAMME) -> AccountId:
    return AccountId(f"capsrc:{programme}")


def firm_room(firm: str, year: int | str, programme: str = PROGRAMME) -> AccountId:
    """What a firm may still draw in a year (clauses 2.1.1, 2.4.7); a room."""
    return AccountId(f"room:{firm}:{programme}:{year}")


def tranche_room(firm: str, year: int | str, programme: str = PROGRAMME) -> AccountId:
    """What of the pool was issued to a firm for a year and is not drawn or held (clause 2.1.1, claim mode tranche); a room."""
    return AccountId(f"tranche:{firm}:{programme}:{year}")


def shared_room(subject: str, year: int | str, programme: str = PROGRAMME) -> AccountId:
    """What firms that are linked may still draw together in a year (clause 2.1.1, cap subject linked_firms); a room."""
    return AccountId(f"room:linked:{subject}:{programme}:{year}")


def link_source(subject: str, year: int | str, programme: str = PROGRAMME) -> AccountId:
    """What linked firms gave up of their caps, so that together they have one; goes back when the link ends."""
    return AccountId(f"capsrc:linked:{subject}:{programme}:{year}")


def contract_room(contract: str) -> AccountId:
    """What may still be drawn under a contract; a room."""
    return AccountId(f"room:contract:{contract}")


def project_room(project: str) -> AccountId:
    """What a server project may still get (clause 2.1.2: cumulative, without a year); a room."""
    return AccountId(f"room:project:{project}")


def clearing_room(batch: str) -> AccountId:
    """What of an approved batch is not paid yet; a room, so that no batch is ever paid twice."""
    return AccountId(f"room:clearing:{batch}")


def spent_of(room: AccountId) -> AccountId:
    """Where what leaves a room goes."""
    kind, _, rest = room.partition(":")
    return AccountId(f"spent:{'pool:' if kind == 'pool' else ''}{rest}")


def pool_spent(year: int | str, programme: str = PROGRAMME) -> AccountId:
    return spent_of(pool_room(year, programme))


def firm_spent(firm: str, year: int | str, programme: str = PROGRAMME) -> AccountId:
    return spent_of(firm_room(firm, year, programme))


def lapsed(year: int | str, programme: str = PROGRAMME) -> AccountId:
    """What nobody drew before the year was closed."""
    return AccountId(f"lapsed:{programme}:{year}")


def firm_payable(firm: str) -> AccountId:
    """What the firm owes, after the voucher."""
    return AccountId(f"firm:{firm}:payable")


def provider_revenue(provider: str) -> AccountId:
    return AccountId(f"provider:{provider}:revenue")


def provider_received(provider: str) -> AccountId:
    """What a provider's customers have paid it, by bank slips on record."""
    return AccountId(f"provider:{provider}:received")


def treasury_committed(year: int | str, programme: str = PROGRAMME) -> AccountId:
    """What the treasury owes for the support of a year, accrued and not approved yet."""
    return AccountId(f"treasury:{programme}:{year}:committed")


def treasury_approved(year: int | str, programme: str = PROGRAMME) -> AccountId:
    """Approved and not paid yet."""
    return AccountId(f"treasury:{programme}:{year}:approved")


def treasury_paid(year: int | str, programme: str = PROGRAMME) -> AccountId:
    return AccountId(f"treasury:{programme}:{year}:paid")


def written_off(year: int | str, programme: str = PROGRAMME) -> AccountId:
    """What should have come back and is not collected."""
    return AccountId(f"treasury:{programme}:{year}:written_off")


def owed_back(party: str) -> AccountId:
    """What a party holds of the treasury's and has to give back (追缴): a credit balance."""
    return AccountId(f"clawback:{party}")


def beneficiary(party: str, programme: str) -> AccountId:
    """Support granted to a party outside the compute voucher."""
    return AccountId(f"beneficiary:{party}:{programme}")


def draw_pairs(
    firm: str, year: int, contract: str | None, *, tranche: bool = False
) -> tuple[tuple[str, AccountId, AccountId], ...]:
    """(kind, debit, credit) of the rooms a draw takes from: the firm's, the contract's, and the pool last (lock order).

    tranche: the pool's money was issued to the firm before and is taken from there; it counts as spent of the pool all the
    same, so that what is given back of it, along the pairs without it, is in the pool of its year again.
    """
    found = [("firm", firm_room(firm, year), firm_spent(firm, year))]
    if contract is not None:
        found.append(("contract", contract_room(contract), spent_of(contract_room(contract))))
    source = tranche_room(firm, year) if tranche else pool_room(year)
    found.append(("tranche" if tranche else "pool", source, pool_spent(year)))
    return tuple(found)


def is_firm_room(account: AccountId) -> bool:
    """True for the room of one firm and year, not for a contract's, a project's, a batch's or linked firms' shared one."""
    parts = account.split(":")
    return parts[0] == "room" and len(parts) == 4 and parts[1] not in ("contract", "project", "clearing", "linked")


def released(transfers: Iterable[Transfer], held: Mapping[str, int]) -> dict[AccountId, int]:
    """By how many fen the transfers change what each room has available. held: amounts of pending ones they resolve."""
    found: dict[AccountId, int] = {}
    waiting = dict(held)
    for transfer in transfers:
        if transfer.phase is Phase.PENDING:
            waiting[transfer.id] = transfer.amount_fen
        change = effect(transfer, waiting.get(transfer.pending_id) if transfer.pending_id is not None else None)
        found[transfer.debit] = found.get(transfer.debit, 0) - change.posted - change.pending
        found[transfer.credit] = found.get(transfer.credit, 0) + change.posted
    return {account: fen for account, fen in found.items() if bounded(account)}


ENTITLEMENT = frozenset({"authority", "pool", "capsrc", "room", "spent", "lapsed", "tranche"})


def ledger_of(account: AccountId) -> str:
    """Which ledger an account belongs to; a transfer never crosses ledgers."""
    return "entitlement" if account.split(":")[0] in ENTITLEMENT else "cash"


def bounded(account: AccountId) -> bool:
    """Rooms may not go below zero; every cap of the policy is one."""
    return account.split(":")[0] in ("pool", "room", "tranche")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A movement between two accounts. id is minted by the caller: the same id with the same body is the same transfer.

    For POST, amount_fen is what is finally moved (at most the pending amount); for VOID and EXPIRE it is 0.
    """

    id: str
    phase: Phase
    code: Code
    debit: AccountId
    credit: AccountId
    amount_fen: int
    pending_id: str | None = None
    job: str | None = None
    lease: str | None = None
    settlement: str | None = None
    cites: str | None = None

    def body(self) -> dict[str, Any]:
        """What its id stands for: everything but the time of recording."""
        return {
            "id": self.id,
            "phase": self.phase.value,
            "code": self.code.value,
            "debit": self.debit,
            "credit": self.credit,
            "amount_fen": self.amount_fen,
            "pending_id": self.pending_id,
            "job": self.job,
            "lease": self.lease,
            "settlement": self.settlement,
            "cites": self.cites,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Cumulative counters of one account, all ≥ 0 except that posted counters only ever grow."""

    debits_posted: int = 0
    debits_pending: int = 0
    credits_posted: int = 0
    credits_pending: int = 0

    @property
    def available(self) -> int:
        """What a room can still give: credits posted, less debits posted and pending."""
        return self.credits_posted - self.debits_posted - self.debits_pending


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a transfer adds to each side: (posted, pending). For POST, VOID and EXPIRE pending is taken back."""

    posted: int
    pending: int


def effect(transfer: Transfer, pending_amount: int | None) -> Effect:
    """The effect of a transfer; pending_amount is the amount of the transfer it resolves, None for the others."""
    match transfer.phase:
        case Phase.POSTED:
            return Effect(posted=transfer.amount_fen, pending=0)
        case Phase.PENDING:
            return Effect(posted=0, pending=transfer.amount_fen)
        case Phase.POST | Phase.VOID | Phase.EXPIRE:
            assert pending_amount is not None, f"{transfer.id} resolves no pending transfer"
            assert transfer.amount_fen <= pending_amount, f"{transfer.id} posts more than was held"
            return Effect(posted=transfer.amount_fen, pending=-pending_amount)


def replay(transfers: Iterable[Transfer]) -> dict[AccountId, Balance]:
    """Every account's balance, from the first transfer; BrokenBooks names the first one that cannot be.

    It cannot be when a room would go below zero, when a transfer crosses ledgers, or when a pending transfer is
    missing, of other accounts, or resolved twice.
    """
    balances: dict[AccountId, Balance] = {}
    held: dict[str, Transfer] = {}
    for transfer in transfers:
        pending = _resolved(transfer, held)
        change = effect(transfer, pending.amount_fen if pending else None)
        if ledger_of(transfer.debit) != ledger_of(transfer.credit):
            raise BrokenBooks(transfer.id, "debit and credit are in different ledgers")
        left = balances.get(transfer.debit, Balance())
        right = balances.get(transfer.credit, Balance())
        left = replace(
            left, debits_posted=left.debits_posted + change.posted, debits_pending=left.debits_pending + change.pending
        )
        right = replace(
            right,
            credits_posted=right.credits_posted + change.posted,
            credits_pending=right.credits_pending + change.pending,
        )
        for account, balance in ((transfer.debit, left), (transfer.credit, right)):
            if bounded(account) and balance.available < 0:
                raise BrokenBooks(transfer.id, f"room {account} would be {balance.available} fen")
            balances[account] = balance
    return balances


def _resolved(transfer: Transfer, held: dict[str, Transfer]) -> Transfer | None:
    if transfer.phase is Phase.PENDING:
        held[transfer.id] = transfer
    if transfer.phase in (Phase.POSTED, Phase.PENDING):
        return None
    pending = held.pop(transfer.pending_id or "", None)
    if pending is None:
        raise BrokenBooks(transfer.id, f"resolves {transfer.pending_id}, which is not pending")
    if (pending.debit, pending.credit) != (transfer.debit, transfer.credit):
        raise BrokenBooks(transfer.id, f"resolves {transfer.pending_id} of other accounts")
    if transfer.amount_fen > pending.amount_fen:
        raise BrokenBooks(transfer.id, f"posts {transfer.amount_fen} of {pending.amount_fen} held")
    return pending


class BrokenBooks(Exception):
    """A transfer that no history can contain. Names the transfer."""

    def __init__(self, transfer: str, problem: str) -> None:
        self.transfer, self.problem = transfer, problem
        super().__init__(f"transfer {transfer}: {problem}")


def differences(
    target: Mapping[tuple[AccountId, AccountId], int], posted: Mapping[tuple[AccountId, AccountId], int]
) -> dict[tuple[AccountId, AccountId], int]:
    """What still has to move per (debit, credit) so that `posted` becomes `target`; negative = move back. No zeros."""
    keys = sorted(set(target) | set(posted))
    found = {key: target.get(key, 0) - posted.get(key, 0) for key in keys}
    return {key: amount for key, amount in found.items() if amount}
