"""What Parquet says of a column: its leaves, by physical type and annotation, as PyArrow reads them from a footer."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from quantlab_dagster.kernel.thrift import RawField

__all__ = [
    "OWN_WIDTH",
    "ColumnType",
    "Leaf",
    "Stored",
    "agreed_field",
    "expected",
    "field_ids",
    "is_carried",
    "is_ordered_otherwise",
    "leaf_of",
    "merged_fields",
    "says_more",
    "stored",
]

# How a writer says it, and not what it says. Time stamps that only a converted type tells stay apart: DuckDB and Polars
# read them as local ones, by an older custom, where PyArrow reads UTC.
_MANNER = re.compile(r", (is_from_converted_type=false|force_set_converted_type=(true|false))")
_NATIVE = re.compile(r"|String|Null|Date|Float16|Int\(.*|Timestamp\(.*")
_DECIMAL = re.compile(r"Decimal\(precision=(\d+), scale=-?\d+\)")
_MOST_DIGITS = 38
_ORDERED_BY_BYTES = ("UUID", "JSON", "BSON", "ENUM", "Enum")
FIELD_ID = b"PARQUET:field_id"


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf's type.

    Attributes:
        physical: physical type, with the length where it is fixed: "INT64", "FIXED_LEN_BYTE_ARRAY(16)".
        annotation: logical type, or where there is none the converted one; "" for none.
        raw: the annotation as the footer spells it, to be put into another one.
    """

    physical: str
    annotation: str
    raw: tuple[RawField, ...] = field(default=(), compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.physical} {self.annotation}".strip()


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A column's type.

    Attributes:
        field: Arrow's view of its structure, nullability and field ids; what is carried has the type of its bytes.
        annotated: Arrow's view, the annotations included.
        spelled: Arrow's view, with what a writer's own Arrow schema says beyond Parquet: durations, zones, fixed sizes.
        leaves: in file order.
    """

    field: pa.Field
    annotated: pa.DataType
    spelled: pa.DataType
    leaves: tuple[Leaf, ...]

    def __str__(self) -> str:
        return ", ".join(map(str, self.leaves))


@dataclass(frozen=True, slots=True)
class Stored:
    """A leaf as it lies in a file.

    Attributes:
        path: names of the fields down to it. The inner levels of lists and maps have the standard's names.
        leaf: its type.
        definition: greatest definition level: how many fields on the path may be absent, or repeat.
        repetition: greatest repetition level.
        field_id: its own; None for none.
    """

    path: tuple[str, ...]
    leaf: Leaf
    definition: int
    repetition: int
    field_id: int | None

    def __str__(self) -> str:
        levels = f"levels {self.definition}/{self.repetition}"
        identity = "" if self.field_id is None else f", field id {self.field_id}"
        return f"{'.'.join(self.path)} {self.leaf} ({levels}{identity})"


OWN_WIDTH = frozenset(Leaf(f"INT{bits}", f"Int(bitWidth={bits}, isSigned=true)") for bits in (32, 64))
"""Integers of the physical type's own width: the same type with this annotation and without."""


def leaf_of(column: Any, raw: tuple[RawField, ...] = ()) -> Leaf:
    """The type of a leaf, from PyArrow's `ColumnSchema`."""
    physical = str(column.physical_type)
    logical = _MANNER.sub("", str(column.logical_type))
    if logical == "None":
        converted = str(column.converted_type)
        logical = "" if converted == "NONE" else converted
    if physical == "FIXED_LEN_BYTE_ARRAY":
        physical = f"{physical}({column.length})"
    return Leaf(physical, logical, raw)


def is_carried(leaf: Leaf) -> bool:
    """Whether a leaf is read and written as the bytes it is made of, and its annotation put back afterwards.

    That is all that Polars or PyArrow would not give back as it was: times of day (those beyond a day become null),
    decimals that PyArrow writes otherwise, and what either has no type for.
    """
    decimal = _DECIMAL.fullmatch(leaf.annotation)
    if decimal:
        digits = int(decimal[1])
        return digits > _MOST_DIGITS or leaf.physical != f"FIXED_LEN_BYTE_ARRAY({_decimal_bytes(digits)})"
    return not _NATIVE.fullmatch(leaf.annotation)


def says_more(leaf: Leaf) -> bool:
    """Whether Parquet's type of a leaf tells what the dtype as which it is read does not."""
    opaque = leaf.physical.startswith("FIXED") and not leaf.annotation
    return opaque or leaf.physical == "INT96" or is_carried(leaf)


