"""One run on a real Ray over a list of inputs of every kind, on the disk, in a bucket and on the web, all at once."""

import io
import json
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import soundfile
from rich.console import Console

from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode
from distil_ray.pipeline import runner
from distil_ray.storage.storage import Storage
from tests.readers.shards import audio_cells, parquet_bytes, rows_of, tar
from tests.support.fakes import EchoTranscribe


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _cut(name: str, start: float, duration: float) -> dict[str, Any]:
    source = {"type": "file", "channels": [0], "source": "speech.flac"}
    recording = {"id": "r", "sources": [source], "sampling_rate": 16_000, "num_samples": 99, "duration": 9.0}
    return {"id": name, "start": start, "duration": duration, "channel": 0, "type": "MonoCut", "recording": recording}


def _stereo(speech: bytes) -> bytes:
    samples, rate = soundfile.read(io.BytesIO(speech), dtype="int16")
    sink = io.BytesIO()
    soundfile.write(sink, np.stack([samples, np.zeros_like(samples)], axis=1), rate, format="WAV")
    return sink.getvalue()


def _save_data_set(folder: Path, speech: bytes) -> None:
    table = datasets.table.InMemoryTable(pa.table({"audio": audio_cells([speech], ["speech.flac"])}))
    features = datasets.Features({"audio": datasets.Audio()})
    datasets.Dataset(table, datasets.DatasetInfo(features=features)).save_to_disk(folder)


@pytest.mark.slow
def test_all_formats_are_transcribed_in_one_run_and_not_again_in_the_next(
    local_ray: None,
    s3_environment: str,
    bucket: str,
    clips: Path,
    audio_formats: Path,
    whisper_tiny_en: Path,
    tmp_path: Path,
) -> None:
    speech = (clips / "cards-003.flac").read_bytes()
    storage = Storage()
    remote = {
        "loose/a.flac": speech,
        "loose/a.txt": b"a reference",
        "shards/s-000.tar": tar({"x/b.flac": speech, "x/b.txt": "words", "x/b.cls": "3"}),
        "shards/s-001.tar": tar({"y/c.flac": speech, "y/c.json": json.dumps({"text": "words", "speaker": "s"})}),
        "packed.tar.gz": tar({"d.flac": speech, "e.flac": speech}, "w:gz"),
        "hub/data/train-00000-of-00001.parquet": parquet_bytes(
            {"audio": audio_cells([speech], ["f.flac"]), "sentence": ["w"]}
        ),
        "cuts/cuts.jsonl": _lines(_cut("lhotse", 0, 9), _cut("lhotse-part", 0.5, 0.75)),
        "cuts/speech.flac": speech,
        "nemo/train.json": _lines({"audio_filepath": "g.flac", "offset": 0.5, "duration": 0.75, "text": "w"}),
        "nemo/g.flac": speech,
        "kaldi/wav.scp": b"kaldi h.flac\n",
        "kaldi/text": b"kaldi some words\n",
        "kaldi/h.flac": speech,
    }
    for name, data in remote.items():
        storage.put(f"{bucket}/mixed/{name}", data)
    local = tmp_path / "local"
    (local / "web").mkdir(parents=True)
    (local / "calls").mkdir()
    _save_data_set(local / "saved", speech)
    (local / "web" / "i.flac").write_bytes(speech)
    (local / "no_extension").write_bytes(speech)
    (local / "calls" / "call.wav").write_bytes(_stereo(speech))
    (local / "film.mkv").write_bytes((audio_formats / "video.mkv").read_bytes())
    (local / "damaged.tar").write_bytes(remote["shards/s-000.tar"][:2_000])

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(local / "web")))
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    names = ("loose", "shards/s-{000..001}.tar", "packed.tar.gz", "hub", "cuts/cuts.jsonl", "nemo/train.json", "kaldi")
    inputs = [f"'{bucket}/mixed/{name}'" for name in names]
    inputs += [str(local / name) for name in ("saved", "no_extension", "calls", "film.mkv", "damaged.tar")]
    inputs.append(f"http://127.0.0.1:{server.server_address[1]}/i.flac")
    output = f"{bucket}/mixed-out"

    def run(name: str) -> ExitCode:
        where = [f"input.uri=[{', '.join(inputs)}]", f"output.uri={output}", f"model.name={whisper_tiny_en}"]
        more = ["input.channels=split", "resources.actors=1", "max_failed_fraction=0.5", f"run_id={name}"]
        more.append(f"storage.endpoint_url={s3_environment}")
        return runner.transcribe(load_config(None, [*where, *more]), Console(quiet=True), EchoTranscribe)

    try:
        assert run("first") == ExitCode.DONE
        rows = rows_of(output)
        assert run("second") == ExitCode.DONE
        assert rows_of(output) == rows
    finally:
        server.shutdown()
        server.server_close()

    whole = {
        *("a.flac", "s-000.tar/x/b.flac", "s-001.tar/y/c.flac", "packed.tar.gz/d.flac", "packed.tar.gz/e.flac"),
        *("data/train-00000-of-00001.parquet/f.flac", "lhotse", "kaldi", "data-00000-of-00001.arrow/speech.flac"),
        *("no_extension", "call.wav#0", "i.flac"),
    }
    parts = {"lhotse-part", "g.flac@0.5+0.75"}
    others = {"call.wav#1": "empty", "film.mkv": "ok", "damaged.tar#rest": "failed"}
    assert {name: row["status"] for name, row in rows.items() if name not in whole | parts} == others
    assert len({rows[name]["text"] for name in whole}) == 1
    assert len({rows[name]["text"] for name in parts}) == 1
    assert {rows[name]["duration_s"] for name in parts} == {0.75}
    assert sum(row["reference"] is not None for row in rows.values()) == 6
    assert {row["run_id"] for row in rows.values()} == {"first"}
