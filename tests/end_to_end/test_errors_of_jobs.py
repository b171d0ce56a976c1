"""Ways to start a job wrongly: each ends with exit code 2 and a line or two that name what was found and what to do.

In process, as the command line would: the job's own `main`. What needs the real one stands at the end.
"""

import errno
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import soundfile

from distil_ray.cli import command, command_line
from distil_ray.errors import ExitCode
from distil_ray.output.lease import acquire_lease
from distil_ray.storage import atomic_files
from distil_ray.storage.storage import Storage
from tests.support.jobs import load_job

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens

IN, OUT, MODEL = "input.uri={audio}", "output.uri={tmp}/out", "model.name={model}"
ALL = f"{IN} {OUT} {MODEL}"
TO_S3 = f"{IN} output.uri=s3://there/out {MODEL} storage.max_attempts=1"
S3 = f"input.uri=s3://there/audio {OUT} {MODEL} storage.max_attempts=1"

# job, its arguments, and what its message contains: several texts, in this order, with " … " between them
WRONG = [
    # the input
    ("transcribe", f"input.uri=/nowhere/at/all {OUT} {MODEL}", "no such file or folder; the nearest that exists is /"),
    ("transcribe", f"input.uri={{tmp}}/empty {OUT} {MODEL}", "input.uri={tmp}/empty: there are no recordings"),
    ("transcribe", f"input.uri={{audio}}/*.mp3 {OUT} {MODEL}", "there are no recordings"),
    ("transcribe", f"input.uri={{tmp}}/words.txt {OUT} {MODEL}", "1 file, none of them audio: .txt 1"),
    ("transcribe", f"input.uri={{tmp}}/words.txt input.format=manifest {OUT} {MODEL}", "found 'just words'"),
    ("transcribe", f"input.uri={{tmp}}/broken.jsonl {OUT} {MODEL}", "broken.jsonl line 1: expected one JSON object"),
    ("transcribe", f"input.uri={{tmp}}/a.csv {OUT} {MODEL}", "a manifest needs the column uri"),
    ("transcribe", f"input.uri={{tmp}}/twice.jsonl {OUT} {MODEL}", "input.uri: duplicate id 'x'"),
    ("transcribe", f"input.uri={{tmp}}/outside.jsonl {OUT} {MODEL}", "set input.allow_external_paths=true"),
    ("transcribe", f"input.uri={{audio}} input.format=kaldi {OUT} {MODEL}", "there are no recordings"),
    ("transcribe", f"input.uri=s4://a/b {OUT} {MODEL}", "no storage for 's4://'"),
    ("transcribe", f"input.uri=s3:// {OUT} {MODEL}", "input.uri=s3://: the bucket or folder is missing"),
    ("transcribe", f"input.uri={NOWHERE}/a.wav {OUT} {MODEL} storage.max_attempts=1", "Check the address"),
    # the store
    ("transcribe", f"{S3} storage.endpoint_url={{moto}} input.uri=s3://nobucket/a", "or its bucket does not exist"),
    ("transcribe", f"{S3} storage.endpoint_url={NOWHERE}", "Check storage.endpoint_url"),
    ("transcribe", f"{S3} storage.endpoint_url=localhost", "must begin with http:// or https://; found 'localhost'"),
    ("transcribe", f"{S3} storage.endpoint_url={{AccessDenied}}", "that they may read (s3:ListBucket, s3:GetObject)"),
    (
        "transcribe",
        f"{S3} storage.endpoint_url={{ExpiredToken}}",
        "input.uri=s3://there/audio … storage.region … credentials",
    ),
    (
        "transcribe",
        f"{TO_S3} storage.endpoint_url={{AccessDenied}}",
        "output.uri=s3://there/out … writing … s3:PutObject … s3:DeleteObject",
    ),
    ("transcribe", f"{TO_S3} storage.endpoint_url={{InvalidAccessKeyId}}", "does not know AWS_ACCESS_KEY_ID"),
    ("transcribe", f"{TO_S3} storage.endpoint_url={{SignatureDoesNotMatch}}", "AWS_SECRET_ACCESS_KEY does not belong"),
    (
        "transcribe",
        f"{TO_S3} storage.endpoint_url={{AuthorizationHeaderMalformed}}",
        "output.uri=s3://there/out … set storage.region … AWS_REGION",
    ),
    ("transcribe", f"{TO_S3} storage.endpoint_url={{ExpiredToken}}", "get new ones, with AWS_SESSION_TOKEN"),
    # the output
    (
        "transcribe",
        f"{ALL} output.uri={{tmp}}/words.txt",
        "output.uri={tmp}/words.txt: cannot write … A file … another folder",
    ),
    ("transcribe", f"{ALL} output.uri=/proc/out", "output.uri=/proc/out: cannot write"),
    ("transcribe", f"{ALL} output.uri={NOWHERE}/out", "web servers are read-only"),
    ("transcribe", f"{ALL} output.uri=s3://nobucket/o storage.endpoint_url={{moto}}", "no such file or bucket"),
    ("transcribe", f"{ALL} output.uri={{tmp}}/held", "run other, process "),
    # the model
    ("transcribe", f"{ALL} model.name=packaged:whisper-large", "packaged models are packaged:whisper-base"),
    (
        "transcribe",
        f"{ALL} model.name=/nowhere/model",
        "model.name=/nowhere/model: there is no such … hub id … packaged:",
    ),
    ("transcribe", f"{ALL} model.name={{tmp}}/empty", "model.name={tmp}/empty: … no config.json and no tokenizer.json"),
    (
        "transcribe",
        f"{ALL} model.name=openai/none-such model.cache_dir={{tmp}}/cache",
        "model.name=openai/none-such: … network … local folder … HF_HOME",
    ),
    ("transcribe", f"{ALL} model.name=packaged:whisper-base model.cache_dir={{tmp}}/words.txt", "model.cache_dir: "),
    ("transcribe", f"{ALL} decoding.language=xx", "does not support this language"),
    (
        "transcribe",
        f"{ALL} model.assistant=/nowhere",
        "model.assistant=/nowhere: there is no such … hub id … packaged:",
    ),
    # the other jobs
    ("verify", "output.uri={tmp}/empty", "output.uri={tmp}/empty: … no transcripts/ and no runs/"),
    ("export", "output.uri={tmp}/empty format=txt to={tmp}/to", "has no transcripts"),
    ("create_student", "{model} {tmp}/empty", "{tmp}/empty is there already; name another folder"),
    ("create_student", "{model} {tmp}/student --layers 9", "9 decoder layers cannot be kept out of 4"),
    ("create_student", "/nowhere {tmp}/student", "teacher=/nowhere: there is no such … hub id … packaged:"),
    ("create_student", "{model} {tmp}/words.txt/student", "cannot be written"),
    ("convert", "model.name={model} format=doc output.uri={tmp}/x", "format=doc: must be among hf, openai, ggml"),
    (
        "convert",
        "model.name={model} format=ggml dtype=int8 output.uri={tmp}/x",
        "dtype=int8: format=ggml has float32, ",
    ),
    ("convert", "model.name={model} format=ggml", "output.uri is not set"),
    ("convert", "model.name={model} format=ggml output.uri={tmp}/empty", "output.uri={tmp}/empty: is there already"),
    ("convert", "model.name=/nowhere format=ggml output.uri={tmp}/x", "model.name=/nowhere: there is no such"),
    ("convert", "model.name={model} format=onnx output.uri={tmp}/x exporter=/nowhere", "/nowhere … exporter=ENV"),
    ("benchmark", "", "the following arguments are required: command"),
    ("benchmark", "engine", "invalid choice: 'engine'"),
    ("benchmark", "engines round=1", "round=1: … num_clips … did you mean rounds?"),
    ("benchmark", "engines rounds=many", "rounds=many: must be a number"),
    ("benchmark", "engines engines=nope", "there is no such engine. Known: "),
    ("report", "output.uri={tmp}/empty", "{tmp}/empty"),
    ("pseudo_label", f"{ALL} output.uri={{tmp}}/empty --labels-only --sweep", "has no transcripts"),
    ("compare", "a={tmp}/empty b=/nowhere", "a={tmp}/empty: no transcripts found"),
]

