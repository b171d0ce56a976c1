"""cluster.yaml describes a cluster that Ray and EC2 would accept and that the shipped GPU config fits on."""

import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.session import get_session
from botocore.validate import ParamValidator
from moto.ec2.models.instance_types import INSTANCE_TYPES

from distil_ray.config.loader import load_config
from distil_ray.pipeline.capacity import actor_cpus

ROOT = Path(__file__).resolve().parents[2]
CLUSTER: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
NODE_TYPES: dict[str, dict[str, Any]] = CLUSTER["available_node_types"]


def _commands() -> Iterator[str]:
    for key in ("setup_commands", "head_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        yield from CLUSTER[key]


def test_ray_accepts_the_cluster() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))

    validate_config(prepared)
    assert {name: node["max_workers"] for name, node in prepared["available_node_types"].items()} == {
        "head": 0,
        "decode": 4,
        "recognize": 4,
    }


@pytest.mark.parametrize("name", NODE_TYPES)
def test_ec2_knows_every_launch_setting_of_a_node(name: str) -> None:
    run_instances = get_session().get_service_model("ec2").operation_model("RunInstances").input_shape

    report = ParamValidator().validate({**NODE_TYPES[name]["node_config"], "MinCount": 1, "MaxCount": 1}, run_instances)

    assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("name", NODE_TYPES)
def test_a_node_offers_ray_no_more_than_its_instance_type_has(name: str) -> None:
    machine = INSTANCE_TYPES[NODE_TYPES[name]["node_config"]["InstanceType"]]
    gpus = sum(gpu["Count"] for gpu in machine.get("GpuInfo", {}).get("Gpus", []))

    assert NODE_TYPES[name]["resources"]["CPU"] in (0, machine["VCpuInfo"]["DefaultVCpus"])
    assert NODE_TYPES[name]["resources"].get("GPU", 0) == gpus
    assert "x86_64" in machine["ProcessorInfo"]["SupportedArchitectures"]  # as the image is


def test_a_recognizer_of_the_gpu_config_fits_on_a_gpu_node_beside_a_decoder() -> None:
    resources = load_config(ROOT / "configs" / "gpu.yaml").resources
    node = NODE_TYPES["recognize"]["resources"]

    assert resources.gpus_per_actor == node["GPU"]
    assert actor_cpus(resources) + resources.decode_cpus + resources.commit_cpus <= node["CPU"]


def test_set_up_commands_are_valid_shell() -> None:
    for command in _commands():
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_a_node_gets_all_that_installing_the_package_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    mounts = {Path(local).name for local in CLUSTER["file_mounts"].values()}

    assert {"pyproject.toml", "constraints.txt", "distil_ray", project["readme"]} <= mounts
    assert all((ROOT / local).exists() for local in CLUSTER["file_mounts"].values() if local.startswith("./"))
    assert any("pip install -q -c constraints.txt -e ." in command for command in _commands())


def test_every_ray_process_of_the_cluster_asks_for_the_token() -> None:
    starts = [line for line in _commands() if "ray start" in line]

    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "/home/ubuntu/.ray/auth_token" in CLUSTER["file_mounts"]
