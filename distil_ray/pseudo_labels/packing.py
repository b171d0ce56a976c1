"""The plan of a build: joins utterances to examples, writes their labels, and groups the examples into shards.

Utterances are held in a temporary file on the driver's disk; each needs about 200 bytes of its memory, for sorting and
packing. One Parquet file of the plan is one shard. Its name is a hash of the settings and of its utterances, so a
resumed build finds the shards that exist. The plan holds the audio of an example as spans of recordings; the tasks that
write the shards fetch it.
"""

import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distil_ray.config import LabelsConfig
from distil_ray.languages import is_unsegmented
from distil_ray.pipeline.planner import gather
from distil_ray.pseudo_labels.dataset_schema import (
    AUDIO_SPAN,
    MAX_LABEL_TOKENS,
    MAX_PROMPT_TOKENS,
    MAX_SAMPLES,
    PLANNED,
    UTTERANCE,
    Row,
)
from distil_ray.pseudo_labels.existing_dataset import compute_digest
from distil_ray.pseudo_labels.label_text import NUM_FRAMING_TOKENS, Label, TokenSpan, count_label_tokens, write_label
from distil_ray.pseudo_labels.splits import assign_split, format_file_key, format_split_group, hash_to_unit_interval
from distil_ray.pseudo_labels.utterance_quality import pool_metrics
from distil_ray.types import SAMPLE_RATE
from distil_ray.whisper.tokenizer import Tokens


def pack_utterances(
    num_samples: Sequence[int], num_tokens: Sequence[int], groups: Sequence[str], max_samples: int, max_tokens: int
) -> NDArray[np.int64]:
    """Returns the index of the first utterance of each example, then the number of utterances.

    Shape (num_examples + 1,).

    Utterances stay in their order. An example takes the next one while it is of the same group and both sums stay at
    their limits or below; one that is over a limit by itself is an example of its own.
    """
    starts = []
    samples = tokens = 0
    group: str | None = None
    for number, (more_samples, more_tokens, its_group) in enumerate(zip(num_samples, num_tokens, groups, strict=True)):
        fits = samples + more_samples <= max_samples and tokens + more_tokens <= max_tokens
        if its_group != group or not fits:
            starts.append(number)
            samples = tokens = 0
            group = its_group
        samples += more_samples
        tokens += more_tokens
    return np.array([*starts, len(num_samples)], np.int64)


BATCH_ROWS = 4096  # utterances written to the temporary file at once
NUMBER_DIGITS = 12  # to which numbers in names are filled up, so that 9 comes before 10

