"""The quality rules at, below and above every threshold; and a generated year of windows against a naive reading."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from random import Random
from typing import Any

import pytest

from quantlab_dagster.errors import SettingsError
from quantlab_dagster.market.quality.records import DayQuality, SeenWindow
from quantlab_dagster.market.quality.rules import VERSION, DayVerdict, Label, Rules, Signals, Window
from quantlab_dagster.market.quality.windows import read_window, window_name, windows_prefix

RULES = Rules()
NAMES = [f"{minute // 60:02d}{minute % 60:02d}" for minute in range(0, 24 * 60, 15)]


def offline(**seconds: float) -> dict[str, float]:
    return dict(seconds)


# ---- windows ---------------------------------------------------------------------------------------------------------

WINDOWS = [
    (Signals(), "GOOD"),
    # BAD: dropped_events > 0, queue_pct_peak >= 90, binance offline > 600 s
    (Signals(dropped_events=1), "BAD"),
    (Signals(queue_pct_peak=89.999), "GOOD"),
    (Signals(queue_pct_peak=90), "BAD"),
    (Signals(queue_pct_peak=90.001), "BAD"),
    (Signals(offline_seconds=offline(binance=599.999)), "DEGRADED"),
    (Signals(offline_seconds=offline(binance=600)), "DEGRADED"),
    (Signals(offline_seconds=offline(binance=600.001)), "BAD"),
    (Signals(offline_seconds=offline(okx=900)), "DEGRADED"),  # another exchange is not BAD
    # DEGRADED: longest offline of any > 180 s, accelerated drain > 180 s, reconnects >= 5
    (Signals(offline_seconds=offline(okx=179.999)), "GOOD"),
    (Signals(offline_seconds=offline(okx=180)), "GOOD"),
    (Signals(offline_seconds=offline(okx=180.001)), "DEGRADED"),
    (Signals(offline_seconds=offline(okx=100, bybit=100)), "GOOD"),  # the longest, not their sum
    (Signals(drain_seconds=179.999), "GOOD"),
    (Signals(drain_seconds=180), "GOOD"),
    (Signals(drain_seconds=180.001), "DEGRADED"),
    (Signals(reconnects=4), "GOOD"),
    (Signals(reconnects=5), "DEGRADED"),
    (Signals(reconnects=6), "DEGRADED"),
    # DEGRADED becomes GOOD: binance 0 s offline, no drops, queue < 50, its eps min > 100
    (Signals(reconnects=5, eps_min={"binance": 100}), "DEGRADED"),
    (Signals(reconnects=5, eps_min={"binance": 100.001}), "GOOD"),
    (Signals(reconnects=5, eps_min={"binance": 99.999}), "DEGRADED"),
    (Signals(reconnects=5, eps_min={"okx": 500}), "DEGRADED"),
    (Signals(reconnects=5, eps_min={"binance": 200}, queue_pct_peak=49.999), "GOOD"),
    (Signals(reconnects=5, eps_min={"binance": 200}, queue_pct_peak=50), "DEGRADED"),
    (Signals(reconnects=5, eps_min={"binance": 200}, queue_pct_peak=50.001), "DEGRADED"),
    (Signals(reconnects=5, eps_min={"binance": 200}, offline_seconds=offline(binance=0)), "GOOD"),
    (Signals(reconnects=5, eps_min={"binance": 200}, offline_seconds=offline(binance=0.001)), "DEGRADED"),
    (Signals(offline_seconds=offline(okx=900), eps_min={"binance": 200}), "GOOD"),
    # BAD is never forgiven
    (Signals(dropped_events=1, eps_min={"binance": 200}), "BAD"),
    (Signals(offline_seconds=offline(binance=601), eps_min={"binance": 200}), "BAD"),
]


@pytest.mark.parametrize(("signals", "expected"), WINDOWS)
def test_a_window_at_every_threshold(signals: Signals, expected: str) -> None:
    judged = RULES.judge_window(Window("0000", signals=signals))
    assert judged.label == expected
    assert bool(judged.reasons) or judged.label is Label.GOOD


# ---- days ------------------------------------------------------------------------------------------------------------

GOOD, BAD = Signals(), Signals(queue_pct_peak=95)
DEGRADED = Signals(reconnects=9)


def day(*groups: tuple[int, Signals], partial: int = 0, unreadable: int = 0) -> DayVerdict:
    signals = [one for number, one in groups for _ in range(number)]
    windows = [Window(f"w{number}", signals=one) for number, one in enumerate(signals)]
    windows += [Window(f"p{number}", is_partial=True, signals=BAD) for number in range(partial)]
    return RULES.judge_day(windows, {f"u{number}": "why" for number in range(unreadable)})


DAYS = [
    (day(), "UNKNOWN"),
    (day((96, GOOD)), "GOOD"),
    (day((1, GOOD)), "GOOD"),  # few, but none of them partial
    # PARTIAL: partial windows, and fewer than 80 others
    (day((79, GOOD), partial=1), "PARTIAL"),
    (day((80, GOOD), partial=1), "GOOD"),
    (day((81, GOOD), partial=1), "GOOD"),
    (day((79, GOOD)), "GOOD"),
    (day((79, BAD), partial=1), "PARTIAL"),  # before anything else
    (day(partial=96), "PARTIAL"),
    # BAD: >= 3 BAD windows, > 100,000 drops in all, > 3,600 s binance offline in all
    (day((93, GOOD), (2, BAD)), "DEGRADED"),
    (day((93, GOOD), (3, BAD)), "BAD"),
    (day((92, GOOD), (4, BAD)), "BAD"),
    (day((95, GOOD), (1, Signals(dropped_events=99_999))), "DEGRADED"),
    (day((95, GOOD), (1, Signals(dropped_events=100_000))), "DEGRADED"),
    (day((95, GOOD), (1, Signals(dropped_events=100_001))), "BAD"),
    (day((94, GOOD), (2, Signals(dropped_events=50_001))), "BAD"),
    (day((36, Signals(offline_seconds=offline(binance=100)))), "DEGRADED"),
    (
        day((35, Signals(offline_seconds=offline(binance=100))), (1, Signals(offline_seconds={"binance": 99.9}))),
        "DEGRADED",
    ),
    (day((35, Signals(offline_seconds=offline(binance=100))), (1, Signals(offline_seconds={"binance": 100.1}))), "BAD"),
    (day((90, Signals(offline_seconds=offline(okx=170)))), "GOOD"),  # another exchange's time decides nothing
    # DEGRADED: 1-2 BAD, >= 10 DEGRADED, > 900 s binance offline
    (day((95, GOOD), (1, BAD)), "DEGRADED"),
    (day((87, GOOD), (9, DEGRADED)), "GOOD"),
    (day((86, GOOD), (10, DEGRADED)), "DEGRADED"),
    (day((85, GOOD), (11, DEGRADED)), "DEGRADED"),
    (day((8, Signals(offline_seconds=offline(binance=112.5)))), "GOOD"),
    (day((8, Signals(offline_seconds=offline(binance=112.4)))), "GOOD"),
    (day((8, Signals(offline_seconds=offline(binance=112.6)))), "DEGRADED"),
    # what is partial counts for nothing else
    (day((93, GOOD), (2, BAD), partial=1), "DEGRADED"),
    (day((90, GOOD), partial=6), "GOOD"),
    # what cannot be understood is never a silent GOOD
    (day((95, GOOD), unreadable=1), "DEGRADED"),
    (day((93, GOOD), (3, BAD), unreadable=1), "BAD"),
    (day(unreadable=96), "UNKNOWN"),
    (day((79, GOOD), partial=1, unreadable=16), "PARTIAL"),
    (day(partial=1, unreadable=95), "PARTIAL"),
]


@pytest.mark.parametrize(("verdict", "expected"), DAYS)
def test_a_day_at_every_threshold(verdict: DayVerdict, expected: str) -> None:
    assert verdict.label == expected
    assert bool(verdict.reasons) is (expected != "GOOD")


def test_a_day_says_why_and_how_much() -> None:
    found = day((90, GOOD), (2, Signals(dropped_events=700, offline_seconds={"binance": 10.25, "okx": 3})), partial=2)
    assert found.dropped_events == 1_400
    assert found.offline_seconds == {"binance": 20.5, "okx": 6}
    assert (found.count(Label.GOOD), found.count(Label.BAD), found.partial, found.windows) == (90, 2, 2, 94)
    assert found.why == "the day is DEGRADED (2 BAD windows)"
    assert RULES.judge_day([]).why == "the day is UNKNOWN (no quality windows)"


# ---- a year against a naive reading of the law -----------------------------------------------------------------------


def naive_window(signals: dict[str, Any]) -> str:
    binance = signals["offline_seconds_by_exchange"].get("binance", 0)
    drops, peak = signals["dropped_events"], signals["queue_pct_peak"]
    if drops > 0 or peak >= 90 or binance > 600:
        return "BAD"
    longest = max(signals["offline_seconds_by_exchange"].values(), default=0)
    if not (longest > 180 or signals["drain_mode_accelerated_seconds"] > 180 or signals["reconnects"] >= 5):
        return "GOOD"
    eps = signals["eps_by_exchange"].get("binance", {"min": 0})["min"]
    return "GOOD" if binance == 0 and drops == 0 and peak < 50 and eps > 100 else "DEGRADED"


def naive_day(windows: list[dict[str, Any]]) -> str:
    if not windows:
        return "UNKNOWN"
    whole = [window["signals"] for window in windows if not window["is_partial"]]
    if len(whole) < len(windows) and len(whole) < 80:
        return "PARTIAL"
    labels = Counter(naive_window(signals) for signals in whole)
    drops = sum(signals["dropped_events"] for signals in whole)
    binance = sum(signals["offline_seconds_by_exchange"].get("binance", 0) for signals in whole)
    if labels["BAD"] >= 3 or drops > 100_000 or binance > 3_600:
        return "BAD"
    if labels["BAD"] >= 1 or labels["DEGRADED"] >= 10 or binance > 900:
        return "DEGRADED"
    return "GOOD"


def a_year(seed: int) -> list[list[dict[str, Any]]]:
    """Days of all kinds; values lie on the thresholds and beside them more often than anywhere else."""
    rng = Random(seed)

    def window(trouble: float) -> dict[str, Any]:
        def some(usual: float, *values: float) -> float:
            return rng.choice(values) if rng.random() < trouble else usual

        return {
            "window_start": "2026-01-08T00:00:00Z",
            "window_end": "2026-01-08T00:15:00Z",
            "quality": rng.choice(["GOOD", "DEGRADED", "BAD"]),  # the collector's own: no rule asks for it
            "is_partial": rng.random() < trouble * rng.choice([0, 0, 0.5, 3]),
            "signals": {
                "dropped_events": int(some(0, 0, 0, 0, 1, 40_000, 100_000)),
                "queue_pct_peak": some(12, 49, 50, 51, 89, 90) if rng.random() < 0.3 else 12,
                "reconnects": int(some(0, 4, 5, 6)),
                "drain_mode_accelerated_seconds": some(0, 179, 180, 181),
                "offline_seconds_by_exchange": {
                    exchange: some(0, 0, 30, 180, 181, 600, 601 if rng.random() < 0.2 else 90)
                    for exchange in ("binance", "okx")
                    if rng.random() < 0.9
                },
                "eps_by_exchange": {"binance": {"avg": 900, "min": some(800, 100, 101)}},
            },
        }

    days = []
    for _ in range(365):
        trouble = rng.choice([0, 0, 0.02, 0.04, 0.05, 0.1, 0.15])
        days.append([window(trouble) for _ in range(rng.choice([96, 96, 96, 96, 85, 60, 0]))])
    return days


@pytest.mark.parametrize("seed", range(2))
def test_a_year_of_windows_gets_the_verdicts_of_a_naive_reading(seed: int) -> None:
    met: Counter[str] = Counter()
    for windows in a_year(seed):
        files = {name: json.dumps(window).encode() for name, window in zip(NAMES, windows, strict=False)}
        seen = {name: SeenWindow.of("etag", read_window(name, content)) for name, content in files.items()}
        found = DayQuality.judged(seen, RULES, looked_at_again=True)
        assert found.label == naive_day(windows)
        assert found.waits is (found.label is Label.PARTIAL)
        for item in found.verdict.judged:
            assert item.label == naive_window(windows[NAMES.index(item.window.name)]["signals"])
        met[found.label] += 1
    assert min(met[label] for label in Label) >= 10, f"the year has days of all kinds: {met}"


# ---- other thresholds ------------------------------------------------------------------------------------------------


def test_other_thresholds_are_another_version() -> None:
    rules = Rules.parse("exchange=okx, bad_from_queue_pct=95.5")
    assert (rules.exchange, rules.bad_from_queue_pct) == ("okx", 95.5)
    assert rules.version.startswith(f"{VERSION}+")
    assert Rules.parse(rules.text) == rules
    assert Rules.parse("") == Rules()
    assert Rules().version == VERSION == "1.0.0"
    assert Rules.parse("bad_from_queue_pct=90").version == VERSION
    assert Rules.parse("bad_from_queue_pct=91").version != rules.version


def test_the_exchange_that_decides_is_a_setting() -> None:
    rules = Rules.parse("exchange=okx")
    lost = Signals(offline_seconds={"okx": 601})
    assert RULES.judge_window(Window("0000", signals=lost)).label is Label.DEGRADED
    assert rules.judge_window(Window("0000", signals=lost)).label is Label.BAD
    healthy = Signals(reconnects=5, eps_min={"okx": 200}, offline_seconds={"binance": 100})
    assert RULES.judge_window(Window("0000", signals=healthy)).label is Label.DEGRADED
    assert rules.judge_window(Window("0000", signals=healthy)).label is Label.GOOD


@pytest.mark.parametrize("text", ["bad_drops=1", "bad_above_drops", "bad_above_drops=", "bad_above_drops=-1"])
def test_what_is_no_threshold_is_refused_by_name(text: str) -> None:
    with pytest.raises(SettingsError, match="bad_"):
        Rules.parse(text)
    for number in ("nan", "inf", "many"):
        with pytest.raises(SettingsError, match="is no number of 0 or more"):
            Rules.parse(f"bad_above_drops={number}")


# ---- files -----------------------------------------------------------------------------------------------------------


def a_file(**changes: Any) -> dict[str, Any]:
    return a_year(0)[0][0] | {"is_partial": False} | changes


def without(name: str) -> dict[str, Any]:
    signals = dict(a_file()["signals"])
    del signals[name]
    return a_file(signals=signals)


MALFORMED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    json.dumps({"is_partial": False}).encode(),
    json.dumps(a_file(is_partial="no")).encode(),
    json.dumps(a_file(signals=[])).encode(),
    *(
        json.dumps(without(name)).encode()
        for name in (
            "dropped_events",
            "queue_pct_peak",
            "reconnects",
            "drain_mode_accelerated_seconds",
            "offline_seconds_by_exchange",
        )
    ),
    json.dumps(a_file(signals=a_file()["signals"] | {"dropped_events": -1})).encode(),
    json.dumps(a_file(signals=a_file()["signals"] | {"dropped_events": True})).encode(),
    json.dumps(a_file(signals=a_file()["signals"] | {"dropped_events": "7"})).encode(),
    json.dumps(a_file(signals=a_file()["signals"] | {"queue_pct_peak": float("nan")})).encode(),
    json.dumps(a_file(signals=a_file()["signals"] | {"offline_seconds_by_exchange": {"binance": None}})).encode(),
    b" " * ((1 << 20) + 1),
]


@pytest.mark.parametrize("content", MALFORMED)
def test_a_malformed_window_is_a_finding_and_no_good_one(content: bytes) -> None:
    found = read_window("0015", content)
    assert isinstance(found, str)
    assert found
    good = {name: SeenWindow.of("e", Window(name)) for name in NAMES[:95]}
    quality = DayQuality.judged(good | {"0015": SeenWindow.of("e", found)}, RULES, looked_at_again=True)
    assert quality.label is Label.DEGRADED
    assert quality.verdict.unreadable == {"0015": found}
    assert quality.verdict.reasons == ("1 windows cannot be understood",)


def test_a_window_without_rates_or_with_more_fields_is_understood() -> None:
    found = read_window("0015", json.dumps(without("eps_by_exchange") | {"more": 1}).encode())
    assert isinstance(found, Window)
    assert found.signals.eps_min == {}
    eps = a_file()["signals"] | {"eps_by_exchange": {"binance": {"avg": 5.5}, "okx": {"min": 7}}}
    found = read_window("0015", json.dumps(a_file(signals=eps)).encode())
    assert isinstance(found, Window)
    assert found.signals.eps_min == {"okx": 7}


def test_names() -> None:
    assert windows_prefix(dt.date(2026, 1, 8)) == "quality/date=20260108/"
    assert window_name("window=0015.json") == "0015"
    for name in ("window=0015.json.tmp", "._window=0015.json", "window=15.json", "0015.json", "_SUCCESS"):
        assert window_name(name) is None
    for name in ("2400", "0016", "9999"):
        assert read_window(name, json.dumps(a_file()).encode()) == f"{name} is no quarter of an hour"


def test_what_was_seen_is_all_that_the_rules_need() -> None:
    """A record gives the same verdict as the files, so nobody reads them twice."""
    for windows in a_year(7)[:60]:
        files = {name: json.dumps(window).encode() for name, window in zip(NAMES, windows, strict=False)}
        read = {name: read_window(name, content) for name, content in files.items()}
        for name, window in read.items():
            assert SeenWindow.model_validate_json(SeenWindow.of("e", window).model_dump_json()).window(name) == window


def test_the_fingerprint_changes_with_windows_and_rules() -> None:
    one = {"0000": SeenWindow.of("a", Window("0000"))}
    prints = [
        DayQuality.judged(windows, rules, looked_at_again=True).fingerprint
        for windows, rules in (
            (one, RULES),
            ({"0000": SeenWindow.of("b", Window("0000"))}, RULES),
            (one | {"0015": SeenWindow.of("a", Window("0015"))}, RULES),
            (one, Rules.parse("exchange=okx")),
        )
    ]
    assert len(set(prints)) == 4
    assert DayQuality.judged({}, RULES, looked_at_again=True).fingerprint == ""
