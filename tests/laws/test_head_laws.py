"""The head is the float64 optimum, whatever the task; scikit-learn at tol 1e-10 is the judge."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import logsumexp, softmax
from sklearn.linear_model import LogisticRegression

from coresift.server.head import Head, HeadConfig, Task, TrainingSet, fit

Float32s = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def unit_rows(generator: np.random.Generator, count: int, dimension: int) -> Float32s:
    rows = generator.standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clustered(
    seed: int, count: int, dimension: int, classes: int
) -> tuple[Float32s, Ints, Float32s]:
    """Training rows with classes that overlap, every class present, and rows to judge on."""
    generator = np.random.default_rng(seed)
    centres = unit_rows(generator, classes, dimension)
    labels = np.concatenate([np.arange(classes), generator.integers(0, classes, count - classes)])
    rows = centres[labels] + 0.8 * unit_rows(generator, count, dimension)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), labels, unit_rows(generator, 500, dimension)


def optimum(X: Float32s, y: Ints, c: float = 100.0, balanced: bool = False) -> LogisticRegression:
    model = LogisticRegression(
        C=c, tol=1e-10, max_iter=50_000, class_weight="balanced" if balanced else None
    )
    return model.fit(X.astype(np.float64), y)


def one_hot(y: Ints, classes: int) -> npt.NDArray[np.float64]:
    return np.eye(classes)[y]


def probabilities(head: Head | None, X: Float32s) -> npt.NDArray[np.float64]:
    assert head is not None
    return head.probabilities(head.logits(X))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("c", [0.1, 100.0, 10_000.0])
def test_binary(seed: int, balanced: bool, c: float) -> None:
    X, y, probe = clustered(seed, 40 + 120 * seed, 32, 2)
    training = TrainingSet(X, (y == 1).astype(float)[:, None], (y == 0).astype(float)[:, None])
    head = fit(Task.BINARY, HeadConfig(c, "balanced" if balanced else "none"), training)
    expected = optimum(X, y, c, balanced).predict_proba(probe.astype(np.float64))[:, 1]
    np.testing.assert_allclose(probabilities(head, probe)[:, 0], expected, atol=1e-4)


def test_binary_separable_and_imbalanced() -> None:
    generator = np.random.default_rng(9)
    X = unit_rows(generator, 300, 64)
    y = (X[:, 0] > np.sort(X[:, 0])[-6]).astype(np.int64)
    training = TrainingSet(X, (y == 1).astype(float)[:, None], (y == 0).astype(float)[:, None])
    head = fit(Task.BINARY, HeadConfig(), training)
    probe = unit_rows(generator, 500, 64)
    expected = optimum(X, y).predict_proba(probe.astype(np.float64))[:, 1]
    np.testing.assert_allclose(probabilities(head, probe)[:, 0], expected, atol=1e-4)


@pytest.mark.parametrize("classes", [3, 10, 150])
@pytest.mark.parametrize("balanced", [False, True])
def test_multiclass(classes: int, balanced: bool) -> None:
    X, y, probe = clustered(classes, 3 * classes + 60, 24, classes)
    training = TrainingSet(X, one_hot(y, classes), np.zeros((len(y), classes)))
    config = HeadConfig(class_weight="balanced" if balanced else "none")
    head = fit(Task.MULTICLASS, config, training)
    expected = optimum(X, y, balanced=balanced).predict_proba(probe.astype(np.float64))
    np.testing.assert_allclose(probabilities(head, probe), expected, atol=1e-4)


def test_multiclass_unseen_classes_have_probability_zero() -> None:
    X, y, probe = clustered(1, 80, 16, 4)
    y[y == 2] = 3
    head = fit(Task.MULTICLASS, HeadConfig(), TrainingSet(X, one_hot(y, 6), np.zeros((80, 6))))
    assert head is not None
    assert head.fitted.tolist() == [True, True, False, True, False, False]
    expected = optimum(X, y).predict_proba(probe.astype(np.float64))
    np.testing.assert_allclose(probabilities(head, probe)[:, [0, 1, 3]], expected, atol=1e-4)
    assert not probabilities(head, probe)[:, [2, 4, 5]].any()


def test_multilabel_with_unknowns() -> None:
    generator = np.random.default_rng(5)
    X, probe = unit_rows(generator, 200, 20), unit_rows(generator, 300, 20)
    truth = X @ unit_rows(generator, 6, 20).T > 0.1
    known = generator.random((200, 6)) < 0.5
    known[:, 4] &= truth[:, 4]  # only positives
    known[:, 5] = False  # nothing
    training = TrainingSet(X, (known & truth).astype(float), (known & ~truth).astype(float))
    head = fit(Task.MULTILABEL, HeadConfig(), training)
    assert head is not None
    assert head.fitted.tolist() == [True] * 4 + [False] * 2
    found = probabilities(head, probe)
    for column in range(4):
        rows = known[:, column]
        judge = optimum(X[rows], truth[rows, column].astype(np.int64))
        expected = judge.predict_proba(probe.astype(np.float64))[:, 1]
        np.testing.assert_allclose(found[:, column], expected, atol=1e-4)
    assert (found[:, 4] == 1).all()
    assert (found[:, 5] == 0.5).all()


def test_split_votes_weigh_as_one_item() -> None:
    X, y, probe = clustered(2, 60, 12, 2)
    present = (y == 1).astype(float)
    present[:10] = 0.5
    training = TrainingSet(X, present[:, None], 1 - present[:, None])
    twice = np.concatenate([X, X[:10]])
    labels = np.concatenate([y, 1 - y[:10]])
    weights = np.concatenate([np.full(10, 0.5), np.ones(50), np.full(10, 0.5)])
    judge = LogisticRegression(C=100, tol=1e-10, max_iter=50_000)
    judge.fit(twice.astype(np.float64), labels, sample_weight=weights)
    expected = judge.predict_proba(probe.astype(np.float64))[:, 1]
    head = fit(Task.BINARY, HeadConfig(), training)
    np.testing.assert_allclose(probabilities(head, probe)[:, 0], expected, atol=1e-4)


@pytest.mark.parametrize("task", list(Task))
def test_undetermined_labels_fit_no_head(task: Task) -> None:
    X = unit_rows(np.random.default_rng(0), 10, 8)
    width = 1 if task is Task.BINARY else 3
    targets = np.zeros((10, width))
    targets[:, 0] = 1
    assert fit(task, HeadConfig(), TrainingSet(X, targets, np.zeros((10, width)))) is None


def test_a_fit_has_the_same_bits_again_and_survives_packing() -> None:
    X, y, probe = clustered(3, 200, 32, 10)
    training = TrainingSet(X, one_hot(y, 10), np.zeros((200, 10)))
    one, two = (fit(Task.MULTICLASS, HeadConfig(), training) for _ in range(2))
    assert one is not None
    assert two is not None
    assert (one.weights == two.weights).all()
    back = Head.unpack(one.pack())
    assert back.task is Task.MULTICLASS
    np.testing.assert_array_equal(back.logits(probe), one.logits(probe))


def test_logits_of_a_row_depend_on_that_row_alone() -> None:
    X, y, probe = clustered(4, 100, 48, 3)
    head = fit(Task.MULTICLASS, HeadConfig(), TrainingSet(X, one_hot(y, 3), np.zeros((100, 3))))
    assert head is not None
    whole = head.logits(probe)
    order = np.random.default_rng(1).permutation(len(probe))
    np.testing.assert_array_equal(head.logits(probe[order]), whole[order])
    np.testing.assert_array_equal(head.logits(probe[7:8]), whole[7:8])


def slow_optimum(X: Float32s, T: Floats, c: float, probe: Float32s) -> Floats:
    """Class probabilities at the optimum of a softmax, by Newton's method on scaled rows."""
    scale = np.linalg.norm(X.astype(np.float64), axis=1).max() or 1.0
    X1, probe1 = (np.column_stack([rows / scale, np.ones(len(rows))]) for rows in (X, probe))
    d, k = X1.shape[1], T.shape[1]
    ridge = np.tile(np.append(np.full(d - 1, scale**-2), 0.0), k)

    def evaluate(theta: Floats) -> tuple[float, Floats, Floats]:
        logits = X1 @ theta.reshape(k, d).T
        loss = (T * (logsumexp(logits, axis=1, keepdims=True) - logits)).sum()
        P = softmax(logits, axis=1)
        gradient = c * ((P - T).T @ X1).ravel() + ridge * theta
        return c * float(loss) + 0.5 * float(ridge @ theta**2), P, gradient

    theta = np.zeros(k * d)
    value, P, gradient = evaluate(theta)
    for _ in range(100):
        curvature = np.einsum("na,ab->nab", P, np.eye(k)) - np.einsum("na,nb->nab", P, P)
        hessian = c * np.einsum("nab,ni,nj->aibj", curvature, X1, X1).reshape(k * d, k * d)
        hessian += np.diag(ridge)
        unit = np.sqrt(np.diag(hessian))
        step = np.linalg.lstsq(hessian / np.outer(unit, unit), gradient / unit)[0] / unit
        for halvings in range(40):
            trial = evaluate(theta - step / 2**halvings)
            flat = abs(trial[0] - value) < 1e-13 * value
            closer = np.linalg.norm(trial[2]) < np.linalg.norm(gradient)
            if trial[0] <= value - 1e-4 * float(gradient @ step) / 2**halvings or (flat and closer):
                break
        else:
            break
        theta = theta - step / 2**halvings
        value, P, gradient = trial
        if np.abs(X1 @ step.reshape(k, d).T).max() < 1e-8:
            break
    return np.asarray(softmax(probe1 @ theta.reshape(k, d).T, axis=1))


