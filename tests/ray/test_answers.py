"""What is made of the head's answers, malformed ones included; no cluster is needed."""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.catalog import load_catalog
from scheduler.backends import local, ray_driver
from scheduler.backends.ray import RayBackend
from scheduler.backends.ray_head import Head, HeadAway
from scheduler.backends.ray_nodes import Devices, devices_of, found_nodes
from scheduler.backends.ray_package import command_of, environment, packed
from scheduler.backends.ray_status import complete, ended, report_in, statuses, told_by, told_in, why_over
from scheduler.job import Checkpoint
from scheduler.lease import Cause, LeaseId, MemberPhase, Report
from tests.ray.leases import MODEL, lease_of

MEMBER_KEYS = ("members", "rank", "phase", "started_ms", "ended_ms", "pid", "cause", "exit_code", "detail", "report")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(MEMBER_KEYS), inner, max_size=6),
    max_leaves=12,
)
MEMBERS = st.lists(
    st.fixed_dictionaries(
        {"phase": st.sampled_from(["starting", "running", "exited", "lost"]), "started_ms": st.integers(0, 2**41)},
        optional={
            "ended_ms": st.integers(0, 2**41),
            "exit_code": st.integers(-64, 255),
            "cause": st.sampled_from(Cause),
        },
    ),
    min_size=1,
    max_size=5,
).map(lambda members: [{**m, "rank": rank} for rank, m in enumerate(members)])


def head_saying(answer: httpx.Response | Exception) -> Head:
    """A head that answers everything like this."""

    def handle(_: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    head = Head("http://head:8265")
    head._client = httpx.Client(base_url=head.address, transport=httpx.MockTransport(handle))
    return head


def node(**given_: Any) -> dict[str, Any]:
    resources = {"CPU": 4.0, "memory": 1e9, "node:10.0.0.1": 1.0}
    row = {"node_id": "a1", "node_name": "n1", "state": "ALIVE", "labels": {}, "resources_total": resources}
    return {**row, **given_, "resources_total": {**resources, **given_.get("resources_total", {})}}


# --- the head ---------------------------------------------------------------------------------------------------------

BAD = [
    httpx.Response(200, text="<html>"),
    httpx.Response(200, json={"result": True}),
    httpx.Response(200, json=[{"status": 3}]),
    httpx.Response(200, json=["job"]),
    httpx.Response(200, text="[" * 100_000),
    httpx.Response(200, json={"data": {"result": {"result": [{"state": "ALIVE"}]}}}),
    httpx.Response(200, json={"data": None}),
    httpx.Response(500, text="Traceback\nRuntimeError: no agent"),
    httpx.Response(401, text="who are you"),
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
    httpx.RemoteProtocolError("closed"),
]


@pytest.mark.parametrize("answer", BAD, ids=range(len(BAD)))
def test_an_answer_that_cannot_be_used_is_no_answer(answer: httpx.Response | Exception, tmp_path: Path) -> None:
    backend = RayBackend("zone", "http://head:8265", tmp_path)
    backend.head = head_saying(answer)

    with pytest.raises(ConnectionError):
        backend.observe([LeaseId("job.1")])
    with pytest.raises(ConnectionError):
        backend.launch(lease_of("job", "true"))
    with pytest.raises(ConnectionError):
        backend.head.nodes()


def test_what_the_head_says_is_in_the_error() -> None:
    with pytest.raises(HeadAway, match=r"http://head:8265.*500 RuntimeError: no agent"):
        head_saying(BAD[7]).jobs()
    with pytest.raises(HeadAway, match="the token is not accepted"):
        head_saying(BAD[8]).jobs()


def test_only_the_head_says_that_there_is_no_job() -> None:
    assert head_saying(httpx.Response(404, text="Job x does not exist")).job("x") is None
    with pytest.raises(HeadAway):
        head_saying(httpx.Response(404, text="default backend - 404")).job("x")


def test_a_token_that_cannot_be_read_is_a_head_that_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match=r"token_file: .*nowhere"):
        Head("http://head:8265", token_file=tmp_path / "nowhere").jobs()


def test_the_clock_is_the_heads() -> None:
    dated = httpx.Response(200, json=[], headers={"Date": "Tue, 24 Nov 2026 03:32:33 GMT"})

    assert head_saying(dated).jobs() == ({}, 1_795_491_153_000)


