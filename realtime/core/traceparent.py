"""The trace context of a publisher: the header ``traceparent`` of W3C Trace Context, as text.

Anybody may send the header, so only version 00 with ids that are not zero is used (§3.2.2). All
else is ignored, as the specification demands, however long it is.
"""

from __future__ import annotations

import re

TRACEPARENT_CHARACTERS = 55
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def read_traceparent(text: str) -> str:
    """Return a text if it is a traceparent, else an empty text."""
    if len(text) != TRACEPARENT_CHARACTERS or _TRACEPARENT.fullmatch(text) is None:
        return ""
    return text
