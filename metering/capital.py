"""Capital: an amount of money in the capital characters (大写金额) that Chinese vouchers and slips must carry. Pure.

Source: People's Bank of China, 正确填写票据和结算凭证的基本规定 (annex 1 to 支付结算办法, 银发〔1997〕393号), articles 1, 2 and 3.
Article 3 (三) leaves 零 to the writer where 万位 or 元位 is 0 before a figure that is not; here it is not written there.
"""

from __future__ import annotations

import cn2an

PREFIX = "人民币"  # article 2: the currency stands before the figures, with no space between
LARGEST_FEN = 2**53 - 1  # as every amount of a case (metering/case_format.py)


def capital_amount(fen: int) -> str:
    """The amount as 人民币…元…角…分; 整 after 元 and after 角, never after 分 (article 1); 0 is 人民币零元整.

    零 stands once for any run of noughts within 元 (article 3 一, 二) and between 元 and 分 where 角 is nought (四).
    ValueError for a negative amount, which no voucher carries, and above 2^53 - 1 fen; TypeError for anything but int.
    """
    if isinstance(fen, bool) or not isinstance(fen, int):
        raise TypeError(f"fen: {fen!r} is not an integer; amounts are whole fen")
    if not 0 <= fen <= LARGEST_FEN:
        raise ValueError(f"fen: {fen} is outside 0 to {LARGEST_FEN}; nearest {min(max(fen, 0), LARGEST_FEN)}")
    yuan, rest = divmod(fen, 100)
    jiao, cents = divmod(rest, 10)
    said = str(cn2an.an2cn(f"{yuan}.{rest:02d}", "rmb"))
    return PREFIX + (said + "整" if jiao and not cents else said)
