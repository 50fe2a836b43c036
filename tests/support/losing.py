"""Loses an exact number of publications on purpose."""

from __future__ import annotations

from realtime.brokers.commands import SCRIPTS, Commands
from realtime.core.publication import Publication
from tests.support.redis_server import RedisServer


def publish_while_cut(server: RedisServer, channel: str, count: int) -> None:
    """Disconnect all subscribers, and publish ``count`` times before any of them can reconnect.

    MULTI makes Redis execute everything before it accepts the next connection.
    """
    publish = Commands("rt").publish(Publication.of(channel, "lost"))
    with server.client() as client:
        client.script_load(SCRIPTS.publish.text)
        with client.pipeline(transaction=True) as pipeline:
            pipeline.execute_command("CLIENT", "KILL", "TYPE", "PUBSUB")
            for _ in range(count):
                pipeline.execute_command(*publish)
            pipeline.execute()
