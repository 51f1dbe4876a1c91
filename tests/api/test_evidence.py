"""Evidence over the routes: a node answers under its key, copies and moves are seen, people decide, simulated stays simulated."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select, update

from adapters.accelerator import Accelerator, Source
from adapters.event import key_id_of, public_text
from adapters.evidence import Statement, sign_statement, state
from adapters.pci import PciDevice
from api.schema import api_keys
from metering import audit_events, enrolment
from metering.attestation import TRUE
from metering.schema import platform
from scheduler.journal import verify
from scheduler.schema import nodes
from tests.api.service import PROVIDER, Service

KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(seed * 32) for seed in (b"e", b"h"))
NODE = "real-1"


def card(index: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "uuid": f"VDIE-{index}", "index": index, "vendor": "ascend", "model_raw": "910B3", "model": "Ascend910B3",
        "serial": f"S{index}", "pci_bdf": f"0000:{0xC0 + index:02x}:00.0", "source": "library", "evidence_level": 5,
        **changes,
    }  # fmt: skip


def bus(index: int = 0, **changes: Any) -> PciDevice:
    held = {"vendor_id": 0x19E5, "device_id": 0xD802, "class_code": 0x1200, "driver": "davinci", **changes}
    return PciDevice(bdf=f"0000:{0xC0 + index:02x}:00.0", **held)


def accelerator(told: dict[str, Any]) -> Accelerator:
    said = {name: value for name, value in told.items() if name != "evidence_level"}
    return Accelerator(**{**said, "source": Source(told["source"])})


@pytest.fixture
def service(service: Service) -> Service:
    """A pool of real devices: node real-1 with two Ascend910B3, its agent's key enrolled; node real-2 with one."""
    for pool, vendor, model in (("real", "ascend", "Ascend910B3"), ("real-h800", "nvidia", "H800")):
        body = {"id": pool, "provider": PROVIDER, "site": "bj1", "region": "beijing", "vendor": vendor, "model": model}
        made = service.post("operator", "/v1/pools", {**body, "source": "library", "price_fen_per_device_hour": 1000})
        assert made.status_code == 201, made.text
    assert add(service, NODE, card(0), card(1)).status_code == 201
    assert add(service, "real-2", card(2)).status_code == 201
    enrol(service, NODE, KEY)
    return service


def add(service: Service, node: str, *cards: dict[str, Any], pool: str = "real") -> Any:
    return service.post("operator", "/v1/nodes", {"id": node, "pool": pool, "devices": list(cards)})


def beat(service: Service, node: str, *cards: dict[str, Any]) -> Any:
    at = service.clock.now().isoformat()
    return service.post("agent", "/v1/agents/heartbeat", {"node": node, "at": at, "devices": list(cards)})


def enrol(service: Service, node: str, key: Ed25519PrivateKey) -> str:
    code = service.post("operator", "/v1/agents/enrolments", {"site": "bj1", "node": node}).json()["code"]
    body = {"code": code, "public_key": public_text(key.public_key()), "proof": enrolment.proof(key, code)}
    return str(service.post(None, "/v1/agents/keys", body).json()["key"])


def nonce_of(service: Service, node: str = NODE) -> str:
    answer = service.post("agent", f"/v1/agents/{node}/challenge")
    assert answer.status_code == 201, answer.text
    return str(answer.json()["nonce"])


def stated(service: Service, nonce: str, node: str = NODE, **changes: Any) -> Statement:
    held: dict[str, Any] = {
        "devices": [accelerator(card(0)), accelerator(card(1))], "functions": [bus(0), bus(1)], "bare_metal": True,
    }  # fmt: skip
    return state(node, nonce, service.clock.now(), **{**held, **changes})


def send(
    service: Service, said: Statement, key: Ed25519PrivateKey | None = KEY, node: str = NODE, **changes: Any
) -> Any:
    body: dict[str, Any] = {"statement": said.document()}
    if key is not None:
        body |= {"key": key_id_of(key.public_key()), "signature": sign_statement(said, key)}
    return service.post("agent", f"/v1/agents/{node}/evidence", {**body, **changes})


def answered(service: Service, **changes: Any) -> dict[str, int]:
    """Each device's level after a signed answer."""
    found = send(service, stated(service, nonce_of(service), **changes))
    assert found.status_code == 201, found.text
    return {one["device"]: one["level"] for one in found.json()["devices"]}


