"""One seed out of many things: random draws that depend on nothing else."""

from __future__ import annotations

import hashlib


def mixed_seed(*parts: int | str) -> int:
    """One seed, 0 to 2^63 - 1, that depends on every part."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
