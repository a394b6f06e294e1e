"""The manifests of deploy/kuberay/ have keys that exist, and say what the plan, the settings and the service say."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from ray.serve.schema import ServeDeploySchema
from referencing import Registry, Resource

from cluster.hardware import kind_of, kinds
from cluster.plan import Node, Work, make_plan
from cluster.reservation import check_reservation, serve_shares
from cluster.settings import Settings
from deploy.check import problems, ray_clusters
from serve.deploying import read_config, unknown_keys
from tests.deploy_files import KUBERNETES_FILES, ROOT, filled, gib, parsed, values

SCHEMAS = ROOT / "tests/schemas"
OPERATORS = ("RayCluster", "RayJob", "RayService", "PodMonitor")
DOCUMENTS = [(name, document) for name in KUBERNETES_FILES for document in parsed(name)]
CLUSTERS = [(name, spec) for name, document in DOCUMENTS for spec in ray_clusters(document)]
SETTINGS = next(document["data"] for _, document in DOCUMENTS if document["kind"] == "ConfigMap")
STAGES = ("decode", "speech_activity", "transcribe", "diarize", "segments", "voices", "texts", "pictures")
LABEL = "ray.io/accelerator-type"


@cache
def registry() -> Registry:
    kubernetes = json.loads((SCHEMAS / "kubernetes.json").read_text("utf-8"))
    ray = yaml.safe_load((SCHEMAS / "kuberay.yaml").read_text("utf-8"))
    ray["$schema"] = kubernetes["$schema"]
    return Registry().with_resources(
        [("k8s", Resource.from_contents(kubernetes)), ("ray", Resource.from_contents(ray))]
    )


def faults(document: dict[str, Any]) -> list[str]:
    """What the schema of its kind says against a document."""
    kind = document["kind"]
    group = {"NetworkPolicy": "networking.v1"}.get(kind, "core.v1")
    place = f"ray#/$defs/{kind}" if kind in OPERATORS else f"k8s#/$defs/io.k8s.api.{group}.{kind}"
    validator = Draft202012Validator({"$ref": place}, registry=registry())
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def workers(spec):
    return spec["workerGroupSpecs"]


def container(group):
    return group["template"]["spec"]["containers"][0]


def pods(spec):
    return [spec["headGroupSpec"], *workers(spec)]


@pytest.mark.parametrize(("name", "document"), DOCUMENTS)
def test_every_key_exists(name, document):
    assert faults(document) == []


@pytest.mark.parametrize("name", KUBERNETES_FILES)
def test_a_file_is_ready_once_it_is_filled_in_and_not_before(name):
    assert problems(ROOT / name, filled(name)) == []
    assert problems(ROOT / name, (ROOT / name).read_text("utf-8"))


@pytest.mark.parametrize("name", KUBERNETES_FILES[1:])
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("authOptions:", "authOptionz:", "authOptionz"),
        ("mode: token, ", "", "authOptions.mode is not token"),
        ('rayVersion: "2.60.0"', 'rayVersion: "2.55.0"', "rayVersion 2.55.0, this checkout has 2.60.0"),
        ("rushes:0.1.0", "rushes:0.0.9", "image rushes 0.0.9, this checkout has 0.1.0"),
        ('num-cpus: "0"', 'num-cpus: "4"', "the head offers CPUs"),
        ("containerPort: 6379", "containerPorts: 6379", "containerPorts"),
        ("minReplicas:", "minReplica:", "minReplica"),
        ("runAsNonRoot: true", 'runAsNonRoot: "yes"', "runAsNonRoot"),
        ("volumeMounts: &mounts", "volumeMount: &mounts", "volumeMount"),
    ],
)
def test_a_broken_file_is_told(name, old, new, told):
    text = filled(name)
    assert old in text
    broken = text.replace(old, new)
    found = problems(ROOT / name, broken)
    found += [fault for document in yaml.safe_load_all(broken) for fault in faults(document)]
    assert any(told in one for one in found), found


@pytest.mark.parametrize(("name", "spec"), CLUSTERS)
def test_every_pod_is_unprivileged_measured_and_of_one_image(name, spec):
    assert len(set(values(spec, "image"))) == 1
    for group in pods(spec):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["serviceAccountName"] in {
            d["metadata"]["name"] for _, d in DOCUMENTS if d["kind"] == "ServiceAccount"
        }
        for one in [*pod["containers"], *pod.get("initContainers", [])]:
            assert one["securityContext"]["allowPrivilegeEscalation"] is False
            assert one["resources"]["requests"] == one["resources"]["limits"]
        assert any(port["name"] == "metrics" for port in container(group)["ports"])
        assert group["rayStartParams"]["metrics-export-port"] == "8080"


@pytest.mark.parametrize(("name", "spec"), CLUSTERS)
def test_secrets_come_by_reference_and_the_database_by_the_file_that_is_mounted(name, spec):
    assert spec["authOptions"] == {"mode": "token", "secretName": "rushes-ray-token"}
    assert not list(values(spec, "env")), "settings come from the ConfigMap"
    for group in pods(spec):
        mounts = {mount["name"]: mount["mountPath"] for mount in container(group)["volumeMounts"]}
        assert SETTINGS["RUSHES_DATABASE_URL_FILE"] == f"{mounts['database']}/database_url"
        (volume,) = [one for one in group["template"]["spec"]["volumes"] if one["name"] == "database"]
        assert volume["secret"] == {"secretName": "rushes-database", "defaultMode": 0o440}
        assert container(group)["envFrom"] == [{"configMapRef": {"name": "rushes"}}]
        assert all(SETTINGS[key].startswith(f"{mounts['data']}/") for key in ("RUSHES_DATA_DIR", "HF_HOME"))


@pytest.mark.parametrize(("name", "spec"), CLUSTERS)
def test_the_cache_is_smaller_than_the_volume_it_lies_on(name, spec):
    cache_gib = int(SETTINGS["RUSHES_CACHE_BYTES"]) / 2**30
    for group in pods(spec):
        (volume,) = [one for one in group["template"]["spec"]["volumes"] if one["name"] == "data"]
        size = volume["ephemeral"]["volumeClaimTemplate"]["spec"]["resources"]["requests"]["storage"]
        assert cache_gib + 50 <= gib(size)


def test_the_settings_are_settings(monkeypatch):
    fields = {key: value for key, value in SETTINGS.items() if key.startswith("RUSHES_")}
    for key, value in fields.items():
        monkeypatch.setenv(key, value)
    settings = Settings()
    assert settings.cache_bytes == int(SETTINGS["RUSHES_CACHE_BYTES"])
    assert len(fields) == 4


@pytest.mark.parametrize(("name", "spec"), CLUSTERS)
def test_weights_come_before_a_worker_takes_work(name, spec):
    for group in workers(spec):
        (warm,) = group["template"]["spec"]["initContainers"]
        assert warm["command"] == ["rushes", "models", "warm"]
        assert warm["volumeMounts"] == container(group)["volumeMounts"]


@pytest.mark.parametrize(("name", "spec"), [pair for pair in CLUSTERS if "service" not in pair[0]])
def test_the_archive_fits_the_largest_and_the_smallest_cluster(name, spec):
    for count in ("minReplicas", "maxReplicas"):
        nodes = []
        for group in workers(spec):
            limits = container(group)["resources"]["limits"]
            cards = limits.get("nvidia.com/gpu", 0)
            kind = kind_of(group.get("labels", {}).get(LABEL, ""))
            assert bool(kind) is bool(cards)
            gpus = (kinds()[kind].card_gib,) * cards if kind else ()
            nodes += [Node(int(limits["cpu"]), gib(limits["memory"]), gpus, kind=kind or "cpu")] * group[count]
        plan = make_plan(Work(1_200 * 3_600.0, 2_400), nodes, STAGES, runner="ray", max_connections=None)
        cards = sum(len(node.gpu_gib) for node in nodes)
        assert sum(group.actors * group.gpus_each for group in plan.groups) <= cards + 1e-6
        assert all(any(group.may_use(node) for node in nodes) for group in plan.groups)
        assert count == "maxReplicas" or any(group.gpus_each for group in plan.groups)


def test_the_job_is_bounded_and_goes_with_its_cluster():
    (spec,) = [document["spec"] for _, document in DOCUMENTS if document["kind"] == "RayJob"]
    assert spec["backoffLimit"] >= 1
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    # Any other mode splits the shell's words.
    assert spec["submissionMode"] == "HTTPMode"
    assert spec["rayClusterSpec"]["enableInTreeAutoscaling"] is True


def test_the_service_is_the_shipped_one_at_an_address_that_asks_for_keys(tmp_path):
    (spec,) = [document["spec"] for _, document in DOCUMENTS if document["kind"] == "RayService"]
    (tmp_path / "serve.yaml").write_text(spec["serveConfigV2"])
    config, shipped = read_config(tmp_path / "serve.yaml"), read_config(ROOT / "serve/config.yaml")
    assert config["http_options"].pop("host") == "0.0.0.0"
    shipped["http_options"].pop("host")
    assert config == shipped
    assert list(unknown_keys({**config, "applicationz": 1}, ServeDeploySchema)) == ["applicationz"]
    args = config["applications"][0]["args"]["settings"]["serve"]
    (group,) = workers(spec["rayClusterConfig"])
    cards = container(group)["resources"]["limits"]["nvidia.com/gpu"]
    assert kind_of(group["labels"][LABEL])
    check_reservation(serve_shares(args["models"], args["gpu_share"]), args["max_replicas"], cards, float(cards))


def test_prometheus_keeps_what_deploy_grafana_keeps():
    (monitor,) = [document for _, document in DOCUMENTS if document["kind"] == "PodMonitor"]
    kept = {
        point["port"]: [rule.get("regex") for rule in point["metricRelabelings"]]
        for point in monitor["spec"]["podMetricsEndpoints"]
    }
    scrapes = yaml.safe_load((ROOT / "deploy/grafana/prometheus.yaml").read_text("utf-8"))["scrape_configs"]
    wanted = {job["job_name"]: [rule["regex"] for rule in job["metric_relabel_configs"]] for job in scrapes}
    assert kept == {"metrics": wanted["ray"], "serve": wanted["rushes"]}


def test_only_named_neighbours_reach_the_pods():
    (policy,) = [document["spec"] for _, document in DOCUMENTS if document["kind"] == "NetworkPolicy"]
    chosen = policy["podSelector"]["matchLabels"].items()
    for _, spec in CLUSTERS:
        assert all(chosen <= group["template"]["metadata"]["labels"].items() for group in pods(spec))
    assert policy["policyTypes"] == ["Ingress"]
    assert all(rule.get("from") for rule in policy["ingress"])
