"""The path grammar: what is written can be read back, whatever the names, and what does not fit is refused."""

from __future__ import annotations

import datetime as dt
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quantlab_dagster.errors import PathError
from quantlab_dagster.lake.market import Pair, SymbolDay, day_text, is_part_name, parse_day
from quantlab_dagster.lake.paths import segment, value_of

DAY = dt.date(2026, 1, 8)

# Names that a careless program splits, decodes, normalizes, globs or escapes.
HOSTILE = (
    "btc",
    "btcusdt",
    "BTC",
    "%",
    "%2F",
    "%25",
    "a%zz",
    "+",
    "a+b c",
    " lead and trail ",
    "..",
    ".",
    "...",
    "a..b",
    "=",
    "symbol=btc",
    "date=20260108",
    "#",
    "a#1",
    "?",
    "a?b=c&d",
    "'",
    '"',
    "\\",
    "a\\b",
    "*",
    "[a-z]",
    "{a,b}",
    "~",
    "<>|^`",
    "a:b;c,d@e!$()",
    "é",
    "e\u0301",  # the same to the eye
    "\u0130stanbul",
    "日本",
    "😀",
    "a\u00a0b",
    "a\u200bb",
    "\u202eabc",
    "-",
    "_",
    "._x",
    "None",
)
CONTROLS = "".join(map(chr, (*range(0x20), 0x7F)))

values = st.text(st.characters(codec="utf-8", exclude_characters=f"{CONTROLS}/"), min_size=1, max_size=30)
names = st.one_of(values, st.sampled_from(HOSTILE))
days = st.dates(dt.date(1, 1, 1), dt.date(9999, 12, 31))
symbol_days = st.builds(SymbolDay, names, names, names, days)


@settings(deadline=None)
@given(symbol_days, names)
def test_a_key_tells_its_symbol_day(symbol_day: SymbolDay, name: str) -> None:
    assert SymbolDay.parse(symbol_day.prefix) == symbol_day
    assert SymbolDay.parse(symbol_day.prefix.removesuffix("/")) == symbol_day
    assert SymbolDay.parse(symbol_day.key(name)) == symbol_day


@settings(deadline=None)
@given(symbol_days)
def test_a_prefix_has_one_directory_a_name(symbol_day: SymbolDay) -> None:
    assert symbol_day.prefix.startswith(symbol_day.pair.prefix)
    assert symbol_day.prefix.count("/") == 4
    assert symbol_day.prefix.endswith(f"/date={day_text(symbol_day.day)}/")
    assert str(symbol_day) == symbol_day.state_key
    assert symbol_day.pair == Pair(symbol_day.exchange, symbol_day.stream)


@settings(deadline=None)
@given(symbol_days, symbol_days)
@example(SymbolDay("x", "y", "btc", DAY), SymbolDay("x", "y", "btcusdt", DAY))
@example(SymbolDay("x", "y", "btc", DAY), SymbolDay("x", "y", "btc", DAY + dt.timedelta(1)))
@example(SymbolDay("x", "y", "a", DAY), SymbolDay("x", "y", "A", DAY))
@example(SymbolDay("x", "y", "é", DAY), SymbolDay("x", "y", "e\u0301", DAY))
@example(SymbolDay("x", "y", "a%2Fb", DAY), SymbolDay("x", "y", "a", DAY))
def test_different_symbol_days_never_share_keys(one: SymbolDay, other: SymbolDay) -> None:
    assert (one == other) == (one.prefix == other.prefix)
    assert one == other or not one.prefix.startswith(other.prefix)


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_names_stand_in_keys_literally(value: str) -> None:
    symbol_day = SymbolDay(value, value, value, DAY)
    assert symbol_day.prefix == f"exchange={value}/stream={value}/symbol={value}/date=20260108/"
    assert SymbolDay.parse(symbol_day.key("part.parquet")) == symbol_day
    assert value_of("symbol", segment("symbol", value)) == value


@settings(deadline=None)
@given(st.text(max_size=40))
def test_a_segment_says_what_was_put_in_or_refuses_it(value: str) -> None:
    try:
        text = segment("symbol", value)
    except PathError:
        assert not value or set(value) & set(f"{CONTROLS}/")
    else:
        assert value_of("symbol", text) == value


@pytest.mark.parametrize("value", ["", "/", "a/b", "/a", "a/", "a\nb", "\x00", "a\tb", "\x7f", "a\r"])
@pytest.mark.parametrize("name", ["exchange", "stream", "symbol"])
def test_what_cannot_be_a_segment_is_refused(name: str, value: str) -> None:
    with pytest.raises(PathError, match=f"^{name}=.*cannot be a path segment") as caught:
        SymbolDay(**{"exchange": "x", "stream": "y", "symbol": "z", name: value}, day=DAY).prefix  # noqa: B018
    assert caught.value.remedy
    assert isinstance(caught.value, ValueError)