def level(service: Service, device: str) -> tuple[int, str]:
    shown = service.get("auditor", f"/v1/evidence/{device}").json()
    return shown["level"], shown["because"][0]


def items(service: Service) -> dict[str, dict[str, Any]]:
    return {item["id"]: item for item in service.get("operator", "/v1/reviews").json()["items"]}


def schedulable(service: Service, node: str) -> bool:
    listed = service.get("operator", "/v1/nodes").json()["items"]
    return bool(next(row["schedulable"] for row in listed if row["id"] == node))


# --- the answer -----------------------------------------------------------------------------------


def test_what_an_inventory_says_of_its_own_level_counts_for_nothing(service: Service) -> None:
    assert level(service, "VDIE-0") == (1, "TOOL_REPORTED")


def test_a_node_that_signs_what_its_bus_confirms_is_believed_to_l3(service: Service) -> None:
    assert answered(service) == {"VDIE-0": 3, "VDIE-1": 3}
    shown = service.get("auditor", "/v1/evidence/VDIE-0").json()

    assert [step["level"] for step in shown["course"]] == [1, 3]
    assert shown["records"][0]["facts"]["versions"] == {"catalogue": "2026-08-31", "rules": 2}
    assert (shown["register"]["verdict"], shown["register"]["approved_by"]) == ("domestic", "zone-legal")
    with service.services.database.read() as tx:
        assert verify(tx, platform.metadata.tables["evidence_records"]) is None
        assert all(check() is None for _, check in audit_events.laws(tx))


def test_signed_evidence_goes_stale_by_the_policys_days(service: Service) -> None:
    service.clock.wall += timedelta(days=200)  # the policy has a term since 1 December
    assert answered(service)["VDIE-0"] == 3
    service.clock.advance(30 * 86_400 - 1)
    assert level(service, "VDIE-0")[0] == 3
    service.clock.advance(1)
    assert level(service, "VDIE-0")[0] == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"bare_metal": False}, (1, "VIRTUAL_MACHINE")),
        ({"bare_metal": None}, (1, "HOST_NOT_KNOWN")),
        ({"functions": []}, (1, "TOOL_REPORTED")),  # a container without a bus
        ({"functions": [bus(0, driver=None), bus(1)]}, (1, "TOOL_REPORTED")),
    ],
)
def test_a_signature_raises_no_more_than_what_it_signs(
    service: Service, changes: dict[str, Any], expected: tuple[int, str]
) -> None:
    answered(service, **changes)
    assert level(service, "VDIE-0") == expected


def test_unsigned_the_bus_is_believed_to_l2(service: Service) -> None:
    assert send(service, stated(service, nonce_of(service)), None).status_code == 201
    assert level(service, "VDIE-0") == (2, "BUS_CONFIRMS")


@pytest.mark.parametrize(
    ("functions", "said"),
    [
        ([bus(1)], "where the bus has nothing"),
        ([bus(0, vendor_id=0x10DE, device_id=0x2324, class_code=0x0302, driver="nvidia"), bus(1)], "not ascend"),
        ([bus(0, driver="nvidia"), bus(1)], "driver nvidia"),
    ],
)
def test_a_bus_that_contradicts_the_tool_quarantines_the_node(
    service: Service, functions: list[PciDevice], said: str
) -> None:
    answered(service)
    assert answered(service, functions=functions) == {"VDIE-0": 0, "VDIE-1": 3}

    assert level(service, "VDIE-0") == (0, "SUSPECT")
    assert said in items(service)["DEVICE_SUSPECT:VDIE-0"]["facts"]["doubts"][0]
    assert not schedulable(service, NODE)
    answered(service)
    assert level(service, "VDIE-0")[0] == 0, "a doubt is not taken back by the one it is about"


def test_a_statement_that_says_otherwise_than_the_inventory_is_doubted(service: Service) -> None:
    other = accelerator(card(0, serial="S9"))
    assert answered(service, devices=[other, accelerator(card(1))])["VDIE-0"] == 0
    assert "serial: the inventory has S0" in items(service)["DEVICE_SUSPECT:VDIE-0"]["facts"]["doubts"][0]


def test_devices_that_are_not_the_nodes_are_told_and_raised_by_nothing(service: Service) -> None:
    found = send(
        service, stated(service, nonce_of(service), devices=[accelerator(card(2))], functions=[bus(2), bus(0)])
    )

    assert (found.json()["devices"], found.json()["unknown"]) == ([], ["VDIE-2"])
    assert "unmanaged" in found.json()["unmanaged"][0]
    assert level(service, "VDIE-2")[0] == 1


