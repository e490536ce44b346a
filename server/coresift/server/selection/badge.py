"""BADGE (Ash et al., 2020): batches by k-means++ on gradient embeddings, in factors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Float32s, Float64s, Int64s
from coresift.server.head import Head, Task
from coresift.server.pool.canonical import pair_similarities
from coresift.server.selection.batch import Shortlist
from coresift.server.selection.parameters import parameter
from coresift.server.selection.priority import priorities

_BLOCK = 4_096
"""Rows whose first distances are taken at a time."""
_FRONTIER = 8
"""Rows whose distances are brought up to date at a time."""


@dataclass(frozen=True, slots=True)
class Badge:
    """Each choice is drawn with probability proportional to D^2, the squared distance of its
    gradient embedding to the nearest chosen one.

    The embedding of a row x is the gradient of the last layer as if the head's prediction were
    the label: g = a (outer) x with a = p - onehot(argmax p); multilabel: a = p - round(p) of
    every column. The first choice is the longest gradient (ties: the better row), as in the
    authors' code. Rows that do not differ from a chosen one come last, best first.

    Departures: embeddings of the shortlist, not of the pool; the bias is left out (as there);
    without a head k-means++ works on the vectors alone, from the best row on.

    Draws come from the keyed hash of the row: each row has an exponential clock that runs at the
    speed of its D^2, and the next that ends is the next choice. Clocks have no memory, so this
    is D^2 sampling exactly, whatever the order of the shortlist.
    """

    oversampling: int = parameter(10, "rows looked at for each one wanted", low=1, high=1_000)

    def arrange(self, shortlist: Shortlist, count: int) -> Int64s:
        n, rows, head = len(shortlist.rows), shortlist.rows, shortlist.head
        if not n or not count:
            return np.empty(0, np.int64)
        uniform = priorities(shortlist.seed, f"badge:{shortlist.revision}", rows)
        errors = np.ones((n, 1)) if head is None else _errors(head, shortlist.probabilities)
        gradients = _Gradients.of(errors, shortlist.vectors)
        first = 0 if head is None else int(gradients.squares.argmax())
        race = _Race(gradients, -np.log1p(-uniform), first)
        while len(race.chosen) < count and race.choose():
            pass
        chosen = np.array(race.chosen, np.int64)
        rest = np.ones(n, np.bool_)
        rest[chosen] = False
        return np.concatenate([chosen, np.flatnonzero(rest)])[:count]


def _errors(head: Head, probabilities: Float64s) -> Float64s:
    """Slopes of the loss by the logits at the predicted label, float64 [n, K']."""
    if head.task is Task.MULTILABEL:
        return np.where(probabilities > 0.5, probabilities - 1, probabilities)
    errors = probabilities.copy()
    predicted = probabilities.argmax(axis=1)[:, None]
    np.put_along_axis(errors, predicted, 0, axis=1)
    # Minus the sum of the others: p - 1 would lose the small ones to rounding.
    np.put_along_axis(errors, predicted, -errors.sum(axis=1, keepdims=True), axis=1)
    return errors


@dataclass(frozen=True, slots=True)
class _Gradients:
    """Gradients a (outer) x by their factors a, float64 [n, K'], and x, float32 [n, d].

    Attributes:
        squares: float64 [n], squared norms.
    """

    errors: Float64s
    vectors: Float32s
    squares: Float64s

    @classmethod
    def of(cls, errors: Float64s, vectors: Float32s) -> _Gradients:
        lengths = (errors**2).sum(axis=1)
        return cls(errors, vectors, lengths * pair_similarities("ip", vectors, vectors))

    def distances(self, places: Int64s, others: Int64s) -> Float64s:
        """Squared distances, float64 [n, m]; 0 where rounding could have made them."""
        X, Q = (self.vectors[own].astype(np.float64) for own in (places, others))
        sizes = self.squares[places][:, None] + self.squares[others]
        inner = (X @ Q.T) * (self.errors[places] @ self.errors[others].T)
        distances = sizes - 2 * inner
        terms = self.vectors.shape[1] + self.errors.shape[1] + 16
        distances[distances <= 4 * terms * np.finfo(np.float64).eps * sizes] = 0
        return distances


class _Race:
    """Exponential clocks that run at the speed of D^2.

    Speeds only fall, so an old speed gives a time before which a clock does not end. Only clocks
    that may end next are brought up to date.
    """

    def __init__(self, gradients: _Gradients, clocks: Float64s, first: int) -> None:
        n = len(clocks)
        self._gradients = gradients
        self.chosen = [first]
        self._times = [0.0]  # of the choices
        self._seen = np.zeros(n, np.int64)  # choices that a clock's speed accounts for
        self._since = np.zeros(n)  # when that was, and what was left to run then:
        self._left = clocks
        self._speeds = 2 * (gradients.squares + gradients.squares[first])
        self._ends = np.empty(n)
        for start in range(0, n, _BLOCK):
            self._update(np.arange(start, min(n, start + _BLOCK)))
        self._ends[first] = np.inf

    def choose(self) -> bool:
        """Make the next choice; False when no clock is running."""
        while True:
            place = int(self._ends.argmin())
            if self._ends[place] == np.inf:
                return False
            if self._seen[place] == len(self.chosen):
                break
            self._update(self._frontier())
        self.chosen.append(place)
        self._times.append(float(self._ends[place]))
        self._ends[place] = np.inf
        return True

    def _frontier(self) -> Int64s:
        """Places of the clocks that may end soonest."""
        last = min(_FRONTIER, len(self._ends)) - 1
        latest = np.partition(self._ends, last)[last]
        return np.flatnonzero((self._ends <= latest) & (self._ends < np.inf))

    def _update(self, places: Int64s) -> None:
        """Let clocks run up to now, each at the speed that it had from choice to choice."""
        start = int(self._seen[places].min())
        others = np.array(self.chosen[start:], np.int64)
        since = self._since[places][:, None]
        speeds = np.column_stack([self._speeds[places], self._gradients.distances(places, others)])
        speeds = np.minimum.accumulate(speeds, axis=1)
        times = np.broadcast_to(np.array(self._times[start:]), (len(places), len(others)))
        # Choices that a clock has accounted for lie before its last update: they take no time.
        passed = np.diff(np.maximum(times, since), axis=1, prepend=since)
        left = np.maximum(self._left[places] - (speeds[:, :-1] * passed).sum(axis=1), 0)
        now, speed = self._times[-1], speeds[:, -1]
        with np.errstate(over="ignore"):  # a clock that ends beyond float64 does not end
            ends = np.divide(left, speed, out=np.full(len(places), np.inf), where=speed > 0)
        self._seen[places] = len(self.chosen)
        self._since[places], self._left[places] = now, left
        self._speeds[places], self._ends[places] = speed, now + ends
