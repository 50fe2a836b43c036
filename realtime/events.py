"""What clients hear, as an event stream (WHATWG HTML §9.2) for a plain `EventSource`.

From the lines of the wire protocol to events, and where a stream stands as text: the id of its last
event, by which a client that comes back says what it has. No socket and no clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from realtime.errors import InvalidName
from realtime.gaps import Gap, GapDetector, Position
from realtime.names import checked_channel
from realtime.publication import EVENT_TAG

HEARTBEAT = ":\n\n"
"""A comment: it keeps proxies from closing what is quiet, and no page sees it."""
OWN = "realtime."
"""How the names of events begin that are ours and no publication's."""
RENAMED = "publication."
"""What stands before a publication's name that would be taken for something else: ours, or one of
`OF_EVENT_SOURCE`."""
OF_EVENT_SOURCE = frozenset({"open", "error"})
"""Events that an `EventSource` fires itself (WHATWG HTML §9.2.2). A publication with such a name
would call the handlers of the page that reconnect or give up."""
LAST_ID_LIMIT = 24 * 1024
"""Characters. It comes back as a header, and servers take 32 KiB of those; 128 channels with names
of a hundred make 18 KiB."""
PLACE_CHARACTERS = 40
"""Of the position of one channel, beside its name."""
MEMORY = 64
"""Lines that are remembered as events: all connections of a channel get the same ones."""

_WRAPPING = '{"push":'
_POSITION = re.compile(r"([0-9a-f]{1,64})/(\d{1,19})/(.+)")
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


class Event(NamedTuple):
    """One event, but for its id."""

    text: str
    """Its lines, without the blank one at the end."""
    channel: str = ""
    position: Position | None = None
    """Where the channel stands after it; an empty epoch is the one that it was in."""
    ends: bool = False
    """Whether the channel is heard no more."""
    begins: bool = False
    """Whether the server begins the channel here, at ``position``."""


@lru_cache(MEMORY)
def event_of(line: str) -> Event | None:
    """Return the event of a push; None where it is none."""
    push = _decode(line).get("push")
    if not isinstance(push, dict):
        return None
    channel = push.get("channel", "")
    if (said := push.get("pub")) is not None:
        position = Position(said.get("epoch", ""), said["offset"])
        name = (said.get("tags") or {}).get(EVENT_TAG, "")
        return Event(_written(name_on_stream(name), said["data"]), channel, position)
    if (missed := push.get("gap")) is not None:
        last = missed["to"]
        after = None if last is None else Position(missed["epoch"], last)
        return Event(_written(f"{OWN}gap", {"channel": channel, **missed}), channel, after)
    if (begun := push.get("subscribe")) is not None:
        position = Position(begun["epoch"], begun["offset"])
        text = _written(f"{OWN}subscribed", {"channel": channel})
        return Event(text, channel, position, begins=True)
    if (over := push.get("unsubscribe")) is not None:
        return Event(
            _written(f"{OWN}unsubscribed", {"channel": channel, **over}), channel, ends=True
        )
    for word in ("join", "leave", "presence"):
        if (told := push.get(word)) is not None:
            return Event(_written(f"{OWN}{word}", {"channel": channel, **told}), channel)
    for word in ("state", "disconnect", "message", "refresh"):
        if (told := push.get(word)) is not None:
            return Event(_written(f"{OWN}{word}", told))
    return None


def name_on_stream(name: str) -> str:
    """Return under which name a stream delivers a publication whose event is ``name``."""
    is_taken = name in OF_EVENT_SOURCE or name.startswith(OWN)
    return f"{RENAMED}{name}" if is_taken else name


def _written(name: str, data: object) -> str:
    """Return the lines of an event: a string as it is, anything else as JSON."""
    text = data if isinstance(data, str) else _encode(data).decode()
    # All three ends of a line that a parser knows; what follows one would be another field.
    lines = [f"data: {part}" for part in re.split("\r\n|\r|\n", text)]
    return "\n".join([f"event: {name}", *lines] if name else lines)


def pushed(line: str) -> str:
    """Return what Centrifugo sends where nobody answers: a push without its wrapping, or ``{}``."""
    return line[len(_WRAPPING) : -1] if line.startswith(_WRAPPING) else line


def raw_event(text: str) -> str:
    """Return an event without a name; its text is one line of JSON."""
    return f"data: {text}\n\n"


