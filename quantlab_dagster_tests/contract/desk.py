"""The command line at work on lakes of its own, in this process: what it prints for programs, and what it leaves.

Everything that may be in a document happens once: days that are built, kept, quarantined, failed, up to date, late;
hours that are merged, corrupt, recovered, busy, unreadable. Nothing here looks inside of the package.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import io
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from quantlab_dagster.cli.app import main
from quantlab_dagster.synthetic.market import DaySpec, corrupt_part, write_local_day
from quantlab_dagster.synthetic.quality import WindowsSpec, write_local_windows
from quantlab_dagster.synthetic.warehouse import HourSpec, corrupt_event_file, write_local_hour

if TYPE_CHECKING:
    from pathlib import Path

DAY = dt.date(2026, 1, 8)
BUILT = DaySpec("binance", "bbo", "adausdt", DAY, parts=12, rows=6_000)
MERGED = HourSpec("demo", dt.datetime(2026, 1, 15, 10, tzinfo=dt.UTC), files=8, rows=2_000)

_FOREIGN_VARIABLES = ("QUANTLAB_", "WAREHOUSE_", "COMPACTION_", "DAGSTER_HOME", "AWS_")


@dataclass(frozen=True, slots=True)
class Desk:
    """A directory with lakes and Dagster's home, and what `quantlab` printed there."""

    directory: Path
    printed: dict[str, list[str]] = field(default_factory=dict)

    @property
    def raw(self) -> Path:
        return self.directory / "raw"

    @property
    def compact(self) -> Path:
        return self.directory / "compact"

    @property
    def events(self) -> Path:
        return self.directory / "events"

    @property
    def metrics(self) -> Path:
        return self.directory / "quantlab.prom"

    def __call__(self, arguments: str, *, exits: int, document: str = "", **env: str) -> str:
        """Type a command; what it prints is a document if it is given a name, and must not be one otherwise."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patched:
            for name in [name for name in os.environ if name.startswith(_FOREIGN_VARIABLES)]:
                patched.delenv(name)
            for name, value in (self._environment() | env).items():
                patched.setenv(name, value)
            patched.chdir(self.directory)
            with (
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
                pytest.raises(SystemExit) as ended,
            ):
                main(arguments.split())
        assert ended.value.code == exits, f"quantlab {arguments}: {ended.value.code}\n{out.getvalue()}{err.getvalue()}"
        if document:
            self.printed.setdefault(document, []).append(out.getvalue())
        return out.getvalue()

    def documents(self, name: str) -> list[Any]:
        return [json.loads(text) for text in self.printed[name]]

    def file(self, spec: DaySpec, name: str) -> Path:
        """An object beside a published day."""
        return self.compact / spec.prefix / name

    def hour(self, hour: int) -> HourSpec:
        """An hour of the same day as `MERGED`."""
        return HourSpec("demo", MERGED.hour.replace(hour=hour), files=3, rows=60, seed=hour)

    def slot(self, spec: HourSpec) -> Path:
        return self.events / "_compaction" / spec.app_id / f"{spec.hour:%Y-%m-%dT%H}.json"

    def _environment(self) -> dict[str, str]:
        return {
            "QUANTLAB_RAW_URL": str(self.raw),
            "QUANTLAB_COMPACT_URL": str(self.compact),
            "QUANTLAB_EXCHANGES": "binance,okx",
            "QUANTLAB_STREAMS": "bbo",
            "QUANTLAB_METRICS_FILE": str(self.metrics),
            "WAREHOUSE_URL": str(self.events),
            "DAGSTER_HOME": str(self.directory / "home"),
        }


def new_desk(directory: Path) -> Desk:
    """A desk with empty lakes."""
    desk = Desk(directory)
    for lake in (desk.raw, desk.compact, desk.events):
        lake.mkdir()
    (directory / "a file").touch()
    return desk


def market_data(desk: Desk) -> None:
    """Days, by hand and by catch-up."""
    kept, waiting, bad = _like("btcusdt"), _like("ethµsdt"), _like("xrpusdt", "okx")
    one_day = f"--date {DAY} --json"
    desk("status --json", exits=1, document="status")
    write_local_windows(desk.raw, WindowsSpec(DAY, bad=1))
    for spec in (BUILT, kept):
        write_local_day(desk.raw, spec)
    desk(f"plan {one_day}", exits=0, document="plan")
    desk(f"cost {one_day}", exits=0, document="cost")
    desk(f"compact {one_day}", exits=0, document="compact")

    min((desk.raw / kept.prefix).iterdir()).unlink()
    write_local_day(desk.raw, waiting)
    _put_corrupt(desk, bad)
    desk(f"plan {one_day}", exits=0, document="plan")
    desk(f"verify {one_day}", exits=1, document="verify")
    unreadable = _like("solusdt")
    write_local_day(desk.raw, unreadable)
    _put_malformed_meta(desk, unreadable)
    desk(f"compact {one_day}", exits=1, document="compact")
    desk(f"verify {one_day}", exits=1, document="verify")
    desk(f"compact {one_day}", exits=1, document="compact", **_no_room(desk))
    _catch_up(desk)
    _accept(desk, bad)
    desk(f"calendar {bad.day} --json", exits=0, document="calendar")
    desk("prune --json", exits=0, document="prune")
    desk("state show", exits=0, document="state")


def _accept(desk: Desk, bad: DaySpec) -> None:
    """A quarantine that an operator lets be: with it all is well."""
    desk(f"state accept {bad.exchange}/bbo/{bad.symbol}/{bad.day:%Y%m%d} --reason damaged", exits=0)
    for command in ("compact", "verify"):
        desk(f"{command} --date {bad.day} --exchange {bad.exchange} --json", exits=0, document=command)
    desk("status --json", exits=1, document="status")


def _catch_up(desk: Desk) -> None:
    """A day that fails and one that is done, which then gets a late part."""
    last = _last_eligible_day()
    open_, done = last - dt.timedelta(days=1), _like("adausdt", day=last)
    failing = _like("adausdt", day=open_)
    desk(f"state seed --last-compacted {open_ - dt.timedelta(days=1)}", exits=0)
    for spec in (failing, done, _like("btcusdt", day=last)):
        write_local_day(desk.raw, spec)
    _put_malformed_meta(desk, failing)
    _put_corrupt(desk, _like("xrpusdt", "okx", open_))
    _put_corrupt(desk, _like("xrpusdt", "okx", last))
    desk("catch-up --json", exits=1, document="catch-up")

    _put_corrupt(desk, done)
    _forget_late_scan(desk.compact / "compacted" / "_state.json")
    desk("catch-up --json", exits=1, document="catch-up", QUANTLAB_CATCH_UP_ATTEMPTS="1", **_no_room(desk))
    write_local_windows(desk.raw, WindowsSpec(last, bad=1))
    malformed = desk.raw / "quality" / f"date={last:%Y%m%d}" / "window=0015.json"
    malformed.write_bytes(_MALFORMED)
    _go_silent(desk.compact / "compacted" / "_state.json", last)
    desk("state delisted okx/bbo/left --reason merged", exits=0)
    desk("status --json", exits=1, document="status")
    desk("quality --last 2 --json", exits=1, document="quality")
    _flush_now(desk, "gone")
    desk("live --exchange okx --json", exits=1, document="live", QUANTLAB_METRICS_FILE="")


def rebuilt_state(desk: Desk, other: Desk) -> None:
    """A state that is made again: one with a watermark, and one without."""
    (desk.raw / "exchange=binance" / "stream=bbo").mkdir(parents=True, exist_ok=True)  # days without files
    desk("state rebuild --json", exits=0, document="state-rebuild")
    # The oldest day that has something published has another symbol that is not.
    day = _last_eligible_day()
    published, waiting = _like("adausdt", day=day), _like("btcusdt", day=day)
    for spec in (published, waiting):
        write_local_day(other.raw, spec)
    other(f"compact --date {day} --symbol adausdt --json", exits=0, document="compact")
    other("state rebuild --json", exits=0, document="state-rebuild")


def events(desk: Desk) -> None:
    """Hours of events: merged, corrupt, recovered with an input kept, unreadable, busy, and with nothing to do."""
    corrupt, recovered, unreadable, busy, vanished = (desk.hour(hour) for hour in (9, 8, 7, 6, 5))
    for spec in (MERGED, corrupt, recovered, unreadable, busy):
        write_local_hour(desk.events, spec)
    file = corrupt_event_file(corrupt)
    (desk.events / corrupt.prefix / file.name).write_bytes(file.data)
    _put_plan(desk, recovered)
    _put_slot(desk, unreadable, {"state": "what?"})
    _put_slot(desk, busy, {"state": "claimed", "holder": "another", "since": dt.datetime.now(dt.UTC).isoformat()})
    _put_slot(desk, vanished, {"corrupt": [{"name": "gone.parquet", "etag": "1", "reason": "damaged"}]})
    desk("warehouse plan --json", exits=0, document="warehouse-plan")
    desk("warehouse status --json", exits=1, document="warehouse-status")
    desk("warehouse status --app demo --json", exits=1, document="warehouse-status")
    desk("warehouse compact --json", exits=1, document="warehouse-compact", COMPACTION_HOOK_COMMAND="true")
    desk("warehouse status --json", exits=1, document="warehouse-status")

    write_local_hour(desk.events, recovered)
    _put_plan(desk, recovered)
    desk("warehouse recover --json", exits=1, document="warehouse-recover", COMPACTION_HOOK_COMMAND="no-such-program")
    for command in ("compact", "recover"):
        desk(f"warehouse {command} --json", exits=2, document=f"warehouse-{command}", **_no_lake(desk))


_MALFORMED = b"no json"


def _like(symbol: str, exchange: str = "binance", day: dt.date = DAY) -> DaySpec:
    return DaySpec(exchange, "bbo", symbol, day, parts=3, rows=60)


def _put_corrupt(desk: Desk, spec: DaySpec) -> None:
    part = corrupt_part(spec)
    (desk.raw / spec.prefix).mkdir(parents=True, exist_ok=True)
    (desk.raw / spec.prefix / part.name).write_bytes(part.data)


def _put_malformed_meta(desk: Desk, spec: DaySpec) -> None:
    desk.file(spec, "").mkdir(parents=True, exist_ok=True)
    desk.file(spec, "meta.json").write_bytes(_MALFORMED)


def _forget_late_scan(state: Path) -> None:
    """Else the next round begins in an hour."""
    document = json.loads(state.read_text())
    del document["late_scan"]
    state.write_text(json.dumps(document))


def _go_silent(state: Path, last: dt.date) -> None:
    """Three symbols have data until the day before the last settled one."""
    document = json.loads(state.read_text())
    for number in range(1, 4):
        day = f"{last - dt.timedelta(days=number):%Y%m%d}"
        record = {"status": "success", "rows": 1, "total_size_bytes": 1, "updated_at": document["updated_at"]}
        document["partitions"] |= {f"okx/bbo/{symbol}/{day}": record for symbol in ("gone", "left", "mute")}
    state.write_text(json.dumps(document, indent=1))


def _flush_now(desk: Desk, symbol: str) -> None:
    now = dt.datetime.now(dt.UTC)
    directory = desk.raw / f"exchange=okx/stream=bbo/symbol={symbol}/date={now:%Y%m%d}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"part-{int(now.timestamp())}-000001.parquet").write_bytes(b"x")


def _put_plan(desk: Desk, spec: HourSpec) -> None:
    """What a run leaves that is killed when its output is visible, where an input was replaced afterwards."""
    directory = desk.events / spec.prefix
    changed = min(directory.glob("events_*"))
    output = directory / "compacted_00000000-0000-5000-8000-000000000000.parquet"
    output.write_bytes(changed.read_bytes())
    plan = {
        "inputs": [
            {"name": changed.name, "etag": "another", "size_bytes": 1},
            {"name": "events_gone.parquet", "etag": "1", "size_bytes": 1},
        ],
        "output": output.name,
        "upload_id": "0123456789abcdef0123456789abcdef",
        "upload_etags": [],
        "size_bytes": output.stat().st_size,
        "rows": 20,
        "sha256": hashlib.sha256(output.read_bytes()).hexdigest(),
    }
    corrupt = [{"name": "gone.parquet", "etag": "1", "reason": "damaged"}]
    since = "2026-01-15T12:00:00Z"
    _put_slot(desk, spec, {"state": "planned", "holder": "killed", "since": since, "plan": plan, "corrupt": corrupt})


def _put_slot(desk: Desk, spec: HourSpec, slot: dict[str, Any]) -> None:
    path = desk.slot(spec)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(slot))


def _no_room(desk: Desk) -> dict[str, str]:
    """Steps fail as a whole: where temporary directories belong there is a file."""
    return {"QUANTLAB_SCRATCH_DIR": str(desk.directory / "a file")}


def _no_lake(desk: Desk) -> dict[str, str]:
    return {"WAREHOUSE_URL": str(desk.directory / "mistyped")}


def _last_eligible_day() -> dt.date:
    return (dt.datetime.now(dt.UTC) - dt.timedelta(hours=2, minutes=30)).date() - dt.timedelta(days=1)
