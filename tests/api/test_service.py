"""The routes: who may, what repeats, what is refused and how, and what tenants see of each other."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError
from sqlalchemy import Integer, insert, select
from sqlalchemy.exc import IntegrityError, OperationalError

from api.auth import ROLES, ROUTE_ROLES
from api.settings import Settings
from api.wiring import AnotherLeads, WrongLedger, build
from metering.schema import CHAINED as MONEY
from scheduler.lease import LeaseId
from scheduler.schema import CHAINED as WORK
from scheduler.schema import jobs, metadata, samples
from tests.api.service import FIRM, JOB, OTHER, PROVIDER, Service, running

PUBLIC = {"/v1/agents/keys", "/v1/listings", "/v1/listings/{listing}", "/v1/listings/{listing}/history", "/v1/capacity", "/v1/policies",
          "/v1/policies/{policy}", "/v1/policies/{policy}/diff/{other}", "/v1/benchmarks"}  # fmt: skip


def routes_of(service: Service) -> set[tuple[str, str]]:
    schema = service.client.app.openapi()["paths"]
    found = {(method.upper(), path) for path, methods in schema.items() for method in methods}
    return {(m, p) for m, p in found if p.startswith("/v1/") and p not in PUBLIC}


# --- who may --------------------------------------------------------------------------------------------------------


def test_every_route_has_its_roles_and_no_role_has_a_route_that_is_not_there(service: Service) -> None:
    named = {(m, p.replace(":path", "")) for m, p in ROUTE_ROLES}

    assert routes_of(service) == named


def test_every_role_gets_exactly_the_routes_it_may_use(service: Service) -> None:
    """The whole matrix: 403 where a role may not, anything but 401 and 403 where it may."""
    wrong = []
    for (method, path), roles in sorted(ROUTE_ROLES.items()):
        url = path.replace("{name:path}", "q").replace("{settlement:path}", "s")
        for name in ("job", "node", "firm"):
            url = url.replace("{" + name + "}", "x")
        for role in ROLES:
            headers = service.headers(role, Idempotency_Key=f"{method}{path}{role}"[:190])
            status = service.client.request(method, url, headers=headers, content="{}").status_code
            if (status == 403) == (role in roles) or status == 401:
                wrong.append((method, path, role, status))
    assert wrong == []


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", "Basic abc", "Bearer yk_" + "x" * 43])
def test_without_a_good_key_nothing_is_shown(service: Service, header: str | None) -> None:
    headers = {"Authorization": header} if header else {}
    answer = service.client.get("/v1/jobs", headers=headers)

    assert answer.status_code == 401
    assert answer.json()["code"] in ("KEY_MISSING", "KEY_INVALID")
    assert answer.headers["content-type"] == "application/problem+json"


def test_another_firm_s_job_is_not_there(service: Service) -> None:
    """404 on every path, and not in any list: whether it exists is nobody else's business."""
    job = service.submit()
    service.run_to_end(job)
    settlement = f"settlement:{job}:1"
    paths = [f"/v1/jobs/{job}", f"/v1/jobs/{job}/events", f"/v1/jobs/{job}/logs", f"/v1/statements/jobs/{job}",
             f"/v1/settlements/{settlement}", f"/v1/statements/firms/{FIRM}"]  # fmt: skip

    assert [200] * len(paths) == [service.get("firm", path).status_code for path in paths]
    assert [404] * len(paths) == [service.get("other", path).status_code for path in paths]
    assert service.post("other", f"/v1/jobs/{job}/cancel").status_code == 404
    for path in ("/v1/jobs", "/v1/usage", "/v1/settlements"):
        assert service.get("other", path).json()["items"] == []
    assert [v["firm"] for v in service.get("other", f"/v1/vouchers?firm={FIRM}").json()["items"]] == [OTHER]
    assert [f["id"] for f in service.get("other", "/v1/firms").json()["items"]] == [OTHER]


# --- what repeats ---------------------------------------------------------------------------------------------------


