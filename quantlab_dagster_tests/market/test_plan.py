"""What is done with a symbol-day, every rule by a row of a table; and what the records beside it are taken for."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from quantlab_dagster.lake.store.objects import ObjectInfo
from quantlab_dagster.market.plan import Action, Published, Requested, decide, load_published
from quantlab_dagster.market.records import DayMeta, Quarantine, Source, fingerprint
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import NO_WINDOWS, Lakes, parquet_bytes, spec, symbol_day

if TYPE_CHECKING:
    from pathlib import Path


def parts(names: str, etag: str = "1") -> tuple[Source, ...]:
    return tuple(Source(name=name, size_bytes=1, etag=etag) for name in names)


def meta(**changes: Any) -> DayMeta:
    return DayMeta(**({"rows": 30, "ts_event_min": 0, "ts_event_max": 9, "stream_type": "bbo"} | changes))


ABC = parts("abc")
OTHERS = parts("abc", etag="2")
DATA = ObjectInfo("data.parquet", 10, "etag")

OURS = Published(meta=meta(raw_fingerprint=fingerprint(ABC), source_files=3), data=DATA, committed=True, sources=ABC)
OURS_UNKNOWN = replace(OURS, sources=None)
OURS_TOO_LATE = replace(OURS_UNKNOWN, other_sources=parts("ab"))
OURS_HALF_DONE = replace(OURS_UNKNOWN, committed=False, other_sources=parts("abcd"))
FOREIGN = Published(meta=meta(source_files=3), data=DATA, committed=True)
FOREIGN_UNKNOWN = replace(FOREIGN, meta=meta())
WRITTEN_OVER = replace(FOREIGN, written_over=True, other_sources=ABC)
WITHOUT_META = Published(data=DATA)

PLAIN, OVERWRITE, SHRINK = Requested(), Requested(overwrite=True), Requested(allow_shrink=True)
BOTH = Requested(overwrite=True, allow_shrink=True)


def broken(published: Published) -> Published:
    return replace(published, committed=False)


UNKNOWN = "it is not known which raw parts were read"
NOT_META = "data.parquet is not what meta.json says"


@pytest.mark.guards("shrink-unknown-sources", "mutant-shrink")
@pytest.mark.parametrize(
    ("listed", "published", "requested", "action", "reason"),
    [
        ("", Published(), OVERWRITE, Action.NO_FILES, "no raw parts"),
        ("abc", Published(), PLAIN, Action.BUILD, "not published"),
        ("abc", WITHOUT_META, PLAIN, Action.BUILD, "not committed"),
        ("", WITHOUT_META, BOTH, Action.BROKEN, "has no valid meta.json, and there are no raw parts"),
        ("abc", replace(WITHOUT_META, other_sources=ABC), PLAIN, Action.BUILD, "not committed"),
        ("ab", replace(WITHOUT_META, other_sources=ABC), OVERWRITE, Action.BROKEN, "1 raw parts that were read"),
        ("ab", replace(WITHOUT_META, other_sources=ABC), SHRINK, Action.BUILD, "not committed"),
        # Ours, and it is known what was read.
        ("abc", OURS, PLAIN, Action.UP_TO_DATE, "from the same raw parts"),
        ("abc", OURS, OVERWRITE, Action.BUILD, "asked to overwrite"),
        ("abc", broken(OURS), PLAIN, Action.BUILD, "not committed"),
        ("abcd", OURS, PLAIN, Action.BUILD, "raw parts arrived"),
        ("abcd", broken(OURS), PLAIN, Action.BUILD, "not committed"),
        ("ab", OURS, PLAIN, Action.KEEP, "1 raw parts that were read are gone or changed (first: c)"),
        ("ab", OURS, OVERWRITE, Action.KEEP, "--allow-shrink rebuilds it"),
        ("abde", OURS, OVERWRITE, Action.KEEP, "(first: c)"),  # their number says nothing
        ("ab", OURS, SHRINK, Action.BUILD, "raw parts arrived"),
        ("ab", broken(OURS), OVERWRITE, Action.BROKEN, NOT_META),
        ("ab", broken(OURS), SHRINK, Action.BUILD, "not committed"),
        ("", OURS, OVERWRITE, Action.KEEP, "3 raw parts that were read"),
        ("", OURS, BOTH, Action.KEEP, "there are no raw parts to build it from"),
        # Ours, and it is not known what was read.
        ("abc", OURS_UNKNOWN, PLAIN, Action.UP_TO_DATE, "from the same raw parts"),
        ("abc", OURS_UNKNOWN, OVERWRITE, Action.BUILD, "asked to overwrite"),
        ("abcd", OURS_UNKNOWN, PLAIN, Action.KEEP, UNKNOWN),
        ("abcd", OURS_UNKNOWN, OVERWRITE, Action.KEEP, UNKNOWN),
        ("abcd", OURS_UNKNOWN, SHRINK, Action.BUILD, "raw parts arrived"),
        ("ab", OURS_UNKNOWN, OVERWRITE, Action.KEEP, "only 2 of 3 raw parts are left"),
        ("abd", OURS_UNKNOWN, OVERWRITE, Action.KEEP, UNKNOWN),
        ("abd", broken(OURS_UNKNOWN), OVERWRITE, Action.BROKEN, f"{NOT_META}, and {UNKNOWN}"),
        ("abd", broken(OURS_UNKNOWN), SHRINK, Action.BUILD, "not committed"),
        ("abcd", OURS_TOO_LATE, OVERWRITE, Action.KEEP, UNKNOWN),
        ("abcd", broken(OURS_TOO_LATE), OVERWRITE, Action.BROKEN, UNKNOWN),
        # Ours, and our next publication of it died before its meta.
        ("abcd", OURS_HALF_DONE, PLAIN, Action.BUILD, "not committed"),
        ("abcde", OURS_HALF_DONE, PLAIN, Action.BUILD, "not committed"),
        ("abc", replace(OURS_HALF_DONE, meta=meta(raw_fingerprint="x")), PLAIN, Action.BROKEN, "(first: d)"),
        # Of other software: only the number of its parts is known, if that.
        ("abc", FOREIGN, PLAIN, Action.UP_TO_DATE, "published by other software"),
        ("abc", FOREIGN, SHRINK, Action.UP_TO_DATE, "published by other software"),
        ("abc", FOREIGN, OVERWRITE, Action.BUILD, "asked to overwrite"),
        ("abcd", FOREIGN, PLAIN, Action.BUILD, "raw parts arrived"),
        ("ab", FOREIGN, PLAIN, Action.KEEP, "only 2 of 3 raw parts are left"),
        ("ab", FOREIGN, OVERWRITE, Action.KEEP, "only 2 of 3 raw parts are left"),
        ("ab", FOREIGN, SHRINK, Action.BUILD, "raw parts arrived"),
        ("", FOREIGN, PLAIN, Action.KEEP, "only 0 of 3 raw parts are left"),
        ("abc", FOREIGN_UNKNOWN, PLAIN, Action.UP_TO_DATE, "published by other software"),
        ("", FOREIGN_UNKNOWN, PLAIN, Action.UP_TO_DATE, "published by other software"),
        ("abc", FOREIGN_UNKNOWN, SHRINK, Action.UP_TO_DATE, "published by other software"),
        ("abc", FOREIGN_UNKNOWN, OVERWRITE, Action.KEEP, UNKNOWN),
        ("abc", FOREIGN_UNKNOWN, BOTH, Action.BUILD, "asked to overwrite"),
        # Of other software, beside sources of ours.
        ("abc", WRITTEN_OVER, PLAIN, Action.BUILD, "meta.json is of other software"),
        ("abc", WRITTEN_OVER, OVERWRITE, Action.BUILD, "meta.json is of other software"),
        ("abc", broken(WRITTEN_OVER), PLAIN, Action.BUILD, "not known to be its data"),
        ("abc", replace(WRITTEN_OVER, meta=meta()), PLAIN, Action.BUILD, "meta.json is of other software"),
        ("abd", WRITTEN_OVER, OVERWRITE, Action.KEEP, "meta.json is of other software, beside"),
        ("abd", WRITTEN_OVER, OVERWRITE, Action.KEEP, "(first: c)"),
        ("abd", broken(WRITTEN_OVER), OVERWRITE, Action.BROKEN, "(first: c)"),
        ("abd", WRITTEN_OVER, SHRINK, Action.BUILD, "meta.json is of other software"),
        ("abc", replace(WRITTEN_OVER, meta=meta(source_files=4)), PLAIN, Action.KEEP, "only 3 of 4"),
        ("abc", replace(WRITTEN_OVER, meta=meta(), other_sources=None), OVERWRITE, Action.KEEP, UNKNOWN),
    ],
)
def test_what_is_done(listed: str, published: Published, requested: Requested, action: Action, reason: str) -> None:
    sources = parts(listed)
    decided, why = decide(sources, fingerprint(sources), published, requested, NO_WINDOWS)
    assert (decided, reason in why) == (action, True), why


def test_a_quarantine_is_tried_again_on_request_alone_and_nothing_else_is() -> None:
    sources, retry = parts("abc"), Requested(retry_quarantine=True)
    held = replace(Published(), quarantine=Quarantine(raw_fingerprint=fingerprint(sources), part="a", reason="bad"))
    assert decide(sources, fingerprint(sources), held, PLAIN, NO_WINDOWS)[0] is Action.QUARANTINED
    assert decide(sources, fingerprint(sources), held, retry, NO_WINDOWS)[0] is Action.BUILD
    assert decide(sources, fingerprint(sources), OURS, retry, NO_WINDOWS)[0] is Action.UP_TO_DATE


@pytest.mark.guards("shrink-vanished")
@pytest.mark.parametrize("requested", [PLAIN, OVERWRITE])
@pytest.mark.parametrize("published", [OURS, OURS_UNKNOWN, broken(OURS), broken(OURS_UNKNOWN), OURS_HALF_DONE])
def test_replaced_parts_are_never_taken_for_those_that_were_read(published: Published, requested: Requested) -> None:
    """As many as there were, with other content."""
    decided, _ = decide(OTHERS, fingerprint(OTHERS), published, requested, NO_WINDOWS)
    assert decided is (Action.KEEP if published.committed else Action.BROKEN)


@pytest.mark.parametrize("stands", [Published(), OURS, FOREIGN])
def test_a_quarantine_holds_while_its_raw_parts_do(stands: Published) -> None:
    late = parts("abcd")
    published = replace(stands, quarantine=Quarantine(raw_fingerprint=fingerprint(late), part="x", reason="bad"))
    assert decide(late, fingerprint(late), published, PLAIN, NO_WINDOWS) == (Action.QUARANTINED, "bad")
    assert decide(late, fingerprint(late), published, OVERWRITE, NO_WINDOWS)[0] is Action.BUILD
    more = parts("abcde")
    assert decide(more, fingerprint(more), published, PLAIN, NO_WINDOWS)[0] is Action.BUILD


def of_junk(names: str, part: str | None = "x", source_files: int = 4) -> Quarantine:
    return Quarantine(
        raw_fingerprint=fingerprint(parts(names)), part=part, reason="bad", source_files=source_files or len(names)
    )


OF_ITS_DAY = of_junk("abcx", None).model_copy(update={"day_quality": "BAD"})


@pytest.mark.parametrize(
    ("listed", "published", "requested", "action", "reason"),
    [
        # The part that kept the day from being built anew is gone, or the day was published and the writer died then.
        ("abc", replace(OURS, quarantine=of_junk("abcx")), PLAIN, Action.LIFT, "the rows of all raw parts"),
        ("abc", replace(OURS, quarantine=of_junk("abc", None)), PLAIN, Action.LIFT, "the rows of all raw parts"),
        ("abc", replace(OURS, quarantine=of_junk("abcx")), OVERWRITE, Action.BUILD, "asked to overwrite"),
        ("abc", replace(FOREIGN, quarantine=of_junk("abcx")), PLAIN, Action.LIFT, "the rows of all raw parts"),
        ("abc", replace(FOREIGN, quarantine=of_junk("abc")), PLAIN, Action.UP_TO_DATE, "by other software"),
        # Rows that could have been read went with it: that is told, as readers refuse the day.
        ("ab", replace(OURS, quarantine=of_junk("abcx")), PLAIN, Action.QUARANTINED, "bad; and 1 raw parts that were"),
        ("ab", replace(OURS, quarantine=of_junk("abcx")), SHRINK, Action.BUILD, "raw parts arrived"),
        ("", replace(OURS, quarantine=of_junk("abcx")), PLAIN, Action.QUARANTINED, "bad; and 3 raw parts that were"),
        ("ab", replace(OURS, quarantine=OF_ITS_DAY), PLAIN, Action.KEEP, "1 raw parts that were read are gone"),
        ("", replace(OURS, quarantine=of_junk("abcx")), SHRINK, Action.LIFT, "gone, which is allowed"),
        ("", Published(quarantine=of_junk("x", source_files=1)), PLAIN, Action.LIFT, "its only raw part is gone"),
        ("", Published(quarantine=of_junk("ax")), PLAIN, Action.QUARANTINED, "bad; its raw parts are gone"),
        ("", Published(quarantine=of_junk("a", None, 1)), PLAIN, Action.QUARANTINED, "bad; its raw parts are gone"),
        ("", Published(quarantine=of_junk("ax")), SHRINK, Action.LIFT, "gone, which is allowed"),
        ("", replace(WITHOUT_META, quarantine=of_junk("x", source_files=1)), PLAIN, Action.BROKEN, "no valid meta"),
    ],
)
def test_a_quarantine_ends_with_its_cause(
    listed: str, published: Published, requested: Requested, action: Action, reason: str
) -> None:
    sources = parts(listed)
    decided, why = decide(sources, fingerprint(sources), published, requested, NO_WINDOWS)
    assert (decided, reason in why) == (action, True), why


@pytest.mark.guards("mutant-fingerprint")
@pytest.mark.parametrize("change", [{"name": "b"}, {"size_bytes": 2}, {"etag": "2"}])
def test_a_fingerprint_is_of_name_size_and_etag(change: dict[str, Any]) -> None:
    [part] = parts("a")
    assert fingerprint([part.model_copy(update=change)]) != fingerprint([part])


# ---- what the records beside a day are taken for ---------------------------------------------------------------------


@pytest.fixture
def lakes(tmp_path: Path) -> Lakes:
    """One published day."""
    lakes = Lakes.of(Rig("local", None, tmp_path))
    lakes.put_spec(spec())
    lakes.run()
    return lakes


def loaded(lakes: Lakes, raw_fingerprint: str | None = None) -> Published:
    return asyncio.run(load_published(lakes.compact, symbol_day(), raw_fingerprint))


@pytest.mark.guards("mutant-size")
def test_data_of_the_same_size_is_not_the_same_data(lakes: Lakes) -> None:
    data = lakes.get(symbol_day().key("data.parquet"))
    assert loaded(lakes).committed
    lakes.put_beside(symbol_day(), "data.parquet", data[:100] + bytes([data[100] ^ 1]) + data[101:])
    assert not loaded(lakes).committed
    lakes.put_beside(symbol_day(), "data.parquet", data)
    assert loaded(lakes).committed, "the same content with another ETag"


def test_sources_are_known_only_where_they_are_the_metas(lakes: Lakes) -> None:
    assert len(loaded(lakes).sources or ()) == 12
    meta = lakes.meta(symbol_day())
    lakes.put_beside(symbol_day(), "meta.json", meta | {"raw_fingerprint": "of others"})
    assert loaded(lakes).sources is None
    assert len(loaded(lakes).other_sources or ()) == 12


@pytest.mark.guards("shrink-unknown-sources")
@pytest.mark.parametrize("content", [b"{", b"{}", b'{"raw_fingerprint": "x", "objects": []}'])
def test_sources_that_cannot_be_believed_are_unknown(lakes: Lakes, content: bytes) -> None:
    lakes.put_beside(symbol_day(), "sources.json", content)
    assert (loaded(lakes).sources, loaded(lakes).other_sources) == (None, None)


@pytest.mark.guards("adopted-believed", "foreign-meta")
def test_a_foreign_meta_is_believed_unseen_only_without_sources_of_ours(lakes: Lakes) -> None:
    sources = lakes.get(symbol_day().key("sources.json"))
    sha256 = lakes.meta(symbol_day())["sha256"]
    lakes.disown(symbol_day())
    assert (loaded(lakes).committed, loaded(lakes).written_over) == (True, False)
    lakes.put_beside(symbol_day(), "sources.json", sources)
    assert (loaded(lakes).committed, loaded(lakes).written_over) == (False, True)
    lakes.disown(symbol_day(), sha256=sha256)
    lakes.put_beside(symbol_day(), "sources.json", sources)
    assert (loaded(lakes).committed, loaded(lakes).written_over) == (True, True)
    other = parquet_bytes(lakes.published(symbol_day()).slice(1))
    lakes.put_beside(symbol_day(), "data.parquet", other)
    assert (loaded(lakes).committed, loaded(lakes).written_over) == (False, True)
