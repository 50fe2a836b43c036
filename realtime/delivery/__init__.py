"""A node's delivering side: from the broker to its connections.

* `hub`: The delivering side of one node; a façade over the parts below.
* `subscriber`: Owns the node's broker subscription.
* `settling`: Reads the positions of channels that are subscribed to.
* `liveness`: Tells whether the node receives every publication on its channels.
* `lost_channels`: The channels that do not arrive because a part of the broker is gone.
* `registry`: The channels that the node needs, and the state of each.
* `listeners`: The connections on a channel.
* `fanout`: Delivers arrivals to all listeners of a channel.
* `batch`: Queued arrivals, and their encoding.
* `connections`: The connections of a node.
* `conversation`: Executes the commands of one client in order.
* `inbox`: Reads, throttles and queues the commands of one client.
* `client_subscriptions`: Starts and ends the subscriptions of one connection.
* `active_subscriptions`: The active subscriptions of one connection, and their expiry.
* `client_calls`: The publishes, RPCs and presence queries of one client.
* `joining`: A pending subscription and its stages.
* `refusal_log`: Logs why subscriptions are refused.
* `slow_log`: Logs that a function of the host is slow.
* `node_services`: The interface of a node that a connection uses.
* `users`: The connections by user; applies commands to them and checks permissions.
* `user_blocks`: The blocked users, as the node knows them.
* `presence_writer`: Writes the members of channels to Redis.
* `presence_announcer`: Tells clients about members, joins and leaves.
* `survey_responder`: Answers surveys of all nodes.
* `connection_lister`: Lists connections for a survey.
* `node_reporter`: Records and reports the numbers of this node.
* `announcer`: Announces the service, and reports other services on the same channels.
"""
