"""What a part's schema says, and how the part is to be read so that no value and no type is lost.

Polars reads by Arrow's schema where a part carries one, and by annotations, not all of which it gives back. Where that
would change anything, a copy of the part is read whose footer says less: no Arrow schema, and no annotation on leaves
that are carried as the bytes they are made of. The pages are the same. What was left out is put back by the writer.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from quantlab_dagster.errors import SchemaConflict
from quantlab_dagster.kernel.leaves import (
    ColumnType,
    Leaf,
    Stored,
    is_carried,
    leaf_of,
    stored,
)
from quantlab_dagster.kernel.thrift import STRUCT, Elements, RawField, elements_of, integer, struct_bytes, varint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["ARROW_SCHEMA", "Layout", "file_shape", "plain_metadata", "read_layout", "restored", "store_type"]

ARROW_SCHEMA = b"ARROW:schema"
_HIDDEN = b"ARROW-schema"
_MAGIC = b"PAR1"
_TAIL_BYTES = 8
_OLDEST = pl.CompatLevel.oldest()

# Ids of a schema element's fields.
_NAME, _CHILDREN, _CONVERTED, _LOGICAL = 4, 5, 6, 10
_ANNOTATION = frozenset({_CONVERTED, 7, 8, _LOGICAL})  # with scale and precision
_PLAIN_GROUPS = (1, 2, 3)  # converted types of maps and lists
_PLAIN_LOGICAL_GROUPS = (2, 3)  # so, of logical types

_UNDEFINED = "Undefined"
_UNTYPED = "Null"
_UNSIGNED = "Int(bitWidth=64, isSigned=false)"


@dataclass(frozen=True, slots=True)
class Layout:
    """A schema, shared by the parts that have it.

    Attributes:
        prefix: the footer's bytes up to the end of the schema: parts whose footers begin with it have this schema.
        arrow: the Arrow schema it was read with, as it lies in the footer.
        schema: column names and dtypes, as they are read.
        types: what Parquet says of each column.
        plain: the same prefix for reading, with less said; None where the part is read as it is.
        unsigned_order: whether the order column is of 64 unsigned bits. It is read as a signed one, so that values of
            2^63 and more are negative.
    """

    prefix: bytes
    arrow: bytes
    schema: pl.Schema
    types: dict[str, ColumnType]
    plain: bytes | None = None
    unsigned_order: bool = False

    def readable(self, footer: bytes) -> bytes:
        """A part's footer as it is to be read. It ends with its length and the magic bytes."""
        assert self.plain is not None
        return _closed(self.plain + footer[len(self.prefix) :].replace(ARROW_SCHEMA, _HIDDEN))


def read_layout(part: str, metadata: Any, footer: bytes, arrow: bytes, order_by: str) -> Layout:
    """Understand a schema.

    Args:
        part: key of the part, for errors.
        metadata: PyArrow's `FileMetaData` of it.
        footer: the same as it lies in the file.
        arrow: the Arrow schema that it carries; empty for none.
        order_by: the order column, which may be unsigned.

    Raises:
        SchemaConflict: a column of it cannot be given back as it is.
        ValueError: the schema is damaged.
    """
    elements = elements_of(footer)
    names = _column_names(part, elements)
    leaf_indices = [at for at, fields in enumerate(elements.fields) if at and not _children(fields)]
    if len(leaf_indices) != len(metadata.schema):
        raise ValueError("its schema has groups without columns")
    leaves = [
        leaf_of(metadata.schema.column(at), tuple(one for one in elements.fields[index] if one[0] in _ANNOTATION))
        for at, index in enumerate(leaf_indices)
    ]
    _refuse_odd_annotations(part, names, leaves)
    bare = {index for index, leaf in zip(leaf_indices, leaves, strict=True) if is_carried(leaf)}
    order_at = _first_leaf(names, order_by)
    unsigned = order_at is not None and leaves[order_at].annotation == _UNSIGNED
    if order_at is not None and unsigned:
        bare.add(leaf_indices[order_at])
    prefix = footer[: elements.end]
    plain = _bare_prefix(footer, elements, bare)
    hidden = footer[elements.end :].replace(ARROW_SCHEMA, _HIDDEN)
    read_plain = _metadata(plain + hidden)
    types = _types(part, names, leaves, read_plain, _metadata(prefix + hidden), metadata)
    plain_schema = _polars_schema(part, names, plain + hidden)
    seen = plain_schema if not arrow and not bare else None
    if seen is None and not bare:
        seen = _polars_schema(part, names, footer)
    if seen is not None and _reads_alike(seen, plain_schema):
        _refuse_untyped(part, types, seen, order_by)
        return Layout(prefix, arrow, seen, types)
    _refuse_untyped(part, types, plain_schema, order_by)
    return Layout(prefix, arrow, plain_schema, types, plain, unsigned)


