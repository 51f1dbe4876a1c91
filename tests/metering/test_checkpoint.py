"""Checkpoints: seals are cheap, signed and consistent, and whatever is rewritten after one is found and named."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select

from adapters.chain import GENESIS, canonical, digest
from metering import checkpoint, proof
from metering.audit import audit, write_export
from metering.checkpoint import STREAMS, Key, load_key, seal, signed_by
from metering.merkle import EMPTY, consistent, included, leaf_hash, root_of
from metering.proof import prove_consistency, prove_inclusion
from metering.schema import checkpoints, prices
from scheduler.database import Database
from scheduler.refusal import Refusal
from tests.metering.sealing import FILE, LATER, rewrite, sealed_books, settle, tamper, verdict, writing
from tests.platform import job_text, make_platform


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sealed_books(tmp_path_factory.mktemp("sealed"))


@pytest.fixture
def copy(sealed: Path, tmp_path: Path) -> Path:
    shutil.copytree(sealed, tmp_path / "copy")
    return tmp_path / "copy"


# --- sealing ----------------------------------------------------------------------------------------------------------


def test_an_honest_history_with_seals_holds(copy: Path) -> None:
    report = audit(copy / "yisuan.db")

    assert report.ok, [one for one in report.laws if not one.ok]


def test_a_seal_says_what_the_definition_says(copy: Path) -> None:
    key = load_key(copy / "checkpoint.key")
    with writing(copy) as tx:
        found = seal(tx, copy / FILE, LATER, "hour", key)
        for stream, table in STREAMS.items():
            stored = [row.hash for row in tx.execute(select(table.c.hash).order_by(table.c.seq))]
            root = root_of(leaf_hash(bytes.fromhex(one)) for one in stored)
            assert found["roots"][stream] == {
                "size": len(stored), "head": stored[-1] if stored else GENESIS, "root": root.hex()
            }  # fmt: skip
    leaves = [leaf_hash(canonical([s, *found["roots"][s].values()])) for s in sorted(found["roots"])]
    line = checkpoint.read_file(copy / FILE)[-1]

    assert found["merkle_root"] == root_of(leaves).hex() == line["merkle_root"]
    assert (line["reason"], line["key"], found["key"]) == ("hour", key.public, key.public)
    assert signed_by(line, key.public)
    assert line["sha256"] == digest({k: v for k, v in line.items() if k != "sha256"})
    assert any(found["roots"][s]["root"] == EMPTY.hex() for s in STREAMS), "an empty stream has the empty tree's root"


def test_a_seal_reads_only_the_records_after_the_last_one(copy: Path) -> None:
    key = load_key(copy / "checkpoint.key")
    database = Database(f"sqlite:///{copy / 'yisuan.db'}")
    asked: list[tuple[str, Any]] = []
    with database.write() as tx:
        event.listen(tx.engine, "before_cursor_execute", lambda *a: asked.append((a[2], a[3])))
        seal(tx, None, LATER, "hour", key)
    database.close()
    starts = {sql.split("FROM ")[1].split()[0]: at[0] for sql, at in asked if ".seq > ?" in sql}

    assert starts["prices"] == 2
    assert starts["transfers"] > 10
    assert min(at for table, at in starts.items() if table in ("usage_records", "settlements")) == 2


@pytest.mark.parametrize("forged", ["frontiers", "heads", "roots", "signature"])
def test_a_forged_frontier_is_not_built_upon(copy: Path, forged: str) -> None:
    """Whoever changes what the last seal kept gets no signature under it: the roots are taken from the records again."""
    key = load_key(copy / "checkpoint.key")
    connection = sqlite3.connect(copy / "yisuan.db")
    number, text = connection.execute("SELECT id, heads FROM checkpoints ORDER BY id DESC LIMIT 1").fetchone()
    document = json.loads(text)
    wrong = {
        "frontiers": ["11" * 32] * len(document["frontiers"]["transfers"]),
        "roots": "22" * 32,
        "heads": [3, "33" * 32],
    }
    if forged == "signature":
        document["signature"] = "00" * 64
    else:
        document[forged]["transfers"] = wrong[forged]
    connection.execute("UPDATE checkpoints SET heads = ? WHERE id = ?", (canonical(document).decode(), number))
    connection.commit()
    connection.close()
    with writing(copy) as tx:
        found = seal(tx, None, LATER, "hour", key)["roots"]["transfers"]["root"]
        honest = root_of(leaf for _, leaf in checkpoint.leaves(tx, "transfers", 0, 10**6))

    assert found == honest.hex()


def test_a_stream_with_a_hole_is_not_sealed_and_nothing_is_written(copy: Path) -> None:
    key = load_key(copy / "checkpoint.key")
    tamper(copy, "DELETE FROM checkpoints", "DELETE FROM prices WHERE seq = 2")
    before = (copy / FILE).read_bytes()
    with writing(copy) as tx:
        with pytest.raises(checkpoint.BrokenStream, match="prices:2 is missing"):
            seal(tx, copy / FILE, LATER, "hour", key)
        assert tx.execute(select(checkpoints)).first() is None
    assert (copy / FILE).read_bytes() == before


def test_keeping_seals_when_an_hour_passed_and_something_moved_and_else_writes_heads(tmp_path: Path) -> None:
    platform = make_platform(tmp_path)
    key = load_key(tmp_path / "checkpoint.key")

    def keep(seconds: float) -> list[str]:
        platform.clock.advance(seconds)
        platform.beat()
        with platform.database.write() as tx:
            checkpoint.keep(tx, tmp_path / FILE, platform.clock.now(), key)
        return [
            "key" if "introduces" in x else "seal" if "seal" in x else "head"
            for x in checkpoint.read_file(tmp_path / FILE)
        ]

    assert keep(5) == ["key", "seal"]
    assert keep(4000) == ["key", "seal"], "nothing moved"
    settle(platform, "a", "H800:8")
    assert keep(0)[2:] == ["seal"]
    platform.submit("b", job_text("b"))
    assert keep(5)[3:] == ["head"]
    assert keep(3599)[4:] == ["seal"]
    tamper(tmp_path, "DELETE FROM prices WHERE seq = 1")
    settle(platform, "c", "H800:8")
    with platform.database.write() as tx:
        tx.exec_driver_sql("DELETE FROM checkpoints")
    assert keep(0)[5:] == ["head"], "what cannot be sealed still gets its heads"


# --- what is rewritten --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "seq", "values"),
    [
        ("transfers", 3, {"amount_fen": 1}),
        ("usage_records", 1, {"price_fen_per_device_hour": 1}),
        ("facts", 1, {"evidence": "{}\n"}),
        ("settlements", 2, {"payable_fen": 0}),
        ("settlement_lines", 1, {"deduction_fen": 0}),
        ("rights", 1, {"claimed_by": "x"}),
    ],
)
def test_a_chain_that_is_rewritten_as_a_whole_is_found_by_the_checkpoints(
    copy: Path, table: str, seq: int, values: dict[str, Any]
) -> None:
    rewrite(copy, table, seq, **values)
    tamper(copy, "DELETE FROM checkpoints")
    law = verdict(copy)

    assert not law.ok
    assert law.record is not None
    assert law.record.startswith(f"{table}:")
    assert int(law.record.split(":")[1]) >= seq


def test_a_record_whose_hash_alone_was_altered_is_not_under_the_root(copy: Path) -> None:
    """Head hashes see only the record at the head; the root sees every one."""
    tamper(copy, "UPDATE transfers SET hash = lower(hex(randomblob(32))) WHERE seq = 2")
    law = verdict(copy)

    assert not law.ok
    assert law.record is not None
    assert law.problem is not None
    assert law.record.startswith("transfers:")
    assert "Merkle root" in law.problem


@pytest.mark.parametrize("table", ["transfers", "facts", "job_events"])
def test_a_tail_cut_off_after_a_seal_is_found_and_the_first_missing_record_named(copy: Path, table: str) -> None:
    last = sqlite3.connect(copy / "yisuan.db").execute(f"SELECT max(seq) FROM {table}").fetchone()[0]  # noqa: S608
    tamper(
        copy,
        f"DELETE FROM {table} WHERE seq >= {last - 1}",  # noqa: S608
        f"UPDATE chain_heads SET seq = {last - 2}, hash = (SELECT hash FROM {table} ORDER BY seq DESC LIMIT 1) "  # noqa: S608
        f"WHERE stream = '{table}'",
        "DELETE FROM checkpoints",
    )

    assert verdict(copy).record == f"{table}:{last - 1}"


def edit_line(path: Path, edit: dict[str, Any], resign: Key | None = None) -> None:
    lines = checkpoint.read_file(path)
    body = {k: v for k, v in {**lines[-1], **edit}.items() if k != "sha256"}
    if resign is not None:
        body["key"] = resign.public
        body["signature"] = resign.sign({name: body[name] for name in checkpoint.SIGNED})
    lines[-1] = {**body, "sha256": digest(body)}
    path.write_bytes(b"".join(canonical(line) + b"\n" for line in lines))


@pytest.mark.parametrize(
    "edit", [{"reason": "x"}, {"at_ms": 5}, {"signature": "00" * 64}, {"roots": {}}, {"merkle_root": "00" * 32}]
)
def test_an_edited_seal_in_the_file_is_named_by_its_line(copy: Path, edit: dict[str, Any]) -> None:
    edit_line(copy / FILE, edit)
    law = verdict(copy)

    assert (law.ok, law.record) == (False, f"{FILE}:{len(checkpoint.read_file(copy / FILE))}")


def test_a_seal_by_another_key_is_a_finding_even_with_a_good_signature(copy: Path) -> None:
    edit_line(copy / FILE, {}, resign=load_key(copy / "another"))
    law = verdict(copy)

    assert not law.ok
    assert law.problem is not None
    assert "not signed by the platform's key" in law.problem


def test_a_second_key_in_the_file_is_a_finding(copy: Path) -> None:
    body = {"at_ms": 1, "heads": {}, "introduces": load_key(copy / "another").public}
    with (copy / FILE).open("ab") as file:
        file.write(canonical({**body, "sha256": digest(body)}) + b"\n")

    assert "introduces another key" in (verdict(copy).problem or "")


def test_a_line_torn_by_a_power_cut_spoils_neither_what_was_nor_what_comes(copy: Path) -> None:
    whole = len(checkpoint.read_file(copy / FILE))
    with (copy / FILE).open("ab") as file:
        file.write(b'{"at_ms":17,"hea')
    assert verdict(copy).ok
    with writing(copy) as tx:
        assert checkpoint.take(tx, copy / FILE, LATER)

    assert len(checkpoint.read_file(copy / FILE)) == whole + 1
    assert verdict(copy).ok


def test_an_export_with_seals_is_audited_like_its_database(copy: Path) -> None:
    with writing(copy) as tx:
        write_export(tx, copy / "export.jsonl")
    assert audit(copy / "export.jsonl").ok
    lines = (copy / "export.jsonl").read_text().splitlines()
    (copy / "export.jsonl").write_text("\n".join(x for x in lines if '"seq":3,' not in x) + "\n")

    assert not audit(copy / "export.jsonl").ok


# --- proofs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [proof.BLOCK, 1])
def test_every_sealed_record_of_every_stream_has_a_proof_that_verifies(
    copy: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """block: from which level on subtrees are remembered; at 1 nearly every node of the proofs is."""
    monkeypatch.setattr(proof, "BLOCK", block)
    proved = 0
    with writing(copy) as tx:
        for stream, table in STREAMS.items():
            for row in tx.execute(select(table.c.seq, table.c.hash)).all():
                found = prove_inclusion(tx, stream, row.seq)
                if isinstance(found, Refusal):
                    assert (stream, row.seq, found.code) == ("prices", 3, "NOT_SEALED_YET")
                    assert found.facts["sealed"] == 2
                    continue
                path, root = [bytes.fromhex(h) for h in found["path"]], bytes.fromhex(found["root"])
                leaf = leaf_hash(bytes.fromhex(row.hash))
                assert included(leaf, found["leaf_index"], found["size"], path, root)
                assert not included(leaf_hash(b"x"), found["leaf_index"], found["size"], path, root)
                assert found["checkpoint"]["roots"][stream] == found["root"]
                assert signed_by(found["checkpoint"], found["checkpoint"]["key"])
                proved += 1
    assert proved > 30


def test_any_two_seals_are_consistent_and_a_rewritten_one_is_not(copy: Path) -> None:
    with writing(copy) as tx:
        new, old = [number for number, _ in checkpoint.seals(tx)]
        found = prove_consistency(tx, old, None)
        same = prove_consistency(tx, old, old)
    assert isinstance(found, dict)
    assert isinstance(same, dict)
    assert found["to"]["id"] == new
    grew = 0
    for stream, one in found["streams"].items():
        roots = [bytes.fromhex(found[end]["roots"][stream]) for end in ("from", "to")]
        path = [bytes.fromhex(step) for step in one["path"]]
        assert consistent(one["from"], roots[0], one["to"], roots[1], path)
        if one["from"] and one["from"] != one["to"]:
            assert not consistent(one["from"], leaf_hash(b"x"), one["to"], roots[1], path)
            grew += 1
    assert grew > 3
    assert all(one["path"] == [] for one in same["streams"].values())


@pytest.mark.parametrize(
    ("stream", "seq", "code"),
    [("nothing", 1, "STREAM_UNKNOWN"), ("transfers", 0, "RECORD_UNKNOWN"), ("transfers", 10**6, "RECORD_UNKNOWN"),
     ("prices", 3, "NOT_SEALED_YET")],
)  # fmt: skip
def test_what_has_no_proof_is_refused_with_a_code(copy: Path, stream: str, seq: int, code: str) -> None:
    with writing(copy) as tx:
        found = prove_inclusion(tx, stream, seq)

    assert isinstance(found, Refusal)
    assert found.code == code


def test_consistency_is_asked_of_two_seals_in_order(copy: Path) -> None:
    with writing(copy) as tx:
        new, old = [number for number, _ in checkpoint.seals(tx)]
        plain = old - 1
        refusals = [prove_consistency(tx, *ends) for ends in ((plain, None), (old, 999), (new, old))]

    assert [r.code for r in refusals if isinstance(r, Refusal)] == [
        "CHECKPOINT_UNKNOWN", "CHECKPOINT_UNKNOWN", "CHECKPOINT_ORDER"
    ]  # fmt: skip


# --- the example in the documents -------------------------------------------------------------------------------------


def verify_offline(directory: Path, given: dict[str, Any], script: Path) -> subprocess.CompletedProcess[str]:
    (directory / "proof.json").write_text(json.dumps(given), encoding="utf-8")
    names = [str(directory / name) for name in ("proof.json", "export.jsonl", FILE)]
    return subprocess.run(
        [sys.executable, str(script), *names], capture_output=True, text=True, check=False, cwd=directory
    )


def test_the_offline_verifier_of_the_documents_accepts_the_honest_and_refuses_the_rest(copy: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "evidence.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    script = copy / "verify.py"
    script.write_text(program, encoding="utf-8")
    with writing(copy) as tx:
        write_export(tx, copy / "export.jsonl")
        proofs = {s: prove_inclusion(tx, s, 2) for s in ("transfers", "settlement_lines", "facts", "prices")}
    for stream, given in proofs.items():
        assert isinstance(given, dict)
        done = verify_offline(copy, given, script)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{stream}:2 is record 2 of ")
    good = proofs["transfers"]
    assert isinstance(good, dict)
    forgeries = [
        {**good, "seq": 3},
        {**good, "size": good["size"] + 1},
        {**good, "path": good["path"][:-1]},
        {**good, "path": [*good["path"][:-1], "00" * 32]},
        {**good, "checkpoint": {**good["checkpoint"], "merkle_root": "00" * 32}},
    ]
    for forged in forgeries:
        assert verify_offline(copy, forged, script).returncode != 0
    export = (copy / "export.jsonl").read_text(encoding="utf-8")
    (copy / "export.jsonl").write_text(
        export.replace('"amount_fen":10000000000', '"amount_fen":10000000001'), encoding="utf-8"
    )
    assert "the record was altered" in verify_offline(copy, good, script).stderr
    (copy / "export.jsonl").write_text(export, encoding="utf-8")
    edit_line(copy / FILE, {"reason": "x"})
    assert "InvalidSignature" in verify_offline(copy, good, script).stderr


def test_the_fixture_leaves_a_price_unsealed(sealed: Path) -> None:
    """What the refusals above rest on."""
    database = Database(f"sqlite:///{sealed / 'yisuan.db'}")
    with database.read() as tx:
        assert len(tx.execute(select(prices.c.seq)).all()) == 3
    database.close()
