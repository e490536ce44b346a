"""What the message of a pool says about its neighbour table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.pools import make_pool

from coresift.server.rpc import encode


@pytest.mark.parametrize(
    ("neighbours", "recall", "told"), [(0, 0.9, 0.0), (5, 1.0, 1.0), (5, 0.9, 0.9)]
)
def test_the_recall_of_the_table_is_told(
    neighbours: int, recall: float, told: float, tmp_path: Path
) -> None:
    X = np.random.default_rng(0).standard_normal((300, 8), np.float32)
    pool = make_pool(tmp_path, X, neighbours=neighbours, neighbours_recall=recall)
    message = encode.pool(pool)
    assert (message.neighbours, message.neighbours_recall) == (neighbours, told)
