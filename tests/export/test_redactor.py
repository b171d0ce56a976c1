"""redact=…: no file of an export has what is masked, and the audio is silent where it was said."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from distil_ray.errors import ExitCode, SettingsError
from distil_ray.export.base import ExportFormat, Layout
from distil_ray.export.redactor import PADDING_S
from distil_ray.registry import EXPORTERS
from distil_ray.storage.storage import Storage
from distil_ray.types import SAMPLE_RATE
from tests.export.conftest import TRANSCRIPT_FORMATS, files_below, run_export
from tests.support.clips import CLIPS, load_samples
from tests.support.transcripts import Row, transcript_row, write_transcripts

SECRETS = ("four", "two", "oh", "4242", "john", "example", "lee", "private")
SPOKEN = " My card is 4242, four two oh two. Write to john at example dot com. Yours, Ann Lee."


def words_of(text: str) -> list[Row]:
    """A word every 0.2 s, each 0.15 s long."""
    return [
        {"start_s": 0.2 * n, "end_s": 0.2 * n + 0.15, "text": f" {word}", "probability": 1.0}
        for n, word in enumerate(text.split())
    ]


def secret_row(folder: Path, **columns: Any) -> Row:
    """A transcript full of secrets of ten seconds of audio: loud at every sample."""
    path = folder / "in" / "a.flac"
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, np.full(10 * SAMPLE_RATE, 1000, np.int16), SAMPLE_RATE)
    entry = Storage().stat(str(path))
    assert entry is not None
    text = SPOKEN.strip()
    cut = text.index("oh two")
    spans = [
        {"start_s": 0.0, "end_s": 1.35, "text": text[:cut].strip()},
        {"start_s": 1.4, "end_s": 4.0, "text": text[cut:]},
    ]
    defaults = {
        **{"uri": str(path), "source_size": entry.size, "source_version": entry.version, "text": text},
        **{"text_normalized": text.lower(), "reference": text, "reference_normalized": text, "wer": 0.0},
        **{"words": words_of(text), "segments": spans, "chunks": [{"start_s": 0.0, "end_s": 10.0, "text": text}]},
        "metadata": {"speaker": "Ann Lee", "note": "private 4242"},
    }
    return transcript_row("rec", **{**defaults, **columns})


@pytest.fixture
def redact(tmp_path: Path) -> str:
    (tmp_path / "names.txt").write_text("\ufeffann lee\n\n", encoding="utf-8")
    return f"redact=numbers,emails,names_in={tmp_path}/names.txt"


def test_recordings_that_were_added_are_exported_as_without_redaction(tmp_path: Path) -> None:
    """Files of earlier recordings are the same and stay; the counts of masks are those of the last export."""
    rows = [transcript_row(name, text=text) for name, text in (("a", "Call 555."), ("b", "Or 777."))]
    for num in (1, 2):
        write_transcripts(tmp_path / "out", rows[:num])
        code, _ = run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=txt", "redact=numbers")
        assert code == ExitCode.DONE
        assert json.loads((tmp_path / "to/redaction.json").read_text())["num_numbers"] == num


@pytest.mark.parametrize("form", TRANSCRIPT_FORMATS)
@pytest.mark.parametrize("group", ["recording", "call"])
def test_no_file_has_what_is_masked(tmp_path: Path, redact: str, form: str, group: str) -> None:
    if group == "call" and not EXPORTERS.load(form).has_calls:
        pytest.skip("the format has no calls")
    write_transcripts(tmp_path / "out", [secret_row(tmp_path)])
    code, printed = run_export(f"{tmp_path}/out", f"{tmp_path}/to", f"format={form}", redact, f"group={group}")
    assert code == ExitCode.DONE
    found = files_below(f"{tmp_path}/to")
    summary = json.loads(found.pop("redaction.json"))
    assert (summary["num_emails"], summary["num_names"], summary["num_numbers"]) == (1, 1, 1)
    assert "redacted       1 email, 1 name, 1 number in 1 recording" in printed
    texts = [text for name, data in found.items() for text in _texts(name, data)]
    for text in texts:
        assert "[number]" in text
        told = text.lower().replace(str(tmp_path).lower(), "")
        assert not [secret for secret in SECRETS if secret in told]


def _texts(name: str, data: bytes) -> list[str]:
    if name.endswith(".tar"):
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            members = {member.name: tar.extractfile(member) for member in tar}
            return [file.read().decode() for name, file in members.items() if file and not name.endswith(".flac")]
    if name.endswith(".gz"):
        import gzip

        data = gzip.decompress(data)
    return [data.decode()]


def test_masked_words_keep_their_times_and_make_up_the_text(tmp_path: Path, redact: str) -> None:
    row = secret_row(tmp_path)
    write_transcripts(tmp_path / "out", [row])
    run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=jsonl", redact)
    record = json.loads((tmp_path / "to/transcripts.jsonl").read_text())
    assert record["text"] == "My card is [number]. Write to [email]. Yours, [name]."
    assert "".join(word["text"] for word in record["words"]).strip() == record["text"]
    assert [word["start_s"] for word in record["words"]] == [word["start_s"] for word in row["words"]]
    assert [one["text"] for one in record["segments"]] == ["My card is [number]", ". Write to [email]. Yours, [name]."]
    assert record["speaker"] == "[name]"
    assert not {"note", "source_reference"} & set(record)


def test_the_audio_is_silent_exactly_where_it_was_said(tmp_path: Path, redact: str) -> None:
    row = secret_row(tmp_path)
    write_transcripts(tmp_path / "out", [row])
    run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=webdataset", redact)
    samples = _audio(tmp_path / "to/shard-000000.tar")
    expected = np.full(10 * SAMPLE_RATE, 1000, np.int16)
    silenced_s = 0.0
    for first, last in ((3, 7), (10, 14), (16, 17)):  # card number, address, name
        start_s = row["words"][first]["start_s"] - PADDING_S
        end_s = row["words"][last]["end_s"] + PADDING_S
        expected[round(start_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)] = 0
        silenced_s += end_s - start_s
    assert np.array_equal(samples, expected)
    assert json.loads((tmp_path / "to/redaction.json").read_text())["silenced_s"] == pytest.approx(silenced_s)


def test_real_speech_is_silenced_and_the_rest_is_untouched(tmp_path: Path) -> None:
    """Playing cards: "eight of spades four of clubs seven of hearts"; the word times are made up."""
    path = CLIPS / "cards-005.flac"
    entry = Storage().stat(str(path))
    assert entry is not None
    samples = load_samples("cards-005")
    words = words_of("8 of spades")
    version = {"uri": str(path), "source_size": entry.size, "source_version": entry.version}
    duration_s = len(samples) / SAMPLE_RATE
    row = transcript_row("cards", **version, duration_s=duration_s, text="8 of spades", words=words)
    write_transcripts(tmp_path / "out", [row])
    run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=webdataset", "redact=numbers")
    found = _audio(tmp_path / "to/shard-000000.tar")
    end = round((0.15 + PADDING_S) * SAMPLE_RATE)
    assert not found[:end].any()
    assert np.array_equal(found[end:], samples[end:])


def _audio(shard: Path) -> Any:
    with tarfile.open(shard) as tar:
        (member,) = [member for member in tar if member.name.endswith(".flac")]
        file = tar.extractfile(member)
        assert file is not None
        samples, rate = soundfile.read(io.BytesIO(file.read()), dtype="int16")
    assert rate == SAMPLE_RATE
    return samples


@pytest.mark.parametrize("words", [None, [{"start_s": 0.0, "end_s": 1.0, "text": "other", "probability": 1.0}]])
def test_audio_without_fitting_word_times_is_an_error_that_names_the_setting(
    tmp_path: Path, redact: str, words: list[Row] | None
) -> None:
    write_transcripts(tmp_path / "out", [secret_row(tmp_path, words=words)])
    with pytest.raises(SettingsError, match=r"rec has .*decoding\.timestamps=word"):
        run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=webdataset", redact)
    assert run_export(f"{tmp_path}/out", f"{tmp_path}/txt", "format=txt", redact)[0] == ExitCode.DONE


def test_speakers_with_masked_names_stay_apart(tmp_path: Path, redact: str) -> None:
    spans = [
        {"start_s": float(n), "end_s": n + 1.0, "text": "So.", "speaker": name}
        for n, name in enumerate(["Ann Lee", "ann lee", "Ann Lee B"])
    ]
    write_transcripts(tmp_path / "out", [transcript_row("a", text="So. So. So.", segments=spans)])
    run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=txt", "group=call", redact)
    assert (tmp_path / "to/a.txt").read_text() == "[name]: So.\n[name] 2: So.\n[name] B: So.\n"


WRITES_SHARDS = ExportFormat(Layout.SHARDS, ("*.tar",), lambda *_: None)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["format=txt", "redact=phones"], "redact=phones: must be among numbers, emails, names_in=FILE"),
        (["format=txt", "redact=names_in="], "names_in"),
        (["format=txt", "redact=names_in=/not/there"], "no such file"),
        (["format=webdataset", "of=dataset", "redact=numbers"], "of=dataset"),
        ([f"format={__name__}:WRITES_SHARDS", "redact=numbers"], "cannot silence audio"),
    ],
)
def test_a_redaction_that_cannot_be_made_is_an_error(tmp_path: Path, words: list[str], reason: str) -> None:
    write_transcripts(tmp_path / "out", [secret_row(tmp_path)])
    with pytest.raises(SettingsError, match=reason):
        run_export(f"{tmp_path}/out", f"{tmp_path}/to", *words)
