"""The data set's card: README.md as the Hugging Face hub shows it.

It lists the contents, the filters, the use and the known limits of the data set. Every number is read from the files of
the data set (`statistics.py`), every setting from their metadata.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from distil_ray.evaluation.normalizers import SEPARATOR
from distil_ray.evaluation.summary_table import format_percent
from distil_ray.pseudo_labels.dataset_schema import CARD, DATA, TRAIN, VALIDATION
from distil_ray.pseudo_labels.filters import FILTERS, FIXED_REASONS, FLAGS_FILTER
from distil_ray.pseudo_labels.statistics import DatasetStatistics
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
LARGEST_SIZE = "1M<n<10M"

LIMITS = """\
- The labels are written by a model, not by a person: a student learns its systematic errors.
- A word error rate needs a reference; utterances without one were filtered by the other metrics only.
- The reference of a long recording is split by alignment with the transcript; a word at a chunk boundary may be
  assigned to the neighboring utterance.
- Joined utterances of one speaker were not necessarily spoken one after the other.
- `audio` is 16 kHz mono unless `audio_format` was `original`.
"""


def write_card(dataset_uri: str, settings: str, storage: Storage) -> DatasetStatistics:
    """Writes the card of the data set as it is now, and returns its statistics."""
    figures = DatasetStatistics.read(dataset_uri, storage)
    storage.put(join(dataset_uri, CARD), format_card(figures, json.loads(settings)).encode())
    return figures


def format_card(figures: DatasetStatistics, settings: Mapping[str, Any]) -> str:
    """Returns the card's text; `settings` come from the files of the data set (`LabelSource.settings`)."""
    parts = [
        f"---\n{_head(figures)}---\n\n# Pseudo-labeled speech\n",
        f"{_sentence(figures, settings)}\n",
        "## Contents\n",
        _table(("split", "examples", "hours"), _splits(figures)),
        _table(("language", "hours"), _by_hours(figures.language_s)),
        _table(("license", "hours"), _by_hours(figures.license_s)),
        "## Filters\n",
        _errors(figures),
        _table(("filter", "threshold", "utterances rejected", "hours"), _filters(figures, settings)),
        "An utterance may have several reasons; `rejected/` holds each with all of its own.\n",
        "## Use\n",
        _USE.format(split=TRAIN if figures.split_examples[TRAIN] else VALIDATION),
        *(f"{sentence}\n" for sentence in _advice(figures)),
        "## Known limits\n",
        LIMITS,
    ]
    return "\n".join(parts)


_USE = """\
    import io
    import os

    import soundfile
    from datasets import Audio, load_dataset

    dataset = os.getcwd()  # the folder of this card, or the data set's name on the hub
    examples = load_dataset(dataset, split="{split}", streaming=True)
    for example in examples.cast_column("audio", Audio(decode=False)):
        samples, rate = soundfile.read(io.BytesIO(example["audio"]["bytes"]), dtype="float32")
        print(example["id"], len(samples) / rate, example["whisper_transcript"])

`datasets` itself decodes `audio` from version 4 on with the package torchcodec and FFmpeg's libraries. Where these are
installed, leave `cast_column` out: `example["audio"]["array"]` holds the samples, `example["audio"]["sampling_rate"]`
their rate. Of the columns distil-whisper's training script reads

- `whisper_transcript`: the label with its special tokens (tokenize with `add_special_tokens=False`), which it finds by
  this name and trains on;
- `text`: the reference, empty where there is none; the script's `--text_column_name` and `--eval_text_column_name`;
- `condition_on_prev`: token ids of the speaker's example before, without `<|startofprev|>`.

`transcript` is the text of the label without special tokens, for people. Do not name it in a flag of the script.
"""


