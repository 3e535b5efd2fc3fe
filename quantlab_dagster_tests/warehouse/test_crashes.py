"""Nothing is lost, nothing is twice: killed at any step, stalled at any step, two at once, a store that fails."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from quantlab_dagster.errors import QuantlabError
from quantlab_dagster.lake.store.objects import PROBE_DIRECTORY
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.lake.store.probing import answers_of
from quantlab_dagster.lake.warehouse import SLOTS, Scope
from quantlab_dagster.synthetic.warehouse import generate_event_files
from quantlab_dagster.warehouse import slot as slot_module
from quantlab_dagster.warehouse.outcome import HourStatus
from quantlab_dagster.warehouse.slot import Claim, ReplacementPlan, Slot, read_slot
from quantlab_dagster.warehouse.sweep import sweep
from quantlab_dagster_tests.conftest import Rig, s3_options
from quantlab_dagster_tests.faults import FaultProxy
from quantlab_dagster_tests.warehouse.event_lakes import (
    LATER,
    PARTITION,
    SOON,
    EventLake,
    HourRecorder,
    Rows,
    rows_of,
    spec,
)
from quantlab_dagster_tests.warehouse.killed import CHANGES

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.warehouse.sweep import Sweep
    from quantlab_dagster_tests.servers import S3Server

FILES = 3


@pytest.fixture
def lake(rig: Rig) -> EventLake:
    return EventLake.of(rig)


def check_nothing_lost(lake: EventLake, original: Rows) -> None:
    """At any moment: every row is there, and twice only while a plan says that it will not be for long."""
    found = lake.rows()
    assert not original - found, "rows are lost"
    if found != original:
        assert lake.slot().state == "planned", "rows are twice, and no plan knows"


def check_all_well(lake: EventLake, original: Rows) -> None:
    """After recovery: exactly the rows, no plan, no upload, and nothing left to do."""
    assert lake.rows() == original
    assert lake.slot() == Slot()
    assert lake.sweep(now=SOON + 9 * LATER).outcomes == ()
    assert lake.staged() == []


# ---- killed ----------------------------------------------------------------------------------------------------------


def killed_command(lake: EventLake, number: int) -> list[str]:
    arguments = [lake.url, str(lake.scratch), str(number), SOON.isoformat()]
    return [sys.executable, "-m", "quantlab_dagster_tests.warehouse.killed", *arguments]


def run_and_kill(lake: EventLake, number: int, env: dict[str, str], changes: list[str]) -> bool:
    """Whether a process died after its N-th change, which must be the one expected; else it must have made no more."""
    command = killed_command(lake, number)
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), (done.returncode, done.stdout, done.stderr)
    if done.returncode == 0:
        assert done.stdout == f"made {len(changes)} changes\n"
        assert number > len(changes), "it was to die, and lived"
        return False
    assert done.stdout == f"died after change {number}: {changes[number - 1]}\n", "killed by somebody else"
    return True


METHODS = {"claim": "compare_and_swap", "plan": "compare_and_swap", "release": "compare_and_swap"}
METHODS |= {"look": "compare_and_swap"}  # the record of what was looked at
METHODS |= {"stage": "stage", "publish": "publish", "delete": "delete_unchanged", "deleted": "delete_all_unchanged"}


@pytest.mark.guards("rows-doubled", "scratch-left")
@pytest.mark.slow
def test_killed_after_every_change(rig: Rig) -> None:
    deletes = [] if rig.name == "seaweedfs" else ["delete"] * FILES  # which takes them in one request
    changes = ["look", "claim", "stage", "plan", "publish", *deletes, "deleted", "release", "look"]
    methods = [METHODS[change] for change in changes]
    for number in itertools.count(1):
        lake = EventLake.of(rig)
        original = rows_of(lake.put_spec(spec(files=FILES, seed=number)))
        if not run_and_kill(lake, number, rig.env(), methods):
            break
        check_nothing_lost(lake, original)
        if changes[number - 1] != "delete":  # several are under way at once
            assert (lake.rows() != original) == (changes[number - 1] == "publish")
        lake.sweep(now=SOON + LATER)
        check_all_well(lake, original)
        assert len(lake.names()) == 1
        assert not [path for path in lake.scratch.rglob("*") if path.is_file()], "scratch of the killed run is left"
    assert number == len(changes) + 1
    check_all_well(lake, original)


def test_a_process_that_changes_nothing_counts_for_nothing(tmp_path: Path) -> None:
    """Else a harness whose patches no longer act would prove everything."""
    (tmp_path / "lakes").mkdir()
    lake = EventLake.of(Rig("local", None, tmp_path / "lakes"))
    lake.sweep(now=SOON)  # which keeps a record of what it looked at
    done = subprocess.run(killed_command(lake, 1), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (5, "made 0 changes\n"), done.stderr


@pytest.mark.guards("rows-doubled")
@pytest.mark.slow
@pytest.mark.server
def test_killed_at_every_request(seaweed: S3Server, tmp_path: Path) -> None:
    """Each request of a compaction arrives at the server; the client dies before it has the answer."""
    rig = Rig("seaweedfs", seaweed, tmp_path)
    for number in itertools.count(1):
        lake = EventLake.of(rig)
        original = rows_of(lake.put_spec(spec(files=FILES, seed=number)))
        with FaultProxy(seaweed.endpoint_url) as proxy:
            rule = proxy.stall(nth=number, after_forwarding=True)
            env = {
                **os.environ,
                **rig.env(),
                "AWS_ENDPOINT_URL": proxy.url,
                "DIRECT_ENDPOINT_URL": seaweed.endpoint_url,
            }
            process = subprocess.Popen(killed_command(lake, 0), env=env)
            while process.poll() is None and not rule.fired:
                with suppress(TimeoutError):
                    rule.wait(0.1)
            process.kill()
            process.wait()
        if not rule.fired:
            assert process.returncode == 0, "it ended by itself, and not well"
            break
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
        check_nothing_lost(lake, original)
        lake.sweep(now=SOON + LATER)
        check_all_well(lake, original)
        assert len(lake.names()) == 1
    assert number > 15


@pytest.mark.server
def test_killed_while_it_tries_out_what_the_server_honours(seaweed: S3Server, tmp_path: Path) -> None:
    lake = EventLake.of(Rig("seaweedfs", seaweed, tmp_path))
    original = rows_of(lake.put_spec(spec(files=FILES)))
    with FaultProxy(seaweed.endpoint_url) as proxy:
        rule = proxy.stall("PUT", rf"{re.escape(PROBE_DIRECTORY)}/.*partNumber", after_forwarding=True)
        env = {**os.environ, **lake.rig.env(), "AWS_ENDPOINT_URL": proxy.url}
        process = subprocess.Popen(killed_command(lake, 0), env=env)
        rule.wait(60)
        process.kill()
        process.wait()
    assert [key.partition("/")[0] for key in lake.staged()] == [PROBE_DIRECTORY]
    assert (lake.rows(), lake.slot()) == (original, Slot())
    lake.sweep(now=SOON + LATER)
    check_all_well(lake, original)


# ---- stalled ---------------------------------------------------------------------------------------------------------


class StallingStore:
    """A store whose N-th request, of those that are meant, waits until it is told to go on."""

    def __init__(self, store: Store, number: int, only: frozenset[str]) -> None:
        self._store = store
        self._number = number
        self._only = only
        self._count = itertools.count(1)
        self.stalled = asyncio.Event()
        self.go_on = asyncio.Event()
        self.at = ""

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def wrapped(*arguments: Any, **options: Any) -> Any:
            if (not self._only or name in self._only) and next(self._count) == self._number:
                self.at = name
                self.stalled.set()
                await self.go_on.wait()
            return await found(*arguments, **options)

        return wrapped


async def stall_and_overtake(
    lake: EventLake, number: int, originals: list[bytes], only: frozenset[str]
) -> StallingStore | None:
    """One compactor stalls before its N-th request. Hours pass: others finish its work, late files come, are merged
    into its output's successor; and again. Then it wakes."""
    store = StallingStore(lake.store, number, only)
    place = lake.place(store=cast("Store", store))
    sleeper = asyncio.create_task(sweep(place, Scope(), HourRecorder()))
    stalled = asyncio.create_task(store.stalled.wait())
    await asyncio.wait([sleeper, stalled], return_when=asyncio.FIRST_COMPLETED)
    if not stalled.done():
        stalled.cancel()
        await sleeper
        return None
    for hours in (1, 2):
        await sweep(lake.place(now=SOON + hours * LATER), Scope(), HourRecorder())
        late = list(generate_event_files(spec(files=2, rows=20, seed=1000 * hours + number)))
        for file in late:
            await lake.store.put(PARTITION.key(file.name), file.data)
        originals += [file.data for file in late]
        await sweep(lake.place(now=SOON + hours * LATER), Scope(), HourRecorder())
    store.go_on.set()
    await sleeper
    return store


