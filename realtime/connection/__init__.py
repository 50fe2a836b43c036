"""One connection: the rules for its client, and its writing half.

* `client_state`: The rules and the state of one client, without I/O.
* `decisions`: The results of checking its commands.
* `authentication`: Its identity, its tokens and their expiry.
* `client_channels`: Its subscriptions, and its permissions on channels.
* `writer`: Decides when to write to one connection.
* `sinks`: Write immediately: with ASGI's `send`, or with a direct path that a server offers.
* `stepping`: Advances an awaitable by one step outside of its task.
* `entries`: Publications, gaps and other texts for a connection.
* `outbox`: The bounded queue of a slow client.
* `backlog`: How far a client is behind.
* `flow`: Flow control: how many bytes may be in flight to a client.
* `heartbeat`: Pings all connections of a node.
* `hostcode`: Runs the host's code and contains its exceptions.
"""
