"""Tables by row number that are cheap to copy: copies share the pages that neither has changed."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, MutableMapping, ValuesView
from itertools import chain
from typing import Any, TypeVar, overload

import numpy as np

from coresift.server.arrays import Rows

T = TypeVar("T")
D = TypeVar("D")

PAGE_BITS = 12
"""Of a row: up to 4,096 neighbours lie in one page, whose copy takes about 50 us."""
NO_PAGE: dict[int, Any] = {}


class Pages(MutableMapping[int, T]):
    """A dictionary by row of which a copy takes microseconds, and that never grows in one piece.

    A plain one of a million rows takes 50 to 400 ms to copy, and 50 ms where it has to grow, in
    which no other thread runs (measured). Of a table and its copies each may be changed by one
    thread; those that nobody changes may be read by all.

    The order is by page, pages by their first row to come, then by row as they came.
    """

    __slots__ = ("_count", "_own", "_pages")

    def __init__(self, items: Iterable[tuple[int, T]] = ()) -> None:
        self._pages: dict[int, dict[int, T]] = {}
        self._own: set[int] = set()
        """Pages that no copy shares."""
        self._count = 0
        for row, value in items:
            self[row] = value

    def copy(self) -> Pages[T]:
        """The same table, for other threads, or to go on from."""
        other: Pages[T] = Pages()
        other._pages, other._count = dict(self._pages), self._count
        self._own = set()
        return other

    def rows(self) -> Rows:
        """The rows in their order, int32."""
        pages = [np.fromiter(page, np.int32, len(page)) for page in self._pages.values()]
        return np.concatenate(pages) if pages else np.empty(0, np.int32)

    def among(self, rows: Iterable[int]) -> set[int]:
        """Those of ``rows`` that the table has."""
        pages = self._pages
        return {row for row in rows if row in pages.get(row >> PAGE_BITS, NO_PAGE)}

    def _changing(self, number: int) -> dict[int, T]:
        if number not in self._own:
            self._pages[number] = dict(self._pages.get(number, NO_PAGE))
            self._own.add(number)
        return self._pages[number]

    def __getitem__(self, row: int) -> T:
        return self._pages[row >> PAGE_BITS][row]

    @overload
    def get(self, row: int) -> T | None: ...
    @overload
    def get(self, row: int, default: T | D) -> T | D: ...
    def get(self, row: int, default: Any = None) -> Any:
        """The value of a row, or ``default``."""
        return self._pages.get(row >> PAGE_BITS, NO_PAGE).get(row, default)

    def __setitem__(self, row: int, value: T) -> None:
        page = self._changing(row >> PAGE_BITS)
        before = len(page)
        page[row] = value
        self._count += len(page) - before

    def __delitem__(self, row: int) -> None:
        if row not in self:
            raise KeyError(row)
        number = row >> PAGE_BITS
        page = self._changing(number)
        del page[row]
        self._count -= 1
        if not page:
            del self._pages[number]
            self._own.discard(number)

    def __contains__(self, row: Any) -> bool:
        return row in self._pages.get(row >> PAGE_BITS, NO_PAGE)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(page for page in self._pages.values())

    def items(self) -> ItemsView[int, T]:
        """Rows and their values."""
        return _Items(self)

    def values(self) -> ValuesView[T]:
        """The values."""
        return _Values(self)


class _Items(ItemsView[int, T]):
    def __init__(self, table: Pages[T]) -> None:
        super().__init__(table)
        self._pages = table._pages

    def __iter__(self) -> Iterator[tuple[int, T]]:
        return chain.from_iterable(page.items() for page in self._pages.values())


class _Values(ValuesView[T]):
    def __init__(self, table: Pages[T]) -> None:
        super().__init__(table)
        self._pages = table._pages

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(page.values() for page in self._pages.values())
