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
        f"file://user:{SECRET}@host/lake",
        f"https://bucket.example.org/x?X-Amz-Signature={SECRET}",
        f"https://example.org/x?a=1&token={SECRET}&b=2",
    ],
)
def test_no_secret_of_a_url_is_shown(url: str) -> None:
    assert SECRET in url
    assert SECRET not in masked(f"reading {url}, twice")
    assert SECRET not in str(StoreError(url, f"is not {url}", f"Use another than {url}"))
    if not url.startswith("s3"):
        with pytest.raises(SettingsError) as caught:
            open_store(url)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("text", ["s3://bucket/symbol=a@b/date=1", "https://host:9000/x?list-type=2", "user@host: no"])
def test_nothing_else_is_masked(text: str) -> None:
    assert masked(text) == text
