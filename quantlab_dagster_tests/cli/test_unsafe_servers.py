"""`quantlab warehouse` on servers that ignore a condition: said, not relied on, or refused with exit code 2."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.warehouse.slot import Slot
from quantlab_dagster_tests.cli.test_warehouse import Typed, typed
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.faults import FaultProxy
from quantlab_dagster_tests.ignoring import CONDITIONS, IgnoringProxy
from quantlab_dagster_tests.warehouse.event_lakes import EventLake, rows_of, spec

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster.lake.store.probing import Condition
    from quantlab_dagster_tests.servers import S3Server

NEEDED = {"create_if_absent", "replace_if_match", "part_etags"}


@pytest.fixture
def lake(seaweed: S3Server, tmp_path: Path) -> EventLake:
    return EventLake.of(Rig("seaweedfs", seaweed, tmp_path))


def through(lake: EventLake, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Typed:
    quantlab = typed(lake, lake.scratch.parent / "home", capsys, monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    return quantlab


@pytest.mark.guards("conditional-put-assumed", "conditional-delete-assumed", "discard-overwrites")
@pytest.mark.server
@pytest.mark.parametrize("ignored", CONDITIONS)
def test_what_a_server_ignores_is_said_and_refused_where_safety_needs_it(
    lake: EventLake, ignored: Condition, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = rows_of(lake.put_spec(spec()))
    assert lake.rig.server is not None
    with IgnoringProxy(lake.rig.server, ignored) as proxy:
        quantlab = through(lake, proxy.url, capsys, monkeypatch)
        status = json.loads(quantlab("warehouse", "status", "--json").stdout)
        honoured = status["capabilities"]["event_lake"]
        assert [name for name, value in honoured.items() if not value] == [ignored]
        assert status["checks"]["server_is_safe"]["passed"] == (ignored not in NEEDED)
        commands = ("compact", "recover") if ignored == "part_etags" else ("compact",)
        done = [quantlab("warehouse", command) for command in commands]
    assert lake.rows() == original
    if ignored not in NEEDED:
        assert done[0].returncode == 0, done[0].stderr
        assert len(lake.names()) == 1
        return
    for one in done:
        assert one.returncode == 2
        assert f"{lake.url}: the server of the {'lake' if ignored == 'part_etags' else 'slots'} does not" in one.stderr
        assert "AWS S3 does, and SeaweedFS 4.48" in one.stderr
        assert "Traceback" not in one.stderr
    assert len(lake.names()) == 4, "nothing was touched"
    assert lake.slot() == Slot()
    assert lake.staged() == []


@pytest.mark.server
def test_slots_elsewhere_are_judged_by_their_own_server(
    lake: EventLake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A server that has no compare-and-swap will do for the files, if the slots are where it is honoured."""
    original = rows_of(lake.put_spec(spec()))
    assert lake.rig.server is not None
    with IgnoringProxy(lake.rig.server, "replace_if_match") as proxy:
        quantlab = through(lake, proxy.url, capsys, monkeypatch)
        monkeypatch.setenv("WAREHOUSE_SLOTS_URL", str(tmp_path / "slots"))
        found = json.loads(quantlab("warehouse", "status", "--json").stdout)
        assert not found["capabilities"]["event_lake"]["replace_if_match"]
        assert found["capabilities"]["slots"]["replace_if_match"]
        assert "The slots' store: PUT only if absent" in quantlab("warehouse", "status").stdout
        assert quantlab("warehouse", "compact").returncode == 0
    assert lake.rows() == original
    assert len(lake.names()) == 1


@pytest.mark.server
def test_who_may_only_read_may_look(
    lake: EventLake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.put_spec(spec())
    assert lake.rig.server is not None
    with FaultProxy(lake.rig.server.endpoint_url) as proxy:
        proxy.fail(403, "PUT|POST|DELETE", times=None)
        quantlab = through(lake, proxy.url, capsys, monkeypatch)
        shown = quantlab("warehouse", "status").stdout
        found = json.loads(quantlab("warehouse", "status", "--json").stdout)
    assert "its store honours    not known: s3://" in shown
    assert "files                4, 4 of them small" in shown
    assert "access denied" in found["capabilities"]["problem"]
    assert "server_is_safe" not in found["checks"], "it is not known whether it is"
