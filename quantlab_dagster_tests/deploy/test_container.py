"""The image and the compose file, without an engine: linted, compared with each other, and their commands run here."""

from __future__ import annotations

import json
import os
import re
import subprocess
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
import pytest
import yaml  # type: ignore[import-untyped]

from quantlab_dagster.lake.warehouse import AppHour
from quantlab_dagster.settings import _LAKE_PREFIX, AwsSettings, Settings
from quantlab_dagster.synthetic.warehouse import generate_event_files
from quantlab_dagster_tests.deploy.places import DEPLOY, ROOT, script
from quantlab_dagster_tests.deploy.processes import running, until
from quantlab_dagster_tests.postgres import missing, postgres
from quantlab_dagster_tests.servers import HOST, free_ports
from quantlab_dagster_tests.warehouse.event_lakes import spec as hour_spec

DOCKER = DEPLOY / "docker"
SECRETS = {
    "POSTGRES_PASSWORD": "p",
    "AWS_ACCESS_KEY_ID": "some-key",
    "AWS_SECRET_ACCESS_KEY": "some-secret",
    "GRAFANA_ADMIN_PASSWORD": "g",
}
# Its script, a wrapper, ends with 0 whatever comes of it.
_COMPOSE = str(files("compose").joinpath("docker-compose"))
OURS = ("code", "web", "daemon", "metrics")


def composed(*options: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_COMPOSE, "--file", DOCKER / "compose.yaml", *options, "config", "--format", "json"],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def services() -> dict[str, dict[str, Any]]:
    done = composed(**SECRETS)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)["services"]
    return found


def instructions() -> list[tuple[str, str]]:
    text = (DOCKER / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in joined.splitlines() if line.strip()]


def default_command() -> list[str]:
    return list(json.loads(dict(instructions())["CMD"]))


def commands() -> dict[str, list[str]]:
    """What each of our containers runs."""
    found = services()
    return {name: found[name].get("command") or default_command() for name in OURS}


def health_checks() -> dict[str, list[str]]:
    [of_image] = re.findall(r"CMD (\[.+\])", dict(instructions())["HEALTHCHECK"])
    found = services()
    checks = {name: found[name].get("healthcheck", {}).get("test", ["CMD", *json.loads(of_image)]) for name in OURS}
    assert {check[0] for check in checks.values()} == {"CMD"}
    return {name: check[1:] for name, check in checks.items()}


# ---- as they are written ---------------------------------------------------------------------------------------------


