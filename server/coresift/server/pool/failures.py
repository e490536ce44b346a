"""What stops a pool operation before its end."""

from __future__ import annotations


class BuildError(ValueError):
    """The input cannot become a pool. The message names the first offenders and what to do."""


class Cancelled(Exception):  # noqa: N818 - it is no error that anyone sees
    """Nobody waits for this scan or search any more; it ended between two blocks."""
