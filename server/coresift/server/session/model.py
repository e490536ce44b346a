"""Using a session's model: predictions, search, the head itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coresift.server.arrays import Float32s, Float64s, Rows
from coresift.server.head import Head, Task
from coresift.server.pool.pool import Pool
from coresift.server.selection.doubt import column_sum
from coresift.server.selection.leaders import Leaders
from coresift.server.selection.strategy import Errors, Floats, Part
from coresift.server.session.live.live import LiveSession
from coresift.server.session.view.snapshot import HeadState, head_of
from coresift.server.session.work.workers import Workers


@dataclass(frozen=True, slots=True)
class Model:
    """A session's head with the names of its columns."""

    live: LiveSession
    state: HeadState
    head: Head

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the head's columns."""
        return self.state.snapshot.config.head_classes


@dataclass(frozen=True, slots=True)
class ClassScorer:
    """Scores by a formula [n] of logits [n, K']."""

    formula: Callable[[Floats], Floats]
    lipschitz: float
    needs_head: ClassVar[bool] = True
    needs_rows: ClassVar[bool] = False
    projection: ClassVar[None] = None

    def score(self, part: Part) -> Floats:
        return self.formula(part.logits)

    def error(self, errors: Errors) -> float:
        return self.lipschitz * errors.logit


def class_scorer(task: Task, column: int) -> ClassScorer:
    """Ranks by the probability of one fitted column.

    Multilabel and binary: by its logit; multiclass: by the log-odds, which do not saturate.
    """

    def log_odds(logits: Floats) -> Floats:
        rest = np.delete(logits, column, axis=1)
        best = rest.max(axis=1)
        others = best + np.log(column_sum(np.exp(rest - best[:, None])))
        return np.asarray(logits[:, column] - others)

    if task is Task.MULTICLASS:
        return ClassScorer(log_odds, 2.0)
    return ClassScorer(lambda logits: logits[:, column], 1.0)


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
        scorer = class_scorer(head.task, place)
        nothing = np.zeros(pool.manifest.items, np.bool_)
        leaders = Leaders(scorer, head, nothing, count, pool.max_norm)
        await model.live.scans.show(pool, [leaders])
        return (await self._workers.run(lambda: leaders.best(pool.fetch))).rows

    async def search(self, pool: Pool, query: Float32s | int, count: int) -> tuple[Rows, Float64s]:
        """The nearest rows to a vector [1, d], or to a row (itself left out), nearest first."""
        if not isinstance(query, int):
            wanted = min(count, pool.manifest.items)
            rows, similarity = await self._workers.run_stoppable(
                lambda stop: pool.search(query, wanted, stop=stop)
            )
            return rows[0], similarity[0]
        asked = query
        wanted = min(count + 1, pool.manifest.items)

        def work(stop: Callable[[], bool]) -> tuple[Rows, Float64s]:
            vector = pool.fetch(np.array([asked], np.int32))
            rows, similarity = pool.search(vector, wanted, stop=stop)
            others = rows[0] != asked
            return rows[0][others][:count], similarity[0][others][:count]

        return await self._workers.run_stoppable(work)
