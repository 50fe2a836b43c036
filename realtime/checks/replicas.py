"""System check of ``manage.py check --deploy``: whether a master with sentinels needs its replicas.

The only check that connects to Redis: the setting is in its configuration, and a master that
accepts writes without replicas goes on doing so after the sentinels have replaced it.
"""

from __future__ import annotations

from typing import Any

from django.core import checks

from realtime.conf import Settings
from realtime.core.redis_url import is_sentinel_url
from realtime.errors import BrokerError, ConfigurationError

_IS_SET = b"min_slaves_good_slaves:"  # in the reply to INFO only if it is


@checks.register("realtime", deploy=True)
def check_replicas(**kwargs: Any) -> list[checks.CheckMessage]:
    """Report a master that accepts writes while it has no replica."""
    from realtime.wiring import redis_broker  # it needs all apps

    try:
        if not is_sentinel_url(Settings.from_django().redis_url):
            return []
        [facts] = redis_broker().ask([("INFO", "replication")])
    except ConfigurationError:
        return []  # `settings` reports it
    except BrokerError as error:
        return [
            checks.Warning(
                "Whether the master in REALTIME_REDIS_URL requires replicas could not be checked: "
                f"{error}",
                hint="Run the check where sentinels and master can be reached.",
                id="realtime.W017",
            )
        ]
    if _IS_SET in facts:
        return []
    return [
        checks.Warning(
            "The master in REALTIME_REDIS_URL accepts writes while it has no replica. After a "
            "failover, a former master that was frozen or cut off accepts publications for up to "
            "ten seconds, and nobody receives them.",
            hint="Set min-replicas-to-write 1 and min-replicas-max-lag 2 on the master and its "
            "replicas (docs/deploy.md#sentinel).",
            id="realtime.W016",
        )
    ]
