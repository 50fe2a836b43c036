"""CloudEvents 1.0: parses an event, and turns it into the fields of a publish.

The event's ``type`` becomes the name of the event, and ``source`` and ``id`` together become the
idempotency key. Its data is published as the data, and each other attribute as the tag
``ce-<name>``. Sources: CloudEvents spec 1.0.2, its JSON format and its HTTP protocol binding. Both
rims pass in what they have read, so this module does not depend on a web framework.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from realtime.api.cloudevent_attributes import DATA, InvalidAttribute, check_attributes
from realtime.core.json_text import decode_json
from realtime.core.publication import TAGS_LIMIT
from realtime.errors import InvalidData

if TYPE_CHECKING:
    from realtime.api.cloudevent_routes import Routes

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
TAG_PREFIX = "ce-"
BASE64_TAG = {"ce-data": "base64"}
"""Marks data that is neither JSON nor text. No attribute may be called `data` (spec §3)."""

_NOT_TAGS = {"channel", "fallback", "fallbackwhen", "specversion", "type", "datacontenttype"}
"""Attributes that become something other than a tag."""


def read_structured(value: object) -> dict[str, Any]:
    """Return the attributes and data of an event in the JSON format, unchecked.

    Raises:
        InvalidData: It is not a JSON object.
    """
    if not isinstance(value, dict):
        raise InvalidData("must be a JSON object", field="event")
    return {name: given for name, given in value.items() if given is not None}  # null is absent


def read_binary(headers: Mapping[str, str], content_type: str, body: bytes) -> dict[str, Any]:
    """Return the attributes and data of an event in binary mode, unchecked (HTTP §3.1).

    Args:
        headers: The ``ce-`` headers, without that prefix.
        content_type: The header Content-Type, which is the attribute ``datacontenttype`` here.
        body: The data.

    Raises:
        InvalidAttribute: A header is not UTF-8, or names something that is not an attribute.
    """
    event: dict[str, Any] = {name: _unescape(name, text) for name, text in headers.items()}
    if "datacontenttype" in event:
        raise InvalidAttribute(
            "datacontenttype", "must be sent as the header Content-Type in binary mode"
        )
    for name in DATA:
        if name in event:
            raise InvalidAttribute(name, "must be sent as the body in binary mode")
    if content_type:
        event["datacontenttype"] = content_type
    if body:
        event["data_base64"] = body  # decoded by its type, as in the JSON format
    return event


def _unescape(name: str, header: str) -> str:
    """Return the text of a header: unquoted and percent-decoded (HTTP §3.1.3.2)."""
    text = header.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    try:
        return unquote_to_bytes(text.encode("latin-1", "replace")).decode()
    except UnicodeDecodeError:
        raise InvalidAttribute(name, "must be percent-encoded UTF-8") from None


def fields_of_event(event: Mapping[str, Any], routes: Routes) -> dict[str, Any]:
    """Check an event, and return the fields of a publish.

    Raises:
        InvalidAttribute: An attribute is missing or invalid, or nothing names a channel.
    """
    attributes = check_attributes(event)
    channel = attributes.get("channel") or routes.channel(attributes)
    data, kind = _data_of(event, attributes.get("datacontenttype", ""))
    tags = {TAG_PREFIX + name: text for name, text in attributes.items() if name not in _NOT_TAGS}
    if kind is not _JSON:
        tags[TAG_PREFIX + "datacontenttype"] = attributes.get("datacontenttype", "")
    if kind is _BYTES:
        tags |= BASE64_TAG
    if len(tags) > TAGS_LIMIT:
        beyond = list(tags)[TAGS_LIMIT].removeprefix(TAG_PREFIX)
        raise InvalidAttribute(
            beyond, f"is one attribute too many: at most {TAGS_LIMIT} are delivered as tags"
        )
    identity = f"{attributes['source']}\n{attributes['id']}"  # neither contains a line break
    fields: dict[str, Any] = {
        "channel": channel,
        "data": data,
        "event": attributes["type"],
        "tags": tags,
        "idempotency_key": hashlib.sha256(identity.encode()).hexdigest(),
    }
    for field, name in (("fallback", "fallback"), ("fallback_when", "fallbackwhen")):
        if name in attributes:
            fields[field] = attributes[name]
    return fields


_JSON, _TEXT, _BYTES = "json", "text", "bytes"


def _kind(media: str) -> str:
    """Classify a media type: JSON (the default, spec §3), text or bytes."""
    essence = media.partition(";")[0].strip().lower()
    if not essence or essence.endswith(("/json", "+json")):
        return _JSON
    is_text = essence.startswith("text/") or essence.endswith(("/xml", "+xml", "/javascript"))
    return _TEXT if is_text else _BYTES


def _data_of(event: Mapping[str, Any], media: str) -> tuple[object, str]:
    """Return the data to publish, and its kind."""
    kind = _kind(media)
    if "data_base64" not in event:
        # In the JSON format a string may be the text of any type; other values are JSON.
        is_text = kind is not _JSON and isinstance(event.get("data"), str)
        return event.get("data"), _TEXT if is_text else _JSON
    if "data" in event:
        raise InvalidAttribute("data_base64", "must not be combined with data")
    raw = event["data_base64"]
    if isinstance(raw, str):
        try:
            raw = base64.b64decode(raw, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidAttribute("data_base64", "must be Base64 (RFC 4648)") from None
    if not isinstance(raw, bytes):
        raise InvalidAttribute("data_base64", "must be a string in Base64")
    if kind is _BYTES:
        return base64.b64encode(raw).decode(), kind
    try:
        return (decode_json(raw) if kind is _JSON else raw.decode()), kind
    except InvalidData as error:
        raise InvalidAttribute("data", error.reason) from None
    except UnicodeDecodeError:
        raise InvalidAttribute("data", "must be UTF-8") from None
