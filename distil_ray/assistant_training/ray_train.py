"""Training on a cluster: Ray Data streams the audio, workers of Ray Train optimize the student.

    rows of ──> decode ──────────> workers ──────────────────> student, current.json
    a file      CPU tasks          TorchTrainer: one process    object storage
                tables of PCM      on CPUs, or one per GPU

A worker stores encoder states on its own node, so that audio and states cross the network once. Checkpoints go to the
folder of assistants through the storage of the run. A training that was stopped resumes from the last one with the same
command, and one whose worker died resumes by itself. Progress reaches the driver through a small actor.
"""

import io
import logging
import math
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import ray
import ray.train
import torch
from ray.data import DataContext, Dataset
from ray.train.torch import TorchConfig, TorchTrainer, prepare_model

from distil_ray.assistant_training.audio import decode_training_audio, selections_to_table
from distil_ray.assistant_training.training_examples import RowSelection, TrainingData
from distil_ray.assistant_training.worker import Figures, TrainingSpec, WorkerGroup, train
from distil_ray.config import Config
from distil_ray.errors import DistilRayError, RunError, SettingsError
from distil_ray.pipeline.assistant_selection import training_uri
from distil_ray.pipeline.capacity import MIB, Node, actor_cpus, allocate_cpus, max_actors_beside_decoding, num_actors
from distil_ray.pipeline.ray_cluster import node_resources
from distil_ray.storage.storage import Storage

STATE_FILE = "state.pt"  # in a checkpoint
MAX_FAILURES = 2  # of a training whose worker died
POLL_INTERVAL_S = 1.0  # seconds between two calls of the status actor
COLLECTIVE_TIMEOUT_S = 7200  # seconds that workers wait for each other: their shares of the audio differ

OnStatus = Callable[[str | Figures], None]


class StatusActor:
    """Actor that collects progress messages and figures of the workers for the driver."""

    def __init__(self) -> None:
        self._new: list[str | Figures] = []
        self._error: DistilRayError | None = None

    def put(self, item: str | Figures) -> None:
        """Adds a message or figures."""
        self._new.append(item)

    def take(self) -> list[str | Figures]:
        """Returns what was added since the last call."""
        new, self._new = self._new, []
        return new

    def fail(self, error: DistilRayError) -> None:
        """Stores an error that no retry can fix."""
        self._error = error

    def error(self) -> DistilRayError | None:
        """Returns the error that no retry can fix; None if there is none."""
        return self._error


def train_on_cluster(assignment: TrainingSpec, data: TrainingData, on_status: OnStatus) -> None:
    """Trains on the cluster that this process is connected to. The student is uploaded when it returns.

    Args:
        assignment: Arguments of every worker.
        data: Selected examples.
        on_status: Called with messages and figures of the workers.

    Raises:
        SettingsError: A worker found wrong settings.
        RunError: The training failed for another reason.
    """
    config = assignment.run.config
    scaling = _scaling_config(config)
    status = ray.remote(num_cpus=0)(StatusActor).remote()
    filesystem, path = Storage(config.storage).arrow_filesystem(
        training_uri(config.assistant.uri or "", assignment.training)
    )
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # settings may contain relative paths
    trainer = TorchTrainer(
        _run_worker,
        train_loop_config={"assignment": assignment, "status": status},
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=scaling,
        run_config=ray.train.RunConfig(
            name=assignment.training,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
        ),
        datasets={"train": _make_dataset(data.train, config), "held_out": _make_dataset(data.held_out, config)},
        dataset_config=ray.train.DataConfig(datasets_to_split=["train"]),
    )
    _run_trainer(trainer, status, on_status)


def _run_trainer(trainer: TorchTrainer, status: Any, on_status: OnStatus) -> None:
    """Runs the trainer in a thread, because it would handle Ctrl-C itself, and forwards the workers' status."""
    failed: list[Exception] = []

    def run() -> None:
        try:
            trainer.fit()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="training", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_INTERVAL_S)
        for item in ray.get(status.take.remote()):
            on_status(item)
    if failed:
        raise ray.get(status.error.remote()) or RunError(_format_failure(failed[0])) from failed[0]


