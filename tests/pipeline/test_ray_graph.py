"""The graph on a real Ray: separate operators, parts that travel early, deaths that cost nothing."""

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
import soundfile

from distil_ray.config import ResourcesConfig
from distil_ray.config.loader import load_config
from distil_ray.errors import RunError, SettingsError
from distil_ray.output.ledger import Ledger
from distil_ray.output.run_context import ChunkingPlan, Run
from distil_ray.pipeline import graph_execution, ray_cluster, ray_graph
from distil_ray.pipeline.planner import Plan, make_plan
from distil_ray.readers.listing import list_recordings
from distil_ray.types import SAMPLE_RATE
from tests.support.fakes import EchoTranscribe
from tests.support.waiting import wait_until

S = SAMPLE_RATE


def assert_every_row_once(run: Run, plan: Plan) -> None:
    """The output has one row for each listed recording."""
    ledger = Ledger.read(run.config.output.uri, run.storage)
    assert len(ledger.missing(plan.listed_keys)) == len(ledger.duplicates()) == 0


class SlowTranscribe(EchoTranscribe):
    """Tells in `device` which actor worked when; slow enough for both actors to be needed."""

    def __call__(self, parts: pa.Table) -> pa.Table:
        started = time.time()
        time.sleep(0.3)
        self._recognizer.device = f"{ray.get_runtime_context().get_actor_id()} {started}"
        return super().__call__(parts)


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., tuple[Run, Plan]]:
    def make(files: dict[str, float], *overrides: str) -> tuple[Run, Plan]:
        folder = tmp_path / "audio"
        folder.mkdir()
        for number, (name, seconds) in enumerate(files.items()):
            noise = np.random.default_rng(number).integers(-3000, 3000, int(seconds * S)).astype(np.int16)
            soundfile.write(folder / name, noise, S)
        config = load_config(None, [f"input.uri={folder}", f"output.uri={tmp_path / 'out'}", *overrides])
        run = Run(config, "test", "f" * 16, "fake", None, ("en", "de"), ChunkingPlan("quiet", 10 * S, 0, 2 * S, ""))
        listing = list_recordings(config.input, run.storage)
        ledger = Ledger.read(config.output.uri, run.storage)
        return run, make_plan(listing, ledger, run.fingerprint, config.plan, run.plan_uri, run.storage)

    return make


def test_parts_reach_several_actors_while_their_task_is_still_decoded(
    local_ray: None, planned: Callable[..., tuple[Run, Plan]]
) -> None:
    run, plan = planned({"long.flac": 600.0}, "plan.part_audio_s=50", "decoding.language=en", "resources.actors=2")
    with ray_cluster.connect_cluster(run.config.resources):
        rows = list(ray_graph.run_graph(run, plan, SlowTranscribe))
    assert len(rows) >= 12
    assert sum(row["committed"] for row in rows) == 1
    actors = {row["device"].split()[0] for row in rows}
    assert len(actors) == 2
    starts = sorted(float(row["device"].split()[1]) for row in rows)
    decode_s = sum(row["decode_s"] for row in rows)
    assert starts[0] < starts[-1] - 1.0
    assert decode_s > 0


def test_decode_and_transcribe_are_operators_of_their_own(
    local_ray: None, planned: Callable[..., tuple[Run, Plan]]
) -> None:
    same = ["resources.decode_cpus=1", "resources.cpus_per_actor=1"]  # what Ray would fuse
    run, plan = planned({"a.wav": 3.0}, "decoding.language=en", "resources.actors=1", *same)
    source = ray_graph.PlanDatasource(list(enumerate(plan.tasks["task_id"].to_pylist())), {})
    graph = ray_graph.build_graph(run, source, 1, EchoTranscribe)
    graph = graph.materialize()
    operators = [
        line.split(":")[0].split(" ", 2)[2] for line in graph.stats().splitlines() if line.startswith("Operator")
    ]
    assert operators == [
        "ReadPlan->MapBatches(decode_tasks)",
        "MapBatches(FaultIsolatedStage)",
        "MapBatches(write_parts)",
    ]


class MortalTranscribe(EchoTranscribe):
    """Kills its own process at the first part, once for all actors."""

    def __call__(self, parts: pa.Table) -> pa.Table:
        grave = Path(self.output) / "died-here-once"
        if not grave.exists():
            grave.touch()
            os._exit(1)
        return super().__call__(parts)

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.output = run.config.input.uri[0]


def test_an_actor_that_dies_loses_and_doubles_nothing(
    local_ray: None, planned: Callable[..., tuple[Run, Plan]]
) -> None:
    run, plan = planned({f"{i}.wav": 2.0 for i in range(4)}, "decoding.language=en", "resources.actors=1")
    with ray_cluster.connect_cluster(run.config.resources):
        rows = list(ray_graph.run_graph(run, plan, MortalTranscribe))
    assert [row["num_recordings"] for row in rows if row["committed"]] == [4]
    assert_every_row_once(run, plan)


TWO_EXECUTORS = ("decoding.language=en", "resources.actors=2", "resources.executors=2", "plan.task_recordings=1")


def test_two_processes_share_the_tasks_and_the_recognizers(
    local_ray: None, planned: Callable[..., tuple[Run, Plan]]
) -> None:
    run, plan = planned({f"{i}.wav": 1.0 for i in range(25)}, *TWO_EXECUTORS)
    with ray_cluster.connect_cluster(run.config.resources):
        rows = list(ray_graph.run_graph(run, plan, SlowTranscribe))
    assert sorted(row["task_id"] for row in rows) == sorted(plan.tasks["task_id"].to_pylist())
    assert_every_row_once(run, plan)
    by_actor = Counter(row["device"].split()[0] for row in rows)
    assert sorted(by_actor.values()) == [12, 13]
    assert 2 in {row["actors_alive"] for row in rows}
    assert not processes_alive(), "they end with the run"