def fitted_and_true(
    task: Task, X: Float32s, y: Ints, c: float, probe: Float32s
) -> tuple[Floats, Floats]:
    """Probabilities of the last class by the head and by the slow twin."""
    T = one_hot(y, int(y.max()) + 1)
    if task is Task.BINARY:  # a softmax of two classes shares the ridge among two vectors
        head, c_of_twin = fit(task, HeadConfig(c), TrainingSet(X, T[:, 1:], T[:, :1])), c / 2
    else:
        head, c_of_twin = fit(task, HeadConfig(c), TrainingSet(X, T, np.zeros_like(T))), c
    return probabilities(head, probe)[:, -1], slow_optimum(X, T, c_of_twin, probe)[:, -1]


@pytest.mark.parametrize("task", [Task.BINARY, Task.MULTICLASS])
@pytest.mark.parametrize("norm", [1.0, 30.0, 1_000.0])
@pytest.mark.parametrize("c", [0.01, 100.0, 1e6])
@pytest.mark.parametrize(
    ("noise", "count", "dimension"), [(0.4, 120, 8), (3.0, 120, 8), (3, 40, 20)]
)
def test_rows_of_any_norm(
    task: Task, norm: float, c: float, noise: float, count: int, dimension: int
) -> None:
    """Pools by inner product or distance keep their norms: what is apart, and what overlaps."""
    generator = np.random.default_rng(7)
    classes = 2 if task is Task.BINARY else 3
    y = np.concatenate([np.arange(classes), generator.integers(0, classes, count - classes)])
    rows = generator.standard_normal((classes, dimension))[y]
    rows += noise * generator.standard_normal(rows.shape)
    X = (norm * rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    probe = norm * unit_rows(generator, 400, dimension)
    found, expected = fitted_and_true(task, X, y, c, probe)
    # Reached: 2e-4. Logits of 1e4 and more leave float64 few digits where they cross zero.
    extreme = norm * norm * c > 1e11
    np.testing.assert_allclose(found, expected, atol=2e-2 if extreme else 5e-4)


@pytest.mark.parametrize("task", [Task.BINARY, Task.MULTICLASS])
@pytest.mark.parametrize("norm", [1.0, 1_000.0])
@pytest.mark.parametrize("c", [100.0, 1e6])
@pytest.mark.parametrize("shape", ["one item twice", "a line", "equal items disagree", "zeros"])
def test_rows_that_do_not_span_the_space(task: Task, norm: float, c: float, shape: str) -> None:
    generator = np.random.default_rng(3)
    rows = {
        "one item twice": np.repeat(generator.standard_normal((6, 12)), 5, axis=0),
        "a line": np.outer(np.arange(-15, 15) / 16, generator.choice([-1, 1], 12)),  # exactly
        "equal items disagree": np.repeat(generator.standard_normal((1, 12)), 30, axis=0),
        "zeros": np.zeros((30, 12)),
    }[shape]
    X = (norm * rows).astype(np.float32)
    y = np.arange(30) % (2 if task is Task.BINARY else 3)
    probe = X + np.float32(norm) * 0.1 * unit_rows(generator, 30, 12)
    found, expected = fitted_and_true(task, X, y, c, probe)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, atol=1e-3)
