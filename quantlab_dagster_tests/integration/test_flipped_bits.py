"""A bit that flips in any request of a whole run is mended or said, and never ends up in a lake."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.lake.store import limits
from quantlab_dagster_tests.integration.flipped_bits import (
    FLIPS,
    LEAST_PARTS,
    Flip,
    events,
    large,
    market,
    with_bit_flipped,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from quantlab_dagster_tests.conftest import Rig
    from quantlab_dagster_tests.integration.flipped_bits import Lake
    from quantlab_dagster_tests.servers import S3Server


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.guards("put-not-compared", "damage-in-transit", "damage-in-transit-alone")
@pytest.mark.parametrize("kind", ["PUT", "GET"])
@pytest.mark.parametrize("make", [market, large, events])
def test_a_flipped_bit_is_mended_or_said(
    seaweed: S3Server, make: Callable[[Rig], Lake], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(("MULTIPART_BYTES", "PART_BYTES"), LEAST_PARTS, strict=True):
        monkeypatch.setattr(limits, name, value)
    flips = list(with_bit_flipped(seaweed, make, kind, tmp_path))
    assert len(flips) > 3
    assert wrong(flips) == []
    if make is large and kind == "PUT":
        assert sum("partNumber=" in flip.request for flip in flips) >= 2, "parts of an upload, too"


def wrong(flips: Sequence[Flip]) -> list[Flip]:
    """What must not be: other rows, a success without the file, a run after it that is not right."""
    return [
        flip
        for flip in flips
        if not flip.right or (flip.code == 0 and not flip.there) or flip.next_code or not flip.next_right
    ]


def test_what_must_not_be_is_noticed() -> None:
    right = Flip("market", "PUT /x", 0, "", right=True, there=True, next_code=0, next_right=True)
    failed = Flip("market", "PUT /x", 1, "", right=True, there=False, next_code=0, next_right=True)
    assert wrong([right, failed]) == []
    for change in ({"right": False}, {"there": False}, {"next_code": 1}, {"next_right": False}):
        assert wrong([Flip(**{**flip_fields(right), **change})]), change  # type: ignore[arg-type]


def flip_fields(flip: Flip) -> dict[str, object]:
    return {name: getattr(flip, name) for name in Flip.__slots__}


def test_the_table_of_the_last_long_run_has_nothing_wrong_in_it() -> None:
    """But for listings, which carry no sum: what they leave out is found by the next run."""
    flips = [Flip(**one) for one in json.loads(FLIPS.read_text())]
    assert {flip.lake for flip in flips} == {"market", "market, large file", "events"}
    assert wrong([flip for flip in flips if "list-type=" not in flip.request]) == []
    assert all(flip.next_right for flip in flips)
