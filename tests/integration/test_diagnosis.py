"""What is found out about a Redis without changing anything in it."""

from __future__ import annotations

from realtime.brokers.diagnosis import commands_of_node, diagnose_servers
from tests.support.redis_server import RedisServer


def test_a_node_may_do_all_and_nothing_is_executed(own_redis: RedisServer) -> None:
    [found] = diagnose_servers(own_redis.url, "rt")
    assert found.facts.address == "unix socket"
    assert found.facts.role == "master"
    assert (found.failure, found.refused_commands) == ("", ())
    assert found.clock_offset_seconds is not None
    assert abs(found.clock_offset_seconds) < 1
    with own_redis.client() as admin:
        assert admin.keys("*") == []
        calls = admin.info("commandstats")
    tried = {str(command[0]).lower() for command in commands_of_node("rt")}
    asked = {"info", "time", "ping"}  # by the diagnosis; by the fixture
    executed = {name for name in tried if calls.get(f"cmdstat_{name}", {}).get("calls")}
    assert executed <= asked


def test_without_transactions_no_command_is_tried(own_redis: RedisServer) -> None:
    """They would be executed."""
    with own_redis.client() as admin:
        rules = ["on", ">SECRET", "~*", "&*", "+@all", "-multi"]
        admin.execute_command("ACL", "SETUSER", "notifier", *rules)
        [found] = diagnose_servers(f"unix://notifier:SECRET@{own_redis.socket}", "rt")
        assert found.refused_commands == ("multi",)
        assert admin.keys("*") == []


def test_a_server_can_be_examined_without_trying_commands(own_redis: RedisServer) -> None:
    [found] = diagnose_servers(own_redis.url, "rt", tries_commands=False)
    assert found.facts.version
    with own_redis.client() as admin:
        assert "cmdstat_multi" not in admin.info("commandstats")
