"""One desk for all tests of the contract: its commands are typed once."""

from __future__ import annotations

import pytest

from quantlab_dagster_tests.contract.desk import Desk, events, market_data, new_desk, rebuilt_state


@pytest.fixture(scope="session")
def market_desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Where days were compacted."""
    desk = new_desk(tmp_path_factory.mktemp("market"))
    market_data(desk)
    return desk


@pytest.fixture(scope="session")
def rebuilt_desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Where states were made again."""
    desk, other = (new_desk(tmp_path_factory.mktemp(name)) for name in ("empty", "rebuilt"))
    rebuilt_state(desk, other)
    other.printed["state-rebuild"] += desk.printed["state-rebuild"]
    return other


@pytest.fixture(scope="session")
def events_desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Where hours of events were compacted."""
    desk = new_desk(tmp_path_factory.mktemp("events"))
    events(desk)
    return desk
