"""The settings that are whole numbers: limits on size, count and time.

The service takes all of them in one environment variable, ``NOTIFIER_LIMITS``.
"""

from __future__ import annotations

from dataclasses import dataclass

from realtime.brokers.bounds import QUEUE_BYTES, QUEUE_ITEMS
from realtime.conf.declared import GIB, KIB, MIB, number
from realtime.core.headers import HEADERS_LIMIT
from realtime.core.json_text import DATA_LIMIT, DEPTH_LIMIT
from realtime.core.limits import MANY_BYTES, PUBLISH_BYTES
from realtime.core.names import CHANNEL_LIMIT
from realtime.core.publication import TAGS_LIMIT
from realtime.protocols.centrifugo_commands import CLIENT_FRAME_BYTES

MANY = 1_000_000  # a larger number is a mistake


@dataclass(frozen=True, slots=True, kw_only=True)
class NumericSettings:
    """See the module docstring."""

    connections: int = number(
        50_000,
        at_least=1,
        at_most=MANY,
        unit="connections",
        doc="Connections to one node, including handshakes. Beyond the limit, a client gets 503 "
        "before anything is read.",
        precedent="Centrifugo advises at most 50,000 to 100,000, NATS has 65,536.",
    )
    connections_per_user: int = number(
        0,
        at_least=0,
        at_most=MANY,
        unit="connections",
        doc="Connections of one user to one node; further ones are closed with 3504. 0: no limit, "
        "as in Centrifugo. Anonymous clients have no limit.",
    )
    connections_per_address: int = number(
        0,
        at_least=0,
        at_most=MANY,
        unit="connections",
        doc="Connections from one IPv4 address or one IPv6 /64 to one node; further ones get 429. "
        "0: no limit, which is the usual default because an office or a mobile network may have a "
        "single address. Behind a proxy, see [addresses](deploy.md#addresses).",
    )
    subscriptions_per_address: int = number(
        0,
        at_least=0,
        at_most=MANY,
        unit="subscriptions a second",
        doc="New subscriptions from one IPv4 address or IPv6 /64 at one node, over all its "
        "connections and across reconnects. The burst is a minute's worth, and at least four full "
        "connections; beyond it, error 111. 0: no limit, for the same reason. Behind a proxy, see "
        "[addresses](deploy.md#addresses). 50 suits a site without a proxy and without users in "
        "large offices.",
    )
    channels_per_connection: int = number(
        128,
        at_least=1,
        at_most=MANY,
        unit="channels",
        doc="Channels to which one connection may subscribe. A higher number also raises the "
        "maximum size of a [frame](protocol.md#limits) and the burst of commands.",
        precedent="Centrifugo 128.",
    )
    commands_per_second: int = number(
        50,
        at_least=1,
        at_most=MANY,
        unit="commands",
        doc="Commands of one connection in the long run; beyond it, error 111, then "
        "[3013](protocol.md#limits). [Expensive commands](protocol.md#limits) count as several: "
        "the `subs` of a `connect`, a long `presence`.",
        precedent="OWASP starts at 100 a minute; Centrifugo PRO has such token buckets, without a "
        "default.",
    )
    commands_burst: int = number(
        256,
        at_least=1,
        at_most=MANY,
        unit="commands",
        doc="Commands that one connection may send at once. The limit is never below two for each "
        "channel that a connection may have, because an SDK that reconnects subscribes to all its "
        "channels in one frame.",
    )
    publications_per_second: int = number(
        10,
        at_least=1,
        at_most=MANY,
        unit="publications",
        doc="Publications of one connection in the long run; beyond it, error 111. Each further "
        "16 KiB of data counts as one more. The HTTP API has its own limits.",
        precedent="Pusher 10.",
    )
    publications_burst: int = number(
        50,
        at_least=1,
        at_most=MANY,
        unit="publications",
        doc="Publications that one connection may send at once.",
    )
    connect_seconds: int = number(
        5,
        at_least=1,
        at_most=3600,
        unit="seconds",
        doc="Time within which a new connection must send its `connect`; otherwise it is closed "
        "with 3502.",
        precedent="Centrifugo 10, NATS 2.",
    )
    ping_seconds: int = number(
        25,
        at_least=1,
        at_most=3600,
        unit="seconds",
        doc="Interval between pings to a connection.",
        precedent="Centrifugo 25, Engine.IO 25; proxies close a connection after 60 s of silence.",
    )
    token_grace_seconds: int = number(
        25,
        at_least=0,
        at_most=3600,
        unit="seconds",
        doc="Time for a client to present a new token after expiry.",
        precedent="Centrifugo 25.",
    )
    outbox_bytes: int = number(
        MIB,
        at_least=128 * KIB,
        at_most=GIB,
        unit="bytes",
        doc="Size of the publications that may wait for one slow connection.",
        precedent="Centrifugo 1 MiB, NATS 64 MiB, Redis' own pub/sub 32 MiB.",
    )
    window_bytes: int = number(
        MIB,
        at_least=64 * KIB,
        at_most=GIB,
        unit="bytes",
        doc="Bytes that one client may leave unacknowledged; beyond it, publications wait in its "
        "outbox.",
    )
    channel_characters: int = number(
        CHANNEL_LIMIT,
        at_least=16,
        at_most=CHANNEL_LIMIT,
        unit="characters",
        doc="Length of a channel name; a channel with a longer name does not exist.",
        precedent="Centrifugo 255, Pusher 164.",
    )
    headers: int = number(
        HEADERS_LIMIT,
        at_least=16,
        at_most=HEADERS_LIMIT,
        unit="headers",
        doc="Headers of one request or handshake; more get 431.",
        precedent="nginx and Apache 100.",
    )
    frame_bytes: int = number(
        CLIENT_FRAME_BYTES,
        at_least=KIB,
        at_most=CLIENT_FRAME_BYTES,
        unit="bytes",
        doc="Size of a client's first frame, in which an SDK sends all its subscribes. Later "
        "frames may be six times as large, which leaves room for escapes.",
        precedent="Centrifugo 64 KiB.",
    )
    body_bytes: int = number(
        PUBLISH_BYTES,
        at_least=KIB,
        at_most=PUBLISH_BYTES,
        unit="bytes",
        doc="Size of a request to the HTTP API with one publication. The default leaves room for "
        "its data, tags and names with each character escaped.",
    )
    batch_bytes: int = number(
        MANY_BYTES,
        at_least=KIB,
        at_most=8 * MANY_BYTES,
        unit="bytes",
        doc="Size of a `broadcast` or `batch`.",
        precedent="nginx 1 MiB (`client_max_body_size`).",
    )
    data_bytes: int = number(
        DATA_LIMIT,
        at_least=KIB,
        at_most=DATA_LIMIT,
        unit="bytes",
        doc="Size of a publication's data as compact JSON, for all publishers.",
        precedent="Centrifugo 64 KiB, Pusher 10 KB.",
    )
    data_depth: int = number(
        DEPTH_LIMIT,
        at_least=1,
        at_most=DEPTH_LIMIT,
        unit="levels",
        doc="Nesting depth of a publication's data. Real data has 4 or 5 levels.",
    )
    tags: int = number(
        TAGS_LIMIT,
        at_least=0,
        at_most=TAGS_LIMIT,
        unit="tags",
        doc="Tags of one publication, not counting `event`.",
    )
    fallback_items: int = number(
        QUEUE_ITEMS,
        at_least=1,
        at_most=10_000_000,
        unit="publications",
        doc="Publications in the queue for fallbacks: waiting, later and dead. Beyond the limit, "
        "a publication that would be queued is refused ([`queue_full`](http-api.md#errors)).",
    )
    fallback_bytes: int = number(
        QUEUE_BYTES,
        at_least=128 * KIB,
        at_most=64 * GIB,
        unit="bytes",
        doc="Size of everything in the queue for fallbacks, including what workers have in hand. "
        "Beyond the limit, a publication that would be queued is refused in the same way. 100,000 "
        "publications of 64 KiB would be 6.1 GiB.",
    )