def _format_failure(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return f"the training failed: {last}. Re-run the same command to resume from the last checkpoint"


def _scaling_config(config: Config) -> ray.train.ScalingConfig:
    """Returns one worker per GPU; without GPUs, one with all CPUs of a node except those of a decode task."""
    nodes = node_resources()
    resources = allocate_cpus(config.resources, nodes)
    config = config.model_copy(update={"resources": resources})
    workers = _num_workers(config, nodes)
    if workers > 1 and config.assistant.encoder_states == "recomputed":
        raise SettingsError(
            f"assistant.encoder_states=recomputed: not supported with {workers} training processes, which would wait"
            " for each other in every epoch. Set it to cached, or assistant.workers to 1"
        )
    share: Node = {"CPU": actor_cpus(resources)}
    if resources.gpus_per_actor:
        share["GPU"] = resources.gpus_per_actor
    elif workers == 1:
        share["CPU"] = max(share["CPU"], *(node.get("CPU", 0.0) - resources.decode_cpus for node in nodes))
    return ray.train.ScalingConfig(
        num_workers=workers, use_gpu=resources.gpus_per_actor > 0, resources_per_worker=share
    )


def _num_workers(config: Config, nodes: Sequence[Node]) -> int:
    """Returns `assistant.workers`, or for auto as many as fit on the nodes: Ray would wait forever for more.

    Raises `SettingsError` for an explicit number that does not fit if the cluster cannot grow.
    """
    resources, requested = config.resources, config.assistant.workers
    capacity = max_actors_beside_decoding(nodes, resources)
    workers = (
        requested if isinstance(requested, int) else num_actors(resources, nodes) if resources.gpus_per_actor else 1
    )
    if requested == "auto" and capacity:
        return min(workers, capacity)
    if workers <= capacity or resources.autoscaling:
        return workers
    request = f"resources.cpus_per_actor={actor_cpus(resources):g}"
    if resources.gpus_per_actor:
        request += f", resources.gpus_per_actor={resources.gpus_per_actor}"
    raise SettingsError(
        f"assistant.workers={requested}: the nodes of the cluster have room for {capacity} training processes"
        f" ({request}) and a decode task (resources.decode_cpus={resources.decode_cpus:g}). Use fewer workers or fewer"
        " CPUs for each, or set resources.autoscaling=true if nodes will be added"
    )


def _make_dataset(selections: Sequence[RowSelection], config: Config) -> Dataset:
    """Returns a lazy data set of `AUDIO_SCHEMA`; audio is decoded as the workers read it."""
    DataContext.get_current().target_max_block_size = MIB  # one table per block
    files = ray.data.from_arrow([selections_to_table([selection]) for selection in selections])
    return files.map_batches(
        partial(decode_training_audio, config=config),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=config.resources.decode_cpus,
    )


def _run_worker(loop_config: dict[str, Any]) -> None:
    """Runs in each process of Ray Train."""
    assignment, status = loop_config["assignment"], loop_config["status"]
    if (error := ray.get(status.error.remote())) is not None:
        raise error
    logging.getLogger("distil_ray").setLevel(logging.INFO)
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1.0)  # type: ignore[no-untyped-call]
    group = WorkerGroup(
        on_status=status.put.remote if rank == 0 else lambda message: None,
        report=partial(_report, status, rank),
        rank=rank,
        size=size,
        threads=max(1, math.ceil(cpus)),
        # the embeddings are constant buffers, which need no broadcast at every step
        wrap=partial(prepare_model, parallel_strategy_kwargs={"broadcast_buffers": False}),
        all_reduce_min=_all_reduce_min if size > 1 else lambda number: number,
        state=_last_state(),
    )
    try:
        train(assignment, partial(_iter_shard, "train"), partial(_iter_shard, "held_out"), group)
    except DistilRayError as error:
        ray.get(status.fail.remote(error))
        raise


def _iter_shard(name: str) -> Iterator[pa.Table]:
    shard = cast(Any, ray.train.get_dataset_shard(name))
    return iter(shard.iter_batches(batch_size=None, batch_format="pyarrow"))


def _report(status: Any, rank: int, figures: Figures, state: Figures | None) -> None:
    if rank == 0:
        ray.get(status.put.remote(figures))
    if state is None:
        ray.train.report(figures)
        return
    with tempfile.TemporaryDirectory(prefix="distil-ray-checkpoint-") as folder:
        torch.save(state, Path(folder) / STATE_FILE)
        ray.train.report(figures, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _last_state() -> Figures | None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        data = (Path(folder) / STATE_FILE).read_bytes()
    return cast(Figures, torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))


def _all_reduce_min(number: float) -> float:
    """Returns the minimum of the numbers of all processes."""
    device = ray.train.torch.get_device()
    shared = torch.tensor(number, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MIN)
    return float(shared)
