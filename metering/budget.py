"""Budget: the scheduler's money questions, answered from facts, parameters and the ledger.

Holds and charges both go through one `yisuan settle` case, so what is held, what is billed and what an auditor
recomputes offline are the same arithmetic.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert, select, update

from adapters.accelerator import Origin, Source
from adapters.chain import instant, timestamp
from metering import acts, allowance, linking, posting, store, tranche
from metering.case import Settling
from metering.expectation import Expectation
from metering.expenditure import Expenditure
from metering.facts import Interval, holds_at, intersect, subtract
from metering.ledger import PROGRAMME, AccountId, Code, Phase, Transfer, draw_pairs
from metering.parameters import OriginRegister, Policy, Registry
from metering.programme_schema import contracts
from metering.reading import Reading
from metering.rule import Rule
from metering.schema import holds, transfers
from metering.settlement import Settlement, document
from metering.shadow_price import with_prices
from metering.year import local_year
from scheduler.clock import from_ms, to_ms
from scheduler.job import FirmId, JobId
from scheduler.lease import Lease, LeaseId
from scheduler.node import Pool
from scheduler.ports import Held
from scheduler.refusal import Refusal
from scheduler.schema import jobs, leases, pools
from scheduler.shadow import ShadowPrice
from scheduler.snapshot import Terms

Pair = tuple[str, AccountId, AccountId]  # (kind, debit, credit) of one room that a draw takes from
HOLD_GRACE = timedelta(hours=1)  # after the time limit: start-up, stop grace and a loop that was down


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a job file says of money. voucher: auto | none; contract: whose room bounds it too, None without one."""

    voucher: str
    contract: str | None


