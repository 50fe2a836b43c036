"""The broker on Redis Cluster.

* `slots`: The questions to its nodes, and what their replies mean.
* `topology`: Asks which master has which partition.
* `links`: Sends each command to the master of its partition.
* `broker`: Publishes, reads positions and asks nodes.
* `subscription`: Receives from all masters that a node needs.
* `shard`: The connection to one of them.
* `watch`: Notices a master that delivers nothing.
* `placement`: Which channels are subscribed to at which master.
* `gathering`: Runs something in several partitions at the same time.
* `presence`: The members of channels.
* `queue`, `hand`: The fallback queue, and the hands of its workers.
* `queue_partitions`: Sends their commands to each partition, and knows which ones fail.
* `queue_sums`: Adds up what the partitions say about the queue.
* `waiting_partitions`: Tells hands where entries may wait.
* `wake_ups`: Listens for announcements of new entries.
* `blocking`: The broker for threads.
* `partition_calls`: Commands for one partition, until each has a reply.
* `blocking_links`, `blocking_topology`: The same as `links` and `topology`, for threads.
* `blocking_pool`: The connections to one master, for threads.
"""
