"""Tables and JSON as other programs read them."""

from __future__ import annotations

import json

import pytest

from tartlet.cli.output import json_text, table


def test_columns_are_padded_and_only_the_very_end_is_cut() -> None:
    text = table(["Source", "Name", "State"], [["local", "debian", "stopped"], ["local", "u", "running"]])
    assert text.split("\n") == [
        "Source Name   State  ",
        "local  debian stopped",
        "local  u      running",
    ]


def test_the_last_line_loses_its_blanks() -> None:
    assert table(["A", "Longer"], [["1", "2"]]) == "A Longer\n1 2"


def test_a_table_of_its_titles_alone() -> None:
    assert table(["A", "Longer"], []) == "A Longer"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([], "[\n\n]"),
        ({"a": 1}, '{\n  "a" : 1\n}'),
        ([{"a": "b/c"}], '[\n  {\n    "a" : "b\\/c"\n  }\n]'),
        ({"a": True, "b": None}, '{\n  "a" : true,\n  "b" : null\n}'),
    ],
)
def test_json_has_the_shape_of_the_original(value: object, expected: str) -> None:
    assert json_text(value) == expected


@pytest.mark.parametrize("value", [[], [{"Name": 'a/b\\c"d/\\/é\udcff'}], {"x": ["/", "//"]}])
def test_json_reads_back_the_same(value: object) -> None:
    text = json_text(value)
    assert text.isascii()
    assert json.loads(text) == value
