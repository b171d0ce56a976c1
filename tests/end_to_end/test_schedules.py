"""The shipped schedules: what cron would run, and manifests that KubeRay would take.

The keys below are those of the custom resources RayJob and RayCronJob (ray.io/v1) of KubeRay 1.7, whose whole schemas
are too large to keep here; of Kubernetes' own pods only the keys that the manifests use.
"""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from distil_ray.config.loader import load_config

ROOT = Path(__file__).resolve().parents[2]
JOB = ROOT / "configs/kubernetes/nightly-rayjob.yaml"
CRON_JOB = ROOT / "configs/kubernetes/nightly-raycronjob.yaml"
PREREQUISITES = ROOT / "configs/kubernetes/prerequisites.yaml"
KUBERNETES = "1.30"  # version whose schemas the manifests are checked against

Tree = dict[str, Any]

STRINGS = {"*": str}
RESOURCES = {"requests": STRINGS, "limits": STRINGS}
CONTAINER = {
    "name": str,
    "image": str,
    "env": [
        {"name": str, "value": str, "valueFrom": {"secretKeyRef": {"name": str, "key": str, "optional": bool}}},
    ],
    "ports": [{"name": str, "containerPort": int}],
    "resources": RESOURCES,
    "volumeMounts": [{"name": str, "mountPath": str}],
}
POD = {
    "spec": {
        "serviceAccountName": str,
        "securityContext": {"runAsNonRoot": bool, "runAsUser": int, "fsGroup": int},
        "nodeSelector": STRINGS,
        "tolerations": [{"key": str, "operator": str, "effect": str}],
        "terminationGracePeriodSeconds": int,
        "containers": [CONTAINER],
        "volumes": [{"name": str, "persistentVolumeClaim": {"claimName": str}}],
    }
}
GROUP = {"labels": STRINGS, "rayStartParams": STRINGS, "resources": STRINGS, "template": POD}
HEAD = GROUP | {"enableIngress": bool, "headService": dict, "ingressOptions": dict, "serviceType": str}
WORKERS = GROUP | {
    **dict.fromkeys(("replicas", "minReplicas", "maxReplicas", "numOfHosts", "idleTimeoutSeconds", "priority"), int),
    **{"groupName": str, "scaleStrategy": dict, "suspend": bool},
}
RAY_CLUSTER = {
    "rayVersion": str,
    "authOptions": {"mode": str, "secretName": str, "enableK8sTokenAuth": bool},
    "enableInTreeAutoscaling": bool,
    **dict.fromkeys(("autoscalerOptions", "gcsFaultToleranceOptions", "headServiceAnnotations"), dict),
    **dict.fromkeys(("historyServerOptions", "networkPolicy", "tlsOptions", "upgradeStrategy"), dict),
    **{"managedBy": str, "suspend": bool},
    "headGroupSpec": HEAD,
    "workerGroupSpecs": [WORKERS],
}
RAY_JOB = {
    **dict.fromkeys(("entrypoint", "runtimeEnvYAML", "jobId", "submissionMode", "managedBy"), str),
    **dict.fromkeys(("activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"), int),
    **{"preRunningDeadlineSeconds": int, "shutdownAfterJobFinishes": bool, "suspend": bool},
    **{"entrypointNumCpus": float, "entrypointNumGpus": float, "entrypointResources": str},
    **dict.fromkeys(("deletionStrategy", "submitterConfig", "submitterPodTemplate"), dict),
    **{"clusterSelector": STRINGS, "metadata": STRINGS},
    "rayClusterSpec": RAY_CLUSTER,
}
RAY_CRON_JOB = {"schedule": str, "timeZone": str, "suspend": bool, "jobTemplate": RAY_JOB}
OBJECT = {"apiVersion": str, "kind": str, "metadata": {"name": str, "generateName": str, "labels": STRINGS}}
KINDS = {"RayJob": OBJECT | {"spec": RAY_JOB}, "RayCronJob": OBJECT | {"spec": RAY_CRON_JOB}}


def _faults(node: Any, allowed: Any, place: str = "") -> Iterator[str]:
    """What is not as `allowed` has it: keys by name (``*``: any), lists of one form, leaves by type."""
    if isinstance(allowed, type):
        if type(node) is not allowed:
            yield f"{place}: {node!r} is no {allowed.__name__}"
    elif isinstance(allowed, list):
        items = node if isinstance(node, list) else [node]
        for number, item in enumerate(items):
            yield from _faults(item, allowed[0], f"{place}[{number}]")
    elif not isinstance(node, dict):
        yield f"{place}: {node!r} holds no keys"
    else:
        for key, value in node.items():
            form = allowed.get(key, allowed.get("*"))
            yield from [f"{place}.{key}: is no key"] if form is None else _faults(value, form, f"{place}.{key}")


def _load(path: Path) -> Tree:
    tree: Tree = yaml.safe_load(path.read_text())
    return tree


