"""Builds of a data set: updates to changed transcripts, resuming, rejected utterances and errors."""

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from distil_ray.config.loader import dump_config, load_config
from distil_ray.errors import ExitCode, RunError, SettingsError
from distil_ray.evaluation.normalizers import name_with_versions
from distil_ray.pseudo_labels import build as building
from distil_ray.pseudo_labels.shards import ShardContext, make_shard
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from tests.pseudo_labels.conftest import Set

pytestmark = pytest.mark.usefixtures("inline")

ALL = range(12)


def test_an_example_is_the_concatenation_of_its_utterances(labels: Set) -> None:
    labels.transcribe(*ALL)

    code, _ = labels.build()

    assert code == ExitCode.DONE
    clips = {clip["id"]: clip for clip in labels.clips}
    examples = labels.examples()
    assert sum(len(example["utterance_ids"]) for example in examples) == 12
    assert max(len(example["utterance_ids"]) for example in examples) > 1
    for example in examples:
        mine = [clips[name] for name in example["utterance_ids"]]
        assert {clip["speaker"] for clip in mine} == {example["speaker"]}
        clips_pcm = [soundfile.read(labels.root / "clips" / Path(clip["uri"]).name, dtype="int16")[0] for clip in mine]
        samples, rate = soundfile.read(io.BytesIO(example["audio"]["bytes"]), dtype="int16")
        assert rate == 16_000
        assert np.array_equal(samples, np.concatenate(clips_pcm))
        assert len(samples) < 480_000
        assert example["text"] == " ".join(clip["reference"] for clip in mine)
        assert (example["wer"], example["normalizer"]) == (0, name_with_versions("whisper_english"))
        assert example["license"] == mine[0]["license"]


def test_utterances_of_different_licenses_are_not_joined(labels: Set) -> None:
    licenses = {0: "CC0-1.0", 1: "CC-BY-NC-4.0", 2: None}
    for number, name in licenses.items():
        labels.transcribe(number, task=number, metadata={"speaker": "austen"} | ({"license": name} if name else {}))

    labels.build()

    found = {example["license"]: example["utterance_ids"] for example in labels.examples()}
    assert found == {name: [labels.clips[number]["id"]] for number, name in licenses.items()}
    assert all(example["condition_on_prev"] is None for example in labels.examples())
    card = Storage().read(join(labels.dataset, "README.md")).decode()
    assert all(f"| {name or 'unknown'} | 0.00 |" in card for name in licenses.values())


def test_the_prompt_of_an_example_is_the_previous_one_of_the_speaker(labels: Set) -> None:
    labels.transcribe(*ALL)
    labels.build("labels.packing=none")

    before: dict[str, str | None] = dict.fromkeys(clip["speaker"] for clip in labels.clips)
    by_id = {example["id"]: example for example in labels.examples()}
    for clip in sorted(labels.clips, key=lambda clip: Path(clip["uri"]).name):
        example = by_id[clip["id"]]
        context = example["condition_on_prev"]
        said = None if context is None else labels.tokens.decode(context)
        assert said == before[clip["speaker"]]
        before[clip["speaker"]] = example["transcript"]


def test_a_speaker_is_in_one_split_in_all_builds(labels: Set) -> None:
    labels.transcribe(*ALL[::2])
    labels.build()
    first = _splits(labels)
    labels.transcribe(*ALL[1::2], task=1)
    labels.build()

    assert {speaker: splits for speaker, splits in _splits(labels).items() if len(splits) > 1} == {}
    assert _splits(labels) == first
    assert {split for splits in first.values() for split in splits} == {"train", "validation"}


def _splits(labels: Set) -> dict[str, set[str]]:
    from tests.pseudo_labels.conftest import _rows

    found: dict[str, set[str]] = {}
    for name, data in labels.files("data").items():
        for example in _rows({name: data}):
            found.setdefault(example["speaker"], set()).add(name.partition("-")[0])
    return found