def _refuse_untyped(part: str, types: dict[str, ColumnType], schema: pl.Schema, order_by: str) -> None:
    """Refuse nulls of no type, but for a column that Polars reads as such: it makes numbers of the others."""
    for name, one in types.items():
        if schema[name] == pl.Null or all(leaf.annotation != _UNTYPED for leaf in one.leaves):
            continue
        if pa.types.is_nested(one.field.type):
            cause = f"column {name!r} has nothing but nulls of no type within it"
            raise SchemaConflict(part, f"{cause}: they are written with a type, or left out")
        if name != order_by:  # which becomes a number
            cause = f"column {name!r} has no type, and no Arrow schema by which Polars reads it beside the others"
            raise SchemaConflict(part, f"{cause}: it is written with a type, or left out")


def _first_leaf(names: dict[str, int], wanted: str) -> int | None:
    """Index of the leaf of a column that has only one; None where there is no such column."""
    at = 0
    for name, count in names.items():
        if name == wanted:
            return at if count == 1 else None
        at += count
    return None


def _column_names(part: str, elements: Elements) -> dict[str, int]:
    """Name of each column, and how many leaves it has. Refuses names and groups that no reader would give back."""
    fields = elements.fields
    names: dict[str, int] = {}

    def walk(at: int, path: str) -> tuple[int, int]:
        """The index behind an element, and its number of leaves."""
        _refuse_odd_group(part, path, fields[at])
        children = _children(fields[at])
        if not children:
            return at + 1, 1
        seen: set[str] = set()
        at, leaves = at + 1, 0
        for _ in range(children):
            name = _name(fields[at])
            if name in seen:
                raise SchemaConflict(part, f"two fields of column {path!r} share the name {name!r}")
            seen.add(name)
            at, inside = walk(at, f"{path}.{name}")
            leaves += inside
        return at, leaves

    at = 1
    while at < len(fields):
        name = _name(fields[at])
        if name in names:
            raise SchemaConflict(part, f"two columns share one name ({name!r})")
        at, names[name] = walk(at, name)
    for name_fields in fields[1:]:
        if "\0" in _name(name_fields):
            raise SchemaConflict(part, f"the name {_name(name_fields)!r} of a column holds a zero byte")
    return names


def _refuse_odd_group(part: str, path: str, fields: tuple[RawField, ...]) -> None:
    """Groups that mean more than structure: variants, and what is not known yet."""
    if not _children(fields):
        return
    for identity, kind, payload in fields:
        odd = (identity == _CONVERTED and integer(payload) not in _PLAIN_GROUPS) or (
            identity == _LOGICAL and kind == STRUCT and payload[0] >> 4 not in _PLAIN_LOGICAL_GROUPS
        )
        if odd:
            raise SchemaConflict(part, f"column {path!r} is a group of a kind that is neither list nor map")


