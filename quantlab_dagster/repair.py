"""`quantlab compact --repair`: rebuild exactly the days that verification finds wrong, and build what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantlab_dagster.days.verify import Verdict, VerifiedDay, verify_pair
from quantlab_dagster.interrupts import run_interruptible
from quantlab_dagster.runs import RunReport, compact_days, open_workplace

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from quantlab_dagster.days.compact import Listener
    from quantlab_dagster.lake.layout import Pair
    from quantlab_dagster.settings import Settings

__all__ = ["repair_days"]


def repair_days(
    settings: Settings,
    days: Sequence[dt.date],
    pairs: Sequence[Pair],
    *,
    listener: Listener,
    symbols: Sequence[str] = (),
) -> tuple[RunReport, list[VerifiedDay]]:
    """Verify each pair's day by itself (meta, order, seq), and compact again the symbols that are wrong or missing.

    A wrong day whose raw parts are gone, wholly or in part, stays as it is and is reported by its outcome.

    Returns:
        What the runs did; and what verification found wrong or missing.
    """
    report = RunReport()
    found: list[VerifiedDay] = []
    for pair in pairs:
        for day in days:
            verified = run_interruptible(
                verify_pair(open_workplace(settings), pair, day, symbols=symbols, against_raw=False)
            )
            for verdict, overwrite in ((Verdict.WRONG, True), (Verdict.NOT_PUBLISHED, False)):
                bad = [item for item in verified if item.verdict is verdict]
                found += bad
                if bad:
                    done = compact_days(
                        settings,
                        [day],
                        [pair],
                        listener=listener,
                        symbols=[item.symbol_day.symbol for item in bad],
                        overwrite=overwrite,
                    )
                    report.outcomes += done.outcomes
                    report.failures += done.failures
                    report.run_ids += done.run_ids
    return report, found
