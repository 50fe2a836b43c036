"""Files with secrets, in a directory that other users share."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from notifier import private, run_secrets, servicefile
from notifier.private import NotPrivate

CHECKOUT = Path(__file__).resolve().parents[3]
AS_ANOTHER = pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
SOMEBODY_ELSE = 12345


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "run"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def loose_umask() -> object:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("loose_umask")
def test_other_users_cannot_read_written_files(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for text in ("first", "second"):
        private.write(path, text)
        assert private.read(path) == text
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("open_to", [0o701, 0o710, 0o755, 0o770, 0o777, 0o1777])
def test_a_directory_that_others_can_enter_is_refused(directory: Path, open_to: int) -> None:
    directory.chmod(open_to)
    closing = "" if open_to == 0o1777 else f"chmod 700 {directory}, or "
    for attempt in (
        lambda: run_secrets.save(directory, run_secrets.RunSecrets()),
        lambda: run_secrets.load(directory),
        lambda: servicefile.write(directory / "service.json", {}, pid=os.getpid()),
        lambda: servicefile.adopt({}, directory / "service.json"),
    ):
        with pytest.raises(NotPrivate, match=rf"mode {open_to:03o}\).*: {closing}set N"):
            attempt()
    assert list(directory.iterdir()) == []


@AS_ANOTHER
def test_a_directory_of_another_user_is_refused(directory: Path) -> None:
    os.chown(directory, SOMEBODY_ELSE, -1)
    with pytest.raises(
        NotPrivate, match=rf"another user \(uid {SOMEBODY_ELSE}\).*NOTIFIER_RUN_DIR"
    ):
        private.write(directory / "file", "secret")
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("there", [True, False])
def test_a_link_replaces_the_directory(tmp_path: Path, there: bool) -> None:
    target, link = tmp_path / "target", tmp_path / "run"
    if there:
        target.mkdir(mode=0o700)
    link.symlink_to(target)
    with pytest.raises(NotPrivate, match="is a symbolic link"):
        private.write(link / "file", "secret")
    assert not (target / "file").exists()


def test_a_file_replaces_the_directory(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(NotPrivate, match="is not a directory"):
        private.make_directory(tmp_path / "run")


def test_a_link_in_the_place_of_a_draft_is_not_followed(directory: Path) -> None:
    """The name of a draft is predictable.

    The target of a link there used to be overwritten (CWE-59).
    """
    victim = directory.parent / "victim"
    victim.write_text("mine")
    for name in ("service.json", f".service.json.{os.getpid()}"):
        (directory / name).symlink_to(victim)
    private.write(directory / "service.json", "secret")
    assert victim.read_text() == "mine"
    assert (directory / "service.json").read_text() == "secret"
    assert mode(directory / "service.json") == 0o600
    assert [path.name for path in directory.iterdir()] == ["service.json"]


def test_a_draft_that_others_can_read_is_not_written_into(directory: Path) -> None:
    """O_CREAT without O_EXCL keeps the mode of an existing file."""
    draft = directory / f".file.{os.getpid()}"
    draft.touch()
    draft.chmod(0o644)
    reader = draft.open()
    private.write(directory / "file", "secret")
    assert reader.read() == ""
    assert mode(directory / "file") == 0o600
    reader.close()


def test_a_file_is_created_once(directory: Path) -> None:
    (directory / "link").symlink_to(directory / "nowhere")
    os.close(private.create(directory / "file"))
    for name in ("file", "link"):
        with pytest.raises(FileExistsError):
            private.create(directory / name)
    assert not (directory / "nowhere").exists()


def planted(path: Path, how: str) -> None:
    if how == "writable":
        path.write_text("{}")
        path.chmod(0o666)
    elif how == "owned":
        path.write_text("{}")
        os.chown(path, SOMEBODY_ELSE, -1)
    elif how == "pipe":
        os.mkfifo(path, 0o600)


@pytest.mark.parametrize("how", ["writable", pytest.param("owned", marks=AS_ANOTHER), "pipe"])
def test_an_attacker_plants_a_known_key(directory: Path, how: str) -> None:
    """An attacker who could write `kept.json` knew the key of all sessions of the next run."""
    planted(directory / run_secrets.FILE, how)
    planted(directory / "service.json", how)
    with pytest.raises(NotPrivate, match="may have been written by another user: remove it"):
        run_secrets.load(directory)
    with pytest.raises(NotPrivate):
        servicefile.adopt({}, directory / "service.json")
    servicefile.remove(directory / "service.json", pid=1)


def test_a_planted_link_is_ignored(directory: Path) -> None:
    known = run_secrets.RunSecrets()
    run_secrets.save(directory.parent / "elsewhere", known)
    (directory / run_secrets.FILE).symlink_to(directory.parent / "elsewhere" / run_secrets.FILE)
    assert run_secrets.load(directory).secret_key != known.secret_key


def test_an_oversized_file_is_not_read(directory: Path) -> None:
    private.write(directory / run_secrets.FILE, " " * (private.FILE_BYTES + 1))
    with pytest.raises(ValueError, match="larger"):
        private.read(directory / run_secrets.FILE)
    assert len(run_secrets.load(directory).secret_key) >= 50


def test_a_failed_write_keeps_the_old_file_and_leaves_no_draft(directory: Path) -> None:
    private.write(directory / "file", "before")
    with pytest.raises(UnicodeEncodeError):
        private.write(directory / "file", "\ud800")
    assert [(p.name, p.read_text()) for p in directory.iterdir()] == [("file", "before")]


def test_existing_files_are_made_private(directory: Path) -> None:
    path = directory / "db.sqlite3"
    path.touch()
    path.chmod(0o644)
    private.tighten(path)
    assert mode(path) == 0o600
    private.tighten(directory / "none")


def test_other_users_read_the_user_database(directory: Path) -> None:
    """The first command that opened it left its mode to umask: 0644, with password hashes."""
    path = directory / "db.sqlite3"
    environ = {
        **{name: value for name, value in os.environ.items() if name in ("PATH", "HOME")},
        "NOTIFIER_RUN_DIR": str(directory),
    }
    code = (
        "import os; from django.db import connection; c = connection.cursor();"
        "c.execute('create table t (n)'); c.execute('insert into t values (1)');"
        f"found = os.scandir({str(directory)!r});"
        "print(*sorted(f'{e.name} {e.stat().st_mode:o}' for e in found))"
    )
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "--no-imports", "-c", code],
        cwd=CHECKOUT, env=environ, capture_output=True, text=True, check=True, umask=0o022,
    )  # fmt: skip
    names = [f"db.sqlite3{suffix}" for suffix in ("", "-shm", "-wal")]
    assert done.stdout.split() == [word for name in names for word in (name, "100600")]
    with sqlite3.connect(path) as connection:
        assert connection.execute("select n from t").fetchall() == [(1,)]
    connection.close()
