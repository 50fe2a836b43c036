"""What may be done on which channels, as options of their namespaces.

Options have Centrifugo's names where Centrifugo has the same thing, so that its users know them. A
namespace that is not configured does not exist: publishing to it is an error, subscribing is
refused like anything forbidden.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from realtime.errors import ConfigurationError, InvalidName
from realtime.identity import ANONYMOUS, Grant, Identity
from realtime.names import (
    CHANNEL_LIMIT,
    checked_fallback,
    is_namespace,
    namespace_of,
    personal_channel,
    users_of,
)
from realtime.publication import LARGEST, Fallback, Publication, Sizes, When


class Overflow(StrEnum):
    """What happens to a connection's waiting publications when its outbox is full."""

    GAP = "gap"
    """They are dropped, and the client is told exactly which ones."""
    LATEST = "latest"
    """The newest of each channel is kept; the client is told exactly which ones were dropped."""
    DISCONNECT = "disconnect"
    """The connection is closed with 3008, as Centrifugo does it."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """The options of one namespace. Everything is forbidden until an option allows it."""

    allow_subscribe_for_client: bool = False
    """Any client that has an identity may subscribe."""
    allow_subscribe_for_anonymous: bool = False
    """With `allow_subscribe_for_client`: clients without an identity, too."""
    allow_publish_for_client: bool = False
    """Clients with an identity that may subscribe may publish, subscribed or not."""
    allow_publish_for_subscriber: bool = False
    """Clients with an identity that are subscribed to the channel may publish to it."""
    allow_publish_for_anonymous: bool = False
    """With one of the two: clients without an identity, too."""
    presence: bool = False
    """Who is on a channel is recorded: the server can ask, and clients that are allowed to."""
    join_leave: bool = False
    """Subscribers that wish so are told who comes and who goes."""
    force_push_join_leave: bool = False
    """With `join_leave`: those that do not wish so, too."""
    allow_presence_for_client: bool = False
    """With `presence`: clients with an identity may ask who is on a channel, subscribed or not."""
    allow_presence_for_subscriber: bool = False
    """With `presence`: clients with an identity that are subscribed may ask who is on a channel."""
    allow_presence_for_anonymous: bool = False
    """With one of the two: clients without an identity, too."""
    overflow: Overflow = Overflow.GAP
    """What a slow connection loses: `gap`, `latest` or `disconnect`."""
    fallback: str = ""
    """Who gets what nobody hears, where a publication names no other; empty is nobody."""
    fallback_when: When = When.NOBODY
    """`nobody`: a publication is live or queued; `always`: it is both."""

    @property
    def counts_members(self) -> bool:
        """Whether who is on its channels is written down."""
        return self.presence or self.join_leave


class Namespaces:
    """All namespaces of a node, and the permission rule over them."""

    def __init__(
        self,
        configured: Mapping[str, Mapping[str, object]],
        *,
        personal: str | None = None,
        channel_characters: int = CHANNEL_LIMIT,
        sizes: Sizes = LARGEST,
        fallbacks: Container[str] = (),
    ) -> None:
        """Read the configuration.

        Args:
            configured: Options by name, added to the built-in ones.
            personal: What stands before a user's id in the name of the channel that they listen to
                by themselves, such as ``user:#``; None where they have none.
            channel_characters: A channel whose name is longer is in no namespace.
            sizes: What a publication may hold, wherever it is published.
            fallbacks: The names of those that there are.

        Raises:
            ConfigurationError: A name or option that does not exist, or a value of the wrong type.
        """
        self._by_name = dict(BUILT_IN)
        for name, options in configured.items():
            self._by_name[name] = _namespace(name, options)
        if personal and namespace_of(personal) not in self._by_name:
            raise ConfigurationError(
                "REALTIME_PERSONAL_CHANNEL",
                f"is in the namespace {namespace_of(personal)!r}, which is not configured",
            )
        self._personal = personal
        self._channel_characters = channel_characters
        self.sizes = sizes
        self._fallbacks = fallbacks

    def served(self, identity: Identity) -> list[str]:
        """Return the channels that a client listens to without asking: its own, and its token's."""
        own = None
        if self._personal is not None and not identity.is_anonymous:
            own = personal_channel(self._personal, identity.user)
        channels = ([] if own is None else [own]) + list(identity.channels)
        return [channel for channel in dict.fromkeys(channels) if self.get(channel) is not None]

    def get(self, channel: str) -> Namespace | None:
        """Return the namespace of the channel, or None where it is not configured."""
        if len(channel) > self._channel_characters:
            return None
        return self._by_name.get(namespace_of(channel))

    def items(self) -> Iterable[tuple[str, Namespace]]:
        """Return all namespaces by name."""
        return self._by_name.items()

    def for_publishing(self, channel: str) -> Namespace:
        """Return the namespace of a channel that a trusted publisher names.

        Raises:
            InvalidName: The namespace is not configured.
        """
        namespace = self.get(channel)
        if len(channel) > self._channel_characters:
            raise InvalidName("channel", channel, f"at most {self._channel_characters} characters")
        if namespace is None:
            name = namespace_of(channel)
            raise InvalidName("channel", channel, f"there is no namespace {name!r}")
        return namespace

    def admitted(self, publication: Publication) -> Publication:
        """Return a publication as it is published: with its namespace's fallback, if it names none.

        Raises:
            InvalidName: Its namespace is not configured, or there is no such fallback.
        """
        namespace = self.for_publishing(publication.channel)
        given = publication.fallback
        if given is None and not namespace.fallback:
            return publication
        given = given or Fallback(None)
        name = given.name or namespace.fallback
        if not name or name not in self._fallbacks:
            rule = (
                "there is no fallback of this name"
                if name
                else "none is named, nor has its namespace one"
            )
            raise InvalidName("fallback", name or None, rule)
        fallback = Fallback(name, given.when or namespace.fallback_when, given.options)
        return publication if fallback == given else replace(publication, fallback=fallback)

    def may_subscribe(
        self, channel: str, identity: Identity = ANONYMOUS, grant: Grant | None = None
    ) -> bool | None:
        """Tell whether a client may subscribe; the first of these that applies decides.

        1. The namespace is not configured: no.
        2. The channel is for certain users (``#``): for them and nobody else.
        3. The client has a grant: if it is for this channel and this user.
        4. The options of the namespace allow it: yes.

        Returns:
            None where none of them applies: then the host's authorizer decides, or it is no.
        """
        namespace = self.get(channel)
        # What does not exist is looked at like what is closed: the time tells nothing, either.
        exists, options = namespace is not None, namespace or _CLOSED
        if (users := users_of(channel)) is not None:
            return exists and identity.user in users
        if grant is not None:
            return exists and grant.channel == channel and grant.user == identity.user
        known = options.allow_subscribe_for_anonymous or not identity.is_anonymous
        if options.allow_subscribe_for_client and known:
            return True
        return None if exists else False

    def may_publish(
        self, channel: str, identity: Identity = ANONYMOUS, *, subscribed: bool
    ) -> bool | None:
        """Tell whether a client may publish to the channel; None as for `may_subscribe`."""
        namespace = self.get(channel)
        if namespace is None:
            return False
        is_eligible = namespace.allow_publish_for_anonymous or not identity.is_anonymous
        if subscribed and is_eligible and namespace.allow_publish_for_subscriber:
            return True
        may_subscribe = self.may_subscribe(channel, identity)
        if may_subscribe is False:
            return False
        return (
            True if may_subscribe and is_eligible and namespace.allow_publish_for_client else None
        )

    def may_see_members(
        self, channel: str, identity: Identity = ANONYMOUS, *, subscribed: bool
    ) -> bool:
        """Tell whether a client may ask who is on a channel, where that is recorded.

        As in Centrifugo, `allow_presence_for_client` does not ask whether the client may subscribe;
        but a channel for certain users (``#``) is for them alone here, too.
        """
        namespace = self.get(channel)
        if namespace is None:
            return False
        if identity.is_anonymous and not namespace.allow_presence_for_anonymous:
            return False
        if subscribed and namespace.allow_presence_for_subscriber:
            return True
        users = users_of(channel)
        return namespace.allow_presence_for_client and (users is None or identity.user in users)


