"""What a core-set method gets and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coresift.server.arrays import Rows
from coresift.server.head import Head


@dataclass(frozen=True, slots=True)
class Request:
    """A selection to make.

    Attributes:
        budget: rows to select, at most those there are.
        start: ascending rows that are covered already (k_center); not selected, not counted.
        progress: told the share that is done, 0..1.
        stop: asked between blocks; true ends the work with `coresift.server.pool` Cancelled.
    """

    budget: int
    seed: int
    head: Head | None
    start: Rows
    progress: Callable[[float], None]
    stop: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Selection:
    """Selected rows in order of selection.

    Attributes:
        rows: int32 [budget], distinct.
        scores: float64 [budget]; what they mean is the method's.
        weights: float64 [budget], cluster sizes, or None.
        covering_radius: largest distance of a row to its nearest centre, or None.
    """

    rows: Rows
    scores: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64] | None
    covering_radius: float | None
