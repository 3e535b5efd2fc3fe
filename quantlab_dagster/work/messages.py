"""What parent and child say to each other, through two pipes. Loads no engine.

A message is its length, and a pickled object. The contents of parts follow the message that announces them as they are:
they are neither pickled nor joined.
"""

from __future__ import annotations

import os
import pickle
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from quantlab_dagster.kernel.terms import FileDigest, Observer, Order

__all__ = [
    "AddParts",
    "Digest",
    "Digested",
    "Drop",
    "Failed",
    "FinishSurvey",
    "Handed",
    "Inspect",
    "Merge",
    "Progress",
    "Ready",
    "Request",
    "Result",
    "Surveyed",
    "Try",
    "message",
    "read_message",
    "write_all",
]

_LENGTH = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Handed:
    """A part that is handed over.

    Attributes:
        key: of the part.
        size_bytes: of it.
        path: where it is; None if its bytes follow the message.
    """

    key: str
    size_bytes: int
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class AddParts:
    """Survey more parts of a job, whose keys follow those before; the first ones begin it."""

    job: int
    order: Order
    stride: int
    budget_bytes: int
    total_bytes: int
    parts: tuple[Handed, ...]


@dataclass(frozen=True, slots=True)
class FinishSurvey:
    """All parts of the job are there: a `Surveyed` comes back."""

    job: int
    order: Order
    budget_bytes: int


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What the parent must know of a survey: the range of the order column, None without rows."""

    key_range: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Merge:
    """Merge what was surveyed, as `kernel.merge`: `Merged` and the file's SHA-256 come back."""

    job: int
    output: Path
    scratch: Path
    budget_bytes: int
    bucket_width: int | None
    metadata: dict[str, str] | None
    row_group_rows: int | None
    threads: int
    split: bool
    observer: Observer | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget a job and its parts. Nothing comes back."""

    job: int


@dataclass(frozen=True, slots=True)
class Digest:
    """Read a sorted file back, as `kernel.digest`: a `Digested` comes back."""

    path: Path
    order_by: str


@dataclass(frozen=True, slots=True)
class Digested:
    """A file's digest, and its columns: name to Polars dtype."""

    digest: FileDigest
    columns: dict[str, str]


@dataclass(frozen=True, slots=True)
class Inspect:
    """Which parts are bad, and which of the others unite: a `Grouping` comes back. Each key is announced before."""

    parts: tuple[Handed, ...]
    order: Order
    budget_bytes: int


@dataclass(frozen=True, slots=True)
class Try:
    """Decode each part alone; its key is announced as progress before. None comes back if none of them is bad."""

    parts: tuple[Handed, ...]
    order: Order
    budget_bytes: int


Request = AddParts | FinishSurvey | Merge | Drop | Digest | Inspect | Try


@dataclass(frozen=True, slots=True)
class Ready:
    """The child has loaded what it needs."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A call has begun, or goes on: with the part of this key, if it says so."""

    call: int
    key: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What a call gave."""

    call: int
    value: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """What a call raised."""

    call: int
    error: BaseException


def message(content: object) -> bytes:
    """An object, ready to be written."""
    pickled = pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(pickled)) + pickled


def read_message(pipe: BinaryIO) -> Any:
    """The next object of a pipe.

    Raises:
        EOFError: the other side has gone.
    """
    (length,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))
    return pickle.loads(_exactly(pipe, length))  # noqa: S301 - from our own child or parent


def read_content(pipe: BinaryIO, size_bytes: int) -> bytes:
    """The contents of a part; raises as `read_message`."""
    return _exactly(pipe, size_bytes)


def _exactly(pipe: BinaryIO, size_bytes: int) -> bytes:
    found = pipe.read(size_bytes)
    if len(found) != size_bytes:
        raise EOFError
    return found


def write_all(descriptor: int, contents: Iterable[bytes]) -> None:
    """Write to a pipe, without joining what is large.

    Raises:
        BrokenPipeError: the other side has gone.
    """
    for content in contents:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
