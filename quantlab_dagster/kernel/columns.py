"""The union of the parts' schemas: one dtype per column, widened without loss, or an error."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from quantlab_dagster.errors import SchemaConflict
from quantlab_dagster.kernel.leaves import (
    OWN_WIDTH,
    ColumnType,
    Leaf,
    Stored,
    agreed_field,
    expected,
    field_ids,
    merged_fields,
    says_more,
)
from quantlab_dagster.kernel.parts import Footer, is_text
from quantlab_dagster.kernel.terms import SEQ, Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["SEQ", "Columns", "ConstantValue", "may_be_constant", "unite", "widen"]

ConstantValue = int | str | bool

_OWN_METADATA = b"quantlab."

# The types that widen, in Arrow and in Parquet.
_WIDE: dict[pl.DataType, tuple[pa.DataType, Leaf]] = {
    pl.Int8(): (pa.int8(), Leaf("INT32", "Int(bitWidth=8, isSigned=true)")),
    pl.Int16(): (pa.int16(), Leaf("INT32", "Int(bitWidth=16, isSigned=true)")),
    pl.Int32(): (pa.int32(), Leaf("INT32", "")),
    pl.Int64(): (pa.int64(), Leaf("INT64", "")),
    pl.UInt8(): (pa.uint8(), Leaf("INT32", "Int(bitWidth=8, isSigned=false)")),
    pl.UInt16(): (pa.uint16(), Leaf("INT32", "Int(bitWidth=16, isSigned=false)")),
    pl.UInt32(): (pa.uint32(), Leaf("INT32", "Int(bitWidth=32, isSigned=false)")),
    pl.UInt64(): (pa.uint64(), Leaf("INT64", "Int(bitWidth=64, isSigned=false)")),
    pl.Float16(): (pa.float16(), Leaf("FIXED_LEN_BYTE_ARRAY(2)", "Float16")),
    pl.Float32(): (pa.float32(), Leaf("FLOAT", "")),
    pl.Float64(): (pa.float64(), Leaf("DOUBLE", "")),
}
_NUMBERS = {leaf for _, leaf in _WIDE.values()} | OWN_WIDTH
_INT64 = [leaf for leaf in _NUMBERS if leaf.physical == "INT64" and "false" not in leaf.annotation]
_NULL = Leaf("INT32", "Null")


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a merged file, before numbering.

    Attributes:
        order_by: the integer column that orders the rows.
        dtypes: name to dtype, in the order of first appearance in key order.
        constants: columns that hold the same value in every row of every part, as the survey saw. They are not decoded
            again, and neither sorted, hashed nor carried along.
        types: name to what Parquet says of it, in the same order. Nullable unless it is required in every part.
        widened: name to the dtypes of the parts and the wider one that it got, as "Int32 → Int64".
        renamed: name in the output to name in the parts, where they differ.
        metadata: key-value pairs in which all parts agree.
    """

    order_by: str
    dtypes: dict[str, pl.DataType]
    constants: dict[str, ConstantValue]
    types: dict[str, ColumnType] = field(default_factory=dict)
    widened: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    metadata: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def varying(self) -> list[str]:
        """Names of the columns that are carried through the merge, in order."""
        return [name for name in self.dtypes if name not in self.constants]

    @property
    def int96(self) -> list[str]:
        """Names of the columns of 96-bit time stamps, of which not all fit into what they are read as."""
        return [name for name, one in self.types.items() if any(leaf.physical == "INT96" for leaf in one.leaves)]

    def file_types(self, *, numbered: bool) -> dict[str, ColumnType]:
        """Name to type of the output's columns, in order; with `seq` after the order column where it is numbered."""
        types: dict[str, ColumnType] = {}
        for name, one in self.types.items():
            types[name] = one
            if numbered and name == self.order_by:
                types[SEQ] = _wide_type(SEQ, pl.Int64())
        return types

    def described(self, *, numbered: bool) -> dict[str, str]:
        """Name to type of the output's columns, for people: as Polars has it, or as Parquet where that says more."""
        return {
            name: str(one) if any(map(says_more, one.leaves)) else str(self.dtypes.get(name, pl.Int64()))
            for name, one in self.file_types(numbered=numbered).items()
        }

    def shape(self, *, numbered: bool) -> tuple[Stored, ...]:
        """The leaves that the output must have."""
        types = self.file_types(numbered=numbered).values()
        return expected((one.field for one in types), (leaf for one in types for leaf in one.leaves))

    def helper(self, name: str) -> str:
        """A name for a helper column that no data column bears."""
        while name in self.dtypes:
            name = f"_{name}"
        return name


