"""The HTTP paths of the app; include them under any prefix."""

from __future__ import annotations

from django.urls import path

from realtime.core import paths
from realtime.host import page_config
from realtime.http import documents, views

app_name = "realtime"
urlpatterns = [
    *(path(f"{paths.API}{name}", views.document, name=name) for name in documents.DOCUMENTS),
    path(f"{paths.API}<str:method>", views.api, name="api"),
    path(paths.TOKEN, page_config.token, name="token"),
    path(paths.LIVEZ, views.livez, name="livez"),
    path(paths.READYZ, views.readyz, name="readyz"),
]
