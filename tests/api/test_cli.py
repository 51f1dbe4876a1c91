"""The command line: quick to start, clear when refused, and usable without a server where it can be."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text as sql

from api import client as client_module
from api.cli import COMMANDS, main
from api.client import Access, Client, Refused, Unavailable, find_access
from api.commands import console
from scheduler import view
from scheduler.codec import snapshot_document
from scheduler.jobfile import parse_job
from tests.platform import Platform, job_text

HEAVY = ("fastapi", "sqlalchemy", "numpy", "scipy", "ray", "kubernetes", "httpx", "pydantic", "babel", "rich", "yaml")
CASE = {
    "version": 1,
    "policy": "etown-2024-10",
    "firm": {"id": "F", "eligible": [{"from": "2024-01-01T00:00:00+08:00", "to": None}]},
    "usage": [
        {
            "lease": "L1",
            "model": "Ascend910B3",
            "origin": "domestic",
            "devices": 8,
            "start": "2024-06-01T00:00:00Z",
            "end": "2024-06-01T01:00:00Z",
            "price_fen_per_device_hour": 2000,
        }
    ],
}


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of the host reach a test; the port is one where nobody listens."""
    for name in [n for n in os.environ if n.startswith("YISUAN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("YISUAN_SERVER", "http://127.0.0.1:9")
    monkeypatch.setenv("YISUAN_LANG", "en")


def run(*arguments: str) -> int:
    """One command in this process; its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_help_loads_nothing_heavy_and_no_command() -> None:
    script = (
        "import sys\nfrom api.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('LOADED', *[m for m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rsplit("LOADED", 1)[1].split())

    assert [name for name in HEAVY if name in loaded] == []
    assert sorted(m for m in loaded if m.startswith("api.commands.")) == ["api.commands.console"]


def test_help_names_every_command_in_either_language(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help", "--lang", "en") == 0
    english = capsys.readouterr().out
    assert run("--lang=zh", "--help") == 0
    chinese = capsys.readouterr().out

    for name, entry in COMMANDS.items():
        assert name in english
        assert entry.en in english
        assert entry.zh in chinese


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_how_it_is_used(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    assert COMMANDS[name].en in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ("submti",),
        ("jobs", "--limit", "many"),
        ("jobs", "--limit", "0"),
        ("jobs", "--nope"),
        ("jobs", "-o", "xml"),
        ("describe",),
        ("statement",),
        ("statement", "j", "--firm", "f"),
        ("policy", "edit"),
        ("settle",),
        ("settle", "/nope.json"),
        ("plan",),
        ("simulate",),
        ("audit",),
        ("audit", "/nope.db"),
        ("devices", "--recording", "/nope"),
        ("devices", "--vendor", "ascnd"),
        ("devices", "--vendor", "ascend", "--recording", "/nope"),
        ("demo", "--port", "99999"),
        ("submit", "/nope.yaml"),
        ("jobs", "--lang", "fr"),
    ],
)
def test_malformed_arguments_exit_2_and_say_so_on_stderr(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.strip()


@pytest.mark.parametrize(("typed", "meant"), [(("submti",), "submit"), (("devices", "--vendor", "ascnd"), "ascend")])
def test_a_misspelling_is_answered_with_the_nearest_spelling(
    typed: tuple[str, ...], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*typed) == 2
    assert f"'{meant}'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["jobs", "offers", "nodes", "pools", "queues", "voucher", "usage", "review", "policy"])
def test_without_a_server_a_command_exits_3_and_says_what_to_do(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name) == 3

    said = capsys.readouterr()
    assert said.out == ""
    assert "yisuan serve" in said.err


def test_texts_follow_lang_then_the_environment_then_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    console.set_language(None)
    for names, expected in (
        ({"YISUAN_LANG": "en", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "C.UTF-8"}, "zh"),
        ({}, "zh"),
    ):
        for name in ("YISUAN_LANG", "LC_ALL", "LANG"):
            monkeypatch.delenv(name, raising=False)
        for name, value in names.items():
            monkeypatch.setenv(name, value)
        assert console.language() == expected
    console.set_language("en")
    assert console.language() == "en"


ROWS = [{"id": "a", "fen": 5, "note": "x,y"}, {"id": "乙", "fen": None, "note": "[red]z"}]
COLUMNS = (
    console.Column(key="id", title="column.name"),
    console.Column(key="fen", title="column.fee", number=True),
    console.Column(key="note", title="column.kind"),
)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (console.Output.JSON, '"fen": null'),
        (console.Output.YAML, "fen: null"),
        (console.Output.CSV, 'id,fen,note\na,5,"x,y"\n乙,,[red]z\n'),
        (console.Output.TABLE, "—"),
    ],
)
def test_unknown_values_are_null_or_empty_or_a_dash_and_never_zero(
    output: console.Output, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    console.show(ROWS, COLUMNS, output)

    shown = capsys.readouterr().out
    assert expected in shown
    assert "[red]z" in shown, "values are no markup"
    assert "\x1b[" not in shown, "no colour into a pipe"


# --- offline tools ------------------------------------------------------------------------------------------------


def test_settle_prints_one_compact_document_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(CASE))
    bad.write_text(json.dumps({**CASE, "usage": [{**CASE["usage"][0], "devices": 0}]}))  # type: ignore[index,dict-item]

    assert run("settle", str(good)) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["totals"] == {"fee_fen": 16000, "ceiling_fen": 6400, "deduction_fen": 6400, "payable_fen": 9600}
    assert run("settle", str(bad)) == 2
    assert capsys.readouterr().out == ""
    assert run("settle", str(good), str(bad), str(good)) == 2
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [("error" in line) for line in lines] == [False, True, False]


def test_settle_prints_its_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("settle", "--schema") == 0
    assert json.loads(capsys.readouterr().out)["type"] == "object"


def test_audit_exits_0_on_whole_books_and_1_naming_the_record_after_one_fen_is_changed(
    platform: Platform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = tmp_path / "yisuan.db"

    assert run("audit", str(database), "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    with platform.database.write() as tx:
        tx.execute(sql("UPDATE transfers SET amount_fen = amount_fen + 1 WHERE seq = 1"))
    assert run("audit", str(database)) == 1
    assert "transfers:1" in capsys.readouterr().out


def test_plan_gives_every_waiting_job_of_a_snapshot_its_place_or_its_reason(
    platform: Platform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, nodes in (("fits", 1), ("large", 3)):
        platform.submit(name, job_text(name, nodes=nodes))
    with platform.database.read() as tx:
        document = snapshot_document(view.snapshot(tx, platform.clock.now(), platform.budget))
    file = tmp_path / "snapshot.json"
    file.write_text(json.dumps(document))

    assert run("plan", str(file), "--policy", "fifo") == 0
    plan = json.loads(capsys.readouterr().out)
    assert [launch["job"] for launch in plan["launches"]] == ["job_fits"]
    assert [(wait["job"], wait["pending"]["code"]) for wait in plan["waits"]] == [("job_large", "EXCEEDS_POOL")]
    assert run("plan", str(file), "--policy", "fofi") == 2
    assert "fifo" in capsys.readouterr().err
    file.write_text("{}")
    assert run("plan", str(file)) == 2


def test_devices_reads_a_recording_without_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = tmp_path / "nodes.json"
    recording.write_text(json.dumps({"version": 1, "devices": [{"node": "n1", "model": "Ascend910B3", "count": 2}]}))

    assert run("devices", "--vendor", "simulated", "--recording", str(recording), "-o", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [device["uuid"] for device in found["devices"]] == ["sim:n1:0", "sim:n1:1"]
    assert {device["origin"] for device in found["devices"]} == {"domestic"}


# --- the client ---------------------------------------------------------------------------------------------------


def test_access_is_taken_from_the_environment_then_the_config_then_the_data_directory(tmp_path: Path) -> None:
    assert find_access("firm", {}, tmp_path) == Access(server=client_module.SERVER, key=None)
    keys = {"server": "http://demo:1", "keys": {"operator": "yk_o", "firm": "yk_f"}}
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    folder = {"YISUAN_DATA_DIR": str(tmp_path)}
    assert find_access("firm", folder, tmp_path) == Access(server="http://demo:1", key="yk_f")
    assert find_access("operator", folder, tmp_path).key == "yk_o"
    assert find_access("agent", folder, tmp_path).key == "yk_o", "any key serves where the role has none"
    config = tmp_path / ".config" / "yisuan"
    config.mkdir(parents=True)
    (config / "config.toml").write_text('server = "http://configured:2/"\nkey = "yk_c"\n')
    assert find_access("firm", folder, tmp_path) == Access(server="http://configured:2", key="yk_c")
    given = {**folder, "YISUAN_SERVER": "http://given:3", "YISUAN_KEY": "yk_g"}
    assert find_access("firm", given, tmp_path) == Access(server="http://given:3", key="yk_g")


Handler = Callable[[httpx.Request], httpx.Response]


def speak(handler: Handler) -> Client:
    return Client(Access(server="http://zone.test", key="yk_x"), "en", httpx.MockTransport(handler))


def test_a_problem_is_refused_with_its_code_and_an_outage_is_unavailable() -> None:
    problem = {"code": "JOB_ENDED", "detail": "it ended", "errors": [{"pointer": "/name", "detail": "missing"}]}

    with pytest.raises(Refused) as refused:
        speak(lambda _: httpx.Response(409, json=problem)).get("/v1/jobs")
    assert (refused.value.code, refused.value.errors) == ("JOB_ENDED", ["/name: missing"])
    with pytest.raises(Unavailable):
        speak(lambda _: httpx.Response(503, text="busy")).get("/v1/jobs")


def test_lists_are_followed_to_their_last_page_and_posts_carry_a_key() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if request.method == "POST":
            return httpx.Response(201, json={})
        after = request.url.params.get("cursor")
        return httpx.Response(200, json={"items": [{"n": after}], "next_cursor": None if after else "2"})

    client = speak(answer)

    assert [item["n"] for item in client.items("/v1/jobs")] == [None, "2"]
    client.post("/v1/jobs", {}, key="again")
    assert seen[-1].headers["idempotency-key"] == "again"
    assert seen[-1].headers["authorization"] == "Bearer yk_x"


STORY = [{"at": "2026-06-01T04:00:00Z", "event": "submitted", "state_to": "SUBMITTED", "facts": {}}]
JOB: dict[str, Any] = {
    "id": "job_1",
    "name": "digits",
    "queue": "default",
    "state": "PENDING",
    "submitted_at": "2026-06-01T04:00:00Z",
    "pending": {"code": "INSUFFICIENT_FREE_DEVICES", "kind": "wait", "scope": "p", "needed": 8, "available": 0},
    "leases": [],
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> list[httpx.Request]:
    """A platform with one waiting job; the requests it got."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        match request.method, request.url.path:
            case "POST", "/v1/jobs":
                return httpx.Response(201, json=JOB)
            case "POST", "/v1/jobs/job_1/cancel":
                return httpx.Response(202, json={**JOB, "state": "CANCELLED"})
            case "GET", "/v1/jobs":
                return httpx.Response(200, json={"items": [JOB], "next_cursor": None})
            case "GET", "/v1/jobs/job_1":
                return httpx.Response(200, json=JOB)
            case "GET", "/v1/jobs/job_1/events":
                return httpx.Response(200, json={"items": STORY})
            case "GET", "/v1/jobs/job_1/logs":
                log = b"epoch 1\nepoch 2\n"[int(request.url.params["offset"]) :]
                return httpx.Response(200, content=log, headers={"content-type": "text/plain"})
        return httpx.Response(404, json={"code": "NOT_FOUND", "detail": "nothing here"})

    real = httpx.Client
    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(httpx, "Client", lambda **given: real(**{**given, "transport": transport}))
    return seen


def test_describe_says_in_words_why_a_job_waits(
    server: list[httpx.Request], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("describe", "digits") == 0

    shown = capsys.readouterr().out
    assert "Not enough free devices: needs 8, 0 free" in shown
    assert "2026-06-01 12:00:00" in shown


def test_lists_logs_and_cancel_speak_to_the_server(
    server: list[httpx.Request], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("jobs") == 0
    assert "job_1" in capsys.readouterr().out
    assert run("logs", "job_1") == 0
    assert capsys.readouterr().out == "epoch 1\nepoch 2\n"
    assert run("cancel", "digits") == 0
    assert capsys.readouterr().out == "job_1\n"


def test_an_unknown_job_exits_1(server: list[httpx.Request], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("describe", "nope") == 1
    assert run("statement", "job_1") == 1
    assert "nothing here" in capsys.readouterr().err


def test_submit_tells_the_scripts_where_the_job_file_lies(
    server: list[httpx.Request], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(job_text("digits"))

    assert run("submit", str(file), "--name", "other", "--idempotency-key", "k1") == 0
    assert capsys.readouterr().out == "job_1\n"
    sent = server[-1]
    assert (sent.headers["content-type"], sent.headers["idempotency-key"]) == ("application/yaml", "k1")
    spec = parse_job(sent.content.decode())
    assert (spec.name, spec.envs["YISUAN_SUBMIT_DIR"]) == ("other", str(tmp_path))


def test_a_job_file_that_names_its_own_directory_keeps_it(tmp_path: Path) -> None:
    own = job_text("digits", extra="envs: {YISUAN_SUBMIT_DIR: /elsewhere, A: b}\n")
    plain = job_text("digits", extra="envs:\n  A: b\n")

    assert client_module.with_submit_directory(own, tmp_path) == own
    envs = parse_job(client_module.with_submit_directory(plain, tmp_path)).envs
    assert envs == {"A": "b", "YISUAN_SUBMIT_DIR": str(tmp_path)}
    bare = client_module.with_submit_directory(job_text("digits"), tmp_path)
    assert bare.startswith(job_text("digits").rstrip()), "the text stays as it was written"


def test_a_bad_job_file_is_refused_before_anything_is_sent(
    server: list[httpx.Request], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(job_text("digits", extra="naame: x\n"))

    assert run("submit", str(file)) == 2
    assert "naame" in capsys.readouterr().err
    assert server == []


def test_serve_shows_the_first_keys_and_ends_cleanly_on_a_signal(tmp_path: Path) -> None:
    """On an empty database; the last checkpoint is written after the signal."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = tmp_path / "data"
    command = [sys.executable, "-m", "api.cli", "serve", "--port", str(port), "--data-dir", str(data)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/healthz")
        server.terminate()
        said = server.communicate(timeout=20)[1]
    finally:
        server.kill()

    assert server.returncode == 0, said
    assert len(set(re.findall(r"yk_\S+", said))) == 3, "one for who enrols, one for who approves, one for who pays"
    assert (data / "checkpoints.jsonl").exists()


def wait_for(url: str) -> None:
    """Something answers at the address, within ten seconds."""
    for _ in range(100):
        try:
            httpx.get(url)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"nothing answers at {url}")
