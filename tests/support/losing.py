"""Lose publications on purpose, an exact number of them."""

from __future__ import annotations

from realtime.brokers.commands import PUBLISH, Commands
from realtime.publication import Publication
from tests.support.redis_server import RedisServer


def publish_while_cut(server: RedisServer, channel: str, count: int) -> None:
    """Cut all subscribers and publish ``count`` times before any of them can be back.

    MULTI makes Redis do it all before it accepts the next connection.
    """
    publish = Commands("rt").publish(Publication.of(channel, "lost"))
    with server.client() as client:
        client.script_load(PUBLISH.text)
        with client.pipeline(transaction=True) as pipeline:
            pipeline.execute_command("CLIENT", "KILL", "TYPE", "PUBSUB")
            for _ in range(count):
                pipeline.execute_command(*publish)
            pipeline.execute()
