"""The ASGI application of a project of the tests, with the static files of its pages.

The project is that of DJANGO_SETTINGS_MODULE.
"""

from __future__ import annotations

from channels.routing import ProtocolTypeRouter

from tests.asgi import application as plain

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # isort: skip
from realtime.endpoint import HttpEndpoint  # isort: skip

_routes = dict(plain.application_mapping)
_http = HttpEndpoint(ASGIStaticFilesHandler(_routes["http"]))
application = ProtocolTypeRouter({**_routes, "http": _http})
