"""A fresh Debian goes from a clone to a service behind TLS by `docs/deploy.md` alone.

`make fresh-debian` runs it. It is no part of the tests, because it installs a Debian (root,
debootstrap, a mirror of Debian, PyPI; the ports 80, 443, 6379 and 8000). Each command of the
chapter "The first deployment" is typed as it is written, into one shell in a chroot, except those
for systemd, which is not running there.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.eventually import eventually_sync
from tests.support.service import ROOT
from tests.test_docs import section

FOLDER = Path(os.environ.get("FRESH_FOLDER", "/tmp/notifier-fresh-debian"))
RELEASE = os.environ.get("FRESH_RELEASE", "trixie")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.geteuid() != 0, reason="chroot and mounts need root"),
]


def commands() -> list[str]:
    """Return the commands of the chapter, in order."""
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    chapter = section(text, "## The first deployment")
    blocks = re.findall(r"^```sh\n(.*?)^```$", chapter, re.M | re.S)
    return [
        line for block in blocks if "systemctl" not in block for line in block.splitlines() if line
    ]


@pytest.fixture(scope="module")
def debian() -> Path:
    if not FOLDER.exists():
        subprocess.run(["debootstrap", "--variant=minbase", RELEASE, str(FOLDER)], check=True)
    return FOLDER


def prepare(root: Path) -> None:
    """Provide what a machine has before anybody types: a network, and the clone."""
    (root / "etc/resolv.conf").write_text(Path("/etc/resolv.conf").read_text())
    (root / "etc/machine.pem").write_text(Path(CERTIFICATES).read_text())
    clone = root / "srv/notifier"
    subprocess.run(["rm", "-rf", str(clone)], check=True)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)


def test_every_command_of_the_first_deployment_works_as_written(
    debian: Path, tmp_path: Path
) -> None:
    prepare(debian)
    typed = commands()
    script = ["set -e", "apt-get update -qq"]
    for number, command in enumerate(typed):
        script += [f"echo '>>>' {number} $(date +%s)", command]
    script += ["echo '>>>' end $(date +%s)", "while [ ! -e /tmp/done ]; do sleep 0.2; done"]
    # In namespaces of its own: when the shell ends, so does all that it has started.
    inside = (
        f"mount --rbind /dev {debian}/dev; mount -t sysfs sysfs {debian}/sys;"
        f"mount -t proc proc {debian}/proc; exec chroot {debian} /bin/sh"
    )
    environ = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "DEBIAN_FRONTEND": "noninteractive",
        "PIP_CERT": "/etc/machine.pem",  # of this machine's network, not of the deployment
    }
    (debian / "tmp/done").unlink(missing_ok=True)
    began = time.monotonic()
    log = tmp_path / "log"
    with log.open("w") as output:
        shell = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", inside],
            env=environ, stdin=subprocess.PIPE, stdout=output, stderr=output, text=True,
        )  # fmt: skip
        assert shell.stdin is not None
        shell.stdin.write("\n".join(script) + "\n")
        shell.stdin.close()

    def has_served() -> bool:
        said = log.read_text(errors="replace")
        wanted = (">>> end", '"offset":1', "handling fallbacks: ", " ready.", '"status":"live"')
        return shell.poll() is not None or all(each in said for each in wanted)

    try:
        eventually_sync(has_served, seconds=1800)
    finally:
        (debian / "tmp/done").touch()
        code = shell.wait(timeout=60)
        text = log.read_text(errors="replace")
        times = [int(at) for at in re.findall(r"^>>> \S+ (\d+)$", text, re.M)]
        for command, start, end in zip(typed, times, times[1:], strict=False):
            print(f"{end - start:4d} s  {command[:100]}")
        assert code == 0, text[-5000:]
    print(f"{time.monotonic() - began:.0f} s in all, from a clone to an event published over TLS")
