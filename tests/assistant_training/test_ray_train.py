"""The number of training processes: at most as many as the cluster has room for beside a decode task."""

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.assistant_training import ray_train
from distil_ray.config import ResourcesConfig
from distil_ray.config.loader import load_config
from distil_ray.errors import SettingsError
from distil_ray.pipeline.capacity import max_actors_beside_decoding

NODES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=3)


def _scaling(monkeypatch: pytest.MonkeyPatch, nodes: list[tuple[int, int]], *words: str) -> tuple[int, float]:
    """Returns the number of processes and the CPUs of each, on nodes with these (CPUs, GPUs)."""
    found = [{"Alive": True, "Resources": {"CPU": float(cpus), "GPU": float(gpus)}} for cpus, gpus in nodes]
    found.append({"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}})
    total = {name: sum(node["Resources"][name] for node in found[:-1]) for name in ("CPU", "GPU")}  # type: ignore[index]
    monkeypatch.setattr(ray, "nodes", lambda: found)
    monkeypatch.setattr(ray, "cluster_resources", lambda: total)
    scaling = ray_train._scaling_config(load_config(None, list(words)))
    return scaling.num_workers, scaling.resources_per_worker["CPU"]  # type: ignore[return-value, index]


GPU = ("resources.gpus_per_actor=1", "resources.cpus_per_actor=2")


def test_there_is_one_process_per_gpu_as_far_as_there_are_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _scaling(monkeypatch, [(8, 4)], *GPU) == (3, 2.0)  # a fourth would leave no CPU to decode with
    assert _scaling(monkeypatch, [(8, 4), (1, 0)], *GPU) == (4, 2.0)
    assert _scaling(monkeypatch, [(8, 4)], *GPU, "resources.autoscaling=true", "assistant.workers=4") == (4, 2.0)


def test_one_process_on_cpus_gets_the_cpus_that_decoding_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _scaling(monkeypatch, [(2, 0), (4, 0)], "resources.gpus_per_actor=0") == (1, 3.5)
    assert _scaling(monkeypatch, [(4, 0)], "assistant.workers=3", "resources.gpus_per_actor=0") == (3, 1.0)


@pytest.mark.parametrize(
    ("nodes", "words", "message"),
    [
        (
            [(4, 0)],
            ("assistant.workers=2", "resources.cpus_per_actor=2"),
            r"workers=2: .* have room for 1 training processes",
        ),
        ([(8, 1)], ("assistant.workers=4", *GPU), r"workers=4: .* have room for 1 .*gpus_per_actor=1"),
        ([(2, 0)], ("resources.cpus_per_actor=2",), r"have room for 0 .*cpus_per_actor=2\) and a decode task"),
    ],
)
def test_too_many_workers_are_an_error(
    nodes: list[tuple[int, int]], words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match=message):
        _scaling(monkeypatch, nodes, *words)
    assert _scaling(monkeypatch, nodes, *words, "resources.autoscaling=true")[0] >= 1


@given(NODES, st.integers(0, 2), st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.5, 1.5]))
def test_the_capacity_is_the_number_of_processes_that_can_be_placed_one_by_one(
    nodes: list[tuple[int, int]], gpus: int, cpus: float, decode_cpus: float
) -> None:
    def place_processes(decoder: int) -> int:
        """Returns the number of processes that fit if a decode task is on node `decoder`."""
        free = [[node[0] - decode_cpus * (index == decoder), float(node[1])] for index, node in enumerate(nodes)]
        if free[decoder][0] < 0:
            return 0
        placed = 0
        for node in free:
            while node[0] >= cpus and node[1] >= gpus:
                node[0], node[1], placed = node[0] - cpus, node[1] - gpus, placed + 1
        return placed

    resources = ResourcesConfig(gpus_per_actor=gpus, cpus_per_actor=cpus, decode_cpus=decode_cpus)
    found = max_actors_beside_decoding([{"CPU": float(each), "GPU": float(its)} for each, its in nodes], resources)

    assert found == max(map(place_processes, range(len(nodes))), default=0)
