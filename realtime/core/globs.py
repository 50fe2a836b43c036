"""Patterns with ``*``, matched in time linear in the text, whatever the pattern.

Patterns come from outside: a request to ``/api/channels``, rules for CloudEvents. Translated to
regular expressions they backtrack: ``*a*a*a*a*b`` against 200 times ``a`` takes seconds (CWE-1333).
So a pattern is a set of positions instead, one bit each, which every character of the text moves
all at once: the Shift-And algorithm (Baeza-Yates and Gonnet 1992). It never backtracks, so each
character is read exactly once.

No clock and no I/O here. The callers bound the length of both patterns and texts.
"""

from __future__ import annotations

ANY = "*"


class Glob:
    """A pattern in which ``*`` matches any text, including none; all else matches itself."""

    __slots__ = ("_moves", "_other", "_stays", "_whole")

    def __init__(self, pattern: str, *, one: str = "") -> None:
        """Parse the pattern.

        Args:
            pattern: The pattern.
            one: The wildcard that matches exactly one character; empty for none.
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
        """By character: the positions that it matches."""
        self._other = anything
        self._stays = stays
        """The positions of a ``*``, which match any text."""
        self._whole = 1 << place
        """The position after the last character."""

    def fits(self, text: str) -> bool:
        """Return whether the pattern matches the whole text; reads each character once."""
        moves, other, stays = self._moves, self._other, self._stays
        here = 1
        for character in text:
            here = (here & moves.get(character, other)) << 1 | here & stays
            if not here:
                return False
        return bool(here & self._whole)
