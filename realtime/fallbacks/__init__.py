"""Fallbacks, for publications that must not be lost: the queue's worker and its handlers.

* `worker`: Takes publications from the queue, with leases.
* `worker_log`: What the worker logs.
* `threads`: Runs blocking handlers.
* `registry`: The handlers that a site's apps register.
* `handlers`: The built-in handlers.
* `posting`: POSTs to servers that others have named.
* `recipients`: The users whom a publication is for.
"""