def test_a_second_build_only_adds_shards_of_new_transcripts(labels: Set) -> None:
    labels.transcribe(*ALL[:6])
    labels.build()
    before = labels.files("data")
    labels.build()
    assert labels.files("data") == before

    labels.transcribe(*ALL[6:], task=1)
    code, printed = labels.build()

    assert code == ExitCode.DONE and "6 of them not in the data set yet" in printed
    assert before.items() < labels.files("data").items()
    assert labels.utterances() == sorted(clip["id"] for clip in labels.clips)


def test_a_killed_build_is_finished_by_the_next_one(labels: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    labels.transcribe(*ALL)
    words = ("labels.shard_audio_s=30", "labels.filters.max_chars_per_s=14")
    labels.build(*words)
    whole, rejected = labels.files("data"), labels.files("rejected")
    assert len(whole) > 1 and rejected
    Storage().delete(labels.dataset)
    survivors = 1

    def dies_after_some(name: str, work: ShardContext) -> object:
        nonlocal survivors
        survivors -= 1
        if survivors < 0:
            raise KeyboardInterrupt
        return make_shard(name, work)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(building, "make_shard", dies_after_some)
        labels.build(*words)
    assert len(labels.files("data")) == 1

    code, printed = labels.build(*words)

    assert code == ExitCode.DONE and "resumed" in printed
    assert labels.files("data") == whole
    assert labels.files("rejected").keys() == rejected.keys()


@pytest.mark.parametrize("is_back", [True, False], ids=["there again", "gone"])
def test_examples_without_audio_of_a_killed_build_are_counted(
    labels: Set, monkeypatch: pytest.MonkeyPatch, is_back: bool
) -> None:
    labels.transcribe(*ALL[:4])
    words = ("labels.packing=none", "max_failed_fraction=0.1", "max_failed_count=0")

    def dies(name: str, work: ShardContext) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(building, "make_shard", dies)
        labels.build(*words)
    path = labels.root / "clips" / Path(labels.clips[1]["uri"]).name
    if is_back:
        path.write_bytes((labels.root / "clips" / Path(labels.clips[5]["uri"]).name).read_bytes())
        labels.transcribe(*ALL[:4])  # replaced at its source, and transcribed by the run before the build
    else:
        path.unlink()

    code, printed = labels.build(*words)

    if is_back:
        assert code == ExitCode.DONE and "without audio" not in printed and labels.rejected() == []
    else:
        assert code == ExitCode.TOO_MANY_FAILED and "1 of 4 examples" in printed


def test_a_deleted_shard_is_restored(labels: Set) -> None:
    labels.transcribe(*ALL)
    labels.build("labels.shard_audio_s=30")
    before = labels.utterances()
    Storage().delete(join(labels.dataset, "data", min(labels.files("data"))))
    assert labels.utterances() != before

    labels.build("labels.shard_audio_s=30")

    assert labels.utterances() == before


def test_a_replaced_transcript_replaces_its_examples(labels: Set) -> None:
    labels.transcribe(*ALL)
    labels.build()
    labels.transcribe(*ALL, fingerprint="e" * 16, reference=None, text=" Something else altogether.")

    code, printed = labels.build()

    assert code == ExitCode.DONE and "removed" in printed
    assert labels.utterances() == sorted(clip["id"] for clip in labels.clips)
    assert {"Something" in example["transcript"] for example in labels.examples()} == {True}
    assert {example["text"] for example in labels.examples()} == {""}  # null would stop the trainer's filter


def test_utterances_packed_with_a_replaced_one_are_packed_again(labels: Set) -> None:
    labels.transcribe(*ALL[1:])
    labels.transcribe(0, task=1)
    labels.build()
    labels.transcribe(0, task=1, fingerprint="e" * 16)

    labels.build()

    assert labels.utterances() == sorted(clip["id"] for clip in labels.clips)


@pytest.mark.parametrize("before", ["failed", "partial"])
def test_a_recording_that_succeeds_after_a_failure_becomes_examples(labels: Set, before: str) -> None:
    half = labels.clips[2]["reference"].split()
    chunks = [labels.chunk(0.0, 1.5, " " + " ".join(half[:3])), labels.chunk(1.5, 3.25, " " + " ".join(half[3:]))]
    labels.transcribe(0, 1)
    labels.transcribe(2, task=1, status=before, chunks=[], error_kind="storage", error="timed out")
    labels.build()
    assert [row["reasons"] for row in labels.rejected()] == [["status"]]
    labels.transcribe(2, task=1, chunks=chunks)  # as retry_failed leaves it: the same id, file and settings

    _, printed = labels.build()

    name = labels.clips[2]["id"]
    assert "removed" in printed and labels.rejected() == []
    kept = sorted(one for example in labels.examples() for one in example["utterance_ids"])
    assert kept == sorted([labels.clips[0]["id"], labels.clips[1]["id"], f"{name}@0.000", f"{name}@1.500"])


def test_rejected_utterances_are_stored_with_all_reasons(labels: Set) -> None:
    labels.transcribe(*ALL[:9])
    labels.transcribe(9, task=1, text=" Not a word of it is right here")
    labels.transcribe(10, task=2, status="failed", chunks=[], error_kind="corrupt", error="broken")
    labels.transcribe(
        11, task=3, chunks=[labels.chunk(0.0, 2.0, " A loop", quality_flags=["repetition_loop"], avg_logprob=-1.5)]
    )

    _, printed = labels.build("labels.filters.min_avg_logprob=-1")

    reasons = {row["id"]: set(row["reasons"]) for row in labels.rejected()}
    names = [labels.clips[number]["id"] for number in (9, 10, 11)]
    assert reasons == {
        names[0]: {"max_wer"},
        names[1]: {"status"},
        names[2]: {"max_wer", "min_avg_logprob", "quality_flags"},
    }
    assert "max_wer 2" in printed and "min_avg_logprob 1" in printed


def test_a_label_that_lacks_the_end_of_its_speech_is_rejected(labels: Set) -> None:
    flags = ["untranscribed_speech"]
    said = labels.clips[0]["reference"].split()
    half = len(said) // 2
    first, rest = " " + " ".join(said[:half]), " " + " ".join(said[half:])
    chunks = [
        labels.chunk(0.0, 0.9, first, unheard_s=0.4),
        labels.chunk(0.9, 1.9, rest, unheard_s=4.2, quality_flags=flags),
    ]
    labels.transcribe(0, chunks=chunks, unheard_s=4.6, quality_flags=flags)
    labels.transcribe(1, task=1, unheard_s=0.0)

    _, printed = labels.build()

    name, other = labels.clips[0]["id"], labels.clips[1]["id"]
    (rejected,) = labels.rejected()
    assert (rejected["id"], rejected["reasons"], rejected["unheard_s"]) == (f"{name}@0.900", ["max_unheard_s"], 4.2)
    (example,) = labels.examples()
    assert (example["utterance_ids"], example["unheard_s"]) == ([f"{name}@0.000", other], 0.4)
    assert "max_unheard_s 1" in printed
    card = (Path(labels.dataset) / "README.md").read_text()
    assert "| `max_unheard_s` | 1 | 1 |" in card

    labels.build("labels.filters.max_unheard_s=null", "output.on_settings_change=redo")
    assert labels.rejected() == []


def test_each_chunk_of_a_long_recording_has_its_own_reference_and_wer(labels: Set) -> None:
    clip = labels.clips[0]
    said = clip["reference"].split()
    half = len(said) // 2
    first, wrong = " " + " ".join(said[:half]), " nothing like what was said here"
    labels.transcribe(0, chunks=[labels.chunk(0.0, 1.5, first), labels.chunk(1.5, 3.25, wrong)])

    labels.build()

    name = clip["id"]
    assert f"{name}@0.000" in labels.utterances()
    (rejected,) = (row for row in labels.rejected() if row["recording_id"] == name)
    assert (rejected["id"], rejected["reasons"]) == (f"{name}@1.500", ["max_wer"])
    assert rejected["text"] == " ".join(said[half:])


def test_disagreement_with_a_second_transcript_is_a_column_and_a_filter(labels: Set) -> None:
    labels.transcribe(*ALL[:3], reference=None)
    second = replace(labels, output=str(labels.root / "second"))
    second.transcribe(0)
    second.transcribe(1, task=1, text=" Something else was heard here")  # the third has no second transcript

    labels.build(f"labels.second_output_uri={second.output}", "labels.filters.max_disagreement=0.3")

    names = [clip["id"] for clip in labels.clips[:3]]
    assert {row["id"]: row["reasons"] for row in labels.rejected()} == {names[1]: ["max_disagreement"]}
    assert [example["disagreement"] for example in labels.examples()] == [0.0]
    assert [example["utterance_ids"] for example in labels.examples()] == [[names[0], names[2]]]


def test_examples_without_audio_are_left_out_and_retried(labels: Set) -> None:
    labels.transcribe(*ALL)
    path = labels.root / "clips" / Path(labels.clips[5]["uri"]).name
    path.rename(path.with_suffix(".away"))

    code, printed = labels.build("max_failed_fraction=0.01", "max_failed_count=0")

    assert code == ExitCode.TOO_MANY_FAILED and "its audio no longer exists" in printed
    assert {reason for row in labels.rejected() for reason in row["reasons"]} == {"audio"}
    assert labels.clips[5]["id"] in labels.utterances()

    path.with_suffix(".away").rename(path)
    code, _ = labels.build("max_failed_fraction=0.01", "max_failed_count=0")

    assert code == ExitCode.DONE and labels.rejected() == []
    assert labels.utterances() == sorted(clip["id"] for clip in labels.clips)


def test_missing_audio_keeps_only_its_own_utterance_out_of_the_data_set(labels: Set) -> None:
    labels.transcribe(*ALL)
    (labels.root / "clips" / Path(labels.clips[4]["uri"]).name).unlink()
    labels.build()
    lost = {row["id"] for row in labels.rejected()}
    assert lost > {labels.clips[4]["id"]}, "the utterances that it was joined with"

    labels.build()

    assert {row["id"] for row in labels.rejected()} == {labels.clips[4]["id"]}
    assert labels.utterances() == sorted(clip["id"] for clip in labels.clips)
    before = labels.files("data")
    code, printed = labels.build()
    assert labels.files("data") == before
    assert (code, "1 of 6 examples" in printed) == (ExitCode.DONE, True), "of the data set, not of what was tried again"


def test_a_file_that_another_program_has_rewritten_is_an_error_with_remedies(labels: Set) -> None:
    labels.transcribe(*ALL[:3])
    labels.build()
    (name,) = labels.files("data")
    path = Path(labels.dataset, "data", name)
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)

    with pytest.raises(SettingsError, match=rf"other settings \(.*{name} does not state them\)"):
        labels.build()

    assert labels.build("output.on_settings_change=keep")[0] == ExitCode.DONE


