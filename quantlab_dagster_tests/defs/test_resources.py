"""The lakes as resources: where their credentials come from, and that these never show."""

from __future__ import annotations

import json
import traceback
import warnings
from asyncio import run
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value
from dagster_aws.s3 import S3Resource

from quantlab_dagster import access
from quantlab_dagster.access import open_market
from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs.resources import LakeResource, LimitsResource, market_place
from quantlab_dagster.errors import AccessDenied, SettingsError
from quantlab_dagster.kernel.terms import Order
from quantlab_dagster.settings import Settings, load_aws, load_settings
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster.work.limits import Limits

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster.lake.store.objects import S3Options
    from quantlab_dagster_tests.conftest import Rig
    from quantlab_dagster_tests.servers import S3Server

ON_SERVERS = pytest.mark.parametrize(
    "rig",
    [pytest.param("seaweedfs", marks=pytest.mark.server), pytest.param("ceph", marks=pytest.mark.server)],
    indirect=True,
)
ON_SEAWEEDFS = pytest.mark.parametrize("rig", [pytest.param("seaweedfs", marks=pytest.mark.server)], indirect=True)
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"  # noqa: S105
WRONG = {"AWS_ACCESS_KEY_ID": "WRONG", "AWS_SECRET_ACCESS_KEY": "wrong"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def write_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **profiles: tuple[str, str]) -> None:
    """A credentials file with these profiles, each of a key and a secret."""
    text = "".join(
        f"[{name}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
        for name, (key, secret) in profiles.items()
    )
    (tmp_path / "credentials").write_text(text)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def assert_works(resource: LakeResource) -> None:
    store = resource.store()
    run(store.put("x", b"x"))
    assert run(store.get("x"))[0] == b"x"
    assert [info.key for info in run(store.list_objects(""))] == ["x"]


def server_of(rig: Rig) -> S3Server:
    assert rig.server is not None
    return rig.server


def s3_options(**options: Any) -> S3Options:
    return options_of(LakeResource(**{"lake": "raw", "url": "s3://bucket", **options}))


def options_of(resource: LakeResource) -> S3Options:
    return access.s3_options(resource.url, resource.access(), load_aws("raw"))


# ---- each way to give credentials ------------------------------------------------------------------------------------


def test_a_lake_is_opened_with_what_the_environment_says(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, rig.env())
    for lake in ("raw", "compact"):
        assert_works(LakeResource(lake=lake, url=rig.new_url()))