def test_a_repeated_post_has_one_effect_and_one_answer(service: Service) -> None:
    first = service.post("firm", "/v1/jobs", JOB, key="same", kind="application/yaml")
    second = service.post("firm", "/v1/jobs", JOB, key="same", kind="application/yaml")

    assert first.json() == second.json()
    assert second.headers["idempotent-replayed"] == "true"
    assert len(service.get("firm", "/v1/jobs").json()["items"]) == 1
    other = service.post("firm", "/v1/jobs", JOB.replace("train", "other"), key="same", kind="application/yaml")
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    elsewhere = service.post("other", "/v1/jobs", JOB, key="same", kind="application/yaml")
    assert first.json()["id"] != elsewhere.json()["id"], "keys belong to who sent them"


def test_a_post_without_a_key_is_refused_before_anything_happens(service: Service) -> None:
    answer = service.client.post(
        "/v1/jobs", content=JOB, headers=service.headers("firm", Content_Type="application/yaml")
    )

    assert (answer.status_code, answer.json()["code"]) == (400, "IDEMPOTENCY_KEY_MISSING")
    assert service.get("firm", "/v1/jobs").json()["items"] == []


def test_the_same_post_from_many_threads_is_one_job(service: Service) -> None:
    answers: list[Any] = []

    def send() -> None:
        answers.append(service.post("firm", "/v1/jobs", JOB, key="race", kind="application/yaml"))

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {201} == {answer.status_code for answer in answers}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(service.get("firm", "/v1/jobs").json()["items"]) == 1


def test_a_refused_post_leaves_nothing_and_may_be_sent_again(service: Service) -> None:
    with running_firmless(service) as key:
        assert service.post("firmless", "/v1/vouchers", {}, key="retry").status_code == 409
    service.post("operator", "/v1/facts", {"subject_kind": "firm", "subject": key, "fact": "eligible",
                                           "from": "2024-03-28T00:00:00+08:00"})  # fmt: skip
    assert service.post("firmless", "/v1/vouchers", {}, key="retry").status_code == 201


def running_firmless(service: Service) -> Any:
    from contextlib import contextmanager

    from stdnum.cn import uscc

    from api.auth import mint_key

    @contextmanager
    def made() -> Any:
        base = "91110302MA0YDEMA3"
        firm = base + uscc.calc_check_digit(base)
        service.post("operator", "/v1/firms", {"id": firm, "name": "new"})
        with service.services.database.write() as tx:
            service.keys["firmless"] = mint_key(tx, name="x", role="firm", tenant=firm, now=service.clock.now())
        yield firm

    return made()


# --- what is refused, and how ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pointer", "nearest"),
    [
        (JOB.replace("Ascend910B3", "Ascend910B9"), "/resources/accelerators", "Ascend910B"),
        (JOB.replace("entrypoint", "entrypont"), "/entrypont", "entrypoint"),
        (JOB.replace("2h", "2"), "/time_limit", None),
        (JOB.replace("Ascend910B3:8", "gpu:8"), "/resources/accelerators", None),
        (JOB + "money: {max_net_cost: 80}\n", "/money/max_net_cost", None),
        ("[1, 2]", "/", None),
        ("name: [", "/", None),
    ],
)
def test_a_malformed_job_file_is_refused_by_field(
    service: Service, text: str, pointer: str, nearest: str | None
) -> None:
    answer = service.post("firm", "/v1/jobs", text, kind="application/yaml")
    errors = answer.json()["errors"]

    assert (answer.status_code, answer.json()["code"]) == (422, "JOB_FILE_INVALID")
    assert pointer in [error["pointer"] for error in errors]
    assert nearest is None or any(str(error.get("nearest", "")).startswith(nearest) for error in errors)


