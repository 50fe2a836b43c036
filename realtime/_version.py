"""The version, in its own module, because the package itself must not be imported by its parts."""

from __future__ import annotations

__version__ = "0.1.0"
