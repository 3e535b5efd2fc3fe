"""A bit that flips in one request of a whole run: what is said, what is done, and what the next run makes of it.

python -m quantlab_dagster_tests.integration.flipped_bits

writes flipped_bits.json, from which docs/reliability.md has its table. Each run is that of a step and its roll-up, or
of a sweep, against a real server behind a proxy: once for the first request of a kind, once for the second, and so on.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import logging
import multiprocessing
import re
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from quantlab_dagster.errors import QuantlabError
from quantlab_dagster.lake.store import limits
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.lake.warehouse import Scope
from quantlab_dagster.market.compact import compact_pair
from quantlab_dagster.market.journal import Journal, entry_of
from quantlab_dagster.market.outcome import Status
from quantlab_dagster.market.place import MarketPlace
from quantlab_dagster.market.rollup import roll_up_and_settle
from quantlab_dagster.synthetic.market import RawPart
from quantlab_dagster.warehouse.outcome import HourStatus
from quantlab_dagster.warehouse.sweep import sweep
from quantlab_dagster.work.limits import Limits
from quantlab_dagster_tests.conftest import RIG_BUCKET, Rig, s3_options
from quantlab_dagster_tests.faults import FaultProxy
from quantlab_dagster_tests.lakes import (
    DAY,
    NOON_AFTER,
    PAIR,
    Lakes,
    Recorder,
    oracle,
    parquet_bytes,
    same_rows,
    spec,
    symbol_day,
)
from quantlab_dagster_tests.servers import S3Server, seaweedfs
from quantlab_dagster_tests.warehouse.event_lakes import LATER, SOON, EventLake, HourRecorder, rows_of
from quantlab_dagster_tests.warehouse.event_lakes import spec as hour_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster_tests.faults import Rule

    Opening = Callable[[str], Store]

__all__ = ["FLIPPED", "FLIPS", "LEAST_PARTS", "Flip", "events", "large", "market", "table", "with_bit_flipped"]

LEAST_PARTS = (6 << 20, 5 << 20)
"""What goes up in parts, and of which size: the least that servers take."""

FLIPS = Path(__file__).with_name("flipped_bits.json")

FLIPPED: dict[str, Callable[[FaultProxy, int], Rule]] = {
    "PUT": lambda proxy, nth: proxy.flip("PUT", nth=nth),
    "GET": lambda proxy, nth: proxy.flip(
        "GET", r"^(?!.*(list-type=|uploads|uploadId=))", nth=nth, after_forwarding=True
    ),
    "LIST": lambda proxy, nth: proxy.flip("GET", "list-type=", nth=nth, after_forwarding=True),
}


@dataclass(frozen=True, slots=True)
class Flip:
    """One flipped bit.

    Attributes:
        lake: whose run it was.
        request: in which it was, without what differs from run to run.
        code: exit code of the run.
        said: of it, for people.
        right: whether what readers see after it is right, if it is there at all.
        there: whether it is there.
        next_code: exit code of the next run.
        next_right: whether all is there and right after that.
    """

    lake: str
    request: str
    code: int
    said: str
    right: bool
    there: bool
    next_code: int
    next_right: bool


@dataclass(frozen=True, slots=True)
class Lake:
    """A lake on a server, and what it should hold in the end.

    Attributes:
        name: of it, for people.
        work: a whole run, by the stores that it is given; whether all went well, and if not, why.
        found: whether what readers see is right; None where nothing is there.
    """

    name: str
    work: Callable[[Opening], Coroutine[Any, Any, str]]
    found: Callable[[], bool | None]

    def run(self, server: S3Server, endpoint: str) -> tuple[int, str]:
        """The exit code, and what was said."""
        heard = io.StringIO()
        handler = logging.StreamHandler(heard)
        logging.getLogger("quantlab_dagster").addHandler(handler)
        options = replace(s3_options(server), endpoint_url=endpoint)
        try:
            wrong = asyncio.run(self.work(lambda url: open_store(url, options)))
        except QuantlabError as error:
            wrong = str(error)
        finally:
            logging.getLogger("quantlab_dagster").removeHandler(handler)
        return int(bool(wrong)), f"{heard.getvalue()}\n{wrong}"


def with_bit_flipped(server: S3Server, make: Callable[[Rig], Lake], kind: str, directory: Path) -> Iterator[Flip]:
    """Flip a bit in one request after the other, each time on a lake of its own, until there is none left."""
    for nth in itertools.count(1):
        place = directory / f"{kind}-{nth}"
        place.mkdir()
        lake = make(Rig("seaweedfs", server, place))
        with FaultProxy(server.endpoint_url) as proxy:
            rule = FLIPPED[kind](proxy, nth)
            code, said = lake.run(server, proxy.url)
        if not rule.fired:
            return
        found = lake.found()
        next_code, _ = lake.run(server, server.endpoint_url)
        right, there = found is not False, found is not None
        yield Flip(
            lake.name, named(rule.struck[0]), code, in_short(said), right, there, next_code, lake.found() is True
        )


def named(request: str) -> str:
    """A request without bucket, prefix, and what differs from run to run."""
    for pattern, text in (
        (rf"(s3:/)?/{RIG_BUCKET}", ""),
        (r"(?<=prefix=)some prefix/[0-9a-f]{32}/?|/some prefix/[0-9a-f]{32}", ""),
        (r"uploadId=[^&]*", "uploadId=…"),
        (r"[0-9a-f]{32}", "…"),
        (r"[0-9a-f]{8}-[0-9a-f-]{27}", "…"),
    ):
        request = re.sub(pattern, text, request)
    return request


_SAID = re.compile(r"came damaged[^\n]*|other bytes are there[^\n]*|arrived damaged[^\n]*")


def in_short(said: str) -> str:
    """The words about it, and why a run did not end well, which may have another reason."""
    heard, _, wrong = said.rpartition("\n")
    found = _SAID.search(heard)
    words = [found.group() if found else "", wrong]
    return named(re.sub(r"\s+", " ", "; ".join(word for word in words if word)))[:240].strip()


# ---- the lakes -------------------------------------------------------------------------------------------------------


def market(rig: Rig) -> Lake:
    """A symbol-day of three small parts."""
    return _market(rig, "market", None)


def large(rig: Rig) -> Lake:
    """A symbol-day that is published in several parts."""
    numbers = np.random.default_rng(1)
    rows = 250_000
    table = pa.table(
        {"ts_event": np.sort(numbers.integers(0, 1 << 40, rows)), **{f"x{at}": numbers.random(rows) for at in range(4)}}
    )
    return _market(rig, "market, large file", [RawPart("part-1767830400-000001.parquet", parquet_bytes(table))])


def _market(rig: Rig, name: str, parts: list[RawPart] | None) -> Lake:
    lakes = Lakes.of(rig)
    if parts is None:
        parts = lakes.put_spec(spec(parts=3, rows=90))
    else:
        lakes.put_raw(symbol_day(), parts)
    expected = oracle(parts)

    def found() -> bool | None:
        keys = lakes.compact_keys()
        prefix = symbol_day().prefix
        if any(key.endswith("quarantine.json") for key in keys):
            return False
        if f"{prefix}meta.json" not in keys:
            return None
        published = lakes.published(symbol_day())
        meta = lakes.meta(symbol_day())
        return (
            same_rows(published, expected) and meta["rows"] == expected.num_rows and meta["source_files"] == len(parts)
        )

    async def work(opened: Opening) -> str:
        place = MarketPlace(
            opened(lakes.raw_url),
            opened(lakes.compact_url),
            Limits(64 << 20, scratch_base=lakes.scratch),
            clock=lambda: NOON_AFTER,
        )
        done = await compact_pair(place, PAIR, DAY, listener=Recorder())
        await Journal(place.compact).append(entry_of(PAIR, DAY, list(done.outcomes), NOON_AFTER, whole=True))
        rolled, _ = await roll_up_and_settle(place, [PAIR], DAY)
        wrong = [outcome.reason for outcome in done.outcomes if outcome.status is not Status.SUCCESS]
        return " ".join([*wrong, rolled.open_text if rolled.open else ""]).strip()

    return Lake(name, work, found)


def events(rig: Rig) -> Lake:
    """An hour of four small files."""
    lake = EventLake.of(rig)
    rows = rows_of(lake.put_spec(hour_spec()))

    def found() -> bool | None:
        return lake.rows() == rows

    hours = itertools.count()

    async def work(opened: Opening) -> str:
        now = SOON + next(hours) * 3 * LATER  # what a run has claimed that did not end well is free by then
        swept = await sweep(lake.place(store=opened(lake.url), now=now), Scope(), HourRecorder())
        wrong = [outcome.reason for outcome in swept.outcomes if outcome.status is HourStatus.FAILED]
        return " ".join([*wrong, *(finding.text for finding in swept.findings if not finding.passed)])

    return Lake("events", work, found)


# ---- the table -------------------------------------------------------------------------------------------------------


_ABOUT = """One bit in the middle of a body, in a whole run over a real server (SeaweedFS) behind a proxy: for one
request after another, each followed by a run without. A listing carries no sum: where TLS does not protect it, a name
that a flipped bit changes may hide a part from a run, which then says that all is well. The next one that looks finds
the part late, and builds it in."""


def table(flips: Path = FLIPS) -> str:
    """In Markdown; nothing if there was no run."""
    if not flips.exists():
        return ""
    found = [Flip(**one) for one in json.loads(flips.read_text())]
    lines = [
        _ABOUT,
        "",
        "| lake | request | exit code | said | readers see | the next run |",
        "|---|---|---|---|---|---|",
    ]
    for flip in found:
        seen = ("the whole, right" if flip.there else "nothing yet") if flip.right else "**something else**"
        after = f"{flip.next_code}, {'right' if flip.next_right else '**not right**'}"
        said = flip.said.replace("|", "\\|")
        lines.append(f"| {flip.lake} | `{flip.request}` | {flip.code} | {said} | {seen} | {after} |")
    return "\n".join(lines)


def _flips(make: Callable[[Rig], Lake], kind: str) -> list[Flip]:
    limits.MULTIPART_BYTES, limits.PART_BYTES = LEAST_PARTS
    with tempfile.TemporaryDirectory() as name, seaweedfs(Path(name) / "server") as server:
        server.create_bucket(RIG_BUCKET)
        return list(with_bit_flipped(server, make, kind, Path(name)))


def main() -> None:
    runs = list(itertools.product((market, large, events), FLIPPED))
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        found = [flip for flips in pool.map(_flips, *zip(*runs, strict=True)) for flip in flips]
    FLIPS.write_text(json.dumps([asdict(flip) for flip in found], indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
