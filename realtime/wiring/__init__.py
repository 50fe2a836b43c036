"""Builds the parts of the app from the settings and connects them.

`configured` has the settings. `parts` is the composition root: what a process has once. `nodes`
starts and stops what one event loop has, and publishes there; `thread_publishing` publishes
elsewhere. `tracing` notes the time and the trace of publications; `spans` is loaded if tracing is
on. `request_limits` has the limits on requests and clients. `brokers` chooses the broker,
`one_process` keeps the one inside the process to one process, `guard` keeps tests from a Redis that
others use, and tests take publications in `interception`. `metering` counts what is published, and
`monitoring` collects what a page about all nodes shows.
"""

from __future__ import annotations

from realtime.wiring.brokers import (
    is_alone,
    is_memory,
    queue,
    redis_broker,
    redis_url,
    refuse_foreign_prefix,
    shared_store,
    sync_broker,
)
from realtime.wiring.configured import settings
from realtime.wiring.nodes import (
    Node,
    aclose,
    drain,
    limit_reached,
    node,
    publish,
    publish_many,
    read_metrics,
    read_metrics_and_queue,
    read_positions,
    send_node_command,
    send_node_command_sync,
)
from realtime.wiring.parts import (
    allowed_origins,
    authorizer,
    fallbacks,
    keyring,
    namespaces,
    routes,
    rpc,
    tokens,
    user_info,
    user_table,
)
from realtime.wiring.request_limits import (
    USUAL_CHANNELS,
    HttpLimits,
    body_bytes,
    http_limits,
    largest_body_bytes,
    limits,
    path_prefix,
    shape,
)
from realtime.wiring.thread_publishing import (
    publish_many_sync,
    publish_sync,
    read_positions_sync,
)
from realtime.wiring.tracing import continue_trace, run_job, send_job, trace_handlers

__all__ = [
    "USUAL_CHANNELS",
    "HttpLimits",
    "Node",
    "aclose",
    "allowed_origins",
    "authorizer",
    "body_bytes",
    "continue_trace",
    "drain",
    "fallbacks",
    "http_limits",
    "is_alone",
    "is_memory",
    "keyring",
    "largest_body_bytes",
    "limit_reached",
    "limits",
    "namespaces",
    "node",
    "path_prefix",
    "publish",
    "publish_many",
    "publish_many_sync",
    "publish_sync",
    "queue",
    "read_metrics",
    "read_metrics_and_queue",
    "read_positions",
    "read_positions_sync",
    "redis_broker",
    "redis_url",
    "refuse_foreign_prefix",
    "routes",
    "rpc",
    "run_job",
    "send_job",
    "send_node_command",
    "send_node_command_sync",
    "settings",
    "shape",
    "shared_store",
    "sync_broker",
    "tokens",
    "trace_handlers",
    "user_info",
    "user_table",
]
