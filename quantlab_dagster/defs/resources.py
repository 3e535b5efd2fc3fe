"""The lakes as Dagster resources: a URL, and for S3 everything that dagster-aws's `S3Resource` configures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster_aws.s3 import S3Resource
from pydantic import Field

from quantlab_dagster.access import Access, limits_of, open_lake, order_of, server_of, warehouse_place_of
from quantlab_dagster.defs.launched import refuse_other_lake
from quantlab_dagster.errors import SettingsError
from quantlab_dagster.market.place import LOOK_BACK_DAYS, MarketPlace
from quantlab_dagster.market.quality.rules import Rules
from quantlab_dagster.work.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.settings import Lake, Settings
    from quantlab_dagster.warehouse.place import WarehousePlace
    from quantlab_dagster.work.clock import Clock

__all__ = ["LakeResource", "LimitsResource", "market_place", "warehouse_place"]


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
    server: str = Field(
        default="",
        description="The endpoint that the environment gave when this was loaded, to notice another one.",
    )

    @staticmethod
    def of(settings: Settings, lake: Lake) -> LakeResource:
        """The lake that the settings name."""
        return _NAMED[lake](lake=lake, url=settings.url(lake), server=server_of(settings.url(lake), lake))

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Refuse a run that was launched for another lake than this process would work on.

        Raises:
            SettingsError: saying which, and what to do.
        """
        super().setup_for_execution(context)
        if context.run is not None and context.instance is not None:
            refuse_other_lake(context.instance, context.run, self.lake, self.url, self.server)

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
        return open_lake(_lake(self.lake), self.url, self.access())

    def access(self) -> Access:
        """What is configured here of how S3 is reached."""
        return Access(
            access_key_id=self.aws_access_key_id,
            secret_access_key=self.aws_secret_access_key,
            session_token=self.aws_session_token,
            profile=self.profile_name,
            region=self.region_name,
            endpoint_url=self.endpoint_url,
            unsigned=self.use_unsigned_session,
            verify_tls=self.verify is not False,
            retries=max(0, self.max_attempts - 1),
        )


def _lake(name: str) -> Lake:
    lakes: dict[str, Lake] = {"raw": "raw", "compact": "compact", "warehouse": "warehouse"}
    if name not in lakes:
        raise SettingsError(name, "is no lake of this project", "Use raw, compact or warehouse")
    return lakes[name]


class RawLake(LakeResource):
    """Raw market data: the parts that collectors flush. Nothing here writes to it.

    What is not configured here (keys, region, endpoint) is taken from the environment.
    """


class CompactLake(LakeResource):
    """Compact market data: a file per symbol and day, what it says of itself, and the state of all days.

    What is not configured here (keys, region, endpoint) is taken from the environment.
    """


class EventLake(LakeResource):
    """Events by app and hour, compacted in place.

    What is not configured here (keys, region, endpoint) is taken from the environment.
    """


_NAMED: dict[Lake, type[LakeResource]] = {"raw": RawLake, "compact": CompactLake, "warehouse": EventLake}
"""A class of its own each: Dagster's pages describe a resource by its class."""


class LimitsResource(dg.ConfigurableResource[None]):
    """What a run may use of this machine, and what it may do with the data."""

    memory_budget: int = Field(default=512 << 20, description="Bytes for downloaded parts and the merge together.")
    request_concurrency: int = Field(default=64, description="Requests in flight at once.")
    scratch_dir: str | None = Field(default=None, description="Where temporary files go; default: the system's place.")
    rename_raw_seq: str = Field(default="", description="What a raw column seq is called; none: it is refused.")
    quality_rules: str = Field(
        default="", description="Thresholds of the quality gate that differ from the usual ones."
    )
    look_back_days: int = Field(default=LOOK_BACK_DAYS, description="How many days back a day is looked at again.")

    @classmethod
    def of(cls, settings: Settings) -> LimitsResource:
        """The limits that the settings give."""
        limits = limits_of(settings)
        return cls(
            memory_budget=limits.memory_budget,
            request_concurrency=limits.request_concurrency,
            scratch_dir=str(limits.scratch_base) if limits.scratch_base else None,
            rename_raw_seq=settings.rename_raw_seq,
            quality_rules=settings.quality_rules,
            look_back_days=settings.late_look_back_days,
        )

    def limits(self) -> Limits:
        """As the work takes them."""
        scratch = Path(self.scratch_dir) if self.scratch_dir else None
        return Limits(self.memory_budget, self.request_concurrency, scratch)


def market_place(raw: LakeResource, compact: LakeResource, limits: LimitsResource, clock: Clock) -> MarketPlace:
    """Open the market-data lakes for work.

    Raises:
        SettingsError: a URL or its credentials are not usable.
    """
    return MarketPlace(
        raw.store(),
        compact.store(),
        limits.limits(),
        clock,
        order_of(limits.rename_raw_seq),
        Rules.parse(limits.quality_rules),
        limits.look_back_days,
    )


def warehouse_place(
    settings: Settings, warehouse: LakeResource, limits: LimitsResource, clock: Clock
) -> WarehousePlace:
    """Open the event lake for work.

    Raises:
        SettingsError: its URL or its credentials are not usable.
    """
    settings.check_event_lake()
    return warehouse_place_of(settings, warehouse.store(), limits.limits(), clock, warehouse.access())
