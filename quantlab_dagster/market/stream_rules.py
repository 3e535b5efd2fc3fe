"""What the rows of each stream should look like: the table of the market-data checks. A new stream is a new line.

Rows are never dropped or repaired by it: what does not look like this is counted, and told.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CHECKS_VERSION", "EARLY_SECONDS", "NEIGHBOURS_SHARE", "STREAM_RULES", "StreamRules", "rules_of_stream"]

CHECKS_VERSION = "1.1.0"
"""Of the table and of how it is applied: it stands beside the numbers."""

EARLY_SECONDS = 1.0
"""`ts_recv` may lie so far before `ts_event`: the exchange's clock and ours are never the same."""

NEIGHBOURS_SHARE = 0.01
"""Some rows of the neighbouring UTC days belong to every day; above this share of its rows they are worth a word."""


@dataclass(frozen=True, slots=True)
class StreamRules:
    """What is expected of a stream's rows. Columns that a day lacks, or that are no numbers, are not judged.

    Attributes:
        gap_seconds: a longer silence is a gap, also after midnight and before the next; None: silence says nothing.
        positive: columns of which every value is above 0; nulls are not looked at.
        bid_ask: two columns of which the first is never above the second.
        ids: column of ids that count up by one; ids that are no whole numbers are only looked at for repetition.
    """

    gap_seconds: float | None = None
    positive: tuple[str, ...] = ()
    bid_ask: tuple[str, str] | None = None
    ids: str | None = None

    @property
    def prices(self) -> frozenset[str]:
        """Columns that are compared."""
        return frozenset((*self.positive, *(self.bid_ask or ())))


STREAM_RULES: dict[str, StreamRules] = {
    "bbo": StreamRules(gap_seconds=120, positive=("bid_price", "ask_price"), bid_ask=("bid_price", "ask_price")),
    "trade": StreamRules(gap_seconds=1_800, positive=("price", "qty"), ids="trade_id"),
    "mark_price": StreamRules(gap_seconds=120, positive=("mark_price", "index_price")),
    "funding": StreamRules(gap_seconds=8.5 * 3_600),  # every eight hours
    "open_interest": StreamRules(gap_seconds=1_800),
}
"""By stream, as in the path."""


def rules_of_stream(stream: str) -> StreamRules:
    """The rules of a stream; of one that nobody described, what holds for all."""
    return STREAM_RULES.get(stream, StreamRules())