def test_the_token_is_read_for_every_request(tmp_path: Path) -> None:
    seen: list[str | None] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        return httpx.Response(200, json=[])

    file = tmp_path / "token"
    head = Head("http://head:8265", token_file=file)
    head._client = httpx.Client(base_url=head.address, transport=httpx.MockTransport(handle))
    for text in ("first\n", "second\n", ""):
        file.write_text(text)
        head.jobs()

    assert seen == ["Bearer first", "Bearer second", None]


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("address", {"address": "head:8265"}),
        ("address", {"address": "ray://head:10001"}),
        ("models", {"models": {"NPU": "Ascend910B9"}}),
        ("work", {"work": "jobs"}),
        ("start_timeout_ms", {"start_timeout_ms": 10}),
        ("cluster", {"cluster": "a/b"}),
        ("owner", {"owner": "a b"}),
    ],
)
def test_bad_options_name_themselves_and_the_nearest(field: str, options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{field}: .*nearest: "):
        RayBackend(**{"cluster": "zone", "address": "http://head:8265", "state": tmp_path, **options})


# --- nodes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "models", "expected"),
    [
        (node(), {}, None),
        (
            node(resources_total={"GPU": 8.0, "accelerator_type:H100": 1.0}),
            {},
            Devices(resource="GPU", model="H100", count=8),
        ),
        (
            node(resources_total={"GPU": 2.0}, labels={"ray.io/accelerator-type": "A100-40G"}),
            {},
            Devices(resource="GPU", model="A100-40GB", count=2),
        ),
        (
            node(resources_total={"GPU": 2.0, "accelerator_type:MXC500": 1.0}),
            {},
            Devices(resource="GPU", model="C500", count=2),
        ),
        (
            node(resources_total={"NPU": 8.0, "chip_ascend910b4": 8.0}),
            {},
            Devices(resource="NPU", model="Ascend910B4", count=8),
        ),
        (node(resources_total={"chip_mlu590": 4.0}), {}, Devices(resource="chip_mlu590", model="MLU590", count=4)),
        (
            node(resources_total={"card": 4.0}),
            {"card": "S60"},
            Devices(resource="card", model="S60", count=4),
        ),
        (
            node(resources_total={"NPU": 8.0}, labels={"ray.io/accelerator-type": "Ascend910B"}),
            {"Ascend910B": "Ascend910B3"},
            Devices(resource="NPU", model="Ascend910B3", count=8),
        ),
        (node(resources_total={"GPU": 0.5, "accelerator_type:H100": 1.0}), {}, None),
        (node(resources_total={"license": 3.0}), {}, None),
    ],
)
def test_devices_are_what_the_node_says_of_itself(row: dict[str, Any], models: dict[str, str], expected: Any) -> None:
    assert devices_of(row, models, load_catalog()) == expected


def test_a_model_that_cannot_be_told_is_said_and_not_guessed() -> None:
    family = node(resources_total={"NPU": 8.0}, labels={"ray.io/accelerator-type": "Ascend910B"})
    nothing = node(resources_total={"GPU": 8.0})
    two = node(resources_total={"GPU": 8.0, "NPU": 8.0})
    found, problems = found_nodes([family], {}, frozenset(), {}, {}, load_catalog())

    assert found == []
    assert "options.models" in problems["n1"]
    assert "cannot be told from nothing" in str(devices_of(nothing, {}, load_catalog()))
    assert "one kind" in str(devices_of(two, {}, load_catalog()))


def test_what_others_hold_is_left_out_and_what_we_hold_is_not() -> None:
    row = node(resources_total={"NPU": 8.0})
    held = {"a1": "0.0/4.0 CPU\n3.5/8.0 NPU (1.0 used of 2.0 reserved in placement groups)\n0B/1GiB memory"}

    def devices(ours: int) -> int:
        found, _ = found_nodes([row], held, frozenset(), {("n1", "NPU"): ours}, {"NPU": MODEL}, load_catalog())
        return found[0].devices

    assert [devices(ours) for ours in (0, 2, 5, 8)] == [3, 5, 8, 8]  # 3.5 and the idle 1 of a group are 5 whole ones


def test_a_node_is_what_is_alive_named_once_and_not_draining() -> None:
    rows = [
        node(node_id="a", node_name="gone", state="DEAD", resources_total={"NPU": 8.0}),
        node(node_id="b", node_name="twice", resources_total={"NPU": 8.0}),
        node(node_id="c", node_name="twice", resources_total={"NPU": 8.0}),
        node(node_id="d", node_name="drains", resources_total={"NPU": 8.0}, labels={"rack": "r7"}),
    ]
    found, problems = found_nodes(rows, {}, frozenset({"d"}), {}, {"NPU": MODEL}, load_catalog())

    assert [(n.name, n.vendor, n.model, n.devices, n.rack) for n in found] == [("drains", "ascend", MODEL, 8, "r7")]
    assert (found[0].schedulable, found[0].why, found[0].cpu_milli, found[0].memory_bytes) == (
        False,
        "draining",
        4000,
        10**9,
    )
    assert "--node-name" in problems["twice"]


