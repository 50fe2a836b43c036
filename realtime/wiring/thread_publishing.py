"""Publishing and reading positions in threads: the host's code, Django's views, and commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from realtime.wiring import brokers, interception, metering, tracing

if TYPE_CHECKING:
    from realtime.core.positions import Position
    from realtime.core.publication import Publication, Receipt
    from realtime.errors import BrokerError, RealtimeError


def publish_sync(
    publication: Publication, *, on_commit: bool = False, method: str = metering.PYTHON
) -> Receipt:
    """Publish, unless a test intercepts; errors as for `realtime.brokers.Broker.publish`.

    Args:
        publication: What to publish.
        on_commit: Whether it has waited for a commit.
        method: How it came, for the metrics: one of those in `metering`.
    """
    if (test := interception.current) is not None:
        return brokers.only(test.publish([publication], on_commit=on_commit))
    send = brokers.sync_broker().publish
    with metering.Measured(metering.of_threads, method, (publication,)) as measured:
        if (spans := tracing.spans()) is not None:
            receipt = spans.publish_sync(publication, send)
        else:
            receipt = send(tracing.stamp(publication))
        measured.outcomes = (receipt,)
    return receipt


def publish_many_sync(
    publications: Sequence[Publication], method: str = metering.PYTHON
) -> list[Receipt | RealtimeError]:
    """Publish, unless a test intercepts; see `realtime.brokers.Broker.publish_many`."""
    if (test := interception.current) is not None:
        return test.publish(publications)
    send = brokers.sync_broker().publish_many
    with metering.Measured(metering.of_threads, method, publications) as measured:
        if (spans := tracing.spans()) is not None:
            outcomes = spans.publish_many_sync(publications, send)
        else:
            outcomes = send(tracing.stamp_all(publications))
        measured.outcomes = outcomes
    return outcomes


def read_positions_sync(channels: Sequence[str]) -> list[Position | BrokerError]:
    """Read positions, unless a test intercepts; see `realtime.brokers.Broker.positions`."""
    if (test := interception.current) is not None:
        return test.positions(channels)
    return brokers.sync_broker().positions(channels)
