"""The transports of clients: WebSocket, SSE, HTTP streaming.

* `websocket`: The Channels consumer.
* `frame_receiver`: Takes frames from our own server, without the consumer's task.
* `misdirected`: Answers requests at the wrong address.
* `handshake`: Admits and identifies clients of every transport.
* `mounting`: Where a proxy mounts the project: FORCE_SCRIPT_NAME and ASGI's ``root_path``.
* `own_task`: Runs a connection in a task of its own, where the server does not.
* `cancellation`: Tells the cancellations that end one connection from all others.
* `callers`: Identifies the sender of a request by its headers.
* `sse`: Event streams for `EventSource`.
* `sse_format`: The format of event streams.
* `emulation`: The fallback transports of Centrifugo's SDK.
* `streams`: Shared code of all HTTP streams.
* `stream_request`: Parses requests for event streams.
"""
