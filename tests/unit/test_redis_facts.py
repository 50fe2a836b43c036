"""What INFO says: parsed where it is there, unknown where it is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.core.redis_facts import RedisFacts, has_policy, parse_facts

INFO = b"""# Server\r
redis_version:7.2.4\r
valkey_version:8.1.1\r
uptime_in_seconds:77\r
\r
# Memory\r
used_memory:1048576\r
maxmemory:0\r
maxmemory_policy:noeviction\r
# Persistence\r
loading:0\r
rdb_last_save_time:1790000000\r
rdb_last_bgsave_status:ok\r
aof_enabled:1\r
aof_last_bgrewrite_status:ok\r
aof_last_write_status:ok\r
# Replication\r
role:master\r
connected_slaves:2\r
slave0:ip=10.0.0.8,port=6379,state=online,offset=900,lag=0\r
slave1:ip=10.0.0.9,port=6379,state=online,offset=400,lag=3\r
slaves_waiting_psync:0\r
master_repl_offset:1000\r
"""


def test_the_state_of_a_master_with_two_replicas() -> None:
    assert parse_facts("10.0.0.7:6379", INFO, "", []) == RedisFacts(
        address="10.0.0.7:6379",
        version="Valkey 8.1.1",
        uptime=77,
        used_bytes=1048576,
        max_bytes=0,
        policy="noeviction",
        has_aof=True,
        is_saved=True,
        saved_at=1790000000,
        role="master",
        replicas=2,
        replica_lag_seconds=3,
        replica_lag_bytes=600,
    )
    assert has_policy(INFO)


def test_a_failed_snapshot_is_told() -> None:
    failed = INFO.replace(b"rdb_last_bgsave_status:ok", b"rdb_last_bgsave_status:err")
    assert parse_facts("", failed, "", []).is_saved is False


def test_a_server_that_forbids_everything_is_unknown() -> None:
    facts = parse_facts("redis:6379", b"", "", ["INFO", "CONFIG GET"])
    assert facts == RedisFacts(address="redis:6379", refused=("INFO", "CONFIG GET"))
    assert not has_policy(b"")


def test_the_policy_may_come_from_the_configuration() -> None:
    assert parse_facts("", b"redis_version:7.0.0", "allkeys-lru", []).policy == "allkeys-lru"


def test_redis_calls_itself_redis() -> None:
    assert parse_facts("", b"redis_version:7.4.2\r\n", "", []).version == "Redis 7.4.2"


@given(st.binary(max_size=200))
def test_any_reply_is_parsed(info: bytes) -> None:
    parse_facts("", info, "", [])
    parse_facts("", b"slave0:" + info + b"\nmaster_repl_offset:" + info, "", [])
