"""Archives, lists and addresses are hostile input; credentials are nobody's but the environment's."""

import base64
import gzip
import io
import json
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from distil_ray.audio.pcm import DecodeResult
from distil_ray.audio.subprocess_decoder import SubprocessDecoder
from distil_ray.config import InputConfig
from distil_ray.config.loader import load_config
from distil_ray.errors import ErrorKind, ExitCode, InputError, SettingsError
from distil_ray.pipeline import runner
from distil_ray.readers.listing import list_recordings
from distil_ray.readers.path_resolution import is_inside
from distil_ray.redaction import HIDDEN, has_secret, redact
from distil_ray.storage.storage import Storage
from distil_ray.types import SAMPLE_RATE, Recording
from tests.audio.flac_bomb import flac_of_silence
from tests.support.fakes import EchoTranscribe
from tests.support.without_ray import run_stages_in_process

ROOT = Path(__file__).resolve().parents[2]
PASSWORD, SIGNATURE, KEY = "planted-password", "planted-signature", "planted-secret-key"


# Credentials


@pytest.fixture
def web() -> Iterator[str]:
    """host:port of a web server that gives a second of noise to whoever has the password and the signature."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Guarded))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class _Guarded(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        wanted = "Basic " + base64.b64encode(f"reader:{PASSWORD}".encode()).decode()
        allowed = self.headers.get("Authorization") == wanted and f"X-Amz-Signature={SIGNATURE}" in self.path
        found = "gone" not in self.path
        sink = io.BytesIO()
        noise = np.random.default_rng(0).integers(-3000, 3000, SAMPLE_RATE).astype(np.int16)
        soundfile.write(sink, noise, SAMPLE_RATE, format="WAV")
        body = sink.getvalue() if allowed and found else b""
        self.send_response(200 if body else 404 if allowed else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def signed_output(bucket: str, s3_endpoint: str, web: str, whisper_tiny_en: Path) -> Callable[[], str]:
    """signed_output(): runs over a manifest whose two addresses hold credentials, one of a recording and one of none;
    gives the output."""

    def run() -> str:
        signed = f"http://reader:{PASSWORD}@{web}/{{}}.wav?X-Amz-Date=1&X-Amz-Signature={SIGNATURE}"
        rows = [{"uri": signed.format(name), "also": signed.format(name)} for name in ("there", "gone")]
        Storage().put(f"{bucket}/in/m.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
        overrides = [f"input.uri={bucket}/in/m.jsonl", f"output.uri={bucket}/out", f"model.name={whisper_tiny_en}"]
        overrides += [f"storage.endpoint_url={s3_endpoint}", "input.allow_external_paths=true", "max_failed_fraction=1"]
        config = load_config(None, [*overrides, "resources.actors=1"])
        assert runner.transcribe(config, Console(highlight=False), EchoTranscribe) == ExitCode.DONE
        return f"{bucket}/out"

    return run


def _places_of_secrets(texts: dict[str, str]) -> list[str]:
    return [name for name, text in texts.items() if any(secret in text for secret in (PASSWORD, SIGNATURE, KEY))]


def test_planted_credentials_read_recordings_and_are_in_no_artifact_of_the_run(
    signed_output: Callable[[], str],
    web: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run_stages_in_process(monkeypatch)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    output = signed_output()
    texts = {entry.uri: _content(Storage().read(entry.uri)) for entry in Storage().list_files(output)}
    assert _places_of_secrets(texts | {"shown": "".join(capfd.readouterr()), "logged": caplog.text}) == []
    (rows_uri,) = (name for name in texts if "/transcripts/" in name)
    written = {row["status"]: row for row in pq.read_table(io.BytesIO(Storage().read(rows_uri))).to_pylist()}
    assert written["ok"]["uri"] == f"http://{HIDDEN}@{web}/there.wav?X-Amz-Date=1&X-Amz-Signature={HIDDEN}"
    assert written["failed"]["error_kind"] == ErrorKind.NOT_FOUND
    assert written["failed"]["recording_id"] in written["failed"]["error"]


def test_planted_credentials_are_in_no_log_of_ray_s_processes(
    local_ray: None, signed_output: Callable[[], str]
) -> None:
    from ray._private import worker

    output = signed_output()
    texts = {entry.uri: _content(Storage().read(entry.uri)) for entry in Storage().list_files(output)}
    node: Any = worker._global_node
    logs = Path(node.get_logs_dir_path())
    texts |= {str(path): path.read_text(errors="replace") for path in logs.rglob("*.*") if path.is_file()}
    assert len(texts) > 20
    assert _places_of_secrets(texts) == []


def _content(data: bytes) -> str:
    """A file as text, a Parquet file by its values."""
    if data.startswith(b"PAR1"):
        return json.dumps(pq.read_table(io.BytesIO(data)).to_pylist(), default=str)
    return data.decode()


@pytest.mark.parametrize("place", ["reader:{}@{}/gone.jsonl", "stranger:{}@{}/m.csv", "stranger:{}@{}/*.wav"])
def test_an_input_s_own_credentials_are_in_no_exception(place: str, web: str) -> None:
    uri = f"http://{place.format(PASSWORD, web)}?X-Amz-Signature={SIGNATURE}"
    with pytest.raises(InputError) as caught:
        list(list_recordings(InputConfig(uri=(uri,)), Storage()))
    text = "".join(traceback.format_exception(caught.value))
    assert HIDDEN in text
    assert not any(secret in text for secret in (PASSWORD, SIGNATURE)), text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/a.wav", "s3://bucket/a.wav"),
        ("https://host/a.wav?part=2", "https://host/a.wav?part=2"),
        ("/data/reader:pw@host.wav", "/data/reader:pw@host.wav"),
        ("s3://bucket/mail@host/a.wav", "s3://bucket/mail@host/a.wav"),
        ("https://u:p@host/a", "https://***@host/a"),
        ("sftp://token@host/a and ftp://u:p@h", "sftp://***@host/a and ftp://***@h"),
        ("https://h/a?X-Amz-Credential=x&n=1&X-Amz-Signature=y", "https://h/a?X-Amz-Credential=***&n=1&X-Amz-Signature=***"),
        ("https://h/a?sv=1&sig=abc%3D", "https://h/a?sv=1&sig=***"),
        ("https://u:p@ss@host/a", "https://***@host/a"),
        ("https://u:pa/ss@host/a and https://u:pa#ss@host/a", "https://***@host/a and https://***@host/a"),
        ("http://host:8080/mail@host/a.wav", "http://host:8080/mail@host/a.wav"),
        ("https://h/a?pass=hunter2&passage=3&password=x", "https://h/a?pass=***&passage=3&password=***"),
        ("<b>https://h/a?sig=abc</b>", "<b>https://h/a?sig=***</b>"),
        ("url=URL('https://h/a?access_token=abc')", "url=URL('https://h/a?access_token=***')"),
    ],
)  # fmt: skip
def test_only_what_is_a_credential_is_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert has_secret(text) == (text != shown)


@given(st.text(), st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/?#@'\"&;"), min_size=1))
def test_a_password_is_hidden_in_any_text_around_it(around: str, password: str) -> None:
    assert redact(f"{around} https://u:{password}@h/a").endswith(f" https://{HIDDEN}@h/a")


def test_an_environment_s_secret_is_hidden_wherever_it_turns_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    assert str(SettingsError("the hub refused hf_0123456789 today")) == f"the hub refused {HIDDEN} today"
    monkeypatch.setenv("AZURE_STORAGE_KEY", "hf_0123456789 and more")
    assert redact("hf_0123456789 and more") == HIDDEN, "not only the shorter one that it contains"


LOGS = """
import argparse, logging
from distil_ray.cli.command_line import set_up_logging

