"""Records the past of this node, and reports it with the present to a page that monitors all nodes.

The hub's tick calls it every second; a delivery costs nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sized
from typing import TYPE_CHECKING, NamedTuple, Protocol

from realtime._version import __version__
from realtime.core import metrics
from realtime.core.history import HistoryEntry, NodeHistory, moment_of
from realtime.core.node_report import NodeFacts, NodeReport

if TYPE_CHECKING:
    from realtime.core.meters import NodeMeters
    from realtime.core.metrics import Snapshot


class ProcessMeasures(NamedTuple):
    """Reads what belongs to the process, and to none of its nodes."""

    read: Callable[[], Snapshot] = dict
    count_published: Callable[[], int] = int


class MeasuredNode(Protocol):
    """A node, as far as it is reported; `realtime.delivery.hub.Hub` implements it."""

    uid: str

    @property
    def connections(self) -> Sized:
        """The connected clients."""

    @property
    def live(self) -> bool:
        """Whether every publication reaches this node."""

    @property
    def reason(self) -> str | None:
        """Why it is not live, without confidential details."""

    @property
    def lag_seconds(self) -> float:
        """The latest round-trip time through the broker."""

    def read_metrics(self) -> Snapshot:
        """Return the metrics of the node."""


class NodeReporter:
    """See the module. Belongs to one hub."""

    def __init__(
        self,
        node: MeasuredNode,
        meters: NodeMeters,
        process: ProcessMeasures,
        wall_seconds: Callable[[], float],
    ) -> None:
        """Start without a past.

        Args:
            node: What is reported.
            meters: Those of the node.
            process: Those of the process.
            wall_seconds: Returns the seconds since 1970.
        """
        self._node = node
        self._meters = meters
        self._process = process
        self._wall_seconds = wall_seconds
        self._history = NodeHistory()
        self._began = time.monotonic()

    def tick(self) -> None:
        """Note the totals, if that is due."""
        now = self._wall_seconds()
        if not self._history.is_due(now):
            return
        entry = HistoryEntry(
            moment_of(now),
            self._meters.count_deliveries(),
            self._process.count_published(),
            len(self._node.connections),
            round(self._node.lag_seconds, 6),
            self._meters.count_missed(),
        )
        self._history.note(entry)

    def note_state(self) -> None:
        """Record that the node became live, or stopped being live."""
        node = self._node
        self._history.note_state(self._wall_seconds(), live=node.live, reason=node.reason)

    def report(self, seconds: int) -> NodeReport:
        """Return the state of the node, and so many seconds of its past."""
        node = self._node
        facts = NodeFacts(
            uid=node.uid,
            name=node_name(),
            version=__version__,
            uptime=int(time.monotonic() - self._began),
            live=node.live,
            reason=node.reason or "",
        )
        snapshot: Snapshot = metrics.add_up([self._process.read(), node.read_metrics()])
        history = self._history.latest(self._wall_seconds(), seconds)
        return NodeReport(facts, snapshot, history, self._history.changes())


def node_name() -> str:
    """Return the name of this process for operators: host and process ID."""
    return f"{socket.gethostname()}_{os.getpid()}"
