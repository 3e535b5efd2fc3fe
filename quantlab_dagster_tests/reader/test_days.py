"""What a day is worth, and when it is not read: committed, quarantined, BAD, of other software, copied."""

from __future__ import annotations

import datetime as dt
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from quantlab_dagster import reader
from quantlab_dagster.errors import PathError, SettingsError
from quantlab_dagster.reader.places import LocalPlace
from quantlab_dagster.reader.withholding import withheld
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.reader.lakes import DAY, DAY_MS, MIDNIGHT_MS, ReadLake, bytes_of, day_of, frame_of

if TYPE_CHECKING:
    from pathlib import Path

TIMES = [MIDNIGHT_MS + 1, MIDNIGHT_MS + 2, MIDNIGHT_MS + 3]
OTHER = bytes_of(frame_of(day_of(), [MIDNIGHT_MS + 7, MIDNIGHT_MS + 8, MIDNIGHT_MS + 9]))
QUARANTINE = {"schema_version": 1, "raw_fingerprint": "f", "part": "part-1-000001.parquet", "reason": "no magic"}


@pytest.fixture
def lake(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> ReadLake:
    return ReadLake.of(rig, monkeypatch)


@pytest.fixture
def local(tmp_path: Path) -> ReadLake:
    return ReadLake.of(Rig("local", None, tmp_path))


def test_what_is_there_and_its_worth(lake: ReadLake) -> None:
    meta = lake.put(day_of(), TIMES, day_quality="DEGRADED", revision=3)
    lake.put(day_of("btcusdt"), [])
    lake.put_object(day_of("xrpusdt"), "quarantine.json", QUARANTINE)
    lake.put_object(day_of("skipped"), "quality_day.json", {"quality": "PARTIAL"})
    opened = lake.open()
    assert opened.exchanges() == ("binance",)
    assert opened.streams("binance") == ("bbo",)
    assert opened.symbols("binance", "bbo") == ("adausdt", "btcusdt", "skipped", "xrpusdt")
    table = reader.worth(opened.days())
    assert table["symbol"].to_list() == ["adausdt", "btcusdt", "xrpusdt"]
    assert table["status"].to_list() == ["published", "published", "quarantined"]
    first, empty, quarantined = table.rows(named=True)
    assert first == {
        "exchange": "binance",
        "stream": "bbo",
        "symbol": "adausdt",
        "date": DAY,
        "status": "published",
        "quality": "DEGRADED",
        "rows": 3,
        "ts_event_min": TIMES[0],
        "ts_event_max": TIMES[-1],
        "first": dt.datetime(2026, 1, 8, 0, 0, 0, 1_000, dt.UTC),
        "last": dt.datetime(2026, 1, 8, 0, 0, 0, 3_000, dt.UTC),
        "bytes": meta["data_size_bytes"],
        "revision": 3,
        "sha256": meta["sha256"],
        "why": "",
    }
    assert (empty["rows"], empty["first"]) == (0, None)
    assert quarantined["why"] == "in quarantine: part-1-000001.parquet: no magic"
    assert opened.days(end="2026-01-08") == []
    assert len(opened.days(start="2026-01-08", end="2026-01-09", symbol="ADAUSDT")) == 1


def test_names_are_meant_in_any_spelling_and_said_to_be_missing_where_they_are(local: ReadLake) -> None:
    local.put(day_of(), TIMES)
    local.put(day_of("btcusdt", exchange="okx"), TIMES)
    opened = local.open()
    assert opened.streams("BINANCE") == ("bbo",)
    assert opened.symbols("Binance", "BBO") == ("adausdt",)
    with pytest.raises(reader.NothingPublished, match="exchange kraken"):
        opened.streams("kraken")
    with pytest.raises(reader.NothingPublished, match=r"stream trade: is not in okx of .*Nearest are: bbo"):
        opened.symbols("okx", "trade")
    with pytest.raises(reader.NothingPublished, match=r"symbol ADAUSDT: is not in okx/bbo of .*Nearest are: btcusdt"):
        opened.rows(exchange="okx", symbol="ADAUSDT")
    with pytest.raises(reader.NothingPublished, match=rf"symbol XYZ: is not in {local.url}"):
        opened.rows(symbol="XYZ")


def test_a_page_of_a_symbol_in_two_spellings_asks_which(local: ReadLake) -> None:
    for number, symbol in enumerate(("adausdt", "ADAUSDT")):
        local.put(day_of(symbol), TIMES[number:])
    opened = local.open()
    assert [opened.page("binance", "bbo", symbol, DAY).rows.height for symbol in ("adausdt", "ADAUSDT")] == [3, 2]
    with pytest.raises(PathError, match=r"AdaUsdt: may be any of binance/bbo/ADAUSDT, binance/bbo/adausdt"):
        opened.page("binance", "bbo", "AdaUsdt", DAY)


def test_words_that_mean_nothing_are_refused_and_a_text_is_one_word(local: ReadLake) -> None:
    local.put(day_of(), TIMES, day_quality="BAD")
    opened, which = local.open(), ("binance", "bbo", "adausdt", DAY)
    wrong: Any = "bogus"
    with pytest.raises(PathError, match=r"order 'bogus': is not known\. Known are: total, files"):
        opened.rows(order=wrong)
    with pytest.raises(PathError, match=r"on_rebuilt 'bogus': is not known\. Known are: refuse, restart"):
        opened.page(*which, on_rebuilt=wrong)
    with pytest.raises(PathError, match="allow 'bogus'"):
        opened.rows(allow=wrong)
    assert opened.rows(allow="bad", columns="seq").polars().columns == ["seq"]
    assert opened.page(*which, allow="bad", columns="seq").rows.columns == ["seq"]
    assert [page.rows.columns for page in opened.pages(*which, allow="bad", columns="seq")] == [["seq"]]


def test_a_lake_may_be_given_as_a_path(local: ReadLake, tmp_path: Path) -> None:
    local.put(day_of(), TIMES)
    directory = tmp_path / local.url.rpartition("/")[2]
    assert reader.open_lake(directory).exchanges() == ("binance",)


def test_data_that_is_not_its_metas_is_never_read_unless_asked(lake: ReadLake) -> None:
    lake.put(day_of(), TIMES)
    lake.put_object(day_of(), "data.parquet", OTHER)
    opened = lake.open()
    remedy = r"quantlab compact --date 2026-01-08.*allow=\[\"uncommitted\"\] takes it as it is"
    with pytest.raises(reader.DayUncommitted, match=rf"date=20260108/: data\.parquet has .*{remedy}"):
        opened.rows()
    with pytest.raises(reader.DayUncommitted):
        opened.page("binance", "bbo", "adausdt", DAY)
    assert opened.rows(allow=["uncommitted"]).polars()["ts_event"].to_list() == [MIDNIGHT_MS + 7 + n for n in range(3)]


@pytest.mark.parametrize(
    ("change", "flaw", "why"),
    [
        ({"delete": "meta.json"}, "uncommitted", "has no meta.json"),
        ({"delete": "data.parquet"}, "uncommitted", "no data.parquet beside it"),
        ({"put": ("meta.json", b"{")}, "uncommitted", "is not a valid DayMeta record"),
        ({"put": ("quarantine.json", QUARANTINE)}, "quarantined", "in quarantine: part-1-000001.parquet: no magic"),
        ({"put": ("quarantine.json", b"?")}, "quarantined", "is not a valid Quarantine record"),
        ({"meta": {"day_quality": "BAD"}}, "bad", "its label is BAD"),
        ({"meta": {"day_quality": "bad"}}, "bad", "its label is BAD"),
        ({"meta": {"data_size_bytes": 5}}, "uncommitted", "and meta.json says 5"),
        ({"meta": {"sha256": "0" * 64, "data_etag": "x"}}, "uncommitted", "has not the sha256 that meta.json says"),
    ],
)
def test_a_flaw_is_refused_with_its_reason_and_read_when_asked(
    local: ReadLake, change: dict[str, Any], flaw: str, why: str
) -> None:
    local.put(day_of(), TIMES, **change.get("meta", {}))
    if "delete" in change:
        local.delete_object(day_of(), change["delete"])
    if "put" in change:
        local.put_object(day_of(), *change["put"])
    opened = local.open()
    kinds = {"uncommitted": reader.DayUncommitted, "quarantined": reader.DayQuarantined, "bad": reader.DayBad}
    with pytest.raises(reader.DayWithheld, match=why) as caught:
        opened.rows()
    assert type(caught.value) is kinds[flaw]
    others = {"uncommitted", "quarantined", "bad"} - {flaw}
    with pytest.raises(kinds[flaw]):
        opened.rows(allow=others)
    frame = opened.rows(allow=[flaw]).polars()
    assert frame.height == (0 if change.get("delete") == "data.parquet" else 3)


@pytest.mark.parametrize(
    ("quality", "remedy"),
    [
        ("BAD", "`quantlab quality --date 2026-01-08` says why; `quantlab compact --date 2026-01-08 --accept-bad "),
        ("UNKNOWN", "Mend or remove the part, and run `quantlab compact --date 2026-01-08`; "),
    ],
)
def test_what_to_do_about_a_quarantine_is_said_by_its_cause(quality: str, remedy: str) -> None:
    day = reader.Day(day_of(), quality=quality, flaws=((reader.Flaw.QUARANTINED, "in quarantine"),), proved=False)
    error = withheld(day, {reader.Flaw.BAD}, str)
    assert isinstance(error, reader.DayQuarantined)
    assert f"in quarantine. {remedy}" in str(error)
    assert str(error).endswith('; allow=["quarantined"] goes on without it')
    assert withheld(day, {reader.Flaw.QUARANTINED}, str) is None


def test_a_day_that_is_in_quarantine_and_not_published_is_missing_where_that_is_allowed(local: ReadLake) -> None:
    local.put(day_of(), TIMES)
    local.put_object(day_of(day=DAY + dt.timedelta(days=1)), "quarantine.json", QUARANTINE | {"day_quality": "BAD"})
    found = local.open().rows(start="2026-01-08", end="2026-01-10", allow=["quarantined"])
    assert found.polars().height == len(TIMES)
    assert found.missing == {("binance", "bbo", "adausdt"): (DAY + dt.timedelta(days=1),)}


def test_a_degraded_and_an_unknown_day_are_read(local: ReadLake) -> None:
    local.put(day_of(), TIMES, day_quality="DEGRADED")
    local.put(day_of("btcusdt"), TIMES)
    assert local.open().rows().polars().height == 6


def test_a_neighbouring_day_counts_only_where_it_may_have_rows_of_the_range(local: ReadLake) -> None:
    tomorrow = day_of(day=DAY + dt.timedelta(days=1))
    local.put(day_of(), TIMES)
    local.put(tomorrow, [MIDNIGHT_MS + DAY_MS], day_quality="BAD")
    opened = local.open()
    assert opened.rows(start="2026-01-08", end="2026-01-09").polars().height == 3
    with pytest.raises(reader.DayBad, match="date=20260109"):
        opened.rows(start="2026-01-08")
    local.put(tomorrow, [MIDNIGHT_MS + DAY_MS - 1], day_quality="BAD")
    with pytest.raises(reader.DayBad, match="date=20260109"):
        opened.rows(start="2026-01-08", end="2026-01-09")
    assert opened.rows(start="2026-01-08", end="2026-01-09", allow=["bad"]).polars().height == 4


def test_nothing_else_can_be_allowed(local: ReadLake) -> None:
    local.put(day_of(), TIMES)
    with pytest.raises(PathError, match="Known are: uncommitted, quarantined, bad"):
        local.open().rows(allow=["everything"])


# ---- other software, copies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sha256", [True, False])
def test_days_of_the_old_software_are_read(lake: ReadLake, sha256: bool) -> None:
    lake.put_foreign(day_of(), TIMES, **({} if sha256 else {"sha256": None}))
    opened = lake.open()
    [day] = opened.days()
    assert (day.foreign, day.proved, day.quality, day.status) == (True, None if sha256 else True, "GOOD", "published")
    assert opened.rows().polars()["ts_event"].to_list() == TIMES
    assert opened.page("binance", "bbo", "ADAUSDT", DAY).is_last


@pytest.mark.guards("wrong-range-believed")
@pytest.mark.parametrize("sha256", [True, False])
def test_a_day_of_the_old_software_has_its_rows_whatever_range_its_meta_says(lake: ReadLake, sha256: bool) -> None:
    """Its chunks were joined, and the greatest time was taken from the first one."""
    hour = 3_600_000
    before = day_of(day=DAY - dt.timedelta(days=1))
    without = {} if sha256 else {"sha256": None}
    meta = {"ts_event_max": MIDNIGHT_MS + 3 * hour}
    lake.put_foreign(day_of(), [MIDNIGHT_MS + number * hour for number in range(23)], **meta, **without)
    wrong = {"ts_event_max": MIDNIGHT_MS - DAY_MS}
    lake.put_foreign(before, [MIDNIGHT_MS - DAY_MS, MIDNIGHT_MS - 2, MIDNIGHT_MS + 5], **wrong, **without)
    opened = lake.open()

    def times(start: str, end: str) -> list[int]:
        found: list[int] = (
            opened.rows(start=f"2026-01-08T{start}Z", end=f"2026-01-08T{end}Z").polars()["ts_event"].to_list()
        )
        return found

    assert times("10:00", "12:00") == [MIDNIGHT_MS + 10 * hour, MIDNIGHT_MS + 11 * hour]
    assert times("22:00", "23:00") == [MIDNIGHT_MS + 22 * hour]
    assert times("00:00", "00:01") == [MIDNIGHT_MS, MIDNIGHT_MS + 5]
    assert times("22:30", "23:00") == []


def test_a_day_of_the_old_software_that_has_no_rows_of_the_range_does_not_keep_it_from_being_read(
    local: ReadLake,
) -> None:
    local.put(day_of(), TIMES)
    tomorrow = day_of(day=DAY + dt.timedelta(days=1))
    local.put_foreign(tomorrow, [MIDNIGHT_MS + DAY_MS, MIDNIGHT_MS + DAY_MS + 9], day_quality="BAD")
    opened = local.open()
    assert opened.rows(start="2026-01-08", end="2026-01-09").polars()["ts_event"].to_list() == TIMES
    wrong = dict.fromkeys(("ts_event_min", "ts_event_max"), MIDNIGHT_MS + DAY_MS)
    local.put_foreign(tomorrow, [MIDNIGHT_MS + DAY_MS - 1], day_quality="BAD", **wrong)
    with pytest.raises(reader.DayBad):
        opened.rows(start="2026-01-08", end="2026-01-09")
    local.put_object(tomorrow, "data.parquet", b"no Parquet")
    with pytest.raises(reader.DayUncommitted):
        opened.rows(start="2026-01-08", end="2026-01-09")


def test_a_half_written_day_of_the_old_software_is_refused_where_its_meta_tells(local: ReadLake) -> None:
    local.put_foreign(day_of(), TIMES)
    local.put_object(day_of(), "data.parquet", OTHER)
    with pytest.raises(reader.DayUncommitted, match="has not the sha256"):
        local.open().rows()


def test_a_meta_of_other_software_over_a_day_of_ours_is_not_believed(local: ReadLake) -> None:
    local.put_foreign(day_of(), TIMES, sha256=None)
    local.put_object(day_of(), "sources.json", {})
    with pytest.raises(reader.DayUncommitted, match=r"of other software, beside sources\.json"):
        local.open().rows()


def test_a_copied_lake_is_proved_by_content_once(
    local: ReadLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.put(day_of(), TIMES)
    copy = tmp_path / "copy"
    shutil.copytree(local.url, copy)
    opened = reader.open_lake(f"file://{copy}", patience=0)
    assert [day.proved for day in opened.days()] == [None]
    pinned: list[str] = []
    pin = LocalPlace.pin

    def counted(self: LocalPlace, info: Any) -> Any:
        pinned.append(info.key)
        return pin(self, info)

    monkeypatch.setattr(LocalPlace, "pin", counted)
    assert opened.rows().days[0].proved
    assert opened.rows().days[0].proved
    assert len(pinned) == 1
    (copy / day_of().key("data.parquet")).write_bytes(OTHER)
    with pytest.raises(reader.DayUncommitted):
        opened.rows()


def test_a_publication_under_way_is_waited_for(local: ReadLake, monkeypatch: pytest.MonkeyPatch) -> None:
    local.put(day_of(), TIMES)
    meta = (local.frames, local.open().days()[0])
    local.put_object(day_of(), "data.parquet", OTHER)
    waited: list[float] = []

    def publish(seconds: float) -> None:
        waited.append(seconds)
        local.put(day_of(), [*TIMES, MIDNIGHT_MS + 4], revision=2)

    monkeypatch.setattr("quantlab_dagster.reader.lake.time.sleep", publish)
    rows = local.open(patience=5.0).rows()
    assert rows.polars().height == 4
    assert waited == [0.05]
    assert meta[1].revision == 1


# ---- places ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["s3:/bucket", "https://host/bucket", "", "file://host/directory"])
def test_what_is_no_lake_is_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        reader.open_lake(url or "/no/such/directory")


def test_credentials_in_a_url_are_refused_and_not_shown() -> None:
    with pytest.raises(SettingsError, match="holds credentials") as caught:
        reader.open_lake("s3://key:secret@bucket/prefix")
    assert "secret" not in str(caught.value)


def test_objects_are_listed_with_the_etags_that_their_writers_see(lake: ReadLake) -> None:
    meta = lake.put(day_of(), TIMES)
    [day] = lake.open().days()
    assert day.data is not None
    assert day.data.etag == meta["data_etag"]
    assert day.proved


def test_what_lies_beside_days_is_ignored(lake: ReadLake) -> None:
    lake.put(day_of(), TIMES)
    lake.put_object(day_of(), "deeper/data.parquet", b"x")

    async def put() -> None:
        for key in ("calendar/date=20260108/index.parquet", "exchange=binance/stream=bbo/symbol=adausdt/readme.txt"):
            await lake.store.put(key, b"x")
        await lake.store.put("exchange=binance/stream=bbo/symbol=adausdt/date=tomorrow/data.parquet", b"x")

    import asyncio  # noqa: PLC0415

    asyncio.run(put())
    assert len(lake.open().days()) == 1
    assert lake.open().rows().polars().height == 3
