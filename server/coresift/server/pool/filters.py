"""Filters: which rows of a pool satisfy a condition on their metadata.

Metadata is text. A comparison with a string compares text, by Unicode code points. A comparison
with a number compares numbers: a value that is written as a decimal number (``3``, ``-0.5``,
``1e5``) counts as the nearest float64, any other value as missing.

Every comparison is true or false, never unknown: where the value is missing it is false, ``!=``
and ``not in`` included. ``not`` turns that into true. So ``camera != 3`` holds for rows whose
camera is another number, ``not camera == 3`` also for rows that have no camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from coresift.server.arrays import Bools, Float64s
from coresift.server.pool.strings import to_numpy

DECIMAL = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
"""What is a number, in columns and in filters alike."""

SIGNS = {
    "==": "equal",
    "!=": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}
"""Comparisons, and what both NumPy and Arrow call them."""


class Batch:
    """Some rows of the metadata table, as text and as numbers."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch
        self._numbers: dict[str, Float64s] = {}

    def __len__(self) -> int:
        return self._batch.num_rows

    def texts(self, column: str) -> pa.Array[Any]:
        """large_string [n], with nulls."""
        return self._batch.column(column)

    def numbers(self, column: str) -> Float64s:
        """float64 [n]: NaN where the value is no number."""
        if column not in self._numbers:
            texts = self.texts(column)
            decimal = pc.match_substring_regex(texts, f"^(?:{DECIMAL})$")
            numbers: Any = pc.if_else(decimal, texts, pa.scalar(None, pa.large_string()))
            self._numbers[column] = to_numpy(numbers.cast(pa.float64()))
        return self._numbers[column]


class Filter(Protocol):
    """A condition on a row's metadata."""

    def holds(self, batch: Batch) -> Bools:
        """bool [n]: whether each row of ``batch`` satisfies it."""
        ...


@dataclass(frozen=True, slots=True)
class Compare:
    """``column sign value``: with a number as numbers, with a string as text."""

    column: str
    sign: str
    value: str | float

    def holds(self, batch: Batch) -> Bools:
        if isinstance(self.value, str):
            value = pa.scalar(self.value, pa.large_string())
            return _mask(pc.call_function(SIGNS[self.sign], [batch.texts(self.column), value]))
        numbers = batch.numbers(self.column)
        compared: Bools = getattr(np, SIGNS[self.sign])(numbers, self.value)
        return compared & ~np.isnan(numbers)


@dataclass(frozen=True, slots=True)
class OneOf:
    """``column in (...)``: equal to one of them; ``not in``: different from each of them.

    With numbers among the values, ``not in`` is false for a value that is no number.
    """

    column: str
    texts: tuple[str, ...]
    numbers: tuple[float, ...]
    negated: bool

    def holds(self, batch: Batch) -> Bools:
        found = np.zeros(len(batch), np.bool_)
        comparable = np.ones(len(batch), np.bool_)
        if self.texts:
            texts = batch.texts(self.column)
            wanted = pa.array(self.texts, pa.large_string())
            found |= _mask(pc.is_in(texts, value_set=wanted))
            comparable &= _mask(pc.is_valid(texts))
        if self.numbers:
            numbers = batch.numbers(self.column)
            found |= np.isin(numbers, self.numbers)
            comparable &= ~np.isnan(numbers)
        return comparable & ~found if self.negated else found


@dataclass(frozen=True, slots=True)
class IsNull:
    """``is_null(column)``: the row has no value there."""

    column: str

    def holds(self, batch: Batch) -> Bools:
        return _mask(pc.is_null(batch.texts(self.column)))


@dataclass(frozen=True, slots=True)
class Not:
    """``not part``."""

    part: Filter

    def holds(self, batch: Batch) -> Bools:
        return ~self.part.holds(batch)


@dataclass(frozen=True, slots=True)
class AllOf:
    """``part and part and ...``."""

    parts: tuple[Filter, ...]

    def holds(self, batch: Batch) -> Bools:
        held = [part.holds(batch) for part in self.parts]
        return np.asarray(np.logical_and.reduce(held))


@dataclass(frozen=True, slots=True)
class AnyOf:
    """``part or part or ...``."""

    parts: tuple[Filter, ...]

    def holds(self, batch: Batch) -> Bools:
        held = [part.holds(batch) for part in self.parts]
        return np.asarray(np.logical_or.reduce(held))


def rows_where(table: pa.Table, condition: Filter) -> Bools:
    """Whether each row of the metadata table satisfies the condition, bool [N].

    Works batch by batch, so that memory beyond the result does not grow with the pool.
    """
    result = np.empty(table.num_rows, np.bool_)
    start = 0
    for batch in table.to_batches():
        end = start + batch.num_rows
        result[start:end] = condition.holds(Batch(batch))
        start = end
    return result


def _mask(compared: Any) -> Bools:
    return to_numpy(compared.fill_null(False))
