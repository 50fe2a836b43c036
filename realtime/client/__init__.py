"""A client in Python, for `manage.py listen` and tests.

* `listening`: Listens to channels of a service, and reconnects.
* `session`: One connection.
* `wire`: The messages of the service.
* `events`: The events that a client reports to its caller.
* `tracker`: Detects which publications are new and which are missing.
"""
