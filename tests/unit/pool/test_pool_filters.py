from __future__ import annotations

import operator
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fixtures.pools import extend_pool, make_pool, write_inputs

from coresift.server.errors import CoresiftError, Reason
from coresift.server.pool.builder import BuildOptions, build_pool
from coresift.server.pool.filter_syntax import MAX_CHARACTERS, MAX_DEPTH, parse_filter
from coresift.server.pool.filters import rows_where
from coresift.server.pool.input_files import InputFiles
from coresift.server.pool.pool import Pool

COLUMNS = {
    "split": ["train", "train", "test", None, "train", 'Ünï "q" \\'],
    "camera": ["3", "3.0", "3", "3", None, "three"],
    "date": ["2024-01-01", "2024-02-01", "2023-12-31", "2024-01-01", "", None],
    "weird `name`": ["a", None, "b", "a", "a", "b"],
    "class": ["1", "-2", "1e1", ".5", "nan", "inf"],
}


def table_of(columns: dict[str, list[str | None]], chunk: int = 65_536) -> pa.Table:
    whole = pa.table({name: pa.array(texts, pa.large_string()) for name, texts in columns.items()})
    return pa.Table.from_batches(whole.to_batches(max_chunksize=chunk))


TABLE = table_of(COLUMNS)


def where(expression: str, table: pa.Table = TABLE) -> list[int]:
    condition = parse_filter(expression, table.column_names, "filter")
    return np.flatnonzero(rows_where(table, condition)).tolist()


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ('split == "train"', [0, 1, 4]),
        ("split == 'train' and camera == 3", [0, 1]),
        ('camera == "3"', [0, 2, 3]),
        ("camera != 3", []),
        ('camera != "3"', [1, 5]),
        ("not camera == 3", [4, 5]),
        ("not camera != 3", [0, 1, 2, 3, 4, 5]),
        ("is_null(camera)", [4]),
        ("not is_null ( `camera` )", [0, 1, 2, 3, 5]),
        ("camera in (3, 4)", [0, 1, 2, 3]),
        ('camera in (3, "three",)', [0, 1, 2, 3, 5]),
        ('camera not in ("3")', [1, 5]),
        ('camera not in (4, "3")', [1]),
        ("camera not in (3)", []),
        ('date >= "2024-01-01" and date < "2024-02-01"', [0, 3]),
        ('date == ""', [4]),
        ('`weird ``name``` == "b" or split == "test"', [2, 5]),
        (r'split == "Ünï \"q\" \\"', [5]),
        (r"split == 'Ünï " + '"q"' + r" \\'", [5]),
        ("class == 1", [0]),
        ("class < 1", [1, 3]),
        ("class >= -2.", [0, 1, 2, 3]),
        ("class in (10, +.5, -2e0)", [1, 2, 3]),
        ('class == "nan"', [4]),
        ('split == "test" or split == "train" and camera == 3', [0, 1, 2]),
        ('(split == "test" or split == "train") and camera == 3', [0, 1, 2]),
        ('not split == "test" and camera == 3', [0, 1, 3]),
        ('not (split == "test" and camera == 3)', [0, 1, 3, 4, 5]),
        ('not not\n\t split=="test"', [2]),
    ],
)
def test_what_a_filter_means(expression: str, rows: list[int]) -> None:
    assert where(expression) == rows


@pytest.mark.parametrize(
    ("text", "number"),
    [("+1", 1), ("1.", 1), ("-.5", -0.5), ("1E+2", 100), ("-0", 0), ("007", 7), ("1e-400", 0)],
)
def test_decimals_are_numbers(text: str, number: float) -> None:
    table = table_of({"x": [text, "abc", None]})
    assert where(f"x == {number}", table) == [0]
    assert where(f"x in ({number}, 77)", table) == [0]


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "1\n", ".", "1e", "e5", "inf", "nan", "0x10", "1_0", "１", "--1", "1\x00"],
)
def test_other_text_is_no_number(text: str) -> None:
    table = table_of({"x": [text, "1"]})
    for sign in ("==", "!=", "<", "<=", ">", ">="):
        assert 0 not in where(f"x {sign} 0", table)
        assert 0 not in where(f"x {sign} 1", table)
    assert where("x not in (5)", table) == [1]


