"""The HTTP paths of the app; include them wherever you like."""

from __future__ import annotations

from django.urls import path

from realtime import documents, pages, views

app_name = "realtime"
urlpatterns = [
    *(path(f"api/{name}", views.document, name=name) for name in documents.DOCUMENTS),
    path("api/<str:method>", views.api, name="api"),
    path("connection/token", pages.token, name="token"),
    path("livez", views.livez, name="livez"),
    path("readyz", views.readyz, name="readyz"),
]