# The columns of an utterance that are held in memory.
_KEYS = pa.schema(
    [
        ("split", pa.string()),
        ("speaker", pa.string()),  # with language and license; where no speaker is known, the file
        (
            "context",
            pa.string(),
        ),  # examples with the same value are prompts of one another: the speaker's, else the recording's
        ("pack", pa.string()),  # only utterances with the same value are packed together
        ("order", pa.string()),
        ("start", pa.int64()),
        ("num_samples", pa.int64()),
        ("num_tokens", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """A file of the plan: `name` is the shard's own, such as ``train-0123….parquet``; `rows` of `PLANNED`."""

    name: str
    rows: pa.Table


def plan_shards(
    utterances: Iterable[Row],
    config: LabelsConfig,
    tokens: Tokens,
    task: str,
    settings: str,
    alone: Collection[str] = (),
) -> Iterator[PlannedShard]:
    """Yields the planned shards.

    Args:
        utterances: Rows of `UTTERANCE`, in any order.
        config: Section `labels`.
        tokens: The teacher's tokenizer.
        task: `decoding.task`.
        settings: Settings of the data set, as JSON.
        alone: Sources of utterances that are not joined with others, whatever the packing: the audio of an example with
            them could not be read, and the others of that example may have theirs.
    """
    with tempfile.TemporaryDirectory(prefix="distil-ray-labels-") as folder:
        spill = Path(folder) / "utterances.arrow"
        keys = _spill(utterances, partial(_keys_of, config=config, tokens=tokens, alone=alone), spill)
        if not keys.num_rows:
            return
        order = pc.sort_indices(
            keys, sort_keys=[(name, "ascending") for name in ("split", "speaker", "order", "start")]
        )
        keys, positions = keys.take(order), order.to_numpy().astype(np.int64)
        starts = _examples(keys, config)
        with pa.memory_map(str(spill)) as source:
            reader = pa.ipc.open_file(source)
            batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
            writer = _Writer(config, tokens, task)
            for split, first, last in _shards(keys, starts, config):
                rows = gather(batches, positions[starts[first] : starts[last]]).to_pylist()
                contexts = keys["context"].slice(starts[first], len(rows)).to_pylist()
                bounds = (starts[first : last + 1] - starts[first]).tolist()
                examples = [writer.example(rows[a:b], contexts[a]) for a, b in pairwise(bounds)]
                yield PlannedShard(
                    f"{split}-{_digest(settings, examples)}.parquet", pa.Table.from_pylist(examples, schema=PLANNED)
                )


def _spill(utterances: Iterable[Row], keys_of: Callable[[Row], Row], path: Path) -> pa.Table:
    """Writes the utterances to a local file; returns their `_KEYS`, in the same order."""
    keys: list[pa.RecordBatch] = []
    waiting: list[Row] = []
    with pa.ipc.new_file(str(path), UTTERANCE) as sink:

        def flush() -> None:
            sink.write_batch(pa.RecordBatch.from_pylist(waiting, schema=UTTERANCE))
            keys.append(pa.RecordBatch.from_pylist(list(map(keys_of, waiting)), schema=_KEYS))
            waiting.clear()

        for row in utterances:
            waiting.append(row)
            if len(waiting) == BATCH_ROWS:
                flush()
        if waiting:
            flush()
    return pa.Table.from_batches(keys, schema=_KEYS)


def _keys_of(row: Row, config: LabelsConfig, tokens: Tokens, alone: Collection[str]) -> Row:
    location = row["location"] or {}
    group = format_split_group(row["speaker"], row["uri"], location)
    speaker_key = f"{group}\0{row['language']}\0{row['license']}"  # an example has one of each
    recording = f"{speaker_key}\0{row['source'].partition('-')[0]}"
    pack = speaker_key if config.packing == "speaker" and row["speaker"] else recording
    where = f"{format_file_key(row['uri'], location)}\0{location.get('start_s') or 0:020.6f}\0{row['recording_id']}"
    return {
        "split": assign_split(group, config),
        "speaker": speaker_key,
        "context": speaker_key if row["speaker"] else recording,
        "pack": f"{pack}\0{row['source']}" if row["source"] in alone else pack,
        "order": re.sub(r"\d+", lambda found: found[0].zfill(NUMBER_DIGITS), where),
        "start": row["start"],
        "num_samples": row["num_samples"],
        "num_tokens": count_label_tokens(row["tokens"], tokens),
    }


def _examples(keys: pa.Table, config: LabelsConfig) -> NDArray[np.int64]:
    """Returns the boundaries of the examples among the sorted utterances, as `pack_utterances` does."""
    if config.packing == "none":
        return np.arange(keys.num_rows + 1)
    samples, tokens, groups = (keys[name].to_pylist() for name in ("num_samples", "num_tokens", "pack"))
    return pack_utterances(samples, tokens, groups, MAX_SAMPLES, MAX_LABEL_TOKENS - NUM_FRAMING_TOKENS)


def _shards(keys: pa.Table, starts: NDArray[np.int64], config: LabelsConfig) -> Iterator[tuple[str, int, int]]:
    """Yields (split, first example, one past the last) of each shard of at most `shard_audio_s` of audio."""
    ends = np.concatenate(([0], np.cumsum(keys["num_samples"].to_numpy())))
    limit = config.shard_audio_s * SAMPLE_RATE
    splits = keys["split"].take(pa.array(starts[:-1])).to_pylist()
    first = 0
    for number in range(1, len(splits) + 1):
        is_end = number == len(splits) or splits[number] != splits[first]
        if is_end or ends[starts[number + 1]] - ends[starts[first]] > limit:
            yield splits[first], first, number
            first = number


class _Writer:
    """Makes examples in their order; keeps the previous one, which may be the prompt."""

    def __init__(self, config: LabelsConfig, tokens: Tokens, task: str) -> None:
        self._config = config
        self._tokens = tokens
        self._task = task
        self._before: tuple[str, list[Row]] | None = None

    def example(self, rows: Sequence[Row], context: str) -> Row:
        """Returns a row of `PLANNED` for utterances packed together; `context`: see `_KEYS`."""
        name = rows[0]["utterance_id"] + (f"+{len(rows) - 1}" if len(rows) > 1 else "")
        timed = hash_to_unit_interval(self._config.seed, "timestamps", name) < self._config.timestamp_share
        timestamps = timed and _are_timed(rows)
        label = self._label(rows, timestamps)
        prompt = None
        if self._before is not None and self._before[0] == context:
            prompt = self._label(self._before[1], timestamps and _are_timed(self._before[1]))
        self._before = context, list(rows)
        separator = "" if is_unsegmented("en" if self._task == "translate" else rows[0]["language"]) else " "
        references = [row["reference"] for row in rows]
        return {
            "id": name,
            "whisper_transcript": label.text,
            # the trainer's filter stops at null and passes over what is empty
            "text": "" if None in references else separator.join(filter(None, references)),
            "transcript": self._tokens.decode(label.ids),
            "condition_on_prev": prompt and list(prompt.prompt(MAX_PROMPT_TOKENS)),
            "utterance_ids": [row["utterance_id"] for row in rows],
            "utterance_sources": [row["source"] for row in rows],
            **{key: rows[0][key] for key in ("speaker", "language", "license")},
            **pool_metrics(rows),
            "pieces": [{key: row[key] for key in _PIECE_NAMES} for row in rows],
        }

    def _label(self, rows: Sequence[Row], timestamps: bool) -> Label:
        stretches = [TokenSpan(tuple(row["tokens"]), row["num_samples"]) for row in rows]
        return write_label(stretches, self._tokens, rows[0]["language"] or "en", self._task, timestamps=timestamps)


def _are_timed(rows: Sequence[Row]) -> bool:
    return all(row["is_timed"] for row in rows)


_PIECE_NAMES = tuple(field.name for field in AUDIO_SPAN)


def _digest(settings: str, examples: Sequence[dict[str, Any]]) -> str:
    return compute_digest(settings, "\n".join(" ".join(example["utterance_sources"]) for example in examples))