def test_what_nothing_schedules_yet_is_refused_by_name(service: Service) -> None:
    answer = service.post(
        "firm", "/v1/jobs", JOB + "inputs: {/data: oss://b/d}\nsecrets: [t]\n", kind="application/yaml"
    )

    assert (answer.status_code, answer.json()["code"]) == (422, "NOT_SUPPORTED_YET")
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/secrets"]


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/v1/providers", {"id": PROVIDER[:-1] + "0", "name": "x"}, "/id"),
        ("/v1/providers", {"id": PROVIDER, "name": "x", "nam": 1}, "/nam"),
        ("/v1/firms", {"id": FIRM}, "/name"),
        ("/v1/sites", {"id": "a b", "provider": PROVIDER, "name": "n", "region": "r"}, "/id"),
        ("/v1/pools", {"id": "p", "price_fen_per_device_hour": 1.5}, "/price_fen_per_device_hour"),
        ("/v1/nodes", {"id": "n", "pool": "ascend"}, "/devices"),
        ("/v1/nodes", {"id": "n", "pool": "ascend", "simulated": {"model": "H800", "count": 0}}, "/simulated/count"),
        ("/v1/facts", {"subject_kind": "firm", "subject": FIRM, "fact": "rich", "from": "2026-01-01T00:00:00Z"}, "/fact"),
        ("/v1/facts", {"subject_kind": "firm", "subject": FIRM, "fact": "eligible", "from": "2026-01-01T00:00:00"}, "/from"),
        ("/v1/facts", {"subject_kind": "firm", "subject": FIRM, "fact": "eligible", "from": "2026-01-02T00:00:00Z",
                       "to": "2026-01-01T00:00:00Z"}, "/to"),
        ("/v1/keys", {"name": "k", "role": "king"}, "/role"),
        ("/v1/keys", {"name": "k", "role": "firm"}, "/tenant"),
    ],
)  # fmt: skip
def test_a_malformed_body_is_refused_by_field(service: Service, path: str, body: Any, pointer: str) -> None:
    answer = service.post("operator", path, body)

    assert answer.status_code == 422
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"a", "text/csv", 415),
        (b"[" * 9000, "application/json", 400),
    ],
)
def test_a_body_that_is_no_job_at_all_is_refused(service: Service, content: bytes, kind: str, status: int) -> None:
    assert status == service.post("firm", "/v1/jobs", content, kind=kind).status_code


def test_problems_speak_both_languages(service: Service) -> None:
    zh = service.get("firm", "/v1/jobs/nothing", Accept_Language="zh-CN").json()
    en = service.get("firm", "/v1/jobs/nothing", Accept_Language="en-GB,zh;q=0.5").json()

    assert "NOT_FOUND" == zh["code"] == en["code"]
    assert zh["detail"] != en["detail"]


def test_simulated_devices_stay_out_of_a_live_ledger(tmp_path: Path) -> None:
    """Neither their pool nor, should one be there, their usage."""
    with running(tmp_path) as service:
        settings = service.services.settings.model_copy(update={"ledger": "live"})
        object.__setattr__(service.services, "settings", settings)
        body = {"id": "x", "provider": PROVIDER, "site": "bj1", "region": "b", "vendor": "ascend", "model": "Ascend910B3",
                "source": "simulated", "price_fen_per_device_hour": 1}  # fmt: skip

        assert service.post("operator", "/v1/pools", body).json()["code"] == "SIMULATED_NEEDS_DEMO_LEDGER"


def test_a_device_is_on_one_node_only(service: Service) -> None:
    device = {
        "uuid": "GPU-1",
        "index": 0,
        "vendor": "ascend",
        "model_raw": "910B3",
        "model": "Ascend910B3",
        "source": "cli",
    }
    first = service.post("operator", "/v1/nodes", {"id": "real-1", "pool": "ascend", "devices": [device]})
    second = service.post("operator", "/v1/nodes", {"id": "real-2", "pool": "ascend", "devices": [device]})

    assert (first.status_code, second.status_code, second.json()["code"]) == (201, 409, "DEVICE_ELSEWHERE")


# --- jobs -----------------------------------------------------------------------------------------------------------


def test_a_job_s_whole_life_through_the_routes(service: Service) -> None:
    job = service.submit()
    assert service.get("firm", f"/v1/jobs/{job}").json()["state"] == "SUBMITTED"
    service.run_to_end(job)
    shown = service.get("firm", f"/v1/jobs/{job}").json()
    statement = service.get("firm", f"/v1/statements/jobs/{job}").json()

    assert (shown["state"], shown["ended"], shown["exit_code"]) == ("SUCCEEDED", True, 0)
    assert statement["totals"] == {"fee_fen": 16000, "ceiling_fen": 6400, "deduction_fen": 6400, "payable_fen": 9600}
    assert shown["cost"] == statement["totals"]
    assert shown["spec_sha256"] == statement["spec_sha256"]
    assert service.get("finance", "/v1/ledger").json()["balanced"]
    settlement = service.get("firm", f"/v1/settlements/{statement['settlement']}").json()
    assert statement["lines"] == settlement["lines"]
    assert len([u for u in service.get("provider", "/v1/usage").json()["items"] if u["kind"] == "run"]) == 1


