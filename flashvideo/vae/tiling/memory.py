"""How much memory there is."""

from __future__ import annotations

import os
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")
MARGIN = 512 << 20
"""Bytes left free on a device beside what is in use: the context of its libraries, other programs."""


def free_on(device: torch.device) -> int:
    """Bytes that may still be allocated on ``device``, a margin kept back."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return max(0, free + idle - MARGIN)
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory() - MARGIN)
    return free_on_host()


def free_on_host() -> int:
    """Bytes of host memory that may still be allocated, the limits of a container respected, a margin kept back."""
    limits = [_available()]
    allowed, used = (_number(CGROUP / name) for name in ("memory.max", "memory.current"))
    if allowed is not None and used is not None:
        limits.append(allowed - used + _file_cache())
    return max(0, min(limits) - MARGIN)


def free_swap() -> int:
    """Bytes that the system could still put out of host memory; 0 where nothing tells, or a container's limit holds."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists() or _number(CGROUP / "memory.max") is not None:
        return 0
    lines = (line.split() for line in meminfo.read_text().splitlines() if line.startswith("SwapFree:"))
    return sum(int(line[1]) * 1024 for line in lines)


def _available() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        import psutil
    except ImportError:
        # Half of all memory, where nothing tells how much of it is in use.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else 4 << 30
    return int(psutil.virtual_memory().available)


def _file_cache() -> int:
    """Bytes of a container's use that are files read lately, which the system gives up when memory is asked for."""
    try:
        lines = (CGROUP / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
