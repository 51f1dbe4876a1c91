"""Amounts in capital characters: the regulation's own examples, both sides of each rule, and reading them back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.capital import LARGEST_FEN, PREFIX, capital_amount

DIGITS = "零壹贰叁肆伍陆柒捌玖"
SMALL = {"拾": 10, "佰": 100, "仟": 1000}


def read(text: str) -> int:
    """Fen of a capital amount, by a reader of its own: sections of four figures under 万 and 亿."""
    found = re.fullmatch(r"人民币(?:(.+?)元)?(?:零)?(?:(.)角)?(?:零)?(?:(.)分)?(?:整)?", text)
    assert found, text
    yuan, jiao, cents = found.groups()
    return whole(yuan or "零") * 100 + DIGITS.index(jiao or "零") * 10 + DIGITS.index(cents or "零")


def whole(text: str) -> int:
    for mark, size in (("亿", 10**8), ("万", 10**4)):
        if mark in text:
            high, _, low = text.rpartition(mark)
            return whole(high) * size + (whole(low) if low else 0)
    total, digit = 0, 0
    for sign in text:
        if sign in SMALL:
            total, digit = total + digit * SMALL[sign], 0
        else:
            digit = DIGITS.index(sign)
    return total + digit


@pytest.mark.parametrize(
    ("fen", "said"),
    [
        # Article 3's examples; where it allows two spellings, the one without 零.
        (140_950, "壹仟肆佰零玖元伍角整"),
        (600_714, "陆仟零柒元壹角肆分"),
        (168_032, "壹仟陆佰捌拾元叁角贰分"),
        (10_700_053, "壹拾万柒仟元伍角叁分"),
        (1_640_902, "壹万陆仟肆佰零玖元零贰分"),
        (32_504, "叁佰贰拾伍元零肆分"),
        # 整 after 元 and after 角, not after 分.
        (100, "壹元整"),
        (110, "壹元壹角整"),
        (111, "壹元壹角壹分"),
        # 零 between 元 and 分 only where 角 is nought, and only where there are 元.
        (101, "壹元零壹分"),
        (1, "壹分"),
        (10, "壹角整"),
        (11, "壹角壹分"),
        (0, "零元整"),
        # A run of noughts is one 零; 拾 alone is 壹拾.
        (1_000, "壹拾元整"),
        (100_100, "壹仟零壹元整"),
        (1_000_100, "壹万零壹元整"),
        (10_000_000_100, "壹亿零壹元整"),
        (10_010_000_000, "壹亿零壹拾万元整"),
        (2_000_000_000, "贰仟万元整"),
        (10_000_000_000, "壹亿元整"),
        (1_000_000_000_000_00, "壹万亿元整"),
    ],
)
def test_amounts_are_written_as_the_regulation_says(fen: int, said: str) -> None:
    assert capital_amount(fen) == PREFIX + said


AMOUNTS = st.one_of(
    st.integers(0, LARGEST_FEN),
    st.lists(st.sampled_from("0012345678900"), min_size=1, max_size=15).map(lambda digits: int("".join(digits))),
)


@settings(max_examples=400)
@given(fen=AMOUNTS)
def test_an_amount_reads_back_and_keeps_every_rule(fen: int) -> None:
    said = capital_amount(fen)

    assert read(said) == fen
    assert said.endswith("整") == (fen % 10 == 0)
    assert ("元零" in said) == (fen >= 100 and fen % 100 // 10 == 0 and fen % 10 != 0)
    assert "零零" not in said
    assert not re.search("零[万亿]|零元.*[角分]|零元.+整|亿万", said)
    assert set(said) <= set(PREFIX + DIGITS + "拾佰仟万亿元角分整")
    assert not re.search("[零民币万亿]拾", said), "ten is 壹拾"


@given(fen=st.integers(10**4, LARGEST_FEN // 100).filter(lambda yuan: yuan % 10_000 and yuan // 1000 % 10 == 0))
def test_a_nought_below_ten_thousand_is_said(fen: int) -> None:
    """壹万零壹: without the 零 it would be heard as 壹万壹(仟)."""
    above = capital_amount(fen * 100).removesuffix("元整")

    assert re.search("[万亿]零", above)


@pytest.mark.parametrize(
    ("fen", "error", "said"),
    [
        (-1, ValueError, "nearest 0"),
        (LARGEST_FEN + 1, ValueError, f"nearest {LARGEST_FEN}"),
        (1.5, TypeError, "whole fen"),
        ("100", TypeError, "'100'"),
        (True, TypeError, "True"),
        (None, TypeError, "None"),
    ],
)
def test_what_is_no_amount_is_refused_with_its_value(fen: object, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        capital_amount(fen)  # type: ignore[arg-type]
