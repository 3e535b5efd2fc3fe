"""Thrift's compact protocol as plain values that can be changed: what footers and page headers are written in.

Nothing is known of what the fields mean, so every field of any version of the format can be read, changed and written.
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Items", "Struct", "read_struct"]

TRUE, FALSE, I8, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
INTEGERS = (I16, I32, I64)


@dataclass(slots=True)
class Items:
    """A list.

    Attributes:
        kind: wire type of its items.
        values: integers, bytes, floats, `Struct` or `Items`.
    """

    kind: int
    values: list[Any]


@dataclass(slots=True)
class Struct:
    """A struct: by field id, its wire type and value; in ascending order when written."""

    fields: dict[int, tuple[int, Any]] = field(default_factory=dict)

    def __contains__(self, number: int) -> bool:
        return number in self.fields

    def __getitem__(self, number: int) -> Any:
        """The value of a field; of a list its values."""
        value = self.fields[number][1]
        return value.values if isinstance(value, Items) else value

    def __setitem__(self, number: int, value: Any) -> None:
        """Change a field that is there, keeping its type."""
        self.fields[number] = (self.fields[number][0], value)

    def dump(self) -> bytes:
        """The struct on the wire."""
        out = bytearray()
        _write_struct(out, self)
        return bytes(out)


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_struct(data: bytes, at: int = 0) -> tuple[Struct, int]:
    """A struct, and the place after it."""
    found, number = Struct(), 0
    while (head := data[at]) != 0:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _zigzag(data, at)
        kind = head & 15
        if kind in (TRUE, FALSE):
            found.fields[number] = (TRUE, kind == TRUE)
            continue
        value, at = _read(data, at, kind)
        found.fields[number] = (kind, value)
    return found, at + 1


def _read(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in (TRUE, FALSE, I8):  # a boolean of a list takes a byte
        return int.from_bytes(data[at : at + 1], "little", signed=True), at + 1
    if kind in INTEGERS:
        return _zigzag(data, at)
    if kind == DOUBLE:
        return struct.unpack_from("<d", data, at)[0], at + 8
    if kind == BINARY:
        length, at = _varint(data, at)
        return data[at : at + length], at + length
    if kind in (LIST, SET):
        size, of_kind = data[at] >> 4, data[at] & 15
        at += 1
        if size == 15:
            size, at = _varint(data, at)
        values = []
        for _ in range(size):
            value, at = _read(data, at, of_kind)
            values.append(value)
        return Items(of_kind, values), at
    if kind == STRUCT:
        return read_struct(data, at)
    raise ValueError(f"type {kind} is not read here")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


# ---- writing ---------------------------------------------------------------------------------------------------------


def _write_struct(out: bytearray, found: Struct) -> None:
    before = 0
    for number, (kind, value) in sorted(found.fields.items()):
        on_wire = (TRUE if value else FALSE) if kind == TRUE else kind
        if 0 < number - before < 16:
            out.append((number - before) << 4 | on_wire)
        else:
            out.append(on_wire)
            _write_varint(out, number << 1)
        before = number
        if kind != TRUE:
            _write(out, kind, value)
    out.append(0)


def _write(out: bytearray, kind: int, value: Any) -> None:
    if kind in (TRUE, FALSE, I8):
        out += int(value).to_bytes(1, "little", signed=True)
    elif kind in INTEGERS:
        bits = {I16: 16, I32: 32, I64: 64}[kind]
        value = (value + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))
        _write_varint(out, (value << 1) ^ (value >> (bits - 1)))
    elif kind == DOUBLE:
        out += struct.pack("<d", value)
    elif kind == BINARY:
        _write_varint(out, len(value))
        out += value
    elif kind in (LIST, SET):
        size = len(value.values)
        out.append(min(size, 15) << 4 | value.kind)
        if size >= 15:
            _write_varint(out, size)
        for item in value.values:
            _write(out, value.kind, item)
    else:
        _write_struct(out, value)


def _write_varint(out: bytearray, value: int) -> None:
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
