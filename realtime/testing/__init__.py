"""For the tests of a host project, which need neither Redis nor a server (docs/howto/testing.md).

* `capture_publications`, the mixin `PublicationsMixin` and the pytest fixture ``published``
  (``pytest_plugins = ["realtime.testing.fixtures"]``) collect what the code under test publishes.
* `connect` opens a client for async tests, which subscribes and waits.
* `share_prefix` lets tests use a Redis prefix that other processes use.

The modules: `capture` collects, `live_client` is the client, `fixtures` has the fixture.
"""

from __future__ import annotations

from realtime.testing.capture import (
    CapturedPublication,
    CapturedPublications,
    PublicationsMixin,
    capture_publications,
)
from realtime.testing.live_client import (
    ClientClosed,
    LiveClient,
    ReceivedPublication,
    RefusedCommand,
    connect,
)
from realtime.wiring.guard import share as share_prefix

__all__ = [
    "CapturedPublication",
    "CapturedPublications",
    "ClientClosed",
    "LiveClient",
    "PublicationsMixin",
    "ReceivedPublication",
    "RefusedCommand",
    "capture_publications",
    "connect",
    "share_prefix",
]