_CLOSED = Namespace()
BUILT_IN = {
    "": Namespace(),
    "public": Namespace(allow_subscribe_for_client=True, allow_subscribe_for_anonymous=True),
    "user": Namespace(),
    "job": Namespace(allow_subscribe_for_client=True, allow_subscribe_for_anonymous=True),
}
"""`public`: anyone listens, the server publishes. `user`: one channel per user.

`job`: one channel per background task, for whoever knows its id, which nobody can guess.

The default one is closed. Clients may publish in none of them: installing this library must not
open a channel in which strangers write.
"""

_FIELDS = {field.name: field for field in fields(Namespace)}
_CHOICES: dict[str, type[StrEnum]] = {"overflow": Overflow, "fallback_when": When}


def _namespace(name: object, options: object) -> Namespace:
    if not isinstance(name, str) or not is_namespace(name):
        raise ConfigurationError(
            "REALTIME_NAMESPACES",
            f"{name!r} is not a name: use a-z 0-9 _ - (empty for the default)",
        )
    if not isinstance(options, Mapping):
        raise ConfigurationError("REALTIME_NAMESPACES", f"{name!r} must be an object of options")
    checked: dict[str, Any] = {key: _option(name, key, value) for key, value in options.items()}
    return Namespace(**checked)


def _option(name: str, key: str, value: object) -> bool | str:
    where = f"REALTIME_NAMESPACES[{name!r}]"
    if key not in _FIELDS:
        raise ConfigurationError(where, f"unknown option {key!r}; known: {', '.join(_FIELDS)}")
    if key in _CHOICES:
        if value not in list(_CHOICES[key]):
            raise ConfigurationError(where, f"{key} must be one of {', '.join(_CHOICES[key])}")
        return _CHOICES[key](str(value))
    if key == "fallback":
        return _fallback(where, value)
    if not isinstance(value, bool):
        raise ConfigurationError(where, f"{key} must be true or false, not {value!r}")
    return value


def _fallback(where: str, value: object) -> str:
    try:
        return "" if value == "" else checked_fallback(value)
    except InvalidName as error:
        raise ConfigurationError(where, f"fallback must be a name: {error.rule}") from error
