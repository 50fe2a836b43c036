"""The exception for an invalid setting, which Django's own commands report, too."""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured

from realtime.errors import ConfigurationError


class ImproperSetting(ConfigurationError, ImproperlyConfigured):
    """An invalid setting, as an exception that Django's own commands report."""
