"""Limits of every broker: how much it holds, and for how long. No I/O."""

from __future__ import annotations

DEADLINE_SECONDS = 1.0
"""The timeout for one publish, including all stages."""
IDEMPOTENCY_SECONDS = 300

QUEUE_ITEMS = 100_000
"""The maximum of waiting, later and dead entries together; each is at most a little over 64 KiB."""
QUEUE_BYTES = 256 * 1024 * 1024
"""The maximum size of all entries, including those in hands: 100,000 of 64 KiB need 6.4 GiB."""
QUEUE_LOT = 100
"""Entries that one `tend` moves at most, so that it blocks the broker for a millisecond at most."""
KNOWN_SECONDS = 3600
"""How long an empty hand is checked after its lease has expired."""

POSITIONS_LOT = 100
"""Positions that one script reads at most, so that it blocks Redis for a millisecond at most."""

NODE_COMMANDS_LIMIT = 10_000
"""Commands to nodes that are kept for nodes that missed them."""
NODE_COMMANDS_SECONDS = 3600
NODE_COMMAND_BYTES = 2048
"""A longer command counts as several."""

ANSWERS_SECONDS = 10
"""How long the answers of nodes are kept."""
SURVEY_SECONDS = 1.0
"""The timeout for the answers of nodes."""
SURVEY_POLL_SECONDS = 0.01
"""The interval for polling their answers."""

MEMBERS_KEPT_SECONDS = 300
"""How long the members of a channel are kept unless their node renews them."""
PRESENCE_LOT = 100
"""Channels that one sweep processes, and expired leases that one beat returns."""

DEADLINE_CHECK_SECONDS = 0.05
"""The longest delay until a missed deadline is noticed."""
UNSENT_BYTES = 16 * 1024 * 1024
"""Bytes that a node keeps while Redis does not read; beyond it, calls fail immediately."""
WRITE_BYTES = 64 * 1024
"""The size of one write, unless a single call is larger; asyncio's default high-water mark.

Without it, all waiting calls, up to 16 MiB, would count as written before Redis has read a byte.
"""
READ_AHEAD_BYTES = 128 * 1024
"""Bytes that arrive for a subscription before it stops reading from its socket; as asyncio's
streams, which stop at twice their limit of 64 KiB."""