def test_a_nonce_is_good_once_and_for_five_minutes(service: Service) -> None:
    nonce = nonce_of(service)
    statement = stated(service, nonce)
    assert send(service, statement).status_code == 201
    assert send(service, statement).json()["code"] == "CHALLENGE_USED"
    assert send(service, stated(service, "0" * 64)).json()["code"] == "CHALLENGE_UNKNOWN"
    late, in_time = nonce_of(service), nonce_of(service)
    service.clock.advance(299.999)
    assert send(service, stated(service, in_time)).status_code == 201
    service.clock.advance(0.001)
    assert send(service, stated(service, late)).json()["code"] == "CHALLENGE_EXPIRED"


def test_a_refused_answer_uses_no_nonce_up_and_leaves_no_record(service: Service) -> None:
    nonce = nonce_of(service)
    statement = stated(service, nonce)
    other = Ed25519PrivateKey.from_private_bytes(b"o" * 32)

    assert send(service, statement, other).json()["code"] == "KEY_UNKNOWN"
    wrong = sign_statement(stated(service, nonce, bare_metal=None), KEY)
    assert send(service, statement, signature=wrong).json()["code"] == "EVIDENCE_SIGNATURE_INVALID"
    assert service.get("auditor", "/v1/evidence/VDIE-0").json()["records"] == []
    assert send(service, statement).status_code == 201


def test_a_nodes_key_speaks_for_no_other_node(service: Service) -> None:
    nonce = nonce_of(service, "real-2")
    mine = stated(service, nonce, node="real-2", devices=[accelerator(card(2))], functions=[bus(2)])

    assert send(service, mine, node="real-2").json()["code"] == "KEY_UNKNOWN"
    assert send(service, mine).json()["code"] == "EVIDENCE_OF_ANOTHER_NODE"
    assert send(service, stated(service, nonce)).json()["code"] == "CHALLENGE_UNKNOWN", "the nonce was the other's"
    assert service.post("agent", "/v1/agents/nowhere/challenge").json()["code"] == "NODE_UNKNOWN"


def test_a_revoked_key_is_not_believed_neither_now_nor_for_what_it_signed_since(service: Service) -> None:
    answered(service)
    service.clock.advance(100)
    key = key_id_of(KEY.public_key())
    early = (service.clock.now() - timedelta(seconds=200)).isoformat()
    assert service.post("operator", f"/v1/agents/keys/{key}/revoke", {"since": early, "reason": "x"}).status_code == 200

    assert send(service, stated(service, nonce_of(service))).json()["code"] == "KEY_REVOKED"
    assert level(service, "VDIE-0")[0] == 1


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"statement": {}}, "/statement/purpose"),
        ({"signature": "x"}, "/signature"),
        ({"signature": None}, "/signature"),
        ({"more": 1}, "/more"),
    ],
)
def test_a_bad_answer_is_told_by_its_field(service: Service, change: dict[str, Any], pointer: str) -> None:
    found = send(service, stated(service, nonce_of(service)), **change)
    assert found.status_code == 422, found.text
    assert pointer in found.text


# --- copies and moves -----------------------------------------------------------------------------


def test_a_serial_on_two_nodes_makes_both_suspect(service: Service) -> None:
    assert add(service, "real-3", card(7, serial="S0")).status_code == 201

    assert level(service, "VDIE-0") == level(service, "VDIE-7") == (0, "SUSPECT")
    assert {"DEVICE_SUSPECT:VDIE-0", "DEVICE_SUSPECT:VDIE-7"} <= set(items(service))
    assert not schedulable(service, NODE)


def test_a_copied_serial_is_seen_in_a_heartbeat_too_and_said_once(service: Service) -> None:
    for _ in range(3):
        beat(service, "real-2", card(2, serial="S1"))
    assert level(service, "VDIE-1") == level(service, "VDIE-2") == (0, "SUSPECT")
    assert len(service.get("auditor", "/v1/evidence/VDIE-1").json()["records"]) == 1


def test_serials_of_other_makers_and_dies_of_one_board_are_no_copies(service: Service) -> None:
    assert add(service, "real-4", card(8, serial="B"), card(9, serial="B")).status_code == 201
    h800 = card(5, vendor="nvidia", model="H800", model_raw="H800", serial="S0")
    assert add(service, "h-1", h800, pool="real-h800").status_code == 201
    assert not [item for item in items(service) if item.startswith("DEVICE_SUSPECT")]


