"""What a notification says about a publication, and how push services should treat it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from realtime.errors import GiveUp
from realtime.identity.web_push import MESSAGE_BYTES

if TYPE_CHECKING:
    from realtime.core.fallback_entry import Queued

TTL_SECONDS = 86_400
"""How long a push service keeps a notification for a browser that is off."""
TTL_LIMIT = 28 * 86_400  # what FCM takes
URGENCIES = ("very-low", "low", "normal", "high")
"""RFC 8030 §5.3."""
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")  # RFC 8030 §5.4
OPTIONS = ("title", "url", "ttl", "urgency", "topic", "only")
CUT = "…"


@dataclass(frozen=True, slots=True)
class PushMessage:
    """A notification, and how push services should treat it."""

    text: bytes
    headers: Mapping[str, str]


def message_of(queued: Queued) -> PushMessage:
    """Return the notification about a publication.

    Its text is what the built-in mail says: ``title``, ``text`` and ``url`` of the data. A text
    that is too long is cut; the page behind ``url`` has the rest.

    Raises:
        GiveUp: One of the options is invalid.
    """
    options = queued.options
    for name in options:
        if name not in OPTIONS:
            raise GiveUp(f"unknown option {ascii(name)[:40]}: use {', '.join(OPTIONS)}")
    headers = {"TTL": str(_ttl(options)), "Urgency": _urgency(options)}
    if (topic := options.get("topic")) is not None:
        if not isinstance(topic, str) or not _TOPIC.fullmatch(topic):
            raise GiveUp("`topic` must be 1 to 32 characters from A-Z a-z 0-9 _ -")
        headers["Topic"] = topic
    only = options.get("only", [])  # as `PartlyDone` writes it
    if not isinstance(only, list) or not all(type(each) is int for each in only):
        raise GiveUp("`only` must be a list of numbers")
    data = queued.data if isinstance(queued.data, dict) else {"text": queued.data}
    # A client's title is not the site's word, but would appear beside the site's name (CWE-451).
    own_title = data.get("title") if queued.info is None else None
    title = options.get("title") or own_title or queued.event or queued.channel
    shown = {
        "title": _text(title)[:200],
        "url": _text(options.get("url") or data.get("url"))[:1000],
        "tag": queued.id,
        "body": _text(data.get("text")),
    }
    return PushMessage(_fitting(shown), headers)


def _ttl(options: Mapping[str, Any]) -> int:
    ttl = options.get("ttl", TTL_SECONDS)
    if not isinstance(ttl, int) or isinstance(ttl, bool) or not 0 <= ttl <= TTL_LIMIT:
        raise GiveUp(f"`ttl` must be a number of seconds from 0 to {TTL_LIMIT}")
    return ttl


def _urgency(options: Mapping[str, Any]) -> str:
    urgency = options.get("urgency", "normal")
    if urgency not in URGENCIES:
        raise GiveUp(f"`urgency` must be one of {', '.join(URGENCIES)}")
    return str(urgency)


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _fitting(shown: dict[str, str]) -> bytes:
    """Return it as JSON, with as much of it as fits into one message.

    The body is cut first. An address that does not fit then is left out: half of it is useless.
    """
    while len(encoded := _encode(shown)) > MESSAGE_BYTES:
        if not shown["body"]:
            return _encode({**shown, "url": ""})
        body = shown["body"].removesuffix(CUT)
        # Each character takes at most six bytes: escaped, as a control character is.
        least = max(1, (len(encoded) - MESSAGE_BYTES) // 6)
        shown = {**shown, "body": body[:-least] + CUT if len(body) > least else ""}
    return encoded


def _encode(shown: Mapping[str, str]) -> bytes:
    # A lone surrogate in the data of an old entry must not fail it.
    return json.dumps(shown, ensure_ascii=False).encode("utf-8", "replace")