def _misspelled(tree: Any) -> Iterator[Any]:
    """The tree once for every key in it, with a letter more in that key."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield {f"{name}x" if name == key else name: other for name, other in tree.items()}
            yield from (tree | {key: wrong} for wrong in _misspelled(value))
    elif isinstance(tree, list):
        for number, item in enumerate(tree):
            yield from ([*tree[:number], wrong, *tree[number + 1 :]] for wrong in _misspelled(item))


@pytest.mark.parametrize("path", [JOB, CRON_JOB], ids=lambda path: path.stem)
def test_a_manifest_has_no_key_that_kuberay_does_not_know(path: Path) -> None:
    manifest = _load(path)

    assert manifest["apiVersion"] == "ray.io/v1"
    assert list(_faults(manifest, KINDS[manifest["kind"]])) == []


def test_a_misspelled_key_of_a_manifest_is_noticed() -> None:
    manifest = _load(JOB)
    # resources of three pods by name (cpu, memory, a GPU), one parameter of ray start, and the label of GPU nodes
    free = len(RESOURCES) * 7 + 2
    unnoticed = [wrong for wrong in _misspelled(manifest) if not list(_faults(wrong, KINDS["RayJob"]))]

    assert len(unnoticed) == free


def test_the_schedule_runs_the_very_job() -> None:
    cron = _load(CRON_JOB)["spec"]

    assert cron["jobTemplate"] == _load(JOB)["spec"]
    assert cron["timeZone"] == "Etc/UTC"
    assert re.fullmatch(r"\d+ \d+ \* \* \*", cron["schedule"])


@pytest.mark.parametrize("path", [JOB, CRON_JOB], ids=lambda path: path.stem)
def test_the_pods_are_valid_for_kubernetes(path: Path) -> None:
    spec = _load(path)["spec"]
    cluster = spec.get("jobTemplate", spec)["rayClusterSpec"]
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    for pod in pods:
        manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod}
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)

    assert [pod for pod in pods if "nodeSelector" in pod] == [pod for pod in pods if "tolerations" in pod] == [pods[1]]


def test_the_prerequisites_are_valid_and_are_those_that_the_pods_name() -> None:
    account, claim = yaml.safe_load_all(PREREQUISITES.read_text())
    for manifest in (account, claim):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    cluster = _load(JOB)["spec"]["rayClusterSpec"]
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]

    assert {pod["serviceAccountName"] for pod in pods} == {account["metadata"]["name"]}
    claims = {volume["persistentVolumeClaim"]["claimName"] for pod in pods for volume in pod.get("volumes", [])}
    assert claims == {claim["metadata"]["name"]}


def _containers(job: Tree) -> dict[str, Tree]:
    cluster = job["rayClusterSpec"]
    groups = {"head": cluster["headGroupSpec"], **{group["groupName"]: group for group in cluster["workerGroupSpecs"]}}
    return {name: group["template"]["spec"]["containers"][0] for name, group in groups.items()}


def test_the_manifest_s_command_is_one_that_the_image_can_run() -> None:
    job = _load(JOB)["spec"]
    program, command, *arguments = shlex.split(job["entrypoint"])
    config = _config_of(arguments)
    containers = _containers(job)
    recognizer, groups = containers["recognize"]["resources"]["limits"], job["rayClusterSpec"]["workerGroupSpecs"]

    assert (program, command) == ("distil-ray", "nightly")
    assert len({container["image"] for container in containers.values()}) == 1
    assert f"ray=={job['rayClusterSpec']['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()
    assert config.resources.autoscaling  # the cluster begins without workers
    most = next(group["maxReplicas"] for group in groups if group["groupName"] == "recognize")
    assert config.resources.actors == most
    assert config.resources.gpus_per_actor <= int(recognizer["nvidia.com/gpu"])
    assert config.resources.cpus_per_actor <= int(recognizer["cpu"])
    assert yaml.safe_load(job["runtimeEnvYAML"]) == {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}}
    assert job["backoffLimit"] == 0


def _config_of(arguments: list[str]) -> Any:
    """The settings of a job's command line, whose config is shipped."""
    flags = [word for word in arguments if word.startswith("--")]
    at = arguments.index("--config")
    assert flags == ["--config"]
    return load_config(arguments[at + 1], [word for word in arguments if "=" in word])


def _cron_command() -> str:
    """The one scheduled line of the crontab as cron hands it to the shell."""
    lines = [line for line in (ROOT / "configs/crontab").read_text().splitlines() if re.match(r"[\d*]", line)]
    (line,) = lines
    found = re.fullmatch(r"\d+ \d+ \* \* \* (.+)", line)
    assert found
    assert not re.search(r"(?<!\\)%", line), "cron takes a bare % for the end of the line"
    return found[1].replace(r"\%", "%")


@pytest.fixture
def submitted(tmp_path: Path) -> list[str]:
    """The arguments that `ray` gets from the crontab's line."""
    command = _cron_command()
    assert "cd /opt/distil_ray " in command
    for name, script in {"ray": f'printf "%s\\0" "$@" > {tmp_path}/arguments', "logger": "cat"}.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/bash\n{script}\n")
        program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    command = command.replace("/opt/distil_ray", str(ROOT))
    subprocess.run(["bash", "-c", command], env=environment, check=True, timeout=60)
    return (tmp_path / "arguments").read_text().split("\0")[:-1]


def test_cron_submits_the_job_under_an_id_of_its_own(submitted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.dashboard.modules.job.cli import submit

    assert submitted[:2] == ["job", "submit"]
    options = submit.make_context("ray job submit", submitted[2:]).params  # ray's own idea of its options
    assert re.fullmatch(r"nightly-\d{4}-\d{2}-\d{2}\.\d{6}", options["submission_id"])
    assert options["no_wait"]
    assert options["working_dir"] == "."
    assert json.loads(options["runtime_env_json"]) == {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}}
    assert options["entrypoint"][:2] == ("python", "jobs/nightly.py")
    monkeypatch.chdir(ROOT)
    assert _config_of(list(options["entrypoint"][2:])).output.uri


def test_the_token_of_the_cluster_is_outside_of_the_uploaded_folder() -> None:
    text = (ROOT / "configs/crontab").read_text()
    (token,) = re.findall(r"^RAY_AUTH_TOKEN_PATH=(.+)$", text, flags=re.MULTILINE)

    assert not token.startswith("/opt/distil_ray/")
