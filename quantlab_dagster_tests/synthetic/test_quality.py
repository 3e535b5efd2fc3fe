"""Generated quality windows: the same for the same spec, and worth what the spec says."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import pytest

from quantlab_dagster.market.quality.rules import Rules, Window
from quantlab_dagster.market.quality.windows import read_window, window_name, windows_prefix
from quantlab_dagster.synthetic.quality import WindowsSpec, generate_windows, write_local_windows

if TYPE_CHECKING:
    from pathlib import Path

DAY = dt.date(2026, 1, 8)


def verdict(**options: Any) -> str:
    windows = []
    for file in generate_windows(WindowsSpec(DAY, **options)):
        assert file.key.startswith(windows_prefix(DAY))
        name = window_name(file.key.removeprefix(windows_prefix(DAY)))
        assert name is not None
        window = read_window(name, file.data)
        assert isinstance(window, Window), window
        windows.append(window)
    return Rules().judge_day(windows).label


@pytest.mark.parametrize("seed", range(5))
def test_the_windows_are_worth_what_is_asked_for(seed: int) -> None:
    assert verdict(seed=seed) == "GOOD"
    assert verdict(seed=seed, missing=40) == "GOOD"
    assert verdict(seed=seed, bad=2) == "DEGRADED"
    assert verdict(seed=seed, bad=3) == "BAD"
    assert verdict(seed=seed, degraded=9) == "GOOD"
    assert verdict(seed=seed, degraded=10) == "DEGRADED"
    assert verdict(seed=seed, partial=16) == "GOOD"
    assert verdict(seed=seed, partial=17) == "PARTIAL"


def test_the_same_spec_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first = list(generate_windows(WindowsSpec(DAY)))
    assert list(generate_windows(WindowsSpec(DAY))) == first
    assert list(generate_windows(WindowsSpec(DAY, seed=1))) != first
    assert write_local_windows(tmp_path, WindowsSpec(DAY, missing=90)) == 6
    paths = sorted(tmp_path.rglob("*.json"))
    assert [path.name for path in paths] == [f"window={hour}.json" for hour in (2230, 2245, 2300, 2315, 2330, 2345)]
    assert json.loads(paths[0].read_bytes())["window_start"] == "2026-01-08T22:30:00Z"


@pytest.mark.parametrize("options", [{"bad": 97}, {"missing": -1}])
def test_what_does_not_fit_into_a_day_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="A day has 96 windows"):
        WindowsSpec(DAY, **options)
