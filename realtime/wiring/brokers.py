"""Chooses the broker by `REALTIME_REDIS_URL`: Redis, or the one inside the process.

redis-py is imported only where Redis is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from realtime.brokers.memory.asynchronous import MemoryBroker
from realtime.brokers.memory.blocking import SyncMemoryBroker
from realtime.brokers.memory.queue import MemoryQueue
from realtime.conf.improper import ImproperSetting
from realtime.core.redis_url import MEMORY_URL, is_cluster_url
from realtime.errors import BrokerUnavailable, RealtimeError
from realtime.wiring import guard, one_process
from realtime.wiring.configured import forget_all, once, once_open, settings

if TYPE_CHECKING:
    from realtime.brokers import Broker, SyncBroker
    from realtime.brokers.fallback_queue import FallbackQueue
    from realtime.brokers.memory.shared import SharedStore
    from realtime.brokers.partition_sync import SyncRedis
    from realtime.core.publication import Receipt


def redis_url() -> str:
    """Return the URL of Redis, or ``memory://``.

    Raises:
        ConfigurationError: It is not set.
    """
    if not settings().redis_url:
        raise ImproperSetting(
            "REALTIME_REDIS_URL",
            "is not set. It names your Redis, such as redis://127.0.0.1:6379/0 (for the service: "
            "REDIS_URL), or is memory://, which needs no server, in a single process",
        )
    return settings().redis_url


def is_memory() -> bool:
    """Tell whether the broker is inside the process."""
    return settings().redis_url == MEMORY_URL


def is_alone() -> bool:
    """Tell whether the broker is inside the process, and this process cannot be the one."""
    return is_memory() and not one_process.has_store(settings().redis_prefix)


def shared_store() -> SharedStore:
    """Return the store of this process for the prefix.

    Raises:
        ConfigurationError: Another process of the same project has one.
    """
    return one_process.store_of(settings().redis_prefix, forget_all)


@once
def sync_broker() -> SyncBroker:
    """Return the broker for threads.

    Raises:
        ConfigurationError: The URL is not set, or this process may not use the broker.
    """
    if redis_url() == MEMORY_URL:
        return SyncMemoryBroker(shared_store(), **_queue_limits())
    return redis_broker()


def async_broker() -> Broker:
    """Return a broker for the running event loop; the caller closes it. Errors as above."""
    if redis_url() == MEMORY_URL:
        return MemoryBroker(shared_store(), **_queue_limits())
    refuse_foreign_prefix()
    if is_cluster_url(redis_url()):
        from realtime.brokers.cluster.broker import ClusterBroker

        return ClusterBroker(redis_url(), **_redis_options())
    from realtime.brokers.redis import RedisBroker

    return RedisBroker(redis_url(), **_redis_options())


def queue() -> FallbackQueue:
    """Return the fallback queue for the running event loop; the caller closes it."""
    if redis_url() == MEMORY_URL:
        return MemoryQueue(shared_store())
    refuse_foreign_prefix()
    if is_cluster_url(redis_url()):
        from realtime.brokers.cluster.queue import ClusterQueue

        return ClusterQueue(redis_url(), prefix=settings().redis_prefix)
    from realtime.brokers.redis_queue import RedisQueue

    return RedisQueue(redis_url(), prefix=settings().redis_prefix)


def redis_broker() -> SyncRedis:
    """Return the connection to Redis for threads, for what only Redis keeps.

    Raises:
        BrokerUnavailable: The broker is inside the process.
        ConfigurationError: The URL is not set, or this process may not use Redis.
    """
    if redis_url() == MEMORY_URL:
        raise BrokerUnavailable("memory:// is inside one process: this needs Redis")
    refuse_foreign_prefix()
    return _redis_for_threads()


@once_open
def _redis_for_threads() -> SyncRedis:
    if is_cluster_url(redis_url()):
        from realtime.brokers.cluster.blocking import SyncClusterBroker

        return SyncClusterBroker(redis_url(), **_redis_options())
    from realtime.brokers.redis_sync import SyncRedisBroker

    return SyncRedisBroker(redis_url(), **_redis_options())


def refuse_foreign_prefix() -> None:
    """Refuse, in a test run, a Redis prefix that other processes use.

    Raises:
        ConfigurationError: They do.
        BrokerError: Redis does not answer.
    """
    if guard.is_test_run() and settings().redis_url not in ("", MEMORY_URL):
        guard.refuse_foreign_prefix(_redis_for_threads(), settings().redis_prefix)


def only(answers: list[Receipt | RealtimeError]) -> Receipt:
    """Return the only receipt, or raise the only error."""
    [answer] = answers
    if isinstance(answer, RealtimeError):
        raise answer
    return answer


def _redis_options() -> dict[str, Any]:
    given = settings()
    return {
        "prefix": given.redis_prefix,
        "deadline_seconds": given.publish_seconds,
        **_queue_limits(),
    }


def _queue_limits() -> dict[str, int]:
    given = settings()
    return {"queue_items": given.fallback_items, "queue_bytes": given.fallback_bytes}