def test_values_of_segments() -> None:
    assert value_of("symbol", "symbol=a=b") == "a=b"
    assert value_of("symbol", "symbol=") is None
    assert value_of("symbol", "symbol") is None
    assert value_of("symbol", "Symbol=a") is None
    assert value_of("symbol", "xsymbol=a") is None
    assert value_of("symbol", "symbols=a") is None
    assert value_of("symbol", "symbol=a\nb") is None


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "quality/date=20260108/window=0000.json",
        "exchange=x/stream=y/symbol=z",
        "exchange=x/stream=y/symbol=z/",
        "/exchange=x/stream=y/symbol=z/date=20260108/part.parquet",
        "lake/exchange=x/stream=y/symbol=z/date=20260108/part.parquet",
        "exchange=x/stream=y/symbol=z/date=20260108/deeper/part.parquet",
        "exchange=x//stream=y/symbol=z/date=20260108/part.parquet",
        "stream=y/exchange=x/symbol=z/date=20260108/part.parquet",
        "exchange=x/stream=y/symbol=/date=20260108/part.parquet",
        "exchange=x/stream=y/symbol=a/b/date=20260108/part.parquet",
        "exchange=x/stream=y/symbol=z/day=20260108/part.parquet",
        "exchange=x/stream=y/symbol=z/date=2026-01-08/part.parquet",
        "exchange=x/stream=y/symbol=z/date=20260230/part.parquet",
        "exchange=x/stream=y/symbol=z/date=2026010/part.parquet",
        "exchange=x/stream=y/symbol=z/date=/part.parquet",
        "EXCHANGE=x/stream=y/symbol=z/date=20260108/part.parquet",
        "exchange=x/stream=y/symbol=a\nb/date=20260108/part.parquet",
    ],
)
def test_keys_that_do_not_follow_the_grammar_are_refused(key: str) -> None:
    with pytest.raises(PathError):
        SymbolDay.parse(key)


SEGMENTS = ("exchange=x", "stream=y", "symbol=z", "date=20260108", "date=2026", "symbol=", "", "a", "=", "\n")


@settings(deadline=None)
@given(st.lists(st.sampled_from(SEGMENTS), max_size=6).map("/".join))
@example("exchange=x/stream=y/symbol=z/date=20260108")
@example("exchange=x/stream=y/symbol=z/date=20260108/a/a")
def test_any_text_is_parsed_or_refused(key: str) -> None:
    try:
        symbol_day = SymbolDay.parse(key)
    except PathError:
        return
    assert f"{key}/".startswith(symbol_day.prefix)


def test_a_refused_key_is_named() -> None:
    with pytest.raises(PathError) as caught:
        SymbolDay.parse("exchange=x/what=y")
    assert "exchange=x/what=y" in str(caught.value)
    assert "exchange=…/stream=…/symbol=…/date=YYYYMMDD" in str(caught.value)


@settings(deadline=None)
@given(days)
def test_days_can_be_written_both_ways(day: dt.date) -> None:
    assert re.fullmatch(r"\d{8}", day_text(day))
    assert parse_day(day_text(day)) == parse_day(day_text(day), compact_only=True) == day
    assert parse_day(day.isoformat()) == day
    with pytest.raises(PathError):
        parse_day(day.isoformat(), compact_only=True)


@settings(deadline=None)
@given(days, days)
def test_day_texts_are_in_the_order_of_days(one: dt.date, other: dt.date) -> None:
    assert (one < other) == (day_text(one) < day_text(other))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20260230",
        "2026-02-30",
        "20261301",
        "20260100",
        "00000101",
        "2026018",
        "202601080",
        "2026-1-8",
        "2026-0108",
        "202601-08",
        "2026/01/08",
        "08-01-2026",
        "2026-01-08T00:00:00",
        " 20260108",
        "20260108 ",
        "20260108\n",
        "-20260108",
        "+2026010",
        "\uff12\uff10\uff12\uff16\uff10\uff11\uff10\uff18",
        "yesterday",
    ],
)
def test_bad_days_are_refused(text: str) -> None:
    for compact_only in (True, False):
        with pytest.raises(PathError, match="is not a day as") as caught:
            parse_day(text, compact_only=compact_only)
        assert caught.value.where == text


@settings(deadline=None)
@given(st.text(max_size=12))
def test_no_other_text_is_a_day(text: str) -> None:
    try:
        day = parse_day(text)
    except PathError:
        return
    assert text in (day_text(day), day.isoformat())


@pytest.mark.parametrize(
    ("name", "is_part"),
    [
        ("part-1767830426-000001.parquet", True),
        ("anything else.parquet", True),
        ("_x.parquet", True),
        (".x.parquet", True),
        ("x.tmp.parquet", True),
        ("._part-1767830426-000001.parquet", False),
        ("part-1767830426-000001.parquet.tmp", False),
        ("part-1767830426-000001.parquet.crc", False),
        ("part-1767830426-000001.PARQUET", False),
        ("part-1767830426-000001.parquet ", False),
        ("part-1767830426-000001", False),
        ("_SUCCESS", False),
        (".DS_Store", False),
        ("parquet", False),
        ("", False),
    ],
)
def test_parts_are_told_by_their_names(name: str, is_part: bool) -> None:
    assert is_part_name(name) is is_part


def test_order_is_that_of_the_bytes() -> None:
    names = ["a", "b", "B", "é", "z", "日本", "😀", "\uffee"]
    pairs = sorted(Pair(exchange, "s") for exchange in names)
    assert [pair.exchange for pair in pairs] == sorted(names, key=str.encode)
    assert [str(pair) for pair in pairs[:2]] == ["B/s", "a/s"]
