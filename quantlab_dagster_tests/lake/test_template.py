"""Templates of the event lake's paths: what they read they write, what they do not explain is told, and by which."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantlab_dagster.errors import PathError
from quantlab_dagster.lake.template import DEFAULT_TEMPLATE, ONE_DAY, Layout, likely_template
from quantlab_dagster.lake.warehouse import ONE_HOUR, AppHour

HOUR = dt.datetime(2026, 1, 5, 9, tzinfo=dt.UTC)

TEMPLATES = {
    DEFAULT_TEMPLATE: "app_id=demo/year=2026/month=01/day=05/hour=09/",
    "{app}/year={Y}/month={m}/day={d}/hour={H}": "demo/year=2026/month=01/day=05/hour=09/",
    "{app}/date={Y}-{m}-{d}/hour={H}": "demo/date=2026-01-05/hour=09/",
    "tenant={app}/dt={Y}{m}{d}{H}": "tenant=demo/dt=2026010509/",
    "{app}/{Y}/{m}/{d}/{H}": "demo/2026/01/05/09/",
    "date={Y}-{m}-{d}/hour={H}": "date=2026-01-05/hour=09/",
    "dt={Y}-{m}-{d}-{H}": "dt=2026-01-05-09/",
    "dt={Y}{m}{d}": "dt=20260105/",
    "{app}/dt={Y}-{m}-{d}": "demo/dt=2026-01-05/",
    "year={Y}/month={m}/day={d}": "year=2026/month=01/day=05/",
    "{Y}/{m}/{d}/{H}": "2026/01/05/09/",
}

layouts = st.sampled_from(list(TEMPLATES)).map(Layout)
hours = st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23)).map(  # noqa: DTZ001  # made aware below
    lambda moment: moment.replace(minute=0, second=0, microsecond=0, tzinfo=dt.UTC)
)


def partition_of(layout: Layout, hour: dt.datetime, app: str = "demo") -> AppHour:
    begin = hour if layout.by_hour else hour.replace(hour=0)
    return AppHour(app if layout.has_apps else "", begin, "", layout)


@pytest.mark.parametrize(("template", "directory"), TEMPLATES.items())
def test_a_template_says_where_a_partition_is(template: str, directory: str) -> None:
    layout = Layout(template)
    partition = partition_of(layout, HOUR)
    assert partition.prefix == directory
    assert AppHour.of_key(f"{directory}x.parquet", layout) == partition
    assert AppHour.of_slot(partition.slot_key, layout) == partition
    assert partition.last_hour == (HOUR if layout.by_hour else HOUR.replace(hour=23))
    assert AppHour.of_key(f"{directory}deeper/x.parquet", layout) is None
    assert AppHour.of_key(f"x/{directory}x.parquet", layout) is None


@pytest.mark.parametrize(("template", "directory"), TEMPLATES.items())
def test_a_key_that_is_not_explained_tells_its_likely_template(template: str, directory: str) -> None:
    assert likely_template(f"{directory}events_1.parquet") == template


@pytest.mark.parametrize(
    "key",
    [
        "x.parquet",
        "demo/x.parquet",
        "a/b/c/d/e/x.parquet",
        "demo/year=2026/x.parquet",
        "date=2026-01/x.parquet",
        "date=x/x",
    ],
)
def test_where_no_template_is_likely_none_is_told(key: str) -> None:
    assert likely_template(key) == ""


@pytest.mark.parametrize(
    "directory",
    [
        "app_id=demo/year=2026/month=1/day=5/hour=9/",
        "app_id=demo/year=2026/month=1/day=05/hour=9/",
        "app_id=demo/year=2026/month=01/day=05/hour=9/",
    ],
)
def test_what_is_not_padded_stays_so_and_is_a_partition_of_its_own(directory: str) -> None:
    found = AppHour.of_directory(directory)
    assert found is not None
    assert (found.app, found.hour, found.prefix) == ("demo", HOUR, directory)
    assert found != AppHour("demo", HOUR)
    assert found.slot_key != AppHour("demo", HOUR).slot_key, "two directories of one hour never share a slot"
    assert AppHour.of_slot(found.slot_key) == found
    assert str(found) == "demo/2026-01-05T09"


@pytest.mark.parametrize("template", ["dt={Y}{m}{d}", "{app}/dt={Y}{m}{d}{H}"])
def test_what_touches_is_always_padded(template: str) -> None:
    layout = Layout(template)
    for text in ("202615", "2026105", "2026-01-05", "20260105T09"):
        assert AppHour.of_key(f"demo/dt={text}/x".removeprefix("" if layout.has_apps else "demo/"), layout) is None


@pytest.mark.parametrize(
    "template",
    [
        "",
        "/",
        "app_id={app}",
        "year={Y}/month={m}",
        "day={d}/month={m}/year={Y}",
        "{app}/year={Y}/month={m}/day={d}/hour={H}/{app}",
        "year={Y}/month={m}/day={d}/app={app}",
        "{app}/year={Y}/month={m}/day={d}/hour={H}/x",
        "events/{app}/year={Y}/month={m}/day={d}",
        "{app}x/dt={Y}{m}{d}",
        "{app}-{Y}/{m}/{d}",
        "_{app}/dt={Y}{m}{d}",
        "{app}/{year}/{month}/{day}",
        "{app}//dt={Y}{m}{d}",
        "../dt={Y}{m}{d}",
        "{app}/dt={Y}{m}{d}/",
        "{app}/dt={Y}{m}{d}\n",
        "{app}/dt={{Y}}{m}{d}",
    ],
)
def test_a_template_that_cannot_work_is_refused_with_one_that_can(template: str) -> None:
    with pytest.raises(PathError, match="Write it as in app_id="):
        Layout(template)


@settings(deadline=None, max_examples=300)
@given(layouts, hours, st.integers(0, 500), st.integers(0, 500))
def test_the_range_of_a_scope_holds_all_its_keys_in_every_spelling(
    layout: Layout, first: dt.datetime, length: int, at: int
) -> None:
    at = min(at, length)
    try:
        last, hour = first + length * ONE_DAY, first + at * ONE_DAY
    except OverflowError:
        return
    padded = partition_of(layout, hour)
    values = [f"{hour.month:02d}", f"{hour.day:02d}", f"{hour.hour:02d}"]
    plain = [str(hour.month), str(hour.day), str(hour.hour)]
    text = layout.template.replace("{app}", "demo").replace("{Y}", f"{hour.year:04d}")
    found = {padded.prefix}
    for month in (values[0], plain[0]):
        for day in (values[1], plain[1]):
            for number in (values[2], plain[2]):
                found.add(f"{text.replace('{m}', month).replace('{d}', day).replace('{H}', number)}/")
    for directory in found:
        partition = AppHour.of_directory(directory, layout)
        if partition is None:  # it must be padded
            continue
        for a, b in ((first, last), (first, None), (None, last), (None, None)):
            assert partition.key("x") in layout.keys(partition.app, a, b)
            assert partition.slot_key in layout.slot_keys(partition.app, a, b)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_short_range_leaves_other_days_out(template: str) -> None:
    layout, hour = Layout(template), HOUR.replace(month=11, day=15)
    keys = layout.keys("demo", hour, hour + ONE_HOUR)
    for days in (-400, -40, -2, 2, 40, 400):
        assert partition_of(layout, hour + days * ONE_DAY).key("x") not in keys


def test_which_files_hold_events_is_a_pattern() -> None:
    assert Layout(files="part-*").is_event_file("part-00001")
    assert Layout(files="part-*").is_event_file("compacted_x.parquet"), "our own are always"
    assert not Layout(files="part-*").is_event_file("compacted_x")
    assert not Layout(files="part-*").is_event_file("x.parquet")
    assert not Layout(files="*").is_event_file("_SUCCESS")
    assert not Layout(files="*").is_event_file(".part.crc")
    for pattern in ("", "a/*"):
        with pytest.raises(PathError, match="no pattern"):
            Layout(files=pattern)
