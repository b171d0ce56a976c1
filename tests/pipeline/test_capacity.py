"""CPUs are divided among recognizers so that decoding and committing always find room, on one CPU as on a cluster."""

import re
import sys
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.config import ResourcesConfig
from distil_ray.config.loader import load_config
from distil_ray.errors import SettingsError
from distil_ray.pipeline import capacity
from distil_ray.pipeline.capacity import (
    actor_cpus,
    actor_memory_bytes,
    allocate_cpus,
    cluster_address,
    describe_memory_excess,
    max_actors_beside_decoding,
    num_actors,
    num_executors,
    recognizer_threads,
    require_actor_capacity,
    require_local_capacity,
)

CPU_CONFIG = load_config(Path(__file__).resolve().parents[2] / "configs" / "cpu.yaml").resources


@pytest.mark.parametrize(
    ("cpus", "actors", "threads"), [(1, 1, 1), (2, 1, 2), (4, 1, 4), (6, 1, 6), (8, 2, 4), (16, 4, 4), (64, 16, 4)]
)
def test_the_cpu_config_uses_every_cpu_of_a_machine(cpus: int, actors: int, threads: int) -> None:
    nodes = [{"CPU": float(cpus)}]

    allocated = allocate_cpus(CPU_CONFIG, nodes)

    require_actor_capacity(allocated, nodes, "this machine")
    assert (num_actors(allocated, nodes), recognizer_threads(allocated)) == (actors, threads)
    reserved = allocated.decode_cpus + allocated.commit_cpus
    assert actors * actor_cpus(allocated) + reserved <= cpus


@given(st.lists(st.integers(1, 128), min_size=1, max_size=6))
def test_auto_leaves_a_decoder_and_a_commit_their_cpus_on_any_cluster(cpus: list[int]) -> None:
    nodes = [{"CPU": float(each)} for each in cpus]

    allocated = allocate_cpus(CPU_CONFIG, nodes)

    require_actor_capacity(allocated, nodes, "a cluster")
    assert 1 <= num_actors(allocated, nodes) <= max_actors_beside_decoding(nodes, allocated)
    assert actor_cpus(allocated) != allocated.decode_cpus


def test_auto_gives_each_gpu_its_share_of_the_cpus_of_its_node() -> None:
    settings = ResourcesConfig(gpus_per_actor=1, cpus_per_actor="auto", decode_cpus=0.75, commit_cpus=0.25)
    nodes = [{"CPU": 96.0}, {"CPU": 8.0, "GPU": 4.0}]

    assert actor_cpus(allocate_cpus(settings, nodes)) == 1.75
    assert actor_cpus(allocate_cpus(settings, [{"CPU": 32.0, "GPU": 1.0}])) == 2.0
    assert num_actors(allocate_cpus(settings, nodes), nodes) == 4


def test_a_recognizer_has_all_of_its_gpus_on_one_node() -> None:
    settings = ResourcesConfig(gpus_per_actor=2, cpus_per_actor=1.0)
    assert num_actors(settings, [{"CPU": 16.0, "GPU": 3.0}, {"CPU": 16.0, "GPU": 3.0}, {"CPU": 16.0, "GPU": 1.0}]) == 2


@pytest.mark.parametrize(
    ("setting", "actors", "tasks", "expected"),
    [
        ("auto", 1, 9, 1),
        ("auto", 100, 900, 1),
        ("auto", 101, 900, 2),
        ("auto", 1000, 9000, 10),
        (3, 8, 9, 3),
        (3, 2, 9, 2),
        (2, 8, 1, 1),
    ],
)
def test_every_process_that_schedules_has_recognizers_and_tasks(
    setting: Literal["auto"] | int, actors: int, tasks: int, expected: int
) -> None:
    assert num_executors(ResourcesConfig(executors=setting), actors, tasks) == expected


