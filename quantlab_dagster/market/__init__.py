"""A symbol-day of the market-data lake: plan, fetch, merge, publish, verify. Knows no Dagster.

The main path is `compact.compact_pair`; everything else in here is called from there.
"""
