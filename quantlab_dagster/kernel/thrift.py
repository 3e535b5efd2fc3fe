"""Just enough of Thrift's compact protocol to find, and to change, what a Parquet footer says of its columns.

PyArrow parses every footer first; this only takes a sound one apart without understanding what it need not.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "STRUCT",
    "Elements",
    "RawField",
    "elements_of",
    "integer",
    "integer_bytes",
    "struct_at",
    "struct_bytes",
    "structs_bytes",
    "structs_of",
    "varint",
]

RawField = tuple[int, int, bytes]
"""Field id, compact type, and payload as it lies in the file. A boolean has no payload: its type is its value."""

_BOOLEANS, _BYTE, _INTEGERS, _DOUBLE, _BINARY = (1, 2), 3, (4, 5, 6), 7, 8
_LISTS, STRUCT = (9, 10), 12
_MORE = 128  # bit of a byte of a number that others follow
_LONG = 15  # says that a number follows instead
_SCHEMA = 2  # field of FileMetaData
_DEEPEST = 32


@dataclass(frozen=True, slots=True)
class Elements:
    """The schema elements of a footer, the root first.

    Attributes:
        start: offset of the first element.
        end: offset behind the last one.
        fields: of each element.
    """

    start: int
    end: int
    fields: tuple[tuple[RawField, ...], ...]


def elements_of(footer: bytes) -> Elements:
    """Find the schema elements of a footer.

    Raises:
        ValueError: there are none, or the footer is not what the compact protocol makes.
    """
    try:
        at = last = 0
        while True:
            kind, last, at = _field_header(footer, at, last)
            if not kind:
                raise ValueError("it has no schema")
            if last == _SCHEMA:
                break
            at = _behind(footer, at, kind, 0)
        _, count, start = _list_header(footer, at)
        at, elements = start, []
        for _ in range(count):
            fields, at = _struct_fields(footer, at, 0)
            elements.append(tuple(fields))
    except IndexError as error:
        raise ValueError("its schema ends too early") from error
    return Elements(start, at, tuple(elements))


def struct_bytes(fields: list[RawField]) -> bytes:
    """A struct of these fields, in the order of their ids."""
    parts, last = [], 0
    for identity, kind, payload in sorted(fields):
        delta = identity - last
        parts.append(bytes([delta << 4 | kind]) if 0 < delta <= _LONG else bytes([kind]) + _varint_bytes(identity << 1))
        parts.append(payload)
        last = identity
    return b"".join(parts) + b"\0"


def structs_bytes(structs: list[bytes]) -> bytes:
    """A list of structs, each as `struct_bytes` makes it."""
    count = len(structs)
    head = bytes([count << 4 | STRUCT]) if count < _LONG else bytes([_LONG << 4 | STRUCT]) + _varint_bytes(count)
    return head + b"".join(structs)


def struct_at(data: bytes, at: int = 0) -> tuple[list[RawField], int]:
    """The fields of the struct that begins there, and the offset behind it.

    Raises:
        ValueError: it is not what the compact protocol makes.
        IndexError: it ends too early.
    """
    return _struct_fields(data, at, 0)


def structs_of(payload: bytes) -> list[list[RawField]]:
    """The fields of each struct of a list, whose payload this is. Raises as `struct_at`."""
    kind, count, at = _list_header(payload, 0)
    if count and kind != STRUCT:
        raise ValueError(f"it has a list of type {kind} where structs should be")
    structs = []
    for _ in range(count):
        fields, at = _struct_fields(payload, at, 0)
        structs.append(fields)
    return structs


def integer(payload: bytes) -> int:
    """The value of an integer field."""
    value, _ = varint(payload, 0)
    return value >> 1 ^ -(value & 1)


def integer_bytes(value: int) -> bytes:
    """The payload of an integer field, which is not negative."""
    return _varint_bytes(value << 1)


def _struct_fields(data: bytes, at: int, depth: int) -> tuple[list[RawField], int]:
    fields: list[RawField] = []
    last = 0
    while True:
        kind, last, at = _field_header(data, at, last)
        if not kind:
            return fields, at
        end = _behind(data, at, kind, depth + 1)
        fields.append((last, kind, data[at:end]))
        at = end


def _field_header(data: bytes, at: int, last: int) -> tuple[int, int, int]:
    """Type (0: the struct ends), id, and the offset behind the header."""
    head = data[at]
    at += 1
    if not head & 15:
        return 0, last, at
    if head >> 4:
        return head & 15, last + (head >> 4), at
    value, at = varint(data, at)
    return head, value >> 1, at


def _list_header(data: bytes, at: int) -> tuple[int, int, int]:
    head = data[at]
    if head >> 4 < _LONG:
        return head & 15, head >> 4, at + 1
    count, at = varint(data, at + 1)
    return head & 15, count, at


def _behind(data: bytes, at: int, kind: int, depth: int) -> int:
    """The offset behind a value."""
    if depth > _DEEPEST:
        raise ValueError("its schema is nested too deeply")
    if kind in _BOOLEANS:
        return at
    if kind in _INTEGERS:
        return _behind_number(data, at)
    if kind == _BINARY:
        size, at = varint(data, at)
        return at + size
    if kind == _BYTE:
        return at + 1
    if kind == _DOUBLE:
        return at + 8
    if kind == STRUCT:
        return _behind_struct(data, at, depth)
    if kind in _LISTS:
        inner, count, at = _list_header(data, at)
        for _ in range(count):
            at = at + 1 if inner in _BOOLEANS else _behind(data, at, inner, depth + 1)
        return at
    raise ValueError(f"its schema has a value of type {kind}")  # a map: Parquet has none


def _behind_struct(data: bytes, at: int, depth: int) -> int:
    while kind := data[at] & 15:
        at = at + 1 if data[at] >> 4 else _behind_number(data, at + 1)
        if kind in _INTEGERS:  # most are, and a call for each would be most of the time
            while data[at] >= _MORE:
                at += 1
            at += 1
        else:
            at = _behind(data, at, kind, depth + 1)
    return at + 1


def _behind_number(data: bytes, at: int) -> int:
    while data[at] >= _MORE:
        at += 1
    return at + 1


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, and the offset behind it."""
    if data[at] < _MORE:
        return data[at], at + 1
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < _MORE:
            return value, at
        shift += 7


def _varint_bytes(value: int) -> bytes:
    parts = bytearray()
    while value >= _MORE:
        parts.append(value & 127 | _MORE)
        value >>= 7
    return bytes([*parts, value])
