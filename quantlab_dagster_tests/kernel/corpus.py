"""Parts as no honest writer leaves them, and as every writer does: made anew from a seed and a number.

A mutated part is a valid one, changed in one place: in its magic, footer, page headers or pages, by bits or by named
fields. What must hold of it depends on whether the changed bytes carry a checksum. A foreign part is what another
writer makes of known rows: a reader must return them.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from quantlab_dagster_tests.kernel.parquet_file import (
    DATA_PAGE,
    DATA_V1,
    DATA_V2,
    DICTIONARY,
    DICTIONARY_PAGE,
    META,
    NUM_ROWS,
    PAGE_COMPRESSED,
    PAGE_CRC,
    PAGE_SIZE,
    PAGE_TYPE,
    ROW_GROUPS,
    SCHEMA,
    TOTAL_COMPRESSED,
    ParquetFile,
)
from quantlab_dagster_tests.kernel.thrift import BINARY, I32, I64, STRUCT, TRUE, Items, Struct

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "BASES",
    "MUTATIONS",
    "NEIGHBOURS",
    "TABLE",
    "Case",
    "Known",
    "bomb",
    "bombs",
    "mutated",
    "mutations",
    "odd_name",
    "odd_names",
]

ROWS = 40


class Known(StrEnum):
    """What must hold of a part.

    A part of ROWS must come out; one that is CHECKED, because a checksum covers what was changed or because nothing is
    wrong with it, may be refused, but never come out as something else; of one that carries nothing (FREE) no reader
    can know.
    """

    ROWS = "rows"
    CHECKED = "checked"
    FREE = "free"


@dataclass(frozen=True, slots=True)
class Case:
    """A part.

    Attributes:
        id: from which it can be made again.
        region: of the file, or its writer: a row of the table of outcomes.
        data: the part.
        known: what must hold of it.
        table: the rows that it had before it was changed.
    """

    id: str
    region: str
    data: bytes
    known: Known
    table: pa.Table


def rows_of(seed: int, rows: int = ROWS) -> pa.Table:
    """Rows with ties and nulls, of the types that the streams have."""
    rng = Random(seed)
    some = [rng.random() < 0.2 for _ in range(rows)]
    return pa.table(
        {
            "ts_event": pa.array([1_767_830_400_000 + rng.randrange(30) for _ in range(rows)], pa.int64()),
            "origin": pa.array([1_000 * seed + row for row in range(rows)], pa.int64()),
            "venue": pa.array(["binance"] * rows, pa.string()),
            "side": pa.array([rng.choice([1, -1]) for _ in range(rows)], pa.int8()),
            "price": pa.array([None if null else rng.randrange(900) / 8 for null in some], pa.float64()),
            "trade_id": pa.array([None if null else f"t-{rng.randrange(1 << 40)}" for null in some], pa.string()),
        }
    )


TABLE = rows_of(2)
NEIGHBOURS = (rows_of(1), rows_of(3))


def parquet(table: pa.Table, **options: Any) -> bytes:
    """A table as PyArrow writes it."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


_DELTA = {"ts_event": "DELTA_BINARY_PACKED", "trade_id": "DELTA_BYTE_ARRAY", "price": "BYTE_STREAM_SPLIT"}
_WRITTEN: dict[str, dict[str, Any]] = {
    "plain": {"compression": "none", "use_dictionary": False},
    "dictionary": {"compression": "none"},
    "snappy": {"compression": "snappy", "store_schema": False},
    "v2": {"compression": "none", "data_page_version": "2.0"},
    "v2 zstd": {"compression": "zstd", "data_page_version": "2.0"},
    "delta": {"compression": "none", "use_dictionary": False, "column_encoding": _DELTA},
}
BASES: dict[str, dict[str, Any]] = {
    name + crc: {**options, "write_page_checksum": bool(crc), "row_group_size": 25}
    for crc in ("", " crc")
    for name, options in _WRITTEN.items()
}
"""How the parts to be changed are written: each without and with checksums of its pages."""


@cache
def base(name: str) -> bytes:
    """The valid part of that name."""
    return parquet(TABLE, **BASES[name])


# ---- bytes -----------------------------------------------------------------------------------------------------------


