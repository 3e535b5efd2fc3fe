"""The columns of the parts. Loads nothing, so that an engine that needs to be told them is not charged for more."""

from __future__ import annotations

__all__ = ["columns"]


def columns(kind: str) -> dict[str, str]:
    """Names and Arrow's types; labels as plain strings, though some parts have them as dictionaries."""
    found = {"ts_event": "int64", "ts_recv": "int64", "exchange": "string", "symbol": "string", "stream": "string"}
    found |= {"stream_version": "int8"}
    found |= dict.fromkeys(("bid_price", "bid_qty", "ask_price", "ask_qty"), "double")
    return found | ({"side": "string", "trade_id": "string"} if kind == "wide" else {})
