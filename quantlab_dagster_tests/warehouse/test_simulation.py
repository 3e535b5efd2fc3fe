"""Whatever happens to compactors, requests and clocks: no row is lost, and none is there twice in the end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.warehouse.outcome import HourStatus
from quantlab_dagster_tests.warehouse.simulation import simulate

if TYPE_CHECKING:
    from pathlib import Path

SEEDS = int(os.environ.get("SIMULATIONS", "300"))
"""How many are run: SIMULATIONS=5000 for a long run. A failure names its seed, by which it is replayed."""


@pytest.mark.guards("rows-doubled", "part-lost")
@pytest.mark.parametrize("seeds", [30, pytest.param(SEEDS, marks=pytest.mark.slow)])
def test_no_row_is_lost_or_doubled(tmp_path: Path, seeds: int) -> None:
    deaths = changes = failed = replaced = 0
    for seed in range(seeds):
        ended = simulate(seed, tmp_path)
        assert (ended.lost, ended.doubled) == (0, 0), ended
        assert ended.outcome.status in (HourStatus.COMPACTED, HourStatus.UNTOUCHED), ended
        deaths, changes = deaths + ended.deaths, changes + ended.changes
        failed, replaced = failed + ended.failed_deletes, replaced + ended.replaced
    assert deaths > seeds // 2, "compactors must have died"
    assert changes > 20 * seeds
    assert failed > seeds // 10, "the server must have failed on single objects"
    assert replaced > seeds // 10, "files must have been replaced under their names"


def test_a_seed_is_replayed_exactly(tmp_path: Path) -> None:
    one, other = simulate(7, tmp_path), simulate(7, tmp_path)
    assert (one.changes, one.deaths, one.outcome.status) == (other.changes, other.deaths, other.outcome.status)


def test_without_compare_and_swap_rows_are_lost_or_doubled_so_that_this_would_be_seen(tmp_path: Path) -> None:
    assert any(one.lost or one.doubled for one in (simulate(seed, tmp_path, swaps=False) for seed in range(100)))


def test_without_etags_in_bulk_deletes_rows_are_lost_so_that_this_would_be_seen(tmp_path: Path) -> None:
    assert any(simulate(seed, tmp_path, bulk_compares=False).lost for seed in range(300))