@ON_SERVERS
def test_variables_of_the_lake_come_before_the_common_ones(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, WRONG | {"AWS_SESSION_TOKEN": "wrong", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    set_all(monkeypatch, {f"QUANTLAB_COMPACT_{name}": value for name, value in rig.env().items()})
    assert_works(LakeResource(lake="compact", url=rig.new_url()))
    monkeypatch.setenv("AWS_ENDPOINT_URL", server_of(rig).endpoint_url)
    with pytest.raises(AccessDenied):
        assert_works(LakeResource(lake="raw", url=rig.new_url()))


@ON_SERVERS
def test_two_lakes_of_two_accounts(
    rig: Rig, seaweed: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw_rig = type(rig)("seaweedfs", seaweed, tmp_path)
    set_all(monkeypatch, {f"QUANTLAB_RAW_{name}": value for name, value in seaweed.env().items()})
    set_all(monkeypatch, {f"QUANTLAB_COMPACT_{name}": value for name, value in rig.env().items()})
    raw, compact = LakeResource(lake="raw", url=raw_rig.new_url()), LakeResource(lake="compact", url=rig.new_url())
    assert_works(raw)
    assert_works(compact)
    place = market_place(raw, compact, LimitsResource(memory_budget=1 << 25, request_concurrency=3), utc_now)
    assert (place.raw.url, place.compact.url) == (raw.url, compact.url)
    assert place.limits == Limits(1 << 25, 3, None)


@ON_SERVERS
def test_fields_of_the_resource_come_first(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {f"{prefix}{k}": v for prefix in ("", "QUANTLAB_RAW_") for k, v in WRONG.items()})
    set_all(monkeypatch, {"QUANTLAB_RAW_AWS_SESSION_TOKEN": "wrong", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    server = server_of(rig)
    assert_works(
        LakeResource(
            lake="raw",
            url=rig.new_url(),
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            region_name=server.region,
            endpoint_url=server.endpoint_url,
        )
    )


@ON_SERVERS
def test_fields_may_name_variables(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    server = server_of(rig)
    set_all(monkeypatch, {"MY_KEY": server.access_key, "MY_SECRET": server.secret_key, "MY_URL": rig.new_url()})
    opened = []

    @dg.asset
    def probe(lake: LakeResource) -> None:
        assert_works(lake)
        opened.append(lake.url)

    resource = LakeResource(
        lake="raw",
        url=dg.EnvVar("MY_URL"),
        aws_access_key_id=dg.EnvVar("MY_KEY"),
        aws_secret_access_key=dg.EnvVar("MY_SECRET"),
        region_name=server.region,
        endpoint_url=server.endpoint_url,
    )
    assert server.secret_key not in snapshot_of(dg.Definitions(assets=[probe], resources={"lake": resource}))
    assert dg.materialize([probe], resources={"lake": resource}).success
    assert len(opened) == 1


@pytest.mark.parametrize("way", ["field", "variable", "variable of the lake", "default"])
@ON_SERVERS
def test_profiles(rig: Rig, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = server_of(rig)
    name = "default" if way == "default" else "mine"
    write_profiles(tmp_path, monkeypatch, **{"other": ("WRONG", "wrong"), name: (server.access_key, server.secret_key)})
    if way == "variable":
        monkeypatch.setenv("AWS_PROFILE", "mine")
    elif way == "variable of the lake":  # before keys and a profile of another account
        set_all(monkeypatch, WRONG | {"AWS_PROFILE": "other", "QUANTLAB_RAW_AWS_PROFILE": "mine"})
    elif way == "field":
        set_all(monkeypatch, WRONG | {"AWS_PROFILE": "other", "QUANTLAB_RAW_AWS_PROFILE": "other"})
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint_url)
    assert_works(LakeResource(lake="raw", url=rig.new_url(), profile_name="mine" if way == "field" else None))


@ON_SEAWEEDFS
def test_unsigned_requests(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server_of(rig).endpoint_url)
    resource = LakeResource(lake="raw", url=rig.new_url(), use_unsigned_session=True)  # needs no credentials
    with pytest.raises(AccessDenied):
        run(resource.store().list_objects(""))


def test_local_lakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no such profile")  # no concern of theirs
    assert_works(LakeResource(lake="compact", url=str(tmp_path / "made" / "when used")))
    with pytest.raises(SettingsError, match="local lake does not exist"):
        LakeResource(lake="raw", url=str(tmp_path / "raw")).store()
    (tmp_path / "raw").mkdir()
    assert_works(LakeResource(lake="raw", url=f"file://{tmp_path}/raw"))


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "no AWS credentials found"),
        ({"profile_name": "no such profile"}, "no such profile"),
        ({"aws_access_key_id": "key"}, "only a part of its credentials"),
        ({"aws_secret_access_key": SECRET}, "only a part of its credentials"),
        ({"aws_session_token": SECRET}, "only a part of its credentials"),
        ({"aws_access_key_id": "k", "aws_secret_access_key": SECRET, "endpoint_url": "nonsense"}, "no endpoint"),
        ({"aws_access_key_id": "k", "aws_secret_access_key": SECRET, "region_name": "no where"}, "no region"),
    ],
)
def test_what_cannot_work_is_said_at_once(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint) as caught:
        LakeResource(lake="raw", url="s3://bucket", **options).store()
    assert caught.value.where == "s3://bucket"
    assert caught.value.remedy
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("lake", "url", "options", "remedy"),
    [
        (
            "raw",
            "no/such",
            {},
            "Set QUANTLAB_RAW_URL to one that does, or run `quantlab demo`, `make demo`, for lakes",
        ),
        (
            "warehouse",
            "no/such",
            {},
            "Set WAREHOUSE_URL to one that does, or run `quantlab demo`, `make demo`, for lakes",
        ),
        ("compact", "gs://x", {}, "Set QUANTLAB_COMPACT_URL to s3://bucket/prefix, file:///directory or a path"),
        ("compact", "s3://", {}, "Set QUANTLAB_COMPACT_URL, as in s3://bucket/prefix"),
        ("raw", "s3://bucket", {"region_name": "no where"}, "Set AWS_REGION, as in us-east-1"),
        ("raw", "s3://bucket", {"endpoint_url": "nonsense"}, "Set AWS_ENDPOINT_URL, as in https://host:port"),
    ],
)
def test_remedies_name_the_settings(lake: str, url: str, options: dict[str, Any], remedy: str) -> None:
    with pytest.raises(SettingsError) as caught:
        LakeResource(lake=lake, url=url, use_unsigned_session=True, **options).store()
    assert caught.value.remedy == remedy


def test_a_profile_of_the_environment_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "QUANTLAB_RAW_AWS_PROFILE"):
        monkeypatch.setenv(name, "no such profile")
        with pytest.raises(SettingsError, match="no such profile"):
            LakeResource(lake="raw", url="s3://bucket").store()


@pytest.mark.guards("accounts-mix")
def test_half_a_pair_of_a_lakes_own_keys_is_not_completed_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, WRONG | {"QUANTLAB_RAW_AWS_ACCESS_KEY_ID": "own"})
    with pytest.raises(SettingsError, match="QUANTLAB_RAW_AWS_SECRET_ACCESS_KEY"):
        LakeResource(lake="raw", url="s3://bucket").store()
    LakeResource(lake="compact", url="s3://bucket").store()


def test_an_unknown_lake() -> None:
    with pytest.raises(SettingsError, match="is no lake of this project"):
        LakeResource(lake="rwa", url="s3://bucket").store()