class VoucherBudget:
    """scheduler.ports.Budget over the compute voucher (clause 2.1.1)."""

    def __init__(self, registry: Registry, rules: Sequence[Rule], register: OriginRegister, policy: str) -> None:
        self.registry = registry
        self.rules = tuple(rules)
        self.register = register
        self.policy: Policy = registry.policy(policy)
        self.expectation = Expectation(self.policy.zone)
        self.expenditure = Expenditure(self)
        self._settling = Settling(registry, self.rules)

    def origin(self, vendor: str, model: str, now: datetime) -> Origin:
        """The register's verdict; undetermined where it has no row in force."""
        return self.register.origin(vendor, model, now)[0]

    def terms(self, tx: Connection, firms: Sequence[FirmId], pools: Sequence[Pool], now: datetime) -> tuple[Terms, ...]:
        """Price, rate and tightest room of each firm in each pool at `now`, with the shadow price λ of its room."""
        reading = Reading(tx)
        return with_prices(self._terms(reading, firms, pools, now), self._prices(reading, firms, pools, now))

    def shadow_price(self, tx: Connection, firm: FirmId, pools: Sequence[Pool], now: datetime) -> ShadowPrice:
        """λ of the firm's room now and what it follows from, as a quote shows it. pools: all that are listed."""
        return self._prices(Reading(tx), [firm], pools, now)[firm]

    def _prices(
        self, reading: Reading, firms: Sequence[FirmId], pools: Sequence[Pool], now: datetime
    ) -> Mapping[FirmId, ShadowPrice]:
        known = self.expectation.fresh(firms, now)
        if known is not None:
            return known
        year = now.astimezone(self.policy.zone).year
        wanted = [*firms, *self.expectation.missing(reading.tx, firms, now)]
        rates: dict[FirmId, dict[str, int]] = {firm: {} for firm in wanted}
        for one in self._terms(reading, wanted, pools, now):
            rates[one.firm][one.pool] = one.rate_bp
        rooms = {firm: reading.rooms(firm)["firm"].get(year, 0) for firm in wanted}
        pool = reading.rooms(wanted[0])["pool"].get(year, 0) if wanted else 0
        return self.expectation.prices(reading.tx, rates, rooms, pool, now)

    def _terms(
        self, reading: Reading, firms: Sequence[FirmId], pools: Sequence[Pool], now: datetime
    ) -> tuple[Terms, ...]:
        found = []
        sites = {site: reading.eligible("site", site) for site in {pool.site for pool in pools}}
        year = now.astimezone(self.policy.zone).year
        below = allowance.pools_below(reading.tx, self.policy, now)
        for firm in firms:
            may_draw = self.voucher_state(reading, firm, "auto") == "drawn" and self.policy.in_force_at(now)
            may_draw = may_draw and holds_at(reading.eligible("firm", firm), now)
            left = reading.rooms(firm)
            source = "tranche" if tranche.in_use(self.policy, year, now) else "pool"
            room = min(left["firm"].get(year, 0), left[source].get(year, 0))
            for pool in pools:
                draws = may_draw and holds_at(sites[pool.site], now)
                origin = Origin.UNDETERMINED if pool.id in below else pool.origin
                found.append(
                    Terms(
                        firm=firm,
                        pool=pool.id,
                        price_fen_per_device_hour=pool.price_fen_per_device_hour,
                        rate_bp=self.policy.rate_bp(origin, now) or 0 if draws else 0,
                        room_fen=room,
                    )
                )
        return tuple(found)

    def hold(self, tx: Connection, lease: Lease, now: datetime) -> Held | Refusal:
        """Pending transfers from the firm's room and the pool, one pair per local year the time limit touches.

        The amount is what a run of the whole time limit would draw. Less than the ceiling is still a yes (`short`
        says why); no is said to simulated devices outside a demo ledger, an unknown firm, and a net cost above
        what is left of the job's own limit or of a budget of its firm.
        """
        pool = tx.execute(select(pools).where(pools.c.id == lease.placement.pool)).mappings().one()
        if pool["source"] == Source.SIMULATED.value and store.ledger_mark(tx) != "demo":
            return Refusal(code="SIMULATED_NEEDS_DEMO_LEDGER", facts={"pool": pool["id"]})
        asked = Asked(voucher=lease.spec.money.voucher, contract=lease.spec.money.contract)
        refusal = self._contract_covers(tx, asked.contract, lease.firm, pool["provider"], now)
        if refusal is not None:
            return refusal
        end = now + timedelta(milliseconds=lease.spec.time_limit_ms)
        usage = [
            {
                "lease": lease.id,
                "model": lease.placement.model,
                "origin": self.origin(pool["vendor"], lease.placement.model, now).value,
                "devices": lease.placement.device_count,
                "site": pool["site"],
                "start": timestamp(now),
                "end": timestamp(end),
                "price_fen_per_device_hour": lease.price_fen_per_device_hour,
            }
        ]
        usage = allowance.shown_usage(tx, self.policy, {lease.id: pool["source"]}, usage)
        providers = {str(lease.id): str(pool["provider"])}
        reading = Reading(tx)
        case = self.case(reading, lease.firm, asked, usage, posted={}, held={}, providers=providers, now=now)
        out = self.settle_case(case)
        totals = out["totals"]
        refusal = self.expenditure.refused(tx, lease, totals["payable_fen"], totals["deduction_fen"], now)
        if refusal is not None:
            return refusal
        by_year: dict[int, int] = {}
        for line in out["lines"]:
            by_year[line["year"]] = by_year.get(line["year"], 0) + line["deduction_fen"]
        batch: list[Transfer] = []
        for year, amount in sorted(by_year.items()):
            issued = tranche.in_use(self.policy, year, now)
            pairs = draw_pairs(lease.firm, year, asked.contract, tranche=issued)
            batch += reading.share(lease.firm, year, amount, f"hold:{lease.id}", {})
            batch += self._hold_year(tx, lease.id, lease.job, lease.firm, pairs, year, 1, amount, end + HOLD_GRACE)
        store.post_all(tx, batch, now)
        short = {reason for line in out["lines"] for reason in line["reasons"]}
        if self.voucher_state(reading, lease.firm, asked.voucher) == "frozen":
            short = {"PROGRAMME_FROZEN"}
        return Held(by_year=by_year, short=tuple(sorted(short)))

    def _contract_covers(
        self, tx: Connection, contract: str | None, firm: str, provider: str, now: datetime
    ) -> Refusal | None:
        """None when the job names no contract, or one between these two parties whose term has begun and not ended."""
        if contract is None:
            return None
        row = tx.execute(select(contracts).where(contracts.c.id == contract)).mappings().first()
        if row is None or row["buyer"] != firm or row["programme"] != PROGRAMME:
            return Refusal(code="CONTRACT_UNKNOWN", facts={"contract": contract})
        if row["seller"] != provider:
            return Refusal(code="CONTRACT_OF_ANOTHER_PROVIDER", facts={"contract": contract, "provider": provider})
        if not row["from_ms"] <= to_ms(now) < row["to_ms"]:
            term = {"from": timestamp(from_ms(row["from_ms"])), "to": timestamp(from_ms(row["to_ms"]))}
            return Refusal(code="CONTRACT_NOT_IN_TERM", facts={"contract": contract, **term})
        return None

    def charge(
        self, tx: Connection, jobs: Sequence[JobId], now: datetime, *, final: bool, over: Sequence[LeaseId] = ()
    ) -> None:
        """Post each job's settle(all usage so far) less what is posted; final: release what is left of its holds.

        over: leases that ended while their job goes on; what is left of their holds is released.
        """
        posting.charge(self, tx, jobs, now, final=final)
        if over:
            query = select(holds).where(holds.c.lease.in_(over), holds.c.state == "held")
            for row in list(tx.execute(query).mappings()):
                self.resolve_hold(tx, row, 0, Phase.VOID, None, now)

    def exhausted(self, tx: Connection, held: Sequence[Mapping[str, Any]], now: datetime) -> Mapping[LeaseId, Refusal]:
        """Of these lease rows, those to stop now: the limit of their job, or a budget of their firm, is spent."""
        return self.expenditure.exhausted(tx, held, now)

    def rate_bp(self, reading: Reading, firm: str, voucher: str, pool: Mapping[Any, Any], now: datetime) -> int:
        """The voucher rate of what the firm runs in the pool at `now`; 0 where it may not draw. voucher: as the job asks."""
        if not self.policy.in_force_at(now) or not holds_at(reading.eligible("site", pool["site"]), now):
            return 0
        state = self.voucher_state(reading, firm, voucher)
        served = [{"lease": "", "start": timestamp(now), "end": timestamp(now + timedelta(milliseconds=1))}]
        if not holds_at(self._eligible(reading, firm, state, served, {"": pool["provider"]}), now):
            return 0
        origin = self.origin(pool["vendor"], pool["model"], now)
        if pool["id"] in allowance.pools_below(reading.tx, self.policy, now):
            origin = Origin.UNDETERMINED
        return self.policy.rate_bp(origin, now) or 0

    def sweep(self, tx: Connection, now: datetime) -> int:
        """Expire holds past their time whose lease holds no devices any more; prices and links that start now take effect.

        Tranches that were idle for too long go back to the pool of their year. Returns how many holds expired.
        """
        store.apply_prices(tx, now)
        linking.regroup(tx, self.policy, now)
        tranche.give_back_idle(tx, self.policy, now)
        query = (
            select(holds)
            .join(leases, leases.c.id == holds.c.lease)
            .where(holds.c.state == "held", holds.c.expires_at_ms <= to_ms(now), leases.c.released_at_ms.is_not(None))
        )
        expired = list(tx.execute(query).mappings())
        for row in expired:
            self.resolve_hold(tx, row, 0, Phase.EXPIRE, None, now)
        return len(expired)

    # --- the case both questions are asked of ------------------------------------------------------------------------

    def case(
        self,
        reading: Reading,
        firm: str,
        asked: Asked,
        usage: Sequence[Mapping[str, Any]],
        *,
        posted: Mapping[int, int],
        held: Mapping[int, int],
        providers: Mapping[str, str],
        billed_under: str | None = None,
        returned: Mapping[int, int] | None = None,
        now: datetime | None = None,
    ) -> dict[str, Any]:
        """The `yisuan settle` input for this usage now. Rooms are what is left plus what this job holds and has drawn.

        returned: what this job's own reversals brought back to years that are closed, and it may draw again. Where the year
        goes through tranches, what the firm may draw of the pool is its tranche. now: None = when the usage ended.
        providers: of each lease; time with a related one draws nothing. While the programme or the firm's right is
        frozen, only what is held or drawn already is room. billed_under: the contract of the job's invoice, once it has one.
        """
        state = self.voucher_state(reading, firm, asked.voucher, billed_under or asked.contract)
        left: Mapping[str, Mapping[int, int]] = {"pool": {}, "firm": {}}
        if state != "frozen":
            left = reading.rooms(firm)
        years = self.policy.years
        own = {y: held.get(y, 0) + posted.get(y, 0) + (returned or {}).get(y, 0) for y in years}
        given: dict[str, Any] = {
            kind: {str(y): left[kind].get(y, 0) + own[y] for y in years} for kind in ("pool", "firm")
        }
        given |= self._issued(reading, left, given["pool"], own, usage, now)
        if asked.contract is not None:
            room = 0 if state == "frozen" else reading.contract(asked.contract)
            given["contract"] = room + sum(held.values()) + sum(posted.values())
        eligible = self._eligible(reading, firm, state, usage, providers)
        sites = sorted({str(entry["site"]) for entry in usage})
        return {
            "version": 1,
            "policy": self.policy.id,
            "firm": {"id": firm, "eligible": [_interval_document(i) for i in eligible]},
            "sites": {
                site: {"eligible": [_interval_document(i) for i in reading.eligible("site", site)]} for site in sites
            },
            "rooms": given,
            "usage": [dict(entry) for entry in usage],
        }

    def _issued(
        self,
        reading: Reading,
        left: Mapping[str, Mapping[int, int]],
        pool: Mapping[str, int],
        own: Mapping[int, int],
        usage: Sequence[Mapping[str, Any]],
        now: datetime | None,
    ) -> dict[str, Any]:
        """The rooms of a case where the pool is drawn through tranches.

        Usage of one year has the tranche beside the pool. A case's tranche runs on through the years and a firm's does not,
        so for usage of more than one the tranche of each stands in place of its pool.
        """
        at = now or max((instant(str(entry["end"])) for entry in usage), default=None)
        through = {year for year in self.policy.years if at is not None and tranche.in_use(self.policy, year, at)}
        if not through:
            return {}
        touched = {year for entry in usage for year in self._years(entry)}
        issued = {year for year in touched & through if not reading.closed(year)}
        if not issued:
            return {}
        mine = {year: left.get("tranche", {}).get(year, 0) for year in issued}
        if len(touched) == 1:
            (year,) = touched
            reached = {str(year): pool[str(year)] + mine[year]}
            return {"pool": {**pool, **reached}, "tranche": mine[year] + own[year]}
        return {"pool": {**pool, **{str(year): mine[year] + own[year] for year in issued}}}

    def _years(self, entry: Mapping[str, Any]) -> range:
        """The local years in which the entry has any time; that of its instant if it has none."""
        start, end = instant(str(entry["start"])), instant(str(entry["end"]))
        last = max(start, end - timedelta(milliseconds=1))
        return range(local_year(start, self.policy.zone), local_year(last, self.policy.zone) + 1)

    def settle_case(self, case: Mapping[str, Any]) -> dict[str, Any]:
        """The output document of a case, by the very code of `yisuan settle`."""
        return document(self.settle(case))

    def settle(self, case: Mapping[str, Any]) -> Settlement:
        """The settlement of a case, read and settled by the very code of `yisuan settle`; its text is not spelt out between."""
        if self._settling.registry is not self.registry or self._settling.rules is not self.rules:
            self._settling = Settling(self.registry, self.rules)
        return self._settling.settled(case)

    def _eligible(
        self, reading: Reading, firm: str, state: str, usage: Sequence[Mapping[str, Any]], providers: Mapping[str, str]
    ) -> tuple[Interval, ...]:
        """When the firm may draw for this usage.

        Never if the job declines the voucher or no right is in force; not while it is related to who serves it.
        """
        if state not in ("drawn", "frozen", "revoked"):
            return ()
        right = reading.right(firm)
        assert right is not None, "drawn, frozen or revoked: it was claimed"
        # What was used before the right was claimed draws nothing (R20: a claim is instant, not retroactive).
        found = intersect(reading.eligible("firm", firm), [Interval(start=from_ms(right["claimed_at_ms"]))])
        if state == "revoked":
            since = acts.history(reading.tx, "right", f"{PROGRAMME}:{firm}")[-1]["at"]
            found = subtract(found, [Interval(start=instant(since))])
        for provider in sorted(set(providers.values())):
            related = reading.related(firm, provider)
            if not related:
                continue
            served = [
                Interval(start=instant(entry["start"]), end=instant(entry["end"]))
                for entry in usage
                if providers[entry["lease"]] == provider
            ]
            found = subtract(found, intersect(served, related))
        return found

    def voucher_state(self, reading: Reading, firm: str, voucher: str, contract: str | None = None) -> str:
        """drawn | declined (the job says voucher: none) | foregone (its project takes another support, clause 4.4) |
        unclaimed (no right claimed) | revoked | frozen."""
        if voucher == "none":
            return "declined"
        if reading.foregone(firm, contract):
            return "foregone"
        if reading.right(firm) is None:
            return "unclaimed"
        mine = reading.state("right", f"{PROGRAMME}:{firm}")
        if mine == "revoked":
            return "revoked"
        frozen = mine == "frozen" or reading.state("programme", PROGRAMME) == "frozen"
        return "frozen" if frozen else "drawn"

    # --- holds ----------------------------------------------------------------------------------------------------

    def _hold_year(
        self,
        tx: Connection,
        lease: str,
        job: str,
        firm: str,
        pairs: Sequence[Pair],
        year: int,
        generation: int,
        amount: int,
        expires: datetime,
    ) -> list[Transfer]:
        """The hold is on its list; the transfers that take it from the rooms are for the caller to post."""
        tx.execute(
            insert(holds).values(
                lease=lease,
                year=year,
                generation=generation,
                job=job,
                firm=firm,
                amount_fen=amount,
                state="held" if amount else "voided",
                expires_at_ms=to_ms(expires),
            )
        )
        if not amount:
            return []
        return [
            Transfer(
                id=f"hold:{lease}:{year}:{generation}:{kind}",
                phase=Phase.PENDING,
                code=Code.HOLD,
                debit=debit,
                credit=credit,
                amount_fen=amount,
                job=job,
                lease=lease,
            )
            for kind, debit, credit in pairs
        ]

    def resolve_hold(
        self, tx: Connection, hold: Mapping[Any, Any], amount: int, phase: Phase, settlement: str | None, now: datetime
    ) -> None:
        """Post `amount` of a hold and release the rest, or void or expire it; in every room, exactly once."""
        store.post_all(tx, self.resolution(tx, hold, amount, phase, settlement), now)

    def resolution(
        self, tx: Connection, hold: Mapping[Any, Any], amount: int, phase: Phase, settlement: str | None
    ) -> list[Transfer]:
        """The transfers that resolve a hold, for the caller to post; the hold says so already."""
        found = []
        for kind, debit, credit in self._pairs_of(tx, hold):
            pending = f"hold:{hold['lease']}:{hold['year']}:{hold['generation']}:{kind}"
            transfer = Transfer(
                id=f"{pending}:{phase.value}",
                phase=phase,
                code=Code.DRAW,
                debit=debit,
                credit=credit,
                amount_fen=amount,
                pending_id=pending,
                job=hold["job"],
                lease=hold["lease"],
                settlement=settlement,
            )
            found.append(transfer)
        state = {Phase.POST: "posted", Phase.VOID: "voided", Phase.EXPIRE: "expired"}[phase]
        key = (holds.c.lease == hold["lease"], holds.c.year == hold["year"], holds.c.generation == hold["generation"])
        tx.execute(update(holds).where(*key).values(state=state))
        return found

    def renewal(self, tx: Connection, hold: Mapping[Any, Any], rest: int) -> list[Transfer]:
        """What an interim settlement did not use stays held, under the next generation: the transfers to post."""
        return self._hold_year(
            tx, hold["lease"], hold["job"], hold["firm"], self._pairs_of(tx, hold), hold["year"],
            hold["generation"] + 1, rest, from_ms(hold["expires_at_ms"]),
        )  # fmt: skip

    def _pairs_of(self, tx: Connection, hold: Mapping[Any, Any]) -> tuple[Pair, ...]:
        """The rooms that the hold took from, as it did: the claim mode may have changed since."""
        key = f"hold:{hold['lease']}:{hold['year']}:{hold['generation']}"
        kinds = ("firm", "contract", "tranche", "pool")
        query = select(transfers.c.id, transfers.c.debit, transfers.c.credit)
        rows = {row.id: row for row in tx.execute(query.where(transfers.c.id.in_([f"{key}:{kind}" for kind in kinds])))}
        found = [(kind, rows.get(f"{key}:{kind}")) for kind in kinds]
        return tuple((kind, AccountId(row.debit), AccountId(row.credit)) for kind, row in found if row is not None)

    def asked_by_job(self, tx: Connection, job: str) -> tuple[str, Asked, str]:
        """(firm, what its job file says of money, the file's hash)."""
        return self.asked_by_jobs(tx, [job])[job]

    def asked_by_jobs(self, tx: Connection, names: Sequence[str]) -> dict[str, tuple[str, Asked, str]]:
        """The same for many jobs, by id."""
        query = select(jobs.c.id, jobs.c.firm, jobs.c.spec, jobs.c.spec_sha256).where(jobs.c.id.in_(names))
        found = {}
        for row in tx.execute(query):
            money = json.loads(row.spec).get("money", {})
            asked = Asked(voucher=money.get("voucher", "auto"), contract=money.get("contract"))
            found[row.id] = (row.firm, asked, row.spec_sha256)
        return found


def _interval_document(interval: Interval) -> dict[str, Any]:
    return {"from": timestamp(interval.start), "to": timestamp(interval.end) if interval.end else None}
