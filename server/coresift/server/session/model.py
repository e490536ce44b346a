"""Using a session's model: predictions, scores of outside vectors, search, the head itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coresift.server.arrays import Float32s, Float64s, Rows
from coresift.server.head import Head, Task
from coresift.server.pool.pool import Pool
from coresift.server.selection.shortlist import top
from coresift.server.selection.strategies import Strategy
from coresift.server.session.live import LiveSession, head_of
from coresift.server.session.ranking import HeadState, whole_pool
from coresift.server.session.workers import Workers


@dataclass(frozen=True, slots=True)
class Model:
    """A session's head with the names of its columns."""

    live: LiveSession
    state: HeadState
    head: Head

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the head's columns; binary: the positive class."""
        names = self.live.config.classes
        return names[1:] if self.head.task is Task.BINARY else names


@dataclass(frozen=True, slots=True)
class _ClassLogit:
    """Ranks by the logit of one fitted column (multilabel: the order of its probability)."""

    column: int
    needs_head = True

    def score(self, rows: Rows, logits: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        return logits[:, self.column]

    def error(self, logit_error: float, classes: int) -> float:
        return logit_error


@dataclass(frozen=True, slots=True)
class _ClassLogOdds:
    """Ranks by the log-odds of one class under a softmax, which do not saturate."""

    column: int
    needs_head = True

    def score(self, rows: Rows, logits: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        rest = np.delete(logits, self.column, axis=1)
        best = rest.max(axis=1)
        others = best + np.log(np.exp(rest - best[:, None]).sum(axis=1))
        return np.asarray(logits[:, self.column] - others)

    def error(self, logit_error: float, classes: int) -> float:
        return 2 * logit_error


class Modelling:
    """The calls that read a session's model."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    async def model(self, live: LiveSession) -> Model:
        """The head of every label acknowledged before the call. HEAD_NOT_FITTED."""
        state = await live.fitted(time.monotonic())
        return Model(live, state, head_of(state))

    async def probabilities(self, model: Model, vectors: Float32s) -> Float32s:
        """Class probabilities float32 [n, K] of vectors in the pool's form."""
        head = model.head

        def work() -> Float32s:
            return head.probabilities(head.logits(vectors)).astype(np.float32)

        return await self._workers.run(work)

    async def probabilities_of(self, model: Model, rows: Rows) -> Float32s:
        """Class probabilities float32 [n, K] of the pool's rows."""
        pool = model.live.pool
        return await self.probabilities(model, await self._workers.run(lambda: pool.fetch(rows)))

    async def top_of_pool(self, model: Model, column: int, count: int) -> Rows:
        """The ``count`` rows with the largest probability in a column, best first."""
        head, pool = model.head, model.live.pool
        if not head.fitted[column]:
            return np.arange(min(count, pool.manifest.items), dtype=np.int32)  # all are alike
        place = int(head.fitted[:column].sum())
        strategy: Strategy = (
            _ClassLogOdds(place) if head.task is Task.MULTICLASS else _ClassLogit(place)
        )

        def work(stop: Callable[[], bool]) -> Rows:
            blocks = whole_pool(pool, head, stop)
            nothing = np.empty(0, np.int32)
            return top(strategy, head, blocks, pool.fetch, nothing, count, pool.max_norm).rows

        return (await self._workers.run_stoppable(work))[:count]

    async def score_vectors(self, model: Model, vectors: Float32s) -> tuple[Float64s, Float32s]:
        """The strategy's scores float64 [n] and class probabilities float32 [n, K]."""
        head, strategy = model.head, model.state.snapshot.strategy()
        # Vectors outside the pool have no row, and random choice no meaning: nothing is known.
        rows = np.zeros(len(vectors), np.int32)

        def work() -> tuple[Float64s, Float32s]:
            logits = head.logits(vectors)
            if strategy.needs_head:
                scores = strategy.score(rows, logits[:, head.fitted]).astype(np.float64)
            else:
                scores = np.full(len(vectors), np.nan)
            return scores, head.probabilities(logits).astype(np.float32)

        return await self._workers.run(work)

    async def search(self, pool: Pool, query: Float32s | int, count: int) -> tuple[Rows, Float64s]:
        """The nearest rows to a vector [1, d], or to a row (itself left out), nearest first."""
        if not isinstance(query, int):
            wanted = min(count, pool.manifest.items)
            rows, similarity = await self._workers.run(lambda: pool.search(query, wanted))
            return rows[0], similarity[0]
        asked = query
        wanted = min(count + 1, pool.manifest.items)

        def work() -> tuple[Rows, Float64s]:
            vector = pool.fetch(np.array([asked], np.int32))
            rows, similarity = pool.search(vector, wanted)
            others = rows[0] != asked
            return rows[0][others][:count], similarity[0][others][:count]

        return await self._workers.run(work)
