"""Files with secrets: no other user can read or write the files that this process uses.

A directory that others can enter is rejected: anyone who can write there could replace a file by a
link (CWE-59), or by a file with a key that they know (CWE-379). Standard library only: the
guardian, which must start fast, uses it as well.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

FILE_MODE, DIRECTORY_MODE = 0o600, 0o700
FILE_BYTES = 1024 * 1024

# Missing on Windows, where the service runs without a private Valkey.
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # opening a pipe would wait for a writer


class NotPrivate(Exception):
    """A private file is accessible to others; the text says what to do."""


def make_directory(directory: Path) -> None:
    """Create a directory that no other user can enter, or check an existing one.

    Raises:
        NotPrivate: Others can enter it, it is not ours, or it cannot be made.
    """
    try:
        directory.mkdir(mode=DIRECTORY_MODE, parents=True)
    except FileExistsError:
        pass  # or a dangling link, which is reported below
    except OSError as error:
        raise NotPrivate(
            f"{directory} cannot be created ({error.strerror}): set NOTIFIER_RUN_DIR to a "
            "directory that you own."
        ) from error
    check_directory(directory)


def check_directory(directory: Path) -> None:
    """Check that a directory is ours alone; a missing one is fine.

    Raises:
        NotPrivate: Others can enter it, or it is not ours.
    """
    try:
        status = directory.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(status.st_mode):
        raise NotPrivate(
            f"{directory} is a symbolic link: set NOTIFIER_RUN_DIR to its target instead."
        )
    if not stat.S_ISDIR(status.st_mode):
        raise NotPrivate(f"{directory} is not a directory: set NOTIFIER_RUN_DIR to a directory.")
    if not _is_ours(status):
        raise NotPrivate(
            f"{directory} belongs to another user (uid {status.st_uid}), who could read the "
            "secrets in it: set NOTIFIER_RUN_DIR to a directory that you own."
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077 and _has_modes():
        # Not for a directory that is shared on purpose, like /tmp.
        closing = "" if mode & stat.S_ISVTX else f"chmod 700 {directory}, or "
        raise NotPrivate(
            f"{directory} holds secrets but is accessible to other users (mode {mode:03o}): "
            f"{closing}set NOTIFIER_RUN_DIR to a directory that you own."
        )


def write(path: Path, text: str) -> None:
    """Write a file that only we can read, atomically: no reader sees half of it.

    Raises:
        NotPrivate: Others can access its directory.
        OSError: It cannot be written.
    """
    make_directory(path.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)  # left by a process that was killed while writing
    try:
        with open(create(draft), "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def create(path: Path) -> int:
    """Create a file that only we can read, and return its descriptor; umask can only restrict it.

    Raises:
        FileExistsError: The path exists, even as a link, whatever its target.
    """
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, FILE_MODE)


def read(path: Path) -> str:
    """Return the content of a file that we wrote.

    Raises:
        NotPrivate: Someone else may have written it.
        OSError: It is missing, or cannot be read.
        ValueError: It is not UTF-8, or larger than what we write.
    """
    check_directory(path.parent)
    with open(path, "rb", opener=_open_ours) as file:
        content = file.read(FILE_BYTES + 1)
    if len(content) > FILE_BYTES:
        raise ValueError("is larger than what we write")
    return content.decode()


def tighten(path: Path) -> None:
    """Make a file private that was created without us; a missing one is fine."""
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
        f"{path} may have been written by another user: remove it, or set NOTIFIER_RUN_DIR to a "
        "directory that you own."
    )


def _is_ours(status: os.stat_result) -> bool:
    return not _has_modes() or status.st_uid == os.geteuid()


def _has_modes() -> bool:
    return hasattr(os, "geteuid")
