"""Tests of stores. What asserts outside of test files is rewritten, too, so that a failure shows its values."""

import pytest

pytest.register_assert_rewrite(
    *(f"{__name__}.{name}" for name in ("appending", "helpers", "suite_objects", "suite_staging"))
)
