"""ActiveLab: is a second opinion on a labelled item worth more than the label of a new one?

Goh and Mueller (2023), on the weights of CROWDLAB (Goh, Tkachenko and Mueller, 2022). Each item's
consensus label has a quality: a weighted mean of what the model and each annotator who voted make
of it, and of one annotator more who would guess (1 / K) with the annotators' mean weight. The more
votes, the less that guess counts, so an item with one vote and one with none are on one scale.

    quality(labelled)   = (w_M p_M(y) + sum_j w_j p_j(y) + w 1/K) / (w_M + sum_j w_j + w)
    quality(unlabelled) = (w_M max p_M + w 1/K) / (w_M + w)

with w the mean of the w_j, p_j(y) = P if j voted for y and (1 - P) / (K - 1) else, and P the mean
share of votes for the majority. Errors count relative to A, the error of always naming the most
frequent class: w_j = 1 - (1 - s_j) / A, s_j the share of the other annotators' votes on the same
items that equal j's; w_M = (1 - model error / A) sqrt(mean votes an item). P, A, s_j and the model
error are measured on items with two votes or more. Where no item has two, all weights are 1.

Departures: the score is 1 - quality, for here larger means sooner. A tied majority goes to the
class that the model finds likelier, then to the lower one (the paper's code: then by frequency,
annotators and at random). An annotator who shares no item has the votes' mean s. The temperature
that calibrates the model is minimised exactly, since the loss is convex in its inverse, not on
a grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from coresift.server.arrays import Float64s, Int64s
from coresift.server.estimates.consensus import Votes

LEAST_WEIGHT = 1e-6
"""Weights and A are at least this: no better than chance counts nearly nothing, never less."""
_LEAST_PROBABILITY = 1e-6
_INVERSE_TEMPERATURES = (1 / 8, 10.0)


@dataclass(frozen=True, slots=True)
class SecondOpinions:
    """Scores on one scale, in (0, 1): larger is more worth a label.

    Attributes:
        labelled: float64 [n], of a second opinion.
        unlabelled: float64 [m], of a first one.
    """

    labelled: Float64s
    unlabelled: Float64s


@dataclass(frozen=True, slots=True)
class _Weights:
    """What counts how much.

    Attributes:
        model: w_M.
        annotators: float64 [a], w_j.
        mean: w.
        right: P, the probability that a vote names the majority.
    """

    model: float
    annotators: Float64s
    mean: float
    right: float


def second_opinions(
    probabilities: Float64s, votes: Votes, annotators: int, pool: Float64s
) -> SecondOpinions:
    """Compare second opinions with new items; binary or multiclass.

    Args:
        probabilities: float64 [n, K], K >= 2, of the labelled items, out of fold
            (`second_look.class_probabilities`).
        votes: at least one on each of the n items.
        annotators: how many there are, at least one; each has voted.
        pool: float64 [m, K], of the unlabelled items.
    """
    items, classes = probabilities.shape
    counts = np.zeros((items, classes))
    np.add.at(counts, (votes.items, votes.classes), 1.0)
    several = counts.sum(axis=1) > 1
    majority = np.lexsort(
        (np.broadcast_to(-np.arange(classes), counts.shape), probabilities, counts), axis=1
    )[:, -1]
    if several.any():
        sharpness = _inverse_temperature(probabilities, counts)
        probabilities = _tempered(probabilities, sharpness)
        pool = _tempered(pool, sharpness)
        weights = _weights(probabilities, votes, annotators, counts, majority)
        quality = _posterior(probabilities, votes, weights).max(axis=1)
    else:
        weights = _Weights(1.0, np.ones(annotators), 1.0, 1.0)
        quality = probabilities[np.arange(items), majority]
    support = weights.model + _weight_of_votes(votes, weights, items)
    guess = weights.mean / classes
    labelled = (support * quality + guess) / (support + weights.mean)
    unlabelled = (weights.model * pool.max(axis=1, initial=0) + guess) / (
        weights.model + weights.mean
    )
    return SecondOpinions(1 - labelled, 1 - unlabelled)


def _weights(
    probabilities: Float64s, votes: Votes, annotators: int, counts: Float64s, majority: Int64s
) -> _Weights:
    """CROWDLAB's weights, from items with two votes or more."""
    per_item = counts.sum(axis=1)
    several = per_item > 1
    agreed = majority[several]
    most_frequent = np.bincount(agreed, minlength=counts.shape[1]).argmax()
    baseline = max(float(np.mean(agreed != most_frequent)), LEAST_WEIGHT)
    others = per_item[votes.items] - 1
    equal = counts[votes.items, votes.classes] - 1
    compared = np.bincount(votes.annotators, others, minlength=annotators)
    same = np.bincount(votes.annotators, equal, minlength=annotators)
    mean_share = same.sum() / compared.sum()
    share = np.divide(same, compared, out=np.full(annotators, mean_share), where=compared > 0)
    weights = np.maximum(1 - (1 - share) / baseline, LEAST_WEIGHT)
    model_error = float(np.mean(probabilities[several].argmax(axis=1) != agreed))
    model = max(1 - model_error / baseline, LEAST_WEIGHT) * float(np.sqrt(per_item.mean()))
    right = float(np.mean(counts[several].max(axis=1) / per_item[several]))
    return _Weights(model, weights, float(weights.mean()), right)


def _posterior(probabilities: Float64s, votes: Votes, weights: _Weights) -> Float64s:
    """CROWDLAB's class probabilities [n, K]: model and votes, averaged by their weights."""
    items, classes = probabilities.shape
    wrong = (1 - weights.right) / (classes - 1)
    total = _weight_of_votes(votes, weights, items)[:, None]
    summed = weights.model * probabilities + wrong * total
    voted = weights.annotators[votes.annotators] * (weights.right - wrong)
    np.add.at(summed, (votes.items, votes.classes), voted)
    return np.asarray(summed / (weights.model + total))


def _weight_of_votes(votes: Votes, weights: _Weights, items: int) -> Float64s:
    """Sum of the weights of each item's annotators, float64 [n]."""
    voted = weights.annotators[votes.annotators]
    return np.asarray(np.bincount(votes.items, voted, minlength=items), np.float64)


def _inverse_temperature(probabilities: Float64s, counts: Float64s) -> float:
    """What to multiply log-probabilities by so that they fit the shares of votes best."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    logs = np.log(np.maximum(probabilities, _LEAST_PROBABILITY))

    def cross_entropy(sharpness: float) -> float:
        return -float(np.mean(np.sum(shares * log_softmax(sharpness * logs, axis=1), axis=1)))

    found = minimize_scalar(cross_entropy, bounds=_INVERSE_TEMPERATURES, method="bounded")
    return float(found.x)


def _tempered(probabilities: Float64s, sharpness: float) -> Float64s:
    logs = np.log(np.maximum(probabilities, _LEAST_PROBABILITY))
    return np.asarray(np.exp(log_softmax(sharpness * logs, axis=1)))
