"""The format of event streams (WHATWG HTML §9.2) for a plain `EventSource`.

Converts lines of the wire protocol to events, and the positions of a stream to the id of its last
event, with which a reconnecting client names its positions. The module uses no socket and no clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from realtime.core.names import checked_channel
from realtime.core.positions import Gap, GapDetector, Position
from realtime.core.publication import EVENT_TAG
from realtime.errors import InvalidData, InvalidName

HEARTBEAT = ":\n\n"
"""A comment, invisible to pages; it keeps proxies from closing a quiet stream."""
OWN_PREFIX = "realtime."
"""The prefix of our own events, which are not publications."""
RENAMED = "publication."
"""The prefix for publications whose event name is reserved: ours, or one of `OF_EVENT_SOURCE`."""
OF_EVENT_SOURCE = frozenset({"open", "error"})
"""Events that an `EventSource` fires itself (WHATWG HTML §9.2.2). A publication with such a name
would trigger the page's handlers for reconnecting or giving up."""
LAST_ID_LIMIT = 24 * 1024
"""The length of an id in characters. Browsers send it as a header, and servers accept 32 KiB of
headers; 128 channels with names of a hundred characters make 18 KiB."""
PLACE_CHARACTERS = 40
"""The length of one channel's position without its name."""
PLACES_LIMIT = 256
"""Positions in an id; a stream keeps them as long as it lives, and 24 KiB could name 4,000."""
UNKNOWN_POSITION = Position("", 0)
"""The position of a page whose data is as of a position that could not be read."""
CACHED_LINES = 64
"""Lines whose events are cached: all connections of a channel get the same lines."""

_WRAPPING = '{"push":'
_POSITION = re.compile(r"(?:([0-9a-f]{1,64})/([0-9]{1,19})|/0)/(.+)")
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


class Event(NamedTuple):
    """One event without its id."""

    text: str
    """The lines of the event, without the blank one at the end."""
    channel: str = ""
    position: Position | None = None
    """The position of the channel after the event; an empty epoch means an unchanged one."""
    ends: bool = False
    """Whether the event ends the subscription."""
    begins: bool = False
    """Whether the event starts a server-side subscription, at ``position``."""


@lru_cache(CACHED_LINES)
def event_of(line: str) -> Event | None:
    """Return the event of a push; None if the line has no event."""
    push = _decode(line).get("push")
    if not isinstance(push, dict):
        return None
    channel = push.get("channel", "")
    if (said := push.get("pub")) is not None:
        position = Position(said.get("epoch", ""), said["offset"])
        name = (said.get("tags") or {}).get(EVENT_TAG, "")
        return Event(_encode_fields(name_on_stream(name), said["data"]), channel, position)
    if (missed := push.get("gap")) is not None:
        last = missed["to"]
        after = None if last is None else Position(missed["epoch"], last)
        return Event(
            _encode_fields(f"{OWN_PREFIX}gap", {"channel": channel, **missed}), channel, after
        )
    if (begun := push.get("subscribe")) is not None:
        position = Position(begun["epoch"], begun["offset"])
        text = _encode_fields(f"{OWN_PREFIX}subscribed", {"channel": channel})
        return Event(text, channel, position, begins=True)
    if (over := push.get("unsubscribe")) is not None:
        return Event(
            _encode_fields(f"{OWN_PREFIX}unsubscribed", {"channel": channel, **over}),
            channel,
            ends=True,
        )
    for word in ("join", "leave", "presence"):
        if (told := push.get(word)) is not None:
            return Event(
                _encode_fields(f"{OWN_PREFIX}{word}", {"channel": channel, **told}), channel
            )
    if channel and (told := push.get("state")) is not None:
        return Event(_encode_fields(f"{OWN_PREFIX}state", {"channel": channel, **told}))
    for word in ("state", "disconnect", "message", "refresh"):
        if (told := push.get(word)) is not None:
            return Event(_encode_fields(f"{OWN_PREFIX}{word}", told))
    return None


def name_on_stream(name: str) -> str:
    """Return the event name in streams of a publication whose event is ``name``."""
    is_taken = name in OF_EVENT_SOURCE or name.startswith(OWN_PREFIX)
    return f"{RENAMED}{name}" if is_taken else name


def _encode_fields(name: str, data: object) -> str:
    """Return the lines of an event, with a string unchanged and other data as JSON."""
    text = data if isinstance(data, str) else _encode(data).decode()
    # All three line endings that parsers accept; text after one would be parsed as a new field.
    lines = [f"data: {part}" for part in re.split("\r\n|\r|\n", text)]
    return "\n".join([f"event: {name}", *lines] if name else lines)


def unwrap_push(line: str) -> str:
    """Return a line as unidirectional clients of Centrifugo expect it: a plain push or ``{}``."""
    return line[len(_WRAPPING) : -1] if line.startswith(_WRAPPING) else line


def raw_event(text: str) -> str:
    """Return an event without a name; the text must be one line of JSON."""
    return f"data: {text}\n\n"