REFUSALS = {
    **dict.fromkeys(("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"), 403),
    **dict.fromkeys(("AuthorizationHeaderMalformed", "ExpiredToken"), 400),
}

Job = Callable[[str, str], tuple[int, list[str]]]


@contextmanager
def refusing(code: str, status: int) -> Iterator[str]:
    """The URL of an S3 endpoint that refuses everything."""
    page = f"<Error><Code>{code}</Code><Message>no: {code}</Message></Error>".encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(page)

        do_HEAD = do_PUT = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, whisper_tiny_en: Path, s3_endpoint: str
) -> Iterator[dict[str, str]]:
    """What the arguments name: files that are not what they should be, and stores that refuse."""
    tmp = tmp_path_factory.mktemp("wrong")
    for name in ("empty", "audio"):
        (tmp / name).mkdir()
    soundfile.write(tmp / "audio" / "a.wav", [0.0] * 16_000, 16_000)
    (tmp / "bad.yaml").write_text("a: [")
    (tmp / "words.txt").write_text("just words")
    (tmp / "noise.bin").write_bytes(bytes(range(256)))
    (tmp / "broken.jsonl").write_text("{not json\n")
    (tmp / "a.csv").write_text("a,b\n1,2\n")
    (tmp / "twice.jsonl").write_text('{"id": "x", "uri": "a.wav"}\n{"id": "x", "uri": "b.wav"}\n')
    (tmp / "outside.jsonl").write_text('{"id": "x", "uri": "/etc/passwd"}\n')
    found = {"tmp": str(tmp), "audio": str(tmp / "audio"), "model": str(whisper_tiny_en), "moto": s3_endpoint}
    servers = {code: refusing(code, status) for code, status in REFUSALS.items()}
    with acquire_lease(f"{tmp}/held", "other", 60, Storage()):
        yield found | {code: server.__enter__() for code, server in servers.items()}
    for server in servers.values():
        server.__exit__(None, None, None)


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], s3_environment: str) -> Job:
    """job(name, arguments): its exit code and the lines on standard error."""
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(command_line, "handle_signals", lambda: None)  # signals stay pytest's
    monkeypatch.setattr(command, "set_up_logging", lambda _: None)

    def run(name: str, arguments: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments.split()])
        try:
            code = load_job(name).main()
        except SystemExit as ended:
            code = ended.code
        return code, capsys.readouterr().err.splitlines()

    return run


