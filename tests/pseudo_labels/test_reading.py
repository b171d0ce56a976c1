"""Data sets can be read by `datasets`, by the training script, and as WebDataset and NeMo exports."""

import io
import json
import re
import tarfile
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import soundfile

from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.readers.listing import list_recordings
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from tests.export.conftest import files_below, run_export
from tests.pseudo_labels.conftest import Set
from tests.pseudo_labels.trainer import Trainer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pseudo_labels.md"
pytestmark = pytest.mark.usefixtures("inline")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Configures `datasets` without the hub and with a temporary cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("offline")
def test_load_dataset_reads_the_audio_column(labels: Set) -> None:
    labels.transcribe(*range(12))
    labels.build()
    import datasets

    files = {split: join(labels.dataset, "data", f"{split}-*.parquet") for split in ("train", "validation")}

    whole = datasets.load_dataset("parquet", data_files=files)
    streamed = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    by_card = datasets.load_dataset(labels.dataset)

    assert set(whole) == set(by_card) == {"train", "validation"}
    assert sum(split.num_rows for split in whole.values()) == len(labels.examples())
    audio = datasets.Audio(sampling_rate=16_000)
    assert whole["train"].features["audio"] == audio == streamed.features["audio"]
    first = next(iter(streamed.cast_column("audio", datasets.Audio(decode=False))))
    assert soundfile.info(io.BytesIO(first["audio"]["bytes"])).samplerate == 16_000
    assert first["whisper_transcript"].startswith("<|startoftranscript|>")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("share", ["0.5", "0.01"], ids=["two splits", "one split"])
