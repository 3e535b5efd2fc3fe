"""What was put is what was audited, what was got is what is there: a bit that flips is found, and mended or said."""

from __future__ import annotations

import asyncio
import hashlib
import os
import zlib
from asyncio import run
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.errors import ScratchUnusable, StoreError, StoreUnavailable
from quantlab_dagster.lake.store import limits
from quantlab_dagster.lake.store.objects import ObjectInfo
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.lake.store.s3 import S3Store, s3_store
from quantlab_dagster.lake.store.transfers import EtagDigest, Known, Sent, check_content, composite, may_be_md5
from quantlab_dagster_tests.conftest import Rig, s3_options
from quantlab_dagster_tests.lake.store.helpers import (
    KEY,
    MIB,
    ON_SEAWEEDFS,
    assert_absent,
    await_nothing_staged,
    proxied,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from quantlab_dagster.lake.store.base import Store

CONTENT = bytes(range(256)) * 40
OTHER = CONTENT[:100] + b"?" + CONTENT[101:]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@contextmanager
def small_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files go up in parts of 5 MiB, the least that servers take."""
    monkeypatch.setattr(limits, "MULTIPART_BYTES", 6 * MIB)
    monkeypatch.setattr(limits, "PART_BYTES", 5 * MIB)
    yield


# ---- what is put ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", CONTENT], ids=["empty", "some"])
def test_a_file_that_is_what_was_audited_is_put(rig: Rig, tmp_path: Path, content: bytes) -> None:
    store, file = rig.new_store(), tmp_path / "file"
    file.write_bytes(content)
    etag = run(store.put(KEY, file, sha256=sha256(content)))
    got, info = run(store.get(KEY))
    assert (got, info.etag) == (content, etag)
    assert store.requests.by_kind() == {"GET": 1, "PUT": 1}, "the proof costs no request"


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_file_damaged_since_its_audit_is_never_put(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_parts: bool
) -> None:
    store, file = rig.new_store(), tmp_path / "file"
    content = os.urandom(11 * MIB) if in_parts else CONTENT
    file.write_bytes(content[:-1] + bytes((content[-1] ^ 1,)))
    run(store.put(KEY, b"the day before"))
    with small_parts(monkeypatch), pytest.raises(ScratchUnusable, match="damaged") as caught:
        run(store.put(KEY, file, sha256=sha256(content)))
    assert str(file) in str(caught.value)
    assert "QUANTLAB_SCRATCH_DIR" in caught.value.remedy
    assert run(store.get(KEY))[0] == b"the day before"
    await_nothing_staged(store)
    assert [name for _, _, names in os.walk(rig.directory) for name in names if "#" in name] == []


@pytest.mark.parametrize("size_bytes", [len(CONTENT), 11 * MIB])
def test_a_file_damaged_since_its_audit_is_never_staged(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size_bytes: int
) -> None:
    store, file, content = rig.new_store(), tmp_path / "file", os.urandom(size_bytes)
    file.write_bytes(b"!" + content[1:] if content[:1] != b"!" else b"?" + content[1:])
    with small_parts(monkeypatch), pytest.raises(ScratchUnusable, match="damaged"):
        run(store.stage(KEY, file, sha256=sha256(content)))
    await_nothing_staged(store)
    assert_absent(store, KEY)


def test_a_local_copy_of_another_size_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lake").mkdir()
    store = open_store(str(tmp_path / "lake"))
    answers = iter([False, True])

    async def arrived(*_: object) -> bool:
        return next(answers)

    really = store._arrived
    assert run(store.put(KEY, CONTENT))
    for size_bytes, same in ((len(CONTENT), True), (1, False)):
        assert run(really(KEY, "any", replace(Sent.of(CONTENT), size_bytes=size_bytes))) is same
    assert run(really("none", "any", Sent.of(CONTENT))) is False
    monkeypatch.setattr(store, "_arrived", arrived)
    before = store.requests.by_kind()["PUT"]
    run(store.put(KEY, CONTENT))
    assert store.requests.by_kind()["PUT"] == before + 2


@ON_SEAWEEDFS
@pytest.mark.parametrize("times", [1, None], ids=["once", "always"])
def test_a_bit_that_flips_in_a_put(
    rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture, times: int | None
) -> None:
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    with proxied(rig) as (proxy, direct, store):
        rule = proxy.flip("PUT", "/compacted", times=times)
        if times:
            etag = run(store.put(KEY, file, sha256=sha256(CONTENT)))
            assert run(direct.get(KEY))[1].etag == etag
            assert run(direct.get(KEY))[0] == CONTENT
        else:
            with pytest.raises(StoreError, match="3 times") as caught:
                run(store.put(KEY, file, sha256=sha256(CONTENT)))
            assert KEY in str(caught.value)
        assert rule.fired == (times or limits.SENDINGS)
        assert "it is sent again" in caplog.text


@ON_SEAWEEDFS
def test_a_bit_that_flips_in_a_part(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, content = tmp_path / "file", os.urandom(11 * MIB)
    file.write_bytes(content)
    with small_parts(monkeypatch), proxied(rig) as (proxy, direct, store):
        rule = proxy.flip("PUT", "partNumber=2")
        run(store.put(KEY, file, sha256=sha256(content)))
        assert run(direct.sha256(KEY)) == sha256(content)
        staging = proxy.flip("PUT", "partNumber=3")
        staged = run(store.stage("m/staged", file, sha256=sha256(content)))
        info = run(store.publish(staged))
        assert info is not None, "the parts' sums make the whole's"
        assert run(direct.sha256("m/staged")) == sha256(content)
        assert (rule.fired, staging.fired) == (1, 1)
        assert proxy.count("PUT", "staged.*partNumber") == 4, "only the damaged part is sent again"


@ON_SEAWEEDFS
@pytest.mark.parametrize("times", [1, None], ids=["once", "always"])
def test_a_bit_that_flips_in_a_compare_and_swap(rig: Rig, times: int | None) -> None:
    with proxied(rig) as (proxy, direct, store):
        first = run(store.compare_and_swap("m/meta.json", CONTENT, None))
        rule = proxy.flip("PUT", "/meta", times=times)
        if times:
            second = run(store.compare_and_swap("m/meta.json", OTHER, first))
            assert run(direct.get("m/meta.json")) == (OTHER, ObjectInfo("m/meta.json", len(OTHER), second))
        else:
            with pytest.raises(StoreError, match="3 times"):
                run(store.compare_and_swap("m/meta.json", OTHER, first))
        assert rule.fired == (times or limits.SENDINGS)


@ON_SEAWEEDFS
def test_what_a_server_refuses_as_damaged_is_sent_again(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store):
        rule = proxy.fail(400, "PUT", "/x", times=2)
        run(store.put("m/x", CONTENT))
        assert run(direct.get("m/x"))[0] == CONTENT
        assert rule.fired == 2
        always = proxy.fail(400, "PUT", "/x", times=None)
        with pytest.raises(StoreUnavailable, match="SHA256"):
            run(store.put("m/x", CONTENT))
        assert always.fired == limits.SENDINGS


@ON_SEAWEEDFS
def test_where_etags_are_no_md5_sums_what_was_put_is_read_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxied(rig) as (proxy, _, store), no_md5s(monkeypatch):
        run(store.put("m/x", CONTENT))
        assert store.requests.by_kind() == {"GET": 2, "PUT": 1}, "twice: what comes back has not the sum either"
        run(store.put("m/x", OTHER))
        assert store.requests.by_kind() == {"GET": 3, "PUT": 2}
        rule = proxy.flip("PUT", "/x")
        run(store.put("m/x", CONTENT))
        assert (rule.fired, store.requests.by_kind()) == (1, {"GET": 5, "PUT": 4})
        assert run(store.get("m/x"))[0] == CONTENT


@ON_SEAWEEDFS
def test_aws_itself_has_compared_what_it_got_with_what_was_signed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rig.server is not None
    options = s3_options(rig.server)
    for endpoint, session, known in [
        (None, options.session, True),
        ("https://bucket.vpce-1.s3.eu-central-1.vpce.amazonaws.com", options.session, True),
        ("https://s3.cn-north-1.amazonaws.com.cn", options.session, True),
        (None, None, False),
        ("https://amazonaws.com.example.org", options.session, False),
        ("http://s3.eu-central-1.amazonaws.com", options.session, False),
        (options.endpoint_url, options.session, False),
    ]:
        store = s3_store("s3://bucket", replace(options, endpoint_url=endpoint, session=session))
        assert store._checks_signatures is known, endpoint
    trusted = rig.new_store()
    assert isinstance(trusted, S3Store)
    trusted._checks_signatures = True
    with no_md5s(monkeypatch):
        run(trusted.put("m/x", CONTENT))
        assert trusted.requests.by_kind() == {"PUT": 1}
        trusted._known.matched = True  # this one is no SSE-KMS, or not everywhere
        run(trusted.put("m/x", CONTENT))
        assert trusted.requests.by_kind()["GET"] == 2


@contextmanager
def no_md5s(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the server's ETags look like those of SSE-KMS: as if they were MD5 sums, but of something else."""
    with monkeypatch.context() as patch:
        patch.setattr(EtagDigest, "etag", lambda self: "e" + really(self)[1:])
        patch.setattr(Sent, "of", lambda content: Sent(len(content), "e" * 32, sha256(content)))
        yield


really = EtagDigest.etag


# ---- what is got ---------------------------------------------------------------------------------------------------


@ON_SEAWEEDFS
@pytest.mark.parametrize("how", ["get", "download", "sha256"])
def test_a_bit_that_flips_in_a_get(rig: Rig, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    with proxied(rig) as (proxy, direct, store):
        run(direct.put("m/x", CONTENT))
        assert got(store, how, tmp_path) == (sha256(CONTENT) if how == "sha256" else CONTENT)
        assert store.requests.by_kind() == {"GET": 1}, "it costs nothing where all is right"

        rule = proxy.flip("GET", "/x", after_forwarding=True)
        assert got(store, how, tmp_path) == (sha256(CONTENT) if how == "sha256" else CONTENT)
        assert (rule.fired, store.requests.by_kind()) == (1, {"GET": 3})
        assert "came damaged, and was fetched again" in caplog.text


def got(store: Store, how: str, tmp_path: Path) -> object:
    if how == "get":
        return run(store.get("m/x"))[0]
    if how == "sha256":
        return run(store.sha256("m/x"))
    run(store.download("m/x", tmp_path / "copy"))
    return (tmp_path / "copy").read_bytes()


class Answers:
    """A store whose GETs bring what is told, one after the other."""

    def __init__(self, tmp_path: Path, *answers: bytes, etag: str) -> None:
        (tmp_path / "lake").mkdir()
        self.store = open_store(str(tmp_path / "lake"))
        self._answers = iter(answers)
        self._etag = etag

    def get(self) -> bytes:
        async def once() -> tuple[bytes, ObjectInfo]:
            content = next(self._answers)
            return content, ObjectInfo("m/x", len(content), self._etag, md5(content))

        return run(self.store._received("m/x", once))[0]


@pytest.mark.guards("damage-in-transit-alone")
def test_what_came_damaged_is_fetched_again_where_nothing_else_has_shown_what_etags_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers = Answers(tmp_path, OTHER, CONTENT, etag=md5(CONTENT))
    assert answers.get() == CONTENT
    assert answers.store.requests.by_kind() == {"GET": 2}
    assert "m/x came damaged, and was fetched again" in caplog.text
    assert answers.store._known.matched


def test_what_comes_twice_the_same_is_believed_where_nothing_has_its_sum(tmp_path: Path) -> None:
    answers = Answers(tmp_path, CONTENT, CONTENT, OTHER, etag="0" * 32)
    assert answers.get() == CONTENT
    assert answers.get() == OTHER, "not asked for again: ETags are no MD5 sums here"
    assert answers.store.requests.by_kind() == {"GET": 3}


def test_where_another_has_its_sum_each_is_fetched_again(tmp_path: Path) -> None:
    answers = Answers(tmp_path, CONTENT, CONTENT, CONTENT, CONTENT, etag="0" * 32)
    answers.store._known.matched = True
    assert [answers.get(), answers.get()] == [CONTENT, CONTENT]
    assert answers.store.requests.by_kind() == {"GET": 4}


def test_what_comes_twice_and_differs_is_not_believed(tmp_path: Path) -> None:
    answers = Answers(tmp_path, CONTENT, OTHER, etag="0" * 32)
    with pytest.raises(StoreUnavailable, match="each time with other bytes") as caught:
        answers.get()
    assert str(caught.value).startswith(answers.store.name("m/x"))


@pytest.mark.parametrize("etag", ["", "1a2b-64c-28", "0" * 31, "A" * 32, "0" * 32 + "-"])
def test_other_etags_say_nothing_of_a_content(tmp_path: Path, etag: str) -> None:
    answers = Answers(tmp_path, CONTENT, etag=etag)
    assert answers.get() == CONTENT
    assert not may_be_md5(etag)
    assert Known().believes(ObjectInfo("x", 1, etag, "whatever"))


# ---- sums ----------------------------------------------------------------------------------------------------------


def test_the_etag_of_what_comes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PART_BYTES", 1000)
    parts = [CONTENT[i : i + 1000] for i in range(0, len(CONTENT), 1000)]
    of_parts = composite([hashlib.md5(part, usedforsecurity=False).digest() for part in parts])
    assert of_parts.endswith("-11")
    for like, expected in (("", md5(CONTENT)), ("0" * 32, md5(CONTENT)), ("0" * 32 + "-5", of_parts)):
        for size in (1, 999, 1000, 1001, len(CONTENT)):
            digest = EtagDigest.like(like)
            for start in range(0, len(CONTENT), size):
                digest.update(CONTENT[start : start + size])
            assert digest.etag() == expected


def test_a_copy_that_is_not_what_was_downloaded_any_more(tmp_path: Path) -> None:
    file = tmp_path / "copy"
    file.write_bytes(CONTENT)
    check_content("s3://x/y", file, zlib.crc32(CONTENT))
    file.write_bytes(OTHER)
    for checksum in (zlib.crc32(CONTENT), None):
        with pytest.raises(ScratchUnusable, match=r"s3://x/y: .*damaged"):
            check_content("s3://x/y", file, checksum)
    file.unlink()
    with pytest.raises(ScratchUnusable, match=r"s3://x/y: .*cannot be used"):
        check_content("s3://x/y", file, zlib.crc32(CONTENT))


def test_an_upload_that_failed_is_not_half_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object) -> bool:
        return False

    (tmp_path / "lake").mkdir()
    store = open_store(str(tmp_path / "lake"))
    monkeypatch.setattr(store, "_arrived", nothing)
    monkeypatch.setattr(limits, "FIRST_WAIT_SECONDS", 0.001)
    with pytest.raises(StoreError, match="3 times"):
        asyncio.run(store.put(KEY, CONTENT))
