"""Every code has its words, in both languages, with the same facts."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.accelerator import Health, Origin
from api import texts
from metering.ledger import Programme
from metering.lifecycle import MACHINES, SAME
from metering.review import ACTIONS
from scheduler.lease import Cause
from scheduler.lifecycle import Event, State
from scheduler.plan import PendingKind
from scheduler.usage import UsageKind

ROOT = Path(__file__).parents[2]
PACKAGES = ("adapters", "scheduler", "metering", "api")
SETTLEMENT = (
    *("POLICY_NOT_IN_FORCE", "FIRM_NOT_ELIGIBLE", "SITE_NOT_ELIGIBLE"),
    *("FIRM_CAP_REACHED", "POOL_EXHAUSTED", "CONTRACT_CAP_REACHED", "TRANCHE_EXHAUSTED", "POLICY_UNDER_CONFIRMATION"),
    *("PROJECT_CAP_REACHED", "PROGRAMME_FROZEN"),
)
VOUCHER = ("drawn", "declined", "foregone", "unclaimed", "revoked", "frozen")  # VoucherBudget.voucher_state
SUBJECT = {"subject"}  # acts.act adds it to what lifecycle.next_state says


def sources() -> Iterator[tuple[Path, str]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path, path.read_text(encoding="utf-8")


@dataclass(frozen=True)
class Place:
    """Where the source makes a code. facts: the names it gives; None where the source alone does not tell."""

    code: str
    file: str
    facts: frozenset[str] | None


def places() -> Iterator[Place]:
    for path, text in sources():
        tree = ast.parse(text)
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Module)):
            calls = [node for node in within(function) if isinstance(node, ast.Call)]
            for call in calls:
                code = code_of(call)
                if code is not None:
                    yield Place(code, path.name, facts_of(call, function))


def within(function: ast.AST) -> Iterator[ast.AST]:
    """What the function holds, without what functions inside it hold."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef):
            yield child
            yield from within(child)


def code_of(call: ast.Call) -> str | None:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name not in ("Refusal", "Problem", "open_review"):
        return None
    given = [word.value for word in call.keywords if word.arg == "code"]
    given += call.args[1:2] if name == "Problem" else call.args[:1] if name == "Refusal" else []
    return next((str(value.value) for value in given if isinstance(value, ast.Constant)), None)


def facts_of(call: ast.Call, function: ast.AST) -> frozenset[str] | None:
    """The keys of the dict that is handed over, written there or last given to a name in the same function."""
    value = next((word.value for word in call.keywords if word.arg == "facts"), None)
    if value is None and isinstance(call.func, ast.Name) and call.func.id == "Problem" and len(call.args) > 2:
        value = call.args[2]
    if value is None:
        return frozenset()
    if isinstance(value, ast.Name):
        name = value.id
        assigned = [
            node.value
            for node in within(function)
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)
        ]
        value = max((one for one in assigned if one.lineno <= call.lineno), key=lambda one: one.lineno, default=value)
    if not isinstance(value, ast.Dict):
        return None
    keys = [key.value if isinstance(key, ast.Constant) else None for key in value.keys]
    return None if None in keys else frozenset(str(key) for key in keys)


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_both_catalogues_have_the_same_codes_with_the_same_facts() -> None:
    zh, en = texts.catalogue("zh"), texts.catalogue("en")

    assert set(zh) == set(en)
    for code in zh:
        assert placeholders(zh[code]) == placeholders(en[code]), code
        assert all((zh[code], en[code])), code


def test_chinese_texts_are_chinese_and_english_ones_are_not() -> None:
    han = re.compile(r"[一-鿿]")
    without_words = {"page.overview.pflops", "cli.policy.action", "unit.per_device_hour"}

    assert [code for code, said in texts.catalogue("en").items() if han.search(said)] == []
    bare = {code for code, said in texts.catalogue("zh").items() if not han.search(said)}
    assert bare - without_words == set()


def test_every_refusal_and_problem_in_the_source_has_words() -> None:
    """Codes of `Refusal`, `Problem` and `open_review` calls, however they are laid out over lines."""
    found = {(place.code, place.file) for place in places()}

    assert {("JOB_ENDED", "store.py"), ("SAMPLED", "posting.py"), ("KEY_MISSING", "auth.py")} <= found
    assert sorted(item for item in found if not texts.known(item[0])) == []


def test_a_text_asks_only_for_facts_that_every_place_gives() -> None:
    """Else somebody reads a dash where the value was at hand."""
    read = [place for place in places() if place.facts is not None]
    lacking = {
        (place.code, place.file, name)
        for place in read
        for name in placeholders(texts.catalogue("en").get(place.code, "")) - (place.facts or set()) - SUBJECT
    }

    assert len(read) > 100
    assert sorted(lacking) == []


def test_every_pending_code_has_words_and_a_short_form() -> None:
    """Codes of the planner's pending records, and of refusals by the budget, which wait as such."""
    path = ROOT / "scheduler" / "pending.py"
    if not path.exists():
        pytest.skip("scheduler/pending.py is absent")
    source = path.read_text(encoding="utf-8")
    codes = set(re.findall(r'"([A-Z]{3,}(?:_[A-Z]+)+|FRAGMENTED)"', source))
    families = ("pending.{}", "count.{}", "remedy.{}")

    assert codes, "no codes found: has the module changed its spelling?"
    assert sorted(code for code in codes if not any(texts.known(f.format(code)) for f in families)) == []
    reasons = {code.removeprefix("pending.") for code in texts.catalogue("zh") if re.match(r"pending\.[A-Z]", code)}
    assert sorted(code for code in reasons if not texts.known(f"pending.short.{code}")) == []


