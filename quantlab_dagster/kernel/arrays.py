"""Arrays of Polars as arrays of the types that a file has."""

from __future__ import annotations

import pyarrow as pa

__all__ = ["retyped"]


def retyped(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """The same values as a column of another type, which may have required fields within what is not required.

    Args:
        column: as Polars gives it: what is in a null struct is null, too. `pa.Array.cast` takes that for a missing
            value of a required field, and refuses.
        kind: of the same shape.
    """
    if column.type == kind:
        return column
    return pa.chunked_array([_retyped(chunk, kind) for chunk in column.chunks], kind)


def _retyped(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type == kind:
        return array
    if pa.types.is_struct(kind):
        return _struct(array, kind, array.is_null())
    if pa.types.is_large_list(kind):
        return _listed(array, kind, _retyped(array.values, kind.value_type))
    return array.cast(kind)


def _struct(array: pa.Array, kind: pa.DataType, mask: pa.Array | None) -> pa.Array:
    children = []
    for at in range(kind.num_fields):
        child = _retyped(array.field(at), kind.field(at).type)
        children.append(child if kind.field(at).nullable else _required(child))
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=mask)


def _required(array: pa.Array) -> pa.Array:
    """The same values, and where there is none, whatever lies there: nobody sees it."""
    if not array.null_count:
        return array
    if pa.types.is_struct(array.type):
        return _struct(array, array.type, None)
    if pa.types.is_large_list(array.type):
        return _listed(array, array.type, array.values, nulls=False)
    return pa.Array.from_buffers(array.type, len(array), [None, *array.buffers()[1:]], 0, array.offset)


def _listed(array: pa.Array, kind: pa.DataType, values: pa.Array, *, nulls: bool = True) -> pa.Array:
    valid, offsets = array.buffers()[:2]
    buffers = [valid if nulls else None, offsets]
    return pa.Array.from_buffers(kind, len(array), buffers, -1 if nulls else 0, array.offset, [values])