set_up_logging(argparse.Namespace(log_format="{form}", debug=False))
try:
    raise OSError("cannot read https://u:hunter2@h/a?sig=abcdef")
except OSError:
    logging.getLogger("some.library").warning("https://u:hunter2@h/x", exc_info=True)
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_records_of_other_libraries_are_redacted(form: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOGS.format(form=form)], capture_output=True, text=True, check=True)
    assert HIDDEN in done.stderr and "some.library" in done.stderr
    assert "hunter2" not in done.stderr and "abcdef" not in done.stderr


# Where a list may lead


@pytest.mark.parametrize(
    ("folder", "uri", "inside"),
    [
        ("s3://b/in", "s3://b/in/a.wav", True),
        ("s3://b/in", "s3://b/in/x/../a.wav", False),
        ("s3://b/in", "s3://b/in2/a.wav", False),
        ("s3://b/in", "s3://other/in/a.wav", False),
        ("s3://b/in", "/etc/passwd", False),
        ("s3://b/in", "local:///etc/passwd", False),
        ("s3://b", "s3://b/a.wav", True),
        ("http://h/in", "http://h/in/a.wav?x=/../..", True),
        ("http://h/in", "http://h/in/%2e%2e/secret", False),
        ("http://h/in", "http://h/in/%252e%252e/secret", False),
        ("http://h/in", "http://h:81/in/a.wav", False),
        ("http://h/in", "http://h@evil/in/a.wav", False),
        ("http://h/in", "http://evil\\@h/in/a.wav", False),
        ("http://u:p@h/in", "http://h/in/a.wav", True),
        ("/data", "/data/a.wav", True),
        ("/data", "/database/a.wav", False),
        ("/data", "http://h/data/a.wav", False),
    ],
)
def test_a_file_is_inside_a_folder_by_where_it_leads(folder: str, uri: str, inside: bool) -> None:
    assert is_inside(folder, uri) == inside


