"""Which kind of store a URL means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from quantlab_dagster.errors import SettingsError, masked
from quantlab_dagster.lake.store.local import local_store
from quantlab_dagster.lake.store.s3 import s3_store

if TYPE_CHECKING:
    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.objects import S3Options

__all__ = ["open_store"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BUCKET = re.compile(r"arn:[a-z-]+:s3:::(.+)")


def open_store(
    url: str, s3: S3Options | None = None, *, create: bool = False, setting: str = "", if_missing: str = ""
) -> Store:
    """Open the store of a URL: `s3://bucket/prefix`, `file:///directory`, or a plain path.

    Args:
        url: where.
        s3: how to reach S3; needed for `s3://` URLs only.
        create: whether a missing local directory is made.
        setting: name of the setting that the URL comes from, for remedies.
        if_missing: what else helps where the local directory does not exist, as in "run `this`".

    Raises:
        SettingsError: the URL cannot be understood, or the local directory is missing.
    """
    if masked(url) != url:
        remedy = f"Take them out of {setting or 'it'}, and configure credentials beside it"
        raise SettingsError(url, "holds credentials, which have no place in a URL that is shown", remedy)
    remedy = f"{f'Set {setting} to' if setting else 'Use'} s3://bucket/prefix, file:///directory or a path"
    if url != url.strip() or _CONTROL.search(url):
        raise SettingsError(repr(url), "begins or ends with a blank, or has a control character", remedy)
    if url.startswith("s3://"):
        if s3 is None:
            raise SettingsError(url, "needs S3 options", "Configure the resource's region and credentials")
        return s3_store(url, s3, setting=setting)
    parts = urlsplit(url)
    is_file = url.startswith("file://") and parts.netloc in ("", "localhost") and not (parts.query or parts.fragment)
    # `s3:/bucket` or `arn:aws:s3:::bucket` must not become a directory of that name, and `file://` is none.
    if not url or (_SCHEME.match(url) and not is_file) or (is_file and not parts.path.strip("/")):
        bucket = _BUCKET.fullmatch(url)
        raise SettingsError(url, "is no URL this project knows", f"{remedy}{f': s3://{bucket[1]}' if bucket else ''}")
    try:
        path = Path(unquote(parts.path)) if is_file else Path(url).expanduser()
    except RuntimeError:
        raise SettingsError(url, "names the home of a user that there is not", remedy) from None
    return local_store(path, url=url, create=create, setting=setting, if_missing=if_missing)
