"""Ring 0: the values and rules that everything else builds on.

* `names`: Valid names of channels, events, keys and fallbacks.
* `namespaces`: The options and permissions of namespaces.
* `overflow`: The policies for an outbox that is full.
* `publication`: A valid publication and its receipt.
* `json_text`: Validation and encoding of JSON.
* `envelope`: The wire format of a publication on Redis.
* `envelope_fields`: What nodes tell each other about a publication, in its envelope.
* `traceparent`: The trace context of a publisher.
* `positions`: Positions in a channel, and gap detection.
* `entity_tags`: The entity tag of a response, by positions.
* `identity`: A client's identity, and the grants of its tokens.
* `members`: Presence: the members of a channel, joins and leaves.
* `node_commands`: Commands between nodes about the connections of users.
* `blocked_users`: Users whose connections are refused until a time.
* `survey`: Questions to all nodes, and their answers.
* `connection_survey`: The question which connections there are, and the pages of its answer.
* `fallback_entry`: A publication queued for its fallback.
* `limits`: Rate and connection limits.
* `metrics`: The names of all metrics, and snapshots of their values.
* `history`: The last quarter of an hour of one node.
* `node_report`: What a node says about itself to a page that monitors all of them.
* `meters`: Counters of what is delivered and published.
* `idleness`: When a node that nobody uses stops.
* `codes`: The close and error codes that clients see.
* `callbacks`: A callback that does nothing.
* `globs`: Glob patterns for channel names, matched in linear time.
* `addresses`: Which IP addresses are public.
* `url_rules`: Validation of URLs in settings.
* `paths`: The URL paths of the app, relative to their prefixes.
* `partitions`: The parts of a Redis Cluster, and which one a channel belongs to.
* `redis_url`: Validation and parsing of Redis URLs.
* `redis_address`: The URLs of a master and of its sentinels.
* `redis_facts`: What a Redis says about itself.
* `secret_strength`: Which secrets can be guessed.
* `headers`: Which request headers are rejected.
* `mail_text`: Sanitizing text for mail.
* `tally`: Counters that are logged at most once a minute.
* `congestion`: Names the channels that many clients cannot keep up with.
* `outage`: Logs the start and the end of an outage once each.
* `breaker`: A circuit breaker: skips calls that have just failed slowly.
"""