class Places:
    """Where the channels of one stream stand.

    A client that comes back says where it stood. A channel that this stream does not hear yet keeps
    that place in all ids: whenever the stream ends, the next one can still tell what was missed.
    """

    def __init__(self, had: Mapping[str, Position] | None = None) -> None:
        """Begin with no channel.

        Args:
            had: Where the client stood, by its last id.
        """
        self._places: dict[str, Position] = {}
        self._had = dict(had or {})
        self._had_text = ""
        self._fit()

    def open(self, begun: Mapping[str, Position]) -> str:
        """Return how a stream begins: its id, and the gaps of the channels that it hears at once.

        Up to the last gap the id has the old places. If the connection breaks before that, the next
        stream tells all gaps again.
        """
        known = {channel: at for channel, at in self._had.items() if channel in begun}
        gaps = [gap for channel, at in begun.items() for gap in self._missed(channel, at)]
        self._begin(begun)
        if not gaps:
            return f"id: {self.id}\n\n"
        before = self._id({**self._places, **known})
        return f"id: {before}\n\n{_texts(gaps[:-1])}{self._block(gaps[-1])}"

    def written(self, event: Event) -> str:
        """Return an event as it is sent, with the id that says where the stream stands after it.

        Gaps stand before the beginning of a channel that the client had. They have no id, so the
        old one counts until the client has read all of them.
        """
        channel, position = event.channel, event.position
        gaps: list[Event] = []
        if event.ends:
            self._end(channel)
        elif position is not None and event.begins:
            gaps = self._missed(channel, position)
            self._begin({channel: position})
        elif position is not None:
            epoch = position.epoch or self._epoch_of(channel)
            self._places[channel] = Position(epoch, position.offset)
        return _texts(gaps) + self._block(event)

    def _begin(self, begun: Mapping[str, Position]) -> None:
        """The stream hears these channels from here on."""
        self._places.update(begun)
        for channel in begun:
            self._had.pop(channel, None)
        self._fit()

    def _end(self, channel: str) -> None:
        self._places.pop(channel, None)
        self._had.pop(channel, None)
        self._fit()

    def _missed(self, channel: str, now: Position) -> list[Event]:
        """Return the gaps between what the client had, and where the channel stands now."""
        had = self._had.get(channel)
        gaps = () if had is None else GapDetector(had).resume(now)
        return [_gap_event(channel, gap) for gap in gaps]

    def _block(self, event: Event) -> str:
        return f"id: {self.id}\n{event.text}\n\n" if event.channel else _texts([event])

    @property
    def id(self) -> str:
        """Where it stands, as the id of an event: ``epoch/offset/channel`` with ``&`` between."""
        return self._id(self._places)

    def _id(self, heard: Mapping[str, Position]) -> str:
        texts = [_place(*item) for item in heard.items()]
        return "&".join([*texts, self._had_text] if self._had_text else texts)

    def _fit(self) -> None:
        """Forget old places that would make the id longer than what a browser may send back.

        The last ones go first. An id ends with the places that were old already when it was made,
        so these are of the channels that the client has not heard for longest.
        """
        if not self._had:
            self._had_text = ""
            return
        room = LAST_ID_LIMIT - sum(len(name) + PLACE_CHARACTERS for name in self._places)
        fitting: dict[str, Position] = {}
        texts: list[str] = []
        for channel, position in self._had.items():
            text = _place(channel, position)
            if len(text) > room:
                break
            room -= len(text) + 1  # and the `&` before the next one
            fitting[channel] = position
            texts.append(text)
        self._had, self._had_text = fitting, "&".join(texts)

    def _epoch_of(self, channel: str) -> str:
        known = self._places.get(channel)
        return known.epoch if known is not None else ""


def _texts(events: Iterable[Event]) -> str:
    """Return events as they are sent without an id: the last one that was sent still counts."""
    return "".join(f"{event.text}\n\n" for event in events)


def _place(channel: str, position: Position) -> str:
    return f"{position.epoch}/{position.offset}/{channel}"


def places_of(last_id: str) -> dict[str, Position]:
    """Return what a client says that it has, by its `Last-Event-ID`; what cannot be is left out."""
    found = {}
    for part in last_id[:LAST_ID_LIMIT].split("&"):
        if (match := _POSITION.fullmatch(part)) is None:
            continue
        try:
            found[checked_channel(match[3])] = Position(match[1], int(match[2]))
        except InvalidName:
            continue
    return found


def _gap_event(channel: str, gap: Gap) -> Event:
    fields = {"channel": channel, "epoch": gap.epoch, "from": gap.first, "to": gap.last}
    return Event(_written(f"{OWN}gap", {**fields, "reason": "reconnect"}), channel)