def test_every_state_event_cause_and_other_closed_word_has_words() -> None:
    wanted = (
        [f"state.{s.value}" for s in State] + [f"event.{e.value}" for e in Event] + [f"cause.{c.value}" for c in Cause]
    )
    wanted += [f"origin.{o.value}" for o in Origin] + [f"health.{h.value}" for h in Health]
    wanted += [f"usage.{k.value}" for k in UsageKind] + [f"pending.kind.{k.value}" for k in PendingKind]
    wanted += list(SETTLEMENT) + list(ACTIONS) + [f"voucher.{word}" for word in VOUCHER]
    wanted += [f"voucher.programme.{p.value}" for p in Programme]

    assert [code for code in wanted if not texts.known(code)] == []


@pytest.mark.parametrize("kind", sorted(MACHINES))
def test_every_state_of_a_case_has_words_of_its_own(kind: str) -> None:
    """A refusal says where the case stands (fact `state`); the catalogue's word is shown instead of the code."""
    stands = {"none"} | {step.after for step in MACHINES[kind].values()} - {SAME}

    for state in stands:
        facts = {"kind": kind, "act": "x", "state": state, "possible": []}
        assert f"“{texts.text(f'state.{state}')}”" in texts.text("ACT_NOT_NOW", facts, "zh")
        assert texts.known(f"state.{state}"), state


def test_every_code_that_pages_and_commands_ask_for_has_words() -> None:
    """Literal codes in templates and in `word("…")`, `title="…"` of the commands."""
    asked: dict[str, str] = {}
    for path in sorted((ROOT / "api" / "pages" / "templates").glob("*.html")):
        for code in re.findall(r"\bt(?:_facts)?\('([a-zA-Z_.]+)'[),]", path.read_text(encoding="utf-8")):
            asked[code] = path.name
    for path in sorted((ROOT / "api" / "commands").glob("*.py")):
        for code in re.findall(r'(?:word\(|title=|code=)\s*"([a-z_]+\.[a-zA-Z_.]+)"', path.read_text(encoding="utf-8")):
            asked[code] = path.name

    assert len(asked) > 100
    assert {code: where for code, where in asked.items() if not texts.known(code) and not code.endswith(".")} == {}


def test_an_unknown_code_reads_as_itself_and_is_an_error_where_it_must_be_known() -> None:
    assert texts.text("NO_SUCH_CODE", {"net_fen": 5}, "en") == "NO_SUCH_CODE (net_fen=¥0.05)"
    with pytest.raises(texts.UnknownText):
        texts.strict_text("NO_SUCH_CODE", {}, "en")
    with pytest.raises(ValueError, match="neither zh nor en"):
        texts.text("yes", {}, "fr")


def test_a_missing_fact_is_a_dash_and_never_zero() -> None:
    assert texts.text("MAX_NET_COST_TOO_LOW", {"net_fen": None}, "en") == "Net cost — is above the limit —"


def test_facts_are_text_and_never_a_template() -> None:
    """A hostile fact must not reach into objects or format again."""
    hostile = "{net_fen.__class__} {0} <b>"

    assert hostile in texts.text("JOB_UNKNOWN", {"job": hostile}, "en")


@given(st.integers(min_value=-(10**18), max_value=10**18))
def test_money_is_exact_to_the_fen(fen: int) -> None:
    shown = texts.money(fen)

    assert re.fullmatch(r"-?¥\d{1,3}(,\d{3})*\.\d{2}", shown)
    assert int(re.sub(r"[¥,.]", "", shown)) == fen


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0%"), (3000, "30%"), (4000, "40%"), (4050, "40.5%"), (4005, "40.05%"), (1, "0.01%"), (10_000, "100%")],
)
def test_basis_points_read_as_percent(value: int, shown: str) -> None:
    assert texts.percent(value) == shown


def test_instants_are_beijing_time_across_midnight() -> None:
    """A UTC afternoon is the next day in Beijing: bills are dated there."""
    assert texts.moment("2026-12-31T15:59:59.999Z") == "2026-12-31 23:59:59"
    assert texts.moment("2026-12-31T16:00:00.000Z") == "2027-01-01 00:00:00"
    assert texts.moment(0) == "1970-01-01 08:00:00"


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (0, "0.0 s"),
        (59_949, "59.9 s"),
        (60_000, "1 min 0 s"),
        (3_599_999, "59 min 59 s"),
        (3_600_000, "1 h 0 min"),
        (90_000_000, "1 d 1 h"),
    ],
)
def test_durations_show_their_two_largest_units(ms: int, shown: str) -> None:
    assert texts.duration(ms, "en") == shown


def test_a_pending_record_reads_as_reason_counts_and_remedies() -> None:
    record = {
        "code": "INSUFFICIENT_FREE_DEVICES",
        "kind": "wait",
        "scope": "ascend",
        "needed": 8,
        "available": 3,
        "n_of_m": [
            {"code": "CARD_TYPE_MISMATCH", "n": 37, "m": 40, "until": None},
            {"code": "NODE_BUSY", "n": 3, "m": 40, "until": "2026-06-01T06:20:00Z"},
        ],
        "remedies": [
            {"code": "ACCEPT_MODEL", "facts": {"model": "H800", "pool": "h800", "price_fen_per_device_hour": 1800}}
        ],
    }

    reason, counts, remedies = texts.pending_words(record, "en")

    assert reason == "Not enough free devices: needs 8, 3 free"
    assert counts == ("37 of 40 nodes: wrong model", "3 of 40 nodes: busy, the first free at 2026-06-01 14:20:00")
    assert remedies == ("Accept H800 (h800, ¥18.00 per device-hour) and start now",)
