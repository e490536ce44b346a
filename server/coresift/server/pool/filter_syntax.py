r"""The language of filters: text in, `Filter` out.

    split == "train" and (camera in (3, 4) or not is_null(`sensor id`))

=========== ==============================================================================
comparison  ``column == literal``; also ``!=``, ``<``, ``<=``, ``>``, ``>=``
list        ``column in (literal, ...)``, ``column not in (literal, ...)``
missing     ``is_null(column)``
joined      ``not``, ``and``, ``or``, from the strongest to the weakest; parentheses
column      a plain name, or any name in backticks, where two backticks stand for one
literal     a decimal number, or a string in single or double quotes; in a string a
            backslash stands only before a quote or a backslash, which it makes literal
=========== ==============================================================================

A parser of its own, for text of strangers that is stored with sessions: Python's would change
with Python, join strings that lack a comma, and refuse columns called ``class``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coresift.server.errors import CoresiftError, invalid
from coresift.server.pool.filters import (
    DECIMAL,
    SIGNS,
    AllOf,
    AnyOf,
    Compare,
    Filter,
    IsNull,
    Not,
    OneOf,
)

MAX_CHARACTERS = 2_000
MAX_DEPTH = 50
"""Parentheses and ``not`` within each other."""

_SHOWN_COLUMNS = 50
_SHOWN_CHARACTERS = 30

_TOKEN = re.compile(
    rf"""
    (?P<number> {DECIMAL} (?![\w.]) )
  | (?P<string> "(?:[^"\\]|\\["'\\])*" | '(?:[^'\\]|\\["'\\])*' )
  | (?P<quoted> `(?:[^`]|``)+` )
  | (?P<name>   [^\W\d]\w* )
  | (?P<sign>   == | != | <= | >= | < | > | [(),] )
  | (?P<other>  \S )
    """,
    re.VERBOSE,
)
_WORDS = frozenset({"and", "or", "not", "in", "is_null"})


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    place: int


def parse_filter(expression: str, columns: Sequence[str], field: str) -> Filter:
    """What ``expression`` says about the metadata columns called ``columns``.

    Raises:
        CoresiftError: INVALID_FIELD of ``field`` for more than 2,000 characters, more than 50
            levels, anything outside the language, and unknown columns; the message says at
            which character.
    """
    if len(expression) > MAX_CHARACTERS:
        raise invalid(field, f"must have at most 2,000 characters, got {len(expression):,}")
    return _Parser(expression, columns, field).whole()


class _Parser:
    """Recursive descent, one method a rule."""

    def __init__(self, expression: str, columns: Sequence[str], field: str) -> None:
        self._expression = expression
        self._columns = columns
        self._field = field
        self._tokens = [
            _Token(found.lastgroup or "", found[0], found.start())
            for found in _TOKEN.finditer(expression)
        ]
        self._tokens.append(_Token("end", "", len(expression)))
        self._next = 0

    def whole(self) -> Filter:
        condition = self._either(0)
        if self._token.kind != "end":
            raise self._expected("'and', 'or' or the end")
        return condition

    def _either(self, depth: int) -> Filter:
        return self._joined("or", lambda: self._both(depth), AnyOf)

    def _both(self, depth: int) -> Filter:
        return self._joined("and", lambda: self._term(depth), AllOf)

    def _joined(
        self,
        word: str,
        part: Callable[[], Filter],
        join: Callable[[tuple[Filter, ...]], Filter],
    ) -> Filter:
        parts = [part()]
        while self._take(word):
            parts.append(part())
        return join(tuple(parts)) if len(parts) > 1 else parts[0]

    def _term(self, depth: int) -> Filter:
        if depth > MAX_DEPTH:
            raise self._wrong(f"is nested deeper than {MAX_DEPTH} levels")
        if self._take("not"):
            return Not(self._term(depth + 1))
        if self._take("("):
            inner = self._either(depth + 1)
            self._require(")")
            return inner
        if self._take("is_null"):
            self._require("(")
            column = self._column()
            self._require(")")
            return IsNull(column)
        return self._comparison()

    def _comparison(self) -> Filter:
        column = self._column()
        for sign in SIGNS:
            if self._take(sign):
                return Compare(column, sign, self._literal())
        negated = self._take("not")
        if not self._take("in"):
            raise self._expected("'in'" if negated else f"{', '.join(SIGNS)}, 'in' or 'not in'")
        values = self._list()
        return OneOf(
            column,
            tuple(value for value in values if isinstance(value, str)),
            tuple(value for value in values if not isinstance(value, str)),
            negated,
        )

    def _list(self) -> list[str | float]:
        self._require("(")
        values = [self._literal()]
        while self._take(",") and self._token.text != ")":
            values.append(self._literal())
        self._require(")")
        return values

    def _column(self) -> str:
        token = self._token
        if token.kind == "quoted":
            name = token.text[1:-1].replace("``", "`")
        elif token.kind == "name" and token.text not in _WORDS:
            name = token.text
        else:
            raise self._expected("a column")
        if name not in self._columns:
            there = listed([_spelling(name) for name in self._columns])
            raise self._wrong("names an unknown column", f"; the pool has {there}")
        self._next += 1
        return name

    def _literal(self) -> str | float:
        token = self._token
        if token.kind == "string":
            self._next += 1
            return re.sub(r"\\(.)", r"\1", token.text[1:-1])
        if token.kind != "number":
            raise self._expected("a number or a string in quotes")
        value = float(token.text)
        if not math.isfinite(value):
            raise self._wrong("holds a number beyond float64")
        self._next += 1
        return value

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, text: str) -> bool:
        taken = self._token.text == text
        self._next += taken
        return taken

    def _require(self, text: str) -> None:
        if not self._take(text):
            raise self._expected(f"'{text}'")

    def _expected(self, what: str) -> CoresiftError:
        if self._token.text in {'"', "'", "`"}:
            return self._wrong(
                "opens a quote that never closes",
                "; a backslash stands only before a quote or a backslash",
            )
        return self._wrong(f"is malformed: expected {what}")

    def _wrong(self, what: str, more: str = "") -> CoresiftError:
        place = self._token.place
        rest = self._expression[place : place + _SHOWN_CHARACTERS]
        where = f"at character {place + 1}, {rest!r}" if rest else "at the end"
        return invalid(self._field, f"{what} ({where}){more}")


def listed(names: Sequence[str]) -> str:
    """Column names for a message: the first 50, and how many more."""
    more = len(names) - _SHOWN_COLUMNS
    return ", ".join([*names[:_SHOWN_COLUMNS], *([f"{more} more"] if more > 0 else [])])


def _spelling(column: str) -> str:
    plain = re.fullmatch(r"[^\W\d]\w*", column) and column not in _WORDS
    return column if plain else "`" + column.replace("`", "``") + "`"
