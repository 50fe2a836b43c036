"""What outlives a ``make run``: the key of its sessions and the passwords of its demo users.

It stands beside the database, in the private directory of the run files (0700, itself 0600). So
whoever is logged in stays it over a restart, and the passwords that were printed once go on being
right. Standard library only.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from notifier import private

DEMO_USERS = ("ada", "ben")
"""ada is staff, ben is not."""

FILE = "kept.json"
# Easy to type from a terminal into a page: no letter that looks like another one or like a digit.
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
_PASSWORD_LETTERS = 12  # 59 bits


def _password() -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(_PASSWORD_LETTERS))


@dataclass(frozen=True, slots=True)
class Kept:
    """Secrets of one checkout, invented once."""

    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)
    passwords: dict[str, str] = field(
        default_factory=lambda: {user: _password() for user in DEMO_USERS}, repr=False
    )


def recall(directory: Path) -> Kept:
    """Return what an earlier run has kept here, or what is invented now and kept nowhere yet.

    Raises:
        NotPrivate: Somebody else can have put it there, and would know the key of all sessions.
    """
    try:
        content = json.loads(private.read(directory / FILE))
        kept = Kept(**{f.name: content[f.name] for f in fields(Kept)})
        whole = set(kept.passwords) == set(DEMO_USERS) and len(kept.secret_key) >= 50
    except (OSError, ValueError, KeyError, TypeError):
        return Kept()  # not there, or no longer what we wrote
    return kept if whole else Kept()


def keep(directory: Path, kept: Kept) -> None:
    """Keep it for the next run; nobody else ever sees it.

    Raises:
        NotPrivate: The directory is open to others.
    """
    private.write(directory / FILE, json.dumps(asdict(kept)))
