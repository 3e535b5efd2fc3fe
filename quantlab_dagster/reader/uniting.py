"""Which type holds the values of several types as they are; pure.

Days are written apart, and a column may be wider in one of them. What is widened must not change a value: what cannot
be held exactly by one type is not united.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

__all__ = ["united"]

_MAX_DIGITS = 38


class _Number(NamedTuple):
    """What a type of numbers holds exactly.

    Attributes:
        is_float: whether also fractions.
        is_signed: whether also what is below zero.
        bits: of the greatest integer up to which it holds all.
        digits: the same in decimal digits, rounded up; 0 for floats, which are no decimals.
    """

    is_float: bool
    is_signed: bool
    bits: int
    digits: int = 0

    def holds(self, other: _Number) -> bool:
        is_kind = self.is_float if other.is_float else self.is_signed or not other.is_signed
        return is_kind and self.bits >= other.bits


_NUMBERS: dict[pl.DataType, _Number] = {  # the least first
    pl.UInt8(): _Number(False, False, 8, 3),
    pl.Int8(): _Number(False, True, 7, 3),
    pl.UInt16(): _Number(False, False, 16, 5),
    pl.Int16(): _Number(False, True, 15, 5),
    pl.UInt32(): _Number(False, False, 32, 10),
    pl.Int32(): _Number(False, True, 31, 10),
    pl.UInt64(): _Number(False, False, 64, 20),
    pl.Int64(): _Number(False, True, 63, 19),
    pl.Float16(): _Number(True, True, 11),
    pl.Float32(): _Number(True, True, 24),
    pl.Float64(): _Number(True, True, 53),
}
_UNITS = ("ms", "us", "ns")


def united(found: Iterable[pl.DataType]) -> pl.DataType | None:
    """The least type that holds every value of these types as it is; None if there is none.

    Numbers become wider ones, decimals likewise, times those of the finer unit, texts of all kinds texts. What is
    nested is not looked into: it must be equal.
    """
    dtypes = {dtype for dtype in found if dtype != pl.Null}
    if len(dtypes) <= 1:
        return next(iter(dtypes), pl.Null())
    return _number(dtypes) or _decimal(dtypes) or _time(dtypes) or _text(dtypes)


def _number(dtypes: Collection[pl.DataType]) -> pl.DataType | None:
    if not all(dtype in _NUMBERS for dtype in dtypes):
        return None
    numbers = [_NUMBERS[dtype] for dtype in dtypes]
    return next((dtype for dtype, wide in _NUMBERS.items() if all(wide.holds(one) for one in numbers)), None)


def _decimal(dtypes: Collection[pl.DataType]) -> pl.DataType | None:
    """A decimal with the most digits on both sides of the point; integers have none behind it."""
    if not any(isinstance(dtype, pl.Decimal) for dtype in dtypes):
        return None
    whole, scale = 0, 0
    for dtype in dtypes:
        if isinstance(dtype, pl.Decimal):
            whole, scale = max(whole, (dtype.precision or _MAX_DIGITS) - dtype.scale), max(scale, dtype.scale)
        elif dtype in _NUMBERS and (digits := _NUMBERS[dtype].digits):
            whole = max(whole, digits)
        else:
            return None
    return pl.Decimal(whole + scale, scale) if whole + scale <= _MAX_DIGITS else None


def _time(dtypes: Collection[pl.DataType]) -> pl.DataType | None:
    """Of one zone, in the finest unit."""
    kinds = [(type(dtype), getattr(dtype, "time_zone", None)) for dtype in dtypes]
    if not all(issubclass(kind, pl.Datetime | pl.Duration) for kind, _ in kinds):
        return None
    if any(one != other for one, other in pairwise(kinds)):
        return None
    return max(dtypes, key=lambda dtype: _UNITS.index(getattr(dtype, "time_unit", "ms")))


def _text(dtypes: Collection[pl.DataType]) -> pl.DataType | None:
    is_text = all(isinstance(dtype, pl.String | pl.Categorical | pl.Enum) for dtype in dtypes)
    return pl.String() if is_text else None