def test_a_uuid_that_two_living_nodes_hold_is_suspect(service: Service) -> None:
    answer = beat(service, "real-2", card(2), card(0))

    assert answer.json()["code"] == "DEVICE_ELSEWHERE"
    assert level(service, "VDIE-0") == (0, "SUSPECT")
    assert items(service)["DEVICE_SUSPECT:VDIE-0"]["facts"]["nodes"] == [NODE, "real-2"]
    assert not schedulable(service, NODE)
    assert not schedulable(service, "real-2")


def test_a_move_without_maintenance_waits_for_a_person(service: Service) -> None:
    service.clock.advance(91)  # real-1 is silent
    assert beat(service, "real-2", card(2), card(0)).json()["code"] == "DEVICE_ELSEWHERE"

    assert items(service)["DEVICE_MOVED:VDIE-0"]["facts"] == {"device": "VDIE-0", "from": NODE, "to": "real-2"}
    assert level(service, "VDIE-0") == (1, "TOOL_REPORTED")


def test_a_move_with_maintenance_on_record_goes_through(service: Service) -> None:
    act = {"act": "move", "to_node": "real-2", "reason": "board swapped"}
    assert service.post("operator", "/v1/evidence/VDIE-0/acts", act).status_code == 201
    assert beat(service, "real-2", card(2), card(0)).status_code == 200

    assert service.get("auditor", "/v1/evidence/VDIE-0").json()["node"] == "real-2"
    assert not [item for item in items(service) if "VDIE-0" in item]
    assert beat(service, NODE, card(0), card(1)).json()["code"] == "DEVICE_ELSEWHERE", "and back is another move"


# --- decisions ------------------------------------------------------------------------------------

AUDIT = {
    "act": "audit", "reason": "seen on site", "document_sha256": "a" * 64, "decided_by": "Inspector Li",
    "from": "2026-05-01T00:00:00+08:00", "to": "2026-07-01T00:00:00+08:00",
}  # fmt: skip


def test_an_audit_is_l5_in_its_time_with_its_paper_and_its_decider(service: Service) -> None:
    made = service.post("operator", "/v1/evidence/VDIE-0/acts", AUDIT)

    assert (made.status_code, made.json()["level"]) == (201, 5)
    kept = service.get("auditor", "/v1/evidence/VDIE-0").json()["records"][0]
    assert (kept["document_sha256"], kept["facts"]["decided_by"]) == ("a" * 64, "Inspector Li")
    service.clock.wall += timedelta(days=30)
    assert level(service, "VDIE-0")[0] == 1
    withdrawn = {"act": "withdraw", "seq": kept["seq"], "reason": "another card"}
    assert service.post("operator", "/v1/evidence/VDIE-0/acts", withdrawn).status_code == 201
    assert len(service.get("auditor", "/v1/evidence/VDIE-0").json()["course"]) == 1


def test_who_records_an_audit_did_not_decide_it(service: Service) -> None:
    with service.services.database.read() as tx:
        own = tx.execute(select(api_keys.c.id).where(api_keys.c.name == "operator")).scalar()
    refused = service.post("operator", "/v1/evidence/VDIE-0/acts", {**AUDIT, "decided_by": own})
    assert refused.json()["code"] == "AUDIT_NEEDS_TWO"


@pytest.mark.parametrize(
    "change",
    [
        {"document_sha256": "x"},
        {"decided_by": None},
        {"from": None},
        {"from": "2026-09-01T00:00:00Z"},
        {"act": "bless"},
    ],
)
def test_an_audit_that_lacks_something_is_refused(service: Service, change: dict[str, Any]) -> None:
    assert service.post("operator", "/v1/evidence/VDIE-0/acts", {**AUDIT, **change}).status_code == 422


def test_a_person_clears_a_doubt_and_the_item_with_it(service: Service) -> None:
    answered(service)
    answered(service, functions=[bus(1)])
    cleared = service.post("operator", "/v1/evidence/VDIE-0/acts", {"act": "clear", "reason": "a loose riser"})

    assert cleared.json()["level"] == 3
    assert "DEVICE_SUSPECT:VDIE-0" not in items(service)
    assert not schedulable(service, NODE), "putting the node back is its own decision"


