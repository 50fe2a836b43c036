"""The fields of an envelope: what nodes tell each other about a publication, and clients never see.

A field is a lower-case letter, ``=`` and 1 to 80 printable ASCII characters; a space follows it::

    t=1790000000000 p=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01

``t`` is when our code accepted the publication, by the publisher's clock, and ``p`` is the trace
context of the publisher; `Publication.tail` writes them. A reader ignores fields it does not know,
so that it delivers what later versions publish; it also ignores an invalid value.
"""

from __future__ import annotations

FIELDS = r"(?:t=([!-~]{1,80}) |p=([!-~]{1,80}) |[a-oq-su-z]=[!-~]{1,80} ){0,8}"
"""Matches all fields; its groups are the values of ``t`` and ``p``. Of two equal letters, the last
one counts."""
TIME_DIGITS = 15
"""Enough for 30,000 years, and few enough for any JavaScript or Lua number."""


def read_time(value: str) -> int:
    """Return the value of ``t`` as a number; 0 if it is invalid."""
    # `isdigit` knows other digits, too, but `FIELDS` admits ASCII only.
    return int(value) if len(value) <= TIME_DIGITS and value.isdigit() else 0