def test_a_waiting_job_says_why_in_both_languages_and_can_be_cancelled(service: Service) -> None:
    job = service.submit(text=JOB.replace("Ascend910B3:8", "MLU590:8"))
    service.services.loop.tick()
    pending = service.get("firm", f"/v1/jobs/{job}").json()["pending"]

    assert (pending["code"], pending["kind"]) == ("NO_MATCHING_POOL", "never")
    assert pending["text"]["zh"] != pending["text"]["en"]
    assert service.post("firm", f"/v1/jobs/{job}/cancel").status_code == 202
    assert service.get("firm", f"/v1/jobs/{job}").json()["state"] == "CANCELLED"


def test_lists_are_paged_without_a_gap(service: Service) -> None:
    made = [service.submit() for _ in range(5)]
    seen, cursor = [], ""
    while True:
        page = service.get("firm", f"/v1/jobs?limit=2{cursor}").json()
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"

    assert made[::-1] == seen
    assert service.get("firm", "/v1/jobs?cursor=%ff").status_code == 422
    assert service.get("firm", "/v1/usage?cursor=YWJj").status_code == 422, "a cursor, but not of a counted list"
    assert service.get("firm", "/v1/jobs?limit=0").status_code == 422
    assert service.get("firm", "/v1/jobs?state=DONE").status_code == 422


def test_logs_are_bytes_from_an_offset(service: Service) -> None:
    job = service.submit()
    assert service.get("firm", f"/v1/jobs/{job}/logs").text == ""
    service.services.loop.tick()
    service.backend.logs = lambda lease, rank, *, offset, limit: f"{lease}:{rank}"[offset : offset + limit].encode()  # type: ignore[method-assign]

    assert f"{LeaseId(job + '.1')}:0"[4:10] == service.get("firm", f"/v1/jobs/{job}/logs?offset=4&limit=6").text


def test_events_stream_from_where_a_client_left_off_to_the_end(service: Service) -> None:
    job = service.submit()
    service.run_to_end(job)
    story = service.get("firm", f"/v1/jobs/{job}/events").json()["items"]
    whole = service.get("firm", f"/v1/jobs/{job}/events", Accept="text/event-stream").text
    rest = service.get(
        "firm", f"/v1/jobs/{job}/events", Accept="text/event-stream", Last_Event_ID=str(story[1]["seq"])
    ).text

    def ids(stream: str) -> list[int]:
        return [int(line[4:]) for line in stream.splitlines() if line.startswith("id: ")]

    assert [event["seq"] for event in story] == ids(whole)
    assert [event["seq"] for event in story[2:]] == ids(rest)
    assert json.loads(whole.strip().splitlines()[-1].removeprefix("data: "))["state_to"] == "SUCCEEDED"


# --- public ---------------------------------------------------------------------------------------------------------


def test_the_listing_is_public_priced_and_cacheable(service: Service) -> None:
    answer = service.get(None, "/v1/listings")
    (ascend, _) = answer.json()["items"]

    assert tuple(
        ascend[k] for k in ("origin", "price_fen_per_device_hour", "rate_bp", "net_fen_per_device_hour", "devices_listed", "devices_free")
    ) == ("domestic", 2000, 4000, 1200, 16, 16)  # fmt: skip
    assert service.get(None, "/v1/listings", If_None_Match=answer.headers["etag"]).status_code == 304
    service.submit()
    service.services.loop.tick()
    changed = service.get(None, "/v1/listings", If_None_Match=answer.headers["etag"])
    assert (changed.status_code, changed.json()["items"][0]["devices_free"]) == (200, 8)
    assert [e["event"] for e in service.get(None, "/v1/listings/ascend/history").json()["items"]] == [
        "listed",
        "priced",
    ]
    assert service.get(None, "/v1/listings/none").status_code == 404


def test_capacity_states_its_precision_and_adds_up(service: Service) -> None:
    body = service.get(None, "/v1/capacity").json()

    assert (body["precision"], body["density"], body["goal_pflops"]) == ("fp16", "dense", 10_000)
    assert pytest.approx(body["by_origin"]["domestic"]["pflops"]["listed"]) == 16 * 313 / 1000
    assert body["pflops"]["listed"] == pytest.approx(sum(x["pflops"]["listed"] for x in body["by_origin"].values()))


