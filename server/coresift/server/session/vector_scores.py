"""Scores of vectors outside the pool: what a generator's candidates would be worth.

Generative active learning with the generator outside: whoever makes candidates (a language model,
a diffusion model, a sampler of molecules) sends their embeddings, learns what the session's
strategy would give for each, how new each is, and in which direction its value grows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Bools, Float32s, Float64s, Rows
from coresift.server.errors import invalid
from coresift.server.head import Head
from coresift.server.pool.pool import Pool
from coresift.server.pool.rows import Stop, check
from coresift.server.selection.registry import strategy_of
from coresift.server.selection.scoring import canonical_part
from coresift.server.selection.strategy import Differentiable, Part, Ranker, Scorer
from coresift.server.session.live.live import LiveSession
from coresift.server.session.model import Model
from coresift.server.session.ranking.ranking import Ranking, situation_of
from coresift.server.session.setup.materials import Materials
from coresift.server.session.view.snapshot import HeadState, head_of
from coresift.server.session.work.workers import Workers

BLOCK_NUMBERS = 1 << 22
"""Of labelled items fetched at a time, and of their product with the vectors."""
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class VectorsAsked:
    """A ScoreVectors, checked.

    Attributes:
        vectors: float32 [n, d] in the pool's form.
        norms: float64 [n], of the vectors as they were given.
        best_of: 0: not asked.
    """

    vectors: Float32s
    norms: Float64s
    novelty: bool
    best_of: int
    gradients: bool


@dataclass(frozen=True, slots=True)
class VectorScores:
    """The answer of ScoreVectors; None for what was not asked."""

    model: Model
    scores: Float64s
    probabilities: Float32s
    labelled_similarity: Float64s | None
    pool_similarity: Float64s | None
    in_best: Bools | None
    gradients: Float32s | None


class VectorScoring:
    """ScoreVectors over the replica's live sessions."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    async def score(self, live: LiveSession, asked: VectorsAsked) -> VectorScores:
        """What the session makes of the vectors.

        Raises:
            CoresiftError: HEAD_NOT_FITTED; INVALID_FIELD for gradients of a strategy whose score
                is no function of the vector.
        """
        began = time.monotonic()
        state, ranking = await live.fitted(began), None
        head_of(state)
        if asked.best_of:
            ranking = await live.ranked(began)
            state = ranking.state  # labels may have come since
        model = Model(live, state, head_of(state))
        materials = await live.materials(state.snapshot.config)
        scorer = await self._workers.run(lambda: scorer_of_vectors(materials, state))
        if asked.gradients and not isinstance(scorer, Differentiable):
            name = state.snapshot.config.strategy
            raise invalid(
                "include_gradients", f"means nothing for {name!r}: its score has no gradient"
            )
        # Without scores no depth tells what is among the best, and some orders are dear.
        while ranking is not None and scorer is not None and _short(ranking, asked.best_of):
            ranking = await live.deepened(ranking)

        def work(stop: Stop) -> VectorScores:
            return _score(model, materials.pool, scorer, ranking, asked, stop)

        return await self._workers.run_stoppable(work)


def _short(ranking: Ranking, count: int) -> bool:
    scored = ranking.orders[0].scored
    return len(scored.rows) < count and not scored.complete


def _score(
    model: Model,
    pool: Pool,
    scorer: Scorer | None,
    ranking: Ranking | None,
    asked: VectorsAsked,
    stop: Stop,
) -> VectorScores:
    head, vectors = model.head, asked.vectors
    scores, gradients = np.full(len(vectors), np.nan), None
    if scorer is not None:
        nowhere = np.zeros(len(vectors), np.int32)
        part, _ = canonical_part(scorer, head, nowhere, vectors)
        scores = scorer.score(part).astype(np.float64)
        if asked.gradients and isinstance(scorer, Differentiable):
            gradients = _gradients(scorer, scorer, head, part)
            if pool.manifest.metric == "cosine":
                gradients = _through_norm(gradients, vectors, asked.norms)
            # By a vector of next to no length they exceed float32.
            gradients = gradients.clip(-LARGEST, LARGEST)
    labelled = at_pool = in_best = None
    if asked.novelty:
        at_pool = pool.search(vectors, 1, stop=stop)[1][:, 0]
        labelled = nearest_similarity(pool, vectors, model.state.snapshot.labelled(), stop)
    if ranking is not None:
        in_best = among_best(scores, ranking.orders[0].scored.scores, asked.best_of)
    return VectorScores(
        model,
        scores,
        head.probabilities(head.logits(vectors)).astype(np.float32),
        labelled,
        at_pool,
        in_best,
        None if gradients is None else gradients.astype(np.float32),
    )


