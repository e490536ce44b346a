"""Places of items by id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from coresift.client.convert import StringColumn
from coresift.client.presentations import Int64, places_of


class ItemIndex:
    """Distinct ids and the places 0, 1, ... that they stand at. ValueError for a repeated id."""

    def __init__(self, item_ids: Iterable[str]) -> None:
        self.ids = StringColumn.of(item_ids)
        if len(set(self.ids)) < len(self.ids):
            raise ValueError(f"item_ids must not repeat, got {_first_repeat(self.ids)!r} twice")
        # Whoever names items by their places never needs these objects.
        self._places: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def places(self, items: Any) -> Int64:
        """Places, int64 [n], of items that are given by id or by place. ValueError."""
        if isinstance(items, np.ndarray) and items.dtype.kind in "UO":
            items = items.tolist()
        listed = isinstance(items, Sequence) and not isinstance(items, str)
        if not listed or not len(items) or not isinstance(items[0], str):
            return places_of(items, len(self))
        self._places = self._places or {item_id: n for n, item_id in enumerate(self.ids)}
        try:
            return np.array([self._places[item_id] for item_id in items], np.int64)
        except KeyError as error:
            raise ValueError(f"there is no item {error.args[0]!r}") from None


def _first_repeat(ids: Iterable[str]) -> str:
    seen: set[str] = set()
    for item_id in ids:
        if item_id in seen:
            return item_id
        seen.add(item_id)
    raise ValueError("nothing repeats")