def test_health_readiness_policies_and_metrics(service: Service) -> None:
    assert service.get(None, "/healthz").status_code == 200
    assert service.get(None, "/readyz").status_code == 503, "the loop has not ticked yet"
    service.services.loop.tick()
    assert service.get(None, "/readyz").status_code == 200
    service.clock.advance(60)
    assert service.get(None, "/readyz").status_code == 503, "the loop has stopped ticking"
    assert {p["id"]: p["status"] for p in service.get(None, "/v1/policies").json()["items"]} == {
        "etown-2024-10": "active",
        "etown-2024-29": "awaiting_confirmation",
    }
    families = {f.name: f for f in text_string_to_metric_families(service.get(None, "/metrics").text)}
    assert sum(s.value for s in families["yisuan_devices"].samples) == 32


# --- agents, settings, schema ---------------------------------------------------------------------------------------


def test_an_agent_pushes_heartbeats_and_samples_over_http(service: Service) -> None:
    from adapters.sample import Sample
    from api.push import HttpPush
    from tests.fakes import simulated_device

    push = HttpPush("http://testserver", service.keys["agent"])
    push._http = service.client  # the same routes, without a socket
    push._http.headers["Authorization"] = f"Bearer {service.keys['agent']}"
    service.clock.advance(120)
    push.heartbeat("ascend-1", [simulated_device("ascend-1", i) for i in range(8)], service.clock.now())
    push.samples("ascend-1", [Sample(uuid="sim:ascend-1:0", at=service.clock.now(), utilisation_ratio=0.5)] * 2)

    with service.services.database.read() as tx:
        assert [row.utilisation_ratio for row in tx.execute(select(samples))] == [0.5]
    assert service.get(None, "/v1/listings").json()["items"][0]["devices_free"] == 8, "only this node was heard from"


def test_settings_refuse_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="pages_open"):
        Settings(data_dir=tmp_path, ledger="live", pages_open=True)
    with pytest.raises(ValidationError):
        Settings(data_dir=tmp_path, port=0)


def test_a_data_directory_has_one_platform_and_one_mark(tmp_path: Path) -> None:
    services = build(Settings(data_dir=tmp_path / "d", ledger="demo"))
    with pytest.raises(AnotherLeads):
        build(Settings(data_dir=tmp_path / "d"))
    services.close()
    with pytest.raises(WrongLedger):
        build(Settings(data_dir=tmp_path / "d", ledger="live"))
    again = build(Settings(data_dir=tmp_path / "d"))
    assert again.settings.ledger == "demo", "the mark is the database's"
    again.close()
    assert (tmp_path / "d").stat().st_mode & 0o077 == 0


def test_the_migrated_schema_is_the_code_s(service: Service) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with service.services.database.read() as tx:
        assert compare_metadata(MigrationContext.configure(tx), metadata) == []


@pytest.mark.parametrize("table", sorted({**WORK, **MONEY}))
@pytest.mark.parametrize("act", ["UPDATE {} SET hash = 'x'", "DELETE FROM {}"])
def test_chained_tables_reject_edits_and_removals(service: Service, table: str, act: str) -> None:
    columns = {**WORK, **MONEY}[table].columns
    filled = {c.name: 1 if isinstance(c.type, Integer) else "x" for c in columns if not c.nullable or c.primary_key}
    filled |= {"seq": 10**6} | ({"to_ms": 2} if "to_ms" in filled else {})
    with service.services.database.write() as tx:
        tx.execute(insert({**WORK, **MONEY}[table]).values(**filled))

    with (
        pytest.raises((IntegrityError, OperationalError), match="append-only"),
        service.services.database.write() as tx,
    ):
        tx.exec_driver_sql(act.format(table))


def test_keys_are_stored_as_hashes_only(service: Service) -> None:
    """Not even the stored answer of the request that made a key holds it."""
    body = {"name": "k", "role": "auditor"}
    made = service.post("operator", "/v1/keys", body, key="mint").json()["key"]
    assert service.post("operator", "/v1/keys", body, key="mint").json()["key"] is None
    service.keys["made"] = made
    assert service.get("made", "/v1/ledger").status_code == 200
    raw = b"".join(path.read_bytes() for path in service.services.settings.data_dir.glob("yisuan.db*"))

    assert not [name for name, key in service.keys.items() if key.encode() in raw]
    with service.services.database.read() as tx:
        assert list(tx.execute(select(jobs.c.id))) == []