@pytest.mark.guards("rows-doubled", "late-publication")
@pytest.mark.slow
def test_a_compactor_that_stalls_at_any_step_and_wakes_hours_later(rig: Rig) -> None:
    # Between two changes it makes no difference where it stalls: every request on one kind of store will do.
    only = frozenset(CHANGES) if rig.server else frozenset()
    seen = []
    for number in itertools.count(1):
        lake = EventLake.of(rig)
        originals = lake.put_spec(spec(files=FILES, seed=number))
        store = asyncio.run(stall_and_overtake(lake, number, originals, only))
        if store is None:
            break
        seen.append(store.at)
        assert lake.rows() == rows_of(originals), f"stalled before request {number}: {store.at}"
        lake.sweep(now=SOON + 8 * LATER)
        check_all_well(lake, rows_of(originals))
    assert set(CHANGES) - {"discard", "delete_unchanged"} <= set(seen)
    assert rig.server or {"list_objects", "list_names", "get_together", "head", "staged_below"} <= set(seen)


# ---- changed under our hands -----------------------------------------------------------------------------------------


class MeddlingStore:
    """A store where something happens right before, or after, a method is called for the first time."""

    def __init__(self, store: Store, method: str, meddle: Any, *, after: bool = False) -> None:
        self._store = store
        self._method = method
        self._meddle = meddle
        self._after = after
        self.meddled = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name != self._method or self.meddled:
            return found

        async def wrapped(*arguments: Any, **options: Any) -> Any:
            first, self.meddled = not self.meddled, True
            if first and not self._after:
                await self._meddle()
            result = await found(*arguments, **options)
            if first and self._after:
                await self._meddle()
            return result

        return wrapped