# --- members ----------------------------------------------------------------------------------------------------------


@given(JSON)
def test_whatever_stands_in_an_entry_is_read_or_left_alone(body: Any) -> None:
    for text in (body, json.dumps(body), json.dumps({"members": body}), json.dumps({"members": [body]})):
        told = told_by({"metadata": {"yisuan": text}, "status": "RUNNING"})
        if told is not None:
            assert len(statuses(told["members"], "b")) == len(told["members"])
            report_in(told)


@given(MEMBERS, st.integers(1, 6), st.booleans())
def test_after_a_driver_every_member_has_ended_and_no_end_is_changed(
    members: list[dict[str, Any]], count: int, listed: bool
) -> None:
    told = {"members": members}
    ranks = range(max(count, len(members)))
    after = ended(told, ranks, {"status": "FAILED"} if listed else None, "why")
    seen = statuses(after, "b")

    assert [m.rank for m in seen] == list(ranks)
    assert all(m.phase in (MemberPhase.EXITED, MemberPhase.LOST) for m in seen)
    assert complete({"members": after})
    for before, now in zip(members, after, strict=False):
        if before["phase"] in ("exited", "lost"):
            assert now == before
        else:
            assert now["phase"] == "lost"
            assert now["detail"] == "why"


def test_a_member_that_never_began_under_a_job_that_failed_was_not_launched() -> None:
    (began, waited) = ended({"members": [{"rank": 0, "phase": "running", "started_ms": 5}]}, [0, 1], {}, "why")

    assert began.get("cause") is None
    assert waited["cause"] == Cause.LAUNCH_FAILED.value
    assert ended(None, [0], None, "why")[0].get("cause") is None  # a head that has forgotten says nothing of why


def test_the_log_holds_what_the_entry_may_not() -> None:
    body = {"members": [{"rank": 0, "phase": "exited", "exit_code": 3}], "report": None}
    log = f"Runtime env is setting up.\nyisuan {{broken\nyisuan {json.dumps(body)}\nbye\n"

    assert told_in(log) == body
    assert told_in("nothing") is None
    assert told_in("yisuan {broken\n") is None


def test_a_report_counts_while_a_member_runs() -> None:
    running = {"members": [{"rank": 0, "phase": "running", "started_ms": 1}], "report": '{"steps": 4}'}

    assert report_in(running) == Report(steps=4)
    assert report_in({**running, "members": [{"rank": 0, "phase": "exited"}]}) is None
    assert report_in({**running, "report": "4"}) is None
    assert report_in({**running, "report": "{"}) is None


def test_why_a_job_is_over_is_the_heads_first_line() -> None:
    row = {"status": "FAILED", "error_type": "JOB_ENTRYPOINT_COMMAND_ERROR", "message": "\nfailed with 1\nyisuan {}\n"}

    assert why_over(row) == "the Ray job ended: JOB_ENTRYPOINT_COMMAND_ERROR: failed with 1"
    assert why_over({"status": "STOPPED"}) == "the Ray job ended: STOPPED"


# --- the driver -------------------------------------------------------------------------------------------------------


def heard(*answers: Mapping[str, Any]) -> dict[str, Any]:
    """What a member is after these answers; the driver's clock is 1000 ahead of the node's, and answers take their time."""
    member = ray_driver.Member(0, "n1")
    for answer in answers:
        blank = {"started": None, "exit": None, "alive": True, "log": "l", "report": None, "errors": ""}
        member.hear({**blank, **answer}, answer["now_ms"] + 1000 + answer.get("late", 0))
    return member.told


STARTED = {"pid": 7, "started_ms": 50}


def test_a_members_milliseconds_are_the_drivers_and_its_length_the_nodes_own() -> None:
    end = {"ended_ms": 90, "exit_code": 0, "cause": None, "detail": None}
    told = heard(
        {"now_ms": 10, "late": 40},
        {"now_ms": 20, "late": 3},
        {"now_ms": 60, "late": 8, "started": STARTED},
        {"now_ms": 95, "late": 0, "started": STARTED, "exit": end, "alive": False},
    )

    assert (told["phase"], told["started_ms"], told["ended_ms"]) == ("exited", 50 + 1003, 90 + 1003)


