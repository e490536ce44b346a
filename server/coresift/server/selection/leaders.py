"""The canonical top of many candidates: a fast float32 pass proposes, float64 decides.

Fast scores may be off by a proven bound. Everything within twice that bound of the last place
is scored again row by row in float64 and sorted by (score, row), so that the result is that of
a full float64 scan, whatever the order, blocking or number of threads of the fast pass, and
whoever else takes part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np

from coresift.server.arrays import Bools, Float32s, Rows
from coresift.server.head import Head
from coresift.server.pool.parallel import in_order
from coresift.server.pool.rows import Block
from coresift.server.selection.scoring import (
    UNIT32,
    Columns,
    Scored,
    canonical,
    score_error,
)
from coresift.server.selection.strategy import Floats, OfOneLogit, Part, Scorer

PIECE = 2_048
"""Rows scored again at a time: a saturated head may leave much of a pool on the shortlist."""
SPREAD = 4 * PIECE
"""From so many on they are spread over the cores."""
DEAR_COLUMNS = 8
"""Scorers of more columns are spread, too."""

Near = tuple[Rows, Floats]
"""Rows that may be among the best, int32 [n], with their fast scores."""
NOTHING: Near = np.empty(0, np.int32), np.empty(0, np.float32)


class Leaders:
    """The best rows of one scorer among those that it was shown.

    Attributes:
        columns: what the vectors are to be multiplied with.
        is_over: nobody wants the rest any more, or the scorer failed: nothing is looked at.
    """

    def __init__(
        self, scorer: Scorer, head: Head | None, blocked: Bools, depth: int, max_norm: float
    ) -> None:
        """
        Args:
            head: predicts classes; None only for scorers that need none.
            blocked: bool [N], rows that may not be chosen.
            depth: rows wanted.
            max_norm: largest norm of a row, for the error bound.
        """
        self.columns = Columns.of(scorer, head)
        self.is_over = False
        self._scorer, self._head, self._blocked, self._depth = scorer, head, blocked, depth
        self._slack = 2 * score_error(scorer, head, max_norm)
        self._floor, self._is_cut = -np.inf, False
        self._near: list[Near] = []
        self._held, self._room = 0, 4 * depth + 4096
        self._error: Exception | None = None

    @property
    def column(self) -> Float32s | None:
        """Weights float32 [d], where the score is a function of the one product with them."""
        weights = self.columns.weights
        is_one = self._interval is not None and len(self.columns.offset) == 1
        return weights[:, 0] if is_one and weights is not None else None

    @cached_property
    def _interval(self) -> Callable[[float], tuple[float, float]] | None:
        return self._scorer.interval if isinstance(self._scorer, OfOneLogit) else None

    def bounds(self) -> tuple[float, float]:
        """Between which products with the `column` all rows lie that may be among the best; they
        draw nearer with what is added."""
        if self._interval is None:
            return -np.inf, np.inf
        low, high = self._interval(self._floor)
        offset = float(self.columns.offset[0])
        rounding = 4 * UNIT32 * (abs(self._floor) + abs(offset))  # of the sum and of the bounds
        return low - offset - rounding, high - offset + rounding

    def look(self, part: Part) -> Near:
        """The rows of a part that may be among the best, for `add`. On any thread: where the floor
        rises meanwhile, a few more come through."""
        if self.is_over:
            return NOTHING
        try:
            scores = self._scorer.score(part)
            near = np.flatnonzero(scores >= self._floor)
            near = near[~self._blocked[part.rows[near]]]
            return part.rows[near], scores[near]
        except Exception as error:
            self._error, self.is_over = error, True
            return NOTHING

    def add(self, near: Near) -> None:
        """Keep what `look` found. On one thread at a time."""
        self._near.append(near)
        self._held += len(near[0])
        if self._held > self._room:
            self._cut()
            # A saturated head may leave much of a pool: not to be cut with every part.
            self._room = max(self._room, 2 * self._held)

    def _cut(self) -> None:
        """Keep what is within the error of the last place."""
        rows, scores = (np.concatenate(arrays) for arrays in zip(*self._near, strict=True))
        last = np.partition(scores, len(scores) - self._depth)[len(scores) - self._depth]
        floor = float(last) - self._slack
        if scores.dtype == np.float32:  # that it is compared in
            floor = float(np.nextafter(np.float32(floor), np.float32(-np.inf)))
        near = np.flatnonzero(scores >= floor)
        self._near, self._held = [(rows[near], scores[near])], len(near)
        self._floor, self._is_cut = floor, True

    def best(self, fetch: Callable[[Rows], Float32s]) -> Scored:
        """The best ``depth`` rows (or all) in canonical order. Raises what the scorer raised.

        ``fetch``: vectors float32 [n, d] of rows.
        """
        if self._error is not None:
            raise self._error
        if self._held > self._depth:
            self._cut()
        rows = np.concatenate([NOTHING[0], *(rows for rows, _ in self._near)])
        pieces = (rows[start : start + PIECE] for start in range(0, len(rows), PIECE))
        best, held = [self._canonical(rows[:0], fetch)], 0
        # A few take less time than the cores' way through what waits for them.
        spread = in_order if len(rows) > SPREAD else map
        for piece in spread(lambda some: self._canonical(some, fetch), pieces):
            best.append(piece)
            held += len(piece.rows)
            if held > 2 * self._depth + SPREAD:  # not to be sorted with every piece
                best = [_best_of(best, self._depth)]
                held = len(best[0].rows)
        whole = _best_of(best, self._depth)
        return Scored(whole.rows, whole.scores, whole.predicted, not self._is_cut)

    def _canonical(self, rows: Rows, fetch: Callable[[Rows], Float32s]) -> Scored:
        return canonical(self._scorer, self._head, rows, fetch)


def _best_of(several: Sequence[Scored], most: int) -> Scored:
    """The first ``most`` rows of all, in canonical order."""
    rows, scores, predicted = (
        np.concatenate([getattr(scored, name) for scored in several])
        for name in ("rows", "scores", "predicted")
    )
    order = np.lexsort((rows, -scores))[:most]
    return Scored(rows[order], scores[order], predicted[order], True)


def show(leaders: Leaders, parts: Iterable[Part]) -> None:
    """Show parts by `Leaders.columns`; those of many columns are scored on all cores."""
    is_dear = len(leaders.columns.offset) - leaders.columns.logits > DEAR_COLUMNS
    for near in in_order(leaders.look, parts) if is_dear else map(leaders.look, parts):
        leaders.add(near)
        if leaders.is_over:
            return


class Together:
    """Several leaders whose columns stand side by side in one product."""

    def __init__(self, several: Sequence[Leaders]) -> None:
        self.leaders = tuple(several)
        self._columns = Columns.joined([leaders.columns for leaders in several])
        ends = np.cumsum([0, *(len(leaders.columns.offset) for leaders in several)])
        self._spans = list(pairwise(ends.tolist()))

    def look(self, block: Block) -> list[Near]:
        """What each of them finds in a block, for `add`. On any thread."""
        products = self._columns.part(block.rows, block.product).logits
        return [
            leaders.look(leaders.columns.split(block.rows, products[:, start:end]))
            for leaders, (start, end) in zip(self.leaders, self._spans, strict=True)
        ]

    def add(self, found: Sequence[Near]) -> None:
        """Keep what they found. On one thread at a time."""
        for leaders, near in zip(self.leaders, found, strict=True):
            leaders.add(near)

    @property
    def is_over(self) -> bool:
        """Whether nobody looks any more."""
        return all(leaders.is_over for leaders in self.leaders)
