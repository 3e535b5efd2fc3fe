"""What days are said to ask of the stores, beside what a real run asked, as the server saw it."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.cli.documents import cost_document
from quantlab_dagster.errors import SettingsError
from quantlab_dagster.lake.market import Pair, SymbolDay
from quantlab_dagster.market.cost import Size, asked_of, mean, watched
from quantlab_dagster.synthetic.market import DaySpec, generate_parts
from quantlab_dagster.work.prices import LISTED, Cost, Prices, Usage
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.deploy.recorded import Recorder, recording
from quantlab_dagster_tests.lakes import Lakes, spec

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster_tests.servers import S3Server

BBO, TRADE = Pair("binance", "bbo"), Pair("okx", "bbo")


def size(parts: int = 12, raw_bytes: int = 1_000, published: int | None = None, pair: Pair = BBO) -> Size:
    return Size(pair, parts, raw_bytes, published)


# ---- money -----------------------------------------------------------------------------------------------------------


def test_each_kind_of_request_has_its_price() -> None:
    usage = Usage({"PUT": 1_000, "LIST": 2_000, "GET": 10_000, "HEAD": 5_000, "DELETE": 10**9})
    assert Cost.of(usage, LISTED).requests == pytest.approx(3 * 0.005 + 15 * 0.0004)
    assert Cost.of(usage, LISTED).once == Cost.of(usage, LISTED).requests, "within the region transfer is free"
    moved = Usage({}, bytes_read=5 * 10**9, bytes_written=10**12, bytes_stored=2 * 10**9)
    found = Cost.of(moved, Prices.parse("transfer_per_gb=0.02"))
    assert found.transfer == pytest.approx(0.1)
    assert found.storage_month == pytest.approx(0.046)
    with pytest.raises(ValueError, match="COPY"):
        Cost.of(Usage({"COPY": 1}), LISTED)


def test_prices_are_those_of_the_list_but_for_what_is_said() -> None:
    assert Prices.parse("") == LISTED
    assert Prices.parse(" writes_per_thousand = 0.0054 ,transfer_per_gb=0.09") == Prices(0.0054, 0.0004, 0.023, 0.09)
    for text in ("writes", "put=1", "reads_per_thousand=cheap", "reads_per_thousand=-1", "reads_per_thousand=inf"):
        with pytest.raises(SettingsError, match="QUANTLAB_PRICES"):
            Prices.parse(text)


def test_usages_add_up() -> None:
    one = Usage({"GET": 1, "PUT": 2}, 3, 4, 5)
    assert one + Usage({"GET": 10, "LIST": 7}, 1, 1, 1) == Usage({"GET": 11, "PUT": 2, "LIST": 7}, 4, 5, 6)
    assert one.times(3) == Usage({"GET": 3, "PUT": 6}, 9, 12, 15)
    assert one.total == 3


# ---- amounts ---------------------------------------------------------------------------------------------------------


def test_every_part_is_read_once_and_listings_have_pages() -> None:
    few, many = asked_of([size(parts=1000)]), asked_of([size(parts=1001)])
    assert (few.raw.requests["GET"], many.raw.requests["GET"]) == (1000, 1001)
    assert many.raw.requests["LIST"] - few.raw.requests["LIST"] == 2
    assert few.raw.bytes_read == few.raw.bytes_stored == 1_000
    assert "PUT" not in few.raw.requests


def test_a_large_file_goes_up_in_parts() -> None:
    small = asked_of([size(published=64 << 20)]).compact.requests["PUT"]
    assert asked_of([size(published=(64 << 20) + 1)]).compact.requests["PUT"] == small + 6, "begin, five parts, end"


def test_what_is_not_published_yet_shrinks_as_the_others_did() -> None:
    assert asked_of([size(raw_bytes=1_000)]).compact.bytes_written == 400
    assert asked_of([size(raw_bytes=1_000, published=100), size(raw_bytes=50)]).compact.bytes_stored == 105


def test_nothing_costs_nothing() -> None:
    empty = asked_of([])
    assert empty.both.total == 0
    assert mean([]).both.total == 0
    document = cost_document([], mean([]), mean([]), LISTED)
    assert document["build_a_day"]["raw"]["dollars"] == 0


def test_the_mean_day_is_between_the_days() -> None:
    found = mean([asked_of([size(parts=10)]), asked_of([size(parts=30)])])
    assert found.raw.requests["GET"] == 20


# ---- beside real runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symbols", [1, 3])
def test_a_look_for_late_parts_asks_for_what_is_said(tmp_path: Path, symbols: int) -> None:
    lakes = Lakes.of(Rig("local", None, tmp_path))
    for number in range(symbols):
        lakes.put_spec(spec(f"s{number}", parts=3, rows=30))
    lakes.run()
    asked = lakes.run().requests  # nothing to do: what a round of the search does, and a few listings for the pair
    of_a_round = watched([size(parts=3)] * symbols, look_back_days=1)
    per_round = {kind: number / 24 for kind, number in of_a_round.compact.requests.items()}
    assert (asked["compact LIST"], asked["compact GET"] - 1) == (per_round["LIST"], per_round["GET"])
    listed = of_a_round.raw.requests["LIST"] - 360 * symbols
    assert asked["raw LIST"] - 2 == listed / 24


def kinds(recorder: Recorder) -> Counter[str]:
    """Requests by kind, as the price list has them."""
    found: Counter[str] = Counter()
    for request in recorder.requests:
        listing = request.method == "GET" and "list-type" in request.target
        bulk = request.method == "POST" and request.target.endswith("?delete")
        found["LIST" if listing else "DELETE" if bulk else request.method] += 1
    return found


@pytest.mark.slow
@pytest.mark.server
def test_a_whole_run_asks_for_at_most_what_was_said_and_not_for_much_less(seaweed: S3Server, tmp_path: Path) -> None:
    day = dt.date(2026, 1, 8)
    for bucket in ("cost-raw", "cost-compact"):
        seaweed.create_bucket(bucket)
    for pair in (BBO, TRADE):
        for number in range(4):
            of_day = SymbolDay(pair.exchange, pair.stream, f"s{number}", day)
            made = DaySpec(pair.exchange, pair.stream, of_day.symbol, day, parts=40, rows=400)
            seaweed.put_objects("cost-raw", {of_day.key(part.name): part.data for part in generate_parts(made)})
    with recording(seaweed.endpoint_url) as recorders:
        env = {
            **os.environ,
            **seaweed.env(),
            "QUANTLAB_RAW_URL": "s3://cost-raw",
            "QUANTLAB_COMPACT_URL": "s3://cost-compact",
            "QUANTLAB_EXCHANGES": "binance,okx",
            "QUANTLAB_STREAMS": "bbo",
            "DAGSTER_HOME": str(tmp_path / "home"),
            "QUANTLAB_RAW_AWS_ENDPOINT_URL": recorders.raw.url,
            "QUANTLAB_COMPACT_AWS_ENDPOINT_URL": recorders.compact.url,
        }

        def quantlab(*arguments: str) -> str:
            command = [sys.executable, "-m", "quantlab_dagster.cli", *arguments]
            done = subprocess.run(
                command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        said = json.loads(quantlab("cost", "--date", str(day), "--json"))["build_a_day"]
        assert kinds(recorders.raw)["GET"] == 0, "no part is read to say what it would cost"
        assert kinds(recorders.compact)["PUT"] == 0
        recorders.raw.requests.clear()
        recorders.compact.requests.clear()
        quantlab("compact", "--date", str(day))
        for lake, recorder in (("raw", recorders.raw), ("compact", recorders.compact)):
            asked, foreseen = kinds(recorder), said[lake]["requests"]
            assert set(asked) <= set(foreseen)
            assert {kind: asked[kind] for kind in foreseen if asked[kind] > foreseen[kind]} == {}
            assert sum(asked.values()) > 0.6 * sum(foreseen.values())
        assert kinds(recorders.raw)["GET"] == said["raw"]["requests"]["GET"] == 2 * 4 * 40
