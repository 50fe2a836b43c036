"""The sdist and the wheel in `dist/`: each is installed into an empty environment, and used there.

For `make package`, which builds them before; not in `make test`, since pip fetches what they need.
`test_wheel.py` uses the wheel of each commit, with the packages of the tests.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

from realtime import __version__
from tests.support.host import Host, files_of, foreign_environment
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT

DIST = ROOT / "dist"
NAME = f"django_realtime_notifier-{__version__}"
PAGE = ROOT / "docs" / "howto" / "django-host.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(params=[f"{NAME}-py3-none-any.whl", f"{NAME}.tar.gz"], ids=["wheel", "sdist"])
def package(request: pytest.FixtureRequest) -> Path:
    path = DIST / request.param
    assert path.is_file(), "`make package` builds it"
    return path


def test_nothing_else_was_built() -> None:
    assert {path.name for path in DIST.iterdir()} == {
        *(f"{NAME}-py3-none-any.whl", f"{NAME}.tar.gz")
    }


def test_the_sdist_contains_what_the_wheel_is_built_from() -> None:
    with tarfile.open(DIST / f"{NAME}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "realtime").rglob("*.py")}
    assert modules | {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} <= names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {
        *("realtime", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "PKG-INFO"),
        ".gitignore",
    }


def test_the_metadata_are_those_of_the_project() -> None:
    with zipfile.ZipFile(DIST / f"{NAME}-py3-none-any.whl") as archive:
        text = archive.read(f"{NAME}.dist-info/METADATA").decode()
    metadata = HeaderParser().parsestr(text)
    assert metadata["Version"] == PROJECT["version"] == __version__
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata.get_all("Classifier") == PROJECT["classifiers"]
    assert set(metadata.get_all("Provides-Extra") or ()) == set(PROJECT["optional-dependencies"])
    assert metadata["License-Expression"] == "MIT"
    assert "Live notifications for web pages" in text, "the README is the page on PyPI"


def test_it_is_used_in_an_empty_environment(
    package: Path, tmp_path: Path, redis_server: RedisServer
) -> None:
    """The project of docs/howto/django-host.md, with what pip installs and nothing else."""
    page = PAGE.read_text(encoding="utf-8")
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    [others] = re.findall(r"^pip install \S+\.whl ([\w ]+?) +#", page, re.M)
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", str(package), *others.split()],
        check=True, env=foreign_environment(), cwd=tmp_path,
    )  # fmt: skip
    folder = tmp_path / "project"
    folder.mkdir()

    class Installed(Host):
        interpreter = str(python)

    host = Installed(folder, "", redis_server.url)
    host.write(files_of(page))
    where = host.run("-c", "import realtime; print(realtime.__version__, realtime.__file__)")
    assert where.startswith(f"{__version__} {environment}")
    assert "no issues" in host.run("manage.py", "check")
    assert "OK" in host.run("manage.py", "test", "orders")
    assert "No broken requirements" in host.run("-m", "pip", "check")
    with host.served(tmp_path / "log", "-m", "uvicorn", "mysite.asgi:application"):
        assert "offset" in host.run("manage.py", "publish", "orders:all", '{"number": 1}')
