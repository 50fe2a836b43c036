"""The attributes of a CloudEvent: their names, their types, and the rule for each known one.

An error names one attribute and what is wrong with it. Source: CloudEvents spec 1.0.2 §3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

from realtime.core.names import checked_channel, checked_event, checked_fallback
from realtime.core.publication import TAG_VALUE_LIMIT
from realtime.errors import InvalidName, RequestError

VERSION = "1.0"
NAME_LIMIT = 60  # of an attribute; spec §3 advises 20, and a tag prefixes it with `ce-`
REQUIRED = ("specversion", "id", "source", "type")
DATA = ("data", "data_base64")
"""Members of an event in the JSON format that are not attributes."""

is_attribute_name = re.compile(rf"[a-z0-9]{{1,{NAME_LIMIT}}}").fullmatch
_REFERENCE = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")  # RFC 3986
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt]([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?"
    r"([Zz]|[+\-]([01]\d|2[0-3]):[0-5]\d)"
)
_MEDIA = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+ *(;.*)?")
# Spec §3.1 "String": no control characters, no surrogates, none of Unicode's noncharacters.
_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_INTEGERS = range(-(2**31), 2**31)

Problem = Callable[[str], str | None]
"""Says what is wrong with the text of an attribute, or returns None."""


class InvalidAttribute(RequestError):
    """An attribute of a CloudEvent is missing or invalid."""

    code = "invalid_attribute"

    def __init__(self, attribute: str, problem: str) -> None:
        self.attribute = attribute
        super().__init__(f"{attribute}: {problem}")


def check_attributes(event: Mapping[str, Any]) -> dict[str, str]:
    """Return all attributes of an event as text.

    Raises:
        InvalidAttribute: A required attribute is missing, or one is invalid.
    """
    for name in REQUIRED:
        if name not in event:
            raise InvalidAttribute(name, "is missing")
    if event["specversion"] != VERSION:
        raise InvalidAttribute("specversion", f"must be {VERSION}")
    attributes: dict[str, str] = {}
    for name, value in event.items():
        if name in DATA:
            continue
        if not is_attribute_name(name):
            known = f"use at most {NAME_LIMIT} lowercase letters and digits"
            raise InvalidAttribute(
                ascii(name)[1:41].rstrip("'"), f"is not an attribute name: {known}"
            )
        text = attributes[name] = _text(name, value)
        rule = _RULES.get(name)
        if rule is not None and (problem := rule(text)) is not None:
            raise InvalidAttribute(name, problem)
    return attributes


def _text(name: str, value: object) -> str:
    """Return an attribute's value in its canonical form (spec §3.1)."""
    if isinstance(value, bool) and name not in _RULES:
        return "true" if value else "false"
    if isinstance(value, int) and not isinstance(value, bool) and name not in _RULES:
        if value not in _INTEGERS:
            raise InvalidAttribute(name, "must be a 32-bit integer")
        return str(value)
    if not isinstance(value, str):
        kinds = "a string" if name in _RULES else "a string, an integer, true or false"
        raise InvalidAttribute(name, f"must be {kinds}")
    if len(value) > TAG_VALUE_LIMIT:
        raise InvalidAttribute(name, f"has more than {TAG_VALUE_LIMIT} characters")
    if _NO_TEXT.search(value):
        raise InvalidAttribute(name, "contains a control character or a lone surrogate (spec §3.1)")
    return value


def _any(text: str) -> str | None:
    return None if text else "must not be empty"


def _reference(text: str) -> str | None:
    return None if _REFERENCE.fullmatch(text) else "must be a URI-reference (RFC 3986)"


def _uri(text: str) -> str | None:
    is_one = _REFERENCE.fullmatch(text) and _SCHEME.match(text)
    return None if is_one else "must be a URI with a scheme (RFC 3986)"


def _media(text: str) -> str | None:
    if not _MEDIA.fullmatch(text):
        return "must be a media type such as application/json (RFC 2046)"
    charset = re.search(r'charset\s*=\s*"?([^";\s]+)', text, re.I)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii", "ascii"):
        return "must be in UTF-8"
    return None


def _time(text: str) -> str | None:
    found = _TIME.fullmatch(text)
    try:
        if found:
            date(*map(int, found.group(1, 2, 3)))
            return None
    except ValueError:
        pass
    return "must be a time such as 2026-11-27T12:00:00Z (RFC 3339)"


def _make_name_rule(check: Callable[[object], str]) -> Problem:
    def problem(text: str) -> str | None:
        try:
            check(text)
        except InvalidName as error:
            return f"{error.value} is not valid: {error.rule}"
        return None

    return problem


_RULES: dict[str, Problem] = {
    "specversion": _any,
    "id": _any,
    "source": _reference,
    "type": _make_name_rule(checked_event),
    "datacontenttype": _media,
    "dataschema": _uri,
    "subject": _any,
    "time": _time,
    "channel": _make_name_rule(checked_channel),
    "fallback": _make_name_rule(checked_fallback),
    "fallbackwhen": _any,
}
"""The rules of the known attributes; their values must be strings."""
ATTRIBUTES = frozenset(_RULES)
"""The known attributes; an event may have others."""