def test_auto_divides_a_machine_among_the_actors_that_were_asked_for() -> None:
    settings = CPU_CONFIG.model_copy(update={"actors": 5})

    assert actor_cpus(allocate_cpus(settings, [{"CPU": 8.0}])) == 1.5


def test_auto_takes_the_usual_share_where_nodes_are_yet_to_come() -> None:
    settings = CPU_CONFIG.model_copy(update={"autoscaling": True})

    assert actor_cpus(allocate_cpus(settings, [{"CPU": 1.0}])) == 4.0


def test_stages_that_leave_nothing_to_the_recognizer_are_an_error() -> None:
    settings = ResourcesConfig(cpus_per_actor="auto", decode_cpus=0.75, commit_cpus=0.25)

    with pytest.raises(SettingsError, match=r"resources\.decode_cpus=0\.75 and resources\.commit_cpus=0\.25"):
        allocate_cpus(settings, [{"CPU": 1.0}])


def test_a_local_ray_is_refused_before_it_is_started_and_a_cluster_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "available_cpus", lambda: 2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)  # as if no other test of this process had started one

    refused = {
        "the largest node has 2 CPUs": ResourcesConfig(ray_address="local", cpus_per_actor=4.0),
        "no node has that many GPUs": ResourcesConfig(ray_address="local", gpus_per_actor=1),
    }
    for message, settings in refused.items():
        with pytest.raises(SettingsError, match=message):
            require_local_capacity(settings, lambda: 0)
        require_local_capacity(settings.model_copy(update={"ray_address": "10.0.0.1:6379"}), lambda: 0)
    require_local_capacity(CPU_CONFIG, lambda: 0)


def test_the_address_of_a_dashboard_is_refused_with_the_form_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")

    with pytest.raises(SettingsError, match=r"^RAY_ADDRESS=http://head:8265: .* host:port"):
        cluster_address(ResourcesConfig())
    with pytest.raises(SettingsError, match=r"^resources\.ray_address=http://head:8265: "):
        cluster_address(ResourcesConfig(ray_address="http://head:8265"))
    assert cluster_address(ResourcesConfig(ray_address="local")) is None


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_a_container_is_read(files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    assert capacity._read_cpu_quota(tmp_path) == quota


def test_memory_limits_the_actors_of_a_node_and_is_refused_where_no_node_has_it() -> None:
    gib = float(1 << 30)
    nodes = [{"CPU": 16.0, "memory": 10 * gib}, {"CPU": 16.0, "memory": 3 * gib}]
    settings = ResourcesConfig(cpus_per_actor=1.0, decode_cpus=0.5, commit_cpus=0.25, actor_memory_mb=2048)
    assert num_actors(settings, nodes) == 5 + 1
    require_actor_capacity(settings, nodes, "a cluster")
    large = settings.model_copy(update={"actor_memory_mb": 11_000})
    with pytest.raises(SettingsError, match=r"resources\.actor_memory_mb=11000: the largest node has 10240 MiB"):
        require_actor_capacity(large, nodes, "a cluster")
    require_actor_capacity(large, [{"CPU": 4.0}], "this machine, whose memory Ray has not counted yet")
    unresolved = settings.model_copy(update={"actor_memory_mb": "auto"})
    assert actor_memory_bytes(unresolved) is None


@pytest.mark.parametrize(
    ("reserved", "found", "words"),
    [
        (1000, 1800.4, "took 1,800 MiB, more than resources.actor_memory_mb=1000 reserves: .* Set it to 1900 or more"),
        (1000, 1000.0, None),
        (1000, None, None),
        (None, 1800.0, None),
    ],
)
def test_an_actor_that_takes_more_memory_than_reserved_is_named(
    reserved: int | None, found: float | None, words: str | None
) -> None:
    message = describe_memory_excess(ResourcesConfig(actor_memory_mb=reserved), found)
    assert (message is None) == (words is None)
    assert words is None or (message is not None and re.search(words, message))


def test_a_wrong_amount_of_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 256, auto or null"):
        ResourcesConfig(actor_memory_mb=200)
