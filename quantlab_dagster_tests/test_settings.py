"""Settings come from the environment, or else from a file; mistakes are named; secrets do not show."""

from __future__ import annotations

import datetime as dt
import json
import pickle
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
from pydantic import SecretStr

from quantlab_dagster.access import open_market, open_warehouse
from quantlab_dagster.errors import SettingsError
from quantlab_dagster.settings import ENV_FILE, AwsSettings, Lake, Settings, load_aws, load_settings
from quantlab_dagster.work.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Mapping

# variable, field, text, value
SETTINGS: list[tuple[str, str, str, Any]] = [
    ("QUANTLAB_RAW_URL", "raw_url", "s3://quantlab-raw/some prefix", "s3://quantlab-raw/some prefix"),
    ("QUANTLAB_COMPACT_URL", "compact_url", "file:///lake", "file:///lake"),
    ("QUANTLAB_EXCHANGES", "exchanges", "binance, new_one ,x=y,", ("binance", "new_one", "x=y")),
    ("QUANTLAB_STREAMS", "streams", "bbo", ("bbo",)),
    ("QUANTLAB_START_DATE", "start_date", "2025-02-03", dt.date(2025, 2, 3)),
    ("QUANTLAB_START_DATE", "start_date", "20250203", dt.date(2025, 2, 3)),
    ("QUANTLAB_MEMORY_BUDGET", "memory_budget", "1.5GiB", 3 << 29),
    ("QUANTLAB_SCRATCH_DIR", "scratch_dir", "/fast disk/scratch", Path("/fast disk/scratch")),
    ("QUANTLAB_REQUEST_CONCURRENCY", "request_concurrency", "7", 7),
    ("QUANTLAB_RENAME_RAW_SEQ", "rename_raw_seq", "exchange_seq", "exchange_seq"),
    ("QUANTLAB_QUALITY_RULES", "quality_rules", "bad_from_queue_pct = 95", "bad_from_queue_pct=95"),
    ("QUANTLAB_CHUNK_SIZE", "chunk_size", "2GiB", 2 << 30),
    ("QUANTLAB_EXECUTOR", "executor", "celery", "celery"),
    ("QUANTLAB_EXECUTOR_CONFIG", "executor_config", "/etc/celery.yaml", Path("/etc/celery.yaml")),
    ("QUANTLAB_CATCH_UP_RUNS", "catch_up_runs", "9", 9),
    ("QUANTLAB_CATCH_UP_ATTEMPTS", "catch_up_attempts", "2", 2),
    ("QUANTLAB_LATE_LOOK_BACK_DAYS", "late_look_back_days", "0", 0),
    ("QUANTLAB_CATCH_UP_WAITS", "catch_up_waits", "1, 2", (1, 2)),
    ("QUANTLAB_AUTOMATION", "automation", "market, prune_history", ("market", "prune_history")),
    ("QUANTLAB_KEEP_RUNS_DAYS", "keep_runs_days", "7", 7),
    ("QUANTLAB_USUAL_DAYS", "usual_days", "5", 5),
    ("QUANTLAB_LIVE_LIMITS", "live_limits", "bbo=7, funding=600,", {"bbo": 7, "funding": 600}),
    ("WAREHOUSE_URL", "warehouse_url", "s3://warehouse/events", "s3://warehouse/events"),
    ("WAREHOUSE_LAYOUT", "warehouse_layout", "{app}/dt={Y}{m}{d}/", "{app}/dt={Y}{m}{d}"),
    ("WAREHOUSE_FILES", "warehouse_files", "part-*", "part-*"),
    ("WAREHOUSE_SLOTS_URL", "slots_url", "s3://slots/events", "s3://slots/events"),
    ("COMPACTION_SCHEDULE", "compaction_schedule", "15m", Schedule.parse("15m")),
    ("COMPACTION_TARGET_SIZE", "compaction_target_size", "64MiB", 64 << 20),
    ("COMPACTION_MIN_FILES", "compaction_min_files", "5", 5),
    ("COMPACTION_GRACE_MINUTES", "compaction_grace_minutes", "10", 10),
    ("COMPACTION_ENABLED", "compaction_enabled", "false", False),
    ("COMPACTION_HOOK_COMMAND", "compaction_hook_command", "notify --now 'a b'", SecretStr("notify --now 'a b'")),
    ("COMPACTION_HOOK_SQL", "compaction_hook_sql", "CALL x('y')", "CALL x('y')"),
    ("COMPACTION_HOOK_SECONDS", "compaction_hook_seconds", "2.5", 2.5),
    ("QUANTLAB_METRICS_FILE", "metrics_file", "/var/metrics/quantlab.prom", Path("/var/metrics/quantlab.prom")),
    ("COMPACTION_METRICS_ALIASES", "compaction_metrics_aliases", "true", True),
    ("QUANTLAB_PUSHGATEWAY_URL", "pushgateway_url", "http://u:p@gateway:9091", SecretStr("http://u:p@gateway:9091")),
    ("QUANTLAB_ALERT_URL", "alert_url", "https://hooks.example/x", SecretStr("https://hooks.example/x")),
    ("QUANTLAB_ALERT_TEMPLATE", "alert_template", '{"message": "$summary"}', '{"message": "$summary"}'),
    ("QUANTLAB_ALERT_COMMAND", "alert_command", "tell 'all of us'", "tell 'all of us'"),
    ("QUANTLAB_OWNERS", "owners", "data@example.com, team:a b", ("data@example.com", "team:a b")),
    ("QUANTLAB_PRICES", "prices", "reads_per_thousand=0.00043", "reads_per_thousand=0.00043"),
    ("DAGSTER_HOME", "dagster_home", "/home/dagster", Path("/home/dagster")),
]
AWS: list[tuple[str, str]] = [
    ("AWS_REGION", "region"),
    ("AWS_DEFAULT_REGION", "default_region"),
    ("AWS_ENDPOINT_URL", "endpoint_url"),
    ("AWS_ENDPOINT_URL_S3", "s3_endpoint_url"),
    ("AWS_PROFILE", "profile"),
    ("AWS_CA_BUNDLE", "ca_bundle"),
]
ENCRYPTION = {"server_side_encryption", "sse_kms_key_id"}
"""Tested in lake/store/test_tls_and_encryption.py."""
LAKES: list[tuple[Lake, str]] = [
    ("raw", "QUANTLAB_RAW_"),
    ("compact", "QUANTLAB_COMPACT_"),
    ("warehouse", "WAREHOUSE_"),
]
TOGETHER = {"QUANTLAB_RAW_URL": "QUANTLAB_COMPACT_URL", "QUANTLAB_COMPACT_URL": "QUANTLAB_RAW_URL"}
# As AWS makes them: slashes, pluses; and what a careless reader of files would take for more than a letter.
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfi$CY#EXAMPLE=KEY"  # noqa: S105


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def set_all(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def write_file(variables: Mapping[str, str]) -> None:
    Path(ENV_FILE).write_text("".join(f"{name}={value}\n" for name, value in variables.items()), encoding="utf-8")


def keys(who: str, prefix: str = "") -> dict[str, str]:
    return {f"{prefix}AWS_ACCESS_KEY_ID": f"{who}-key", f"{prefix}AWS_SECRET_ACCESS_KEY": f"{who}-secret"}


def credentials(lake: Lake = "raw") -> tuple[str | None, ...]:
    """Key, secret, token and profile, in the clear."""
    aws = load_aws(lake)
    secrets = (aws.access_key_id, aws.secret_access_key, aws.session_token)
    return (*(secret.get_secret_value() if secret else None for secret in secrets), aws.profile)


# ---- all but AWS -----------------------------------------------------------------------------------------------------


def test_every_setting_is_tested_here() -> None:
    assert {field for _, field, _, _ in SETTINGS} == set(Settings.model_fields), "a row of SETTINGS is missing"
    aws = {field for _, field in AWS} | {"access_key_id", "secret_access_key", "session_token"} | ENCRYPTION
    assert aws == set(AwsSettings.model_fields)
    assert {lake for lake, _ in LAKES} == set(get_args(Lake))


def test_defaults() -> None:
    settings = load_settings()
    assert settings.raw_url == "demo-lake/raw"
    assert settings.exchanges == ("binance", "bybit", "okx")
    assert settings.memory_budget == 512 << 20
    assert settings.scratch_dir is None
    assert (settings.url("raw"), settings.url("compact")) == (settings.raw_url, settings.compact_url)
    assert settings.url("warehouse") == settings.warehouse_url == "demo-lake/warehouse/events"
    assert (settings.compaction_schedule.text, settings.compaction_target_size) == ("1h", 134_217_728)
    assert (settings.compaction_min_files, settings.compaction_enabled) == (2, True)
    assert (settings.metrics_file, settings.pushgateway_url) == (None, None)


@pytest.fixture
def _with_the_other_lake(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other URL of the market-data lakes, where the test is of one."""
    if variable in TOGETHER:
        monkeypatch.setenv(TOGETHER[variable], "other")


@pytest.mark.usefixtures("_with_the_other_lake")
@pytest.mark.parametrize(("variable", "field", "text", "value"), SETTINGS)
def test_settings_come_from_the_environment(
    variable: str, field: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    assert load_settings() == load_settings().model_copy(update={field: value})
    assert getattr(load_settings(), field) == value


@pytest.mark.usefixtures("_with_the_other_lake")
@pytest.mark.parametrize(("variable", "field", "text", "value"), SETTINGS)
def test_settings_come_from_a_file_where_the_environment_has_none(
    variable: str, field: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = Settings.model_fields[field].get_default(call_default_factory=True)
    write_file({variable: text})
    assert getattr(load_settings(), field) == value
    monkeypatch.setenv(variable, "")  # as good as not set
    assert getattr(load_settings(), field) == value
    write_file({variable: "nonsense"})
    monkeypatch.setenv(variable, text)
    assert getattr(load_settings(), field) == value
    write_file({variable: ""})
    monkeypatch.delenv(variable)
    if variable in TOGETHER:
        monkeypatch.delenv(TOGETHER[variable])
    assert getattr(load_settings(), field) == default


def test_the_file_is_that_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file({"QUANTLAB_RAW_URL": "here", "QUANTLAB_COMPACT_URL": "there", "UNKNOWN": "x"})
    assert load_settings().raw_url == "here"
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert load_settings().raw_url == "demo-lake/raw"


def test_dagsters_own_file_is_left_to_dagster() -> None:
    Path(".env").write_text("QUANTLAB_RAW_URL=elsewhere\n")
    assert load_settings().raw_url == "demo-lake/raw"


def test_the_shipped_example_is_a_valid_file() -> None:
    example = Path(__file__).parents[1] / f"{ENV_FILE}.example"
    Path(ENV_FILE).write_text(example.read_text())
    load_settings()
    for lake, _ in LAKES:
        load_aws(lake)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("16777216", 16 << 20),
        ("16MiB", 16 << 20),
        ("64 MiB", 64 << 20),
        ("2GiB", 2 << 30),
        ("100MB", 10**8),
        ("1g", 10**9),
    ],
)
def test_sizes(text: str, size_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTLAB_MEMORY_BUDGET", text)
    assert load_settings().memory_budget == size_bytes


@pytest.mark.parametrize(
    ("variable", "text", "complaint"),
    [
        ("QUANTLAB_EXCHANGES", " , ,", "names at least one"),
        ("QUANTLAB_STREAMS", "bbo,trade,bbo", "twice"),
        ("QUANTLAB_STREAMS", "bbo,a/b", "'a/b' contains a slash"),
        ("QUANTLAB_START_DATE", "2026-02-30", "is not a day as YYYY-MM-DD or YYYYMMDD"),
        ("QUANTLAB_START_DATE", "tomorrow", "is not a day"),
        ("QUANTLAB_START_DATE", "1735689600", "is not a day"),
        ("QUANTLAB_START_DATE", "0001-01-01", "greater than or equal to 1970-01-01"),
        ("QUANTLAB_MEMORY_BUDGET", "lots", "byte"),
        ("QUANTLAB_MEMORY_BUDGET", "12 parsecs", "parsecs"),
        ("QUANTLAB_MEMORY_BUDGET", "1MiB", "at least 16MiB"),
        ("QUANTLAB_MEMORY_BUDGET", "-1GiB", ""),
        ("QUANTLAB_REQUEST_CONCURRENCY", "0", "greater than or equal to 1"),
        ("QUANTLAB_REQUEST_CONCURRENCY", "1025", "less than or equal to 1024"),
        ("QUANTLAB_REQUEST_CONCURRENCY", "many", "integer"),
        ("QUANTLAB_RENAME_RAW_SEQ", "seq", "'seq' cannot be the name"),
        ("QUANTLAB_RENAME_RAW_SEQ", "ts_event", "'ts_event' cannot be the name"),
        ("QUANTLAB_KEEP_RUNS_DAYS", "9999999", "less than or equal to 36500"),
        ("QUANTLAB_CATCH_UP_RUNS", "0", "greater than or equal to 1"),
        ("QUANTLAB_CATCH_UP_ATTEMPTS", "0", "greater than or equal to 1"),
        ("QUANTLAB_LATE_LOOK_BACK_DAYS", "-1", "greater than or equal to 0"),
        ("QUANTLAB_LATE_LOOK_BACK_DAYS", "31", "less than or equal to 30"),
    ],
)
@pytest.mark.parametrize("place", ["environment", "file"])
def test_mistakes_are_named(
    variable: str, text: str, complaint: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "environment":
        monkeypatch.setenv(variable, text)
    else:
        write_file({variable: text})
    with pytest.raises(SettingsError, match=f"{variable}: .*{complaint}") as caught:
        load_settings()
    assert_readable(caught.value)


@pytest.mark.parametrize("missing", TOGETHER)
@pytest.mark.parametrize("place", ["environment", "file"])
def test_one_market_lake_alone_is_refused(missing: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other would be the demo's: made-up days would be published in a real lake."""
    given = {TOGETHER[missing]: "s3://real", missing: "", "WAREHOUSE_URL": "s3://events"}
    set_all(monkeypatch, given) if place == "environment" else write_file(given)
    with pytest.raises(SettingsError, match=f"^{missing}: is not set, and {TOGETHER[missing]} is") as caught:
        load_settings()
    assert_readable(caught.value)
    monkeypatch.setenv("COMPACTION_MIN_FILES", "many")  # of the event lake, which alone stops nothing
    with pytest.raises(SettingsError, match=f"^{missing}: is not set"):
        load_settings()


def test_a_lake_in_the_home_of_a_user_is_shown_as_it_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = {"QUANTLAB_RAW_URL": "~/raw", "QUANTLAB_COMPACT_URL": "~/compact", "WAREHOUSE_URL": "~nobody-of-this-name/x"}
    set_all(monkeypatch, {"HOME": "/home/somebody", **urls})
    settings = load_settings()
    assert (settings.raw_url, settings.compact_url) == ("/home/somebody/raw", "/home/somebody/compact")
    assert settings.warehouse_url == "~nobody-of-this-name/x"


def test_all_mistakes_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {"QUANTLAB_STREAMS": ",", "QUANTLAB_MEMORY_BUDGET": "x"})
    with pytest.raises(SettingsError, match=r"QUANTLAB_STREAMS: .*; QUANTLAB_MEMORY_BUDGET: "):
        load_settings()


@pytest.mark.parametrize("load", [load_settings, lambda: load_aws("raw")])
def test_a_file_of_another_encoding_is_named(load: Any) -> None:
    Path(ENV_FILE).write_bytes("QUANTLAB_RAW_URL=münze\n".encode("latin-1"))
    with pytest.raises(SettingsError, match=f"^{ENV_FILE}: is not UTF-8"):
        load()


@pytest.mark.parametrize("load", [load_settings, lambda: load_aws("raw")])
@pytest.mark.parametrize("line", ["QUANTLAB_COMPACT_URL: /secret", "QUANTLAB_COMPACT_URL /secret", "=/secret"])
def test_a_line_that_sets_nothing_is_named(line: str, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was to set would have its default, and the work would go on elsewhere."""
    Path(ENV_FILE).write_text(f"# lakes\nQUANTLAB_RAW_URL='a\nb'\n\n{line}\nexport QUANTLAB_STREAMS=bbo\n")
    with pytest.raises(SettingsError, match=rf"^{ENV_FILE}, line 5: is not of the form NAME=value\. ") as caught:
        load()
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("QUANTLAB_ENV_FILE", "/dev/null")
    load()


def assert_readable(error: SettingsError) -> None:
    """One line, with a remedy, and without the library that found the mistake."""
    text = str(error)
    assert "\n" not in text
    assert ENV_FILE in error.remedy
    assert text.endswith(error.remedy)
    shown = "".join(traceback.format_exception(error))
    for word in ("pydantic", "ValidationError", "Value error", "validation error"):
        assert word not in shown


# ---- AWS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lake", "prefix"), LAKES)
@pytest.mark.parametrize("place", ["environment", "file"])
def test_aws_settings_and_their_overrides(lake: Lake, prefix: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, field in AWS:
        with monkeypatch.context() as patch:
            if place == "environment":
                patch.setenv(variable, "common")
            else:
                write_file({variable: "common"})
            for one, _ in LAKES:
                assert getattr(load_aws(one), field) == "common"
            patch.setenv(f"{prefix}{variable}", "own")
            for one, _ in LAKES:
                assert getattr(load_aws(one), field) == ("own" if one == lake else "common")


def test_nothing_set_is_left_to_boto3() -> None:
    for lake, _ in LAKES:
        assert set(load_aws(lake).model_dump().values()) == {None}


@pytest.mark.parametrize(("lake", "prefix"), LAKES)
def test_keys_and_their_overrides(lake: Lake, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {**keys("common"), "AWS_SESSION_TOKEN": "common-token"})
    for one, _ in LAKES:
        assert credentials(one) == ("common-key", "common-secret", "common-token", None)
    set_all(monkeypatch, keys("own", prefix))
    for one, _ in LAKES:
        own = one == lake
        common = ("common-key", "common-secret", "common-token", None)
        assert credentials(one) == (("own-key", "own-secret", None, None) if own else common)
    monkeypatch.setenv(f"{prefix}AWS_SESSION_TOKEN", "own-token")
    assert credentials(lake) == ("own-key", "own-secret", "own-token", None)


TOKEN, PROFILE = {"AWS_SESSION_TOKEN": "common-token"}, {"AWS_PROFILE": "common-profile"}
OWN_PROFILE = {"QUANTLAB_RAW_AWS_PROFILE": "own-profile"}
OWN_TOKEN = {"QUANTLAB_RAW_AWS_SESSION_TOKEN": "own-token"}
OWN_KEYS = keys("own", "QUANTLAB_RAW_")
KEYS = keys("common")


@pytest.mark.guards("accounts-mix")
@pytest.mark.parametrize(
    ("environment", "file", "expected"),
    [
        # The lake's own come first, and alone.
        (OWN_KEYS | KEYS | TOKEN | PROFILE, {}, ("own-key", "own-secret", None, None)),
        (OWN_PROFILE | KEYS | TOKEN | PROFILE, {}, (None, None, None, "own-profile")),
        (OWN_KEYS | OWN_TOKEN | KEYS, {}, ("own-key", "own-secret", "own-token", None)),
        (KEYS | TOKEN | PROFILE, OWN_KEYS, ("own-key", "own-secret", None, None)),
        (KEYS | TOKEN, OWN_PROFILE, (None, None, None, "own-profile")),
        # The environment comes before the file, and alone.
        (KEYS, {**keys("file"), "AWS_SESSION_TOKEN": "file-token"}, ("common-key", "common-secret", None, None)),
        (PROFILE, {**keys("file"), "AWS_SESSION_TOKEN": "file-token"}, (None, None, None, "common-profile")),
        (KEYS, {"AWS_PROFILE": "file-profile"}, ("common-key", "common-secret", None, None)),
        (OWN_KEYS, {**keys("file", "QUANTLAB_RAW_"), **OWN_TOKEN}, ("own-key", "own-secret", None, None)),
        (OWN_KEYS, KEYS | TOKEN | PROFILE, ("own-key", "own-secret", None, None)),
        ({}, KEYS | TOKEN, ("common-key", "common-secret", "common-token", None)),
    ],
)
def test_credentials_of_two_accounts_never_mix(
    environment: dict[str, str],
    file: dict[str, str],
    expected: tuple[str | None, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_all(monkeypatch, environment)
    write_file(file)
    assert credentials("raw") == expected


def test_a_lakes_own_endpoint_and_region_come_first_whatever_their_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    common = {"AWS_ENDPOINT_URL_S3": "common", "AWS_ENDPOINT_URL": "common", "AWS_REGION": "common"}
    set_all(monkeypatch, common | {"AWS_DEFAULT_REGION": "common"})
    set_all(monkeypatch, {"QUANTLAB_RAW_AWS_ENDPOINT_URL": "own", "QUANTLAB_RAW_AWS_DEFAULT_REGION": "own"})
    raw = load_aws("raw")
    assert (raw.s3_endpoint_url, raw.endpoint_url) == (None, "own")
    assert (raw.region, raw.default_region) == (None, "own")
    compact = load_aws("compact")
    assert (compact.s3_endpoint_url, compact.endpoint_url) == ("common", "common")
    assert (compact.region, compact.default_region) == ("common", "common")


@pytest.mark.guards("accounts-mix")
@pytest.mark.parametrize("prefix", ["", *(prefix for _, prefix in LAKES)])
@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
@pytest.mark.parametrize("place", ["environment", "file"])
def test_half_a_pair_of_keys_is_refused(prefix: str, name: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lake: Lake = next((lake for lake, of in LAKES if of == prefix), "raw")
    set_all(monkeypatch, keys("common") if prefix else {})  # nothing is filled in from there
    if place == "environment":
        monkeypatch.setenv(f"{prefix}{name}", SECRET)
    else:
        write_file({f"{prefix}{name}": SECRET})
    wanted = f"{prefix}AWS_ACCESS_KEY_ID and {prefix}AWS_SECRET_ACCESS_KEY must be set together"
    with pytest.raises(SettingsError, match=wanted) as caught:
        load_aws(lake)
    assert_readable(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("prefix", ["", "QUANTLAB_RAW_"])
def test_a_token_without_its_key_is_refused(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {f"{prefix}AWS_SESSION_TOKEN": SECRET, **(keys("common") if prefix else {})})
    wanted = f"{prefix}AWS_SESSION_TOKEN is set without {prefix}AWS_ACCESS_KEY_ID"
    with pytest.raises(SettingsError, match=wanted) as caught:
        load_aws("raw")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.guards("secrets-told")
@pytest.mark.parametrize("prefix", ["", "QUANTLAB_RAW_"])
@pytest.mark.parametrize("place", ["environment", "file"])
def test_secrets_arrive_but_do_not_show(prefix: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        f"{prefix}AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        f"{prefix}AWS_SECRET_ACCESS_KEY": SECRET,
        f"{prefix}AWS_SESSION_TOKEN": f"{SECRET}==",
    }
    if place == "environment":
        set_all(monkeypatch, variables)
    else:
        write_file(variables)
    assert credentials("raw") == ("AKIAEXAMPLE", SECRET, f"{SECRET}==", None)
    aws = load_aws("raw")
    for shown in (repr(aws), str(aws), f"{aws}", repr(aws.model_dump()), aws.model_dump_json(), str(dict(aws))):
        assert SECRET not in shown
        assert "AKIAEXAMPLE" not in shown
    assert SECRET not in json.dumps(AwsSettings.model_json_schema())
    assert SECRET not in repr(load_settings())
    assert SECRET not in str(pickle.dumps(load_settings()))


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().raw_url = "x"  # type: ignore[misc]


WRONG_FOR_EVENTS = {
    "COMPACTION_SCHEDULE": "7m",
    "COMPACTION_MIN_FILES": "1",
    "COMPACTION_ENABLED": "perhaps",
    "WAREHOUSE_LAYOUT": "{app}/{month}",
    "WAREHOUSE_FILES": "a/b",
}


@pytest.mark.guards("event-setting-stops-all")
@pytest.mark.parametrize("names", [list(WRONG_FOR_EVENTS), *([name] for name in WRONG_FOR_EVENTS)])
def test_a_wrong_setting_of_the_event_lake_stops_that_lake_only(
    names: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in names:
        monkeypatch.setenv(name, WRONG_FOR_EVENTS[name])
    monkeypatch.setenv("QUANTLAB_STREAMS", "bbo")
    loaded = load_settings()
    assert loaded.streams == ("bbo",)
    assert loaded.compaction_min_files == 2, "what is wrong has its default"
    with pytest.raises(SettingsError) as caught:
        open_warehouse(loaded)
    assert all(name in str(caught.value) for name in names)
    for lake in ("raw", "compact"):
        (tmp_path / "demo-lake" / lake).mkdir(parents=True)
    assert open_market(loaded).raw.url == "demo-lake/raw"
    assert open_market(loaded).order.raw_seq == ""


def test_a_wrong_setting_of_both_lakes_stops_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPACTION_MIN_FILES", "1")
    monkeypatch.setenv("QUANTLAB_START_DATE", "soon")
    with pytest.raises(SettingsError, match=r"(?s)COMPACTION_MIN_FILES.*QUANTLAB_START_DATE|QUANTLAB_START_DATE"):
        load_settings()


def test_settings_of_the_event_lake_that_are_right_stop_nothing() -> None:
    load_settings().check_event_lake()