@pytest.mark.guards("drifted-retired")
@pytest.mark.parametrize(
    ("method", "after"),
    [(method, after) for method in ("get_together", "stage", "publish") for after in (False, True)],
)
def test_what_changes_or_arrives_meanwhile_survives(lake: EventLake, method: str, *, after: bool) -> None:
    files = list(generate_event_files(spec(files=FILES)))
    lake.put(PARTITION, files)
    changed, extra = generate_event_files(spec(files=2, rows=50, seed=77))

    async def meddle() -> None:
        await lake.store.put(PARTITION.key(files[1].name), changed.data)
        await lake.store.put(PARTITION.key(extra.name), extra.data)

    store = MeddlingStore(lake.store, method, meddle, after=after)
    done = lake.sweep(store=cast("Store", store))
    assert store.meddled
    found = lake.rows()
    new = rows_of([files[0].data, files[2].data, changed.data, extra.data])
    assert not new - found, "what is there now must survive"
    # It is looked at until right before it is replaced. After that, the old content is in the output already.
    too_late = method == "publish"
    assert found == new + (rows_of([files[1].data]) if too_late else rows_of([]))
    assert done.outcomes[0].status is HourStatus.COMPACTED
    assert any(item.kept == (files[1].name,) for item in done.outcomes[0].replacements) == too_late
    lake.sweep(now=SOON + LATER)  # what arrived meanwhile waits for the next run
    check_all_well(lake, found)


def test_an_input_that_is_deleted_before_it_was_replaced_is_no_longer_there(lake: EventLake) -> None:
    files = list(generate_event_files(spec(files=4)))
    lake.put(PARTITION, files)

    async def meddle() -> None:
        await lake.store.delete(PARTITION.key(files[0].name))

    lake.sweep(store=cast("Store", MeddlingStore(lake.store, "stage", meddle)))
    check_all_well(lake, rows_of(file.data for file in files[1:]))


@pytest.mark.guards("given-up-stuck")
def test_a_crash_right_after_a_plan_was_given_up_leaves_nothing_stuck(lake: EventLake) -> None:
    files = list(generate_event_files(spec(files=4)))
    lake.put(PARTITION, files)
    original = rows_of(file.data for file in files[1:])

    async def change_and_die() -> None:
        store = lake.store

        async def change() -> None:
            await lake.store.delete(PARTITION.key(files[0].name))

        async def die() -> None:
            raise asyncio.CancelledError

        meddling = MeddlingStore(cast("Store", MeddlingStore(store, "stage", change)), "discard", die, after=True)
        with suppress(asyncio.CancelledError, BaseExceptionGroup):
            await sweep(lake.place(store=cast("Store", meddling)), Scope(), HourRecorder())
        assert meddling.meddled

    asyncio.run(change_and_die())
    assert lake.slot().state == "planned"
    lake.sweep(now=SOON + LATER)
    check_all_well(lake, original)


