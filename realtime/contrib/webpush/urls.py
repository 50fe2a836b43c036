"""The addresses: ``path("webpush/", include("realtime.contrib.webpush.urls"))`` in a project's."""

from __future__ import annotations

from django.urls import path

from realtime.contrib.webpush import views

app_name = "realtime_webpush"
urlpatterns = [
    path("config/", views.config, name="config"),
    path("subscribe/", views.subscribe, name="subscribe"),
    path("unsubscribe/", views.unsubscribe, name="unsubscribe"),
    path("worker.js", views.worker, name="worker"),
]
