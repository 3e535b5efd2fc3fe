"""obstore's engine for a bucket, or a prefix of one: by whom it is used says what it is used for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obstore import exceptions as obs
from obstore import store as engines

from quantlab_dagster.errors import SettingsError
from quantlab_dagster.lake.store import limits
from quantlab_dagster.lake.store.faults import first_line

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

    from quantlab_dagster.lake.store.objects import S3Options

__all__ = ["S3Engine", "s3_engine"]

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REGION = re.compile(r"[A-Za-z0-9-]+")
_PEM = "Set it to a PEM file of the authorities that signed the server's certificate"
_ENDPOINT = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?(/[A-Za-z0-9._~/-]*)?")


@dataclass(frozen=True, slots=True)
class S3Engine:
    """What speaks S3, and where.

    Attributes:
        engine: rooted at the prefix.
        bucket: its bucket.
        prefix: without slashes at its ends; empty for the whole bucket.
    """

    engine: engines.S3Store
    bucket: str
    prefix: str


def s3_engine(url: str, options: S3Options, *, setting: str = "") -> S3Engine:
    """The engine of `s3://bucket/prefix`; no request is made.

    Args:
        url: where.
        options: how to reach it.
        setting: name of the setting that the URL comes from, for remedies.

    Raises:
        SettingsError: the URL, the region or the endpoint cannot be used.
    """
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise SettingsError(url, "names no bucket", f"{_set(setting)} s3://bucket/prefix")
    _check(url, options)
    prefix = prefix.strip("/")
    try:
        return S3Engine(_engine(bucket, prefix, options), bucket, prefix)
    except (obs.BaseError, ValueError) as error:
        remedy = f"Check {setting or 'URL'}, endpoint and region"
        raise SettingsError(url, f"cannot be used ({first_line(error)})", remedy) from error


def _check(url: str, options: S3Options) -> None:
    """Refuse what makes no valid URI: it would make the engine panic at its first request."""
    if not _REGION.fullmatch(options.region):
        remedy = f"{_set(options.region_setting)} us-east-1"
        raise SettingsError(url, f"{options.region!r} is no region", remedy)
    if options.endpoint_url and not _ENDPOINT.fullmatch(options.endpoint_url):
        remedy = f"{_set(options.endpoint_setting)} https://host:port"
        shown = options.endpoint_url.rpartition("@")[2]  # credentials have no place there, but may stand there
        raise SettingsError(url, f"{shown!r} is no endpoint", remedy)


def _set(setting: str) -> str:
    """The beginning of a remedy, whether or not the setting has a name."""
    return f"Set {setting}, as in" if setting else "Use one as in"


def _trusted(options: S3Options) -> ClientConfig:
    """The authorities that are trusted beside the system's."""
    if not options.ca_bundle:
        return {}
    try:
        return {"root_certificate": Path(options.ca_bundle).read_bytes()}
    except OSError as error:
        where = options.ca_setting or options.ca_bundle
        raise SettingsError(where, f"{options.ca_bundle} cannot be read ({error.strerror})", _PEM) from error


def _engine(bucket: str, prefix: str, options: S3Options) -> engines.S3Store:
    client: ClientConfig = {
        **_trusted(options),
        "timeout": timedelta(seconds=limits.TOTAL_SECONDS),
        "connect_timeout": timedelta(seconds=limits.CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=limits.READ_SECONDS),
        "allow_invalid_certificates": not options.verify_tls,
        "allow_http": options.endpoint.startswith("http://"),
    }
    retry: RetryConfig = {
        "max_retries": options.retries,
        "backoff": {
            "init_backoff": timedelta(seconds=limits.FIRST_WAIT_SECONDS),
            "max_backoff": timedelta(seconds=limits.LONGEST_WAIT_SECONDS),
            "base": 2,
        },
        "retry_timeout": timedelta(seconds=limits.RETRY_SECONDS),
    }
    config: dict[str, Any] = {"region": options.region, "endpoint": options.endpoint}
    if options.encryption:
        config["server_side_encryption"] = options.encryption
    if options.kms_key:
        config["sse_kms_key_id"] = options.kms_key
    if options.session is None:
        config["skip_signature"] = True
    else:
        # Imported here: local lakes need no boto3.
        from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415

        config["credential_provider"] = Boto3CredentialProvider(options.session)
    return engines.S3Store(bucket, prefix=prefix or None, client_options=client, retry_config=retry, **config)
