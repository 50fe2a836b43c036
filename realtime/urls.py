"""The HTTP paths of the app; include them wherever you like."""

from __future__ import annotations

from django.urls import path

from realtime import views

app_name = "realtime"
urlpatterns = [
    path("api/<str:method>", views.api, name="api"),
    path("livez", views.livez, name="livez"),
    path("readyz", views.readyz, name="readyz"),
]
