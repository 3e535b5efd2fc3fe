"""What URLs mean, and what is said of those that mean nothing."""

from __future__ import annotations

import os
import re
from asyncio import run
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.errors import SettingsError
from quantlab_dagster.lake.store.local import LocalStore
from quantlab_dagster.lake.store.objects import S3Options
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster_tests.conftest import Rig, s3_options
from quantlab_dagster_tests.lake.store.helpers import ON_SERVERS, keys_of

if TYPE_CHECKING:
    from pathlib import Path


def test_urls_of_local_lakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lake = tmp_path / "a lake #1"
    encoded = f"{tmp_path}/a%20lake%20%231"
    for url in (str(lake), "a lake #1", f"file://{encoded}", f"file://localhost{encoded}"):
        store = open_store(url, create=True)
        assert isinstance(store, LocalStore)
        run(store.put("x", url.encode()))
        assert (lake / "x").read_bytes() == url.encode()
        assert store.name("x") == f"{url}/x"
    assert os.listdir(tmp_path) == ["a lake #1"]  # noqa: PTH208


def test_a_missing_local_lake_is_made_only_where_asked(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="local lake does not exist") as caught:
        open_store(str(tmp_path / "lake"), setting="QUANTLAB_RAW_URL", if_missing="run `make demo`")
    assert str(tmp_path / "lake") in str(caught.value)
    assert caught.value.remedy == "Set QUANTLAB_RAW_URL to one that does, or run `make demo`"
    assert not (tmp_path / "lake").exists()
    (tmp_path / "file").touch()
    for create in (True, False):
        with pytest.raises(SettingsError) as caught:
            open_store(str(tmp_path / "file"), create=create)
        assert caught.value.remedy


@pytest.mark.parametrize(
    "url",
    [
        "",
        "s3://",
        "s3:///prefix",
        "s3:/bucket/prefix",
        "S3://bucket/prefix",
        "s3://my bucket/prefix",
        "s3://bucket/a//b",
        "s3://bucket/a/../b",
        "https://bucket.s3.amazonaws.com/",
        "gs://bucket",
        "file://relative/lake",
        "file:///lake?x=y",
        "file:///lake#x",
        "file:/lake",
        "file:lake",
        "file://",
        "file:///",
        "file://localhost",
        "arn:aws:s3:::bucket",
        "s3:bucket",
        "~nobody-of-this-name/lake",
    ],
)
def test_urls_that_cannot_be_understood(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError) as caught:
        open_store(url, S3Options(None, "us-east-1", None), create=True)
    assert caught.value.where == url
    assert caught.value.remedy
    assert list(tmp_path.iterdir()) == [], "a directory was made of it"


@pytest.mark.parametrize("url", [" ", " s3://bucket", "lake ", "\tlake", "la\nke", "la\x00ke", "s3://bucket/a\x7f"])
def test_blanks_around_a_url_and_control_characters_in_it_are_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"Set THE_URL to s3://bucket/prefix") as caught:
        open_store(url, S3Options(None, "us-east-1", None), create=True, setting="THE_URL")
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == []


def test_the_home_of_a_user_is_meant_and_a_bucket_that_is_named_otherwise_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run(open_store("~/lake", create=True).put("x", b"x"))
    assert (tmp_path / "home" / "lake" / "x").exists()
    assert not (tmp_path / "~").exists()
    with pytest.raises(SettingsError, match=r"a path: s3://bucket/some$"):
        open_store("arn:aws:s3:::bucket/some")


@pytest.mark.parametrize("endpoint_url", ["nonsense", "http://", "ftp://host", "localhost:8333", "http://a b:80"])
def test_bad_endpoints_are_refused_before_the_engine_sees_them(endpoint_url: str) -> None:
    with pytest.raises(SettingsError, match="is no endpoint") as caught:
        open_store("s3://bucket", S3Options(None, "us-east-1", endpoint_url, endpoint_setting="AWS_ENDPOINT_URL"))
    assert "AWS_ENDPOINT_URL" in caught.value.remedy


@pytest.mark.parametrize("region", ["", "no where", "us-east-1/x"])
def test_bad_regions_are_refused_before_the_engine_sees_them(region: str) -> None:
    with pytest.raises(SettingsError, match="is no region") as caught:
        open_store("s3://bucket", S3Options(None, region, None, region_setting="AWS_REGION"))
    assert "AWS_REGION" in caught.value.remedy


def test_s3_needs_options() -> None:
    with pytest.raises(SettingsError, match="needs S3 options"):
        open_store("s3://bucket")


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("lake", None),
        ("https://bucket", None),
        ("s3://", S3Options(None, "us-east-1", None)),
        ("s3://bucket", S3Options(None, "no where", None)),
        ("s3://bucket", S3Options(None, "us-east-1", "nonsense")),
    ],
)
def test_a_store_names_the_settings_it_was_told_and_no_others(
    url: str, options: S3Options | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError) as caught:
        open_store(url, options)
    assert caught.value.remedy
    assert not re.search("[A-Z]_[A-Z]|make", caught.value.remedy)
    named = options and replace(options, region_setting="THE_REGION", endpoint_setting="THE_ENDPOINT")
    with pytest.raises(SettingsError, match=r"Set THE_(URL|REGION|ENDPOINT)"):
        open_store(url, named, setting="THE_URL")


@ON_SERVERS
def test_a_prefix_of_a_bucket_is_taken_literally(rig: Rig) -> None:
    assert rig.server is not None
    url = rig.new_url()
    root = rig.store(url)
    for prefix in ("a b", "a%20b", "é", "a+b", "a%2Fb", "a#b", "a?b", "x=y/z=w"):
        options = replace(s3_options(rig.server), endpoint_url=f"{rig.server.endpoint_url}/")
        store = open_store(f"{url}/{prefix}/", options)
        run(store.put("k/x", b"x"))
        assert keys_of(run(store.list_objects("k/"))) == ["k/x"]
        assert keys_of(run(root.list_objects(f"{prefix}/"))) == [f"{prefix}/k/x"]
