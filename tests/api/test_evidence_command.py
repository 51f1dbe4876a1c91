"""`yisuan evidence`: levels listed and explained, a node's answer from the node itself, decisions from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapters import pci
from adapters.witness import load_key
from api.commands import evidence as command
from api.commands.agent import ENROLLED
from tests.api.service import Service
from tests.api.test_evidence import NODE, RESULT, accelerator, bus, card, enrol, level
from tests.api.test_evidence import service as service
from tests.api.test_programme_commands import (  # noqa: F401 - fixtures
    Run,
    _plain_environment,
    exit_of,
    facts_of,
    run,
    written,
)


def test_levels_are_listed_and_one_is_explained(run: Run, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    assert run("auditor", "evidence", "list", "-o", "json") == 0
    assert {row["level"] for row in facts_of(capsys)} == {0, 1}
    assert run("auditor", "evidence", "show", "VDIE-0", "--lang", "en") == 0
    told = capsys.readouterr().out
    for part in ("VDIE-0", "L1", "TOOL_REPORTED", "zone-legal", "billed as domestic", "asks for L0"):
        assert part in told
    assert run("auditor", "evidence", "show", "VDIE-0", "-o", "json") == 0
    assert facts_of(capsys)["register"]["determined_by"] == "platform operator"
    assert run("auditor", "evidence", "show", "none") == 1


def test_a_node_answers_from_where_it_stands(
    run: Run,  # noqa: F811
    service: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the host's adapters and bus say is signed with the key that `yisuan agent --enrol` made."""

    class Cards:
        vendor = "ascend"

        def probe(self) -> Any:
            return type("Probe", (), {"available": True})

        def inventory(self) -> Any:
            return [accelerator(card(0)), accelerator(card(1))]

    monkeypatch.setattr("adapters.registry.vendors", lambda: ("ascend",))
    monkeypatch.setattr("adapters.registry.load_adapter", lambda _: Cards())
    monkeypatch.setattr(pci, "scan", lambda: (bus(0), bus(1)))
    monkeypatch.setattr(pci, "is_bare_metal", lambda: True)

    assert run("agent", "evidence", "answer", NODE, "--directory", str(tmp_path), "-o", "json", "--lang", "en") == 0
    said = capsys.readouterr()
    assert "unsigned" in said.err
    assert [row["level"] for row in json.loads(said.out)] == [2, 2]
    enrol(service, NODE, load_key(tmp_path))
    (tmp_path / ENROLLED).write_text("{}")
    assert run("agent", "evidence", "answer", NODE, "--directory", str(tmp_path), "-o", "json") == 0
    assert [row["level"] for row in facts_of(capsys)] == [3, 3]


def test_decisions_rest_on_files_and_reasons(
    run: Run,  # noqa: F811
    service: Service,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import hashlib

    paper = written(tmp_path / "audit.pdf", "seen")
    audit = (
        "audit",
        "VDIE-0",
        paper,
        "--reason",
        "site visit",
        "--decider",
        "Li",
        "--since",
        "2026-05-01T00:00:00+08:00",
    )
    assert run("operator", "evidence", *audit) == 0
    assert level(service, "VDIE-0") == (5, "AUDITED")
    kept = service.get("auditor", "/v1/evidence/VDIE-0").json()["records"][0]
    assert kept["document_sha256"] == hashlib.sha256(b"seen").hexdigest()
    assert run("operator", "evidence", "withdraw", "VDIE-0", str(kept["seq"]), "--reason", "wrong card") == 0
    assert level(service, "VDIE-0") == (1, "TOOL_REPORTED")
    assert run("operator", "evidence", "move", "VDIE-0", "real-2", "--reason", "swap") == 0
    assert run("operator", "evidence", "clear", "VDIE-0", "--reason", "looked") == 0
    assert run("operator", "evidence", "bench", "VDIE-0", written(tmp_path / "b.json", RESULT)) == 0
    capsys.readouterr()
    assert run("operator", "evidence", "challenge", NODE, "-o", "json") == 0
    assert len(facts_of(capsys)["nonce"]) == 64


@pytest.mark.parametrize(
    "arguments",
    [
        ("shwo", "x"),
        ("show",),
        ("clear", "VDIE-0"),
        ("withdraw", "VDIE-0", "x", "--reason", "r"),
        ("bench", "VDIE-0", "/nowhere.json"),
        ("audit", "VDIE-0", "/nowhere.pdf", "--reason", "r", "--decider", "d", "--since", "2026-05-01T00:00:00Z"),
        ("list", "--reason", "r"),
    ],
)
def test_bad_input_exits_2_before_anything_is_sent(
    arguments: tuple[str, ...],
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("the server was asked")

    monkeypatch.setattr(command, "connect", asked)
    assert run("operator", "evidence", *arguments) == 2
    assert capsys.readouterr().err


def test_what_the_platform_asked_by_itself_is_listed(
    run: Run,  # noqa: F811
    service: Service,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tests.api.test_evidence import beat

    assert beat(service, NODE, card(0), card(1)).json()["challenge"]["nonce"]
    assert run("auditor", "evidence", "asked", NODE, "-o", "json") == 0
    assert [(one["kind"], one["outcome"]) for one in facts_of(capsys) if one["kind"] == "statement"] == [
        ("statement", None)
    ]
    assert run("auditor", "evidence", "asked", NODE, "--lang", "en") == 0
    assert "statement" in capsys.readouterr().out
