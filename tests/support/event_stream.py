"""A parser for event streams, following WHATWG HTML §9.2.6."""

from __future__ import annotations

from typing import NamedTuple


class Event(NamedTuple):
    """An event as an `EventSource` dispatches it."""

    name: str
    data: str
    id: str


class Parser:
    """Parses a stream line by line, without line ends."""

    def __init__(self) -> None:
        self.retry = 0
        self.comments = 0
        self._last_id = ""
        self._name = ""
        self._data: list[str] = []

    def feed(self, line: str) -> Event | None:
        """Parse a line; return the event that it completes, if any."""
        if not line:
            event = Event(self._name or "message", "\n".join(self._data), self._last_id)
            is_one = bool(self._data)
            self._name, self._data = "", []
            return event if is_one else None
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        elif field == "id" and "\0" not in value:
            self._last_id = value
        elif field == "retry" and value.isdecimal():
            self.retry = int(value)
        elif not field:
            self.comments += 1
        return None


def parsed(stream: str) -> list[Event]:
    """Return the events of a stream."""
    parser = Parser()
    lines = stream.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [event for line in lines if (event := parser.feed(line))]