def widen(a: pl.DataType, b: pl.DataType) -> pl.DataType | None:
    """The narrowest dtype that holds every value of both, or None where that would be lossy or ambiguous.

    The spellings of text unite to String, integers and floats widen among themselves, an all-null column fits
    anything. Never between integers and floats, never UInt64 with a signed integer, never between decimals,
    time units or nested types.
    """
    a, b = _one_spelling(a), _one_spelling(b)
    if b in (a, pl.Null):
        return a
    if a == pl.Null:
        return b
    if a.is_float() and b.is_float():
        return a if _bits(a) > _bits(b) else b
    if a.is_integer() and b.is_integer():
        return _widen_integers(a, b)
    return None


def _one_spelling(dtype: pl.DataType) -> pl.DataType:
    return pl.String() if is_text(dtype) else dtype


def _widen_integers(a: pl.DataType, b: pl.DataType) -> pl.DataType | None:
    bits_a, bits_b = _bits(a), _bits(b)
    if a.is_signed_integer() == b.is_signed_integer():
        return a if bits_a >= bits_b else b
    signed, unsigned = (bits_a, bits_b) if a.is_signed_integer() else (bits_b, bits_a)
    need = max(signed, 2 * unsigned)
    return {16: pl.Int16(), 32: pl.Int32(), 64: pl.Int64()}.get(need)


def _bits(dtype: pl.DataType) -> int:
    return int("".join(character for character in str(dtype) if character.isdigit()))


def may_be_constant(dtype: pl.DataType) -> bool:
    """Whether columns of this dtype are worth a look: labels, versions, flags."""
    return dtype.is_integer() or dtype in (pl.String, pl.Boolean)


def unite(
    parts: Iterable[Part],
    footers: Iterable[Footer],
    order_by: str,
    *,
    constants: Mapping[str, ConstantValue] | None = None,
    reserved: frozenset[str] = frozenset(),
    rename: Mapping[str, str] | None = None,
) -> Columns:
    """Unite the schemas of all parts, which must come in key order.

    A column has the same type in all parts, or one that widens, and its name the same case. It is required, and keeps
    its field id, where all parts say so, and no id is that of two columns; of a part's key-value pairs those stay in
    which all agree.

    Args:
        parts: the parts, for naming the culprit.
        footers: their footers, in the same order.
        order_by: must be an integer column of every part, and becomes Int64.
        constants: columns known to hold one value in every row of every part.
        reserved: column names that the output adds itself.
        rename: columns that get another name, by their name in the parts.

    Raises:
        SchemaConflict: naming part and column.
    """
    union = _Union(dict(rename or {}))
    seen: set[int] = set()
    metadata: dict[bytes, bytes] | None = None
    for part, footer in zip(parts, footers, strict=True):
        if footer.metadata is not metadata:
            metadata = _agreed(metadata, footer.metadata)
        if id(footer.layout) in seen:
            continue
        seen.add(id(footer.layout))
        _check_order_column(part, footer, order_by)
        union.add(part, footer, reserved)
    return union.columns(order_by, dict(constants or {}), metadata or {})


def _check_order_column(part: Part, footer: Footer, order_by: str) -> None:
    if order_by not in footer.schema:
        raise SchemaConflict(part.key, f"column {order_by!r} is missing")
    dtype, types = footer.schema[order_by], footer.layout.types
    number = set(types[order_by].leaves) <= {*_NUMBERS, _NULL}
    if not number or widen(dtype, pl.Int64()) != pl.Int64:
        cause = f"column {order_by!r} is {_told(dtype, types[order_by])}, no integer that fits into 64 signed bits"
        raise SchemaConflict(part.key, cause)


