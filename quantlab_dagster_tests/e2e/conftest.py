"""Fixtures of the tests from end to end."""

from __future__ import annotations

from quantlab_dagster_tests.e2e.browser import page

__all__ = ["page"]
