"""Products with float16 rows on tensor cores, and how far off they may be.

Tensor cores multiply float16 by float16 and sum in float32: rows need not be widened first, which
would move five times their bytes. What they are multiplied with is split into float16 parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coresift.server.arrays import Float32s, Int64s
from coresift.server.pool.canonical import Metric
from coresift.server.pool.device_compute import COPY_ROWS, Column, DeviceCompute, download
from coresift.server.pool.segment import Segment

if TYPE_CHECKING:
    import torch

_TOP = 14
"""Vectors are scaled to numbers below 2^14: far from the ends of float16, which reach from its
least step, 2^-24, to 65504."""
_PAIRS = 2**26
"""Numbers of the vectors that get a float32 product pair by pair at a time."""
_SPARSE = 64
"""Float32 products of more than each 64th pair cost more than one product of all."""
_ALIGNED = 8
"""Columns of a product come in multiples: tensor cores take as many at a time."""


@dataclass(frozen=True, slots=True)
class Split:
    """Vectors as sums of float16 vectors.

    Attributes:
        parts: float16 [p * c, d]: the vectors, scaled and rounded, then what is left of them.
        count: c.
        unscale: float32 [c], powers of two.
        lengths: float64 [c], no less than the sum of the lengths of a vector's parts.
        lost: float64 [c], no less than the distance of a vector and the sum of its parts.
    """

    parts: torch.Tensor
    count: int
    unscale: torch.Tensor
    lengths: torch.Tensor
    lost: torch.Tensor

    @classmethod
    def of(cls, vectors: Float32s, parts: int, device: torch.device) -> Split:
        """Split vectors float32 [c, d].

        Each part adds 11 bits: one loses up to 2^-11 of a vector's length, two up to 2^-22, less
        than the sums do. All is scaled by powers of two and measured in float64.
        """
        import torch

        _, exponents = np.frexp(np.abs(vectors).max(axis=1))
        powers = np.ldexp(1.0, np.clip(_TOP - exponents, -100, 100))
        scale = torch.tensor(powers, device=device)
        left = torch.tensor(vectors, device=device).double() * scale[:, None]
        halves, lengths = [], torch.zeros_like(scale)
        for _ in range(parts):
            half = left.half()
            halves.append(half)
            left -= half.double()
            lengths += half.double().norm(dim=1)
        up = (1 + 2.0**-40) / scale
        return cls(
            torch.cat(halves),
            len(vectors),
            (1 / scale).float(),
            lengths * up,
            left.norm(dim=1) * up,
        )

    def error(self, longest: float) -> torch.Tensor:
        """How far products with rows of lengths up to ``longest`` may be off, float64 [c].

        What the split lost, by Cauchy-Schwarz, and the sums. A product of two float16 is exact in
        float32. NVIDIA's tensor cores (Fasi, Higham, Mikaitis and Pranesh, Numerical behavior of
        NVIDIA tensor cores, 2021; later ones keep more bits) add b products, 4 or more, to the sum
        so far at once: all are aligned to the largest and cut, which costs each of the b + 1 and
        the result up to 2^-23 of the sum of absolute values. So d products cost no more than
        (d / b + 1) (b + 2) 2^-23 <= 3 (d + 16) 2^-24 of it; the rest is room for second order and
        for adding the parts. Subnormal float16 numbers are honoured.
        """
        dimension = self.parts.shape[1]
        sums = 3.0 * (dimension + 32) * 2.0**-24
        return longest * (self.lost + sums * self.lengths) + dimension * 2.0**-126

    def columns(self, rows: torch.Tensor) -> torch.Tensor:
        """Products of rows float16 [m, d] with the vectors, float32 [m, c]."""
        import torch

        missing = -len(self.parts) % _ALIGNED
        padded = torch.nn.functional.pad(self.parts, (0, 0, 0, missing))
        return self._lines_of(_multiply(rows, padded.T).T).T

    def lines(self, rows: torch.Tensor) -> torch.Tensor:
        """The same, transposed: float32 [c, m]."""
        return self._lines_of(_multiply(self.parts, rows.T))

    def _lines_of(self, products: torch.Tensor) -> torch.Tensor:
        """The products with the vectors from those with their parts [p * c or more, m]."""
        lines = products[: self.count]
        for start in range(self.count, len(self.parts), self.count):
            lines += products[start : start + self.count]
        lines *= self.unscale[:, None]
        return lines


class TensorCoreCompute(DeviceCompute):
    """The same for float16 rows on a device with tensor cores: their products tell which pairs are
    worth a float32 product, and only these get one."""

    def __init__(self, segment: Segment, metric: Metric, device: torch.device) -> None:
        super().__init__(segment, metric, device)
        is_divided = segment.unit and segment.norms is not None
        self._longest = 1 + 2.0**-20 if is_divided else self._length()

    def column(self, weights: Float32s) -> Column:
        # Two parts take no longer than one: it is the rows that take the time.
        split = Split.of(weights[None, :], 2, self.device)
        return Column(self._upload(weights[:, None]), split, float(split.error(self._longest)[0]))

    def _between(
        self, start: int, stop: int, column: Column, low: float, high: float
    ) -> tuple[Int64s, Float32s]:
        import torch

        if column.split is None:
            return super()._between(start, stop, column, low, high)
        rough = column.split.columns(self._rows[start:stop])[:, 0]
        if self._segment.unit and self._norms is not None:
            rough /= self._norms[start:stop]
        least, most = _down(low - column.error), -_down(-high - column.error)
        [near] = torch.nonzero((rough >= least) & (rough <= most), as_tuple=True)
        if len(near) * _SPARSE > stop - start:
            return super()._between(start, stop, column, low, high)
        near += start
        products = self._products(near, column.weights)[:, 0]
        found = (products >= low) & (products <= high)
        return near[found].cpu().numpy(), download(products[found])

    def _nearest(
        self, start: int, stop: int, queries: Float32s, k: int, floor: Float32s, slack: Float32s
    ) -> tuple[Int64s, Int64s, Float32s]:
        import torch

        exact, lowest = self._upload(queries), self._upload(floor)
        # One part: what it loses lets more pairs through, but a second one would take as long.
        split = Split.of(queries, 1, self.device)
        error = self._error(split, exact)
        rough = self._from_products(split.lines(self._rows[start:stop]), start, stop, exact)
        least = lowest.double() - error
        wanted = rough >= _below(least)[:, None]
        slots = stop - start
        if slots > k and int(wanted.count_nonzero()) > 2 * k * len(queries):
            # k pairs reach the k-th rough value less the error, and one is wanted within the slack
            # of them, which may seem lower by the error again.
            kth = torch.topk(rough, k, dim=1).values[:, -1].double()
            least = torch.maximum(least, kth - self._upload(slack).double() - 2 * error)
            wanted = rough >= _below(least)[:, None]
        query, slot = torch.nonzero(wanted, as_tuple=True)
        if len(query) * _SPARSE > wanted.numel():
            del rough, wanted  # room for the others
            return super()._nearest(start, stop, queries, k, floor, slack)
        slot += start
        values = self._pair_values(slot, exact, query)
        kept = values >= lowest[query]
        return query[kept].cpu().numpy(), slot[kept].cpu().numpy(), download(values[kept])

    def _error(self, split: Split, queries: torch.Tensor) -> torch.Tensor:
        """How far a rough similarity may be from the exact one, float64 [q]."""
        error = split.error(self._longest)
        if self._metric != "l2":
            return error
        # Twice the product's, and the float32 arithmetic with the squares.
        lengths = queries.double().norm(dim=1)
        squares: torch.Tensor = (lengths + self._longest).square()
        return error.mul(2) + squares.mul(2.0**-20)

    def _pair_values(
        self, slots: torch.Tensor, queries: torch.Tensor, numbers: torch.Tensor
    ) -> torch.Tensor:
        """Float32 similarities of the pairs (slots[i], queries[numbers[i]]), [n]."""
        import torch

        values = torch.empty(len(slots), dtype=torch.float32, device=self.device)
        step = max(1, _PAIRS // queries.shape[1])
        for start in range(0, len(slots), step):
            part = slice(start, start + step)
            x, q = self._rows[slots[part]].float(), queries[numbers[part]]
            values[part] = -((x - q) ** 2).sum(dim=1) if self._metric == "l2" else (x * q).sum(1)
        if self._segment.unit and self._norms is not None:
            values /= self._norms[slots]
        return values

    def _length(self) -> float:
        """No less than the length of any row."""
        blocks = range(0, len(self._rows), COPY_ROWS)
        lengths = [self._rows[start : start + COPY_ROWS].float().norm(dim=1) for start in blocks]
        longest = max((float(some.max()) for some in lengths), default=0.0)
        factor: float = 1 + (self._rows.shape[1] + 2) * 2.0**-23
        return longest * factor


def _multiply(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The float32 product of float16 matrices. Elsewhere than on CUDA torch has none."""
    import torch

    if one.is_cuda:
        return torch.mm(one, other, out_dtype=torch.float32)
    return one.float() @ other.float()


def _down(value: float) -> float:
    """The next float32 below."""
    return float(np.nextafter(np.float32(value), np.float32(-np.inf)))


def _below(values: torch.Tensor) -> torch.Tensor:
    """The next float32 below float64 values."""
    import torch

    low: torch.Tensor = torch.nextafter(
        values.float(), torch.tensor(-torch.inf, device=values.device)
    )
    return low
