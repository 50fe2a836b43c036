"""Adds a build to a site with several versions: `python docs/site/versions.py BUILD SITE VERSION`.

The site has a folder for each version, `versions.json` with their names for the selector, and a
front page that leads to the newest release. Adding a version again replaces it.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

_FRONT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>django-realtime-notifier</title>
<meta http-equiv="refresh" content="0; url={0}/">
<p><a href="{0}/">Documentation of version {0}</a></p>
</html>
"""


def order(version: str) -> tuple[bool, list[int], str]:
    """Return a key that sorts versions: 0.9 is below 0.10, and names are below all releases."""
    return version[:1].isdigit(), [int(part) for part in re.findall(r"\d+", version)], version


def add(build: Path, site: Path, version: str) -> None:
    """Copy a build into a site.

    Args:
        build: The directory that `make docs-build` has made.
        site: The directory of the site; it is made if need be.
        version: The name of its folder: a release, or a word such as `main`.

    Raises:
        ValueError: The name is not a plain folder name.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", version):
        raise ValueError(f"{version!r} is not a name for a version: use 0.1.0, or a word like main")
    shutil.rmtree(site / version, ignore_errors=True)
    shutil.copytree(build, site / version)
    names = [path.name for path in site.iterdir() if (path / "searchindex.js").exists()]
    names.sort(key=order, reverse=True)
    (site / "versions.json").write_text(json.dumps(names), encoding="utf-8")
    (site / "index.html").write_text(_FRONT.format(names[0]), encoding="utf-8")


if __name__ == "__main__":
    add(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
