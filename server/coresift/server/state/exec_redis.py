"""Becomes redis-server, which then ends with its parent. Run as a file, alone: no imports of ours.

Arguments: pid of the parent, redis-server's path, its arguments.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, binary, *arguments = sys.argv[1:]
    if sys.platform == "linux":
        # Every acknowledged write is on disk: an abrupt end loses nothing, and is sure.
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        raise SystemExit("the parent ended first")
    os.umask(0o077)
    os.execv(binary, [binary, *arguments])  # noqa: S606 - no shell wanted


if __name__ == "__main__":
    main()