def processes_alive() -> list[int]:
    """Process ids of executors."""
    actors = ray._private.state.actors().values()
    return [one["Pid"] for one in actors if one["ActorClassName"] == "_ExecutorProcess" and one["State"] == "ALIVE"]


def test_a_recognizer_of_one_process_that_dies_loses_and_doubles_nothing(
    local_ray: None, planned: Callable[..., tuple[Run, Plan]]
) -> None:
    run, plan = planned({f"{i}.wav": 2.0 for i in range(6)}, *TWO_EXECUTORS)
    with ray_cluster.connect_cluster(run.config.resources):
        rows = list(ray_graph.run_graph(run, plan, MortalTranscribe))
    assert [row["num_recordings"] for row in rows if row["committed"]] == [1] * 6
    assert_every_row_once(run, plan)


def test_a_process_that_is_killed_ends_the_run_and_the_next_one_does_the_rest(
    local_ray: None, planned: Callable[..., tuple[Run, Plan]]
) -> None:
    run, plan = planned({f"{i}.wav": 2.0 for i in range(20)}, *TWO_EXECUTORS)
    with ray_cluster.connect_cluster(run.config.resources):
        rows = ray_graph.run_graph(run, plan, SlowTranscribe)
        next(rows)
        os.kill(processes_alive()[0], signal.SIGKILL)
        with pytest.raises(RunError, match="Ray ended the run"):
            list(rows)
        wait_until(lambda: not processes_alive())  # the other one ends, too
        ledger = Ledger.read(run.config.output.uri, run.storage)
        assert 0 < len(ledger.missing(plan.listed_keys)) < 20
        listing = list_recordings(run.config.input, run.storage)
        rest = make_plan(listing, ledger, run.fingerprint, run.config.plan, run.plan_uri, run.storage)
        list(ray_graph.run_graph(run, rest, EchoTranscribe))
    assert_every_row_once(run, plan)


class UnloadableTranscribe(EchoTranscribe):
    """Cannot load its model."""

    def __init__(self, run: Run) -> None:
        raise RuntimeError("no such weights")


@pytest.mark.slow
def test_an_error_of_a_process_is_that_of_the_run(local_ray: None, planned: Callable[..., tuple[Run, Plan]]) -> None:
    run, plan = planned({f"{i}.wav": 2.0 for i in range(4)}, *TWO_EXECUTORS)
    told = pytest.raises(
        RunError, match=r"^a recognizer could not be started with model\.name=.* on node \d.*no such weights"
    )
    with ray_cluster.connect_cluster(run.config.resources), told:
        list(ray_graph.run_graph(run, plan, UnloadableTranscribe))
    wait_until(lambda: not processes_alive())


def test_a_gpu_that_is_not_there_is_reported_at_once(local_ray: None) -> None:
    told = pytest.raises(SettingsError, match=r"resources\.gpus_per_actor=1: no node")
    with told:
        ray_cluster.allocate_resources(ResourcesConfig(gpus_per_actor=1))


def test_an_actor_larger_than_every_node_is_reported_at_once(local_ray: None) -> None:
    told = pytest.raises(SettingsError, match="the largest node has 4 CPUs")
    with told:
        ray_cluster.allocate_resources(ResourcesConfig(cpus_per_actor=64))


def test_recognizers_that_leave_no_cpu_to_decode_with_are_reported_at_once(local_ray: None) -> None:
    """On four CPUs: two of 1.75 each leave room for a decode task, two of 2 and three of 1.25 do not."""
    ray_cluster.allocate_resources(ResourcesConfig(actors=2, cpus_per_actor=1.75))
    for actors, cpus in ((2, 2.0), (3, 1.25)):
        with pytest.raises(SettingsError, match=rf"{actors} recognizers of that size leave no CPU to decode"):
            ray_cluster.allocate_resources(ResourcesConfig(actors=actors, cpus_per_actor=cpus))
    ray_cluster.allocate_resources(ResourcesConfig(actors=2, cpus_per_actor=2.0, autoscaling=True))


def test_an_address_without_a_server_is_reported_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(SettingsError, match=f"no Ray cluster could be reached at '{address}'"):
        ray_cluster._connect(ResourcesConfig(ray_address=address))


def test_errors_of_ray_data_s_threads_after_a_shutdown_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.data._internal.execution.metadata_fetcher import ThreadedMetadataFetcher

    printed: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: printed.append(args.thread.name))
    graph_execution._hide_errors_of_ray_threads()
    for name in (ThreadedMetadataFetcher()._thread.name, "lease"):
        thread = threading.Thread(target=lambda: 1 // 0, name=name)
        thread.start()
        thread.join()
    assert printed == ["lease"]


def test_an_error_of_a_task_is_its_exception_without_ray_s_advice(planned: Callable[..., tuple[Run, Plan]]) -> None:
    run, _ = planned({"a.wav": 1.0})
    advice = ("Failed to apply UDF transform after 1/1 attempts.", "To change retry attempts, configure the context.")
    error = RuntimeError("\n".join(("ray::Decode()", '  File "x.py", line 1', "TypeError: no path", *advice)))
    assert ray_graph._explain(error, run) == "Ray ended the run: TypeError: no path"