def is_ordered_otherwise(leaf: Leaf) -> bool:
    """Whether the values of a leaf that is carried are not in the order of the bytes they are made of."""
    by_bytes = leaf.physical.startswith("INT") or leaf.annotation in _ORDERED_BY_BYTES
    return is_carried(leaf) and not by_bytes


def _decimal_bytes(digits: int) -> int:
    greatest: int = 10**digits - 1
    return (greatest.bit_length() + 8) // 8


def expected(fields: Iterable[pa.Field], leaves: Iterable[Leaf]) -> tuple[Stored, ...]:
    """The leaves that a file of these fields must have, told without asking a writer.

    Args:
        fields: names, structure, nullability and field ids.
        leaves: the types of all leaves, in order.
    """
    of_leaf = iter(leaves)
    return tuple(stored_ for one in fields for stored_ in _walk(one, (), 0, 0, of_leaf))


def _walk(
    one: pa.Field, parents: tuple[str, ...], definition: int, repetition: int, leaves: Iterator[Leaf]
) -> Iterator[Stored]:
    path, kind = (*parents, one.name), one.type
    definition += one.nullable
    if pa.types.is_struct(kind):
        for child in kind:
            yield from _walk(child, path, definition, repetition, leaves)
    elif pa.types.is_map(kind):
        inner = (*path, "key_value")
        for child, name in ((kind.key_field, "key"), (kind.item_field, "value")):
            yield from _walk(child.with_name(name), inner, definition + 1, repetition + 1, leaves)
    elif _is_list(kind):
        inner = (*path, "list")
        yield from _walk(kind.value_field.with_name("element"), inner, definition + 1, repetition + 1, leaves)
    else:
        yield Stored(path, next(leaves), definition, repetition, _field_id(one))


def _field_id(one: pa.Field) -> int | None:
    identity = (one.metadata or {}).get(FIELD_ID)
    return None if identity is None else int(identity)


def field_ids(one: pa.Field, parent: str = "") -> Iterator[tuple[int, str]]:
    """The ids of a field and of all within it, each with the path to what bears it."""
    path, kind = f"{parent}{one.name}", one.type
    identity = _field_id(one)
    if identity is not None:
        yield identity, path
    if pa.types.is_struct(kind):
        within = list(kind)
    elif pa.types.is_map(kind):
        within = [kind.key_field.with_name("key"), kind.item_field.with_name("value")]
    else:
        within = [kind.value_field.with_name("element")] if _is_list(kind) else []
    for child in within:
        yield from field_ids(child, f"{path}.")


def stored(metadata: Any, fields: Iterable[pa.Field]) -> tuple[Stored, ...]:
    """The leaves that a file has.

    Args:
        metadata: PyArrow's `FileMetaData`.
        fields: Arrow's view of the same file, for the field ids, which PyArrow tells nowhere else.
    """
    schema = metadata.schema
    columns = [schema.column(index) for index in range(len(schema))]
    # Field ids come by walking; all else as PyArrow's reader says it.
    walked = expected(fields, (leaf_of(column) for column in columns))
    return tuple(
        Stored(
            one.path if ".".join(one.path) == column.path else (column.path,),
            one.leaf,
            column.max_definition_level,
            column.max_repetition_level,
            one.field_id,
        )
        for one, column in zip(walked, columns, strict=True)
    )


def merged_fields(a: pa.Field, b: pa.Field) -> pa.Field | None:
    """One field for both: nullable where one of them is, with a field id where both have the same; None if they differ.

    The inner names of lists and maps, and the width of offsets, are spelling.
    """
    kind = _merged_types(a.type, b.type)
    return None if kind is None else agreed_field(a.with_type(kind), b)


def agreed_field(a: pa.Field, b: pa.Field) -> pa.Field:
    """The first field, nullable where one of them is, with a field id where both have the same."""
    same_id = _field_id(a) is not None and _field_id(a) == _field_id(b)
    return pa.field(a.name, a.type, a.nullable or b.nullable, {FIELD_ID: str(_field_id(a))} if same_id else None)


def _merged_types(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        if [one.name for one in a] != [one.name for one in b]:
            return None
        children = [merged_fields(one, other) for one, other in zip(a, b, strict=True)]
        return None if any(child is None for child in children) else pa.struct(children)
    if pa.types.is_map(a) and pa.types.is_map(b):
        key = merged_fields(a.key_field, b.key_field.with_name(a.key_field.name))
        item = merged_fields(a.item_field, b.item_field.with_name(a.item_field.name))
        return None if key is None or item is None else pa.map_(key, item)
    if _is_list(a) and _is_list(b):
        element = merged_fields(a.value_field, b.value_field)
        return None if element is None else pa.list_(element)
    return a if a == b else None


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
