"""ActiveLab against the paper's formulas, item by item."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from coresift.server.estimates.activelab import LEAST_WEIGHT, second_opinions
from coresift.server.estimates.consensus import Votes

Floats = npt.NDArray[np.float64]


def campaign(seed: int, items: int, classes: int) -> tuple[Floats, Votes, Floats]:
    """Probabilities of n items, votes of five annotators of falling quality, and a pool."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, classes, items)
    logits = generator.standard_normal((items, classes)) + 2 * np.eye(classes)[truth]
    table = []
    for item in range(items):
        voters = generator.permutation(5)[: generator.integers(1, 5)]
        for annotator in voters:
            wrong = generator.random() < 0.08 * (annotator + 1)
            named = generator.integers(0, classes) if wrong else truth[item]
            table.append((item, annotator, named))
    votes = Votes(*np.array(table, np.int64).T)
    pool = softmax(2 * generator.standard_normal((30, classes)), axis=1)
    return softmax(logits, axis=1), votes, pool


def by_the_book(p: Floats, votes: Votes, pool: Floats) -> tuple[list[float], list[float]]:
    """The paper's 1 - quality of labelled and unlabelled items."""
    n, K = p.shape
    cast: list[dict[int, int]] = [{} for _ in range(n)]
    for i, j, c in zip(votes.items, votes.annotators, votes.classes, strict=True):
        cast[i][int(j)] = int(c)
    shares = np.array([[list(v.values()).count(k) / len(v) for k in range(K)] for v in cast])

    def soft(p: Floats, sharpness: float) -> Floats:
        raised = np.maximum(p, 1e-6) ** sharpness
        return raised / raised.sum(axis=1, keepdims=True)

    sharpness = minimize_scalar(
        lambda t: -np.sum(shares * np.log(soft(p, t))) / n, bounds=(1 / 8, 10), method="bounded"
    ).x
    p, pool = soft(p, sharpness), soft(pool, sharpness)
    majority = [max(range(K), key=lambda k, i=i: (shares[i, k], p[i, k])) for i in range(n)]
    several = [i for i in range(n) if len(cast[i]) > 1]
    agreed = [majority[i] for i in several]
    most = max(range(K), key=agreed.count)
    A = np.mean([label != most for label in agreed])
    weights = []
    for j in range(max(votes.annotators) + 1):
        pairs = [
            cast[i][j] == other
            for i in several
            if j in cast[i]
            for k, other in cast[i].items()
            if k != j
        ]
        weights.append(max(1 - (1 - np.mean(pairs)) / A, LEAST_WEIGHT))
    model_error = np.mean([p[i].argmax() != majority[i] for i in several])
    w_model = max(1 - model_error / A, LEAST_WEIGHT) * np.sqrt(np.mean([len(v) for v in cast]))
    P = np.mean([shares[i, majority[i]] for i in several])
    mean = np.mean(weights)
    labelled = []
    for i in range(n):
        w = [weights[j] for j in cast[i]]
        qualities = []
        for k in range(K):
            given = [P if c == k else (1 - P) / (K - 1) for c in cast[i].values()]
            top = w_model * p[i, k] + sum(a * b for a, b in zip(w, given, strict=True))
            qualities.append((top + mean / K) / (w_model + sum(w) + mean))
        labelled.append(1 - max(qualities))
    unlabelled = [1 - (w_model * row.max() + mean / K) / (w_model + mean) for row in pool]
    return labelled, unlabelled


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_the_papers(seed: int, classes: int) -> None:
    p, votes, pool = campaign(seed, 60, classes)
    found = second_opinions(p, votes, 5, pool)
    labelled, unlabelled = by_the_book(p, votes, pool)
    np.testing.assert_allclose(found.labelled, labelled, atol=1e-6)
    np.testing.assert_allclose(found.unlabelled, unlabelled, atol=1e-6)


def test_single_votes_weigh_as_much_as_the_model() -> None:
    p = np.array([[0.9, 0.1], [0.4, 0.6]])
    votes = Votes(np.array([0, 1]), np.array([0, 1]), np.array([0, 0]))
    found = second_opinions(p, votes, 2, np.array([[0.7, 0.3]]))
    np.testing.assert_allclose(found.labelled, [1 - (1.8 + 0.5) / 3, 1 - (0.8 + 0.5) / 3])
    np.testing.assert_allclose(found.unlabelled, [1 - (0.7 + 0.5) / 2])


def test_disputed_items_come_before_agreed_ones_and_confident_new_ones() -> None:
    p, votes, _ = campaign(9, 80, 3)
    found = second_opinions(p, votes, 5, np.array([[0.98, 0.01, 0.01], [0.34, 0.33, 0.33]]))
    counts = np.zeros((80, 3))
    np.add.at(counts, (votes.items, votes.classes), 1)
    several = counts.sum(axis=1) > 2
    agreed = several & (counts.max(axis=1) == counts.sum(axis=1))
    disputed = several & ~agreed
    assert found.labelled[disputed].mean() > found.labelled[agreed].mean()
    assert found.unlabelled[1] > found.labelled[agreed].max() > 0
    assert found.unlabelled[1] > found.unlabelled[0]


def test_full_agreement_on_one_class_is_finite() -> None:
    p = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    votes = Votes(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 2]), np.array([0, 0, 0, 0, 1]))
    found = second_opinions(p, votes, 3, np.empty((0, 2)))
    support = np.sqrt(5 / 3) + np.array([2, 2, 1])
    np.testing.assert_allclose(found.labelled, 0.5 / (support + 1), atol=1e-4)
    assert found.unlabelled.shape == (0,)


def test_a_tie_goes_to_the_model() -> None:
    p = np.array([[0.2, 0.8], [0.7, 0.3]])
    votes = Votes(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.array([0, 1, 0, 1]))
    labelled, unlabelled = by_the_book(p, votes, p)
    found = second_opinions(p, votes, 2, p)
    np.testing.assert_allclose(found.labelled, labelled, atol=1e-6)
    np.testing.assert_allclose(found.unlabelled, unlabelled, atol=1e-6)
