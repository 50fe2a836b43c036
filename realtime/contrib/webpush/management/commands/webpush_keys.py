"""`manage.py webpush_keys`: makes the keys by which push services recognise a site (VAPID)."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from django.core.management.base import BaseCommand

from realtime.identity.web_push import private_text, public_text


class Command(BaseCommand):
    help = (
        "Make a private key for web push, once for each site, and print it with its public half. "
        "Stores nothing. With another key, all browsers must subscribe again."
    )
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self.stdout.write(f'REALTIME_WEBPUSH_PRIVATE_KEY = "{private_text(key)}"  # keep it secret')
        self.stdout.write(f"# Its public half, which pages get: {public_text(key)}")
