"""CloudEvents 1.0: what an event must be, and on which channel it is published.

An event becomes the fields of a publish: its ``type`` is the event's name, ``source`` and ``id``
together its idempotency key, its data the data, and each other attribute the tag ``ce-<name>``.
Whatever is wrong is said of one attribute. Sources: CloudEvents spec 1.0.2 §3, its JSON format and
its HTTP protocol binding. No header and no socket: both rims hand in what they have read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any
from urllib.parse import unquote_to_bytes

from realtime.errors import ConfigurationError, InvalidData, InvalidName, RequestError
from realtime.globs import Glob
from realtime.names import CHANNEL_LIMIT, checked_channel, checked_event, checked_fallback
from realtime.publication import TAG_VALUE_LIMIT, TAGS_LIMIT, decoded

SETTING = "REALTIME_CLOUDEVENTS"
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
VERSION = "1.0"
NAME_LIMIT = 60  # of an attribute; spec §3 advises 20, and `ce-` stands before it in a tag
RULES_LIMIT = 100  # each event is held against them
ATTRIBUTES_LIMIT = 16  # of a rule
TAG_PREFIX = "ce-"
BASE64_TAG = {"ce-data": "base64"}
"""Beside data that is neither JSON nor text; no attribute may be called `data` (spec §3)."""

_NAME = re.compile(rf"[a-z0-9]{{1,{NAME_LIMIT}}}")
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

REQUIRED = ("specversion", "id", "source", "type")
_ROUTING = ("channel", "fallback", "fallbackwhen")
_DATA = ("data", "data_base64")
_TOLD = {*_ROUTING, "specversion", "type", "datacontenttype"}
"""What becomes something else than a tag."""


class InvalidAttribute(RequestError):
    """An attribute of a CloudEvent is missing or breaks its rule."""

    code = "invalid_attribute"

    def __init__(self, attribute: str, problem: str) -> None:
        self.attribute = attribute
        super().__init__(f"{attribute}: {problem}")


# ------------------------------------------------------------------------------------- channels


@dataclass(frozen=True, slots=True)
class _Rule:
    wanted: tuple[tuple[str, Glob], ...]
    """Attributes, and what they must be."""
    parts: tuple[str, ...]
    """Of the channel: text and the name of an attribute, by turns."""

    def is_for(self, attributes: Mapping[str, str]) -> bool:
        return all(pattern.fits(attributes.get(name, "")) for name, pattern in self.wanted)

    def channel(self, attributes: Mapping[str, str]) -> str:
        for name in self.parts[1::2]:
            if not attributes.get(name):
                raise InvalidAttribute(name, "is missing, and the rule for its channel needs it")
            try:
                checked_channel(attributes[name])
            except InvalidName as error:
                problem = f"{error.value} cannot stand in a channel's name: {error.rule}"
                raise InvalidAttribute(name, problem) from None
        turns = enumerate(self.parts)
        channel = "".join([attributes[part] if n % 2 else part for n, part in turns])
        if len(channel) > CHANNEL_LIMIT:
            names = " and ".join(dict.fromkeys(self.parts[1::2]))
            problem = f"makes a channel of more than {CHANNEL_LIMIT} characters"
            raise InvalidAttribute(names, problem)
        return channel


class Routes:
    """On which channel an event is published that does not name one itself."""

    def __init__(self, rules: Iterable[_Rule] = ()) -> None:
        self._rules = tuple(rules)

    def channel(self, attributes: Mapping[str, str]) -> str:
        """Return what the first rule says that is for it.

        Raises:
            InvalidAttribute: No rule is for it, or it lacks what the rule needs.
        """
        for rule in self._rules:
            if rule.is_for(attributes):
                return rule.channel(attributes)
        raise InvalidAttribute("channel", "is missing, and no rule of the service names one")


NO_ROUTES = Routes()


def routes_of(given: object) -> Routes:
    """Read the configuration: a list of rules, of which the first that fits an event holds.

    ``{"type": "com.example.order.*", "source": "https://shop.example/*", "channel":
    "orders:{subject}"}``: each attribute but ``channel`` is one that the event must have, ``*`` in
    it any text; in the channel, attributes of the event in braces.

    Raises:
        ConfigurationError: It cannot work; names the rule and the problem.
    """
    if not isinstance(given, list | tuple):
        raise ConfigurationError(SETTING, "must be a list of rules")
    if len(given) > RULES_LIMIT:
        raise ConfigurationError(SETTING, f"has {len(given)} rules; the limit is {RULES_LIMIT}")
    return Routes(_rule(number, rule) for number, rule in enumerate(given, 1))


def _rule(number: int, rule: object) -> _Rule:
    where = f"rule {number}"
    if not isinstance(rule, Mapping):
        raise ConfigurationError(SETTING, f"{where} must be a mapping with a channel")
    for name, value in rule.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            problem = f"{where}: {ascii(name)[:40]} is no attribute: lower-case letters and digits"
            raise ConfigurationError(SETTING, problem)
        if not isinstance(value, str) or not value:
            raise ConfigurationError(SETTING, f"{where}: {name} must be a text")
        if len(value) > TAG_VALUE_LIMIT:  # no attribute is longer
            problem = f"{where}: {name} has more than {TAG_VALUE_LIMIT} characters"
            raise ConfigurationError(SETTING, problem)
    if len(rule) > ATTRIBUTES_LIMIT:
        raise ConfigurationError(SETTING, f"{where} has more than {ATTRIBUTES_LIMIT} attributes")
    if "channel" not in rule:
        raise ConfigurationError(SETTING, f"{where} names no channel")
    parts = tuple(re.split(r"\{([a-z0-9]+)\}", rule["channel"]))
    # With a letter for each attribute it must be a channel's name, or it could never be one.
    try:
        checked_channel("".join("x" if n % 2 else part for n, part in enumerate(parts)))
    except InvalidName as error:
        problem = f"{where}: the channel {ascii(rule['channel'])[:80]} cannot be: {error.rule}"
        raise ConfigurationError(SETTING, f"{problem}, and attributes in braces") from None
    wanted = [(name, Glob(value)) for name, value in rule.items() if name != "channel"]
    return _Rule(tuple(wanted), parts)


# --------------------------------------------------------------------------------------- events


def structured(value: object) -> dict[str, Any]:
    """Return the attributes and data of an event in the JSON format, as they are; see `fields_of`.

    Raises:
        InvalidData: It is no JSON object.
    """
    if not isinstance(value, dict):
        raise InvalidData("a CloudEvent is a JSON object", field="event")
    return {name: given for name, given in value.items() if given is not None}  # null is absent


def binary(headers: Mapping[str, str], content_type: str, body: bytes) -> dict[str, Any]:
    """Return the attributes and data of an event whose attributes are headers (HTTP §3.1).

    Args:
        headers: By attribute, without ``ce-``.
        content_type: The header, which is the attribute ``datacontenttype`` here.
        body: The data.

    Raises:
        InvalidAttribute: A header has no text in it, or is none of an attribute.
    """
    event: dict[str, Any] = {name: _unescaped(name, text) for name, text in headers.items()}
    if "datacontenttype" in event:
        raise InvalidAttribute("datacontenttype", "is the header Content-Type in binary mode")
    for name in _DATA:
        if name in event:
            raise InvalidAttribute(name, "is the body in binary mode")
    if content_type:
        event["datacontenttype"] = content_type
    if body:
        event["data_base64"] = body  # so that it is read by its type, as in the JSON format
    return event


def _unescaped(name: str, header: str) -> str:
    """Return what a header says (HTTP §3.1.3.2)."""
    text = header.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    try:
        return unquote_to_bytes(text.encode("latin-1", "replace")).decode()
    except UnicodeDecodeError:
        raise InvalidAttribute(name, "is not UTF-8, percent-encoded") from None


def fields_of(event: Mapping[str, Any], routes: Routes) -> dict[str, Any]:
    """Return an event as the fields of a publish.

    Raises:
        InvalidAttribute: An attribute is missing or breaks its rule, or no channel is named.
    """
    attributes = _checked(event)
    channel = attributes.get("channel") or routes.channel(attributes)
    data, kind = _data_of(event, attributes.get("datacontenttype", ""))
    tags = {TAG_PREFIX + name: text for name, text in attributes.items() if name not in _TOLD}
    if kind is not _JSON:
        tags[TAG_PREFIX + "datacontenttype"] = attributes.get("datacontenttype", "")
    if kind is _BYTES:
        tags |= BASE64_TAG
    if len(tags) > TAGS_LIMIT:
        beyond = list(tags)[TAGS_LIMIT].removeprefix(TAG_PREFIX)
        raise InvalidAttribute(beyond, f"is one too many: {TAGS_LIMIT} come along as tags")
    known = f"{attributes['source']}\n{attributes['id']}"  # neither has the end of a line
    fields: dict[str, Any] = {
        "channel": channel,
        "data": data,
        "event": attributes["type"],
        "tags": tags,
        "idempotency_key": hashlib.sha256(known.encode()).hexdigest(),
    }
    for field, name in (("fallback", "fallback"), ("fallback_when", "fallbackwhen")):
        if name in attributes:
            fields[field] = attributes[name]
    return fields


def _checked(event: Mapping[str, Any]) -> dict[str, str]:
    """Return all attributes of an event as text.

    Raises:
        InvalidAttribute: One is missing or breaks its rule.
    """
    for name in REQUIRED:
        if name not in event:
            raise InvalidAttribute(name, "is missing")
    if event["specversion"] != VERSION:
        raise InvalidAttribute("specversion", f"must be {VERSION}")
    attributes: dict[str, str] = {}
    for name, value in event.items():
        if name in _DATA:
            continue
        if not _NAME.fullmatch(name):
            known = f"lower-case letters and digits, at most {NAME_LIMIT}"
            raise InvalidAttribute(
                ascii(name)[1:41].rstrip("'"), f"is no attribute's name: {known}"
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
            raise InvalidAttribute(name, "is not an integer of 32 bits")
        return str(value)
    if not isinstance(value, str):
        kinds = "a string" if name in _RULES else "a string, a whole number, true or false"
        raise InvalidAttribute(name, f"must be {kinds}")
    if len(value) > TAG_VALUE_LIMIT:
        raise InvalidAttribute(name, f"has more than {TAG_VALUE_LIMIT} characters")
    if _NO_TEXT.search(value):
        raise InvalidAttribute(name, "has a control character or half of one (spec §3.1)")
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


def _named(check: Callable[[object], str]) -> Problem:
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
    "type": _named(checked_event),
    "datacontenttype": _media,
    "dataschema": _uri,
    "subject": _any,
    "time": _time,
    "channel": _named(checked_channel),
    "fallback": _named(checked_fallback),
    "fallbackwhen": _any,
}
"""What is wrong with the text of an attribute, if it is one of these: all of them are strings."""
ATTRIBUTES = frozenset(_RULES)
"""Those that have a meaning here; an event may have others."""

_JSON, _TEXT, _BYTES = "json", "text", "bytes"


def _kind(media: str) -> str:
    """Tell what data of a media type is to a browser; without one it is JSON (spec §3)."""
    essence = media.partition(";")[0].strip().lower()
    if not essence or essence.endswith(("/json", "+json")):
        return _JSON
    is_text = essence.startswith("text/") or essence.endswith(("/xml", "+xml", "/javascript"))
    return _TEXT if is_text else _BYTES


def _data_of(event: Mapping[str, Any], media: str) -> tuple[object, str]:
    """Return the data as it is published, and what it is."""
    kind = _kind(media)
    if "data_base64" not in event:
        # In the JSON format a string may be the text of any type; other values are JSON.
        is_text = kind is not _JSON and isinstance(event.get("data"), str)
        return event.get("data"), _TEXT if is_text else _JSON
    if "data" in event:
        raise InvalidAttribute("data_base64", "and data are two, where one is meant")
    raw = event["data_base64"]
    if isinstance(raw, str):
        try:
            raw = base64.b64decode(raw, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidAttribute("data_base64", "is not Base64 (RFC 4648)") from None
    if not isinstance(raw, bytes):
        raise InvalidAttribute("data_base64", "must be a string in Base64")
    if kind is _BYTES:
        return base64.b64encode(raw).decode(), kind
    try:
        return (decoded(raw) if kind is _JSON else raw.decode()), kind
    except InvalidData as error:
        raise InvalidAttribute("data", error.reason) from None
    except UnicodeDecodeError:
        raise InvalidAttribute("data", "is not UTF-8") from None