def test_the_code_in_the_card_reads_the_data_set(
    labels: Set, share: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels.transcribe(*range(12))
    labels.build(f"labels.validation_share={share}")
    (code,) = python_blocks(Storage().read(join(labels.dataset, "README.md")).decode())
    monkeypatch.chdir(labels.dataset)

    exec(compile(code, "README.md", "exec"), {})

    assert _printed(capsys) == _train(labels)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("decoder", ["soundfile", "torchcodec"])
def test_the_loops_of_the_documentation_read_the_data_set(
    labels: Set, decoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if decoder == "torchcodec":
        _require_torchcodec()
    with_soundfile, with_torchcodec = python_blocks(PAGE.read_text(encoding="utf-8"))
    code = with_soundfile if decoder == "soundfile" else with_torchcodec
    labels.transcribe(*range(12))
    labels.build()

    exec(compile(code.replace("OUTPUT", labels.output), str(PAGE), "exec"), {})

    assert _printed(capsys) == _train(labels)


def _require_torchcodec() -> None:
    try:
        import_module("torchcodec")  # which looks for FFmpeg's libraries
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"torchcodec cannot be imported here ({type(error).__name__})")


def _printed(capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[float, str]]:
    """Returns {id: (seconds, label)} from the output of the loops."""
    lines = (line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines())
    return {name: (float(seconds), label) for name, seconds, label in lines}


def _train(labels: Set) -> dict[str, tuple[float, str]]:
    """Returns the expected output of the loops: every example of the split `train`."""
    train = {name: data for name, data in labels.files("data").items() if name.startswith("train-")}
    return {
        row["id"]: (soundfile.info(io.BytesIO(row["audio"]["bytes"])).duration, row["whisper_transcript"])
        for data in train.values()
        for row in pq.read_table(io.BytesIO(data)).to_pylist()
    }


def test_the_trainer_drops_no_example(labels: Set, whisper_tiny_en: Path) -> None:
    labels.transcribe(*range(3, 12))
    long = " very" * 200  # three of these make more tokens than a label may have
    labels.transcribe(0, 1, 2, block=1, text=long, reference=None)
    labels.build("labels.filters.max_chars_per_s=null", "labels.filters.max_repeated_5grams=null")
    trainer = Trainer.of(whisper_tiny_en, is_multilingual=False)

    examples = labels.examples()

    assert any(example["condition_on_prev"] for example in examples)
    for example in examples:
        samples = soundfile.info(io.BytesIO(example["audio"]["bytes"])).frames
        for timestamps in (True, False):
            for prompted in (True, False):
                ids = trainer.labels(example, timestamps=timestamps, prompted=prompted)
                assert trainer.keeps(ids, samples)
                assert ids.count(trainer.start_of_prev) == (prompted and example["condition_on_prev"] is not None)


def test_the_data_set_as_webdataset_and_as_nemos_tars(labels: Set) -> None:
    labels.transcribe(*range(12))
    labels.build()
    examples = {example["id"]: example for example in labels.examples()}
    web, nemo = str(labels.root / "web"), str(labels.root / "nemo")

    code, printed = run_export(labels.output, web, "of=dataset", "format=webdataset")
    assert code == ExitCode.DONE and "as webdataset" in printed
    run_export(labels.output, nemo, "of=dataset", "format=nemo_tarred")

    members = dict(_members(web))
    facts = [json.loads(data) for name, data in members.items() if name.endswith(".json")]
    assert {fact["id"]: fact["transcript"] for fact in facts} == {
        name: example["transcript"] for name, example in examples.items()
    }
    assert {data for name, data in members.items() if name.endswith(".flac")} == {
        example["audio"]["bytes"] for example in examples.values()
    }
    for split in ("train", "validation"):  # this project's own reader of NeMo's form
        uri = join(nemo, split, "tarred_audio_manifest.json")
        config = load_config(
            None, [f"input.uri={uri}", "input.format=nemo_tarred", "input.shards=audio_{shard_id}.tar"]
        )
        read = {one.reference for one in list_recordings(config.input, Storage())}
        assert read <= {example["transcript"] for example in examples.values()} and read


@pytest.mark.parametrize("form", ["webdataset", "nemo_tarred"])
def test_an_export_over_an_earlier_one_leaves_no_split_of_it(labels: Set, form: str) -> None:
    labels.transcribe(*range(12))
    labels.build()
    to, words = str(labels.root / "to"), ("of=dataset", f"format={form}")
    run_export(labels.output, to, *words)
    splits = {name.partition("/")[0] for name in files_below(to)}
    assert splits == {"train", "validation"}
    labels.build("labels.validation_share=0", "output.on_settings_change=redo")
    before = files_below(to)
    with pytest.raises(SettingsError, match=r"exists already"):
        run_export(labels.output, to, *words)
    assert files_below(to) == before
    others = [Path(to, "validation", name) for name in ("shard-0/copy.tar", "audio_0/copy.tar")]
    for file in others:
        file.parent.mkdir()
        file.write_bytes(b"of the user")

    run_export(labels.output, to, *words, "overwrite=true")

    assert all(file.read_bytes() == b"of the user" for file in others)
    written = set(files_below(to)) - {str(file.relative_to(to)) for file in others}
    assert {name.partition("/")[0] for name in written} == {"train"}


def python_blocks(page: str) -> list[str]:
    """Returns the indented blocks of a Markdown page that are Python: those with a line `import …`."""
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", page, flags=re.MULTILINE)
    code = (textwrap.dedent(block) for block in blocks)
    return [block for block in code if re.search(r"^(import|from) ", block, flags=re.MULTILINE)]


def _members(folder: str) -> Iterator[tuple[str, bytes]]:
    for name, data in files_below(folder).items():
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar.getmembers():
                yield f"{name}/{member.name}", tar.extractfile(member).read()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["of=dataset", "format=srt"], "format=srt: does not support of=dataset"),
        (["format=nemo_tarred"], "format=nemo_tarred: does not support of=transcripts"),
        (["of=dataset", "format=webdataset", "where=language:en"], "the data set is exported whole"),
        (["of=data", "format=webdataset"], "of=data: must be transcripts or dataset"),
        (["of=dataset", "format=webdataset"], "no training data set in"),
    ],
)
def test_an_unsupported_export_is_an_error(labels: Set, words: list[str], message: str) -> None:
    labels.transcribe(0)

    with pytest.raises(SettingsError, match=message):
        run_export(labels.output, str(labels.root / "to"), *words)