def test_numbers_beyond_float64_are_larger_than_all() -> None:
    table = table_of({"x": ["1e400", "-1e400", "1"]})
    assert where("x > 1e308", table) == [0]
    assert where("x < -1e308", table) == [1]


MALFORMED = {
    "": "is malformed: expected a column (at the end)",
    "   ": "expected a column (at the end)",
    "split": "expected ==, !=, <, <=, >, >=, 'in' or 'not in' (at the end)",
    "split ==": "expected a number or a string in quotes (at the end)",
    "split = 'train'": "expected ==, !=, <, <=, >, >=, 'in' or 'not in' (at character 7, \"= 'tr",
    "split == train": "expected a number or a string in quotes (at character 10, 'train')",
    "split == camera": "expected a number or a string in quotes (at character 10, 'camera')",
    "split == 'train": "opens a quote that never closes (at character 10,",
    'split == "tr\\d"': "opens a quote that never closes (at character 10,",
    "`split == 3": "opens a quote that never closes (at character 1,",
    "split == 'a' 'b'": "expected 'and', 'or' or the end (at character 14,",
    "split in ('a' 'b')": "expected ')' (at character 15,",
    "split in 'a'": "expected '(' (at character 10,",
    "split in ()": "expected a number or a string in quotes (at character 11, ')')",
    "split in ('a'": "expected ')' (at the end)",
    "split not 'a'": "expected 'in' (at character 11,",
    "3 == camera": "expected a column (at character 1, '3 == camera')",
    "1 < camera < 3": "expected a column (at character 1,",
    "camera < 3 < 4": "expected 'and', 'or' or the end (at character 12, '< 4')",
    "camera == 3and split == 'a'": '(at character 11, "3and split',
    "camera == 0x10": "(at character 11, '0x10')",
    "camera == 1_000": "(at character 11, '1_000')",
    "camera == 3j": "(at character 11, '3j')",
    "camera == - 3": "(at character 11, '- 3')",
    "camera == 1e999": "holds a number beyond float64 (at character 11, '1e999')",
    "camera == None": "expected a number or a string in quotes (at character 11, 'None')",
    "camera == True": "expected a number or a string in quotes (at character 11, 'True')",
    "camera is None": "'in' or 'not in' (at character 8, 'is None')",
    "camera == 3 AND split == 'a'": "expected 'and', 'or' or the end (at character 13,",
    "camera == 3 && split == 'a'": "expected 'and', 'or' or the end (at character 13,",
    "camera == 3 # all": "expected 'and', 'or' or the end (at character 13, '# all')",
    "camera == 3 or": "expected a column (at the end)",
    "(camera == 3": "expected ')' (at the end)",
    "camera == 3)": "expected 'and', 'or' or the end (at character 12, ')')",
    "is_null camera": "expected '(' (at character 9, 'camera')",
    "is_null(3)": "expected a column (at character 9, '3)')",
    "and == 3": "expected a column (at character 1, 'and == 3')",
    "cam == 3": "names an unknown column (at character 1, 'cam == 3'); the pool has split, camera, "
    "date, `weird ``name```, class",
    "Split == 'a'": "names an unknown column (at character 1,",
    # What Python would run.
    "__import__('os').system('true')": "unknown column (at character 1, \"__import__('os')",
    "camera.__class__ == 3": "(at character 7, '.__class__ == 3')",
    "camera == __import__('os')": "(at character 11, \"__import__('os')\")",
    "camera['a'] == 3": "(at character 7, \"['a'] == 3\")",
    "len(camera) == 3": "unknown column (at character 1, 'len(camera) == 3')",
    "lambda x: x": "unknown column (at character 1, 'lambda x: x')",
    "[c for c in camera]": "(at character 1, '[c for c in camera]')",
    "camera in (c for c in camera)": "(at character 12, 'c for c in camera)')",
    "(camera := 3) == 3": "(at character 9, ':= 3) == 3')",
    "split == f'{camera}'": "(at character 10, \"f'{camera}'\")",
    "split == b'a'": "(at character 10, \"b'a'\")",
    "split == r'a'": "(at character 10, \"r'a'\")",
    "camera == 10**10**10": "expected 'and', 'or' or the end (at character 13, '**10**10')",
    "camera == 1 if camera else 2": "(at character 13, 'if camera else 2')",
    "camera == 3; split": "(at character 12, '; split')",
    "camera == 3\x00": "(at character 12, '\\x00')",
    "*camera == 3": "(at character 1, '*camera == 3')",
    "{'a': 1}": "(at character 1, \"{'a': 1}\")",
    "await camera": "unknown column (at character 1,",
}