@pytest.mark.parametrize(
    ("answer", "phase", "code", "detail"),
    [
        ({"now_ms": 9, "started": STARTED, "alive": False}, "lost", None, "died without recording"),
        ({"now_ms": 9, "alive": False, "errors": "no python"}, "exited", 126, "no python"),
        (
            {"now_ms": 9, "exit": {"ended_ms": None, "exit_code": 9, "cause": None, "detail": "setup failed"}},
            "exited",
            9,
            "setup failed",
        ),
    ],
)
def test_a_member_whose_shim_is_gone_is_what_its_records_say(
    answer: dict[str, Any], phase: str, code: int | None, detail: str
) -> None:
    told = heard(answer)

    assert (told["phase"], told.get("exit_code")) == (phase, code)
    assert detail in told["detail"]


def test_the_platforms_process_imports_no_ray() -> None:
    code = "import sys, scheduler.backends.ray as b; assert b.RayBackend.name == 'ray'; assert 'ray' not in sys.modules"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_driver_and_its_company_need_nothing_of_ours() -> None:
    ours = {"adapters", "api", "metering", "scheduler", "tests"}
    _, content = packed(lease_of("job", "true"), "s", {0: "n1"}, {0: {"NPU": 1}}, "stop", "/w", None, 1000)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    imported = set()
    for name, text in files.items():
        for part in ast.walk(ast.parse(text)) if name.endswith(".py") else ():
            if isinstance(part, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in part.names}
            elif isinstance(part, ast.ImportFrom):
                imported.add((part.module or "").split(".")[0])

    assert set(files) == {"driver.py", "shim.py", "confinement.py", "lease.json"}
    assert not imported & ours
    assert imported <= set(sys.stdlib_module_names) | {"ray"}


def test_a_member_finds_the_names_it_finds_on_the_platforms_own_host() -> None:
    checkpoint = Checkpoint(path="c", interval_ms=60_000)
    lease = lease_of("job", "train", nodes=("n1", "n2"), checkpoint=checkpoint, visibility={0: {"V": "3"}})
    member, work = lease.placement.members[0], Path("/w/job")
    there, here = environment(lease, member, work, "/bin"), local._environment(lease, member, work, "/bin")
    own = {"NODE_RANK": "0"}

    assert {**there, "MASTER_ADDR": here["MASTER_ADDR"]} == {**here, **own}
    assert command_of(lease) == local._command(lease)


def test_a_package_is_the_same_for_the_same_lease_and_another_for_another() -> None:
    def name(run: str) -> str:
        return packed(lease_of("job", run), "s", {0: "n1"}, {0: {"NPU": 1}}, "stop", "/w", None, 1000)[0]

    assert name("true") == name("true") != name("false")


def test_the_package_says_what_the_lease_does() -> None:
    checkpoint = Checkpoint(path="c", signal="SIGUSR1", grace_ms=7)
    lease = lease_of("job", "train", nodes=("n1", "n2"), checkpoint=checkpoint, visibility={1: {"V": "3"}})
    placed = ({0: "n1", 1: "n2"}, {0: {"NPU": 2}, 1: {"NPU": 1}})
    _, content = packed(lease, "s", *placed, "stop", "/w", "/bin", 1000)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        body = json.loads(archive.read("lease.json"))
    environments = [m["env"] for m in body["members"]]

    assert body["stopping"] == {"signal": "SIGUSR1", "grace_ms": 7}
    assert body["spec"]["command"] == "train"
    assert body["spec"]["work"] == "/w/job"
    assert body["stop"] == "gcs://stop"
    assert [m["resources"] for m in body["members"]] == [{"NPU": 2}, {"NPU": 1}]
    assert [(e["RANK"], e["NODE_RANK"], e["WORLD_SIZE"], e.get("V")) for e in environments] == [
        ("0", "0", "2", None),
        ("1", "1", "2", "3"),
    ]
    assert environments[0]["MASTER_PORT"] == environments[1]["MASTER_PORT"]
    assert environments[0]["PATH"] == "/bin"
    assert "MASTER_ADDR" not in environments[0]
    assert environments[0]["YISUAN_CHECKPOINT"] == "/w/job/c"


def test_a_directory_that_somebody_else_may_have_made_is_not_written_to(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (tmp_path / "target").mkdir()
    (shared / "link").symlink_to(tmp_path / "target")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    ray_driver._own(str(shared / "mine"))
    ray_driver._own(str(tmp_path / "link"), given=True)  # its parent is not everybody's: the operator made it

    assert (shared / "mine").stat().st_mode & 0o777 == 0o700
    for by_the_operator in (True, False):
        with pytest.raises(PermissionError):
            ray_driver._own(str(shared / "link"), given=by_the_operator)