def _refuse_odd_annotations(part: str, names: dict[str, int], leaves: list[Leaf]) -> None:
    """Refuse what PyArrow calls undefined: what it does not know, and what does not fit the physical type."""
    of_leaf = (name for name, count in names.items() for _ in range(count))
    for name, leaf in zip(of_leaf, leaves, strict=True):
        if leaf.annotation == _UNDEFINED:
            cause = f"column {name!r} is {leaf.physical} with an annotation that is not known, or does not fit that"
            raise SchemaConflict(part, cause)


def _children(fields: tuple[RawField, ...]) -> int:
    return next((integer(payload) for identity, _, payload in fields if identity == _CHILDREN), 0)


def _name(fields: tuple[RawField, ...]) -> str:
    payload = next((payload for identity, _, payload in fields if identity == _NAME), b"\0")
    return payload[varint(payload, 0)[1] :].decode()


def _bare_prefix(footer: bytes, elements: Elements, bare: set[int]) -> bytes:
    """The prefix with these elements' annotations left out."""
    if not bare:
        return footer[: elements.end]
    said = [
        struct_bytes([one for one in fields if at not in bare or one[0] not in _ANNOTATION])
        for at, fields in enumerate(elements.fields)
    ]
    return footer[: elements.start] + b"".join(said)


def _closed(footer: bytes) -> bytes:
    return footer + len(footer).to_bytes(4, "little") + _MAGIC


def _metadata(footer: bytes) -> Any:
    return pq.read_metadata(pa.BufferReader(_MAGIC + _closed(footer)))


def _polars_schema(part: str, names: Iterable[str], footer: bytes) -> pl.Schema:
    schema = pl.Schema(pl.read_parquet_schema(io.BytesIO(_MAGIC + _closed(footer))))
    if list(schema) != list(names):
        raise SchemaConflict(part, "Polars reads other columns in it than PyArrow does")
    return schema


def _reads_alike(seen: pl.Schema, plain: pl.Schema) -> bool:
    """Whether the dtypes are the same, but for what the scan makes one of: spellings of text, and untyped nulls."""
    return all(
        dtype in (plain[name], pl.Null) or (isinstance(dtype, pl.Categorical) and plain[name] == pl.String)
        for name, dtype in seen.items()
    )


def _types(
    part: str, names: dict[str, int], leaves: list[Leaf], plain: Any, annotated: Any, spelled: Any
) -> dict[str, ColumnType]:
    try:
        views = [metadata.schema.to_arrow_schema() for metadata in (plain, annotated, spelled)]
    except pa.ArrowNotImplementedError as error:
        raise SchemaConflict(part, f"it has a column that PyArrow cannot read ({error})") from error
    types: dict[str, ColumnType] = {}
    found = stored(plain, views[0])
    at = 0
    for index, (name, count) in enumerate(names.items()):
        one, of_column = views[0].field(index), tuple(leaves[at : at + count])
        types[name] = ColumnType(one, views[1].field(index).type, views[2].field(index).type, of_column)
        _check_given_back(part, types[name], found[at : at + count])
        at += count
    return types


def _check_given_back(part: str, column: ColumnType, found: tuple[Stored, ...]) -> None:
    """Whether the writer will make the same leaves of it.

    Raises:
        SchemaConflict: it will not.
    """
    name = column.field.name
    int96 = any(leaf.physical == "INT96" for leaf in column.leaves)
    if int96 and pa.types.is_nested(column.field.type):
        raise SchemaConflict(part, f"column {name!r} has INT96 within something, whose range cannot be checked")
    try:
        if pa.types.is_nested(column.field.type):  # equal ones may differ in the field ids within
            given = _written_as(column.field, int96=int96)
        else:
            pairs = tuple(sorted((column.field.metadata or {}).items()))
            given = _flat_written_as(name, column.field.type, pairs, nullable=column.field.nullable, int96=int96)
    except pa.ArrowException as error:
        raise SchemaConflict(part, f"column {name!r} is {column}, which cannot be written ({error})") from error
    for before, after in zip(found, given, strict=True):
        same = (before.leaf.physical, before.definition, before.repetition, before.field_id) == (
            after.leaf.physical,
            after.definition,
            after.repetition,
            after.field_id,
        )
        if not same:
            raise SchemaConflict(part, f"column {name!r} is {before}, and would be written as {after}")


