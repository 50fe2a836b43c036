"""Text as a WebSocket frame (RFC 6455 §5.2): final, unmasked as from a server, uncompressed.

Made once for all who get the same text; where a server has no way to take it (`realtime.driver`),
nobody needs it.
"""

from __future__ import annotations

_FINAL_TEXT = b"\x81"


def text_frame(payload: bytes) -> bytes:
    """Return the frame of a text that is UTF-8 already."""
    size = len(payload)
    if size < 126:
        return b"%b%c%b" % (_FINAL_TEXT, size, payload)
    if size < 65536:
        return b"%b\x7e%b%b" % (_FINAL_TEXT, size.to_bytes(2, "big"), payload)
    return b"%b\x7f%b%b" % (_FINAL_TEXT, size.to_bytes(8, "big"), payload)
