"""Sanitize text from outside before it goes into a mail.

Header fields are lines (RFC 5322 §2.2). Python ends a header line wherever `str.splitlines` does,
including at a vertical tab or a form feed, so checking for CR and LF alone lets the rest end the
headers (CWE-93). Mail clients decode encoded words (RFC 2047), which can hide any character.
Terminals interpret control characters, in the body too (CWE-150).
"""

from __future__ import annotations

import re

from realtime.core.url_rules import CONTROL, is_line

_ENCODED_WORD = "=?"
_NOT_OF_BODIES = re.compile(rf"(?![\t\n\r]){CONTROL.pattern}")


def header_text(text: str, limit: int) -> str:
    """Return a text that is safe in an unstructured header field, such as the subject.

    Args:
        text: From anyone. Control characters and white space become single spaces, and the start
            of an encoded word is split so that it shows as it was written.
        limit: Maximum number of characters returned.
    """
    line = " ".join(CONTROL.sub(" ", _without_surrogates(text)).split())
    return line.replace(_ENCODED_WORD, "= ?")[:limit].rstrip()


def body_text(text: str) -> str:
    """Return a text that is safe in a body, without control characters but tabs and line breaks."""
    return _NOT_OF_BODIES.sub(" ", _without_surrogates(text))


def is_address_text(address: str) -> bool:
    """Return whether an address may stand in a header field, provided it is an address.

    The grammar allows control characters in quoted local parts (RFC 5322 §4.1, `obs-qtext`), but
    only attacks use them. Encoded words are forbidden in an address (RFC 2047 §5), yet some mail
    servers decode them, and the mail then goes to another domain.
    """
    return is_line(address) and _ENCODED_WORD not in address


def _without_surrogates(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
