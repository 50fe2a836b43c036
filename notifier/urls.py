"""The URLs of the service: its pages, and the app's API, included as in any host project."""

from __future__ import annotations

from django.contrib.auth.views import LogoutView
from django.urls import include, path, re_path

from notifier import (
    console_views,
    guides,
    installation,
    job_views,
    monitor_views,
    order_views,
    outage,
    preferences,
    views,
)
from notifier.login import Login

urlpatterns = [
    path("", views.live, name="live"),
    path("preferences", preferences.save, name="preferences"),
    path("stop-redis", outage.stop_redis, name="stop-redis"),
    path("chat/", views.chat, name="chat"),
    re_path(rf"^chat/(?P<room>[a-z0-9-]{{1,{views.ROOM_LIMIT}}})/$", views.chat, name="chat-room"),
    path("jobs/", job_views.jobs, name="jobs"),
    path("jobs/state", job_views.state, name="jobs-state"),
    path("jobs/start", job_views.start, name="jobs-start"),
    path("jobs/<uuid:job>/cancel", job_views.cancel, name="cancel"),
    path("htmx/", order_views.page, name="htmx"),
    path("htmx/orders", order_views.orders, name="htmx-orders"),
    path("htmx/changes", order_views.changes, name="htmx-changes"),
    path("htmx/gap", order_views.gap, name="htmx-gap"),
    path("htmx/create", order_views.create, name="htmx-create"),
    path("htmx/<int:number>/next", order_views.advance, name="htmx-advance"),
    path("favicon.ico", installation.FaviconRedirect.as_view()),
    path("manifest.webmanifest", installation.manifest, name="manifest"),
    path("service-worker.js", installation.service_worker, name="service-worker"),
    path("console/", console_views.console, name="console"),
    path("console/connections", console_views.connections, name="console-connections"),
    path("console/disconnect", console_views.disconnect, name="console-disconnect"),
    path("docs/", views.reference, name="reference"),
    re_path(rf"^docs/guides/(?P<name>{guides.NAME})/$", guides.page, name="guide"),
    path("monitor/", monitor_views.page, name="monitor"),
    path("monitor/state", monitor_views.state, name="monitor-state"),
    path("monitor/letters", monitor_views.letters, name="monitor-letters"),
    path("monitor/retry", monitor_views.move, {"purging": False}, name="monitor-retry"),
    path("monitor/purge", monitor_views.move, {"purging": True}, name="monitor-purge"),
    path("login/", Login.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("metrics", views.metrics, name="metrics"),
    path("", include("realtime.urls")),
]
