"""How many cores this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

from coresift.server.control_groups import own_groups


def usable_cores(groups: Iterable[Path] | None = None) -> int:
    """Those the process may run on, and no more than its container's quota of time allows.

    With more threads than the quota lets run all of them stand still for the rest of each period.

    Args:
        groups: directories of control groups; None: the process's own.
    """
    quotas = map(_quota, own_groups("cpu") if groups is None else groups)
    return min([len(os.sched_getaffinity(0)), *(max(1, math.ceil(q)) for q in quotas if q)])


def _quota(group: Path) -> float | None:
    """Cores' worth of time of a control group; None where it has no limit."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return None if quota.strip() in {"max", "-1"} else int(quota) / int(period)
    except (OSError, ValueError):
        return None
