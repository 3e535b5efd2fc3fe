"""How the lakes are reached and opened: by the settings, and for S3 by credentials, region and endpoint.

What the caller gives of these comes first, then the lake's own environment variables, then the common ones, then
boto3's chain. The Dagster resources and the command line open the lakes through here, and nothing else does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from quantlab_dagster.errors import SettingsError, masked
from quantlab_dagster.kernel.terms import Order
from quantlab_dagster.lake.store.objects import S3Options
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.lake.store.session import open_session
from quantlab_dagster.lake.template import Layout
from quantlab_dagster.market.catchup import CatchUpRules
from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.market.place import MarketPlace
from quantlab_dagster.market.quality.rules import Rules as QualityRules
from quantlab_dagster.settings import AwsSettings, Lake, Settings, load_aws
from quantlab_dagster.warehouse.pack import Rules
from quantlab_dagster.warehouse.place import WarehousePlace
from quantlab_dagster.work.clock import Clock, utc_now
from quantlab_dagster.work.limits import Limits

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Collection, Sequence

    import boto3.session

    from quantlab_dagster.alerts.notify import Notifier
    from quantlab_dagster.lake.market import Pair
    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.market.catchup import Tries

__all__ = [
    "Access",
    "catch_up_rules",
    "limits_of",
    "notifier_of",
    "open_lake",
    "open_market",
    "open_warehouse",
    "order_of",
    "rules_of",
    "s3_options",
    "server_of",
    "warehouse_place_of",
]

_URL_SETTINGS: dict[Lake, str] = {
    "raw": "QUANTLAB_RAW_URL",
    "compact": "QUANTLAB_COMPACT_URL",
    "warehouse": "WAREHOUSE_URL",
}
_DEFAULT_REGION = "us-east-1"
_CREDENTIALS_REMEDY = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or their per-lake forms), or a profile"


@dataclass(frozen=True, slots=True)
class Access:
    """What the caller says of how S3 is reached; nothing of it is needed.

    Attributes:
        access_key_id: together with the secret, or neither.
        secret_access_key: of that key.
        session_token: of temporary credentials.
        profile: of AWS's configuration files.
        region: of the bucket.
        endpoint_url: of the server; None for AWS itself.
        unsigned: whether requests are not signed at all.
        verify_tls: whether certificates are checked.
        retries: attempts after the first one fails.
    """

    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    region: str | None = None
    endpoint_url: str | None = None
    unsigned: bool = False
    verify_tls: bool = True
    retries: int = 4


def open_market(settings: Settings, clock: Clock = utc_now, *, only_looks: bool = False) -> MarketPlace:
    """The market-data lakes of the settings, for work outside a run.

    Args:
        settings: of the project.
        clock: the present time.
        only_looks: whether nothing is written: then no directory is made either.

    Raises:
        SettingsError: a URL or its credentials are not usable.
    """
    raw = open_lake("raw", settings.raw_url)
    compact = open_lake("compact", settings.compact_url, only_looks=only_looks)
    return MarketPlace(
        raw,
        compact,
        limits_of(settings),
        clock,
        order_of(settings.rename_raw_seq),
        QualityRules.parse(settings.quality_rules),
        settings.late_look_back_days,
    )


def open_warehouse(settings: Settings, clock: Clock = utc_now) -> WarehousePlace:
    """The event lake of the settings, for work outside a run.

    Raises:
        SettingsError: its URL or its credentials are not usable.
    """
    settings.check_event_lake()
    return warehouse_place_of(settings, open_lake("warehouse", settings.warehouse_url), limits_of(settings), clock)


def warehouse_place_of(
    settings: Settings, lake: Store, limits: Limits, clock: Clock, access: Access | None = None
) -> WarehousePlace:
    """What the work on the event lake needs, with what the settings say of its paths and its slots.

    Args:
        settings: of the project.
        lake: the event lake.
        limits: what a run may use of the machine.
        clock: the present time.
        access: how the slots are reached, where they are not in the lake: as the lake is.

    Raises:
        SettingsError: the place of the slots cannot be used.
    """
    layout, url = Layout(settings.warehouse_layout, settings.warehouse_files), settings.slots_url
    slots = None
    if url:
        s3 = s3_options(url, access or Access(), load_aws("warehouse")) if url.startswith("s3://") else None
        slots = open_store(url, s3, create=True, setting="WAREHOUSE_SLOTS_URL")
    return WarehousePlace(lake, rules_of(settings), limits, clock, layout, slots, settings.compaction_grace)


def server_of(url: str, lake: Lake) -> str:
    """The endpoint by which the environment says a lake is reached, without secrets; "" for AWS and for paths."""
    if not url.startswith("s3://"):
        return ""
    try:
        aws = load_aws(lake)
    except SettingsError:
        return ""  # whoever opens the lake is told; until then the other lakes go on
    return masked(aws.s3_endpoint_url or aws.endpoint_url or "")


def limits_of(settings: Settings) -> Limits:
    """What the settings let a run use of this machine."""
    return Limits(int(settings.memory_budget), settings.request_concurrency, settings.scratch_dir)


def order_of(rename_raw_seq: str) -> Order:
    """The order of published days, and what becomes of a raw column `seq`: "" refuses it."""
    return Order(column="ts_event", numbered=True, raw_seq=rename_raw_seq)


def catch_up_rules(
    settings: Settings,
    pairs: Sequence[Pair],
    now: dt.datetime,
    *,
    busy: Collection[dt.date],
    tries: Callable[[str], Tries],
) -> CatchUpRules:
    """What besides the state decides on catch-up.

    Args:
        settings: of the project.
        pairs: configured pairs.
        now: the present time.
        busy: days with a run that is queued or running.
        tries: what became of earlier attempts at a task; asked once for each.
    """
    return CatchUpRules(
        pairs,
        last_eligible_day(now),
        now,
        busy,
        cache(tries),
        most_runs=settings.catch_up_runs,
        most_attempts=settings.catch_up_attempts,
        waits=settings.catch_up_waits,
        first=settings.start_date,
    )


def rules_of(settings: Settings) -> Rules:
    """When the settings let files of the event lake be merged."""
    return Rules(int(settings.compaction_target_size), settings.compaction_min_files)


def open_lake(lake: Lake, url: str, access: Access | None = None, *, only_looks: bool = False) -> Store:
    """Open a lake. Only the compact lake, which is ours, is made where it is a missing local directory to write to.

    Raises:
        SettingsError: the URL, the credentials or the directory are not usable.
    """
    is_s3, is_ours = url.startswith("s3://"), lake == "compact"
    return open_store(
        url,
        s3_options(url, access or Access(), load_aws(lake)) if is_s3 else None,
        create=is_ours and not only_looks,
        setting=_URL_SETTINGS[lake],
        if_missing="compact a day, which makes it" if is_ours else "run `quantlab demo`, `make demo`, for lakes",
    )


def s3_options(url: str, access: Access, environment: AwsSettings) -> S3Options:
    """How S3 is reached, from what the caller gives and what the environment has.

    Raises:
        SettingsError: there are no usable credentials.
    """
    session = None if access.unsigned else _session(url, access, environment)
    region = access.region or environment.region or environment.default_region
    return S3Options(
        session=session,
        region=region or (session.region_name if session else None) or _DEFAULT_REGION,
        endpoint_url=access.endpoint_url or environment.s3_endpoint_url or environment.endpoint_url,
        verify_tls=access.verify_tls,
        ca_bundle=environment.ca_bundle or "",
        encryption=environment.server_side_encryption or "",
        kms_key=environment.sse_kms_key_id or "",
        retries=access.retries,
        region_setting="AWS_REGION",
        endpoint_setting="AWS_ENDPOINT_URL",
        ca_setting="AWS_CA_BUNDLE",
    )


def _session(url: str, access: Access, environment: AwsSettings) -> boto3.session.Session:
    keys = (access.access_key_id, access.secret_access_key, access.session_token)
    if bool(keys[0]) != bool(keys[1]) or (keys[2] and not keys[0]):
        cause = "this resource has only a part of its credentials"
        raise SettingsError(url, cause, "Set aws_access_key_id and aws_secret_access_key together, or neither")
    if not keys[0] and not access.profile:
        secrets = (environment.access_key_id, environment.secret_access_key, environment.session_token)
        keys = tuple(secret.get_secret_value() if secret else None for secret in secrets)  # type: ignore[assignment]
    return open_session(
        url,
        keys,
        profile=access.profile or environment.profile,
        region=access.region or environment.region or environment.default_region,
        remedy=_CREDENTIALS_REMEDY,
    )


def notifier_of(settings: Settings) -> Notifier | None:
    """What tells people of what is wrong; None where nobody is to be told."""
    # Imported here: most commands tell nobody.
    from quantlab_dagster.alerts.notify import Command, Webhook  # noqa: PLC0415

    if settings.alert_url is not None:
        return Webhook(settings.alert_url.get_secret_value(), settings.alert_template)
    return Command(settings.alert_command) if settings.alert_command else None
