"""Texts of figures, in characters that their font has."""

import unicodedata
from functools import cache

from anyascii import anyascii
from matplotlib import font_manager

from petlbench.errors import printable
from petlbench.report.draw.style import FONT

RIGHT_TO_LEFT = ("R", "AL")  # matplotlib would write these from left to right


def drawable(text: str) -> str:
    """Text in one line; characters that cannot be drawn are transliterated."""
    known = _characters()
    return "".join(
        sign
        if ord(sign) in known and unicodedata.bidirectional(sign) not in RIGHT_TO_LEFT
        else anyascii(sign)
        for sign in printable(text)
    )


@cache
def _characters() -> frozenset[int]:
    """The characters of the font of all figures."""
    font = font_manager.get_font(font_manager.findfont(FONT))
    return frozenset(font.get_charmap())
