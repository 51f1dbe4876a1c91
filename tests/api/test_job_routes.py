"""Arrays, holds, progress and queues through the routes and the command line: what waits says why, in both languages."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.cli import main
from api.commands.console import set_language
from metering.schema import settlements
from scheduler.schema import jobs, queues, throughputs
from tests.api.service import FIRM, JOB, Service

SMALL = JOB.replace("Ascend910B3:8", "Ascend910B3:2")
NEVER_FREE = JOB.replace("Ascend910B3:8", "MLU590:8")
Run = Callable[..., str]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in [n for n in os.environ if n.startswith("YISUAN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    yield
    set_language(None)


@pytest.fixture
def run(service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """run(who, *arguments, code=0): what a command of that key prints."""

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode()
        found = service.client.request(request.method, path, headers=dict(request.headers), content=request.content)
        kind = found.headers.get("content-type", "application/json")
        return httpx.Response(found.status_code, headers={"content-type": kind}, content=found.content)

    real, transport = httpx.Client, httpx.MockTransport(answer)
    monkeypatch.setattr(httpx, "Client", lambda **given: real(**{**given, "transport": transport}))

    def call(who: str, *arguments: str, code: int = 0) -> str:
        monkeypatch.setenv("YISUAN_KEY", service.keys[who])
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        told = capsys.readouterr()
        assert int(ended.value.code or 0) == code, told.err
        return told.out + told.err

    return call


def rows(service: Service, table: Any) -> list[dict[str, Any]]:
    with service.services.database.read() as tx:
        return [dict(row) for row in tx.execute(table.select()).mappings()]


def running_job(service: Service, text: str = JOB) -> str:
    job = service.submit(text=text)
    service.services.loop.tick()
    service.services.loop.tick()
    return job


# --- why it waits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (SMALL + "depends_on: [{job: prep}]\n", "DEPENDENCY", {"zh": "等", "en": "waits for jobs it depends on"}),
        (SMALL + "array: 0-1%1\n", "ARRAY_LIMIT", {"zh": "作业组", "en": "As many jobs of the array run"}),
        (SMALL, "HELD", {"zh": "暂", "en": "Held"}),
    ],
)
def test_describe_names_the_gate_with_its_code_in_both_languages(
    service: Service, run: Run, text: str, code: str, words: dict[str, str]
) -> None:
    job = service.submit(text=text)
    if code == "HELD":
        run("firm", "hold", job)
    shown = f"{job}-1" if code == "ARRAY_LIMIT" else job
    service.services.loop.tick()

    for lang, word in words.items():
        told = run("firm", "--lang", lang, "describe", shown)
        assert f"[{code}]" in told
        assert word in told


def test_a_lost_node_and_a_deadline_are_said_in_the_story(service: Service, run: Run) -> None:
    job = running_job(service)
    service.backend.lose(f"{job}.1")
    service.services.loop.tick()
    told = run("firm", "--lang", "en", "describe", job)
    assert "node failed (" in told
    assert "ascend-" in told

    deadline = "deadline: 2026-06-01T12:10:00+08:00\n"
    late = service.submit(text=NEVER_FREE + deadline)
    service.clock.advance(600)
    service.services.loop.tick()
    assert "deadline passed" in run("firm", "--lang", "en", "describe", late)
    assert "截止" in run("firm", "--lang", "zh", "describe", late)


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_an_array_is_one_submission_with_many_jobs(service: Service, run: Run) -> None:
    answer = service.post("firm", "/v1/jobs", SMALL + "array: 8-10%2\n", kind="application/yaml")
    array = answer.json()["id"]
    assert answer.json()["jobs"] == [f"{array}-08", f"{array}-09", f"{array}-10"]
    service.services.loop.tick()

    found = service.get("firm", f"/v1/jobs/{array}").json()
    assert (found["state"], found["ended"], found["parallel"]) == ("RUNNING", False, 2)
    assert [one["array_index"] for one in found["elements"]] == [8, 9, 10]
    assert [(one["pending"] or {}).get("code") for one in found["elements"]] == [None, None, "ARRAY_LIMIT"]
    told = run("firm", "--lang", "en", "describe", array)
    assert "[ARRAY_LIMIT]" in told
    assert f"{array}-10" in told
    assert service.get("other", f"/v1/jobs/{array}").status_code == 404

    assert service.post("firm", f"/v1/jobs/{array}/cancel").status_code == 202
    service.services.loop.tick()
    assert {stop[0] for stop in service.backend.stops} == {f"{array}-08.1", f"{array}-09.1"}
    assert service.get("firm", f"/v1/jobs/{array}-10").json()["state"] == "CANCELLED"


def test_an_array_is_submitted_once_however_often_it_is_sent(service: Service) -> None:
    sent = [
        service.post("firm", "/v1/jobs", SMALL + "array: 0-4\n", key="same", kind="application/yaml") for _ in range(3)
    ]
    assert {answer.status_code for answer in sent} == {201}
    assert len({answer.json()["id"] for answer in sent}) == 1
    assert len(rows(service, jobs)) == 5


def test_the_state_of_an_array_is_that_of_its_elements(service: Service) -> None:
    array = service.submit(text=SMALL + "array: 0-1\n")
    service.services.loop.tick()
    for element, code in ((0, 0), (1, 3)):
        service.backend.end(f"{array}-{element}.1", code)
    service.services.loop.tick()
    found = service.get("firm", f"/v1/jobs/{array}").json()
    assert (found["state"], found["ended"]) == ("FAILED", True)


@pytest.mark.parametrize(
    ("extra", "code", "pointer"),
    [
        ("array: 0-1000\n", "ARRAY_TOO_LARGE", "/array"),
        ("deadline: 2026-06-01T12:00:00+08:00\n", "DEADLINE_PAST", "/deadline"),
    ],
)
def test_what_cannot_be_is_refused_at_submission(service: Service, extra: str, code: str, pointer: str) -> None:
    answer = service.post("firm", "/v1/jobs", JOB + extra, kind="application/yaml")
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert rows(service, jobs) == []


# --- hold and release -------------------------------------------------------------------------------------------------


def test_holding_and_releasing_by_firm_and_operator(service: Service, run: Run) -> None:
    job = service.submit()
    assert service.post("other", f"/v1/jobs/{job}/hold").status_code == 404
    assert service.post("operator", f"/v1/jobs/{job}/hold").json() == {"id": job, "held_by": "operator"}
    service.services.loop.tick()
    assert service.get("firm", f"/v1/jobs/{job}").json()["held_by"] == "operator"
    refused = service.post("firm", f"/v1/jobs/{job}/release")
    assert (refused.status_code, refused.json()["code"]) == (409, "JOB_HELD_BY_OPERATOR")
    assert "JOB_HELD_BY_OPERATOR" in run("firm", "release", job, code=1)

    assert run("operator", "release", job).strip() == job
    service.services.loop.tick()
    assert service.get("firm", f"/v1/jobs/{job}").json()["state"] == "STARTING"
    refused = service.post("firm", f"/v1/jobs/{job}/hold")
    assert (refused.status_code, refused.json()["code"]) == (409, "JOB_NOT_WAITING")


def test_an_array_is_held_as_far_as_it_waits(service: Service) -> None:
    array = service.submit(text=SMALL + "array: 0-3%1\n")
    service.services.loop.tick()
    assert service.post("firm", f"/v1/jobs/{array}/hold").status_code == 200
    held = [one["held_by"] for one in service.get("firm", f"/v1/jobs/{array}").json()["elements"]]
    assert held == [None, "firm", "firm", "firm"]


def test_a_job_cancelled_while_it_waits_again_is_settled_for_good(service: Service) -> None:
    job = running_job(service, JOB + "retry: {on_events: [node_fail], limit: 3}\n")
    for node in ("ascend-1", "ascend-2"):
        assert service.post("operator", f"/v1/nodes/{node}/schedulable", {"schedulable": False}).status_code == 200
    service.clock.advance(60)
    service.backend.lose(f"{job}.1")
    service.services.loop.tick()
    assert service.get("firm", f"/v1/jobs/{job}").json()["state"] == "PENDING"
    assert service.post("firm", f"/v1/jobs/{job}/cancel").status_code == 202
    assert [row["final"] for row in rows(service, settlements)][-1] == 1


# --- progress ---------------------------------------------------------------------------------------------------------


def test_a_job_reports_and_its_firm_sees_it(service: Service, run: Run) -> None:
    job = running_job(service, JOB + "workload: sft\n")
    body = {"steps": 100, "total_steps": 1000, "checkpointed_steps": 50}
    answer = service.post("firm", f"/v1/jobs/{job}/progress", body)
    assert (answer.status_code, answer.json()) == (200, {"id": job, **body})
    service.clock.advance(60)
    run("firm", "progress", job, "--steps", "160")

    told = service.get("firm", f"/v1/jobs/{job}").json()["progress"]
    assert (told["steps"], told["total_steps"], told["checkpointed_steps"]) == (160, 1000, 50)
    assert (told["at"], told["checkpointed_at"]) == ("2026-06-01T04:01:00.000Z", "2026-06-01T04:00:00.000Z")
    shown = run("firm", "--lang", "en", "describe", job)
    assert "160 / 1000" in shown
    assert [(row["firm"], row["workload"], row["steps_per_ks"]) for row in rows(service, throughputs)] == [
        (FIRM, "sft", 1000)
    ]
    assert service.post("other", f"/v1/jobs/{job}/progress", {"steps": 200}).status_code == 404
    assert service.post("operator", f"/v1/jobs/{job}/progress", {"steps": 200}).status_code == 403


def test_a_report_sent_twice_counts_once(service: Service) -> None:
    job = running_job(service)
    first = service.post("firm", f"/v1/jobs/{job}/progress", {"steps": 100}, key="r1")
    service.post("firm", f"/v1/jobs/{job}/progress", {"steps": 200}, key="r2")
    again = service.post("firm", f"/v1/jobs/{job}/progress", {"steps": 100}, key="r1")
    assert (again.status_code, again.json()) == (200, first.json())
    assert service.get("firm", f"/v1/jobs/{job}").json()["progress"]["steps"] == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"steps": None},
        {"steps": -1},
        {"steps": True},
        {"steps": 1.0},
        {"steps": "1"},
        {"steps": 10**12 + 1},
        {"steps": 10**20},
        {"steps": 5, "total_steps": 4},
        {"steps": 5, "total_steps": 0},
        {"steps": 5, "checkpointed_steps": 6},
        {"steps": 5, "checkpointed_steps": -1},
        {"steps": 5, "step": 5},
        [],
        "{",
    ],
)
def test_a_malformed_report_is_refused_and_stores_nothing(service: Service, body: Any) -> None:
    job = running_job(service)
    answer = service.post("firm", f"/v1/jobs/{job}/progress", body)
    assert answer.status_code in (400, 422), answer.text
    assert service.get("firm", f"/v1/jobs/{job}").json()["progress"] is None


# --- queues -----------------------------------------------------------------------------------------------------------


def put(service: Service, who: str, name: str, body: Any) -> Any:
    content = body if isinstance(body, str) else json.dumps(body)
    headers = service.headers(who, Content_Type="application/json")
    return service.client.put(f"/v1/queues/{name}", content=content, headers=headers)


def test_a_queue_is_given_its_cohort_and_limits_and_the_planner_has_them(service: Service, run: Run) -> None:
    body = {"nominal_devices": 8, "cohort": "zone", "borrowing_limit": 4, "lending_limit": 2, "weight": 3}
    answer = put(service, "operator", "tenant-a/train", body)
    assert (answer.status_code, answer.json()) == (200, {"name": "tenant-a/train", **body})
    assert service.get("operator", "/v1/snapshot").json()["queues"] == [{"name": "tenant-a/train", **body}]
    shown = json.loads(run("operator", "queues", "-o", "json"))
    assert shown == [{"name": "tenant-a/train", **body}]
    assert "cohort" in run("operator", "--lang", "en", "queues")
    assert put(service, "firm", "tenant-a/train", body).status_code == 403


def test_what_a_queue_s_body_leaves_out_is_as_if_never_set(service: Service) -> None:
    put(service, "operator", "q", {"nominal_devices": 8, "cohort": "c", "borrowing_limit": 4, "weight": 3})
    answer = put(service, "operator", "q", {"nominal_devices": None})
    plain = {"nominal_devices": None, "cohort": None, "borrowing_limit": None, "lending_limit": None, "weight": 1}
    assert answer.json() == {"name": "q", **plain}
    assert rows(service, queues) == [{"name": "q", **plain}]


def test_queues_of_a_cohort_lend_what_they_do_not_use(service: Service) -> None:
    """Nominal 8 each of 16: alone the one may borrow up to its limit, and no further."""
    put(service, "operator", "a", {"nominal_devices": 8, "cohort": "c", "borrowing_limit": 4})
    put(service, "operator", "b", {"nominal_devices": 8, "cohort": "c"})
    ids = [service.submit(text=JOB.replace("Ascend910B3:8", "Ascend910B3:4") + "queue: a\n") for _ in range(4)]
    service.services.loop.tick()
    found = [service.get("firm", f"/v1/jobs/{job}").json() for job in ids]
    assert [job["state"] for job in found] == ["STARTING"] * 3 + ["PENDING"]
    assert "QUOTA" in found[3]["pending"]["code"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "nominal_devices"),
        ({"nominal_devices": -1}, "nominal_devices"),
        ({"nominal_devices": 1.5}, "nominal_devices"),
        ({"nominal_devices": True}, "nominal_devices"),
        ({"nominal_devices": "8"}, "nominal_devices"),
        ({"nominal_devices": 2**31}, "nominal_devices"),
        ({"nominal_devices": 8, "cohort": ""}, "cohort"),
        ({"nominal_devices": 8, "cohort": "a b"}, "cohort"),
        ({"nominal_devices": 8, "cohort": 3}, "cohort"),
        ({"nominal_devices": 8, "cohort": "c", "borrowing_limit": -1}, "borrowing_limit"),
        ({"nominal_devices": 8, "cohort": "c", "lending_limit": 2**40}, "lending_limit"),
        ({"nominal_devices": 8, "borrowing_limit": 4}, ""),
        ({"nominal_devices": 8, "lending_limit": 0}, ""),
        ({"nominal_devices": 8, "weight": 0}, "weight"),
        ({"nominal_devices": 8, "weight": None}, "weight"),
        ({"nominal_devices": 8, "wieght": 2}, "wieght"),
        ([], ""),
        ("{", ""),
    ],
)
def test_a_malformed_queue_is_refused_by_field_and_changes_nothing(service: Service, body: Any, pointer: str) -> None:
    put(service, "operator", "q", {"nominal_devices": 4})
    answer = put(service, "operator", "q", body)
    assert answer.status_code in (400, 422), answer.text
    assert pointer in json.dumps(answer.json()["errors"])
    assert [row["nominal_devices"] for row in rows(service, queues)] == [4]
