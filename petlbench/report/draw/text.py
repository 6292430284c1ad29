"""Texts of figures, in characters that their font has."""

import unicodedata
from functools import cache

from anyascii import anyascii
from matplotlib import font_manager

from petlbench.errors import printable
from petlbench.report.draw.style import FONT

LONGEST = 48  # characters of a name; a longer one would leave no room for the chart
RIGHT_TO_LEFT = ("R", "AL")  # matplotlib would write these from left to right


def drawable(text: str, longest: int = LONGEST) -> str:
    """Text in one line, without its middle if it is longer; other scripts are transliterated."""
    known = _characters()
    plain = "".join(
        sign
        if ord(sign) in known and unicodedata.bidirectional(sign) not in RIGHT_TO_LEFT
        else anyascii(sign)
        for sign in printable(text)
    )
    if len(plain) <= longest:
        return plain
    half = (longest - 1) // 2
    return f"{plain[:half]}…{plain[-half:]}"  # names often differ in their ends


@cache
def _characters() -> frozenset[int]:
    """The characters of the font of all figures."""
    font = font_manager.get_font(font_manager.findfont(FONT))
    return frozenset(font.get_charmap())