@pytest.mark.guards("plan-taken-back")
def test_a_renewal_never_takes_a_plan_back(lake: EventLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes due while the plan is being written must renew the plan, not the claim before it."""
    monkeypatch.setattr(slot_module, "_RENEW_SECONDS", 0.02)
    plan = ReplacementPlan(inputs=(), output="x", upload_id="x", upload_etags=(), size_bytes=1, rows=1, sha256="0" * 64)

    async def write_slowly() -> list[str]:
        store = lake.store
        swap = store.compare_and_swap

        async def slow(key: str, content: bytes, etag: str | None) -> str:
            await asyncio.sleep(0.1)
            return await swap(key, content, etag)

        store.compare_and_swap = slow  # type: ignore[method-assign,assignment]
        claim = Claim(store, PARTITION, Slot(), None, lambda: SOON)
        await claim.take()
        seen: list[str] = []
        async with claim.kept():
            await claim.write_plan(plan, ())
            for _ in range(5):
                await asyncio.sleep(0.1)
                seen.append((await read_slot(store, PARTITION))[0].state)
        await claim.release(())
        return seen

    assert set(asyncio.run(write_slowly())) == {"planned"}
    assert lake.slot() == Slot()


# ---- several at once -------------------------------------------------------------------------------------------------


@pytest.mark.guards("rows-doubled")
def test_several_compactors_at_once(lake: EventLake) -> None:
    original = rows_of(lake.put_spec(spec(files=8, rows=400)))

    async def all_at_once() -> list[Sweep]:
        return await asyncio.gather(*(sweep(lake.place(), Scope(), HourRecorder()) for _ in range(5)))

    done = asyncio.run(all_at_once())
    outcomes = [outcome for one in done for outcome in one.outcomes]
    assert {outcome.status for outcome in outcomes} <= set(HourStatus) - {HourStatus.FAILED}, outcomes
    assert any(outcome.status is HourStatus.COMPACTED for outcome in outcomes)
    assert lake.rows() == original
    lake.sweep(now=SOON + LATER)
    check_all_well(lake, original)


# ---- a store that fails ----------------------------------------------------------------------------------------------

SLOT, PART_UPLOAD, UPLOADS = rf"/{SLOTS}", r"partNumber=", r"\?uploads"
FAULTY = {
    "slot": ("PUT", SLOT),
    "begin": ("POST", UPLOADS),
    "part": ("PUT", PART_UPLOAD),
    "publish": ("POST", r"uploadId="),
    "delete": ("POST", r"\?delete$"),
    "delete one": ("DELETE", r"events_"),
    "list": ("GET", r"list-type=2"),
    "get": ("GET", r"events_"),
    "head": ("HEAD", r""),
}


@pytest.mark.server
@pytest.mark.parametrize("request_name", FAULTY)
@pytest.mark.parametrize("fault", ["500", "503", "reset", "drop"])
def test_a_store_that_fails_now_and_then(tmp_path: Path, seaweed: S3Server, request_name: str, fault: str) -> None:
    lake = EventLake.of(Rig("seaweedfs", seaweed, tmp_path))
    original = rows_of(lake.put_spec(spec(files=FILES)))
    with FaultProxy(seaweed.endpoint_url) as proxy:
        store = through(lake, proxy, request_name)
        rule = break_requests(proxy, request_name, fault, times=1)
        done = asyncio.run(sweep(lake.place(store=store), Scope(), HourRecorder()))
    assert rule.fired == 1
    assert [outcome.status for outcome in done.outcomes] == [HourStatus.COMPACTED], done.outcomes
    check_all_well(lake, original)


@pytest.mark.server
@pytest.mark.parametrize("request_name", FAULTY)
@pytest.mark.parametrize("fault", ["503", "drop"])
def test_a_store_that_goes_on_failing(tmp_path: Path, seaweed: S3Server, request_name: str, fault: str) -> None:
    """The run fails, or what it did counts although it never knew; the next run on a healed store ends it."""
    lake = EventLake.of(Rig("seaweedfs", seaweed, tmp_path))
    original = rows_of(lake.put_spec(spec(files=FILES)))
    with FaultProxy(seaweed.endpoint_url) as proxy:
        place = lake.place(store=through(lake, proxy, request_name, retries=1))
        rule = break_requests(proxy, request_name, fault, times=None)
        with suppress(QuantlabError):
            done = asyncio.run(sweep(place, Scope(), HourRecorder()))
            assert all(outcome.status is not HourStatus.UNTOUCHED for outcome in done.outcomes)
    assert rule.fired
    check_nothing_lost(lake, original)
    lake.sweep(now=SOON + LATER)
    check_all_well(lake, original)


def through(lake: EventLake, proxy: FaultProxy, request_name: str, retries: int = 3) -> Store:
    """A store that knows what the server honours, so that no trial of it is what breaks."""
    assert lake.rig.server is not None
    options = replace(s3_options(lake.rig.server, retries=retries), endpoint_url=proxy.url)
    store = open_store(lake.url, options)
    asyncio.run(store.capabilities())
    if request_name == "delete one":
        answers_of(lake.url, proxy.url)["bulk_delete"] = ""
    return store


def break_requests(proxy: FaultProxy, request_name: str, fault: str, times: int | None) -> Any:
    method, path = FAULTY[request_name]
    if fault in ("500", "503"):
        return proxy.fail(int(fault), method, path, times=times)
    return {"reset": proxy.reset, "drop": proxy.drop}[fault](method, path, times=times)
