"""The lakes as Dagster resources: a URL, and for S3 everything that dagster-aws's `S3Resource` configures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import dagster as dg
from botocore.exceptions import BotoCoreError
from dagster_aws.s3 import S3Resource
from pydantic import Field

from quantlab_dagster.days.compact import Workplace
from quantlab_dagster.errors import SettingsError
from quantlab_dagster.lake.store import S3Options, Store, open_store
from quantlab_dagster.settings import Lake, load_aws
from quantlab_dagster.work.clock import Clock, utc_now

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantlab_dagster.settings import Settings

__all__ = ["LakeResource", "LimitsResource", "workplace"]

_DEFAULT_REGION = "us-east-1"


class LakeResource(S3Resource):
    """An object store below a URL; all bytes of a lake move through it.

    What is configured here (keys, profile, region, endpoint) comes first. What is not is taken from the environment
    when the store is opened, so that no secret stands in Dagster's configuration or in its pages.

    Example:
        ```python
        LakeResource(lake="raw", url="s3://quantlab-raw", region_name="eu-central-1",
                     aws_access_key_id=dg.EnvVar("RAW_KEY"), aws_secret_access_key=dg.EnvVar("RAW_SECRET"))
        ```
    """

    lake: str = Field(description="raw, compact or warehouse: whose environment variables apply.")
    url: str = Field(description="s3://bucket/prefix, file:///directory, or a path.")

    @classmethod
    def _is_dagster_maintained(cls) -> bool:
        return False

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        secrets = ("aws_secret_access_key", "aws_session_token")
        return ((k, "**********" if k in secrets and v else v) for k, v in super().__repr_args__())

    def get_object_to_set_on_execution_context(self) -> Any:
        """The resource itself: a client that nobody asked for would cost every local run its start-up."""
        return self

    def store(self) -> Store:
        """Open the lake. Only the compact lake, which is ours, is made where it is a missing local directory.

        Raises:
            SettingsError: the URL, the credentials or the directory are not usable.
        """
        if not self.url.startswith("s3://"):
            return open_store(self.url, create=self.lake == "compact")
        return open_store(self.url, self._s3_options())

    def _s3_options(self) -> S3Options:
        environment = load_aws(_lake(self.lake))
        session = None if self.use_unsigned_session else self._session()
        region = self.region_name or environment.region or environment.default_region
        return S3Options(
            session=session,
            region=region or (session.region_name if session else None) or _DEFAULT_REGION,
            endpoint_url=self.endpoint_url or environment.s3_endpoint_url or environment.endpoint_url,
            verify_tls=self.verify is not False,
            retries=max(0, self.max_attempts - 1),
        )

    def _session(self) -> boto3.session.Session:
        environment = load_aws(_lake(self.lake))
        profile = self.profile_name or environment.profile
        keys = (self.aws_access_key_id, self.aws_secret_access_key, self.aws_session_token)
        if bool(keys[0]) != bool(keys[1]) or (keys[2] and not keys[0]):
            cause = "this resource has only a part of its credentials"
            raise SettingsError(self.url, cause, "Set aws_access_key_id and aws_secret_access_key together, or neither")
        if not keys[0] and not self.profile_name:
            secrets = (environment.access_key_id, environment.secret_access_key, environment.session_token)
            keys = tuple(secret.get_secret_value() if secret else None for secret in secrets)  # type: ignore[assignment]
        try:
            session = boto3.Session(
                aws_access_key_id=keys[0],
                aws_secret_access_key=keys[1],
                aws_session_token=keys[2],
                profile_name=None if keys[0] else profile,
                region_name=self.region_name or environment.region or environment.default_region,
            )
            found = session.get_credentials()
        except BotoCoreError as error:
            raise SettingsError(self.url, f"no usable AWS credentials ({error})", _CREDENTIALS_REMEDY) from error
        if found is None:
            raise SettingsError(self.url, "no AWS credentials found", _CREDENTIALS_REMEDY)
        return session


_CREDENTIALS_REMEDY = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or their per-lake forms), or a profile"


def _lake(name: str) -> Lake:
    lakes: dict[str, Lake] = {"raw": "raw", "compact": "compact", "warehouse": "warehouse"}
    if name not in lakes:
        raise SettingsError(name, "is no lake of this project", "Use raw, compact or warehouse")
    return lakes[name]


class LimitsResource(dg.ConfigurableResource[None]):
    """What a run may use of this machine."""

    memory_budget: int = Field(default=512 << 20, description="Bytes for downloaded parts and the merge together.")
    request_concurrency: int = Field(default=64, description="Requests in flight at once.")
    scratch_dir: str | None = Field(default=None, description="Where temporary files go; default: the system's place.")

    @classmethod
    def of(cls, settings: Settings) -> LimitsResource:
        """The limits that the settings give."""
        return cls(
            memory_budget=int(settings.memory_budget),
            request_concurrency=settings.request_concurrency,
            scratch_dir=str(settings.scratch_dir) if settings.scratch_dir else None,
        )


def workplace(raw: LakeResource, compact: LakeResource, limits: LimitsResource, clock: Clock = utc_now) -> Workplace:
    """Open both lakes for work."""
    return Workplace(
        raw=raw.store(),
        compact=compact.store(),
        memory_budget=limits.memory_budget,
        request_concurrency=limits.request_concurrency,
        scratch_base=Path(limits.scratch_dir) if limits.scratch_dir else None,
        clock=clock,
    )
