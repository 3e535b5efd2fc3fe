"""Fixtures of the tests of stores. `rig` is this project's, or the one of a subclass of `StoreSuite`."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.lake.store import limits
from quantlab_dagster_tests.lake.store.appending import PROCESSES, init_worker
from quantlab_dagster_tests.lake.store.helpers import CONTENT, CROWD, MIB, put_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster_tests.conftest import Rig


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FIRST_WAIT_SECONDS", 0.01)


@pytest.fixture
def store(rig: Rig) -> Store:
    return rig.new_store()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "output"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PART_BYTES", 5 * MIB)  # the least that S3 takes


@pytest.fixture(scope="session")
def crowds() -> dict[str, str]:
    return {}


@pytest.fixture
def crowd(rig: Rig, crowds: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a place with more objects, and as many directories, than one page of a listing holds."""
    if rig.name not in crowds:
        place = replace(rig, directory=tmp_path_factory.mktemp("crowd"))  # it outlives the test
        crowds[rig.name] = place.new_url()
        put_all(place.store(crowds[rig.name]), *(f"m/d={number}/x" for number in range(CROWD)))
    return crowds[rig.name]


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, context, init_worker, (context.Barrier(PROCESSES),)) as pool:
        yield pool