# ---- the other options -----------------------------------------------------------------------------------------------


def test_regions_and_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, WRONG)
    assert (s3_options().region, s3_options().endpoint_url) == ("us-east-1", None)
    steps = [
        ("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"),
        ("AWS_REGION", "AWS_ENDPOINT_URL_S3"),
        ("QUANTLAB_RAW_AWS_DEFAULT_REGION", "QUANTLAB_RAW_AWS_ENDPOINT_URL"),
        ("QUANTLAB_RAW_AWS_REGION", "QUANTLAB_RAW_AWS_ENDPOINT_URL_S3"),
    ]
    for number, (region, endpoint_url) in enumerate(steps):  # each goes before those above it
        set_all(monkeypatch, {region: f"region-{number}", endpoint_url: f"http://endpoint-{number}"})
        options = s3_options()
        assert (options.region, options.endpoint_url) == (f"region-{number}", f"http://endpoint-{number}")
    options = s3_options(region_name="field", endpoint_url="http://field")
    assert (options.region, options.endpoint_url) == ("field", "http://field")


def test_a_region_may_come_from_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_profiles(tmp_path, monkeypatch, mine=("key", "secret"))
    (tmp_path / "config").write_text("[profile mine]\nregion = eu-north-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert s3_options(profile_name="mine").region == "eu-north-1"


def test_options_of_dagster_awss_resource_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, WRONG)
    assert (s3_options().retries, s3_options().verify_tls) == (4, True)
    assert s3_options(max_attempts=1).retries == 0
    assert s3_options(max_attempts=0).retries == 0
    assert s3_options(verify=False).verify_tls is False
    assert s3_options(use_unsigned_session=True).session is None
    assert issubclass(LakeResource, S3Resource)


def test_limits_come_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LimitsResource.of(Settings()) == LimitsResource()
    set_all(monkeypatch, {"QUANTLAB_MEMORY_BUDGET": "64MiB", "QUANTLAB_SCRATCH_DIR": "/x"})
    limits = LimitsResource.of(Settings())
    assert (limits.memory_budget, limits.request_concurrency, limits.scratch_dir) == (64 << 20, 64, "/x")


def test_runs_and_commands_rename_a_raw_seq_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = {f"QUANTLAB_{lake.upper()}_URL": str(tmp_path / lake) for lake in ("raw", "compact")}
    (tmp_path / "raw").mkdir()
    for given in ("", "exchange_seq"):
        set_all(monkeypatch, urls | {"QUANTLAB_RENAME_RAW_SEQ": given})
        settings = load_settings()
        raw = LakeResource(lake="raw", url=settings.raw_url)
        compact = LakeResource(lake="compact", url=settings.compact_url)
        place = market_place(raw, compact, LimitsResource.of(settings), utc_now)
        assert place.order == open_market(settings).order == Order("ts_event", numbered=True, raw_seq=given)


# ---- secrets ---------------------------------------------------------------------------------------------------------


def snapshot_of(definitions: dg.Definitions) -> str:
    """All that Dagster's pages and its database get to know of the definitions, as JSON."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Dagster, by Dagster
        return serialize_value(RepositorySnap.from_def(definitions.get_repository_def()))


def test_no_secret_shows_in_the_resource() -> None:
    resource = LakeResource(
        lake="raw",
        url="s3://bucket",
        aws_access_key_id="key",
        aws_secret_access_key=SECRET,
        aws_session_token=f"{SECRET}-token",
    )
    options = options_of(resource)
    store = resource.store()
    for thing in (
        resource,
        options,
        options.session,
        store,
        vars(store),
        [getattr(options, f.name) for f in fields(options)],
    ):
        assert SECRET not in repr(thing)
        assert SECRET not in str(thing)
    assert "aws_secret_access_key='**********'" in repr(resource)
    assert "url='s3://bucket'" in repr(resource)
    assert options.session is not None
    credentials = options.session.get_credentials()
    assert credentials is not None
    assert credentials.secret_key == SECRET


def test_no_secret_shows_in_the_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": SECRET}
    for prefix in ("", "QUANTLAB_RAW_", "QUANTLAB_COMPACT_"):
        set_all(monkeypatch, {f"{prefix}{name}": value for name, value in variables.items()})
    set_all(monkeypatch, {"QUANTLAB_RAW_URL": "s3://quantlab-raw", "QUANTLAB_COMPACT_URL": "s3://quantlab-compact"})
    definitions = build_definitions(Settings())
    text = snapshot_of(definitions)
    assert "s3://quantlab-raw" in text
    assert SECRET not in text
    assert "AKIAEXAMPLE" not in text
    resources = definitions.resources or {}
    for name in ("raw_lake", "compact_lake"):
        resource = resources[name]
        assert isinstance(resource, LakeResource)
        assert resource.store().url.startswith("s3://quantlab-")
        assert SECRET not in repr(resource)
        assert SECRET not in json.dumps(resource._resolved_config_dict, default=str)