def test_an_unknown_device_and_an_unknown_record_are_refused(service: Service) -> None:
    for act in ({"act": "clear", "reason": "x"}, AUDIT):
        assert service.post("operator", "/v1/evidence/none/acts", act).json()["code"] == "DEVICE_UNKNOWN"
    wrong = {"act": "withdraw", "seq": 99, "reason": "x"}
    assert service.post("operator", "/v1/evidence/VDIE-0/acts", wrong).json()["code"] == "RECORD_UNKNOWN"
    assert service.get("auditor", "/v1/evidence/none").status_code == 404


def test_another_provider_sees_and_asks_nothing(service: Service) -> None:
    from api.auth import mint_key

    with service.services.database.write() as tx:
        service.keys["rival"] = mint_key(tx, name="r", role="provider", tenant="91X", now=service.clock.now())
    assert service.get("rival", "/v1/evidence").json()["items"] == []
    assert service.get("rival", "/v1/evidence/VDIE-0").status_code == 404
    assert service.post("rival", f"/v1/agents/{NODE}/challenge").status_code == 404
    assert service.post("rival", "/v1/evidence/VDIE-0/fingerprint", {"result": RESULT}).status_code == 404
    assert len(service.get("provider", "/v1/evidence").json()["items"]) == 35


# --- the device's own signature ---------------------------------------------------------------------


def claims(nonce: str, **changes: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(TRUE, True), "measres": "success", "eat_nonce": nonce, "iss": "LOCAL_GPU_VERIFIER",
        "secboot": True, "dbgstat": "disabled", "ueid": "4818583", "oemid": "5703", "hwmodel": "GH100 A01 GSP BROM",
        "nbf": 1727394219, "exp": 4880995383, **changes,
    }  # fmt: skip


def h800(index: int) -> dict[str, Any]:
    return card(index, vendor="nvidia", model="H800", model_raw="NVIDIA H800", uuid=f"GPU-{index}")


def attested(service: Service, *indexes: int, **changes: Any) -> dict[str, int]:
    nonce = nonce_of(service, "h-1")
    gpu = {"vendor_id": 0x10DE, "device_id": 0x2324, "class_code": 0x0302, "driver": "nvidia"}
    statement = stated(
        service, nonce, node="h-1", devices=[accelerator(h800(index)) for index in (5, 6)],
        functions=[bus(5, **gpu), bus(6, **gpu)], bare_metal=False,
        attestations={f"GPU-{index}": claims(nonce, **changes) for index in indexes},
    )  # fmt: skip
    found = send(service, statement, OTHER, node="h-1")
    assert found.status_code == 201, found.text
    return {one["device"]: one["level"] for one in found.json()["devices"]}


@pytest.fixture
def hopper(service: Service) -> Service:
    assert add(service, "h-1", h800(5), h800(6), pool="real-h800").status_code == 201
    enrol(service, "h-1", OTHER)
    return service


def test_a_device_that_signs_for_itself_is_l4_and_foreign_also_in_a_virtual_machine(hopper: Service) -> None:
    assert attested(hopper, 5) == {"GPU-5": 4, "GPU-6": 1}
    shown = hopper.get("auditor", "/v1/evidence/GPU-5").json()
    assert (shown["billed_as"], shown["records"][-1]["facts"]["origin"]) == ("foreign", "foreign")


def test_claims_over_another_nonce_or_a_failed_measurement_raise_nothing(hopper: Service) -> None:
    assert attested(hopper, 5, eat_nonce="0" * 64)["GPU-5"] == 1
    assert attested(hopper, 5, measres="fail")["GPU-5"] == 1


def test_one_chips_claims_are_one_devices(hopper: Service) -> None:
    assert attested(hopper, 5, 6) == {"GPU-5": 4, "GPU-6": 0}
    assert "another device's" in items(hopper)["DEVICE_SUSPECT:GPU-6"]["facts"]["doubts"][0]


# --- the benchmark --------------------------------------------------------------------------------

RESULT = {"version": 1, "measurements": [{"name": "gemm", "precision": "fp16", "value": 250.0, "unit": "TFLOPS"}]}


def measured(tflops: float) -> dict[str, Any]:
    return {"result": {**RESULT, "measurements": [{**RESULT["measurements"][0], "value": tflops}]}}  # type: ignore[index]


