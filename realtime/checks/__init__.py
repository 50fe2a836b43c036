"""Django's system checks.

* `settings`: Settings that are invalid.
* `lifespan`: An ASGI application without a lifespan.
* `urls`: An include whose URLs pages cannot find.
* `deploy`: Settings that are dangerous in production.
"""
