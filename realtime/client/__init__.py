"""A client in Python, for `manage.py listen`, `manage.py probe` and tests.

* `listening`: Listens to channels of a service, and reconnects.
* `session`: One connection.
* `wire`: The messages of the service.
* `events`: The events that a client reports to its caller.
* `tracker`: Detects which publications are new and which are missing.
* `probe`: Publishes and listens, to measure loss.
* `probe_ledger`: What the probe has published, and what its listeners have received.
"""