def test_a_damaged_file_is_an_error_with_its_remedy(labels: Set) -> None:
    labels.transcribe(*ALL[:3])
    labels.build()
    (name,) = labels.files("data")
    path = Path(labels.dataset, "data", name)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match=rf"{name}: cannot be read as a part of the data set .*Delete it"):
        labels.build()


def test_changed_audio_is_not_used_with_an_old_transcript(labels: Set) -> None:
    labels.transcribe(*ALL)
    other, path = (labels.root / "clips" / Path(labels.clips[number]["uri"]).name for number in (0, 5))
    path.write_bytes(other.read_bytes())

    _, printed = labels.build()

    assert "its audio has changed since it was transcribed" in printed
    assert all(labels.clips[5]["id"] not in example["utterance_ids"] for example in labels.examples())


def test_original_audio_has_the_bytes_of_the_file(labels: Set) -> None:
    labels.transcribe(*ALL[:3])
    labels.build("labels.packing=none", "labels.audio_format=original")

    paths = {clip["id"]: labels.root / "clips" / Path(clip["uri"]).name for clip in labels.clips}
    assert all(example["audio"]["bytes"] == paths[example["id"]].read_bytes() for example in labels.examples())


def test_original_audio_without_an_extension_gets_one_by_its_content(labels: Set) -> None:
    path = labels.root / "clips" / Path(labels.clips[0]["uri"]).name
    path.rename(path.with_suffix(""))
    labels.clips[0]["uri"] = path.stem
    labels.transcribe(0)

    labels.build("labels.audio_format=original")

    assert [example["audio"]["path"] for example in labels.examples()] == [f"{labels.clips[0]['id']}{path.suffix}"]


