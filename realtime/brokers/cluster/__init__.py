"""The broker on Redis Cluster.

* `slots`: The questions to its nodes, and what their replies mean.
* `topology`: Asks which master has which partition.
* `links`: Sends each command to the master of its partition.
* `placement`: Which channels are subscribed to at which master.
"""
