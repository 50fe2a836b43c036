"""Keeps tests away from a Redis that others use.

A host's `manage.py test` once queued five mails for real users, because its settings named the
development Redis. So in a test run, a prefix under which a service or a fallback worker has ever
run is refused, unless its name says that it is for tests.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from realtime.conf.improper import ImproperSetting

if TYPE_CHECKING:
    from realtime.brokers.partition_sync import SyncRedis

FOR_TESTS = "test"
"""A prefix that begins with this word is for tests."""
_shared: set[str] = set()


def is_test_run() -> bool:
    """Tell whether Django's test environment is set up in this process (pytest-django does it)."""
    utils = sys.modules.get("django.test.utils")  # loaded by whoever sets it up
    return hasattr(getattr(utils, "_TestState", None), "saved_data")


def share(prefix: str) -> None:
    """Let the tests of this process use a prefix that other processes use."""
    _shared.add(prefix)


def refuse_foreign_prefix(broker: SyncRedis, prefix: str) -> None:
    """Refuse, in a test run, a Redis prefix that other processes use.

    Raises:
        ConfigurationError: They do.
        BrokerError: Redis does not answer.
    """
    if not is_test_run() or prefix.startswith(FOR_TESTS) or prefix in _shared:
        return
    # Both keys stay: nodes store the id of their service, and workers their leases. The commands
    # are permitted to each user of docs/deploy.md.
    service, hands = broker.beside("service", ""), broker.beside("fallback:hands", "")
    if any(broker.ask([("GET", service), ("ZCARD", hands)])):
        raise ImproperSetting(
            "REALTIME_REDIS_PREFIX",
            f"is {prefix!r}, under which a service or a fallback worker runs or has run: these "
            'tests would publish to its users. Set REALTIME_REDIS_URL = "memory://" for tests, or '
            f"a prefix that begins with {FOR_TESTS!r}",
        )