@pytest.mark.parametrize("audio_format", ["flac", "original"])
def test_an_example_has_the_channels_that_were_transcribed(labels: Set, audio_format: str) -> None:
    path = labels.root / "clips" / Path(labels.clips[0]["uri"]).name
    spoken, _ = soundfile.read(path, dtype="int16")
    soundfile.write(path, np.stack([spoken, np.roll(spoken, 8000)], 1), 16_000)
    labels.transcribe(0, run_id="tonight")
    config = load_config(None, ["input.uri=a", f"output.uri={labels.output}", "input.channels=first"])
    Storage().put(join(labels.output, "runs", "tonight", "config.yaml"), dump_config(config).encode())

    labels.build(f"labels.audio_format={audio_format}")

    (example,) = labels.examples()
    samples, _ = soundfile.read(io.BytesIO(example["audio"]["bytes"]), dtype="int16")
    assert np.array_equal(samples, spoken)

    Storage().delete(join(labels.output, "runs"))
    Storage().delete(labels.dataset)
    labels.build()

    (example,) = labels.examples()
    assert not np.array_equal(soundfile.read(io.BytesIO(example["audio"]["bytes"]), dtype="int16")[0], spoken)


def test_the_same_share_of_the_examples_always_has_timestamps(labels: Set) -> None:
    labels.transcribe(*ALL)
    words = ("labels.packing=none", "labels.timestamp_share=0.5")
    labels.build(*words)
    timed = {e["id"]: "<|notimestamps|>" not in e["whisper_transcript"] for e in labels.examples()}
    Storage().delete(labels.dataset)
    labels.build(*words)

    assert timed == {e["id"]: "<|notimestamps|>" not in e["whisper_transcript"] for e in labels.examples()}
    assert 2 < Counter(timed.values())[True] < 10


