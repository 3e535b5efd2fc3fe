"""A run says what the event lake's server honours, and fails, before anything else, where that is not enough."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from quantlab_dagster.lake.store.capabilities import Capabilities
from quantlab_dagster.lake.store.local import LocalStore
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.defs.warehouse.test_warehouse import KEY, _configured, failure_of, materialise, run_job
from quantlab_dagster_tests.warehouse.event_lakes import EventLake, spec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HONOURED = Capabilities(
    create_if_absent=True, replace_if_match=True, delete_if_match=True, bulk_delete=False, part_etags=True
)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EventLake:
    return _configured(EventLake.of(Rig("local", None, tmp_path)), monkeypatch)


def honour(monkeypatch: pytest.MonkeyPatch, capabilities: Capabilities) -> None:
    async def found(_: LocalStore) -> Capabilities:
        return capabilities

    monkeypatch.setattr(LocalStore, "_capabilities", found)


def test_it_is_said_once_in_the_log(
    lake: EventLake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    honour(monkeypatch, HONOURED)
    lake.put_spec(spec())
    for result in (run_job(instance), materialise(instance, KEY)):
        assert result.success
        logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
        [said] = [text for text in logged if " honours " in text]
        assert said.startswith(f"{lake.url} honours PUT only if absent, ")
        assert said.endswith("; not: bulk delete with an ETag for each object")


def test_a_run_on_a_server_that_is_not_safe_fails_and_touches_nothing(
    lake: EventLake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    honour(monkeypatch, replace(HONOURED, part_etags=False))
    lake.put_spec(spec())
    before = lake.objects()
    for result in (run_job(instance), run_job(instance, config={"recover_only": True}), materialise(instance, KEY)):
        assert not result.success
        assert "does not honour part ETags compared when an upload is completed" in failure_of(result)
    assert lake.objects() == before
