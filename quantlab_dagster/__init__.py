"""Thousands of tiny Parquet parts per symbol and day become one sorted, numbered, audited file, through Dagster."""

__version__ = "0.1.0"
