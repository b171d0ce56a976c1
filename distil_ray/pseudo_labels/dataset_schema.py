"""The tables of a training data set, as Arrow schemas.

Data flows from `UTTERANCE` (a chunk of a transcript with its metrics) to `PLANNED` (utterances joined to an example,
with its label) to `EXAMPLE` (with audio: the rows that a trainer reads). Rejected utterances are rows of `REJECTED`.

    OUTPUT/dataset/README.md  data/train-<hash>.parquet  data/validation-<hash>.parquet  rejected/*.parquet
                   sweep.csv  sweep.svg
    OUTPUT/labels/plan/       the planned examples of a build in progress; deleted when it is done
"""

import json
from typing import Any

import pyarrow as pa

from distil_ray.schema import LOCATION
from distil_ray.types import SAMPLE_RATE
from distil_ray.whisper.tokenizer import MAX_POSITIONS

DATASET, DATA, REJECTED_FOLDER, CARD = "dataset", "data", "rejected", "README.md"
PLAN = ("labels", "plan")
TRAIN, VALIDATION = "train", "validation"

SAMPLES_PER_TIMESTAMP = SAMPLE_RATE // 50  # samples between two of Whisper's timestamp tokens
# distil-whisper's trainer drops examples of 30 s and more; this is the last timestamp token before it.
MAX_SAMPLES = 30 * SAMPLE_RATE - SAMPLES_PER_TIMESTAMP
# The trainer puts a prompt before a label and cuts it to the positions that are left; fewer than two would fail.
MAX_LABEL_TOKENS = MAX_POSITIONS - 2
MAX_PROMPT_TOKENS = MAX_POSITIONS // 2 - 1  # the trainer keeps this many ids of a longer prompt

Row = dict[str, Any]

# Metrics that filters check. Those of an example are the worst of its utterances, or come from their sums.
METRICS: list[tuple[str, pa.DataType]] = [
    ("wer", pa.float64()),
    ("edge_cer", pa.float64()),
    ("disagreement", pa.float64()),
    ("avg_logprob", pa.float64()),
    ("compression_ratio", pa.float64()),
    ("repeated_5grams", pa.int64()),
    ("chars_per_s", pa.float64()),
    ("no_speech_prob", pa.float64()),
    ("unheard_s", pa.float64()),
    ("acceptance_rate", pa.float64()),
    ("quality_flags", pa.list_(pa.string())),
]

# The recording, as it was listed.
_SOURCE: list[tuple[str, pa.DataType]] = [
    ("recording_id", pa.string()),
    ("uri", pa.string()),
    ("source_size", pa.int64()),
    ("source_version", pa.string()),
    ("location", LOCATION),
]

_MEASURED: list[tuple[str, pa.DataType]] = [
    ("speaker", pa.string()),
    ("language", pa.string()),
    ("license", pa.string()),
    ("duration_s", pa.float64()),
    ("num_ref_words", pa.int64()),
    ("edits", pa.int64()),
    ("normalizer", pa.string()),
    *METRICS,
]

# `source`: names the version of the transcript and the chunk (existing_dataset.format_utterance_source).
# `start`, `num_samples`: at 16 kHz, on the recording's time line.
# `is_whole`: the file has no other audio.
# `channels`: the `input.channels` of the run that transcribed it.
# `tokens`: the teacher's tokens, timestamps counted from `start`, retokenized as a tokenizer encodes the same text.
# `is_timed`: there are timestamp tokens among them.
UTTERANCE = pa.schema(
    [
        ("utterance_id", pa.string()),
        ("source", pa.string()),
        *_SOURCE,
        ("start", pa.int64()),
        ("num_samples", pa.int64()),
        ("is_whole", pa.bool_()),
        ("channels", pa.string()),
        ("text", pa.string()),
        ("reference", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("is_timed", pa.bool_()),
        *_MEASURED,
    ]
)

# `is_final` false: the next build tries again (its audio could not be read).
REJECTED = pa.schema(
    [
        ("id", pa.string()),
        ("reasons", pa.list_(pa.string())),
        ("error", pa.string()),
        ("is_final", pa.bool_()),
        ("utterance_source", pa.string()),
        ("recording_id", pa.string()),
        ("uri", pa.string()),
        ("start_s", pa.float64()),
        ("transcript", pa.string()),
        ("text", pa.string()),
        *_MEASURED,
    ]
)

AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

_WRITTEN: list[tuple[str, pa.DataType]] = [
    ("whisper_transcript", pa.string()),
    ("text", pa.string()),
    ("transcript", pa.string()),
    ("condition_on_prev", pa.list_(pa.int32())),
    ("utterance_ids", pa.list_(pa.string())),
    ("utterance_sources", pa.list_(pa.string())),
    *_MEASURED,
]

# Rows that a trainer reads; distil-whisper's reads `id`, `audio`, `whisper_transcript`, `text`, `condition_on_prev`.
EXAMPLE = pa.schema([("id", pa.string()), ("audio", AUDIO), *_WRITTEN]).with_metadata(
    {"huggingface": json.dumps({"info": {"features": {"audio": {"sampling_rate": SAMPLE_RATE, "_type": "Audio"}}}})}
)

# A span of a recording's audio; the audio of an example consists of such spans.
AUDIO_SPAN = pa.struct(
    [
        *_SOURCE,
        ("start", pa.int64()),
        ("num_samples", pa.int64()),
        ("is_whole", pa.bool_()),
        ("channels", pa.string()),
    ]
)
PLANNED = pa.schema([("id", pa.string()), *_WRITTEN, ("pieces", pa.list_(AUDIO_SPAN))])

SETTINGS_KEY = b"distil_ray.pseudo_labels"  # in the files' own metadata: the settings that made them, as JSON
