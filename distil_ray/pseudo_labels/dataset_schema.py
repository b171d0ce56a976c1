"""The tables of a training data set, as Arrow schemas.

The way of the data: `UTTERANCE` (a chunk of a transcript, measured) -> `PLANNED` (utterances joined to an example, its
label written) -> `EXAMPLE` (with the audio: what a trainer reads). What no filter lets pass is a row of `REJECTED`.

    OUTPUT/dataset/README.md  data/train-<hash>.parquet  data/validation-<hash>.parquet  rejected/*.parquet
                   sweep.csv  sweep.svg
    OUTPUT/labels/plan/       the examples of a build that is under way; gone when it is done
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

STEP = SAMPLE_RATE // 50  # samples between two of Whisper's time tokens
# distil-whisper's trainer drops examples of 30 s and more; this is the last time token before it.
MAX_SAMPLES = 30 * SAMPLE_RATE - STEP
# It puts a prompt before a label and cuts the prompt to what room is left; with less than two there is none to cut to.
MAX_LABEL_TOKENS = MAX_POSITIONS - 2
MAX_PROMPT_TOKENS = MAX_POSITIONS // 2 - 1  # what it keeps of a longer one

Row = dict[str, Any]

# What filters look at, and how those of an example follow from its utterances': the worst of them, or from their sums.
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

# Which recording, as it was listed.
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

# `source` names the transcript, in the version that it has, and the chunk of it (held.name_of). `start` and
# `num_samples` at 16 kHz on the recording's time line; `is_whole`: there is nothing else in its file; `channels`: the
# `input.channels` by which it was heard. `tokens` are the teacher's, time tokens counted from `start`, respelled as a
# tokenizer would write the same text; `is_timed`: there are time tokens among them.
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

# What a trainer reads. `id`, `audio`, `whisper_transcript`, `text` and `condition_on_prev` as distil-whisper's does.
EXAMPLE = pa.schema([("id", pa.string()), ("audio", AUDIO), *_WRITTEN]).with_metadata(
    {"huggingface": json.dumps({"info": {"features": {"audio": {"sampling_rate": SAMPLE_RATE, "_type": "Audio"}}}})}
)

# A stretch of an example's audio.
PIECE = pa.struct(
    [
        *_SOURCE,
        ("start", pa.int64()),
        ("num_samples", pa.int64()),
        ("is_whole", pa.bool_()),
        ("channels", pa.string()),
    ]
)
PLANNED = pa.schema([("id", pa.string()), *_WRITTEN, ("pieces", pa.list_(PIECE))])

SETTINGS_KEY = b"distil_ray.pseudo_labels"  # in the files' own metadata: the settings that made them, as JSON
