"""From the fields of a request to publications, each with what its publisher may do.

What is wrong with one of several is that one's error and does not touch the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from realtime.api.fields import BATCH, BROADCAST, MANY_ITEMS, PRESENCE, PUBLISH
from realtime.api.head import MethodNotFound
from realtime.cloudevents import NO_ROUTES, Routes
from realtime.errors import (
    Forbidden,
    InvalidData,
    InvalidName,
    RealtimeError,
    RequestError,
    TooLarge,
)
from realtime.keys import Key
from realtime.names import checked_channel
from realtime.namespaces import Namespaces
from realtime.publication import Publication

Item = Publication | RealtimeError
_OPTIONAL = (
    *("event", "tags", "idempotency_key"),
    *("fallback", "fallback_when", "fallback_options"),
)


class Rules(NamedTuple):
    """What holds for one request."""

    key: Key
    namespaces: Namespaces
    routes: Routes = NO_ROUTES
    """On which channels events are published that do not name one."""

    def admitted_channel(self, value: object) -> str:
        """Return a channel that the key may name, before anybody asks whether there is one.

        Raises:
            InvalidName: That is no channel's name.
            Forbidden: The key may not name it.
        """
        channel = checked_channel(value)
        if not self.key.may_name(channel):
            raise Forbidden
        return channel


class Command(NamedTuple):
    """One command of a batch."""

    method: str
    items: list[Item]


def publication(fields: dict[str, Any], rules: Rules) -> Publication:
    """Read the fields of a `publish`.

    Raises:
        RequestError: They cannot be published, or not by this publisher.
    """
    PUBLISH.refuse_unknown(fields)
    if "channel" not in fields:
        raise InvalidName("channel", None, "it is missing")
    channel = rules.admitted_channel(fields["channel"])
    if "data" not in fields:
        raise InvalidData("is missing")
    given = {name: fields[name] for name in _OPTIONAL if name in fields}
    sizes, scope = rules.namespaces.sizes, rules.key.scope
    made = Publication.of(channel, fields["data"], **given, sizes=sizes, scope=scope)
    named = made.fallback and made.fallback.name
    if named and not rules.key.may_fall_back(named):  # whether there is one or not
        raise Forbidden
    ready = rules.namespaces.admitted(made)
    if made.fallback and ready.fallback and not rules.key.may_fall_back(ready.fallback.name or ""):
        raise Forbidden  # an option for the namespace's own: an address, say
    return ready


def counted_channel(fields: dict[str, Any], rules: Rules) -> str:
    """Read the fields of a `presence` or `presence_stats`: the channel.

    Raises:
        InvalidName: That is no channel.
        InvalidData: Nobody writes down who is on it; an unknown field.
        Forbidden: The key may not name it.
    """
    PRESENCE.refuse_unknown(fields)
    channel = rules.admitted_channel(fields.get("channel"))
    if not rules.namespaces.for_publishing(channel).counts_members:
        raise InvalidData("its namespace has neither presence nor join_leave", field="channel")
    return channel


def broadcast_items(fields: dict[str, Any], rules: Rules) -> list[Item]:
    """Read the fields of a `broadcast`: a publication or an error for each channel.

    Raises:
        RequestError: What is wrong is wrong for all of them.
    """
    BROADCAST.refuse_unknown(fields)
    channels = fields.get("channels")
    if not isinstance(channels, list) or not channels:
        raise InvalidData("must be a list of channels", field="channels")
    if len(channels) > MANY_ITEMS:
        raise TooLarge("the broadcast", len(channels), MANY_ITEMS, unit="channels")
    rest = {name: value for name, value in fields.items() if name != "channels"}
    items: list[Item] = []
    for channel in channels:
        try:
            items.append(publication({**rest, "channel": channel}, rules))
        except Forbidden as error:
            items.append(error)
        except InvalidName as error:
            if error.field != "channel":
                raise  # wrong for all of them
            items.append(error)
    return items


def batch_commands(fields: dict[str, Any], rules: Rules) -> list[Command | RealtimeError]:
    """Read the fields of a `batch`: a command or an error for each.

    Raises:
        RequestError: It is wrong as a whole.
    """
    key = fields.pop("idempotency_key", None)
    if key is not None:
        raise InvalidName("idempotency_key", key, "a batch has none; each publish in it may")
    BATCH.refuse_unknown(fields)
    commands = fields.get("commands")
    if not isinstance(commands, list):
        raise InvalidData("must be a list of commands", field="commands")
    if len(commands) > MANY_ITEMS:
        raise TooLarge("the batch", len(commands), MANY_ITEMS, unit="commands")
    publications = sum(map(_size, commands))
    if publications > MANY_ITEMS:
        raise TooLarge("the batch", publications, MANY_ITEMS, unit="publications")
    return [_command(command, rules) for command in commands]


def _size(command: Any) -> int:
    """Count the publications of a command before any is built: each may have 64 KiB."""
    broadcast = command.get("broadcast") if isinstance(command, dict) else None
    channels = broadcast.get("channels") if isinstance(broadcast, dict) else None
    return len(channels) if isinstance(channels, list) else 1


def _command(command: Any, rules: Rules) -> Command | RealtimeError:
    try:
        if not isinstance(command, dict) or len(command) != 1:
            raise InvalidData("a command is an object with one method", field="commands")
        [(method, fields)] = command.items()
        if not isinstance(fields, dict):
            raise InvalidData("the fields of a method are an object", field="commands")
        if method not in ("publish", "broadcast"):
            raise MethodNotFound(
                f"a batch can hold publish and broadcast, not {ascii(method)[:40]}"
            )
        if not rules.key.may_use(method):
            raise Forbidden
        if method == "publish":
            return Command(method, [publication(fields, rules)])
        return Command(method, broadcast_items(fields, rules))
    except RequestError as error:
        return error
