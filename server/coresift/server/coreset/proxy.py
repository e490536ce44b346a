"""A proxy trained on the embeddings: short head trainings, and what they say of each item.

The proxy of selection via proxy (Coleman et al., 2020) where nobody has trained one: softmax
regression on the pool's vectors, watched while it learns.

How much signal a convex head gives: it learns no features, so hard is what lies across a plane from
its class. With 5 % of the labels of clinc150 (23,700 requests, 151 classes) flipped to any other
class, the flipped items come first with an area under the ROC curve of 1.000 by aum, 0.998 by
el2n, 0.992 by forgetting; flipped to the class of the nearest mean with 0.992, 0.992 and 0.984;
entropy, margin and confidence, which see no label, reach 0.62 to 0.69. But 88 % of the items are
never forgotten, and among these forgetting says nothing: aum and el2n do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Float32s, Float64s, Int64s
from coresift.server.coreset.items import Items, Part
from coresift.server.coreset.problem import Cost, Problem, Setting
from coresift.server.pool.parallel import in_order
from coresift.server.selection.doubt import softmax_entropy, softmax_margin
from coresift.server.selection.priority import priorities

EPOCHS = 10
RUNS = 2
EARLY = 3
"""First epochs that el2n is taken over."""
MOMENTUM = 0.9
RATE = 0.04
"""Learning rate an item of a batch, for rows of length 1; it falls to zero as a cosine does."""
BATCHES = 64
"""In an epoch, as far as they hold 8 to 256 items."""
STEPS = 64
"""Batches between two reports of progress."""


@dataclass(frozen=True, slots=True)
class Dynamics:
    """What was recorded, float64 [n] each; named as the client's recorder names its columns.

    Every number is taken at mini-batch time, before the step that learns from the batch, and is
    the mean over the runs. Two rules differ from the recorder's: the class tied with another for
    the largest logit is wrong here, as all logits are 0 at first and class numbers must mean
    nothing, while of tied ones the recorder predicts the first; el2n is over the first 3 epochs
    here, over the first 10 presentations there unless it is told otherwise.

    Attributes:
        forgetting: times that an item was correct in one epoch and wrong in the next (Toneva et
            al., 2019). A run in which it was never correct counts as one more than a run can
            hold; +inf where it was never correct in any.
        el2n: |p - onehot(y)|_2 over the first epochs (Paul et al., 2021).
        aum: logit of the class less the largest other one, over all epochs (Pleiss et al., 2020).
        entropy, margin, confidence: in the last epoch, of the probabilities: entropy in nats, gap
            between the two largest, the largest.
    """

    forgetting: Float64s
    el2n: Float64s
    aum: Float64s
    entropy: Float64s
    margin: Float64s
    confidence: Float64s


@dataclass(frozen=True, slots=True)
class Training:
    """Softmax regression by mini-batch SGD with momentum, from zero, in float32.

    Each run has an order of its own for each epoch, by the keyed hash; runs are spread over the
    cores, and a run's numbers depend on nothing but the seed. Vectors that are not of length 1 are
    scaled to a mean square of 1, so that one learning rate suits all pools.
    """

    epochs: int = EPOCHS
    runs: int = RUNS

    def cost(self, setting: Setting) -> Cost:
        """Ten classes are assumed where their number is not known."""
        passes = self.epochs * self.runs
        flops = 4.0 * setting.n * setting.dimension * (setting.classes or 10) * passes
        return Cost(flops, passes, (64.0 * self.runs + 64) * setting.n)

    def record(self, problem: Problem) -> Dynamics:
        """The dynamics of the items on their classes. They have two or more."""
        items = problem.items
        names, classes = np.unique(problem.item_classes(), return_inverse=True)
        scale = _scale(items)
        tallies = [_Tally(len(items), self.epochs) for _ in range(self.runs)]
        trainings = [
            self._train(problem, f"proxy/{run}", classes, len(names), scale, tally)
            for run, tally in enumerate(tallies)
        ]
        parts = 1 + -(-self.epochs * _batches(len(items)) // STEPS)
        for done in range(parts):
            for _ in in_order(lambda training: next(training, None), trainings):
                items.check()
            problem.report("train", (done + 1) / parts, None)
        return _mean(tallies)

    def _train(
        self,
        problem: Problem,
        purpose: str,
        classes: Int64s,
        count: int,
        scale: np.float32,
        tally: _Tally,
    ) -> Iterator[None]:
        """One run; yields before every few steps."""
        items, batch = problem.items, _batch(len(problem.items))
        weights = np.zeros((count, items.dimension + 1), np.float32)
        speed = np.zeros_like(weights)
        steps, step = self.epochs * _batches(len(items)), 0
        for epoch in range(self.epochs):
            order = _order(problem.seed, f"{purpose}/{epoch}", items)
            seen = _Epoch(len(items), epoch == self.epochs - 1)
            for start in range(0, len(items), batch):
                if step % STEPS == 0:
                    yield
                items.check()
                places = order[start : start + batch]
                vectors = items.fetch(places)
                planes = np.multiply(weights[:, :-1], scale, dtype=np.float32)
                logits = planes @ vectors.T + weights[:, -1:]
                slope = seen.watch(start, logits, classes[places])
                slope *= np.float32(RATE * (1 + np.cos(np.pi * step / steps)) / 2)
                speed *= np.float32(MOMENTUM)
                speed[:, :-1] += (slope * scale) @ vectors
                speed[:, -1] += slope.sum(axis=1)
                weights -= speed
                step += 1
            tally.add(epoch, order, seen)


class _Epoch:
    """What an epoch shows, in its order; float32 [n] each."""

    def __init__(self, n: int, is_last: bool) -> None:
        self.is_last = is_last
        self.gaps, self.errors = np.empty(n, np.float32), np.empty(n, np.float32)
        self.doubts = np.empty((3, n if is_last else 0), np.float32)

    def watch(self, start: int, logits: Float32s, classes: Int64s) -> Float32s:
        """Note a batch, logits [K, m] (overwritten); returns p - onehot(y), [K, m]."""
        each = np.arange(len(classes))
        some = slice(start, start + len(classes))
        own = logits[classes, each]
        logits[classes, each] = -np.inf
        other = logits.max(axis=0)
        logits[classes, each] = own
        self.gaps[some] = own - other
        if self.is_last:
            by_item = np.ascontiguousarray(logits.T)
            self.doubts[0, some] = softmax_entropy(by_item)
            self.doubts[1, some] = -softmax_margin(by_item)
        logits -= np.maximum(own, other)
        p = np.exp(logits, out=logits)
        p /= p.sum(axis=0)
        if self.is_last:
            self.doubts[2, some] = p.max(axis=0)
        p[classes, each] -= 1
        self.errors[some] = np.sqrt(np.einsum("km,km->m", p, p))
        return p


class _Tally:
    """What a run has shown of each item so far."""

    def __init__(self, n: int, epochs: int) -> None:
        self._epochs = epochs
        self.was_correct, self.learned = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        self.forgotten = np.zeros(n, np.int16)
        self.el2n, self.aum = np.zeros(n, np.float32), np.zeros(n, np.float32)
        self.doubts = np.empty((3, n), np.float32)

    def add(self, epoch: int, order: Int64s, seen: _Epoch) -> None:
        """Count an epoch."""
        correct = np.empty_like(self.learned)
        correct[order] = seen.gaps > 0  # equal to another class is no answer
        self.forgotten += self.was_correct & ~correct
        self.learned |= correct
        self.was_correct = correct
        self.aum[order] += seen.gaps / np.float32(self._epochs)
        early = min(EARLY, self._epochs)
        if epoch < early:
            self.el2n[order] += seen.errors / np.float32(early)
        if seen.is_last:
            self.doubts[:, order] = seen.doubts

    def events(self) -> Float64s:
        """Forgetting events; one more than there can be where nothing was learned to forget."""
        return np.where(self.learned, self.forgotten, self._epochs // 2 + 1.0)


def _mean(tallies: list[_Tally]) -> Dynamics:
    """Means over the runs."""
    events = sum((tally.events() for tally in tallies), start=np.zeros(1)) / len(tallies)
    never = ~np.logical_or.reduce([tally.learned for tally in tallies])
    totals = np.zeros((5, len(never)))
    for tally in tallies:
        totals += (tally.el2n, tally.aum, *tally.doubts)
    return Dynamics(np.where(never, np.inf, events), *(totals / len(tallies)))


def _batch(n: int) -> int:
    return min(max(n // BATCHES, 8), 256)


def _batches(n: int) -> int:
    return -(-n // _batch(n))


def _order(seed: int, purpose: str, items: Items) -> Int64s:
    """All positions in the order of the keyed hash, ties by position: int64 [n]."""
    # Sorting one number that holds both is several times faster than sorting indices.
    keys = (priorities(seed, purpose, items.rows) * 2.0**32).astype(np.int64) << 31
    keys |= np.arange(len(items))
    items.check()
    keys.sort()
    return keys & (2**31 - 1)


def _scale(items: Items) -> np.float32:
    """One over the root mean square of the vectors' lengths."""
    if items.are_unit:
        return np.float32(1)

    def squares(part: Part) -> float:
        wide = part.vectors().astype(np.float64)
        return float(np.einsum("ij,ij->", wide, wide))

    mean = sum(items.scan(squares)) / len(items)
    return np.float32(1 / max(np.sqrt(mean), 1e-30))  # float32 ends soon after 1e38
