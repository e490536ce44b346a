"""The control groups that bound this process: what a container may have of the machine."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def own_groups(controller: str) -> list[Path]:
    """Directories of the group that this process is in and of those above, version 2 or 1.

    Args:
        controller: of version 1, where each has a tree of its own: memory, cpu.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = ROOT / controller if controllers else ROOT
        own = root / path.lstrip("/")
        found += [own, *(parent for parent in own.parents if parent.is_relative_to(root))]
    return found