def test_the_dockerfile_has_no_bad_habits(tmp_path: Path) -> None:
    lint = [script("hadolint"), "--no-color"]
    done = subprocess.run([*lint, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /x && pip install y\n")
    bad = subprocess.run([*lint, tmp_path / "Dockerfile"], capture_output=True, text=True, check=False, timeout=60)
    assert "DL3006" in bad.stdout


def test_the_image_is_not_roots_and_has_what_it_copies() -> None:
    found = instructions()
    users = [value for name, value in found if name == "USER"]
    assert users == ["10001"]
    assert found.index(("USER", "10001")) < found.index(("CMD", dict(found)["CMD"]))
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for name, value in found:
        if name == "COPY" and not value.startswith("--from"):
            for source in value.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(f"!{source}".startswith(line) for line in ignored if line.startswith("!")), source


def test_no_secret_gets_into_the_image() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*", "all that is not named stays out"
    assert not any("deploy/docker/.env".startswith(line[1:]) for line in ignored if line.startswith("!"))
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_compose_refuses_to_start_without_secrets() -> None:
    for name in SECRETS:
        done = composed(**{key: value for key, value in SECRETS.items() if key != name})
        assert done.returncode != 0
        assert f"{name} is missing a value: see deploy/docker/example.env" in done.stderr
    example = [line.partition("=") for line in (DOCKER / "example.env").read_text().splitlines() if "=" in line]
    assert {name for name, _, _ in example} == set(SECRETS)
    assert [value for name, _, value in example if value and "KEY_ID" not in name] == [], "no secret is shipped"


def test_every_setting_is_passed_on_and_nothing_that_nobody_reads() -> None:
    aws = {str(info.validation_alias) for info in AwsSettings.model_fields.values()} - {"AWS_PROFILE"}  # a file's
    settings = {str(info.validation_alias) for info in Settings.model_fields.values()}
    settings |= aws | {f"{prefix}{name}" for prefix in _LAKE_PREFIX.values() for name in aws}
    of_image = set(re.findall(r"(\w+)=", " ".join(value for name, value in instructions() if name == "ENV")))
    assert of_image - settings == {"PATH", "PYTHONUNBUFFERED"}
    database = set(re.findall(r"env: (\w+)", (DOCKER / "dagster.yaml").read_text()))
    found = services()
    for name in OURS:
        assert set(found[name]["environment"]) == settings - of_image | database, name


def test_what_an_operator_sets_reaches_the_containers(tmp_path: Path) -> None:
    given = {
        "QUANTLAB_QUALITY_RULES": "exchange=okx,bad_from_queue_pct=95",
        "QUANTLAB_ALERT_TEMPLATE": '{"text": "$text"}',
        "QUANTLAB_RAW_AWS_ACCESS_KEY_ID": "another",
        "AWS_SERVER_SIDE_ENCRYPTION": "AES256",
    }
    file = tmp_path / ".env"
    file.write_text("".join(f"{name}='{value}'\n" for name, value in (SECRETS | given).items()))
    done = composed("--env-file", file, COMPACTION_GRACE_MINUTES="5")
    assert done.returncode == 0, done.stderr
    for name in OURS:
        environment = json.loads(done.stdout)["services"][name]["environment"]
        there = {key: value.replace("$$", "$") for key, value in environment.items() if value}
        assert there.items() >= {**given, "COMPACTION_GRACE_MINUTES": "5"}.items()
        assert "GRAFANA_ADMIN_PASSWORD" not in environment
        assert environment["QUANTLAB_STREAMS"] is None, "which is unset in the container"


def test_the_instance_is_the_shipped_one_beside_postgres() -> None:
    ours = yaml.safe_load((DOCKER / "dagster.yaml").read_text())
    shipped = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    assert {name: ours.get(name) for name in shipped} == shipped
    assert set(ours) - set(shipped) == {"storage", "compute_logs", "local_artifact_storage"}


def test_ports_and_names_agree() -> None:
    found = services()
    for name, check in health_checks().items():
        ports = re.findall(r"\b(?:port'?,? ?|:)(\d{4})\b", " ".join(check).replace("--port ", "port "))
        command = " ".join(commands()[name])
        assert all(f"--port {port}" in command for port in ports), name
        assert ports or name == "daemon"
    workspace = yaml.safe_load((DOCKER / "workspace.yaml").read_text())
    [server] = workspace["load_from"]
    assert server["grpc_server"] == {"host": "code", "port": 4000, "location_name": "quantlab"}
    assert "--port 4000" in " ".join(commands()["code"])
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert prometheus["scrape_configs"][0]["static_configs"] == [{"targets": ["metrics:9109"]}]
    source = yaml.safe_load((DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    board = yaml.safe_load((DEPLOY / "grafana" / "provisioning" / "dashboards" / "quantlab.yaml").read_text())
    folder = board["providers"][0]["options"]["path"]
    assert f"{folder}/quantlab.json" in {volume["target"] for volume in found["grafana"]["volumes"]}
    published = [port for service in found.values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}
    assert len({port["published"] for port in published}) == len(published) == 4


def test_every_service_tells_whether_it_is_well_and_waits_for_what_it_needs() -> None:
    found = services()
    for name, service in found.items():
        assert "healthcheck" in service or name in ("buckets", "code"), name
        for needed, how in service.get("depends_on", {}).items():
            assert (
                how["condition"] == "service_started"
                or needed == "buckets"
                or "healthcheck" in found[needed]
                or (needed == "code")
            ), name
        for volume in service.get("volumes", []):
            if volume["type"] == "bind":
                assert Path(volume["source"]).exists(), volume["source"]
    for name in OURS:
        assert found[name]["read_only"] is True
        assert found[name]["cap_drop"] == ["ALL"]


# ---- as they run -----------------------------------------------------------------------------------------------------

_LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
_STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


def asked(url: str, query: str, **variables: Any) -> Any:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = Request(f"{url}/graphql", data=body, headers={"Content-Type": "application/json"})  # noqa: S310
    with urlopen(request, timeout=30) as answer:  # noqa: S310  # our own
        return json.load(answer)["data"]


class Here:
    """The containers' paths, names and ports, as they are on this machine."""

    def __init__(self, directory: Path, database: dict[str, str]) -> None:
        self.directory = directory
        self.home = directory / "home"
        names = ("code", "web", "metrics", "s3", "master", "volume", "filer")
        free = free_ports(len(names) + 4)
        self.ports = dict(zip(names, free, strict=False))
        self.grpc = dict(zip(names[3:], free[len(names) :], strict=True))
        self._places = {
            "/opt/quantlab/workspace.yaml": str(directory / "workspace.yaml"),
            "/opt/quantlab/home": str(self.home),
            "/var/lib/quantlab": str(directory / "var"),
            "0.0.0.0": HOST,  # noqa: S104
            "http://seaweedfs:8333": f"http://{HOST}:{self.ports['s3']}",
            "4000": str(self.ports["code"]),
            "3000": str(self.ports["web"]),
            "9109": str(self.ports["metrics"]),
        }
        self.home.mkdir()
        for name in ("scratch", "metrics", "logs"):
            (directory / "var" / name).mkdir(parents=True)
        (self.home / "dagster.yaml").write_text(self.put((DOCKER / "dagster.yaml").read_text()))
        workspace = (DOCKER / "workspace.yaml").read_text().replace("host: code", f"host: {HOST}")
        (directory / "workspace.yaml").write_text(self.put(workspace))
        of_image = dict(re.findall(r"(\w+)=(\S+)", " ".join(text for name, text in instructions() if name == "ENV")))
        settings = {**of_image, **services()["code"]["environment"]}
        self.env = {name: self.put(value) for name, value in settings.items() if value is not None} | database
        self.env["PATH"] = f"{Path(script('dagster')).parent}:{os.environ['PATH']}"

    def put(self, text: str) -> str:
        for there, here in self._places.items():
            text = text.replace(there, here)
        return text

    def command(self, words: list[str]) -> list[str]:
        return [self.put(word) for word in words]

    def healthy(self, name: str) -> bool:
        check = self.command(health_checks()[name])
        done = subprocess.run(check, env=self.env, cwd=self.directory, capture_output=True, check=False, timeout=60)
        return done.returncode == 0


def weed(here: Here) -> list[str]:
    """The store's command, on free ports."""
    service = services()["seaweedfs"]
    places = {"-dir=/data": f"-dir={here.directory}/data", "-ip=seaweedfs": f"-ip={HOST}", "/etc/seaweedfs": "."}
    places |= {"0.0.0.0": HOST, "8333": str(here.ports["s3"])}  # noqa: S104
    text = "\n".join(service["command"])
    for there, at in places.items():
        text = text.replace(there, at)
    extra = [f"-{name}.port={here.ports[name]}" for name in ("master", "volume", "filer")]
    # Else they are the others' plus 10,000, where connections of this machine begin.
    extra += [f"-{name}.port.grpc={port}" for name, port in here.grpc.items()]
    sockets = ["-filer.localSocket=f.sock", "-s3.localSocket=s.sock", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    return [script("weed"), f"-logdir={here.directory}", *text.splitlines(), *extra, *sockets]


@pytest.mark.slow
@pytest.mark.server
def test_the_commands_of_all_containers_work_together(tmp_path: Path) -> None:
    if lacking := missing():
        pytest.skip(f"needs {lacking}")
    with ExitStack() as stack:
        here = Here(tmp_path, stack.enter_context(postgres(tmp_path / "postgres.log")).variables)
        (tmp_path / "data").mkdir()
        (tmp_path / "s3.json").write_text(json.loads(composed(**SECRETS).stdout)["configs"]["s3"]["content"])
        stack.enter_context(running(weed(here), env=here.env, directory=tmp_path, name="seaweedfs"))
        check = services()["seaweedfs"]["healthcheck"]["test"][-1].replace("8333", str(here.ports["s3"]))
        until(lambda: urlopen(check, timeout=5), (tmp_path / "seaweedfs.log").read_text)  # noqa: S310  # our own
        [shell] = services()["buckets"]["command"]
        master = f"{HOST}:{here.ports['master']}.{here.grpc['master']}"
        shell = shell.replace("$$", "$").replace("seaweedfs:9333", master)
        until(
            lambda: (
                not subprocess.run(
                    ["/bin/sh", "-c", shell], env=here.env, cwd=tmp_path, check=False, capture_output=True, timeout=120
                ).returncode
            ),
            "the buckets cannot be made",
        )
        client = boto3.client(
            "s3",
            endpoint_url=here.env["AWS_ENDPOINT_URL"],
            aws_access_key_id=SECRETS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=SECRETS["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )
        hour = hour_spec()
        for file in generate_event_files(hour):
            client.put_object(
                Bucket="warehouse", Key=f"events/{AppHour(hour.app_id, hour.hour).key(file.name)}", Body=file.data
            )
        for name in OURS:
            command = here.command(commands()[name])
            stack.enter_context(running(command, env=here.env, directory=tmp_path, name=name))
            if name == "code":
                until(lambda: here.healthy("code"), (tmp_path / "code.log").read_text())
        for name in OURS:
            until(lambda name=name: here.healthy(name), name)  # type: ignore[misc]

        url = f"http://{HOST}:{here.ports['web']}"
        selector = {
            "repositoryLocationName": "quantlab",
            "repositoryName": "__repository__",
            "jobName": "compact_warehouse",
        }
        launched = asked(url, _LAUNCH, params={"selector": selector, "mode": "default", "runConfigData": {}})
        run = launched["launchRun"]["run"]["runId"]

        def ended() -> str:
            status: str = asked(url, _STATUS, id=run)["runOrError"]["status"]
            return status if status in ("SUCCESS", "FAILURE") else ""

        problem = "the run does not end: the daemon takes it from the queue, the code server runs it"
        assert until(ended, problem) == "SUCCESS", (tmp_path / "code.log").read_text()
        listed = client.list_objects_v2(Bucket="warehouse", Prefix="events/app_id")["Contents"]
        assert [item["Key"].rpartition("/")[2].startswith("compacted_") for item in listed] == [True]
        runs = 'quantlab_compaction_runs_total{lake="events",result="success",target="warehouse/events"} 1.0'

        def counted() -> bool:
            with urlopen(f"http://{HOST}:{here.ports['metrics']}/metrics", timeout=10) as answer:
                return runs in answer.read().decode()

        until(counted, "the run is not counted where the metrics are served")
        writable = {item.partition(":")[0] for item in services()["code"]["tmpfs"]}
        names = {path.name for path in here.home.iterdir()} - {"dagster.yaml"}
        written = {f"/opt/quantlab/home/{name}" for name in names}
        assert written <= writable, "the rest of the image's home is read only"
