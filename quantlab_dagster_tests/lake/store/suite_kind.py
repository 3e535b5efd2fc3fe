"""How a kind of store describes itself to the suite."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

from quantlab_dagster_tests.lake.test_market import HOSTILE

if TYPE_CHECKING:
    from quantlab_dagster_tests.conftest import Rig


class Kind:
    """A kind of store, as far as tests must know it. Subclasses override what is not so for them."""

    in_parts: ClassVar[bool] = True
    """Whether big files go up in parts, whose number ends the ETag."""
    key_may_be_directory: ClassVar[bool] = True
    """Whether one name may be that of an object and of a directory."""
    any_prefix_is_a_place: ClassVar[bool] = True
    """Whether a store can be opened below a prefix of another one."""

    @pytest.fixture
    def rig(self) -> Rig:
        """Where new stores of this kind come from."""
        raise NotImplementedError

    def hostile_values(self) -> list[str]:
        """Values of partitions that keys of this kind of store can hold."""
        return list(HOSTILE)

    def collect_garbage(self, rig: Rig) -> None:
        """Have the server do at once what it does hours after something was deleted."""
