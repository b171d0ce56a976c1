"""One job over all formats that list recordings: each gives the same audio, reference and metadata."""

import csv
import io
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from distil_ray.errors import ExitCode
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from tests.readers.shards import run_job, tar

WHOLE = "GO DO YOU HEAR"
START_S, LENGTH_S = 0.75, 1.0


@pytest.fixture
def speech(clips: Path) -> bytes:
    """A FLAC of real speech, some seconds long."""
    return (clips / "cards-005.flac").read_bytes()


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def cut(name: str, path: str, start: float, duration: float, gender: str) -> dict[str, Any]:
    source = {"type": "file", "channels": [0], "source": path}
    recording = {"id": "r", "sources": [source], "sampling_rate": 16000, "num_samples": 160000, "duration": 10.0}
    fields = {"id": name, "recording_id": "r", "start": 0, "duration": 1, "channel": 0, "text": WHOLE}
    supervision = fields | {"language": "English", "speaker": "s1", "gender": gender}
    plain = {"id": name, "start": start, "duration": duration, "channel": 0, "type": "MonoCut"}
    return plain | {"recording": recording, "supervisions": [supervision]}


def list_formats(speech: bytes) -> tuple[dict[str, str | bytes], list[str]]:
    """(files, input.uri below their folder): one recording of all of it in each form, one of a second of it in some."""
    named = {"file_name": "a.flac", "sentence": WHOLE, "gender": "m", "lang": "en-GB", "id": "folder"}
    nemo = {"audio_filepath": "a.flac", "text": WHOLE, "lang": "en", "gender": "f", "speaker": "s2"}
    files: dict[str, str | bytes] = {
        "kaldi/wav.scp": "r a.flac\n",
        "kaldi/segments": f"kaldi r 0 -1\nkaldi-part r {START_S} {START_S + LENGTH_S}\n",
        "kaldi/text": f"kaldi {WHOLE}\nkaldi-part {WHOLE}\n",
        "kaldi/utt2spk": "kaldi s1\nkaldi-part s1\n",
        "kaldi/spk2gender": "s1 f\n",
        "kaldi/a.flac": speech,
        "lhotse/cuts.jsonl": lines(
            cut("lhotse", "a.flac", 0.0, 10.0, "m"), cut("lhotse-part", "a.flac", START_S, LENGTH_S, "m")
        ),
        "lhotse/a.flac": speech,
        "nemo/train.json": lines(
            nemo | {"id": "nemo"}, nemo | {"id": "nemo-part", "offset": START_S, "duration": LENGTH_S}
        ),
        "nemo/a.flac": speech,
        "tarred/tarred.json": lines(nemo | {"id": "tarred", "shard_id": 0}),
        "tarred/audio_0.tar": tar({"a.flac": speech}),
        "voice/train.tsv": f"client_id\tpath\tsentence\tlocale\nc1\ta.mp3\t{WHOLE}\ten\n",
        "voice/clips/a.mp3": speech,
        "lj/metadata.csv": f"lj|go|{WHOLE}\n",
        "lj/wavs/lj.wav": speech,
        "vctk/wav48/p1/p1_001.flac": speech,
        "vctk/txt/p1/p1_001.txt": WHOLE,
        "folder/metadata.jsonl": lines(named),
        "folder/a.flac": speech,
    }
    inputs = ["kaldi", "lhotse/cuts.jsonl", "nemo/train.json", "tarred/tarred.json", "voice/train.tsv", "lj", "vctk"]
    return files, [*inputs, "folder"]


def test_every_list_format_gives_the_same_audio_reference_and_metadata(
    tmp_path: Path, speech: bytes, whisper_tiny_en: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, inputs = list_formats(speech)
    root = str(tmp_path / "in")
    for name, content in files.items():
        Storage().put(join(root, name), content.encode() if isinstance(content, str) else content)
    uris = "[" + ", ".join(join(root, name) for name in inputs) + "]"
    groups = ("scoring.group_by=[speaker, gender, language]", "run_id=lists")
    rows, code = run_job(uris, f"{root}/out", whisper_tiny_en, monkeypatch, *groups)
    assert code == ExitCode.DONE

    texts = {name: row["text"] for name, row in rows.items()}
    parts = {name for name in rows if name.endswith("-part")}
    assert parts == {"kaldi-part", "lhotse-part", "nemo-part"}
    assert set(rows) - parts == {"kaldi", "lhotse", "nemo", "tarred", "a.mp3", "lj", "wav48/p1/p1_001.flac", "folder"}
    assert len({texts[name] for name in parts}) == 1
    assert len({texts[name] for name in set(rows) - parts}) == 1
    assert {row["reference"] for row in rows.values()} == {WHOLE}
    assert {rows[name]["duration_s"] for name in parts} == {LENGTH_S}

    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for row in csv.DictReader(io.StringIO(Storage().read(f"{root}/out/runs/lists/groups.csv").decode())):
        found[row["group_by"]][row["value"]] = int(row["num_recordings"])
    assert found["gender"] == {"f": 5, "m": 3, "(unknown)": 3}
    assert found["speaker"]["s1"] == 4
    assert found["speaker"]["c1"] == found["speaker"]["p1"] == 1
    assert found["language"]["en"] >= 10

    again, code = run_job(uris, f"{root}/out", whisper_tiny_en, monkeypatch, "run_id=again")
    assert (again, code) == (rows, ExitCode.DONE)
