"""What the child does: surveys, merges, and looks at files. Loads the engines; nothing but the kernel and they."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, assert_never

from quantlab_dagster.errors import BadPart
from quantlab_dagster.kernel.digest import column_dtypes, digest_file
from quantlab_dagster.kernel.grouping import Grouping, group_parts
from quantlab_dagster.kernel.merge import merge
from quantlab_dagster.kernel.parts import FooterReader, KnownLayouts
from quantlab_dagster.kernel.survey import Surveyor
from quantlab_dagster.kernel.terms import Merged, Part
from quantlab_dagster.kernel.trial import try_part
from quantlab_dagster.work.limits import usable_cores
from quantlab_dagster.work.messages import (
    AddParts,
    Digest,
    Digested,
    Drop,
    FinishSurvey,
    Inspect,
    Merge,
    Request,
    Surveyed,
    Try,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantlab_dagster.kernel.parts import Footer
    from quantlab_dagster.kernel.survey import Survey
    from quantlab_dagster.work.messages import Handed

__all__ = ["Jobs"]

_PROGRESS_SECONDS = 1.0


class Jobs:
    """The jobs at hand: the parts of each, and what is known of them."""

    def __init__(self) -> None:
        self._surveyors: dict[int, Surveyor] = {}
        self._surveys: dict[int, Survey] = {}
        self._dropped: set[int] = set()
        self._layouts = KnownLayouts()

    def drop(self, request: Drop) -> None:
        """Forget a job, and what may still come of it."""
        self._dropped.add(request.job)
        self._surveyors.pop(request.job, None)
        self._surveys.pop(request.job, None)

    def run(self, request: Request, contents: Sequence[bytes], progress: Callable[[str], None]) -> Any:
        """Do what is asked for.

        Args:
            request: what.
            contents: of the parts that have no path.
            progress: to be told that the work goes on, and with which part.

        Raises:
            BadPart: a part cannot be merged.
            AuditFailed: the file is not proved to be right.
        """
        match request:
            case AddParts():
                self._add(request, contents)
            case FinishSurvey():
                return self._finish(request)
            case Merge():
                return self._merge(request, progress)
            case Digest():
                return Digested(digest_file(request.path, request.order_by), column_dtypes(request.path))
            case Inspect():
                return _inspect(_parts(request.parts), request, progress)
            case Try():
                for part in _parts(request.parts):
                    progress(part.key)
                    try_part(_in_memory(part, request.budget_bytes), request.order, request.budget_bytes)
            case Drop():
                self.drop(request)
            case _:
                assert_never(request)
        return None

    def _add(self, request: AddParts, contents: Sequence[bytes]) -> None:
        if request.job in self._dropped:
            return
        if request.job not in self._surveyors:
            self._surveyors[request.job] = Surveyor(
                request.order,
                request.stride,
                request.budget_bytes,
                request.total_bytes,
                kept_elsewhere=lambda: self._kept_bytes(request.job),
                threads=usable_cores(),
                known=self._layouts,
            )
        self._surveyors[request.job].add(_parts(request.parts, contents))

    def _kept_bytes(self, but: int) -> int:
        """How many decoded bytes the other jobs keep."""
        surveyed = [
            int(one.decoded.estimated_size()) for one in list(self._surveys.values()) if one.decoded is not None
        ]
        return sum(surveyed) + sum(one.kept_bytes for job, one in list(self._surveyors.items()) if job != but)

    def _finish(self, request: FinishSurvey) -> Surveyed:
        surveyor = self._surveyors.pop(request.job, None) or Surveyor(request.order, 1, request.budget_bytes)
        survey = self._surveys[request.job] = surveyor.finish()
        return Surveyed(survey.key_range)

    def _merge(self, request: Merge, progress: Callable[[str], None]) -> Merged:
        said = time.monotonic()

        def still_at_it() -> bool:
            nonlocal said
            if time.monotonic() - said >= _PROGRESS_SECONDS:
                said = time.monotonic()
                progress("")
            return False  # who wants it to stop ends the process

        return merge(
            self._surveys.pop(request.job),
            request.output,
            scratch=request.scratch,
            budget_bytes=request.budget_bytes,
            bucket_width=request.bucket_width,
            metadata=request.metadata,
            row_group_rows=request.row_group_rows,
            threads=request.threads,
            split=request.split,
            observer=request.observer,
            cancelled=still_at_it,
        )


def _parts(handed: Sequence[Handed], contents: Sequence[bytes] = ()) -> list[Part]:
    waiting = iter(contents)
    return [Part(part.key, next(waiting) if part.path is None else part.path, part.size_bytes) for part in handed]


def _in_memory(part: Part, budget_bytes: int) -> Part:
    """The part, read: a disk that fails while a decoder looks at it would pass for the decoder's fault."""
    if isinstance(part.source, bytes) or part.size_bytes > budget_bytes // 4:
        return part
    return Part(part.key, part.source.read_bytes(), part.size_bytes)


def _inspect(parts: list[Part], request: Inspect, progress: Callable[[str], None]) -> Grouping:
    """Decode each part alone, and see which of those that are sound unite."""
    reader, bad = FooterReader(request.order.column, request.budget_bytes), dict[str, str]()
    sound: list[tuple[Part, Footer]] = []
    for part in parts:
        progress(part.key)
        try:
            footer = reader.read(part)
            try_part(_in_memory(part, request.budget_bytes), request.order, request.budget_bytes)
        except BadPart as error:
            bad[part.key] = error.cause
        else:
            sound.append((part, footer))
    found = group_parts([part for part, _ in sound], [footer for _, footer in sound], request.order.column)
    return replace(found, bad=bad | found.bad)
