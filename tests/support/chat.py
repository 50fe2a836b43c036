"""A namespace in which everyone may write, as a host or an operator would configure it."""

from __future__ import annotations

import json

CHAT = {
    "allow_subscribe_for_client": True,
    "allow_subscribe_for_anonymous": True,
    "allow_publish_for_subscriber": True,
    "allow_publish_for_anonymous": True,
    "presence": True,
    "join_leave": True,
    "allow_presence_for_subscriber": True,
    "allow_presence_for_anonymous": True,
}
NOTIFIER_NAMESPACES = json.dumps({"chat": CHAT})
"""The same, as an environment variable of the service."""
