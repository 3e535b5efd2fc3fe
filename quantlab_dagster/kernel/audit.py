"""The proof: what went into the file is compared with the parts, and with the file as it is read back."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING

from quantlab_dagster.errors import AuditFailed
from quantlab_dagster.kernel.digest import HASH, FileDigest, add_hashes, add_sequence
from quantlab_dagster.kernel.layout import file_shape
from quantlab_dagster.kernel.parts import footer_bytes

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from quantlab_dagster.kernel.leaves import Stored
    from quantlab_dagster.kernel.survey import Survey

__all__ = ["Ledger", "audit"]

_MOST_TOLD = 3


@dataclass(slots=True)
class Ledger:
    """What was handed to the writer, to be compared with the parts and with the file.

    Attributes:
        rows: number of rows.
        content: hash of the multiset of rows.
        sequence: hash of the multiset of (row, index) pairs.
        histogram: rows per bucket of the order column.
    """

    rows: int = 0
    content: int = 0
    sequence: int = 0
    histogram: dict[int, int] = field(default_factory=dict)

    def record(self, frame: pl.DataFrame, survey: Survey, bucket_width: int | None) -> None:
        """Add a sorted window's rows.

        Args:
            frame: the varying columns and their hashes (`hashed`), in the order in which they go to the writer.
            survey: of all parts.
            bucket_width: of the histogram, in units of the order column; None for no histogram.
        """
        hashes = frame[survey.columns.helper(HASH)]
        self.content = add_hashes(self.content, hashes)
        self.sequence = add_sequence(self.sequence, hashes, self.rows)
        self.rows += frame.height
        if bucket_width is not None:
            buckets = (frame[survey.order.column].drop_nulls() // bucket_width).rle().struct.unnest()
            for length, bucket in buckets.iter_rows():
                self.histogram[bucket] = self.histogram.get(bucket, 0) + length


def audit(output: Path, survey: Survey, parts_content: int, ledger: Ledger, digest: FileDigest) -> None:
    """Compare what the parts held, what was handed to the writer, and what the file holds.

    Args:
        output: the file, for messages.
        survey: of all parts.
        parts_content: hash of all rows decoded from the parts, each counted once.
        ledger: of the rows handed to the writer.
        digest: of the file, as read back.

    Raises:
        AuditFailed: they are not the same rows in the same order.
    """
    types = _differences(survey.columns.shape(numbered=survey.order.numbered), file_shape(footer_bytes(output)))
    expected_range = survey.key_range or (None, None)
    findings = {
        f"{survey.total_rows} rows in the parts, {ledger.rows} in the windows, {digest.rows} in the file": (
            survey.total_rows == ledger.rows == digest.rows
        ),
        "the rows of the windows are not the rows of the parts": parts_content == ledger.content,
        "the rows of the file are not the rows of the windows": digest.content == ledger.content,
        "the rows of the file are not in the order of the windows": digest.sequence == ledger.sequence,
        f"{digest.inversions} rows of the file are out of order": digest.inversions == 0,
        f"{digest.misnumbered} rows of the file are misnumbered": digest.misnumbered == 0,
        f"the types of the file are not those of the parts: {types}": not types,
        "the range of the file is not the range of the parts": (digest.key_min, digest.key_max) == expected_range,
    }
    failed = [finding for finding, held in findings.items() if not held]
    if failed:
        raise AuditFailed(
            output.name,
            "; ".join(failed),
            "Nothing was published. Check the machine's memory and disk, and report this with the raw parts",
        )


def _differences(expected: tuple[Stored, ...], found: tuple[Stored, ...]) -> str:
    """The leaves that are not as they should be, the first few of them."""
    pairs = [(a, b) for a, b in zip_longest(expected, found) if a != b]
    told = "; ".join(f"{b or 'nothing'} where {a or 'nothing'} should be" for a, b in pairs[:_MOST_TOLD])
    return told if len(pairs) <= _MOST_TOLD else f"{told}; and {len(pairs) - _MOST_TOLD} more"