@lru_cache(maxsize=256)
def _flat_written_as(
    name: str, kind: pa.DataType, pairs: tuple[tuple[bytes, bytes], ...], *, nullable: bool, int96: bool
) -> tuple[Stored, ...]:
    """As `_written_as`, remembered: files of many schemas have columns of few types."""
    return _written_as(pa.field(name, kind, nullable, dict(pairs)), int96=int96)


def _written_as(column: pa.Field, *, int96: bool) -> tuple[Stored, ...]:
    """The leaves that the writer makes of a column.

    Raises:
        pyarrow.ArrowException: it cannot write it.
    """
    sink = io.BytesIO()
    schema = pa.schema([column.with_type(store_type(column.type))])
    with pq.ParquetWriter(sink, schema, store_schema=False, use_deprecated_int96_timestamps=int96):
        pass
    written = pq.read_metadata(pa.BufferReader(sink.getvalue()))
    return stored(written, written.schema.to_arrow_schema())


def store_type(kind: pa.DataType, *, int96: bool = False) -> pa.DataType:
    """The type in which the writer takes a column, with offsets as Polars has them.

    Args:
        kind: the plain type.
        int96: whether time stamps are written as INT96: then those that must not be are taken as integers.
    """
    if pa.types.is_string(kind):
        return pa.large_string()
    if pa.types.is_binary(kind):
        return pa.large_binary()
    if pa.types.is_timestamp(kind) and int96:
        return pa.int64()
    if pa.types.is_struct(kind):
        return pa.struct([_store_field(one, int96) for one in kind])
    if pa.types.is_map(kind):
        return pa.map_(_store_field(kind.key_field, int96), _store_field(kind.item_field, int96))
    if pa.types.is_list(kind):
        return pa.large_list(_store_field(kind.value_field, int96))
    return kind


def _store_field(one: pa.Field, int96: bool) -> pa.Field:
    return one.with_type(store_type(one.type, int96=int96))


def plain_metadata(footer: bytes) -> Any:
    """PyArrow's metadata of a written file, by which what is carried is read as the bytes it is made of."""
    elements = elements_of(footer)
    metadata = _metadata(footer)
    leaf_indices = [at for at, fields in enumerate(elements.fields) if at and not _children(fields)]
    bare = {index for at, index in enumerate(leaf_indices) if is_carried(leaf_of(metadata.schema.column(at)))}
    hidden = footer[elements.end :].replace(ARROW_SCHEMA, _HIDDEN)
    return _metadata(_bare_prefix(footer, elements, bare) + hidden)


def file_shape(footer: bytes) -> tuple[Stored, ...]:
    """The leaves of a file, as PyArrow reads them."""
    metadata = _metadata(footer)
    hidden = _metadata(footer.replace(ARROW_SCHEMA, _HIDDEN))
    return stored(metadata, hidden.schema.to_arrow_schema())


def restored(footer: bytes, leaves: Iterable[Leaf]) -> bytes | None:
    """A written footer with the annotations that its leaves should have; None where it has them.

    Args:
        footer: as PyArrow wrote it.
        leaves: what it should say, in order.
    """
    elements = elements_of(footer)
    metadata = _metadata(footer)
    wanted: Iterator[Leaf] = iter(leaves)
    changed = False
    said: list[bytes] = []
    leaf_at = 0
    for at, fields in enumerate(elements.fields):
        kept = list(fields)
        if at and not _children(fields):
            leaf, has = next(wanted), leaf_of(metadata.schema.column(leaf_at))
            leaf_at += 1
            if leaf != has:
                kept = [one for one in fields if one[0] not in _ANNOTATION] + list(leaf.raw)
                changed = True
        said.append(struct_bytes(kept))
    if not changed:
        return None
    return footer[: elements.start] + b"".join(said) + footer[elements.end :]
