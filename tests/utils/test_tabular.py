"""Means and tables: what has no value counts nowhere; no cell can break out of its table."""

import csv
import io
import math
import re

from hypothesis import given
from hypothesis import strategies as st

from restore.utils.nested import leaves
from restore.utils.tabular import comma_separated, markdown, mean, number

FINITE = st.floats(-1e6, 1e6)
CELLS = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=8)


@given(st.lists(FINITE, min_size=1), st.integers(0, 3))
def test_a_mean_is_over_the_values_that_there_are(values: list[float], missing: int):
    expected = sum(values) / len(values)
    result = mean([*values, *[math.nan] * missing])
    assert math.isclose(result, expected, rel_tol=1e-9, abs_tol=1e-6)
    assert math.isnan(mean([math.nan] * missing))


def test_numbers_as_text():
    assert number(30.123456) == "30.1235"
    assert number(0.5, 2, signed=True) == "+0.50"
    assert number(-0.5, 0) == "-0"
    assert number(math.nan, 2, signed=True) == "–"
    assert number(math.inf) == "inf"


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=4), st.booleans())
def test_every_row_of_markdown_has_the_columns_of_its_head(rows, to_the_right):
    text = markdown(["a", "b|c", "<d>"], rows, to_the_right)
    head, rule, *lines = text.removesuffix("\n").split("\n")
    assert rule == ("|---|---:|---:|" if to_the_right else "|---|---|---|")
    assert len(lines) == len(rows)
    for line, cells in zip([head, *lines], [("a", "b|c", "<d>"), *rows]):
        inner = re.split(r"(?<!\\)\|", line)[1:-1]
        if not any(cell.endswith("\\") or "\\|" in cell for cell in cells):
            assert [cell[1:-1].replace(r"\|", "|").replace(r"\<", "<") for cell in inner] == [
                cell.replace(r"\<", "<") for cell in cells
            ]
        assert not re.search(r"(?<!\\)<[a-zA-Z/!?]", line)


def test_csv_reads_back_with_empty_cells_for_what_has_no_value():
    text = comma_separated(["key", "psnr"], [["a, b", 1.5], ['"c"', math.nan]])
    rows = list(csv.reader(io.StringIO(text)))
    assert rows == [["key", "psnr"], ["a, b", "1.5"], ['"c"', ""]]


def test_every_value_of_a_tree_has_its_dotted_key():
    tree = {"a": {"b": [1, {"c": 2}], "d": {}}, 3: None}
    assert dict(leaves(tree)) == {"a.b": [1, {"c": 2}], "a.d": {}, "3": None}
    assert list(leaves(5, "top")) == [("top", 5)]