def _flip(rng: Random, data: bytes, low: int, high: int, most: int = 3) -> bytes:
    """Some bits changed between two places."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, most)):
        changed[rng.randrange(low, high)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _footer_start(data: bytes) -> int:
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def _magic(rng: Random, data: bytes) -> bytes:
    low = rng.choice([0, len(data) - 4])
    word = rng.choice([b"PARE", b"par1", b"\0" * 4, None])
    return _flip(rng, data, low, low + 4) if word is None else data[:low] + word + data[low + 4 :]


def _footer_length(rng: Random, data: bytes) -> bytes:
    right = len(data) - 8 - _footer_start(data)
    wrong = rng.choice([0, 1, right - 1, right + 1, len(data), 2**31 - 1, 2**31, 2**32 - 1, rng.randrange(2**32)])
    return data[:-8] + wrong.to_bytes(4, "little") + data[-4:]


def _footer_bits(rng: Random, data: bytes) -> bytes:
    return _flip(rng, data, _footer_start(data), len(data) - 8)


def _footer_cut(rng: Random, data: bytes) -> bytes:
    start = _footer_start(data)
    low = rng.randrange(start, len(data) - 9)
    high = rng.randrange(low + 1, len(data) - 8)
    footer = data[start:low] + data[high:-8]
    length = len(footer) if rng.random() < 0.7 else len(data) - 8 - start
    return data[:start] + footer + length.to_bytes(4, "little") + data[-4:]


def _huge_list(rng: Random, data: bytes) -> bytes:
    """A list of the footer says that it has as many items as a number can say."""
    start = _footer_start(data)
    footer = bytearray(data[start:-8])
    place = rng.choice([at for at, byte in enumerate(footer) if byte & 15 in (I32, I64, BINARY, STRUCT)])
    footer[place : place + 1] = bytes([0xF0 | footer[place] & 15]) + b"\xff\xff\xff\xff\x07"
    return data[:start] + bytes(footer) + len(footer).to_bytes(4, "little") + data[-4:]


def _whole_file(rng: Random, data: bytes) -> bytes:
    low, high = sorted(rng.sample(range(len(data) + 1), 2))
    return rng.choice(
        [
            data[:low],
            data[high:],
            data[:low] + data[high:],
            data[:low] + rng.randbytes(high - low) + data[high:],
            data[:low] + bytes(high - low) + data[high:],
            data[:high] + data[low:],
            data[:low] + rng.randbytes(rng.randint(1, 64)) + data[low:],
            rng.randbytes(len(data)),
        ]
    )


# ---- named fields ----------------------------------------------------------------------------------------------------

Change = tuple[Struct, int]
"""A field to be changed: of which struct, and its number."""


def _other_integer(rng: Random, value: int) -> int:
    near = [value - 1, value + 1, -value, 2 * value, value // 2, value + 1000]
    far = [-1, 0, 1, -(2**31), 2**31 - 1, 2**31, 2**32, 2**40, 2**63 - 1, -(2**63), rng.randrange(2**63)]
    return rng.choice([other for other in near + far if other != value])


def _other(rng: Random, kind: int, value: Any) -> Any:
    if kind == TRUE:
        return not value
    if kind == BINARY:
        options = [b"", b"\xff\xfe", value + b"x", value * 100, b"*", b"^.*$", b"a\0b", rng.randbytes(len(value) or 8)]
        return rng.choice([other for other in options if other != value])
    if isinstance(value, Items):
        values = list(value.values)
        changes: list[list[Any]] = [[], values + values, values[1:]]
        if values and not isinstance(values[0], Struct | Items):
            at = rng.randrange(len(values))
            changes.append([*values[:at], _other(rng, value.kind, values[at]), *values[at + 1 :]])
        return Items(value.kind, rng.choice([other for other in changes if other != values] or [values * 2]))
    if isinstance(value, Struct):
        number = rng.choice(list(value.fields) or [0])
        left = {other: found for other, found in value.fields.items() if other != number}
        if not left or rng.random() < 0.5:
            return Struct(left)
        return Struct({**left, number: (value.fields[number][0], _other(rng, *value.fields[number]))})
    return _other_integer(rng, value)


def _change(rng: Random, changes: list[Change]) -> None:
    struct, number = rng.choice(changes)
    kind, value = struct.fields[number]
    struct.fields[number] = (kind, _other(rng, kind, value))


def _there(structs: list[Struct], numbers: tuple[int, ...]) -> list[Change]:
    return [(struct, number) for struct in structs for number in numbers if number in struct]


def _groups(file: ParquetFile) -> list[Struct]:
    return list(file.footer[ROW_GROUPS])


def _elements(file: ParquetFile) -> list[Struct]:
    return list(file.footer[SCHEMA])


def _chunks(file: ParquetFile) -> list[Struct]:
    return [chunk for group in _groups(file) for chunk in group[1]]


def _footer_fields(find: Callable[[ParquetFile], list[Change]]) -> Callable[[Random, bytes], bytes]:
    def mutate(rng: Random, data: bytes) -> bytes:
        file = ParquetFile.of(data)
        for _ in range(rng.choice([1, 1, 1, 2])):
            _change(rng, find(file))
        return file.dump(settle=False)

    return mutate


def _counts(file: ParquetFile) -> list[Change]:
    return [(file.footer, NUM_ROWS), *_there(_groups(file), (3,)), *_there(file.columns, (5,))]


def _sizes(file: ParquetFile) -> list[Change]:
    numbers = (6, TOTAL_COMPRESSED, DATA_PAGE, DICTIONARY_PAGE)
    return [*_there(_groups(file), (2, 5, 6)), *_there(_chunks(file), (2,)), *_there(file.columns, numbers)]


def _types(file: ParquetFile) -> list[Change]:
    return [*_there(_elements(file), (1, 2, 3, 5)), *_there(file.columns, (1,))]


def _encodings(file: ParquetFile) -> list[Change]:
    stats = [found for meta in file.columns if 13 in meta for found in meta[13]]
    return [*_there(file.columns, (2, 4, 13)), *_there(stats, (1, 2, 3))]


def _statistics(file: ParquetFile) -> list[Change]:
    found = [meta[12] for meta in file.columns if 12 in meta]
    return [*_there(found, (1, 2, 3, 4, 5, 6, 7, 8)), *_there(file.columns, (12,))]


def _names(file: ParquetFile) -> list[Change]:
    pairs = list(file.footer[5]) if 5 in file.footer else []
    return [
        *_there(_elements(file), (4,)),
        *_there(file.columns, (3,)),
        *_there([file.footer], (1, 5, 6, 7)),
        *_there(pairs, (1, 2)),
    ]


def _small_type(rng: Random, file: ParquetFile) -> None:
    """A physical type, repetition or length that the format knows, where another one is."""
    element = rng.choice(_elements(file)[1:])
    number = rng.choice([1, 2, 3, 5])
    element.fields[number] = (I32, rng.randrange(8) if number == 1 else rng.randrange(4))
    if number == 1 and rng.random() < 0.5:
        at = _elements(file)[1:].index(element)
        for meta in file.columns[at :: len(_elements(file)) - 1]:
            meta[1] = element[1]


def _types_of_the_format(rng: Random, data: bytes) -> bytes:
    file = ParquetFile.of(data)
    if rng.random() < 0.5:
        _small_type(rng, file)
    else:
        _change(rng, _types(file))
    return file.dump(settle=False)


def _logical_types(rng: Random, data: bytes) -> bytes:
    file = ParquetFile.of(data)
    element = rng.choice(_elements(file)[1:])
    if rng.random() < 0.5:
        element.fields[6] = (I32, rng.choice([*range(-1, 23), 99]))
        element.fields[7] = (I32, rng.choice([-1, 0, 2, 40]))
        element.fields[8] = (I32, rng.choice([-1, 0, 9, 18, 38, 99]))
    else:
        unit = Struct({rng.randint(1, 4): (STRUCT, Struct())})
        inside = rng.choice(
            [
                Struct(),
                Struct({1: (I32, rng.choice([0, 2, 77])), 2: (I32, rng.choice([-1, 0, 9, 77]))}),
                Struct({1: (TRUE, rng.random() < 0.5), 2: (STRUCT, unit)}),
                Struct({1: (3, rng.choice([8, 16, 32, 64, 7])), 2: (TRUE, rng.random() < 0.5)}),
            ]
        )
        element.fields[10] = (STRUCT, Struct({rng.randint(1, 18): (STRUCT, inside)}))
    return file.dump(settle=False)


def _footer_structure(rng: Random, data: bytes) -> bytes:
    """Something of the footer is missing, twice there, or in another's place."""
    file = ParquetFile.of(data)
    structs = [file.footer, *_groups(file), *_elements(file), *_chunks(file), *file.columns]
    lists = [struct.fields[number][1] for struct, number in [(file.footer, SCHEMA), (file.footer, ROW_GROUPS)]]
    lists += [group.fields[1][1] for group in _groups(file)]
    values = rng.choice(lists).values
    at, other = rng.randrange(len(values)), rng.randrange(len(values))
    way = rng.randrange(5)
    if way == 0:
        del values[at]
    elif way == 1:
        values.insert(other, values[at])
    elif way == 2 and at != other:
        values[at], values[other] = values[other], values[at]
    elif way == 3:
        first, second = rng.sample(_chunks(file), 2)
        first.fields[META], second.fields[META] = second.fields[META], first.fields[META]
    else:
        struct = rng.choice([struct for struct in structs if struct.fields])
        del struct.fields[rng.choice(list(struct.fields))]
    return _dump_footer(file, data)


