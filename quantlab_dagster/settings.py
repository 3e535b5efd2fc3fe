"""The environment becomes one typed, validated object. Nothing else in the package reads environment variables.

Values come from the environment; an optional file `quantlab.env` in the working directory fills in what is not set.
(Not `.env`: Dagster loads that one itself and lets it override exported variables.)
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import (
    BeforeValidator,
    ByteSize,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from quantlab_dagster.alerts.notify import DEFAULT_TEMPLATE as DEFAULT_ALERT
from quantlab_dagster.alerts.notify import check_template
from quantlab_dagster.errors import PathError, SettingsError, masked
from quantlab_dagster.kernel.terms import SEQ
from quantlab_dagster.lake.market import Pair, parse_day
from quantlab_dagster.lake.template import DEFAULT_TEMPLATE, Layout
from quantlab_dagster.market.quality.rules import Rules
from quantlab_dagster.market.silence import USUAL_DAYS, WINDOW_DAYS
from quantlab_dagster.work.hook import parse_command
from quantlab_dagster.work.prices import Prices
from quantlab_dagster.work.schedule import Schedule

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

__all__ = [
    "DEMO_HOME",
    "DEMO_LAKE",
    "ENV_FILE",
    "AwsSettings",
    "Lake",
    "Settings",
    "env_file",
    "load_aws",
    "load_settings",
    "unknown_variables",
]

logger = logging.getLogger(__name__)

ENV_FILE = "quantlab.env"
"""In the working directory; the variable below, which only the environment can set, names another one."""

_ENV_FILE_VARIABLE = "QUANTLAB_ENV_FILE"

DEMO_LAKE = Path("demo-lake")
DEMO_HOME = DEMO_LAKE / "dagster-home"
"""The demo's runs are in a history of its own, so that no other one is ever mixed with them."""

Lake = Literal["raw", "compact", "warehouse"]

_LAKE_PREFIX: dict[Lake, str] = {"raw": "QUANTLAB_RAW_", "compact": "QUANTLAB_COMPACT_", "warehouse": "WAREHOUSE_"}

_OURS = ("QUANTLAB_", "COMPACTION_", "WAREHOUSE_")

_EVENT_LAKE = ("WAREHOUSE_", "COMPACTION_")

PRUNING = "prune_history"
_OF_MARKET, _OF_WAREHOUSE = ("daily_compaction", "catch_up", "live"), ("warehouse_compaction",)
AUTOMATION: dict[str, tuple[str, ...]] = {
    "none": (),
    "market": _OF_MARKET,
    "warehouse": _OF_WAREHOUSE,
    "all": (*_OF_MARKET, *_OF_WAREHOUSE, PRUNING),
}
"""Words of QUANTLAB_AUTOMATION, and the schedules and sensors that each switches on. Each of these is a word itself."""

_CREDENTIALS = ("access_key_id", "secret_access_key", "session_token", "profile")
_REGIONS = ("region", "default_region")
_ENDPOINTS = ("s3_endpoint_url", "endpoint_url")
_TRUST = ("ca_bundle",)
_ENCRYPTION = ("server_side_encryption", "sse_kms_key_id")

# As Dagster takes them.
_OWNER = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}|team:.+")

_Names = Annotated[tuple[str, ...], NoDecode]
_Minutes = Annotated[tuple[Annotated[int, Field(ge=0, le=1440)], ...], Field(min_length=1), NoDecode]


def _parsed_schedule(value: object) -> object:
    return Schedule.parse(value) if isinstance(value, str) else value


def _parsed_day(value: object) -> object:
    return parse_day(value) if isinstance(value, str) else value


class _FromEnvironment(BaseSettings):
    model_config = SettingsConfigDict(
        env_file=ENV_FILE, env_file_encoding="utf-8", extra="ignore", frozen=True, env_ignore_empty=True
    )


