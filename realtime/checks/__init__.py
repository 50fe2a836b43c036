"""Django's system checks.

* `settings`: Settings that are wrong.
* `lifespan`: An ASGI application without a lifespan.
* `urls`: An include that pages do not find.
* `deploy`: Settings that are dangerous in production.
"""
