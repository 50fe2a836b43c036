"""Builds publications from the fields of a request, as far as the publisher's key permits.

If one of several is invalid, only that one gets an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from realtime.api.cloudevent_routes import NO_ROUTES, Routes
from realtime.api.fields import BATCH, BROADCAST, MANY_ITEMS, POSITION, PRESENCE, PUBLISH
from realtime.api.request import MethodNotFound, refuse_unknown
from realtime.core.names import ChannelName, checked_channel
from realtime.core.namespaces import UNCOUNTED
from realtime.core.publication import Publication, PublicationOptions
from realtime.errors import (
    Forbidden,
    InvalidData,
    InvalidName,
    RealtimeError,
    RequestError,
    TooLarge,
)

if TYPE_CHECKING:
    from realtime.api.keys import Key
    from realtime.core.namespaces import Namespaces

Item = Publication | RealtimeError
_OPTIONAL = frozenset(
    {"event", "tags", "idempotency_key", "fallback", "fallback_when", "fallback_options"}
)


class Rules(NamedTuple):
    """The rules that apply to one request."""

    key: Key
    namespaces: Namespaces
    routes: Routes = NO_ROUTES
    """Chooses the channels of events that do not name one."""

    def check_channel(self, value: object) -> ChannelName:
        """Return a channel that the key may use, whether its namespace exists or not.

        Raises:
            InvalidName: The channel's name is invalid.
            Forbidden: The key may not use the channel.
        """
        channel = checked_channel(value)
        if not self.key.may_name(channel):
            raise Forbidden
        return channel


class BatchCommand(NamedTuple):
    """One command of a batch."""

    method: str
    items: list[Item]


def publication(fields: dict[str, Any], rules: Rules) -> Publication:
    """Read the fields of a `publish`.

    Raises:
        RequestError: A field is invalid, or this publisher may not publish it.
    """
    refuse_unknown(fields, PUBLISH.names)
    if "channel" not in fields:
        raise InvalidName("channel", None, "is missing")
    return _complete(_make(rules.check_channel(fields["channel"]), fields, rules), rules)


def read_channel_with_members(fields: dict[str, Any], rules: Rules) -> str:
    """Read the fields of a `presence` or `presence_stats`: the channel.

    Raises:
        InvalidName: The channel's name is invalid.
        InvalidData: The channel's namespace does not record members, or a field is unknown.
        Forbidden: The key may not use the channel.
    """
    refuse_unknown(fields, PRESENCE.names)
    channel = rules.check_channel(fields.get("channel"))
    if not rules.namespaces.for_publishing(channel).counts_members:
        raise InvalidData(UNCOUNTED, field="channel")
    return channel


def read_channels(fields: dict[str, Any], rules: Rules) -> list[str]:
    """Read the fields of a `position`: different channels, in the order of the request.

    Raises:
        InvalidName: A name is invalid, or its namespace is not configured.
        InvalidData: There is no list of channels, or a field is unknown.
        TooLarge: There are too many channels.
        Forbidden: The key may not use one of the channels.
    """
    refuse_unknown(fields, POSITION.names)
    channels = [rules.check_channel(channel) for channel in _channels(fields, "the request")]
    for channel in channels:  # after the key: a refusal does not tell which namespaces exist
        rules.namespaces.for_publishing(channel)
    return list(dict.fromkeys(channels))


def broadcast_items(fields: dict[str, Any], rules: Rules) -> list[Item]:
    """Read the fields of a `broadcast`: a publication or an error for each channel.

    Raises:
        RequestError: A field is invalid, and so all publications are.
    """
    refuse_unknown(fields, BROADCAST.names)
    channels = _channels(fields, "the broadcast")
    rest = {name: value for name, value in fields.items() if name != "channels"}
    items: list[Item] = []
    made = None  # once for all channels: 64 KiB take milliseconds to check
    for channel in channels:
        try:
            name = rules.check_channel(channel)
            made = made.on(name) if made else _make(name, rest, rules)
            items.append(_complete(made, rules))
        except Forbidden as error:
            items.append(error)
        except InvalidName as error:
            if error.field != "channel":
                raise  # invalid for all channels
            items.append(error)
    return items


def _channels(fields: dict[str, Any], what: str) -> list[Any]:
    """Return the unchecked names in the field `channels`."""
    channels = fields.get("channels")
    if not isinstance(channels, list) or not channels:
        raise InvalidData("must be a list of channels", field="channels")
    if len(channels) > MANY_ITEMS:
        raise TooLarge(what, len(channels), MANY_ITEMS, unit="channels")
    return channels


def batch_commands(fields: dict[str, Any], rules: Rules) -> list[BatchCommand | RealtimeError]:
    """Read the fields of a `batch`: a command or an error for each.

    Raises:
        RequestError: The batch as a whole is invalid.
    """
    key = fields.pop("idempotency_key", None)
    if key is not None:
        raise InvalidName("idempotency_key", key, "a batch cannot have one; set it on its commands")
    refuse_unknown(fields, BATCH.names)
    commands = fields.get("commands")
    if not isinstance(commands, list):
        raise InvalidData("must be a list of commands", field="commands")
    if len(commands) > MANY_ITEMS:
        raise TooLarge("the batch", len(commands), MANY_ITEMS, unit="commands")
    publications = sum(map(_size, commands))
    if publications > MANY_ITEMS:
        raise TooLarge("the batch", publications, MANY_ITEMS, unit="publications")
    return [_command(command, rules) for command in commands]


def _make(channel: ChannelName, fields: dict[str, Any], rules: Rules) -> Publication:
    if "data" not in fields:
        raise InvalidData("is missing")
    options: PublicationOptions = {
        "sizes": rules.namespaces.sizes,
        "scope": rules.key.scope,
        "is_decoded": True,
    }
    for name, value in fields.items():
        if name in _OPTIONAL:
            options[name] = value  # type: ignore[literal-required]
    return Publication.on_channel(channel, fields["data"], **options)


def _complete(made: Publication, rules: Rules) -> Publication:
    """Return the publication with the fallback of its namespace, if the key may use it."""
    named = made.fallback and made.fallback.name
    if named and not rules.key.may_fall_back(named):  # the same answer whether it exists or not
        raise Forbidden
    ready = rules.namespaces.complete(made)
    if made.fallback and ready.fallback and not rules.key.may_fall_back(ready.fallback.name or ""):
        raise Forbidden  # it has options, such as an address, for the namespace's own fallback
    return ready


def _size(command: Any) -> int:
    """Count the publications of a command before any is built: each may have 64 KiB."""
    broadcast = command.get("broadcast") if isinstance(command, dict) else None
    channels = broadcast.get("channels") if isinstance(broadcast, dict) else None
    return len(channels) if isinstance(channels, list) else 1


def _command(command: Any, rules: Rules) -> BatchCommand | RealtimeError:
    try:
        if not isinstance(command, dict) or len(command) != 1:
            raise InvalidData("each command must be an object with one method", field="commands")
        [(method, fields)] = command.items()
        if not isinstance(fields, dict):
            raise InvalidData("the fields of a method must be an object", field="commands")
        if method not in ("publish", "broadcast"):
            raise MethodNotFound(
                f"a batch may contain publish and broadcast, not {ascii(method)[:40]}"
            )
        if not rules.key.may_use(method):
            raise Forbidden
        if method == "publish":
            return BatchCommand(method, [publication(fields, rules)])
        return BatchCommand(method, broadcast_items(fields, rules))
    except RequestError as error:
        return error
