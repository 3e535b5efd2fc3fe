"""What errors say, and what they never show."""

from __future__ import annotations

import pytest

from quantlab_dagster.errors import SettingsError, StoreError, masked
from quantlab_dagster.lake.store.opening import open_store

SECRET = "hunter2-recognisable"  # noqa: S105  # nobody's


@pytest.mark.parametrize(
    "url",
    [
        f"s3://user:{SECRET}@bucket/prefix",
        f"s3://AKIA:a/b+{SECRET}/c=@bucket/prefix",
        f"s3://bucket/prefix?X-Amz-Credential=AKIA&X-Amz-Signature={SECRET}",
        f"file://user:{SECRET}@host/lake",
        f"https://bucket.example.org/x?X-Amz-Signature={SECRET}",
        f"https://example.org/x?a=1&token={SECRET}&b=2",
    ],
)
def test_no_secret_of_a_url_is_shown(url: str) -> None:
    assert SECRET in url
    assert SECRET not in masked(f"reading {url}, twice")
    assert SECRET not in str(StoreError(url, f"is not {url}", f"Use another than {url}"))
    with pytest.raises(SettingsError, match="holds credentials") as caught:
        open_store(url, setting="QUANTLAB_RAW_URL")
    assert SECRET not in f"{caught.value!r} {caught.value} {vars(caught.value)}"
    assert "QUANTLAB_RAW_URL" in caught.value.remedy


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/symbol=a@b/date=1",
        "https://host:9000/x?list-type=2",
        "http://host:9000/bucket/a@b",
        "user@host: no",
    ],
)
def test_nothing_else_is_masked(text: str) -> None:
    assert masked(text) == text