def _advice(figures: DatasetStatistics) -> Iterator[str]:
    """Yields a sentence for each option of distil-whisper's training script that this data set does not support."""
    missing, total = figures.num_unreferenced, figures.num_examples
    if total and missing == total:
        yield (
            "No example has a reference. Leave `--wer_threshold` out of the training script's command, with which it"
            " drops every example and stops, and `--do_eval`, for which it has no word to compare with."
        )
    elif missing:
        yield (
            f"{missing:,} of {total:,} examples have no reference: the training script's `--wer_threshold` drops them."
        )
    if total and not figures.split_examples[VALIDATION]:
        yield f"There is no split `{VALIDATION}`: leave `--do_eval` out, or name a data set in `--eval_dataset_name`."
    if total and not figures.split_examples[TRAIN]:
        yield f"There is no split `{TRAIN}`."


def _head(figures: DatasetStatistics) -> str:
    """Returns the YAML header that the hub reads."""
    splits = [split for split in (TRAIN, VALIDATION) if figures.split_examples[split]]
    size = next((name for limit, name in SIZES if figures.num_examples < limit), LARGEST_SIZE)
    licenses = [name for name in figures.license_s if name != "unknown"]
    head = {
        "language": sorted(name for name in figures.language_s if name != "unknown"),
        "license": "other",
        **({"license_name": "mixed", "license_details": ", ".join(sorted(licenses))} if licenses else {}),
        "task_categories": ["automatic-speech-recognition"],
        "tags": ["pseudo-labels", "distil-whisper", "whisper"],
        "size_categories": [size],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{DATA}/{split}-*.parquet"} for split in splits],
            }
        ],
    }
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=120)


def _sentence(figures: DatasetStatistics, settings: Mapping[str, Any]) -> str:
    labels = settings["labels"]
    choice = labels["packing"]
    packing = {
        "none": "Each utterance is an example",
        "speaker": "Utterances of one speaker were joined, in order, to just under 30 s",
        "recording": "Utterances of one recording were joined, in order, to just under 30 s",
    }[choice]
    speakers = f" of {len(figures.speakers):,} speakers" if figures.speakers else " of unknown speakers"
    return (
        f"{figures.kept_s / 3600:,.2f} hours of speech{speakers}, {figures.num_examples:,} examples made of"
        f" {figures.num_utterances:,} utterances, labeled by `{settings['model']}`, task `{settings['task']}`."
        f" {packing} (`labels.packing={choice}`). Labels with timestamps: {100 * labels['timestamp_share']:g} %."
    )


def _splits(figures: DatasetStatistics) -> Iterator[tuple[str, ...]]:
    for split in (TRAIN, VALIDATION):
        yield split, f"{figures.split_examples[split]:,}", _hours(figures.split_s[split])


def _errors(figures: DatasetStatistics) -> str:
    if figures.all.rate is None:
        return "There were no references: no word error rate is known.\n"
    return (
        f"Word error rate against the references: {format_percent(figures.all.rate)} % ({figures.all.words:,} words)"
        f" before the filters, {format_percent(figures.kept.rate) or '-'} % after ({figures.kept.words:,} words),"
        f" normalized by {SEPARATOR.join(sorted(figures.all.normalizers))}.\n"
    )


def _filters(figures: DatasetStatistics, settings: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    chosen = settings["labels"]["filters"]
    for one in FILTERS:
        threshold = chosen[one.setting]
        count, hours = f"{figures.reasons[one.setting]:,}", _hours(figures.reason_s[one.setting])
        yield f"`{one.setting}`", "off" if threshold is None else f"{threshold:g}", count, hours
    yield (
        f"`{FLAGS_FILTER}`",
        ", ".join(chosen[FLAGS_FILTER]) or "off",
        f"{figures.reasons[FLAGS_FILTER]:,}",
        _hours(figures.reason_s[FLAGS_FILTER]),
    )
    for reason, words in FIXED_REASONS.items():
        if figures.reasons[reason]:
            yield f"`{reason}`", words, f"{figures.reasons[reason]:,}", _hours(figures.reason_s[reason])


def _by_hours(seconds: Mapping[str, float]) -> Iterator[tuple[str, ...]]:
    for name, amount in sorted(seconds.items(), key=lambda pair: (-pair[1], pair[0])):
        yield _cell(name), _hours(amount)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f}"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
