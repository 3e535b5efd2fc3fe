"""A machine's own fault is not a bad part: which errors are whose, and that nothing is blamed for the machine's."""

from __future__ import annotations

import errno
import os
import pickle
import resource
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantlab_dagster.errors import AuditFailed, CorruptPart, MachineFault, StoreUnavailable
from quantlab_dagster.kernel import spread, stitch
from quantlab_dagster.kernel.digest import digest_file
from quantlab_dagster.kernel.faults import lacks_resources, machine_fault, machine_faults
from quantlab_dagster.kernel.frames import read_parts
from quantlab_dagster.kernel.parts import FooterReader, Part
from quantlab_dagster.kernel.sums import file_sha256
from quantlab_dagster_tests.kernel.building import survey_of
from quantlab_dagster_tests.kernel.test_audit import compact_day
from quantlab_dagster_tests.kernel.test_bad_parts import RUNS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EIO = OSError(errno.EIO, "Error reading bytes from file. Detail: [errno 5] Input/output error")

THE_MACHINES = {
    "EIO": (EIO, "QUANTLAB_SCRATCH_DIR"),
    "ENOSPC": (OSError(errno.ENOSPC, "No space left on device"), "QUANTLAB_SCRATCH_DIR"),
    "gone": (FileNotFoundError("No such file or directory (os error 2): /tmp/x"), "QUANTLAB_SCRATCH_DIR"),
    "EMFILE": (OSError("Too many open files (os error 24): /tmp/x"), "ulimit -n"),
    "ENFILE": (OSError(errno.ENFILE, "Too many open files in system"), "ulimit -n"),
    "memory": (MemoryError(), "QUANTLAB_MEMORY_BUDGET"),
    "malloc": (pa.ArrowMemoryError("malloc of size 123456 failed"), "QUANTLAB_MEMORY_BUDGET"),
    "realloc": (pa.ArrowException("realloc of size 123456 failed"), "QUANTLAB_MEMORY_BUDGET"),
    "Polars": (pl.exceptions.ComputeError("Cannot allocate memory (os error 12)"), "QUANTLAB_MEMORY_BUDGET"),
    "panic": (pl.exceptions.PanicException("Input/output error (os error 5)"), "QUANTLAB_SCRATCH_DIR"),
    "threads": (RuntimeError("can't start new thread"), "run again"),
}

THE_DATAS = {
    "no Parquet": pa.ArrowInvalid("Parquet magic bytes not found in footer"),
    "thrift": OSError("Couldn't deserialize thrift: TProtocolException: Invalid data"),
    "an offset": OSError(errno.EINVAL, "Invalid argument"),
    "an absurd size": pa.ArrowMemoryError("malloc of size 4611686018427387904 failed"),
    "decoding": pl.exceptions.ComputeError("file out of specification"),
    "a column's name": pl.exceptions.SchemaError("column '(os error 5)' is missing"),
    "a bug": RuntimeError("something else"),
    "a bad part": CorruptPart("part", "(os error 5)"),
    "a store": StoreUnavailable("s3://x", "no answer (os error 24)"),
}


@pytest.mark.parametrize("name", THE_MACHINES)
def test_the_machines_own(name: str) -> None:
    error, remedy = THE_MACHINES[name]
    fault = machine_fault(error, "binance/bbo")
    assert fault is not None
    assert fault.where == "binance/bbo"
    assert remedy in fault.remedy
    assert str(pickle.loads(pickle.dumps(fault))) == str(fault)  # noqa: S301  # our own
    with pytest.raises(MachineFault) as caught, machine_faults("here"):
        raise error
    assert (caught.value.where, caught.value.__cause__) == ("here", error)


@pytest.mark.parametrize("name", THE_DATAS)
def test_what_may_be_the_datas(name: str) -> None:
    assert machine_fault(THE_DATAS[name], "x") is None
    with pytest.raises(type(THE_DATAS[name])) as caught, machine_faults("here"):
        raise THE_DATAS[name]
    assert caught.value is THE_DATAS[name]


def test_what_is_said_already_is_not_said_again() -> None:
    fault = MachineFault("first", "no memory", "buy some")
    with pytest.raises(MachineFault) as caught, machine_faults("second"):
        raise fault
    assert (caught.value, caught.value.__cause__) == (fault, None)


@pytest.fixture
def part(tmp_path: Path) -> Part:
    path = tmp_path / "part.parquet"
    pq.write_table(pa.table({"ts_event": [1, 2, 3]}), path)
    return Part("part-1-000001.parquet", path, path.stat().st_size)


@contextmanager
def no_more_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(opened) + 2, hard))
    try:
        with suppress(OSError):
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in opened:
            os.close(descriptor)


