"""The stable order of integers, against Python's own stable sort: near, far, equal, and at the ends of 64 bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantlab_dagster.kernel.ranks import stable_order

LEAST, GREATEST = -(1 << 63), (1 << 63) - 1

NEAR = st.integers(0, 20)
TIMES = st.integers(1_767_800_000_000_000_000, 1_767_886_400_000_000_000)
ANY = st.integers(LEAST, GREATEST)


@given(st.one_of(st.lists(NEAR), st.lists(TIMES), st.lists(ANY), st.lists(st.sampled_from([LEAST, -1, 0, GREATEST]))))
def test_keys_are_sorted_and_ties_keep_their_order(keys: list[int]) -> None:
    order = stable_order(np.array(keys, dtype=np.int64))
    assert order.dtype == np.uint32
    assert order.tolist() == sorted(range(len(keys)), key=keys.__getitem__)


@pytest.mark.parametrize("spread", [(1 << 61) - 1, 1 << 61, (1 << 62) - 1, 1 << 62])
def test_key_and_index_share_a_word_up_to_its_last_bit(spread: int) -> None:
    """Of eight keys an index takes three bits, so that 61 are left for the difference."""
    keys = np.array([spread, 0, spread, 1, 0, spread - 1, 2, spread], dtype=np.int64) + LEAST
    assert stable_order(keys).tolist() == [1, 4, 3, 6, 5, 0, 2, 7]


def test_the_keys_are_left_as_they_are() -> None:
    keys = np.array([3, 1, 2], dtype=np.int64)
    keys.flags.writeable = False
    assert stable_order(keys).tolist() == [1, 2, 0]
