"""Build and install what the peers need, as far as Go and Node are here.

    python -m bench.peers.setup

Nothing is installed outside of this folder. nginx with Nchan is a package of the system:
apt-get install nginx libnginx-mod-nchan.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from bench.rivals import CENTRIFUGE, NODE, RIVALS


def main() -> int:
    """Do all that can be done here; return 1 if something that was tried failed."""
    done = [
        _run("go", ["build", "-trimpath", "-o", str(CENTRIFUGE), "."], CENTRIFUGE.parents[1]),
        # bufferutil's install script only looks whether the binary that it brings will do.
        _run("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], NODE),
    ]
    print()
    for name, rival in RIVALS.items():
        print(f"{name:18} {rival.missing() or 'ready'}")
    return 0 if all(done) else 1


def _run(tool: str, arguments: list[str], folder: Path) -> bool:
    """Run a tool in a folder; that it is not here is no failure."""
    program = shutil.which(tool)
    if program is None:
        print(f"{tool} is not here: left out {folder.name}", flush=True)
        return True
    print(f"{folder.name}: {tool} {' '.join(arguments)}", flush=True)
    return subprocess.run([program, *arguments], cwd=folder, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