def _assert_contains_in_order(message: str, texts: list[str]) -> None:
    at = 0
    for text in texts:
        assert text in message[at:], f"{text!r} is not in {message[at:]!r}, the rest of {message!r}"
        at = message.index(text, at) + len(text)


@pytest.mark.parametrize(("name", "arguments", "words"), WRONG, ids=[f"{one[0]}-{one[2][:50]}" for one in WRONG])
def test_a_wrong_start_is_a_line_or_two_and_exit_code_2(
    job: Job, places: dict[str, str], name: str, arguments: str, words: str
) -> None:
    code, lines = job(name, arguments.format(**places))

    _assert_contains_in_order("\n".join(lines), words.format(**places).split(" … "))
    assert code == ExitCode.BAD_SETTINGS
    assert 1 <= len(lines) <= 2
    assert all(line.startswith("error: ") for line in lines)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "cluster"])
def test_a_cluster_that_cannot_be_reached_is_a_line(places: dict[str, str], address: str) -> None:
    """In a process of its own: one that is connected to a Ray stays with it."""
    arguments = f"{ALL} resources.ray_address={address}".format(**places).split()
    command = [sys.executable, "jobs/transcribe.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"no Ray cluster could be reached at '{address}'" in line
    assert "Check the address, or unset RAY_ADDRESS" in line
    assert "Traceback" not in done.stderr
    assert done.returncode == ExitCode.BAD_SETTINGS


def test_missing_credentials_are_asked_for_by_name(
    job: Job, places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    unseen = f"storage.endpoint_url={places['moto']} storage.timeout_s=7"  # s3fs keeps a client for known settings
    code, (line,) = job("transcribe", f"{S3} {unseen}".format(**places))

    assert code == ExitCode.BAD_SETTINGS
    assert "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment" in line
    assert "storage.anonymous=true" in line


def test_a_full_disk_is_reported_as_one(job: Job, places: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic_files, "put", full)
    code, (line,) = job("transcribe", ALL.format(**places))

    assert code == ExitCode.BAD_SETTINGS
    assert line.startswith("error: output.uri=")
    assert "its disk is full" in line and "Free some space" in line


def test_a_full_disk_of_temporary_files_is_reported_as_one(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/plan")

    monkeypatch.setattr(command, "load_config", full)
    code, (line,) = job("transcribe", "")

    assert (code, line.startswith("error: the disk is full: ")) == (ExitCode.FAILED, True)
    assert "/tmp/plan" in line and "TMPDIR" in line


def test_a_fault_of_the_program_is_one_line_that_says_where(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("what nobody thought of")

    monkeypatch.setattr(command, "load_config", broken)
    code, (line,) = job("transcribe", "")
    assert code == ExitCode.FAILED
    assert line.startswith("error: KeyError: 'what nobody thought of' (internal error at distil_ray/cli/command.py:")
    with pytest.raises(KeyError):
        job("transcribe", "--debug")


def test_what_programs_read_is_json_in_errors_too(job: Job) -> None:
    code, (line,) = job("transcribe", "--log-format json")
    told = json.loads(line)
    assert (told["event"], told["exit_code"], code) == ("error", 2, 2)
    assert told["text"].startswith("input.uri is not set")


def test_warnings_are_lines_of_json_where_lines_are_json() -> None:
    from distil_ray.cli.console import JsonFormatter

    record = logging.LogRecord("ray.raylet", logging.WARNING, "x", 1, "low on %s", ("memory",), None)
    told = json.loads(JsonFormatter().format(record))
    assert (told["event"], told["level"], told["logger"], told["text"]) == (
        "log",
        "warning",
        "ray.raylet",
        "low on memory",
    )


@pytest.mark.parametrize(("arguments", "traceback"), [([], False), (["--debug"], True)])
def test_the_real_command_line_shows_a_traceback_with_debug_only(arguments: list[str], traceback: bool) -> None:
    command = [sys.executable, "jobs/transcribe.py", "decoding.lenguage=en", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert ("Traceback" in done.stderr) == traceback
    assert "Did you mean decoding.language?" in done.stderr
    assert done.returncode == (1 if traceback else 2)
