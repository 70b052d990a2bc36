"""Whether a tag may be published: it is ``v`` and the version in pyproject.toml, and CHANGELOG.md has a section for it.

python tools/check_release.py v0.1.0
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def problems(tag: str, project: str, changelog: str) -> list[str]:
    """What stands against publishing, in words; ``project`` and ``changelog`` are the files' texts."""
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    if version is None:
        return ["pyproject.toml has no line 'version = ...'."]
    found = []
    if tag != f"v{version[1]}":
        found.append(
            f"The tag is {tag}, pyproject.toml has version {version[1]}: tag v{version[1]}, or change the version."
        )
    if not re.search(rf"^## \[{re.escape(version[1])}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        found.append(f"CHANGELOG.md has no section '## [{version[1]}] - YYYY-MM-DD'.")
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "CHANGELOG.md")]
    if against := problems(sys.argv[1], *texts):
        raise SystemExit("\n".join(against))