Listing = Callable[..., list[Recording]]


@pytest.fixture
def listed_by_manifest(tmp_path: Path) -> Listing:
    """listed(path, …): what a manifest in a folder of its own lists that names this path."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "secret.wav").write_bytes(b"RIFF")

    def listed(path: str, **settings: Any) -> list[Recording]:
        manifest = tmp_path / "in" / "m.jsonl"
        manifest.write_text(json.dumps({"id": "x", "uri": path}))
        return list(list_recordings(InputConfig(uri=(str(manifest),), **settings), Storage()))

    return listed


@pytest.mark.parametrize("path", ["../secret.wav", "{}/secret.wav", "file://{}/secret.wav", "way/out.wav", "s3://b/x"])
def test_a_manifest_does_not_lead_out_of_its_folder_unless_it_may(
    path: str, listed_by_manifest: Listing, tmp_path: Path, s3_environment: str
) -> None:
    (tmp_path / "in" / "way").mkdir()
    (tmp_path / "in" / "way" / "out.wav").symlink_to(tmp_path / "secret.wav")
    path = path.format(tmp_path)
    with pytest.raises(
        InputError, match=r"m\.jsonl line 1: uri .* lies outside of .*set input\.allow_external_paths=true"
    ):
        listed_by_manifest(path)
    assert len(listed_by_manifest(path, allow_external_paths=True)) == 1


def test_a_link_within_the_folder_is_followed(listed_by_manifest: Listing, tmp_path: Path) -> None:
    (tmp_path / "in" / "link.wav").symlink_to(tmp_path / "in" / "a.wav")
    assert listed_by_manifest("link.wav")[0].source_size == 4


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.jsonl", b"[" * 200_000, "expected one JSON object a line"),
        ("m.jsonl.gz", gzip.compress(b" " * (1 << 25)), "line 1: is longer than 16,777,216 characters"),
        ("m.csv.gz", gzip.compress(b"uri\n" + b"a" * (1 << 25)), "line 2: is longer than 16,777,216 characters"),
    ],
)
def test_a_manifest_that_unpacks_to_gigabytes_is_refused(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        list(list_recordings(InputConfig(uri=(str(tmp_path / name),)), Storage()))


# Recordings


def _decode(path: Path, max_duration_s: float, memory_mb: int = 256) -> DecodeResult:
    decoder = SubprocessDecoder(memory_mb, 60.0, max_duration_s)
    *_, outcome = decoder.decode(str(path), path.name)
    decoder.close()
    assert isinstance(outcome, DecodeResult)
    return outcome


def test_a_day_of_silence_in_a_small_file_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "day.flac"
    path.write_bytes(flac_of_silence(seconds=86_400))
    assert path.stat().st_size < 100_000
    outcome = _decode(path, InputConfig().max_duration_s)
    assert (outcome.num_samples, outcome.error_kind) == (0, ErrorKind.TOO_LONG)
    assert outcome.error == "day.flac: its header declares 86,408 s; input.max_duration_s allows 43,200"
    assert outcome.cpu_s < 1  # nothing of it was decoded


def test_a_day_of_silence_whose_header_keeps_quiet_ends_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "day.flac"
    path.write_bytes(flac_of_silence(seconds=86_400, is_told=False))
    outcome = _decode(path, 900)
    assert outcome.error_kind is ErrorKind.TOO_LONG
    assert 890 * SAMPLE_RATE < outcome.num_samples <= 900 * SAMPLE_RATE
    assert outcome.error == "day.flac: it has more audio than input.max_duration_s allows 900 s"


def test_a_recording_that_is_too_long_is_a_failed_row_and_its_neighbors_are_not(
    tmp_path: Path, whisper_tiny_en: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stages_in_process(monkeypatch)
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).integers(-3000, 3000, 2 * SAMPLE_RATE).astype(np.int16)
    soundfile.write(tmp_path / "in" / "a.wav", noise, SAMPLE_RATE)
    for name, is_told in (("told", True), ("untold", False)):
        (tmp_path / "in" / f"{name}.flac").write_bytes(flac_of_silence(seconds=120, is_told=is_told))
    overrides = [f"input.uri={tmp_path / 'in'}", f"output.uri={tmp_path / 'out'}", f"model.name={whisper_tiny_en}"]
    config = load_config(None, [*overrides, "input.max_duration_s=100", "max_failed_fraction=1"])
    assert runner.transcribe(config, Console(file=io.StringIO()), EchoTranscribe) == ExitCode.DONE
    rows = {row["recording_id"]: row for row in pq.read_table(tmp_path / "out" / "transcripts").to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == {
        "a.wav": "ok",
        "told.flac": "failed",
        "untold.flac": "failed",
    }
    assert {rows[name]["error_kind"] for name in ("told.flac", "untold.flac")} == {"too_long"}
    assert rows["untold.flac"]["text"] is None


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (4, b"\xff\xff\xff\xff"),  # the whole file's size
        (16, b"\xff\xff\xff\x7f"),  # the size of the format chunk
        (22, b"\xff\xff"),  # 65,535 channels
        (24, b"\xff\xff\xff\xff"),  # 4 GHz
        (32, b"\xff\xff"),  # bytes of a frame
        (40, b"\xff\xff\xff\xfe"),  # 4 GB of samples
    ],
)
def test_absurd_sizes_in_a_header_cost_neither_memory_nor_the_process(
    offset: int, value: bytes, tmp_path: Path
) -> None:
    sink = io.BytesIO()
    soundfile.write(sink, np.full(SAMPLE_RATE, 1000, np.int16), SAMPLE_RATE, format="WAV")
    data = bytearray(sink.getvalue())
    data[offset : offset + len(value)] = value
    (tmp_path / "a.wav").write_bytes(data)
    outcome = _decode(tmp_path / "a.wav", 43_200, memory_mb=256)
    assert outcome.error_kind not in (ErrorKind.DECODE_CRASH, ErrorKind.DECODE_TIMEOUT, ErrorKind.INTERNAL)
    assert outcome.num_samples <= 2 * SAMPLE_RATE


# Code in data

FORBIDDEN = re.compile(
    r"\bpickle\.loads?\(|\bimport (c?pickle|dill|marshal|shelve)\b|yaml\.(load|full_load|unsafe_load)\("
    r"|\btorch\.load\((?!.*weights_only=True)|trust_remote_code\s*=\s*(?!False)|allow_pickle\s*=\s*True|(?<![\w.])(eval|exec)\(|shell\s*=\s*True"
)


def test_nothing_in_the_package_runs_what_it_reads() -> None:
    code = [*(ROOT / "distil_ray").rglob("*.py"), *(ROOT / "jobs").glob("*.py")]
    lines = [(path, line) for path in code for line in path.read_text(encoding="utf-8").splitlines()]
    assert [f"{path.relative_to(ROOT)}: {line.strip()}" for path, line in lines if FORBIDDEN.search(line)] == []


def test_a_config_is_data_and_not_code(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    attack = f"run_id: !!python/object/apply:os.system ['touch {mark}']\n"
    (tmp_path / "run.yaml").write_text(attack)
    with pytest.raises(SettingsError, match="is not valid YAML"):
        load_config(tmp_path / "run.yaml")
    with pytest.raises(SettingsError, match="is not valid YAML"):
        load_config(None, [f"resources.actors=!!python/object/apply:os.system ['touch {mark}']"])
    with pytest.raises(SettingsError, match="run_id: must be at most"):  # a setting that takes text
        load_config(None, [f"run_id=!!python/object/apply:os.system ['touch {mark}']"])
    assert not mark.exists()
    with pytest.raises(yaml.constructor.ConstructorError):  # the attack works where a loader lets it
        yaml.safe_load(attack)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, whisper_tiny_en: Path) -> None:
    from distil_ray.whisper.model import load_model

    mark = tmp_path / "ran"
    model = tmp_path / "model"
    model.mkdir()
    for file in whisper_tiny_en.iterdir():
        (model / file.name).symlink_to(file)
    config = json.loads((model / "config.json").read_text())
    names = ("AutoConfig", "AutoModel", "AutoModelForSpeechSeq2Seq")
    config["auto_map"] = dict.fromkeys(names, "evil.Evil")
    (model / "config.json").unlink()
    (model / "config.json").write_text(json.dumps(config))
    (model / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    load_model(model, device="cpu", dtype="float32", attention="auto", threads=1)
    assert not mark.exists()
