"""The secrets that the launcher keeps between runs: Django's secret key and the demo passwords.

They are stored beside the database, in a file (0600) of the private run directory (0700). So logins
survive a restart, and passwords that were printed once stay valid. Standard library only.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from notifier import private

DEMO_USERS = ("ada", "ben")
"""ada is a member of the staff, ben is not."""

FILE = "kept.json"
# Easy to type from a terminal into a page: no letter looks like another letter or a digit.
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
_PASSWORD_LETTERS = 12  # 59 bits


def _make_password() -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(_PASSWORD_LETTERS))


@dataclass(frozen=True, slots=True)
class RunSecrets:
    """The secrets of one checkout; without arguments, new ones."""

    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)
    passwords: dict[str, str] = field(
        default_factory=lambda: {user: _make_password() for user in DEMO_USERS}, repr=False
    )


def load(directory: Path) -> RunSecrets:
    """Return the secrets that an earlier run has saved, or new ones that are not saved yet.

    Raises:
        NotPrivate: Another user could have written the file, and would know the secret key.
    """
    try:
        content = json.loads(private.read(directory / FILE))
        found = RunSecrets(**{f.name: content[f.name] for f in fields(RunSecrets)})
        is_complete = set(found.passwords) == set(DEMO_USERS) and len(found.secret_key) >= 50
    except (OSError, ValueError, KeyError, TypeError):
        return RunSecrets()  # missing or damaged
    return found if is_complete else RunSecrets()


def save(directory: Path, secrets_of_run: RunSecrets) -> None:
    """Save the secrets for the next run, readable by this user only.

    Raises:
        NotPrivate: The directory is open to others.
    """
    private.write(directory / FILE, json.dumps(asdict(secrets_of_run)))
