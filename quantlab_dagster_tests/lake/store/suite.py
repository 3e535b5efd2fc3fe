"""What every kind of store must hold to. A new kind is proved by one subclass; see `test_backends.py`."""

from __future__ import annotations

from quantlab_dagster_tests.lake.store.suite_deleting import DeletingSuite
from quantlab_dagster_tests.lake.store.suite_objects import ObjectSuite
from quantlab_dagster_tests.lake.store.suite_staging import StagingSuite


class StoreSuite(ObjectSuite, StagingSuite, DeletingSuite):
    """All that callers may rely on. Not collected by itself.

    A subclass is named `Test...`, gives a fixture `rig`, and overrides those attributes of `Kind` that are not so for
    its kind of store.
    """
