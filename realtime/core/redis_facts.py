"""What a Redis says about itself, as far as operators of this service need it.

From the reply to INFO, of which a managed Redis or an older one may lack parts, and from CONFIG
GET, which many forbid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec


class RedisFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one server. None is unknown."""

    address: str
    """Host and port, or ``unix socket``; never credentials."""
    is_away: bool = False
    """It did not answer, so nothing else is known."""
    refused: Sequence[str] = ()
    """Commands that this user of Redis may not use."""
    version: str = ""
    """``Valkey 8.1.1`` or ``Redis 7.4.2``."""
    uptime: int | None = None
    """Seconds."""
    used_bytes: int | None = None
    max_bytes: int | None = None
    """0 is no limit."""
    policy: str = ""
    """The ``maxmemory-policy``."""
    has_aof: bool | None = None
    """Whether it writes an append-only file."""
    is_saved: bool | None = None
    """Whether the latest snapshot and the latest write to the file succeeded."""
    saved_at: int | None = None
    """When it wrote the latest snapshot, or was started without one, in seconds since 1970."""
    role: str = ""
    """``master`` or ``slave``."""
    replicas: int | None = None
    replica_lag_seconds: int | None = None
    """Since the replica that is furthest behind was heard last."""
    replica_lag_bytes: int | None = None
    """What the replica that is furthest behind has not confirmed."""


class ServerDiagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What was found at one server that was examined for a person."""

    facts: RedisFacts
    is_sentinel: bool = False
    """It is a sentinel; examined are only those that do not answer."""
    failure: str = ""
    """Why it could not be examined, or why it would refuse what a node does; never a secret."""
    seconds: float = 0.0
    """The round trip of a command."""
    clock_offset_seconds: float | None = None
    """By how much its clock is ahead of ours; None if it may not be read."""
    has_tried_commands: bool = True
    """Whether it was found out what this user may do."""
    refused_commands: tuple[str, ...] = ()
    """Commands of a node that this user may not call, as an ACL writes them: ``script|load``."""
    refuses_keys: bool = False
    """This user may not use keys with our prefix."""
    refuses_channels: bool = False
    """This user may not use channels with our prefix."""


def parse_facts(address: str, info: bytes, policy: str, refused: Sequence[str]) -> RedisFacts:
    """Parse the reply to INFO.

    Args:
        address: See `RedisFacts`; likewise ``refused``.
        info: The reply; empty if the command was refused.
        policy: The reply to CONFIG GET, for a server whose INFO lacks it; else empty.
        refused: See `RedisFacts`.
    """
    fields = _fields(info)
    is_valkey = "valkey_version" in fields
    version = fields.get("valkey_version") or fields.get("redis_version", "")
    states = [
        fields[name]
        for name in ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")
        if name in fields
    ]
    lag_seconds, lag_bytes = _lags(fields)
    return RedisFacts(
        address=address,
        refused=tuple(refused),
        version=f"{'Valkey' if is_valkey else 'Redis'} {version}" if version else "",
        uptime=_number(fields, "uptime_in_seconds"),
        used_bytes=_number(fields, "used_memory"),
        max_bytes=_number(fields, "maxmemory"),
        policy=fields.get("maxmemory_policy") or policy,
        has_aof=fields["aof_enabled"] == "1" if "aof_enabled" in fields else None,
        is_saved=all(state == "ok" for state in states) if states else None,
        saved_at=_number(fields, "rdb_last_save_time"),
        role=fields.get("role", ""),
        replicas=_number(fields, "connected_slaves"),
        replica_lag_seconds=lag_seconds,
        replica_lag_bytes=lag_bytes,
    )


def has_policy(info: bytes) -> bool:
    """Return whether a reply to INFO says which keys are evicted when the memory is full."""
    return "maxmemory_policy" in _fields(info)


def _fields(info: bytes) -> dict[str, str]:
    lines = [line.partition(":") for line in info.decode(errors="replace").splitlines()]
    return {name: value for name, colon, value in lines if colon and not name.startswith("#")}


def _lags(fields: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Return the largest lags of the replicas, from ``slave0:ip=…,offset=99,lag=1``."""
    seconds, behind = [], []
    written = _number(fields, "master_repl_offset")
    for name, value in fields.items():
        if not (name.startswith("slave") and name.removeprefix("slave").isdecimal()):
            continue
        replica = dict(part.partition("=")[::2] for part in value.split(","))
        if (lag := _number(replica, "lag")) is not None:
            seconds.append(lag)
        confirmed = _number(replica, "offset")
        if written is not None and confirmed is not None:
            behind.append(max(0, written - confirmed))
    return max(seconds, default=None), max(behind, default=None)


def _number(fields: Mapping[str, str], name: str) -> int | None:
    text = fields.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None