class Places:
    """The positions of the channels of one stream.

    A reconnecting client names its old positions. All ids contain the old position of a channel
    until this stream is subscribed to it: if the stream breaks, the next one can report the gap.
    """

    def __init__(self, had: Mapping[str, Position] | None = None) -> None:
        """Start without channels.

        Args:
            had: The client's old positions, from its last id.
        """
        self._places: dict[str, Position] = {}
        self._had = dict(had or {})
        self._had_text = ""
        self._fit()

    def open(self, begun: Mapping[str, Position]) -> str:
        """Return the start of a stream: its id, and the gaps of the initial channels.

        The id has the old positions until the last gap. If the connection breaks before that, the
        next stream reports all gaps again.
        """
        known = {channel: at for channel, at in self._had.items() if channel in begun}
        gaps = [gap for channel, at in begun.items() for gap in self._find_gaps(channel, at)]
        self._begin(begun)
        if not gaps:
            return f"id: {self.id}\n\n"
        before = self._id({**self._places, **known})
        return f"id: {before}\n\n{_texts(gaps[:-1])}{self._block(gaps[-1])}"

    def encode(self, event: Event) -> str:
        """Return an event in the stream format, with an id of the positions after it.

        If the client has an old position of a channel that starts, the gaps come first. They have
        no id, so the previous id applies until the client has read all of them.
        """
        channel, position = event.channel, event.position
        gaps: list[Event] = []
        if event.ends:
            self._end(channel)
        elif position is not None and event.begins:
            gaps = self._find_gaps(channel, position)
            self._begin({channel: position})
        elif position is not None:
            epoch = position.epoch or self._epoch_of(channel)
            self._places[channel] = Position(epoch, position.offset)
        return _texts(gaps) + self._block(event)

    def _begin(self, begun: Mapping[str, Position]) -> None:
        """Record that the stream is subscribed to these channels from these positions on."""
        self._places.update(begun)
        for channel in begun:
            self._had.pop(channel, None)
        self._fit()

    def _end(self, channel: str) -> None:
        self._places.pop(channel, None)
        self._had.pop(channel, None)
        self._fit()

    def _find_gaps(self, channel: str, now: Position) -> list[Event]:
        """Return the gaps between the client's old position and the channel's current one."""
        had = self._had.get(channel)
        if had is None:
            return []
        if had == UNKNOWN_POSITION:
            return [_gap_event(channel, Gap(now.epoch, 1, None), "broker")]
        return [_gap_event(channel, gap, "reconnect") for gap in GapDetector(had).resume(now)]

    def _block(self, event: Event) -> str:
        return f"id: {self.id}\n{event.text}\n\n" if event.channel else _texts([event])

    @property
    def id(self) -> str:
        """All positions as the id of an event: ``epoch/offset/channel``, joined by ``&``."""
        return self._id(self._places)

    def _id(self, heard: Mapping[str, Position]) -> str:
        texts = [place_text(*item) for item in heard.items()]
        return "&".join([*texts, self._had_text] if self._had_text else texts)

    def _fit(self) -> None:
        """Drop old positions that would make the id too long for a browser to send back.

        The last ones are dropped first. An id ends with the positions that were old when it was
        created, so these belong to the channels that have been without a subscription longest.
        """
        if not self._had:
            self._had_text = ""
            return
        space = LAST_ID_LIMIT - sum(len(name) + PLACE_CHARACTERS for name in self._places)
        fitting: dict[str, Position] = {}
        texts: list[str] = []
        for channel, position in self._had.items():
            text = place_text(channel, position)
            if len(text) > space:
                break
            space -= len(text) + 1  # and the `&` before the next one
            fitting[channel] = position
            texts.append(text)
        self._had, self._had_text = fitting, "&".join(texts)

    def _epoch_of(self, channel: str) -> str:
        known = self._places.get(channel)
        return known.epoch if known is not None else ""


def _texts(events: Iterable[Event]) -> str:
    """Return events in the stream format without an id: the last id still applies."""
    return "".join(f"{event.text}\n\n" for event in events)


def place_text(channel: str, position: Position) -> str:
    """Return the position of a channel as ids and the parameter `since` contain it."""
    return f"{position.epoch}/{position.offset}/{channel}"


def places_of(last_id: str, most: int = PLACES_LIMIT) -> dict[str, Position]:
    """Return the first positions in a client's `Last-Event-ID`, without invalid ones."""
    found: dict[str, Position] = {}
    for part in last_id[:LAST_ID_LIMIT].split("&", most)[:most]:
        with suppress(InvalidData, InvalidName):
            found |= [place_of(part)]
    return found


def place_of(text: str) -> tuple[str, Position]:
    """Return the channel and the position in a text of `place_text`.

    Raises:
        InvalidData: The text has another form.
        InvalidName: It does not end with the name of a channel.
    """
    if (match := _POSITION.fullmatch(text)) is None:
        raise InvalidData("is not epoch/offset/channel", field="since")
    epoch, offset, channel = match.groups()
    return checked_channel(channel), UNKNOWN_POSITION if epoch is None else Position(
        epoch, int(offset)
    )


def _gap_event(channel: str, gap: Gap, reason: str) -> Event:
    fields = {"channel": channel, "epoch": gap.epoch, "from": gap.first, "to": gap.last}
    return Event(_encode_fields(f"{OWN_PREFIX}gap", {**fields, "reason": reason}), channel)
