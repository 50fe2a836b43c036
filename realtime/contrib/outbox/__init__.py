"""A transactional outbox: publications that are committed together with the data they are about.

`realtime.publish_on_commit` loses a publication if Redis refuses it after the commit, or if the
process dies in between. `publish_in_transaction` writes it into a table instead, in the same
transaction; ``manage.py runoutbox`` publishes the rows. If rows are kept for a while
(``REALTIME_OUTBOX_KEEP_SECONDS``), the view `missed_publications` returns those of a gap to the
page that missed them.

See docs/howto/outbox.md. The names are loaded on first use, since Django imports this package
before its models.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realtime.contrib.outbox.publishing import publish_in_transaction
    from realtime.contrib.outbox.relay import publish_waiting
    from realtime.contrib.outbox.views import missed_publications

__all__ = ["missed_publications", "publish_in_transaction", "publish_waiting"]

_HOMES = {
    "missed_publications": "views",
    "publish_in_transaction": "publishing",
    "publish_waiting": "relay",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
