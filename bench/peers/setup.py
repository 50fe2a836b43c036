"""Build and install the peers, as far as Go and Node are available.

    python -m bench.peers.setup

Nothing is installed outside of this directory. nginx with Nchan is a system package:
apt-get install nginx libnginx-mod-nchan.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from bench.rivals import CENTRIFUGE, NODE, RIVALS


def main() -> int:
    """Set up all peers that can be built here; return 1 if one of them failed."""
    done = [
        _run("go", ["build", "-trimpath", "-o", str(CENTRIFUGE), "."], CENTRIFUGE.parents[1]),
        # bufferutil's install script only checks whether the bundled binary works.
        _run("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], NODE),
    ]
    print()
    for name, rival in RIVALS.items():
        print(f"{name:18} {rival.missing() or 'ready'}")
    return 0 if all(done) else 1


def _run(tool: str, arguments: list[str], folder: Path) -> bool:
    """Run a tool in a directory; a tool that is not installed is not a failure."""
    program = shutil.which(tool)
    if program is None:
        print(f"skipped {folder.name}: {tool} is not installed", flush=True)
        return True
    print(f"{folder.name}: {tool} {' '.join(arguments)}", flush=True)
    return subprocess.run([program, *arguments], cwd=folder, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
