"""The job from recordings to a data set with a real teacher on Ray, and errors before it starts."""

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.output.ledger import list_data_files
from distil_ray.pseudo_labels.job import apply_label_requirements, pseudo_label
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from tests.pseudo_labels.conftest import Set, write_clips
from tests.pseudo_labels.train_student import train

TEACHER = "packaged:whisper-tiny.en"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Returns a manifest of three speakers with three clips each."""
    (tmp_path / "clips").mkdir()
    path = tmp_path / "clips.jsonl"
    path.write_text("\n".join(map(json.dumps, write_clips(tmp_path / "clips")[:9])))
    return path


def _run(manifest: Path, output: str, *words: str) -> tuple[ExitCode, str]:
    settings = [
        f"input.uri={manifest}",
        "input.allow_external_paths=true",
        f"output.uri={output}",
        f"model.name={TEACHER}",
    ]
    settings += ["decoding.language=en", "report.write=false", "labels.validation_share=0", "resources.actors=1"]
    console = Console(file=io.StringIO(), width=300)
    code = pseudo_label(load_config(None, [*settings, *words]), console)
    return code, console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("local_ray")
def test_a_data_set_in_a_bucket_trains_a_student(
    manifest: Path, bucket: str, s3_endpoint: str, tmp_path: Path, whisper_tiny_en: Path
) -> None:
    output = f"{bucket}/labels"
    words = ("labels.filters.max_wer=0.5", f"storage.endpoint_url={s3_endpoint}")

    code, printed = _run(manifest, output, *words)

    assert code == ExitCode.DONE
    assert "decoding.timestamps=segment" in printed and "chunking.length_s=29.98" in printed
    storage = Storage()
    (tmp_path / "data").mkdir()
    for uri in list_data_files(join(output, "dataset", "data"), storage):
        (tmp_path / "data" / uri.rsplit("/", 1)[-1]).write_bytes(storage.read(uri))
    rows = [row for path in (tmp_path / "data").iterdir() for row in pq.read_table(path).to_pylist()]
    assert sum(len(row["utterance_ids"]) for row in rows) >= 7
    assert any(row["whisper_transcript"].startswith("<|startoftranscript|><|0.00|> ") for row in rows)
    assert b"# Pseudo-labeled speech" in storage.read(join(output, "dataset", "README.md"))
    outcome = train(whisper_tiny_en, tmp_path, steps=4, limit=2, evaluate=False)
    assert outcome.losses[1] < outcome.losses[0]

    code, printed = _run(manifest, output, *words)

    assert code == ExitCode.DONE and "0 of them not in the data set yet" in printed


def test_an_incompatible_assistant_is_an_error(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"model.assistant=packaged:whisper-base cannot draft for"):
        _run(manifest, str(tmp_path / "out"), "model.assistant=packaged:whisper-base")


def test_an_input_without_speakers_is_an_error_at_the_start(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"labels.speaker_column=reader \(the metadata have .*speaker"):
        _run(manifest, str(tmp_path / "out"), "labels.packing=speaker", "labels.speaker_column=reader")

    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("inline")
def test_labels_only_needs_no_input(labels: Set) -> None:
    labels.transcribe(0, 1)
    console = Console(file=io.StringIO(), width=300)
    shipped = Path(__file__).parents[2] / "configs" / "pseudo_label.yaml"

    words = (*labels.words, "labels.validation_share=0", "resources.gpus_per_actor=0")  # its clips have one speaker
    config = load_config(shipped, [f"output.uri={labels.output}", *words])
    code = pseudo_label(config, console, labels_only=True)

    assert code == ExitCode.DONE and labels.examples()
    assert "note" not in console.file.getvalue()  # type: ignore[attr-defined]
    with pytest.raises(SettingsError, match=r"output\.uri is not set"):
        pseudo_label(load_config(shipped), console, labels_only=True)


def test_overlapping_chunks_are_an_error(manifest: Path) -> None:
    words = [f"input.uri={manifest}", "output.uri=/tmp/x", f"model.name={TEACHER}"]
    console = Console(file=io.StringIO())
    for strategy in ("overlap", "sequential"):
        with pytest.raises(SettingsError, match=f"chunking.strategy={strategy}"):
            apply_label_requirements(load_config(None, [*words, f"chunking.strategy={strategy}"]), console)

    config = load_config(None, [*words, "chunking.length_s=15", "labels.timestamp_share=0"])

    assert apply_label_requirements(config, console) == config
