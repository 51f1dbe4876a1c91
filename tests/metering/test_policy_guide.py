"""docs/policy.md does what it says: each of its blocks is applied to a copy, and usage settled before and after."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from metering.case import settle_document
from metering.parameters import HERE, ParameterError, Registry, load_policies
from metering.parameters.description import describe
from metering.parameters.frozen import FILE, changes, read_baseline, wanting_people
from tests.metering.cases import POLICY, REGISTRY, RULES, case, entry

GUIDE = Path(__file__).parents[2] / "docs" / "policy.md"
BLOCKS = re.findall(r"```yaml\n# (\S+)\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
RATE, BUDGET, END, OVERLAY = BLOCKS
NOW = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(HERE, tmp_path / "parameters"))


def apply(directory: Path, block: tuple[str, str]) -> Registry:
    """The block in the place of the key it names, or as a file of its own."""
    name, text = block
    file = directory / name
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    else:
        [new] = yaml.safe_load(text)
        items = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert new["key"] in {item["key"] for item in items}
        kept = [new if item["key"] == new["key"] else item for item in items]
        file.write_text(yaml.safe_dump(kept), encoding="utf-8")
    return load_policies(directory)


def settled(registry: Registry, *usage: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return settle_document(json.dumps(case(*usage, **parts)), registry, RULES)


def over(midnight: str, **changes: Any) -> dict[str, Any]:
    """An hour before and an hour after a midnight in Beijing, at 10.00 yuan an hour."""
    before = datetime.fromisoformat(f"{midnight}T00:00:00+08:00").timestamp()
    start, end = (datetime.fromtimestamp(before + step, UTC).isoformat() for step in (-3600, 3600))
    return entry(start=start, end=end, **changes)


def drawn(found: dict[str, Any]) -> list[tuple[int, int]]:
    return [(line["rate_bp"], line["deduction_fen"]) for line in found["lines"]]


def test_another_rate_from_a_date(copy: Path) -> None:
    changed = apply(copy, RATE)

    assert drawn(settled(REGISTRY, over("2027-01-01"))) == [(4000, 400), (4000, 400)], "cut at New Year as ever"
    assert drawn(settled(changed, over("2027-01-01"))) == [(4000, 400), (3500, 350)]
    before = over("2026-12-31")
    assert {**settled(REGISTRY, before), "bundle_sha256": ""} == {**settled(changed, before), "bundle_sha256": ""}


def test_a_years_budget(copy: Path) -> None:
    changed = apply(copy, BUDGET)
    big = over("2027-02-01", price_fen_per_device_hour=5_000_000_000)
    rooms = {"firm": {"2027": 10**12}}

    assert settled(REGISTRY, big, rooms=rooms)["totals"]["deduction_fen"] == 4_000_000_000
    after = settled(changed, big, rooms=rooms)
    assert (after["totals"]["deduction_fen"], after["lines"][0]["reasons"]) == (2_500_000_000, ["POOL_EXHAUSTED"])
    assert changed.policy(POLICY).pool_fen == {**REGISTRY.policy(POLICY).pool_fen, 2027: 2_500_000_000}


def test_an_earlier_end(copy: Path) -> None:
    changed = apply(copy, END)

    assert drawn(settled(REGISTRY, over("2027-02-01"))) == [(4000, 800)]
    assert drawn(settled(changed, over("2027-02-01"))) == [(4000, 400), (0, 0)]


@pytest.mark.parametrize("block", BLOCKS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(BLOCKS)])
def test_none_of_them_touches_what_has_begun(copy: Path, block: tuple[str, str]) -> None:
    changed = apply(copy, block)

    assert changes(changed, read_baseline(copy / FILE), NOW) == ()
    assert wanting_people(changed) == ()


# --- overlays -----------------------------------------------------------------------------------------------------


def test_a_higher_level_prevails_from_its_date_and_is_cited(copy: Path) -> None:
    changed = apply(copy, OVERLAY)
    found = settled(changed, over("2027-01-01", origin="foreign"))

    assert drawn(found) == [(3000, 300), (2000, 200)]
    assert [line["clauses"] for line in found["lines"]] == [["2.1.1"], ["beijing-2027-1:1"]]
    assert "beijing-2027-1:1" in changed.policy(POLICY).clauses
    assert drawn(settled(changed, over("2027-01-01"))) == [(4000, 400), (4000, 400)], "domestic is not shadowed"


def test_an_overlay_is_part_of_the_hash_of_the_policies_it_applies_to(copy: Path) -> None:
    before, changed = load_policies(copy), apply(copy, OVERLAY)
    hashes = {name: (before.policy(name).bundle_sha256, changed.policy(name).bundle_sha256) for name in before.policies}

    assert {name: one == other for name, (one, other) in hashes.items()} == {POLICY: False, "etown-2024-29": True}
    edited = (copy / OVERLAY[0]).read_text(encoding="utf-8").replace("value: 2000", "value: 2001")
    (copy / OVERLAY[0]).write_text(edited, encoding="utf-8")
    assert load_policies(copy).policy(POLICY).bundle_sha256 not in hashes[POLICY]
    assert load_policies(copy / POLICY).policy(POLICY).bundle_sha256 == load_policies(copy).policy(POLICY).bundle_sha256


def test_the_nation_stands_above_the_city(copy: Path) -> None:
    apply(copy, OVERLAY)
    text = OVERLAY[1].replace("beijing-2027-1", "nation").replace("level: city", "level: national")
    changed = apply(copy, ("overlays/nation.yaml", text.replace("value: 2000", "value: 1000")))

    assert drawn(settled(changed, over("2027-01-01", origin="foreign")))[1] == (1000, 100)
    assert [one.id for one in changed.policy(POLICY).overlays] == ["nation", "beijing-2027-1"]
    assert [one["id"] for one in describe(changed.policy(POLICY))["overlays"]] == ["nation", "beijing-2027-1"]


def test_what_lies_after_an_overlay_is_the_policys_own_again(copy: Path) -> None:
    text = OVERLAY[1].replace("valid_to: 2027-04-01", "valid_to: 2027-02-01")
    changed = apply(copy, (OVERLAY[0], text))

    assert drawn(settled(changed, over("2027-02-01", origin="foreign"))) == [(2000, 200), (3000, 300)]
    rows = changed.policy(POLICY).parameters["compute_voucher.rate_ceiling.foreign"].rows
    assert [(row.value, row.source) for row in rows] == [(3000, POLICY), (2000, "beijing-2027-1"), (3000, POLICY)]
    assert len(changed.policy(POLICY).own["compute_voucher.rate_ceiling.foreign"].rows) == 1


def test_an_overlay_can_end_the_term(copy: Path) -> None:
    text = (
        OVERLAY[1]
        .replace("compute_voucher.rate_ceiling.foreign", "policy.in_force")
        .replace("unit: basis_point", "unit: boolean")
        .replace("value: 2000", "value: false")
        .replace("valid_to: 2027-04-01", "valid_to: null")
    )

    lines = settled(apply(copy, (OVERLAY[0], text)), over("2027-01-01"))["lines"]
    assert [line["reasons"] for line in lines] == [[], ["POLICY_NOT_IN_FORCE"]]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("level: city", "level: provincial", "'provincial' is not one of national, city"),
        ("level: city", "level: citi", "nearest is 'city'"),
        ("applies_to: [etown-2024-10]", "applies_to: [etown-2024-1O]", "nearest is 'etown-2024-10'"),
        ("id: beijing-2027-1\nnumber", "id: beijing-2027-2\nnumber", "in the file"),
        ("compute_voucher.rate_ceiling.foreign", "compute_voucher.rate_ceiling.foreing", "nearest is"),
        ('clause: "1"', 'clause: "2"', "'2' is not one of 1"),
        ("policy: beijing-2027-1, ", "policy: etown-2024-10, ", "'etown-2024-10' is not one of beijing-2027-1"),
        ("zone: Asia/Shanghai", "zone: Asia/Peking", "time zone"),
        ("issuer: an invented issuer\n", "", "key 'issuer' is missing"),
        ("approved_by: zone-legal", "approved_by: zone-operator", "another one approves"),
    ],
)
def test_an_overlay_is_refused_for(copy: Path, old: str, new: str, said: str) -> None:
    assert old in OVERLAY[1]
    with pytest.raises(ParameterError) as refused:
        apply(copy, (OVERLAY[0], OVERLAY[1].replace(old, new)))

    assert said in str(refused.value)
    assert "beijing-2027-1.yaml" in str(refused.value)


def test_two_of_one_level_may_not_say_two_things_at_once(copy: Path) -> None:
    apply(copy, OVERLAY)
    with pytest.raises(ParameterError, match="'beijing-2027-1' of the same level 'city' sets it at the same time"):
        apply(copy, ("overlays/other.yaml", OVERLAY[1].replace("beijing-2027-1", "other")))
    later = OVERLAY[1].replace("beijing-2027-1", "other").replace("valid_from: 2027-01-01", "valid_from: 2027-04-01")
    (copy / "overlays" / "other.yaml").unlink()
    apply(copy, ("overlays/other.yaml", later.replace("valid_to: 2027-04-01", "valid_to: 2027-05-01")))


def test_a_key_the_policy_lacks_cannot_be_shadowed(copy: Path) -> None:
    text = (
        OVERLAY[1]
        .replace("[etown-2024-10]", "[etown-2024-29]")
        .replace("compute_voucher.rate_ceiling.foreign", "model_voucher.rate")
    )
    with pytest.raises(ParameterError, match="etown-2024-29 has no such key"):
        apply(copy, (OVERLAY[0], text))


def test_an_overlay_awaiting_confirmation_shadows_nothing(copy: Path) -> None:
    text = OVERLAY[1].replace("status: in_force", "status: awaiting_confirmation")

    assert drawn(settled(apply(copy, (OVERLAY[0], text)), over("2027-01-01", origin="foreign")))[1] == (3000, 300)
