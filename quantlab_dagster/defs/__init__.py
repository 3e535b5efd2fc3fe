"""Dagster: thin adapters between its words and `days`."""
