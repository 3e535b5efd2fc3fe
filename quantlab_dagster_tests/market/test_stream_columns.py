"""The table of columns is that of the generated data, of the rules, and of the page for people."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from quantlab_dagster.market.stream_columns import COMMON_COLUMNS, SEQ_COLUMN, STREAM_COLUMNS, columns_of
from quantlab_dagster.market.stream_rules import STREAM_RULES
from quantlab_dagster.synthetic.market import STREAMS, DaySpec, generate_parts

PAGE = Path(__file__).parents[2] / "docs" / "columns.md"


@pytest.mark.parametrize("stream", STREAMS)
def test_parts_have_the_columns_that_are_described(stream: str) -> None:
    spec = DaySpec("binance", stream, "adausdt", dt.date(2026, 1, 8), parts=2, rows=20)
    part = pl.read_parquet(next(iter(generate_parts(spec))).data)
    found = {name: "String" if str(dtype) == "Categorical" else str(dtype) for name, dtype in part.schema.items()}
    assert found == {column.name: column.dtype for column in columns_of(stream, published=False)}


def test_every_stream_that_has_rules_is_described_and_its_rules_speak_of_columns_that_it_has() -> None:
    assert STREAM_COLUMNS.keys() == STREAM_RULES.keys()
    for stream, rules in STREAM_RULES.items():
        names = {column.name for column in STREAM_COLUMNS[stream]}
        assert rules.prices <= names
        assert rules.ids is None or rules.ids in names


def test_seq_is_directly_behind_ts_event_where_it_is_published() -> None:
    published = [column.name for column in columns_of("bbo", published=True)]
    raw = [column.name for column in columns_of("bbo", published=False)]
    assert published[:3] == ["ts_event", "seq", "ts_recv"]
    assert raw == [name for name in published if name != "seq"]
    assert columns_of("liquidations", published=False) == COMMON_COLUMNS


def test_the_page_has_the_same_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    tables = [*COMMON_COLUMNS, SEQ_COLUMN, *(column for columns in STREAM_COLUMNS.values() for column in columns)]
    for column in tables:
        assert f"| `{column.name}` | {column.dtype} | {column.text} |" in text
    for stream in STREAM_COLUMNS:
        assert f"### {stream}\n" in text
