"""A column gets the encoding in which its first rows are smallest, of those that its readers know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantlab_dagster.kernel import encodings
from quantlab_dagster.kernel.encodings import choose_encodings, encoding_options, sample_rows
from quantlab_dagster.kernel.merge import merge
from quantlab_dagster_tests.kernel.building import EVENTS, compact, part_of, read_back, survey_of

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 8_192
_RNG = np.random.default_rng(14)


def columns() -> dict[str, tuple[pa.Array, str]]:
    """A column of each kind, and the encoding that suits it."""
    words = [f"{number:x}" for number in _RNG.integers(1 << 60, 1 << 62, ROWS)]
    return {
        "increasing": (pa.array(np.cumsum(_RNG.integers(0, 1 << 20, ROWS))), "DELTA_BINARY_PACKED"),
        "time": (pa.array(np.arange(ROWS) * 1_000_003, pa.timestamp("us")), "DELTA_BINARY_PACKED"),
        "date": (pa.array(np.arange(ROWS, dtype=np.int32), pa.date32()), "DELTA_BINARY_PACKED"),
        "few far apart": (pa.array(_RNG.choice(_RNG.integers(0, 1 << 60, 50), ROWS)), "DICTIONARY"),
        "any bits": (pa.array(_RNG.integers(-(1 << 63), (1 << 63) - 1, ROWS)), "DELTA_BINARY_PACKED"),
        "stairs": (pa.array(np.repeat(_RNG.integers(0, 1 << 60, ROWS // 64), 64)[::-1]), "PLAIN"),
        "price": (pa.array(_RNG.integers(900, 1_000, ROWS) / 100), "DICTIONARY"),
        "quantity": (pa.array(_RNG.integers(1, 1 << 20, ROWS).astype(np.float64)), "BYTE_STREAM_SPLIT"),
        "float": (pa.array(_RNG.integers(1, 1 << 20, ROWS).astype(np.float32)), "BYTE_STREAM_SPLIT"),
        "label": (pa.array(_RNG.choice(np.array(["buy", "sell"]), ROWS)), "DICTIONARY"),
        "id": (pa.array(words), "PLAIN"),
        "flag": (pa.array(_RNG.random(ROWS) < 0.5), "PLAIN"),
        "nothing": (pa.nulls(ROWS), "PLAIN"),
        "list": (pa.array([[1, 2]] * ROWS), "PLAIN"),
    }


@pytest.mark.parametrize("name", columns())
def test_what_a_column_holds_decides(name: str) -> None:
    column, encoding = columns()[name]
    assert choose_encodings(pa.table({name: column}), int96=frozenset(), split=True) == {name: encoding}


def test_each_column_is_chosen_for_itself() -> None:
    table = pa.table({name: column for name, (column, _) in columns().items()})
    chosen = choose_encodings(table, int96=frozenset(), split=True)
    assert chosen == {name: encoding for name, (_, encoding) in columns().items()}


def test_without_splitting_no_engine_is_asked_too_much() -> None:
    table = pa.table({name: column for name, (column, _) in columns().items()})
    chosen = choose_encodings(table, int96=frozenset(), split=False)
    assert set(chosen.values()) == {"DELTA_BINARY_PACKED", "DICTIONARY", "PLAIN"}
    assert {chosen["quantity"], chosen["float"]} <= {"DICTIONARY", "PLAIN"}


def test_96_bits_are_not_delta_encoded() -> None:
    table = pa.table({"time": columns()["time"][0]})
    assert choose_encodings(table, int96=frozenset({"time"}), split=True)["time"] in {"DICTIONARY", "PLAIN"}


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [((100, 99, 99), "A"), ((100, 97, 96), "B"), ((100, 97, 94), "C"), ((100, 99, 97), "C"), ((1, 1, 1), "A")],
)
def test_what_is_tried_later_must_be_clearly_smaller(sizes: tuple[int, int, int], chosen: str) -> None:
    assert encodings._smallest(("A", "B", "C"), dict(zip("ABC", sizes, strict=True))) == chosen


@pytest.mark.parametrize(
    ("rows", "sampled"),
    [(0, 0), (1, 1), (1_000, 1_000), (2_000, 1_024), (40_000, 5_000), (262_144, 32_768)],
)
def test_so_many_rows_are_tried(rows: int, sampled: int) -> None:
    assert sample_rows(rows) == sampled


def test_text_does_not_overflow_its_dictionary(tmp_path: Path) -> None:
    """fastparquet takes what follows for nulls. The first rows promise a small dictionary; the others break that."""
    words = _RNG.choice(np.array(["buy", "sell", "cancel"]), 40_000).tolist() + [
        f"{number:064}" for number in range(60_000)
    ]
    table = pa.table({"ts_event": range(len(words)), "word": words})
    compacted = compact([part_of("a", table)], tmp_path)
    chunk = pq.read_metadata(compacted.path).row_group(0).column(2)
    assert "RLE_DICTIONARY" in chunk.encodings
    assert chunk.total_uncompressed_size < 60_000 * (64 + 4 + 4), "each word once"
    assert read_back(compacted.path)["word"].to_pylist() == words


def test_the_event_lake_has_no_split_floats(tmp_path: Path) -> None:
    """Its readers do not know them."""
    quantity, _ = columns()["quantity"]
    table = pa.table({"timestamp_ms": range(ROWS), "quantity": quantity})
    for split, has in ((True, True), (False, False)):
        path = tmp_path / f"{split}.parquet"
        merge(survey_of([part_of("a", table)], order=EVENTS), path, scratch=tmp_path, split=split)
        assert ("BYTE_STREAM_SPLIT" in pq.read_metadata(path).row_group(0).column(1).encodings) is has


def test_options_name_every_column_once() -> None:
    options = encoding_options({"a": "DICTIONARY", "b": "PLAIN", "c": "DELTA_BINARY_PACKED"})
    assert options["use_dictionary"] == ["a"]
    assert options["column_encoding"] == {"c": "DELTA_BINARY_PACKED"}


_FEW_BYTES = 2_000  # footers and page headers, which do not grow with the rows


@pytest.mark.guards("output-larger")
@pytest.mark.parametrize("name", columns())
@pytest.mark.parametrize("written", [{}, {"use_dictionary": False}, {"compression": "zstd"}], ids=str)
def test_an_output_is_not_larger_than_what_it_replaces(tmp_path: Path, name: str, written: dict[str, Any]) -> None:
    """Integers of few values took 2.6 times as much when they were all delta encoded."""
    column, _ = columns()[name]
    rows = len(column) // 8
    tables = [
        pa.table({"timestamp_ms": range(start, start + rows), name: column.slice(start, rows)})
        for start in range(0, len(column), rows)
    ]
    parts = [part_of(f"{number}", table, **written) for number, table in enumerate(tables)]
    compacted = compact(parts, tmp_path, order=EVENTS)
    assert len(compacted.data) <= 1.05 * sum(part.size_bytes for part in parts) + _FEW_BYTES
