"""What a node says about itself for a page that monitors all of them: numbers, and their past.

A report is the answer to a question of the kind ``metrics`` (`realtime.core.survey`). Its size does
not depend on the configuration: numbers are summed over namespaces.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from realtime.core.history import KEPT_SECONDS, HistoryEntry, StateChange
from realtime.core.metrics import (
    InvalidSnapshot,
    decode_snapshot,
    encode_snapshot,
    fold_namespaces,
)

if TYPE_CHECKING:
    from realtime.core.metrics import Snapshot

REPORT_BYTES = 64 * 1024
"""Maximum size of a report; longer ones are not read."""


class NodeFacts(msgspec.Struct, frozen=True):
    """A node, and whether it is live."""

    uid: str
    name: str
    version: str
    uptime: int
    """Seconds."""
    live: bool
    reason: str
    """Why it is not live, without confidential details; else empty."""


class NodeReport(NamedTuple):
    """A report of one node."""

    facts: NodeFacts
    snapshot: Snapshot
    history: list[HistoryEntry]
    changes: list[StateChange]


class _Encoded(msgspec.Struct):
    facts: NodeFacts
    metrics: msgspec.Raw
    history: list[HistoryEntry] = []
    changes: list[StateChange] = []


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Encoded).decode


def seconds_of(pattern: str) -> int:
    """Return how many seconds of the past a question asks for; it is in the place of a pattern."""
    is_number = pattern.isascii() and pattern.isdecimal() and len(pattern) <= len(str(KEPT_SECONDS))
    return min(KEPT_SECONDS, int(pattern)) if is_number else KEPT_SECONDS


def encode_report(report: NodeReport) -> bytes:
    """Encode a report, with its numbers summed over namespaces."""
    metrics = msgspec.Raw(encode_snapshot(fold_namespaces(report.snapshot)))
    return _encode(_Encoded(report.facts, metrics, report.history, report.changes))


def reports_of(answers: Iterable[bytes]) -> list[NodeReport]:
    """Decode the reports of nodes; invalid and oversized ones are skipped."""
    found = []
    for raw in answers:
        if len(raw) > REPORT_BYTES:
            continue
        try:
            encoded = _decode(raw)
            snapshot = decode_snapshot(bytes(encoded.metrics))
        except (msgspec.MsgspecError, InvalidSnapshot, UnicodeError, RecursionError):
            continue
        found.append(NodeReport(encoded.facts, snapshot, encoded.history, encoded.changes))
    return sorted(found, key=lambda report: (report.facts.name, report.facts.uid))
