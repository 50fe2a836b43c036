"""Permissions and other options of channels, by namespace.

Options that exist in Centrifugo have the same name here, for those who know it. A namespace that is
not configured does not exist: publishing to it is an error, and a subscription is refused as if it
were forbidden.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from msgspec.structs import replace

from realtime.core.identity import ANONYMOUS, Grant, Identity
from realtime.core.names import (
    CHANNEL_LIMIT,
    checked_fallback,
    is_namespace,
    namespace_of,
    personal_channel,
    users_of,
)
from realtime.core.overflow import Overflow
from realtime.core.publication import (
    LARGEST,
    Fallback,
    Publication,
    Sizes,
    When,
)
from realtime.errors import ConfigurationError, InvalidName

UNCOUNTED = "its namespace enables neither presence nor join_leave"
"""Why a channel has no presence."""

# Why a client may not subscribe.
TOO_LONG = "its name is longer than REALTIME_CHANNEL_CHARACTERS"
UNKNOWN_NAMESPACE = "its namespace is not in REALTIME_NAMESPACES; correct it, or add it there"
FOR_OTHERS = "it is for the users after its #, and the client is another"
OTHER_GRANT = "its token is for another channel or another user"
FOR_MEMBERS = "its namespace lacks allow_subscribe_for_anonymous, and the client is anonymous"
CLOSED = "its namespace lacks allow_subscribe_for_client, and the client has no token for it"
NOT_SERVED = "the client's token names it, but its namespace is not in REALTIME_NAMESPACES"
BY_AUTHORIZER = "REALTIME_AUTHORIZER does not allow it"


@dataclass(frozen=True, slots=True)
class Namespace:
    """The options of one namespace. Everything is forbidden until an option allows it."""

    allow_subscribe_for_client: bool = False
    """Clients with an identity may subscribe."""
    allow_subscribe_for_anonymous: bool = False
    """With `allow_subscribe_for_client`: clients without an identity may, too."""
    allow_publish_for_client: bool = False
    """Clients with an identity that may subscribe may publish, whether subscribed or not."""
    allow_publish_for_subscriber: bool = False
    """Clients with an identity that are subscribed to the channel may publish to it."""
    allow_publish_for_anonymous: bool = False
    """With either of these two: clients without an identity may, too."""
    presence: bool = False
    """Record the members of a channel: the server can ask for them, and clients with permission."""
    join_leave: bool = False
    """Announce joins and leaves to subscribers that ask for it."""
    force_push_join_leave: bool = False
    """With `join_leave`: announce to all subscribers, even without the permission for presence."""
    allow_presence_for_client: bool = False
    """With `presence`: clients with an identity may ask for members, whether subscribed or not."""
    allow_presence_for_subscriber: bool = False
    """With `presence`: clients with an identity that are subscribed may ask for the members."""
    allow_presence_for_anonymous: bool = False
    """With either of these two: clients without an identity may, too."""
    overflow: Overflow = Overflow.GAP
    """What a slow connection loses: `gap`, `latest` or `disconnect`."""
    fallback: str = ""
    """The fallback of publications that name none; empty is none."""
    fallback_when: When = When.NOBODY
    """`nobody`: a publication is delivered live or queued; `always`: it is both."""

    @property
    def counts_members(self) -> bool:
        """Whether the members of its channels are recorded."""
        return self.presence or self.join_leave


class Namespaces:
    """All namespaces of a node, and the permission rules over them."""

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
            personal: The prefix of the channel to which each user is subscribed by the server,
                such as ``user:#``; None if there is none.
            channel_characters: Maximum length; longer channel names belong to no namespace.
            sizes: The size limits of publications, however they are published.
            fallbacks: The names of the configured fallbacks.

        Raises:
            ConfigurationError: An unknown name or option, or a value of the wrong type.
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

    def server_side_channels(self, identity: Identity) -> list[str]:
        """Return the channels the server subscribes a client to: its own, and its token's."""
        own = None
        if self._personal is not None and not identity.is_anonymous:
            own = personal_channel(self._personal, identity.user)
        channels = ([] if own is None else [own]) + list(identity.channels)
        return [channel for channel in dict.fromkeys(channels) if self.get(channel) is not None]

    def get(self, channel: str) -> Namespace | None:
        """Return the namespace of a channel, or None if it is not configured."""
        if len(channel) > self._channel_characters:
            return None
        return self._by_name.get(namespace_of(channel))

    def items(self) -> Iterable[tuple[str, Namespace]]:
        """Return all namespaces by name."""
        return self._by_name.items()

    def for_publishing(self, channel: str) -> Namespace:
        """Return the namespace of a channel that a trusted publisher named.

        Raises:
            InvalidName: The namespace is not configured.
        """
        namespace = self.get(channel)
        if len(channel) > self._channel_characters:
            raise InvalidName(
                "channel", channel, f"use at most {self._channel_characters} characters"
            )
        if namespace is None:
            raise InvalidName(
                "channel",
                channel,
                f"the namespace {namespace_of(channel)!r} is not configured: correct the name, or "
                "add it to REALTIME_NAMESPACES (for the service: NOTIFIER_NAMESPACES)",
            )
        return namespace

    def complete(self, publication: Publication) -> Publication:
        """Return the publication to publish: with its namespace's fallback, if it names none.

        Raises:
            InvalidName: Its namespace is not configured, or its fallback does not exist.
        """
        namespace = self.for_publishing(publication.channel)
        given = publication.fallback
        if given is None and not namespace.fallback:
            return publication
        given = given or Fallback(None)
        name = given.name or namespace.fallback
        if not name or name not in self._fallbacks:
            rule = "no fallback has this name" if name else "is missing, and the namespace has none"
            raise InvalidName("fallback", name or None, rule)
        fallback = Fallback(name, given.when or namespace.fallback_when, given.options)
        return publication if fallback == given else replace(publication, fallback=fallback)

    def may_subscribe(
        self, channel: str, identity: Identity = ANONYMOUS, grant: Grant | None = None
    ) -> bool | None:
        """Return whether a client may subscribe.

        The first of these rules that applies decides:

        1. The namespace is not configured: no.
        2. The channel is for certain users (``#``): only those users may.
        3. The client has a grant: if it is for this channel and this user.
        4. The options of the namespace allow it: yes.

        Returns:
            None if no rule applies: the host's authorizer decides, or without one the answer is no.
        """
        namespace = self.get(channel)
        # A missing namespace takes the same steps as a closed one, so that timing reveals nothing.
        exists, options = namespace is not None, namespace or _CLOSED
        if (users := users_of(channel)) is not None:
            return exists and identity.user in users
        if grant is not None:
            return exists and grant.channel == channel and grant.user == identity.user
        known = options.allow_subscribe_for_anonymous or not identity.is_anonymous
        if options.allow_subscribe_for_client and known:
            return True
        return None if exists else False

    def why_not_subscribe(
        self, channel: str, identity: Identity = ANONYMOUS, grant: Grant | None = None
    ) -> str:
        """Return why `may_subscribe` does not say yes, for the log: the first rule that applies."""
        namespace, users = self.get(channel), users_of(channel)
        if len(channel) > self._channel_characters:
            return TOO_LONG
        if namespace is None:
            return UNKNOWN_NAMESPACE
        if users is not None:
            return FOR_OTHERS
        if grant is not None:
            return OTHER_GRANT
        is_open = namespace.allow_subscribe_for_client
        return FOR_MEMBERS if is_open and identity.is_anonymous else CLOSED

    def may_publish(
        self, channel: str, identity: Identity = ANONYMOUS, *, subscribed: bool
    ) -> bool | None:
        """Return whether a client may publish to the channel; None as in `may_subscribe`."""
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
        """Return whether a client may ask for the members of a channel, if they are recorded.

        As in Centrifugo, `allow_presence_for_client` does not require permission to subscribe; but
        unlike there, a channel for certain users (``#``) is for them alone.
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
"""`public`: anyone may listen, the server publishes. `user`: one channel per user.

`job`: one channel per background task, for anyone who knows its id, which cannot be guessed.

The default namespace is closed. No built-in namespace lets clients publish: installing this library
must not open a channel to which strangers can write.
"""

_FIELDS = {field.name: field for field in fields(Namespace)}
_CHOICES: dict[str, type[StrEnum]] = {"overflow": Overflow, "fallback_when": When}


def _namespace(name: object, options: object) -> Namespace:
    if not isinstance(name, str) or not is_namespace(name):
        raise ConfigurationError(
            "REALTIME_NAMESPACES",
            f"{name!r} is not a valid name: use a-z 0-9 _ - (empty for the default namespace)",
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