@pytest.mark.parametrize("expression", MALFORMED)
def test_malformed_filters_say_where(expression: str) -> None:
    with pytest.raises(CoresiftError) as caught:
        parse_filter(expression, TABLE.column_names, "candidates.filter")
    assert caught.value.reason is Reason.INVALID_FIELD
    assert caught.value.field == "candidates.filter"
    assert caught.value.message.startswith("candidates.filter ")
    assert MALFORMED[expression] in caught.value.message


def refused(expression: str, words: str) -> None:
    with pytest.raises(CoresiftError, match=re.escape(words)):
        parse_filter(expression, TABLE.column_names, "filter")


@pytest.mark.parametrize(
    ("before", "after"), [("(", ")"), ("not ", ""), ("not (", ")"), ("((not(", ")))")]
)
def test_depth_is_limited(before: str, after: str) -> None:
    most = MAX_DEPTH // (before.count("(") + before.count("not"))
    assert where(before * most + "camera == 3" + after * most)
    most += 1
    refused(before * most + "camera == 3" + after * most, "is nested deeper than 50 levels (at")
    refused(before * (MAX_CHARACTERS // len(before)), "is nested deeper than 50 levels (at")


def test_length_is_limited_but_not_the_number_of_parts() -> None:
    parts = " or ".join(["class==1"] * 166)
    assert where(parts + " " * (MAX_CHARACTERS - len(parts))) == [0]
    refused(parts + " " * (MAX_CHARACTERS - len(parts) + 1), "at most 2,000 characters, got 2,001")
    refused("(" * 10_000_000, "at most 2,000 characters, got 10,000,000")


def test_long_lists_of_columns_are_cut_short() -> None:
    with pytest.raises(CoresiftError, match=r"c49, 7 more$"):
        parse_filter("x == 3", [f"c{i}" for i in range(57)], "filter")


WORDS = ["camera", "split", "==", "<", "in", "not", "and", "or", "(", ")", ",", "3", "'a'"]


@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS)).map(" ".join)))
def test_any_text_is_a_filter_or_a_clear_refusal(text: str) -> None:
    try:
        found = where(text)
    except CoresiftError as refusal:
        found = refusal.reason
    assert found is Reason.INVALID_FIELD or set(found) <= set(range(6))


# The slow twin: trees of tuples, one row at a time.

VALUES = ["a", "b", "B", "ä", "z'\"\\", "", "1", "1.0", "-2", "2e0", "10", "nan", " 1"]
NAMES = ["x", "y", "odd ` name", "not"]
SIGNS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

names = st.sampled_from(NAMES)
literals = st.one_of(
    st.sampled_from(VALUES),
    st.sampled_from([1.0, -2.0, 2.0, 10.0, 0.5, -0.0]),
)
comparisons = st.one_of(
    st.tuples(st.just("compare"), names, st.sampled_from(list(SIGNS)), literals),
    st.tuples(st.sampled_from(["in", "not in"]), names, st.lists(literals, min_size=1, max_size=4)),
    st.tuples(st.just("is_null"), names),
)
trees = st.recursive(
    comparisons,
    lambda part: st.one_of(
        st.tuples(st.just("not"), part),
        st.tuples(st.sampled_from(["and", "or"]), st.lists(part, min_size=2, max_size=3)),
    ),
    max_leaves=8,
)
tables = st.lists(
    st.fixed_dictionaries({name: st.none() | st.sampled_from(VALUES) for name in NAMES}),
    min_size=1,
    max_size=12,
)


