"""The union of the parts' schemas: one dtype per column, widened without loss, or an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from quantlab_dagster.errors import SchemaConflict
from quantlab_dagster.kernel.parts import Footer, Part, is_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["SEQ", "Columns", "ConstantValue", "may_be_constant", "odd_ones", "unite", "widen"]

SEQ = "seq"

ConstantValue = int | str | bool

# Parquet keeps none of these as they are: a Duration comes back as an integer, an Array as a list, an Enum as text (and
# the scan does not make text of it), the others cannot be written.
_UNSUPPORTED = (pl.Duration, pl.Array, pl.Enum, pl.Int128, pl.UInt128, pl.Object, pl.Unknown)


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a merged file, before numbering.

    Attributes:
        order_by: the integer column that orders the rows.
        dtypes: name to dtype, in the order of first appearance in key order.
        constants: columns that hold the same value in every row of every part, as the survey saw. They are not decoded
            again, and neither sorted, hashed nor carried along.
    """

    order_by: str
    dtypes: dict[str, pl.DataType]
    constants: dict[str, ConstantValue]

    @property
    def varying(self) -> list[str]:
        """Names of the columns that are carried through the merge, in order."""
        return [name for name in self.dtypes if name not in self.constants]

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
) -> Columns:
    """Unite the schemas of all parts, which must come in key order.

    Args:
        parts: the parts, for naming the culprit.
        footers: their footers, in the same order.
        order_by: must be an integer column of every part, and becomes Int64.
        constants: columns known to hold one value in every row of every part.
        reserved: column names that the output adds itself.

    Raises:
        SchemaConflict: naming part and column.
    """
    dtypes: dict[str, pl.DataType] = {}
    first_in: dict[str, str] = {}
    seen: set[int] = set()
    for part, footer in zip(parts, footers, strict=True):
        if id(footer.schema) in seen:
            continue
        seen.add(id(footer.schema))
        if order_by not in footer.schema:
            raise SchemaConflict(part.key, f"column {order_by!r} is missing")
        if widen(footer.schema[order_by], pl.Int64()) != pl.Int64:
            cause = f"column {order_by!r} is {footer.schema[order_by]}, no integer that fits into 64 signed bits"
            raise SchemaConflict(part.key, cause)
        for name, dtype in footer.schema.items():
            if name in reserved:
                raise SchemaConflict(part.key, f"column {name!r} is reserved for the compacted file")
            _unite_column(part, name, dtype, dtypes, first_in)
    if order_by in dtypes:
        dtypes[order_by] = pl.Int64()
    return Columns(order_by, dtypes, dict(constants or {}))


def odd_ones(parts: Iterable[Part], footers: Iterable[Footer], order_by: str) -> dict[str, str]:
    """The parts that keep the others from being united: those whose schemas are rarer.

    Args:
        parts: in key order.
        footers: theirs; parts of equal schemas share them.
        order_by: must be an integer column of every part.

    Returns:
        Key of each such part, and why it does not unite with the others; empty if all do.
    """
    groups: dict[int, list[tuple[Part, Footer]]] = {}
    for part, footer in zip(parts, footers, strict=True):
        groups.setdefault(id(footer.schema), []).append((part, footer))
    united: list[tuple[Part, Footer]] = []
    odd: dict[str, str] = {}
    for group in sorted(groups.values(), key=len, reverse=True):
        candidate = [*united, group[0]]
        try:
            unite([part for part, _ in candidate], [footer for _, footer in candidate], order_by)
            united = candidate
        except SchemaConflict as error:
            odd |= {part.key: error.cause for part, _ in group}
    return odd


def _unite_column(
    part: Part, name: str, dtype: pl.DataType, dtypes: dict[str, pl.DataType], first_in: dict[str, str]
) -> None:
    if _contains_unsupported(dtype):
        raise SchemaConflict(
            part.key, f"column {name!r} is {dtype}, which Parquet readers would not give back as it is"
        )
    if name not in dtypes:
        dtypes[name] = _one_spelling(dtype)
        first_in[name] = part.key
        return
    united = widen(dtypes[name], dtype)
    if united is None:
        cause = f"column {name!r} is {dtype}, but {dtypes[name]} in {first_in[name]}: not widened without loss"
        raise SchemaConflict(part.key, cause)
    dtypes[name] = united


def _contains_unsupported(dtype: pl.DataType) -> bool:
    if isinstance(dtype, _UNSUPPORTED):
        return True
    if isinstance(dtype, pl.List):
        inside = [dtype.inner]
    elif isinstance(dtype, pl.Map):
        inside = [dtype.key, dtype.value]
    elif isinstance(dtype, pl.Struct):
        inside = [field.dtype for field in dtype.fields]
    else:
        return False
    inner_dtypes = [inner if isinstance(inner, pl.DataType) else inner() for inner in inside]
    # Plain text is spelled the same everywhere; inside of something it is not, and would come back as String.
    return any(isinstance(inner, pl.Categorical) or _contains_unsupported(inner) for inner in inner_dtypes)