def scorer_of_vectors(materials: Materials, state: HeadState) -> Scorer | None:
    """The session's scorer, if its score is a function of the vector."""
    config = state.snapshot.config
    if len(config.mix) > 1:
        return None
    prepared = strategy_of(config.mix[0].strategy).prepare(situation_of(materials, state))
    return None if isinstance(prepared, Ranker) or prepared.needs_rows else prepared


def _gradients(slopes: Differentiable, scorer: Scorer, head: Head, part: Part) -> Float64s:
    """Derivatives of the scores by the vectors, float64 [n, d]."""
    found = slopes.slopes(part)
    gradients = np.zeros((len(part.rows), head.weights.shape[1]))
    if found.logits.shape[1]:
        gradients += found.logits @ head.weights[head.fitted]
    if scorer.projection is not None:
        gradients += found.projected @ scorer.projection.weights
    return gradients


def _through_norm(gradients: Float64s, vectors: Float32s, norms: Float64s) -> Float64s:
    """The same by vectors of these norms, of which ``vectors`` are the unit forms."""
    unit = vectors.astype(np.float64)
    along = np.einsum("ij,ij->i", gradients, unit)
    return np.asarray((gradients - along[:, None] * unit) / norms[:, None])


def nearest_similarity(
    pool: Pool, vectors: Float32s, rows: Rows, stop: Stop | None = None
) -> Float64s:
    """Similarity of each vector to the nearest of ``rows``, float64 [n]; NaN for no rows.

    ``stop`` is asked between blocks and ends the search with `Cancelled`.
    """
    if not len(rows):
        return np.full(len(vectors), np.nan)
    wide = vectors.astype(np.float64)
    best = np.full(len(vectors), -np.inf)
    nearest = np.zeros(len(vectors), np.int32)
    step = max(1, BLOCK_NUMBERS // max(vectors.shape))
    for start in range(0, len(rows), step):
        check(stop)
        some = rows[start : start + step]
        others = pool.fetch(some).astype(np.float64)
        similar = wide @ others.T
        if pool.manifest.metric == "l2":  # float32 would lose distances far from the origin
            similar = 2 * similar - (others**2).sum(axis=1)
        place = similar.argmax(axis=1)
        value = np.take_along_axis(similar, place[:, None], axis=1)[:, 0]
        better = value > best
        best[better], nearest[better] = value[better], some[place[better]]
    return pool.similarities(nearest, vectors, np.arange(len(vectors)))


def among_best(scores: Float64s, ranked: Float64s, count: int) -> Bools:
    """Which vectors would be among the ``count`` best of pool and vectors together, bool [n].

    Args:
        scores: float64 [n]; NaN is never among them.
        ranked: falling scores of the pool's candidates, the first ``count`` at least or all.

    Ties go to the pool, then to the first vector. A copy of a pool item ties where the pool keeps
    float32 rows as they come; normalised again, or kept as float16, its score may differ in the
    last digits.
    """
    order = np.lexsort((np.arange(len(scores)), -scores))
    ahead = np.searchsorted(-ranked, -scores[order], side="right") + np.arange(len(order))
    in_best = np.zeros(len(scores), np.bool_)
    in_best[order] = (ahead < count) & ~np.isnan(scores[order])
    return in_best
