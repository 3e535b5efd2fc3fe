"""Every kind of store keeps what `StoreSuite` states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lake.store.helpers import collect_garbage
from quantlab_dagster_tests.lake.store.suite import StoreSuite
from quantlab_dagster_tests.lake.test_market import HOSTILE

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster_tests.servers import S3Server


def rig_of(name: str, server: S3Server | None, tmp_path: Path) -> Rig:
    directory = tmp_path / "lakes"
    directory.mkdir()
    return Rig(name, server, directory)


class TestLocal(StoreSuite):
    in_parts = False
    key_may_be_directory = False
    any_prefix_is_a_place = False

    @pytest.fixture
    def rig(self, tmp_path: Path) -> Rig:
        return rig_of("local", None, tmp_path)


@pytest.mark.server
class TestSeaweedFS(StoreSuite):
    @pytest.fixture
    def rig(self, seaweed: S3Server, tmp_path: Path) -> Rig:
        return rig_of("seaweedfs", seaweed, tmp_path)

    def hostile_values(self) -> list[str]:
        return [value for value in HOSTILE if "\\" not in value]  # to SeaweedFS it is a slash, in listings


@pytest.mark.server
class TestCeph(StoreSuite):
    @pytest.fixture
    def rig(self, ceph_server: S3Server, tmp_path: Path) -> Rig:
        return rig_of("ceph", ceph_server, tmp_path)

    def collect_garbage(self, rig: Rig) -> None:
        collect_garbage(rig)
