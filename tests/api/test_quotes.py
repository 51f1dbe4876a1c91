"""The quote over HTTP and on the command line: what it says agrees with what then happens, and nothing is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from api.cli import main
from api.commands import quoting
from api.commands.console import set_language
from api.commands.jobs import _tell_pending
from metering.schema import transfers
from scheduler.schema import jobs
from tests.api.service import FIRM, JOB, Service

YAML = "application/yaml"
EITHER = JOB.replace("accelerators: Ascend910B3:8", "accelerators: {any_of: ['Ascend910B3:8', 'H800:8']}")


def ask(service: Service, text: str = JOB, path: str = "/v1/quotes", who: str = "firm") -> Any:
    return service.post(who, path, text, kind=YAML)


def options(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["pool"]: one for one in document["options"]}


def test_a_quote_names_every_pool_with_its_money(service: Service) -> None:
    """2 h of 8 devices: 2,000 fen at 40% in ascend, 1,800 at 30% in h800; the job does not name h800."""
    answer = ask(service)

    assert answer.status_code == 200, answer.text
    document = answer.json()
    found = options(document)
    assert (document["best"], document["pending"], document["not_supported"]) == ("ascend", None, [])
    assert found["ascend"]["at_most"] == {"gross_fen": 32_000, "draw_fen": 12_800, "net_fen": 19_200}
    assert found["h800"]["at_most"] == {"gross_fen": 28_800, "draw_fen": 8640, "net_fen": 20_160}
    assert (found["ascend"]["accepts"], found["h800"]["accepts"]) == (False, True)
    assert found["ascend"]["earliest_start"] == found["ascend"]["latest_start"] == document["now"]
    assert found["ascend"]["shadow_price"]["room_fen"] is not None
    assert document["instead"] == []


def test_what_is_quoted_now_is_placed_there(service: Service) -> None:
    quoted = ask(service, EITHER).json()
    job = service.submit(text=EITHER)
    service.services.loop.tick()

    lease = service.get("firm", f"/v1/jobs/{job}").json()["leases"][0]
    assert lease["pool"] == quoted["best"]


def test_a_full_pool_is_quoted_with_its_wait_and_the_other_choice(service: Service) -> None:
    """Both Ascend nodes are taken for 2 h: the quote waits for them, and H800 would start now and cost 9.60 more."""
    for _ in range(2):
        service.submit()
    service.services.loop.tick()
    document = ask(service).json()
    found = options(document)

    assert document["best"] == "ascend"
    assert document["pending"]["code"] == "INSUFFICIENT_FREE_DEVICES"
    assert found["ascend"]["latest_start"] > document["now"]
    assert found["ascend"]["promised"] is True
    (instead,) = document["instead"]
    assert (instead["pool"], instead["accepts"], instead["start"]) == ("h800", True, document["now"])
    assert instead["less_fen"] == -960
    assert instead["earlier_ms"] == 2 * 3_600_000


def test_a_gang_that_fits_nowhere_has_its_reason(service: Service) -> None:
    document = ask(service, JOB.replace("nodes: 1", "nodes: 64")).json()

    assert (document["best"], document["options"]) == (None, [])
    assert (document["pending"]["code"], document["pending"]["kind"]) == ("EXCEEDS_POOL", "never")


def test_nothing_is_kept_of_a_quote(service: Service) -> None:
    def counted() -> tuple[Any, Any]:
        with service.services.database.read() as tx:
            return tuple(tx.execute(select(func.count()).select_from(one)).scalar_one() for one in (jobs, transfers))

    before = counted()
    ask(service)

    assert counted() == before


def test_data_without_a_link_rules_a_region_out_and_carbon_comes_from_the_zone_s_file(service: Service) -> None:
    """Both pools are in beijing; 8 Ascend910B3 for 2 h at the factor of the file."""
    (service.services.settings.data_dir / "regions.yaml").write_text(
        "regions: [{region: beijing, carbon_mg_per_kwh: 600000, carbon_source: given}]"
    )
    near = options(ask(service, path="/v1/quotes?data=beijing=1.5TiB").json())["ascend"]
    far = ask(service, path="/v1/quotes?data=hebei=1GiB&data=beijing=1GiB").json()

    assert (near["code"], near["transfer_ms"]) == (None, 0)
    assert near["carbon_g"] is not None
    assert {one["code"] for one in far["options"]} == {"NO_LINK"}
    assert far["best"] is None


def test_a_bad_region_file_is_told(service: Service) -> None:
    (service.services.settings.data_dir / "regions.yaml").write_text("regions: [{region: beijing, carbon: 6}]")
    answer = ask(service)

    assert (answer.status_code, answer.json()["code"]) == (500, "REGIONS_UNREADABLE")


@pytest.mark.parametrize(
    ("text", "path", "status", "code"),
    [
        ("name: [", "/v1/quotes", 422, "JOB_FILE_INVALID"),
        (JOB.replace("Ascend910B3", "Ascend910B33"), "/v1/quotes", 422, "JOB_FILE_INVALID"),
        (JOB, "/v1/quotes?data=hebei", 422, "INPUT_INVALID"),
        (JOB, "/v1/quotes?data=hebei=-1GiB", 422, "INPUT_INVALID"),
        (JOB, "/v1/quotes?data=hebei=1GB", 422, "INPUT_INVALID"),
    ],
)
def test_bad_input_is_refused(service: Service, text: str, path: str, status: int, code: str) -> None:
    answer = ask(service, text, path)

    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_only_a_firm_may_ask(service: Service) -> None:
    assert ask(service, who="provider").status_code == 403
    assert ask(service, who="firm").status_code == 200


# --- on the command line ----------------------------------------------------------------------------------------------


class _Answering:
    """The client of a command, in this process."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def __enter__(self) -> _Answering:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def post(self, path: str, *, text: str) -> Any:
        return self.service.post("firm", path, text, kind=YAML).json()