def test_too_many_open_files_is_no_bad_part(part: Part) -> None:
    footers = FooterReader("ts_event")
    footer = footers.read(part)
    columns = survey_of([part]).columns
    with no_more_files(), pytest.raises(MachineFault, match="Too many open files"):
        FooterReader("ts_event").read(part)
    rows = pl.Series([footer.rows]).to_numpy()
    with no_more_files(), pytest.raises(MachineFault, match="Too many open files"):
        read_parts([part], columns, rows - rows, rows)
    with no_more_files(), pytest.raises(MachineFault, match="Too many open files"):
        digest_file(part.source, "ts_event", numbered=False)  # type: ignore[arg-type]


def test_a_part_that_has_gone_from_scratch_is_no_bad_part(part: Part) -> None:
    columns = survey_of([part]).columns
    part.source.unlink()  # type: ignore[union-attr]
    with pytest.raises(MachineFault):
        FooterReader("ts_event").read(part)
    rows = pl.Series([3]).to_numpy()
    with pytest.raises(MachineFault):
        read_parts([part], columns, rows - rows, rows)


def test_a_fault_that_comes_when_a_culprit_is_looked_for_blames_none(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = survey_of([part]).columns
    rows = pl.Series([4]).to_numpy()  # one more than there are, so that it is looked for
    collect, calls = pl.LazyFrame.collect, 0

    def failing(self: pl.LazyFrame, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError("Input/output error (os error 5)")
        return collect(self, *arguments, **options)

    monkeypatch.setattr(pl.LazyFrame, "collect", failing)
    with pytest.raises(MachineFault):
        read_parts([part], columns, rows - rows, rows)


@pytest.mark.parametrize("at", [0.0, 0.05, 0.3, 0.5, 0.75, 0.95, 0.999])
def test_a_bit_that_flips_in_a_run_is_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: float) -> None:
    read = spread._read_run

    def flipped(path: Path, checksum: int) -> pl.DataFrame:
        content = bytearray(path.read_bytes())
        content[int(len(content) * at)] ^= 1
        path.write_bytes(content)
        return read(path, checksum)

    monkeypatch.setattr(spread, "_read_run", flipped)
    with pytest.raises(MachineFault, match="other bytes than were written") as caught:
        compact_day(tmp_path, RUNS)
    assert "run-" in caught.value.where
    assert "QUANTLAB_SCRATCH_DIR" in caught.value.remedy


@pytest.mark.parametrize("at", [0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.999])
def test_a_bit_that_flips_in_the_output_is_no_proof_and_no_bad_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: float
) -> None:
    """Before it is read back it is an AuditFailed; or it does not matter, and then it is still what is uploaded."""
    sums: list[str] = []
    really = stitch._checked_bytes

    def flipped(path: Path, *arguments: Any) -> str:
        content = bytearray(path.read_bytes())
        sums.append(really(path, *arguments))
        content[int(len(content) * at)] ^= 1
        path.write_bytes(content)
        return sums[0]

    monkeypatch.setattr(stitch, "_checked_bytes", flipped)
    try:
        compacted = compact_day(tmp_path)
    except AuditFailed:
        return
    assert compacted.merged.sha256 == sums[0]
    assert compacted.merged.sha256 != file_sha256(compacted.path), "so the upload refuses it"


@pytest.mark.parametrize("parts", [None, RUNS], ids=["one window", "runs"])
def test_a_disk_that_fills_while_the_output_is_written_is_the_machines(tmp_path: Path, parts: Any) -> None:
    # A link: Arrow removes what it could not write, and must not remove the device itself.
    (tmp_path / "data.parquet").symlink_to("/dev/full")
    with pytest.raises(MachineFault, match="No space left on device") as caught, machine_faults("the output"):
        compact_day(tmp_path) if parts is None else compact_day(tmp_path, parts)
    assert "QUANTLAB_SCRATCH_DIR" in caught.value.remedy


@pytest.mark.guards("own-fault-quarantines")
@pytest.mark.parametrize(
    ("words", "short"),
    [
        ("<jemalloc>: background thread creation failed (11)", True),
        ("memory allocation of 336 bytes failed", True),
        ("memory allocation of 2305843009213693952 bytes failed", False),
        ("thread '<unnamed>' panicked: Resource temporarily unavailable", True),
        ("assertion failed: num_values >= 0", False),
        ("", False),
    ],
)
def test_an_engine_that_was_given_nothing_is_told_from_one_that_a_part_broke(words: str, short: bool) -> None:
    assert lacks_resources(words) is short


def test_what_a_panic_says_of_the_system_is_understood() -> None:
    error = pl.exceptions.ComputeError('spawn failed: Os { code: 11, kind: WouldBlock, message: "…" }')
    assert isinstance(machine_fault(error, "here"), MachineFault)