def test_a_benchmark_outside_the_models_band_holds_a_device_back(service: Service) -> None:
    service.clock.wall += timedelta(days=200)  # the band is in force since 1 December
    beat(service, NODE, card(0), card(1))
    answered(service)
    peak = service.services.catalog.get("Ascend910B3").fp16_tflops  # type: ignore[union-attr]
    assert peak is not None

    outside = service.post("provider", "/v1/evidence/VDIE-0/fingerprint", measured(peak * 0.19))
    assert (outside.status_code, outside.json()["level"]) == (201, 1)
    assert items(service)["FINGERPRINT_OUT_OF_BAND:VDIE-0"]["facts"]["percent_of_peak"] == "19.00"
    inside = service.post("provider", "/v1/evidence/VDIE-0/fingerprint", measured(peak * 0.2))
    assert (inside.json()["fingerprint"]["within"], inside.json()["level"]) == (True, 3)
    assert service.post("agent", "/v1/evidence/VDIE-1/fingerprint", measured(peak * 1.06)).json()["level"] == 1


def test_a_benchmark_raises_nothing_and_is_of_the_device_it_names(service: Service) -> None:
    found = service.post("agent", "/v1/evidence/VDIE-0/fingerprint", measured(250))
    assert (found.json()["level"], found.json()["fingerprint"]["within"]) == (1, None), "no band is in force yet"
    body = {"result": {**RESULT, "device": {"uuid": "VDIE-1"}}}
    assert (
        service.post("agent", "/v1/evidence/VDIE-0/fingerprint", body).json()["code"] == "BENCHMARK_OF_ANOTHER_DEVICE"
    )
    assert service.post("agent", "/v1/evidence/VDIE-0/fingerprint", {"result": {}}).status_code == 422


# --- the listing, and what is simulated -------------------------------------------------------------


def test_a_declared_device_is_registered_but_takes_no_jobs_from_december_on(service: Service) -> None:
    service.clock.wall += timedelta(days=200)
    assert add(service, "real-5", card(11, evidence_level=0)).status_code == 201

    assert not schedulable(service, "real-5")
    assert items(service)["EVIDENCE_BELOW_LEVEL:real-5"]["facts"]["devices"] == ["VDIE-11"]
    listing = {"status": "listed", "reason": ""}
    refused = service.post("operator", "/v1/pools/real/listing", listing)
    assert (refused.status_code, refused.json()["code"]) == (409, "EVIDENCE_BELOW_LEVEL")
    assert service.post("operator", "/v1/evidence/VDIE-11/acts", {**AUDIT, "to": None}).json()["level"] == 5
    assert service.post("operator", "/v1/pools/real/listing", listing).status_code == 200


def test_no_statement_audit_or_benchmark_lifts_a_simulated_device(service: Service) -> None:
    device = service.get("operator", "/v1/snapshot").json()["nodes"][0]["devices"][0]
    node = service.get("auditor", f"/v1/evidence/{device}").json()["node"]
    own = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
    enrol(service, node, own)
    for source in ("simulated", "library"):
        told = accelerator(card(0, uuid=device, source=source, serial=None))
        statement = stated(service, nonce_of(service, node), node=node, devices=[told], functions=[bus(0)])
        assert send(service, statement, own, node).status_code == 201
        assert level(service, device) == (0, "DECLARED")
    assert service.post("operator", f"/v1/evidence/{device}/acts", AUDIT).json()["code"] == "SIMULATED_STAYS_DECLARED"
    service.post("agent", f"/v1/evidence/{device}/fingerprint", measured(300))
    assert level(service, device)[0] == 0


def test_outside_the_demo_ledger_no_entry_takes_a_simulated_device(service: Service) -> None:
    live = service.services.settings.model_copy(update={"ledger": "live"})
    object.__setattr__(service.services, "settings", live)
    with service.services.database.write() as tx:
        tx.execute(update(platform).where(platform.c.key == "ledger").values(value="live"))
    fake = card(20, source="simulated")

    assert add(service, "real-6", fake).json()["code"] == "SIMULATED_NEEDS_DEMO_LEDGER"
    assert beat(service, NODE, card(0), fake).json()["code"] == "SIMULATED_NEEDS_DEMO_LEDGER"
    statement = stated(service, nonce_of(service), devices=[accelerator(fake)])
    assert send(service, statement).json()["code"] == "SIMULATED_NEEDS_DEMO_LEDGER"
    with service.services.database.read() as tx:
        assert tx.execute(nodes.select().where(nodes.c.id == "real-6")).first() is None