def _dump_footer(file: ParquetFile, data: bytes) -> bytes:
    """The footer, after the pages as they were."""
    footer = file.footer.dump()
    return data[: _footer_start(data)] + footer + len(footer).to_bytes(4, "little") + data[-4:]


# ---- pages -----------------------------------------------------------------------------------------------------------


def _page_counts(rng: Random, data: bytes) -> bytes:
    """A page has another number of values; sometimes the footer says the same."""
    file = ParquetFile.of(data)
    at = rng.randrange(len(file.chunks))
    page = rng.choice(file.chunks[at])
    numbers = [1, 2, 3] if DATA_V2 in page.header and rng.random() < 0.5 else [1]
    number = rng.choice(numbers)
    page.kind[number] = value = _other_integer(rng, page.kind[number])
    if number == 1 and not page.is_dictionary and rng.random() < 0.3:
        file.columns[at][5] = value
        if rng.random() < 0.5:
            _groups(file)[at // len(file.footer[ROW_GROUPS][0][1])][3] = value
            file.footer[NUM_ROWS] = sum(group[3] for group in _groups(file))
    return file.dump()


def _page_fields(numbers: tuple[int, ...], of_kind: dict[int, tuple[int, ...]]) -> Callable[[Random, bytes], bytes]:
    def mutate(rng: Random, data: bytes) -> bytes:
        file = ParquetFile.of(data)
        changes = _there([page.header for page in file.pages], numbers)
        for kind, inner in of_kind.items():
            changes += _there([page.header[kind] for page in file.pages if kind in page.header], inner)
        if not changes:  # only the second version has lengths of levels: in the first they are in the body
            return _level_bytes(rng, file)
        struct, number = rng.choice(changes)
        kind, value = struct.fields[number]
        if kind == I32 and rng.random() < 0.4:
            struct.fields[number] = (kind, rng.choice([other for other in range(12) if other != value]))
        else:
            struct.fields[number] = (kind, _other(rng, kind, value))
        return file.dump()

    return mutate


def _level_bytes(rng: Random, file: ParquetFile) -> bytes:
    """The length and the runs of the definition levels, at the beginning of the body."""
    page = rng.choice([page for page in file.pages if not page.is_dictionary and len(page.body) > 8])
    length = int.from_bytes(page.body[:4], "little")
    if rng.random() < 0.5:
        wrong = rng.choice([0, 1, length + 1, length + 1000, 2**31 - 1, 2**31, 2**32 - 1])
        page.body = wrong.to_bytes(4, "little") + page.body[4:]
    else:
        page.body = page.body[:4] + rng.randbytes(min(6, len(page.body) - 4)) + page.body[10:]
    return file.dump()


def _header_structure(rng: Random, data: bytes) -> bytes:
    file = ParquetFile.of(data)
    page = rng.choice(file.pages)
    struct = rng.choice([page.header, page.kind])
    del struct.fields[rng.choice(list(struct.fields))]
    return file.dump()


def _header_bits(rng: Random, data: bytes) -> bytes:
    file = ParquetFile.of(data)
    meta = rng.choice(file.columns)
    start = meta[DICTIONARY_PAGE] if DICTIONARY_PAGE in meta and rng.random() < 0.5 else meta[DATA_PAGE]
    return _flip(rng, data, start, start + 16)


def _body(*, dictionary: bool) -> Callable[[Random, bytes], bytes]:
    def mutate(rng: Random, data: bytes) -> bytes:
        file = ParquetFile.of(data)
        found = [page for page in file.pages if page.is_dictionary == dictionary and page.body]
        page = rng.choice(found)
        way = rng.randrange(6)
        if way < 4:
            page.body = _flip(rng, page.body, 0, len(page.body), 1 + way)
        elif way == 4:  # shorter, and the header says so
            page.body = page.body[: rng.randrange(len(page.body))]
            page.header[PAGE_COMPRESSED] = len(page.body)
        else:
            low = rng.randrange(len(page.body))
            page.body = page.body[:low] + rng.randbytes(len(page.body) - low)
        return file.dump()

    return mutate


@dataclass(frozen=True, slots=True)
class Mutation:
    """A way to change a part.

    Attributes:
        region: what is changed.
        mutate: a valid part into another one.
        covered: whether a checksum of its page covers what is changed, where the part has them.
        weight: how often, among the others.
        bases: the parts that have what is changed.
    """

    region: str
    mutate: Callable[[Random, bytes], bytes]
    covered: bool = False
    weight: int = 2
    bases: tuple[str, ...] = tuple(BASES)


_WITH_DICTIONARY = tuple(name for name, options in BASES.items() if options.get("use_dictionary", True))
MUTATIONS = (
    Mutation("magic", _magic, weight=1),
    Mutation("footer: length", _footer_length, weight=1),
    Mutation("footer: bits", _footer_bits, weight=4),
    Mutation("footer: cut", _footer_cut),
    Mutation("footer: endless lists", _huge_list, weight=1),
    Mutation("footer: rows and values", _footer_fields(_counts), weight=3),
    Mutation("footer: sizes and offsets", _footer_fields(_sizes), weight=4),
    Mutation("footer: physical types, repetition", _types_of_the_format, weight=3),
    Mutation("footer: logical types", _logical_types, weight=3),
    Mutation("footer: encodings, codec", _footer_fields(_encodings)),
    Mutation("footer: statistics", _footer_fields(_statistics)),
    Mutation("footer: names, metadata", _footer_fields(_names)),
    Mutation("footer: structure", _footer_structure, weight=3),
    Mutation("page header: numbers of values", _page_counts, weight=4),
    Mutation("page header: sizes", _page_fields((PAGE_SIZE, PAGE_COMPRESSED), {}), weight=3),
    Mutation(
        "page header: encodings, kind",
        _page_fields((PAGE_TYPE,), {DATA_V1: (2, 3, 4), DATA_V2: (4, 7), DICTIONARY: (2, 3)}),
    ),
    Mutation("page header: lengths of levels", _page_fields((), {DATA_V2: (5, 6)})),
    Mutation("page header: checksum, statistics", _page_fields((PAGE_CRC,), {DATA_V1: (5,), DATA_V2: (8,)}), weight=1),
    Mutation("page header: structure", _header_structure),
    Mutation("page header: bits", _header_bits, weight=3),
    Mutation("data pages", _body(dictionary=False), covered=True, weight=8),
    Mutation("dictionary pages", _body(dictionary=True), covered=True, weight=4, bases=_WITH_DICTIONARY),
    Mutation("anywhere", _whole_file, weight=3),
)
_TURNS = [mutation for mutation in MUTATIONS for _ in range(mutation.weight)]


def mutated(seed: int, number: int) -> Case:
    """The mutated part of that number; regions and bases take turns."""
    rng = Random(f"{seed}:{number}")
    mutation = _TURNS[number % len(_TURNS)]
    name = rng.choice(mutation.bases)
    valid = base(name)
    data = valid
    while data == valid:
        data = mutation.mutate(rng, valid)
    crc = bool(BASES[name]["write_page_checksum"])
    known = Known.CHECKED if mutation.covered and crc else Known.FREE
    region = mutation.region + (f", {'with' if crc else 'without'} checksums" if mutation.covered else "")
    return Case(f"mutated:{seed}:{number}", region, data, known, TABLE)


def mutations(seed: int, count: int) -> list[Case]:
    """So many mutated parts: every region as often as its weight says."""
    return [mutated(seed, number) for number in range(count)]


# ---- bombs -----------------------------------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _one_column(**options: Any) -> ParquetFile:
    """A part of nothing but required time stamps."""
    schema = pa.schema([pa.field("ts_event", pa.int64(), nullable=False)])
    table = pa.table({"ts_event": [1_767_830_400_000] * ROWS}, schema)
    return ParquetFile.of(parquet(table, compression="none", store_schema=False, write_statistics=False, **options))


def _declare(file: ParquetFile, rows: int) -> None:
    file.footer[NUM_ROWS] = _groups(file)[0][3] = file.columns[0][5] = rows


def _run_length(rows: int) -> bytes:
    """A dictionary of one value, and one run of it."""
    file = _one_column()
    page = file.chunks[0][-1]
    page.body = b"\x01" + _varint(rows << 1) + b"\0"
    page.header[PAGE_SIZE] = page.header[PAGE_COMPRESSED] = len(page.body)
    page.kind[1] = rows
    _declare(file, rows)
    return file.dump()


def _plain_zeros(rows: int) -> bytes:
    """A page of zeros, compressed to nearly nothing."""
    file = _one_column(use_dictionary=False)
    page = file.chunks[0][0]
    page.body = pa.Codec("zstd").compress(bytes(8 * rows), asbytes=True)
    page.header[PAGE_SIZE], page.header[PAGE_COMPRESSED] = 8 * rows, len(page.body)
    page.kind[1] = rows
    file.columns[0][4] = 6
    _declare(file, rows)
    return file.dump()


def _declared_page(size: int) -> bytes:
    """A page that says it is huge; it is not."""
    file = _one_column(use_dictionary=False)
    page = file.chunks[0][0]
    page.body = pa.Codec("zstd").compress(page.body, asbytes=True)
    page.header[PAGE_SIZE], page.header[PAGE_COMPRESSED] = size, len(page.body)
    file.columns[0][4] = 6
    return file.dump()


def _snappy_preamble(size: int) -> bytes:
    file = _one_column(use_dictionary=False)
    page = file.chunks[0][0]
    page.body = _varint(size) + b"\xff" * 12
    page.header[PAGE_SIZE], page.header[PAGE_COMPRESSED] = 8 * ROWS, len(page.body)
    file.columns[0][4] = 1
    return file.dump()


def _negative_values(version: str) -> bytes:
    file = ParquetFile.of(parquet(TABLE, data_page_version=version, compression="none", use_dictionary=False))
    file.chunks[0][0].kind[1] = -ROWS
    return file.dump()


def _deep_schema(levels: int) -> bytes:
    """Groups within groups within groups."""
    file = _one_column(use_dictionary=False)
    root, leaf = _elements(file)
    group = Struct({3: (I32, 1), 4: (BINARY, b"g"), 5: (I32, 1)})
    items = file.footer.fields[SCHEMA][1]
    root[5] = 2
    items.values[:] = [root, leaf, *[group] * levels, Struct({1: (I32, 2), 3: (I32, 1), 4: (BINARY, b"x")})]
    return file.dump()


def _many_columns(columns: int) -> bytes:
    file = _one_column(use_dictionary=False)
    root, leaf = _elements(file)
    root[5] = columns + 1
    more = [Struct({**leaf.fields, 4: (BINARY, b"c%d" % number)}) for number in range(columns)]
    file.footer.fields[SCHEMA][1].values[:] = [root, leaf, *more]
    return file.dump()


_BOMBS: dict[str, Callable[[], bytes]] = {
    "a run of 30,000,000 rows": lambda: _run_length(30_000_000),
    "a run of 100,000,000 rows": lambda: _run_length(100_000_000),
    "a run of 2,000,000,000 rows": lambda: _run_length(2_000_000_000),
    "a page of 100,000,000 zeros": lambda: _plain_zeros(100_000_000),
    "a page that says 2 GiB": lambda: _declared_page(2**31 - 1),
    "a page that says 1 GiB": lambda: _declared_page(2**30),
    "a page of a negative size": lambda: _declared_page(-1),
    "a snappy block that says 4 GiB": lambda: _snappy_preamble(2**32 - 1),
    "a negative number of values": lambda: _negative_values("1.0"),
    "a negative number of values, version 2": lambda: _negative_values("2.0"),
    "groups 10,000 deep": lambda: _deep_schema(10_000),
    "groups 100 deep": lambda: _deep_schema(100),
    "100,000 columns without data": lambda: _many_columns(100_000),
}


def bomb(name: str) -> Case:
    """A small part that asks for a lot, or is known to have ended processes. It may be refused."""
    return Case(f"bomb:{name}", "bombs", _BOMBS[name](), Known.FREE, TABLE)


def bombs() -> list[Case]:
    """All of them."""
    return [bomb(name) for name in _BOMBS]


# ---- odd names -------------------------------------------------------------------------------------------------------

ODD_NAMES = (
    "*",
    "^.*$",
    "^t.*$",
    "",
    " ",
    "\0",
    "a\nb",
    "TS_EVENT",
    "Price",
    "position",
    "a.b",
    "x" * 10_000,
    "\u202e",
)


def odd_name(number: int) -> Case:
    """A part with a column more, of an odd name: its values come out under that name, or the part is refused."""
    table = TABLE.append_column(ODD_NAMES[number], pa.array(range(ROWS), pa.int64()))
    return Case(f"odd name:{number}", "names of columns", parquet(table), Known.CHECKED, table)


def odd_names() -> list[Case]:
    """All of them."""
    return [odd_name(number) for number in range(len(ODD_NAMES))]
