"""Mishaps inside of the process that decodes: what a test's own patches do not reach.

`happens` makes the children that are started from now on begin with one of the functions below.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from quantlab_dagster.kernel.terms import Part

PROGRAM = "quantlab_dagster.work.decoder.PROGRAM"


def happens(monkeypatch: pytest.MonkeyPatch, mishap: Callable[..., None], *arguments: str | float) -> None:
    """Let children begin with a mishap."""
    given = ", ".join(map(repr, arguments))
    program = "from quantlab_dagster.work.child import main; main()"
    module, name = mishap.__module__, mishap.__name__
    monkeypatch.setattr(PROGRAM, f"import {module} as mishaps; mishaps.{name}({given}); {program}")


def audit_fails(finding: str) -> None:
    """No file is proved."""
    from quantlab_dagster.errors import AuditFailed  # noqa: PLC0415
    from quantlab_dagster.kernel import merge  # noqa: PLC0415

    def failing(*_: object, **__: object) -> None:
        raise AuditFailed("output", finding, "Report this")

    merge.audit = failing  # type: ignore[attr-defined]


def footer_of(name: str, deed: str, *once: str) -> None:
    """Do a deed when the footer of the part of this name is read; only if a file is not there yet, and make it."""
    from quantlab_dagster.kernel.parts import FooterReader  # noqa: PLC0415

    read = FooterReader.read

    def act(self: FooterReader, part: Part) -> Any:
        if part.key == name and not any(Path(path).exists() for path in once):
            for path in once:
                Path(path).touch()
            DEEDS[deed]()
        return read(self, part)

    FooterReader.read = act  # type: ignore[method-assign]


def merge_dies(deed: str) -> None:
    """Do a deed when parts are merged, whatever they are."""
    from quantlab_dagster.work import jobs  # noqa: PLC0415

    def act(*_: object, **__: object) -> None:
        DEEDS[deed]()

    jobs.merge = act  # type: ignore[attr-defined,assignment]


def footer_dies_after(name: str, deed: str) -> None:
    """Do a deed when a footer is read after that of the part of this name, in the same process."""
    from quantlab_dagster.kernel.parts import FooterReader  # noqa: PLC0415

    read, seen = FooterReader.read, set[str]()

    def act(self: FooterReader, part: Part) -> Any:
        if name in seen:
            DEEDS[deed]()
        seen.add(part.key)
        return read(self, part)

    FooterReader.read = act  # type: ignore[method-assign]


def cannot_start(text: str) -> None:
    """End before anything is ready."""
    sys.exit(text)


def _take_memory() -> None:
    held = []
    while True:
        held.append(b"x" * (8 << 20))
        time.sleep(0.001)


def _fill_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.parquet")


DEEDS: dict[str, Callable[[], object]] = {
    "abort": os.abort,
    "hang": lambda: time.sleep(3600),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segmentation fault": lambda: ctypes.string_at(0),
    "take memory": _take_memory,
    "leave": lambda: os._exit(3),
    "full disk": _fill_disk,
}
