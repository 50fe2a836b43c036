"""Django's system checks.

* `settings`: Settings that are invalid.
* `lifespan`: An ASGI application without a lifespan.
* `websocket_route`: An ASGI application without WebSockets.
* `runserver`: A development server without WebSockets.
* `asgi_source`: The source of an ASGI application, for both.
* `urls`: An include whose URLs pages cannot find.
* `deploy`: Settings that are dangerous in production.
* `replicas`: A master that accepts writes without replicas.
"""
