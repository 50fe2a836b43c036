"""Files with secrets: made so that nobody else reads them, and read so that nobody else wrote them.

A directory that others can enter is refused: whoever may write there could put a link in the place
of a file (CWE-59), or a file of their own with a key that they know (CWE-379). Standard library
only: the guardian, which must start at once, uses it as well.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

FILE_MODE, DIRECTORY_MODE = 0o600, 0o700
FILE_BYTES = 1024 * 1024

# Windows has none of them; the service runs there without a Valkey of its own.
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # opening a pipe would wait for somebody to write


class NotPrivate(Exception):
    """Others can get at a file that only we may have; the text says what to do."""


def make_directory(directory: Path) -> None:
    """Make a directory that nobody else can enter, or check the one that is there.

    Raises:
        NotPrivate: Others can enter it, it is not ours, or it cannot be made.
    """
    try:
        directory.mkdir(mode=DIRECTORY_MODE, parents=True)
    except FileExistsError:
        pass  # or a link that leads nowhere, which is told below
    except OSError as error:
        raise NotPrivate(
            f"{directory} cannot be made ({error.strerror}): set NOTIFIER_RUN_DIR to a directory "
            "of your own."
        ) from error
    check_directory(directory)


def check_directory(directory: Path) -> None:
    """Check that a directory is ours alone; one that is not there is nobody's.

    Raises:
        NotPrivate: Others can enter it, or it is not ours.
    """
    try:
        status = directory.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(status.st_mode):
        raise NotPrivate(f"{directory} is a symbolic link: set NOTIFIER_RUN_DIR to its target.")
    if not stat.S_ISDIR(status.st_mode):
        raise NotPrivate(f"{directory} is not a directory: set NOTIFIER_RUN_DIR to one.")
    if not _is_ours(status):
        raise NotPrivate(
            f"{directory} belongs to another user (uid {status.st_uid}), who could read the "
            "secrets in it: set NOTIFIER_RUN_DIR to a directory of your own."
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077 and _has_modes():
        # Not of a directory that is shared on purpose, like /tmp.
        closing = "" if mode & stat.S_ISVTX else f"chmod 700 {directory}, or "
        raise NotPrivate(
            f"{directory} is open to other users (mode {mode:03o}), and secrets are kept in it: "
            f"{closing}set NOTIFIER_RUN_DIR to a directory of your own."
        )


def write(path: Path, text: str) -> None:
    """Write a file that only we can read; no reader sees half of it.

    Raises:
        NotPrivate: Its directory is not ours alone.
        OSError: It cannot be written.
    """
    make_directory(path.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)  # of a process that was killed while it wrote
    try:
        with open(create(draft), "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def create(path: Path) -> int:
    """Create a file that only we can read, and return its descriptor; umask can only take more.

    Raises:
        FileExistsError: There is one, or a link, wherever that leads.
    """
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, FILE_MODE)


def read(path: Path) -> str:
    """Return what we wrote.

    Raises:
        NotPrivate: Somebody else can have written it.
        OSError: It is not there, or cannot be read.
        ValueError: It is not UTF-8, or larger than what we write.
    """
    check_directory(path.parent)
    with open(path, "rb", opener=_open_ours) as file:
        content = file.read(FILE_BYTES + 1)
    if len(content) > FILE_BYTES:
        raise ValueError("is larger than what we write")
    return content.decode()


def tighten(path: Path) -> None:
    """Take a file away from others that was made without us; one that is not there is none."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY | _NO_FOLLOW | _NO_WAIT)
        try:
            if _is_ours(os.fstat(descriptor)) and _has_modes():
                os.fchmod(descriptor, FILE_MODE)
        finally:
            os.close(descriptor)


def _open_ours(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | _NO_FOLLOW | _NO_WAIT)
    status = os.fstat(descriptor)
    writable = bool(status.st_mode & 0o022) and _has_modes()
    if stat.S_ISREG(status.st_mode) and _is_ours(status) and not writable:
        return descriptor
    os.close(descriptor)
    raise NotPrivate(
        f"{path} can have been written by another user: remove it, or set NOTIFIER_RUN_DIR to a "
        "directory of your own."
    )


def _is_ours(status: os.stat_result) -> bool:
    return not _has_modes() or status.st_uid == os.geteuid()


def _has_modes() -> bool:
    return hasattr(os, "geteuid")
