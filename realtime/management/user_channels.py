"""What `manage.py listen --user` needs: the channels of a user's connections, and a token.

The channels come from a survey of all nodes, as in ``/api/connections``.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

from realtime import wiring
from realtime.core.connection_survey import PAGE_LIMIT, ConnectionQuery, encode_query, page_of
from realtime.core.survey import Question
from realtime.host.user_tokens import connection_token
from realtime.identity.tokens import CHANNELS_LIMIT

TOKEN_SECONDS = 24 * 3600
"""When it expires, the client reconnects with another one."""

CHARACTERS_LIMIT = 5000
"""Of all names together: a token has at most 8 KiB, in Base64."""


class UserChannels(NamedTuple):
    """The channels of a user at one moment."""

    connections: int
    channels: list[str]
    """At most as many as fit into a token, in alphabetical order."""
    omitted: int
    """How many more there are."""
    silent_nodes: int
    """Nodes that did not answer; the user may have more channels there."""


def find_channels(user: str) -> UserChannels:
    """Return the channels of the user's connections on all nodes. Blocks for up to a second.

    Raises:
        BrokerError: The broker cannot be reached.
    """
    query = ConnectionQuery(user, limit=PAGE_LIMIT, names=True)
    question = Question(secrets.token_hex(8), "connections", encode_query(query))
    survey = wiring.sync_broker().survey(question)
    page = page_of(survey.answers, PAGE_LIMIT)
    names = sorted({name for each in page.connections for name in each.connection.channels or ()})
    some = names[:CHANNELS_LIMIT]
    while sum(map(len, some)) > CHARACTERS_LIMIT:
        some.pop()
    return UserChannels(len(page.connections), some, len(names) - len(some), survey.silent)


def make_token(user: str, channels: list[str]) -> str:
    """Return a token for one more connection of the user, which has these channels.

    Raises:
        ConfigurationError: This project makes no tokens, or none about this user.
    """
    return connection_token(user, seconds=TOKEN_SECONDS, channels=channels)