@pytest.mark.parametrize(
    ("choice", "thresholds"), [("redo", {"0.2": 1}), ("keep", {"0.1": 1, "0.2": 1})], ids=["redo", "keep"]
)
def test_examples_of_other_settings_are_an_error_unless_kept_or_redone(
    labels: Set, choice: str, thresholds: dict[str, int]
) -> None:
    labels.transcribe(*ALL[:6])
    labels.build("labels.validation_share=0")
    labels.transcribe(*ALL[6:], task=1)
    other = ("labels.validation_share=0", "labels.filters.max_wer=0.2")
    with pytest.raises(SettingsError, match=r"other settings \(labels.filters.max_wer\)"):
        labels.build(*other)

    labels.build(*other, f"output.on_settings_change={choice}")

    assert labels.utterances() == sorted(clip["id"] for clip in labels.clips)
    assert len(labels.files("data")) == len(thresholds)


def test_kept_examples_of_an_earlier_version_get_the_columns_that_they_lack(labels: Set) -> None:
    labels.transcribe(*ALL[:6])
    labels.build("labels.validation_share=0")
    (name,) = labels.files("data")
    path = Path(labels.dataset, "data", name)
    pq.write_table(pq.read_table(path).drop_columns(["unheard_s"]), path)
    before = {example["id"]: example for example in labels.examples()}
    labels.transcribe(*ALL[6:], task=1)

    _, printed = labels.build(
        "labels.validation_share=0", "labels.filters.max_wer=0.2", "output.on_settings_change=keep"
    )

    assert "1 files of an earlier version" in printed
    older, newer = (pq.read_schema(io.BytesIO(data)) for data in sorted(labels.files("data").values(), key=len))
    assert older.equals(newer)
    assert b"huggingface" in older.metadata and b"huggingface" in newer.metadata
    after = {example["id"]: example for example in labels.examples()}
    assert {name: after[name] for name in before} == {name: row | {"unheard_s": None} for name, row in before.items()}
    assert {after[name]["unheard_s"] for name in after.keys() - before.keys()} == {0.0}


