"""Which errors are the machine's own, and so say nothing of the part that was read when they came.

Loads no engine: one that is not loaded has raised nothing.
"""

from __future__ import annotations

import errno
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from quantlab_dagster.errors import MachineFault, QuantlabError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["lacks_resources", "machine_fault", "machine_faults", "raise_machine_fault"]

# Rust words the error of a system call so; Python and Arrow know its number.
_OS_ERROR = re.compile(r"(?:\(os error |\bOs \{ code: )(\d+)")
_ALLOCATION = re.compile(r"(?:malloc|realloc|allocation) of (?:size )?(\d+)")
_NO_RESOURCES = re.compile(r"thread creation failed|Resource temporarily unavailable|Cannot allocate memory")
# Where to read comes from the part: what these say of an offset or a size is its doing.
_OF_DATA = (errno.EINVAL, errno.EOVERFLOW, errno.ERANGE)
_OF_MEMORY = (errno.ENOMEM,)
_OF_FILES = (errno.EMFILE, errno.ENFILE)
# No machine has so much: whoever asks for it has read a size that is not true.
_ABSURD_BYTES = 1 << 40


def lacks_resources(words: str) -> bool:
    """Whether an engine that ended the process did so because the machine gave it no memory or no thread.

    An allocation that no machine could serve is a part's doing: it declares a size that is not true.

    Args:
        words: what it said last.
    """
    asked = _ALLOCATION.search(words)
    return bool(_NO_RESOURCES.search(words)) or (asked is not None and int(asked.group(1)) < _ABSURD_BYTES)


def machine_fault(error: BaseException, where: str) -> MachineFault | None:
    """The machine's fault that an error of Python, Arrow or Polars stands for; None if it may be the data's.

    Args:
        error: what was raised.
        where: what was worked on.
    """
    if isinstance(error, QuantlabError):
        return error if isinstance(error, MachineFault) else None
    text = _first_line(error)
    asked = _ALLOCATION.search(text)
    if asked and int(asked.group(1)) >= _ABSURD_BYTES:
        return None
    if isinstance(error, MemoryError) or (_is(error, "pyarrow", "ArrowException") and asked):
        number: int | None = errno.ENOMEM
    elif isinstance(error, OSError) or _is(error, "polars.exceptions", "ComputeError", "PanicException"):
        number = getattr(error, "errno", None) or _said(text)
    elif isinstance(error, RuntimeError) and "can't start new thread" in text:
        number = errno.EAGAIN
    else:
        number = None
    if number is None or number in _OF_DATA:
        return None
    return MachineFault(where, f"this machine could not do the work ({text})", _remedy(number))


def raise_machine_fault(error: BaseException, where: str) -> None:
    """Raise it as what it is, if it is the machine's and not said so yet.

    Raises:
        MachineFault: it is.
    """
    fault = machine_fault(error, where)
    if fault is not None and fault is not error:
        raise fault from error


@contextmanager
def machine_faults(where: str) -> Iterator[None]:
    """Within, errors of the machine are raised as `MachineFault`; all others as they are."""
    try:
        yield
    except BaseException as error:  # a panic of Polars is no Exception
        raise_machine_fault(error, where)
        raise


def _is(error: BaseException, module: str, *names: str) -> bool:
    """Whether an error is of one of these classes of an engine."""
    loaded = sys.modules.get(module)
    kinds = tuple(getattr(loaded, name) for name in names if hasattr(loaded, name))
    return isinstance(error, kinds)


def _said(text: str) -> int | None:
    found = _OS_ERROR.search(text)
    return int(found.group(1)) if found else None


def _remedy(number: int) -> str:
    if number in _OF_MEMORY:
        return "Give it more memory, or lower QUANTLAB_MEMORY_BUDGET; then run again"
    if number in _OF_FILES:
        return "Raise its limit of open files (ulimit -n, LimitNOFILE), then run again"
    return "Check its disks and their space, or set QUANTLAB_SCRATCH_DIR to another place; then run again"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
