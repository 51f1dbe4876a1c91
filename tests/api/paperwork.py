"""Paperwork over HTTP: a service whose firm has a contract, with each paper and step in one word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update

from metering import listing
from metering.schema import settlements
from scheduler.clock import to_ms
from scheduler.schema import devices, nodes
from tests.api.service import FIRM, PROVIDER, Service

MAKER = "91110302MA0YDEMA56"  # sells servers; see PROVIDER for how its check digit is made
TERM = {"from": "2024-03-28T00:00:00+08:00", "to": "2027-12-31T00:00:00+08:00"}


@dataclass
class Paperwork:
    """What a test does through the routes; every answer is the JSON document, once its status was the expected one."""

    service: Service

    def ask(self, who: str, path: str, status: int = 200) -> Any:
        return self._json(self.service.get(who, path), status)

    def do(self, who: str, path: str, body: Any, status: int = 201) -> Any:
        return self._json(self.service.post(who, path, body), status)

    def _json(self, answer: Any, status: int) -> Any:
        assert answer.status_code == status, answer.text
        return answer.json()

    def refused(self, who: str, path: str, body: Any) -> str:
        """The code of an expected no."""
        return str(self.do(who, path, body, 409)["code"])

    def run(self) -> str:
        """An hour of eight domestic devices at 20.00 yuan: 160.00, of which the voucher takes 64.00; the job's id.

        Ids are drawn anew each time, so some settlements are sampled for review (抽查); a reviewer passes those at once.
        """
        services = self.service.services
        with services.database.write() as tx:  # every node is heard from now, as the agents would do
            tx.execute(update(nodes).values(heartbeat_at_ms=to_ms(self.service.clock.now())))
        job = self.service.submit()
        self.service.run_to_end(job)
        for item in self.ask("reviewer", "/v1/reviews")["items"]:
            if (item["code"], item["subject"]) == ("SAMPLED", self.settlement(job)):
                passed = {"action": "passed", "reason": "checked against the meter"}
                self.do("reviewer", f"/v1/reviews/{item['id']}/answers", passed, 200)
        return job

    def settlement(self, job: str) -> str:
        with self.service.services.database.read() as tx:
            query = select(settlements.c.id).where(settlements.c.job == job).order_by(settlements.c.number.desc())
            return str(tx.execute(query).scalars().first())

    def contract_body(self, identity: str = "C-1", **changes: Any) -> dict[str, Any]:
        body = {
            "id": identity, "number": identity, "programme": "compute_voucher", "buyer": FIRM, "seller": PROVIDER,
            "signed_on": "2024-03-28", **TERM, "amount_fen": 10**9, "tax_basis": "tax_included",
        }  # fmt: skip
        return {**body, **changes}

    def contract(self, identity: str = "C-1", **changes: Any) -> Any:
        return self.do("operator", "/v1/contracts", self.contract_body(identity, **changes))

    def purchase(self, items: Any, identity: str = "C-S") -> Any:
        """The provider buys the servers of its project P-1 from a maker that is nobody of the zone."""
        total = sum(item["amount_fen"] for item in items)
        bought = {"programme": "server_subsidy", "buyer": PROVIDER, "seller": MAKER, "project": "P-1", "items": items}
        return self.contract(identity, **bought, amount_fen=total)

    def devices(self, pool: str) -> list[str]:
        """The devices of the pool's nodes, in order."""
        with self.service.services.database.read() as tx:
            query = select(devices.c.uuid).join(nodes, nodes.c.id == devices.c.node).where(nodes.c.pool == pool)
            return [str(uuid) for uuid in tx.execute(query.order_by(devices.c.uuid)).scalars()]

    def probe(self) -> None:
        """The platform counts its listed devices, as its loop does every few minutes."""
        services = self.service.services
        with services.database.write() as tx:
            listing.probe(tx, services.budget.policy.zone, self.service.clock.now())

    def declare(self) -> Any:
        body = {"provider": PROVIDER, "from": TERM["from"], "evidence": {"sha256": "d" * 64}}
        return self.do("firm", "/v1/relations", body)

    def bill_body(self, *jobs: str, number: str = "INV-1", **changes: Any) -> dict[str, Any]:
        body = {
            "number": number, "contract": "C-1", "amount_fen": 16_000 * len(jobs), "tax_fen": 900, "issued_on": "2026-06-02",
            "sha256": "f" * 64, "jobs": list(jobs),
        }  # fmt: skip
        return {**body, **changes}

    def bill(self, *jobs: str, number: str = "INV-1") -> Any:
        return self.do("provider", "/v1/invoices", self.bill_body(*jobs, number=number))

    def slip_body(self, invoice: str = "INV-1", fen: int = 9_600, reference: str = "S-1") -> dict[str, Any]:
        paid = {"payer": FIRM, "paid_at": "2026-06-03T10:00:00+08:00", "sha256": "a" * 64}
        return {"reference": reference, "invoice": invoice, "amount_fen": fen, **paid}

    def pay_share(self, invoice: str = "INV-1", fen: int = 9_600, reference: str = "S-1") -> Any:
        return self.do("operator", "/v1/slips", self.slip_body(invoice, fen, reference))

    def verify(self, job: str) -> Any:
        return self.do("operator", "/v1/clearing/verifications", {"settlement": self.settlement(job)})

    def ready(self) -> str:
        """A job that ran, is invoiced, paid for and verified; its id."""
        job = self.run()
        self.contract()
        self.declare()
        self.bill(job)
        self.pay_share()
        self.verify(job)
        return job

    def batch(self) -> str:
        """A submitted batch of what is verified; its id."""
        built = self.do("operator", "/v1/clearing", {"provider": PROVIDER, "year": 2026})
        self.act("operator", built["id"], "submit")
        return str(built["id"])

    def act(self, who: str, batch: str, name: str, reason: str = "") -> Any:
        return self.do(who, f"/v1/clearing/{batch}/acts", {"act": name, "reason": reason}, 200)

    def pay(self, batch: str, fen: int, reference: str = "T-1") -> Any:
        return self.do("finance", f"/v1/clearing/{batch}/payments", {"amount_fen": fen, "reference": reference})

    def clear(self) -> str:
        """A batch approved and paid; its id."""
        batch = self.batch()
        self.act("reviewer", batch, "approve")
        self.pay(batch, 6_400)
        return batch
