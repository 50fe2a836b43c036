"""The broker inside one process (``memory://``), for tests, `runserver` and a first try.

It implements the contract of `realtime.brokers` without a server. Its rules take the time and
random values as arguments; everything in them is bounded, as it is on Redis.

* `exchange`: Subscribers, and what has arrived for them.
* `counters`: The positions of channels.
* `entry_queue`: The fallback queue.
* `roster`: The members of channels.
* `store`: All of these, and what publishing does to them in one step.
* `shared`: One store for all threads and event loops of a process.
* `steps`: What the broker does for event loops and threads alike.
* `asynchronous`, `blocking`, `queue`: The broker for event loops, for threads, and its queue.
"""
