"""Days as Hypothesis draws them: every trouble that parts are known for, small enough to shrink."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from quantlab_dagster_tests.kernel.building import part_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantlab_dagster.kernel.parts import Part

INT64 = np.iinfo(np.int64)

ORDER_SCHEMES = ("one", "ties", "near", "edges", "wide", "ascending")
"""How order values are spread. Only ascending parts overlap so little that they are read straight into windows."""

MODES = ("constant", "constant in a part", "varied")

_EDGES = [INT64.min, INT64.min + 1, -1, 0, 1, INT64.max - 1, INT64.max]

_SIGNED = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32()]
_UNSIGNED = [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
_TEXTS = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.int32(), pa.string()),
]

_FLOATS = [0.0, -0.0, float("nan"), float("inf"), float("-inf"), 1.5, -2.25, 2.0**-120]
_TYPES: dict[str, list[pa.DataType]] = {
    "text": _TEXTS,
    "signed": _SIGNED,
    "unsigned": _UNSIGNED,
    "float": [pa.float32(), pa.float64()],
    "flag": [pa.bool_()],
    "bytes": [pa.binary()],
    "time": [pa.timestamp("us")],
    "decimal": [pa.decimal128(12, 2)],
    "list": [pa.list_(pa.int64())],
}
_POOLS: dict[str, list[Any]] = {
    "text": ["", "a", "b", "Ünï", "x" * 100],
    "float": _FLOATS,
    "flag": [True, False],
    "bytes": [b"", b"\x00", b"\xff\xfe"],
    "time": [0, -1, 1_767_830_426_000_000],
    "decimal": [Decimal("0.00"), Decimal("-1.25"), Decimal("9999999999.99")],
    "list": [[], [1], [1, None, 3]],
}


@dataclass(frozen=True, slots=True)
class DrawnPart:
    """A part as a table and as bytes."""

    key: str
    table: pa.Table
    part: Part


@dataclass(frozen=True, slots=True)
class _Column:
    """What a column is like over the whole day."""

    name: str
    kind: str
    mode: str


_KEYS = st.one_of(
    # Byte order is neither the order of the numbers nor, beyond the basic plane, of UTF-16.
    st.integers(0, 12_000).map(lambda number: f"part-{number}"),
    st.text("aZ0-.é\uffee\U0001d11e", min_size=1, max_size=3),
)

_COLUMNS = st.lists(
    st.builds(lambda kind, mode: (kind, mode), st.sampled_from(sorted(_TYPES)), st.sampled_from(MODES)), max_size=5
)


@st.composite
def drawn_days(
    draw: st.DrawFn,
    order_column: str,
    *,
    nullable: bool = False,
    schemes: Sequence[str] = ORDER_SCHEMES,
    part_counts: tuple[int, int] = (1, 7),
    part_rows: Sequence[int] = (30, 0, 13, 1, 5, 2),
) -> list[DrawnPart]:
    """Parts of one day, in byte order of their keys.

    Args:
        draw: from Hypothesis.
        order_column: name of the order column.
        nullable: whether that column holds nulls.
        schemes: how its values may be spread.
        part_counts: least and greatest number of parts.
        part_rows: how many rows a part may have.
    """
    keys = draw(st.lists(_KEYS, min_size=part_counts[0], max_size=part_counts[1], unique=True))
    sizes = [draw(st.sampled_from(part_rows)) for _ in keys]
    scheme = draw(st.sampled_from(schemes))
    columns = [_Column(f"{kind}_{at}", kind, mode) for at, (kind, mode) in enumerate(draw(_COLUMNS))]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    constants = {column.name: int(rng.integers(100)) for column in columns}
    parts = []
    for index, (key, rows) in enumerate(zip(sorted(keys, key=str.encode), sizes, strict=True)):
        arrays = {order_column: _order_values(scheme, index, rows, rng, nullable=nullable)}
        for column in columns:
            if rng.random() < 0.85:
                arrays[column.name] = _column_values(column, rows, constants[column.name], rng)
        names = list(arrays) if rng.random() < 0.5 else rng.permutation(list(arrays)).tolist()
        table = pa.table({name: arrays[name] for name in names})
        parts.append(DrawnPart(key, table, part_of(key, table, **_write_options(table, rng))))
    return parts


def tables_of(parts: Sequence[DrawnPart]) -> list[tuple[str, pa.Table]]:
    return [(part.key, part.table) for part in parts]


def _order_values(scheme: str, index: int, rows: int, rng: np.random.Generator, *, nullable: bool) -> pa.Array:
    if scheme == "one":
        values = np.full(rows, -7)
    elif scheme == "ties":
        values = rng.integers(-1, 2, rows)
    elif scheme == "near":
        values = rng.integers(-20, 20, rows)
    elif scheme == "edges":
        values = rng.choice(np.array(_EDGES), rows)
    elif scheme == "wide":
        values = rng.integers(INT64.min, INT64.max, rows, endpoint=True)
    else:
        values = np.sort(rng.integers(index * 10, index * 10 + 11, rows))
    null = rng.random(rows) < 0.2 if nullable else np.zeros(rows, dtype=bool)
    fitting = [kind for kind in _SIGNED if _fits(values, kind)]
    kind = fitting[int(rng.integers(len(fitting)))] if rng.random() < 0.3 else pa.int64()
    return pa.array(values, pa.int64(), mask=null).cast(kind)


def _fits(values: np.ndarray, kind: pa.DataType) -> bool:
    limits = np.iinfo(kind.to_pandas_dtype())
    return not values.size or (values.min() >= limits.min and values.max() <= limits.max)


def _column_values(column: _Column, rows: int, constant: int, rng: np.random.Generator) -> pa.Array:
    types = _TYPES[column.kind]
    kind = types[int(rng.integers(len(types)))]
    if column.mode != "constant" and rng.random() < 0.1:
        return pa.nulls(rows)
    pool = _POOLS[column.kind] if column.kind in _POOLS else _integers(kind, constant=column.mode == "constant")
    if column.mode == "constant":
        return _array([pool[constant % len(pool)]] * rows, kind)
    if column.mode == "constant in a part":
        return _array([pool[int(rng.integers(len(pool)))]] * rows, kind)
    chosen = [pool[at] for at in rng.integers(len(pool), size=rows).tolist()]
    nulls = 0.2 if rng.random() < 0.5 else 0.0
    return _array([None if rng.random() < nulls else value for value in chosen], kind)


def _integers(kind: pa.DataType, *, constant: bool) -> list[int]:
    if constant:  # one that every integer type holds
        return [0, 1, 100]
    limits = np.iinfo(kind.to_pandas_dtype())
    return [int(limits.min), int(limits.max), 0, 1, 100]


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    # Arrow builds no dictionaries from Python values.
    return pa.array(values, pa.string()).cast(kind) if pa.types.is_dictionary(kind) else pa.array(values, kind)


def _write_options(table: pa.Table, rng: np.random.Generator) -> dict[str, Any]:
    # Without Arrow's own schema a column of nothing but nulls reads as one of integers.
    no_type = any(pa.types.is_null(field.type) for field in table.schema)
    return {
        "row_group_size": int(rng.choice([1, 3, 10, 1_000])),
        "write_statistics": bool(rng.random() < 0.6),
        "use_dictionary": bool(rng.random() < 0.5),
        "compression": str(rng.choice(["none", "snappy", "zstd"])),
        "data_page_version": str(rng.choice(["1.0", "2.0"])),
        "store_schema": no_type or bool(rng.random() < 0.8),
    }
