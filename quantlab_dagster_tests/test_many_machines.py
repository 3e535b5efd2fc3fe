"""What deploy/ has for more than one machine is what Dagster, its launchers and its chart understand."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
import yaml  # type: ignore[import-untyped]
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher import RunLauncher
from dagster_aws.ecs import EcsRunLauncher
from dagster_aws.s3.compute_log_manager import S3ComputeLogManager
from dagster_celery.executor import celery_executor
from dagster_k8s import K8sRunLauncher
from dagster_k8s.job import UserDefinedDagsterK8sConfig
from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict
from kubernetes.client import (  # type: ignore[import-untyped]
    V1Deployment,
    V1PersistentVolumeClaim,
    V1Service,
    V1Volume,
    V1VolumeMount,
)

from quantlab_dagster.defs.executor import executor_of
from quantlab_dagster.settings import Settings
from quantlab_dagster_tests.cluster import DEPLOY, shipped_with
from quantlab_dagster_tests.daemon import CONFIGURATION

if TYPE_CHECKING:
    from pathlib import Path

    from dagster._serdes import ConfigurableClassData

CELERY, ECS = DEPLOY / "celery" / "dagster.yaml", DEPLOY / "ecs" / "dagster.yaml"
VALUES: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes" / "values.yaml").read_text())
SHIPPED: dict[str, Any] = yaml.safe_load(CONFIGURATION.read_text())

# What the chart (1.13) refuses others than; read from its schema.
CHART = {
    "": "additionalInstanceConfig computeLogManager concurrency dagster-user-deployments dagsterDaemon "
    "dagsterWebserver generateCeleryConfigSecret generatePostgresqlPasswordSecret global imagePullSecrets ingress "
    "migrate postgresql pythonLogs rabbitmq redis retention runLauncher scheduler serviceAccount telemetry",
    "dagsterDaemon": "enabled env envConfigMaps envSecrets image resources runCoordinator runMonitoring runRetries "
    "schedules sensors volumeMounts volumes",
    "dagsterDaemon.runCoordinator": "config enabled type",
    "dagsterDaemon.runCoordinator.config": "customRunCoordinator queuedRunCoordinator",
    "dagsterDaemon.runMonitoring": "cancelTimeoutSeconds enabled freeSlotsAfterRunEndSeconds maxResumeRunAttempts "
    "maxRuntimeSeconds pollIntervalSeconds startTimeoutSeconds",
    "runLauncher": "config type",
    "runLauncher.config": "celeryK8sRunLauncher customRunLauncher k8sRunLauncher",
    "computeLogManager": "config type",
    "concurrency": "enabled pools runs",
    "concurrency.pools": "defaultLimit granularity opGranularityRunBuffer",
    "concurrency.runs": "maxConcurrentRuns tagConcurrencyLimits",
    "postgresql": "enabled image postgresqlDatabase postgresqlHost postgresqlParams postgresqlPassword "
    "postgresqlScheme postgresqlUsername service",
    "retention": "autoMaterialize enabled schedule sensor",
    "global": "celeryConfigSecretName dagsterHome dagsterInstanceConfigMap postgresqlSecretName serviceAccountName",
    "dagster-user-deployments": "deployments enableSubchart enabled imagePullSecrets",
}
DEPLOYMENT = (
    "affinity annotations codeServerArgs dagsterApiGrpcArgs env envConfigMaps envSecrets image "
    "includeConfigInLaunchedRuns labels livenessProbe name nodeSelector podSecurityContext port readinessProbe "
    "resources schedulerName securityContext startupProbe tolerations volumeMounts volumes"
)


def at(path: str, values: dict[str, Any] = VALUES) -> dict[str, Any]:
    for name in filter(None, path.split(".")):
        values = values[name]
    return values


def snake(value: Any, *, but: tuple[str, ...] = ()) -> Any:
    """As Dagster's own configuration spells what the chart's has in camel case."""
    if not isinstance(value, dict):
        return value
    return {
        re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", name): item if name in but else snake(item, but=but)
        for name, item in value.items()
    }


def refused(kind: Any, config: Any) -> str:
    """What the configuration of a class says against this; empty if nothing."""
    found = process_config(resolve_to_config_type(kind.config_type()), config)
    return "" if found.success else "; ".join(error.message for error in found.errors or ())


def component(data: ConfigurableClassData | None) -> tuple[type, Any]:
    assert data is not None
    return getattr(import_module(data.module_name), data.class_name), data.config_dict


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "postgresql+psycopg2://dagster@127.0.0.1:1/dagster")
    monkeypatch.setenv("DAGSTER_LOGS_BUCKET", "logs")
    return tmp_path


@pytest.mark.parametrize("fragment", [CELERY, ECS], ids=["celery", "ecs"])
def test_the_instance_with_what_is_added_is_understood(fragment: Path, home: Path) -> None:
    (home / "dagster.yaml").write_text(shipped_with(fragment))
    ref = InstanceRef.from_dir(str(home))
    kind, config = component(ref.storage_data)
    assert kind.__name__ == "DagsterPostgresStorage"
    assert refused(kind, config) == ""
    kind, config = component(ref.run_coordinator_data)
    assert kind.__name__ == "QueuedRunCoordinator", "what is shipped still holds"
    assert ref.settings["concurrency"] == SHIPPED["concurrency"]
    assert refused(kind, config) == ""


def test_the_launcher_and_the_logs_of_ecs_are_understood(home: Path) -> None:
    (home / "dagster.yaml").write_text(shipped_with(ECS))
    ref = InstanceRef.from_dir(str(home))
    kind, config = component(ref.run_launcher_data)
    assert issubclass(kind, RunLauncher)
    assert kind is EcsRunLauncher
    assert refused(kind, config) == ""
    assert "include_sidecar" in refused(kind, {**config, "include_sidecar": True}), "and what is wrong is not"
    assert set(config["run_resources"]) <= {"cpu", "memory", "ephemeral_storage"}  # of these it refuses nothing
    kind, config = component(ref.compute_logs_data)
    assert kind is S3ComputeLogManager
    assert refused(kind, config) == ""


def test_a_run_of_ecs_gets_variables_that_there_are() -> None:
    launcher = yaml.safe_load(ECS.read_text())["run_launcher"]["config"]
    known = {str(field.validation_alias) for field in Settings.model_fields.values()}
    assert {name for name in launcher["env_vars"] if not name.startswith("AWS_")} <= known


def test_the_file_of_celery_is_understood_by_the_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://broker")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://backend")
    file = DEPLOY / "celery" / "celery.yaml"
    executor = executor_of(Settings(QUANTLAB_EXECUTOR="celery", QUANTLAB_EXECUTOR_CONFIG=file))
    assert executor.name == celery_executor.name
    made = executor.apply_config_mapping({"config": {}}).value
    assert made is not None
    source = made["config"]["config_source"]
    # Without these the step of a worker that dies is lost, and its run waits for ever.
    assert source["task_acks_late"] is True
    assert source["task_reject_on_worker_lost"] is True
    assert source["broker_transport_options"]["visibility_timeout"] >= 3600
    assert source["worker_prefetch_multiplier"] == 1


@pytest.mark.parametrize("path", list(CHART))
def test_values_are_those_that_the_chart_has(path: str) -> None:
    assert set(at(path)) <= set(CHART[path].split())


def test_the_deployment_is_one_that_the_chart_has() -> None:
    [deployment] = VALUES["dagster-user-deployments"]["deployments"]
    assert set(deployment) <= set(DEPLOYMENT.split())
    assert {"name", "image", "port", "dagsterApiGrpcArgs"} <= set(deployment)
    assert deployment["dagsterApiGrpcArgs"] == ["--module-name", "quantlab_dagster.definitions"]
    known = {str(field.validation_alias) for field in Settings.model_fields.values()}
    assert set(deployment["env"]) <= known
    assert {mount["name"] for mount in deployment["volumeMounts"]} == {one["name"] for one in deployment["volumes"]}
    assert all(isinstance(value, str) for value in deployment["env"].values())


def test_the_launcher_of_kubernetes_understands_what_the_chart_gives_it() -> None:
    config = at("runLauncher.config.k8sRunLauncher")
    given = snake(config, but=("runK8sConfig",)) | {
        "run_k8s_config": snake(config["runK8sConfig"], but=("containerConfig", "jobSpecConfig", "podSpecConfig")),
        "service_account_name": VALUES["global"]["serviceAccountName"],
        "instance_config_map": "dagster-instance",
        "dagster_home": "/opt/dagster/dagster_home",
        "postgres_password_secret": "dagster-postgresql-secret",
    }
    assert refused(K8sRunLauncher, given) == ""
    assert "load_in_cluster" in refused(K8sRunLauncher, {**given, "load_in_cluster": True})
    pod = UserDefinedDagsterK8sConfig.from_dict(given["run_k8s_config"])  # type: ignore[no-untyped-call]
    assert pod.container_config["resources"]["limits"] == {"memory": "4Gi"}
    assert pod.job_spec_config
    assert pod.pod_spec_config["security_context"]["fs_group"] == 10001, "who the image is, for what runs count in"


def understood(model: type, written: Any) -> Any:
    """What is written, as Kubernetes understands it; it refuses what it does not know."""
    return k8s_model_from_dict(model, k8s_snake_case_dict(model, written))


def of_kind(kind: str, model: type) -> Any:
    """What deploy/kubernetes/metrics.yaml says of one kind."""
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "metrics.yaml").read_text()))
    [found] = [one for one in documents if one["kind"] == kind]
    return understood(model, found)


def test_prometheus_finds_on_kubernetes_what_runs_count() -> None:
    with pytest.raises(Exception, match="mountsPath"):
        understood(V1VolumeMount, {"name": "metrics", "mountsPath": "/"})
    claim = of_kind("PersistentVolumeClaim", V1PersistentVolumeClaim)
    assert claim.spec.access_modes == ["ReadWriteMany"], "runs are on any node"
    pod, service = of_kind("Deployment", V1Deployment).spec.template, of_kind("Service", V1Service)
    [container] = pod.spec.containers
    [deployment] = VALUES["dagster-user-deployments"]["deployments"]
    volumes = [understood(V1Volume, one) for one in deployment["volumes"]]
    mounts = [understood(V1VolumeMount, one) for one in deployment["volumeMounts"]]
    [file] = re.findall(r"QUANTLAB_METRICS_FILE=(\S+)/\w+\.prom", (DEPLOY / "docker" / "Dockerfile").read_text())
    for there, mounted in ((pod.spec.volumes, container.volume_mounts), (volumes, mounts)):
        [name] = [one.name for one in there if one.persistent_volume_claim]
        [volume] = [one.persistent_volume_claim.claim_name for one in there if one.name == name]
        assert volume == claim.metadata.name
        assert [one.mount_path for one in mounted if one.name == name] == [file]
    image = deployment["image"]
    assert container.image == f"{image['repository']}:{image['tag']}"
    assert " ".join(container.args) == "quantlab metrics serve --host 0.0.0.0 --port 9109"
    assert container.env_from[0].secret_ref.name == deployment["envSecrets"][0]["name"]
    assert service.spec.selector.items() <= pod.metadata.labels.items()
    assert service.spec.ports[0].target_port == container.ports[0].name
    assert service.spec.ports[0].port == container.ports[0].container_port == 9109
    given = {one.name: one.value for one in container.env}
    lakes = {name: value for name, value in deployment["env"].items() if name.endswith("_URL")}
    assert given.items() >= lakes.items()
    assert {"QUANTLAB_RAW_URL", "QUANTLAB_COMPACT_URL", "WAREHOUSE_URL"} == set(lakes)
    of_image = set(re.findall(r"env: (\w+)", (DEPLOY / "docker" / "dagster.yaml").read_text()))
    assert set(given) - set(lakes) == of_image, "which is the instance in it"
    history = VALUES["postgresql"]
    assert given["DAGSTER_POSTGRES_HOST"] == history["postgresqlHost"]
    assert given["DAGSTER_POSTGRES_USER"] == history["postgresqlUsername"]
    assert given["DAGSTER_POSTGRES_DB"] == history["postgresqlDatabase"]


def test_the_logs_of_kubernetes_are_understood() -> None:
    assert refused(S3ComputeLogManager, snake(at("computeLogManager.config.s3ComputeLogManager"))) == ""


def test_on_kubernetes_the_instance_is_the_shipped_one() -> None:
    assert snake(VALUES["concurrency"]["runs"]) == SHIPPED["concurrency"]["runs"]
    assert snake(VALUES["concurrency"]["pools"]) == SHIPPED["concurrency"]["pools"]
    assert snake(at("dagsterDaemon.runMonitoring")).items() >= SHIPPED["run_monitoring"].items()
    assert snake(at("dagsterDaemon.runRetries")) == SHIPPED["run_retries"]
    assert VALUES["telemetry"] == SHIPPED["telemetry"]
    # The chart would give them to runs, in place of the run launcher's.
    assert all("resources" not in one for one in VALUES["dagster-user-deployments"]["deployments"])
    assert VALUES["additionalInstanceConfig"]["nux"] == SHIPPED["nux"]
    for of in ("schedule", "sensor"):
        assert snake(VALUES["retention"][of]) == SHIPPED["retention"][of]