@pytest.mark.parametrize(
    "impossible", ["labels.speaker_column=reader", "labels.filters.max_chars_per_s=1", "max_failed_fraction=0.1"]
)
def test_a_data_set_is_replaced_only_by_a_complete_one(labels: Set, impossible: str) -> None:
    labels.transcribe(*ALL[:6])
    labels.build()
    before, card = labels.files("data"), Storage().read(join(labels.dataset, "README.md"))
    path = labels.root / "clips" / Path(labels.clips[0]["uri"]).name
    path.rename(path.with_suffix(".away"))
    words = ("labels.filters.max_wer=0.2", "output.on_settings_change=redo", "max_failed_count=0")

    try:
        code, printed = labels.build(*words, impossible)
        assert code == ExitCode.TOO_MANY_FAILED and "not replaced" in printed
    except SettingsError:
        assert impossible == "labels.speaker_column=reader"

    assert before.items() <= labels.files("data").items()
    assert Storage().read(join(labels.dataset, "README.md")) == card

    path.with_suffix(".away").rename(path)
    code, _ = labels.build(*words)

    assert code == ExitCode.DONE and labels.rejected() == []
    assert not before.keys() & labels.files("data").keys()
    assert labels.utterances() == sorted(clip["id"] for clip in labels.clips[:6])


def test_filters_that_keep_nothing_end_with_a_hint(labels: Set) -> None:
    labels.transcribe(*ALL[:3])
    code, printed = labels.build("labels.filters.max_chars_per_s=1")
    assert code == ExitCode.TOO_MANY_FAILED
    assert "max_chars_per_s 3" in printed and "--sweep" in printed

    code, _ = labels.build()

    assert code == ExitCode.DONE and labels.rejected() == [] and labels.examples()


def test_an_output_without_transcripts_or_text_is_an_error(labels: Set) -> None:
    with pytest.raises(SettingsError, match="has no transcripts"):
        labels.build()
    labels.transcribe(0, 1, status="failed", chunks=[])
    with pytest.raises(SettingsError, match="none of its transcripts has text"):
        labels.build()


@pytest.mark.parametrize(
    ("columns", "words", "message"),
    [
        (
            {"metadata": {"reader": "x"}},
            ["labels.packing=speaker"],
            "labels.packing=speaker needs the speaker.*labels.speaker_column=speaker",
        ),
        ({}, ["model.name=packaged:whisper-base"], "were made by .*Set it to the model that made them"),
        ({}, ["labels.second_output_uri=/nowhere"], "labels.second_output_uri=/nowhere: has no transcripts"),
    ],
    ids=["no speakers", "another model", "no second pass"],
)
def test_unusable_settings_are_an_error_before_anything_is_written(
    labels: Set, columns: dict[str, Any], words: list[str], message: str
) -> None:
    labels.transcribe(*ALL[:3], **columns)

    with pytest.raises(SettingsError, match=message):
        labels.build(*words)

    assert labels.files("data") == {} and labels.files("rejected") == {}


def test_transcripts_without_timestamps_or_with_overlap_are_an_error(labels: Set) -> None:
    untimed = labels.chunk(0.0, 1.5, " Good morning") | {"tokens": [3_000]}
    labels.transcribe(0, chunks=[untimed], reference=None)
    with pytest.raises(SettingsError, match=r"labels.timestamp_share=1: .*decoding.timestamps=segment"):
        labels.build()
    assert labels.build("labels.timestamp_share=0")[0] == ExitCode.DONE

    labels.transcribe(1, task=1, chunks=[labels.chunk(0.0, 1.5, " a"), labels.chunk(1.0, 2.0, " b")])
    with pytest.raises(SettingsError, match="overlapping chunks"):
        labels.build("labels.timestamp_share=0")
