"""Patterns with ``*`` that take as long as the text they are held against, whatever they look like.

Patterns come from outside: a request to ``/api/channels``, rules for CloudEvents. As regular
expressions they backtrack: ``*a*a*a*a*b`` against 200 times ``a`` takes seconds (CWE-1333). So a
pattern is a set of places instead, of which each character of the text moves all at once: one bit
for each place, the Shift-And algorithm (Baeza-Yates and Gonnet 1992). There is no way back, so one
look at each character is all that is ever needed.

No time and no I/O here. Both lengths are bounded where the patterns and texts come from.
"""

from __future__ import annotations

ANY = "*"


class Glob:
    """What a pattern stands for: ``*`` is any text, also none; all else is itself."""

    __slots__ = ("_moves", "_other", "_stays", "_whole")

    def __init__(self, pattern: str, *, one: str = "") -> None:
        """Read the pattern.

        Args:
            pattern: The pattern.
            one: The character that stands for any one character; empty is none.
        """
        places: dict[str, int] = {}
        place = stays = anything = 0
        for character in pattern:
            if character == ANY:
                stays |= 1 << place
                continue
            if character == one:
                anything |= 1 << place
            else:
                places[character] = places.get(character, 0) | 1 << place
            place += 1
        self._moves = {character: bits | anything for character, bits in places.items()}
        """By character: the places at which it is wanted."""
        self._other = anything
        self._stays = stays
        """The places at which any text may stand."""
        self._whole = 1 << place
        """The place behind the last character."""

    def fits(self, text: str) -> bool:
        """Tell whether the pattern stands for all of the text; looks once at each character."""
        moves, other, stays = self._moves, self._other, self._stays
        here = 1
        for character in text:
            here = (here & moves.get(character, other)) << 1 | here & stays
            if not here:
                return False
        return bool(here & self._whole)
