"""Benchmarks: run them from a checkout (README.md)."""