def written(tree: tuple) -> str:
    match tree:
        case ("compare", name, sign, value):
            return f"{column(name)} {sign} {literal(value)}"
        case ("in" | "not in" as word, name, values):
            return f"{column(name)} {word} ({', '.join(map(literal, values))})"
        case ("is_null", name):
            return f"is_null({column(name)})"
        case ("not", part):
            return f"not ({written(part)})"
        case (word, parts):
            return f" {word} ".join(f"({written(part)})" for part in parts)
    raise AssertionError(tree)


def column(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def literal(value: str | float) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


def compared(sign: str, text: str | None, value: str | float) -> bool:
    if text is None:
        return False
    if isinstance(value, str):
        return SIGNS[sign](text, value)
    return text in {"1", "1.0", "-2", "2e0", "10"} and SIGNS[sign](float(text), value)


def holds(tree: tuple, row: dict[str, str | None]) -> bool:
    match tree:
        case ("compare", name, sign, value):
            held = compared(sign, row[name], value)
        case ("in", name, values):
            held = any(compared("==", row[name], value) for value in values)
        case ("not in", name, values):
            held = all(compared("!=", row[name], value) for value in values)
        case ("is_null", name):
            held = row[name] is None
        case ("not", part):
            held = not holds(part, row)
        case (word, parts):
            held = {"and": all, "or": any}[word]([holds(part, row) for part in parts])
    return held


@given(trees, tables, st.integers(1, 13))
def test_equals_the_twin_in_any_blocking(
    tree: tuple, rows: list[dict[str, str | None]], chunk: int
) -> None:
    table = table_of({name: [row[name] for row in rows] for name in NAMES}, chunk)
    expected = [i for i, row in enumerate(rows) if holds(tree, row)]
    assert where(written(tree), table) == expected


# On pools.


def pool_with(folder: Path, table: pa.Table) -> Pool:
    X = np.random.default_rng(0).standard_normal((len(table), 3)).astype(np.float32)
    files = write_inputs(folder, X)
    ids = [f"item-{row}" for row in range(len(X))]
    pq.write_table(table.append_column("id", pa.array(ids)), folder / "meta.parquet")
    inputs = InputFiles(files.embeddings, files.ids, folder / "meta.parquet")
    build_pool(BuildOptions(inputs, folder / "pool"))
    return Pool.open(folder / "pool")


def test_a_pool_is_filtered_and_its_new_rows_too(tmp_path: Path) -> None:
    kinds = pa.table({"camera": pa.array([1, 2, None, 3]), "ok": [True, False, True, None]})
    pool = pool_with(tmp_path, kinds)
    found = pool.where("camera >= 2 or ok == 'true'")
    assert found.dtype == np.bool_
    assert found.tolist() == [True, True, True, True]
    assert pool.where("camera >= 2").tolist() == [False, True, False, True]
    newer = extend_pool(tmp_path, np.eye(3, dtype=np.float32), ["a", "b", "c"])
    assert newer.where("camera >= 2").tolist() == [False, True, False, True, False, False, False]
    assert newer.where("is_null(camera)").tolist() == [False, False, True, False, True, True, True]


def test_refusals_of_a_pool(tmp_path: Path) -> None:
    pool = pool_with(tmp_path, pa.table({"camera": [1, 2, 3]}))
    with pytest.raises(CoresiftError, match="matches none of the pool's 3 items") as empty:
        pool.where("camera == 4")
    assert (empty.value.reason, empty.value.field) == (Reason.INVALID_FIELD, "filter")
    with pytest.raises(CoresiftError, match="the pool has camera") as unknown:
        pool.where("cam == 4", field="config.candidates.filter")
    assert unknown.value.field == "config.candidates.filter"
    bare = make_pool(tmp_path / "bare", np.eye(3, dtype=np.float32))
    with pytest.raises(CoresiftError, match="filter needs metadata, and pool "):
        bare.where("camera == 4")
