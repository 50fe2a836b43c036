"""Asks the nodes for channels, users and connections, by the broker for threads."""

from __future__ import annotations

import secrets
from typing import NamedTuple

from realtime import wiring
from realtime.core import names
from realtime.core.names import checked_channel, users_of
from realtime.core.survey import Question, channels_of, checked_pattern
from realtime.host.presence import Present, presence
from realtime.host.user_tokens import personal_channel


class Occupancy(NamedTuple):
    """A channel or a user, with a number of connections."""

    name: str
    connections: int


class Census(NamedTuple):
    """What the nodes answered."""

    found: list[Occupancy]
    silent: int
    """Nodes that did not answer in time."""


class Occupants(NamedTuple):
    """The connections on a channel."""

    connections: int
    members: list[Present] | None
    """None if the namespace does not record them."""
    silent: int


def find_channels(text: str) -> Census:
    """Return the channels whose name contains a text or matches a pattern.

    Raises:
        InvalidData: It is not a valid pattern.
        TooManyChannels: More than 10,000 match.
        BrokerError: The broker cannot be reached.
    """
    pattern = text if not text or set(text) & set("*?") else f"*{text}*"
    return _census(checked_pattern(pattern))


def find_users() -> Census:
    """Return the users on personal channels; errors as above. No users without such channels."""
    prefix = wiring.settings().personal_channel
    if not prefix:
        return Census([], 0)
    census = _census(f"{prefix}*")
    found = [
        Occupancy(user, connections)
        for name, connections in census.found
        for user in users_of(name) or ()
        if names.personal_channel(prefix, user) == name  # some channels are for several users
    ]
    return Census(found, census.silent)


def occupants_of(channel: str) -> Occupants:
    """Return who is on a channel.

    Raises:
        InvalidName: The name is invalid.
        TooManyMembers: There are more than 10,000.
        BrokerError: The broker cannot be reached.
    """
    census = _census(checked_channel(channel))
    count = dict(census.found).get(channel, 0)
    namespace = wiring.namespaces().get(channel)
    members = presence(channel) if namespace and namespace.counts_members else None
    return Occupants(count, members, census.silent)


def connections_of(user: str) -> Occupants:
    """Return the connections of a user; errors as above.

    Raises:
        ConfigurationError: Users have no personal channels.
    """
    return occupants_of(personal_channel(user))


def _census(pattern: str) -> Census:
    question = Question(secrets.token_hex(8), "channels", pattern)
    survey = wiring.sync_broker().survey(question)
    counts = channels_of(survey.answers, lambda name: True)
    return Census([Occupancy(*each) for each in counts.items()], survey.silent)
