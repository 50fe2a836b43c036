"""The broker on Redis Cluster.

* `slots`: The questions to its nodes, and what their replies mean.
"""
