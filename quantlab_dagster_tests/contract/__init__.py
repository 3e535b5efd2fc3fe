"""The contract with whoever reads what this project writes: documents, objects, names and bytes, as snapshots.

A wanted change is written down by `UPDATE_SNAPSHOTS=1 python -m pytest quantlab_dagster_tests/contract`; look at the
diff of `snapshots/` before you commit it.
"""
