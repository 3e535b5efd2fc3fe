"""Every object that is written into the lakes: JSON to the byte where it has no clock in it, names, metadata, content.

The bytes of Parquet files depend on the versions of constraints.txt, so their hashes are pinned together with those.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families

from quantlab_dagster.lake.store.objects import ObjectInfo
from quantlab_dagster.lake.warehouse import output_name
from quantlab_dagster.market.quality.records import DayQuality, QualityDay, SeenWindow
from quantlab_dagster.market.quality.rules import Rules
from quantlab_dagster.market.records import DayMeta, Quarantine, Source, Sources, fingerprint
from quantlab_dagster.market.state import DayRecord, LateScan, PartitionRecord, Round, State
from quantlab_dagster.warehouse.slot import Corrupt, Input, ReplacementPlan, Slot
from quantlab_dagster_tests.contract.desk import BUILT, MERGED, Desk
from quantlab_dagster_tests.contract.snapshots import UPDATE, check, check_bytes, pinned, shape_of

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster.lake.record import Record

pytestmark = pytest.mark.present

SOURCES = (
    Source(name="part-1767873600-000001.parquet", size_bytes=1234, etag="9e107d9d372bb6826bd81d3542a419d6"),
    Source(name="part-1767873601-000002.parquet", size_bytes=567, etag="e4d909c290d0fb1ca068ffaddf22cbd0-2"),
)
FINGERPRINT = "FINGERPRINT"
SINCE = dt.datetime(2026, 1, 15, 12, 30, 5, 250_000, dt.UTC)
CORRUPT = Corrupt(name="events_1.parquet", etag="1-a", reason="not a readable Parquet file")
PLAN = ReplacementPlan(
    inputs=(
        Input(name="events_2.parquet", etag="2-b", size_bytes=20),
        Input(name="événements.parquet", etag="3", size_bytes=5),
    ),
    output="compacted_00000000-0000-5000-8000-000000000000.parquet",
    upload_id="an upload",
    upload_etags=("4", "5"),
    size_bytes=22,
    rows=3,
    sha256="ab" * 32,
)

RECORDS: dict[str, Record] = {
    "meta": DayMeta(
        rows=600,
        ts_event_min=1767830400000,
        ts_event_max=1767916799999,
        stream_type="bbo",
        sha256="cd" * 32,
        source_files=2,
        data_size_bytes=4242,
        data_etag="6",
        raw_fingerprint=FINGERPRINT,
        raw_bytes=1801,
        revision=2,
        writer="quantlab-dagster",
        writer_version="0.1.0",
    ),
    "meta-of-no-rows": DayMeta(rows=0, ts_event_min=None, ts_event_max=None, stream_type="bbo"),
    "sources": Sources(raw_fingerprint=FINGERPRINT, objects=SOURCES),
    "quarantine": Quarantine(
        raw_fingerprint=FINGERPRINT,
        part=SOURCES[0].name,
        reason="column größe: cannot be united",
        writer_version="0.1.0",
        source_files=2,
    ),
    "quarantine-without-part": Quarantine(raw_fingerprint=FINGERPRINT, reason="why"),
    "quarantine-of-a-bad-day": Quarantine(raw_fingerprint=FINGERPRINT, reason="why", day_quality="BAD"),
    "quality-day": QualityDay.of(
        dt.date(2026, 1, 8),
        DayQuality.judged(
            {
                "0000": SeenWindow(etag="1", dropped_events=7, offline_seconds={"binance": 2.5}),
                "0015": SeenWindow(etag="2", is_partial=True),
                "0030": SeenWindow(etag="3", problem="why"),
            },
            Rules(),
            looked_at_again=True,
        ),
    ),
    "state": State(
        last_compacted_date="20260107",
        catch_up_from="20260105",
        updated_at="2026-01-10T02:31:00Z",
        days={
            "20260105": DayRecord(status="skipped", updated_at="2026-01-09T02:31:00Z", reason="accepted: für immer"),
            "20260106": DayRecord(status="success", updated_at="2026-01-09T02:31:00Z"),
        },
        partitions={
            "binance/bbo/adausdt/20260108": PartitionRecord(
                status="success",
                rows=600,
                total_size_bytes=4242,
                day_quality_post="UNKNOWN",
                updated_at="2026-01-10T02:31:00Z",
            ),
            "okx/bbo/xrpusdt/20260108": PartitionRecord(
                status="quarantine", updated_at="2026-01-10T02:31:00Z", error="part-1.parquet: why"
            ),
        },
        open_days={"20260108": {"binance/bbo": "success", "okx/bbo": "quarantine"}},
        late_scan=LateScan(
            rounds={
                "72c4c92000b8": Round(
                    started_at="2026-01-10T02:00:00Z",
                    cursor="exchange=binance/stream=bbo/symbol=adausdt/date=20260108/",
                )
            },
            stale={"binance/bbo/adausdt/20260107": FINGERPRINT},
        ),
    ),
    "state-just-begun": State(catch_up_from="20260108", updated_at="2026-01-09T02:30:00Z"),
    "slot-idle": Slot(),
    "slot-idle-with-corrupt": Slot(corrupt=(CORRUPT,)),
    "slot-claimed": Slot(state="claimed", holder="host:1:abc", since=SINCE),
    "slot-planned": Slot(
        state="planned", holder="host:1:abc", since=SINCE.replace(microsecond=0), plan=PLAN, corrupt=(CORRUPT,)
    ),
}


# ---- objects built from fixed values ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDS)
def test_an_object_has_the_same_bytes_as_ever_and_is_read_back(name: str) -> None:
    record = RECORDS[name]
    check_bytes(f"exact-{name}.json", record.dump())
    assert type(record).read(pinned(f"exact-{name}.json"), name) == record


def test_what_other_writers_added_is_kept() -> None:
    for record in RECORDS.values():
        document = json.loads(record.dump()) | {"added_by_others": [1]}
        again = type(record).read(json.dumps(document).encode(), "here")
        assert json.loads(again.dump()) == document


def test_an_idle_slot_is_told_by_its_length(events_desk: Desk) -> None:
    content = events_desk.slot(MERGED).read_bytes()
    assert content == pinned("exact-slot-idle.json")
    assert len(content) == 113


def test_the_fingerprint_of_raw_parts_is_as_it_was() -> None:
    assert fingerprint(SOURCES) == "37888138390e3e7eceec528d19e22d7af0a818495625f05232e6f14f2afc6dd9"
    assert fingerprint(()) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_name_of_an_output_is_as_it_was() -> None:
    prefix = "app_id=demo/year=2026/month=01/day=15/hour=10/"
    files = tuple(ObjectInfo(f"{prefix}{source.name}", source.size_bytes, source.etag) for source in SOURCES)
    assert output_name(files) == "compacted_af854a0c-e5ca-5fde-93e9-2434f23c8410.parquet"


# ---- objects of the lakes --------------------------------------------------------------------------------------------


def documents_below(lake: Path, name: str) -> list[Any]:
    contents = [path.read_text() for path in sorted(lake.rglob(name))]
    return [json.loads(content) for content in contents if content.startswith("{")]


@pytest.mark.parametrize("name", ["meta", "sources", "quarantine", "quality_day"])
def test_an_object_beside_a_day_is_as_it_was(market_desk: Desk, name: str) -> None:
    check(f"object-{name}", shape_of(*documents_below(market_desk.compact, f"{name}.json")))


def test_what_was_seen_of_windows_is_as_it_was(market_desk: Desk) -> None:
    [path] = (market_desk.compact / "compacted" / "quality").iterdir()
    found = json.loads(path.read_text())
    check("object-seen-windows", shape_of(*(found | {"windows": {"HHMM": one}} for one in found["windows"].values())))


def test_the_state_is_as_it_was(market_desk: Desk) -> None:
    check("object-state", shape_of(*market_desk.documents("state")))


def test_slots_are_as_they_were(events_desk: Desk) -> None:
    dumped = [json.loads(record.dump()) for record in RECORDS.values() if isinstance(record, Slot)]
    written = [
        document
        for document in documents_below(events_desk.events / "_compaction", "*.json")
        if "schema_version" in document and "template" not in document
    ]
    check("object-slot", shape_of(*dumped, *written))


def test_the_record_of_looks_is_as_it_was(events_desk: Desk) -> None:
    check("object-look", shape_of(*documents_below(events_desk.events / "_compaction", "_look.json")))


def test_there_is_nothing_else_in_the_lakes(market_desk: Desk, events_desk: Desk) -> None:
    assert names(market_desk.compact) == {
        ".quantlab-locks",
        "calendar",
        "compacted",
        "exchange=binance",
        "exchange=okx",
    }
    files = [path for path in (market_desk.compact / "compacted").rglob("*") if path.is_file()]
    names_of = sorted(path.relative_to(market_desk.compact / "compacted").as_posix() for path in files)
    assert names_of == ["_state.json", "quality/20260108.json"], "the journal is folded, and empty"
    calendar = names(market_desk.compact / "calendar")
    assert {"date=20260108", "month=202601.html"} <= calendar
    assert [name for name in calendar if not re.fullmatch(r"date=\d{8}|month=\d{6}\.html", name)] == []
    published = market_desk.compact.glob("exchange=*/stream=*/symbol=*/date=*")
    beside = {name for path in published for name in names(path)}
    assert beside == {"data.parquet", "meta.json", "sources.json", "quality_day.json", "quarantine.json"}
    assert names(market_desk.file(BUILT, "")) == {"data.parquet", "meta.json", "sources.json", "quality_day.json"}
    assert names(events_desk.events) == {".quantlab-locks", "_compaction", "app_id=demo"}


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_merged_file_says_what_it_was_made_of(events_desk: Desk) -> None:
    [path] = (events_desk.events / MERGED.prefix).iterdir()
    metadata = pq.read_metadata(path)
    own = {key.decode(): value.decode() for key, value in metadata.metadata.items() if not key.startswith(b"ARROW")}
    assert own.keys() == {"quantlab.inputs", "quantlab.writer"}
    inputs = json.loads(own["quantlab.inputs"])
    assert own["quantlab.inputs"] == json.dumps(inputs)
    assert len(inputs) == MERGED.files
    assert own["quantlab.writer"] == f"quantlab-dagster {version('quantlab-dagster')}"
    check("object-merged-file", {"quantlab.inputs": shape_of(inputs), **layout_of(path)})


def test_a_published_file_has_the_same_columns_as_ever(market_desk: Desk) -> None:
    path = market_desk.file(BUILT, "data.parquet")
    assert pq.read_metadata(path).metadata is None
    check("object-published-file", layout_of(path))


def layout_of(path: Path) -> dict[str, Any]:
    metadata, group = pq.read_metadata(path), pq.read_metadata(path).row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    return {
        "columns": {field.name: str(field.type) for field in pq.read_schema(path)},
        "order": [
            [columns[by.column_index].path_in_schema, by.descending, by.nulls_first] for by in group.sorting_columns
        ],
        "rows": [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)],
        "compression": sorted({column.compression for column in columns}),
    }


# ---- content ---------------------------------------------------------------------------------------------------------


def test_the_content_of_files_is_the_same_to_the_byte(market_desk: Desk, events_desk: Desk) -> None:
    versions = {name: version(name) for name in ("numpy", "polars", "pyarrow")}
    before = json.loads(pinned("content.json") or "{}").get("versions", versions)
    if versions != before and not os.environ.get(UPDATE):
        pytest.skip(f"pinned with {before}, this is {versions}: see constraints.txt")
    [merged] = (events_desk.events / MERGED.prefix).iterdir()
    raw = sorted((market_desk.raw / BUILT.prefix).iterdir())
    check(
        "content",
        {
            "versions": versions,
            "raw parts": sha256(b"".join(path.read_bytes() for path in raw)),
            "data.parquet": sha256(market_desk.file(BUILT, "data.parquet").read_bytes()),
            "merged hour without its footer": sha256(without_footer(merged.read_bytes())),
        },
    )


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def without_footer(content: bytes) -> bytes:
    """All but the metadata: those of a merged hour hold ETags, which on local directories are never the same."""
    return content[: -8 - int.from_bytes(content[-8:-4], "little")]


# ---- metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_have_the_same_names_and_labels_as_ever(market_desk: Desk, events_desk: Desk) -> None:
    found: dict[str, dict[str, Any]] = {}
    for desk in (market_desk, events_desk):
        for family in text_string_to_metric_families(desk.metrics.read_text()):
            for sample in family.samples:
                metric = found.setdefault(
                    sample.name, {"type": family.type, "help": family.documentation, "labels": {}}
                )
                for label, value in sample.labels.items():
                    metric["labels"].setdefault(label, set()).add(value)
    check(
        "metrics",
        {
            name: metric | {"labels": {k: sorted(v) for k, v in metric["labels"].items()}}
            for name, metric in found.items()
        },
    )