def told(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, *more: str
) -> str:
    monkeypatch.setattr(quoting, "connect", lambda role: _Answering(service))
    file = folder / "job.yaml"
    file.write_text(JOB)
    with pytest.raises(SystemExit) as ended:
        main(["quote", str(file), *more])
    set_language(None)
    assert not ended.value.code
    return capsys.readouterr().out


def test_the_table_says_when_and_for_how_much_and_what_else_could_be_done(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for _ in range(2):
        service.submit()
    service.services.loop.tick()
    english = told(service, monkeypatch, capsys, tmp_path, "--lang", "en")
    chinese = told(service, monkeypatch, capsys, tmp_path, "--lang", "zh")

    assert "The planner would take Ascend910B3 (ascend)" in english
    assert "[INSUFFICIENT_FREE_DEVICES]" in english
    assert "Accept H800 (h800)" in english
    assert "2 h 0 min earlier, pay ¥9.60 more" in english
    assert "接受 H800（h800）" in chinese
    assert "提前 2 小时 0 分，多付 ¥9.60" in chinese


def test_json_is_the_route_s_own_document(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    document = json.loads(told(service, monkeypatch, capsys, tmp_path, "-o", "json", "--data", "beijing=1GiB"))

    assert (document["version"], document["best"]) == (1, "ascend")
    assert FIRM not in document


def test_describe_shows_the_whole_pending_record(capsys: pytest.CaptureFixture[str]) -> None:
    """Every field that is known, coded and in words; what is unknown is left out."""
    record = {
        "code": "RESERVED",
        "kind": "wait",
        "scope": "h800",
        "needed": 16,
        "available": 24,
        "n_of_m": [],
        "since": "2026-06-01T00:00:00.000Z",
        "next_evaluation": None,
        "earliest_start": "2026-06-01T06:00:00.000Z",
        "position": 1,
        "remedies": [{"code": "WAIT", "facts": {}}],
    }
    set_language("en")
    _tell_pending(record)
    set_language(None)
    shown = capsys.readouterr().out

    for said in ("reserved for an earlier job", "[RESERVED]", "h800", "16", "24", "2026-06-01 14:00:00", "Wait until"):
        assert said in shown
    assert "looked at again" not in shown
