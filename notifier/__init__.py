"""The runnable service: it uses the app ``realtime`` like any other Django project."""

from __future__ import annotations