def _agreed(before: dict[bytes, bytes] | None, pairs: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The pairs in which this part agrees with those before it; ours are about one file, and never inherited."""
    if before is None:
        return {key: value for key, value in pairs.items() if not key.startswith(_OWN_METADATA)}
    agreed = {key: value for key, value in before.items() if pairs.get(key) == value}
    return before if len(agreed) == len(before) else agreed


@dataclass(slots=True)
class _Union:
    """Schemas as they are united."""

    rename: dict[str, str]
    dtypes: dict[str, pl.DataType] = field(default_factory=dict)
    types: dict[str, ColumnType] = field(default_factory=dict)
    first_in: dict[str, str] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    spellings: dict[str, list[str]] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)
    cases: dict[str, tuple[set[str], str]] = field(default_factory=dict)
    ids: dict[int, tuple[set[str], str]] = field(default_factory=dict)
    schemas: int = 0

    def add(self, part: Part, footer: Footer, reserved: frozenset[str]) -> None:
        self.schemas += 1
        self._check_cases(part, {self.rename.get(raw, raw) for raw in footer.schema})
        self._check_ids(part, footer)
        for raw, dtype in footer.schema.items():
            name = self.rename.get(raw, raw)
            if name in reserved:
                raise SchemaConflict(part.key, f"column {name!r} is reserved for the compacted file")
            if self.origins.setdefault(name, raw) != raw:
                first = self.first_in[name]
                cause = f"column {raw!r} is to be named {name!r}, but there is a column {name!r} as well"
                if raw not in self.rename:
                    cause = f"column {raw!r} bears the name that {self.origins[name]!r} of {first} is to get"
                raise SchemaConflict(part.key, cause)
            self.count[name] = self.count.get(name, 0) + 1
            self._add_column(part, name, _one_spelling(dtype), footer.layout.types[raw])

    def _check_cases(self, part: Part, names: set[str]) -> None:
        """See that no column has a name in another case in another part: many engines disregard it."""
        alike: dict[str, set[str]] = {}
        for name in names:
            alike.setdefault(name.casefold(), set()).add(name)
        for folded, spelled in alike.items():
            before, first = self.cases.setdefault(folded, (spelled, part.key))
            if spelled != before:
                here, there = (" and ".join(map(repr, sorted(one))) for one in (spelled, before))
                cause = f"column {here} is {there} in {first}: engines that disregard case would take them for one"
                raise SchemaConflict(part.key, cause)

    def _check_ids(self, part: Part, footer: Footer) -> None:
        """See that no field has an id that another one has in another part: engines that go by ids would mix them."""
        paths: dict[int, set[str]] = {}
        for raw, one in footer.layout.types.items():
            for identity, path in field_ids(one.field.with_name(self.rename.get(raw, raw))):
                paths.setdefault(identity, set()).add(path)
        for identity, bearing in paths.items():
            before, first = self.ids.setdefault(identity, (bearing, part.key))
            if bearing != before:
                here, there = (" and ".join(map(repr, sorted(one))) for one in (bearing, before))
                raise SchemaConflict(part.key, f"column {here} has field id {identity}, which {there} has in {first}")

    def _add_column(self, part: Part, name: str, dtype: pl.DataType, found: ColumnType) -> None:
        spelled = self.spellings.setdefault(name, [])
        # The order column is read as a signed one.
        told = "UInt64" if found.annotated == pa.uint64() else str(dtype)
        if told not in spelled and dtype != pl.Null:
            spelled.append(told)
        if name not in self.dtypes:
            self.dtypes[name], self.first_in[name] = dtype, part.key
            self.types[name] = replace(found, field=found.field.with_name(name))
            return
        united = _united(name, (self.dtypes[name], self.types[name]), (dtype, found))
        if united is None:
            told = _told(self.dtypes[name], self.types[name])
            cause = f"column {name!r} is {_told(dtype, found)}, but {told} in {self.first_in[name]}"
            raise SchemaConflict(part.key, f"{cause}: not widened without loss")
        self.dtypes[name], self.types[name] = united

    def columns(self, order_by: str, constants: dict[str, ConstantValue], metadata: dict[bytes, bytes]) -> Columns:
        if order_by in self.dtypes:
            self.dtypes[order_by] = pl.Int64()
            if self.types[order_by].leaves[0] not in _INT64:
                self.types[order_by] = _wide_type(order_by, pl.Int64(), self.types[order_by].field)
        for name, one in self.types.items():
            if self.count[name] < self.schemas:
                self.types[name] = replace(one, field=one.field.with_nullable(nullable=True))
        widened = {
            name: f"{', '.join(spelled)} → {self.dtypes[name]}"
            for name, spelled in self.spellings.items()
            if spelled and spelled != [str(self.dtypes[name])]
        }
        renamed = {name: raw for name, raw in self.origins.items() if name != raw}
        return Columns(order_by, self.dtypes, constants, self.types, widened, renamed, metadata)


def _united(
    name: str, a: tuple[pl.DataType, ColumnType], b: tuple[pl.DataType, ColumnType]
) -> tuple[pl.DataType, ColumnType] | None:
    """One type for both, or None. What differs in anything but width, absence or spelling is not the same."""
    (dtype_a, type_a), (dtype_b, type_b) = a, b
    if dtype_a == dtype_b and _are_one(type_a, type_b, name):
        return a
    if pl.Null in (dtype_a, dtype_b) and dtype_a != dtype_b:
        dtype, kept = b if dtype_a == pl.Null else a
        other = type_a if dtype_a == pl.Null else type_b
        return dtype, replace(kept, field=agreed_field(kept.field, other.field).with_nullable(nullable=True))
    if _durations(type_a.spelled) != _durations(type_b.spelled):
        return None  # to Parquet they are integers, but of one unit and another
    if type_a.leaves == type_b.leaves and dtype_a == dtype_b:
        both = merged_fields(type_a.field, type_b.field.with_name(name))
        if both is None:
            return None
        agree = type_a.spelled == type_b.spelled
        return dtype_a, replace(type_a, field=both, spelled=type_a.spelled if agree else type_a.annotated)
    if not {*type_a.leaves, *type_b.leaves} <= _NUMBERS:
        return None
    united = widen(dtype_a, dtype_b)
    if united is None:
        return None
    return united, _wide_type(name, united, agreed_field(type_a.field, type_b.field))


def _are_one(a: ColumnType, b: ColumnType, name: str) -> bool:
    """Whether two types of flat columns, of which the first is called so, differ in nothing: most do."""
    return (
        (a.leaves, a.annotated, a.spelled) == (b.leaves, b.annotated, b.spelled)
        and not pa.types.is_nested(a.field.type)
        and bool(a.field.equals(b.field.with_name(name), check_metadata=True))
    )


def _durations(kind: pa.DataType) -> list[str]:
    if pa.types.is_nested(kind):
        return [one for at in range(kind.num_fields) for one in _durations(kind.field(at).type)]
    return [str(kind)] if pa.types.is_duration(kind) else []


def _wide_type(name: str, dtype: pl.DataType, like: pa.Field | None = None) -> ColumnType:
    """The type of a column of numbers, nullable and identified as the given field is."""
    kind, leaf = _WIDE[dtype]
    one = pa.field(name, kind) if like is None else like.with_type(kind).with_name(name)
    return ColumnType(one, kind, kind, (leaf,))


def _told(dtype: pl.DataType, found: ColumnType) -> str:
    """A type for people: as Polars has it, and as Parquet has it where that says more."""
    if _durations(found.spelled):
        return str(found.spelled)
    plain = len(found.leaves) == 1 and found.leaves[0] in {*_NUMBERS, _NULL, Leaf("BYTE_ARRAY", "String")}
    return str(dtype) if plain else f"{dtype} ({found})"
