"""Types of the nodes, against an installed ComfyUI where there is one; without it, its modules are unknown to mypy.

    python -m tests.node_types

A clone's folder may have any name, and the nodes import the library beside them by relative names: mypy sees the folder
as the package ``pack``, through a link. The library itself is checked by ``mypy`` alone.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.comfy.server import ROOT, find_comfyui

_FOLDER = ROOT / "build" / "types"


def main() -> int:
    _FOLDER.mkdir(parents=True, exist_ok=True)
    link = _FOLDER / "pack"
    if not link.is_symlink():
        link.symlink_to(ROOT, target_is_directory=True)
    comfyui = find_comfyui()
    print(f"Types of the nodes, against {comfyui or 'no ComfyUI: its modules are unknown'}.", flush=True)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--follow-imports=silent"]
    command += ["--cache-dir", str(ROOT / ".mypy_cache" / "nodes"), "--package", "pack.nodes"]
    environment = {**os.environ, "MYPYPATH": str(comfyui) if comfyui else ""}
    # not from the root, where `import nodes` would be this pack's folder instead of ComfyUI's file
    return subprocess.run(command, cwd=_FOLDER, env=environment, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