class Settings(_FromEnvironment):
    """Everything that can be set, except credentials (see `AwsSettings`)."""

    raw_url: str = Field(
        default="demo-lake/raw",
        validation_alias="QUANTLAB_RAW_URL",
        description="Where collectors put parts: s3://bucket/prefix, file://… or a path.",
    )
    compact_url: str = Field(
        default="demo-lake/compact",
        validation_alias="QUANTLAB_COMPACT_URL",
        description="Where compacted days are published.",
    )
    exchanges: _Names = Field(
        default=("binance", "bybit", "okx"),
        validation_alias="QUANTLAB_EXCHANGES",
        description="Comma-separated; each (exchange, stream) pair becomes one asset.",
    )
    streams: _Names = Field(
        default=("bbo", "trade", "mark_price", "funding", "open_interest"),
        validation_alias="QUANTLAB_STREAMS",
        description="Comma-separated.",
    )
    start_date: Annotated[dt.date, BeforeValidator(_parsed_day)] = Field(
        default=dt.date(2026, 1, 1),
        ge=dt.date(1970, 1, 1),
        validation_alias="QUANTLAB_START_DATE",
        description="First partition (UTC), of days and of hours.",
    )
    memory_budget: ByteSize = Field(
        default=ByteSize(512 << 20),
        validation_alias="QUANTLAB_MEMORY_BUDGET",
        description="Memory of a merge, downloaded parts included: bytes, or with a unit as in 512MiB.",
    )
    scratch_dir: Path | None = Field(
        default=None,
        validation_alias="QUANTLAB_SCRATCH_DIR",
        description="For files under construction and what exceeds the memory budget; default: the system's.",
    )
    request_concurrency: int = Field(
        default=64,
        ge=1,
        le=1024,
        validation_alias="QUANTLAB_REQUEST_CONCURRENCY",
        description="Requests in flight at once.",
    )
    rename_raw_seq: str = Field(
        default="",
        validation_alias="QUANTLAB_RENAME_RAW_SEQ",
        description="What a raw column `seq` is called in the compact lake; unset: parts that have one are refused.",
    )

    chunk_size: ByteSize | None = Field(
        default=None,
        ge=1,
        validation_alias="QUANTLAB_CHUNK_SIZE",
        description="Bytes of raw parts above which a pair's day is cut into steps of about so many; unset: one step.",
    )
    executor: Literal["in_process", "multiprocess", "celery", "k8s"] = Field(
        default="in_process",
        validation_alias="QUANTLAB_EXECUTOR",
        description="What executes the steps of a run: in_process, multiprocess, celery or k8s.",
    )
    executor_config: Path | None = Field(
        default=None,
        validation_alias="QUANTLAB_EXECUTOR_CONFIG",
        description="YAML file with its configuration, as Dagster takes it: execution: config: ….",
    )

    catch_up_runs: int = Field(
        default=3, ge=1, le=100, validation_alias="QUANTLAB_CATCH_UP_RUNS", description="Most runs requested per tick."
    )
    catch_up_attempts: int = Field(
        default=5,
        ge=1,
        validation_alias="QUANTLAB_CATCH_UP_ATTEMPTS",
        description="How often catch-up tries a day before it asks for an operator.",
    )
    catch_up_waits: _Minutes = Field(
        default=(5, 30, 60),
        validation_alias="QUANTLAB_CATCH_UP_WAITS",
        description="Minutes to wait after a day's first, second, … failed attempt; the last also after more.",
    )
    late_look_back_days: int = Field(
        default=7,
        ge=0,
        le=30,
        validation_alias="QUANTLAB_LATE_LOOK_BACK_DAYS",
        description="How many days back late parts are looked for.",
    )
    quality_rules: str = Field(
        default="",
        validation_alias="QUANTLAB_QUALITY_RULES",
        description="Thresholds of the quality gate that differ from the usual ones: name=value, comma-separated.",
    )
    usual_days: int = Field(
        default=USUAL_DAYS,
        ge=1,
        le=WINDOW_DAYS,
        validation_alias="QUANTLAB_USUAL_DAYS",
        description="With data on so many of seven days a symbol is missed on the next settled day.",
    )

    live_limits: Annotated[dict[str, Annotated[int, Field(ge=1, le=2880)]], NoDecode] = Field(
        default_factory=dict,
        validation_alias="QUANTLAB_LIVE_LIMITS",
        description="Minutes that streams may be silent between midnights, as bbo=5,funding=510.",
    )

    automation: _Names = Field(
        default=(),
        validation_alias="QUANTLAB_AUTOMATION",
        description="What runs by itself: all, market, warehouse, or schedules and sensors by name; comma-separated.",
    )
    keep_runs_days: int = Field(
        default=60,
        ge=7,
        le=36_500,
        validation_alias="QUANTLAB_KEEP_RUNS_DAYS",
        description="How long Dagster's history keeps what no page, check or count of attempts needs.",
    )

    warehouse_url: str = Field(
        default="demo-lake/warehouse/events",
        validation_alias="WAREHOUSE_URL",
        description="The event lake, prefix included: s3://warehouse/events, file://… or a path.",
    )
    warehouse_layout: str = Field(
        default=DEFAULT_TEMPLATE,
        validation_alias="WAREHOUSE_LAYOUT",
        description="How its directories are named: {app} (or none), {Y}, {m}, {d} and {H} (or none) stand for values.",
    )
    warehouse_files: str = Field(
        default="*.parquet",
        validation_alias="WAREHOUSE_FILES",
        description="Which files hold events, as a shell's pattern; never those that begin with _ or a dot.",
    )
    slots_url: str = Field(
        default="",
        validation_alias="WAREHOUSE_SLOTS_URL",
        description="Where the slots are, if not in the event lake: s3://bucket/prefix, file://… or a path.",
    )
    compaction_schedule: Annotated[Schedule, NoDecode, BeforeValidator(_parsed_schedule)] = Field(
        default=Schedule.parse("1h"),
        validation_alias="COMPACTION_SCHEDULE",
        description="How often the event lake is compacted: a duration that divides an hour or a day, or cron (UTC).",
    )
    compaction_target_size: ByteSize = Field(
        default=ByteSize(128 << 20),
        ge=1 << 10,
        validation_alias="COMPACTION_TARGET_SIZE",
        description="Files of so many bytes or more are left alone; merged files have up to twice as many.",
    )
    compaction_min_files: int = Field(
        default=2,
        ge=2,
        validation_alias="COMPACTION_MIN_FILES",
        description="Hours with fewer small files are left alone.",
    )
    compaction_grace_minutes: int = Field(
        default=0,
        ge=0,
        le=1440,
        validation_alias="COMPACTION_GRACE_MINUTES",
        description="Minutes after its end in which an hour is still written to, and left alone.",
    )
    compaction_enabled: bool = Field(
        default=True,
        validation_alias="COMPACTION_ENABLED",
        description="false: the schedule of the event lake skips its ticks; runs by hand go on.",
    )

    compaction_hook_command: SecretStr | None = Field(
        default=None,
        validation_alias="COMPACTION_HOOK_COMMAND",
        description="Run after a run that replaced files of the event lake; no shell takes it apart. Off by default.",
    )
    compaction_hook_sql: str = Field(
        default="",
        validation_alias="COMPACTION_HOOK_SQL",
        description="The last argument of that command, for one such as `trino --execute`.",
    )
    compaction_hook_seconds: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        validation_alias="COMPACTION_HOOK_SECONDS",
        description="When that command is ended.",
    )

    prices: str = Field(
        default="",
        validation_alias="QUANTLAB_PRICES",
        description="Dollars that differ from AWS's list, for `quantlab cost`: writes_per_thousand=0.0054,….",
    )

    metrics_file: Path | None = Field(
        default=None,
        validation_alias="QUANTLAB_METRICS_FILE",
        description="File for node_exporter's textfile collector (….prom), in which runs are counted.",
    )
    compaction_metrics_aliases: bool = Field(
        default=False,
        validation_alias="COMPACTION_METRICS_ALIASES",
        description="Whether the event lake's counters have the first system's names, too.",
    )
    pushgateway_url: SecretStr | None = Field(
        default=None,
        validation_alias="QUANTLAB_PUSHGATEWAY_URL",
        description="Prometheus Pushgateway, to which the same counters are pushed.",
    )
    alert_url: SecretStr | None = Field(
        default=None,
        validation_alias="QUANTLAB_ALERT_URL",
        description="Webhook that is told of failed checks and runs; a secret.",
    )
    alert_template: str = Field(
        default=DEFAULT_ALERT,
        validation_alias="QUANTLAB_ALERT_TEMPLATE",
        description="The JSON that it gets; $text and $summary stand for what is told.",
    )
    alert_command: str = Field(
        default="",
        validation_alias="QUANTLAB_ALERT_COMMAND",
        description="Or a command, which gets what is told as JSON on its standard input.",
    )
    owners: _Names = Field(
        default=(),
        validation_alias="QUANTLAB_OWNERS",
        description="Who owns the assets, for Dagster's pages: addresses, or team:name; comma-separated.",
    )
    dagster_home: Path = Field(
        default=Path(".dagster"),
        validation_alias="DAGSTER_HOME",
        description="Where Dagster keeps its history; while no lake is configured, the demo's is the default.",
    )

    _event_lake_problem: str = PrivateAttr(default="")

    @field_validator("exchanges", "streams", "owners", "catch_up_waits", "automation", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("live_limits", mode="before")
    @classmethod
    def _by_stream(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        items = [item.strip() for item in value.split(",") if item.strip()]
        if any(item.count("=") != 1 for item in items):
            raise ValueError("is not of the form bbo=5,funding=510 (minutes by stream)")
        return {name.strip(): minutes.strip() for name, minutes in (item.split("=") for item in items)}

    @field_validator("exchanges", "streams")
    @classmethod
    def _names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError("names at least one")
        if len(set(names)) != len(names):
            raise ValueError("names one of them twice")
        for name in names:
            if "/" in name:
                raise ValueError(f"{name!r} contains a slash")
        return names

    @field_validator("automation")
    @classmethod
    def _known_automation(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = {*AUTOMATION, *(name for group in AUTOMATION.values() for name in group)}
        for name in names:
            if name not in known:
                raise ValueError(f"{name!r} is none of {', '.join(sorted(known))}")
        return names

    @field_validator("owners")
    @classmethod
    def _people_or_teams(cls, owners: tuple[str, ...]) -> tuple[str, ...]:
        for owner in owners:
            if not _OWNER.fullmatch(owner):
                raise ValueError(
                    f"{owner!r} is neither an address, as in data@example.com, nor a team, as in team:data"
                )
        return owners

    @field_validator("warehouse_layout")
    @classmethod
    def _usable_layout(cls, template: str) -> str:
        try:
            return Layout(template.strip().strip("/")).template
        except PathError as error:
            raise ValueError(str(error)) from error

    @field_validator("warehouse_files")
    @classmethod
    def _usable_pattern(cls, pattern: str) -> str:
        try:
            return Layout(files=pattern).files
        except PathError as error:
            raise ValueError(str(error)) from error

    @field_validator("compaction_hook_command")
    @classmethod
    def _usable_command(cls, command: SecretStr | None) -> SecretStr | None:
        if command is not None:
            parse_command(command.get_secret_value())
        return command

    @field_validator("raw_url", "compact_url", "warehouse_url", "slots_url")
    @classmethod
    def _no_secrets(cls, url: str) -> str:
        if masked(url) != url:  # it is shown by commands, in Dagster's pages, and in messages
            raise ValueError("must hold no credentials; set AWS_ACCESS_KEY_ID and the like")
        try:
            return str(Path(url).expanduser()) if url.startswith("~") else url
        except RuntimeError:  # of nobody: whoever opens the lake is told
            return url

    @field_validator("quality_rules")
    @classmethod
    def _usable_rules(cls, text: str) -> str:
        try:
            return Rules.parse(text).text
        except SettingsError as error:
            raise ValueError(str(error)) from error

    @field_validator("prices")
    @classmethod
    def _usable_prices(cls, text: str) -> str:
        try:
            Prices.parse(text)
        except SettingsError as error:
            raise ValueError(str(error)) from error
        return text

    @field_validator("alert_url")
    @classmethod
    def _webhook(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("https://", "http://")):
            raise ValueError("must begin with https:// or http://")
        return url

    @field_validator("alert_template")
    @classmethod
    def _makes_json(cls, template: str) -> str:
        return check_template(template)

    @field_validator("alert_command")
    @classmethod
    def _can_be_split(cls, command: str) -> str:
        if command:
            parse_command(command)
        return command

    @model_validator(mode="after")
    def _one_way_to_tell(self) -> Self:
        if self.alert_url is not None and self.alert_command:
            raise ValueError("QUANTLAB_ALERT_URL and QUANTLAB_ALERT_COMMAND are both set: a message goes one way")
        return self

    @model_validator(mode="after")
    def _both_market_lakes_or_neither(self) -> Self:
        given = {"raw_url", "compact_url"} & self.model_fields_set
        if len(given) == 1:  # the default of the other is the demo's: made-up days in a real lake, or the reverse
            fields, (one,) = type(self).model_fields, given
            other = "compact_url" if one == "raw_url" else "raw_url"
            names = fields[other].validation_alias, fields[one].validation_alias
            raise ValueError("{}: is not set, and {} is: they are set together".format(*names))
        return self

    @field_validator("memory_budget")
    @classmethod
    def _enough_memory(cls, value: ByteSize) -> ByteSize:
        if value < 16 << 20:
            raise ValueError("must be at least 16MiB")
        return value

    @field_validator("rename_raw_seq")
    @classmethod
    def _another_name(cls, name: str) -> str:
        if name in (SEQ, "ts_event") or "\0" in name:
            raise ValueError(f"{name!r} cannot be the name of a raw column seq")
        return name

    @property
    def pairs(self) -> list[Pair]:
        """Every stream of every exchange."""
        return [Pair(exchange, stream) for exchange in self.exchanges for stream in self.streams]

    def runs_by_itself(self, name: str) -> bool:
        """Whether a schedule or sensor is on from the start. What somebody switched in the UI stays as it was switched.

        The history is pruned wherever anything runs by itself: nobody else makes it grow unseen.
        """
        on = {name for given in self.automation for name in AUTOMATION.get(given, (given,))}
        return name in on or (name == PRUNING and bool(on))

    @property
    def shows_the_demo(self) -> bool:
        """Whether no lake is configured: then it is the demo's lakes that are looked at."""
        return not {"raw_url", "compact_url", "warehouse_url"} & self.model_fields_set

    @property
    def has_market_lake(self) -> bool:
        """Whether there are market-data lakes to look at beside the event lake: some that are set, or the demo's."""
        return "raw_url" in self.model_fields_set or self.shows_the_demo

    @property
    def has_event_lake(self) -> bool:
        """Whether there is an event lake to look at beside the market data: one that is set, or the demo's."""
        return "warehouse_url" in self.model_fields_set or self.shows_the_demo

    @property
    def home(self) -> Path:
        """Where Dagster keeps its history: what is set; else the demo's own while its lakes are looked at."""
        if "dagster_home" not in self.model_fields_set and self.shows_the_demo:
            return DEMO_HOME
        return self.dagster_home

    @property
    def compaction_grace(self) -> dt.timedelta:
        """How long after its end an hour of the event lake is still written to."""
        return dt.timedelta(minutes=self.compaction_grace_minutes)

    def check_event_lake(self) -> None:
        """Refuse work on the event lake while its settings are wrong.

        Raises:
            SettingsError: saying what is wrong with them.
        """
        if self._event_lake_problem:
            raise SettingsError("", self._event_lake_problem)
        if self.compaction_hook_sql and self.compaction_hook_command is None:
            cause = "is set without the command that it is an argument of"
            raise SettingsError("COMPACTION_HOOK_SQL", cause, "Set COMPACTION_HOOK_COMMAND, too")

    def url(self, lake: Lake) -> str:
        """URL of a lake."""
        return {"raw": self.raw_url, "compact": self.compact_url, "warehouse": self.warehouse_url}[lake]


class AwsSettings(_FromEnvironment):
    """The standard AWS variables, as far as this project passes them on.

    What is not set here is left to boto3's own chain: profiles, instance roles, web identities.
    """

    access_key_id: SecretStr | None = Field(default=None, validation_alias="AWS_ACCESS_KEY_ID")
    secret_access_key: SecretStr | None = Field(default=None, validation_alias="AWS_SECRET_ACCESS_KEY")
    session_token: SecretStr | None = Field(default=None, validation_alias="AWS_SESSION_TOKEN")
    region: str | None = Field(default=None, validation_alias="AWS_REGION")
    default_region: str | None = Field(default=None, validation_alias="AWS_DEFAULT_REGION")
    endpoint_url: str | None = Field(default=None, validation_alias="AWS_ENDPOINT_URL")
    s3_endpoint_url: str | None = Field(default=None, validation_alias="AWS_ENDPOINT_URL_S3")
    profile: str | None = Field(default=None, validation_alias="AWS_PROFILE")
    ca_bundle: str | None = Field(default=None, validation_alias="AWS_CA_BUNDLE")
    server_side_encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = Field(
        default=None, validation_alias="AWS_SERVER_SIDE_ENCRYPTION"
    )
    sse_kms_key_id: str | None = Field(default=None, validation_alias="AWS_SSE_KMS_KEY_ID")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        key, secret, token = (type(self).model_fields[name].validation_alias for name in _CREDENTIALS[:3])
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError(f"{key} and {secret} must be set together")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError(f"{token} is set without {key}")
        kms, encryption = (type(self).model_fields[name].validation_alias for name in reversed(_ENCRYPTION))
        if self.sse_kms_key_id is not None and (self.server_side_encryption or "AES256") == "AES256":
            raise ValueError(f"{kms} is set, and {encryption} is not aws:kms")
        return self


def env_file() -> str:
    """The file that fills in what the environment does not set; it need not exist, unless somebody named it.

    Raises:
        SettingsError: it was named and does not exist, or it cannot be read; or a line of it is none.
    """
    named = os.environ.get(_ENV_FILE_VARIABLE)
    path = Path(named or ENV_FILE)
    if named == os.devnull:
        return named
    if named and not path.exists():
        raise SettingsError(named, "does not exist", f"Check --env-file, or {_ENV_FILE_VARIABLE}")
    if path.exists() and not (path.is_file() and os.access(path, os.R_OK)):
        raise SettingsError(str(path), "is no file that can be read", "Check its permissions, and whose it is")
    if path.exists():
        _check_lines(path)
    return str(path)


def _check_lines(path: Path) -> None:
    """Refuse a file with a line that cannot be understood: what it was to set would have its default."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for found in parse_stream(file):
            if found.error:
                text = found.original.string
                number = found.original.line + text[: len(text) - len(text.lstrip())].count("\n")
                remedy = "Write it as NAME=value, or # before it; see quantlab.env.example"
                raise SettingsError(f"{path}, line {number}", "is not of the form NAME=value", remedy)


def load_settings() -> Settings:
    """Read the settings. Variables that look like settings and are none are warned about, once.

    Raises:
        SettingsError: naming the variable and what is wrong with it.
    """
    try:
        settings = _settings()
        unknown = unknown_variables()
    except (ValidationError, UnicodeDecodeError) as error:
        raise _readable(error) from None
    for name in unknown:
        _warn_of(name)
    return settings


def _settings() -> Settings:
    """The settings. What is wrong with the event lake's alone stops only what is done with that lake."""
    try:
        return Settings(_env_file=env_file())
    except ValidationError as error:
        wrong = {str(item["loc"][0]) if item["loc"] else "" for item in error.errors()}
        if not all(name.startswith(_EVENT_LAKE) for name in wrong):
            raise
        problem = str(_readable(error))
        defaults = {str(info.validation_alias): info.default for info in Settings.model_fields.values()}
        usable = Settings(_env_file=env_file(), **{name: defaults[name] for name in wrong})
        _warn_of_event_lake(problem)
        usable._event_lake_problem = problem  # noqa: SLF001  # nothing else makes settings
        return usable


@cache
def _warn_of_event_lake(problem: str) -> None:
    logger.warning("the event lake is left alone until this is mended: %s", problem)


def unknown_variables() -> list[str]:
    """Variables, of the environment and of the file, that begin like settings of this project and are none."""
    known = {str(info.validation_alias) for info in Settings.model_fields.values()}
    known |= {f"{prefix}{info.validation_alias}" for prefix in _LAKE_PREFIX.values() for info in _aws_fields()}
    given = {*os.environ.keys() - {_ENV_FILE_VARIABLE}, *dotenv_values(env_file(), encoding="utf-8")}
    return sorted(name for name in given if name.startswith(_OURS) and name not in known)


def _aws_fields() -> list[FieldInfo]:
    return list(AwsSettings.model_fields.values())


@cache
def _warn_of(name: str) -> None:
    known = [str(info.validation_alias) for info in Settings.model_fields.values()]
    nearest = get_close_matches(name, known, 1)
    hint = f"did you mean {nearest[0]}?" if nearest else "see quantlab.env.example"
    logger.warning("%s is set, but is no setting of this project: %s", name, hint)


def load_aws(lake: Lake) -> AwsSettings:
    """The AWS settings of one lake: `QUANTLAB_RAW_AWS_…` and so on where set, else `AWS_…`.

    Credentials are taken together from the first place that has any, so that those of two accounts never mix: the
    lake's own, before the common ones; of either the environment's, before those in the file. So are the two variables
    for the region, the two for the endpoint, and the two for encryption.

    Raises:
        SettingsError: half a pair of credentials.
    """
    try:
        sources = [
            source
            for settings in (_prefixed_aws(lake), AwsSettings)
            for source in (settings(_env_file=None), settings(_env_file=env_file()))  # the second with the file
        ]
    except (ValidationError, UnicodeDecodeError) as error:
        raise _readable(error) from None
    values: dict[str, Any] = {}
    for group in (_CREDENTIALS, _REGIONS, _ENDPOINTS, _TRUST, _ENCRYPTION):
        found = ({name: getattr(source, name) for name in group} for source in sources)
        values |= next((one for one in found if any(one.values())), dict.fromkeys(group))
    return AwsSettings.model_construct(**values)


def _prefixed_aws(lake: Lake) -> type[AwsSettings]:
    prefix = _LAKE_PREFIX[lake]

    def renamed(info: FieldInfo) -> Any:
        return Field(default=None, validation_alias=f"{prefix}{info.validation_alias}")

    namespace = {name: renamed(info) for name, info in AwsSettings.model_fields.items()}
    annotations = {name: info.annotation for name, info in AwsSettings.model_fields.items()}
    return type(f"{lake.title()}AwsSettings", (AwsSettings,), {"__annotations__": annotations, **namespace})


def _readable(error: ValidationError | UnicodeDecodeError) -> SettingsError:
    if isinstance(error, UnicodeDecodeError):
        return SettingsError(env_file(), "is not UTF-8 text", "Write it anew; see quantlab.env.example")
    findings = []
    for item in error.errors(include_url=False, include_input=False):
        finding = item["msg"].removeprefix("Value error, ")
        findings.append(f"{item['loc'][0]}: {finding}" if item["loc"] else finding)
    remedy = f"Set it in the environment or in {env_file()}; see quantlab.env.example"
    return SettingsError("", "; ".join(findings), remedy)
