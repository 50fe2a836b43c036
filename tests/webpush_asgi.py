"""The ASGI application of `tests.webpush_site`, with the static files of its page."""

from __future__ import annotations

import os

from channels.routing import ProtocolTypeRouter

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.webpush_settings")

from tests.asgi import application as plain

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # isort: skip
from realtime.endpoint import HttpEndpoint  # isort: skip

_routes = dict(plain.application_mapping)
_http = HttpEndpoint(ASGIStaticFilesHandler(_routes["http"]))
application = ProtocolTypeRouter({**_routes, "http": _http})
